"""What one task computes: a whole block, from reading its window to its flags.

The same `do_block` runs under every driver: in a loop over NumPy arrays, as a Dask
task, or as a job on a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from s2sr_xr import lanes, nodata
from s2sr_xr.bands import BANDS
from s2sr_xr.core.token_parts import field_parts
from s2sr_xr.errors import RadiometryError
from s2sr_xr.predict import predict, resolve, torch_threads
from s2sr_xr.tiling import CORRECTION, REACH, Box, mirror, mirrored_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from s2sr_xr.models.spec import ModelSpec
    from s2sr_xr.predict import Predictor

__all__ = ["BlockTask", "Pass", "Pixels", "do_block", "on_gpu", "turn"]

QUALITY = "quality"
"""Name of the variable of flags."""


COPIES = 3
"""How often what a block reads is in memory at once: as decoded, as reflectance, and
stacked with its no-data filled."""

MADE = 2
"""How often what a block makes is: whole tiles of it, and what the block has of
them."""

DARK = -0.02
"""Reflectance that no scene has much of. Of 27 real scenes none has 1 % of any band
below it, though half of a sea may be below zero; with the offset applied twice, 24 have
over 5 % of all bands there."""


class Pixels(Protocol):
    """Where the native pixels of one band come from."""

    def read(self, time: int, rows: slice, cols: slice) -> NDArray[np.float32]:
        """Return a window as float32, NaN where nothing was recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One network over one object."""

    predictor: Predictor
    """Which network, and how it runs."""

    spec: ModelSpec
    """Its facts."""

    keep: tuple[str, ...]
    """The bands of its output that are wanted."""

    cells: tuple[int, int]
    """Rows and columns of the object, in the model's cells."""

    flags: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Masks of the product that concern its bands, and their pixels along a cell."""

    consistent: bool = False
    """Whether the result's means over native pixels are put right; in its margin."""

    ceiling: float = nodata.CEILING
    """From which value on a pixel is saturated."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return field_parts("pass", 1, self)

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of a tile, in cells: the card's, or less for a small object.

        What an exact model writes does not depend on its tile, so that a small object
        need not be blown up to a whole one.
        """
        spec = self.spec
        if not spec.exact:
            return spec.tile, spec.tile
        least = (n + -(n + 2 * spec.margin) % spec.align for n in self.cells)
        rows, cols = (min(spec.tile, n) for n in least)
        return rows, cols

    @property
    def per_cell(self) -> dict[str, int]:
        """Pixels along a cell, of everything that is read: bands and masks."""
        return {b: self.spec.per_cell(b) for b in self.spec.bands} | dict(self.flags)

    def reads(self, block: Box) -> Box:
        """Return the cells `block` (in output pixels) needs, the fill's reach too."""
        span = self.tiles(block).grow(self.spec.margin)
        source = Box(
            mirrored_source(span.rows, self.cells[0]),
            mirrored_source(span.cols, self.cells[1]),
        )
        return source.grow(REACH).clip(self.cells)

    def tiles(self, block: Box) -> Box:
        """Return the whole tiles that make up `block` (in output pixels), in cells."""
        return block.group(self.spec.output.per_cell).outward(self.tile)

    def run(
        self, block: Box, images: Mapping[str, NDArray[np.float32]], batch: int | None
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.uint8]]:
        """Return the wanted bands of `block`, and its flags.

        `images` holds, for each band the model takes, the cells that `reads` names;
        missing pixels are NaN, saturated ones +inf or beyond the ceiling.
        """
        spec, source = self.spec, self.reads(block)
        tiles = self.tiles(block)
        seen = tiles.grow(spec.margin)
        stacks, flags = [], np.zeros(source.shape, np.uint8)
        absent: dict[str, NDArray[np.bool_]] = {}
        for group in spec.inputs:
            k, filled = group.per_cell, []
            for b in group.names:
                image, missing = images[b], ~np.isfinite(images[b])
                flags |= nodata.FILLED * _any_in_cell(missing, k)
                flags |= nodata.SATURATED * _any_in_cell(image >= self.ceiling, k)
                mean = spec.fill.get(b, 0.0)
                filled.append(nodata.fill(image, missing, per_cell=k, mean=mean))
                absent[b] = missing
            stacks.append(_mirrored(filled, seen, source, self.cells, k))
        for name, k in self.flags.items():
            # Beyond the mask, or where it could not be told, nothing is flagged.
            told = np.nan_to_num(images[name]).astype(np.uint8)
            for bit in (nodata.SATURATED, nodata.DEFECT):
                flags |= bit * _any_in_cell(told & bit > 0, k)
        k = spec.output.per_cell
        inner = block.slices_in(tiles.scale(k))
        gone = {
            b: _repeat(absent[b], k // spec.per_cell(b))[
                block.slices_in(source.scale(k))
            ]
            for b in spec.output.names
            if absent[b].any()
        }
        if all(b in gone and gone[b].all() for b in map(_band_of, self.keep)):
            result = {n: np.full(block.shape, np.nan, np.float32) for n in self.keep}
        else:
            made = dict(zip(spec.channels, self._predict(stacks, batch), strict=True))
            result = {n: _own(made[n], inner) for n in self.keep}
            if spec.also:
                gone = {
                    b: _moved(
                        absent[b],
                        tuple(made[f"flow_{axis}_{b}"][inner] for axis in "yx"),
                        block,
                        source,
                        self.cells,
                    )
                    for b in spec.output.names
                }
            for n in self.keep:
                if (band := _band_of(n)) in gone:
                    result[n][gone[band]] = np.nan
        seen_flags = _mirrored([flags], seen, source, self.cells, 1)[0]
        return result, _spread(seen_flags, spec.margin, k)[inner]

    def _predict(
        self, stacks: list[NDArray[np.float32]], batch: int | None
    ) -> list[NDArray[np.float32]]:
        run, device = self.predictor.load()
        if self.consistent:
            from s2sr_xr.consistency import Consistent

            inner = self.spec.margin - CORRECTION
            run = Consistent(run, replace(self.spec, margin=inner))
        with lanes.on(device):
            return predict(
                run, self.spec, stacks, tile=self.tile, batch=batch, device=device
            )


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
            window = _to_native(block, band, self.res)
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


def on_gpu(tasks: Iterable[BlockTask]) -> bool:
    """Tell whether networks run on a GPU; a device with a name need not be here."""
    named = {p.predictor.device for task in tasks for p in task.passes}
    return any((resolve(d) if d == "auto" else d) != "cpu" for d in named)


def turn(tasks: Sequence[BlockTask], block: Box) -> AbstractContextManager[None]:
    """Count a block as in work; where threads feed a GPU, wait until it fits in memory.

    On the CPU each thread has its block, and their number is the bound.

    Parameters
    ----------
    tasks
        What is computed of the block before it is written.
    block
        Which pixels of the output.
    """
    if not on_gpu(tasks):
        return lanes.TEAM.at_work()
    size = sum(task.held(block) for task in tasks)
    return lanes.HOST.hold(size, lanes.allowance())


def _to_native(block: Box, band: str, res: float) -> Box:
    """Return `block`, in output pixels of `res` metres, in native pixels of `band`."""
    return block.group(round(BANDS[band].native / res))


def do_block(
    task: BlockTask, block: Box, time: int, pixels: Mapping[str, Pixels]
) -> dict[str, NDArray[Any]]:
    """Compute one block.

    Parameters
    ----------
    task
        What is computed.
    block
        Which pixels of the output.
    time
        Which time step; 0 for an object without time.
    pixels
        Where each band comes from.

    Returns
    -------
    One ``(h, w)`` array a variable: float32 bands in the input's units with NaN exactly
    where their own native pixels are missing, and uint8 `quality`.

    Raises
    ------
    RadiometryError
        The values cannot be reflectance.
    ReadError
        A pixel could not be read.
    """
    windows = task.reads(block)
    images: dict[str, NDArray[np.float32]] = {}
    for band, window in windows.items():
        rows, cols = (slice(s.start, s.stop) for s in (window.rows, window.cols))
        images[band] = np.asarray(pixels[band].read(time, rows, cols), np.float32)
        assert images[band].shape == window.shape, (band, images[band].shape, window)
    if task.check:
        _check_reflectance({b: i for b, i in images.items() if b in BANDS})
    out: dict[str, NDArray[Any]] = {
        band: _finite(
            images[band][_to_native(block, band, task.res).slices_in(windows[band])]
        )
        for band in task.native
    }
    if not task.passes:
        return out
    quality = np.zeros(block.shape, np.uint8)
    for p in task.passes:
        cells = p.reads(block)
        cut = {
            b: images[b][cells.scale(k).slices_in(windows[b])]
            for b, k in p.per_cell.items()
        }
        # Where it was planned there may be more cores than here.
        with torch_threads(task.threads and min(task.threads, lanes.cores())):
            made, flags = p.run(block, cut, task.batch)
        out |= made
        quality |= flags
        if p.spec.levels and task.level not in p.spec.levels:
            quality |= nodata.UNTRAINED
    return out | {QUALITY: quality}


def _finite(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the image with NaN for infinite values: saturated ones of some readers."""
    infinite = np.isinf(image)
    return np.where(infinite, np.float32(np.nan), image) if infinite.any() else image


def _check_reflectance(images: Mapping[str, NDArray[np.float32]]) -> None:
    """Raise if most of a block cannot be reflectance: counts, percent, twice offset."""
    dark, total = 0, 0
    for band, image in images.items():
        valid = np.isfinite(image)
        n = int(np.count_nonzero(valid))
        if 100 * n < image.size:
            continue  # a rim of the swath: too few to tell
        # "median > 2" is a count: a true median would sort 5 Mpx a band.
        if 2 * np.count_nonzero(valid & (image > 2)) > n:
            raise RadiometryError(
                f"{band} has a median of {np.median(image[valid]):g}: these are counts "
                "or percent, not reflectance. Use obj.s2sr.decode(offset=..., "
                "scale=...), or check=False if they are right.",
                band=band,
            )
        dark += int(np.count_nonzero(valid & (image < DARK)))
        total += n
    if 20 * dark > total:
        raise RadiometryError(
            f"{100 * dark / total:.0f} % of the pixels of a block are below {DARK}: "
            "the offset seems to be applied twice. See each variable's radiometry "
            "attribute; say offset=0 when opening or decoding, or pass check=False if "
            "the values are right."
        )


def _any_in_cell(marked: NDArray[np.bool_], k: int) -> NDArray[np.uint8]:
    """Return, cell by cell, 1 where any pixel is marked."""
    rows, cols = marked.shape
    cells = np.zeros((rows // k, cols // k), bool)
    if marked.any():  # most blocks have nothing marked
        for i in range(k):
            for j in range(k):
                cells |= marked[i::k, j::k]
    return cells.view(np.uint8)


def _mirrored(
    images: Sequence[NDArray[Any]],
    seen: Box,
    source: Box,
    cells: tuple[int, int],
    k: int,
) -> NDArray[Any]:
    """Return the cells `seen` of images of `source`, mirrored at the edges, stacked."""
    inner = seen.clip(cells)
    into = inner.scale(k).slices_in(seen.scale(k))
    cut = inner.scale(k).slices_in(source.scale(k))
    out = np.empty((len(images), *seen.scale(k).shape), images[0].dtype)
    # Where each row and column comes from, and the few that lie beyond the edge.
    whence = [
        np.array([mirror(i, n * k) for i in range(span.start * k, span.stop * k)])
        - held.start * k
        for span, held, n in (
            (seen.rows, source.rows, cells[0]),
            (seen.cols, source.cols, cells[1]),
        )
    ]
    rows, cols = whence
    above, beside = (
        np.delete(np.arange(len(places)), middle)
        for places, middle in zip(whence, into, strict=True)
    )
    for image, made in zip(images, out, strict=True):
        made[into] = image[cut]
        made[above] = image[np.ix_(rows[above], cols)]
        made[into[0], beside] = image[cut[0], cols[beside]]
    return out


def _own(image: NDArray[np.float32], inner: tuple[slice, slice]) -> NDArray[np.float32]:
    """Return a part of an image, not a view that would keep all of it alive."""
    part = image[inner]
    return part if part.shape == image.shape else part.copy()


def _band_of(name: str) -> str:
    """Return the band that an output belongs to: itself, or that of a flow.

    >>> _band_of("flow_y_B02")
    'B02'
    """
    return name.rpartition("_")[2]


def _moved(
    missing: NDArray[np.bool_],
    flow: tuple[NDArray[np.float32], ...],
    block: Box,
    source: Box,
    cells: tuple[int, int],
) -> NDArray[np.bool_]:
    """Return where a warped band was fetched from a missing pixel, or from beyond."""
    grid = np.ogrid[
        block.rows.start : block.rows.stop, block.cols.start : block.cols.stop
    ]
    inside = np.ones(block.shape, bool)
    index = []
    for at, shift, held, n in zip(
        grid, flow, (source.rows, source.cols), cells, strict=True
    ):
        place = at + np.rint(shift).astype(np.int64)
        inside &= (place >= 0) & (place < n)
        index.append(place.clip(held.start, held.stop - 1) - held.start)
    return np.asarray(missing[tuple(index)] | ~inside)


def _repeat(image: NDArray[Any], k: int) -> NDArray[Any]:
    return image.repeat(k, axis=0).repeat(k, axis=1)


def _spread(flags: NDArray[np.uint8], margin: int, k: int) -> NDArray[np.uint8]:
    """Return each output pixel's flags: those of every cell its network looked at."""
    shape = tuple(n - 2 * margin for n in flags.shape)
    out = np.zeros(shape, np.uint8)
    for bit in (nodata.FILLED, nodata.SATURATED, nodata.DEFECT):
        marked = flags & bit > 0
        if marked.any():
            out |= np.uint8(bit) * nodata.spread(marked, margin)
    return _repeat(out, k)
