"""How good a model is on a scene of your own, without a finer reference.

All bands are degraded by the factor of the task (Wald's protocol), and what a model
makes of them is compared with the pixels that were recorded, the reference. A network
for 20 -> 10 m is asked for 40 -> 20 m, one for 60 -> 10 m for 360 -> 60 m. One for 5 m
is asked for 20 -> 10 m of the 10 m bands; of the 20 m bands it makes 10 m pixels too,
which are degraded once more and compared at 20 m (40 -> 20 m). What is measured is how
well a model does *there*; detail one scale up is rarer, and figures are of that order.

References
----------
Lanaras et al. (2018), Super-resolution of Sentinel-2 images, ISPRS J. 146, section 5.3.
Wald et al. (1997), Fusion of satellite images of different spatial resolutions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import xarray as xr

from s2sr_xr.core.bands import BANDS, group
from s2sr_xr.core.psf import sensor_width
from s2sr_xr.core.scene import scene_of
from s2sr_xr.engine.api import superresolve, upsample
from s2sr_xr.engine.model_run import passes_for
from s2sr_xr.engine.select import (
    for_superresolution,
    for_upsampling,
    models_by_native,
)
from s2sr_xr.errors import GridError, MissingBandError, ModelError
from s2sr_xr.evaluate.degraded_scene import (
    FACTORS,
    TASKS,
    WINDOW,
    Task,
    Trial,
    coarse_bands,
    one_scale_below,
    reduced,
)
from s2sr_xr.evaluate.scores import Scores, compare
from s2sr_xr.models.networks.resample import Upsample
from s2sr_xr.models.registry import family, get_spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from s2sr_xr.core.psf import PsfLike
    from s2sr_xr.core.scene import Object, Scene

    Floats: TypeAlias = NDArray[np.float32]
    Made: TypeAlias = Mapping[int, xr.Dataset]

__all__ = [
    "INTERPOLATIONS",
    "attempt",
    "compare_trial",
    "score_scene",
]


INTERPOLATIONS: Mapping[str, Mapping[str, Any]] = {
    "nearest": {"kernel": "nearest"},
    "bicubic": {"kernel": "bicubic"},
    "bicubic a=-0.5": {"kernel": "bicubic", "a": -0.5},
}
"""Methods that need no model: bicubic with a = -0.75, which is torch's and harder to
beat, and with the papers' a = -0.5."""


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
        What is judged next to nearest neighbour and bicubic: registry names, paths of
        weights, or keys of `INTERPOLATIONS`. None: what the library uses for the task.
    task
        ``"20m"``, ``"60m"`` or ``"5m"``.
    bands
        Which bands to judge; None: all that the task and every model make.
    border
        Pixels along each side of the reference that are left out: a network sees
        mirrored pixels there.
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


def attempt(
    trial: Trial,
    method: str,
    *,
    device: str = "auto",
    precision: str = "float32",
    consistent: bool = False,
    check: bool = True,
) -> dict[int, xr.Dataset]:
    """Return what a method makes of the degraded bands, on the pixels of the reference.

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
        psf = _psf_of_trial(trial, method)
        made = upsample(trial.coarse, method, keep_native=False, psf=psf, **how)
        return {n: _placed(made, truth) for n, truth in trial.truth.items()}
    five = superresolve(trial.coarse, method, **how)
    assert isinstance(five, xr.Dataset)
    return {n: _placed(five, truth, n // 10) for n, truth in trial.truth.items()}


def _psf_of_trial(trial: Trial, method: str) -> PsfLike:
    """Return the point spread functions of a degraded scene, in its own metres.

    It was made by `reduce_scale` and not by the sensor; a network that is given them
    is given what is true of it.
    """
    chosen = for_upsampling(method, trial.bands)
    widths = {}
    for band in {b for name in chosen for b in get_spec(name).sensor}:
        native, factor = BANDS[band].native, FACTORS[trial.task]
        blur = math.sqrt(1 / factor**2 + (factor**2 - 1) / 12)
        if native / 10 == factor:
            widths[band] = 10 * blur
        else:  # beside guides that were degraded as much, in pixels of their own
            fine, coarse = blur * 10, math.hypot(blur * native, sensor_width(band))
            widths[band] = math.sqrt(coarse**2 - fine**2) / factor
    return widths or "sensor"


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
        for method, more in compare(own, _inner(truth, border), bands).items():
            known = found[method]
            found[method] = Scores(
                bands=known.bands + more.bands, means=known.means + more.means
            )
    return found


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
    judged = coarse_bands(scene, task)
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


# --- pixels ---------------------------------------------------------------------------


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
    """Return bands on the pixels of the reference, `degrade` times as wide as made."""
    names = [str(b) for b in truth.data_vars]
    images = {b: image.to_numpy() for b, image in made[names].compute().items()}
    if degrade > 1:
        images = {b: reduced(image, degrade) for b, image in images.items()}
    return xr.Dataset({b: (("y", "x"), x) for b, x in images.items()}, truth.coords)


def _inner(ds: xr.Dataset, border: int) -> xr.Dataset:
    return ds.isel({d: slice(border, ds.sizes[d] - border) for d in ("y", "x")})
