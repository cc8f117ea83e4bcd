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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from common import table, tell
from real_scenes import LEFT_OUT, loaded, place, title, whole_scenes
from scores_5m import errors, from_twice, made_of, stacks, with_margin

import s2sr_xr
from s2sr_xr.core.filters import reduce_scale
from s2sr_xr.models.header import read_header
from s2sr_xr.models.networks.layers import centre
from s2sr_xr.train.data.evoland_batches import TEN
from s2sr_xr.train.data.pairs import Pair, reduced_pair, true_pair
from s2sr_xr.train.data.scenes import simulated_scene
from s2sr_xr.train.finetune_tasks import makes_ten

if TYPE_CHECKING:
    from collections.abc import Iterator

CELL = 60
"""Metres that both halves are whole multiples of."""

EDGE = 4
"""Output pixels along the border that do not count."""


def halves(tree: xr.DataTree) -> tuple[xr.DataTree, xr.DataTree]:
    """Return the left and the right half of a tree."""
    finest = max((g for g in tree.subtree if "x" in g.dims), key=lambda g: g.sizes["x"])
    wide = finest.sizes["x"] * round(float(finest.x[1] - finest.x[0]))
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


def ten_reduced(model: str | Path, tree: xr.DataTree) -> np.ndarray:
    """Return the RMSE of ten bands, each at its own pixels, from pixels twice as wide.

    What a 20 m band becomes at 10 m is brought back to 20 m.
    """
    ten, twenty = stacks(tree)
    _, made = from_twice(s2sr_xr.load_model(model), ten, twenty)
    fine = errors(made[:TEN], ten, 2 * EDGE)
    return np.concatenate([fine, errors(reduce_scale(made[TEN:], 2), twenty, EDGE)])


def ten_true(model: str | Path, tree: xr.DataTree, truth: xr.Dataset) -> np.ndarray:
    """Return the RMSE of ten bands at 5 m, above the first row that misses pixels."""
    ten, twenty = stacks(tree)
    gaps = (~ten.isfinite()).any(0).any(1).nonzero()
    rows = (int(gaps[0]) // 4 * 4 if len(gaps) else ten.shape[1]) - 4 * EDGE
    made = made_of(s2sr_xr.load_model(model), ten[:, :rows], twenty[:, : rows // 2])
    names = s2sr_xr.get_spec(model).output.names
    fine = np.stack([truth[b].to_numpy() for b in names])
    return errors(made, torch.from_numpy(fine)[:, : 2 * rows, : made.shape[-1]], 16)


Judge = Callable[[str | Path], np.ndarray]


def judges(right: xr.DataTree, name: str, model: str, truth=None) -> dict[str, Judge]:
    """Return what measures weights on the right half, scale by scale."""
    spec, found = s2sr_xr.get_spec(model), {}
    if makes_ten(spec):
        found["reduced"] = partial(ten_reduced, tree=right)
        if truth is not None:
            found["true"] = partial(ten_true, tree=right, truth=truth)
        return found
    found["reduced"] = partial(error, pair=reduced_pair(right, spec, name))
    if truth is not None:
        found["true"] = partial(error, pair=true_pair(right, truth, spec, name))
    return found


def real(folder: Path, model: str) -> Iterator[tuple]:
    """Yield name, left half and judges of each left-out scene."""
    left_out = LEFT_OUT[f"{s2sr_xr.get_spec(model).cell}m"]
    for scene in whole_scenes(folder):
        if place(scene.name) in left_out:
            left, right = halves(loaded(scene))
            name = title(scene)
            yield name, left, judges(right, name, model)


def simulated(seeds: range, size: int, model: str) -> Iterator[tuple]:
    """Yield the same of simulated scenes, at both scales."""
    fine = makes_ten(s2sr_xr.get_spec(model))
    for seed in seeds:
        tree, truth = simulated_scene(seed, "L2A", size, fine=fine)
        (left, right), (_, finer) = halves(tree), halves(xr.DataTree(truth))
        name = f"simulated:{seed}"
        yield name, left, judges(right, name, model, finer.to_dataset())


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
            for scale, judge in judged.items():
                row[scale] = float((judge(out) / judge(args.model)).mean())
        rows.append(tell("finetuning", row))
    table(rows, "scene", "moved", "reduced", "true", "seconds")


if __name__ == "__main__":
    main()
