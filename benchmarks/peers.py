"""Our whole road against a plain loop over rasterio windows with ONNX Runtime.

The same network on the same pixels, in turns, each time in a process of its own: STAC
COGs to packed Zarr, in each `--precision`; and as the Evoland tool does it, one tile of
1000 output pixels after another, read with its margin through rasterio, run by ONNX
Runtime in float32 on `--threads`, written to an uncompressed GeoTIFF of 16 bits. The
loop has the network's own margin, so that both make the same pixels; the largest
difference is told, of pixels that no filled one touched. Imports and the loading of the
network are not timed. Ratios are taken in each round, and their median counts.

    python benchmarks/peers.py --size 4392 --model dsen2-20m carn
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from itertools import product as pairs
from pathlib import Path

import numpy as np
from common import built, child, known, product, stacks, table, tell, warm, weights

MISSING = -10_000
"""Code of a pixel without data in the loop's GeoTIFF."""


def ours(
    item: str, out: str, model: str, precision: str, threads: int
) -> dict[str, object]:
    """Return the seconds of our road."""
    import dask
    from common import finer

    import s2sr_xr
    from s2sr_xr.engine.predictor import Predictor

    warm()
    Predictor(name=model, precision=precision, device="cpu").load()
    with dask.config.set(scheduler="threads", num_workers=threads):
        begun = time.perf_counter()
        ds = finer(s2sr_xr.open_stac(item), model, precision, "cpu")
        ds.s2sr.to_zarr(out, mode="w")
        return {"wall_s": time.perf_counter() - begun}


class Window:
    """The bands of one group, read around a part of the scene."""

    def __init__(self, item, group, shape, stack: contextlib.ExitStack):
        import rasterio

        from s2sr_xr.core.radiometry import decide

        self.k = group.per_cell
        self.shape = tuple(n * self.k for n in shape)
        hrefs = [item.assets[b].get_absolute_href() for b in group.names]
        self.files = [stack.enter_context(rasterio.open(h)) for h in hrefs]
        means = [decide(item, b) for b in group.names]
        self.scale = np.array([m.scale for m in means], "f4")[:, None, None]
        self.offset = np.array([m.offset for m in means], "f4")[:, None, None]

    def read(self, rows: range, cols: range) -> np.ndarray:
        """Return reflectance of cells, mirrored beyond the scene, NaN without data."""
        spans = [(s.start * self.k, s.stop * self.k) for s in (rows, cols)]
        inside = [
            (max(a, 0), min(b, n)) for (a, b), n in zip(spans, self.shape, strict=True)
        ]
        counts = np.stack([file.read(1, window=tuple(inside)) for file in self.files])
        image = (counts.astype("f4") + self.offset) * self.scale
        image[counts == 0] = np.nan
        pad = [(x - a, b - y) for (a, b), (x, y) in zip(spans, inside, strict=True)]
        return np.pad(image, [(0, 0), *pad], mode="symmetric")


def plain(item: str, out: str, name: str, threads: int, side: int) -> dict[str, object]:
    """Return the seconds of the loop, in tiles of `side` output pixels."""
    import pystac
    import rasterio
    from common import through_onnx
    from rasterio.windows import Window as Part

    spec = known()[name][0]
    k, margin = spec.output.per_cell, spec.margin
    tile = max(side // k, 1)
    network = through_onnx(
        built(name), stacks(spec, (tile, tile)), threads, fixed=False
    )
    begun = time.perf_counter()
    with contextlib.ExitStack() as stack:
        found = pystac.Item.from_file(item)
        coarse = next(g for g in spec.inputs if g.per_cell == 1).names[0]
        with rasterio.open(found.assets[coarse].get_absolute_href()) as file:
            shape, grid = file.shape, file.transform
            profile = {"crs": file.crs, "transform": grid * grid.scale(1 / k)}
        groups = [Window(found, group, shape, stack) for group in spec.inputs]
        sink = stack.enter_context(
            rasterio.open(
                out,
                "w",
                driver="GTiff",
                count=len(spec.channels),
                height=shape[0] * k,
                width=shape[1] * k,
                dtype="int16",
                nodata=MISSING,
                tiled=True,
                bigtiff="if_safer",
                **profile,
            )
        )
        starts = [range(0, n, tile) for n in shape]
        for top, left in pairs(*starts):
            rows, cols = min(tile, shape[0] - top), min(tile, shape[1] - left)
            seen = (
                range(top - margin, top + rows + margin),
                range(left - margin, left + cols + margin),
            )
            made = network([group.read(*seen) for group in groups])
            over = (made.shape[1] - rows * k) // 2
            made = made[:, over : over + rows * k, over : over + cols * k]
            with np.errstate(invalid="ignore"):
                codes = np.rint(np.clip(made, -1, 3.2) * 10_000)
            codes = np.where(np.isnan(codes), MISSING, codes).astype("i2")
            part = Part(left * k, top * k, cols * k, rows * k)
            sink.write(codes, window=part)
    return {"wall_s": time.perf_counter() - begun}


def difference(zarr: str, tif: str, name: str) -> tuple[float, float]:
    """Return the largest difference in counts, and the share of pixels compared."""
    import rasterio

    import s2sr_xr

    spec = known()[name][0]
    ds = s2sr_xr.open_result(zarr)
    clear = ds.quality.values.squeeze() & 1 == 0
    most = 0.0
    with rasterio.open(tif) as file:
        for n, band in enumerate(spec.channels, start=1):
            theirs = file.read(n)
            mine = np.clip(ds[band].values.squeeze(), -0.1, 3.2) * 10_000
            seen = clear & (theirs != MISSING) & np.isfinite(mine)
            # Ours ends at -0.1, theirs at -1: random weights may go beyond.
            apart = np.abs(mine - np.clip(theirs, -1000, None))[seen]
            most = max(most, float(apart.max(initial=0)))
    return most, float(clear.mean())


def compare(name: str, item: str, scratch: Path, args) -> list[dict[str, object]]:
    """Return a row for each way of making one network's pixels."""
    model = weights(name, scratch, tile=args.tile)
    zarr, tif = str(scratch / "ours.zarr"), str(scratch / "theirs.tif")
    runs = {
        f"ours {precision}": lambda precision=precision: child(
            "peers.ours", item, zarr, model, precision, args.threads
        )
        for precision in args.precision
    }
    runs["loop"] = lambda: child(
        "peers.plain", item, tif, name, args.threads, args.side
    )
    took = {run: [] for run in runs}
    apart, compared = {}, 0.0
    for turn in range(args.rounds):
        for run in runs if turn % 2 else reversed(runs):
            took[run].append(runs[run]())
            if run != "loop" and Path(tif).exists() and run not in apart:
                apart[run], compared = difference(zarr, tif, name)
    spec = known()[name][0]
    pixels = (args.size * 10 / spec.resolution) ** 2
    rows = []
    for run, results in took.items():
        walls = [r["wall_s"] for r in results]
        ratios = [t["wall_s"] / w for t, w in zip(took["loop"], walls, strict=True)]
        rows.append(
            {
                "model": name,
                "run": run,
                "size": args.size,
                "threads": args.threads,
                "wall_s": round(min(walls), 3),
                "mpx_s": round(pixels / min(walls) / 1e6, 4),
                "over_loop": round(statistics.median(ratios), 3),
                "peak_bytes": max(r["peak_bytes"] for r in results),
                "apart_counts": round(apart.get(run, 0.0), 3),
                "compared": round(compared, 3),
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    """Print one JSON line a network and way, and a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--size", type=int, default=4392, help="10 m pixels a side")
    parser.add_argument("--model", nargs="+", default=["dsen2-20m", "carn"])
    parser.add_argument("--precision", nargs="+", default=["float32", "bf16"])
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=1000, help="the loop's tile")
    parser.add_argument("--tile", type=int, help="ours, in cells; the card's if none")
    parser.add_argument("--folder", type=Path, help="keep the product here")
    args = parser.parse_args(arguments)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        item = str(product(args.folder or folder, args.size))
        for name in args.model:
            rows = compare(name, item, folder, args)
            found += [tell("peers", row) for row in rows]
    table(found)
    return found


if __name__ == "__main__":
    main()
