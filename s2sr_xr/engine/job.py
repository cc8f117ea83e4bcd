"""One task over all blocks and times of an object: how it is cut, and run in a loop."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.core.tiling import Box, cuts
from s2sr_xr.core.token_parts import field_parts
from s2sr_xr.engine.block import QUALITY, BlockTask, do_block
from s2sr_xr.errors import S2SRWarning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    import xarray as xr
    from numpy.typing import NDArray

    from s2sr_xr.core.scene import Plane

__all__ = [
    "ArrayPixels",
    "Blocks",
    "Job",
    "block_size",
    "dtype_of",
    "numpy_arrays",
    "sample",
]

BLOCK = 2196
"""Most pixels along the side of a block of output: at 10 m six tiles of 366, of which a
product has 5 x 5. In pixels, as it is pixels that take memory."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """How an output is cut into blocks."""

    shape: tuple[int, int]
    """Rows and columns of output pixels."""

    size: tuple[int, int]
    """Rows and columns of a block; the last ones may be smaller."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return field_parts("blocks", 1, self)

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Sizes of the blocks along each axis, as Dask counts them."""
        sides = zip(self.shape, self.size, strict=True)
        return tuple(tuple(map(len, cuts(n, s))) for n, s in sides)

    def __iter__(self) -> Iterator[tuple[int, int, Box]]:
        rows, cols = (
            list(cuts(n, s)) for n, s in zip(self.shape, self.size, strict=True)
        )
        for (i, r), (j, c) in product(enumerate(rows), enumerate(cols)):
            yield i, j, Box(r, c)


@dataclass(frozen=True, slots=True)
class Job:
    """One task over all blocks and times of one object."""

    task: BlockTask
    """What each block computes."""

    planes: Mapping[str, Plane]
    """The bands it takes."""

    times: int | None
    """Steps along time; None for an object without it."""

    blocks: Blocks
    """How the output is cut."""

    @property
    def steps(self) -> int:
        """Images along time: one without that axis."""
        return 1 if self.times is None else self.times

    def only(self, names: AbstractSet[str]) -> Job:
        """Return the job that makes no more than `names`, and reads no more for it."""
        task = self.task
        passes = tuple(
            p for p in task.passes if QUALITY in names or not names.isdisjoint(p.keep)
        )
        native = tuple(b for b in task.native if b in names)
        read = {*native, *(name for p in passes for name in p.per_cell)}
        return replace(
            self,
            task=replace(task, passes=passes, native=native),
            planes={name: p for name, p in self.planes.items() if name in read},
        )


def block_size(
    tiles: Sequence[tuple[int, int]],
    shape: tuple[int, int],
    proposed: tuple[int, int],
) -> tuple[int, int]:
    """Return the sides of a block: whole tiles near `proposed`, at most `BLOCK`.

    `tiles`, `shape` and `proposed` are rows and columns of output pixels.

    >>> block_size([(366, 366)], (10980, 10980), (2048, 10980))
    (2196, 2196)
    """
    sides = []
    for tile, n, wish in zip(zip(*tiles, strict=True), shape, proposed, strict=True):
        unit = math.lcm(*tile)
        most = max(BLOCK // unit, 1)
        side = min(max(round(wish / unit), 1), most) * unit
        sides.append(min(side, n))
    rows, cols = sides
    return rows, cols


def numpy_arrays(job: Job) -> dict[str, NDArray[Any]]:
    """Return the variables a job makes, block by block, here and now."""
    lead = () if job.times is None else (job.times,)
    out = {n: np.empty(lead + job.blocks.shape, dtype_of(n)) for n in job.task.names}
    pixels = {b: ArrayPixels(p.variable, p.repeat, b) for b, p in job.planes.items()}
    for t, (_, _, box) in product(range(job.steps), job.blocks):
        where = (t,) * len(lead) + box.slices
        for name, values in do_block(job.task, box, t, pixels).items():
            out[name][where] = values
    return out


def dtype_of(name: str) -> type[np.generic]:
    """Return the type of a result's variable."""
    return np.uint8 if name == QUALITY else np.float32


@dataclass(frozen=True, slots=True)
class ArrayPixels:
    """The native pixels of a band in a NumPy or lazily indexed variable."""

    variable: xr.Variable
    """Dims ``(time, y, x)`` or ``(y, x)``."""

    repeat: int
    """Pixels of `variable` along the side of a native one."""

    band: str
    """Whose they are, for the warning."""

    def read(self, time: int, rows: slice, cols: slice) -> NDArray[np.float32]:
        """Return a window of native pixels."""
        k = self.repeat
        window = tuple(slice(s.start * k, s.stop * k) for s in (rows, cols))
        key = window if self.variable.ndim == 2 else (time, *window)
        return sample(self.variable[key].to_numpy(), k, self.band)


def sample(values: NDArray[Any], k: int, band: str) -> NDArray[np.float32]:
    """Return one sample of each k x k cell, warning where a cell is not constant."""
    values = values.astype(np.float32, copy=False)
    if k == 1:
        return values
    one = values[::k, ::k]
    if not np.array_equal(one.repeat(k, 0).repeat(k, 1), values, equal_nan=True):
        warnings.warn(
            f"{band} is not constant within its native pixels: the cube was "
            "interpolated when it was loaded. The result is made from one sample of "
            "each; load it with nearest neighbour, or at its native resolution.",
            S2SRWarning,
            stacklevel=2,
        )
    return one
