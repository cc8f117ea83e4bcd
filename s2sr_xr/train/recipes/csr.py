"""Recipes of CSR: the flow between two bands of two detectors.

*Anchor consistency* needs no reference: the way from a band of one detector to the same
band of the other, over any band in between, has to lead to the same picture.
*Supervised* takes the flows that the simulation knows.

References
----------
Nguyen et al. (2023), L1BSR, CVPR workshops, eqs. 5 to 7 and Table 1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.errors import ModelError
from s2sr_xr.models.networks.registration import standardise, warp
from s2sr_xr.train.data.l1b_scenes import data, l1b_settings
from s2sr_xr.train.data.l1b_simulation import (
    BANDS,
    Sensor,
    Views,
    inside,
    simulated,
    true_flow,
)
from s2sr_xr.train.loop import fit
from s2sr_xr.train.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from s2sr_xr.train.plan import Step
    from s2sr_xr.train.training import Data, Files, Training

__all__ = [
    "Recipe",
    "anchor_loss",
    "compose",
    "data",
    "flow_errors",
    "flow_loss",
    "network",
    "settings",
    "standardised",
    "steps",
    "train",
]

Task: TypeAlias = Literal["anchor", "supervised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, except images and first weights."""

    task: Task = "anchor"
    """What is learnt from: consistency, or the flows of the simulation."""

    plan: Plan = field(default_factory=lambda: Plan(steps=200_000, lr=5e-5))
    """How long and how fast: the paper's steps and step size, which it keeps all the
    time, with batches of 64."""

    sensor: Sensor = field(default_factory=Sensor)
    """Who looks."""

    side: int = 64
    """Pixels along the side of a view: a multiple of 16."""

    batch: int = 16
    """Pairs of views a step."""

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            raise ModelError(f"task is anchor or supervised; got {self.task!r}.")
        if self.side < 16 or self.side % 16 or self.batch < 1:
            raise ModelError(
                "side is a multiple of 16 pixels, 16 or more, and batch 1 or more; got "
                f"{self.side} and {self.batch}."
            )


def settings(job: Training) -> Recipe:
    """Return the settings of a job."""
    # What csr-s solves by itself needs float32.
    return l1b_settings(job, Recipe, task="anchor", plan={"precision": "float32"})


def network(settings: Recipe, build: Callable[..., nn.Module]) -> nn.Module:
    """Return the network as training begins."""
    torch.manual_seed(settings.plan.seed)
    return build().train()


def steps(
    settings: Recipe, network: nn.Module, data: Data, files: Files
) -> Iterator[Step]:
    """Train the network, and yield each step."""
    return train(
        settings,
        network,
        data.source,
        names=data.names,
        checkpoint=files.checkpoint,
        log=files.log,
    )


def train(
    recipe: Recipe,
    network: nn.Module,
    images: Sequence[torch.Tensor] | Callable[[int], Views],
    *,
    names: Sequence[str] = (),
    checkpoint: Path | None = None,
    log: Path | None = None,
) -> Iterator[Step]:
    """Train a `CSR` on any images, and yield each step (`s2sr_xr.train.loop.fit`).

    Parameters
    ----------
    recipe
        What happens.
    network
        Trained in place.
    images
        Reflectance (4, H, W): B02, B03, B04, B08, aligned; NaN where missing. Or a
        function from step to `Views`, such as real overlaps, which have no maps.
    names
        Of the images, or of what the function reads: a checkpoint of others is refused.
    checkpoint, log
        As in `fit`, which says what else may be raised.

    Raises
    ------
    GridError
        No image holds a patch.
    """
    draw = images if callable(images) else simulated(recipe, images)
    loss = anchor_loss if recipe.task == "anchor" else flow_loss
    shapes = None if callable(images) else [list(image.shape) for image in images]
    facts = asdict(recipe) | {"images": shapes, "scenes": list(names)}
    return fit(
        network, draw, loss, recipe.plan, checkpoint=checkpoint, log=log, facts=facts
    )


def compose(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the way along one flow and then another: ``f(p) + g(p + f(p))``.

    Both are (B, 2, h, w) in pixels, x, then y. `second` is bilinear between its pixels
    and goes on as it is at its edge beyond it.

    >>> east = torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, 2, 4, 4)
    >>> compose(east, east)[0, :, 0, 0]
    tensor([2., 0.])
    """
    h, w = first.shape[-2:]
    rows = torch.arange(h, dtype=first.dtype, device=first.device)[:, None]
    columns = torch.arange(w, dtype=first.dtype, device=first.device)
    x = (first[:, 0] + columns) * (2 / (w - 1)) - 1
    y = (first[:, 1] + rows) * (2 / (h - 1)) - 1
    then = F.grid_sample(
        second,
        torch.stack((x, y), dim=-1),
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return first + then


def anchor_loss(network: nn.Module, batch: Views) -> torch.Tensor:
    """Return how much a band differs from itself, seen over another (eq. 7).

    Mean absolute difference of standardised counts, where both flows stay inside. The
    bands, the detector of the anchor and the direction are drawn for each pair.
    """
    seen = standardised(batch)
    n = len(seen)
    each = torch.arange(n, device=seen.device)
    band, anchor = torch.randint(len(BANDS), (2, n), device=seen.device)
    start, at = torch.randint(2, (2, n), device=seen.device)
    reference, target = seen[each, start, band], seen[each, 1 - start, band]
    between = seen[each, at, anchor]
    # Both halves of the way in one batch: the network sees each pair by itself.
    flows = network(
        torch.cat(
            (
                torch.stack((reference, between), dim=1),
                torch.stack((between, target), dim=1),
            )
        )
    )
    first, second = flows.chunk(2)
    way = compose(first, second)
    difference = (warp(target[:, None], way) - reference[:, None]).abs()
    return _mean_where(difference, inside(first.detach()) & inside(way.detach()))


def flow_loss(network: nn.Module, batch: Views) -> torch.Tensor:
    """Return the mean absolute error of the flow, in pixels, along x and y.

    Of pixels whose partner is inside. The bands are drawn for each pair of views, one
    pair in four within one detector; each pair of bands is taken in both directions.
    """
    seen = standardised(batch)
    n, side = len(seen), seen.shape[-1]
    each = torch.arange(n, device=seen.device)
    band, other = torch.randint(len(BANDS), (2, n), device=seen.device)
    start = torch.randint(2, (n,), device=seen.device)
    end = torch.where(torch.rand(n, device=seen.device) < 0.25, start, 1 - start)
    one, two = seen[each, start, band], seen[each, end, other]
    here, there = batch.maps[each, start, band], batch.maps[each, end, other]
    pairs = (torch.stack((one, two), dim=1), torch.stack((two, one), dim=1))
    truth = torch.cat((true_flow(here, there, side), true_flow(there, here, side)))
    return _mean_where((network(torch.cat(pairs)) - truth).abs(), inside(truth))


def standardised(batch: Views) -> torch.Tensor:
    """Return every band of both detectors with mean 0 and deviation 1."""
    counts = batch.counts
    return standardise(counts.flatten(1, 2)).reshape(counts.shape)


def _mean_where(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    weight = where.expand_as(values)
    return (values * weight).sum() / weight.sum().clamp_min(1)


@torch.inference_mode()
def flow_errors(network: nn.Module, batch: Views) -> torch.Tensor:
    """Return the error of each pair of bands, in pixels: Table 1.

    The mean absolute error along x and y, from each band of the first detector (rows)
    to each of the second (columns), of pixels whose partner is inside.

    Returns
    -------
    torch.Tensor
        (4, 4): reference, moving.
    """
    seen = standardised(batch)
    side, count = seen.shape[-1], len(BANDS)
    out = torch.zeros(count, count)
    for i in range(count):
        for j in range(count):
            truth = true_flow(batch.maps[:, 0, i], batch.maps[:, 1, j], side)
            found = network(torch.stack((seen[:, 0, i], seen[:, 1, j]), dim=1))
            out[i, j] = _mean_where((found - truth).abs(), inside(truth))
    return out
