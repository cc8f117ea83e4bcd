"""Settings from a TOML file: values are checked against a dataclass's annotations."""

from __future__ import annotations

from dataclasses import fields
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from s2sr_xr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_kind", "check_names", "fields_of", "made", "split"]

T = TypeVar("T")


def fields_of(kind: type[Any]) -> set[str]:
    """Return the names of a dataclass's fields."""
    return {f.name for f in fields(kind)}


def check_names(settings: Mapping[str, Any], known: set[str], more: str = "") -> None:
    """Raise a ModelError if a setting is not known."""
    if not isinstance(settings, dict):
        raise ModelError(
            f"{settings!r} is not a table of settings, such as {{steps = 9}}"
        )
    if strange := sorted(set(settings) - known):
        raise ModelError(
            f"{', '.join(strange)}: no such setting; there are "
            f"{', '.join(sorted(known))}{more}."
        )


def split(settings: Mapping[str, Any], *kinds: type[Any]) -> list[dict[str, Any]]:
    """Return the settings of each dataclass."""
    return [
        {k: v for k, v in settings.items() if k in fields_of(kind)} for kind in kinds
    ]


def made(
    kind: type[T],
    settings: Mapping[str, Any],
    **given: Any,  # noqa: ANN401
) -> T:
    """Return a dataclass made from settings.

    Parameters
    ----------
    kind
        The dataclass.
    settings
        Values from a file, by the names of its fields.
    given
        Fields that are fixed: a setting of that name is refused.

    Raises
    ------
    ModelError
        A setting is unknown, or of the wrong kind.
    """
    more = ", and those of a plan" if "plan" in given else ""
    check_names(settings, fields_of(kind) - set(given), more)
    hints = get_type_hints(kind)
    for name, value in settings.items():
        check_kind(name, value, hints[name])
    try:
        return kind(**settings, **given)
    except TypeError as error:
        raise ModelError(
            f"The settings {dict(settings)} do not fit: {error}"
        ) from error


def check_kind(name: str, value: object, kind: Any) -> None:  # noqa: ANN401 - a type
    """Raise a ModelError unless a value is of a kind.

    A whole number counts as a float, and a list as a tuple; true does not count as a
    number.

    Parameters
    ----------
    name
        Name of the value, for the message.
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
