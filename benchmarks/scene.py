"""Time and memory of a scene, from STAC COGs to packed Zarr, and where time goes.

A product of `--size` px (10980 is a whole one) is made of mirrored copies of a
simulated scene. A child process upsamples it to Zarr with `--threads` Dask threads; its
peak memory is the kernel's own figure. Then every stage runs alone, on one thread, over
the same blocks, which says where the time goes.

    python benchmarks/scene.py --size 10980 --threads 2
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CHILD = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import scene;"
    "scene.run(*sys.argv[1:])"
)


def product(folder: Path, size: int, seed: int = 0, base: int = 1098) -> Path:
    """Write an item of `size` px as mirrored copies of a small one; return its path."""
    import rasterio

    from s2sr_xr.simulate import simulate_scene, write_item

    item_path = folder / "product"
    if done := list(item_path.glob(f"*_{size}/*_{size}.json")):
        return done[0]
    small = simulate_scene(folder / "small", size=min(base, size), seed=seed)
    counts = {}
    for name in small.assets:
        if name == "truth":
            continue
        with rasterio.open(small.assets[name].get_absolute_href()) as file:
            image = file.read(1)
        n = size * image.shape[0] // min(base, size)
        counts[name] = np.pad(image, (0, n - image.shape[0]), mode="symmetric")
    item = write_item(
        item_path,
        f"{small.id}_{size}",
        counts,
        corner=(600_000, 8_200_000),
        epsg=32722,
        datetime=small.datetime or dt.datetime(2025, 1, 1, tzinfo=dt.UTC),
        level="L1C",
    )
    return Path(item.get_self_href())


def run(item: str, out: str, threads: str, model: str) -> None:
    """Upsample an item to Zarr, and print time and peak memory as JSON."""
    import dask

    import s2sr_xr

    begun = time.perf_counter()
    ten = s2sr_xr.open_stac(item).s2sr.upsample(model)
    with dask.config.set(scheduler="threads", num_workers=int(threads)):
        work = ten.s2sr.to_zarr(out, mode="w", compute=False)
        built = time.perf_counter() - begun
        work.compute()
    wall = time.perf_counter() - begun
    # Not ru_maxrss, which begins with that of the parent.
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(re.search(r"VmHWM:\s*([0-9]+)", status)[1])
    size = sum(f.stat().st_size for f in Path(out).rglob("*") if f.is_file())
    print(
        json.dumps(
            {
                "build_s": built,
                "wall_s": wall,
                "peak_bytes": peak,
                "promised_bytes": s2sr_xr.plan(ten, threads=int(threads)).memory,
                "tasks": len(dict(work.dask)),
                "blocks": ten.B05.data.npartitions,
                "stored_bytes": size,
                "variables": len(ten.data_vars),
                "pixels": ten.sizes["y"] * ten.sizes["x"],
            }
        )
    )


def stages(item: str, out: str, model: str, most: int) -> dict[str, float]:
    """Return the seconds of each stage alone, one thread, over up to `most` blocks."""
    import s2sr_xr
    from s2sr_xr.block import do_block
    from s2sr_xr.lazy import Graph, call_of
    from s2sr_xr.predict import torch_threads
    from s2sr_xr.store import REFLECTANCE, create, encode

    ten = s2sr_xr.open_stac(item).s2sr.upsample(model)
    job = call_of(ten.B05.data)[0].job
    graph = Graph(job)
    target = create(out, ten, block=job.blocks.size, mode="w")
    took = dict.fromkeys(("read", "predict", "encode", "write"), 0.0)

    class Kept:
        def __init__(self, image, box):
            self.image, self.box = image, box

        def read(self, time, rows, cols):  # noqa: ARG002 - the protocol's
            top, left = self.box.rows.start, self.box.cols.start
            return self.image[
                rows.start - top : rows.stop - top, cols.start - left : cols.stop - left
            ]

    def timed(stage, function, *args):
        begun = time.perf_counter()
        result = function(*args)
        took[stage] += time.perf_counter() - begun
        return result

    for n, (i, j, box) in enumerate(job.blocks):
        if n == most:
            break
        kept = {}
        for band, window in job.task.reads(box).items():
            rows, cols = window.slices
            kept[band] = Kept(
                timed("read", graph.pixels[band].read, 0, rows, cols), window
            )
        with torch_threads(1):
            made = timed("predict", do_block, job.task, box, 0, kept)
        bands = [v for name, v in made.items() if name != "quality"]
        timed("encode", lambda bands=bands: [encode(v, REFLECTANCE) for v in bands])
        timed("write", target.write, (0, i, j), made)
    took["write"] -= took["encode"]  # writing encodes too
    return took | {"blocks": n + (n < most)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10980)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="bicubic")
    parser.add_argument("--folder", type=Path, help="keep the product here")
    parser.add_argument("--blocks", type=int, default=4, help="blocks for the stages")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        item = str(product(folder, args.size))
        out = str(Path(scratch) / "out.zarr")
        here = str(Path(__file__).parent)
        child = [sys.executable, "-c", CHILD, here, item, out]
        done = subprocess.run(
            [*child, str(args.threads), args.model], check=True, stdout=subprocess.PIPE
        )
        found = json.loads(done.stdout)
        took = stages(item, out, args.model, args.blocks)
    blocks = took.pop("blocks")
    total = sum(took.values())
    mp = found["pixels"] * found["variables"] / 1e6
    wall, stored = found["wall_s"], found["stored_bytes"] / 1e9
    shares = ", ".join(f"{k} {v / total:.0%} ({v:.1f} s)" for k, v in took.items())
    print(f"{args.size} px, {args.model}, {args.threads} threads, {platform.machine()}")
    print(f"wall {wall:.1f} s, of which graph {found['build_s']:.2f} s")
    print(f"{found['tasks']} tasks for {found['blocks']} blocks")
    print(f"{mp / wall:.0f} band-megapixels a second, {stored:.2f} GB stored")
    print(f"peak memory {found['peak_bytes'] / 2**30:.2f} GiB")
    print(f"stages alone, one thread, {blocks} blocks: {shares}")
    facts = {"size": args.size, "threads": args.threads, "model": args.model}
    print(json.dumps(found | facts | {"stages_s": took, "stage_blocks": blocks}))


if __name__ == "__main__":
    main()
