"""How good a model is on a scene of your own, whose finer truth nobody knows.

One scale below there is a truth: all bands are degraded by the factor of the task, and
what a model makes of them is compared with the pixels that were recorded. A network for
20 -> 10 m is asked for 40 -> 20 m, one for 60 -> 10 m for 360 -> 60 m. One for 5 m is
asked for 20 -> 10 m of the 10 m bands; of the 20 m bands it makes 10 m pixels too,
which are degraded once more and compared at 20 m (40 -> 20 m). What is measured is how
well a model does *there*; detail one scale up is rarer, and figures are of that order.

References
----------
Lanaras et al. (2018), Super-resolution of Sentinel-2 images, ISPRS J. 146, section 5.3.
Wald et al. (1997), Fusion of satellite images of different spatial resolutions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import torch
import xarray as xr

from s2sr_xr import report
from s2sr_xr.bands import BANDS, group
from s2sr_xr.choose import (
    for_superresolution,
    for_upsampling,
    models_by_native,
    passes_for,
    wanted_bands,
)
from s2sr_xr.degrade import reduce_scale
from s2sr_xr.errors import GridError, MissingBandError, ModelError
from s2sr_xr.finer import superresolve, upsample
from s2sr_xr.grid import scene_of
from s2sr_xr.job import sample
from s2sr_xr.models.registry import family, get_spec
from s2sr_xr.models.resample import Upsample
from s2sr_xr.report import Scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from s2sr_xr.grid import Grid, Object, Plane, Scene

    Floats: TypeAlias = NDArray[np.float32]
    Made: TypeAlias = Mapping[int, xr.Dataset]

__all__ = [
    "INTERPOLATIONS",
    "TASKS",
    "Task",
    "Trial",
    "attempt",
    "compare_trial",
    "one_scale_below",
    "psnr_gain",
    "score_scene",
    "table",
]

Task: TypeAlias = Literal["20m", "60m", "5m"]
"""What is judged: bands of 20 m at 10 m, bands of 60 m at 10 m, or bands at 5 m."""

TASKS: tuple[Task, ...] = get_args(Task)
"""All of them."""

FACTORS: Mapping[Task, int] = {"20m": 2, "60m": 6, "5m": 2}
"""By how much a scene is degraded for a task."""

JUDGED: Mapping[Task, tuple[int, ...]] = {"20m": (20,), "60m": (60,), "5m": (10, 20)}
"""Native pixels, in metres, of the bands that find their truth."""

INTERPOLATIONS: Mapping[str, Mapping[str, Any]] = {
    "nearest": {"kernel": "nearest"},
    "bicubic": {"kernel": "bicubic"},
    "bicubic a=-0.5": {"kernel": "bicubic", "a": -0.5},
}
"""Methods that need no model: bicubic with a = -0.75, which is torch's and harder to
beat, and with the papers' a = -0.5."""

LEAST = 6
"""Coarse pixels along a side: with fewer, edges are all there is."""

WINDOW = 8
"""Pixels of truth along a side that UIQ needs."""


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


def score_scene(
    obj: Object,
    models: str | Sequence[str] | None = None,
    *,
    task: Task = "20m",
    bands: Sequence[str] | None = None,
    border: int = 0,
    device: str = "auto",
    precision: str = "float32",
    consistent: bool = False,
    check: bool = True,
) -> dict[str, Scores]:
    """Return how near interpolation and models come to the recorded pixels.

    The scene is read whole and held in memory, one scale below its use: cut it first
    where it is large; a few thousand pixels along a side are plenty.

    Parameters
    ----------
    obj
        As `upsample` takes it; reflectance at one time.
    models
        What is judged beside nearest neighbour and bicubic: registry names, paths of
        weights, or keys of `INTERPOLATIONS`. None: what the library uses for the task.
    task
        ``"20m"``, ``"60m"`` or ``"5m"``.
    bands
        Which bands to judge; None: all that the task and every model make.
    border
        Pixels of the truth along each side that are left out: a network sees mirrored
        pixels there.
    device, precision, consistent, check
        As in `upsample`.

    Returns
    -------
    dict
        Scores by method, "nearest" and "bicubic" first; over the pixels that all have.
        `table` shows them.

    Raises
    ------
    ModelError
        A model is not known, has no weights, or is for another task.
    MissingBandError
        A band is missing that a model takes, or there is none to judge.
    GridError
        The scene is too small, has several times, or its bands do not nest.
    RadiometryError
        The pixels cannot be reflectance.
    """
    named = _models(models, task)
    scene = scene_of(obj)
    judged = _judged(scene, named, task, bands)
    trial = one_scale_below(obj, task, bands=judged)
    made = {
        name: attempt(
            trial,
            name,
            device=device,
            precision=precision,
            consistent=consistent,
            check=check,
        )
        for name in dict.fromkeys(("nearest", "bicubic", *named))
    }
    return compare_trial(trial, made, border=border)


def one_scale_below(
    obj: Object, task: Task = "20m", *, bands: Sequence[str] | None = None
) -> Trial:
    """Return a scene degraded by the factor of a task, and the truth that it had.

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
    there = _coarse_bands(scene, task)
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
        coarse[native][band] = _reduced(recorded, FACTORS[task])
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


def attempt(
    trial: Trial,
    method: str,
    *,
    device: str = "auto",
    precision: str = "float32",
    consistent: bool = False,
    check: bool = True,
) -> dict[int, xr.Dataset]:
    """Return what a method makes of the degraded bands, on the pixels of the truth.

    Parameters
    ----------
    trial
        Of `one_scale_below`.
    method
        A model, or a key of `INTERPOLATIONS`; these leave out what is within two
        degraded pixels of a missing one.
    device, precision, consistent, check
        As in `upsample`.

    Raises
    ------
    MissingBandError, GridError, RadiometryError, ModelError
        As in `upsample` and `superresolve`.
    """
    if method in INTERPOLATIONS:
        return {n: _interpolated(trial, n, method) for n in trial.truth}
    how: dict[str, Any] = {"device": device, "precision": precision}
    how |= {"consistent": consistent, "check": check, "bands": trial.bands}
    if trial.task != "5m":
        made = upsample(trial.coarse, method, keep_native=False, **how)
        return {n: _placed(made, truth) for n, truth in trial.truth.items()}
    five = superresolve(trial.coarse, method, **how)
    assert isinstance(five, xr.Dataset)
    return {n: _placed(five, truth, n // 10) for n, truth in trial.truth.items()}


def compare_trial(
    trial: Trial, made: Mapping[str, Made], *, border: int = 0
) -> dict[str, Scores]:
    """Return the scores of methods, each given as `attempt` returns it.

    Raises
    ------
    GridError
        Without the border, too little is left to judge.
    """
    least = min(min(ds[d].size for d in "yx") for ds in trial.truth.values())
    if border < 0 or least - 2 * border < WINDOW:
        raise GridError(
            f"border={border} of {least} pixels leaves fewer than the {WINDOW} along a "
            "side that are judged. Take a larger part of the scene, or a border from 0 "
            f"to {(least - WINDOW) // 2}."
        )
    found = {method: Scores(bands=(), means=()) for method in made}
    for native, truth in trial.truth.items():
        own = {method: _inner(by[native], border) for method, by in made.items()}
        bands = [str(b) for b in truth.data_vars]
        for method, more in report.compare(own, _inner(truth, border), bands).items():
            known = found[method]
            found[method] = Scores(
                bands=known.bands + more.bands, means=known.means + more.means
            )
    return found


def psnr_gain(scores: Scores, baseline: Scores, *, native: int | None = None) -> float:
    """Return by how many dB the PSNR is above that of a baseline, mean over the bands.

    Parameters
    ----------
    scores, baseline
        What `compare_trial` says of a method, and of bicubic.
    native
        Bands of this native pixel only, in metres; None: all bands.

    Returns
    -------
    float
        ``inf`` where a band is perfect; NaN where there is no band. Those without a
        pixel in common are left out, and those that the baseline makes perfectly.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = [
            20 * np.log10(np.float64(base.rmse) / row.rmse)
            for row, base in zip(scores.bands, baseline.bands, strict=True)
            if native in (None, row.native) and base.rmse > 0
        ]
    return float(np.mean(gains)) if gains else float("nan")


def table(scores: Mapping[str, Scores], *, baseline: str = "bicubic") -> str:
    """Return `report.table`, and below it the PSNR over that of the baseline."""
    lines = [report.table(scores, baseline=baseline)]
    base = scores.get(baseline)
    if base is not None and len(scores) > 1:
        lines.append(f"PSNR over that of {baseline} in dB, mean over the bands:")
        for mean in base.means:
            cells = (psnr_gain(s, base, native=mean.native) for s in scores.values())
            row = "".join(f"  {g:>+6.2f}{'':21}" for g in cells)
            lines.append(f"{mean.name:<7}{row}".rstrip())
    return "\n".join(lines)


# --- what is judged -------------------------------------------------------------------


def _models(models: str | Sequence[str] | None, task: Task) -> tuple[str, ...]:
    """Return the models of a task, or raise before anything is read."""
    if task not in TASKS:
        raise ModelError(f"task={task!r} is not one of {', '.join(TASKS)}.")
    if models is None:
        models = (
            "dsen2" if task != "5m" else next(iter(for_superresolution(None, None)))
        )
    named = (models,) if isinstance(models, str) else tuple(models)
    for name in named:
        if name not in INTERPOLATIONS:
            _check_task(name, task)
    return named


def _check_task(name: str, task: Task) -> None:
    if task != "5m":
        if task not in (known := family(name)):
            raise ModelError(
                f"{name} brings {' and '.join(known)} bands to 10 m, not {task} ones. "
                f'Judge it with task="{next(iter(known))}".'
            )
        models_by_native(name)
        return
    spec = get_spec(name)
    if spec.resolution != 5 or spec.units != "1":
        raise ModelError(
            f"{name} does not bring reflectance to 5 m: it makes pixels of "
            f'{spec.resolution:g} m. Judge it with task="20m" or "60m", or name one '
            'such as "carn-s".'
        )


def _judged(
    scene: Scene, models: Sequence[str], task: Task, bands: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the bands to judge; raise if a model cannot make them of this scene."""
    named = [name for name in models if name not in INTERPOLATIONS]
    judged = _coarse_bands(scene, task)
    if task == "5m":
        makes = [get_spec(name).output.names for name in named]
        judged = tuple(b for b in judged if all(b in own for own in makes))
    if bands is not None:
        if strange := [b for b in bands if b not in judged]:
            raise MissingBandError(
                f"{', '.join(strange)} cannot be judged: of this scene the models of "
                f"the {task} task make {', '.join(judged) or 'no band'}."
            )
        judged = tuple(b for b in judged if b in bands)
    if not judged:
        raise MissingBandError(
            f"There is no band that {', '.join(named)} all make; judge them one by one."
        )
    for name in named:
        if task == "5m":
            passes_for(scene, for_superresolution(name, judged))
        else:
            passes_for(scene, for_upsampling(name, judged))
    return judged


def _coarse_bands(scene: Scene, task: Task) -> tuple[str, ...]:
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


# --- pixels ---------------------------------------------------------------------------


def _pixels(plane: Plane, band: str, ground: Grid) -> Floats:
    """Return the native pixels of a band over `ground`, float32."""
    image = plane.variable[0] if plane.variable.ndim == 3 else plane.variable
    size = round(plane.grid.res / ground.res)
    rows, cols = (n // size for n in ground.shape)
    return sample(image[:rows, :cols].to_numpy(), plane.repeat, band)


def _reduced(image: Floats, factor: int) -> Floats:
    made: Floats = reduce_scale(torch.from_numpy(image), factor).numpy()
    return made


def _dataset(images: Mapping[str, Floats], ground: Grid, native: int) -> xr.Dataset:
    """Return bands as pixels of `native` metres from the corner of `ground`."""
    shape = next(iter(images.values())).shape
    grid = replace(ground, res=float(native), shape=(shape[0], shape[1]))
    return xr.Dataset({b: (("y", "x"), x) for b, x in images.items()}, grid.coords())


def _interpolated(trial: Trial, native: int, method: str) -> xr.Dataset:
    up = Upsample(trial.factor, **INTERPOLATIONS[method])
    truth = trial.truth[native]
    own = trial.coarse[group(native)]
    made = {}
    for band in map(str, truth.data_vars):
        image = np.pad(own[band].to_numpy(), up.reach, mode="symmetric")
        made[band] = (("y", "x"), up(torch.from_numpy(image)[None, None])[0, 0].numpy())
    return xr.Dataset(made, truth.coords)


def _placed(made: xr.Dataset, truth: xr.Dataset, degrade: int = 1) -> xr.Dataset:
    """Return bands on the pixels of the truth, `degrade` times as wide as made."""
    names = [str(b) for b in truth.data_vars]
    images = {b: image.to_numpy() for b, image in made[names].compute().items()}
    if degrade > 1:
        images = {b: _reduced(image, degrade) for b, image in images.items()}
    return xr.Dataset({b: (("y", "x"), x) for b, x in images.items()}, truth.coords)


def _inner(ds: xr.Dataset, border: int) -> xr.Dataset:
    return ds.isel({d: slice(border, ds.sizes[d] - border) for d in ("y", "x")})
