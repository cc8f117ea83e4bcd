"""Time and memory of a scene, from STAC COGs to packed Zarr, and where time goes.

A product of `--size` px (10980 is a whole one) is made of mirrored copies of a
simulated scene. A child process makes it finer, once for each of `--workers`: 0 is
Dask's threads in one process, 1 and 2 are worker processes that share `--threads`.

Three questions are answered in one run: how much of the engine's own rate is left (the
same network on made-up tiles before, between and after; `of_engine` is over its best
round of all, `of_beside` over the mean of the rounds just before and just after, which
other work on the machine slows as it slows the run); what share of the threads' time
goes into reading, predicting, encoding, writing (compression and records included),
other work of a block, and waiting; and how long reading, predicting and writing take
alone, over `--alone` blocks, on all threads. Peak memory is the kernel's own figure,
summed over processes and of the largest worker, beside what is promised for one.
Imports and the start of workers are not timed.

    python benchmarks/scene.py --size 4392 --model dsen2-20m --precision bf16

Published networks without weights get random ones.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common import child, finer, peak, product, seconds, stacks, tell, warm, weights

from s2sr_xr.cli.run import CALM

SPENT: Counter[str] = Counter()
"""Seconds of all threads of this process, by stage; "block" is a task as a whole."""

LOCK = threading.Lock()

STAGES = ("read", "predict", "encode", "write")


def timed(stage: str, function):
    """Return `function` with its seconds added to `SPENT`."""

    @functools.wraps(function)
    def run(*args, **options):
        begun = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            with LOCK:
                SPENT[stage] += time.perf_counter() - begun

    return run


def watch() -> None:
    """Time the stages of every block of this process, and import what they need."""
    warm()
    from s2sr_xr.engine import model_run
    from s2sr_xr.output.zarr import dask_write, write
    from s2sr_xr.output.zarr.target import Target, Variable
    from s2sr_xr.readers.fetch.source import BandSource

    for owner, name, stage in (
        (BandSource, "read", "read"),
        (model_run, "predict", "predict"),
        (Variable, "to_disk", "encode"),
        (Target, "write", "write"),
        (write, "write_from_chunks", "block"),
    ):
        setattr(owner, name, timed(stage, getattr(owner, name)))
    # A graph names the function by its module, for workers too.
    dask_write.write_from_chunks = write.write_from_chunks


def spent() -> dict[str, float]:
    """Return the seconds of each stage in this process so far, and its peak memory."""
    return dict(SPENT) | {"peak_bytes": peak()}


def shares(took: Counter[str], lanes: float) -> dict[str, float]:
    """Return the share of `lanes` thread seconds that each stage took."""
    found = {s: took[s] for s in STAGES}
    found["write"] -= took["encode"]  # writing encodes too
    found["other"] = took["block"] - sum(found.values())
    found["waiting"] = lanes - took["block"]
    return {stage: round(s / lanes, 3) for stage, s in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is made of which item."""

    item: str
    """Its JSON file."""

    model: str
    """Name, family, or a file of weights."""

    precision: str = "float32"
    """Arithmetic of the networks."""

    device: str = "auto"
    """Where they run."""

    block: int = 2196
    """Side of a block that is asked for, in 10 m pixels."""

    def lazily(self):
        """Return the lazy result, and the job that makes it."""
        import s2sr_xr
        from s2sr_xr.engine.lazy import job_of

        tree = s2sr_xr.open_stac(self.item, chunks=self.block)
        ds = finer(tree, self.model, self.precision, self.device)
        return ds, job_of(ds)


def run(
    what: dict, out: str, workers: int, threads: int, config: dict[str, str]
) -> dict[str, object]:
    """Make an item finer into a Zarr store; return time, shares and memory."""
    import dask
    from distributed import Client, LocalCluster

    import s2sr_xr

    watch()
    each = max(threads // max(workers, 1), 1)
    lanes = each * max(workers, 1)
    with contextlib.ExitStack() as stack:
        client = None
        stack.enter_context(dask.config.set(config))
        if workers:
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=each,
                    dashboard_address=None,
                )
            )
            client = stack.enter_context(Client(cluster))
            client.run(watch)
        else:
            options = {"scheduler": "threads", "num_workers": threads}
            stack.enter_context(dask.config.set(**options))
        begun = time.perf_counter()
        ds, _ = Work(**what).lazily()
        built = time.perf_counter() - begun
        ds.s2sr.to_zarr(out, mode="w")
        wall = time.perf_counter() - begun
        told = list(client.run(spent).values()) if client else []
    took = Counter(SPENT)
    for one in told:
        took.update({stage: s for stage, s in one.items() if stage != "peak_bytes"})
    pixels = ds.sizes["y"] * ds.sizes["x"]
    promise = s2sr_xr.plan(ds, threads=each)
    return {
        "wall_s": round(wall, 3),
        "build_s": round(built, 3),
        "mpx_s": round(pixels / wall / 1e6, 4),
        "band_mpx_s": round(pixels * len(ds.data_vars) / wall / 1e6, 4),
        "shares": shares(took, lanes * wall),
        "peak_bytes": peak() + sum(one["peak_bytes"] for one in told),
        "worker_peak_bytes": max((o["peak_bytes"] for o in told), default=peak()),
        "promised_bytes": promise.memory,
        "tasks": promise.tasks,
        "blocks": promise.blocks,
        "stored_bytes": sum(
            f.stat().st_size for f in Path(out).rglob("*") if f.is_file()
        ),
    }


def engine(what: dict, threads: int, rounds: int = 12) -> dict[str, object]:
    """Return the megapixels a second of the networks alone, one tile after another.

    At best, and in the mean over the rounds.
    """
    from s2sr_xr.engine.predict import predict, torch_threads

    _, job = Work(**what).lazily()
    best = mean = 0.0
    with torch_threads(threads):
        for p in job.task.passes:
            network, device = p.predictor.load()
            images = stacks(p.spec, p.tile)

            def one(p=p, network=network, images=images, device=device):
                predict(network, p.spec, images, tile=p.tile, device=device)

            one()  # warms up
            per_cell = p.spec.output.per_cell
            pixels = p.tile[0] * p.tile[1] * per_cell**2
            took = [seconds(one) / pixels for _ in range(rounds)]
            best, mean = best + min(took), mean + sum(took) / rounds
    return {"mpx_s": round(1e-6 / best, 4), "mean_mpx_s": round(1e-6 / mean, 4)}


class Kept:
    """Pixels of a window that are read already."""

    def __init__(self, image, box):
        self.image, self.box = image, box

    def read(self, time, rows, cols):  # noqa: ARG002 - the protocol's
        """Return a part of them."""
        top, left = self.box.rows.start, self.box.cols.start
        return self.image[
            rows.start - top : rows.stop - top, cols.start - left : cols.stop - left
        ]


def alone(what: dict, out: str, threads: int, most: int) -> dict[str, object]:
    """Return the seconds of reading, predicting and writing, each alone on `threads`.

    Over up to `most` blocks. Of each shape of block one is predicted and written again
    and again, so that memory holds no scene.
    """
    from s2sr_xr.engine.block import do_block
    from s2sr_xr.engine.dask_graph import Graph
    from s2sr_xr.output.zarr import create

    ds, job = Work(**what).lazily()
    sources = Graph(job).pixels
    blocks = list(job.blocks)[:most]

    def read(box):
        found = {}
        for band, window in job.task.reads(box).items():
            rows, cols = window.slices
            found[band] = Kept(sources[band].read(0, rows, cols), window)
        return found

    firsts = {box.shape: box for _, _, box in reversed(blocks)}
    kept = {shape: read(box) for shape, box in firsts.items()}

    def predict(block):
        shape = block[2].shape
        return do_block(job.task, firsts[shape], 0, kept[shape])

    made = {s: predict((0, 0, box)) for s, box in firsts.items()}  # warms up
    target = create(out, ds, block=job.blocks.size, mode="w")

    def write(block):
        i, j, box = block
        target.write((0, i, j), made[box.shape])

    with ThreadPoolExecutor(threads) as pool:

        def over(work):
            return round(seconds(lambda: list(pool.map(work, blocks))), 3)

        took = {
            "read": over(lambda block: read(block[2]) and None),
            "predict": over(lambda block: predict(block) and None),
            "write": over(write),
        }
    return {"alone_s": took, "alone_blocks": len(blocks)}


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    """Print one JSON line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--size", type=int, default=10980)
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", default="bicubic")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--folder", type=Path, help="keep the product here")
    parser.add_argument("--alone", type=int, default=4, help="blocks of stages alone")
    parser.add_argument("--block", type=int, default=2196, help="10 m pixels")
    parser.add_argument("--tile", type=int, help="cells; the card's if none")
    parser.add_argument("--calm", action="store_true", help="as `s2sr` sets Dask")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        what = {
            "item": str(product(args.folder or Path(scratch), args.size)),
            "model": weights(args.model, Path(scratch), tile=args.tile),
            "precision": args.precision,
            "device": "cpu",
            "block": args.block,
        }
        config = CALM if args.calm else {}
        out, threads = str(Path(scratch) / "out.zarr"), args.threads
        engines, rows = [child("scene.engine", what, threads)], []
        for n in args.workers:
            rows.append(child("scene.run", what, out, n, threads, config))
            engines.append(child("scene.engine", what, threads))
        stages = child("scene.alone", what, out, threads, args.alone)
        del stages["peak_bytes"]
    told = {"size": args.size, "model": args.model, "precision": args.precision}
    best = max(e["mpx_s"] for e in engines)
    told |= {"threads": threads, "calm": args.calm, "engine_mpx_s": best}
    found = []
    for workers, row, *two in zip(
        args.workers, rows, engines[:-1], engines[1:], strict=True
    ):
        beside = sum(e["mean_mpx_s"] for e in two) / 2
        over = {
            "workers": workers,
            "of_engine": round(row["mpx_s"] / best, 3),
            "of_beside": round(row["mpx_s"] / beside, 3),
        }
        found.append(tell("scene", told | over | row | stages))
    return found


if __name__ == "__main__":
    main()
