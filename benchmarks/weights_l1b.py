"""What `csr-s` and `rec-s` learn from and how: the part that TOML cannot say.

Recipes: ``recipes/csr-s.toml``, ``recipes/rec-s.toml``; driver: `make_weights.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from cards import bf16_rmse
from scores_l1b import (
    flow_table,
    judged_views,
    pairs_of,
    psnr_table,
    real_images,
    shifts_left,
    simulated_images,
)

import s2sr_xr
from s2sr_xr.models.networks.aligned_rec import AlignedREC
from s2sr_xr.models.published import published
from s2sr_xr.train import Plan
from s2sr_xr.train.data.l1b_simulation import BANDS, Sensor, to_counts
from s2sr_xr.train.recipes import csr, rec
from s2sr_xr.train.settings import fields_of, made, split

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s2sr_xr.train import Step

BUILD = {spec.name: (spec, build) for spec, build in published()}
KINDS = {"csr-s": csr.Recipe, "rec-s": rec.Recipe}


class Maker:
    """Stages of a network, and its scores."""

    names = fields_of(Plan) | fields_of(rec.Recipe)

    def __init__(self, recipe: dict, real: Path) -> None:
        self.name, self.folder = recipe["network"], real
        self.spec = BUILD[self.name][0]
        self.simulated = recipe["scenes"]["simulated"]
        self.last = recipe["stages"][-1]
        self.learnt: dict[str, torch.Tensor] = {}

    def recipe(self, stage: dict) -> csr.Recipe | rec.Recipe:
        """Return the settings of a stage."""
        kind = KINDS[self.name]
        plan, rest = split(stage, Plan, kind)
        sensor = made(Sensor, rest.pop("sensor"))
        return made(kind, rest, plan=made(Plan, plan), sensor=sensor)

    def begin(self, stage: dict) -> torch.nn.Module:
        """Return the network that training begins with, for the bands of a stage."""
        torch.manual_seed(stage.get("seed", 0))
        if self.name != "rec-s":
            return BUILD[self.name][1]()
        bands = stage.get("bands", BANDS)
        network = AlignedREC(bands=len(bands), reference=bands.index("B03"))
        return rec.begun(network, s2sr_xr.load_model("csr-s"), phase=network.phase)

    def steps(
        self, stage: dict, network: torch.nn.Module, **files: Path
    ) -> Iterator[Step]:
        """Train a stage."""
        recipe = self.recipe(stage)
        if not self.learnt:
            self.learnt, _ = real_images(self.folder)
            self.learnt |= simulated_images(range(100, 100 + self.simulated))
        images, names = list(self.learnt.values()), list(self.learnt)
        if isinstance(recipe, csr.Recipe):
            return csr.train(recipe, network, images, names=names, **files)
        flows = s2sr_xr.load_model("csr-s")
        return rec.train(recipe, network, images, csr=flows, names=names, **files)

    def facts(self) -> dict:
        """Return what the header says of the scenes that were learnt from."""
        return {"levels": ("L1B",), "fill": fill_of(real_images(self.folder)[0])}

    def learnt_from(self) -> list[str]:
        """Return the names of the scenes."""
        return list(self.learnt)

    def scores(
        self,
        network: torch.nn.Module,
        _: torch.nn.Module,
        stage: dict | None = None,
    ) -> dict:
        """Return what the card says of the network of a stage."""
        recipe = self.recipe(stage or self.last)
        bands = getattr(recipe, "bands", BANDS)
        fine, network = self.name == "rec-s", network.eval()
        # Half as many as are learnt from.
        kept = self.simulated // 2
        sets = judged_views(self.folder, recipe.sensor, truth=fine, simulated=kept)
        counts = (s.views.counts[:, 0, [BANDS.index(b) for b in bands]] for s in sets)
        if fine:
            given = ((c,) for c in counts)
            plain = rec.Recipe(sensor=recipe.sensor, bands=tuple(bands))
            table = psnr_table(network, sets, plain)
        else:
            given = (pairs_of(c) for c in counts)
            table = flow_table(network, sets)
        return {"bf16_rmse": bf16_rmse(network, given), "figures": table}

    def on_real(self, network: torch.nn.Module, folder: Path) -> dict:
        """Return how far bands lie from green in real crops, before and after."""
        return shifts_left(network, folder)


def fill_of(learnt: dict) -> dict[str, float]:
    """Return the mean count of each band: what stands in for missing pixels."""
    means = [to_counts(torch.nanmean(i.flatten(1), dim=1)) for i in learnt.values()]
    mean = torch.stack(means).mean(0)
    return {b: round(float(v), 1) for b, v in zip(BANDS, mean, strict=True)}
