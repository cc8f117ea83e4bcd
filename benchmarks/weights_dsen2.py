"""What `dsen2-s-20m` and `dsen2-s-60m` learn from and how: what TOML cannot say.

Recipes: ``recipes/dsen2-s-*.toml``; driver: `make_weights.py`.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import self_teaching
import torch
from cards import bf16_rmse
from judge import ratio_to_bicubic
from real_scenes import (
    LEFT_OUT,
    loaded,
    partial_scenes,
    place,
    read,
    reflectance,
    title,
    whole_scenes,
)
from scores_5m import with_margin

import s2sr_xr
from s2sr_xr.core.filters import reduce_scale
from s2sr_xr.models.published import published
from s2sr_xr.train import Muon
from s2sr_xr.train import fit as fit_any
from s2sr_xr.train.data.pairs import Pair, reduced_pair, reduced_pairs, true_pair
from s2sr_xr.train.recipes.dsen2 import Recipe, first_network, fit
from s2sr_xr.train.settings import fields_of, made, split

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s2sr_xr.train import Step


class Maker:
    """Stages of a network, and its scores."""

    names = fields_of(Recipe) | {"simulated_weight", "true_weight"}
    names |= {"taught", "partial", "dates"}

    def __init__(self, recipe: dict, real: Path) -> None:
        self.name, self.scenes, self.folder = recipe["network"], recipe["scenes"], real
        self.spec = next(s for s, _ in published() if s.name == self.name)
        self.task = self.name[-3:]
        self.seeds = range(100, 100 + self.scenes["simulated"])
        self.learnt: list[Pair] = []

    def recipe(self, stage: dict) -> Recipe:
        """Return the settings of a stage."""
        return made(Recipe, split(stage, Recipe)[0], spec=self.spec)

    def begin(self, stage: dict) -> torch.nn.Module:
        """Return the network as a stage begins with it."""
        return first_network(self.recipe(stage))

    def steps(
        self, stage: dict, network: torch.nn.Module, **files: Path
    ) -> Iterator[Step]:
        """Train a stage."""
        recipe = self.recipe(stage)
        true, weight = stage.get("true_weight", 0.0), stage["simulated_weight"]
        how = stage.get("taught")
        self.learnt = self.real(stage)
        given = {"reduced": True, "true": bool(true and not how)}
        for pair in self.simulated(self.seeds, self.scenes["size"], **given):
            at_own = pair.name.endswith("at its own scale")
            self.learnt.append(
                replace(pair, weight=true if at_own else weight * pair.weight)
            )
        if not how:
            return fit(recipe, self.learnt, first=network, **files)
        teaching = self_teaching.Teaching(**how)
        taught = self_teaching.lessons(network, recipe, self.learnt, teaching)
        if true:  # with their reference alone, not taught
            finer = self.simulated(
                self.seeds, self.scenes["size"], reduced=False, true=True
            )
            self.learnt += [replace(pair, weight=true) for pair in finer]
        return fit_any(
            network,
            self_teaching.batches(taught, recipe, self.learnt, teaching),
            partial(self_teaching.loss, edge=recipe.edge, share=teaching.share),
            recipe.plan,
            optimiser=Muon,
            facts=asdict(recipe) | stage,
            **files,
        )

    def real(self, stage: dict) -> list[Pair]:
        """Return reduced-scale pairs of real scenes to learn from."""
        seen = [s for s in self.whole() if place(s.name) not in LEFT_OUT[self.task]]
        if stage.get("partial"):
            seen += partial_scenes(self.folder)
        phases = self.scenes["phases"]
        pairs = [
            pair
            for s in seen
            for pair in reduced_pairs(loaded(s), self.spec, title(s), phases=phases)
        ]
        return pairs + (two_dates(self.folder, self.spec) if stage.get("dates") else [])

    def whole(self) -> list:
        """Return the scenes that are large enough."""
        least = self.scenes.get("least", 0)
        return [
            s for s in whole_scenes(self.folder) if min(s.counts["B01"].shape) >= least
        ]

    def simulated(
        self, seeds: range, size: int, *, reduced: bool, true: bool
    ) -> Iterator[Pair]:
        """Yield pairs of simulated scenes, of both levels."""
        phases = self.scenes["phases"]
        for k in seeds:
            for level in ("L1C", "L2A"):
                with tempfile.TemporaryDirectory() as scratch:
                    item = s2sr_xr.simulate_scene(
                        scratch, size=size, seed=k, level=level
                    )
                    tree = s2sr_xr.open_stac(item, chunks=None)
                    name = f"simulated:{k}{level}"
                    if reduced:
                        yield from reduced_pairs(tree, self.spec, name, phases=phases)
                    if true:
                        truth = s2sr_xr.open_truth(item)
                        own = f"{name} at its own scale"
                        yield true_pair(tree, truth, self.spec, own)

    def facts(self) -> dict:
        """Return what the header says of the scenes that were learnt from."""
        return {"levels": ("L1C", "L2A"), "fill": means(self.learnt, self.spec)}

    def learnt_from(self) -> list[str]:
        """Return the names of the scenes of the last stage."""
        return list(dict.fromkeys(p.name for p in self.learnt))

    def scores(self, network: torch.nn.Module, ready: torch.nn.Module) -> dict:
        """Return what the card says of the network."""
        away = [s for s in self.whole() if place(s.name) in LEFT_OUT[self.task]]
        judged = [reduced_pair(loaded(s), self.spec, title(s)) for s in away]
        judged += self.simulated(range(2), 480, reduced=False, true=True)
        given = (
            with_margin([i.nan_to_num(0.1) for i in p.images], self.spec)
            for p in judged
        )
        return {
            "rmse_over_bicubic": figures(network.eval(), self.spec, judged),
            # As it is used: what is near 0 in bf16 is not so at an edge of zeros.
            "bf16_rmse": bf16_rmse(ready, given, self.spec.flat),
        }


def two_dates(folder: Path, spec) -> list[Pair]:
    """Return a scene of 10 m bands as one whose coarse bands partly show another date.

    Detail that the fine bands have, and detail that they do not, as in B11 and B12.
    """
    names = spec.inputs[0].names
    dates = []
    for k in "ab":
        scene = read(folder / f"l2a_native/ftw_austria_10m_only_{k}.npz")
        dates.append([torch.from_numpy(reflectance(scene, b)) for b in names])
    pairs = []
    for (red, green, blue, near), (red2, _, _, near2) in (dates, dates[::-1]):
        fine = torch.stack([red, green, blue, near])
        b05, b12 = (green + near) / 2, (red2 + green) / 2
        b8a = (near + near2) / 2
        coarse = torch.stack([b05, near, near2, b8a, red2, b12])
        for at in product(range(2), repeat=2):
            rows, cols = (
                slice(2 * k, 2 * k + (n - 2 * k) // 4 * 4)
                for n, k in zip(fine.shape[1:], at, strict=True)
            )
            small, target = (reduce_scale(x[:, rows, cols], 2) for x in (fine, coarse))
            images = (small, reduce_scale(target, 2))
            # Of four phases, and less than a real scene.
            pairs.append(Pair("L2A:ftw_austria", images, target, weight=0.7 / 4))
    return pairs


def figures(network, spec, pairs: list[Pair]) -> dict[str, float]:
    """Return, scene by scene, the mean over bands of RMSE over that of bicubic."""
    found = {}
    for pair in pairs:
        border = 2 * spec.output.per_cell if min(pair.target.shape[-2:]) > 60 else 4
        ratios = ratio_to_bicubic(network, spec, pair, border=border)
        found[pair.name] = round(float(np.mean(list(ratios.values()))), 3)
    return found


def means(pairs: list[Pair], spec) -> dict[str, float]:
    """Return the mean reflectance of each band: what stands in for missing pixels."""
    found = {}
    for n, group in enumerate(spec.inputs):
        for c, band in enumerate(group.names):
            values = [float(torch.nanmean(p.images[n][c])) for p in pairs]
            found[band] = round(float(np.mean(values)), 4)
    return found
