"""A network learns what it says itself, however its image is turned.

A network gives another image of a scene that is turned or mirrored; the mean over the
eight ways is nearer to the truth (Timofte et al. 2016, Seven ways to improve
example-based single image super resolution, CVPR), and eight times as dear. Here the
mean is made once, of patches that need no truth to be good for it (bands mixed and
dimmed, the ground of two dates in one scene), and the network learns to give it in one
pass, beside the truth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from s2sr_xr.models.networks.layers import lower
from s2sr_xr.train import Augment
from s2sr_xr.train.losses import over_bicubic
from s2sr_xr.train.recipes.dsen2 import Recipe, drawn, first_network

if TYPE_CHECKING:
    from collections.abc import Callable

    from s2sr_xr.train.data.pairs import Pair


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """How a network teaches itself."""

    seed: int
    """Decides the patches that are taught."""

    batches: int = 260
    """How many batches of them are made."""

    patches: int = 10
    """Patches of a batch that were taught; the others have their reference alone."""

    share: float = 0.7
    """Share of the loss that is against what was taught."""

    mixed: float = 0.35
    """`Augment.mixed` of the patches that are taught."""

    odd: float = 0.08
    """`Augment.odd` of the same."""


class Lesson(NamedTuple):
    """Patches, their truth, and the mean over eight ways to turn them."""

    images: tuple[torch.Tensor, ...]
    truth: torch.Tensor
    mean: torch.Tensor


class Turned(torch.nn.Module):
    """The mean of what a network gives for an image in its eight orientations."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        """Return what the network does, in the mean."""
        made = []
        for turns, flip in product(range(4), (False, True)):
            there = self.network(*(turned(i, turns, flip=flip) for i in images))
            back = torch.rot90(there, -turns, (-2, -1))
            made.append(back.flip(-1) if flip else back)
        return torch.stack(made).mean(0)


def turned(image: torch.Tensor, turns: int, *, flip: bool) -> torch.Tensor:
    """Return an image mirrored, then turned by quarters."""
    return torch.rot90(image.flip(-1) if flip else image, turns, (-2, -1))


@torch.inference_mode()
def lessons(
    network: torch.nn.Module, recipe: Recipe, pairs: list[Pair], how: Teaching
) -> Lesson:
    """Return what a network teaches."""
    teacher = first_network(recipe).eval()
    teacher.load_state_dict(network.state_dict())
    lower(teacher)
    found, eight = [], Turned(teacher)
    augment = Augment(mixed=how.mixed, odd=how.odd)
    for step in range(how.batches):
        images, truth = drawn(replace(recipe, seed=how.seed), pairs, step, augment)
        found.append((*images, truth, eight(*images)))
    *images, truth, mean = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Lesson(tuple(images), truth, mean)


def batches(
    taught: Lesson, recipe: Recipe, pairs: list[Pair], how: Teaching
) -> Callable[[int], Lesson]:
    """Return step -> patches that were taught, turned, and some that were not."""
    return partial(_batch, taught, recipe, pairs, how.patches)


def _batch(
    taught: Lesson, recipe: Recipe, pairs: list[Pair], count: int, step: int
) -> Lesson:
    rng = np.random.default_rng((recipe.seed, step, 7))
    chosen = torch.from_numpy(rng.integers(len(taught.truth), size=count))
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))

    def some(x: torch.Tensor) -> torch.Tensor:
        return turned(x[chosen], turns, flip=flip)

    few = replace(recipe, batch=recipe.batch - count)
    images, truth = drawn(few, pairs, step)
    both = (torch.cat((some(x), y)) for x, y in zip(taught.images, images, strict=True))
    return Lesson(
        tuple(both),
        torch.cat((some(taught.truth), truth)),
        torch.cat((some(taught.mean), truth)),
    )


def loss(
    network: torch.nn.Module, batch: Lesson, *, edge: int, share: float
) -> torch.Tensor:
    """Return the error against the truth, and against what was taught."""
    inner = slice(edge, -edge)
    made = network(*batch.images)[..., inner, inner]
    true, mean = (
        over_bicubic(made, batch.images[-1], t).mean()
        for t in (batch.truth, batch.mean)
    )
    return (1 - share) * true + share * mean
