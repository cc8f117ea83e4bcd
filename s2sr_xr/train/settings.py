"""Settings from a TOML file: values are checked against a dataclass's annotations."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from s2sr_xr.core.typed import typed
from s2sr_xr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_names", "fields_of", "made", "split"]

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
    values = {name: typed(name, value, hints[name]) for name, value in settings.items()}
    try:
        return kind(**values, **given)
    except TypeError as error:
        raise ModelError(
            f"The settings {dict(settings)} do not fit: {error}"
        ) from error
