"""Small SAFE products on disk: the structure of the real ones, pixels of our own."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio

from s2sr_xr.core.bands import BANDS

SIZE = 72  # ten-metre pixels: 36 of 20 m, 12 of 60 m
CORNER = (600_000, 8_200_000)  # y % 60 == 40, as half of all tiles
EPSG = 32722
BAND_IDS = {str(n): band for n, band in enumerate(BANDS)}
CLASSES = ("SC_NODATA", "SC_SATURATED_DEFECTIVE", "SC_DARK_FEATURE_SHADOW")
TAGS = {"L1C": "RADIO_ADD_OFFSET", "L2A": "BOA_ADD_OFFSET"}


def by_default(level, baseline):
    """Return the offsets that ESA's products of a baseline have."""
    added = -1000 if baseline >= "04" else None
    return {} if added is None else dict.fromkeys(BANDS, added)


@dataclass(kw_only=True)
class Made:
    """A product that was written, and what it holds."""

    path: Path
    level: str
    granules: list[Path]
    offsets: dict[str, int]
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    layers: dict[str, np.ndarray] = field(default_factory=dict)
    classes: np.ndarray | None = None

    @property
    def metadata(self):
        return next(p for p in self.path.iterdir() if p.suffix == ".xml")

    @property
    def tile_metadata(self):
        return next(p for p in self.granules[0].iterdir() if p.suffix == ".xml")

    def image(self, band):
        """Return the file of a band's native image."""
        found = [
            p
            for p in self.granules[0].glob("IMG_DATA/**/*")
            if f"_{band}" in p.name
            and (self.level == "L1C" or f"_{BANDS[band].native}m" in p.name)
        ]
        assert len(found) == 1
        return found[0]

    def reflectance(self, band):
        """Return what a reader should give, from the counts that were written."""
        counts = self.counts[band].astype("f8")
        offset = self.offsets.get(band, 0)
        return np.where(counts == 0, np.nan, (counts + offset) / 10_000).astype("f4")


def make(
    folder,
    *,
    level="L1C",
    baseline="05.09",
    unit="B",
    tiles=("32TMS",),
    kind="jp2",
    old=False,
    bands=None,
    offsets=None,
    band_ids=None,
    masks=None,
    seed=0,
):
    """Write a product and return what it holds."""
    offsets = by_default(level, baseline) if offsets is None else offsets
    masks = baseline >= "04" if masks is None else masks
    name = f"S2{unit}_MSI{level}_20240501T101559_N{baseline.replace('.', '')}_R065"
    name += f"_T{tiles[0]}_20240501T153000"
    if old:
        name = f"S2{unit}_OPER_PRD_MSI{level}_PDMC_20160501T153000_R065"
    root = Path(folder) / f"{name}.SAFE"
    root.mkdir(parents=True)
    made = Made(path=root, level=level, granules=[], offsets=offsets)
    ids = band_ids or BAND_IDS
    title = f"S2{unit}_OPER_MTD_SAF{level}_PDMC.xml" if old else f"MTD_MSI{level}.xml"
    xml = product_xml(level, baseline, unit, "" if old else name, offsets, ids)
    (root / title).write_text(xml)
    for n, tile in enumerate(tiles):
        write_granule(made, tile, n, baseline, kind, old, bands, masks, seed)
    return made


def write_granule(made, tile, n, baseline, kind, old, bands, masks, seed):
    level = made.level
    name = f"{level}_T{tile}_A012345_20240501T102000"
    if old:
        name = f"S2A_OPER_MSI_{level}_TL_SGS__20160501T153000_A0_T{tile}_N02.04"
    granule = made.path / "GRANULE" / name
    (granule / "QI_DATA").mkdir(parents=True)
    made.granules.append(granule)
    corner = (CORNER[0] + 100_000 * n, CORNER[1])
    title = f"S2A_OPER_MTD_{level}_TL_SGS__T{tile}.xml" if old else "MTD_TL.xml"
    (granule / title).write_text(tile_xml(level, tile, baseline, corner))
    stem = name.rpartition("_N")[0] if old else f"T{tile}_20240501T101559"
    images = granule / "IMG_DATA"
    for band in bands or [b for b in BANDS if level == "L1C" or b != "B10"]:
        res = BANDS[band].native
        counts = pixels(band, res, seed)
        made.counts.setdefault(band, counts)
        at = images / f"R{res}m" if level == "L2A" else images
        suffix = f"_{res}m" if level == "L2A" else ""
        write(at / f"{stem}_{band}{suffix}.{kind}", counts, res, corner)
        if level == "L2A" and res < 60:
            at = images / "R60m" / f"{stem}_{band}_60m.{kind}"
            write(at, counts[:: 60 // res, :: 60 // res], 60, corner)
        if masks:
            layers = np.random.default_rng([seed, *band.encode()]).random(
                (8, *counts.shape)
            )
            made.layers[band] = (layers < 0.02).astype("u1")
            at = granule / "QI_DATA" / f"MSK_QUALIT_{band}.{kind}"
            write(at, made.layers[band], res, corner)
    if level == "L2A":
        made.classes = (pixels("SCL", 20, seed) % len(CLASSES)).astype("u1")
        write(images / "R20m" / f"{stem}_SCL_20m.{kind}", made.classes, 20, corner)


def pixels(band, res, seed=0):
    """Return counts of one band, few of them negative; the first row has no data."""
    n = SIZE * 10 // res
    counts = np.random.default_rng([seed, *band.encode()]).integers(850, 9000, (n, n))
    counts[0] = 0
    return counts.astype("u2")


def write(path, counts, res, corner):
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = counts if counts.ndim == 3 else counts[None]
    lossless = {"REVERSIBLE": "YES", "QUALITY": "100"} if path.suffix == ".jp2" else {}
    with rasterio.open(
        path,
        "w",
        driver="JP2OpenJPEG" if path.suffix == ".jp2" else "GTiff",
        count=layers.shape[0],
        height=layers.shape[1],
        width=layers.shape[2],
        dtype=layers.dtype.name,
        crs=f"EPSG:{EPSG}",
        transform=rasterio.transform.from_origin(*corner, res, res),
        **lossless,
    ) as dataset:
        dataset.write(layers)


def packed(made, folder, *, compression=zipfile.ZIP_DEFLATED):
    """Return a zip of a product, with the product's folder inside."""
    path = Path(folder) / f"{made.path.stem}.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(made.path.rglob("*")):
            archive.write(file, file.relative_to(made.path.parent))
    return path


def product_xml(level, baseline, unit, name, offsets, ids):
    number = {band: n for n, band in ids.items()}
    table = "".join(
        f'<Spectral_Information bandId="{n}" physicalBand="B{band[1:].lstrip("0")}">'
        f"<RESOLUTION>{BANDS[band].native}</RESOLUTION></Spectral_Information>"
        for n, band in ids.items()
    )
    added = "".join(
        f'<{TAGS[level]} band_id="{number[band]}">{offset}</{TAGS[level]}>'
        for band, offset in offsets.items()
    )
    many = "BOA_QUANTIFICATION_VALUE" if level == "L2A" else "QUANTIFICATION_VALUE"
    special = "".join(
        f"<Special_Values><SPECIAL_VALUE_TEXT>{text}</SPECIAL_VALUE_TEXT>"
        f"<SPECIAL_VALUE_INDEX>{code}</SPECIAL_VALUE_INDEX></Special_Values>"
        for text, code in (("NODATA", 0), ("SATURATED", 65535))
    )
    classes = "".join(
        f"<Scene_Classification_ID><SCENE_CLASSIFICATION_TEXT>{text}"
        f"</SCENE_CLASSIFICATION_TEXT><SCENE_CLASSIFICATION_INDEX>{code}"
        "</SCENE_CLASSIFICATION_INDEX></Scene_Classification_ID>"
        for code, text in enumerate(CLASSES if level == "L2A" else ())
    )
    kind = f"Level-{level[1:]}_User_Product"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:{kind} xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product.xsd">
<n1:General_Info><Product_Info>
<PRODUCT_START_TIME>2024-05-01T10:15:59.024Z</PRODUCT_START_TIME>
<PRODUCT_URI>{name and name + ".SAFE"}</PRODUCT_URI>
<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
<GENERATION_TIME>2024-05-01T15:30:00.000000Z</GENERATION_TIME>
<Datatake datatakeIdentifier="GS2{unit}_20240501T101559_012345_N{baseline}">
<SPACECRAFT_NAME>Sentinel-2{unit}</SPACECRAFT_NAME>
<SENSING_ORBIT_NUMBER>65</SENSING_ORBIT_NUMBER>
<SENSING_ORBIT_DIRECTION>DESCENDING</SENSING_ORBIT_DIRECTION></Datatake>
</Product_Info><Product_Image_Characteristics>{special}
<{many} unit="none">10000</{many}>{added}
<Spectral_Information_List>{table}</Spectral_Information_List>
</Product_Image_Characteristics></n1:General_Info>{classes}</n1:{kind}>
"""


def tile_xml(level, tile, baseline, corner=CORNER):
    grids = "".join(
        f'<Size resolution="{res}"><NROWS>{SIZE * 10 // res}</NROWS>'
        f"<NCOLS>{SIZE * 10 // res}</NCOLS></Size>"
        f'<Geoposition resolution="{res}"><ULX>{corner[0]}</ULX><ULY>{corner[1]}</ULY>'
        f"<XDIM>{res}</XDIM><YDIM>-{res}</YDIM></Geoposition>"
        for res in (10, 20, 60)
    )
    views = "".join(
        f'<Mean_Viewing_Incidence_Angle bandId="{n}"><ZENITH_ANGLE>{n}.5</ZENITH_ANGLE>'
        "<AZIMUTH_ANGLE>104</AZIMUTH_ANGLE></Mean_Viewing_Incidence_Angle>"
        for n in BAND_IDS
    )
    kind = f"Level-{level[1:]}_Tile_ID"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:{kind} xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Tile_Metadata.xsd">
<n1:General_Info>
<TILE_ID>S2A_OPER_MSI_{level}_TL_2APS_20240501T153000_A0_T{tile}_N{baseline}</TILE_ID>
<SENSING_TIME>2024-05-01T10:20:00.000000Z</SENSING_TIME></n1:General_Info>
<n1:Geometric_Info><Tile_Geocoding>
<HORIZONTAL_CS_CODE>EPSG:{EPSG}</HORIZONTAL_CS_CODE>{grids}</Tile_Geocoding>
<Tile_Angles><Mean_Sun_Angle><ZENITH_ANGLE unit="deg">41.5</ZENITH_ANGLE>
<AZIMUTH_ANGLE unit="deg">150.25</AZIMUTH_ANGLE></Mean_Sun_Angle>{views}</Tile_Angles>
</n1:Geometric_Info></n1:{kind}>
"""
