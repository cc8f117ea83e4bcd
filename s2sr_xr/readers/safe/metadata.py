"""What the metadata files of a SAFE product say, read as data from strangers.

No DOCTYPE and so no entity of one's own, a bounded number of bytes and elements, and
errors that name file and line. Only facts are taken: never an address of a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

# Expat alone builds the tree, with the handlers below: no DTD, no external entity.
import numpy as np

from s2sr_xr.core.bands import BANDS, canonical
from s2sr_xr.errors import GridError, ReadError
from s2sr_xr.readers.safe.xml import Facts, child, first, number_of, pairs, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from xml.etree.ElementTree import Element

__all__ = ["Product", "Tile", "product_facts", "tile_facts", "tile_in"]


OFFSETS = {"L1C": "RADIO_ADD_OFFSET", "L2A": "BOA_ADD_OFFSET"}
"""Elements that hold the counts to add, one a band, from baseline 04.00 on."""

QUANTIFICATION = {
    "L1C": ("QUANTIFICATION_VALUE",),
    # The second until 2018 (L2Ap, Sen2Cor 2.4).
    "L2A": ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE"),
}
"""Elements that hold the counts of full reflectance."""

_PRODUCT_ROOT = re.compile(r"Level-(\w+)_User_Product")
_TILE_ROOT = re.compile(r"Level-(\w+)_Tile_ID")
_NAME = re.compile(r"(S2[A-Z]_\w+?)(?:\.SAFE)?")
_BASELINE = re.compile(r"N?(\d\d\.\d\d)")
_TILE = re.compile(r"_T(\d{2}[C-X][A-Z]{2})(?:_|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What the metadata of a product say."""

    level: str
    """``"L1C"`` or ``"L2A"``."""

    name: str
    """The product's name without ``.SAFE``; empty where the metadata do not say."""

    baseline: str
    """Processing baseline, such as ``"05.09"``; empty where nothing says."""

    platform: str
    """Satellite, such as ``"Sentinel-2A"``."""

    datatake: str
    """Identifier of the datatake."""

    orbit: int | None
    """Number of the relative orbit."""

    orbit_direction: str
    """``"descending"`` or ``"ascending"``."""

    start: np.datetime64 | None
    """When the product's sensing began, in UTC."""

    generated: np.datetime64 | None
    """When it was made, in UTC."""

    quantification: float
    """Counts of full reflectance."""

    offsets: Mapping[str, float]
    """Counts to add, by band; empty where the product lists none."""

    nodata: int
    """Count that marks a missing pixel."""

    saturated: int | None
    """Count that marks a saturated pixel."""

    band_ids: Mapping[str, str]
    """Bands by the number that the metadata give them."""

    classes: tuple[tuple[int, str], ...]
    """Codes and names of the scene classification; empty for L1C."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """What the metadata of a granule say."""

    level: str
    """``"L1C"`` or ``"L2A"``."""

    tile: str
    """MGRS tile, such as ``"31TFJ"``; empty where the metadata do not say."""

    baseline: str
    """Processing baseline in the granule's name; empty where there is none."""

    sensed: np.datetime64 | None
    """When the tile was seen, in UTC."""

    crs: str
    """``"EPSG:..."``."""

    corners: Mapping[int, tuple[float, float]]
    """Easting and northing of the upper left edge, in metres, by pixel size."""

    shapes: Mapping[int, tuple[int, int]]
    """Rows and columns, by pixel size."""

    sun: tuple[float, float] | None
    """Mean zenith and azimuth of the sun, in degrees."""

    view: Mapping[str, tuple[float, float]]
    """Mean zenith and azimuth of the view, in degrees, by number of the band."""


def product_facts(data: bytes, name: str) -> Product:
    """Return what ``MTD_MSIL1C.xml`` or ``MTD_MSIL2A.xml`` says.

    Raises
    ------
    ReadError
        The file is damaged, of another kind, or lacks what is needed.
    """
    root = parse(data, name)
    level = _level(root, _PRODUCT_ROOT, name)
    facts = Facts(root, name)
    special = dict(pairs(root, "Special_Values", "SPECIAL_VALUE"))
    band_ids = _band_ids(root)
    orbit = facts.text("SENSING_ORBIT_NUMBER")
    return Product(
        level=level,
        name=first(_NAME, facts.text("PRODUCT_URI", "PRODUCT_URI_2A")),
        baseline=first(_BASELINE, facts.text("PROCESSING_BASELINE")),
        platform=facts.text("SPACECRAFT_NAME"),
        datatake=facts.attribute("Datatake", "datatakeIdentifier"),
        orbit=int(orbit) if orbit.isdecimal() else None,
        orbit_direction=facts.text("SENSING_ORBIT_DIRECTION").lower(),
        start=facts.time("PRODUCT_START_TIME", "DATATAKE_SENSING_START"),
        generated=facts.time("GENERATION_TIME"),
        quantification=facts.number(*QUANTIFICATION[level]),
        offsets={
            band_ids.get(e.get("band_id", ""), ""): number_of(e, name)
            for e in root.iter(OFFSETS[level])
        },
        nodata=special.get("NODATA", 0),
        saturated=special.get("SATURATED"),
        band_ids=band_ids,
        classes=tuple(
            (code, text)
            for text, code in pairs(
                root, "Scene_Classification_ID", "SCENE_CLASSIFICATION"
            )
        ),
    )


def tile_facts(data: bytes, name: str) -> Tile:
    """Return what ``MTD_TL.xml`` says.

    Raises
    ------
    ReadError
        The file is damaged, of another kind, or lacks what is needed.
    GridError
        The pixels are not square, or not north up.
    """
    root = parse(data, name)
    facts = Facts(root, name)
    said = facts.text("TILE_ID", "TILE_ID_2A")
    sun = root.find(".//Mean_Sun_Angle")
    views = {
        e.get("bandId", ""): angles
        for e in root.iter("Mean_Viewing_Incidence_Angle")
        if (angles := _angles(e)) is not None
    }
    return Tile(
        level=_level(root, _TILE_ROOT, name),
        tile=tile_in(said),
        baseline=first(_BASELINE, said.rpartition("_")[2]),
        sensed=facts.time("SENSING_TIME"),
        crs=facts.needed("HORIZONTAL_CS_CODE"),
        corners=dict(_corners(root, name)),
        shapes=dict(_shapes(root, name)),
        sun=None if sun is None else _angles(sun),
        view=views,
    )


def tile_in(name: str) -> str:
    """Return the MGRS tile that a granule's name holds, else nothing.

    >>> tile_in("S2A_OPER_MSI_L1C_TL_SGS__20180101T124911_A013204_T31TDH_N02.06")
    '31TDH'
    """
    found = _TILE.search(name)
    return found[1] if found else ""


def _level(root: Element, kind: re.Pattern[str], name: str) -> str:
    """Return the level that a file of the wanted kind is of."""
    found = kind.fullmatch(root.tag)
    level = f"L{found[1]}" if found else ""
    if level in OFFSETS:
        return level
    remedy = "Levels 1C and 2A are read here"
    if "1B" in root.tag:
        remedy = "L1B is in sensor geometry: s2sr_xr.open_l1b opens it"
    raise ReadError(f"{name} describes a {root.tag}. {remedy}.")


def _band_ids(root: Element) -> dict[str, str]:
    """Return bands by number: from the product's table, else in instrument order."""
    said = {
        e.get("bandId", ""): canonical(e.get("physicalBand", ""))
        for e in root.iter("Spectral_Information")
    }
    known = {number: band for number, band in said.items() if band}
    return known or {str(n): band for n, band in enumerate(BANDS)}


def _angles(element: Element) -> tuple[float, float] | None:
    """Return zenith and azimuth in degrees; some products say NaN."""
    try:
        zenith = float(element.findtext("ZENITH_ANGLE") or "nan")
        azimuth = float(element.findtext("AZIMUTH_ANGLE") or "nan")
    except ValueError:
        return None
    return (zenith, azimuth) if np.isfinite(zenith + azimuth) else None


def _corners(root: Element, name: str) -> Iterator[tuple[int, tuple[float, float]]]:
    for e in root.iter("Geoposition"):
        res = e.get("resolution", "")
        step = child(e, "XDIM", name), child(e, "YDIM", name)
        if not res.isdecimal() or step != (float(res), -float(res)):
            raise GridError(
                f"{name}: pixels of {res} m have steps of {step} m; square pixels, "
                "north up, are needed. Use the product's own grid."
            )
        yield int(res), (child(e, "ULX", name), child(e, "ULY", name))


def _shapes(root: Element, name: str) -> Iterator[tuple[int, tuple[int, int]]]:
    for e in root.iter("Size"):
        res = e.get("resolution", "")
        rows, cols = (int(child(e, tag, name)) for tag in ("NROWS", "NCOLS"))
        if not res.isdecimal() or min(rows, cols) < 1:
            raise GridError(f"{name}: pixels of {res} m, {rows} rows, {cols} columns.")
        yield int(res), (rows, cols)
