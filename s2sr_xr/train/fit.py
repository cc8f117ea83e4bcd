"""The one training loop: steps that can be stopped anywhere and go on the same.

Run from Python, one step at a time::

    for step in fit(network, draw, loss, Plan(steps=1000, lr=1e-3), checkpoint=path):
        print(step.step, step.loss)

A batch is a function of its step, and so are the random numbers of the loss; what
else a step depends on is in the checkpoint. So a training that was killed gives the
losses of one that was not, bit for bit on one machine.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import secrets
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from torch import nn

from s2sr_xr.errors import ModelError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Draw: TypeAlias = Callable[[int], Any]
    Loss: TypeAlias = Callable[[nn.Module, Any], torch.Tensor]

__all__ = ["DivergedError", "Plan", "Step", "fit"]

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
    """The network that is kept is a running mean over the last ``1 / (1 - ema)`` steps
    or so; over fewer in the beginning."""

    precision: Precision = "bf16"
    """Of the network's arithmetic. Weights, losses and gradients are float32 anyhow.
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


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was made."""

    step: int
    """From 0."""

    loss: float
    """Of its batch, before the weights changed."""

    network: nn.Module
    """Running mean of the weights: one object that goes on changing; copy to keep."""


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
        A file to go on from if it is there, and to leave `every` so many steps and at
        the end, in a folder that is there. It appears whole or not at all, and when
        the next step is asked for: what the caller does with a step is done by then,
        or the step is made again. A training that is finished yields its last step
        again.
    log
        A CSV file of step, loss, step size and seconds since the start of this process,
        in a folder that is there.
    facts
        What else decides the losses, such as the recipe: compared on resume.
    optimiser
        Called with the parameters and ``lr``; the step sizes of its groups keep their
        ratios.

    Raises
    ------
    ModelError
        The checkpoint is of another recipe, or is no checkpoint.
    DivergedError
        The loss or its gradient is not finite. The message names the step; the batch
        lies beside the checkpoint. Also a `FloatingPointError`.
    StoreError
        The checkpoint or the log cannot be written, or has no folder. A checkpoint that
        was there stays.
    """
    for path in (checkpoint, log):
        if path is not None:
            _make_way(path)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = _Run(network, optimiser(network.parameters(), lr=plan.lr), plan, facts or {})
    if checkpoint is not None and checkpoint.exists():
        run.load(checkpoint)
    if run.next == plan.steps:
        yield Step(run.next - 1, run.loss, run.mean)
        return
    rows = None if log is None else _Log(log, run.next)
    for step in range(run.next, plan.steps):
        batch = draw(step)
        try:
            run.step(loss, batch)
        except DivergedError as error:
            raise DivergedError(f"{error} {_kept(batch, checkpoint)}") from None
        # The checkpoint comes last: what a kill leaves undone, resuming does.
        if rows is not None:
            rows.add(step, run.loss, plan.lr * plan.pace(step))
        yield Step(step, run.loss, run.mean)
        if checkpoint is not None and (run.next % every == 0 or run.next == plan.steps):
            run.save(checkpoint)


class _Run:
    """All that changes while a network is trained."""

    def __init__(
        self,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        plan: Plan,
        facts: Mapping[str, Any],
    ) -> None:
        self.network, self.optimiser, self.plan = network, optimiser, plan
        self.device = next(network.parameters()).device
        self.mixed = _Mixed(network, plan.precision, self.device.type)
        self.mean = deepcopy(network).eval().requires_grad_(requires_grad=False)
        self.rates = [group["lr"] for group in optimiser.param_groups]
        self.next, self.loss = 0, math.nan
        shapes = {k: list(v.shape) for k, v in network.state_dict().items()}
        recipe = {
            "plan": asdict(plan),
            "facts": dict(facts),
            "optimiser": type(optimiser).__name__,
            "shapes": shapes,
        }
        self.recipe: dict[str, Any] = json.loads(json.dumps(recipe, default=str))

    def step(self, loss: Loss, batch: object) -> None:
        """Make one step."""
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.plan.pace(self.next)
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(cuda):
            torch.manual_seed(_mixed_seed(self.plan.seed, self.next))
            found = loss(self.mixed, _to(batch, self.device))
            self.optimiser.zero_grad(set_to_none=True)
            self._check("loss", found)
            found.backward()  # type: ignore[no-untyped-call]
        weights = self.network.parameters()
        self._check("gradient", nn.utils.clip_grad_norm_(weights, self.plan.clip))
        self.optimiser.step()
        self._follow()
        self.next, self.loss = self.next + 1, found.item()

    def _check(self, name: str, value: torch.Tensor) -> None:
        if not torch.isfinite(value):
            raise DivergedError(f"The {name} is {value.item()} at step {self.next}.")

    @torch.no_grad()
    def _follow(self) -> None:
        keep = min(self.plan.ema, (self.next + 1) / (self.next + 10))
        news = self.network.state_dict()
        for key, old in self.mean.state_dict().items():
            if old.is_floating_point():
                old.lerp_(news[key], 1 - keep)
            else:
                old.copy_(news[key])

    def save(self, path: Path) -> None:
        """Write everything to a file, or leave what is there."""
        state = {
            "recipe": json.dumps(self.recipe),
            "next": self.next,
            "loss": self.loss,
            "network": self.network.state_dict(),
            "mean": self.mean.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        try:
            _write(path, state)
        except OSError as error:
            before = (
                "The one before it is whole: make room and run again to go on from it."
                if path.exists()
                else "There is none before it: make room and begin again."
            )
            raise StoreError(
                f"The checkpoint after {self.next} steps cannot be written: {error}. "
                f"{before}",
                store=str(path),
            ) from error

    def load(self, path: Path) -> None:
        """Go on from a file."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            theirs = json.loads(state["recipe"])
        except Exception as error:
            raise ModelError(
                f"{path.name} is not a whole checkpoint ({type(error).__name__}). "
                "Remove it to begin anew."
            ) from error
        if found := _differences(theirs, self.recipe):
            raise ModelError(
                f"{path.name} is of another recipe: {'; '.join(found[:3])}. Give the "
                "recipe it was begun with, or another checkpoint to begin anew."
            )
        self.network.load_state_dict(state["network"])
        self.mean.load_state_dict(state["mean"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.next, self.loss = state["next"], state["loss"]


class _Mixed(nn.Module):
    """A network that computes in bf16 and gives float32."""

    def __init__(self, network: nn.Module, precision: Precision, device: str) -> None:
        super().__init__()
        self.network, self.device, self.bf16 = network, device, precision == "bf16"

    def forward(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """Return what the network gives."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            made = self.network(*args, **options)
        return _each(made, torch.Tensor.float)


_COLUMNS = ["step", "loss", "lr", "seconds"]


class _Log:
    """A CSV file with one row a step, each written at once."""

    def __init__(self, path: Path, begin: int) -> None:
        self.path, self.begun = path, time.monotonic()
        kept: list[list[str]] = []
        try:
            if path.exists():
                with path.open(newline="") as file:
                    rows = [r for r in csv.reader(file) if len(r) == len(_COLUMNS)]
                # What was done after the checkpoint is done again.
                kept = [r for r in rows if r[0].isdigit() and int(r[0]) < begin]
            text = io.StringIO(newline="")
            csv.writer(text).writerows([_COLUMNS, *kept])
            _replace(path, text.getvalue().encode())
        except OSError as error:
            raise StoreError(
                f"The log {path.name} cannot be begun: {error}. What is in it stays: "
                "make room and run again.",
                store=str(path),
            ) from error

    def add(self, step: int, loss: float, lr: float) -> None:
        """Write one row."""
        seconds = f"{time.monotonic() - self.begun:.2f}"
        try:
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerow([step, repr(loss), f"{lr:.3e}", seconds])
        except OSError as error:
            raise StoreError(
                f"Step {step} cannot be written to the log {self.path.name}: {error}. "
                "Make room and run again.",
                store=str(self.path),
            ) from error


def _mixed_seed(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step) % 2**63


def _to(batch: Any, device: torch.device) -> Any:  # noqa: ANN401
    return _each(batch, lambda tensor: tensor.to(device))


def _each(
    value: Any,  # noqa: ANN401
    change: Callable[[torch.Tensor], torch.Tensor],
) -> Any:  # noqa: ANN401
    """Return `value` with each tensor in it changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {k: _each(v, change) for k, v in value.items()}
    if isinstance(value, tuple | list):
        changed = [_each(v, change) for v in value]
        # A tuple with names takes its parts one by one.
        named = hasattr(value, "_fields")
        return type(value)(*changed) if named else type(value)(changed)
    if is_dataclass(value) and not isinstance(value, type):
        names = value.__dataclass_fields__
        return replace(value, **{n: _each(getattr(value, n), change) for n in names})
    return value


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Return a batch as `torch.load` reads it without running code."""
    if is_dataclass(value) and not isinstance(value, type):
        return {n: _plain(getattr(value, n)) for n in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value.detach() if isinstance(value, torch.Tensor) else str(value)


def _kept(batch: object, checkpoint: Path | None) -> str:
    """Save a batch beside the checkpoint, and return a sentence that says so."""
    if checkpoint is None:
        return "Give checkpoint= to have its batch saved."
    path = checkpoint.with_name(f"{checkpoint.stem}.batch.pt")
    try:
        _write(path, _plain(batch))
    except OSError as error:
        return f"Its batch could not be saved: {error}."
    whole = "; the checkpoint before it is whole" if checkpoint.exists() else ""
    return f"Its batch is in {path.name}{whole}."


def _make_way(path: Path) -> None:
    """Raise unless a file can go there, and remove what kills left of it."""
    if not path.parent.is_dir():
        raise StoreError(
            f"There is no folder {path.parent} for {path.name}: make it, or name "
            "another.",
            store=str(path),
        )
    if path.exists() and not path.is_file():
        raise StoreError(f"{path} is no file: name another.", store=str(path))
    part = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.part")
    # That one stays is no reason not to train.
    with suppress(OSError):
        for left in path.parent.iterdir():
            if part.fullmatch(left.name) and left.is_file() and not left.is_symlink():
                left.unlink()


def _write(path: Path, state: object) -> None:
    """Write what `torch.load` reads to a file that appears whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    _replace(path, buffer.getbuffer())


def _replace(path: Path, data: bytes | memoryview) -> None:
    """Write a file that appears whole or not at all."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file last, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _differences(theirs: Any, ours: Any, name: str = "") -> list[str]:  # noqa: ANN401
    """Return where two recipes differ, in words."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = [*theirs, *(k for k in ours if k not in theirs)]
        return [
            line
            for key in keys
            for line in _differences(
                theirs.get(key, "absent"), ours.get(key, "absent"), str(key)
            )
        ]
    return [] if theirs == ours else [f"{name} was {theirs}, and is {ours} here"]
