"""A stage of `dsen2-s-20m`: it learns what it says itself, however it is turned.

    python benchmarks/self_taught.py --real DIR --first D --out E
    python benchmarks/self_taught.py --real DIR --first F --out G --steps 1500 --last

A network gives another image of a scene that is turned or mirrored; the mean over the
eight ways is nearer to the truth (Timofte et al. 2016, Seven ways to improve
example-based single image super resolution, CVPR), and eight times as dear. Here the
mean is made once, of patches that need no truth to be good for it (bands mixed and
dimmed, the ground of two dates in one scene), and the network learns to give it in one
pass, beside the truth. `--first` is what the stage before wrote; with ``--and`` another
run of it, the two are averaged first.

With ``--last`` the network, and what it teaches itself, projects back from here on
(`BackProjection`), and simulated scenes at their own scale are learnt from too: to
project back as the coarse sensor of the scale below costs sharpness where the truth is
known at 10 m.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from shipped import SIMULATED, real_pairs, ship, simulated

from s2sr_xr.models.networks.layers import lower
from s2sr_xr.models.published import PROJECT, published
from s2sr_xr.train.data.augment import Augment
from s2sr_xr.train.loop import fit
from s2sr_xr.train.losses import over_bicubic
from s2sr_xr.train.optim import Muon
from s2sr_xr.train.plan import Plan
from s2sr_xr.train.recipes.dsen2 import Recipe, drawn, first_network

if TYPE_CHECKING:
    from s2sr_xr.train.data.pairs import Pair

NAME = "dsen2-s-20m"
SPEC = next(s for s, _ in published() if s.name == NAME)
WEIGHT = 0.2  # of a simulated scene, beside a real one
TAUGHT = 10  # patches of a batch that were taught; the others have their truth alone
TRUE = 0.15  # of a simulated scene at its own scale
SHARE = 0.7  # of the loss, that is against what was taught
AUGMENT = Augment(mixed=0.35, odd=0.08)
"""Of what is taught."""


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
def lessons(teacher: Turned, recipe: Recipe, pairs: list[Pair], batches: int) -> Lesson:
    """Return what is taught."""
    found = []
    for step in range(batches):
        images, truth = drawn(recipe, pairs, step, AUGMENT)
        found.append((*images, truth, teacher(*images)))
    *images, truth, mean = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Lesson(tuple(images), truth, mean)


def batch_of(taught: Lesson, recipe: Recipe, pairs: list[Pair], step: int) -> Lesson:
    """Return patches that were taught, turned at random, and some that were not."""
    rng = np.random.default_rng((recipe.seed, step, 7))
    chosen = torch.from_numpy(rng.integers(len(taught.truth), size=TAUGHT))
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))

    def some(x: torch.Tensor) -> torch.Tensor:
        return turned(x[chosen], turns, flip=flip)

    few = replace(recipe, batch=recipe.batch - TAUGHT)
    images, truth = drawn(few, pairs, step)
    both = (torch.cat((some(x), y)) for x, y in zip(taught.images, images, strict=True))
    return Lesson(
        tuple(both),
        torch.cat((some(taught.truth), truth)),
        torch.cat((some(taught.mean), truth)),
    )


def loss(network: torch.nn.Module, batch: Lesson, edge: int) -> torch.Tensor:
    """Return the error against the truth, and against what was taught."""
    inner = slice(edge, -edge)
    made = network(*batch.images)[..., inner, inner]
    true, mean = (
        over_bicubic(made, batch.images[-1], t).mean()
        for t in (batch.truth, batch.mean)
    )
    return (1 - SHARE) * true + SHARE * mean


def main(arguments: list[str] | None = None) -> None:
    """Teach the network, score it, and write weights and card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--first", type=Path, required=True)
    parser.add_argument("--and", dest="other", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--last", action="store_true", help="stage: project back")
    parser.add_argument("--batches", type=int, default=260, help="that are taught")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--size", type=int, default=720, help="of simulated scenes")
    args = parser.parse_args(arguments)
    stages = json.loads((args.first / f"{NAME}.json").read_text())["recipe"]["stages"]
    # It may be taught again by what it has become.
    recipe = Recipe(
        spec=SPEC,
        steps=args.steps,
        lr=5e-4,
        mixed=0.1,
        strangers=0.04,
        seed=17 + len(stages),
        optimiser="muon",
        project=PROJECT[20] if args.last else 0.0,
    )
    folders = [f for f in (args.first, args.other) if f is not None]
    states = [load_file(f / f"{NAME}.safetensors") for f in folders]
    network = first_network(recipe)
    network.load_state_dict(
        {k: torch.stack([s[k] for s in states]).mean(0) for k in states[0]}
    )
    learnt, judged = real_pairs(args.real, SPEC, "20m", stages=len(stages))
    seeds = range(100, 100 + SIMULATED["20m"])
    for pair in simulated(SPEC, "20m", seeds, args.size, reduced=True, true=False):
        learnt.append(replace(pair, weight=WEIGHT * pair.weight))
    begun = time.monotonic()
    teacher = first_network(recipe).eval()
    teacher.load_state_dict(network.state_dict())
    lower(teacher)
    taught = lessons(
        Turned(teacher), replace(recipe, seed=73 + len(stages)), learnt, args.batches
    )
    print(
        f"{len(taught.truth)} patches in {time.monotonic() - begun:.0f} s", flush=True
    )
    weight = TRUE if args.last else 0.0
    if weight:  # with their truth alone, not taught
        finer = simulated(SPEC, "20m", seeds, args.size, reduced=False, true=True)
        learnt += [replace(pair, weight=weight) for pair in finer]
    args.out.mkdir(parents=True, exist_ok=True)
    found: list[float] = []
    for step in fit(
        network,
        partial(batch_of, taught, recipe, learnt),
        partial(loss, edge=recipe.edge),
        Plan(steps=recipe.steps, lr=recipe.lr, ema=recipe.ema, seed=recipe.seed),
        checkpoint=args.out / f"{NAME}.checkpoint",
        optimiser=Muon,
        facts=asdict(recipe) | {"patches": len(taught.truth), "true": weight},
    ):
        found.append(step.loss)
        if step.step % 100 == 99:
            seconds = time.monotonic() - begun
            print(step.step, f"{np.mean(found[-100:]):.5f} {seconds:.0f} s", flush=True)
        last = step.network
    judged += simulated(SPEC, "20m", range(2), 480, reduced=False, true=True)
    own = {"taught": len(taught.truth), "share": SHARE, "true_weight": weight}
    stages.append(asdict(recipe) | own)
    ship(last, SPEC, stages, learnt, judged, WEIGHT, args.out)


if __name__ == "__main__":
    main()
