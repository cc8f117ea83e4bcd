"""How much of plain Zarr's speed is left when blocks are written with their records.

The same codes go to the same disk twice in each round, in turns: through `Target.write`
(hash, sizes and record included) and through zarr-python alone with the same codec,
chunks and threads. They are integers of 16 bits, so that no encoding takes part. The
ratio of the two is taken in each round and its median counts; that of CPU seconds tells
more on a machine that does other things too. Speeds depend on the machine.

::

    python benchmarks/writing.py --out /some/disk
    python benchmarks/writing.py --size 256 --rounds 1 --layout sharded
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from common import tell

from s2sr_xr.output.zarr import create

BLOCKS = (1, 2)
BANDS = 4


def scene(size):
    """Return bands of integer codes, `BLOCKS` blocks of `size` px each."""
    synthetic = runpy.run_path(str(Path(__file__).with_name("codecs.py")))["synthetic"]
    coords = {"y": -np.arange(size * BLOCKS[0]) - 0.5, "x": np.arange(size * 2) + 0.5}
    return xr.Dataset(
        {
            f"code{n}": (("y", "x"), np.tile(codes, BLOCKS))
            for n, codes in enumerate(synthetic(size, count=BANDS))
        },
        coords,
    )


def seconds(work, indices, threads):
    """Return the seconds, and the CPU's, that `work` takes over all blocks."""
    with ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter(), time.process_time()
        list(pool.map(work, indices))
        return time.perf_counter() - begun[0], time.process_time() - begun[1]


def cut(target, ds):
    """Return the pixels of each block, in one piece as tasks bring them."""
    boxes = {index: target.box(index).slices for index in target.indices()}
    return {
        index: {n: np.ascontiguousarray(v.values[box]) for n, v in ds.items()}
        for index, box in boxes.items()
    }


def ours(target, ds, threads):
    """Time `Target.write`."""
    blocks = cut(target, ds)

    def work(index):
        target.write(index, blocks[index])

    return seconds(work, list(blocks), threads)


def plain(target, ds, folder, threads):
    """Time zarr-python with arrays of the same make."""
    model = zarr.open_group(target.store, mode="r")
    root = zarr.create_group(folder)
    arrays = {
        n: root.create_array(
            n,
            shape=v.shape,
            dtype=v.dtype,
            chunks=model[n].chunks,
            shards=model[n].shards,
            compressors=model[n].compressors,
            config={"write_empty_chunks": True},
        )
        for n, v in ds.items()
    }

    blocks = cut(target, ds)

    def work(index):
        for n, values in blocks[index].items():
            arrays[n][target.box(index).slices] = values

    return seconds(work, list(blocks), threads)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write; a temporary folder")
    parser.add_argument("--size", type=int, default=2196, help="pixels a side of block")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layout", default="plain", choices=("plain", "sharded"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()

    ds = scene(args.size)
    took = []
    for n in range(args.rounds):
        with tempfile.TemporaryDirectory(dir=args.out) as folder:
            block = (args.size, args.size)
            target = create(f"{folder}/a", ds, block=block, layout=args.layout)
            runs = {
                "ours": lambda target=target: ours(target, ds, args.threads),
                "plain": lambda target=target, folder=folder: plain(
                    target, ds, f"{folder}/b", args.threads
                ),
            }
            order = ("ours", "plain") if n % 2 else ("plain", "ours")
            took.append({name: runs[name]() for name in order})
            shutil.rmtree(f"{folder}/a")
    size = sum(v.nbytes for v in ds.values())
    row = {"layout": args.layout, "threads": args.threads, "megabytes": size / 1e6}
    for name in ("plain", "ours"):
        row[f"{name}_mb_s"] = size / min(t[name][0] for t in took) / 1e6
        print(f"{name:6s} {row[f'{name}_mb_s']:6.0f} MB/s")
    for n, name in enumerate(("time", "CPU")):
        ratio = [t["plain"][n] / t["ours"][n] for t in took]
        low, high = min(ratio), max(ratio)
        row[f"ratio_{name.lower()}"] = float(np.median(ratio))
        print(f"ratio by {name} {np.median(ratio):.2f} ({low:.2f} to {high:.2f})")
    tell("writing", row)


if __name__ == "__main__":
    main()
