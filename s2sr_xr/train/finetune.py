"""A network made better for one scene, by that scene alone, one scale below its use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from s2sr_xr.errors import GridError, ModelError, StoreError
from s2sr_xr.models import files
from s2sr_xr.models.registry import check_runs, family, get_spec, is_path, load_model

if TYPE_CHECKING:
    import os

    import torch

    from s2sr_xr.grid import Object
    from s2sr_xr.models.spec import ModelSpec
    from s2sr_xr.train.pairs import Pair

__all__ = ["finetune"]

KEPT = 16
"""Cells along the side of what a patch is judged on."""

BATCH = 8
"""Patches a step."""


def finetune(
    obj: Object,
    model: str | os.PathLike[str],
    *,
    steps: int = 300,
    seed: int = 0,
    lr: float = 3e-4,
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Return the weights of a model that went on learning on one scene.

    All bands are degraded by the factor of the model, so that the native coarse bands
    are the truth; no other data is needed. What is learnt there is used one scale
    finer.

    Parameters
    ----------
    obj
        As `upsample` takes it; reflectance, read whole, the first time step. Cut it
        first where it is large: a few thousand pixels along a side are plenty.
    model
        One network that brings coarse bands to 10 m, such as "dsen2-s-20m", or the path
        of its weights. "dsen2" stands for two: name one.
    steps
        Batches of 8 patches.
    seed
        Decides every batch.
    lr
        Largest step size of Adam.
    out
        Where the weights go, a ``.safetensors`` file; None: ``NAME-finetuned`` in the
        working folder.

    Returns
    -------
    Path
        The weights, for ``upsample(model={"20m": path, "60m": ...})``.

    Raises
    ------
    ModelError
        The model stands for two, has no weights, or does not make coarse bands finer.
    MissingBandError, GridError
        The scene lacks a band, or is too small for a patch one scale below.
    StoreError
        `out` exists.
    """
    name, spec = _one(model)
    place = Path(out) if out is not None else Path(f"{spec.name}-finetuned.safetensors")
    place = place.expanduser()
    if place.suffix != ".safetensors" or place.exists():
        raise StoreError(
            f"The weights would go to {place}, which exists or is no .safetensors "
            'file. Say out="NEW.safetensors".',
            store=str(place),
        )
    # Heavy, and this module is imported with the package.
    from s2sr_xr.train.fit import Plan, fit
    from s2sr_xr.train.pairs import patches, reduced_pair

    pair = reduced_pair(obj, spec, "the scene")
    side = _side(pair, spec)
    network: torch.nn.Module = load_model(name)

    def draw(step: int) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        return patches([pair], spec, side=side, batch=BATCH, seed=seed, step=step)

    plan = Plan(steps=steps, lr=lr, seed=seed, ema=0.99)
    for step in fit(network, draw, _centre_loss, plan):
        network = step.network
    kind = files.read_header(Path(name)).kind if is_path(name) else spec.name
    facts = replace(spec, name=f"{spec.name}-finetuned", sha256=None)
    notes = {"finetuned": f"{steps} steps of {BATCH} patches, seed {seed}, lr {lr:g}"}
    files.save(place, network, facts, kind, notes=notes)
    return place


def _one(model: str | os.PathLike[str]) -> tuple[str, ModelSpec]:
    """Return the name or path of a network that learns one scale below, its facts."""
    name = str(model)
    if not is_path(name) and len(pair := family(name)) > 1:
        raise ModelError(
            f"{name} stands for {' and '.join(pair.values())}; one is tuned at a time."
        )
    check_runs(name)
    spec = get_spec(name)
    coarsest = spec.inputs[-1].names
    if not spec.trained or spec.output.names != coarsest or spec.units != "1":
        raise ModelError(
            f"{name} does not learn one scale below: it has no weights to learn, or "
            "does not make its coarsest bands finer. Choose one such as dsen2-s-20m."
        )
    return name, spec


def _side(pair: Pair, spec: ModelSpec) -> int:
    """Return the cells along the side of a patch: as many as the scene has, if few."""
    least, have = 2 * spec.margin + 4, min(pair.cells)
    if have < least:
        metres = spec.cell * spec.output.per_cell
        raise GridError(
            f"The scene has {' x '.join(map(str, pair.cells))} cells of {metres} m; "
            f"{spec.name} needs at least {least} along each side to learn from. Take a "
            "larger part."
        )
    return min(KEPT + 2 * spec.margin, have)


def _centre_loss(
    network: torch.nn.Module, batch: tuple[tuple[torch.Tensor, ...], torch.Tensor]
) -> torch.Tensor:
    """Return the mean absolute error where the network gives a result."""
    from torch.nn.functional import l1_loss

    images, target = batch
    made: torch.Tensor = network(*images)
    cut = (target.shape[-1] - made.shape[-1]) // 2
    inner = slice(cut, target.shape[-1] - cut)
    return l1_loss(made, target[..., inner, inner])
