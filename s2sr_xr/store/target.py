"""A store that is being written: where each block lies, and how it gets there.

A block is a whole number of write units (Zarr chunks), so no two blocks touch one file
and writers need no lock. After its pixels each block leaves a small record,
``_s2sr/<time>-<row>-<column>.json``: a chunk that is there proves nothing (it may be
half of a killed write), a record does.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from s2sr_xr.errors import ChunkError, S2SRWarning, StoreError
from s2sr_xr.store.encoding import Packing, encode
from s2sr_xr.store.place import (
    RECORDS,
    attributes,
    children,
    consolidate,
    open_store,
    put_json,
    storing,
)
from s2sr_xr.tiling import Box, Span

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import zarr
    from numpy.typing import NDArray
    from zarr.abc.store import Store
    from zarr.storage import StorePath

__all__ = ["Index", "Record", "Target", "Variable"]

Index = tuple[int, int, int]


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
class Record:
    """What is known of a block that has been written."""

    index: Index
    """Time, block row, block column."""

    state: Literal["written", "empty"]
    """``"empty"`` when no float variable has a pixel in it."""

    hash: str
    """BLAKE2b-128 of the arrays as stored (before compression), in order of name."""

    sizes: Mapping[str, int]
    """Bytes on disk, per variable."""

    clipped: int
    """Finite pixels beyond the range of the code, over all variables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A store that is being written. Plain facts: pickle it, use it in any thread."""

    store: str | Store = field(hash=False)
    """Absolute path or URL, or a Zarr store."""

    key: str
    """Drawn when the store was created; tells it from an earlier one at its place."""

    shape: Index
    """Times, rows and columns."""

    block: tuple[int, int]
    """Rows and columns of a block; the last ones at the edge may be shorter."""

    unit: tuple[int, int]
    """Rows and columns of a write unit."""

    variables: tuple[Variable, ...]
    """What each block holds, in order of name."""

    timed: bool
    """Whether variables are ``(time, y, x)``, not ``(y, x)``."""

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
        digest = blake2b(digest_size=16)
        clipped, empty = 0, True
        with storing(f"write block {index} of", self.store):
            root, on_disk = _opened(self, os.getpid())
            rows, cols = (slice(s.start, s.stop) for s in (box.rows, box.cols))
            region = (index[0], rows, cols) if self.timed else (rows, cols)
            for v in self.variables:  # one at a time: one encoded copy in memory
                stored, beyond, is_data = v.to_disk(arrays[v.name].reshape(box.shape))
                on_disk[v.name][region] = stored
                digest.update(stored.data)
                clipped += beyond
                empty &= not is_data
            record = Record(
                index=index,
                state="empty" if empty else "written",
                hash=digest.hexdigest(),
                sizes=self._sizes(index[0], box, on_disk),
                clipped=clipped,
            )
            put_json(root / RECORDS / _record_name(index), asdict(record))
        return record

    def finish(self, clipped: int = 0) -> None:
        """Declare the store complete, once every block has its record.

        `clipped` counts the pixels that 16 bits could not hold; it is kept in the
        store's attributes.

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
        self._judge(clipped)
        with storing("finish", self.store):
            _same(self, attributes(open_store(self.store, read_only=True)))
            store = open_store(self.store)
            there = children(store, RECORDS)
            missing = [i for i in self.indices() if _record_name(i) not in there]
            if missing:
                raise StoreError(
                    f"{self.store} is not complete: {len(missing)} of "
                    f"{math.prod(self.blocks)} blocks were not written, first "
                    f"{', '.join(map(str, missing[:4]))}. Write them, then finish.",
                    store=str(self.store),
                )
            # State and consolidated metadata live in one zarr.json, replaced whole. In
            # this order a store that says "complete" is also consolidated.
            attrs = consolidate(store).attrs
            attrs["s2sr:clipped"] = clipped
            attrs["state"] = "complete"

    def _judge(self, clipped: int) -> None:
        packed = [v.name for v in self.variables if v.packing is not None]
        share = clipped / max(len(packed) * math.prod(self.shape), 1)
        if share < 1e-4:
            return
        text = (
            f"{share:.2%} of the pixels of {', '.join(packed)} lie outside what 16 "
            "bits hold of reflectance (-0.0999 to 6.4535)"
        )
        if share > 0.01:
            raise StoreError(
                f"{text}; {self.store} is left unfinished. Variables named like bands "
                "are stored as reflectance: rename those that are something else, and "
                "they are stored as float32.",
                store=str(self.store),
            )
        warnings.warn(f"{text} and were clipped.", S2SRWarning, stacklevel=3)

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

    def _sizes(
        self, time: int, box: Box, on_disk: Mapping[str, zarr.Array[Any]]
    ) -> dict[str, int]:
        """Ask the store for the bytes of a block: they prove that it is there."""
        import asyncio

        from zarr.core.sync import sync

        rows, cols = (
            range(s.start // u, -(-s.stop // u))
            for s, u in zip((box.rows, box.cols), self.unit, strict=True)
        )
        units = [(time, i, j) if self.timed else (i, j) for i, j in product(rows, cols)]

        async def size(array: zarr.Array[Any]) -> int:
            keys = (array.metadata.encode_chunk_key(u) for u in units)
            paths = (array.store_path / k for k in keys)
            return sum(await asyncio.gather(*(p.store.getsize(p.path) for p in paths)))

        async def sizes() -> list[int]:
            return await asyncio.gather(*map(size, on_disk.values()))

        return dict(zip(on_disk, sync(sizes()), strict=True))


@lru_cache(maxsize=4)
def _opened(target: Target, _pid: int) -> tuple[StorePath, dict[str, Any]]:
    """Open the arrays of a store once a process; forked children open their own."""
    import zarr

    store = open_store(target.store)
    _same(target, attributes(open_store(target.store, read_only=True)))
    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    # Else blocks of no-data would leave no file, and be done again on every resume.
    kept = {
        v.name: cast("zarr.Array[Any]", root[v.name]).with_config(
            {"write_empty_chunks": True}
        )
        for v in target.variables
    }
    return root.store_path, kept


def _same(target: Target, attrs: Mapping[str, Any] | None) -> None:
    """Raise if the store at the target's place is not the one it was made for."""
    if (attrs or {}).get("s2sr:key") != target.key:
        raise StoreError(
            f"{target.store} was removed, or created anew, since this target was made; "
            "use the target of the latest create",
            store=str(target.store),
        )


def _record_name(index: Index) -> str:
    return "-".join(map(str, index)) + ".json"
