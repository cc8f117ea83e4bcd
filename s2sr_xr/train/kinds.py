"""Values of a TOML file, held against the types of a dataclass."""

from __future__ import annotations

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from s2sr_xr.errors import ModelError

__all__ = ["check_kind"]


def check_kind(name: str, value: object, kind: Any) -> None:  # noqa: ANN401 - a type
    """Raise a ModelError unless a value is of a kind.

    A whole number is a float too, a list a tuple, and true no number.

    Parameters
    ----------
    name
        Of the value, for the message.
    value
        What the file gives.
    kind
        A type as annotations have it: a class, a union, a tuple or a literal.

    >>> check_kind("gain", [0.5, 4], tuple[float, float])
    >>> check_kind("steps", "many", int)
    Traceback (most recent call last):
    ...
    s2sr_xr.errors.ModelError: steps = 'many' is not of the kind int.
    """
    if _fits(value, kind):
        return
    if get_origin(kind) is Literal:
        raise ModelError(f"{name} is {' or '.join(get_args(kind))}; got {value!r}.")
    said = kind.__name__ if isinstance(kind, type) and not get_args(kind) else kind
    said = str(said).replace("typing.", "")
    raise ModelError(f"{name} = {value!r} is not of the kind {said}.")


def _fits(value: object, kind: Any) -> bool:  # noqa: ANN401 - a type
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple and isinstance(value, list | tuple):
        each = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(each) == len(value) and all(map(_fits, value, each))
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else origin or kind)
