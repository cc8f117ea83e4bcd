"""How far flow and image jump where two tiles of an L1B network meet.

    python benchmarks/seams.py [--real DIR] [--model csr-s rec-s]

CSR and REC look at a whole tile with its halo (standardisation, channel attention, the
flow of `rec-s`), so two neighbouring tiles do not agree on the pixels between them.
Both are run here, and what they say of the two rows or columns along the seam is
compared. `--real` is a
folder of 352 px TIFFs of L1B, on which tiles are smaller than the 352 px of the card;
a simulated scene shows those too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

import s2sr_xr
from s2sr_xr.models.registry import has_weights

BANDS = ("B02", "B03", "B04", "B08")
COUNTS = 3500
"""Of reflectance 1, roughly, at L1B."""


def detectors(real: Path | None, size: int):
    """Yield name and ``(4, H, W)`` counts: real crops, and one simulated scene."""
    for path in sorted(real.glob("*.tif")) if real else ():
        ds = next(iter(s2sr_xr.open_l1b(path, chunks=None).children.values()))
        yield path.stem, np.stack([ds[b].to_numpy() for b in BANDS])
    with tempfile.TemporaryDirectory() as scratch:
        item = s2sr_xr.simulate_scene(scratch, size=size, seed=7)
        ten = s2sr_xr.open_stac(item, chunks=None)["r10m"].isel(time=0)
        stack = np.stack([ten[b].to_numpy() for b in BANDS])
    yield "simulated", np.nan_to_num(stack, nan=0.1).astype("f4") * COUNTS


def jumps(network, spec, image: np.ndarray, tile: int) -> dict[str, float]:
    """Return mean, 95th percentile and maximum of the jump across all seams."""
    m, k = spec.margin, spec.output.per_cell
    seams = list(range(tile, image.shape[-1] - 1, tile))
    padded = np.pad(image, [(0, 0), (m, m), (m, m)], mode="symmetric")
    side, two = tile + 2 * m, k
    found: list[np.ndarray] = []
    for axis in (1, 2):
        turned = padded if axis == 2 else padded.transpose(0, 2, 1)
        for seam in seams:
            for across in range(0, image.shape[-1] - tile + 1, tile):
                views = []
                for start in (seam - tile, seam):
                    view = turned[:, across : across + side, start : start + side]
                    if view.shape[-1] < side:
                        break
                    views.append(run(network, spec, view, turned=axis == 1))
                if len(views) < 2:
                    continue
                # The same ground: two columns before and after the seam, in each view.
                rows = slice(m * k, (m + tile) * k)
                at = (m + tile) * k
                a = views[0][:, rows, at - two : at + two]
                b = views[1][:, rows, m * k - two : m * k + two]
                found.append(np.abs(a - b).ravel())
    jump = np.concatenate(found)
    return {
        "mean": round(float(jump.mean()), 4),
        "p95": round(float(np.percentile(jump, 95)), 4),
        "max": round(float(jump.max()), 4),
    }


def run(network, spec, view: np.ndarray, *, turned: bool) -> np.ndarray:
    """Return flows (registration) or image, of a view that may lie on its side."""
    upright = view.transpose(0, 2, 1) if turned else view
    stack = torch.from_numpy(np.ascontiguousarray(upright))[None]
    with torch.inference_mode():
        if spec.also:
            out = network.align(stack, reference=1)[0, len(BANDS) :]
        else:
            out = network(stack)[0]
    made = out.numpy()
    return made.transpose(0, 2, 1) if turned else made


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    """Print one JSON line a model, tile and detector."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path)
    parser.add_argument("--model", nargs="+", default=["csr-s", "rec-s"])
    parser.add_argument("--tile", nargs="+", type=int, default=[112, 352])
    parser.add_argument("--size", type=int, default=720, help="of the simulated scene")
    args = parser.parse_args(arguments)
    rows = []
    for name in args.model:
        if not has_weights(name):
            print(f"{name} has no weights; give the path of a .safetensors file.")
            continue
        spec, network = s2sr_xr.get_spec(name), s2sr_xr.load_model(name)
        for scene, image in detectors(args.real, args.size):
            for tile in args.tile:
                if 2 * tile > image.shape[-1]:
                    continue
                found = jumps(network, spec, image, tile)
                row = {
                    "model": name,
                    "scene": scene,
                    "tile": tile,
                    "unit": "px of flow" if spec.also else "counts",
                    "median_count": round(float(np.median(image)), 1),
                    **found,
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


if __name__ == "__main__":
    main()
