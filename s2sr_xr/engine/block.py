"""One block, from reading its window to its flags.

The same `do_block` runs under every driver: in a loop over NumPy arrays, as a Dask
task, or as a job on a cluster.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.core import nodata
from s2sr_xr.core.bands import BANDS
from s2sr_xr.engine import thread_team
from s2sr_xr.engine.job import QUALITY, BlockTask, Job, dtype_of, to_native
from s2sr_xr.engine.pixels import ArrayPixels
from s2sr_xr.errors import RadiometryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from s2sr_xr.core.tiling import Box
    from s2sr_xr.engine.pixels import Pixels

__all__ = ["do_block", "numpy_arrays", "on_gpu", "turn"]

DARK = -0.02
"""Reflectance that no scene has much of. Of 27 real scenes none has 1 % of any band
below it, though half of a sea may be below zero; with the offset applied twice, 24 have
over 5 % of all bands there."""


def on_gpu(tasks: Iterable[BlockTask]) -> bool:
    """Tell whether networks run on a GPU; a device with a name need not be here."""
    named = {p.predictor.device for task in tasks for p in task.passes}
    return any((thread_team.resolve(d) if d == "auto" else d) != "cpu" for d in named)


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
        return thread_team.TEAM.at_work()
    size = sum(task.held(block) for task in tasks)
    return thread_team.HOST.hold(size, thread_team.allowance())


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
            images[band][to_native(block, band, task.res).slices_in(windows[band])]
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
        with thread_team.torch_threads(
            task.threads and min(task.threads, thread_team.cores())
        ):
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
