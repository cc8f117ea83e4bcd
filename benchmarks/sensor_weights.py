"""How the weights of the network that is given the sensor are made and chosen.

    python benchmarks/sensor_weights.py --real DIR --truth DIR --out A --steps 6000

`--real` is a folder of `l1c_native/*.npz` and `l2a_native/*.npz`, as in `quality.py`;
`--truth` one of hyperspectral scenes in the bands of Sentinel-2: `truth` (y, x, band),
reflectance x 10000, and `bands`. Places in `shipped.LEFT_OUT` are not touched, nor are
the scenes that are neither in `LEARNT` nor in `CHOSEN_BY`. What is in `CHOSEN_BY` is
only scored; the best by it is kept. Stopped anywhere, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from real_scenes import LEFT_OUT, place, whole_scenes
from safetensors.torch import save_file

from s2sr_xr.core.bands import BANDS
from s2sr_xr.models.networks.explained import Explained
from s2sr_xr.models.networks.sensor import observe
from s2sr_xr.models.networks.unrolled import Stages
from s2sr_xr.train.data.scenes import simulated_scene
from s2sr_xr.train.data.sensor_pairs import (
    Drawn,
    Sensed,
    Sensors,
    Truth,
    known,
    moved,
    relative,
    widened,
)
from s2sr_xr.train.loop import fit
from s2sr_xr.train.optim import optimiser_of
from s2sr_xr.train.plan import Plan

TEN, TWENTY = ([b for b in BANDS if BANDS[b].native == n] for n in (10, 20))

LEARNT = {
    **dict.fromkeys(("abu_airport1", "abu_airport2", "abu_airport3"), ()),
    **dict.fromkeys(("abu_urban4", "abu_urban5", "indian_pines"), ()),
    **dict.fromkeys(("neon_harv", "neon_ex"), ()),
    **dict.fromkeys(("abu_urban1", "abu_urban2"), ("B11", "B12")),
    "muufl_vnir": ("B11", "B12"),
}
"""Scenes of known truth to learn from, and their bands that are not to be used."""

CHOSEN_BY = {
    **dict.fromkeys(("sandiego_a", "sandiego_b", "abu_beach3", "salton_sea"), ()),
    "abu_airport4": ("B11", "B12"),
}
"""Scenes that recipes and weights are chosen by, likewise."""

KEPT = "Chile"
"""The place of real scenes that weights are chosen by too."""

SENSORS = Sensors(widths=((0.72, 1.0), (0.9, 1.4)), groups=(4, 2))
TYPICAL = (0.85, 0.85, 0.85, 0.85, 1.05, 1.05)
SOFT = (0.87, 1.1)
"""What the bands of 20 m see beside those of 10 m, in pixels of these: B05 to B8A, and
B11 and B12. One scale below, a guide of 0.87 is as sharp as the former; one of 1.1 as
sharp as the latter, and then the former are blurred to be so too."""
ALIKE = 0.65  # share of real scenes whose bands are all equally sharp
SIMULATED = range(100, 104)


def truth_scene(path: Path, drop: tuple[str, ...], weight: float = 1.0) -> Truth:
    """Return a scene whose finer spectrum is known, in whole cells."""
    with np.load(path) as file:
        cube = file["truth"].astype(np.float32) / 1e4
        names = [str(n) for n in file["bands"]]
    known = {n: cube[..., k] for k, n in enumerate(names)}
    # What a scene lacks is another spectrum's band: any spectrum is to be learnt.
    instead = {"B11": "B8A", "B12": "B07"}
    take = {b: instead[b] if b in drop or b not in known else b for b in TWENTY}
    fine, target = (
        torch.from_numpy(np.stack([known[b] for b in bands]))
        for bands in (TEN, [take[b] for b in TWENTY])
    )
    while min(fine.shape[1:]) < 64:  # mirrored, as at an edge
        fine, target = (torch.cat((x, x.flip(-1)), -1) for x in (fine, target))
        fine, target = (torch.cat((x, x.flip(-2)), -2) for x in (fine, target))
    rows, cols = (n // 2 * 2 for n in fine.shape[1:])
    cut = np.s_[:, :rows, :cols]
    return Truth(name=path.stem, fine=fine[cut], target=target[cut], weight=weight)


def softened(x: torch.Tensor, width: float) -> torch.Tensor:
    """Return bands blurred by less than a pixel, of just this standard deviation.

    Samples of so narrow a Gaussian are much narrower than it.
    """
    side, wide = width**2 / 2, widened(x, 1)
    for dim in (-2, -1):
        n = wide.shape[dim] - 2
        near = wide.narrow(dim, 0, n) + wide.narrow(dim, 2, n)
        wide = wide.narrow(dim, 1, n) * (1 - 2 * side) + near * side
    return wide


def real_scene(scene, *, alike: bool = True) -> Truth:
    """Return a real scene one scale below: what 20 m bands are is known there.

    If `alike`, its bands are equally sharp on its fine pixels, as a network is to make
    them; else as they are.
    """

    def stack(names: list[str]) -> torch.Tensor:
        counts = np.stack([scene.counts[n] for n in names]).astype(np.float32)
        made = torch.from_numpy((counts + scene.offset) / 1e4)
        return torch.where(torch.from_numpy(counts > 0), made, torch.nan)

    fine, target = stack(TEN), stack(TWENTY)
    rows, cols = (n // 4 * 4 for n in fine.shape[1:])
    fine, target = fine[:, :rows, :cols], target[:, : rows // 2, : cols // 2]
    clear = fine.isfinite()
    fine = torch.where(clear, fine, fine.nanmean((-2, -1), keepdim=True))
    seen = observe(widened(fine[None], 4), torch.full((1, 4), SOFT[alike]), 2)[0]
    whole = clear.all(0).reshape(rows // 2, 2, cols // 2, 2).all(3).all(1)
    target = torch.where(whole, target, torch.nan)
    if alike:
        more = (SOFT[1] ** 2 - SOFT[0] ** 2) ** 0.5 / 2
        filled = torch.where(
            target.isfinite(), target, target.nanmean((-2, -1), keepdim=True)
        )
        soft = softened(filled, more)
        target[:4] = torch.where(target.isfinite(), soft, torch.nan)[:4]
    name = f"{scene.level}:{scene.name}" + ("" if alike else " as it is")
    return Truth(
        name=name,
        fine=seen,
        target=target,
        weight=(ALIKE if alike else 1 - ALIKE) * (0.4 if "cloud" in scene.name else 1),
    )


def simulated(seed: int, level: str, weight: float) -> Truth:
    """Return a simulated scene at its own scale."""
    _, truth = simulated_scene(seed, level, 366, fine=False)
    fine, target = (
        torch.from_numpy(np.stack([truth[b].to_numpy() for b in bands])).float()
        for bands in (TEN, TWENTY)
    )
    clear = fine.isfinite()
    fine = torch.where(clear, fine, fine.nanmean((-2, -1), keepdim=True))
    target = torch.where(clear.all(0), target, torch.nan)
    return Truth(
        name=f"simulated:{seed}{level}", fine=fine, target=target, weight=weight
    )


def learnt_from(real: Path, truth: Path) -> list[Truth]:
    """Return what is learnt from."""
    scenes = [
        real_scene(s, alike=alike)
        for s in whole_scenes(real)
        if place(s.name) not in LEFT_OUT["20m"] | {KEPT}
        for alike in (True, False)
    ]
    scenes = [s for s in scenes if min(s.fine.shape[1:]) >= 56]
    scenes += [truth_scene(truth / f"{n}.npz", drop, 1.3) for n, drop in LEARNT.items()]
    for seed in SIMULATED:
        scenes += [simulated(seed, level, 0.2) for level in ("L1C", "L2A")]
    return scenes


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A scene as one sensor saw it, and its bands that are judged."""

    name: str
    sensed: Sensed
    bands: list[int]


def typical(
    scene: Truth, *, noise: float, shift: float, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return fine and coarse bands, as a typical sensor sees a scene."""
    rng = np.random.default_rng(seed)
    mean = scene.target.nanmean((-2, -1), keepdim=True)
    target = torch.where(scene.target.isfinite(), scene.target, mean)
    angle = rng.uniform(0, 2 * np.pi, len(target))
    shifts = shift * torch.from_numpy(np.stack((np.sin(angle), np.cos(angle)))).T
    there = moved(target, shifts) if shift else target
    coarse = observe(widened(there[None], 4), torch.tensor(TYPICAL), 2)
    fine, coarse = (
        image + noise * torch.from_numpy(rng.standard_normal(image.shape, np.float32))
        for image in (scene.fine[None], coarse)
    )
    return fine, coarse


def seen_by(
    scene: Truth, explained: Explained, *, noise: float, shift: float
) -> Sensed:
    """Return a scene as a typical sensor sees it, and what needs no learning."""
    fine, coarse = typical(scene, noise=noise, shift=shift)
    return known(fine, coarse, scene.target, torch.tensor([TYPICAL]), explained)


@torch.no_grad()
def trials(real: Path, truth: Path, explained: Explained) -> dict[str, list[Trial]]:
    """Return what weights are chosen by: little noise, and noise and shifts."""
    scenes = [
        (truth_scene(truth / f"{n}.npz", drop), drop) for n, drop in CHOSEN_BY.items()
    ]
    scenes += [(real_scene(s), ()) for s in whole_scenes(real) if place(s.name) == KEPT]
    conditions = {"little": (5e-4, 0.0), "noisy": (1e-3, 0.2)}
    return {
        name: [
            Trial(
                name=s.name,
                sensed=seen_by(s, explained, noise=noise, shift=shift),
                bands=[k for k, b in enumerate(TWENTY) if b not in drop],
            )
            for s, drop in scenes
        ]
        for name, (noise, shift) in conditions.items()
    }


def errors(made: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    """Return the RMSE of each band, without the rim."""
    gap = (made - target)[0, :, 8:-8, 8:-8].double()
    return gap.square().nanmean((-2, -1)).sqrt().numpy()


@torch.no_grad()
def scores(network: Stages, trial: list[Trial]) -> dict[str, object]:
    """Return errors over interpolation's and over those without learning."""
    rows = []
    for t in trial:
        s = t.sensed
        made = errors(network(s.fine, s.told, s.width), s.target)
        first, plain = errors(s.told.made, s.target), errors(s.plain, s.target)
        row = np.full((3, 6), np.nan)
        row[:, t.bands] = np.stack((made / plain, first / plain, made / first))[
            :, t.bands
        ]
        rows.append(row)
    table = np.array(rows)
    ours, first, gain = np.nanmean(table, axis=(0, 2))
    return {
        "over_bicubic": round(float(ours), 4),
        "weightless": round(float(first), 4),
        "by_band": np.round(np.nanmean(table[:, 2], axis=0), 3).tolist(),
        "by_scene": np.round(np.nanmean(table[:, 2], axis=1), 3).tolist(),
        "gain": round(float(gain), 4),
    }


def keep(network: torch.nn.Module, path: Path) -> None:
    """Write the weights of a network."""
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)


def main() -> None:
    """Train, score every `--look` steps, and keep the best."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=Path, help="weights to begin from")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--blocks", type=int, nargs="+", default=[3, 3])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--optimiser", default="muon")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--look", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    explained = Explained(2, groups=(4, 2))
    scenes = learnt_from(args.real, args.truth)
    judged = trials(args.real, args.truth, explained)
    torch.manual_seed(args.seed)
    network = Stages(((4, 1), (6, 2)), args.features, args.blocks, "same")
    if args.first:
        from safetensors.torch import load_file

        network.load_state_dict(load_file(args.first), strict=False)
    drawn = Drawn(scenes, SENSORS, explained, batch=args.batch, seed=args.seed)
    plan = Plan(steps=args.steps, lr=args.lr, ema=0.998, seed=args.seed)
    facts = {k: str(v) for k, v in vars(args).items() if k not in {"out", "look"}}
    facts |= {"scenes": [s.name for s in scenes], "sensors": asdict(SENSORS)}
    print(json.dumps(facts), flush=True)
    begun, best, total = time.time(), float("inf"), 0.0
    for made in fit(
        network,
        drawn,
        relative,
        plan,
        checkpoint=args.out / "checkpoint.pt",
        facts=facts,
        optimiser=optimiser_of(args.optimiser),
    ):
        total += made.loss
        if (made.step + 1) % args.look and made.step + 1 != args.steps:
            continue
        found = {name: scores(made.network.eval(), t) for name, t in judged.items()}
        figure = sum(f["over_bicubic"] for f in found.values())
        line = {
            "step": made.step + 1,
            "loss": round(total / args.look, 4),
            "seconds": round(time.time() - begun),
            **found,
        }
        print(json.dumps(line), flush=True)
        total = 0.0
        keep(made.network, args.out / "last.safetensors")
        if figure < best:
            best = figure
            keep(made.network, args.out / "best.safetensors")


if __name__ == "__main__":
    main()
