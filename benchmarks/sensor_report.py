"""How near the schemes that are given the sensor come to a finer truth, beside others.

    python benchmarks/sensor_report.py --truth DIR --weights best.safetensors
    python benchmarks/sensor_report.py --truth DIR --weights best.safetensors --final
    python benchmarks/sensor_report.py --real DIR --weights best.safetensors

`--truth` are scenes whose finer spectrum is known, as in `sensor_weights.py`: those
that recipes are chosen by, or with `--final` those that nothing was chosen by. `--real`
are real scenes that no weights have seen, one scale below. Widths are told. One line a
scene and condition: mean over bands of the RMSE, in 1e-4 reflectance, of each method;
then the mean over scenes of RMSE over that of bicubic interpolation, of B05 to B8A and
of B11 and B12. At the end what a pixel of 10 m costs, on one thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from real_scenes import LEFT_OUT, place, whole_scenes
from safetensors.torch import load_file
from sensor_weights import (
    CHOSEN_BY,
    TEN,
    TWENTY,
    TYPICAL,
    errors,
    real_scene,
    truth_scene,
    typical,
)

import s2sr_xr
from s2sr_xr.models.networks.layers import centre
from s2sr_xr.models.networks.unrolled import Unrolled
from s2sr_xr.models.registry import load_model
from s2sr_xr.train.data.sensor_pairs import Truth, widened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WHOLE = np.s_[:, :]
FINAL = {
    "jasper_ridge": (np.s_[:96, :96], ()),
    "enmap_potsdam 1": (np.s_[:60, :96], ()),
    "enmap_potsdam 2": (np.s_[96:156, 36:156], ()),
    # Their short-wave infrared lies beside the rest.
    "abu_urban3": (WHOLE, ("B11", "B12")),
    "abu_beach1": (WHOLE, ("B11", "B12")),
}
CONDITIONS = {"5 DN": (5e-4, 0.0), "10 DN, 0.2 px": (1e-3, 0.2)}
METRES = [10 * w for w in TYPICAL]
INPUTS = ((4, 1), (6, 2))


def networks(weights: Path, features: int, blocks: list[int]) -> dict[str, Unrolled]:
    """Return the schemes that are given the sensor."""
    options = {"width": METRES, "groups": (4, 2)}
    learnt = Unrolled(INPUTS, features=features, blocks=blocks, **options)
    state = load_file(weights)
    if "stages.share" in state:  # as it is shipped, not as training leaves it
        learnt.load_state_dict(state)
    else:
        learnt.stages.load_state_dict(state, strict=False)
    return {
        "weightless": Unrolled(INPUTS, blocks=(), **options).eval(),
        "network": learnt.eval().to(memory_format=torch.channels_last),
    }


def methods(given: dict[str, Unrolled]) -> dict[str, Callable[..., torch.Tensor]]:
    """Return what makes a scene finer, from its fine and its coarse bands."""

    def by(network, order, reach):
        def run(fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
            fine = fine[:, order]
            made = network(widened(fine, 2 * reach), widened(coarse, reach))
            return centre(made, fine)

        return run

    found = {n: by(net, list(range(4)), 36) for n, net in given.items()}
    for name in ("dsen2-s-20m", "regression-20m"):
        spec = s2sr_xr.get_spec(name)
        order = [TEN.index(b) for b in spec.inputs[0].names]
        assert list(spec.output.names) == TWENTY
        found[name] = by(load_model(name), order, spec.margin)
    return found


def known_scenes(folder: Path, *, final: bool) -> Iterator[tuple[Truth, tuple]]:
    """Yield scenes of known truth, and their bands that are not judged."""
    if not final:
        for name, drop in CHOSEN_BY.items():
            yield truth_scene(folder / f"{name}.npz", drop), drop
        return
    for name, (part, drop) in FINAL.items():
        scene = truth_scene(folder / f"{name.split()[0]}.npz", drop)
        fine, target = scene.fine[:, *part], scene.target[:, *part]
        yield Truth(name=name, fine=fine, target=target), drop


def judged(scenes, run: dict, noise: float, shift: float) -> None:
    """Print the errors of every method on every scene, and the means."""
    ratios: dict[str, list] = {}
    for scene, drop in scenes:
        fine, coarse = typical(scene, noise=noise, shift=shift)
        smooth = torch.nn.functional.interpolate(
            coarse, scale_factor=2, mode="bicubic", align_corners=False
        )
        kept = np.array([b not in drop for b in TWENTY])
        plain = errors(smooth, scene.target[None])
        row = [f"bicubic {plain[kept].mean() * 1e4:6.1f}"]
        for name, make in run.items():
            error = errors(make(fine, coarse), scene.target[None])
            ratios.setdefault(name, []).append(np.where(kept, error / plain, np.nan))
            row.append(f"{name} {error[kept].mean() * 1e4:6.1f}")
        print(f"  {scene.name:44s}", "  ".join(row), flush=True)
    for name, found in ratios.items():
        table = np.array(found)
        parts = [np.nanmean(np.nanmean(t, 1)) for t in (table, table[:, :4])]
        infrared = [np.nanmean(r[4:]) for r in table if np.isfinite(r[4:]).any()]
        print(
            f"  over bicubic, {name:15s} {parts[0]:.3f}   B05-B8A {parts[1]:.3f}   "
            f"B11, B12 {np.mean(infrared):.3f}   "
            f"{np.round(np.nanmean(table, 0), 3).tolist()}"
        )


def costs(given: dict[str, Unrolled]) -> None:
    """Print what a tile of 1 Mpx takes on one thread."""
    run = dict(given) | {"dsen2-s-20m": load_model("dsen2-s-20m")}
    for name, network in run.items():
        side = 366 + 4 * (12 if name.startswith("dsen2") else 36)
        fine, coarse = torch.rand(1, 4, side, side), torch.rand(1, 6, *[side // 2] * 2)
        network(fine, coarse)
        begun = time.perf_counter()
        network(fine, coarse)
        spent = (time.perf_counter() - begun) / 366**2 * 1e6
        weights = sum(p.numel() for p in network.parameters())
        print(f"  {name:12s} {spent:6.1f} s a megapixel, {weights} weights")


@torch.inference_mode()
def main() -> None:
    """Judge, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--features", type=int, default=48)
    parser.add_argument("--blocks", type=int, nargs="+", default=[3, 3])
    parser.add_argument("--final", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    given = networks(args.weights, args.features, args.blocks)
    run = methods(given)
    if args.truth:
        for name, (noise, shift) in CONDITIONS.items():
            print(name)
            judged(known_scenes(args.truth, final=args.final), run, noise, shift)
    if args.real:
        unseen = [
            s
            for s in whole_scenes(args.real)
            if place(s.name) in LEFT_OUT["20m"] and "hydro" not in s.name
        ]
        for level in ("L1C", "L2A"):
            print(level, "one scale below")
            scenes = [
                (real_scene(s, alike=False), ()) for s in unseen if s.level == level
            ]
            judged(scenes, run, 0.0, 0.0)
    costs(given)


if __name__ == "__main__":
    main()
