"""The best-scoring of the networks that a training passes.

The loss of an adversarial training says nothing of its result. So every so many steps
the network is asked for something, and what scores lowest is kept::

    best = Best(path, spec, "carn-s")
    for step in keep_best(fit(...), judge, best, every=200):
        ...
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s2sr_xr.models import weights_file
from s2sr_xr.models.header import read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from torch import nn

    from s2sr_xr.models.spec import ModelSpec
    from s2sr_xr.train.plan import Step

__all__ = ["Best", "keep_best"]


@dataclass(slots=True)
class Best:
    """A weights file that always holds the network with the lowest score so far.

    It can be used while the training goes on. Its header holds every score.
    """

    path: Path
    """A ``.safetensors`` file. It appears whole or not at all."""

    spec: ModelSpec
    """Facts of the network."""

    kind: str
    """Registry name of the architecture."""

    scores: dict[int, float] = field(default_factory=dict)
    """Score of each step that was judged."""

    @property
    def step(self) -> int:
        """Which step scored lowest, the first of these."""
        return min(self.scores, key=lambda step: (self.scores[step], step))

    def resume(self, step: int) -> None:
        """Take what was scored before a step, and what the file holds, if it is there.

        That may be of a later step: a checkpoint is not written with each score.
        """
        if self.path.exists() and step > 0:
            notes = read_header(self.path).notes
            scores = {int(k): v for k, v in json.loads(notes["scores"]).items()}
            held = int(notes["step"])
            self.scores = {k: v for k, v in scores.items() if k < step or k == held}

    def add(self, step: int, score: float, network: nn.Module) -> None:
        """Note a score, and keep the network if it is the lowest, or else the old one.

        Raises
        ------
        StoreError
            The file cannot be written. What was in it stays.
        """
        # A score that is not finite is worse than any.
        self.scores[step] = score if math.isfinite(score) else math.inf
        tensors = network.state_dict()
        if self.step != step:
            tensors = dict(weights_file.load_file(self.path)[1])
        in_order = dict(sorted(self.scores.items()))
        notes = {"scores": json.dumps(in_order), "step": str(self.step)}
        weights_file.save_tensors(
            self.path,
            tensors,
            self.spec,
            self.kind,
            notes=notes,
            remedy=f"The best before step {step} is whole: make room and run again.",
        )


def keep_best(
    steps: Iterable[Step],
    judge: Callable[[nn.Module], float],
    best: Best,
    *,
    every: int,
    last: int,
) -> Iterator[Step]:
    """Yield the steps of a training, and judge its network every so many of them.

    Where `fit` resumes from a checkpoint, it scores what an unbroken training would.

    Parameters
    ----------
    steps
        What `fit` yields.
    judge
        Network -> score; the lower, the better.
    best
        Where scores and the best network go.
    every
        Steps between two scores; the first and the last are scored too.
    last
        Number of the last step.
    """
    begun = False
    for step in steps:
        if not begun:
            best.resume(step.step)
            begun = True
        # `fit` writes the checkpoint of a step when the next is asked for: a kill
        # before there is a score, and the step is made again.
        if step.step % every == 0 or step.step == last:
            best.add(step.step, judge(step.network), step.network)
        yield step
