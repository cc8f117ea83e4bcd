"""What Level-1B lets a network do: Tables 1 to 3 of the L1BSR paper.

    python benchmarks/l1b_tables.py flows --real DIR
    python benchmarks/l1b_tables.py bands --real DIR --out DIR --steps 300
    python benchmarks/l1b_tables.py supervision --real DIR --out DIR

`flows` is Table 1: how far `csr-s` is from the true flow between each pair of bands.
`bands` is Table 2: what a `rec-s` makes of green alone, and of more and more bands.
`supervision` is Table 3: one that learnt from the other detector, one from the truth.
What is missing is trained here, all with the same steps and seed, and stays in `--out`;
weights of an earlier run may be `--given`, under the name that they have there.

`--real` is as in `real_scenes.py`; only held-out places are judged.
PSNRs are means over images, for a reflectance of 1; the paper's are of its own scenes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from common import table, tell
from make_weights import trained
from scores_l1b import Set, judged_views
from weights_l1b import Maker

import s2sr_xr
from s2sr_xr.evaluate.metrics import aligned_psnr, psnr
from s2sr_xr.train.data.l1b_simulation import (
    BANDS,
    FULL,
    Sensor,
)
from s2sr_xr.train.recipes import csr
from s2sr_xr.train.recipes.rec import EDGE

SEEN = Sensor(phase=0.5, apart=1.0, parallax=1.5)
"""Who looks in Tables 2 and 3; in Table 1 detectors lie up to 3 pixels apart."""

MORE_AND_MORE = (("B03",), BANDS[:2], BANDS[:3], BANDS)
"""Bands of Table 2."""

PAPER = {
    ("supervised", BANDS): (50.90, 51.04, 48.14, 40.98),
    ("self", BANDS): (51.80, 51.67, 48.82, 41.34),
    ("self", BANDS[:3]): (51.62, 51.09, 48.51),
    ("self", BANDS[:2]): (50.87, 49.77),
    ("self", BANDS[1:2]): (46.39,),
}
"""The aligned PSNRs of Tables 2 and 3, in dB."""


def flows(args: argparse.Namespace) -> list[dict]:
    """Return Table 1: the error of the flow from each band (rows) to each."""
    far = Sensor(phase=0.5)
    sets = judged_views(args.real, far, truth=False, simulated=args.simulated // 2)
    known = s2sr_xr.load_model(args.csr or "csr-s")
    methods = {"no flow": lambda pair: 0 * pair, "csr-s": known}
    rows = []
    for name, network in methods.items():
        errors = [csr.flow_errors(network, s.views) for s in sets]
        for band, errors_of_band in zip(
            BANDS, torch.stack(errors).mean(0), strict=True
        ):
            found = map(float, errors_of_band)
            rows.append(
                {"method": name, "from": band} | dict(zip(BANDS, found, strict=True))
            )
    return rows


def bands(args: argparse.Namespace) -> list[dict]:
    """Return Table 2: more and more bands, learnt as `--task` says."""
    return compared(args, [(args.task, each) for each in MORE_AND_MORE])


def supervision(args: argparse.Namespace) -> list[dict]:
    """Return Table 3: learnt from the truth, and from the other detector."""
    return compared(args, [("supervised", BANDS), ("self", BANDS)])


def compared(args: argparse.Namespace, wanted: list[tuple]) -> list[dict]:
    """Return the PSNR of each band, by each way to learn it; aligned bicubic first."""
    sets = judged_views(args.real, SEEN, truth=True, simulated=args.simulated // 2)
    start = maker_of(args).begin({"bands": BANDS}).eval()
    rows = [
        {"task": "aligned bicubic", "bands": "", "steps": 0} | judged(start, sets, args)
    ]
    for task, names in wanted:
        path = run_of(args, task, names)
        network = trained(maker_of(args), {"bands": names}, None, path).eval()
        steps = int(path.stem.split("-")[-2])
        row = {"task": task, "bands": "".join(names), "steps": steps}
        paper = zip(names, PAPER.get((task, names), ()), strict=False)
        found = judged(network, sets, args, names)
        rows.append(row | found | {f"{b} paper": v for b, v in paper})
    return rows


def run_of(args: argparse.Namespace, task: str, names: tuple[str, ...]) -> Path:
    """Return the weights of a run of `rec-s`, trained first unless they are given."""
    run = f"{task}-{''.join(names)}-"
    for path in args.given:
        if path.stem.startswith(run):
            return path
    path = args.out / f"{run}{args.steps}-{args.seed}.safetensors"
    if not path.exists():
        args.out.mkdir(parents=True, exist_ok=True)
        options = ("steps", "seed", "batch", "side", "lr", "precision")
        stage = {k: getattr(args, k) for k in options}
        stage |= {"task": task, "bands": names, "optimiser": "muon"}
        stage["sensor"] = {k: getattr(SEEN, k) for k in ("phase", "apart", "parallax")}
        trained(maker_of(args), stage, None, path)
    return path


def maker_of(args: argparse.Namespace) -> Maker:
    """Return what trains `rec-s`."""
    scenes = {"simulated": args.simulated}
    recipe = {"network": "rec-s", "scenes": scenes, "stages": [{}]}
    return Maker(recipe, args.real)


@torch.inference_mode()
def judged(
    network: torch.nn.Module,
    sets: list[Set],
    args: argparse.Namespace,
    names: tuple[str, ...] = BANDS,
) -> dict[str, float]:
    """Return the PSNR of each band, plain and aligned; means over images and scenes."""
    channels = [BANDS.index(b) for b in names]
    plain, aligned = [], []
    inner = np.s_[..., 2 * EDGE : -2 * EDGE, 2 * EDGE : -2 * EDGE]
    for _, seen in sets:
        made = network(seen.counts[: args.crops, 0, channels]).numpy()[inner]
        truth = seen.truth[: args.crops, 0, channels].numpy()[inner]
        plain.append(psnr(made, truth, peak=FULL).mean(0))
        aligned.append(aligned_psnr(made, truth, peak=FULL).mean(0))
    found = {b: float(v) for b, v in zip(names, np.mean(plain, 0), strict=True)}
    moved = zip(names, np.mean(aligned, 0), strict=True)
    return found | {f"{b} aligned": float(v) for b, v in moved}


def main(arguments: list[str] | None = None) -> list[dict]:
    """Print one table, and each of its rows as a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    doing = parser.add_subparsers(required=True, dest="what")
    options = {
        "flows": {},
        "bands": {"steps": 300, "batch": 4, "side": 48, "lr": 1e-3},
        "supervision": {"steps": 300, "batch": 4, "side": 48, "lr": 1e-3},
    }
    for what, defaults in options.items():
        one = doing.add_parser(what)
        one.add_argument("--real", type=Path, required=True)
        one.add_argument("--out", type=Path, default=Path())
        # As many to learn from as the shipped networks have.
        one.add_argument(
            "--simulated",
            type=int,
            default=4,
            help="scenes to learn from beside the real ones; half as many are judged",
        )
        for option, value in defaults.items():
            one.add_argument(f"--{option}", type=type(value), default=value)
        if what == "flows":
            one.add_argument("--csr", type=Path, help="other weights of csr-s")
        if what in ("bands", "supervision"):
            one.add_argument("--given", type=Path, nargs="*", default=[])
            one.add_argument("--task", default="supervised")
            one.add_argument("--precision", default="bf16")
        if what != "flows":
            one.add_argument("--seed", type=int, default=0)
            one.add_argument("--crops", type=int, default=3, help="images a scene")
        one.set_defaults(do=globals()[what])
    args = parser.parse_args(arguments)
    rows = [tell(f"l1b {args.what}", row) for row in args.do(args)]
    columns = dict.fromkeys(name for row in rows for name in row)
    table(rows, *columns)
    return rows


if __name__ == "__main__":
    main()
