"""How good are the networks of Level-1B? Views that none has seen, and scores.

Used by `make_weights.py` and `l1b_tables.py`. Real 10 m bands stand for the ground at
5 m; places in `real_scenes.LEFT_OUT` are only scored.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import rasterio
import torch
from judge import l1b_psnr
from real_scenes import LEFT_OUT, place, read

import s2sr_xr
from s2sr_xr.core.filters import block_mean
from s2sr_xr.models.networks.registration import standardise
from s2sr_xr.train.data.l1b_simulation import BANDS, Sensor, Views, blurred, views
from s2sr_xr.train.recipes import csr, rec

if TYPE_CHECKING:
    from pathlib import Path


class Set(NamedTuple):
    """Views of one scene, to judge by."""

    name: str
    views: Views


def real_images(folder: Path) -> tuple[dict, dict]:
    """Return reflectance (4, H, W) of scenes to learn from, and to judge by."""
    learnt, judged = {}, {}
    for path in sorted(folder.glob("l?[ac]_native/*.npz")):
        scene = read(path)
        counts = np.stack([scene.counts[b] for b in BANDS]).astype(np.float32)
        image = torch.from_numpy((counts + scene.offset) / 10_000)
        image[:, torch.from_numpy((counts == 0).any(axis=0))] = torch.nan
        kept = judged if place(scene.name) in LEFT_OUT["20m"] else learnt
        kept[f"{scene.level}:{scene.name}"] = image
    return learnt, judged


def simulated_images(seeds, size: int = 720) -> dict:
    """Return simulated scenes: bands that are aligned for certain."""
    found = {}
    for k in seeds:
        with tempfile.TemporaryDirectory() as scratch:
            item = s2sr_xr.simulate_scene(scratch, size=size, seed=k, level="L1C")
            truth = s2sr_xr.open_truth(item)
            stack = np.stack([truth[b].to_numpy() for b in BANDS])
            found[f"simulated:{k}"] = torch.from_numpy(stack).float()
    return found


def judged_views(
    folder: Path, sensor: Sensor, *, truth: bool, simulated: int = 2
) -> list[Set]:
    """Return views of places that no network has seen, and of simulated scenes."""
    fixed = replace(sensor, dimmest=1.0, brightest=1.0)
    _, judged = real_images(folder)
    found = []
    for name, image in (judged | simulated_images(range(simulated), 480)).items():
        room = min(image.shape[-2:]) // 2 - fixed.reach
        side = min(room // 16 * 16, 96)
        if side < 64:
            continue
        sizes = {"side": side, "batch": 6, "seed": 7, "step": 0}
        try:
            made = views(blurred([image], fixed), fixed, truth=truth, **sizes)
        except s2sr_xr.GridError as error:
            print(f"{name}: {error}")
            continue
        found.append(Set(name, made))
    return found


def flow_table(network, sets: list[Set]) -> dict:
    """Return the flow errors of Table 1, scene by scene and in the mean."""
    tables = {s.name: csr.flow_errors(network, s.views) for s in sets}
    still = {s.name: csr.flow_errors(lambda p: 0 * p, s.views) for s in sets}

    def summary(table: torch.Tensor) -> dict[str, float]:
        rgb, nir = table[:3, :3].mean(), (table[3, :3].mean() + table[:3, 3].mean()) / 2
        return {"B,G,R": round(float(rgb), 3), "with NIR": round(float(nir), 3)}

    mean = torch.stack(list(tables.values())).mean(0)
    return {
        "mean": summary(mean),
        "no_flow": summary(torch.stack(list(still.values())).mean(0)),
        "pairs": {
            a: {b: round(float(mean[i, j]), 3) for j, b in enumerate(BANDS)}
            for i, a in enumerate(BANDS)
        },
        "scenes": {name: summary(table) for name, table in tables.items()},
    }


def psnr_table(network, sets: list[Set], recipe: rec.Recipe) -> dict:
    """Return the PSNR of each band, scene by scene and in the mean."""
    scenes = {s.name: l1b_psnr(network, s.views, recipe) for s in sets}
    means = {b: np.mean([v[b] for v in scenes.values()]) for b in recipe.bands}
    return {
        "mean": {b: round(float(v), 2) for b, v in means.items()},
        "scenes": {
            n: {b: round(v, 2) for b, v in row.items()} for n, row in scenes.items()
        },
    }


def pairs_of(counts: torch.Tensor) -> tuple[torch.Tensor]:
    """Return green and each other band of counts (B, 4, h, w), for `csr-s`."""
    plain = standardise(counts)
    pairs = [torch.stack((plain[:, 1], plain[:, k]), 1) for k in (0, 2, 3)]
    return (torch.cat(pairs),)


@torch.inference_mode()
def shifts_left(network: torch.nn.Module, folder: Path) -> dict:
    """Return how far bands lie from green in real crops, before and after `rec-s`.

    The mean absolute shift that `csr-s` finds, in pixels of 10 m.
    """
    flows, found = s2sr_xr.load_model("csr-s"), {}

    def shifts(image: torch.Tensor) -> dict[str, float]:
        flow = rec.flows_to_green(flows, image, image[:, 1]).abs().mean((0, 2, 3, 4))
        return {b: round(float(v), 2) for b, v in zip(BANDS, flow, strict=True)}

    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as file:
            image = torch.from_numpy(file.read().astype(np.float32))[None]
        coarse = block_mean(network(image), 2)
        inner = slice(16, -16)
        found[path.stem] = {
            "before": shifts(image[..., inner, inner]),
            "after": shifts(coarse[..., inner, inner]),
            "mean_ratio": round(float(coarse.mean() / image.mean()), 3),
        }
    return found
