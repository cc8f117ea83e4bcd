"""A window of an open image, put together from its internal blocks."""

from __future__ import annotations

import os
import time
from itertools import groupby, product
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.readers.fetch.address import ZipMember, gdal_name, is_remote, without_query
from s2sr_xr.readers.fetch.cache import DECODED
from s2sr_xr.readers.fetch.diagnosis import entity_tag

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterator, Mapping

    from rasterio.io import DatasetReader

__all__ = ["identity", "read_direct", "read_shared"]

SIDES = (64, 2048)
"""Pixels along a block that is worth keeping. Strips of a whole image are not: a window
meets hundreds, and most of each lies far from it."""

SETTLED = 2.0
"""Seconds since a local file changed, from which on its time shows whether it changes
again: some file systems count in steps of that."""

Place = tuple[int, int]
"""Block row and block column."""


def identity(href: str, *, timeout: float) -> Hashable | None:
    """Return a name for the bytes behind an address that other bytes never have.

    Of a local file (or the archive that holds it) number, size and times, once they
    have settled; of a remote one what the server calls its entity tag, if that is a
    strong one. None where it cannot be known.
    """
    if is_remote(href):
        tag = entity_tag(href, timeout)
        return tag and (without_query(href), tag)
    path = href.archive if isinstance(href, ZipMember) else gdal_name(href)
    try:
        found = os.stat(path)  # noqa: PTH116 - GDAL takes names, not paths
    except OSError:
        return None
    if time.time() - found.st_mtime < SETTLED:
        return None
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return (gdal_name(href), found.st_dev, found.st_ino, found.st_size, *times)


def read_direct(
    dataset: DatasetReader, index: int, rows: slice, cols: slice
) -> np.ndarray:
    """Return a window of one band as GDAL gives it."""
    # Zeros: should GDAL ever return without filling, no foreign memory shows.
    shape = (rows.stop - rows.start, cols.stop - cols.start)
    counts = np.zeros(shape, dataset.dtypes[index - 1])
    window = ((rows.start, rows.stop), (cols.start, cols.stop))
    dataset.read(index, window=window, out=counts)
    return counts


def read_shared(
    dataset: DatasetReader,
    index: int,
    rows: slice,
    cols: slice,
    *,
    name: Hashable,
    limit: int,
) -> np.ndarray | None:
    """Return a window of one band, of blocks that are kept where they are.

    Parameters
    ----------
    dataset
        The open image.
    index
        Its band, from 1.
    rows, cols
        The window, inside the image.
    name
        The image's `identity`.
    limit
        Bytes of blocks that may be kept.

    Returns
    -------
    np.ndarray
        As `read_direct`; None where the image's blocks are of no use to others: strips,
        an image in one piece, or blocks beyond `limit`.
    """
    side, shape = dataset.block_shapes[index - 1], dataset.shape
    dtype = np.dtype(dataset.dtypes[index - 1])
    if not _useful(side, shape, limit // dtype.itemsize):
        return None
    spans = [
        range(s.start // n, -(-s.stop // n))
        for s, n in zip((rows, cols), side, strict=True)
    ]
    wanted: dict[Hashable, Place] = {
        (name, index, i, j): (i, j) for i, j in product(*spans)
    }
    # Neighbours want no block but those along the rim of this window.
    rim = [{span[0], span[-1]} for span in spans]
    keep = {k for k, (i, j) in wanted.items() if i in rim[0] or j in rim[1]}

    def decode(missing: Collection[Hashable]) -> Mapping[Hashable, np.ndarray]:
        made = _decoded(dataset, index, [wanted[key] for key in missing])
        return {key: made[wanted[key]] for key in missing}

    blocks = DECODED.get(wanted, decode, keep=keep, limit=limit)
    counts = np.zeros((rows.stop - rows.start, cols.stop - cols.start), dtype)
    for key, (i, j) in wanted.items():
        _paste(blocks[key], (i * side[0], j * side[1]), counts, rows, cols)
    return counts


def _useful(side: tuple[int, int], shape: tuple[int, int], most: int) -> bool:
    """Return whether blocks of these sides are worth keeping; `most` pixels may be."""
    held = [min(s, n) for s, n in zip(side, shape, strict=True)]
    low, high = SIDES
    sound = all(min(low, n) <= h <= high for h, n in zip(held, shape, strict=True))
    return sound and held[0] * held[1] <= most


def _decoded(
    dataset: DatasetReader, index: int, places: Collection[Place]
) -> dict[Place, np.ndarray]:
    """Return blocks, neighbours decoded together: one request for their bytes."""
    tall, wide = dataset.block_shapes[index - 1]
    made = {}
    for rows, cols in _rectangles(places):
        top, left = rows.start * tall, cols.start * wide
        whole = read_direct(
            dataset,
            index,
            slice(top, min(rows.stop * tall, dataset.height)),
            slice(left, min(cols.stop * wide, dataset.width)),
        )
        for i, j in product(rows, cols):
            y, x = i * tall - top, j * wide - left
            made[i, j] = whole[y : y + tall, x : x + wide]
    return made


def _rectangles(places: Collection[Place]) -> Iterator[tuple[range, range]]:
    """Yield rectangles that hold each place once, and nothing else.

    >>> list(_rectangles([(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)]))
    [(range(0, 2), range(0, 2)), (range(2, 3), range(1, 2))]
    """
    begun: dict[range, int] = {}
    last = max(i for i, _ in places)
    for row in range(min(i for i, _ in places), last + 2):
        runs = set(_runs(sorted(j for i, j in places if i == row)))
        for run in [r for r in begun if r not in runs]:
            yield range(begun.pop(run), row), run
        for run in runs:
            begun.setdefault(run, row)


def _runs(numbers: Collection[int]) -> Iterator[range]:
    """Yield the runs of ascending numbers.

    >>> list(_runs([1, 2, 5]))
    [range(1, 3), range(5, 6)]
    """
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        held = [number for _, number in run]
        yield range(held[0], held[-1] + 1)


def _paste(
    block: np.ndarray, corner: Place, counts: np.ndarray, rows: slice, cols: slice
) -> None:
    """Copy the part of a block that lies in a window to where it belongs."""
    theirs: list[Any] = []
    ours: list[Any] = []
    for at, n, s in zip(corner, block.shape, (rows, cols), strict=True):
        start, stop = max(at, s.start), min(at + n, s.stop)
        theirs.append(slice(start - at, stop - at))
        ours.append(slice(start - s.start, stop - s.start))
    counts[tuple(ours)] = block[tuple(theirs)]
