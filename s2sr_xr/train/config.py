"""Trainings from a TOML file: scenes in, weights out, and what was decided in the file.

::

    recipe = "dsen2-20m"
    scenes = ["item.json", "S2A_MSIL2A_....SAFE"]
    out = "mine.safetensors"

    [settings]
    steps = 3000
    seed = 1

`recipe` is one of `RECIPES`. `settings` are the fields of its dataclass, and of its
`Plan` where it has one; `DEFAULTS` tells what stands for those that are left out. A
checkpoint and a log lie beside `out` while it is made: run it again after a kill, and
it goes on with the same losses.

Patches are read from the scenes as they are needed, and refused where they are cloudy
(`s2sr_xr.train.data.patches`). ``csr`` and ``rec`` read the 10 m bands of their scenes
whole, 2 GB of a full tile, and take clouds for ground.

The recipes of 5 m learn from finer images too. Simulated scenes have theirs, an index
of Sen2Venus (``"sen2venus/index.csv"``) may stand among `scenes`, and `finer` names
rasters, one a scene, ``""`` for none::

    recipe = "pairs"
    scenes = ["item.json"]
    finer = [{path = "planet.tif", bands = ["B02", "B03", "B04", "B08"], scale = 1e-4}]
    out = "mine.safetensors"

``csr`` and ``rec`` learn from simulated detectors, or from the real pairs of L1BSR's
data: then their folder is the one scene.

``evoland-gan`` also takes `held`, scenes that its generator is judged by; while it
runs, the best so far lies beside `out` as ``NAME.best.safetensors``.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    get_type_hints,
)

from s2sr_xr.core.typed import typed
from s2sr_xr.errors import GridError, MissingBandError, ModelError
from s2sr_xr.models import weights_file
from s2sr_xr.models.published import published
from s2sr_xr.models.registry import is_path, load_model
from s2sr_xr.models.weights_check import check_new
from s2sr_xr.readers.any import open_any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch
    import xarray as xr
    from torch import nn

    from s2sr_xr.models.spec import ModelSpec
    from s2sr_xr.train.data.scenes import Source

    Steps = Iterator[tuple[int, float, nn.Module]]

__all__ = ["RECIPES", "Training", "read_training", "recipe_of", "train"]

RECIPES: Mapping[str, str] = {
    "dsen2-20m": "dsen2-s-20m",
    "dsen2-60m": "dsen2-s-60m",
    "csr": "csr-s",
    "rec": "rec-s",
    "restoration": "carn-s",
    "evoland-pretrain": "carn-s",
    "evoland-gan": "carn-s",
    "pairs": "carn-s",
}
"""Names of recipes, and the network that each trains."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "dsen2-20m": {"steps": 5000},
    "dsen2-60m": {"steps": 1500, "side": 7, "edge": 12}
    | {"lr": 1e-3, "optimiser": "muon"},
    "csr": {"steps": 1200, "lr": 2e-3, "side": 96, "batch": 4, "task": "supervised"}
    | {"sensor": {"phase": 0.5}},
    "rec": {"steps": 5000, "lr": 2e-3, "side": 32, "batch": 12, "task": "supervised"}
    | {"optimiser": "muon", "sensor": {"phase": 0.5, "apart": 1.0}},
    "restoration": {"steps": 2700, "lr": 1e-3, "odd": 0.25},
    "evoland-pretrain": {"steps": 20_000, "lr": 2e-4, "side": 32, "batch": 16},
    "evoland-gan": {"steps": 4000, "lr": 1e-4, "side": 32, "first": "carn-s"},
    "pairs": {"steps": 1500, "lr": 3e-4, "side": 32, "first": "carn-s"},
}
"""Settings of the shipped weights, of one stage where there were several: the last of
`csr`, the first of others (cards tell all). Of the last three, which none were made
with, those that were published, for fewer steps."""

UNTOLD: Mapping[str, Mapping[str, Any]] = {
    "csr": {"task": "anchor"},
    "rec": {"task": "self"},
}
"""Settings where nothing but another detector tells what is right."""

FIVE = ("restoration", "evoland-pretrain", "evoland-gan", "pairs")
"""Recipes of a network that makes 5 m pixels."""

R10 = ("B02", "B03", "B04", "B08")

CHUNKS = 516
"""Side of what is read at once for patches, in 10 m pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finer:
    """A raster of a finer sensor, for `reference_image.open_finer`."""

    path: str
    """Anything that rasterio opens; none: the scene has no finer image."""

    bands: tuple[str, ...] = ()
    """What its bands are; none: as it says."""

    scale: float | None = None
    """Reflectance of one count; None: as it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a TOML file asks for."""

    recipe: str
    """One of `RECIPES`."""

    scenes: tuple[str, ...]
    """What `s2sr_xr.batches.open_any` opens."""

    out: Path
    """A ``.safetensors`` file that does not exist yet."""

    settings: Mapping[str, Any]
    """Of the recipe, beside its defaults."""

    finer: tuple[Finer, ...] = ()
    """One a scene, or none at all."""

    held: tuple[str, ...] = ()
    """As `scenes`: those that a generator is judged by."""

    @property
    def spec(self) -> ModelSpec:
        """The facts of the network that is trained."""
        return _network(self.recipe)[0]

    @property
    def overlaps(self) -> bool:
        """Whether its scenes are the real pairs of L1BSR, in one folder."""
        if self.recipe not in UNTOLD or len(self.scenes) > 1:
            return False
        folder = Path(self.scenes[0])
        return folder.is_dir() and any(folder.rglob("*_left/*.tif"))

    @property
    def best(self) -> Path:
        """Where the best generator so far lies, while one is chosen."""
        return self.out.with_suffix(".best.safetensors")


def read_training(path: Path) -> Training:
    """Return what a TOML file asks for, checked.

    Raises
    ------
    ModelError
        The file is no TOML, or says something that is not known; the message lists what
        is.
    StoreError
        The weights are there already, or have no folder to go to.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is no recipe: {error}.") from error
    known = {f.name for f in fields(Training)}
    if set(told) - known or not {"recipe", "scenes", "out"} <= set(told):
        raise ModelError(
            f"{path.name} has {', '.join(sorted(told)) or 'nothing'}; a recipe has "
            f"{', '.join(sorted(known))}."
        )
    if told["recipe"] not in [*RECIPES]:
        raise ModelError(
            f"recipe = {told['recipe']!r} is not one of {', '.join(RECIPES)}."
        )
    if not told["scenes"]:
        raise ModelError("scenes = [] names none; list STAC items or products.")
    kinds = {"out": str, "settings": dict[str, Any], "finer": tuple[Any, ...]}
    kinds |= dict.fromkeys(("scenes", "held"), tuple[str, ...])
    for name, kind in kinds.items():
        typed(name, told.get(name, kind()), kind)
    out = (path.parent / told["out"]).expanduser()
    check_new(out)
    settings = dict(told.get("settings", {}))
    if is_path(str(settings.get("first", ""))):
        settings["first"] = _placed(settings["first"], path)
    job = Training(
        recipe=told["recipe"],
        scenes=tuple(_placed(s, path) for s in told["scenes"]),
        out=out,
        settings=settings,
        finer=tuple(_finer(f, path) for f in told.get("finer", ())),
        held=tuple(_placed(s, path) for s in told.get("held", ())),
    )
    _check_beside(job)
    recipe_of(job)
    return job


def _placed(place: str, file: Path) -> str:
    return place if "://" in place else str(file.parent / place)


def _finer(told: str | Mapping[str, Any], file: Path) -> Finer:
    made: Finer = _made(Finer, {"path": told} if isinstance(told, str) else told)
    return replace(made, path=made.path and _placed(made.path, file))


def _check_beside(job: Training) -> None:
    """Raise unless `finer` and `held` are for the recipe, and of its scenes."""
    if job.finer and job.recipe not in FIVE:
        raise ModelError(f"{job.recipe} learns from no finer images: leave out finer.")
    if job.held and job.recipe != "evoland-gan":
        raise ModelError(f"{job.recipe} chooses no checkpoint: leave out held.")
    if job.finer and len(job.finer) != len(job.scenes):
        raise ModelError(
            f"finer names {len(job.finer)} images of {len(job.scenes)} scenes: give "
            'one a scene, "" where there is none.'
        )


def train(job: Training) -> Steps:
    """Do a training, and yield each step's number, loss and network.

    The weights are written when the last step is made; until then a checkpoint and a
    CSV log lie beside them.

    Raises
    ------
    ModelError, GridError, MissingBandError, ReadError
        As the recipe says; a scene that cannot be read is named.
    """
    beside = {
        "checkpoint": job.out.with_suffix(".checkpoint"),
        "log": job.out.with_suffix(".csv"),
    }
    steps, fill, levels = (_five if job.recipe in FIVE else _steps)(job, beside)
    made: nn.Module | None = None
    for step, loss, network in steps:
        made = network
        yield step, loss, network
    assert made is not None
    spec = job.spec
    facts = replace(
        spec,
        name=job.out.stem,
        sha256=None,
        levels=("L1B",) if spec.units == "count" else levels,
        fill=fill,
        licence="unknown",
    )
    notes, tensors = {"recipe": job.recipe}, made.state_dict()
    if job.recipe == "evoland-gan":
        header, held = weights_file.load_file(job.best)
        notes, tensors = notes | dict(header.notes), dict(held)
    remedy = "The checkpoint beside them is whole: make room and run again."
    weights_file.save_tensors(
        job.out, tensors, facts, spec.name, notes=notes, remedy=remedy
    )
    for path in (beside["checkpoint"], job.best):
        path.unlink(missing_ok=True)


def _network(recipe: str) -> tuple[ModelSpec, Callable[..., nn.Module]]:
    name = RECIPES[recipe]
    return next((s, b) for s, b in published() if s.name == name)


def recipe_of(job: Training) -> Any:  # noqa: ANN401 - a dataclass each
    """Return the dataclass of a job, with its settings.

    Raises
    ------
    ModelError
        A setting is unknown, or of the wrong kind.
    """
    from s2sr_xr.train.data.l1b_simulation import Sensor
    from s2sr_xr.train.plan import Plan
    from s2sr_xr.train.recipes import csr, dsen2, rec

    overlaps = job.overlaps
    untold = UNTOLD[job.recipe] if overlaps else {}
    settings = {**DEFAULTS[job.recipe], **untold, **job.settings}
    if job.recipe.startswith("dsen2"):
        # What it is made of is no setting: weights are loaded into the published one.
        built = ("features", "blocks", "guide", "project")
        own = {f.name: f.default for f in fields(dsen2.Recipe) if f.name in built}
        return _made(dsen2.Recipe, settings, spec=job.spec, **own)
    if job.recipe in FIVE:
        return _of_five(job.recipe, settings)
    kind = csr.Recipe if job.recipe == "csr" else rec.Recipe
    named = {f.name for f in fields(Plan)}
    # What csr-s solves by itself needs float32.
    own = {"precision": "float32"} if job.recipe == "csr" else {}
    plan = _made(Plan, own | {k: v for k, v in settings.items() if k in named})
    rest = {k: v for k, v in settings.items() if k not in named}
    if overlaps and rest["task"] == "supervised":
        raise ModelError(
            "L1BSR's pairs show no truth: leave out task, or say "
            f"task = {untold['task']!r}."
        )
    if "sensor" in rest:
        known = DEFAULTS[job.recipe].get("sensor", {})
        told = rest["sensor"]
        rest["sensor"] = _made(Sensor, known | told if isinstance(told, dict) else told)
    if job.recipe == "rec":
        return _made(kind, rest, plan=plan, bands=R10)
    return _made(kind, rest, plan=plan)


def _made(kind: Any, settings: Mapping[str, Any], **given: Any) -> Any:  # noqa: ANN401
    if not isinstance(settings, dict):
        raise ModelError(f"{settings!r} is no table of settings, such as {{steps = 9}}")
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)} - set(given)
    if strange := sorted(set(settings) - known):
        more = ", and those of a plan" if "plan" in given else ""
        raise ModelError(
            f"{', '.join(strange)}: no such setting; there are "
            f"{', '.join(sorted(known))}{more}."
        )
    values = {name: typed(name, value, hints[name]) for name, value in settings.items()}
    try:
        return kind(**values, **given)
    except TypeError as error:
        raise ModelError(
            f"The settings {dict(settings)} do not fit: {error}"
        ) from error


def _of_five(name: str, settings: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return the recipe of a network that makes 5 m pixels."""
    from s2sr_xr.train.plan import Plan
    from s2sr_xr.train.recipes import evoland, five_metres, reference_pairs
    from s2sr_xr.train.recipes.evoland_gan import Adversarial

    gan = name == "evoland-gan"
    kind = five_metres.Gan if gan else five_metres.Recipe
    learns: Any = {
        "restoration": evoland.Restoration,
        "evoland-pretrain": evoland.Pretraining,
        "evoland-gan": Adversarial,
        "pairs": reference_pairs.Supervised,
    }[name]
    tables = {
        "pretraining": evoland.Pretraining,
        "restoration": evoland.Restoration,
        "choice": five_metres.Choice,
    }
    # Which bands a finer image has is asked of the image.
    fixed: dict[str, Any] = {"bands": (0, 1, 2, 3)} if name == "pairs" else {}
    known = {k: {f.name for f in fields(k)} for k in (Plan, learns, kind)}
    own = set().union(*known.values()) - {"plan", "loss", *fixed}
    if strange := sorted(set(settings) - own):
        raise ModelError(
            f"{', '.join(strange)}: no such setting; there are "
            f"{', '.join(sorted(own))}."
        )
    values = {k: _made(tables[k], v) if k in tables else v for k, v in settings.items()}
    plan, loss, rest = (
        {k: v for k, v in values.items() if k in names} for names in known.values()
    )
    return _made(kind, rest, plan=_made(Plan, plan), loss=_made(learns, loss, **fixed))


def _five(
    job: Training, beside: Mapping[str, Path]
) -> tuple[Steps, dict[str, float], tuple[str, ...]]:
    """Return the steps, the fill and the levels of a network that makes 5 m pixels."""
    from s2sr_xr.train.checkpoint import Best
    from s2sr_xr.train.recipes import five_metres

    recipe, (spec, build) = recipe_of(job), _network(job.recipe)
    scenes, levels = _scenes(job, spec)
    if job.recipe == "pairs" and scenes.finer:
        names = scenes.finer[0].groups[-1].names
        bands = tuple(spec.output.names.index(b) for b in names)
        recipe = replace(recipe, loss=replace(recipe.loss, bands=bands))
    options: dict[str, Any] = dict(beside)
    if job.recipe == "evoland-gan":
        facts = replace(spec, name=job.out.stem, sha256=None, licence="unknown")
        options["best"] = Best(job.best, facts, spec.name)
    network = five_metres.begun(build, recipe)
    steps = five_metres.train(recipe, network, scenes, **options)
    fill = _means(recipe, spec, scenes.inputs, side=recipe.side)
    return ((s.step, s.loss, s.network) for s in steps), fill, levels


def _means(
    recipe: Any,  # noqa: ANN401 - of several
    spec: ModelSpec,
    scenes: Sequence[Source],
    *,
    side: int,
) -> dict[str, float]:
    """Return the mean reflectance of each band over some patches, not brightened."""
    from s2sr_xr.train.data.augment import Augment
    from s2sr_xr.train.data.patches import Rules, Sampler

    sampler = Sampler(
        scenes,
        side=side,
        batch=8,
        seed=recipe.plan.seed,
        rules=Rules(cloud=recipe.cloud, flat=recipe.flat),
        augment=Augment(gain=(1, 1)),
        threads=0,
    )
    found = [float(band.mean()) for group in sampler(0) for band in group.unbind(1)]
    return dict(zip(spec.bands, found, strict=True))


def _scenes(job: Training, spec: ModelSpec) -> tuple[Any, tuple[str, ...]]:
    """Return where the patches of a 5 m network come from, and their levels."""
    from s2sr_xr.models.spec import BandGroup
    from s2sr_xr.train.data.datasets import sen2venus
    from s2sr_xr.train.data.reference_image import beside, open_finer
    from s2sr_xr.train.data.scenes import source
    from s2sr_xr.train.recipes.five_metres import Scenes

    plain, finer, levels = [], [], set()
    for place, image in zip_longest(job.scenes, job.finer):
        if place.endswith(".csv"):
            finer += sen2venus(place)
            levels.add("L2A")
            continue
        tree = open_any(place, chunks=CHUNKS)
        levels.add(str(tree.attrs.get("level", "")))
        if image is not None and image.path:
            raster = open_finer(image.path, bands=image.bands, scale=image.scale)
            name = f"{place} beside {image.path}"
            finer.append(beside(tree, spec, name, raster))
        elif (truth := _simulated(place)) is not None:
            group = BandGroup(names=spec.output.names, per_cell=spec.output.per_cell)
            finer.append(source(tree, spec, place, truth=(truth, group)))
        else:
            plain.append(source(tree, spec, place))
    held = [source(open_any(s, chunks=CHUNKS), spec, s) for s in job.held]
    return Scenes(plain=plain, finer=finer, held=held), tuple(sorted(levels - {""}))


def _simulated(place: str) -> xr.Dataset | None:
    """Return the truth at 5 m of a simulated scene; None: it is real."""
    import pystac

    from s2sr_xr.simulate.truth import finer_truth

    if "://" in place or not place.endswith(".json"):
        return None
    with open(place, encoding="utf-8") as file:  # noqa: PTH123 - a place is a str
        told = json.load(file)
    if "truth:seed" not in told.get("assets", {}).get("truth", {}):
        return None
    return finer_truth(pystac.Item.from_file(place))


def _steps(
    job: Training, beside: Mapping[str, Path]
) -> tuple[Steps, dict[str, float], tuple[str, ...]]:
    """Return the steps of another network, its fill and its levels."""
    import torch

    from s2sr_xr.train.data.l1b_simulation import to_counts
    from s2sr_xr.train.data.l1bsr import l1bsr
    from s2sr_xr.train.data.scenes import source
    from s2sr_xr.train.recipes import csr, dsen2, rec

    overlaps = job.overlaps
    scenes = () if overlaps else job.scenes
    trees = [(s, open_any(s, chunks=CHUNKS)) for s in scenes]
    levels = tuple(sorted({str(t.attrs.get("level", "")) for _, t in trees} - {""}))
    recipe, (spec, build) = recipe_of(job), _network(job.recipe)
    options: dict[str, Any] = {"names": job.scenes, **beside}
    if job.recipe.startswith("dsen2"):
        sources = [source(tree, spec, name) for name, tree in trees]
        side = recipe.side * spec.output.per_cell
        fill = _means(recipe, spec, sources, side=side)
        draw = dsen2.one_scale_below(recipe, sources)
        return dsen2.fit(recipe, draw, **options), fill, levels
    images: Any
    if overlaps:
        sizes = {"side": recipe.side, "batch": recipe.batch, "seed": recipe.plan.seed}
        images = l1bsr(job.scenes[0], **sizes)
        means = images(0).counts.mean((0, 1, 3, 4))
    else:
        images = [_ten(name, tree) for name, tree in trees]
        counts = [to_counts(i.flatten(1).nanmean(1)) for i in images]
        means = torch.stack(counts).nanmean(0)
        if gone := [b for b, m in zip(R10, means, strict=True) if not m.isfinite()]:
            raise GridError(
                f"No pixel of {', '.join(gone)} is there in {', '.join(job.scenes)}."
            )
    fill = dict(zip(R10, map(float, means), strict=True))
    torch.manual_seed(recipe.plan.seed)
    network: Any = build().train()
    if job.recipe == "csr":
        steps = csr.train(recipe, network, images, **options)
    else:
        flows = load_model("csr-s")
        network = rec.begun(network, flows, phase=recipe.sensor.phase)
        steps = rec.train(recipe, network, images, csr=flows, **options)
    return ((s.step, s.loss, s.network) for s in steps), fill, levels


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
