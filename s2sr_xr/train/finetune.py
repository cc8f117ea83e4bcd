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

from s2sr_xr.errors import ModelError, S2SRWarning
from s2sr_xr.models import weights_file
from s2sr_xr.models.header import read_header
from s2sr_xr.models.registry import check_runs, family, get_spec, is_path
from s2sr_xr.models.weights_check import check_new

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    import torch

    from s2sr_xr.core.scene import Object
    from s2sr_xr.models.spec import ModelSpec

__all__ = ["finetune"]

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
    """Return the weights of a model, trained further on one scene.

    All bands are degraded by the factor of the model, so that the native bands are the
    reference; no other data is needed. What is learnt there is used one scale finer.
    The last quarter of the rows is held out: it decides how far the weights move, by
    quarters of the way, and not at all where that is best.

    Simulated scenes are learnt from too, at the scale of use, so that what the model
    knows there is kept; making them takes some 10 s.

    Weights that know many kinds of country gain most where a scene is unlike them, and
    may lose on ground unlike what they are tuned on: see `benchmarks/finetuning.py`.

    Parameters
    ----------
    obj
        As `upsample` takes it; reflectance, read whole, the first time step. Cut it
        first where it is large: a few thousand pixels along a side are plenty.
    model
        One network that brings coarse bands to 10 m, such as "dsen2-s-20m", or ten
        bands to 5 m, such as "carn-s"; or the path of its weights. "dsen2" stands for
        two: name one.
    steps
        Batches of 8 patches.
    seed
        Decides every batch.
    lr
        Largest step size of `s2sr_xr.train.optim.Muon`.
    out
        Where the weights go, a ``.safetensors`` file; None: ``NAME-finetuned`` in the
        working folder.

    Returns
    -------
    Path
        The weights, for ``upsample(model={"20m": path, "60m": ...})`` or
        ``superresolve(model=path)``. The notes in the file say how far they moved, and
        what that changed.

    Warns
    -----
    S2SRWarning
        Nothing that was learnt helps the rows that were held back: the weights are
        those of `model`.

    Raises
    ------
    ModelError
        The model stands for two, has no weights, or is of another kind.
    MissingBandError, GridError
        The scene lacks a band, is too small for a patch one scale below, or misses
        pixels all over what is learnt from or held back.
    StoreError
        `out` exists, has no folder, or cannot be written.
    """
    name, spec = _one(model)
    header = read_header(Path(name)) if is_path(name) else None
    place = Path(out) if out is not None else Path(f"{spec.name}-finetuned.safetensors")
    place = place.expanduser()
    check_new(place)
    # Heavy, and this module is imported with the package.
    from s2sr_xr.train.finetune_tasks import BATCH, lesson
    from s2sr_xr.train.loop import fit
    from s2sr_xr.train.optim import Muon
    from s2sr_xr.train.plan import Plan

    network, draw, loss, error = lesson(obj, spec, name, seed)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    plan = Plan(steps=steps, lr=lr, seed=seed, ema=0.99)
    for step in fit(network, draw, loss, plan, optimiser=Muon):
        network = step.network
    share, ratio = _moved(network, before, error)
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
    if header and "constants" in header.notes:
        notes["constants"] = header.notes["constants"]
    kind = header.kind if header else spec.name
    weights_file.save(place, network, facts, kind, notes=notes)
    return place


def _moved(
    network: torch.nn.Module,
    before: dict[str, torch.Tensor],
    error: Callable[[torch.nn.Module], torch.Tensor],
) -> tuple[float, float]:
    """Move the weights the best share of the way from `before`, and return it.

    And the error there, over that of the weights before.
    """
    import torch

    after = {k: v.clone() for k, v in network.state_dict().items()}

    def judged(share: float) -> float:
        _move(network, before, after, share)
        return float(error(network))

    with torch.no_grad():
        found = {share: judged(share) for share in SHARES}
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
    if is_path(name) and read_header(Path(name)).kind == "onnx":
        raise ModelError(
            f"{name} holds a graph of ONNX, which runs but cannot learn. Choose a "
            "network such as dsen2-s-20m or carn-s."
        )
    from s2sr_xr.train.finetune_tasks import makes_coarse, makes_ten

    spec = get_spec(name)
    known = makes_coarse(spec) or makes_ten(spec)
    if not spec.trained or not known or spec.units != "1":
        raise ModelError(
            f"{name} does not learn one scale below: it has no weights to learn, or "
            "makes neither its coarsest bands nor ten bands finer. Choose one such as "
            "dsen2-s-20m or carn-s."
        )
    return name, spec
