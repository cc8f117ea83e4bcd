"""What driving many small blocks costs: tasks a second, and the driver's memory.

Tiles are made up, their network does nothing, and a block is a few pixels: what is left
is the driving itself, with a real store, its records and its lock a tile. The memory
must not grow with tiles x blocks: it is printed as the job goes on. A store is removed
when the next tile is opened.

::

    python benchmarks/batch.py --tiles 1000 --side 6
    python benchmarks/batch.py --tiles 200 --side 6 --workers 2
    python benchmarks/batch.py --tiles 4 --side 2
"""

from __future__ import annotations

import argparse
import gc
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import xarray as xr
from common import tell
from pyproj import CRS

import s2sr_xr
from s2sr_xr.batches.driver import Drive
from s2sr_xr.batches.report import Log
from s2sr_xr.batches.task import Piece, Result, Rules
from s2sr_xr.batches.workers import Threads, Workers
from s2sr_xr.core.grid import Grid
from s2sr_xr.models.registry import register
from s2sr_xr.models.spec import BandGroup, ModelSpec
from s2sr_xr.readers.fetch.source import as_variable

BLOCK = 12
"""Side of a block in 10 m pixels."""

WKT = CRS.from_epsg(32632).to_wkt()


class Flat:
    """A source that makes its pixels up."""

    def __init__(self, shape, seed):
        self.shape, self.seed = shape, seed

    def __dask_tokenize__(self):
        return (self.shape, self.seed)

    def at(self, time):
        """Return the source of one time step."""
        return Flat((1, *self.shape[1:]), self.seed + time)

    def read(self, time, rows, cols):
        """Return a window of one value."""
        del time
        shape = rows.stop - rows.start, cols.stop - cols.start
        return np.full(shape, 0.2 + self.seed % 100 / 1000, np.float32)


def repeat(images):
    return images.repeat_interleave(2, -1).repeat_interleave(2, -2)


def know_the_model():
    """Register the network that does nothing; every process needs it."""
    spec = ModelSpec(
        name="nothing-20m",
        title="repeats pixels, for the benchmark of the driver",
        cell=20,
        inputs=(BandGroup(names=("B05",), per_cell=1),),
        output=BandGroup(names=("B05",), per_cell=2),
        margin=0,
        tile=BLOCK // 2,
        trained=False,
    )
    register(spec, lambda: repeat)


def tile(seed, side):
    """Return a tile of `side` x `side` blocks, as a reader gives it."""
    n = side * BLOCK // 2
    grid = Grid(crs=WKT, x_edge=600_000.0, y_edge=5_400_000.0, res=20.0, shape=(n, n))
    band = as_variable(Flat((1, n, n), seed), BLOCK // 2, {"units": "1"})
    coords = grid.coords() | {"time": [np.datetime64("2025-01-01", "ns")]}
    tree = xr.DataTree.from_dict({"r20m": xr.Dataset({"B05": band}, coords)})
    tree.attrs["level"] = "L1C"
    return tree


def pieces(count, side, folder):
    """Return tiles that are made up when their turn comes."""

    def make(n):
        shutil.rmtree(folder / f"{n - 3}.zarr", ignore_errors=True)
        ds = s2sr_xr.upsample(tile(n, side), {"20m": "nothing-20m"})
        yield Result(str(n), str(folder / f"{n}.zarr"), ds)

    return [Piece(str(n), lambda n=n: make(n)) for n in range(count)]


def run(options, folder, crew):
    """Drive all tiles, printing the memory ten times."""
    blocks = options.tiles * options.side**2
    process = psutil.Process()
    begun, step = time.perf_counter(), max(blocks // 10, 1)
    told = [0]

    def look(now):
        if now.blocks_done >= told[0] + step:
            told[0] = now.blocks_done
            gc.collect()
            rss = process.memory_info().rss / 2**20
            rate = now.blocks_done / (time.perf_counter() - begun)
            print(f"{now.blocks_done:>8} blocks  {rate:>7.1f} /s  {rss:>7.1f} MiB")

    work = pieces(options.tiles, options.side, folder)
    report = Drive(work, crew, Rules(), Log(None), look).run()
    took = time.perf_counter() - begun
    assert report.ok, report
    assert report.blocks_written == blocks
    print(
        f"{options.tiles} tiles of {options.side**2} blocks in {took:.1f} s: "
        f"{blocks / took:.1f} tasks/s, {took / options.tiles * 1e3:.0f} ms a tile"
    )
    tell(
        "batch",
        {
            "tiles": options.tiles,
            "blocks": blocks,
            "workers": options.workers,
            "wall_s": took,
            "blocks_s": blocks / took,
            "ms_a_tile": took / options.tiles * 1e3,
            "driver_mib": process.memory_info().rss / 2**20,
        },
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=1000)
    parser.add_argument("--side", type=int, default=6, help="blocks along a tile")
    parser.add_argument("--workers", type=int, default=0, help="processes, 0: threads")
    parser.add_argument("--out", help="folder for the stores (default: temporary)")
    options = parser.parse_args()
    know_the_model()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.out)))
        if not options.workers:
            run(options, folder, Threads())
            return
        from distributed import Client, LocalCluster

        cluster = stack.enter_context(
            LocalCluster(
                n_workers=options.workers,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",
            )
        )
        client = stack.enter_context(Client(cluster))
        client.run(know_the_model)
        run(options, folder, Workers(client, gpu=False))


if __name__ == "__main__":
    main()
