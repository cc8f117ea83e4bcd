"""Whether the bytes of a store are still those that were written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from zlib import crc32

import numpy as np

from s2sr_xr.output.zarr.lock import hold, refuse_if_held
from s2sr_xr.output.zarr.records import read_records, record_key
from s2sr_xr.output.zarr.storage import (
    delete,
    open_store,
    our_attributes,
    place,
    set_state,
    sizes,
    storing,
)
from s2sr_xr.output.zarr.template import restore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from zarr.abc.store import Store

    from s2sr_xr.output.zarr.records import Index, Record
    from s2sr_xr.output.zarr.target import Target

__all__ = ["BadBlock", "verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadBlock:
    """A block that does not hold what was written."""

    index: Index
    """Time, block row, block column."""

    what: str
    """The variable that is wrong, or "record"."""

    reason: str
    """What was found, and what there should be."""


def verify(store: str | Path | Store) -> list[BadBlock]:
    """Read every block of a store and compare it with the checksums in its record.

    Bad blocks lose their records, and the store becomes unfinished: its job, run again
    with ``resume=True``, writes them again and no others. Blocks of an unfinished store
    that were not written yet are not bad. A sound store is only read.

    Parameters
    ----------
    store
        Path, URL, or Zarr store.

    Returns
    -------
    list[BadBlock]
        At most one a block, in order; empty for a sound store.

    Raises
    ------
    StoreError
        Nothing is there, it is not of this library, another run writes it, or bad
        blocks cannot be marked.
    """
    import zarr

    with storing("verify", store):
        where = place(store)
        at = open_store(where, read_only=True)
        attrs = our_attributes(at)
        refuse_if_held(at)
        target = restore(where, attrs)
        there, records = sizes(at), read_records(at)
        root = zarr.open_group(at, mode="r", use_consolidated=False)
        arrays = {v.name: root[v.name] for v in target.variables}
        bad = []
        for index in target.indices():
            if record_key(index) in records:
                record = records[record_key(index)]
                found = record and _fault(target, record, arrays, there)
                if record is None:
                    found = "record", "it is damaged"
                if found:
                    bad.append(BadBlock(index=index, what=found[0], reason=found[1]))
            elif attrs["state"] == "complete":
                bad.append(BadBlock(index=index, what="record", reason="there is none"))
        if bad:
            writable = open_store(where)
            with hold(writable, uuid4().hex):
                set_state(writable, "writing")
                delete(writable, *(record_key(b.index) for b in bad))
    return bad


def _fault(
    target: Target,
    record: Record,
    arrays: Mapping[str, Any],
    there: Mapping[str, int],
) -> tuple[str, str] | None:
    """Return which part of a block is wrong and why, None if all is well."""
    torn = target.torn(record, there)
    if torn:
        return next(iter(torn.items()))
    box = target.box(record.index)
    region = box.slices if not target.timed else (record.index[0], *box.slices)
    for v in target.variables:
        try:
            stored = np.ascontiguousarray(arrays[v.name][region])
        except Exception as error:  # noqa: BLE001 - codecs raise what they like
            return v.name, f"it cannot be decoded: {error}"
        found, said = crc32(stored.data), record.crc32.get(v.name)
        if found != said:
            return v.name, f"the checksum of its pixels is {found}, not {said}"
    return None
