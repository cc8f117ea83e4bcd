"""Training data of Level-1B networks: real pairs of L1BSR, or scenes of 10 m bands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from s2sr_xr.errors import GridError, MissingBandError, ModelError
from s2sr_xr.train.data.l1b_simulation import BANDS, Sensor, to_counts
from s2sr_xr.train.data.l1bsr import l1bsr
from s2sr_xr.train.data.scenes import open_scenes
from s2sr_xr.train.plan import Plan
from s2sr_xr.train.settings import made, split
from s2sr_xr.train.training import Data

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from s2sr_xr.train.training import Training

__all__ = ["data", "l1b_settings"]

T = TypeVar("T")


def l1b_settings(
    job: Training,
    kind: type[T],
    *,
    task: str,
    plan: Mapping[str, Any] | None = None,
    **given: Any,  # noqa: ANN401
) -> T:
    """Return the settings of a job.

    Parameters
    ----------
    job
        What is asked for.
    kind
        Dataclass of the settings, with a plan and a sensor.
    task
        What is learnt from real pairs, which have no reference.
    plan
        Fields of the plan that are as they are unless a setting changes them.
    given
        Fields that are not settings.
    """
    real = _real_pairs(job.scenes)
    defaults = {**job.entry.defaults, **({"task": task} if real else {})}
    values = {**defaults, **job.settings}
    if real and values["task"] == "supervised":
        raise ModelError(
            f"L1BSR's pairs have no reference: leave out task, or say task = {task!r}."
        )
    (own,) = split(values, Plan)
    rest = {k: v for k, v in values.items() if k not in own}
    if isinstance(rest["sensor"], dict):
        rest["sensor"] = {**defaults["sensor"], **rest["sensor"]}
    rest["sensor"] = made(Sensor, rest["sensor"])
    return made(kind, rest, plan=made(Plan, {**(plan or {}), **own}), **given)


def data(
    job: Training,
    settings: Any,  # noqa: ANN401 - of csr or rec
) -> Data:
    """Return the images or real pairs of a job.

    Raises
    ------
    GridError
        A band has no pixel in any scene.
    MissingBandError
        A scene lacks a band.
    """
    if _real_pairs(job.scenes):
        sizes = {"side": settings.side, "batch": settings.batch}
        source: Any = l1bsr(job.scenes[0], **sizes, seed=settings.plan.seed)
        means = source(0).counts.mean((0, 1, 3, 4))
    else:
        source = [_ten(name, tree) for name, tree in open_scenes(job.scenes)[0]]
        counts = [to_counts(image.flatten(1).nanmean(1)) for image in source]
        means = torch.stack(counts).nanmean(0)
        if gone := [b for b, m in zip(BANDS, means, strict=True) if not m.isfinite()]:
            raise GridError(
                f"{', '.join(gone)} has no pixel in {', '.join(job.scenes)}."
            )
    fill = dict(zip(BANDS, map(float, means), strict=True))
    return Data(source=source, names=job.scenes, levels=("L1B",), fill=fill)


def _real_pairs(scenes: tuple[str, ...]) -> bool:
    """Return whether scenes are the real pairs of L1BSR, in one folder."""
    folder = Path(scenes[0])
    return len(scenes) == 1 and folder.is_dir() and any(folder.rglob("*_left/*.tif"))


def _ten(name: str, tree: xr.DataTree) -> torch.Tensor:
    """Return the 10 m bands of a scene, (4, H, W), the first time step."""
    has = list(tree["r10m"].data_vars) if "r10m" in tree else []
    if missing := [b for b in BANDS if b not in has]:
        raise MissingBandError(
            f"{name} lacks {', '.join(missing)} at 10 m, which the recipe learns from."
        )
    arrays = (tree["r10m"][b] for b in BANDS)
    first = [a.isel(time=0) if "time" in a.dims else a for a in arrays]
    return torch.from_numpy(np.stack([a.to_numpy() for a in first]).astype(np.float32))
