"""What is known of each block that was written, and where its bytes lie."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from s2sr_xr.output.zarr.storage import RECORDS, documents

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zarr.abc.store import Store

__all__ = [
    "Index",
    "Record",
    "chunk_keys",
    "parse_record",
    "read_records",
    "record_key",
]

Index = tuple[int, int, int]
"""Time, block row, block column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of a block that has been written."""

    index: Index
    """Time, block row, block column."""

    state: Literal["written", "empty"]
    """``"empty"`` when no float variable has a pixel in it."""

    crc32: Mapping[str, int]
    """Checksum of the array as stored (before compression), per variable: against bytes
    that change by accident. BLAKE2b would take a third of the time of a write."""

    sizes: Mapping[str, int]
    """Bytes on disk, per variable."""

    clipped: int
    """Finite pixels beyond the range of the code, over all variables."""


def record_key(index: Index) -> str:
    """Return where the record of a block lies.

    >>> record_key((0, 2, 1))
    '_s2sr/0-2-1.json'
    """
    return f"{RECORDS}/{'-'.join(map(str, index))}.json"


def read_records(store: Store) -> dict[str, Record | None]:
    """Return every record of a store by its key, None for one that is damaged."""
    found = documents(store, RECORDS)
    return {f"{RECORDS}/{name}": _record(said) for name, said in found.items()}


def parse_record(text: bytes) -> Record | None:
    """Return the record in the bytes of its file, None if it is damaged."""
    try:
        return _record(json.loads(text))
    except ValueError:
        return None


def _record(said: Any) -> Record | None:  # noqa: ANN401 - whatever a file holds
    try:
        return Record(**{**said, "index": tuple(said["index"])})
    except (TypeError, KeyError):
        return None


def chunk_keys(
    variable: str,
    time: int | None,
    rows: tuple[int, int],
    cols: tuple[int, int],
    unit: tuple[int, int],
) -> list[str]:
    """Return the objects that hold the pixels of a variable between rows and columns.

    >>> chunk_keys("B05", 0, (8, 14), (8, 9), (4, 4))
    ['B05/c/0/2/2', 'B05/c/0/3/2']
    """
    lead = "" if time is None else f"{time}/"
    i, j = (
        range(start // u, -(-stop // u))
        for (start, stop), u in zip((rows, cols), unit, strict=True)
    )
    return [f"{variable}/c/{lead}{r}/{c}" for r, c in product(i, j)]
