"""Does a change of the code keep every pixel? Hashes of what each shipped model makes.

Run before and after, and compare the two files:

    python benchmarks/pixels.py --size 1098 > before.json
    python benchmarks/pixels.py --size 1098 --against before.json

The scene is the one of ``s2sr demo`` (seed 0). L1B models see its four 10 m bands as
counts of one detector. Values are hashed as float32 bytes on one thread of torch, so
that equal hashes are equal bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import s2sr_xr

L1B_BANDS = ["B02", "B03", "B04", "B08"]


def detector(tree, side):
    """Return the corner of the 10 m bands as one L1B detector, in counts."""
    bands = tree["r10m"].isel(time=0, y=slice(side), x=slice(side))
    where = {axis: np.arange(side) + 0.5 for axis in ("y", "x")}
    counts = {
        b: (("y", "x"), bands[b].values * 3000 + 50, {"units": "count"})
        for b in L1B_BANDS
    }
    return xr.DataTree.from_dict({"d01": xr.Dataset(counts, where)})


def results(tree):
    """Yield the name of each call and what it makes, of every model with weights."""
    l1b = detector(tree, side=min(352, tree["r10m"].sizes["x"]))
    for model in ("nearest", "bicubic", "regression", "dsen2"):
        yield model, tree.s2sr.upsample(model)
    yield "dsen2 bf16", tree.s2sr.upsample("dsen2", precision="bf16")
    yield "dsen2 consistent", tree.s2sr.upsample("dsen2", consistent=True)
    yield "carn-s", tree.s2sr.superresolve("carn-s")
    yield "csr-s", l1b.s2sr.register("csr-s", flow=True)["d01"].to_dataset()
    yield "rec-s", l1b.s2sr.superresolve("rec-s")["d01"].to_dataset()


def hashes(size):
    """Return the hash of every variable of every call."""
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        item = s2sr_xr.simulate_scene(folder, size=size, seed=0)
        for name, made in results(s2sr_xr.open_stac(item)):
            for variable, array in made.compute().data_vars.items():
                values = np.ascontiguousarray(array.values)
                digest = hashlib.sha256(values.tobytes()).hexdigest()
                found[f"{name} {variable}"] = digest
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1098, help="side in 10 m pixels")
    parser.add_argument("--against", type=Path, help="what an earlier run printed")
    args = parser.parse_args()
    found = hashes(args.size)
    print(json.dumps(found, indent=1))
    if args.against:
        before = json.loads(args.against.read_text())
        other = sorted(k for k in before | found if before.get(k) != found.get(k))
        print(f"{len(found)} variables, {len(other)} differ: {other}", file=sys.stderr)
        sys.exit(bool(other))


if __name__ == "__main__":
    main()
