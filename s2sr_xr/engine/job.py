"""What is computed: one task over all blocks and times of an object. Facts only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.tiling import Box, cuts
from s2sr_xr.core.token_parts import field_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from s2sr_xr.core.scene import Plane
    from s2sr_xr.engine.model_run import Pass

__all__ = [
    "BLOCK",
    "QUALITY",
    "BlockTask",
    "Blocks",
    "Job",
    "block_size",
    "dtype_of",
    "to_native",
]

BLOCK = 2196
"""Most pixels along the side of a block of output: at 10 m six tiles of 366, of which a
product has 5 x 5. In pixels, as it is pixels that take memory."""

QUALITY = "quality"
"""Name of the variable of flags."""

COPIES = 3
"""How often what a block reads is in memory at once: as decoded, as reflectance, and
stacked with its no-data filled."""

MADE = 2
"""How often what a block makes is: whole tiles of it, and what the block has of
them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTask:
    """What is computed for each block of one object. Small, and the same for all."""

    passes: tuple[Pass, ...] = ()
    """The networks that run."""

    native: tuple[str, ...] = ()
    """Bands that are handed on as they are."""

    shape: tuple[int, int]
    """Rows and columns of the output, in its own pixels."""

    res: float
    """Side of an output pixel, in metres."""

    level: str | None = None
    """Processing level of the pixels."""

    check: bool = True
    """Whether values that cannot be reflectance raise."""

    batch: int | None = None
    """Tiles that run together; None: as the device allows."""

    threads: int | None = None
    """Threads of torch inside one task; None: torch's own choice."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return field_parts("block-task", 1, self)

    @property
    def names(self) -> tuple[str, ...]:
        """The variables that a block holds, flags last where a network runs."""
        made = tuple(b for p in self.passes for b in p.keep)
        return self.native + made + ((QUALITY,) if self.passes else ())

    def reads(self, block: Box) -> dict[str, Box]:
        """Return the window of each band that `block` (in output pixels) needs.

        Windows are in the band's own native pixels.
        """
        windows: dict[str, Box] = {}
        for p in self.passes:
            cells = p.reads(block)
            for band, k in p.per_cell.items():
                window = cells.scale(k)
                windows[band] = windows.get(band, window).union(window)
        for band in self.native:
            window = to_native(block, band, self.res)
            windows[band] = windows.get(band, window).union(window)
        return windows

    def held(self, block: Box) -> int:
        """Return the bytes that `block` (in output pixels) takes at most while in work.

        Those of the network itself are left out.
        """
        read = sum(w.shape[0] * w.shape[1] for w in self.reads(block).values())
        pixels = block.shape[0] * block.shape[1]
        made = sum(len(p.spec.channels) for p in self.passes)
        return 4 * (COPIES * read + pixels * (MADE * made + len(self.names)))


def to_native(block: Box, band: str, res: float) -> Box:
    """Return `block`, in output pixels of `res` metres, in native pixels of `band`."""
    return block.group(round(BANDS[band].native / res))


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


def dtype_of(name: str) -> type[np.generic]:
    """Return the type of a result's variable."""
    return np.uint8 if name == QUALITY else np.float32
