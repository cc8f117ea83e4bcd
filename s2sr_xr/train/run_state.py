"""The state of a running training: files, log, precision, seeds."""

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
from dataclasses import asdict, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from s2sr_xr.errors import ModelError, StoreError
from s2sr_xr.train.plan import DivergedError, Plan, Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Draw: TypeAlias = Callable[[int], Any]
    Loss: TypeAlias = Callable[[nn.Module, Any], torch.Tensor]

__all__ = ["Log", "Run", "kept_files", "make_way"]


class Run:
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
                "The one before it is whole: make room and run again to resume from it."
                if path.exists()
                else "There is none before it: make room and begin again."
            )
            raise StoreError(
                f"The checkpoint after {self.next} steps cannot be written: {error}. "
                f"{before}",
                store=str(path),
            ) from error

    def load(self, path: Path) -> None:
        """Resume from a file."""
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


class Log:
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


def kept_files(batch: object, checkpoint: Path | None) -> str:
    """Save a batch next to the checkpoint, and return a sentence that says so."""
    if checkpoint is None:
        return "Give checkpoint= to have its batch saved."
    path = checkpoint.with_name(f"{checkpoint.stem}.batch.pt")
    try:
        _write(path, _plain(batch))
    except OSError as error:
        return f"Its batch could not be saved: {error}."
    whole = "; the checkpoint before it is whole" if checkpoint.exists() else ""
    return f"Its batch is in {path.name}{whole}."


def make_way(path: Path) -> None:
    """Raise unless a file can go there, and remove what kills left of it."""
    if not path.parent.is_dir():
        raise StoreError(
            f"There is no folder {path.parent} for {path.name}: make it, or name "
            "another.",
            store=str(path),
        )
    if path.exists() and not path.is_file():
        raise StoreError(f"{path} is not a file: name another.", store=str(path))
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
