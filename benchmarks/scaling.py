"""Whether cost grows as area does: seconds a megapixel of 1, 4, 16 and 64 blocks.

Squares of blocks are cut from one product of COGs and made finer into Zarr, each in a
process of its own, with `--workers` as in `scene.py` (0: Dask's threads). Told are the
seconds a megapixel, how far the last count of blocks is from the second by that (from 4
to 64: the first pays for beginnings), and the peak memory of the client, which is all
of the memory where threads do the work.

    python benchmarks/scaling.py --model dsen2 --block 1098
    python benchmarks/scaling.py --model dsen2 --block 1098 --workers 1
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import tempfile
import time
from pathlib import Path

from common import child, finer, product, table, tell, warm, weights


def run(
    what: dict, out: str, side: int, workers: int, threads: int
) -> dict[str, object]:
    """Make `side` x `side` blocks finer; return seconds and megapixels."""
    import dask
    from distributed import Client, LocalCluster

    import s2sr_xr
    from s2sr_xr.engine.lazy import job_of

    warm()
    block = what["block"]
    with contextlib.ExitStack() as stack:
        if workers:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=max(threads // workers, 1),
                dashboard_address=None,
            )
            client = stack.enter_context(Client(stack.enter_context(cluster)))
            client.run(warm)
        else:
            options = {"scheduler": "threads", "num_workers": threads}
            stack.enter_context(dask.config.set(**options))
        begun = time.perf_counter()
        tree = s2sr_xr.open_stac(what["item"], chunks=block)
        fine = tree["r10m"]
        west, north = float(fine.x[0]) - 5, float(fine.y[0]) + 5
        reach = 10 * block * side
        cut = {"x": (west, west + reach), "y": (north - reach, north)}
        part = s2sr_xr.window(tree, **cut)
        ds = finer(part, what["model"], what["precision"], "cpu")
        ds.s2sr.to_zarr(out, mode="w")
        wall = time.perf_counter() - begun
    job = job_of(ds)
    return {
        "blocks": sum(1 for _ in job.blocks) * job.steps,
        "mpx": ds.sizes["y"] * ds.sizes["x"] / 1e6,
        "wall_s": round(wall, 3),
    }


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    """Print one JSON line for each number of blocks, and a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--block", type=int, default=1098, help="10 m pixels")
    parser.add_argument("--model", default="dsen2")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--tile", type=int, help="cells; the card's if none")
    parser.add_argument("--folder", type=Path, help="keep the product here")
    args = parser.parse_args(arguments)
    sides = [max(math.isqrt(n), 1) for n in args.blocks]
    told = {"model": args.model, "precision": args.precision, "block": args.block}
    told |= {"threads": args.threads, "workers": args.workers}
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        what = {
            "item": str(product(folder, args.block * max(sides))),
            "model": weights(args.model, Path(scratch), tile=args.tile),
            "precision": args.precision,
            "block": args.block,
        }
        out = str(Path(scratch) / "out.zarr")
        for side in sides:
            row = child("scaling.run", what, out, side, args.workers, args.threads)
            row["client_peak_bytes"] = row.pop("peak_bytes")
            row["s_mpx"] = round(row["wall_s"] / row["mpx"], 4)
            found.append(tell("scaling", told | row))
    table(found)
    base, last = found[min(1, len(found) - 1)], found[-1]
    for name in ("s_mpx", "client_peak_bytes"):
        off = last[name] / base[name] - 1
        print(f"{name}: {off:+.1%} from {base['blocks']} to {last['blocks']} blocks")
    return found


if __name__ == "__main__":
    main()
