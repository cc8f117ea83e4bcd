"""The training loop: it can be stopped at any step and resumes with the same losses.

Run from Python, one step at a time::

    for step in fit(network, draw, loss, Plan(steps=1000, lr=1e-3), checkpoint=path):
        print(step.step, step.loss)

A batch is a function of its step, and so are the random numbers of the loss; what
else a step depends on is in the checkpoint. So a training that was killed gives the
losses of one that was not, bit for bit on one machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from s2sr_xr.train.plan import DivergedError, Plan, Step
from s2sr_xr.train.run_state import Log, Run, kept_files, make_way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Draw: TypeAlias = Callable[[int], Any]
    Loss: TypeAlias = Callable[[nn.Module, Any], torch.Tensor]

__all__ = ["fit"]


def fit(
    network: nn.Module,
    draw: Draw,
    loss: Loss,
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    every: int = 200,
    log: Path | None = None,
    facts: Mapping[str, Any] | None = None,
    optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
) -> Iterator[Step]:
    """Train a network, and yield each step when it is made.

    Parameters
    ----------
    network
        Trained in place, on the device it is on; it is made channels-last.
    draw
        Step -> batch, with no memory of other steps. Tensors in it, also in tuples,
        lists, dicts and dataclasses, are moved to the device.
    loss
        Network, batch -> scalar. The network it is given computes in
        ``plan.precision`` and gives float32.
    plan
        How long and how fast.
    checkpoint
        A file to resume from if it exists, and to write every `every` steps and at the
        end, in a folder that exists. It appears whole or not at all, and when the next
        step is asked for: what the caller does with a step is done by then, or the step
        is made again. A training that is finished yields its last step again.
    log
        A CSV file of step, loss, step size and seconds since the start of this process,
        in a folder that exists.
    facts
        What else decides the losses, such as the recipe: compared on resume.
    optimiser
        Called with the parameters and ``lr``; the step sizes of its groups keep their
        ratios.

    Raises
    ------
    ModelError
        The checkpoint is of another recipe, or is not a checkpoint.
    DivergedError
        The loss or its gradient is not finite. The message names the step; the batch
        is saved next to the checkpoint. Also a `FloatingPointError`.
    StoreError
        The checkpoint or the log cannot be written, or has no folder. A checkpoint that
        was there stays.
    """
    for path in (checkpoint, log):
        if path is not None:
            make_way(path)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(network, optimiser(network.parameters(), lr=plan.lr), plan, facts or {})
    if checkpoint is not None and checkpoint.exists():
        run.load(checkpoint)
    if run.next == plan.steps:
        yield Step(run.next - 1, run.loss, run.mean)
        return
    rows = None if log is None else Log(log, run.next)
    for step in range(run.next, plan.steps):
        batch = draw(step)
        try:
            run.step(loss, batch)
        except DivergedError as error:
            raise DivergedError(f"{error} {kept_files(batch, checkpoint)}") from None
        # The checkpoint comes last: what a kill leaves undone, resuming does.
        if rows is not None:
            rows.add(step, run.loss, plan.lr * plan.pace(step))
        yield Step(step, run.loss, run.mean)
        if checkpoint is not None and (run.next % every == 0 or run.next == plan.steps):
            run.save(checkpoint)
