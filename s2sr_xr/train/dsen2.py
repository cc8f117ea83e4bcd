"""The recipe of the shipped DSen2-type weights, in the order it happens.

Run from Python, with any scenes::

    recipe = Recipe(model="dsen2-s-20m")
    for step, loss, network in fit(recipe, pairs):
        ...

References
----------
Lanaras et al. (2018), ISPRS Journal 146: L1 loss on reflectance / 0.2, one scale below.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.models.dsen2 import DSen2
from s2sr_xr.train.pairs import Pair, patches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s2sr_xr.models.spec import ModelSpec

__all__ = ["Recipe", "fit", "ratio_to_bicubic"]

EDGE = 4
"""Output pixels along the border of a patch that the loss leaves out: the network pads
there, and never does in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, beside the scenes."""

    spec: ModelSpec
    """The task."""

    features: int = 64
    """Channels of the trunk."""

    blocks: int = 6
    """Residual blocks of the trunk."""

    steps: int = 4000
    """Batches seen."""

    batch: int = 16
    """Patches a batch."""

    side: int = 24
    """Cells along the side of a patch."""

    lr: float = 1.5e-3
    """Highest step size of Adam; it rises for a twentieth of the steps, then falls as a
    cosine to a hundredth."""

    ema: float = 0.999
    """Weights are the running mean of the last ``1 / (1 - ema)`` steps or so."""

    seed: int = 0
    """Decides the first weights and every batch."""


def fit(recipe: Recipe, pairs: list[Pair]) -> Iterator[tuple[int, float, DSen2]]:
    """Yield step, loss and the averaged network after each step.

    The loss is the mean absolute error in reflectance. The network that is yielded is
    one object that goes on changing; copy it to keep it.

    Raises
    ------
    GridError
        No scene holds a patch.
    FloatingPointError
        The loss is not finite; the message names the step.
    """
    torch.manual_seed(recipe.seed)
    spec = recipe.spec
    fine = spec.inputs[0].per_cell
    inputs = tuple((len(g.names), fine // g.per_cell) for g in spec.inputs)
    network = DSen2(
        inputs, features=recipe.features, blocks=recipe.blocks, padding="same"
    )
    # It begins as bilinear interpolation and does not have to find it first.
    torch.nn.init.zeros_(network.tail.weight)
    # With bf16 convolutions in channels-last order a step takes 0.13 s on two cores,
    # where float32 takes 1.1 s; master weights and the loss stay float32.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = deepcopy(network).eval()
    adam = torch.optim.Adam(network.parameters(), lr=recipe.lr)
    for step in range(recipe.steps):
        for group in adam.param_groups:
            group["lr"] = recipe.lr * _schedule(step / recipe.steps)
        images, target = patches(
            pairs,
            spec,
            side=recipe.side,
            batch=recipe.batch,
            seed=recipe.seed,
            step=step,
        )
        with torch.autocast("cpu", torch.bfloat16):
            made = network(*images).float()
        inner = slice(EDGE, -EDGE)
        loss = F.l1_loss(made[..., inner, inner], target[..., inner, inner])
        if not torch.isfinite(loss):
            raise FloatingPointError(f"The loss is {loss.item()} at step {step}.")
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        _follow(mean, network, min(recipe.ema, (step + 1) / (step + 10)))
        yield step, loss.item(), mean


def _schedule(done: float) -> float:
    if done < 0.05:
        return done / 0.05
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - 0.05) / 0.95))


@torch.no_grad()
def _follow(mean: DSen2, network: DSen2, ema: float) -> None:
    for kept, new in zip(mean.parameters(), network.parameters(), strict=True):
        kept.lerp_(new, 1 - ema)


@torch.inference_mode()
def ratio_to_bicubic(
    network: torch.nn.Module, spec: ModelSpec, pair: Pair, *, border: int
) -> dict[str, float]:
    """Return RMSE over that of bicubic interpolation, band by band.

    `border` output pixels along the edge are left out, and missing ones.
    """
    from s2sr_xr.metrics import rmse
    from s2sr_xr.models.resample import Upsample

    coarse = pair.images[-1][None]
    factor = spec.output.per_cell
    up = Upsample(factor, "bicubic")
    padded = F.pad(coarse, (up.reach,) * 4, mode="replicate")
    made = network(*(i[None] for i in pair.images))[0]
    inner = slice(border, -border or None)
    truth = pair.target[..., inner, inner].numpy()
    ours = rmse(made[..., inner, inner].numpy(), truth)
    theirs = rmse(up(padded)[0, ..., inner, inner].numpy(), truth)
    return dict(zip(spec.output.names, map(float, ours / theirs), strict=True))
