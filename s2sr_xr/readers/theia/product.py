"""Where the parts of a Theia product are, and what its metadata say.

References
----------
CNES PSC-NT-411-0362, Sentinel-2A L2A products description: names of files and elements.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s2sr_xr.core.bands import BANDS, canonical
from s2sr_xr.core.reflectance import Radiometry
from s2sr_xr.errors import ReadError
from s2sr_xr.readers.fetch.asset import Asset
from s2sr_xr.readers.item import Item
from s2sr_xr.readers.safe.files import join, locate, other_kind
from s2sr_xr.readers.safe.xml import Facts, number_of, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from s2sr_xr.readers.safe.files import Files

__all__ = ["GROUPS", "Product", "open_product"]

NODATA = -10_000
"""Count outside of the image, where the metadata do not say another."""

GROUPS = {10: "R1", 20: "R2"}
"""What Theia calls pixels of 10 m and of 20 m."""

_IMAGE = re.compile(
    r"(?P<name>SENTINEL2[A-Z]_(?P<date>\d{8}-\d{6}-\d{3})_L2A_T?(?P<tile>\d{2}[A-Z]{3})"
    r"_[\w-]+?)_(?P<kind>FRE|SRE)_(?P<band>B\d{1,2}A?)\.tiff?",
    re.IGNORECASE,
)
_METADATA = re.compile(r"(?!\.).+_MTD_ALL\.xml", re.IGNORECASE)
_MASK = re.compile(r".+_(?P<kind>EDG|SAT|DFP)_(?P<group>R[12])\.tiff?", re.IGNORECASE)

OTHER_KINDS = (
    (
        r"_FRC_B\d|_L3A_",
        "a monthly synthesis (L3A)",
        "give s2sr_xr.open_files its FRC images and their radiometry",
    ),
    (r"^(?:VENUS|LANDSAT|SPOT)", "of another satellite", "Sentinel-2 is read here"),
    (r"SENTINEL2[A-Z]_.+_L1C_", "of level 1C", "open the SAFE of its L1C"),
    (r"MTD_MSIL|\.SAFE$", "a SAFE product", "s2sr_xr.open_safe opens it"),
    (r"^(?:zarr\.json|\.zgroup)$", "a Zarr store", "s2sr_xr.open_eopf opens it"),
)
"""What is not read here: patterns of names, what it is, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Where the parts of a product are, and what its metadata say."""

    files: Files
    name: str
    tile: str
    images: Mapping[str, str]
    masks: Mapping[tuple[str, str], str]
    time: np.datetime64
    radiometry: Radiometry

    @property
    def item(self) -> Item:
        """The product under the names that STAC has for it."""
        properties = {
            "platform": self.name[: len("SENTINEL2A")],
            "grid:code": f"MGRS-{self.tile}",
            "s2:product_type": "S2MSI2A",
        }
        return Item.of_product(
            self.name, self.time, bands=self.images, properties=properties
        )

    def asset(self, band: str, path: str) -> Asset:
        """Return an image or a mask, of which only the address is known."""
        href = self.files.href(path)
        return Asset(item_id=self.name, band=band, href=href, driver="GTiff")


def open_product(path: object) -> Product:
    """Return the one product at a path, its metadata read.

    Raises
    ------
    ReadError
        There is no product, several, or another one, or its metadata are damaged.
    """
    files, top = locate(path, "Theia product")
    inside, folders = files.list(top)
    below = [join(top, folder) for folder in folders]
    # An archive holds the product's own folder.
    places = [(top, inside), *((f, files.list(f)[0]) for f in below)]
    found = [
        (p, n, m) for p, names in places for n in names if (m := _IMAGE.fullmatch(n))
    ]
    products = {(place, match["name"]) for place, _, match in found}
    if not products:
        raise _foreign(
            files.show(top),
            [*inside, *folders, *(n for _, ns in places[1:] for n in ns)],
        )
    if len(products) > 1:
        raise ReadError(
            f"{files.show(top)} holds several products: "
            f"{', '.join(sorted(name for _, name in products))}. Give one."
        )
    ((folder, name),) = products
    flat = [(n, m) for _, n, m in found if m["kind"].upper() == "FRE"]
    if not flat:
        raise ReadError(
            f"{name} has surface reflectance (SRE) only; flat reflectance (FRE), "
            "corrected for slopes, is read here. Fetch the whole product, or give "
            "s2sr_xr.open_files its SRE images and their radiometry.",
            item=name,
        )
    time, radiometry = _facts(files, folder, flat[0][1])
    return Product(
        files=files,
        name=name,
        tile=flat[0][1]["tile"].upper(),
        images=dict(_bands(files, folder, flat)),
        masks=dict(_masks(files, folder)),
        time=time,
        radiometry=radiometry,
    )


def _foreign(place: str, names: Sequence[str]) -> ReadError:
    """Return the error that says what lies there instead of a product."""
    shown = place.rstrip("!/")
    return other_kind(shown, (Path(shown).name, *names), OTHER_KINDS) or ReadError(
        f"{shown} holds no image such as SENTINEL2A_..._L2A_..._FRE_B2.tif; it holds "
        f"{', '.join(names[:6]) or 'nothing'}. Give the directory or the zip of a "
        "Theia L2A product."
    )


def _bands(
    files: Files, folder: str, flat: Sequence[tuple[str, re.Match[str]]]
) -> Iterator[tuple[str, str]]:
    """Yield bands and their images."""
    seen: dict[str, str] = {}
    for name, match in flat:
        band = canonical(match["band"])
        if band is None or BANDS[band].native not in GROUPS:
            continue
        path = join(folder, name)
        if band in seen:
            both = f"{files.show(seen[band])} and {files.show(path)}"
            raise ReadError(f"{both} both are {band}; remove one.", band=band)
        seen[band] = path
        yield band, path


def _masks(files: Files, folder: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield kinds and pixels of masks, and their files."""
    for name in files.list(folder)[1]:
        if name.upper() in {"MASK", "MASKS"}:
            inside = join(folder, name)
            for file in files.list(inside)[0]:
                if match := _MASK.fullmatch(file):
                    key = (match["kind"].upper(), match["group"].upper())
                    yield key, f"{inside}/{file}"


def _facts(
    files: Files, folder: str, name: re.Match[str]
) -> tuple[np.datetime64, Radiometry]:
    """Return when the scene was seen and what its counts mean."""
    found = [n for n in files.list(folder)[0] if _METADATA.fullmatch(n)]
    if len(found) != 1:
        raise ReadError(
            f"{files.show(folder)} holds {len(found)} files *_MTD_ALL.xml, which say "
            "what the counts mean; one was expected. Fetch the product again."
        )
    path = join(folder, found[0])
    shown = files.show(path)
    root = parse(files.read(path), shown)
    if root.tag != "Muscate_Metadata_Document":
        raise ReadError(f"{shown} describes a {root.tag}, not a product of Theia.")
    facts = Facts(root, shown)
    special = {e.get("name"): e for e in root.iter("SPECIAL_VALUE")}
    nodata = number_of(special["nodata"], shown) if "nodata" in special else NODATA
    radiometry = Radiometry(
        scale=1 / facts.number("REFLECTANCE_QUANTIFICATION_VALUE"),
        offset=0,
        nodata=int(nodata),
        source="MTD_ALL.xml",
    )
    seen = facts.time("ACQUISITION_DATE")
    return (_moment(name["date"]) if seen is None else seen), radiometry


def _moment(date: str) -> np.datetime64:
    """Return the moment in a product's name.

    >>> _moment("20170706-090107-511")
    np.datetime64('2017-07-06T09:01:07.511000000')
    """
    day, clock, thousandths = date.split("-")
    text = f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}"
    return np.datetime64(f"{text}.{thousandths}", "ns")
