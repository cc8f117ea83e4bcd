"""The calls that make bands finer: from an xarray object to a Dataset."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, cast

import xarray as xr

from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.detector import detector_scene, detectors_of, is_sensor
from s2sr_xr.core.scene import scene_of
from s2sr_xr.engine.block import numpy_arrays
from s2sr_xr.engine.job import BLOCK, Blocks, BlockTask, Job, block_size
from s2sr_xr.engine.model_run import passes_for
from s2sr_xr.engine.options import Options
from s2sr_xr.engine.result import dataset
from s2sr_xr.engine.select import (
    for_registration,
    for_superresolution,
    for_upsampling,
    wanted_bands,
)
from s2sr_xr.engine.thread_team import cores
from s2sr_xr.errors import GridError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from s2sr_xr.core.grid import Grid
    from s2sr_xr.core.psf import PsfLike
    from s2sr_xr.core.scene import Object, Scene
    from s2sr_xr.engine.model_run import Pass

__all__ = ["register", "superresolve", "upsample"]

Detectors = TypeVar("Detectors", xr.DataTree, xr.Dataset)


def upsample(
    obj: Object,
    model: str | os.PathLike[str] | Mapping[str, str] = "dsen2",
    *,
    bands: Sequence[str] | None = None,
    keep_native: bool = True,
    psf: PsfLike = "sensor",
    device: str = "auto",
    precision: str = "float32",
    consistent: bool = False,
    batch: int | None = None,
    check: bool = True,
) -> xr.Dataset:
    """Return the 20 m and 60 m bands at 10 m.

    NumPy in gives NumPy out; Dask in gives a lazy result, and nothing is read.

    Parameters
    ----------
    obj
        A tree with groups ``r10m``, ``r20m``, ``r60m``, a Dataset on one 10 m grid, or
        a DataArray with dims ``(time, band, y, x)``; float reflectance, NaN where
        nothing was recorded.
    model
        Registry name, family name, or a mapping ``{"20m": ..., "60m": ...}``.
    bands
        Which bands to make finer; None: all that are coarser than 10 m, except B10,
        which no network knows: asked for by name, it is interpolated and marked.
    keep_native
        Whether the 10 m bands of `obj` stand in the result too.
    psf
        Width of the point spread function of each coarse band, for networks that are
        given it ("restored"): "sensor", the published MTFs of the unit; a mapping such
        as ``{"B05": 8.5}`` in metres; or what `measure_psf` returns.
    device
        "cpu", "cuda", "cuda:1"; "auto" is resolved where the work runs.
    precision
        Arithmetic of the networks; the result is float32 in any case.
    consistent
        Whether fine pixels are shifted, smoothly, so that their mean over each native
        pixel is what the sensor recorded there.
    batch
        Tiles that run together; None: as the device allows.
    check
        Whether values that cannot be reflectance raise.

    Returns
    -------
    xr.Dataset
        One float32 variable a band, ``(time, y, x)`` or ``(y, x)``, in reflectance; NaN
        exactly where the band's own native pixels are missing. `quality` (uint8) says
        what the network saw: CF's ``flag_masks`` and ``flag_meanings``.

    Raises
    ------
    MissingBandError, GridError, RadiometryError, ModelError, ChunkError
        The object, the model or their match is wrong; the message says how to mend it.
    """
    options = Options(
        device=device,
        precision=precision,
        consistent=consistent,
        psf=psf,
        batch=batch,
        check=check,
    )
    scene = scene_of(obj)
    chosen = for_upsampling(model, wanted_bands(scene, bands))
    passes, grid = passes_for(scene, chosen, options)
    native = _natives(scene, grid) if keep_native else ()
    return _run(scene, passes, grid, options, native=native)


def superresolve(
    obj: Object,
    model: str | os.PathLike[str] | None = None,
    *,
    bands: Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "float32",
    consistent: bool = False,
    batch: int | None = None,
    check: bool = True,
) -> xr.Dataset | xr.DataTree:
    """Return bands on pixels finer than any of the sensor's.

    NumPy in gives NumPy out; Dask in gives a lazy result, and nothing is read.

    Parameters
    ----------
    obj
        As in `upsample`; or detectors of `open_l1b` in counts, whose four bands are
        also aligned to green.
    model
        Registry name or path of weights, such as "carn" (ten bands to 5 m) or "rec"
        (L1B); None: the first of the 5 m networks whose weights are there.
    bands
        Which of the model's bands to keep; None: all.
    device, precision, consistent, batch, check
        As in `upsample`; networks of L1B move bands, and cannot be `consistent`.

    Returns
    -------
    xr.Dataset
        As in `upsample`, on the model's output pixels. Of a tree of L1B detectors, a
        tree of such Datasets in counts, lines and samples counted in native pixels.

    Raises
    ------
    MissingBandError, GridError, RadiometryError, ModelError, ChunkError
        The object, the model or their match is wrong; the message says how to mend it.
    """
    options = Options(
        device=device,
        precision=precision,
        consistent=consistent,
        batch=batch,
        check=check,
    )
    if is_sensor(obj):
        assert not isinstance(obj, xr.DataArray)
        chosen = for_superresolution(model, bands, units="count")
        return _by_detector(obj, chosen, options)
    scene = scene_of(obj)
    passes, grid = passes_for(scene, for_superresolution(model, bands), options)
    return _run(scene, passes, grid, options)


def register(
    obj: Detectors,
    model: str | os.PathLike[str] | None = None,
    *,
    reference: str = "B03",
    flow: bool = False,
    device: str = "auto",
    precision: str = "float32",
    batch: int | None = None,
) -> Detectors:
    """Return the bands of L1B detectors aligned to one of them, on the same pixels.

    Tile by tile: the network sees a tile with its halo, standardised by itself, so that
    a crop is another image; `benchmarks/seams.py` measures the jump between tiles.
    Shifts of up to 10 px along each axis are found; bring bands near with
    `align_to_green` first. NumPy in gives NumPy out; Dask in gives a lazy result, and
    nothing is read.

    Parameters
    ----------
    obj
        Of `open_l1b`: a tree with groups ``d01`` ... ``d12``, or one of them; B02, B03,
        B04, B08 in float counts, dims ``(y, x)``, NaN where nothing was recorded.
    model
        Registry name or path of weights; None: the first of "csr-s" and "csr" whose
        weights are there.
    reference
        The band that stays as it is.
    flow
        Whether the result also holds ``flow_y_B02``, ``flow_x_B02`` ... of every other
        band: where in the recorded band each pixel was fetched, in pixels from its own
        place; positive is down and right.
    device, precision, batch
        As in `upsample`.

    Returns
    -------
    xr.DataTree or xr.Dataset
        As `obj`: float32 counts, warped by bicubic interpolation; NaN where the pixel
        was fetched from a missing one or from beyond the raster; and `quality`.

    Raises
    ------
    GridError, RadiometryError, MissingBandError, ModelError
        The object, the model or their match is wrong; the message says how to mend it.

    References
    ----------
    Nguyen et al. (2023), L1BSR, section 3.2 and eq. 2. CVPR workshops.
    """
    chosen, anchor = for_registration(model, reference, flow=flow)
    options = Options(device=device, precision=precision, batch=batch)
    made = _by_detector(obj, chosen, options, reference=anchor)
    return cast("Detectors", made)  # a tree of a tree, a Dataset of a Dataset


def _by_detector(
    obj: xr.DataTree | xr.Dataset,
    chosen: Mapping[str, tuple[str, ...]],
    options: Options,
    *,
    reference: str | None = None,
) -> xr.DataTree | xr.Dataset:
    options = replace(options, check=False)  # counts are not reflectance

    def one(ds: xr.Dataset) -> xr.Dataset:
        scene = detector_scene(ds)
        passes, grid = passes_for(scene, chosen, options, reference=reference)
        result = _run(scene, passes, grid, options)
        if reference is not None:
            result.attrs |= {"title": f"Sentinel-2 bands on {reference}"}
        return result

    if isinstance(obj, xr.Dataset):
        return one(obj)
    groups = {name: one(ds) for name, ds in detectors_of(obj).items()}
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = dict(obj.attrs)
    return tree


def _run(
    scene: Scene,
    passes: tuple[Pass, ...],
    grid: Grid,
    options: Options,
    *,
    native: tuple[str, ...] = (),
) -> xr.Dataset:
    lazy = any(p.variable.chunks is not None for p in scene.planes.values())
    task = BlockTask(
        passes=passes,
        native=native,
        shape=grid.shape,
        res=grid.res,
        level=scene.level,
        check=options.check,
        batch=options.batch,
    )
    job = _job(scene, task, grid)
    if not lazy:
        return dataset(scene, grid, job.task, numpy_arrays(job))
    from s2sr_xr.engine.dask_graph import arrays

    job = replace(job, task=replace(job.task, threads=threads_of_torch(job, cores())))
    return dataset(scene, grid, job.task, arrays(job))


def threads_of_torch(job: Job, have: int) -> int:
    """Return the threads of torch inside a task of Dask, of the cores that we have.

    Dask has a thread a core, and torch with as many more would fight them. Where there
    are fewer blocks than cores, those that would have none help.
    """
    blocks = math.prod(map(len, job.blocks.chunks)) * job.steps
    return max(1, have // blocks)


def _natives(scene: Scene, grid: Grid) -> tuple[str, ...]:
    names = tuple(b for b in scene.planes if BANDS[b].native == grid.res)
    for name in names:
        own = scene.planes[name].grid
        if own != grid:
            raise GridError(
                f"{name} covers {own.extent} (west, south, east, north), the finer "
                f"bands {grid.extent}. Cut all groups at once with obj.s2sr.window("
                "x=..., y=...), or pass keep_native=False."
            )
    return names


def _job(scene: Scene, task: BlockTask, grid: Grid) -> Job:
    tiles = [
        (p.tile[0] * p.spec.output.per_cell, p.tile[1] * p.spec.output.per_cell)
        for p in task.passes
    ]
    size = block_size(tiles, grid.shape, _proposed(scene, grid))
    planes = {**scene.planes, **scene.flags}
    whole = Job(
        task=task, planes=planes, times=scene.times, blocks=Blocks(grid.shape, size)
    )
    return whole.only(set(task.names))


def _proposed(scene: Scene, grid: Grid) -> tuple[int, int]:
    """Return the block that the source's chunks propose, in output pixels."""
    chunked = [p for p in scene.planes.values() if p.variable.chunks is not None]
    if not chunked:
        return BLOCK, BLOCK
    finest = min(chunked, key=lambda p: p.grid.res)
    factor = finest.grid.res / grid.res
    *_, rows, cols = finest.variable.chunks or ()
    return round(max(rows) * factor), round(max(cols) * factor)
