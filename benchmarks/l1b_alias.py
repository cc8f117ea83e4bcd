"""What alias, and shifts between bands, let a network of Level-1B do.

    python benchmarks/l1b_alias.py --real DIR --out DIR --steps 700

The experiment of a talk by the authors of L1BSR, which gives no constants: one small
network learns from scenes sampled without alias, with alias, and with alias and a shift
between the bands (`simulate.degrade.sampled_in`), and with one and the same shift of
each band everywhere, which need not be found. The reference is one for all: the scene
on pixels of half the side, blurred as by the optics. It is compared with bicubic
interpolation, which is given the shifts. `--figure` draws it.

`--real` is as in `real_scenes.py`; only held-out places are judged. PSNRs are means
over images, for a reflectance of 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from common import table, tell
from matplotlib.figure import Figure
from scores_l1b import real_images, simulated_images

import s2sr_xr
from s2sr_xr.core.filters import gaussian_blur
from s2sr_xr.evaluate.metrics import psnr
from s2sr_xr.models.networks.rec import REC
from s2sr_xr.simulate import OPTICS, sampled_in
from s2sr_xr.train import Plan, fit
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
from s2sr_xr.train.recipes import rec
from s2sr_xr.train.recipes.rec import EDGE

REGIMES = ("none", "alias", "alias+shift", "alias+known")
"""How scenes are sampled; the last with the same shifts everywhere."""

GREEN_FIRST = [1, 0, 2, 3]
"""The first band is not shifted; its own inverse."""

PAD = 8
"""Fine pixels around a patch that feel its border."""


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
    """Return what interpolation makes of each band, which is given its shift."""
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
    learn, judge = real_images(args.real)
    learn |= simulated_images(range(100, 100 + args.simulated))
    judge |= simulated_images(range(args.simulated // 2), 480)
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
    """Print the table, and each of its rows as a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument(
        "--simulated",
        type=int,
        default=4,
        help="scenes to learn from besides the real ones; half as many are judged",
    )
    numbers = {"steps": 700, "batch": 8, "side": 32, "lr": 1e-3, "seed": 0}
    numbers |= {"features": 32, "crops": 3}
    for option, value in numbers.items():
        parser.add_argument(f"--{option}", type=type(value), default=value)
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=REGIMES)
    parser.add_argument("--figure", type=Path, help="a .png")
    parser.add_argument("--show", help="scene of the figure")
    args = parser.parse_args(arguments)
    rows = [tell("l1b alias", row) for row in alias(args)]
    columns = dict.fromkeys(name for row in rows for name in row)
    table(rows, *columns)
    return rows


if __name__ == "__main__":
    main()
