"""L1B in sensor geometry: detectors as they saw, bands brought to green, overlaps.

Each of the instrument's twelve detectors has its own raster, and in it each band lies a
few pixels from the others. `open_l1b` gives the rasters as recorded; `align_to_green`
moves bands by whole pixels, never resampling, as L1BSR takes them; `overlaps` yields
what two neighbouring detectors saw of the same ground, which L1BSR learns from.

References
----------
Nguyen et al. (2023), L1BSR: Exploiting Detector Overlap for Self-Supervised
Single-Image Super-Resolution of Sentinel-2 L1B Imagery, section 4.4. CVPR Workshops.
"""

from __future__ import annotations

import re
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from s2sr_xr.core.bands import BANDS, canonical
from s2sr_xr.errors import ChunkError, GridError, MissingBandError
from s2sr_xr.readers.fetch.address import is_remote
from s2sr_xr.readers.fetch.asset import Asset, driver_of
from s2sr_xr.readers.fetch.source import as_variable
from s2sr_xr.readers.fetch.window import use_image
from s2sr_xr.readers.l1b.align import align_to_green
from s2sr_xr.readers.l1b.overlap import overlaps
from s2sr_xr.readers.l1b.pair import Offset
from s2sr_xr.readers.l1b.product import BANDS_10M, Granule, Product, open_product
from s2sr_xr.readers.l1b.raster import DetectorSource, Part, quiet

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from rasterio.io import DatasetReader

__all__ = ["Offset", "align_to_green", "open_l1b", "overlaps"]

_NAMED = re.compile(r"(?:^|[_\-.])D(0[1-9]|1[0-2])(?=[_\-.]|$)", re.IGNORECASE)


def open_l1b(
    path: str | os.PathLike[str],
    *,
    detectors: Sequence[int | str] | None = None,
    chunks: int | None = 2196,
) -> xr.DataTree:
    """Return Sentinel-2 L1B as a lazy tree of detectors, in counts.

    Bands are as recorded: no metadata of a product say where they lie against each
    other. `align_to_green` measures it.

    Parameters
    ----------
    path
        Directory or zip of a SAFE product; one granule of it; a metadata file of
        either; or a TIFF of the bands B02, B03, B04, B08 of one detector, in this order
        unless its bands have descriptions that say otherwise.
    detectors
        Which detectors, as 5, ``"05"`` or ``"d05"``. Default: all that are there.
    chunks
        Side of a Dask chunk in pixels. None for lazily indexed variables without Dask.

    Returns
    -------
    xr.DataTree
        One group a detector, ``d01`` ... ``d12`` (a TIFF is ``d01`` unless its name
        says, such as ``..._D05.tif``), with the variables B02, B03, B04 and B08:
        float32 counts, NaN at the no-data count and where a granule is missing between
        others, dims ``(y, x)``. y and x are line + 0.5 and sample + 0.5 in the
        detector's raster, float64; there is no CRS. A variable's ``shift_y`` and
        ``shift_x`` say how far it was moved to lie on green, in whole pixels: 0 here.

    Raises
    ------
    ReadError
        There is no L1B image, its metadata are damaged, or it is of another level.
        Pixels are read, and may fail, when they are computed.
    MissingBandError
        A granule has no image of a band, or a TIFF not four.
    GridError
        A detector is not there, its granules differ in width or overlap, or a TIFF lies
        on a map.
    ChunkError
        `chunks` is not a positive number.
    """
    if chunks is not None and (type(chunks) is not int or chunks < 1):
        raise ChunkError(
            f"chunks={chunks!r}: the side of a chunk is a positive number of pixels, "
            "or None. 2196 is the default."
        )
    place = Path(path)
    is_tiff = place.suffix.lower() in {".tif", ".tiff"} and not is_remote(str(path))
    found = _open_tiff(place) if is_tiff else open_product(path)
    wanted = _wanted(found, detectors)
    groups = {
        f"d{number:02}": _detector(found, list(granules), chunks)
        for number, granules in groupby(found.granules, lambda g: g.detector)
        if number in wanted
    }
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {
        "level": "L1B",
        **found.attrs,
        "source": "TIFF" if is_tiff else "SAFE",
    }
    return tree


def _wanted(found: Product, detectors: Sequence[int | str] | None) -> set[int]:
    """Return the numbers of the detectors to open; all are there."""
    there = sorted({g.detector for g in found.granules})
    if detectors is None:
        return set(there)
    asked = [detectors] if isinstance(detectors, int | str) else list(detectors)
    digits = {d: str(d).lower().removeprefix("d") for d in asked}
    numbers = {d: int(t) if t.isdecimal() else 0 for d, t in digits.items()}
    absent = [d for d in asked if numbers[d] not in there]
    if absent or not asked:
        raise GridError(
            f"{found.shown} has no detector {', '.join(map(repr, absent)) or 'at all'} "
            f"of those asked for; it has {', '.join(f'{n:02}' for n in there)}. Name "
            "them as 5, '05' or 'd05'."
        )
    return {numbers[d] for d in asked}


# --- TIFF -----------------------------------------------------------------------------


def _open_tiff(place: Path) -> Product:
    """Return a TIFF of four bands as a product of one granule; reads its header."""
    named = _NAMED.search(place.stem)
    header = Asset(
        item_id=place.name,
        band="an image",
        href=str(place.absolute()),
        driver="GTiff",
        index=1,
    )
    quiet()

    def look(
        dataset: DatasetReader,
    ) -> tuple[tuple[int, int], tuple[str | None, ...], bool]:
        return tuple(dataset.shape), tuple(dataset.descriptions), bool(dataset.crs)

    shape, descriptions, on_map = use_image(header, look, "header")
    if on_map:
        raise GridError(
            f"{place} has a CRS: it lies on a map, and L1B does not. Open maps with "
            "s2sr_xr.open_files or open_safe.",
        )
    granule = Granule(
        name=place.stem,
        detector=int(named[1]) if named else 1,
        line=0,
        shape=shape,
        images=dict.fromkeys(_order(place, descriptions), header.href),
    )
    return Product(shown=str(place), granules=(granule,))


def _order(place: Path, descriptions: tuple[str | None, ...]) -> tuple[str, ...]:
    """Return which band each band of a TIFF is, by descriptions, else by convention."""
    if len(descriptions) != len(BANDS_10M):
        raise MissingBandError(
            f"{place} has {len(descriptions)} bands; a TIFF of L1B has the four of "
            f"10 m, {', '.join(BANDS_10M)}, in this order."
        )
    said = tuple(canonical(text or "") for text in descriptions)
    if not any(said):
        return BANDS_10M
    if sorted(map(str, said)) != sorted(BANDS_10M):
        raise MissingBandError(
            f"{place} describes its bands as {', '.join(map(repr, descriptions))}; the "
            f"four of 10 m, {', '.join(BANDS_10M)}, are needed."
        )
    return tuple(str(band) for band in said)


# --- a detector -----------------------------------------------------------------------


def _detector(
    found: Product, granules: Sequence[Granule], chunks: int | None
) -> xr.Dataset:
    """Return the granules of one detector as one raster, from the first line on."""
    first = granules[0]
    _check_stack(found, granules)
    lines = granules[-1].line + granules[-1].shape[0] - first.line
    variables = {
        band: as_variable(
            DetectorSource(
                parts=tuple(_part(found, g, band, first.line) for g in granules),
                lines=lines,
                samples=first.shape[1],
                nodata=found.nodata,
            ),
            chunks,
            _describe(found, band),
            timed=False,
        )
        for band in BANDS_10M
    }
    attrs: dict[str, Any] = {"detector": first.detector}
    if first.time:
        attrs["sensing_time"] = first.time
    if ties := [list(corner) for g in granules for corner in g.corners]:
        attrs["tie_points"] = ties
    return xr.Dataset(variables, _coords(first, lines), attrs)


def _check_stack(found: Product, granules: Sequence[Granule]) -> None:
    """Raise unless granules, by line, make one raster."""
    for above, below in pairwise(granules):
        names = f"{above.name} and {below.name} of {found.shown}"
        if above.shape[1] != below.shape[1]:
            raise GridError(
                f"{names} have {above.shape[1]} and {below.shape[1]} samples; granules "
                "of one detector are equally wide. Fetch the product again."
            )
        end = above.line + above.shape[0]
        if below.line < end:
            raise GridError(
                f"{names} overlap: the first ends before line {end}, the second begins "
                f"at line {below.line}. Open one datastrip at a time."
            )


def _part(found: Product, granule: Granule, band: str, first: int) -> Part:
    """Return one image of a granule, where it lies in the raster from line `first`."""
    if band not in granule.images:
        raise MissingBandError(
            f"{granule.name} of {found.shown} has no image of {band} (it has "
            f"{', '.join(sorted(granule.images)) or 'none of 10 m'}). Fetch it again.",
            band=band,
        )
    href = granule.images[band]
    # The bands of a TIFF share one file, in the order of the mapping.
    shared = len(set(granule.images.values())) < len(granule.images)
    driver = driver_of(None, href)
    assert driver is not None
    asset = Asset(
        item_id=granule.name,
        band=band,
        href=href,
        driver=driver,
        shape=granule.shape,
        index=list(granule.images).index(band) + 1 if shared else None,
    )
    return Part(first=granule.line - first, asset=asset)


def _describe(found: Product, band: str) -> dict[str, Any]:
    facts = BANDS[band]
    attrs: dict[str, Any] = {
        "long_name": f"counts in {band}, {facts.wavelength:g} nm",
        "units": "count",
        "wavelength": facts.wavelength,
        "shift_y": 0,
        "shift_x": 0,
    }
    return attrs if found.saturated is None else attrs | {"saturated": found.saturated}


def _coords(first: Granule, lines: int) -> dict[str, Any]:
    y = np.arange(lines, dtype=np.float64) + (first.line + 0.5)
    x = np.arange(first.shape[1], dtype=np.float64) + 0.5
    named = "{} + 0.5, counted from 0 in the raster of the detector"
    return {
        "y": ("y", y, {"long_name": named.format("line"), "units": "1", "axis": "Y"}),
        "x": ("x", x, {"long_name": named.format("sample"), "units": "1", "axis": "X"}),
    }
