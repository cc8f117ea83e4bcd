"""A scene degraded by the factor of a task: its own pixels are the reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
import xarray as xr

from s2sr_xr.core.bands import BANDS, group
from s2sr_xr.core.filters import reduce_scale
from s2sr_xr.core.scene import scene_of
from s2sr_xr.engine.pixels import sample
from s2sr_xr.engine.select import (
    wanted_bands,
)
from s2sr_xr.errors import GridError, MissingBandError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from s2sr_xr.core.grid import Grid
    from s2sr_xr.core.scene import Object, Plane, Scene

    Floats: TypeAlias = NDArray[np.float32]
    Made: TypeAlias = Mapping[int, xr.Dataset]

__all__ = [
    "FACTORS",
    "JUDGED",
    "LEAST",
    "TASKS",
    "WINDOW",
    "Task",
    "Trial",
    "coarse_bands",
    "one_scale_below",
    "reduced",
]

Task: TypeAlias = Literal["20m", "60m", "5m"]
"""What is judged: bands of 20 m at 10 m, bands of 60 m at 10 m, or bands at 5 m."""


TASKS: tuple[Task, ...] = get_args(Task)
"""All of them."""


FACTORS: Mapping[Task, int] = {"20m": 2, "60m": 6, "5m": 2}
"""By how much a scene is degraded for a task."""


JUDGED: Mapping[Task, tuple[int, ...]] = {"20m": (20,), "60m": (60,), "5m": (10, 20)}
"""Native pixels, in metres, of the bands that find their truth."""


LEAST = 6
"""Coarse pixels along a side: with fewer, edges are all there is."""


WINDOW = 8
"""Pixels of the reference along a side that UIQ needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A scene one scale below, in memory, and what was recorded there."""

    task: Task
    """What it is made to judge."""

    coarse: xr.DataTree
    """The degraded bands, dims ``(y, x)``. The pixels pose as native ones, of 10, 20
    and 60 m from the same upper left corner, so that `upsample` takes them: the ground
    they say they cover is too small by the factor."""

    truth: Mapping[int, xr.Dataset]
    """By native pixel in metres: the recorded bands, dims ``(y, x)``."""

    @property
    def factor(self) -> int:
        """How many times as wide as recorded the degraded pixels are."""
        return FACTORS[self.task]

    @property
    def bands(self) -> tuple[str, ...]:
        """The bands that are judged."""
        return tuple(str(b) for ds in self.truth.values() for b in ds.data_vars)


def one_scale_below(
    obj: Object, task: Task = "20m", *, bands: Sequence[str] | None = None
) -> Trial:
    """Return a scene degraded by the factor of a task, and the reference that it had.

    Rows and columns beyond the last whole cell of the coarsest degraded pixel are left
    out. A missing pixel stays missing, with what the blur carries it to.

    Parameters
    ----------
    obj
        As in `score_scene`; read here, band by band.
    task
        As in `score_scene`.
    bands
        Which bands to judge; None: all of the native pixels that the task makes finer,
        except B10.

    Raises
    ------
    MissingBandError
        There is no band to judge, or one that was asked for is not judged.
    ModelError
        There is no such task.
    GridError
        The scene is too small, has several times, or its bands cover different ground.
    """
    if task not in TASKS:
        raise ModelError(f"task={task!r} is not one of {', '.join(TASKS)}.")
    scene = scene_of(obj)
    _check_time(scene)
    natives = JUDGED[task]
    there = coarse_bands(scene, task)
    judged = there if bands is None else tuple(bands)
    if not judged or set(judged) - set(there):
        raise MissingBandError(
            f"bands={list(judged)} cannot be judged: the {task} task judges "
            f"{', '.join(there)} of this scene."
        )
    used = [b for b in BANDS if b in scene.planes and BANDS[b].native <= max(natives)]
    ground = _ground(scene, used, task)
    coarse: dict[int, dict[str, Floats]] = {10: {}, 20: {}, 60: {}}
    truth: dict[int, dict[str, Floats]] = {n: {} for n in natives}
    for band in used:
        native = BANDS[band].native
        recorded = _pixels(scene.planes[band], band, ground)
        coarse[native][band] = reduced(recorded, FACTORS[task])
        if band in judged:
            truth[native][band] = recorded
    tree = xr.DataTree.from_dict(
        {group(n): _dataset(own, ground, n) for n, own in coarse.items() if own}
    )
    tree.attrs = dict(scene.attrs)
    return Trial(
        task=task,
        coarse=tree,
        truth={n: _dataset(own, ground, n) for n, own in truth.items() if own},
    )


def coarse_bands(scene: Scene, task: Task) -> tuple[str, ...]:
    """Return the bands of a scene that a task makes finer."""
    natives = JUDGED[task]
    if task == "5m":
        found = tuple(b for b in scene.planes if BANDS[b].native in natives)
    else:
        # Without those that no network knows.
        coarse = wanted_bands(scene, None)
        found = tuple(b for b in coarse if BANDS[b].native in natives)
    if not found:
        raise MissingBandError(
            f"The data have {', '.join(scene.planes)}: no band of "
            f"{' m or '.join(map(str, natives))} m to judge the {task} task by."
        )
    return found


def _check_time(scene: Scene) -> None:
    if scene.times not in (None, 1):
        raise GridError(
            f"The scene has {scene.times} times; judge one at a time: "
            "obj.isel(time=0), or give one item."
        )


def _ground(scene: Scene, used: Sequence[str], task: Task) -> Grid:
    """Return the 10 m grid of the whole degraded cells that all bands cover."""
    grids = {b: scene.planes[b].grid for b in used}
    (first, grid), *others = grids.items()
    for band, other in others:
        if (other.crs, other.extent) != (grid.crs, grid.extent):
            raise GridError(
                f"{first} covers (west, south, east, north) = {grid.extent} and {band} "
                f"covers {other.extent}. Cut all groups at once with "
                "obj.s2sr.window(x=..., y=...)."
            )
    cell = max(JUDGED[task]) * FACTORS[task]
    rows, cols = (round(n * grid.res) // cell for n in grid.shape)
    if min(rows, cols) < LEAST:
        raise GridError(
            f"The scene has {rows} x {cols} whole cells of {cell} m; the {task} task "
            f"is judged on at least {LEAST} x {LEAST}, which is {LEAST * cell} m along "
            "each side. Take a larger part."
        )
    shape = (rows * cell // 10, cols * cell // 10)
    return replace(grid, res=10.0, shape=shape)


def _pixels(plane: Plane, band: str, ground: Grid) -> Floats:
    """Return the native pixels of a band over `ground`, float32."""
    image = plane.variable[0] if plane.variable.ndim == 3 else plane.variable
    size = round(plane.grid.res / ground.res)
    rows, cols = (n // size for n in ground.shape)
    return sample(image[:rows, :cols].to_numpy(), plane.repeat, band)


def reduced(image: Floats, factor: int) -> Floats:
    """Return an image at a scale that is `factor` times coarser."""
    made: Floats = reduce_scale(torch.from_numpy(image), factor).numpy()
    return made


def _dataset(images: Mapping[str, Floats], ground: Grid, native: int) -> xr.Dataset:
    """Return bands as pixels of `native` metres from the corner of `ground`."""
    shape = next(iter(images.values())).shape
    grid = replace(ground, res=float(native), shape=(shape[0], shape[1]))
    return xr.Dataset({b: (("y", "x"), x) for b, x in images.items()}, grid.coords())
