"""Counts on disk as a catalogue holds them: cloud-optimised GeoTIFFs, a STAC item."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.footprint import COG, footprint
from s2sr_xr.errors import GridError, MissingBandError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence

    import pystac
    from numpy.typing import NDArray

__all__ = ["Level", "write_cog", "write_item"]

Level: TypeAlias = Literal["L1C", "L2A"]


def write_item(
    path: str | Path,
    item_id: str,
    counts: Mapping[str, NDArray[np.uint16]],
    *,
    corner: tuple[float, float],
    epsg: int,
    datetime: dt.datetime,
    level: Level,
    baseline: str = "05.11",
    offset: int | None = -1000,
) -> pystac.Item:
    """Write counts as cloud-optimised GeoTIFFs with a STAC item, and return the item.

    The layout is that of Earth Search's ``sentinel-2-c1``, except that assets are keyed
    by ESA's identifiers. Real pixels may be put into a local catalogue this way.

    Parameters
    ----------
    path
        Directory of a catalogue; the item goes to ``<path>/<item_id>/``.
    item_id
        Product name. Satellite and MGRS tile are read from it where they are there.
    counts
        uint16 of shape (y, x) by ESA's identifier, every band on its native pixels, all
        from one corner and over one extent. 0 is no data.
    corner
        Easting and northing of the upper left corner, in metres.
    epsg
        Code of the UTM zone: 326xx or 327xx.
    datetime
        When the scene was seen, with a time zone.
    level
        ``"L1C"`` or ``"L2A"``.
    baseline
        Processing baseline, such as ``"05.11"``.
    offset
        What ``raster:bands`` says is added to counts before the scale of 1e-4. None
        leaves ``raster:bands`` out, as some catalogues do.

    Raises
    ------
    MissingBandError
        There is no band, or one that the instrument does not have.
    GridError
        A band is not a uint16 image, or its extent is not that of the others.
    """
    import pystac

    _check_counts(counts)
    root = Path(path) / item_id
    root.mkdir(parents=True, exist_ok=True)
    first = next(iter(counts))
    rows, cols = (n * BANDS[first].native for n in counts[first].shape)
    outline = [(0, 0), (cols, 0), (cols, -rows), (0, -rows)]
    geometry, bbox = footprint(
        [(corner[0] + x, corner[1] + y) for x, y in outline], epsg
    )
    item = pystac.Item(
        id=item_id,
        geometry=geometry,
        bbox=bbox,
        datetime=datetime,
        properties={
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "proj:code": f"EPSG:{epsg}",
            "s2:processing_baseline": baseline,
            "s2:product_type": f"S2MSI{level[1:]}",
            **_facts_of_name(item_id),
        },
        stac_extensions=[
            "https://stac-extensions.github.io/grid/v1.1.0/schema.json",
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
        ],
    )
    for name, image in counts.items():
        pixel = BANDS[name].native
        write_cog(root / f"{name}.tif", image[None], corner, pixel, epsg, nodata=0)
        asset = _asset(name, image.shape, corner, offset)
        item.add_asset(name, asset)
    item.save_object(dest_href=str((root / f"{item_id}.json").absolute()))
    item.set_self_href(str((root / f"{item_id}.json").absolute()))
    return item


def _check_counts(counts: Mapping[str, NDArray[np.uint16]]) -> None:
    unknown = [name for name in counts if name not in BANDS]
    if unknown or not counts:
        raise MissingBandError(
            f"Bands {unknown} are not Sentinel-2's: use {', '.join(BANDS)}."
        )
    extents = {}
    for name, image in counts.items():
        if image.dtype != np.uint16 or image.ndim != 2:
            raise GridError(
                f"{name} is {image.dtype} of shape {image.shape}: counts are uint16 of "
                f"shape (y, x).",
                band=name,
            )
        extents[name] = tuple(n * BANDS[name].native for n in image.shape)
    if len(set(extents.values())) > 1:
        raise GridError(
            f"The bands cover different extents in metres (y, x): {extents}. Crop them "
            f"to whole cells of their coarsest pixel."
        )


def _facts_of_name(item_id: str) -> dict[str, str]:
    """Return platform and tile, as far as a product name has them."""
    facts = {}
    if found := re.match(r"S2([A-D])_", item_id):
        facts["platform"] = f"sentinel-2{found[1].lower()}"
    if found := re.search(r"_T(\d{2}[C-X][A-Z]{2})(?:_|$)", item_id):
        facts |= {"s2:mgrs_tile": found[1], "grid:code": f"MGRS-{found[1]}"}
    return facts


def _asset(
    name: str,
    shape: tuple[int, ...],
    corner: tuple[float, float],
    offset: int | None,
) -> pystac.Asset:
    """Return the asset of one band, with what a reader needs to open no header."""
    import pystac

    band = BANDS[name]
    pixel = band.native
    fields: dict[str, object] = {
        "gsd": pixel,
        "eo:bands": [
            {
                "name": name,
                "common_name": band.common,
                "center_wavelength": band.wavelength / 1000,
                "full_width_half_max": band.width / 1000,
            }
        ],
        "proj:shape": list(shape),
        "proj:transform": [pixel, 0, corner[0], 0, -pixel, corner[1]],
    }
    if offset is not None:
        fields["raster:bands"] = [
            {
                "nodata": 0,
                "data_type": "uint16",
                "spatial_resolution": pixel,
                "scale": 1e-4,
                "offset": offset / 10_000,
            }
        ]
    return pystac.Asset(
        href=f"./{name}.tif",
        title=f"{name} - {pixel}m",
        media_type=COG,
        roles=["data", "reflectance"],
        extra_fields=fields,
    )


def write_cog(
    path: Path,
    bands: NDArray[np.uint16],
    corner: tuple[float, float],
    pixel: int,
    epsg: int,
    *,
    nodata: int | None,
    names: Sequence[str] = (),
) -> None:
    """Write (band, y, x) as one cloud-optimised GeoTIFF with 512 px blocks."""
    import rasterio
    from rasterio.transform import Affine

    with rasterio.open(
        path,
        "w",
        driver="COG",
        count=len(bands),
        height=bands.shape[1],
        width=bands.shape[2],
        dtype="uint16",
        crs=f"EPSG:{epsg}",
        transform=Affine(pixel, 0, corner[0], 0, -pixel, corner[1]),
        nodata=nodata,
        blocksize=512,
        compress="deflate",
        predictor=2,
        interleave="band",
    ) as sink:
        sink.write(bands)
        for k, name in enumerate(names, start=1):
            sink.set_band_description(k, name)
