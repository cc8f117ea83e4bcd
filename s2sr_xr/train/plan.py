"""What a training does: its plan, its step and its loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from s2sr_xr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    Draw: TypeAlias = Callable[[int], Any]
    Loss: TypeAlias = Callable[[nn.Module, Any], torch.Tensor]

__all__ = ["DivergedError", "Plan", "Precision", "Step"]

Precision: TypeAlias = Literal["bf16", "float32"]


class DivergedError(ModelError, FloatingPointError):
    """A loss or its gradient is not a finite number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how fast a network learns, whatever it learns."""

    steps: int
    """Batches seen."""

    lr: float
    """Largest step size. It rises from 0, then falls as a cosine."""

    warm: float = 0.05
    """Share of the steps in which it rises."""

    floor: float = 0.01
    """Share of `lr` at which it ends."""

    clip: float = 1.0
    """Longest gradient, over all weights together."""

    ema: float = 0.999
    """The network that is kept is a running mean over about the last
    ``1 / (1 - ema)`` steps; over fewer in the beginning."""

    precision: Precision = "bf16"
    """Of the network's arithmetic. Weights, losses and gradients are always float32.
    With bf16 and channels-last a step takes 0.13 s on two cores, with float32 1.1 s."""

    seed: int = 0
    """Of the random numbers in the loss, with the step; 0 or more."""

    def __post_init__(self) -> None:
        within = (
            (self.steps >= 1, "steps", "1 or more"),
            (self.lr > 0, "lr", "above 0"),
            (0 <= self.warm < 1, "warm", "a share, below 1"),
            (0 <= self.floor <= 1, "floor", "a share"),
            (self.clip > 0, "clip", "above 0"),
            (0 <= self.ema < 1, "ema", "a share, below 1"),
            (self.precision in get_args(Precision), "precision", "bf16 or float32"),
            (self.seed >= 0, "seed", "0 or more"),
        )
        for fine, name, said in within:
            if not fine:
                raise ModelError(f"{name} is {said}; got {getattr(self, name)!r}.")

    def pace(self, step: int) -> float:
        """Return the share of `lr` at a step.

        >>> plan = Plan(steps=100, lr=1.0, warm=0.1, floor=0.5)
        >>> [plan.pace(s) for s in (0, 5, 10, 55, 100)]
        [0.0, 0.5, 1.0, 0.75, 0.5]
        """
        done = step / self.steps
        if done < self.warm:
            return done / self.warm
        fall = math.cos(math.pi * (done - self.warm) / (1 - self.warm))
        return self.floor + (1 - self.floor) * 0.5 * (1 + fall)


class Step(NamedTuple):
    """One step that was made."""

    step: int
    """Its number, from 0."""

    loss: float
    """Of its batch, before the weights changed."""

    network: nn.Module
    """Running mean of the weights: one object that the next steps change; copy it to
    keep it."""
