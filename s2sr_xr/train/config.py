"""Trainings from a TOML file, which decides everything: scenes in, weights out.

::

    recipe = "dsen2-20m"
    scenes = ["item.json", "S2A_MSIL2A_....SAFE"]
    out = "mine.safetensors"

    [settings]
    steps = 3000
    seed = 1

`recipe` is one of `s2sr_xr.train.recipes.RECIPES`, which also lists the defaults of
`settings`: the fields of the recipe's dataclass, and of its `Plan` where it has one.
While a training runs, a checkpoint and a log are kept next to `out`: run it again after
a kill, and it resumes with the same losses.

Patches are read from the scenes as they are needed, and refused where they are cloudy
(`s2sr_xr.train.data.patches`). ``csr`` and ``rec`` read the 10 m bands of their scenes
whole, 2 GB of a full tile, and do not screen for clouds.

The recipes of 5 m can also learn from finer images. Simulated scenes have their own, an
index of Sen2Venus (``"sen2venus/index.csv"``) may be among `scenes`, and `finer` names
rasters, one for each scene, ``""`` for none::

    recipe = "pairs"
    scenes = ["item.json"]
    finer = [{path = "planet.tif", bands = ["B02", "B03", "B04", "B08"], scale = 1e-4}]
    out = "mine.safetensors"

``csr`` and ``rec`` learn from simulated detectors, or from the real pairs of L1BSR's
data: then their folder is the one scene.

``evoland-gan`` also takes `held`, held-out scenes that its generator is judged by;
while it runs, the best so far is kept as ``NAME.best.safetensors``.
"""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2sr_xr.core.typed import typed
from s2sr_xr.errors import ModelError
from s2sr_xr.models import weights_file
from s2sr_xr.models.registry import is_path
from s2sr_xr.models.weights_check import check_new
from s2sr_xr.train.checkpoint import Best
from s2sr_xr.train.recipes import RECIPES
from s2sr_xr.train.settings import made
from s2sr_xr.train.training import Files, Finer, Training

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from s2sr_xr.train.plan import Step

__all__ = ["read_training", "recipe_module", "recipe_of", "train"]


def read_training(path: Path) -> Training:
    """Return what a TOML file asks for, checked.

    Raises
    ------
    ModelError
        The file is not TOML, or has a key or value that is not known; the message lists
        those that are.
    StoreError
        The weights exist already, or have no folder to go to.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not a recipe: {error}.") from error
    known = {f.name for f in fields(Training)}
    if set(given) - known or not {"recipe", "scenes", "out"} <= set(given):
        raise ModelError(
            f"{path.name} has {', '.join(sorted(given)) or 'nothing'}; a recipe has "
            f"{', '.join(sorted(known))}."
        )
    if given["recipe"] not in [*RECIPES]:
        raise ModelError(
            f"recipe = {given['recipe']!r} is not one of {', '.join(RECIPES)}."
        )
    if not given["scenes"]:
        raise ModelError("scenes = [] names none; list STAC items or products.")
    kinds = {"out": str, "settings": dict[str, Any], "finer": tuple[Any, ...]}
    kinds |= dict.fromkeys(("scenes", "held"), tuple[str, ...])
    for name, kind in kinds.items():
        typed(name, given.get(name, kind()), kind)
    out = (path.parent / given["out"]).expanduser()
    check_new(out)
    settings = dict(given.get("settings", {}))
    if is_path(str(settings.get("first", ""))):
        settings["first"] = _placed(settings["first"], path)
    job = Training(
        recipe=given["recipe"],
        scenes=tuple(_placed(s, path) for s in given["scenes"]),
        out=out,
        settings=settings,
        finer=tuple(_finer(f, path) for f in given.get("finer", ())),
        held=tuple(_placed(s, path) for s in given.get("held", ())),
    )
    _check_scenes(job)
    recipe_of(job)
    return job


def _placed(place: str, file: Path) -> str:
    return place if "://" in place else str(file.parent / place)


def _finer(given: str | Mapping[str, Any], file: Path) -> Finer:
    image = made(Finer, {"path": given} if isinstance(given, str) else given)
    return replace(image, path=image.path and _placed(image.path, file))


def _check_scenes(job: Training) -> None:
    """Raise unless `finer` and `held` suit the recipe and its scenes."""
    if job.finer and not job.entry.finer:
        raise ModelError(f"{job.recipe} learns from no finer images: leave out finer.")
    if job.held and not job.entry.chooses:
        raise ModelError(f"{job.recipe} chooses no checkpoint: leave out held.")
    if job.finer and len(job.finer) != len(job.scenes):
        raise ModelError(
            f"finer names {len(job.finer)} images of {len(job.scenes)} scenes: give "
            'one for each scene, "" where there is none.'
        )


def recipe_module(name: str) -> Any:  # noqa: ANN401 - a module with four functions
    """Return the module of a recipe: see `s2sr_xr.train.recipes`."""
    return import_module(f"s2sr_xr.train.recipes.{RECIPES[name].module}")


def recipe_of(job: Training) -> Any:  # noqa: ANN401 - a dataclass of the recipe
    """Return the settings of a job, as the dataclass of its recipe.

    Raises
    ------
    ModelError
        A setting is unknown, or of the wrong kind.
    """
    return recipe_module(job.recipe).settings(job)


def train(job: Training | Path | str) -> Iterator[Step]:
    """Run a training, and yield each step: its number, loss and network.

    The weights are written after the last step; until then a checkpoint and a CSV log
    are kept next to them.

    Parameters
    ----------
    job
        A TOML file, or what `read_training` made of one.

    Raises
    ------
    ModelError, GridError, MissingBandError, ReadError
        As the recipe says; a scene that cannot be read is named.
    """
    if not isinstance(job, Training):
        job = read_training(Path(job))
    module, (spec, build) = recipe_module(job.recipe), job.published
    recipe = module.settings(job)
    data = module.data(job, recipe)
    facts = replace(spec, name=job.out.stem, sha256=None, licence="unknown")
    files = Files(
        checkpoint=job.out.with_suffix(".checkpoint"),
        log=job.out.with_suffix(".csv"),
        best=Best(job.best, facts, spec.name) if job.entry.chooses else None,
    )
    network: nn.Module = module.network(recipe, build)
    for step in module.steps(recipe, network, data, files):
        network = step.network
        yield step
    facts = replace(facts, levels=data.levels, fill=data.fill)
    notes, tensors = {"recipe": job.recipe}, network.state_dict()
    if files.best is not None:
        header, best = weights_file.load_file(job.best)
        notes, tensors = notes | dict(header.notes), dict(best)
    remedy = "The checkpoint next to them is whole: make room and run again."
    weights_file.save_tensors(
        job.out, tensors, facts, spec.name, notes=notes, remedy=remedy
    )
    for path in (files.checkpoint, job.best):
        path.unlink(missing_ok=True)
