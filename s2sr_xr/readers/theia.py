"""A Theia or MAJA L2A product of Sentinel-2 to one lazy tree: native pixels, decoded.

Read are flat reflectances (FRE: corrected for the atmosphere and for slopes), int16,
without an offset. Level 2A has no 60 m bands: they served to know the atmosphere.

References
----------
CNES PSC-NT-411-0362, Sentinel-2A L2A products description; CESBIO, MAJA output format.
SNAP, opttbx-s2tbx-muscate-reader: bits of the masks (edge: bit 0; saturation and
defective pixels: one bit a band).
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr

from s2sr_xr.core.bands import BANDS, canonical, group
from s2sr_xr.core.nodata import DEFECT, SATURATED
from s2sr_xr.core.reflectance import Radiometry
from s2sr_xr.core.token_parts import token_parts
from s2sr_xr.errors import ReadError, S2SRWarning
from s2sr_xr.readers.fetch.address import is_remote, without_query
from s2sr_xr.readers.fetch.asset import Asset
from s2sr_xr.readers.fetch.source import BandSource, as_variable
from s2sr_xr.readers.fetch.window import read_window
from s2sr_xr.readers.files import located
from s2sr_xr.readers.safe.files import Archive, Directory
from s2sr_xr.readers.safe.masks import FlagSource
from s2sr_xr.readers.safe.xml import Look, number_of, parse
from s2sr_xr.readers.stac.items import Item
from s2sr_xr.readers.tree import (
    Image,
    attrs_of,
    check_chunks,
    check_nesting,
    group_of,
    wanted_bands,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from s2sr_xr.readers.fetch.source_protocol import Source
    from s2sr_xr.readers.safe.files import Files

__all__ = ["open_theia"]

NODATA = -10_000
"""Count outside of the image, where the metadata do not say another."""

EDGE = 1
"""Bit of a pixel outside of the image, in the edge mask."""

MASKS = {"SAT": SATURATED, "DFP": DEFECT}
"""Masks with one bit a band, and the flag that any of their bits means."""

GROUPS = {10: "R1", 20: "R2"}
"""What Theia calls pixels of 10 m and of 20 m."""

_IMAGE = re.compile(
    r"(?P<name>SENTINEL2[A-Z]_(?P<date>\d{8}-\d{6}-\d{3})_L2A_T?(?P<tile>\d{2}[A-Z]{3})"
    r"_[\w-]+?)_(?P<kind>FRE|SRE)_(?P<band>B\d{1,2}A?)\.tiff?",
    re.IGNORECASE,
)
_METADATA = re.compile(r"(?!\.).+_MTD_ALL\.xml", re.IGNORECASE)
_MASK = re.compile(r".+_(?P<kind>EDG|SAT|DFP)_(?P<group>R[12])\.tiff?", re.IGNORECASE)

FOREIGN = (
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
"""What is not read here: names that tell, what it is, and what to do."""


def open_theia(
    path: str | os.PathLike[str],
    *,
    bands: Sequence[str] | None = None,
    chunks: int | None = 2196,
) -> xr.DataTree:
    """Return a Theia or MAJA L2A product of Sentinel-2 as a lazy tree of reflectance.

    Parameters
    ----------
    path
        Directory, or zip (read in place, which is slow: unpack what is read often), of
        one product, ``SENTINEL2A_YYYYMMDD-HHMMSS-mmm_L2A_Txxxxx_C_V?-?``, or its
        ``_MTD_ALL.xml``.
    bands
        ESA's identifiers or STAC's common names. Default: the ten bands of 10 and 20 m,
        those that the product holds.
    chunks
        Side of a Dask chunk in 10 m pixels, a multiple of 6; 20 m bands get the same
        ground. None for lazily indexed variables without Dask.

    Returns
    -------
    xr.DataTree
        As `open_stac` returns it, with one time step: groups ``r10m`` and ``r20m``,
        those that have bands, with one variable a band: flat surface reflectance,
        float32, 1.0 = full, negative values kept, NaN for no data and beyond the edge
        of the image, dims ``(time, y, x)``. A group has ``flags`` (uint8; 2 saturated,
        4 product defect, in any band of these pixels) where the product has a mask of
        saturation.

    Raises
    ------
    ReadError
        There is no such product, it is of another kind or has no flat reflectance, or
        its metadata are damaged or not safe to read. Pixels are read, and may fail,
        when they are computed.
    MissingBandError
        A band that was asked for is not there. B01, B09 and B10 never are.
    GridError
        An image has no CRS or other pixels than its band, or the images do not nest.
    ChunkError
        Chunks do not hold whole 60 m pixels.

    Warns
    -----
    S2SRWarning
        A mask is empty, and left out.
    """
    check_chunks(chunks)
    product = _product(_files(path))
    item = product.item
    names = wanted_bands([item], bands)
    images = {band: (_image(product, band),) for band in names}
    check_nesting(item, [image for (image,) in images.values()])
    doubts: list[str] = []
    groups: dict[str, xr.Dataset] = {}
    for res in GROUPS:
        here = {b: its for b, its in images.items() if BANDS[b].native == res}
        if here:
            groups[group(res)] = _masked(product, here, chunks, doubts)
    if doubts:
        warnings.warn(
            f"{product.name}: {'; '.join(doubts)} empty; left out.",
            S2SRWarning,
            stacklevel=2,
        )
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = attrs_of([item]) | {"source": "Theia", "product": product.name}
    return tree


# --- the product ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
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
        assets = {band: {"href": path} for band, path in self.images.items()}
        return Item(
            facts={"id": self.name, "properties": properties, "assets": assets},
            found_at="",
            time=self.time,
            bands={band: (band,) for band in self.images},
        )

    def asset(self, band: str, path: str) -> Asset:
        """Return an image or a mask, of which only the address is known."""
        href = self.files.href(path)
        return Asset(item_id=self.name, band=band, href=href, driver="GTiff")


def _files(path: object) -> Files:
    """Return the files among which a product is.

    Raises
    ------
    ReadError
        There is nothing, or something else.
    """
    text = str(path)
    if is_remote(text):
        raise ReadError(
            f"{without_query(text)} is a URL; Theia's products are opened from a local "
            "disk. Download it."
        )
    place = Path(text).absolute()
    if _METADATA.fullmatch(place.name) and place.is_file():
        place = place.parent
    if place.is_dir():
        return Directory(place)
    if not place.exists():
        raise ReadError(f"{text} does not exist. Check the path and its disk.")
    if place.suffix.lower() != ".zip":
        raise ReadError(
            f"{text} is a file; give the directory of a product, a .zip that holds "
            "one, or its _MTD_ALL.xml."
        )
    return Archive.open(place)


def _product(files: Files) -> _Product:
    """Return the one product that is there, its metadata read."""
    inside, folders = files.list("")
    # An archive holds the product's own folder.
    places = [("", inside), *((f, files.list(f)[0]) for f in folders)]
    found = [
        (p, n, m) for p, names in places for n in names if (m := _IMAGE.fullmatch(n))
    ]
    products = {(place, match["name"]) for place, _, match in found}
    if not products:
        raise _foreign(files, [*inside, *folders, *(n for _, ns in places for n in ns)])
    if len(products) > 1:
        raise ReadError(
            f"{files.show('')} holds several products: "
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
    return _Product(
        files=files,
        name=name,
        tile=flat[0][1]["tile"].upper(),
        images=dict(_bands(files, folder, flat)),
        masks=dict(_masks(files, folder)),
        time=time,
        radiometry=radiometry,
    )


def _foreign(files: Files, names: Sequence[str]) -> ReadError:
    """Return the error that says what lies there instead of a product."""
    shown = files.show("").rstrip("!/")
    for pattern, what, remedy in FOREIGN:
        if any(re.search(pattern, name) for name in (Path(shown).name, *names)):
            return ReadError(f"{shown} is {what}; {remedy}.")
    return ReadError(
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
        path = _join(folder, name)
        if band in seen:
            both = f"{files.show(seen[band])} and {files.show(path)}"
            raise ReadError(f"{both} both are {band}; remove one.", band=band)
        seen[band] = path
        yield band, path


def _masks(files: Files, folder: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield kinds and pixels of masks, and their files."""
    for name in files.list(folder)[1]:
        if name.upper() in {"MASK", "MASKS"}:
            inside = _join(folder, name)
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
    path = _join(folder, found[0])
    shown = files.show(path)
    root = parse(files.read(path), shown)
    if root.tag != "Muscate_Metadata_Document":
        raise ReadError(f"{shown} describes a {root.tag}, not a product of Theia.")
    look = Look(root, shown)
    special = {e.get("name"): e for e in root.iter("SPECIAL_VALUE")}
    nodata = number_of(special["nodata"], shown) if "nodata" in special else NODATA
    radiometry = Radiometry(
        scale=1 / look.number("REFLECTANCE_QUANTIFICATION_VALUE"),
        offset=0,
        nodata=int(nodata),
        source="MTD_ALL.xml",
    )
    seen = look.time("ACQUISITION_DATE")
    return (_moment(name["date"]) if seen is None else seen), radiometry


def _moment(date: str) -> np.datetime64:
    """Return the moment in a product's name.

    >>> _moment("20170706-090107-511")
    np.datetime64('2017-07-06T09:01:07.511000000')
    """
    day, clock, thousandths = date.split("-")
    text = f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}"
    return np.datetime64(f"{text}.{thousandths}", "ns")


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


# --- what is read ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Edged:
    """A band without the pixels that an edge mask marks."""

    band_source: BandSource
    """The band, of one time step."""

    edge: Asset
    """The mask, of the band's shape."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return token_parts("edged", 1, self.band_source, self.edge)

    @property
    def band(self) -> str:
        """ESA's identifier of the band."""
        return self.band_source.band

    @property
    def shape(self) -> tuple[int, int, int]:
        """One time step, rows and columns."""
        return self.band_source.shape

    def at(self, time: int) -> Self:
        """Return the source of the one time step."""
        return replace(self, band_source=self.band_source.at(time))

    def read(self, time: int, rows: slice, cols: slice) -> np.ndarray:
        """Return a window as float32 reflectance, NaN at no data and beyond the edge.

        Raises
        ------
        ReadError
            The pixels or the mask could not be read.
        GridError
            The mask is not on the pixels of the band.
        """
        reflectance = self.band_source.read(time, rows, cols)
        beyond = read_window(self.edge, rows, cols) & EDGE != 0
        np.copyto(reflectance, np.nan, where=beyond)
        return reflectance


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags(FlagSource):
    """Masks with one bit a band, as one image of flags."""

    flags: tuple[int, ...]
    """What each of the masks says with any bit."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return token_parts("bit-masks", 1, self.masks, self.flags)

    def read(self, time: int, rows: slice, cols: slice) -> np.ndarray:
        """Return a window as uint8: each flag where any bit of its mask is set.

        Raises
        ------
        ReadError
            A mask could not be read.
        GridError
            A mask is not on the pixels of its bands.
        """
        assert time in (0, -1)
        flags = np.zeros((rows.stop - rows.start, cols.stop - cols.start), np.uint8)
        for flag, mask in zip(self.flags, self.masks, strict=True):
            flags |= np.uint8(flag) * (read_window(mask, rows, cols) != 0)
        return flags


# --- images and masks -----------------------------------------------------------------


def _image(product: _Product, band: str) -> Image:
    """Return the image of a band with its place, from its header."""
    asset, grid = located(
        product.asset(band, product.images[band]), "Fetch the product again"
    )
    return Image(asset, grid, product.radiometry)


def _masked(
    product: _Product,
    images: Mapping[str, Sequence[Image]],
    chunks: int | None,
    doubts: list[str],
) -> xr.Dataset:
    """Return the bands of one pixel size, without what lies beyond the edge."""
    (first,) = next(iter(images.values()))
    chunk = None if chunks is None else chunks * 10 // int(first.grid.res)
    edge = _mask(product, "EDG", first, doubts)
    ds = group_of([product.item], images, chunks)
    if edge is not None:
        for band, (image,) in images.items():
            bare = BandSource(assets=(image.asset,), radiometry=(image.radiometry,))
            source = Edged(band_source=bare, edge=edge)
            ds[band] = _variable(source, chunk, ds[band].attrs)
    found = {flag: _mask(product, kind, first, doubts) for kind, flag in MASKS.items()}
    if found[SATURATED]:
        there = {flag: mask for flag, mask in found.items() if mask}
        told = Flags(masks=tuple(there.values()), flags=tuple(there))
        ds["flags"] = _variable(told, chunk, _FLAGS)
    return ds


_FLAGS = {
    "long_name": "what the product's masks say, in any band of these pixels",
    "flag_masks": [SATURATED, DEFECT],
    "flag_meanings": "saturated product_defect",
}


def _variable(
    source: Source, chunk: int | None, attrs: Mapping[Any, Any]
) -> xr.Variable:
    variable = as_variable(source, chunk, attrs)
    variable.encoding["grid_mapping"] = "spatial_ref"
    return variable


def _mask(product: _Product, kind: str, like: Image, doubts: list[str]) -> Asset | None:
    """Return a mask on the pixels of an image, None where the product has none."""
    name = f"{kind}_{GROUPS[int(like.grid.res)]}"
    path = product.masks.get((kind, name.rpartition("_")[2]))
    if path is None:
        return None
    if not product.files.size(path):
        doubts.append(f"the mask {name} is")
        return None
    # The shape tells that it is on these pixels.
    return replace(product.asset(name, path), shape=like.asset.shape)
