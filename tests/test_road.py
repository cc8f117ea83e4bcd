"""From a STAC item to a store of 10 m; and what happens when something fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pystac
import pytest
import xarray as xr
from httpserver import Fault, Place

import s2sr_xr
from s2sr_xr.evaluate import compare, relative_rmse
from s2sr_xr.readers.fetch.retry import Retry, retrying

COARSE = ["B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return s2sr_xr.simulate_scene(tmp_path_factory.mktemp("scene"), size=600, seed=3)


@pytest.fixture
def own_copy(scene, tmp_path):
    """Return an item that a test may break."""
    import shutil

    source = Path(scene.get_self_href()).parent
    shutil.copytree(source, tmp_path / "item")
    return pystac.Item.from_file(str(tmp_path / "item" / f"{scene.id}.json"))


def test_item_to_store(scene, tmp_path):
    tree = s2sr_xr.open_stac(scene)
    tree.s2sr.upsample("bicubic").s2sr.to_zarr(tmp_path / "ten.zarr")
    ten = s2sr_xr.open_result(tmp_path / "ten.zarr")
    truth = s2sr_xr.open_truth(scene)
    nearest = tree.s2sr.upsample("nearest").isel(time=0)
    made = {"bicubic": ten.isel(time=0), "nearest": nearest}
    scores = compare(made, truth)
    assert relative_rmse(scores["nearest"], scores["bicubic"]) > 1.1
    plain = xr.open_zarr(tmp_path / "ten.zarr", chunks=None)
    np.testing.assert_allclose(plain.B11, ten.B11, atol=1e-6)
    assert plain.B11.rio.crs.to_epsg() == 32722
    for metres in (20, 60):
        coarse = plain.coarsen(x=metres // 10, y=metres // 10).mean()
        np.testing.assert_array_equal(coarse.x, tree[f"r{metres}m"].x)
        np.testing.assert_array_equal(coarse.y, tree[f"r{metres}m"].y)


def test_every_driver_gives_the_same_pixels(scene):
    """Our own graph, chunks of Dask, lazily indexed, NumPy: the same bits."""
    ours = s2sr_xr.open_stac(scene, chunks=366).s2sr.upsample("bicubic").compute()
    one = s2sr_xr.open_stac(scene).s2sr.upsample("bicubic").compute()
    loaded = s2sr_xr.open_stac(scene, chunks=None)
    eager = loaded.s2sr.upsample("bicubic")
    memory = loaded.load().s2sr.upsample("bicubic")
    dask = loaded.chunk(x=130, y=210).s2sr.upsample("bicubic").compute()
    for other in (one, eager, memory, dask):
        xr.testing.assert_identical(ours, other)


def test_two_items_lie_along_one_time_axis(scene, tmp_path):
    other = s2sr_xr.simulate_scene(tmp_path, size=600, seed=4)
    ten = s2sr_xr.open_stac([scene, other]).s2sr.upsample("bicubic", bands=["B11"])
    assert set(ten.item_id.values) == {scene.id, other.id}
    for item in (scene, other):
        alone = s2sr_xr.open_stac(item).s2sr.upsample("bicubic", bands=["B11"])
        one = ten.isel(time=list(ten.item_id.values).index(item.id))
        np.testing.assert_array_equal(one.B11, alone.B11[0])


@pytest.mark.parametrize("band", ["B11", "B02"])
def test_a_cut_file_is_an_error(own_copy, tmp_path, band):
    path = Path(own_copy.assets[band].get_absolute_href())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    work = s2sr_xr.open_stac(own_copy).s2sr.upsample("bicubic")
    with pytest.raises(s2sr_xr.ReadError, match=f"{band} of {own_copy.id}"):
        work.s2sr.to_zarr(tmp_path / "ten.zarr")
    with pytest.raises(s2sr_xr.StoreError, match="writing"):
        s2sr_xr.open_result(tmp_path / "ten.zarr")
    assert (
        xr.open_zarr(tmp_path / "ten.zarr", consolidated=False, chunks=None).attrs[
            "state"
        ]
        == "writing"
    )
    path.write_bytes(whole)
    work.s2sr.to_zarr(tmp_path / "ten.zarr", mode="w")
    assert "B11" in s2sr_xr.open_result(tmp_path / "ten.zarr")


def test_a_missing_file_is_named(own_copy):
    Path(own_copy.assets["B12"].get_absolute_href()).unlink()
    ten = s2sr_xr.open_stac(own_copy).s2sr.upsample("bicubic")
    with pytest.raises(s2sr_xr.ReadError, match=r"B12 of .*(not found|no such)"):
        ten.compute()


@pytest.fixture(scope="module")
def served(scene):
    """Return the scene as a catalogue serves it, and its server."""
    item = scene.clone()
    files = {
        f"{band}.tif": Path(asset.get_absolute_href()).read_bytes()
        for band, asset in scene.assets.items()
        if band != "truth"
    }
    with Place(files) as place:
        for band, asset in item.assets.items():
            asset.href = place.url(f"{band}.tif") + "?sig=SECRET"
        yield item, place


@pytest.mark.parametrize("kind", ["404", "403", "500", "drop", "garble", "html", "cut"])
def test_a_failing_server_is_an_error(served, kind):
    item, place = served
    ten = s2sr_xr.open_stac(item).s2sr.upsample("bicubic", bands=["B11", "B01"])
    place.break_with(Fault(kind=kind, beyond=0 if kind.isdigit() else 9000))
    hurried = retrying(Retry(tries=2, total=5, wait=0.01, connect=2, stall=2))
    with hurried, pytest.raises(s2sr_xr.ReadError, match=f"of {item.id}") as info:
        ten.compute()
    assert "SECRET" not in repr(info.getrepr())
    place.break_with(None)


def test_a_server_that_heals_gives_the_same_pixels(served, scene):
    item, place = served
    place.break_with(Fault(kind="503", times=2))
    ten = s2sr_xr.open_stac(item).s2sr.upsample("bicubic", bands=["B11"]).compute()
    place.break_with(None)
    local = s2sr_xr.open_stac(scene).s2sr.upsample("bicubic", bands=["B11"]).compute()
    xr.testing.assert_equal(ten, local)


def test_the_result_says_where_it_comes_from(scene):
    ten = s2sr_xr.open_stac(scene).s2sr.upsample("bicubic", bands=["B11"])
    assert ten.attrs["level"] == "L1C"
    assert ten.B11.attrs["radiometry"] == "-1000, from raster:bands"
    json.dumps({k: v for k, v in ten.attrs.items() if not isinstance(v, np.ndarray)})
