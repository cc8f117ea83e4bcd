r"""How the shipped networks of Level-1B are made and judged: `csr-s` and `rec-s`.

    python benchmarks/shipped_l1b.py train csr-s flows --task supervised --real DIR
    python benchmarks/shipped_l1b.py train rec-s main --task supervised --steps 5000 \
        --lr 2e-3 --batch 12 --side 32 --parallax 1.5 --real DIR
    python benchmarks/shipped_l1b.py train rec-s green --bands B03 ...
    python benchmarks/shipped_l1b.py train rec-s self --csr flows.pt --real DIR
    python benchmarks/shipped_l1b.py ship csr-s flows --real DIR --out DIR
    python benchmarks/shipped_l1b.py ship rec-s main green --real DIR --out DIR

`--real` is a folder of `l1c_native/*.npz` and `l2a_native/*.npz`, as in `quality.py`;
their 10 m bands stand for the ground at 5 m. Places in `LEFT_OUT` are only scored.
`train` writes ``NAME.pt`` and ``NAME.json``, and can be stopped and run again: it goes
on from its checkpoint. `ship` judges the runs it is given on the same views, and writes
weights and card of the first; the others are on the card to compare.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
import torch
from judge import l1b_psnr
from quality import read
from shipped import LEFT_OUT, PLACES, TERMS, bf16_rmse

import s2sr_xr
from s2sr_xr.core.filters import block_mean
from s2sr_xr.models.networks.aligned_rec import AlignedREC
from s2sr_xr.models.networks.registration import standardise
from s2sr_xr.models.published import published
from s2sr_xr.models.weights_file import save_tensors
from s2sr_xr.train.data.l1b_simulation import (
    BANDS,
    Sensor,
    Views,
    blurred,
    to_counts,
    views,
)
from s2sr_xr.train.plan import Plan
from s2sr_xr.train.recipes import csr, rec

MORE = {"ftw_austria": "Austria 3", "openeo_icor": "T31UFS", "cijjas": "Argentina"}
"""Places of scenes with 10 m bands that `shipped.py` does not use."""

BUILD = {spec.name: (spec, build) for spec, build in published()}
SOURCE = (
    "Learnt from a simulation made of L1C and L2A scenes, whose own bands lie up to "
    "0.3 pixels from each other, "
)
LIMITS = {
    "csr-s": "For Level-1B counts of B02, B03, B04 and B08; shifts up to {far:g} "
    f"pixels along x or y. {SOURCE}not of real overlaps of two detectors.",
    "rec-s": "For Level-1B counts of B02, B03, B04 and B08 of one detector, each band "
    f"up to {{far:g}} pixels from green along x or y. {SOURCE}as real images show no "
    "truth at 5 m. Two by two pixels of the result lie in one of the detector.",
}


HALVED = ("rec-s",)
"""What is stored in 16 bits: the figures are those of the rounded weights."""


class Set(NamedTuple):
    """Views of one scene, to judge by."""

    name: str
    views: Views


def place(name: str) -> str:
    """Return where a scene is."""
    known = PLACES | MORE
    return known[max((p for p in known if name.startswith(p)), key=len)]


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


def first(name: str, bands: tuple[str, ...], seed: int, csr_s=None):
    """Return the network that training begins with, for some bands."""
    torch.manual_seed(seed)
    if name == "rec-s":
        network = AlignedREC(bands=len(bands), reference=bands.index("B03"))
        return rec.begun(
            network, csr_s or s2sr_xr.load_model("csr-s"), phase=network.phase
        )
    return BUILD[name][1]()


def restored(path: Path, name: str, bands: tuple[str, ...] = BANDS):
    """Return a network that `train` wrote."""
    network = first(name, bands, 0)
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


def recipe_of(args: argparse.Namespace):
    """Return the recipe that the arguments ask for."""
    plan = Plan(
        steps=args.steps,
        lr=args.lr,
        seed=args.seed,
        ema=args.ema,
        # What csr-s solves by itself needs float32.
        precision="float32" if args.model == "csr-s" else args.precision,
    )
    sensor = Sensor(phase=0.5, apart=args.apart, parallax=args.parallax)
    options = {"plan": plan, "sensor": sensor, "side": args.side, "batch": args.batch}
    if args.model == "csr-s":
        return csr.Recipe(task=args.task or "anchor", **options)
    options |= {"bands": tuple(args.bands), "optimiser": "muon"}
    return rec.Recipe(task=args.task or "self", **options)


def train(args: argparse.Namespace) -> None:
    """Train one network, and write what it has learnt."""
    recipe = recipe_of(args)
    learnt, _ = real_images(args.real)
    learnt |= simulated_images(range(100, 100 + args.simulated))
    flows = restored(args.csr, "csr-s") if args.csr else None
    network = first(args.model, tuple(args.bands), args.seed, flows)
    if args.first:
        network.load_state_dict(torch.load(args.first, weights_only=True))
    args.out.mkdir(parents=True, exist_ok=True)
    files = {k: args.out / f"{args.run}.{k}" for k in ("checkpoint", "log")}
    images = list(learnt.values())
    if args.model == "csr-s":
        steps = csr.train(recipe, network, images, **files)
    else:
        steps = rec.train(recipe, network, images, csr=flows, **files)
    begun, losses = time.monotonic(), []
    for step in steps:
        losses.append(step.loss)
        network = step.network
        if step.step % 100 == 99:
            seconds = time.monotonic() - begun
            said = f"{np.mean(losses[-100:]):.5f}", f"{seconds:.0f} s"
            print(step.step, *said, flush=True)
    torch.save(network.state_dict(), args.out / f"{args.run}.pt")
    facts = {
        "model": args.model,
        "recipe": asdict(recipe),
        "first": args.first and json.loads(args.first.with_suffix(".json").read_text()),
        "csr": args.csr and args.csr.stem,
        "learnt_from": list(learnt),
        "last_loss": float(np.mean(losses[-100:])),
    }
    text = json.dumps(facts, indent=1, default=str)
    (args.out / f"{args.run}.json").write_text(text + "\n")


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


def judge(
    args: argparse.Namespace, run: str, facts: dict
) -> tuple[dict, torch.nn.Module]:
    """Return the figures of a run, and its network as it is shipped."""
    recipe = facts["recipe"]
    sensor = Sensor(**recipe["sensor"])
    bands = tuple(recipe.get("bands", BANDS))
    network = restored(args.runs / f"{run}.pt", args.model, bands)
    if args.model in HALVED:
        network = network.half().float()
    fine = args.model == "rec-s"
    sets = judged_views(args.real, sensor, truth=fine, simulated=args.simulated)
    counts = (s.views.counts[:, 0, [BANDS.index(b) for b in bands]] for s in sets)
    if not fine:
        given = (pairs_of(c) for c in counts)
        table = flow_table(network, sets)
    else:
        given = ((c,) for c in counts)
        plain = rec.Recipe(sensor=sensor, bands=bands)
        table = psnr_table(network, sets, plain)
    return table | {"bf16_rmse": bf16_rmse(network, given)}, network


def pairs_of(counts: torch.Tensor) -> tuple[torch.Tensor]:
    """Return green and each other band of counts (B, 4, h, w), for `csr-s`."""
    plain = standardise(counts)
    pairs = [torch.stack((plain[:, 1], plain[:, k]), 1) for k in (0, 2, 3)]
    return (torch.cat(pairs),)


@torch.inference_mode()
def shifts_left(network: torch.nn.Module, args: argparse.Namespace) -> dict:
    """Return how far bands lie from green in real crops, before and after `rec-s`.

    The mean absolute shift that `csr-s` finds, in pixels of 10 m.
    """
    flows, found = restored(args.csr, "csr-s"), {}

    def shifts(image: torch.Tensor) -> dict[str, float]:
        flow = rec.flows_to_green(flows, image, image[:, 1]).abs().mean((0, 2, 3, 4))
        return {b: round(float(v), 2) for b, v in zip(BANDS, flow, strict=True)}

    for path in sorted(args.l1b.glob("*.tif")):
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


def fill_of(learnt: dict) -> dict[str, float]:
    """Return the mean count of each band: what stands in for missing pixels."""
    means = [to_counts(torch.nanmean(i.flatten(1), dim=1)) for i in learnt.values()]
    mean = torch.stack(means).mean(0)
    return {b: round(float(v), 1) for b, v in zip(BANDS, mean, strict=True)}


def ship(args: argparse.Namespace) -> None:
    """Judge runs, and write the weights and the card of the first."""
    told = {r: json.loads((args.runs / f"{r}.json").read_text()) for r in args.run}
    figures, networks = {}, []
    for run, facts in told.items():
        figures[run], network = judge(args, run, facts)
        networks.append(network)
        print(run, json.dumps(figures[run], indent=1), flush=True)
    best = told[args.run[0]]
    sensor = Sensor(**best["recipe"]["sensor"])
    learnt, _ = real_images(args.real)
    spec = replace(
        BUILD[args.model][0],
        levels=("L1B",),
        fill=fill_of(learnt),
        licence="Apache-2.0",
    )
    state = networks[0].state_dict()
    if args.model in HALVED:
        state = {k: v.half() for k, v in state.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.model}.safetensors"
    digest = save_tensors(path, state, spec, args.model)
    path.chmod(0o644)
    far = sensor.farthest if args.model == "csr-s" else sensor.parallax
    card = {
        "name": args.model,
        "title": spec.title,
        "sha256": digest,
        "levels": spec.levels,
        "fill": spec.fill,
        "licence": spec.licence,
        "citation": spec.citation,
        "terms": TERMS,
        "learnt_from": best["learnt_from"],
        "recipe": best["recipe"] | {"first": best["first"], "csr": best["csr"]},
        "bf16_rmse": figures[args.run[0]].pop("bf16_rmse"),
        "figures": figures[args.run[0]],
        "compared": {
            run: {
                "task": told[run]["recipe"]["task"],
                "steps": told[run]["recipe"]["plan"]["steps"],
            }
            | figures[run]["mean"]
            for run in args.run[1:]
        },
        "storage": "float16" if args.model in HALVED else "float32",
        "limits": LIMITS[args.model].format(far=far),
    }
    if args.csr:
        card["real_l1b"] = shifts_left(networks[0], args)
        print(json.dumps(card["real_l1b"], indent=1))
    card_path = args.out / f"{args.model}.json"
    card_path.write_text(json.dumps(card, indent=1) + "\n")
    card_path.chmod(0o644)


def main(arguments: list[str] | None = None) -> None:
    """Train, or judge and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    doing = parser.add_subparsers(required=True)
    one = doing.add_parser("train")
    one.add_argument("model", choices=("csr-s", "rec-s"))
    one.add_argument("run", help="its name")
    one.add_argument("--task", choices=("anchor", "self", "supervised"))
    one.add_argument("--steps", type=int, default=3000)
    one.add_argument("--lr", type=float, default=1e-3)
    one.add_argument("--batch", type=int, default=8)
    one.add_argument("--side", type=int, default=48)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--ema", type=float, default=0.999)
    one.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    one.add_argument("--apart", type=float, default=1.0)
    one.add_argument("--parallax", type=float, default=1.0)
    one.add_argument("--simulated", type=int, default=4, help="scenes beside the real")
    one.add_argument("--bands", nargs="+", default=list(BANDS))
    one.add_argument("--csr", type=Path, help="a run of csr-s, .pt")
    one.add_argument("--first", type=Path, help="a run to begin with, .pt")
    one.set_defaults(do=train)
    two = doing.add_parser("ship")
    two.add_argument("model", choices=("csr-s", "rec-s"))
    two.add_argument("run", nargs="+", help="the shipped one first")
    two.add_argument("--runs", type=Path, default=Path(), help="where runs are")
    two.add_argument("--simulated", type=int, default=2, help="scenes beside the real")
    two.add_argument("--l1b", type=Path, help="real crops, for rec-s")
    two.add_argument("--csr", type=Path, help="a run of csr-s that judges them, .pt")
    two.set_defaults(do=ship)
    for each in (one, two):
        each.add_argument("--real", type=Path, required=True)
        each.add_argument("--out", type=Path, default=Path())
    args = parser.parse_args(arguments)
    args.do(args)


if __name__ == "__main__":
    main()
