"""All of it on a GPU: the engine, a whole tile, memory, and what happens without room.

One script and one table, with one JSON line a row:

* engine: useful operations a second of each network and precision, through `predict`
  (copies to and from the device included) and of the network alone, over the device's
  own matrix products in bf16 and in TF32; what bf16 changes, in counts (RMS);
* room: the same pixels when the GPU has room for a few tiles only, and in how many
  pieces they came;
* tile: a product of `--size` px, COGs on local disk to Zarr: wall time over the slowest
  of reading, predicting and writing, each alone on all threads, and peak GPU memory.

::

    python benchmarks/gpu.py --size 10980
    python benchmarks/gpu.py --device cpu --size 120 --tile 10 --side 2

Without a CUDA device it says so and ends well; `--device cpu` runs all the same there.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from common import (
    built,
    child,
    product,
    product_rate,
    seconds,
    stacks,
    table,
    tell,
    warm,
    weights,
)

from s2sr_xr.engine import thread_team

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = ("dsen2-20m", "rec", "carn")

TILES = ("dsen2-20m", "carn")
"""What a whole product is made finer with; REC takes detectors, not products."""

PRECISIONS = ("float32", "tf32", "bf16")
"""The first is what the others are compared with; whole products have the last."""

COUNTS = 10_000
"""Of one reflectance."""


def products(device: str) -> dict[str, float]:
    """Return operations a second of matrix products: bf16, TF32 and full float32."""
    size = 8192 if device != "cpu" else 512
    found = {"bf16": product_rate(torch.bfloat16, size, device=device)}
    before = torch.get_float32_matmul_precision()
    for name, precision in (("tf32", "high"), ("float32", "highest")):
        torch.set_float32_matmul_precision(precision)
        found[name] = product_rate(torch.float32, size, device=device)
    torch.set_float32_matmul_precision(before)
    return found


def memory(device: str) -> int:
    """Return the most bytes of the device that torch took, its driver's included."""
    if device == "cpu":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    driver = total - free - torch.cuda.memory_reserved(device)
    return driver + torch.cuda.max_memory_reserved(device)


def afresh(device: str) -> None:
    """Let `memory` count from now on."""
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def load(name: str, precision: str, device: str, scratch: Path, args):
    """Return facts and network as the library runs it, with random weights."""
    from s2sr_xr.engine.predictor import Predictor
    from s2sr_xr.models.registry import get_spec

    path = weights(name, scratch, tile=args.tile)
    run, _ = Predictor(name=path, precision=precision, device=device).load()
    return get_spec(path), run


def engine(name: str, device: str, scratch: Path, args) -> Iterator[dict[str, object]]:
    """Yield a row for each precision of a network."""
    from s2sr_xr.engine.predict import predict
    from s2sr_xr.models.cost import cost_of

    truth = None
    for precision in args.precision:
        afresh(device)
        spec, run = load(name, precision, device, scratch, args)
        tile = (spec.tile, spec.tile)
        useful = cost_of(built(name), spec, tile).useful
        cells = args.side * spec.tile
        images = stacks(spec, (cells, cells))
        given = [
            torch.from_numpy(image)[None].expand(args.batch, -1, -1, -1).to(device)
            for image in stacks(spec, tile)
        ]

        def whole(spec=spec, run=run, images=images, tile=tile):
            return predict(run, spec, images, tile=tile, device=device)

        def bare(run=run, given=given):
            with torch.inference_mode():
                run(*(image.clone() for image in given))

        made = np.stack(whole())  # warms up
        took = min(seconds(whole, device) for _ in range(args.rounds))
        held = memory(device)
        bare()
        alone = min(seconds(bare, device) for _ in range(args.rounds))
        truth = made if truth is None else truth
        yard = products(device)[precision]
        apart = np.sqrt(np.mean((made - truth) ** 2, dtype="f8"))
        yield {
            "part": "engine",
            "model": name,
            "precision": precision,
            "useful_tflops": useful * cells**2 / took / 1e12,
            "product_tflops": yard / 1e12,
            "of_product": useful * cells**2 / took / yard,
            "network_of_product": useful * spec.tile**2 * args.batch / alone / yard,
            "mpx_s": (cells * spec.output.per_cell) ** 2 / took / 1e6,
            "gpu_peak_bytes": held,
            "apart_rms_counts": float(apart) * (COUNTS if spec.units == "1" else 1),
        }


def room(name: str, device: str, scratch: Path, args) -> Iterator[dict[str, object]]:
    """Yield what `predict` does with little room: a made up, and a real one on a GPU.

    The made-up one is of `--room` tiles, the real one of a little more than one takes.
    """
    from s2sr_xr.engine.predict import predict

    spec, run = load(name, "float32", device, scratch, args)
    tile = (spec.tile, spec.tile)
    images = stacks(spec, (args.side * spec.tile,) * 2)
    batches: list[int] = []

    def crowded(*tensors, most: float = float("inf")):
        if len(tensors[0]) > most:
            raise torch.OutOfMemoryError("made up by the benchmark")
        made = run(*tensors)
        batches.append(len(tensors[0]))
        return made

    def go(network, batch: int):
        batches.clear()
        return predict(network, spec, images, tile=tile, device=device, batch=batch)

    def row(where: str, made) -> dict[str, object]:
        return {
            "part": "room",
            "model": name,
            "where": where,
            "batches": len(batches),
            "largest": max(batches),
            "apart": float(np.abs(np.subtract(made, wanted)).max()),
        }

    afresh(device)
    wanted = go(crowded, 1)
    small = functools.partial(crowded, most=args.room)
    yield row(f"{args.room} tiles", go(small, args.batch))
    if device == "cpu":
        return
    total = torch.cuda.mem_get_info(device)[1]
    afresh(device)
    go(crowded, 1)
    limit = 1.5 * torch.cuda.max_memory_reserved(device)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / total, device)
    yield row(f"{limit / 2**30:.2f} GiB", go(crowded, args.batch))
    torch.cuda.set_per_process_memory_fraction(1.0, device)


def whole(what: dict, out: str, threads: int | None) -> dict[str, object]:
    """Make a product finer into Zarr; return wall time and peak GPU memory."""
    import dask
    from scene import Work

    warm()
    device = what["device"]
    if device != "cpu":
        torch.zeros(1, device=device)  # starts the driver
    begun = time.perf_counter()
    count = {"num_workers": threads} if threads else {}  # else the library decides
    with dask.config.set(scheduler="threads", **count):
        ds, job = Work(**what).lazily()
        ds.s2sr.to_zarr(out, mode="w")
    wall = time.perf_counter() - begun
    return {
        "wall_s": wall,
        "mpx_s": ds.sizes["y"] * ds.sizes["x"] / wall / 1e6,
        "blocks": sum(1 for _ in job.blocks),
        "gpu_peak_bytes": memory(device),
    }


def tile_row(name: str, item: str, scratch: Path, device: str, args):
    """Return a row of a whole product: its wall time over the slowest stage alone."""
    what = {
        "item": item,
        "model": weights(name, scratch, tile=args.tile),
        "precision": args.precision[-1],
        "device": device,
        "block": args.block,
    }
    out = str(scratch / "out.zarr")
    row = child("gpu.whole", what, out, args.threads)
    threads = args.threads or thread_team.threads(device)
    alone = child("scene.alone", what, out, threads, row["blocks"])["alone_s"]
    slowest = max(alone, key=alone.get)
    return {
        "part": "tile",
        "model": name,
        "precision": what["precision"],
        "size": args.size,
        "threads": threads,
        **row,
        **{f"{stage}_alone_s": s for stage, s in alone.items()},
        "slowest": slowest,
        "over_slowest": row["wall_s"] / alone[slowest],
    }


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    """Print all rows as JSON lines, and a table of each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", nargs="+", default=list(MODELS))
    parser.add_argument("--whole", nargs="*", default=list(TILES))
    parser.add_argument("--precision", nargs="+", default=list(PRECISIONS))
    parser.add_argument("--size", type=int, default=10980, help="10 m pixels a side")
    parser.add_argument("--threads", type=int, help="the library's if none")
    parser.add_argument(
        "--side", type=int, default=6, help="tiles of the engine's image"
    )
    parser.add_argument("--batch", type=int, default=16, help="of the network alone")
    parser.add_argument("--room", type=int, default=3, help="tiles that fit, made up")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block", type=int, default=2196, help="10 m pixels")
    parser.add_argument("--tile", type=int, help="cells; the card's if none")
    parser.add_argument("--folder", type=Path, help="keep the product here")
    args = parser.parse_args(arguments)
    if args.device != "cpu" and not torch.cuda.is_available():
        print(f"no CUDA device: torch {torch.__version__} sees none. Try --device cpu.")
        return []
    device, found = args.device, []
    if device == "cpu":
        args.precision = [p for p in args.precision if p != "tf32"]
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        item = ""
        if args.whole:
            item = str(product(args.folder or scratch, args.size))
        # First, and told later: a driver in this process would count as theirs.
        tiles = [tile_row(name, item, scratch, device, args) for name in args.whole]
        found += [tell("gpu", row) for row in tiles]
        for name in args.model:
            found += [tell("gpu", row) for row in engine(name, device, scratch, args)]
        rows = room(args.model[0], device, scratch, args)
        found += [tell("gpu", row) for row in rows]
    for part in ("engine", "room", "tile"):
        if rows := [row for row in found if row["part"] == part]:
            print()
            table(rows)
    return found


if __name__ == "__main__":
    main()
