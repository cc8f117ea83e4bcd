"""A SAFE product opens as its own metadata say, and as what it holds."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers .rio
import safes
import xarray as xr
from dask.base import tokenize

import s2sr_xr
from s2sr_xr.core.bands import BANDS, by_resolution, group
from s2sr_xr.errors import (
    ChunkError,
    GridError,
    MissingBandError,
    RadiometryError,
    ReadError,
    S2SRWarning,
)
from s2sr_xr.readers.fetch.address import refusal, zip_member
from s2sr_xr.readers.fetch.asset import Asset
from s2sr_xr.readers.fetch.source import source_of
from s2sr_xr.readers.fetch.window import read_window
from s2sr_xr.readers.safe import metadata as _safe_xml
from s2sr_xr.readers.safe.open import open_safe
from s2sr_xr.readers.safe.xml import MOST_BYTES, MOST_ELEMENTS
from s2sr_xr.readers.stac.open import open_stac

DATA = Path(__file__).parents[3] / "shared" / "data"
REAL = DATA / "safe_metadata"
without_data = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real products' metadata are not here"
)

L1C = [b for b in BANDS if b != "B10"]


@pytest.fixture(scope="module")
def l1c(tmp_path_factory):
    return safes.make(tmp_path_factory.mktemp("l1c"))


@pytest.fixture(scope="module")
def l2a(tmp_path_factory):
    return safes.make(tmp_path_factory.mktemp("l2a"), level="L2A", unit="C", seed=1)


@pytest.fixture
def copy(l2a, tmp_path):
    """Return a product whose files a test may change."""
    path = tmp_path / l2a.path.name
    shutil.copytree(l2a.path, path)
    granule = path / "GRANULE" / l2a.granules[0].name
    return safes.Made(
        path=path,
        level="L2A",
        granules=[granule],
        offsets=l2a.offsets,
        counts=l2a.counts,
    )


def bands_of(tree):
    return {v for ds in tree.children.values() for v in ds.data_vars if v in BANDS}


def band_of(tree, band):
    return tree[group(BANDS[band].native)][band]


# --- pixels ---------------------------------------------------------------------------


@pytest.mark.parametrize("packing", [None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "how",
    [
        {"level": "L1C", "baseline": "02.06", "unit": "A"},
        {"level": "L1C", "baseline": "02.04", "unit": "A", "old": True},
        {"level": "L1C", "baseline": "05.12", "unit": "D", "kind": "tif"},
        {"level": "L2A", "baseline": "02.14", "unit": "B"},
        {"level": "L2A", "baseline": "04.00", "unit": "C"},
        {"level": "L2A", "baseline": "02.05", "old": True, "kind": "tif"},
    ],
    ids=lambda how: f"{how['level']}-{how['baseline']}-{how.get('kind', 'jp2')}",
)
def test_pixels_are_those_that_were_written(how, packing, tmp_path):
    made = safes.make(tmp_path, **how)
    path = (
        made.path if packing is None else safes.packed(made, tmp_path, **_as(packing))
    )
    tree = open_safe(path, chunks=36)
    assert bands_of(tree) == set(made.counts) - {"B10"}
    for band in bands_of(tree):
        array = band_of(tree, band)
        assert array.dims == ("time", "y", "x")
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array.values[0], made.reflectance(band))
    assert tree.attrs["level"] == how["level"]
    assert tree.attrs["processing_baseline"] == how["baseline"]


def _as(compression):
    return {"compression": compression}


def test_a_tree_is_the_one_that_open_stac_returns(l2a):
    """Everything but the text of attributes: coordinates, encodings, chunks, pixels."""
    tree = open_safe(l2a.path, chunks=36)
    item = open_stac(_item_of(l2a, tree), chunks=36)
    assert set(tree.children) == set(item.children)
    for name, ours in tree.children.items():
        ds = ours.to_dataset().drop_vars(["flags", "SCL"], errors="ignore")
        xr.testing.assert_equal(ds, item[name].to_dataset())
        assert list(ds.data_vars) == list(item[name].data_vars)
        assert ds.chunks == item[name].to_dataset().chunks
        for key, variable in ds.variables.items():
            other = item[name].variables[key]
            assert variable.dtype == other.dtype
            assert variable.encoding == other.encoding
            same = {k: v for k, v in variable.attrs.items() if k in other.attrs}
            assert same | {"radiometry": 0} == other.attrs | {"radiometry": 0}
    assert tree.attrs.items() >= (item.attrs | {"source": "SAFE"}).items()


def _item_of(made, tree):
    """Return the STAC item that a catalogue would make of a product."""
    assets = {
        band: {
            "href": str(made.image(band)),
            "type": "image/jp2",
            "proj:shape": list(band_of(tree, band).shape[1:]),
            "proj:transform": [res, 0, safes.CORNER[0], 0, -res, safes.CORNER[1]],
        }
        for res in (10, 20, 60)
        for band in set(by_resolution(res)) & set(made.counts)
    }
    return {
        "type": "Feature",
        "id": tree.attrs["product"],
        "properties": {
            "datetime": "2024-05-01T10:15:59.024Z",
            "platform": "sentinel-2c",
            "proj:code": f"EPSG:{safes.EPSG}",
            "s2:processing_baseline": "05.09",
            "s2:mgrs_tile": "32TMS",
        },
        "assets": assets,
    }


def test_an_offset_belongs_to_the_band_that_the_products_own_table_names(tmp_path):
    """Numbers of bands are the product's; ours are turned around, offsets differ."""
    ids = dict(zip(safes.BAND_IDS, reversed(BANDS), strict=True))
    offsets = {band: -100 * n for n, band in enumerate(BANDS)}
    made = safes.make(tmp_path, offsets=offsets, band_ids=ids, kind="tif")
    tree = open_safe(made.path, bands=list(BANDS))
    for number, band in ids.items():
        array = band_of(tree, band)
        assert array.attrs["radiometry"] == f"{offsets[band]}, from RADIO_ADD_OFFSET"
        assert array.attrs["mean_view_zenith"] == float(number) + 0.5
        np.testing.assert_array_equal(array.values[0], made.reflectance(band))


def test_counts_mean_what_the_metadata_say(copy):
    text = copy.metadata.read_text()
    text = text.replace(">10000<", ">2000<").replace("INDEX>0<", "INDEX>900<", 1)
    copy.metadata.write_text(text)
    counts = copy.counts["B02"].astype("f8")
    tree = open_safe(copy.path, bands=["blue"])
    expected = np.where(counts == 900, np.nan, (counts - 1000) / 2000)
    np.testing.assert_array_equal(tree["r10m"].B02.values[0], expected.astype("f4"))
    assert tree["r10m"].B02.attrs["radiometry"] == (
        "-1000, scale 0.0005, from BOA_ADD_OFFSET"
    )
    assert tree.attrs["nodata_count"] == 900
    assert tree.attrs["saturated_count"] == 65535


def test_metadata_become_attributes(l2a):
    tree = open_safe(l2a.path)
    assert tree.attrs == {
        "level": "L2A",
        "platform": "Sentinel-2C",
        "mgrs_tile": "32TMS",
        "source": "SAFE",
        "product": l2a.path.stem,
        "processing_baseline": "05.09",
        "datatake": "GS2C_20240501T101559_012345_N05.09",
        "relative_orbit": 65,
        "orbit_direction": "descending",
        "product_time": "2024-05-01T10:15:59.024000Z",
        "sensing_time": "2024-05-01T10:20:00.000000Z",
        "generation_time": "2024-05-01T15:30:00.000000Z",
        "mean_sun_zenith": 41.5,
        "mean_sun_azimuth": 150.25,
        "nodata_count": 0,
        "saturated_count": 65535,
    }
    json.dumps([tree.attrs, *(v.attrs for v in tree["r20m"].data_vars.values())])
    assert tree["r60m"].B09.attrs["mean_view_zenith"] == 9.5
    assert list(tree["r60m"].item_id.values) == [l2a.path.stem]
    assert list(tree["r60m"].baseline.values) == ["05.09"]


def test_a_finer_result_can_be_made_of_it(l2a):
    tree = open_safe(l2a.path, bands=["B02", "B05", "B11"])
    ten = s2sr_xr.upsample(tree, "bicubic")
    assert ten.B05.shape == ten.B02.shape
    np.testing.assert_array_equal(ten.B02.values[0], l2a.reflectance("B02"))


def test_every_band_has_its_source_and_travels(l2a, tmp_path):
    path = safes.packed(l2a, tmp_path)
    tree = open_safe(path, chunks=36)
    for node in tree.children.values():
        for array in node.data_vars.values():
            source = pickle.loads(pickle.dumps(source_of(array)))  # noqa: S301
            rows, cols = slice(1, 4), slice(2, 7)
            np.testing.assert_array_equal(
                source.at(0).read(0, rows, cols), array.values[0, rows, cols]
            )
    assert tokenize(tree["r20m"].to_dataset()) == tokenize(
        open_safe(path, chunks=36)["r20m"].to_dataset()
    )


# --- nothing early --------------------------------------------------------------------


def test_nothing_but_metadata_is_read_to_open(copy, tmp_path):
    for file in copy.path.rglob("*.jp2"):
        file.write_bytes(b"garbage")
    for path in (copy.path, safes.packed(copy, tmp_path)):
        tree = open_safe(path)
        assert bands_of(tree) == set(L1C)
        for array in (*tree["r20m"].data_vars.values(), tree["r10m"].flags):
            with pytest.raises(ReadError, match="not a JP2OpenJPEG image"):
                array.load()


def test_a_product_opens_in_no_time(l2a, tmp_path):
    path = safes.packed(l2a, tmp_path)
    open_safe(path)  # CRS and imports
    for place in (path, l2a.path):
        begun = time.process_time()
        open_safe(place)
        assert time.process_time() - begun < 1  # 0.1 s when quiet


def test_importing_the_reader_is_light():
    code = (
        "import sys; import s2sr_xr.readers.safe.open;"
        "heavy = {'torch', 'dask', 'rasterio', 'pyproj'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- parts ----------------------------------------------------------------------------


def test_what_is_missing_is_left_out_with_one_warning(copy):
    for band in ("B02", "B11", "B01", "B09"):
        copy.image(band).unlink()
    with pytest.warns(S2SRWarning, match=r"images of B01, B02, B09, B11") as found:
        tree = open_safe(copy.path)
    assert len(found) == 1
    assert found[0].filename == __file__
    assert tree.attrs["missing_bands"] == "B01, B02, B09, B11"
    assert bands_of(tree) == set(L1C) - {"B02", "B11", "B01", "B09"}
    assert set(tree.children) == {"r10m", "r20m"}


@pytest.mark.parametrize(
    ("bands", "says"),
    [
        (["B02"], r"B02 only at other pixels.*R10m/\*_B02_10m\.jp2.*R10m|bands=\["),
        (["B03", "B02"], r"no image of B02 at its native pixel"),
        (["B10"], r"no image of B10"),
        (["B22"], r"B22: no such band"),
        ([], r"No band was asked for"),
    ],
)
def test_a_band_that_is_asked_for_must_be_there(copy, bands, says):
    copy.image("B02").unlink()  # its copy at 60 m stays, and is never taken for it
    with pytest.raises(MissingBandError, match=says):
        open_safe(copy.path, bands=bands)


def test_a_product_without_images_says_which_files_it_should_have(copy):
    shutil.rmtree(copy.granules[0] / "IMG_DATA")
    with pytest.raises(MissingBandError, match=r"R60m/\*_B01_60m\.jp2.*not found"):
        open_safe(copy.path)


def test_two_files_of_a_band_are_one_too_many(copy):
    image = copy.image("B03")
    shutil.copy(image, image.with_name(f"copy_{image.name}"))
    with pytest.raises(ReadError, match=r"both are B03; remove one"):
        open_safe(copy.path)


def test_files_of_other_systems_are_no_images(copy):
    image = copy.image("B03")
    for name in (f"._{image.name}", f"{image.name}.aux.xml", f"{image.stem}.txt"):
        image.with_name(name).write_bytes(b"")
    assert bands_of(open_safe(copy.path)) == set(L1C)


def test_only_the_granules_own_folders_are_looked_into(copy):
    image = copy.image("B03")
    for place in (copy.granules[0], copy.granules[0] / "IMG_DATA", copy.path):
        (place / "backup").mkdir()
        shutil.copy(image, place / "backup" / image.name)
    image.unlink()
    with pytest.raises(MissingBandError, match="no image of B03"):
        open_safe(copy.path, bands=["B03"])


def test_a_converted_image_goes_before_the_original(copy):
    image = copy.image("B03")
    counts = copy.counts["B03"] + 1
    safes.write(image.with_suffix(".tif"), counts, 10, safes.CORNER)
    tree = open_safe(copy.path, bands=["B03"])
    np.testing.assert_allclose(tree["r10m"].B03[0], (counts - 1000.0) / 1e4, rtol=1e-6)


def test_addresses_in_metadata_are_never_followed(copy, tmp_path):
    """The other product has other pixels; a manifest of 02.08 names its own hrefs."""
    other = safes.make(tmp_path / "other", level="L2A", seed=7)
    there = other.image("B03")
    text = copy.metadata.read_text()
    for href in (there, f"../other/{there.name}", f"/vsicurl/http://127.0.0.1/{there}"):
        text = text.replace(
            "<PRODUCT_URI>", f"<IMAGE_FILE>{href}</IMAGE_FILE><PRODUCT_URI>", 1
        )
    copy.metadata.write_text(text)
    (copy.path / "manifest.safe").write_text(f'<fileLocation href="{there}"/>')
    tree = open_safe(copy.path, bands=["B03"])
    assert str(copy.path) in source_of(tree["r10m"].B03).assets[0].href
    np.testing.assert_array_equal(tree["r10m"].B03.values[0], copy.reflectance("B03"))


def test_an_image_that_is_not_the_products_is_refused(copy):
    image = copy.image("B03")
    safes.write(image, copy.counts["B03"], 10, (300_000, 8_200_000))
    tree = open_safe(copy.path, bands=["B03"])
    with pytest.raises(GridError, match=r"transform .* in its file, but"):
        tree["r10m"].B03.load()


# --- tiles ----------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_several_tiles_are_opened_one_at_a_time(zipped, tmp_path):
    made = safes.make(
        tmp_path, old=True, baseline="02.04", tiles=("32TMS", "32TNS"), kind="tif"
    )
    path, product = made.path, made.path
    if zipped:
        path = safes.packed(made, tmp_path)
        product = path / made.path.name
    with pytest.raises(GridError, match=r"2 granules \(32TMS: .*; 32TNS: ") as caught:
        open_safe(path)
    corners = {}
    for granule in made.granules:
        tree = open_safe(product / "GRANULE" / granule.name)
        corners[tree.attrs["mgrs_tile"]] = float(tree["r10m"].x[0]) - 5
    assert corners == {"32TMS": 600_000, "32TNS": 700_000}
    # What the error advises works as it stands.
    (advised,) = re.findall(r"open_safe\('(.*)'\)", str(caught.value))
    assert open_safe(advised).attrs["mgrs_tile"] == "32TMS"


def test_a_product_may_be_given_by_its_metadata_or_the_folder_around_it(l2a):
    whole = open_safe(l2a.path)
    for path in (l2a.metadata, l2a.tile_metadata, l2a.granules[0], str(l2a.path)):
        assert open_safe(path).identical(whole)
    assert open_safe(l2a.path.parent).identical(whole)


def test_a_folder_of_several_products_is_not_one(l2a, tmp_path):
    for name in ("A.SAFE", "B.SAFE"):
        (tmp_path / name).mkdir()
        shutil.copy(l2a.metadata, tmp_path / name)
    with pytest.raises(ReadError, match=r"several products: A\.SAFE/MTD.*B\.SAFE"):
        open_safe(tmp_path)


def test_a_product_without_granules_says_so(copy):
    shutil.rmtree(copy.path / "GRANULE")
    with pytest.raises(ReadError, match=r"no granule"):
        open_safe(copy.path)


def test_a_granule_without_metadata_says_so(copy):
    copy.tile_metadata.unlink()
    with pytest.raises(ReadError, match=r"0 metadata files of a granule"):
        open_safe(copy.path)


def test_chunks_hold_whole_cells(l2a):
    with pytest.raises(ChunkError, match="multiple of 6"):
        open_safe(l2a.path, chunks=100)


# --- other things ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "files", "says"),
    [
        ("a.SAFE", ["S2B_OPER_MTD_SAFL1B_PDMC.xml"], r"L1B.*s2sr_xr\.open_l1b"),
        ("S2A_MSIL1B_2024.SAFE", ["manifest.safe"], r"sensor geometry.*open_l1b"),
        ("S2A_MSIL1A_2024.SAFE", ["manifest.safe"], r"level 0 or 1A"),
        ("S2A_OPER_PRD", ["S2A_OPER_MTD_L0__GR.xml"], r"level 0 or 1A"),
        ("S1A_IW_GRDH_1SDV.SAFE", ["manifest.safe"], r"of another Sentinel"),
        ("theia", ["SENTINEL2A_2017_L2A_T33KWP_D_MTD_ALL.xml"], r"open_theia"),
        ("tiles", ["metadata.xml", "tileInfo.json"], r"AWS.*open_stac"),
        ("S2B.zarr", ["zarr.json"], r"Zarr store.*open_eopf"),
        ("empty", [], r"it holds nothing"),
        ("granule", ["MTD_TL.xml"], r"no MTD_MSIL1C\.xml.*it holds MTD_TL\.xml"),
    ],
)
def test_another_product_is_named(name, files, says, tmp_path):
    (tmp_path / name).mkdir()
    for file in files:
        (tmp_path / name / file).write_text("")
    with pytest.raises(ReadError, match=says):
        open_safe(tmp_path / name)
    # The folder around it, or the archive of it, says the same.
    if files:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(tmp_path / name / files[0], f"{name}/{files[0]}")
        with pytest.raises(ReadError, match=r"s2sr_xr|level|Sentinel|holds no"):
            open_safe(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nowhere.SAFE", r"does not exist"),
        ("https://me:pw@host/a.zip?sig=1", r"^https://host/a\.zip is a URL.*open_stac"),
        ("a.tar", r"give the directory of a SAFE product"),
        ("a.zip", r"not a zip archive"),
    ],
)
def test_a_path_must_lead_to_a_product(path, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.tar", "a.zip"):
        (tmp_path / name).write_bytes(b"PK, almost")
    with pytest.raises(ReadError, match=says):
        open_safe(path)


# --- metadata from strangers ----------------------------------------------------------

LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
EXTERNAL = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("which", ["metadata", "tile_metadata"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda t: t.replace("<n1:", f"{LAUGHS}<n1:", 1),
            r"line 2, declares a DOCTYPE",
        ),
        (lambda t: t.replace("<n1:", f"{EXTERNAL}<n1:", 1), r"DOCTYPE"),
        (lambda t: t.replace("<n1:", '<!DOCTYPE a SYSTEM "x"><n1:', 1), r"DOCTYPE"),
        (lambda t: t[: t.index("<n1:Gen") + 40], r"damaged in line 4: no element|line"),
        (lambda t: t.replace("UTF-8", "UTF-99"), r"damaged in line 1.*encoding"),
        (lambda t: t.replace("</n1:General_Info>", "&a;", 1), r"undefined entity"),
        (lambda t: "", r"damaged in line 1: no element found"),
        (lambda t: t + "\0", r"damaged in line \d+"),
        (lambda t: t + " " * MOST_BYTES, r"more than 8388608 bytes"),
        (
            lambda t: t.replace("<n1:G", "<a/>" * MOST_ELEMENTS + "<n1:G", 1),
            r"more than 200000 elements",
        ),
        (lambda t: t.replace("Level-", "Level-1B_"), r"s2sr_xr\.open_l1b"),
        (lambda t: t.replace("n1:Level-2A", "n1:XFDU"), r"describes a XFDU"),
    ],
)
def test_damaged_or_hostile_metadata_are_named(which, damage, says, copy):
    file = getattr(copy, which)
    file.write_text(damage(file.read_text()))
    with pytest.raises(ReadError, match=says) as caught:
        open_safe(copy.path)
    assert str(file) in str(caught.value)
    assert "root:" not in str(caught.value)


@pytest.mark.parametrize(
    ("which", "old", "new", "error", "says"),
    [
        (
            "tile_metadata",
            "HORIZONTAL_CS_CODE",
            "X",
            ReadError,
            "no HORIZONTAL_CS_CODE",
        ),
        ("tile_metadata", ">EPSG:32722<", ">EPSG:1<", GridError, "EPSG:1"),
        ("tile_metadata", ">600000<", ">far<", ReadError, "ULX is 'far'"),
        ("tile_metadata", ">600000<", ">1e999<", ReadError, "not a finite number"),
        ("tile_metadata", "<ULX>600000</ULX>", "", ReadError, "Geoposition has no ULX"),
        ("tile_metadata", "<XDIM>10<", "<XDIM>12<", GridError, "square pixels"),
        ("tile_metadata", "<NROWS>72<", "<NROWS>0<", GridError, "0 rows"),
        ("tile_metadata", "<NROWS>72<", "<NROWS>66<", GridError, "same ground"),
        (
            "tile_metadata",
            'Size resolution="60"',
            "a",
            ReadError,
            "no grid of 60 m|damag",
        ),
        ("tile_metadata", "Level-2A", "Level-1C", ReadError, "product is of level L2A"),
        ("metadata", ">10000<", ">0<", ReadError, "'0', not a positive number"),
        ("metadata", ">10000<", ">many<", ReadError, "'many', not a positive number"),
        ("metadata", "BOA_QUANT", "X", ReadError, "no BOA_QUANTIFICATION_VALUE"),
        ("metadata", ">-1000<", "><", ReadError, "BOA_ADD_OFFSET is ''"),
        ("metadata", "BOA_ADD_OFFSET", "X", RadiometryError, "05.09, but its metadata"),
        ("metadata", 'band_id="1"', 'band_id="99"', RadiometryError, "not for B02"),
        ("metadata", "2024-05-01T10:15:59", "soon", ReadError, "not a moment in UTC"),
    ],
)
def test_metadata_that_cannot_be_are_refused(which, old, new, error, says, copy):
    file = getattr(copy, which)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(error, match=says):
        open_safe(copy.path)


def test_facts_that_nothing_depends_on_may_be_missing(copy):
    """A new satellite or baseline, no orbit, NaN angles: the pixels are the same."""
    for file, changes in {
        copy.metadata: {
            "Sentinel-2C": "Sentinel-2E",
            "05.09": "06.00",
            ">65<": "><",
            "PRODUCT_START_TIME": "X",
            "SPECIAL_VALUE_INDEX": "X",
        },
        copy.tile_metadata: {">41.5<": ">NaN<", ">9.5<": ">NaN<", "TILE_ID>": "X>"},
    }.items():
        text = file.read_text()
        for old, new in changes.items():
            text = text.replace(old, new)
        file.write_text(text)
    tree = open_safe(copy.path)
    assert tree.attrs["platform"] == "Sentinel-2E"
    assert tree.attrs["processing_baseline"] == "06.00"
    assert tree.attrs["mgrs_tile"] == "32TMS"  # from the granule's folder
    assert not {"relative_orbit", "mean_sun_zenith"} & set(tree.attrs)
    assert "mean_view_zenith" not in tree["r60m"].B09.attrs
    assert str(tree["r60m"].time.values[0])[:19] == "2024-05-01T10:20:00"
    np.testing.assert_array_equal(tree["r10m"].B03.values[0], copy.reflectance("B03"))


def test_a_users_own_processing_without_offsets_has_none(tmp_path):
    made = safes.make(
        tmp_path, level="L2A", baseline="99.99", offsets={}, bands=["B02"]
    )
    tree = open_safe(made.path, bands=["B02"])
    assert tree["r10m"].B02.attrs["radiometry"] == (
        "0, from baseline 99.99 without BOA_ADD_OFFSET"
    )


# --- archives -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../evil.xml", "a/../../evil.xml", "/etc/evil.xml", "a\\..\\evil", "C:/evil.xml"],
)
def test_an_archive_that_points_outside_is_refused(name, l1c, tmp_path):
    path = safes.packed(l1c, tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "evil")
    with pytest.raises(ReadError, match="points outside of it"):
        open_safe(path)


def test_an_archive_is_read_in_place(l1c, tmp_path):
    path = safes.packed(l1c, tmp_path)
    open_safe(path).load()
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_archive_holds_no_product(tmp_path):
    path = tmp_path / "empty.zip"
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(ReadError, match=r"empty\.zip"):
        open_safe(path)


def test_a_bomb_is_not_opened(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("S2A.SAFE/MTD_MSIL1C.xml", bytes(65 * 2**20))
    with pytest.raises(
        ReadError, match=r"1 files of 68157440 bytes, packed 1 to 10\d\d"
    ):
        open_safe(path)


def test_large_metadata_in_an_archive_are_not_unpacked(tmp_path):
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("S2A.SAFE/MTD_MSIL1C.xml", bytes(60 * 2**20))
    with pytest.raises(ReadError, match=r"more than 8388608 bytes"):
        open_safe(path)


def test_a_name_that_appears_twice_is_refused(l1c, tmp_path):
    path = safes.packed(l1c, tmp_path)
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(path, "a") as archive,
    ):
        archive.writestr(f"{l1c.path.name}/MTD_MSIL1C.xml", "evil")
    with pytest.raises(ReadError, match=r"MTD_MSIL1C\.xml' more than once"):
        open_safe(path)


def test_an_encrypted_archive_is_refused(l1c, tmp_path):
    path = safes.packed(l1c, tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, at + 8, 1)
    path.write_bytes(data)
    with pytest.raises(ReadError, match="encrypted"):
        open_safe(path)


@pytest.mark.parametrize("part", [0.5, 0.999])
def test_a_cut_archive_is_refused(part, l1c, tmp_path):
    path = safes.packed(l1c, tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ReadError, match=r"not a zip archive, or is cut"):
        open_safe(path)


def test_damage_inside_an_archive_is_an_error(l1c, tmp_path):
    """Metadata are checked as they are read, images when they are."""
    path = safes.packed(l1c, tmp_path)
    with zipfile.ZipFile(path) as archive:
        places = {m.filename: m for m in archive.infolist()}
    whole = path.read_bytes()

    def damaged(name):
        member = places[f"{l1c.path.name}/{name}"]
        start = member.header_offset + 30 + len(member.filename) + 2
        data = bytearray(whole)
        data[start : start + member.compress_size - 4] = b"\xff" * (
            member.compress_size - 4
        )
        path.write_bytes(data)

    damaged("MTD_MSIL1C.xml")
    with pytest.raises(ReadError, match=r"MTD_MSIL1C\.xml could not be read"):
        open_safe(path)
    image = l1c.image("B03").relative_to(l1c.path)
    damaged(image.as_posix())
    tree = open_safe(path, bands=["B03"])
    with pytest.raises(ReadError, match=r"image inside the archive is cut, damaged"):
        tree["r10m"].B03.load()


def test_an_archive_that_went_away_is_an_error(l1c, tmp_path):
    path = safes.packed(l1c, tmp_path)
    tree = open_safe(path, bands=["B03"])
    path.unlink()
    with pytest.raises(ReadError, match="file not found"):
        tree["r10m"].B03.load()


def test_only_our_reader_makes_addresses_inside_archives(l1c, tmp_path):
    """A catalogue's text is the name of a file, and no way into an archive."""
    path = safes.packed(l1c, tmp_path)
    tree = open_safe(path, bands=["B03"])
    asset = source_of(tree["r10m"].B03).assets[0]
    assert refusal(asset.href) is None
    assert pickle.loads(pickle.dumps(asset)).href.member == asset.href.member  # noqa: S301
    as_text = Asset(item_id="a", band="B03", href=str(asset.href), driver="JP2OpenJPEG")
    assert type(str(asset.href)) is str
    with pytest.raises(ReadError, match="file not found"):
        read_window(as_text, slice(0, 1), slice(0, 1))
    assert refusal(f"/vsizip/{{{path}}}/a.jp2") is not None


@pytest.mark.parametrize(
    ("archive", "member"),
    [
        ("/vsicurl/http://host/a.zip", "a.jp2"),
        ("a.zip", "a.jp2"),
        ("/data/{a}.zip", "a.jp2"),
        ("/data/a.zip!/b.zip", "a.jp2"),
        ("/data/a.zip", "../a.jp2"),
        ("/data/a.zip", "/a.jp2"),
        ("/data/a.zip", ""),
    ],
)
def test_an_address_that_gdal_could_take_for_another_is_refused(archive, member):
    with pytest.raises(ReadError, match="cannot be read inside the archive"):
        zip_member(archive, member)


# --- masks ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [36, None])
@pytest.mark.parametrize("zipped", [False, True])
def test_flags_say_what_the_masks_of_the_bands_say(zipped, chunks, l2a, tmp_path):
    path = safes.packed(l2a, tmp_path) if zipped else l2a.path
    tree = open_safe(path, chunks=chunks)
    for res in (10, 20, 60):
        masks = [l2a.layers[b] for b in by_resolution(res) if b in l2a.layers]
        saturated = np.any([m[7] for m in masks], axis=0)
        defect = np.any([m[:7].any(0) for m in masks], axis=0)
        flags = tree[group(res)].flags
        assert flags.dims == ("time", "y", "x")
        assert flags.dtype == np.uint8
        assert flags.attrs["flag_masks"] == [2, 4]
        np.testing.assert_array_equal(flags.values[0], 2 * saturated + 4 * defect)
        assert flags.values.dtype == np.uint8
    assert set(np.unique(tree["r10m"].flags)) == {0, 2, 4, 6}


@pytest.mark.parametrize("chunks", [36, None])
def test_the_scene_classification_keeps_its_codes(chunks, l2a):
    scl = open_safe(l2a.path, chunks=chunks)["r20m"].SCL
    assert scl.dtype == np.uint8
    assert scl.values.dtype == np.uint8
    np.testing.assert_array_equal(scl.values[0], l2a.classes)
    assert scl.attrs["flag_values"] == [0, 1, 2]
    assert (
        scl.attrs["flag_meanings"] == "nodata saturated_defective dark_feature_shadow"
    )


def test_a_window_keeps_flags_and_classes(l2a):
    whole = open_safe(l2a.path, chunks=36)
    x, y = safes.CORNER
    part = s2sr_xr.window(whole, x=(x + 70, x + 200), y=(y - 300, y - 100))
    for name, node in part.children.items():
        full = whole[name].sel(x=node.x, y=node.y)
        for key, array in node.data_vars.items():
            assert array.dtype == full[key].dtype
            assert array.compute().dtype == array.dtype
            np.testing.assert_array_equal(array, full[key])


def test_flags_come_with_the_bands_that_are_opened(l2a):
    tree = open_safe(l2a.path, bands=["B02"])
    assert list(tree["r10m"].data_vars) == ["B02", "flags"]
    layers = l2a.layers["B02"]
    np.testing.assert_array_equal(
        tree["r10m"].flags[0], 2 * layers[7] + 4 * layers[:7].any(0)
    )
    assert "r20m" not in tree


def test_older_products_have_no_raster_masks(tmp_path):
    made = safes.make(tmp_path, baseline="03.01", kind="tif")
    gml = made.granules[0] / "QI_DATA" / "MSK_SATURA_B02.gml"
    gml.write_text("<eop:Mask/>")
    tree = open_safe(made.path)
    assert not any("flags" in node for node in tree.children.values())


def test_a_mask_needs_no_georeference(copy, l2a):
    mask = copy.granules[0] / "QI_DATA" / "MSK_QUALIT_B01.jp2"
    safes.write(mask, l2a.layers["B01"], 60, (0, 0))
    flags = open_safe(copy.path, bands=["B01"])["r60m"].flags
    np.testing.assert_array_equal(flags.values[0] & 2, 2 * l2a.layers["B01"][7])


def test_flags_are_unknown_where_a_mask_is_empty_or_missing(copy):
    quality = copy.granules[0] / "QI_DATA"
    (quality / "MSK_QUALIT_B03.jp2").write_bytes(b"")
    (quality / "MSK_QUALIT_B01.jp2").unlink()
    with pytest.warns(
        S2SRWarning,
        match=r"flags of r10m \(quality masks of B03 .*flags of r60m \(.* of B01 ",
    ) as found:
        tree = open_safe(copy.path)
    assert len(found) == 1
    assert [name for name, node in tree.children.items() if "flags" in node] == ["r20m"]
    np.testing.assert_array_equal(tree["r10m"].B03.values[0], copy.reflectance("B03"))


def test_a_mask_that_links_nowhere_is_missing(copy):
    mask = copy.granules[0] / "QI_DATA" / "MSK_QUALIT_B03.jp2"
    mask.unlink()
    mask.symlink_to("nowhere.jp2")
    with pytest.warns(S2SRWarning, match=r"quality masks of B03 missing or empty"):
        assert "flags" not in open_safe(copy.path)["r10m"]


def test_a_mask_of_another_kind_is_an_error(copy):
    mask = copy.granules[0] / "QI_DATA" / "MSK_QUALIT_B01.jp2"
    flags = open_safe(copy.path, bands=["B01"])["r60m"].flags
    safes.write(mask, np.zeros((3, 12, 12), "u1"), 60, safes.CORNER)
    with pytest.raises(ReadError, match="has 3 bands, none with index 8"):
        flags.copy(deep=True).load()
    safes.write(mask, np.zeros((9, 12, 12), "u1"), 60, safes.CORNER)
    with pytest.raises(ReadError, match="has 9 layers, 8 were expected"):
        flags.copy(deep=True).load()
    safes.write(mask, np.zeros((8, 6, 6), "u1"), 60, safes.CORNER)
    with pytest.raises(GridError, match="shape"):
        flags.copy(deep=True).load()
    scl = next(copy.granules[0].glob("IMG_DATA/R20m/*_SCL_20m.jp2"))
    classes = open_safe(copy.path, bands=["B05"])["r20m"].SCL
    safes.write(scl, np.zeros((36, 36), "u2"), 20, safes.CORNER)
    with pytest.raises(ReadError, match="holds uint16 where uint8 was expected"):
        classes.load()


# --- real products --------------------------------------------------------------------

MTD1, MTD2, TL = "MTD_MSIL1C.xml", "MTD_MSIL2?.xml", "GRANULE/*/MTD_TL.xml"
PRODUCTS = [
    ("S2A_MSIL1C_20180101*", MTD1, TL, "L1C A 02.06 31TDH 32631 399960 4800000 0"),
    ("S2A_MSIL1C_20200622*", MTD1, TL, "L1C A 05.00 30TXR 32630 600000 5100000 -1000"),
    ("S2A_MSIL1C_20200717*", MTD1, TL, "L1C A 02.09 01LAC 32701 99960 8300020 0"),
    ("*_T11SLT_*", MTD2, "MTD_TL.xml", "L2A A 02.12 11SLT 32611 300000 3800040 0"),
    ("S2A_MSIL2A_20190212*", MTD2, TL, "L2A A 02.12 07HFE 32707 600000 6500020 0"),
    ("S2A_MSIL2A_*T01WCP*", MTD2, TL, "L2A A 05.09 01WCP 32601 300000 7400040 -1000"),
    ("S2A_MSIL2A_*T01WCS*", MTD2, TL, "L2A A 05.09 01WCS 32601 300000 7700040 -1000"),
    ("S2A_MSIL2A_20230821*", MTD2, TL, "L2A A 05.09 01KAB 32701 99960 8200000 -1000"),
    # Someone wrote -7000 into this one; stactools reads it too.
    (
        *("S2A_OPER*_T34LBQ", "product_metadata.xml", "metadata.xml"),
        "L2A A 04.00 34LBQ 32734 199980 8900020 -7000",
    ),
    ("esa_S2B_MSIL2A_*", MTD2, TL, "L2A B 02.14 22HBD 32722 199980 5900020 0"),
    # 1462 counts are full reflectance in this one, 1000 in GDAL's.
    ("old_format", "*SAF*", "*_TL_*", "L1C A 01.01 14SLF 32614 299940 4100000 0 1462"),
]
"""Place; product's and granule's metadata there; level, unit, baseline, tile, zone,
corner, counts added to every band, and counts of full reflectance, if not 10 000."""

GDAL = "gdal_synthetic"
WHOLE = [
    ("zips/*T53JQJ*", "L1C A 02.09 53JQJ 32753 699960 6900040 0"),
    ("zips/*T48LWP*", "L1C A 03.01 48LWP 32748 499980 8900020 0"),
    (
        f"{GDAL}/fake_l1c/*/GRANULE/*TQR*",
        "L1C A 01.03 32TQR 32632 699960 5100060 0 1000",
    ),
    (
        f"{GDAL}/fake_l1c/*/GRANULE/*TRQ*",
        "L1C A 01.03 32TRQ 32632 800000 5000060 0 1000",
    ),
    (f"{GDAL}/fake_l1c_safecompact", "L1C A 01.03 32TQR 32632 699960 5100060 0 1000"),
    (f"{GDAL}/fake_l1c_proc*", "L1C B 05.09 34UCF 32634 300000 6100020 -1000"),
    (f"{GDAL}/fake_l2a_MSIL2A", "L2A A 02.08 34VFJ 32634 600000 6400020 0"),
    (f"{GDAL}/fake_l2a_MSIL2Ap", "L2A A 02.05 34VFJ 32634 600000 6400020 0"),
    (f"{GDAL}/fake_l2a_proc*", "L2A B 05.09 34UCF 32634 300000 6100020 -1000"),
]
"""Products that are complete, but for their pixels."""

TILES = [
    ("S2A_OPER_MSI_L1C_TL_SGS__20181231*", "L1C 02.07 10SDG", 32610, 399960, 4200000),
    ("S2A_OPER_MSI_L2A_DS_2APS_20230105*", "L2A 05.09 01CDL", 32701, 399960, 1100020),
    ("S2A_OPER_MSI_L2A_TL_2APS_20240108*", "L2A 05.10 34VEL", 32634, 499980, 6600000),
    ("S2A_OPER_MSI_L2A_TL_SGS__20181231*", "L2A 02.11 10SDG", 32610, 399960, 4200000),
    ("S2B_MSIL2A_20200914T231559_N0500*", "L2A 05.00 01VCG", 32601, 300000, 6700020),
    ("aws_sinergise_layout/S2B_MSIL1C_*", "L1C 02.09 55HFA", 32755, 600000, 6100000),
]
"""Metadata of granules alone, in the layout of the archive on AWS."""

ALONE = [
    ("S2A_MSIL2A_20180721*/MTD_MSIL2a.xml", "L2A A 02.12", None),
    ("s2c/S2C_MTD_MSIL1C.xml", "L1C C 99.04", -1000),
]
"""Metadata of products alone."""


def the(pattern, root=REAL):
    (found,) = root.glob(pattern)
    return found


def rebuilt(product, tile, folder):
    """Return a product of real metadata with the files that they name, all garbage."""
    text = product.read_text()
    files = re.findall(r"<IMAGE_FILE\w*>(.*?)<", text)
    if not files:  # of the old format, whose other granules are not here
        mgrs = re.search(r"_T(\d\d[A-Z]{3})", tile.name)[1]
        granule = re.search(rf'granuleIdentifier="(\S*_T{mgrs}_\S*)"', text)[1]
        ids = re.findall(rf"<IMAGE_ID>(\S*_T{mgrs}_\S*?)<", text)
        files = [f"GRANULE/{granule}/IMG_DATA/{name}" for name in ids]
    granule = folder / files[0].partition("/IMG_DATA")[0]
    # One of them names the masks of the only bands that someone kept.
    mask = re.search(r">(GRANULE/\S*MSK_QUALIT_)B\w+\.jp2<", tile.read_text())
    masks = [f"{mask[1]}{band}" for band in BANDS] if mask else []
    for name in (*files, *masks):
        file = folder / f"{name}.jp2"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"garbage")
    old = product.name.startswith("S2A_OPER")
    level = re.search(r"Level-(\w\w)_User", text)[1]
    shutil.copy(product, folder / (product.name if old else f"MTD_MSIL{level}.xml"))
    shutil.copy(tile, granule / (tile.name if old else "MTD_TL.xml"))
    return folder


@without_data
@pytest.mark.parametrize(("place", "product", "tile", "what"), PRODUCTS)
def test_real_metadata_say_what_is_known_of_them(place, product, tile, what, tmp_path):
    path = the(place)
    check(open_safe(rebuilt(the(product, path), the(tile, path), tmp_path)), what)


@without_data
@pytest.mark.parametrize(("place", "what"), WHOLE)
def test_whole_products_say_what_is_known_of_them(place, what):
    check(open_safe(the(place)), what)


def check(tree, what):
    """Hold a tree of all bands against a row of facts."""
    level, unit, baseline, mgrs, epsg, west, north, offset, *counts = what.split()
    assert bands_of(tree) == set(L1C)
    assert tree.attrs["level"] == level
    assert tree.attrs["platform"] == f"Sentinel-2{unit}"
    assert tree.attrs["processing_baseline"] == baseline
    assert tree.attrs["mgrs_tile"] == mgrs
    for res in (10, 20, 60):
        ds = tree[group(res)].to_dataset()
        assert ds.rio.crs.to_epsg() == int(epsg)
        assert ds.rio.shape == (109_800 // res, 109_800 // res)
        corner = tuple(ds.rio.transform())[:6]
        assert corner == (res, 0, int(west), 0, -res, int(north))
        assert ("flags" in ds) == (baseline >= "04")
        assert ("SCL" in ds) == (res == 20 and level == "L2A")
        scale = f", scale {1 / int(counts[0]):g}" if counts else ""
        for band in set(ds.data_vars) & set(BANDS):
            said = ds[band].attrs["radiometry"]
            assert said.startswith(f"{offset}{scale}, from ")
            assert ("without" in said) == (offset == "0")


@without_data
@pytest.mark.parametrize(
    ("place", "what", "epsg", "west", "north"),
    [pytest.param(*row, id=row[1].replace(" ", "-")) for row in TILES],
)
def test_real_granules_say_what_is_known_of_them(place, what, epsg, west, north):
    path = the(place) / "metadata.xml"
    tile = _safe_xml.tile_facts(path.read_bytes(), path.name)
    assert f"{tile.level} {tile.baseline} {tile.tile}" == what
    assert tile.crs == f"EPSG:{epsg}"
    assert set(tile.corners.values()) == {(west, north)}
    assert tile.shapes == {r: (109_800 // r, 109_800 // r) for r in (10, 20, 60)}
    with pytest.raises(ReadError, match=r"AWS.*open_stac"):
        open_safe(path.parent)


@without_data
@pytest.mark.parametrize(("place", "what", "offset"), ALONE)
def test_real_product_metadata_alone_say_what_is_known(place, what, offset):
    path = the(place)
    product = _safe_xml.product_facts(path.read_bytes(), path.name)
    assert f"{product.level} {product.platform[-1]} {product.baseline}" == what
    assert product.offsets == ({} if offset is None else dict.fromkeys(BANDS, offset))
    assert (product.nodata, product.saturated, product.quantification) == (
        *(0, 65535),
        10_000,
    )


ITEMS = DATA / "stac_items" / "stactools"


@pytest.mark.skipif(not ITEMS.is_dir(), reason="the real STAC items are not here")
@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem[-30:]) for p in sorted(ITEMS.glob("*.json"))]
)
def test_real_metadata_agree_with_the_items_that_stactools_made_of_them(path):
    item = json.loads(path.read_text())
    known = item["properties"]
    (place,) = REAL.glob(f"{path.stem}*")
    names = [*place.rglob("MTD_TL.xml"), *place.glob("metadata.xml")]
    tile = _safe_xml.tile_facts(names[0].read_bytes(), names[0].name)
    blue = item["assets"]["blue"]
    west, north = tile.corners[10]
    assert blue["proj:transform"] == [10, 0, west, 0, -10, north]
    assert tuple(blue["proj:shape"]) == tile.shapes[10]
    assert tile.crs == known.get("proj:code", f"EPSG:{known.get('proj:epsg')}")
    assert known["grid:code"] == f"MGRS-{tile.tile}"
    assert tile.sun == pytest.approx(
        (90 - known["view:sun_elevation"], known["view:sun_azimuth"]), abs=1e-9
    )
    metadata = [*place.glob("MTD_MSI*.xml"), *place.glob("product_metadata.xml")]
    if not metadata:
        assert tile.baseline == known["s2:processing_baseline"]
        assert str(tile.sensed)[:19] == known["datetime"][:19]
        return
    product = _safe_xml.product_facts(metadata[0].read_bytes(), metadata[0].name)
    (raster,) = blue["raster:bands"]
    assert product.offsets.get("B02", 0) / product.quantification == pytest.approx(
        raster["offset"]
    )
    assert product.nodata == raster["nodata"]
    assert product.baseline == known["s2:processing_baseline"]
    assert product.datatake == known["s2:datatake_id"]
    assert product.platform.lower() == known["platform"]
    assert f"{product.name}.SAFE" == known["s2:product_uri"]
    assert product.generated == np.datetime64(known["s2:generation_time"][:-1])
    if "sat:relative_orbit" in known:  # read as a product, not as two files
        assert product.orbit == known["sat:relative_orbit"]
        assert product.orbit_direction == known["sat:orbit_state"]
        assert product.start == np.datetime64(known["datetime"][:-1])


@without_data
@pytest.mark.parametrize("zipped", [False, True])
def test_a_genuine_image_is_what_rasterio_reads(zipped, tmp_path):
    path = the("S2A_MSIL1C_20180101*")
    image = the("GRANULE/*/IMG_DATA/*_B01.jp2", path)
    if zipped:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for file in (p for p in path.rglob("*") if p.is_file()):
                archive.write(file, Path(path.name) / file.relative_to(path))
        path = tmp_path / "a.zip"
    with pytest.warns(S2SRWarning, match="images of B02, B03"):
        tree = open_safe(path)
    b01 = tree["r60m"].B01
    with rasterio.open(image) as dataset:
        counts = dataset.read(1)
        assert dataset.transform == tree["r60m"].to_dataset().rio.transform()
        assert dataset.crs.to_epsg() == tree["r60m"].to_dataset().rio.crs.to_epsg()
    expected = np.where(counts == 0, np.nan, counts / np.float32(10_000))
    np.testing.assert_array_equal(b01.values[0], expected)
    assert 0.4 < np.isnan(b01.values).mean() < 0.42  # the swath's edge
    assert set(tree.children) == {"r60m"}


@without_data
def test_a_real_l1b_product_is_sent_to_its_reader():
    with pytest.raises(ReadError, match=r"L1B.*s2sr_xr\.open_l1b"):
        open_safe(the("l1b"))
    with pytest.raises(ReadError, match=r"L1B.*s2sr_xr\.open_l1b"):
        open_safe(the(f"{GDAL}/fake_l1b/*.SAFE"))
    product = the("l1b/*SAFL1B*")
    with pytest.raises(ReadError, match=r"L1B is in sensor geometry"):
        _safe_xml.product_facts(product.read_bytes(), product.name)


@without_data
def test_a_real_product_of_two_tiles_lists_them():
    with pytest.raises(GridError, match=r"2 granules \(32TQR: .*; 32TRQ: "):
        open_safe(the(f"{GDAL}/fake_l1c"))
