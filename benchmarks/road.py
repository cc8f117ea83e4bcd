"""How long is the road of a pixel, in files and calls, from an item to its store.

A simulated scene of one block is opened, made finer and written on one thread, twice:
the first time loads what is loaded once. The second time every call into the package is
counted: the files whose functions run, and the most frames of the package that lie on
one stack. The fewer of both, the fewer a reader has to keep in mind. Counted are all of
`to_zarr`, with what it knows before a pixel is read, and the part of it that a pixel
goes through: the task of the block.

    python benchmarks/road.py --list
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import dask
from common import tell

import s2sr_xr
from s2sr_xr.errors import S2SRWarning

PACKAGE = Path(s2sr_xr.__file__).parent


TASK = "write_from_chunks"
"""The function that Dask calls for a block."""


class Road:
    """The files of the package that run while `followed`, and how deep calls nest."""

    def __init__(self, within: str = "") -> None:
        self.within = within
        self.calls: Counter[str] = Counter()
        self.depth = 0
        self.deepest: list[str] = []

    def _called(self, frame, event, _):
        if event != "call" or not frame.f_code.co_filename.startswith(str(PACKAGE)):
            return
        name, stack = _name(frame), []
        while frame is not None:
            if frame.f_code.co_filename.startswith(str(PACKAGE)):
                stack.append(f"{_name(frame)}:{frame.f_code.co_qualname}")
            frame = frame.f_back
        if self.within and not any(self.within in line for line in stack):
            return
        self.calls[name] += 1
        if len(stack) > self.depth:
            self.depth, self.deepest = len(stack), stack[::-1]

    @contextmanager
    def followed(self):
        """Count calls of this thread, and of those that begin meanwhile."""
        sys.setprofile(self._called)
        threading.setprofile(self._called)
        try:
            yield
        finally:
            threading.setprofile(None)
            sys.setprofile(None)


def _name(frame) -> str:
    return Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix()


def travel(folder: Path, size: int, model: str) -> dict[str, Road]:
    """Write a scene of `size` px twice; return the parts of the second road."""
    item = s2sr_xr.simulate_scene(folder / "scene", size=size)
    for turn in (1, 2):
        parts = {"open": Road(), "to_zarr": Road(), "block": Road(TASK)}
        with dask.config.set(scheduler="synchronous"):
            with parts["open"].followed():
                ten = s2sr_xr.upsample(s2sr_xr.open_stac(item), model)
            for name in ("to_zarr", "block"):
                with parts[name].followed():
                    s2sr_xr.to_zarr(ten, folder / f"{turn}.zarr", mode="w")
    return parts


def main(arguments: list[str] | None = None) -> dict[str, object]:
    """Print one JSON line; with --list also the files and the deepest stack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=360, help="side in 10 m pixels")
    parser.add_argument("--model", default="dsen2", help="what makes bands finer")
    parser.add_argument("--list", action="store_true", help="name files and frames")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        parts = travel(Path(folder), options.size, options.model)
    if options.list:
        for name, road in parts.items():
            print(f"{name}:", *sorted(road.calls), sep="\n  ")
        print("deepest:", *parts["block"].deepest, sep="\n  ")
    row = {
        "files": len(set().union(*(road.calls for road in parts.values()))),
        "files_to_zarr": len(parts["to_zarr"].calls),
        "depth_to_zarr": parts["to_zarr"].depth,
        "files_block": len(parts["block"].calls),
        "depth_block": parts["block"].depth,
    }
    return tell("road", row)


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore", S2SRWarning)
    main()
