"""Recipes of REC: raw bands of one detector, aligned to green and twice as fine.

*Self* needs no reference: what is made of one detector, moved to where a frozen CSR
finds the other and sampled as that one samples, has to be what the other saw.
*Supervised* takes the fine image that the simulation knows. Networks are `REC`, or
`AlignedREC`, as our small one is.

References
----------
Nguyen et al. (2023), L1BSR, CVPR workshops, eqs. 3 and 4, Tables 2 and 3.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch

from s2sr_xr.core.filters import gaussian_blur
from s2sr_xr.errors import MissingBandError, ModelError
from s2sr_xr.models.networks.aligned_rec import AlignedREC
from s2sr_xr.models.networks.lucas_kanade import LucasKanade
from s2sr_xr.models.networks.rec import REC, SCALE
from s2sr_xr.models.networks.registration import standardise
from s2sr_xr.models.registry import load_model
from s2sr_xr.train.data.l1b_scenes import data, l1b_settings
from s2sr_xr.train.data.l1b_simulation import (
    BANDS,
    GREEN,
    Sensor,
    Views,
    inside,
    simulated,
    true_flow,
)
from s2sr_xr.train.data.l1b_simulation import sample as sampled
from s2sr_xr.train.loop import fit
from s2sr_xr.train.optim import optimiser_of
from s2sr_xr.train.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import nn

    from s2sr_xr.train.plan import Step
    from s2sr_xr.train.training import Data, Files, Training

__all__ = [
    "Recipe",
    "as_interpolation",
    "begun",
    "data",
    "flow_with_errors",
    "flows_to_green",
    "network",
    "self_loss",
    "settings",
    "steps",
    "supervised_loss",
    "train",
]

Task: TypeAlias = Literal["self", "supervised"]

EDGE = 4
"""Pixels of a detector along the border that losses and scores leave out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, except images, CSR and first weights."""

    task: Task = "self"
    """What is learnt from: the other detector, or the fine image."""

    plan: Plan = field(default_factory=lambda: Plan(steps=60_000, lr=5e-5))
    """How long and how fast; the paper's is the default, with other step sizes."""

    sensor: Sensor = field(default_factory=Sensor)
    """Who looks."""

    bands: tuple[str, ...] = BANDS
    """What the network takes and gives: some bands, green among them, in order."""

    blur: float = 0.0
    """What sharpness is made up for: standard deviation of a Gaussian, in pixels of
    the result, between it and what the other detector samples (eq. 4); 0 for none."""

    told: float = 0.04
    """Standard deviation, in pixels, of the error of the true flows that an
    `AlignedREC` is given while it learns from the simulation, the same all over a
    band. Real pairs, of which no flow is known, it registers itself."""

    optimiser: Literal["adam", "muon"] = "adam"
    """How gradients become steps."""

    side: int = 96
    """Pixels along the side of a view; a multiple of 16 for CSR."""

    batch: int = 16
    """Pairs of views a step."""

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            raise ModelError(f"task is self or supervised; got {self.task!r}.")
        optimiser_of(self.optimiser)
        if self.side < 16 or self.batch < 1:
            raise ModelError(
                "side is 16 pixels or more, and batch 1 or more; got "
                f"{self.side} and {self.batch}."
            )
        known = tuple(b for b in BANDS if b in self.bands)
        if known != tuple(self.bands) or BANDS[GREEN] not in known:
            raise MissingBandError(
                f"bands are some of {', '.join(BANDS)}, in this order, and "
                f"{BANDS[GREEN]} among them; got {', '.join(self.bands)}."
            )

    @property
    def channels(self) -> list[int]:
        """Which channels of a view the network takes."""
        return [BANDS.index(b) for b in self.bands]


def settings(job: Training) -> Recipe:
    """Return the settings of a job."""
    return l1b_settings(job, Recipe, task="self", bands=BANDS)


def network(settings: Recipe, build: Callable[..., nn.Module]) -> nn.Module:
    """Return the network as training begins."""
    torch.manual_seed(settings.plan.seed)
    flows = load_model("csr-s")
    return begun(build().train(), flows, phase=settings.sensor.phase)


def steps(
    settings: Recipe, network: nn.Module, data: Data, files: Files
) -> Iterator[Step]:
    """Train the network, and yield each step."""
    return train(
        settings,
        network,
        data.source,
        csr=load_model("csr-s"),
        names=data.names,
        checkpoint=files.checkpoint,
        log=files.log,
    )


def train(
    recipe: Recipe,
    network: nn.Module,
    images: Sequence[torch.Tensor] | Callable[[int], Views],
    *,
    csr: nn.Module | None = None,
    names: Sequence[str] = (),
    checkpoint: Path | None = None,
    log: Path | None = None,
) -> Iterator[Step]:
    """Train a `REC` or an `AlignedREC` on any images, and yield each step (`fit`).

    Parameters
    ----------
    recipe
        What happens.
    network
        Trained in place; begin with `begun`.
    images
        Reflectance (4, H, W): B02, B03, B04, B08, aligned; NaN where missing. Or a
        function from step to `Views`, such as real overlaps, which have neither maps
        nor truth.
    csr
        A trained `CSR` or `LucasKanade`, which stays as it is; for the task "self".
    names
        Of the images, or of what the function reads: a checkpoint of others is refused.
    checkpoint, log
        As in `fit`, which says what else may be raised.

    Raises
    ------
    GridError
        No image holds a patch.
    ModelError
        The task needs a `csr`, and there is none.
    """
    supervised = recipe.task == "supervised"
    if csr is None and not supervised:
        raise ModelError(
            "What one detector shows is compared with the other through a CSR: give "
            "csr=, such as load_model('csr-s'), or learn with task='supervised'."
        )
    draw = images if callable(images) else simulated(recipe, images, truth=supervised)
    known = isinstance(network, AlignedREC) and not callable(images)

    def loss(network: nn.Module, batch: Views) -> torch.Tensor:
        if csr is None or supervised:
            flow = flow_with_errors(batch, recipe) if known else None
            return supervised_loss(network, batch, recipe, flow)
        return self_loss(network, batch, recipe, csr)

    shapes = None if callable(images) else [list(image.shape) for image in images]
    facts = asdict(recipe) | {"images": shapes, "scenes": list(names)}
    return fit(
        network,
        draw,
        loss,
        recipe.plan,
        checkpoint=checkpoint,
        log=log,
        facts=facts,
        optimiser=optimiser_of(recipe.optimiser),
    )


def begun(network: nn.Module, csr: nn.Module, *, phase: float) -> nn.Module:
    """Return a network that begins as interpolation, changed in place.

    An `AlignedREC` takes over `csr`, a `LucasKanade`; a `REC` goes through
    `as_interpolation`.

    Raises
    ------
    ModelError
        An `AlignedREC` draws its pixels at another phase, or is given another kind of
        `csr`; or the network is neither.
    """
    if isinstance(network, REC):
        return as_interpolation(network, phase=phase)
    if not isinstance(network, AlignedREC):
        raise ModelError(f"{type(network).__name__} is neither REC nor AlignedREC.")
    if network.phase != phase:
        raise ModelError(
            f"The network draws pixels at phase {network.phase:g} of a detector's, the "
            f"sensor has {phase:g}: say sensor = {{phase = {network.phase:g}}}."
        )
    if not isinstance(csr, LucasKanade):
        raise ModelError(
            "An AlignedREC registers by a LucasKanade, such as load_model('csr-s'); "
            f"got a {type(csr).__name__}."
        )
    network.registration.load_state_dict(csr.state_dict())
    return network


@torch.no_grad()
def as_interpolation(network: REC, *, phase: float = 0.0) -> REC:
    """Return a `REC` that begins as bilinear interpolation of each band by itself.

    The head hands each band through, the residual groups add nothing yet, and the tail
    interpolates; all else stays as it was made.

    Parameters
    ----------
    network
        Changed in place.
    phase
        As in `Sensor`: where a pixel lies among its two fine pixels.
    """
    state = dict(network.named_parameters())
    last = f"body.{len(network.body) - 1}"
    for name in (last, "tail.1"):
        state[f"{name}.weight"].zero_()
        state[f"{name}.bias"].zero_()
    for i in range(state["head.0.weight"].shape[1]):
        own = slice(4 * i, 4 * i + 4)
        for name, rows in (("head.0", i), ("tail.0.0", own)):
            state[f"{name}.weight"][rows] = 0
            state[f"{name}.bias"][rows] = 0
        state["head.0.weight"][i, i, 1, 1] = 1
        state["tail.1.weight"][i, i, 1, 1] = 1
        for k in range(4):
            row, column = (_hat((n - phase) / 2) for n in divmod(k, 2))
            state["tail.0.0.weight"][4 * i + k, i] = torch.outer(row, column)
    return network


def _hat(at: float) -> torch.Tensor:
    """Return the weights of three neighbours for a place between them."""
    return torch.tensor([max(-at, 0.0), 1 - abs(at), max(at, 0.0)])


def flow_with_errors(batch: Views, recipe: Recipe) -> torch.Tensor:
    """Return the flows ``(B, C, 2, h, w)`` from green, with errors of ``recipe.told``.

    The errors are random numbers of torch.
    """
    maps, side = batch.maps[:, 0], batch.counts.shape[-1]
    flows = [true_flow(maps[:, GREEN], maps[:, c], side) for c in recipe.channels]
    error = torch.randn(len(maps), len(flows), 2, 1, 1, device=maps.device)
    error[:, recipe.bands.index(BANDS[GREEN])] = 0
    return torch.stack(flows, 1) + recipe.told * error


def supervised_loss(
    network: nn.Module,
    batch: Views,
    recipe: Recipe,
    flow: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean absolute error against the fine image, in counts / 400.

    `flow` is handed on to a network that takes it.
    """
    given = () if flow is None else (flow,)
    made = network(batch.counts[:, 0, recipe.channels], *given)
    inner = slice(2 * EDGE, -2 * EDGE)
    truth = batch.truth[:, 0, recipe.channels]
    error: torch.Tensor = made[..., inner, inner] - truth[..., inner, inner]
    return error.abs().mean() / SCALE


def self_loss(
    network: nn.Module, batch: Views, recipe: Recipe, csr: nn.Module
) -> torch.Tensor:
    """Return how far the result is from what the other detector saw (eqs. 3, 4).

    Mean absolute difference in counts / 400, where the flow stays inside.
    """
    here, there = batch.counts[:, 0], batch.counts[:, 1, recipe.channels]
    flow = flows_to_green(csr, there, here[:, GREEN])
    made = network(here[:, recipe.channels])
    if recipe.blur:
        made = gaussian_blur(made, recipe.blur)
    b, c, _, h, w = flow.shape
    line = torch.arange(h, device=flow.device), torch.arange(w, device=flow.device)
    y, x = torch.meshgrid(*line, indexing="ij")
    # Only where the other detector samples, which is all that is left of eq. 3 after
    # the result was moved and every second pixel dropped.
    places = 2 * (torch.stack((x, y)) + flow) + recipe.sensor.phase
    found = sampled(
        made.reshape(b * c, 1, 2 * h, 2 * w), places.flatten(0, 1).movedim(1, -1)
    )
    where = inside(flow.flatten(0, 1), EDGE).reshape(b, c, h, w)
    difference = (found.reshape(b, c, h, w) - there).abs() * where
    return difference.sum() / where.sum().clamp_min(1) / SCALE


@torch.no_grad()
def flows_to_green(
    csr: nn.Module, bands: torch.Tensor, green: torch.Tensor
) -> torch.Tensor:
    """Return where each pixel of `bands` lies in `green`, in pixels: x, then y.

    Parameters
    ----------
    csr
        A trained `CSR`.
    bands, green
        (B, C, h, w) and (B, h, w), counts.

    Returns
    -------
    torch.Tensor
        (B, C, 2, h, w).
    """
    b, c, h, w = bands.shape
    anchor = standardise(green[:, None]).expand(b, c, h, w)
    pairs = torch.stack((standardise(bands), anchor), dim=2)
    flow: torch.Tensor = csr(pairs.flatten(0, 1))
    return flow.reshape(b, c, 2, h, w)
