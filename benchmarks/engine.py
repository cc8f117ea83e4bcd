"""How close one network, tile by tile, comes to what this machine can multiply.

    python benchmarks/engine.py [--model NAME ...] [--precision float32 bf16] [--peer]

Useful operations are those of the pixels that are kept, without any halo. The yardstick
is the best of repeated 2048 x 2048 matrix products in the same type, before and after.
`--peer` runs the same network on the same pixels through ONNX Runtime in float32, in
turns with ours. `--tiles` tries others than the card's, in cells.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import re
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from s2sr_xr.allocator import keep_memory
from s2sr_xr.models.catalogue import published
from s2sr_xr.models.cost import cost_of
from s2sr_xr.models.layers import lower
from s2sr_xr.predict import predict, torch_threads

TYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def product_rate(kind: torch.dtype, size: int = 2048, tries: int = 8) -> float:
    """Return the operations a second of a matrix product, the best of `tries`."""
    a, b = (torch.randn(size, size).to(kind) for _ in range(2))
    best = float("inf")
    for _ in range(tries):
        begun = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def through_onnx(build, images, threads: int):
    """Return a function that runs a network by ONNX Runtime, in float32."""
    import onnxruntime

    network = build().train()  # plain convolutions, which the exporter knows
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(scratch) / "network.onnx"
        with contextlib.redirect_stdout(None):
            torch.onnx.export(
                network,
                tuple(images),
                path,
                dynamo=False,
                training=torch.onnx.TrainingMode.PRESERVE,
                input_names=[f"x{n}" for n in range(len(images))],
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
    given = {f"x{n}": image.numpy() for n, image in enumerate(images)}
    return lambda: session.run(None, given)[0]


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
    rng = np.random.default_rng(0)
    stacks = [
        rng.uniform(
            0, 0.6, (len(g.names), *[(tile + 2 * spec.margin) * g.per_cell] * 2)
        ).astype("f4")
        for g in spec.inputs
    ]
    runs = {}
    for precision in args.precision:
        network = build()
        if precision == "bf16":
            lower(network)

        def ours(network=network):
            return predict(network, shown, stacks, tile=(tile, tile))

        runs[precision] = ours
    if args.peer:
        images = [torch.from_numpy(s)[None] for s in stacks]
        runs["onnxruntime"] = through_onnx(build, images, args.threads)
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


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    """Print one JSON line a network, tile and way of running it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["dsen2-20m", "carn"])
    parser.add_argument("--precision", nargs="+", default=["float32", "bf16"])
    parser.add_argument(
        "--tiles", nargs="+", type=int, help="cells; the card's if none"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", action="store_true")
    args = parser.parse_args(arguments)
    told = keep_memory()
    known = {spec.name: (spec, build) for spec, build in published()}
    rows = []
    for name in args.model:
        spec, build = known[name]
        for tile in args.tiles or [spec.tile]:
            for row in measure(spec, build, tile, args):
                row |= {"threads": args.threads, "allocator": told}
                row |= {"torch": torch.__version__, "machine": platform.machine()}
                rows.append(row)
                print(json.dumps(row), flush=True)
    status = Path("/proc/self/status")
    if status.exists():
        peak = int(re.search(r"VmHWM:\s*([0-9]+)", status.read_text())[1])
        print(f"peak {peak / 2**20:.2f} GiB")
    return rows


if __name__ == "__main__":
    main()
