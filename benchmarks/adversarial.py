"""What an adversarial loss brings and costs, beside the same training without it.

    python benchmarks/adversarial.py

`evoland-gan` goes on from the shipped 5 m weights, on simulated scenes with their
truth; its control does too, and its adversarial loss weighs nothing: the same batches,
the same steps. Both are judged on simulated scenes that none of them saw: PSNR over
bicubic; `detail`, the spread of what an image has beyond half its sampling, over that
of the truth's (1 is right); and the score that chooses among checkpoints (`natural`,
lower is better), which knows no truth.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np
import torch
from common import known, table, tell
from scores_5m import (
    FINE,
    NAME,
    SPEC,
    at_5_m,
    decibel,
    errors,
    fresh,
    in_use,
    simulated,
)

import s2sr_xr
from s2sr_xr.train import Plan, source
from s2sr_xr.train.five_metres import Scenes
from s2sr_xr.train.losses import high_pass
from s2sr_xr.train.recipes.evoland_gan import (
    Adversarial,
    Choice,
    Gan,
    judge_of,
    network,
    train,
)

if TYPE_CHECKING:
    import xarray as xr

    State = dict[str, torch.Tensor]
    Scene = tuple[xr.DataTree, xr.Dataset]

SEEN, JUDGED = (100, 101, 102, 103), (0, 1)
"""Seeds of the scenes; the shipped weights saw the first four."""

EDGE = 16
"""Output pixels along the border that do not count."""


def recipe_of(args: argparse.Namespace, weight: float) -> Gan:
    """Return what happens, with an adversarial loss of this weight."""
    return Gan(
        loss=Adversarial(weight=weight),
        plan=Plan(steps=args.steps, lr=1e-4),
        first=NAME,
        side=32,
        batch=args.batch,
        choice=Choice(patches=args.patches, natural=args.natural, side=32),
    )


def trained(recipe: Gan, scenes: Scenes) -> State:
    """Return the weights of the generator after the last step."""
    _, build = known()[NAME]
    for step in train(recipe, network(recipe, build), scenes):
        last = step.network
    return {k: v.clone() for k, v in last.state_dict().items()}


@torch.inference_mode()
def measured(state: State, scene: Scene) -> tuple[float, float]:
    """Return dB of PSNR over bicubic, and detail over that of the truth."""
    made, flat, fine = at_5_m(in_use(state), *scene)
    ours, theirs = (errors(x, fine, EDGE) for x in (made, flat))
    inner = slice(EDGE, -EDGE)
    detail, true = (
        high_pass(x[None])[..., inner, inner].std((2, 3)) for x in (made, fine)
    )
    return float(np.mean(decibel(ours, theirs))), float((detail / true).mean())


def main(arguments: list[str] | None = None) -> None:
    """Train with and without, and tell what that changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.01, 0.1])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=480, help="of simulated scenes")
    parser.add_argument("--patches", type=int, default=16, help="that are scored")
    parser.add_argument("--natural", type=int, default=64, help="that are natural")
    args = parser.parse_args(arguments)
    seen = {k: simulated(k, "L2A", args.size) for k in SEEN}
    judged = {k: simulated(k, "L2A", args.size) for k in JUDGED}
    finer = [source(t, SPEC, str(k), truth=(f, FINE)) for k, (t, f) in seen.items()]
    held = [source(t, SPEC, str(k)) for k, (t, _) in judged.items()]
    score = judge_of(recipe_of(args, 0.0), Scenes(finer=finer, held=held))

    def judge(name: str, state: State) -> dict[str, object]:
        network = fresh("same").eval()
        network.load_state_dict(state)
        db, detail = np.mean([measured(state, j) for j in judged.values()], axis=0)
        found = {"db": float(db), "detail": float(detail), "natural": score(network)}
        return tell("adversarial", {"network": name, "steps": args.steps} | found)

    rows = [judge("as shipped", s2sr_xr.load_model(NAME).state_dict())]
    for weight in (0.0, *args.weights):
        name = f"weight {weight:g}" if weight else "control"
        state = trained(recipe_of(args, weight), Scenes(finer=finer))
        rows.append(judge(name, state))
    table(rows, "network", "db", "detail", "natural")


if __name__ == "__main__":
    main()
