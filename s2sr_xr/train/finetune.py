"""A network made better for one scene, by that scene alone, one scale below its use.

A part of the scene is not learnt from, and decides how far the weights move from those
they were: what a short training finds is true of a scene to a degree (Wortsman et al.
2022, Robust fine-tuning of zero-shot models, CVPR).
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from s2sr_xr.errors import GridError, ModelError, S2SRWarning, StoreError
from s2sr_xr.models import files
from s2sr_xr.models.registry import check_runs, family, get_spec, is_path, load_model

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import torch

    from s2sr_xr.grid import Object
    from s2sr_xr.models.spec import ModelSpec
    from s2sr_xr.train.pairs import Pair

    Batch = tuple[tuple[torch.Tensor, ...], torch.Tensor]

__all__ = ["finetune"]

KEPT = 16
"""Cells along the side of what a patch is judged on."""

BATCH = 8
"""Patches a step."""

HELD = 4
"""The last of so many parts of the rows is held back, to judge by."""

FEWEST = 4
"""Rows that are held back at least."""

JUDGED = 24
"""Patches of them."""

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How far the weights may move, of the way that they were trained."""


def finetune(
    obj: Object,
    model: str | os.PathLike[str],
    *,
    steps: int = 300,
    seed: int = 0,
    lr: float = 1e-3,
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Return the weights of a model that went on learning on one scene.

    All bands are degraded by the factor of the model, so that the native coarse bands
    are the truth; no other data is needed. What is learnt there is used one scale
    finer. The last quarter of the rows is not learnt from: it decides how far the
    weights move, by quarters of the way, and not at all where that is best.

    Weights that know many kinds of country gain little: see `benchmarks/finetuning.py`.
    At its own scale, where only a simulated scene can tell, the error of the shipped
    weights rose by up to 1 %.

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
        Largest step size of `s2sr_xr.train.muon.Muon`.
    out
        Where the weights go, a ``.safetensors`` file; None: ``NAME-finetuned`` in the
        working folder.

    Returns
    -------
    Path
        The weights, for ``upsample(model={"20m": path, "60m": ...})``. The notes in
        the file tell how far they moved, and what that changed.

    Warns
    -----
    S2SRWarning
        Nothing that was learnt helps the rows that were held back: the weights are
        those of `model`.

    Raises
    ------
    ModelError
        The model stands for two, has no weights, or does not make coarse bands finer.
    MissingBandError, GridError
        The scene lacks a band, is too small for a patch one scale below, or misses
        pixels all over what is learnt from or held back.
    StoreError
        `out` exists, has no folder, or cannot be written.
    """
    name, spec = _one(model)
    kind = files.read_header(Path(name)).kind if is_path(name) else spec.name
    place = Path(out) if out is not None else Path(f"{spec.name}-finetuned.safetensors")
    place = place.expanduser()
    files.check_new(place)
    # Heavy, and this module is imported with the package.
    from s2sr_xr.train.fit import Plan, fit
    from s2sr_xr.train.muon import Muon
    from s2sr_xr.train.pairs import patches, reduced_pairs

    learnt, held = _parted(reduced_pairs(obj, spec, "the scene"), spec)
    side = min(KEPT + 2 * spec.margin, *(n for p in (*learnt, held) for n in p.cells))
    judged = patches([held], spec, side=side, batch=JUDGED, seed=seed, step=steps)

    def draw(step: int) -> Batch:
        return patches(learnt, spec, side=side, batch=BATCH, seed=seed, step=step)

    network: torch.nn.Module = load_model(name)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    plan = Plan(steps=steps, lr=lr, seed=seed, ema=0.99)
    for step in fit(network, draw, _relative, plan, optimiser=Muon):
        network = step.network
    share, ratio = _moved(network, before, judged)
    if not share:
        warnings.warn(
            f"After {steps} steps, {spec.name} is no better where the scene was held "
            f"back: {place.name} has the weights it began with. A larger part of the "
            "scene may help.",
            S2SRWarning,
            stacklevel=2,
        )
    facts = replace(spec, name=f"{spec.name}-finetuned", sha256=None)
    said = f"{steps} steps of {BATCH} patches, seed {seed}, lr {lr:g}"
    notes = {
        "finetuned": said,
        "moved": f"{share:g} of the way",
        "held_back": f"{ratio:.3f} of the error before",
    }
    try:
        files.save(place, network, facts, kind, notes=notes)
    except Exception as error:
        raise StoreError(
            f"The weights cannot be written to {place}: {error}.", store=str(place)
        ) from error
    return place


def _parted(pairs: list[Pair], spec: ModelSpec) -> tuple[list[Pair], Pair]:
    """Return what is learnt from, and what is held back: no target is in both."""
    least, metres = 2 * spec.margin + 4, spec.cell * spec.output.per_cell
    # Below the last row with pixels there is nothing to judge by.
    seen = [p.target.isfinite().any((0, 2)).nonzero() for p in pairs]
    ends = (int(s[-1]) // spec.output.per_cell + 1 if len(s) else 0 for s in seen)
    rows, columns = (min(p.cells[i] for p in pairs) for i in (0, 1))
    rows = min(rows, *ends)
    # Of two phases, one begins less than a cell after the other: one row is neither's.
    spare = rows - least - 1
    if spare < FEWEST or columns < least:
        raise GridError(
            f"The scene has {rows} x {columns} cells of {metres} m; {spec.name} needs "
            f"at least {least + 1 + FEWEST} x {least} to learn from. Take a larger "
            "part."
        )
    last = min(max(rows // HELD, FEWEST), spare)
    # A target lies within the margin of its patch.
    held = _rows(pairs[0], spec, slice(rows - last - 2 * spec.margin, rows))
    return [_rows(p, spec, slice(0, rows - last - 1)) for p in pairs], held


def _rows(pair: Pair, spec: ModelSpec, rows: slice) -> Pair:
    groups = [*spec.inputs, spec.output]
    *images, target = (
        image[:, rows.start * g.per_cell : rows.stop * g.per_cell]
        for g, image in zip(groups, (*pair.images, pair.target), strict=True)
    )
    return replace(pair, images=tuple(images), target=target)


def _moved(
    network: torch.nn.Module, before: dict[str, torch.Tensor], judged: Batch
) -> tuple[float, float]:
    """Move the weights the best share of the way from `before`, and return it.

    And the error there, over that of the weights before.
    """
    import torch

    after = {k: v.clone() for k, v in network.state_dict().items()}

    def error(share: float) -> float:
        _move(network, before, after, share)
        return float(_relative(network, judged))

    with torch.no_grad():
        found = {share: error(share) for share in SHARES}
        best = min(found, key=lambda share: found[share])
    _move(network, before, after, best)
    return best, found[best] / found[0.0]


def _move(
    network: torch.nn.Module,
    before: Mapping[str, torch.Tensor],
    after: Mapping[str, torch.Tensor],
    share: float,
) -> None:
    """Give a network the weights that lie so far between two states of it."""
    for key, value in network.state_dict().items():
        value.copy_(before[key].lerp(after[key], share))


def _one(model: str | os.PathLike[str]) -> tuple[str, ModelSpec]:
    """Return the name or path of a network that learns one scale below, its facts."""
    name = str(Path(model).expanduser()) if is_path(model) else str(model)
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


def _relative(network: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return the loss of the shipped weights where the network gives a result."""
    from s2sr_xr.train.losses import over_bicubic

    images, target = batch
    return over_bicubic(network(*images), images[-1], target).mean()
