"""What items of real catalogues say, and what that means: the golden table.

`LAYOUTS` are small items written anew in the way of each catalogue, over images of one
small scene. `REAL` lists items of the catalogues themselves, read by people: where they
lie, and which offset their counts need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import rasterio

from s2sr_xr.core.bands import BANDS

if TYPE_CHECKING:
    from collections.abc import Callable

CORNER = (600_000.0, 8_200_000.0)  # y % 60 == 40, as half of all tiles
EPSG = 32722
SIZE = 72  # ten-metre pixels: 36 of 20 m, 12 of 60 m
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
JP2 = "image/jp2"
LEVEL_2A = [b for b in BANDS if b != "B10"]
NAME = "S2A_MSIL2A_20240501T101559_N0510_R065_T32TMS_20240501T153000"


# --- one small scene ------------------------------------------------------------------


def pixels(band, *, seed=0, metres=None):
    """Return counts of one band; the first row has no data."""
    n = SIZE * 10 // (metres or BANDS[band].native)
    rng = np.random.default_rng([seed, *band.encode()])
    counts = rng.integers(1, 9000, (n, n)).astype(np.uint16)
    counts[0] = 0
    return counts


def classes():
    """Return a scene classification with all its codes."""
    codes = np.random.default_rng(11).integers(0, 12, (SIZE // 2, SIZE // 2))
    return codes.astype(np.uint8)


def reflectance(band, offset=-1000, **of):
    """Return what `pixels` mean."""
    counts = pixels(band, **of)
    decoded = (counts.astype(np.float32) + np.float32(offset)) / np.float32(10_000)
    return np.where(counts == 0, np.float32("nan"), decoded)


def write_band(path, counts, metres, *, corner=CORNER, epsg=EPSG):
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = {".tif": "COG", ".jp2": "JP2OpenJPEG"}[path.suffix]
    lossless = {"REVERSIBLE": "YES", "QUALITY": "100"} if driver != "COG" else {}
    with rasterio.open(
        path,
        "w",
        driver=driver,
        height=counts.shape[0],
        width=counts.shape[1],
        count=1,
        dtype=counts.dtype,
        crs=epsg and f"EPSG:{epsg}",
        transform=rasterio.transform.from_origin(*corner, metres, metres),
        **lossless,
    ) as dataset:
        dataset.write(counts, 1)


def write_scene(folder):
    """Write every band and the scene classification, as GeoTIFF and JPEG 2000."""
    for suffix in ("tif", "jp2"):
        for band in BANDS:
            write_band(folder / f"{band}.{suffix}", pixels(band), BANDS[band].native)
        write_band(folder / f"SCL.{suffix}", classes(), 20)
    return folder


def proj(metres, corner=CORNER, size=SIZE):
    n = size * 10 // metres
    transform = [float(metres), 0.0, corner[0], 0.0, -float(metres), corner[1]]
    return {"proj:shape": [n, n], "proj:transform": transform}


def feature(name, assets, **properties):
    return {
        "type": "Feature",
        "stac_version": properties.pop("stac_version", "1.0.0"),
        "stac_extensions": [],
        "id": name,
        "collection": properties.pop("collection", None),
        "geometry": None,
        "bbox": None,
        "properties": {"datetime": "2024-05-01T10:15:59.024Z", **properties},
        "links": properties.pop("links", []),
        "assets": assets,
    }


# --- layouts of catalogues ------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to write an item."""

    make: Callable  # (folder, bands) -> the item's JSON
    offset: int  # what its counts need
    level: str = "L2A"
    doubtful: bool = False  # whether it warns
    masks: bool = True  # whether it has a scene classification


def _planetary_computer(baseline):
    def make(folder, bands):
        assets = {
            b: {
                "href": f"{folder}/{b}.tif",
                "type": COG,
                "roles": ["data"],
                "gsd": float(BANDS[b].native),
                "eo:bands": [{"name": b, "common_name": BANDS[b].common}],
                **proj(BANDS[b].native),
            }
            for b in bands
        }
        assets["SCL"] = {"href": f"{folder}/SCL.tif", "type": COG, **proj(20)}
        assets["visual"] = {"href": f"{folder}/TCI.tif", "type": COG, **proj(10)}
        assets["visual"]["eo:bands"] = [{"name": b} for b in ("B04", "B03", "B02")]
        return feature(
            f"S2A_MSIL2A_20240501T101559_R065_T22KGV_{baseline}",
            assets,
            collection="sentinel-2-l2a",
            platform="Sentinel-2A",
            **{
                "proj:epsg": EPSG,
                "s2:mgrs_tile": "22KGV",
                "s2:product_type": "S2MSI2A",
                "s2:processing_baseline": baseline,
            },
        )

    return make


def _earth_search(collection, baseline, offset, **more):
    level = "L1C" if collection.endswith("l1c") else "L2A"
    suffix, kind = ("jp2", JP2) if level == "L1C" else ("tif", COG)

    def make(folder, bands):
        assets = {
            BANDS[b].common: {
                "href": f"{folder}/{b}.{suffix}",
                "type": kind,
                "roles": ["data", "reflectance"],
                "eo:bands": [{"name": b, "common_name": "rededge"}],
                "raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": offset}],
                **proj(BANDS[b].native),
            }
            for b in bands
        }
        if level == "L2A":
            assets["scl"] = {"href": f"{folder}/SCL.tif", "type": COG, **proj(20)}
        if collection == "sentinel-2-l2a":
            # Beside the COGs, ESA's own files in a bucket that costs its reader.
            assets |= {
                f"{key}-jp2": {
                    **asset,
                    "href": f"s3://sentinel-s2-l2a/{key}.jp2",
                    "type": JP2,
                }
                for key, asset in assets.items()
            }
        return feature(
            f"S2A_T22KGV_20240501T101559_{level}_{baseline}",
            assets,
            collection=collection,
            platform="sentinel-2a",
            **{
                "proj:epsg": EPSG,
                "grid:code": "MGRS-22KGV",
                "s2:processing_baseline": baseline,
                **more,
            },
        )

    return make


def _earth_search_v0(product, **more):
    def make(folder, bands):
        assets = {
            b: {
                "href": f"{folder}/{b}.tif",
                "type": COG,
                "title": f"Band {b}",
                **proj(BANDS[b].native),
            }
            for b in (*bands, "SCL")
            if b in BANDS
        }
        assets["SCL"] = {"href": f"{folder}/SCL.tif", "type": COG, **proj(20)}
        for asset in assets.values():
            asset["proj:transform"] += [0.0, 0.0, 1.0]
        return feature(
            f"S2A_22KGV_{product[11:19]}_0_L2A",
            assets,
            stac_version="1.0.0-beta.2",
            collection="sentinel-s2-l2a-cogs",
            platform="sentinel-2a",
            **{"proj:epsg": EPSG, "sentinel:product_id": product, **more},
        )

    return make


def _cdse(folder, bands):
    def asset(band, metres, role):
        href = f"s3://eodata/S2/{band}_{metres}m.jp2"
        return {
            "href": href,
            "type": JP2,
            "gsd": metres,
            "roles": ["data", "reflectance", f"sampling:{role}", f"gsd:{metres}m"],
            "bands": [{"name": band, "eo:common_name": BANDS[band].common}],
            "nodata": 0,
            "data_type": "uint16",
            "raster:scale": 0.0001,
            "raster:offset": -0.1,
            "proj:code": f"EPSG:{EPSG}",
            "alternate": {
                "https": {"href": f"{folder}/{band}.jp2", "alternate:name": "HTTPS"}
            },
            **proj(metres),
        }

    assets = {}
    for band in bands:
        native = BANDS[band].native
        for metres in (10, 20, 60):
            if metres >= native:
                role = "original" if metres == native else "downsampled"
                assets[f"{band}_{metres}m"] = asset(band, metres, role)
    # As it stands in the catalogue: a copy with the transform of the native band.
    if "B07" in bands:
        assets["B07_60m"]["proj:transform"] = proj(20)["proj:transform"]
    scl = asset("B05", 20, "original") | {"bands": []}
    scl["alternate"] = {"https": {"href": f"{folder}/SCL.jp2"}}
    assets["SCL_20m"] = {k: v for k, v in scl.items() if "raster:" not in k}
    assets["Product"] = {"href": "s3://eodata/S2", "type": "application/zip"}
    return feature(
        "S2B_MSIL2A_20240501T101559_N0500_R135_T22KGV_20230612T214223",
        assets,
        stac_version="1.1.0",
        collection="sentinel-2-l2a",
        platform="sentinel-2b",
        **{"product:type": "S2MSI2A", "processing:version": "05.00"},
    )


def _stactools(folder, bands):
    assets = {}
    for band in bands:
        common = BANDS[band].common
        for metres in (10, 20, 60):
            if metres < BANDS[band].native:
                continue
            own = metres == BANDS[band].native
            assets[common if own else f"{common}_{metres}m"] = {
                "href": f"{folder}/{band}.jp2",
                "type": JP2,
                "gsd": metres,
                "roles": ["data", "reflectance"],
                "eo:bands": [{"name": band, "common_name": common}],
                "raster:bands": [{"nodata": 0, "offset": -0.1, "scale": 0.0001}],
                **proj(metres),
            }
    assets["scl"] = {"href": f"{folder}/SCL.jp2", "type": JP2, **proj(20)}
    return feature(
        "S2A_OPER_MSI_L2A_TL_2APS_20240501T101559_A044635_T22KGV",
        assets,
        stac_version="1.1.0",
        platform="sentinel-2a",
        **{
            "proj:code": f"EPSG:{EPSG}",
            "grid:code": "MGRS-22KGV",
            "s2:product_type": "S2MSI2A",
            "s2:processing_baseline": "05.10",
        },
    )


def _bare(folder, bands):
    """Return an item without a projection: the headers say it."""
    assets = {
        b: {
            "href": f"{folder}/{b}.jp2",
            "type": JP2,
            "roles": ["data", "reflectance"],
            "eo:bands": [{"name": "rededge70", "common_name": "rededge"}],
            "raster:bands": [{"nodata": 0.0, "spatial_resolution": 10.0}],
        }
        for b in bands
    }
    name = "S2A_MSIL1C_20240501T101559_N0209_R134_T22KGV_20240501T153000"
    return feature(name, assets, stac_version="1.1.0", platform="sentinel-2a")


def _boxed(folder, bands):
    """Return an item with a shape and a box, CRS with each asset."""
    item = _stactools(folder, bands)
    for asset in item["assets"].values():
        rows, cols = asset["proj:shape"]
        res, _, west, _, _, north, *_ = asset.pop("proj:transform")
        box = [west, north - rows * res, west + cols * res, north]
        asset |= {"proj:bbox": box, "proj:epsg": EPSG}
    del item["properties"]["proj:code"]
    return item


OLD = "S2A_MSIL2A_20200714T115221_N0214_R123_T22KGV_20200714T191310"
NEW = "S2A_MSIL2A_20240501T101559_N0510_R065_T22KGV_20240501T153000"
V0 = {"sentinel:processing_baseline": "05.10"}

LAYOUTS = {
    "planetary computer, old": Layout(make=_planetary_computer("02.12"), offset=0),
    "planetary computer, new": Layout(make=_planetary_computer("05.11"), offset=-1000),
    "earth search, c1": Layout(
        make=_earth_search("sentinel-2-c1-l2a", "05.11", -0.1), offset=-1000
    ),
    "earth search, l2a": Layout(
        make=_earth_search(
            "sentinel-2-l2a", "05.09", -0.1, **{"earthsearch:boa_offset_applied": True}
        ),
        offset=0,
        doubtful=True,
    ),
    "earth search, l2a, old": Layout(
        make=_earth_search(
            "sentinel-2-l2a", "02.14", 0, **{"earthsearch:payload_id": "x"}
        ),
        offset=0,
    ),
    "earth search, l1c": Layout(
        make=_earth_search("sentinel-2-l1c", "05.10", -0.1),
        offset=-1000,
        level="L1C",
        masks=False,
    ),
    "earth search v0, old": Layout(make=_earth_search_v0(OLD), offset=0),
    "earth search v0, applied": Layout(
        make=_earth_search_v0(NEW, **V0, **{"sentinel:boa_offset_applied": True}),
        offset=0,
    ),
    "earth search v0, silent": Layout(
        make=_earth_search_v0(NEW, **V0), offset=0, doubtful=True
    ),
    "cdse": Layout(make=_cdse, offset=-1000),
    "stactools": Layout(make=_stactools, offset=-1000),
    "no projection": Layout(make=_bare, offset=0, level="L1C", masks=False),
    "boxes": Layout(make=_boxed, offset=-1000),
}


# --- items of the catalogues themselves -----------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Golden:
    """What one real item says, as a person reads it."""

    folder: str
    name: str  # of the file, or of the item in a collection
    tile: str
    epsg: int | None  # None where the item does not say
    corner: tuple[int, int] | None  # upper left, in metres
    offset: int | None  # of every band; None where pixels are not read here
    fault: str = ""  # what opening it says


def _rows(folder, *rows, fault=""):
    return [
        Golden(
            folder=folder,
            name=name,
            tile=tile,
            epsg=epsg,
            corner=corner,
            offset=offset,
            fault=fault,
        )
        for name, tile, epsg, corner, offset in rows
    ]


STRIP = "site1-20200606-tall-strip-africa.json"
"""A collection of nine tiles, one below the other."""

REAL = [
    *_rows(
        "cdse_l2a",
        (
            "S2B_MSIL2A_20200322T074609_N0500_R135_T36NYH_20230612T214223",
            "36NYH",
            32636,
            (699960, 300000),
            -1000,
        ),
    ),
    *_rows(
        "earth_search_v0_l2a",
        ("S2A_28QCH_20200714_0_L2A", "28QCH", 32628, (300000, 2300040), 0),
        ("S2B_20EPT_20250731_0_L2A", "20EPT", 32720, (600000, 3300040), 0),
    ),
    *_rows(
        "earth_search_v1_c1_l2a",
        ("S2B_T20EPT_20250731T131905_L2A", "20EPT", 32720, (600000, 3300040), -1000),
        ("S2B_T24MUV_20250731T130245_L2A", "24MUV", 32724, (300000, 9500020), -1000),
        ("S2B_T24MWV_20250731T130245_L2A", "24MWV", 32724, (499980, 9500020), -1000),
    ),
    *_rows(
        "earth_search_v1_l1c",
        ("S2B_20EPT_20250731_0_L1C", "20EPT", 32720, (600000, 3300040), -1000),
        ("S2B_24MVV_20250731_0_L1C", "24MVV", 32724, (399960, 9500020), -1000),
        ("S2B_24MXV_20250731_0_L1C", "24MXV", 32724, (600000, 9500020), -1000),
        ("S2B_27VWK_20240206_0_L1C", "27VWK", 32627, (499980, 7000020), -1000),
        fault="bucket sentinel-s2-l1c, which is requester-pays",
    ),
    *_rows(
        "earth_search_v1_l2a",
        ("S2A_13TDE_20231008_0_L2A", "13TDE", 32613, (399960, 4500000), 0),
        ("S2A_29RKH_20200219_0_L2A", "29RKH", 32629, (199980, 2800020), 0),
        ("S2B_24MUA_20250731_0_L2A", "24MUA", 32724, (300000, 9600040), 0),
        ("S2B_24MVV_20250731_0_L2A", "24MVV", 32724, (399960, 9500020), 0),
        ("S2B_24MXV_20250731_0_L2A", "24MXV", 32724, (600000, 9500020), 0),
    ),
    *_rows(
        "eopf_l2a",
        *(
            (f"S2{name}", name.split("_T")[1][:5], None, None, None)
            for name in (
                "A_MSIL2A_20250503T103701_N0511_R008_T31TGL_20250503T173316",
                "A_MSIL2A_20250513T104041_N0511_R008_T32TLS_20250513T143716",
                "B_MSIL2A_20250506T103629_N0511_R008_T31TFN_20250506T115207",
                "B_MSIL2A_20250513T102559_N0511_R108_T32TLS_20250513T132211",
                "C_MSIL2A_20250501T104041_N0511_R008_T31TGM_20250501T161558",
                "C_MSIL2A_20260321T101721_N0512_R065_T32UPE_20260321T155809",
            )
        ),
        fault="vnd.zarr.*open_eopf",
    ),
    *_rows(
        "misc_old",
        ("S2B_33SVB_20210221_0_L2A", "33SVB", 32633, (399960, 4200000), 0),
    ),
    *_rows(
        "misc_old",  # no projection: the header is asked, and is not there
        (
            "S2A_MSIL1C_20200615T060641_N0209_R134_T45WWS_20200615T080720",
            "45WWS",
            None,
            None,
            0,
        ),
        fault="header: file not found",
    ),
    *_rows(
        "planetary_computer_l2a",
        *(
            (f"S2{name}", name.split("_T")[1][:5], epsg, corner, 0)
            for name, epsg, corner in (
                (
                    "A_MSIL2A_20190101T000001_R116_T58UFE_20201007T214651",
                    32658,
                    (600000, 6000000),
                ),
                (
                    "A_MSIL2A_20190101T000001_R116_T59UMA_20201007T214658",
                    32659,
                    (399960, 6100020),
                ),
                (
                    "A_MSIL2A_20190101T000001_R116_T59VLE_20201007T214654",
                    32659,
                    (300000, 6500040),
                ),
                (
                    "A_MSIL2A_20190101T000001_R116_T59VNF_20201007T214654",
                    32659,
                    (499980, 6600000),
                ),
                (
                    "A_MSIL2A_20190101T000001_R116_T60VUK_20201007T214652",
                    32660,
                    (300000, 6500040),
                ),
                (
                    "B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531",
                    32606,
                    (399960, 6800040),
                ),
                (
                    "B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531_raster_ext",
                    32606,
                    (399960, 6800040),
                ),
            )
        ),
    ),
    *_rows(
        f"planetary_computer_l2a/{STRIP}",
        *(
            (
                f"S2B_MSIL2A_20200606T080609_R078_T{tile}",
                tile,
                32735,
                (499980, north),
                0,
            )
            for tile, north in (
                ("35MNM", 9200020),
                ("35LNL", 9100000),
                ("35LNK", 9000040),
                ("35LNJ", 8900020),
                ("35LNH", 8800000),
                ("35LNG", 8700040),
                ("35LNF", 8600020),
                ("35LNE", 8500000),
                ("35LND", 8400040),
            )
        ),
    ),
    *_rows(
        "stactools",
        (
            "S2A_MSIL1C_20200717T221941_R029_T01LAC_20200717T234135",
            "01LAC",
            32701,
            (99960, 8300020),
            0,
        ),
        (
            "S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857",
            "07HFE",
            32707,
            (600000, 6500020),
            0,
        ),
        (
            "S2A_MSIL2A_20230625T234621_N0509_R073_T01WCP_20230626T022157",
            "01WCP",
            32601,
            (300000, 7400040),
            -1000,
        ),
        (
            "S2A_MSIL2A_20230625T234621_N0509_R073_T01WCS_20230626T022157",
            "01WCS",
            32601,
            (300000, 7700040),
            -1000,
        ),
        (
            "S2A_MSIL2A_20230821T221941_N0509_R029_T01KAB_20230822T021825",
            "01KAB",
            32701,
            (99960, 8200000),
            -1000,
        ),
        (
            "S2A_OPER_MSI_L1C_TL_SGS__20181231T203637_A018414_T10SDG",
            "10SDG",
            32610,
            (399960, 4200000),
            0,
        ),
        (
            "S2A_OPER_MSI_L2A_TL_2APS_20240108T121951_A044635_T34VEL",
            "34VEL",
            32634,
            (499980, 6600000),
            -1000,
        ),
        (
            "S2A_OPER_MSI_L2A_TL_SGS__20181231T210250_A018414_T10SDG",
            "10SDG",
            32610,
            (399960, 4200000),
            0,
        ),
        (
            # An offset of its own, as its metadata have it.
            "S2A_OPER_MSI_L2A_TL_VGS1_20220401T110010_A035382_T34LBQ",
            "34LBQ",
            32734,
            (199980, 8900020),
            -7000,
        ),
        (
            "S2B_MSIL2A_20200914T231559_N0500_R087_T01VCG_20230315T224658",
            "01VCG",
            32601,
            (300000, 6700020),
            -1000,
        ),
        (
            "esa_S2B_MSIL2A_20210122T133229_N0214_R081_T22HBD_20210122T155500",
            "22HBD",
            32722,
            (199980, 5900020),
            0,
        ),
    ),
]
