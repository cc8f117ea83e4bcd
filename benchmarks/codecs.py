"""Which codec should compress the 16-bit pixels of a store: speed and size of each.

Each codec writes and reads the same codes through zarr-python, one chunk an array, in
memory, so that no disk takes part. Pixels are those of ``--real DIR``, a directory of
``.npz`` files with digital numbers ``im10`` (H, W, bands), or of a synthetic scene with
a 1/f spectrum and a little noise. Rounds alternate between codecs and the best of each
counts. Speeds depend on the machine; quote the ratios to zarr's default, of one run.

::

    python benchmarks/codecs.py --real scenes/
    python benchmarks/codecs.py --size 1098 --rounds 5
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from itertools import product
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

from s2sr_xr.output.zarr import REFLECTANCE, encode

CODECS = {"zarr default (zstd 0)": "auto"} | {
    f"blosc {name} {level} {shuffle}": BloscCodec(
        cname=name, clevel=level, shuffle=shuffle
    )
    for (name, level), shuffle in product(
        (("lz4", 5), ("zstd", 1), ("zstd", 3), ("zstd", 5)),
        ("noshuffle", "shuffle", "bitshuffle"),
    )
}


def real(directory, size):
    """Yield the codes of every 10 m band in the files of `directory`."""
    for path in sorted(directory.glob("*.npz")):
        counts = np.load(path)["im10"]
        for band in np.moveaxis(counts, -1, 0):
            reflectance = band[:size, :size].astype(np.float32) / 10_000
            yield encode(reflectance, REFLECTANCE)[0]


def synthetic(size, count=4, seed=0):
    """Yield the codes of scenes with a 1/f spectrum and the sensor's noise."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)
    falloff = 1 / np.maximum(np.hypot(fy, fx), 1 / size)
    for _ in range(count):
        field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(size, size))) * falloff)
        field = 0.15 + 0.05 * field[:size, :size] / field.std()
        noisy = field + rng.normal(0, 1e-3, field.shape)
        yield encode(noisy.astype(np.float32), REFLECTANCE)[0]


def once(codes, codec):
    """Return seconds to write, seconds to read and bytes stored of one array."""
    array = zarr.create_array(
        MemoryStore(),
        shape=codes.shape,
        chunks=codes.shape,
        dtype=codes.dtype,
        compressors=codec,
    )
    start = time.perf_counter()
    array[...] = codes
    written = time.perf_counter()
    back = array[...]
    read = time.perf_counter()
    assert (back == codes).all()
    return written - start, read - written, array.nbytes_stored()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, help="directory of .npz files")
    parser.add_argument("--size", type=int, default=1098, help="pixels a side")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    scenes = real(args.real, args.size) if args.real else synthetic(args.size)
    arrays = list(scenes)
    size = sum(a.nbytes for a in arrays)
    seconds = {name: np.full((len(arrays), 2), np.inf) for name in CODECS}
    stored = dict.fromkeys(CODECS, 0)
    for _ in range(args.rounds):
        for name, codec in CODECS.items():
            runs = [once(a, codec) for a in arrays]
            seconds[name] = np.minimum(seconds[name], [r[:2] for r in runs])
            stored[name] = sum(r[2] for r in runs)

    print(
        f"{args.real or 'synthetic 1/f'}: {len(arrays)} arrays, {size / 1e6:.1f} MB of "
        f"codes; {platform.machine()}, {os.cpu_count()} cores, zarr {zarr.__version__}"
    )
    base = next(iter(seconds.values())).sum(0)
    print(f"{'':24s} {'write':>14s} {'read':>14s}   stored")
    for name, each in seconds.items():
        write, read = each.sum(0)
        print(
            f"{name:24s} {size / write / 1e6:5.0f} MB/s {base[0] / write:3.1f}x "
            f"{size / read / 1e6:5.0f} MB/s {base[1] / read:3.1f}x   "
            f"{stored[name] / size:.3f}"
        )


if __name__ == "__main__":
    main()
