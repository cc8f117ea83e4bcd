"""Items of several layouts give one tree: native pixels, decoded once, in place."""

from __future__ import annotations

import copy
import json
import re
import time
import warnings
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr
from golden import (
    COG,
    CORNER,
    EPSG,
    LEVEL_2A,
    NAME,
    SIZE,
    feature,
    pixels,
    proj,
    reflectance,
    write_band,
    write_scene,
)
from httpserver import Fault, Place

from s2sr_xr.core.bands import BANDS, by_resolution
from s2sr_xr.errors import (
    ChunkError,
    GridError,
    MissingBandError,
    RadiometryError,
    ReadError,
    S2SRError,
    S2SRWarning,
)
from s2sr_xr.readers.fetch.source import source_of
from s2sr_xr.readers.stac.open import open_stac

ITEMS = Path(__file__).parents[3] / "shared" / "data" / "stac_items"


def planetary_computer(folder, bands, *, name=NAME, suffix="tif", **properties):
    """Return an item as Planetary Computer has them: the offset is in no asset."""
    assets = {
        b: {
            "href": f"{folder}/{b}.{suffix}",
            "type": COG if suffix == "tif" else "image/jp2",
            "roles": ["data"],
            "eo:bands": [{"name": b, "common_name": BANDS[b].common}],
            **proj(BANDS[b].native),
        }
        for b in bands
    }
    assets["visual"] = {
        "href": f"{folder}/TCI.tif",
        "type": COG,
        "roles": ["data"],
        "eo:bands": [{"name": b} for b in ("B04", "B03", "B02")],
        **proj(10),
    }
    kind = COG if suffix == "tif" else "image/jp2"
    assets["SCL"] = {"href": f"{folder}/SCL.{suffix}", "type": kind, **proj(20)}
    facts = {
        "collection": "sentinel-2-l2a",
        "platform": "Sentinel-2A",
        "proj:epsg": EPSG,
        "s2:mgrs_tile": "22KGV",
        "s2:product_type": "S2MSI2A",
        "s2:processing_baseline": "05.10",
    }
    return feature(name, assets, **{**facts, **properties})


def earth_search(folder, bands, *, name="S2A_T22KGV_20240501T101559_L2A", **properties):
    """Return an item as Earth Search's c1 collection has them."""
    assets = {
        BANDS[b].common: {
            "href": f"{folder}/{b}.tif",
            "type": COG,
            "roles": ["data", "reflectance"],
            "eo:bands": [{"name": b, "common_name": "rededge"}],
            "raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1}],
            **proj(BANDS[b].native),
        }
        for b in bands
    }
    assets["preview"] = {"href": f"{folder}/p.tif", "type": COG, "roles": ["overview"]}
    facts = {
        "collection": "sentinel-2-c1-l2a",
        "platform": "sentinel-2a",
        "proj:epsg": EPSG,
        "grid:code": "MGRS-22KGV",
        "s2:processing_baseline": "05.10",
    }
    return feature(name, assets, **{**facts, **properties})


def simulated(folder, bands, *, name=NAME, **properties):
    """Return an item as this library writes them: ESA's names, and a truth."""
    item = earth_search(folder, bands, name=name)
    item["assets"] = {
        b: {**item["assets"][BANDS[b].common], "eo:bands": None} for b in bands
    }
    item["assets"]["truth"] = {"href": "truth.tif", "type": COG, "roles": ["truth"]}
    del item["properties"]["proj:epsg"]
    item["properties"] |= {"proj:code": f"EPSG:{EPSG}", **properties}
    return item


LAYOUTS = (planetary_computer, earth_search, simulated)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene"))


# --- the tree -------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 12, 30, 2196])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_reflectance(folder, layout, chunks):
    tree = open_stac(layout(folder, LEVEL_2A), chunks=chunks)
    assert list(tree.children) == ["r10m", "r20m", "r60m"]
    for metres in (10, 20, 60):
        ds = tree[f"r{metres}m"].to_dataset()
        bands = [b for b in by_resolution(metres) if b != "B10"]
        masks = metres == 20 and layout is planetary_computer
        assert list(ds.data_vars) == bands + ["SCL", "flags"] * masks
        for band, array in ds[bands].items():
            assert array.dims == ("time", "y", "x")
            assert array.dtype == np.float32
            assert (array.chunks is None) == (chunks is None)
            if chunks is not None:
                side = min(chunks * 10 // metres, SIZE * 10 // metres)
                assert array.chunks[1][0] == array.chunks[2][0] == side
            np.testing.assert_array_equal(array.to_numpy()[0], reflectance(band))
            assert float(array.min()) < 0


def test_pixels_keep_their_place(folder):
    tree = open_stac(earth_search(folder, LEVEL_2A))
    x10, y10 = (tree["r10m"][d].to_numpy() for d in "xy")
    assert x10.dtype == y10.dtype == np.float64
    assert (x10[0], y10[0]) == (CORNER[0] + 5, CORNER[1] - 5)
    for metres, k in ((10, 1), (20, 2), (60, 6)):
        ds = tree[f"r{metres}m"].to_dataset()
        np.testing.assert_array_equal(ds.x, x10.reshape(-1, k).mean(1))
        np.testing.assert_array_equal(ds.y, y10.reshape(-1, k).mean(1))
        band = next(iter(ds.data_vars))
        with rasterio.open(folder / f"{band}.tif") as file:
            assert ds.rio.crs == file.crs
            assert ds[band].rio.crs == file.crs
            assert ds.rio.transform() == file.transform
        assert ds[band].encoding["grid_mapping"] == "spatial_ref"
        assert ds.spatial_ref.attrs["grid_mapping_name"] == "transverse_mercator"


def test_the_tree_says_what_it_is(folder):
    tree = open_stac(planetary_computer(folder, ["B04", "B05"]))
    assert tree.attrs == {
        "level": "L2A",
        "platform": "Sentinel-2A",
        "mgrs_tile": "22KGV",
        "source": "STAC",
    }
    red = tree["r10m/B04"]
    assert red.attrs == {
        "long_name": "reflectance in B04, 664.6 nm",
        "units": "1",
        "wavelength": 664.6,
        "radiometry": "-1000, from s2:processing_baseline",
    }
    assert red.item_id.item() == NAME
    assert red.baseline.item() == "05.10"
    assert red.time.dtype == "datetime64[ns]"
    assert red.time.to_numpy()[0] == np.datetime64("2024-05-01T10:15:59.024")


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({"s2:product_type": "S2MSI1C"}, "L1C"),
        ({"product:type": "S2MSI2A", "s2:product_type": None}, "L2A"),
        ({"collection": "sentinel-2-l1c", "s2:product_type": None}, "L1C"),
        ({"collection": None, "s2:product_type": None}, "L2A"),  # the name
    ],
)
def test_the_level_is_found(folder, facts, level):
    item = planetary_computer(folder, ["B04"], **facts)
    assert open_stac(item).attrs["level"] == level


def test_items_come_in_order_of_time_each_with_its_own_offset(folder):
    later = simulated(folder, ["B04"], name="new", datetime="2024-05-06T10:00:00+02:00")
    sooner = planetary_computer(
        folder, ["B04"], name="old", **{"s2:processing_baseline": "02.14"}
    )
    tree = open_stac([later, sooner])
    red = tree["r10m/B04"]
    assert red.item_id.to_numpy().tolist() == ["old", "new"]
    assert red.baseline.to_numpy().tolist() == ["02.14", "05.10"]
    assert red.time.to_numpy()[1] == np.datetime64("2024-05-06T08:00:00")
    assert red.attrs["radiometry"] == (
        "0, from s2:processing_baseline: old; -1000, from raster:bands: new"
    )
    np.testing.assert_array_equal(red[0], reflectance("B04", offset=0))
    np.testing.assert_array_equal(red[1], reflectance("B04"))


def test_two_items_of_one_time_are_both_kept(folder):
    items = [simulated(folder, ["B04"], name=name) for name in ("b", "a")]
    assert open_stac(items)["r10m"].item_id.to_numpy().tolist() == ["a", "b"]


@pytest.mark.parametrize("chunks", [None, 30])
def test_an_untouched_band_shows_its_source(folder, chunks):
    tree = open_stac(simulated(folder, ["B05"]), chunks=chunks)
    source = source_of(tree["r20m/B05"])
    read = source.read(0, slice(1, 5), slice(2, 9))
    np.testing.assert_array_equal(read, reflectance("B05")[1:5, 2:9])


# --- how items may be given -----------------------------------------------------------


def test_items_come_in_many_forms(folder, tmp_path):
    item = simulated(folder, ["B04"])
    other = simulated(folder, ["B04"], name="other")
    path = tmp_path / "item.json"
    path.write_text(json.dumps(item))
    collection = {"type": "FeatureCollection", "features": [item, other]}
    single = [
        item,
        [item],
        path,
        str(path),
        pystac.Item.from_dict(item),
        (i for i in [item]),
    ]
    double = [
        collection,
        pystac.ItemCollection.from_dict(collection),
        [path, other],
        [pystac.Item.from_dict(item), other],
    ]
    for n, forms in ((1, single), (2, double)):
        for form in forms:
            assert open_stac(form).r10m.sizes["time"] == n


def test_relative_addresses_count_from_the_item(folder, tmp_path, monkeypatch):
    item = simulated("./scene", ["B04"])
    (tmp_path / "scene").symlink_to(folder)
    path = tmp_path / "item.json"
    path.write_text(json.dumps(item))
    made = pystac.Item.from_file(path)
    monkeypatch.chdir("/")
    for form in (path, made, made.to_dict()):
        red = open_stac(form)["r10m/B04"]
        np.testing.assert_array_equal(red[0], reflectance("B04"))
    assert made.assets["B04"].href == "./scene/B04.tif"
    with pytest.raises(ReadError, match=r"B04 of .* relative address .*by its path"):
        open_stac(item)


def test_remote_addresses_count_from_the_remote_item():
    self_link = {"rel": "self", "href": "https://host/items/one.json?sig=SECRET"}
    item = simulated("../data", ["B04"]) | {"links": [self_link]}
    source = source_of(open_stac(item)["r10m/B04"])
    assert source.assets[0].href == "https://host/data/B04.tif"


def test_the_users_item_is_left_alone(folder):
    item = planetary_computer(folder, LEVEL_2A)
    before = copy.deepcopy(item)
    open_stac(item)
    assert item == before


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ([], GridError, "There are no items"),
        (7, GridError, "int is not a STAC item"),
        ({"id": "x"}, ReadError, "'x' is not a STAC item: it has no properties and no"),
        ("/none/item.json", ReadError, "item.json: not found"),
        (
            "http://127.0.0.1:9/i.json?sig=SECRET",
            ReadError,
            "loaded from http.*refused",
        ),
    ],
)
def test_what_is_not_an_item_is_named(wrong, error, said):
    with pytest.raises(error, match=said) as caught:
        open_stac(wrong)
    assert "SECRET" not in str(caught.value)
    assert isinstance(caught.value, S2SRError)


def test_a_broken_file_or_date_is_named(folder, tmp_path):
    path = tmp_path / "item.json"
    path.write_text("{")
    with pytest.raises(ReadError, match=r"could be loaded from .*item\.json"):
        open_stac(path)
    with pytest.raises(ReadError, match="has the datetime 'yesterday'"):
        open_stac(simulated(folder, ["B04"], datetime="yesterday"))
    for text in ("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "9999-01-01"):
        with pytest.raises(ReadError, match=f"has the datetime '{re.escape(text)}'"):
            open_stac(simulated(folder, ["B04"], datetime=text))


def test_a_file_url_is_a_path(folder, tmp_path):
    item = simulated(".", ["B04"])
    (tmp_path / "B04.tif").symlink_to(folder / "B04.tif")
    path = tmp_path / "an item.json"
    path.write_text(json.dumps(item))
    tree = open_stac(path.as_uri(), bands=["B04"])
    np.testing.assert_array_equal(tree["r10m/B04"][0], reflectance("B04"))


@pytest.mark.parametrize("links", [None, 7, [{"rel": "self"}], ["text"], [None]])
def test_odd_links_say_nothing(folder, links):
    tree = open_stac(simulated(folder, ["B04"]) | {"links": links}, bands=["B04"])
    np.testing.assert_array_equal(tree["r10m/B04"][0], reflectance("B04"))


@pytest.mark.parametrize(
    "odd",
    [
        {"proj:shape": [10]},
        {"proj:shape": [None, None]},
        {"proj:shape": [0, 0], "proj:transform": None, "proj:bbox": [0, 0, 1, 1]},
        {"proj:shape": 7, "proj:transform": "text"},
        {"proj:transform": [None] * 6},
        {"raster:bands": [None]},
        {"raster:bands": 7},
        {"raster:bands": {}, "bands": [None]},
    ],
)
def test_odd_fields_of_an_asset_say_nothing(folder, odd):
    item = planetary_computer(folder, ["B04"])
    item["assets"]["B04"] |= odd
    tree = open_stac(item, bands=["B04"])
    np.testing.assert_array_equal(tree["r10m/B04"][0], reflectance("B04"))


def test_an_item_comes_once(folder):
    with pytest.raises(GridError, match=f"Item {NAME} appears more than once"):
        open_stac([simulated(folder, ["B04"]), simulated(folder, ["B05"])])


def test_one_level_at_a_time(folder):
    items = [
        planetary_computer(folder, ["B04"], name=n, **{"s2:product_type": f"S2MSI{n}"})
        for n in ("1C", "2A")
    ]
    with pytest.raises(GridError, match=r"several levels: L1C \(1C\), L2A \(2A\)"):
        open_stac(items)


# --- bands ----------------------------------------------------------------------------


def test_bands_are_chosen_by_any_name(folder):
    tree = open_stac(earth_search(folder, LEVEL_2A), bands=["nir08", "b2", "red"])
    assert list(tree.children) == ["r10m", "r20m"]
    assert list(tree["r10m"].data_vars) == ["B02", "B04"]
    assert list(tree["r20m"].data_vars) == ["B8A"]
    assert list(open_stac(simulated(folder, ["B04"]), bands="B04").children) == ["r10m"]


def test_the_cirrus_band_comes_by_name_only(folder):
    item = simulated(folder, list(BANDS))
    assert "B10" not in open_stac(item)["r60m"].data_vars
    cirrus = open_stac(item, bands=["B10"])["r60m/B10"]
    np.testing.assert_array_equal(cirrus[0], reflectance("B10"))


@pytest.mark.parametrize(
    ("bands", "said"),
    [
        (["B99"], "B99: no such band. Sentinel-2 has B01"),
        (["B11"], f"Item {NAME} has no asset for band B11 .it has B04.; 1 of 1 items"),
    ],
)
def test_a_missing_band_is_named(folder, bands, said):
    with pytest.raises(MissingBandError, match=said):
        open_stac(simulated(folder, ["B04"]), bands=bands)


def test_an_item_that_lacks_a_band_of_the_others_is_named(folder):
    items = [
        simulated(folder, bands, name=name)
        for name, bands in (("a", ["B04", "B05"]), ("b", ["B04"]), ("c", ["B04"]))
    ]
    with pytest.raises(
        MissingBandError, match=r"Item b has .* B05 .* 2 of 3 items, also c"
    ):
        open_stac(items)
    assert list(open_stac(items, bands=["B04"]).children) == ["r10m"]


def test_an_item_without_bands_is_named(folder):
    with pytest.raises(MissingBandError, match=r"no asset that is a band.*truth"):
        open_stac(simulated(folder, []))


# --- which asset ----------------------------------------------------------------------


def test_jpeg_2000_is_read(folder):
    tree = open_stac(planetary_computer(folder, LEVEL_2A, suffix="jp2"), chunks=30)
    for band in LEVEL_2A:
        array = tree[f"r{BANDS[band].native}m/{band}"]
        np.testing.assert_array_equal(array[0], reflectance(band))


def test_a_cog_is_preferred_to_jpeg_2000(folder):
    item = simulated(folder, ["B04"])
    jp2 = {"red-jp2": {**item["assets"]["B04"], "href": "s3://b/B04.jp2"}}
    jp2["red-jp2"]["type"] = "image/jp2"
    item["assets"] = jp2 | item["assets"]
    asset = source_of(open_stac(item)["r10m/B04"]).assets[0]
    assert asset.driver == "GTiff"


@pytest.mark.parametrize("said", [True, False])
def test_only_native_pixels_are_a_band(folder, tmp_path, said):
    item = simulated(folder, ["B04"])
    native = item["assets"].pop("B04")
    copies = {}
    for metres in (60, 20):
        path = tmp_path / f"B04_{metres}m.tif"
        write_band(path, pixels("B04", metres=metres), metres)
        copies[f"B04_{metres}m"] = {"href": str(path), "type": COG}
        if said:
            copies[f"B04_{metres}m"] |= proj(metres)
    item["assets"] = copies | {"B04_10m": native}
    np.testing.assert_array_equal(open_stac(item)["r10m/B04"][0], reflectance("B04"))
    item["assets"] = copies
    with pytest.raises(
        GridError, match=r"B04 of .* pixels of 60 m, 20 m; its native pixel is 10 m"
    ):
        open_stac(item)


def test_two_assets_that_claim_a_band_are_named(folder):
    item = simulated(folder, ["B04"])
    item["assets"]["red"] = item["assets"]["B04"]
    with pytest.raises(GridError, match=r"assets B04 and red of .* both are B04"):
        open_stac(item)


def test_other_formats_are_named(folder):
    item = simulated(folder, ["B04"])
    item["assets"]["B04"]["type"] = "application/vnd+zarr"
    with pytest.raises(ReadError, match=r"B04 of .* comes as application/vnd\+zarr"):
        open_stac(item)


def test_other_addresses_are_named(folder):
    with pytest.raises(
        ReadError, match=r"B04 of .* bucket bucket, .* not known to be public"
    ):
        open_stac(simulated("s3://bucket", ["B04"]))
    with pytest.raises(ReadError, match=r"B04 of .* begins with ftp:"):
        open_stac(simulated("ftp://host", ["B04"]))


# --- where pixels lie -----------------------------------------------------------------


@pytest.mark.parametrize("missing", ["proj:shape", "proj:transform", "crs", "all"])
@pytest.mark.parametrize("suffix", ["tif", "jp2"])
def test_the_header_says_what_the_item_does_not(folder, missing, suffix):
    full = planetary_computer(folder, LEVEL_2A, suffix=suffix)
    item = copy.deepcopy(full)
    for asset in item["assets"].values():
        for key in ("proj:shape", "proj:transform"):
            if missing in (key, "all"):
                del asset[key]
    if missing in ("crs", "all"):
        del item["properties"]["proj:epsg"]
    xr.testing.assert_identical(open_stac(item).load(), open_stac(full).load())


def test_items_on_several_grids_are_listed(folder):
    here = simulated(folder, ["B04", "B05"], name="here")
    also = simulated(folder, ["B04", "B05"], name="also")
    zone = simulated(folder, ["B04", "B05"], name="zone", **{"proj:code": "EPSG:32723"})
    with pytest.raises(
        GridError,
        match=r"2 grids: EPSG:32722 .*\(2: also, here\); EPSG:32723 .*\(1: zone\). "
        "Open them with s2sr_xr.open_stac_tiles",
    ):
        open_stac([here, zone, also])
    moved = simulated(folder, ["B04"], name="moved")
    moved["assets"]["B04"] |= proj(10, corner=(CORNER[0] + 5, CORNER[1]))
    with pytest.raises(GridError, match=r"600000\.\.600720.*600005\.\.600725"):
        open_stac([simulated(folder, ["B04"]), moved])


@pytest.mark.parametrize(
    "place",
    [
        {"corner": (CORNER[0] + 10, CORNER[1])},
        {"corner": (CORNER[0], CORNER[1] - 5)},
        {"size": SIZE + 6},
    ],
)
def test_pixels_of_all_sizes_nest(folder, place):
    item = simulated(folder, ["B04", "B05", "B01"])
    item["assets"]["B05"] |= proj(20, **place)
    with pytest.raises(GridError, match=f"B05 of {NAME} covers .*same ground"):
        open_stac(item)


def test_a_file_that_is_elsewhere_raises_when_it_is_read(folder):
    item = simulated(folder, ["B04"])
    item["assets"]["B04"] |= proj(10, corner=(CORNER[0] + 10, CORNER[1]))
    with pytest.raises(GridError, match=r"B04 of .* transform .* in its file"):
        open_stac(item)["r10m/B04"].load()


def test_an_unknown_crs_is_named(folder, tmp_path):
    with pytest.raises(GridError, match="'EPSG:1' is not a coordinate reference"):
        open_stac(simulated(folder, ["B04"], **{"proj:code": "EPSG:1"}))
    bare = tmp_path / "bare.tif"
    write_band(bare, pixels("B04"), 10, epsg=None)
    item = simulated(folder, ["B04"], **{"proj:code": None})
    item["assets"]["B04"]["href"] = str(bare)
    with pytest.raises(GridError, match=r"has no CRS.*proj:code"):
        open_stac(item)


# --- chunks and radiometry ------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunks", "near"),
    [
        (1024, "nearest are 1020 and 1026"),
        (2, "nearest are 6 and 12"),
        (0, "nearest are 6 and 12"),
        (-1, "nearest are 6 and 12"),
        (True, "2196 is the default"),
        ("auto", "2196 is the default"),
        (12.0, "2196 is the default"),
    ],
)
def test_chunks_hold_whole_cells(folder, chunks, near):
    with pytest.raises(ChunkError, match=near):
        open_stac(simulated(folder, ["B04"]), chunks=chunks)


def test_the_user_decides_for_all(folder):
    tree = open_stac(simulated(folder, ["B04"]), radiometry={"offset": 0})
    assert tree["r10m/B04"].attrs["radiometry"] == "0, from user"
    np.testing.assert_array_equal(tree["r10m/B04"][0], reflectance("B04", offset=0))
    bare = planetary_computer(
        folder, ["B04"], name="x", **{"s2:processing_baseline": ""}
    )
    with pytest.raises(RadiometryError, match="B04 of x: the item gives no offset"):
        open_stac(bare)
    open_stac(bare, radiometry={"offset": -1000})
    with pytest.raises(RadiometryError, match="radiometry='raw'"):
        open_stac(bare, radiometry="raw")


def test_a_doubtful_collection_warns_once(folder):
    items = [
        earth_search(
            folder,
            LEVEL_2A,
            name=name,
            collection="sentinel-2-l2a",
            **{"earthsearch:boa_offset_applied": False},
        )
        for name in "ab"
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tree = open_stac(items)
        open_stac(items, radiometry={"offset": 0})
    assert [w.category for w in caught] == [S2SRWarning]
    assert Path(caught[0].filename) == Path(__file__)
    np.testing.assert_array_equal(tree["r10m/B04"][0], reflectance("B04", offset=0))


# --- what opening does not do ---------------------------------------------------------


@pytest.mark.parametrize("folder", ["http://127.0.0.1:9", "/none"])
@pytest.mark.parametrize("chunks", [None, 2196])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opening_opens_no_file(layout, folder, chunks):
    tree = open_stac(layout(folder, LEVEL_2A), chunks=chunks)
    repr(tree)
    tree._repr_html_()


def test_a_hundred_items_open_at_once():
    items = [
        planetary_computer("https://host", LEVEL_2A, name=f"i{n}") for n in range(100)
    ]
    for item in items:
        for asset in item["assets"].values():
            metres = int(asset["proj:transform"][0])
            asset.update(proj(metres, size=10980))
    begun = time.process_time()
    tree = open_stac([pystac.Item.from_dict(i) for i in items])
    assert time.process_time() - begun < 5  # 0.5 s on a quiet machine, items included
    assert tree["r10m"].sizes == {"time": 100, "y": 10980, "x": 10980}


# --- over the network -----------------------------------------------------------------


@pytest.fixture
def place(folder):
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    with Place(files) as place:
        yield place


def signed(item, place):
    for key, asset in item["assets"].items():
        asset["href"] = place.url(f"{key}.tif")
    return item


def test_signed_items_are_read_and_show_no_signature(place):
    tree = open_stac(signed(simulated("", ["B04", "B05"]), place), chunks=30)
    red = tree["r10m/B04"]
    np.testing.assert_array_equal(red[0], reflectance("B04"))
    shown = [repr(tree), tree._repr_html_(), str(red.attrs), red.data.name]
    shown += [str(red.encoding), repr(source_of(red)), str(dict(red.coords))]
    assert not any("SECRET" in text for text in shown)


@pytest.mark.parametrize("kind", ["404", "403", "html"])
def test_a_fault_raises_through_the_tree(place, kind):
    tree = open_stac(signed(simulated("", ["B04"]), place), chunks=30)
    place.break_with(Fault(kind=kind))
    with pytest.raises(ReadError, match=f"B04 of {NAME} could not be read") as caught:
        tree["r10m/B04"].load()
    assert "SECRET" not in str(caught.value)


# --- real items -----------------------------------------------------------------------


@pytest.mark.skipif(not ITEMS.exists(), reason="real STAC items are not here")
@pytest.mark.parametrize("folder", ["planetary_computer_l2a", "earth_search_v1_c1_l2a"])
def test_real_items_open_on_their_own_grid(folder):
    paths = sorted((ITEMS / folder).glob("S2*.json"))
    assert len(paths) >= 3
    for path in paths:
        tree = open_stac(path)
        assert tree.attrs["level"] == "L2A"
        assert tree.attrs["platform"] in ("Sentinel-2A", "Sentinel-2B")
        facts = json.loads(path.read_text())
        left, top = next(
            (a["proj:transform"][2], a["proj:transform"][5])
            for k, a in facts["assets"].items()
            if k in ("B02", "blue")
        )
        assert left % 60 in (0, 20, 40)
        for metres, n in ((10, 10980), (20, 5490), (60, 1830)):
            ds = tree[f"r{metres}m"].to_dataset()
            assert ds.sizes == {"time": 1, "y": n, "x": n}
            assert ds.x.to_numpy()[0] - metres / 2 == left
            assert ds.y.to_numpy()[0] + metres / 2 == top
            assert ds.rio.crs.to_epsg() == facts["properties"]["proj:epsg"]
        assert sum(len(g.data_vars) for g in tree.children.values()) == 14
