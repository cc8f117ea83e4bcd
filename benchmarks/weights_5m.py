"""What `carn-s` learns from and how: the part of its recipe that TOML cannot say.

Recipe: ``recipes/carn-s.toml``; driver: `make_weights.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from cards import bf16_rmse
from real_scenes import loaded, partial_scenes, title
from scores_5m import (
    FINE,
    SPEC,
    figures,
    fresh,
    held_out,
    in_use,
    known,
    left_out,
    real_scenes,
    simulated,
    summary,
)

from s2sr_xr.train import Augment, Plan, Rules, Sampler, Source, fit, source
from s2sr_xr.train.optim import optimiser_of
from s2sr_xr.train.recipes.restoration import Restoration
from s2sr_xr.train.settings import fields_of, made, split

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s2sr_xr.train import Step

WHITE = 4  # of the 20 m bands, that are bright over ice
DARK = 1e-2  # reflectance below which a mean says nothing of how bright a patch is


class Maker:
    """Stages of the network, and its scores."""

    spec = SPEC
    names = fields_of(Plan) | fields_of(Restoration) | {"optimiser", "partial", "icy"}

    def __init__(self, recipe: dict, real: Path) -> None:
        self.scenes, self.folder = recipe["scenes"], real
        self.plain: list[Source] = []
        self.sources: dict[bool, tuple[list[Source], list[Source]]] = {}

    def begin(self, _: dict) -> torch.nn.Module:
        """Return the network as it begins."""
        return fresh("same")

    def steps(
        self, stage: dict, network: torch.nn.Module, **files: Path
    ) -> Iterator[Step]:
        """Train a stage."""
        timing, rest = split(stage, Plan, Restoration)
        plan, loss = made(Plan, timing), made(Restoration, rest)
        partial = stage.get("partial", False)
        if partial not in self.sources:
            self.sources[partial] = self._sources(partial=partial)
        self.plain, truths = self.sources[partial]
        draw = Draw(self.plain, truths, stage, self.scenes)
        return fit(
            network,
            draw,
            loss,
            plan,
            facts=stage,
            optimiser=optimiser_of(stage["optimiser"]),
            **files,
        )

    def _sources(self, *, partial: bool) -> tuple[list[Source], list[Source]]:
        """Return scenes to learn from: real and simulated, and these with their 5 m."""
        real = real_scenes(self.folder)
        near = {name: tree for name, tree in real.items() if not held_out(name)}
        if partial:
            near |= {title(s): loaded(s) for s in partial_scenes(self.folder)}
        plain = [source(tree, SPEC, name) for name, tree in near.items()]
        truths, weight = [], self.scenes["simulated_weight"]
        for seed in range(100, 100 + self.scenes["simulated"]):
            for level in ("L1C", "L2A"):
                tree, truth = simulated(seed, level, self.scenes["size"])
                name = f"simulated:{seed}{level}"
                plain.append(source(tree, SPEC, name, weight=weight))
                truths.append(source(tree, SPEC, name, truth=(truth, FINE)))
        return plain, truths

    def facts(self) -> dict:
        """Return what the header says of the scenes that were learnt from."""
        return {"levels": ("L1C", "L2A"), "fill": means(self.plain)}

    def learnt_from(self) -> list[str]:
        """Return the names of the scenes of the last stage."""
        return [s.name for s in self.plain]

    def scores(self, network: torch.nn.Module, _: torch.nn.Module) -> dict:
        """Return what the card says of the network."""
        ready, judged = in_use(network.state_dict()), left_out(self.folder)
        found = figures(ready, judged)
        return {
            "bf16_rmse": bf16_rmse(ready, (known(tree) for tree in judged.values())),
            "figures": summary(found),
            "scenes": found,
        }


class Draw:
    """Step -> a batch of real scenes, and a smaller one of scenes with their truth."""

    def __init__(
        self, plain: list[Source], truths: list[Source], stage: dict, scenes: dict
    ) -> None:
        self.seed, self.icy = stage.get("seed", 0), stage.get("icy", 0.0)
        augment = Augment(gain=tuple(scenes["gain"]), odd=scenes["odd"])
        rules = Rules(cloud=0.25, flat=0)
        given = {"seed": self.seed, "rules": rules, "augment": augment, "steps": 16}
        self.real = Sampler(plain, **scenes["patches"], **given)
        self.truth = Sampler(truths, **scenes["finer_patches"], **given)

    def __call__(self, step: int) -> tuple[tuple[torch.Tensor, ...], ...]:
        """Return what `Restoration` takes."""
        ten, twenty = self.real(step)
        rng = np.random.default_rng((self.seed, step, 9))
        return iced(ten, twenty, self.icy, rng), self.truth(step)


def iced(
    ten: torch.Tensor, twenty: torch.Tensor, share: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch, some of whose patches are like ice: few scenes show any.

    Bright, but for B11 and B12, which are dark and show other ground: what a network
    carries over to them from the other bands is wrong.
    """
    chosen = torch.from_numpy(np.flatnonzero(rng.random(len(ten)) < share))
    if not len(chosen):
        return ten, twenty

    def times(to: np.ndarray, x: torch.Tensor, ends: tuple[float, float]):
        level = torch.from_numpy(to).to(x)[:, None, None, None]
        return (level / x.mean((1, 2, 3), keepdim=True).clamp_min(DARK)).clamp(*ends)

    other = twenty.roll(1, 0)[chosen, WHITE:]
    bright = rng.uniform(0.3, 0.95, len(chosen))
    gain = times(bright, ten[chosen], (0.5, 10))
    dark = np.exp(rng.uniform(np.log(0.01), np.log(0.1), len(chosen)))
    ten, twenty = ten.clone(), twenty.clone()
    ten[chosen] *= gain
    twenty[chosen, :WHITE] *= gain
    twenty[chosen, WHITE:] = other * times(dark, other, (0.01, 2))
    return ten, twenty


def means(learnt: list[Source]) -> dict[str, float]:
    """Return the mean reflectance of each band: what stands in for missing pixels."""
    return {
        band: round(float(np.mean([np.nanmean(s.layers[g][c]) for s in learnt])), 4)
        for g, group in enumerate(SPEC.inputs)
        for c, band in enumerate(group.names)
    }
