"""What the recipes of networks that bring ten bands to 5 m have in common.

`restoration` needs scenes alone; `evoland_pretrain` and `evoland_gan` need a finer
image of all bands, which they simulate Sentinel-2 from; `pairs` needs one of some
bands, which may be a little misaligned. All are in `s2sr_xr.train.recipes`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable  # noqa: TC003 - train.settings reads types
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from s2sr_xr.errors import GridError, MissingBandError
from s2sr_xr.models.published import EVOLAND
from s2sr_xr.models.registry import load_model
from s2sr_xr.models.spec import BandGroup
from s2sr_xr.models.weights_file import fill_network
from s2sr_xr.simulate.truth import finer_truth
from s2sr_xr.train.data.augment import Augment
from s2sr_xr.train.data.datasets import sen2venus
from s2sr_xr.train.data.evoland_batches import TEN
from s2sr_xr.train.data.patches import Rules, Sampler, band_means
from s2sr_xr.train.data.reference_image import open_finer, with_finer
from s2sr_xr.train.data.scenes import open_scenes, source
from s2sr_xr.train.loop import fit
from s2sr_xr.train.plan import Plan
from s2sr_xr.train.settings import check_names, fields_of, made, split
from s2sr_xr.train.training import Data

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import xarray as xr

    from s2sr_xr.train.data.scenes import Source
    from s2sr_xr.train.plan import Step
    from s2sr_xr.train.training import Files, Training

__all__ = [
    "TWENTY",
    "Recipe",
    "Scenes",
    "check_bands",
    "check_finer",
    "data",
    "fit_scenes",
    "inputs",
    "network",
    "sampler",
    "settings_of",
]

T = TypeVar("T")

R10, TWENTY = tuple(EVOLAND)[:TEN], tuple(EVOLAND)[TEN:]
"""Bands in the order of the network."""

MANY = 64
"""Scenes that a checkpoint names one by one; Sen2Venus has 130 000 patches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """Where patches come from."""

    plain: Sequence[Source] = ()
    """Groups of 10 m and of 20 m bands."""

    finer: Sequence[Source] = ()
    """The same, with one group more: what a finer sensor saw."""

    held: Sequence[Source] = ()
    """As `plain`, not learnt from: what a generator is judged by."""

    def __post_init__(self) -> None:
        for scene in (*self.plain, *self.finer, *self.held):
            counts = tuple(len(g.names) for g in scene.groups[:2])
            if counts != (TEN, 10 - TEN):
                names = ", ".join(b for g in scene.groups[:2] for b in g.names)
                raise MissingBandError(
                    f"{scene.name} has {names} at 10 m and 20 m; these recipes learn "
                    "all ten such bands. Version 1 of Sen2Venus lacks B11 and B12.",
                    scene=scene.name,
                )

    @property
    def inputs(self) -> list[Source]:
        """The scenes that are learnt from, without their finer images."""
        return [*self.plain, *inputs(self.finer)]

    @property
    def names(self) -> list[str]:
        """Names of the scenes that are learnt from."""
        return [s.name for s in (*self.plain, *self.finer)]

    @property
    def digest(self) -> list[str]:
        """Names of the scenes, or, of a set of many, one that stands for them."""
        names = self.names
        if len(names) <= MANY:
            return names
        text = "\n".join(names).encode()
        return [f"{len(names)} scenes, {hashlib.sha256(text).hexdigest()[:16]}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, except scenes and first weights."""

    loss: Callable[[Any, Any], torch.Tensor]
    """What is learnt."""

    plan: Plan
    """How long and how fast."""

    first: str = ""
    """Weights that it begins with: a name or a file; none: bicubic interpolation."""

    side: int = 48
    """Cells of 20 m along the side of a patch, a multiple of 8."""

    batch: int = 8
    """Patches a step."""

    finer_side: int = 24
    """As `side`, of the patches with a finer image that `restoration` adds."""

    finer_batch: int = 2
    """How many of these a step."""

    gain: tuple[float, float] = (0.5, 4.0)
    """Range that patches are brightened and darkened by."""

    odd: float = 0.0
    """Share of patches whose bands are each dimmed by a factor of their own."""

    cloud: float = 0.25
    """Largest share of cloud in a patch."""

    flat: float = 0.0
    """Least spread of a patch, in reflectance."""

    threads: int = 1
    """That read ahead; the batches are the same."""

    save_every: int = 200
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        sides = {"side": self.side, "finer_side": self.finer_side}
        for name, value in sides.items():
            if value < 16 or value % 8:
                raise GridError(
                    f"{name} is a multiple of 8 cells, 16 or more; got {value}"
                )
        for name in ("batch", "finer_batch", "save_every"):
            if getattr(self, name) < 1:
                raise GridError(f"{name} is 1 or more; got {getattr(self, name)}")
        if self.threads < 0:
            raise GridError(f"threads are 0 or more; got {self.threads}")


def settings_of(
    job: Training,
    learns: type[Any],
    kind: type[T],
    *,
    tables: Mapping[str, type[Any]] | None = None,
    **fixed: Any,  # noqa: ANN401
) -> T:
    """Return the settings of a job, which name fields of three dataclasses.

    Parameters
    ----------
    job
        What is asked for.
    learns
        Dataclass of the loss.
    kind
        Dataclass of the recipe, which holds loss and plan.
    tables
        Dataclasses of settings that are tables themselves.
    fixed
        Fields of the loss that are not settings.
    """
    given = {**job.entry.defaults, **job.settings}
    kinds = (Plan, learns, kind)
    own = {n for k in kinds for n in fields_of(k)} - {"plan", "loss", *fixed}
    check_names(given, own)
    for name, table in (tables or {}).items():
        if name in given:
            given[name] = made(table, given[name])
    plan, loss, rest = split(given, *kinds)
    return made(kind, rest, plan=made(Plan, plan), loss=made(learns, loss, **fixed))


def data(job: Training, settings: Recipe) -> Data:
    """Return the scenes of a job, opened, with their finer images."""
    spec = job.spec
    plain, finer, levels = [], [], set()
    for place, image in zip_longest(job.scenes, job.finer):
        if place.endswith(".csv"):
            finer += sen2venus(place)
            levels.add("L2A")
            continue
        ((_, tree),), found = open_scenes([place])
        levels.update(found)
        if image is not None and image.path:
            raster = open_finer(image.path, bands=image.bands, scale=image.scale)
            finer.append(with_finer(tree, spec, f"{place} with {image.path}", raster))
        elif (truth := _simulated(place)) is not None:
            group = BandGroup(names=spec.output.names, per_cell=spec.output.per_cell)
            finer.append(source(tree, spec, place, truth=(truth, group)))
        else:
            plain.append(source(tree, spec, place))
    held = [source(tree, spec, name) for name, tree in open_scenes(job.held)[0]]
    scenes = Scenes(plain=plain, finer=finer, held=held)
    rules = Rules(cloud=settings.cloud, flat=settings.flat)
    seed = settings.plan.seed
    means = band_means(scenes.inputs, side=settings.side, seed=seed, rules=rules)
    return Data(
        source=scenes,
        names=tuple(scenes.digest),
        levels=tuple(sorted(levels)),
        fill=dict(zip(spec.bands, means, strict=True)),
    )


def _simulated(place: str) -> xr.Dataset | None:
    """Return the reference at 5 m of a simulated scene; None: it is real."""
    import pystac

    if "://" in place or not place.endswith(".json"):
        return None
    with open(place, encoding="utf-8") as file:  # noqa: PTH123 - a place is a str
        item = json.load(file)
    if "truth:seed" not in item.get("assets", {}).get("truth", {}):
        return None
    return finer_truth(pystac.Item.from_file(place))


def network(settings: Recipe, build: Callable[..., nn.Module]) -> nn.Module:
    """Return the network as it begins: bicubic interpolation, or first weights.

    `build` makes a network with a skip; a ModelError says that the first weights are of
    another one.
    """
    torch.manual_seed(settings.plan.seed)
    made = build(padding="same")
    if settings.first:
        state = load_model(settings.first).state_dict()
        return fill_network(made, settings.first, state)
    for weight in made.tail.parameters():  # type: ignore[union-attr]
        nn.init.zeros_(weight)
    return made


def sampler(recipe: Recipe, scenes: Sequence[Source], **sizes: int) -> Sampler:
    """Return the batches of some scenes, step by step, of the recipe's sizes."""
    return Sampler(
        scenes,
        **{"side": recipe.side, "batch": recipe.batch, **sizes},
        seed=recipe.plan.seed,
        rules=Rules(cloud=recipe.cloud, flat=recipe.flat),
        augment=Augment(gain=recipe.gain, odd=recipe.odd),
        threads=recipe.threads,
    )


def fit_scenes(
    recipe: Recipe,
    network: nn.Module,
    scenes: Scenes,
    draw: Callable[[int], Any],
    files: Files | None,
    **options: Any,  # noqa: ANN401
) -> Iterator[Step]:
    """Train a network, and yield each step (`s2sr_xr.train.loop.fit`)."""
    # Neither threads nor checkpoints change a weight.
    settings = asdict(replace(recipe, threads=0, save_every=1))
    loss = type(recipe.loss).__name__
    facts = {"loss": loss, "recipe": settings, "scenes": scenes.digest}
    if scenes.held:
        facts["held"] = [s.name for s in scenes.held]
    return fit(
        network,
        draw,
        recipe.loss,
        recipe.plan,
        checkpoint=files.checkpoint if files else None,
        log=files.log if files else None,
        every=recipe.save_every,
        facts=facts,
        **options,
    )


def inputs(scenes: Sequence[Source]) -> list[Source]:
    """Return scenes without their finer group."""
    return [replace(s, groups=s.groups[:2], layers=s.layers[:2]) for s in scenes]


def check_finer(recipe: Recipe, scenes: Scenes, *, plain: bool = False) -> None:
    """Raise a GridError unless there are finer images; `plain` scenes need none."""
    name = type(recipe.loss).__name__
    if not scenes.finer:
        raise GridError(
            f"{name} learns from finer images, and none of {', '.join(scenes.digest)} "
            "has one: name them in finer=[...], take simulated scenes or an index of "
            "Sen2Venus, or learn by restoration, which needs none."
        )
    if scenes.plain and not plain:
        raise GridError(
            f"{scenes.plain[0].name} has no finer image, and {name} learns from no "
            "scene without one. Leave it out, or name its image in finer=[...].",
            scene=scenes.plain[0].name,
        )


def check_bands(
    recipe: Recipe, finer: Sequence[Source], allowed: tuple[tuple[str, ...], ...]
) -> None:
    """Raise a MissingBandError unless finer images have the bands that are needed.

    These are the 10 m bands, then one of the tuples of 20 m bands in `allowed`.
    """
    for scene in finer:
        names = scene.groups[-1].names
        if names[:TEN] != R10 or names[TEN:] not in allowed:
            missing = [b for b in (*R10, *allowed[0]) if b not in names]
            raise MissingBandError(
                f"{scene.name}: its finer image has {', '.join(names)}, and lacks "
                f"{', '.join(missing)}, which {type(recipe.loss).__name__} needs. The "
                "recipe pairs learns from any bands.",
                scene=scene.name,
            )
