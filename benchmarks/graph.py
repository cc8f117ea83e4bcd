"""What a lazy result costs before any pixel: tasks, bytes of the graph, scheduling.

Scenes of made-up pixels and a network that does nothing are cut into more and more
blocks of a few pixels each. Told are the seconds to build the result and the work that
writes it, its tasks, the bytes of the graph as it travels to a scheduler, and what
scheduling costs a block: with Dask's threads the wall time of the same graph with empty
tasks; with `distributed`, the processor time of the process that holds client and
scheduler while workers do the work. Time a block must not grow with their number, and
neither must the client's memory beyond the graph itself.

    python benchmarks/graph.py --blocks 4 25 100 400
"""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
import time
from pathlib import Path

import psutil
from batch import know_the_model, tile
from common import child, table, tell, warm


def nothing(*_: object) -> None:
    """Stand for a block's work."""


def emptied(work):
    """Return the graph of `work` with the same tasks and edges, doing nothing."""
    from dask._task_spec import Task, TaskRef

    return {
        key: Task(key, nothing, *map(TaskRef, task.dependencies))
        for key, task in dict(work.dask).items()
    }


def threads(sides: list[int], out: str) -> dict[str, object]:
    """Return what scenes cost Dask's threads."""
    warm()
    know_the_model()
    # The first warms up.
    return {"rows": [by_threads(side, out) for side in (sides[0], *sides)][1:]}


def by_threads(side: int, out: str) -> dict[str, object]:
    """Return what a scene of `side` x `side` blocks costs Dask's threads."""
    import dask
    from dask.threaded import get
    from distributed.protocol.pickle import dumps

    import s2sr_xr

    scene = tile(0, side)
    begun = time.perf_counter()
    ds = s2sr_xr.upsample(scene, {"20m": "nothing-20m"})
    built = time.perf_counter()
    work = ds.s2sr.to_zarr(out, mode="w", compute=False)
    ready = time.perf_counter()
    graph, count, size = emptied(work), side**2, len(dumps(work.dask))
    begun_empty = time.perf_counter()
    with dask.config.set(num_workers=2):
        get(graph, work.key)
    scheduled = time.perf_counter() - begun_empty
    return {
        "blocks": count,
        "tasks": len(graph),
        "tasks_a_block": len(graph) / count,
        "upsample_ms": (built - begun) * 1e3,
        "to_zarr_ms": (ready - built) * 1e3,
        "build_ms_a_block": (ready - begun) / count * 1e3,
        "graph_bytes": size,
        "graph_bytes_a_block": size / count,
        "threads_ms_a_block": scheduled / count * 1e3,
    }


def workers(sides: list[int], out: str, count: int) -> dict[str, object]:
    """Return what scenes cost a scheduler with `count` worker processes."""
    from distributed import Client, LocalCluster

    import s2sr_xr

    know_the_model()
    process = psutil.Process()
    found = []
    with contextlib.ExitStack() as stack:
        cluster = LocalCluster(
            n_workers=count, threads_per_worker=1, dashboard_address=None
        )
        client = stack.enter_context(Client(stack.enter_context(cluster)))
        client.run(know_the_model)
        for n, side in enumerate([sides[0], *sides]):  # the first warms up
            ds = s2sr_xr.upsample(tile(n, side), {"20m": "nothing-20m"})
            work = ds.s2sr.to_zarr(f"{out}-{n}", mode="w", compute=False)
            wall, busy = time.perf_counter(), time.process_time()
            client.compute(work).result()
            wall, busy = time.perf_counter() - wall, time.process_time() - busy
            found.append(
                {
                    "scheduler_ms_a_block": busy / side**2 * 1e3,
                    "distributed_ms_a_block": wall / side**2 * 1e3,
                    "client_mib": process.memory_info().rss / 2**20,
                }
            )
    return {"rows": found[1:]}


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    """Print one JSON line for each number of blocks, and a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 25, 100, 400])
    parser.add_argument("--workers", type=int, default=1, help="processes; 0: none")
    args = parser.parse_args(arguments)
    sides = [max(math.isqrt(n), 1) for n in args.blocks]
    with tempfile.TemporaryDirectory() as scratch:
        out = str(Path(scratch) / "out.zarr")
        rows = child("graph.threads", sides, out)["rows"]
        told = [{} for _ in sides]
        if args.workers:
            told = child("graph.workers", sides, out, args.workers)["rows"]
    found = []
    for row, more in zip(rows, told, strict=True):
        found.append(tell("graph", row | more | {"workers": args.workers}))
    table(found)
    for name in ("threads_ms_a_block", "scheduler_ms_a_block", "graph_bytes_a_block"):
        if name in found[-1]:
            grown = found[-1][name] / found[0][name]
            print(f"{name}: times {grown:.2f} from {sides[0] ** 2} to {sides[-1] ** 2}")
    return found


if __name__ == "__main__":
    main()
