"""Other loaders: stackstac behind `open_stac`, and what users load themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import odc.stac
import pystac
import pytest
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr
from golden import (
    CORNER,
    EPSG,
    LAYOUTS,
    LEVEL_2A,
    SIZE,
    reflectance,
    write_scene,
)

import s2sr_xr  # noqa: F401 - registers .s2sr
from s2sr_xr.core.bands import BANDS
from s2sr_xr.errors import ChunkError, GridError, RadiometryError, ReadError
from s2sr_xr.readers.stac.open import open_stac, open_stac_tiles

stackstac = pytest.importorskip("stackstac", reason="the extra stackstac is not here")

C1 = LAYOUTS["earth search, c1"].make
PC = LAYOUTS["planetary computer, new"].make
OLD = LAYOUTS["planetary computer, old"].make
THREE = ["B04", "B11", "B01"]  # one of each pixel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene"))


# --- reader="stackstac" ---------------------------------------------------------------


@pytest.mark.parametrize("chunks", [30, 2196])
@pytest.mark.parametrize(
    "name", ["earth search, c1", "planetary computer, new", "stactools", "boxes"]
)
def test_stackstac_gives_the_same_tree(folder, name, chunks):
    assert CORNER[1] % 60 == 40  # where snapped bounds would shift 60 m pixels
    item = LAYOUTS[name].make(folder, LEVEL_2A)
    native = open_stac(item, chunks=chunks)
    other = open_stac(item, chunks=chunks, reader="stackstac")
    for band in LEVEL_2A:
        path = f"r{BANDS[band].native}m/{band}"
        assert other[path].chunks == native[path].chunks
        np.testing.assert_array_equal(other[path][0], reflectance(band))
    xr.testing.assert_identical(other.load(), native.load())


def test_each_item_keeps_its_own_offset(folder):
    items = [
        OLD(folder, THREE),
        C1(folder, THREE),
        LAYOUTS["stactools"].make(folder, THREE),
    ]
    native = open_stac(items, chunks=24)
    other = open_stac(items, chunks=24, reader="stackstac")
    xr.testing.assert_identical(other.load(), native.load())
    np.testing.assert_array_equal(other["r10m/B04"][0], reflectance("B04", offset=0))
    np.testing.assert_array_equal(other["r10m/B04"][1], reflectance("B04"))


def test_a_part_is_the_same_part(folder):
    item = pystac.Item.from_dict(PC(folder, THREE))
    bbox = open_stac(item).r10m.to_dataset().isel(x=slice(13, 30), y=slice(20, 41))
    box = bbox.rio.transform_bounds("EPSG:4326")
    parts = [
        open_stac_tiles(item, bbox=box, chunks=12, reader=reader)["22KGV"]
        for reader in ("native", "stackstac")
    ]
    assert parts[1].r10m.sizes["x"] < SIZE
    xr.testing.assert_identical(*(p.load() for p in parts))


def test_both_readers_give_the_same_result(folder):
    item = C1(folder, LEVEL_2A)
    native, other = (
        open_stac(item, chunks=36, reader=reader)
        .s2sr.upsample("bicubic", check=False)
        .compute()
        for reader in ("native", "stackstac")
    )
    xr.testing.assert_identical(other, native)


def test_opening_reads_nothing_here_either():
    open_stac(C1("http://127.0.0.1:9", LEVEL_2A), reader="stackstac")


def test_a_missing_file_is_not_a_missing_pixel(folder, tmp_path):
    item = C1(folder, ["B04"])
    item["assets"]["red"]["href"] = str(tmp_path / "none.tif")
    with pytest.raises(RuntimeError, match=r"none\.tif"):
        open_stac(item, reader="stackstac")["r10m/B04"].load()


def test_what_stackstac_cannot_do_is_said(folder):
    item = C1(folder, ["B04"])
    with pytest.raises(ChunkError, match="'stackstac' gives Dask arrays"):
        open_stac(item, reader="stackstac", chunks=None)
    with pytest.raises(ReadError, match="give 'native' or 'stackstac'"):
        open_stac(item, reader="odc")
    blob = PC("https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2", ["B04"])
    with pytest.raises(ReadError, match=r"B04 of .* signature that stackstac does not"):
        open_stac(blob, reader="stackstac")
    blob["assets"]["B04"]["href"] += "?sig=MINE"
    open_stac(blob, bands=["B04"], reader="stackstac")
    item["assets"]["red"]["raster:bands"][0]["nodata"] = 65535
    with pytest.raises(RadiometryError, match=r"with 65535; .*'stackstac' takes 0"):
        open_stac(item, reader="stackstac")


def test_without_stackstac_the_extra_is_named():
    code = (
        "import sys; sys.modules['stackstac'] = None\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from golden import LAYOUTS\n"
        "from s2sr_xr.readers.stac.open import open_stac\n"
        "item = LAYOUTS['earth search, c1'].make('https://host', ['B04'])\n"
        "open_stac(item)\n"
        "try: open_stac(item, reader='stackstac')\n"
        "except ImportError as error: assert 's2sr-xr[stackstac]' in str(error)\n"
        "else: raise AssertionError"
    )
    here = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", code, here], check=True)


# --- what users load themselves -------------------------------------------------------

PROJECTION = "https://stac-extensions.github.io/projection/v1.1.0/schema.json"


def for_odc(item):
    """Return an item as odc-stac wants it: its extensions named."""
    return pystac.Item.from_dict(item | {"stac_extensions": [PROJECTION]})


def native(item, **options):
    return (
        open_stac(item, bands=THREE)
        .s2sr.upsample("bicubic", check=False, **options)
        .compute()
    )


def test_what_odc_stac_loads_gives_the_same_result(folder):
    item = PC(folder, THREE)
    cube = odc.stac.load([for_odc(item)], bands=THREE, resolution=10, chunks={})
    assert cube.sizes == {"time": 1, "y": SIZE, "x": SIZE}
    ten = cube.s2sr.decode(offset=-1000).s2sr.upsample("bicubic", check=False).compute()
    for name, wanted in native(item).data_vars.items():
        np.testing.assert_array_equal(ten[name], wanted, err_msg=name)
        np.testing.assert_array_equal(ten[name].x, wanted.x)
        np.testing.assert_array_equal(ten[name].y, wanted.y)
    assert ten.rio.crs.to_epsg() == EPSG
    with pytest.raises(RadiometryError, match=r"decode\(offset="):
        cube.s2sr.upsample("bicubic").compute()


def test_odc_stac_and_we_read_the_same_pixels(folder):
    item = C1(folder, LEVEL_2A)
    made = for_odc(item)
    tree = open_stac(item)
    for metres in (10, 20, 60):
        bands = [b for b in LEVEL_2A if BANDS[b].native == metres]
        keys = [BANDS[b].common for b in bands]
        cube = odc.stac.load([made], bands=keys, resolution=metres, anchor="floating")
        for band, key in zip(bands, keys, strict=True):
            ours = tree[f"r{metres}m/{band}"]
            theirs = cube[key]
            counts = np.where(np.isnan(ours), -1000, np.round(ours * 10_000))
            np.testing.assert_array_equal(theirs, counts + 1000)
            np.testing.assert_array_equal(theirs.y, ours.y)


def stacked(folder, **options):
    """Return what a user of stackstac makes: dims (time, band, y, x)."""
    item = PC(folder, THREE)
    choices = {
        "assets": THREE,
        "epsg": EPSG,
        "resolution": 10,
        "dtype": "uint16",
        "fill_value": np.uint16(0),
        "rescale": False,
    }
    return item, stackstac.stack([item], **(choices | options))


def test_what_stackstac_loads_gives_the_same_result(folder):
    item, cube = stacked(folder, xy_coords="center")
    assert cube.dims == ("time", "band", "y", "x")
    ten = cube.s2sr.decode(offset=-1000).s2sr.upsample("bicubic", check=False).compute()
    for name, wanted in native(item).data_vars.items():
        np.testing.assert_array_equal(ten[name], wanted, err_msg=name)
        np.testing.assert_array_equal(ten[name].x, wanted.x)
        np.testing.assert_array_equal(ten[name].y, wanted.y)


def test_corner_coordinates_are_refused_with_the_remedy(folder):
    _, cube = stacked(folder)
    with pytest.raises(GridError, match=r'corners.*xy_coords="center"'):
        cube.s2sr.decode(offset=-1000).s2sr.upsample("bicubic")


def test_what_stackstac_decodes_itself_is_reflectance(folder):
    item = C1(folder, THREE)
    cube = stackstac.stack(
        [item],
        assets=["red", "swir16", "coastal"],
        epsg=EPSG,
        resolution=10,
        xy_coords="center",
    )
    ten = cube.s2sr.upsample("bicubic", check=False).compute()
    for name in THREE:
        wanted = native(item)[name].to_numpy()
        # These files name no no-data count, so stackstac takes 0 for a value;
        # what it spreads to is not compared.
        got = np.where(np.isnan(wanted), np.nan, ten[name])
        np.testing.assert_allclose(got[:, 36:], wanted[:, 36:], atol=1e-6)


def test_snapped_pixels_are_refused(folder):
    """stackstac snaps 60 m pixels to multiples of 60 m, which is 20 m off here."""
    _, cube = stacked(
        folder, assets=["B01"], resolution=60, xy_coords="center", snap_bounds=True
    )
    with pytest.raises(GridError, match=r"shifted by .*resampled"):
        cube.s2sr.decode(offset=-1000).s2sr.upsample("bicubic")
