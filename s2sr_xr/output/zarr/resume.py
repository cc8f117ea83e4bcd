"""Resume a store that another run began, if it began the same."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from s2sr_xr.errors import ResumeMismatchError, StoreError
from s2sr_xr.output.zarr.attrs import jsonable
from s2sr_xr.output.zarr.lock import refuse_if_held
from s2sr_xr.output.zarr.records import read_records
from s2sr_xr.output.zarr.storage import (
    attributes,
    open_store,
    place,
    set_state,
    sizes,
    storing,
    sweep,
)
from s2sr_xr.output.zarr.template import begun, create, outlined, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import xarray as xr
    from zarr.abc.store import Store

    from s2sr_xr.output.zarr.target import Layout, Target

__all__ = ["resume_or_create"]

VAGUE = ("pixels", "sources")
"""Parts of a token that are hashes."""


def resume_or_create(
    store: str | Path | Store,
    template: xr.Dataset,
    *,
    block: tuple[int, int],
    unit: tuple[int, int] | None = None,
    layout: Layout = "plain",
    attrs: Mapping[str, object] | None = None,
    token: Mapping[str, object] | None = None,
) -> Target:
    """Take up a store that was begun with the same arguments, or create it.

    What killed writes left is removed. A complete store of which blocks are gone, or
    have lost bytes, becomes unfinished; `Target.missing` says which blocks to write.

    Parameters
    ----------
    store, template, block, unit, layout, attrs, token
        As in `create`. The attributes of a store that is there stay as they are.

    Returns
    -------
    Target
        The handle to write blocks with, of a new run.

    Raises
    ------
    ResumeMismatchError
        The store was begun with another token, grid, packing or layout.
    StoreError
        Another run writes the store, it is not ours, or as in `create`.
    ChunkError, GridError
        As in `create`.
    """
    where = place(store)
    new = partial(
        create,
        where,
        template,
        block=block,
        unit=unit,
        layout=layout,
        attrs=attrs,
        token=token,
    )
    with storing("resume", where):
        at = open_store(where, read_only=True)
        found = attributes(at) or {}
        if "s2sr:version" not in found:  # nothing, or nothing of ours
            try:
                return new()
            except StoreError as error:
                if "s2sr:version" not in (attributes(at) or {}):
                    raise
                raise begun(where) from error
        target, outline = outlined(where, template, block, unit, layout)
        _compare(where, found, {"token": jsonable(token or {}), "outline": outline})
        at = open_store(where)
        refuse_if_held(at)
        if not read_records(at) and not _is_whole(at, template):
            # Killed while it was outlined, or removed: there is nothing to lose.
            return new(mode="w")
        sweep(at)
        target = replace(target, key=found["s2sr:key"])
        if found["state"] == "complete" and target.missing():
            set_state(at, "writing")
    return target


def _is_whole(store: Store, template: xr.Dataset) -> bool:
    """Return whether a store has all the arrays of its outline."""
    there = sizes(store)
    return all(f"{name}/zarr.json" in there for name in template.variables)


def _compare(
    where: str | Store, found: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Raise unless a store was begun with the outline and the token of this run."""
    if "s2sr:outline" not in found:
        raise unknown(where)
    said = {part: found.get(f"s2sr:{part}") for part in now}
    differ = [d for part in now for d in _differences(said[part], now[part])]
    # Hashes differ with everything else, and say the least to people.
    named = [d for d in differ if not d.startswith(VAGUE)] or differ
    if named:
        more = f"; and {len(named) - 3} more" if len(named) > 3 else ""
        raise ResumeMismatchError(
            f"{where} was written by another job: {'; '.join(named[:3])}{more}. "
            "Resume it with what it was begun with, remove it (to_zarr does with "
            'mode="w" instead of resume=True), or choose another path.',
            store=str(where),
        )


def _differences(was: Any, now: Any, name: str = "") -> Iterator[str]:  # noqa: ANN401 - JSON
    """Yield what differs between two pieces of JSON, with its name.

    >>> list(_differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}))
    ['a b was 1, is now 3']
    """
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(k for k in now if k not in was)]:
            yield from _differences(was.get(key), now.get(key), f"{name} {key}".strip())
    elif was != now:
        yield f"{name} was {_shown(was)}, is now {_shown(now)}"


def _shown(value: Any) -> str:  # noqa: ANN401 - JSON
    text = "absent" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
