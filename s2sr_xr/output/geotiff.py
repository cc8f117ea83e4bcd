"""The pixels of a result in GeoTIFFs: plain ones, block by block, then as COGs."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from s2sr_xr.core.tiling import Box, Span
from s2sr_xr.engine.job import QUALITY
from s2sr_xr.output.zarr import REFLECTANCE, Packing, encode
from s2sr_xr.output.zarr.attrs import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import xarray as xr
    from numpy.typing import NDArray

__all__ = ["Facts", "Written", "check", "translate", "write_raw"]

TILE = 512
"""Side of the tiles of a COG, in pixels; overviews go down to one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the files say about their pixels."""

    bands: tuple[str, ...]
    """Names, in the order of the instrument."""

    shape: tuple[int, int]
    """Rows and columns."""

    crs: str
    """Coordinate reference system, as WKT."""

    transform: tuple[float, ...]
    """Affine coefficients, pixel corner to map."""


@dataclass(frozen=True, slots=True)
class Written:
    """A block in the plain files."""

    box: Box
    """Where it lies."""

    sums: Mapping[str, int]
    """CRC-32 of its pixels, by file."""

    clipped: int
    """Finite pixels beyond the range of the code."""


def write_raw(
    image: xr.Dataset, facts: Facts, raw: Mapping[str, Path]
) -> list[Written]:
    """Write the pixels as plain tiled GeoTIFFs."""
    from rasterio.windows import Window

    written = []
    with ExitStack() as stack:
        sinks = {
            name: stack.enter_context(_sink(image, facts, name, at))
            for name, at in raw.items()
        }
        for box, packed, beyond in _blocks(image, facts):
            for name, sink in sinks.items():
                sink.write(packed[name], window=Window.from_slices(*box.slices))
            sums = {name: crc32(packed[name].data) for name in sinks}
            written.append(Written(box, sums, beyond))
    return written


def _sink(image: xr.Dataset, facts: Facts, name: str, path: Path) -> Any:  # noqa: ANN401
    import rasterio
    from rasterio.transform import Affine

    flags = name == "quality"
    sink = rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1 if flags else len(facts.bands),
        height=facts.shape[0],
        width=facts.shape[1],
        dtype="uint8" if flags else "uint16",
        nodata=None if flags else Packing.fill,
        crs=facts.crs,
        transform=Affine(*facts.transform),
        tiled=True,
        blockxsize=TILE,
        blockysize=TILE,
        interleave="band",
        bigtiff="yes",
    )
    tags = clean(image.attrs) | {
        str(n): str(c.values)
        for n, c in image.coords.items()
        if c.ndim == 0 and n != "spatial_ref"
    }
    models = {str(v.attrs.get("s2sr_model", "")) for v in image.data_vars.values()}
    if made_by := ", ".join(sorted(models - {""})):
        # For the whole file too: readers that stack its bands drop what is a band's.
        tags["s2sr_model"] = made_by
    sink.update_tags(**_texts(tags))
    names = (QUALITY,) if flags else facts.bands
    sink.descriptions = names
    for i, variable in enumerate(names, start=1):
        sink.update_tags(i, **_texts(clean(image[variable].attrs)))
    if not flags:
        sink.scales = (REFLECTANCE.scale_factor,) * len(names)
        sink.offsets = (REFLECTANCE.add_offset,) * len(names)
        sink.units = tuple(str(image[b].attrs.get("units", "1")) for b in names)
    return sink


def _texts(tags: Mapping[str, object]) -> dict[str, str]:
    """Return tags as GDAL takes them: no name may hold its own separators."""
    return {k.replace("=", "_").replace(":", "_"): str(v) for k, v in tags.items()}


Packed = tuple[dict[str, "NDArray[Any]"], int]
"""The pixels of a block as stored, by file, and how many were clipped."""


def _blocks(
    image: xr.Dataset, facts: Facts
) -> Iterator[tuple[Box, dict[str, NDArray[Any]], int]]:
    """Yield every block, all its variables computed at once."""
    lazy = [v.chunks for v in image.data_vars.values() if v.chunks is not None]
    whole = tuple((TILE,) * (n // TILE) + (n % TILE,) for n in facts.shape)
    rows, cols = map(_spans, lazy[0] if lazy else whole)
    boxes = [Box(*spans) for spans in product(rows, cols)]
    at_once = (os.cpu_count() or 1) if lazy else 1
    for start in range(0, len(boxes), at_once):
        group = boxes[start : start + at_once]
        for box, (packed, clipped) in zip(
            group, _compute(image, facts, group, lazy=bool(lazy)), strict=True
        ):
            yield box, packed, clipped


def _spans(sizes: Sequence[int]) -> Iterator[Span]:
    """Yield whole chunks along an axis, small ones together."""
    start = stop = 0
    for size in sizes:
        stop += size
        if stop - start >= TILE:
            yield Span(start, stop)
            start = stop
    if stop > start:
        yield Span(start, stop)


def _compute(
    image: xr.Dataset, facts: Facts, boxes: list[Box], *, lazy: bool
) -> list[Packed]:
    """Return blocks as stored; Dask packs where it computes, so half the bytes move."""
    cuts = [
        {
            # Through the variable: a lazily indexed one reads this block, not all.
            str(n): v.variable[box.slices].data
            if v.chunks is not None
            else v.variable[box.slices].to_numpy()
            for n, v in image.data_vars.items()
        }
        for box in boxes
    ]
    if not lazy:
        return [_pack(cut, facts.bands) for cut in cuts]
    import dask

    tasks = [dask.delayed(_pack)(cut, facts.bands) for cut in cuts]
    return list(dask.compute(*tasks))


def _pack(values: Mapping[str, NDArray[Any]], bands: tuple[str, ...]) -> Packed:
    codes = np.empty((len(bands), *values[bands[0]].shape), np.uint16)
    clipped = 0
    for k, band in enumerate(bands):
        codes[k], beyond = encode(values[band], REFLECTANCE)
        clipped += beyond
    packed: dict[str, NDArray[Any]] = {"bands": codes}
    if QUALITY in values:
        packed["quality"] = np.ascontiguousarray(values[QUALITY])[None]
    return packed, clipped


def translate(raw: Path, made: Path, name: str) -> None:
    """Rewrite a plain GeoTIFF as a COG."""
    from rasterio.shutil import copy

    copy(
        raw,
        made,
        driver="COG",
        compress="DEFLATE",  # zstd is not in every build of GDAL
        predictor="YES",
        blocksize=TILE,
        overview_resampling="MODE" if name == "quality" else "AVERAGE",
        bigtiff="IF_SAFER",
        num_threads="ALL_CPUS",
    )


def check(made: Path, name: str, written: Iterable[Written]) -> None:
    """Read the COG back: on a full disk GDAL leaves it cut short without an error."""
    import rasterio
    from rasterio.windows import Window

    with rasterio.open(made) as source:
        for block in written:
            found = source.read(window=Window.from_slices(*block.box.slices))
            if crc32(found.data) != block.sums[name]:
                raise OSError(
                    f"GDAL wrote other pixels at {block.box} than it was given"
                )
