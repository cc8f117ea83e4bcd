"""How close one network, tile by tile, comes to what this machine can multiply.

    python benchmarks/engine.py [--model NAME ...] [--precision float32 bf16] [--peer]

Useful operations are those of the pixels that are kept, without any halo. The yardstick
is the best of repeated 2048 x 2048 matrix products in the same type, before and after.
`--peer` runs the same network on the same pixels through ONNX Runtime in float32, in
turns with ours. `--tiles` tries others than the card's, in cells. `--cluster` runs ours
again in a worker of a default ``LocalCluster``, alone with as many threads, and in
all of its workers at once with the threads that they have.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from common import known, peak, product_rate, stacks, tell, through_onnx

from s2sr_xr.engine.allocator import keep_memory
from s2sr_xr.engine.predict import predict, torch_threads
from s2sr_xr.models.cost import cost_of
from s2sr_xr.models.networks.layers import lower

if TYPE_CHECKING:
    from collections.abc import Iterator

TYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def timed(runs, args) -> tuple[dict[str, float], dict[str, float]]:
    """Return the best seconds of each run and the rates of products, in turns."""
    took = dict.fromkeys(runs, float("inf"))
    rates = dict.fromkeys(TYPES, 0.0)
    with torch_threads(args.threads):
        for turn in range(args.rounds + 1):
            for name, kind in TYPES.items():
                rates[name] = max(rates[name], product_rate(kind, tries=3))
            for name, run in runs.items():
                begun = time.perf_counter()
                run()
                if turn:  # the first warms up
                    took[name] = min(took[name], time.perf_counter() - begun)
    return took, rates


def measure(spec, build, tile: int, args) -> list[dict[str, object]]:
    """Return a row for each precision of one network at one tile."""
    shown = replace(spec, tile=tile)
    operations = cost_of(build(), shown, (tile, tile)).useful * tile**2
    images = stacks(spec, (tile, tile))
    runs = {}
    for precision in args.precision:
        network = build()
        if precision == "bf16":
            lower(network, spec.flat)

        def ours(network=network):
            return predict(network, shown, images, tile=(tile, tile))

        runs[precision] = ours
    if args.peer:
        peer = through_onnx(build(), images, args.threads)
        runs["onnxruntime"] = lambda: peer(images)
    took, rates = timed(runs, args)
    pixels = (tile * spec.output.per_cell) ** 2
    rows = []
    for name, seconds in took.items():
        yard = rates.get(name, rates["float32"])
        row = {
            "model": spec.name,
            "tile": tile,
            "run": name,
            "useful_gflops": round(operations / seconds / 1e9, 1),
            "product_gflops": round(yard / 1e9, 1),
            "of_product": round(operations / seconds / yard, 3),
            "mpx_s": round(pixels / seconds / 1e6, 3),
        }
        if "onnxruntime" in took:
            row["over_onnxruntime"] = round(took["onnxruntime"] / seconds, 2)
        rows.append(row)
    return rows


def rows(args) -> Iterator[dict[str, object]]:
    """Yield all rows that are asked for, measured in this process."""
    told = keep_memory()
    networks = known()
    for name in args.model:
        spec, build = networks[name]
        for tile in args.tiles or [spec.tile]:
            for row in measure(spec, build, tile, args):
                yield row | {"threads": args.threads, "allocator": told}


def in_worker(args) -> list[dict[str, object]]:
    """Return the rows of one worker, with the threads that it has if none are named."""
    from distributed import get_worker

    # ONNX Runtime takes more memory than a default worker has.
    own = {"threads": args.threads or get_worker().state.nthreads, "peer": False}
    return list(rows(argparse.Namespace(**vars(args) | own)))


def in_cluster(alone, args) -> Iterator[dict[str, object]]:
    """Yield the rows of a default cluster's workers, over those `alone`."""
    from distributed import Client, LocalCluster

    with LocalCluster(dashboard_address=None) as cluster, Client(cluster) as client:
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        one = client.submit(in_worker, args, workers=workers[:1]).result()
        free = argparse.Namespace(**vars(args) | {"threads": None})
        every = client.gather(
            [client.submit(in_worker, free, workers=[w], pure=False) for w in workers]
        )
    summed = ("useful_gflops", "mpx_s")
    ours = [row for row in alone if row["run"] != "onnxruntime"]
    for n, base in enumerate(ours):
        of_all = {k: round(sum(r[n][k] for r in every), 3) for k in summed}
        of_all["threads"] = sum(r[n]["threads"] for r in every)
        kept = ("model", "tile", "run")
        wholly = {k: base[k] for k in kept} | of_all
        for where, row in (("a worker", one[n]), ("all workers", wholly)):
            over = row["useful_gflops"] / base["useful_gflops"]
            yield row | {"where": where, "over_process": round(over, 3)}


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    """Print one JSON line a network, tile and way of running it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["dsen2-20m", "carn"])
    parser.add_argument("--precision", nargs="+", default=["float32", "bf16"])
    parser.add_argument(
        "--tiles", nargs="+", type=int, help="cells; the card's if none"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--cluster", action="store_true")
    args = parser.parse_args(arguments)
    found = [tell("engine", row | {"where": "process"}) for row in rows(args)]
    if args.cluster:
        found += [tell("engine", row) for row in in_cluster(found, args)]
    print(f"peak {peak() / 2**30:.2f} GiB")
    return found


if __name__ == "__main__":
    main()
