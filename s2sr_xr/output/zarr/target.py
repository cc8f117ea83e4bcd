"""A store that is being written: where each block lies, and how it gets there.

A block is a whole number of write units (Zarr chunks), so no two blocks touch one file
and writers need no lock. After its pixels each block leaves a small record,
``_s2sr/<time>-<row>-<column>.json``: a chunk that is there proves nothing (it may be
half of a killed write), a record with the right sizes does. A block that is written
again loses its record first.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import chain, product
from typing import TYPE_CHECKING, Any, Literal, cast
from uuid import uuid4
from zlib import crc32

import numpy as np

from s2sr_xr.core.tiling import Box, Span
from s2sr_xr.errors import ChunkError, StoreError
from s2sr_xr.output.zarr.lock import hold
from s2sr_xr.output.zarr.packing import Packing, encode, judge_clipped
from s2sr_xr.output.zarr.records import (
    Index,
    Record,
    chunk_keys,
    parse_record,
    read_records,
    record_key,
)
from s2sr_xr.output.zarr.storage import (
    attributes,
    consolidate,
    delete,
    open_store,
    put_json,
    sizes,
    storing,
    sweep,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    import zarr
    from numpy.typing import NDArray
    from zarr.abc.store import Store

__all__ = ["Layout", "Target", "Variable"]

Layout = Literal["plain", "sharded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """How one variable of a store is written."""

    name: str
    """Its name, such as ``"B05"``."""

    dtype: str
    """Type on disk: ``"uint16"`` when packed, ``"float32"``, or an integer type."""

    packing: Packing | None
    """The code of packed pixels; None for variables stored as they are."""

    def to_disk(self, values: NDArray[Any]) -> tuple[NDArray[Any], int, bool]:
        """Return `values` as stored, how many were clipped, and whether any is data."""
        if self.packing:
            codes, clipped = encode(values, self.packing)
            return codes, clipped, bool(codes.any())
        stored = np.ascontiguousarray(values, self.dtype)
        is_data = stored.dtype.kind == "f" and not np.isnan(stored).all()
        return stored, 0, bool(is_data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A store that is being written. Plain facts: pickle it, use it in any thread."""

    store: str | Store = field(hash=False)
    """Absolute path or URL, or a Zarr store."""

    key: str
    """Drawn when the store was created; an earlier one at its place has another."""

    shape: Index
    """Times, rows and columns."""

    block: tuple[int, int]
    """Rows and columns of a block; the last ones at the edge may be shorter."""

    unit: tuple[int, int]
    """Rows and columns of a write unit: a Zarr chunk, or a shard of several."""

    layout: Layout = "plain"
    """Whether a write unit is one chunk, or a shard with chunks inside."""

    variables: tuple[Variable, ...]
    """What each block holds, in order of name."""

    timed: bool
    """Whether variables are ``(time, y, x)``, not ``(y, x)``."""

    run: str = field(default_factory=lambda: uuid4().hex)
    """Drawn for each run: one at a time holds the lock of a store."""

    pid: int | None = None
    """The only process that can write, for a store in its memory; None elsewhere."""

    @property
    def blocks(self) -> Index:
        """Times, block rows and block columns."""
        times, *size = self.shape
        rows, cols = (-(-n // b) for n, b in zip(size, self.block, strict=True))
        return times, rows, cols

    def indices(self) -> Iterator[Index]:
        """Yield the index of every block: time, block row, block column."""
        return product(*map(range, self.blocks))  # type: ignore[return-value]

    def box(self, index: Index) -> Box:
        """Return the rows and columns of block `index`, in pixels.

        Raises
        ------
        ChunkError
            If there is no such block.
        """
        inside = all(0 <= i < n for i, n in zip(index, self.blocks, strict=True))
        if not inside:
            raise ChunkError(f"No block {index}: the store has {self.blocks} blocks")
        spans = zip(index[1:], self.block, self.shape[1:], strict=True)
        return Box(*(Span(i * b, min((i + 1) * b, n)) for i, b, n in spans))

    def keys(self, index: Index, variable: str) -> list[str]:
        """Return the objects that hold one variable of a block."""
        rows, cols = (
            (s.start, s.stop) for s in (self.box(index).rows, self.box(index).cols)
        )
        time = index[0] if self.timed else None
        return chunk_keys(variable, time, rows, cols, self.unit)

    def lock(self) -> AbstractContextManager[None]:
        """Hold the store for this run during the body; its workers need not ask.

        Raises
        ------
        StoreError
            Another run writes the store, or it was removed or created anew.
        """
        with storing("open", self.store):
            _same(self, attributes(open_store(self.store, read_only=True)))
            return hold(open_store(self.store), self.run)

    def records(self) -> dict[Index, Record]:
        """Return the records of the blocks that are whole: all their bytes are there.

        One listing of the store, and the records. What the bytes are is not looked at;
        `s2sr_xr.verify` does.

        Raises
        ------
        StoreError
            The store cannot be read, or it was removed or created anew.
        """
        with storing("read the records of", self.store):
            store = open_store(self.store, read_only=True)
            _same(self, attributes(store))
            there, records = sizes(store), read_records(store)
            found = ((i, records.get(record_key(i))) for i in self.indices())
            return {i: r for i, r in found if r is not None and not self.torn(r, there)}

    def missing(self) -> list[Index]:
        """Return the blocks that are still to be written, in order; see `records`."""
        done = self.records()
        return [i for i in self.indices() if i not in done]

    def written(self, index: Index) -> Record | None:
        """Return the record of one block if all its bytes are there, else None."""
        import asyncio

        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        store = open_store(self.store, read_only=True)

        async def there() -> dict[str, int]:
            keys = [k for v in self.variables for k in self.keys(index, v.name)]
            found = [k for k in keys if await store.exists(k)]
            got = await asyncio.gather(*map(store.getsize, found))
            return dict(zip(found, got, strict=True))

        try:
            said = sync(store.get(record_key(index), default_buffer_prototype()))
        except FileNotFoundError:  # of the directory: `write` says what is wrong
            return None
        record = None if said is None else parse_record(said.to_bytes())
        return record if record and not self.torn(record, sync(there())) else None

    def torn(self, record: Record, there: Mapping[str, int]) -> dict[str, str]:
        """Return what is wrong with the bytes of a block, by variable.

        `there` holds the bytes of every object of the store.
        """
        wrong = {}
        for v in self.variables:
            keys = self.keys(record.index, v.name)
            absent = [k for k in keys if k not in there]
            size, said = sum(there.get(k, 0) for k in keys), record.sizes.get(v.name)
            if absent:
                wrong[v.name] = f"{absent[0]} is not there"
            elif size != said:
                wrong[v.name] = f"{size} bytes are stored, its record says {said}"
        return wrong

    def write(self, index: Index, arrays: Mapping[str, NDArray[Any]]) -> Record:
        """Write one whole block, then its record.

        Parameters
        ----------
        index
            Time, block row, block column.
        arrays
            The block of every variable, ``(h, w)`` or ``(1, h, w)``: floats where the
            template has floats (NaN where missing), else its own integer type.

        Returns
        -------
        Record
            What was written. The same block may be written again.

        Raises
        ------
        ChunkError
            If there is no such block, or an array has another shape than it.
        StoreError
            If variables are missing or unknown, have another type, or the store cannot
            be written. Without a record the block counts as not done.
        """
        box = self.box(index)
        self._check(index, box, arrays)
        checksums: dict[str, int] = {}
        clipped, empty = 0, True
        with storing(f"write block {index} of", self.store):
            store, on_disk = _opened(self, os.getpid())
            # Asked again for each block: a removed store must not come back in parts,
            # a complete one not lose any.
            _same(self, attrs := attributes(store))
            if attrs and attrs["state"] == "complete":
                raise StoreError(
                    f"{self.store} is complete, so block {index} is not written. Take "
                    "it up with resume_or_create, which says what is missing.",
                    store=str(self.store),
                )
            delete(store, record_key(index), *self._shards(index))
            rows, cols = (slice(s.start, s.stop) for s in (box.rows, box.cols))
            region = (index[0], rows, cols) if self.timed else (rows, cols)
            for v in self.variables:  # one at a time: one encoded copy in memory
                stored, beyond, is_data = v.to_disk(arrays[v.name].reshape(box.shape))
                on_disk[v.name][region] = stored
                checksums[v.name] = crc32(stored.data)
                clipped += beyond
                empty &= not is_data
            record = Record(
                index=index,
                state="empty" if empty else "written",
                crc32=checksums,
                sizes=self._sizes(index, store),
                clipped=clipped,
            )
            put_json(store, record_key(index), asdict(record))
        return record

    def finish(self) -> None:
        """Declare the store complete, once every block has its record and its bytes.

        What killed writes left is removed. The number of pixels that 16 bits could not
        hold is kept in the store's attributes.

        Raises
        ------
        StoreError
            If blocks are missing, the store cannot be written, it was removed or
            created anew since, or more than a hundredth of the pixels were clipped:
            these values are not what the names of their variables promise.

        Warns
        -----
        S2SRWarning
            If more than one pixel in ten thousand was clipped.
        """
        with storing("finish", self.store):
            records = self.records()
            missing = [i for i in self.indices() if i not in records]
            if missing:
                raise StoreError(
                    f"{self.store} is not complete: {len(missing)} of "
                    f"{math.prod(self.blocks)} blocks were not written, first "
                    f"{', '.join(map(str, missing[:4]))}. Write them, then finish.",
                    store=str(self.store),
                )
            clipped = sum(r.clipped for r in records.values())
            self._judge(clipped)
            store = open_store(self.store)
            sweep(store)
            # State and consolidated metadata live in one zarr.json, replaced whole. In
            # this order a store that says "complete" is also consolidated.
            attrs = consolidate(store).attrs
            attrs["s2sr:clipped"] = clipped
            attrs["state"] = "complete"

    @property
    def is_complete(self) -> bool:
        """Whether the store says that it is complete."""
        with storing("open", self.store):
            found = attributes(open_store(self.store, read_only=True))
            _same(self, found)
            return (found or {}).get("state") == "complete"

    def _judge(self, clipped: int) -> None:
        packed = [v.name for v in self.variables if v.packing is not None]
        judge_clipped(
            clipped,
            len(packed) * math.prod(self.shape),
            packed,
            self.store,
            f"{self.store} is left unfinished. Variables named like bands are stored "
            "as reflectance: rename those that are something else, and they are stored "
            "as float32.",
        )

    def _check(
        self, index: Index, box: Box, arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        names = [v.name for v in self.variables]
        if set(arrays) != set(names):
            raise StoreError(
                f"Block {index} must hold {', '.join(names)}, all and only; got "
                f"{', '.join(sorted(arrays)) or 'nothing'}"
            )
        for v in self.variables:
            shape, dtype = arrays[v.name].shape, arrays[v.name].dtype
            if shape not in (box.shape, (1, *box.shape)):
                raise ChunkError(
                    f"Block {index} of {v.name} is {box.shape} px, got {shape}"
                )
            floating = v.packing is not None or v.dtype == "float32"
            if dtype.kind != "f" if floating else dtype != v.dtype:
                raise StoreError(
                    f"{v.name} takes {'float' if floating else v.dtype} pixels, "
                    f"got {dtype}"
                )

    def _shards(self, index: Index) -> list[str]:
        """Return the shards of a block: zarr-python reads them before it writes them.

        A shard that a crash or a disk has damaged could otherwise never be replaced.
        """
        if self.layout == "plain":
            return []
        return [k for v in self.variables for k in self.keys(index, v.name)]

    def _sizes(self, index: Index, store: Store) -> dict[str, int]:
        """Ask the store for the bytes of a block: they prove that it is there."""
        import asyncio

        from zarr.core.sync import sync

        keys = {v.name: self.keys(index, v.name) for v in self.variables}
        flat = list(chain.from_iterable(keys.values()))

        async def asked() -> list[int]:
            return await asyncio.gather(*map(store.getsize, flat))

        got = dict(zip(flat, sync(asked()), strict=True))
        return {name: sum(got[k] for k in own) for name, own in keys.items()}


@lru_cache(maxsize=4)
def _opened(target: Target, pid: int) -> tuple[Store, dict[str, Any]]:
    """Open the arrays of a store once a process; forked children open their own."""
    import zarr

    if target.pid not in (None, pid):
        raise StoreError(
            f"{target.store} lies in the memory of process {target.pid}; what process "
            f"{pid} writes is lost. Use threads, or a store that all workers see.",
            store=str(target.store),
        )
    # Asked of a store that creates nothing: one that was removed stays so.
    _same(target, attributes(open_store(target.store, read_only=True)))
    store = open_store(target.store)
    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    # Else blocks of no-data would leave no file, and be done again on every resume.
    kept = {
        v.name: cast("zarr.Array[Any]", root[v.name]).with_config(
            {"write_empty_chunks": True}
        )
        for v in target.variables
    }
    return store, kept


def _same(target: Target, attrs: Mapping[str, Any] | None) -> None:
    """Raise if the store at the target's place is not the one it was made for."""
    if (attrs or {}).get("s2sr:key") != target.key:
        raise StoreError(
            f"{target.store} was removed, or created anew, since this target was made; "
            "use the target of the latest create",
            store=str(target.store),
        )
