"""The granules of an L1B product: what their metadata say, and where their images are.

A granule is a stretch of some 2304 lines of one detector, one image a band. Its XML
says which detector, and on which line of the detector's raster it begins; nothing in
the product's XML says where one band lies against another. Images are found by their
names in the granule's own folder; names inside the XML are never followed.

References
----------
ESA, Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD), Level-1B.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s2sr_xr.core.bands import by_resolution
from s2sr_xr.errors import GridError, ReadError
from s2sr_xr.readers.safe.files import join, locate
from s2sr_xr.readers.safe.xml import Facts, pairs, parse

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping
    from xml.etree.ElementTree import Element

    from s2sr_xr.readers.safe.files import Files

__all__ = ["BANDS_10M", "Granule", "Product", "TiePoint", "open_product"]

BANDS_10M = by_resolution(10)
"""The bands that are read, in the order of the instrument."""

TiePoint = tuple[float, float, float, float]
"""Line and sample in the detector's raster, latitude and longitude in degrees."""

_PRODUCT, _GRANULE = "Level-1B_User_Product", "Level-1B_Granule_ID"
_METADATA = re.compile(r"(?!\.)(?:.*_)?MTD_.*\.xml|MTD\w*\.xml", re.IGNORECASE)
_IMAGE = re.compile(r"(?!\.)(?:.*_)?(B\d\d)\.(?:jp2|tiff?)", re.IGNORECASE)
_DETECTOR = re.compile(r"0[1-9]|1[0-2]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Granule:
    """A stretch of one detector's raster."""

    name: str
    """Identifier of the granule."""

    detector: int
    """1 to 12."""

    line: int
    """Line of the detector's raster where it begins, from 0."""

    shape: tuple[int, int]
    """Lines and samples of its 10 m images."""

    images: Mapping[str, str]
    """Addresses of its 10 m images, by band."""

    time: str = ""
    """When it was sensed, in UTC."""

    corners: tuple[TiePoint, ...] = ()
    """Where its four corners lie on the ground; empty where the metadata do not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Granules, and what is true of them all."""

    shown: str
    """What errors call it."""

    granules: tuple[Granule, ...]
    """By detector and line."""

    nodata: int = 0
    """Count that marks a missing pixel."""

    saturated: int | None = None
    """Count that marks a saturated pixel."""

    attrs: Mapping[str, str] = field(default_factory=dict)
    """Satellite, datatake, processing baseline and time, where the metadata say."""


def open_product(path: str | os.PathLike[str]) -> Product:
    """Return the granules of a product, or a granule alone; images stay closed.

    Parameters
    ----------
    path
        Directory or zip of a product, a granule's directory, or a metadata file of
        either.

    Raises
    ------
    ReadError
        There is no L1B product, or its metadata are damaged.
    GridError
        Metadata contradict themselves.
    """
    files, folder = locate(path)
    folder = _inside(files, folder)
    root = _metadata(files, folder)
    if root is not None and root.tag == _GRANULE:
        return _product(files, folder, None, [_granule(files, folder, root)])
    has_granules = "GRANULE" in files.list(folder)[1]
    granules = []
    for name in files.list(join(folder, "GRANULE"))[1] if has_granules else ():
        place = join(folder, f"GRANULE/{name}")
        found = _metadata(files, place)
        if found is None:
            raise ReadError(
                f"{files.show(place)} has no metadata of a granule (an MTD .xml file). "
                "Fetch the product again."
            )
        granules.append(_granule(files, place, found))
    if not granules:
        raise ReadError(
            f"{files.show(folder)} holds no granule of L1B: neither a folder GRANULE, "
            "nor the metadata of one. Give a .SAFE directory, one of its granules, or "
            "a TIFF of the bands B02, B03, B04, B08."
        )
    return _product(files, folder, root, granules)


def _inside(files: Files, folder: str) -> str:
    """Return the one product's folder that a folder or archive holds, else itself."""
    names, folders = files.list(folder)
    if any(_METADATA.fullmatch(n) for n in names) or "GRANULE" in folders:
        return folder
    inner = [f for f in folders if f.upper().endswith(".SAFE")]
    if len(inner) > 1:
        raise GridError(
            f"{files.show(folder)} holds {len(inner)} products: {', '.join(inner)}. "
            "Open one of them."
        )
    return join(folder, inner[0]) if inner else folder


def _metadata(files: Files, folder: str) -> Element | None:
    """Return the metadata of a product or granule, None where there are none."""
    names = [n for n in files.list(folder)[0] if _METADATA.fullmatch(n)]
    for name in names:
        place = join(folder, name)
        root = parse(files.read(place), files.show(place))
        if root.tag in (_PRODUCT, _GRANULE):
            return root
        if root.tag.startswith(("Level-1C", "Level-2A")):
            raise ReadError(
                f"{files.show(place)} describes a {root.tag}, which is on the map: "
                "s2sr_xr.open_safe opens it. open_l1b opens L1B, in sensor geometry."
            )
    if names:
        raise ReadError(
            f"{files.show(folder)}: {', '.join(names)} describe neither a product nor "
            "a granule of L1B."
        )
    return None


def _product(
    files: Files, folder: str, root: Element | None, granules: list[Granule]
) -> Product:
    special = (
        {} if root is None else dict(pairs(root, "Special_Values", "SPECIAL_VALUE"))
    )
    said = {
        "platform": "SPACECRAFT_NAME",
        "baseline": "PROCESSING_BASELINE",
        "start_time": "PRODUCT_START_TIME",
    }
    attrs = (
        {}
        if root is None
        else {k: Facts(root, "").text(tag) for k, tag in said.items()}
    )
    datatake = None if root is None else root.find(".//Datatake")
    if datatake is not None:
        attrs["datatake"] = datatake.get("datatakeIdentifier", "")
    return Product(
        shown=files.show(folder),
        granules=tuple(sorted(granules, key=lambda g: (g.detector, g.line))),
        nodata=special.get("NODATA", 0),
        saturated=special.get("SATURATED"),
        attrs={k: v for k, v in attrs.items() if v},
    )


def _granule(files: Files, folder: str, root: Element) -> Granule:
    """Return one granule from its metadata and the names of its images."""
    shown = files.show(folder)
    if root.tag != _GRANULE:
        raise ReadError(f"{shown} holds the metadata of a product, not of a granule.")
    facts = Facts(root, shown)
    detector = facts.text("DETECTOR_ID")
    if not _DETECTOR.fullmatch(detector):
        raise ReadError(f"{shown}: DETECTOR_ID is {detector!r}, not one of 01 to 12.")
    origin = facts.whole("PIXEL_ORIGIN") if facts.text("PIXEL_ORIGIN") else 1
    line = facts.whole("POSITION") - origin
    size = root.find(".//Granule_Dimensions/Size[@resolution='10']")
    if size is None:
        raise ReadError(f"{shown}: the metadata have no size of 10 m images.")
    shape = Facts(size, shown).whole("NROWS"), Facts(size, shown).whole("NCOLS")
    if min(shape) < 1 or line < 0:
        raise GridError(
            f"{shown}: {shape[0]} lines of {shape[1]} samples from line {line} are not "
            "an image. Fetch the product again."
        )
    return Granule(
        name=facts.text("GRANULE_ID") or folder.rpartition("/")[2],
        detector=int(detector),
        line=line,
        shape=shape,
        images=dict(_images(files, folder)),
        time=facts.text("SENSING_TIME"),
        corners=_corners(root, line, shape),
    )


def _images(files: Files, folder: str) -> Iterator[tuple[str, str]]:
    """Yield the bands of 10 m and the addresses of their images in a granule."""
    seen: set[str] = set()
    place = join(folder, "IMG_DATA")
    if "IMG_DATA" not in files.list(folder)[1]:
        return
    for name in files.list(place)[0]:
        match = _IMAGE.fullmatch(name)
        band = match[1].upper() if match else ""
        if band not in BANDS_10M:
            continue
        if band in seen:
            raise GridError(f"{files.show(place)} holds {band} twice; remove one.")
        seen.add(band)
        yield band, files.href(join(place, name))


def _corners(root: Element, line: int, shape: tuple[int, int]) -> tuple[TiePoint, ...]:
    """Return where the corners lie, from the first line's left one down and around.

    The metadata give latitude, longitude and height, in turn, of a closed ring.
    Anything else gives no corners.
    """
    text = root.findtext(".//Granule_Footprint//EXT_POS_LIST") or ""
    try:
        numbers = [float(n) for n in text.split()]
    except ValueError:
        return ()
    ring = [(numbers[i], numbers[i + 1]) for i in range(0, len(numbers) - 2, 3)]
    closed = len(numbers) == 15 and ring[0] == ring[-1] and len(set(ring)) == 4
    if not (closed and all(map(math.isfinite, numbers))):
        return ()
    lines, samples = shape
    spots = ((0, 0), (lines, 0), (lines, samples), (0, samples))
    # Corner pixels' centres (RASTER_CS_TYPE POINT) and edges differ by half a pixel,
    # which is little against what the terrain does.
    return tuple(
        (float(line + i), float(j), latitude, longitude)
        for (i, j), (latitude, longitude) in zip(spots, ring[:4], strict=True)
    )
