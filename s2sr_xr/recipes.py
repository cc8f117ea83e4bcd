"""Trainings from a TOML file: scenes in, weights out, and what was decided in the file.

::

    recipe = "dsen2-20m"
    scenes = ["item.json", "S2A_MSIL2A_....SAFE"]
    out = "mine.safetensors"

    [settings]
    steps = 3000
    seed = 1

`recipe` is one of `RECIPES`. `settings` are the fields of its dataclass, or of its
`Plan`; what is left out is what the shipped weights of the library were made with. A
checkpoint and a log lie beside `out` while it is made: run it again after a kill, and
it goes on with the same losses.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from s2sr_xr.errors import MissingBandError, ModelError, StoreError
from s2sr_xr.jobs import open_any
from s2sr_xr.models import files
from s2sr_xr.models.catalogue import published
from s2sr_xr.models.registry import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import torch
    import xarray as xr
    from torch import nn

    from s2sr_xr.models.spec import ModelSpec

    Steps = Iterator[tuple[int, float, nn.Module]]

__all__ = ["RECIPES", "Training", "read_training", "train"]

RECIPES: Mapping[str, str] = {
    "dsen2-20m": "dsen2-s-20m",
    "dsen2-60m": "dsen2-s-60m",
    "csr": "csr-s",
    "rec": "rec-s",
}
"""Names of recipes, and the network that each trains."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "dsen2-20m": {"steps": 1500, "side": 24},
    "dsen2-60m": {"steps": 2000, "side": 6},
    "csr": {"steps": 1200, "lr": 2e-3, "side": 96, "batch": 4, "task": "supervised"},
    "rec": {"steps": 3000, "lr": 1e-3, "side": 32, "batch": 14, "task": "supervised"},
}
"""Settings of the shipped weights."""

R10 = ("B02", "B03", "B04", "B08")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a TOML file asks for."""

    recipe: str
    """One of `RECIPES`."""

    scenes: tuple[str, ...]
    """What `s2sr_xr.jobs.open_any` opens."""

    out: Path
    """A ``.safetensors`` file that does not exist yet."""

    settings: Mapping[str, Any]
    """Of the recipe, beside its defaults."""

    @property
    def spec(self) -> ModelSpec:
        """The facts of the network that is trained."""
        return _network(self.recipe)[0]


def read_training(path: Path) -> Training:
    """Return what a TOML file asks for, checked.

    Raises
    ------
    ModelError
        The file is no TOML, or says something that is not known; the message lists what
        is.
    StoreError
        The weights are there already.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is no recipe: {error}.") from error
    known = {f.name for f in fields(Training)}
    if set(told) - known or not known - {"settings"} <= set(told):
        raise ModelError(
            f"{path.name} has {', '.join(sorted(told)) or 'nothing'}; a recipe has "
            f"{', '.join(sorted(known))}."
        )
    if told["recipe"] not in RECIPES:
        raise ModelError(
            f"recipe = {told['recipe']!r} is not one of {', '.join(RECIPES)}."
        )
    scenes = told["scenes"]
    if not isinstance(scenes, list) or not scenes:
        raise ModelError(
            f"scenes = {scenes!r} names none; list STAC items or products."
        )
    out = (path.parent / told["out"]).expanduser()
    if out.suffix != ".safetensors" or out.exists():
        raise StoreError(
            f"The weights would go to {out}, which exists or is no .safetensors file.",
            store=str(out),
        )
    places = tuple(s if "://" in s else str(path.parent / s) for s in scenes)
    job = Training(
        recipe=told["recipe"],
        scenes=places,
        out=out,
        settings=told.get("settings", {}),
    )
    _recipe(job)
    return job


def train(job: Training) -> Steps:
    """Do a training, and yield each step's number, loss and network.

    The weights are written when the last step is made; until then a checkpoint and a
    CSV log lie beside them.

    Raises
    ------
    ModelError, GridError, MissingBandError, ReadError
        As the recipe says; a scene that cannot be read is named.
    """
    trees = [(s, open_any(s, chunks=2196)) for s in job.scenes]
    beside = {
        "checkpoint": job.out.with_suffix(".checkpoint"),
        "log": job.out.with_suffix(".csv"),
    }
    made: nn.Module | None = None
    steps, fill = _steps(job, trees, beside)
    for step, loss, network in steps:
        made = network
        yield step, loss, network
    assert made is not None
    levels = tuple(sorted({str(t.attrs.get("level", "")) for _, t in trees} - {""}))
    spec = job.spec
    facts = replace(
        spec,
        name=job.out.stem,
        sha256=None,
        levels=("L1B",) if spec.units == "count" else levels,
        fill=fill,
        licence="unknown",
    )
    files.save(job.out, made, facts, spec.name, notes={"recipe": job.recipe})
    beside["checkpoint"].unlink()


def _network(recipe: str) -> tuple[ModelSpec, Callable[[], nn.Module]]:
    name = RECIPES[recipe]
    return next((s, b) for s, b in published() if s.name == name)


def _recipe(job: Training) -> Any:  # noqa: ANN401 - a dataclass each
    """Return the dataclass of a job, with its settings.

    Raises
    ------
    ModelError
        A setting is unknown, or of the wrong kind.
    """
    from s2sr_xr.train import csr, dsen2, rec
    from s2sr_xr.train.fit import Plan

    settings = {**DEFAULTS[job.recipe], **job.settings}
    if job.recipe.startswith("dsen2"):
        return _made(dsen2.Recipe, settings, spec=job.spec)
    kind = csr.Recipe if job.recipe == "csr" else rec.Recipe
    named = {f.name for f in fields(Plan)}
    # What csr-s solves by itself needs float32.
    own = {"precision": "float32"} if job.recipe == "csr" else {}
    plan = _made(Plan, own | {k: v for k, v in settings.items() if k in named})
    rest = {k: v for k, v in settings.items() if k not in named}
    return _made(kind, rest, plan=plan)


def _made(kind: Any, settings: Mapping[str, Any], **given: Any) -> Any:  # noqa: ANN401
    known = {f.name for f in fields(kind)} - set(given)
    if strange := sorted(set(settings) - known):
        raise ModelError(
            f"{', '.join(strange)}: no such setting; there are "
            f"{', '.join(sorted(known))}, and those of a plan."
        )
    try:
        return kind(**settings, **given)
    except TypeError as error:
        raise ModelError(
            f"The settings {dict(settings)} do not fit: {error}"
        ) from error


def _steps(
    job: Training,
    trees: list[tuple[str, xr.DataTree]],
    beside: Mapping[str, Path],
) -> tuple[Steps, dict[str, float]]:
    """Return the steps of a training, and what stands in for missing pixels."""
    import torch

    from s2sr_xr.train import csr, dsen2, rec
    from s2sr_xr.train.l1b import to_counts
    from s2sr_xr.train.pairs import reduced_pair

    recipe, (spec, build) = _recipe(job), _network(job.recipe)
    if job.recipe.startswith("dsen2"):
        pairs = [reduced_pair(tree, spec, name) for name, tree in trees]
        fill = {
            band: float(torch.stack([p.images[n][c].nanmean() for p in pairs]).mean())
            for n, group in enumerate(spec.inputs)
            for c, band in enumerate(group.names)
        }
        return dsen2.fit(recipe, pairs, **beside), fill
    images = [_ten(name, tree) for name, tree in trees]
    means = torch.stack([to_counts(i.flatten(1).nanmean(1)) for i in images]).mean(0)
    fill = dict(zip(R10, map(float, means), strict=True))
    torch.manual_seed(recipe.plan.seed)
    network: Any = build().train()
    if job.recipe == "csr":
        steps = csr.train(recipe, network, images, **beside)
    else:
        flows = None if recipe.task == "supervised" else load_model("csr-s")
        network = rec.as_interpolation(network, phase=recipe.sensor.phase)
        steps = rec.train(recipe, network, images, csr=flows, **beside)
    return ((s.step, s.loss, s.network) for s in steps), fill


def _ten(name: str, tree: xr.DataTree) -> torch.Tensor:
    """Return the 10 m bands of a scene, (4, H, W), the first time step."""
    import numpy as np
    import torch

    has = list(tree["r10m"].data_vars) if "r10m" in tree else []
    if missing := [b for b in R10 if b not in has]:
        raise MissingBandError(
            f"{name} lacks {', '.join(missing)} at 10 m, which the recipe learns from."
        )
    arrays = (tree["r10m"][b] for b in R10)
    first = [a.isel(time=0) if "time" in a.dims else a for a in arrays]
    return torch.from_numpy(np.stack([a.to_numpy() for a in first]).astype(np.float32))
