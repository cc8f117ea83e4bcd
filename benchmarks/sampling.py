"""Say how much of the time of a training step is the network, not the sampler.

    OMP_NUM_THREADS=2 python benchmarks/sampling.py [--steps 96]

A simulated scene is opened from local Zarr and from COGs over HTTP on the loopback (a
server in another process), without Dask and with it, and the 5 m network learns from
it: patches of 48 cells, bf16. The sampler reads ahead in a thread, so two shares are
told: of the wall clock, what is not spent waiting for a batch; and of the processor,
what steps take that always get the same batch, which also counts what reading takes
from the network. The first round is left out. The scene is listed sixteen times over,
so that windows are not found in memory but read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import xarray as xr
from scores_5m import SPEC, fresh

import s2sr_xr
from s2sr_xr.train import Plan, Rules, Sampler, fit, source
from s2sr_xr.train.recipes.restoration import Restoration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from s2sr_xr.train.data.augment import Patch

TESTS = Path(__file__).parents[1] / "tests"
SERVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from httpserver import Place
root = Path(sys.argv[2])
files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.tif")}
with Place(files) as place:
    print(place.url("", query=""), flush=True)
    sys.stdin.read()
"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the files of a folder from another process; give the address."""
    command = [sys.executable, "-c", SERVER, str(TESTS), str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


def zarr_of(tree: xr.DataTree, folder: Path) -> xr.DataTree:
    """Return the same scene from Zarr with chunks of 5120 m."""
    for name, group in tree.children.items():
        data = group.to_dataset().drop_encoding()
        side = 5120 // round(float(data.x[1] - data.x[0]))
        plain = data.drop_vars(["item_id", "baseline"]).chunk({"y": side, "x": side})
        plain.to_zarr(folder / name, consolidated=False)
    return opened(folder, [*tree.children])


def opened(folder: Path, names: list[str], **options) -> xr.DataTree:
    """Return groups in a folder as a tree."""
    options = {"chunks": None, **options}
    groups = {n: xr.open_zarr(folder / n, consolidated=False, **options) for n in names}
    return xr.DataTree.from_dict(groups)


class Timed:
    """A sampler that adds up how long it keeps others waiting."""

    def __init__(self, sampler: Callable[[int], Patch]) -> None:
        self.sampler, self.waited = sampler, 0.0

    def __call__(self, step: int) -> tuple[tuple[torch.Tensor, ...], ...]:
        """Return one batch for `Restoration`."""
        begun = time.perf_counter()
        batch = self.sampler(step)
        self.waited += time.perf_counter() - begun
        return (batch,)


def paced(draw: Timed, steps: int, warm: int) -> tuple[float, float]:
    """Return seconds a step, of the wall clock and of the processor."""
    plan = Plan(steps=steps + warm, lr=1e-4)
    begun = (0.0, 0.0)
    for step in fit(fresh("same"), draw, Restoration(), plan):
        if step.step == warm - 1:
            begun, draw.waited = (time.perf_counter(), time.process_time()), 0.0
    ended = time.perf_counter(), time.process_time()
    return (ended[0] - begun[0]) / steps, (ended[1] - begun[1]) / steps


def measured(
    tree: xr.DataTree, steps: int, warm: int, **patches: int
) -> dict[str, float]:
    """Return the shares of the network, after one round of warming up."""
    scenes = [source(tree, SPEC, f"simulated {i}") for i in range(16)]
    rules = Rules(cloud=1, flat=0)
    sampler = Sampler(scenes, rules=rules, **patches)
    draw = Timed(sampler)
    wall, cpu = paced(draw, steps, warm)
    one = sampler(0)
    _, alone = paced(Timed(lambda _: one), steps, warm)
    return {
        "not_waiting": round(1 - draw.waited / steps / wall, 3),
        "network_of_cpu": round(alone / cpu, 3),
        "seconds_a_step": round(wall, 3),
        "cpu_seconds_a_step": round(cpu, 3),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure each source."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=96)
    parser.add_argument("--size", type=int, default=2190, help="pixels of 10 m")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=48, help="cells of a patch")
    parser.add_argument("--warm", type=int, default=48, help="steps left out")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "cogs"
        item = s2sr_xr.simulate_scene(root, size=args.size, level="L2A")
        local = s2sr_xr.open_stac(item, chunks=None)
        stored = zarr_of(local, Path(scratch) / "zarr")
        with served(root) as address:
            for asset in item.assets.values():
                place = Path(asset.get_absolute_href()).relative_to(root)
                asset.href = f"{address}{place}"
            trees = {
                "zarr": stored,
                "zarr, dask": opened(
                    Path(scratch) / "zarr", [*stored.children], chunks={}
                ),
                "http": s2sr_xr.open_stac(item, chunks=None),
                "http, dask": s2sr_xr.open_stac(item, chunks=510),
            }
            for name, tree in trees.items():
                patches = {"batch": args.batch, "side": args.side}
                found = measured(tree, args.steps, args.warm, **patches)
                threads = torch.get_num_threads()
                print(json.dumps({"source": name, "threads": threads, **found}))


if __name__ == "__main__":
    main()
