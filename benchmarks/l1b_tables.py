"""What Level-1B lets a network do: Tables 1 to 3 of the L1BSR paper, and its alias.

    python benchmarks/l1b_tables.py flows --real DIR
    python benchmarks/l1b_tables.py bands --real DIR --out DIR --steps 300
    python benchmarks/l1b_tables.py supervision --real DIR --out DIR --given self.pt
    python benchmarks/l1b_tables.py alias --real DIR --out DIR --steps 700

`flows` is Table 1: how far `csr-s` is from the true flow between each pair of bands.
`bands` is Table 2: what a `rec-s` makes of green alone, and with more bands beside it.
`supervision` is Table 3: one that learnt from the other detector, one from the truth.
Runs of `shipped_l1b.py train` may be `--given` for them; what is missing is trained
here, all with the same steps and seed, and stays in `--out`.

`alias` is the experiment of a talk by the authors, which gives no constants: one small
network learns from scenes sampled without alias, with alias, and with alias and a shift
between the bands (`simulate.degrade.sampled_in`), and with one and the same shift of
each band everywhere, which need not be found. The truth is one for all: the scene on
pixels of half the side, blurred as by the optics. It is compared with bicubic
interpolation, which is told the shifts. `--figure` draws it.

`--real` is as in `shipped_l1b.py`; only places that no network learns from are judged.
PSNRs are means over images, for a reflectance of 1; the paper's are of its own scenes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shipped_l1b
import torch
from common import table, tell
from matplotlib.figure import Figure
from shipped_l1b import Set, first, judged_views, restored

import s2sr_xr
from s2sr_xr.core.filters import gaussian_blur
from s2sr_xr.evaluate.metrics import aligned_psnr, psnr
from s2sr_xr.models.networks.rec import REC
from s2sr_xr.simulate.degrade import OPTICS, sampled_in
from s2sr_xr.train.data.l1b_simulation import (
    BANDS,
    FLAT,
    FULL,
    GREEN,
    Sensor,
    Views,
    sample,
    to_counts,
)
from s2sr_xr.train.loop import fit
from s2sr_xr.train.plan import Plan
from s2sr_xr.train.recipes import csr, rec
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

REGIMES = ("none", "alias", "alias+shift", "alias+known")
"""How scenes are sampled; the last with the same shifts everywhere."""

GREEN_FIRST = [1, 0, 2, 3]
"""The first band is not shifted; its own inverse."""

PAD = 8
"""Fine pixels around a patch that feel its border."""


# Tables 1 to 3


def flows(args: argparse.Namespace) -> list[dict]:
    """Return Table 1: the error of the flow from each band (rows) to each."""
    far = Sensor(phase=0.5)
    sets = judged_views(args.real, far, truth=False, simulated=args.simulated // 2)
    known = restored(args.csr, "csr-s") if args.csr else s2sr_xr.load_model("csr-s")
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
    start = first("rec-s", BANDS, 0).eval()
    rows = [
        {"task": "aligned bicubic", "bands": "", "steps": 0} | judged(start, sets, args)
    ]
    for task, names in wanted:
        path = run_of(args, task, names)
        plan = json.loads(path.with_suffix(".json").read_text())["recipe"]["plan"]
        network = restored(path, "rec-s", names)
        row = {"task": task, "bands": "".join(names), "steps": plan["steps"]}
        paper = zip(names, PAPER.get((task, names), ()), strict=False)
        found = judged(network, sets, args, names)
        rows.append(row | found | {f"{b} paper": v for b, v in paper})
    return rows


def run_of(args: argparse.Namespace, task: str, names: tuple[str, ...]) -> Path:
    """Return a run of `rec-s`, trained first where it is not given."""
    for path in args.given:
        recipe = json.loads(path.with_suffix(".json").read_text())["recipe"]
        if recipe["task"] == task and tuple(recipe["bands"]) == names:
            return path
    run = f"{task}-{''.join(names)}-{args.steps}-{args.seed}"
    path = args.out / f"{run}.pt"
    if not path.exists():
        learnt = ["train", "rec-s", run, "--task", task, "--bands", *names]
        if task == "self":
            learnt += ["--csr", str(args.csr or _shipped_csr(args.out))]
        same = ("steps", "seed", "batch", "side", "lr", "precision", "simulated")
        for option in (*same, "real", "out"):
            learnt += [f"--{option}", str(getattr(args, option))]
        shipped_l1b.main([*learnt, "--parallax", str(SEEN.parallax)])
    return path


def _shipped_csr(folder: Path) -> Path:
    path = folder / "csr-s.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(s2sr_xr.load_model("csr-s").state_dict(), path)
    return path


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


# Alias and shift between bands


class Sampled(NamedTuple):
    """Patches as a detector samples them."""

    views: Views
    """Counts ``(B, 1, 4, h, w)`` and truth ``(B, 1, 4, 2 h, 2 w)``."""

    shifts: torch.Tensor
    """``(B, 4, 2)``: where pixel 0 of a band lies on the truth, in its pixels: y, x."""


def sampled(
    images: list[torch.Tensor],
    regime: str,
    *,
    side: int,
    batch: int,
    seed: int,
    step: int,
    light: tuple[float, float] = (0.5, 1.5),
) -> Sampled:
    """Return a batch; patches, light and noise are those of all regimes."""
    rng = np.random.default_rng((seed, step))
    counts, truth, shifts = [], [], []
    for patch in patches(images, 2 * side + 2 * PAD, batch, light, rng):
        drawn = int(rng.integers(2**31))
        noise = rng.standard_normal((len(BANDS), side, side), dtype=np.float32)
        known = regime == "alias+known"
        way = ("alias+shift", 0) if known else (regime, drawn)
        low = to_counts(seen_by(patch, *way))
        edge = PAD // 2
        counts.append(
            low[:, edge:-edge, edge:-edge]
            + Sensor().noise * FULL * torch.from_numpy(noise)
        )
        truth.append(to_counts(gaussian_blur(patch, OPTICS))[:, PAD:-PAD, PAD:-PAD])
        shifts.append(shifts_of(*way))
    made = (torch.stack(x)[:, None] for x in (counts, truth))
    seen, fine = made
    return Sampled(Views(seen, torch.empty(0), fine), torch.stack(shifts))


def seen_by(fine: torch.Tensor, regime: str, seed: int) -> torch.Tensor:
    """Return bands (..., 4, H, W) as they are sampled: every second pixel."""
    generator = torch.Generator().manual_seed(seed)
    low = sampled_in(fine[..., GREEN_FIRST, :, :], regime, generator)
    return low[..., GREEN_FIRST, :, :]


def shifts_of(regime: str, seed: int) -> torch.Tensor:
    """Return the shifts (4, 2) of a seed, read off two ramps that are sampled."""
    line = torch.arange(32.0)
    ramps = torch.stack((line[:, None].expand(32, 32), line.expand(32, 32)))
    seen = seen_by(ramps[:, None].expand(2, 4, 32, 32), regime, seed)
    return (seen[..., 8, 8] - 16).T


def patches(
    images: list[torch.Tensor],
    wide: int,
    count: int,
    light: tuple[float, float],
    rng: np.random.Generator,
) -> list[torch.Tensor]:
    """Return patches that miss no pixel and show something, turned at random."""
    large = [i for i in images if min(i.shape[-2:]) >= wide]
    share = np.array([(i.shape[-2] * i.shape[-1]) ** 0.5 for i in large])
    found: list[torch.Tensor] = []
    for _ in range(200 * count if large else 0):
        image = large[rng.choice(len(large), p=share / share.sum())]
        top, left = (int(rng.integers(n - wide + 1)) for n in image.shape[-2:])
        gain, turns = float(rng.uniform(*light)), int(rng.integers(4))
        patch = image[:, top : top + wide, left : left + wide] * gain
        # A missing pixel makes the deviation NaN, which is not above anything.
        if patch[GREEN].std() > FLAT * Sensor().noise and torch.isfinite(patch).all():
            found.append(torch.rot90(patch, turns, (-2, -1)))
        if len(found) == count:
            return found
    raise s2sr_xr.GridError(f"{len(images)} images hold no {count} patches of {wide}.")


def bicubic(seen: Sampled) -> torch.Tensor:
    """Return what interpolation makes of each band, which is told its shift."""
    b, _, c, h, w = seen.views.counts.shape
    line = torch.arange(2 * h), torch.arange(2 * w)
    y, x = torch.meshgrid(*line, indexing="ij")
    fine = torch.stack((x, y), dim=-1)
    places = (fine - seen.shifts.flip(-1)[:, :, None, None]) / 2
    low = seen.views.counts.reshape(b * c, 1, h, w)
    return sample(low, places.flatten(0, 1)).reshape(b, c, 2 * h, 2 * w)


def learnt(args: argparse.Namespace, regime: str, images: list[torch.Tensor]):
    """Return a network that has learnt one regime."""
    plan = Plan(steps=args.steps, lr=args.lr, seed=args.seed, precision="float32")
    recipe = rec.Recipe(task="supervised", plan=plan)
    torch.manual_seed(args.seed)
    network = rec.as_interpolation(
        REC(features=args.features, groups=2, blocks=2, reduction=8)
    )

    def draw(step: int) -> Views:
        sizes = {"side": args.side, "batch": args.batch}
        return sampled(images, regime, seed=args.seed, step=step, **sizes).views

    args.out.mkdir(parents=True, exist_ok=True)
    steps = fit(
        network,
        draw,
        lambda network, batch: rec.supervised_loss(network, batch, recipe),
        plan,
        checkpoint=args.out / f"{regime}.checkpoint",
        facts={"regime": regime, "features": args.features, "side": args.side},
    )
    for step in steps:
        network = step.network
    return network.eval()


def alias(args: argparse.Namespace) -> list[dict]:
    """Return the PSNR of green, and the mean of the bands, in each regime."""
    learn, judge = shipped_l1b.real_images(args.real)
    learn |= shipped_l1b.simulated_images(range(100, 100 + args.simulated))
    judge |= shipped_l1b.simulated_images(range(args.simulated // 2), 480)
    rows, shown = [], {}
    for regime in args.regimes:
        network = learnt(args, regime, list(learn.values()))
        found = {"bicubic": [], "network": []}
        for name, image in judge.items():
            try:
                seen = judged_patches(image, regime, args)
            except s2sr_xr.GridError:
                continue  # too small, or flat
            made = {"bicubic": bicubic(seen), "network": applied(network, seen)}
            for method, result in made.items():
                found[method].append(_psnr(result, seen.views.truth[:, 0]).mean(0))
            if name == (args.show or next(iter(judge))):
                shown[regime] = (seen, made)
        rows.append(_row(args, regime, found))
    if args.figure:
        draw_figure(rows, shown).savefig(args.figure, dpi=150)
    return rows


def judged_patches(
    image: torch.Tensor, regime: str, args: argparse.Namespace
) -> Sampled:
    """Return patches of one scene, the same in all regimes."""
    sizes = {"side": 48, "batch": args.crops, "seed": 7, "step": 0}
    return sampled([image], regime, **sizes, light=(1.0, 1.0))


@torch.inference_mode()
def applied(network: torch.nn.Module, seen: Sampled) -> torch.Tensor:
    """Return what a network makes of the patches."""
    return network(seen.views.counts[:, 0])


def _psnr(made: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    inner = np.s_[..., 2 * EDGE : -2 * EDGE, 2 * EDGE : -2 * EDGE]
    return psnr(made.numpy()[inner], truth.numpy()[inner], peak=FULL)


def _row(args: argparse.Namespace, regime: str, found: dict) -> dict:
    means = {method: np.mean(scores, 0) for method, scores in found.items()}
    row = {"regime": regime, "steps": args.steps, "scenes": len(found["network"])}
    for said, part in (("green", np.s_[GREEN : GREEN + 1]), ("all", np.s_[:])):
        values = {m: float(v[part].mean()) for m, v in means.items()}
        row |= {f"{said} {m}": v for m, v in values.items()}
        row[f"{said} gain"] = values["network"] - values["bicubic"]
    return row


TITLES = {
    "none": "no alias",
    "alias": "alias",
    "alias+shift": "alias + shift",
    "alias+known": "alias + known shift",
}


def draw_figure(rows: list[dict], shown: dict) -> Figure:
    """Return the PSNRs as bars, and green of one patch in each regime."""
    figure = Figure(figsize=(15, 8.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.6))
    for axes, said in zip(left.subplots(2, 1), ("green", "all"), strict=True):
        _bars(axes, rows, said)
    axes = right.subplots(len(shown), 6)
    truth = next(iter(shown.values()))[0].views.truth
    # What shows most, and not what happened to come first.
    n = int(truth[:, 0, GREEN].std((-2, -1)).argmax())
    for row, (regime, (seen, made)) in zip(axes, shown.items(), strict=True):
        _pictures(row, seen, made, n)
        row[0].set_ylabel(TITLES[regime])
    return figure


def _bars(axes, rows: list[dict], said: str) -> None:
    places = np.arange(len(rows))
    colours = {"bicubic": "0.7", "network": "C0"}
    for k, (method, colour) in enumerate(colours.items()):
        heights = [row[f"{said} {method}"] for row in rows]
        bars = axes.bar(places + 0.4 * k, heights, 0.38, color=colour, label=method)
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    every = [row[f"{said} {method}"] for row in rows for method in colours]
    axes.set_ylim(min(every) - 2, max(every) + 2)
    names = [TITLES[row["regime"]].replace(" + ", "\n+ ") for row in rows]
    axes.set_xticks(places + 0.2, names)
    axes.set_ylabel("PSNR (dB)")
    axes.set_title("green" if said == "green" else "mean of four bands")
    axes.legend(loc="upper left", ncols=2, fontsize=8)


def _pictures(row, seen: Sampled, made: dict, n: int) -> None:
    """Draw the inner 64 x 64 fine pixels of one patch, and their errors."""
    inner = np.s_[16:80, 16:80]
    truth = seen.views.truth[n, 0, GREEN]
    images = {"seen": seen.views.counts[n, 0, GREEN][8:40, 8:40]}
    for name, result in made.items():
        images[f"{name} {_psnr(result[n, GREEN], truth):.1f} dB"] = result[n, GREEN]
    images["truth"] = truth
    low, high = np.percentile(truth[inner].numpy(), (1, 99))
    grey = {"cmap": "gray", "vmin": low, "vmax": high}
    # A tenth of the contrast is as dark or bright as an error gets.
    error = {"cmap": "RdBu", "vmin": (low - high) / 10, "vmax": (high - low) / 10}
    for axes, (name, image) in zip(row, images.items(), strict=False):
        axes.imshow((image if name == "seen" else image[inner]).numpy(), **grey)
        axes.set_title(name, fontsize=9)
    for axes, (name, result) in zip(row[4:], made.items(), strict=True):
        axes.imshow((result[n, GREEN] - truth)[inner].numpy(), **error)
        axes.set_title(f"error of {name}", fontsize=9)
    for axes in row:
        axes.set(xticks=[], yticks=[])


def main(arguments: list[str] | None = None) -> list[dict]:
    """Print one table, and each of its rows as a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    doing = parser.add_subparsers(required=True, dest="what")
    options = {
        "flows": {},
        "bands": {"steps": 300, "batch": 4, "side": 48, "lr": 1e-3},
        "supervision": {"steps": 300, "batch": 4, "side": 48, "lr": 1e-3},
        "alias": {"steps": 700, "batch": 8, "side": 32, "lr": 1e-3},
    }
    for what, defaults in options.items():
        one = doing.add_parser(what)
        one.add_argument("--real", type=Path, required=True)
        one.add_argument("--out", type=Path, default=Path())
        # As many to learn from as `shipped_l1b.py` has.
        one.add_argument(
            "--simulated",
            type=int,
            default=4,
            help="scenes to learn from beside the real ones; half as many are judged",
        )
        for option, value in defaults.items():
            one.add_argument(f"--{option}", type=type(value), default=value)
        if what == "alias":
            one.add_argument("--regimes", nargs="+", choices=REGIMES, default=REGIMES)
            one.add_argument("--features", type=int, default=32)
            one.add_argument("--figure", type=Path, help="a .png")
            one.add_argument("--show", help="scene of the figure")
        else:
            one.add_argument("--csr", type=Path, help="a run of csr-s, .pt")
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
