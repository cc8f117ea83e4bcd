"""One image of one band: where it is, and what its header must say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from s2sr_xr.core.token_parts import token_parts
from s2sr_xr.errors import ReadError, redact
from s2sr_xr.readers.fetch.address import refusal, without_query

__all__ = ["DRIVERS", "Asset", "driver_of"]

DRIVERS = ("GTiff", "JP2OpenJPEG")
"""What Sentinel-2 pixels come in. Nothing else is opened: a VRT may hold any address,
and other formats are other attack surfaces."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Asset:
    """One image of one band: where it is, and what its header must say."""

    item_id: str
    """The STAC item, or product, that it belongs to."""

    band: str
    """ESA's identifier of the band."""

    href: str
    """Absolute local path, ``file:`` URL, or http(s) URL with its query."""

    driver: str
    """GDAL's driver, from the media type: ``"GTiff"`` or ``"JP2OpenJPEG"``."""

    shape: tuple[int, int] | None = None
    """Rows and columns; None where the catalogue does not say."""

    transform: tuple[float, ...] | None = None
    """Pixel corner to map, six numbers in rasterio's order; None where unknown."""

    crs: str | None = None
    """Coordinate reference system, as ``"EPSG:..."`` or WKT; None where unknown."""

    index: int | None = None
    """Which band of the file, from 1; None for the only one."""

    sign: str | None = None
    """Who makes the address readable, in the task that reads (`SIGNERS`); None where it
    is readable as it stands."""

    def __post_init__(self) -> None:
        if self.driver not in DRIVERS:
            raise self.error(
                f"is of the kind {self.driver!r}; only {' and '.join(DRIVERS)} are read"
            )
        if problem := refusal(self.href):
            raise self.error(problem)

    def __repr__(self) -> str:
        shape = f", shape={self.shape}" if self.shape else ""
        return f"Asset({self.band} of {self.item_id}, {self.shown}{shape})"

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        # A signature in the query expires; the pixels behind it stay the same.
        place = (self.shape, self.transform, self.crs, self.index)
        href = without_query(self.href)
        return token_parts(
            "asset", 1, self.item_id, self.band, href, self.driver, place
        )

    @property
    def shown(self) -> str:
        """The href for people: without query, user and password."""
        return redact(without_query(self.href))

    def error(self, problem: str, **where: object) -> ReadError:
        """Return the error that says `problem` of this asset."""
        return ReadError(
            f"{self.band} of {self.item_id} {problem} ({self.shown}).",
            item=self.item_id,
            band=self.band,
            href=self.shown,
            **where,
        )


def driver_of(media_type: str | None, href: str) -> str | None:
    """Return the driver for a media type, or for a file's name where there is none.

    >>> driver_of("image/tiff; application=geotiff", "b.bin"), driver_of(None, "b.jp2")
    ('GTiff', 'JP2OpenJPEG')
    >>> driver_of("application/vnd+zarr", "b.tif") is None
    True
    """
    suffix = without_query(href).lower().rpartition(".")[2]
    kind = (media_type or suffix).lower().partition(";")[0].strip()
    if kind in {"image/tiff", "image/vnd.stac.geotiff", "tif", "tiff"}:
        return "GTiff"
    return "JP2OpenJPEG" if kind in {"image/jp2", "jp2"} else None
