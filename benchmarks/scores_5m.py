"""How good is a network that brings ten bands to 5 m? Scores and pictures of one.

Used by `make_weights.py`, `finetuning.py`, `adversarial.py`. Alone, it scores a file:

    python benchmarks/scores_5m.py --real DIR --weights FILE [--look DIR]

`--real` is a folder as in `real_scenes.py`; held-out places are scored. Protocols:

* *reduced scale*: all bands by 2 (`reduce_scale`). The 10 m bands that come out at 10 m
  are compared with the recorded ones, in dB of PSNR over bicubic; the 20 m bands, which
  come out at 10 m too, are brought to 20 m, by `reduce_scale` and by plain block means,
  and compared with the recorded ones: RMSE over that of bicubic from 40 m to 20 m.
* *simulated*: scenes at their own scale, and what the sensor would see at 5 m.
* `--look DIR`: the held-out places at full scale, next to bicubic interpolation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from real_scenes import LEFT_OUT, loaded, place, title, whole_scenes
from safetensors.torch import load_file

from s2sr_xr.core.filters import block_mean, mirrored, reduce_scale
from s2sr_xr.evaluate.metrics import rmse
from s2sr_xr.models.networks.carn import CARN
from s2sr_xr.models.networks.layers import centre
from s2sr_xr.models.networks.resample import Upsample
from s2sr_xr.models.published import EVOLAND, published
from s2sr_xr.models.spec import BandGroup
from s2sr_xr.train import simulated_scene
from s2sr_xr.train.data.evoland_batches import TEN

if TYPE_CHECKING:
    import xarray as xr

NAME = "carn-s"
SPEC = next(s for s, _ in published() if s.name == NAME)
FINE = BandGroup(names=SPEC.bands, per_cell=4)
SIZE = {"features": 64, "stages": 2, "groups": 1, "shared": False}
SIZE |= {"skip": "regression"}
FLAT = 1e-3  # where bicubic is as near as this, noise is all there is to compare


def with_margin(images, spec) -> list[torch.Tensor]:
    """Return what a network takes of images ``(C, h, w)``: mirrored at their edge."""
    return [
        edged(image, spec.margin * group.per_cell)[None]
        for group, image in zip(spec.inputs, images, strict=True)
    ]


def edged(x: torch.Tensor, by: int) -> torch.Tensor:
    """Return `x` mirrored beyond its edge, as inference does."""
    return mirrored(mirrored(x, by, -2), by, -1)


def real_scenes(folder: Path) -> dict[str, xr.DataTree]:
    """Return the scenes that have all ten bands, in memory."""
    return {title(scene): loaded(scene) for scene in whole_scenes(folder)}


def simulated(seed: int, level: str, size: int) -> tuple[xr.DataTree, xr.Dataset]:
    """Return a simulated scene, and what its sensor would see with 5 m pixels."""
    tree, truth = simulated_scene(seed, level, size, fine=True)
    return tree, truth[list(SPEC.bands)]


def stacks(tree: xr.DataTree) -> list[torch.Tensor]:
    """Return the 10 m and the 20 m bands, whole 40 m cells of them."""
    found = []
    for group, name in zip(SPEC.inputs, ("r10m", "r20m"), strict=True):
        stack = np.stack([tree[name][b].to_numpy()[0] for b in group.names])
        found.append(torch.from_numpy(stack.astype(np.float32)))
    rows, cols = (n // 4 * 4 for n in found[0].shape[-2:])
    return [found[0][:, :rows, :cols], found[1][:, : rows // 2, : cols // 2]]


def fresh(padding: str, seed: int = 0) -> CARN:
    """Return the network as it begins: bicubic interpolation."""
    torch.manual_seed(seed)
    mean, std = zip(*EVOLAND.values(), strict=True)
    inputs = ((4, 1), (6, 2))
    network = CARN(inputs, **SIZE, mean=mean, std=std, padding=padding)
    torch.nn.init.zeros_(network.tail.weight)
    torch.nn.init.zeros_(network.tail.bias)
    return network


def in_use(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Return the network as inference runs it."""
    network = fresh("valid").eval()
    network.load_state_dict({k: v.float() for k, v in state.items()})
    return network.to(memory_format=torch.channels_last)


@torch.inference_mode()
def made_of(network: torch.nn.Module, ten, twenty) -> torch.Tensor:
    """Return the ten bands of a scene, by a network that shrinks its images."""
    made = network(*with_margin((ten, twenty), SPEC))
    # A margin is whole cells; what is over of the last one is cut.
    like = torch.empty(1, 1, *(2 * k for k in ten.shape[-2:]))
    return centre(made, like)[0]


def bicubic(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Return finer pixels by interpolation (a = -0.75)."""
    return Upsample(factor, "bicubic")(edged(x, 2)[None])[0]


def errors(made: torch.Tensor, truth: torch.Tensor, border: int) -> np.ndarray:
    """Return the RMSE of each band, without a border."""
    inner = slice(border, -border)
    return np.asarray(
        rmse(made[..., inner, inner].numpy(), truth[..., inner, inner].numpy())
    )


def decibel(ours: np.ndarray, theirs: np.ndarray) -> list[float]:
    """Return how many dB of PSNR one error is better than another."""
    gains = 20 * np.log10(theirs / ours)
    return [round(float(gain), 2) for gain in gains]


@torch.inference_mode()
def from_twice(
    network: torch.nn.Module, ten: torch.Tensor, twenty: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return bands with pixels twice as wide, and what the network makes of those."""
    small = [
        torch.nan_to_num(reduce_scale(x, 2), nan=float(torch.nanmean(x)))
        for x in (ten, twenty)
    ]
    return small, made_of(network, *small)


def at_reduced_scale(network: torch.nn.Module, tree: xr.DataTree) -> dict[str, dict]:
    """Return, band by band, the gain in dB at 10 m and the ratio of RMSE at 20 m."""
    ten, twenty = stacks(tree)
    small, made = from_twice(network, ten, twenty)
    flat = errors(bicubic(small[0], 2), ten, 8)
    ours = errors(made[:TEN], ten, 8)
    others = errors(bicubic(small[1], 2), twenty, 4)
    mild = errors(reduce_scale(made[TEN:], 2), twenty, 4)
    block = errors(block_mean(made[TEN:], 2), twenty, 4)
    tens, twenties = SPEC.bands[:TEN], SPEC.bands[TEN:]
    return {
        "dB at 10 m": dict(zip(tens, decibel(ours, flat), strict=True)),
        "ratio at 20 m": named(twenties, mild / others),
        "ratio at 20 m, block means": named(twenties, block / others),
        "bicubic at 10 m": named(tens, flat, 5),
        "bicubic at 20 m": named(twenties, others, 5),
    }


def named(names, values: np.ndarray, digits: int = 3) -> dict[str, float]:
    """Return values by name, rounded."""
    return {n: round(float(v), digits) for n, v in zip(names, values, strict=True)}


def at_5_m(
    network: torch.nn.Module, tree: xr.DataTree, truth: xr.Dataset
) -> list[torch.Tensor]:
    """Return what the network makes of a simulated scene, bicubic, and the truth."""
    ten, twenty = (torch.nan_to_num(x) for x in stacks(tree))
    made = made_of(network, ten, twenty)
    flat = torch.cat((bicubic(ten, 2), bicubic(twenty, 4)))
    fine = torch.from_numpy(np.stack([truth[b].to_numpy() for b in SPEC.bands]))
    # The swath ends in the lower right: the upper left half of the scene.
    part = (slice(None), *(slice(0, n // 2) for n in made.shape[-2:]))
    return [image[part] for image in (made, flat, fine)]


def at_true_scale(network: torch.nn.Module, seed: int, level: str) -> dict[str, dict]:
    """Return the gain in dB at 5 m over bicubic on a simulated scene, band by band."""
    made, flat, fine = at_5_m(network, *simulated(seed, level, 480))
    ours, theirs = (errors(x, fine, 16) for x in (made, flat))
    return {
        "dB at 5 m": dict(zip(SPEC.bands, decibel(ours, theirs), strict=True)),
        "ratio at 5 m": named(SPEC.bands, ours / theirs),
    }


def known(tree: xr.DataTree) -> list[torch.Tensor]:
    """Return what the network takes of a scene, without gaps."""
    return with_margin(map(torch.nan_to_num, stacks(tree)), SPEC)


def figures(network: torch.nn.Module, judged: dict[str, xr.DataTree]) -> dict:
    """Return the figures of each scene."""
    found = {name: at_reduced_scale(network, tree) for name, tree in judged.items()}
    for seed in range(2):
        for level in ("L1C", "L2A"):
            found[f"simulated:{seed}{level}"] = at_true_scale(network, seed, level)
    return found


def summary(found: dict) -> dict[str, dict[str, float]]:
    """Return the mean over scenes of each figure, band by band, and over the bands.

    Scenes that bicubic gets right to 10 counts are not in it: noise is compared there.
    The same may be true of single bands, such as B11 over ice; without these the
    figures are given again.
    """
    rows: dict[str, dict[str, float]] = {}
    for key in ("dB at 10 m", "ratio at 20 m", "ratio at 20 m, block means"):
        flat = "bicubic at 10 m" if "10 m" in key else "bicubic at 20 m"
        scenes = [f for f in found.values() if key in f]
        kept = [f for f in scenes if np.mean([*f[flat].values()]) > FLAT]
        rows[key] = averaged([f[key] for f in kept])
        kept = [{b: v for b, v in f[key].items() if f[flat][b] > FLAT} for f in scenes]
        rows[f"{key}, without flat bands"] = averaged(kept)
    for key in ("dB at 5 m", "ratio at 5 m"):
        rows[key] = averaged([f[key] for f in found.values() if key in f])
    return rows


def averaged(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each band, and the mean of the scenes' own means."""
    bands = {b: [r[b] for r in rows if b in r] for r in rows for b in r}
    means = {b: round(float(np.mean(v)), 3) for b, v in bands.items()}
    scenes = [np.mean([*r.values()]) for r in rows if r]
    return means | {"mean": round(float(np.mean(scenes)), 3)}


def look(network: torch.nn.Module, tree: xr.DataTree, path: Path, side: int) -> None:
    """Draw a part of a scene at 5 m, in true colour and short-wave infrared.

    Bicubic interpolation on the left, the network on the right; one stretch for both.
    """
    import matplotlib.pyplot as plt

    ten, twenty = (torch.nan_to_num(x) for x in stacks(tree))
    flat = torch.cat((bicubic(ten, 2), bicubic(twenty, 4)))
    made = made_of(network, ten, twenty)
    middle = [slice((n - side) // 2, (n + side) // 2) for n in made.shape[-2:]]
    figure, axes = plt.subplots(2, 2, figsize=(14, 14), layout="constrained")
    for row, names in zip(
        axes, (("B04", "B03", "B02"), ("B12", "B8A", "B05")), strict=True
    ):
        bands = [SPEC.bands.index(b) for b in names]
        low, high = np.percentile(flat[bands].flatten(1).numpy(), (1, 99), axis=1)
        for axis, image in zip(row, (flat, made), strict=True):
            part = image[(bands, *middle)].numpy().transpose(1, 2, 0)
            axis.imshow(
                np.clip((part - low) / (high - low), 0, 1), interpolation="none"
            )
            axis.set_axis_off()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def pictures(
    network: torch.nn.Module, scenes: dict[str, xr.DataTree], folder: Path | None
) -> None:
    """Draw every scene into a folder, if there is one."""
    for name, tree in scenes.items() if folder else ():
        folder.mkdir(parents=True, exist_ok=True)
        look(network, tree, folder / f"{name.replace(':', '_')}.png", side=200)


def left_out(folder: Path) -> dict[str, xr.DataTree]:
    """Return the held-out scenes that have all ten bands, in memory."""
    scenes = real_scenes(folder)
    return {name: tree for name, tree in scenes.items() if held_out(name)}


def held_out(title: str) -> bool:
    """Return whether a scene judges the weights, by its title."""
    return place(title.split(":")[1]) in LEFT_OUT["20m"]


def main(arguments: list[str] | None = None) -> None:
    """Score a file of weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--look", type=Path)
    args = parser.parse_args(arguments)
    network, judged = in_use(load_file(args.weights)), left_out(args.real)
    print(json.dumps(summary(figures(network, judged)), indent=1))
    pictures(network, judged, args.look)


if __name__ == "__main__":
    main()
