"""Names of values that outlive a move: what a token is made from.

Dask names a dataclass after the module that defines it, so a store could not be resumed
once a file has moved. Whatever enters a token says here what it is called, in words
that no move changes, and in which version of its meaning.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

__all__ = ["field_parts", "token_parts"]


def token_parts(name: str, version: int, *values: object) -> tuple[Any, ...]:
    """Return what Dask hashes of a value, for its ``__dask_tokenize__``.

    Parameters
    ----------
    name
        What the value is called in tokens, whatever its class or module is called.
    version
        Raised when the same values come to mean other pixels.
    values
        All that decides the pixels.
    """
    from dask.base import normalize_token

    return (name, version, *(normalize_token(value) for value in values))


def field_parts(name: str, version: int, value: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any dataclass
    """Return the identity of a dataclass, all fields of which decide the pixels."""
    pairs = ((f.name, getattr(value, f.name)) for f in fields(value))
    return token_parts(name, version, *pairs)
