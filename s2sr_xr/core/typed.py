"""Values of TOML and JSON files, as the annotations of dataclasses want them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from s2sr_xr.errors import ModelError

__all__ = ["typed"]


def typed(name: str, value: object, kind: Any) -> Any:  # noqa: ANN401 - a type
    """Return a value as a kind: a list as a tuple, a table as a dataclass.

    A whole number is a float too, but true is not a number.

    Parameters
    ----------
    name
        Of the value, for the message.
    value
        What the file gives.
    kind
        A type as annotations have it: a class, a union, a tuple, a mapping, a literal
        or a dataclass.

    Raises
    ------
    ModelError
        The value is of another kind.

    >>> typed("gain", [0.5, 4], tuple[float, float])
    (0.5, 4.0)
    >>> typed("steps", "many", int)
    Traceback (most recent call last):
    ...
    s2sr_xr.errors.ModelError: steps = 'many' is not of the kind int.
    """
    with suppress(TypeError, OverflowError):
        return _read(value, kind)
    if get_origin(kind) is Literal:
        raise ModelError(f"{name} is {' or '.join(get_args(kind))}; got {value!r}.")
    said = kind.__name__ if isinstance(kind, type) and not get_args(kind) else kind
    said = str(said).replace("typing.", "")
    raise ModelError(f"{name} = {value!r:.80} is not of the kind {said}.")


def _read(value: Any, kind: Any) -> Any:  # noqa: ANN401 - a type
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        for part in parts:
            with suppress(TypeError):
                return _read(value, part)
        raise TypeError
    if isinstance(value, dict) and kind is not Any:
        return _table(value, kind)
    if origin is tuple and isinstance(value, list | tuple):
        each = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        if len(each) == len(value):
            return tuple(map(_read, value, each))
        raise TypeError
    if kind is float and type(value) is int:
        return float(value)
    fits = value in parts if origin is Literal else _is(value, origin or kind)
    if not fits:
        raise TypeError
    return value


def _table(value: dict[str, Any], kind: Any) -> Any:  # noqa: ANN401 - a type
    if get_origin(kind) in (dict, Mapping):
        _, part = get_args(kind)
        return {name: _read(v, part) for name, v in value.items()}
    if not is_dataclass(kind):
        raise TypeError
    hints = get_type_hints(kind)
    if not value.keys() <= hints.keys():
        raise TypeError
    made: Any = kind
    return made(**{name: _read(v, hints[name]) for name, v in value.items()})


def _is(value: object, kind: Any) -> bool:  # noqa: ANN401 - a type
    if kind is Any:
        return True
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
