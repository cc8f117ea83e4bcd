"""What `finetune` gains on ground it has not seen: the right half, after the left.

    python benchmarks/finetuning.py --real DIR

Real scenes of places that the shipped weights never saw are judged at reduced scale,
simulated ones at true scale too, where the truth is known. Told is the RMSE over that
of the weights it began with, in the mean over bands: below 1 is better. `--real` is as
in `quality.py`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import xarray as xr
from common import table, tell
from quality import loaded, whole_scenes
from shipped import LEFT_OUT, place, title, with_margin

import s2sr_xr
from s2sr_xr.models.files import read_header
from s2sr_xr.models.layers import centre
from s2sr_xr.train.pairs import Pair, reduced_pair, true_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

CELL = 60
"""Metres that both halves are whole multiples of."""

EDGE = 4
"""Output pixels along the border that do not count."""


def halves(tree: xr.DataTree) -> tuple[xr.DataTree, xr.DataTree]:
    """Return the left and the right half of a tree whose finest pixels are of 10 m."""
    wide = max(g.sizes["x"] for g in tree.subtree if "x" in g.dims) * 10
    middle = wide // 2 // CELL * CELL

    def cut(part: slice):
        def of(group: xr.Dataset) -> xr.Dataset:
            if "x" not in group.dims:
                return group
            step = round(float(group.x[1] - group.x[0]))
            ends = (None if e is None else e // step for e in (part.start, part.stop))
            return group.isel(x=slice(*ends))

        return tree.map_over_datasets(of)

    return cut(slice(None, middle)), cut(slice(middle, None))


@torch.inference_mode()
def error(model: str | Path, pair: Pair) -> np.ndarray:
    """Return the RMSE of each band."""
    network, spec = s2sr_xr.load_model(model), s2sr_xr.get_spec(model)
    filled = [image.nan_to_num(float(image.nanmean())) for image in pair.images]
    made = centre(network(*with_margin(filled, spec)), pair.target)
    inner = slice(EDGE, -EDGE)
    square = (made[0] - pair.target)[..., inner, inner].square()
    return square.nanmean((1, 2)).sqrt().numpy()


def real(folder: Path, model: str) -> Iterator[tuple]:
    """Yield name, left half and judged pair of each left-out scene."""
    spec = s2sr_xr.get_spec(model)
    for scene in whole_scenes(folder):
        if place(scene.name) in LEFT_OUT[f"{spec.cell}m"]:
            left, right = halves(loaded(scene))
            pair = reduced_pair(right, spec, title(scene))
            yield pair.name, left, {"reduced": pair}


def simulated(seeds: range, size: int, model: str) -> Iterator[tuple]:
    """Yield the same of simulated scenes, at both scales."""
    spec = s2sr_xr.get_spec(model)
    for seed in seeds:
        with tempfile.TemporaryDirectory() as scratch:
            item = s2sr_xr.simulate_scene(scratch, size=size, seed=seed, level="L2A")
            tree = s2sr_xr.open_stac(item, chunks=None).load()
            truth = xr.DataTree(s2sr_xr.open_truth(item).load())
        (left, right), (_, finer) = halves(tree), halves(truth)
        name = f"simulated:{seed}"
        pairs = {
            "reduced": reduced_pair(right, spec, name),
            "true": true_pair(right, finer.to_dataset(), spec, name),
        }
        yield name, left, pairs


def main(arguments: list[str] | None = None) -> None:
    """Tune on each scene, and tell what that changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path)
    parser.add_argument("--model", default="dsen2-s-20m")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--simulated", type=int, default=2, help="scenes")
    parser.add_argument("--size", type=int, default=600, help="of simulated scenes")
    parser.add_argument("--only", nargs="+", help="beginnings of scenes' names")
    args = parser.parse_args(arguments)
    # That nothing was gained is in the rows.
    warnings.simplefilter("ignore", s2sr_xr.S2SRWarning)
    rows = []
    scenes = list(simulated(range(args.simulated), args.size, args.model))
    scenes += list(real(args.real, args.model)) if args.real else []
    for name, left, judged in scenes:
        if args.only and not name.partition(":")[2].startswith(tuple(args.only)):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            out, begun = Path(scratch) / "tuned.safetensors", time.monotonic()
            try:
                left.s2sr.finetune(args.model, steps=args.steps, out=out)
            except s2sr_xr.GridError as problem:
                print(f"{name}: {problem}")
                continue
            row = {"scene": name, "steps": args.steps}
            row |= {"seconds": time.monotonic() - begun}
            row |= {"moved": read_header(out).notes["moved"].split()[0]}
            for scale, pair in judged.items():
                ratio = error(out, pair) / error(args.model, pair)
                row[scale] = float(ratio.mean())
        rows.append(tell("finetuning", row))
    table(rows, "scene", "moved", "reduced", "true", "seconds")


if __name__ == "__main__":
    main()
