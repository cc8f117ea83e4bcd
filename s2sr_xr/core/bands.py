"""Facts about the thirteen bands of Sentinel-2's MSI, and their names in catalogues.

References
----------
ESA, Sentinel-2 Spectral Response Functions (S2-SRF) v4.0: wavelengths and widths.
MTF at Nyquist: ESA's Sentinel-2 calibration documents, as tabulated in CNES sensorsio.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ALIASES", "BANDS", "Band", "by_resolution", "canonical", "group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """What the instrument is at one band."""

    name: str
    """ESA's identifier, such as ``"B8A"``."""

    native: int
    """Side of a native pixel, in metres: 10, 20 or 60."""

    wavelength: float
    """Central wavelength of Sentinel-2A, in nanometres."""

    width: float
    """Full width at half maximum, in nanometres."""

    common: str
    """STAC's common name (Earth Search's asset key)."""

    mtf: float
    """Modulation transfer at the Nyquist frequency of the native pixel, in 0..1."""


BANDS: Mapping[str, Band] = MappingProxyType(
    {
        b.name: b
        for b in (
            Band(name=n, native=r, wavelength=w, width=f, common=c, mtf=m)
            for n, r, w, f, c, m in (
                ("B01", 60, 442.7, 20, "coastal", 0.32),
                ("B02", 10, 492.7, 65, "blue", 0.304),
                ("B03", 10, 559.8, 35, "green", 0.276),
                ("B04", 10, 664.6, 30, "red", 0.233),
                ("B05", 20, 704.1, 14, "rededge1", 0.343),
                ("B06", 20, 740.5, 14, "rededge2", 0.336),
                ("B07", 20, 782.8, 19, "rededge3", 0.338),
                ("B08", 10, 832.8, 105, "nir", 0.222),
                ("B8A", 20, 864.7, 21, "nir08", 0.325),
                ("B09", 60, 945.1, 19, "nir09", 0.39),
                ("B10", 60, 1373.5, 29, "cirrus", 0.32),
                ("B11", 20, 1613.7, 90, "swir16", 0.21),
                ("B12", 20, 2202.4, 174, "swir22", 0.19),
            )
        )
    }
)
"""The bands by ESA identifier, in the order of the instrument. The MTF of B01 and B10
is not in the table of the sources; 0.32, the mean of the others, stands in."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {b.common: b.name for b in BANDS.values()}
    | {"rededge": "B05", "nir09": "B09", "watervapor": "B09"}
)
"""Common names to ESA identifiers."""


def canonical(name: str) -> str | None:
    """Return ESA's identifier for a band name of any catalogue, or None.

    Takes ESA's own names in any case and without the zero, STAC's common names, and
    names with a pixel size or format at the end.

    >>> canonical("b8a"), canonical("B5"), canonical("swir16"), canonical("B04_10m")
    ('B8A', 'B05', 'B11', 'B04')
    >>> canonical("red-jp2"), canonical("scl")
    ('B04', None)
    """
    stem = name.strip().lower().removesuffix("-jp2")
    for suffix in ("_10m", "_20m", "_60m"):
        stem = stem.removesuffix(suffix)
    if stem in ALIASES:
        return ALIASES[stem]
    if stem.startswith("b"):
        digits = stem[1:].upper().zfill(2)
        return f"B{digits}" if f"B{digits}" in BANDS else None
    return None


def by_resolution(metres: int) -> tuple[str, ...]:
    """Return the bands whose native pixel is `metres` wide, in instrument order.

    >>> by_resolution(10)
    ('B02', 'B03', 'B04', 'B08')
    """
    return tuple(b.name for b in BANDS.values() if b.native == metres)


def group(metres: int) -> str:
    """Return the name of the tree group that holds pixels of `metres`.

    >>> group(20)
    'r20m'
    """
    return f"r{metres}m"
