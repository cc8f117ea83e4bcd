"""What the benchmarks share: yardsticks, made-up products, and how results are told.

A result is one JSON line with the commit, the versions and the machine it was made by.
What is timed against something else runs in a process of its own, so that its peak
memory is its own too.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil

HERE = Path(__file__).parent

VERSIONS = ("s2sr-xr", "torch", "numpy", "dask", "zarr", "rasterio", "onnxruntime")

ALIKE = 0.05
"""What random weights make of the last convolution of DSen2: its result then looks,
and compresses, like an image."""


@functools.cache
def facts() -> dict[str, object]:
    """Return what made a result: commit, versions and machine."""
    text = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", text.read_text() if text.exists() else "")
    found = {
        "commit": commit(),
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%MZ}",
        "machine": platform.machine(),
        "cpu": model[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "versions": {n: v for n in VERSIONS if (v := version(n))},
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def commit() -> str | None:
    """Return the commit of this checkout, "-dirty" if files differ; None without."""
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run(
        [git, "-C", HERE, "describe", "--always", "--dirty", "--exclude=*"],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or None


def version(name: str) -> str | None:
    """Return the version of a package, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def tell(benchmark: str, row: dict[str, object]) -> dict[str, object]:
    """Print a result as one JSON line, with what made it; return the result."""
    row = {k: _digits(v) for k, v in row.items()}
    print(json.dumps({"benchmark": benchmark} | row | facts()), flush=True)
    return row


def _digits(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def table(rows: list[dict[str, object]], *columns: str) -> None:
    """Print rows for people, the named columns or all of the first row's."""
    names = columns or tuple(rows[0])
    lines = [names, *([_text(row.get(n, "")) for n in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(t.rjust(w) for t, w in zip(line, widths, strict=True)))


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def peak() -> int:
    """Return the most bytes that this process ever held; 0 where nobody counts."""
    # Not ru_maxrss, which begins with that of the parent.
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return 1024 * int(re.search(r"VmHWM:\s*([0-9]+)", status.read_text())[1])


def child(function: str, *args: object) -> dict[str, object]:
    """Run "module.function" of this folder in its own process; return what it gives.

    Arguments and result travel as JSON; `peak_bytes` of the process is added.
    """
    code = "import sys; sys.path.insert(0, sys.argv[1]); import common; common.answer()"
    command = [sys.executable, "-c", code, HERE, function, json.dumps(args)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def answer() -> None:
    """Do what `child` asks, in the child."""
    module, _, name = sys.argv[2].partition(".")
    given = getattr(importlib.import_module(module), name)(*json.loads(sys.argv[3]))
    print(json.dumps({"peak_bytes": peak()} | given))


def warm() -> None:
    """Import what a block needs, which is no part of its time."""
    for name in (
        "rasterio",
        "torch",
        "zarr",
        "s2sr_xr.engine.dask_graph",
        "s2sr_xr.output.zarr",
    ):
        importlib.import_module(name)


def product_rate(kind, size: int = 2048, tries: int = 8, device: str = "cpu") -> float:
    """Return the operations a second of a matrix product, the best of `tries`."""
    import torch

    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    best = min(seconds(lambda: a @ b, device) for _ in range(tries))
    return 2 * size**3 / best


def seconds(run, device: str = "cpu") -> float:
    """Return the seconds that `run` takes, until a GPU has done it."""
    wait(device)
    begun = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - begun


def wait(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize(device)


def stacks(spec, tile: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Return random images of a model's groups, in cells `tile` and their margin."""
    rng = np.random.default_rng(seed)
    rows, cols = (n + 2 * spec.margin for n in tile)
    scale = 0.6 if spec.units == "1" else 600
    return [
        rng.uniform(
            0, scale, (len(g.names), rows * g.per_cell, cols * g.per_cell)
        ).astype("f4")
        for g in spec.inputs
    ]


def known() -> dict[str, tuple]:
    """Return facts and builder of each network of the catalogue, by name."""
    from s2sr_xr.models.published import published

    return {spec.name: (spec, build) for spec, build in published()}


def built(name: str):
    """Return a network of the catalogue with random weights, always the same."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = known()[name][1]()
        if "dsen2" in name:
            network.tail.weight.data.mul_(ALIKE)
    return network


def weights(name: str, folder: Path, *, tile: int | None = None) -> str:
    """Return what to pass as model: `name`, or a file of random weights where none are.

    `tile`, in cells, is written into the file instead of the card's.
    """
    from s2sr_xr.models.registry import has_weights, is_path
    from s2sr_xr.models.weights_file import save

    if is_path(name) or name not in known() or (has_weights(name) and tile is None):
        return name
    spec = known()[name][0]
    path = folder / f"{name}-{tile or spec.tile}.safetensors"
    if not path.exists():
        save(path, built(name), replace(spec, tile=tile or spec.tile), name)
    return str(path)


def finer(tree, model: str, precision: str = "float32", device: str = "auto"):
    """Return the lazy result of a network, a file of weights, or a family of them."""
    from s2sr_xr.models.registry import get_spec, is_path, list_models

    options = {"precision": precision, "device": device}
    if not is_path(model) and model not in {spec.name for spec in list_models()}:
        return tree.s2sr.upsample(model, **options)
    spec = get_spec(model)
    if spec.resolution < 10:
        return tree.s2sr.superresolve(model, **options)
    bands = [b for b in spec.output.names if spec.per_cell(b) == 1]
    options |= {"bands": bands, "keep_native": False}
    return tree.s2sr.upsample({f"{spec.cell}m": model}, **options)


def through_onnx(network, images, threads: int, *, fixed: bool = True):
    """Return a function that runs a network on arrays by ONNX Runtime, in float32.

    `images` are one array ``(C, h, w)`` a group; others have the same shape if `fixed`,
    which lets ONNX Runtime plan for it.
    """
    import onnxruntime
    import torch

    network = network.train()  # plain convolutions, which the exporter knows
    names = [f"x{n}" for n in range(len(images))]
    free = {n: {2: f"{n}_rows", 3: f"{n}_cols"} for n in (*names, "y")}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(scratch) / "network.onnx"
        with contextlib.redirect_stdout(None):
            torch.onnx.export(
                network,
                tuple(torch.from_numpy(image)[None] for image in images),
                path,
                dynamo=False,
                training=torch.onnx.TrainingMode.PRESERVE,
                input_names=names,
                output_names=["y"],
                dynamic_axes={} if fixed else free,
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

    def run(arrays):
        given = {n: a[None] for n, a in zip(names, arrays, strict=True)}
        return session.run(None, given)[0][0]

    return run


def product(folder: Path, size: int, seed: int = 0, base: int = 1098) -> Path:
    """Write an item of `size` px as mirrored copies of a small one; return its path."""
    import rasterio

    from s2sr_xr.simulate import simulate_scene, write_item

    folder = folder.resolve()  # workers may run elsewhere
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
