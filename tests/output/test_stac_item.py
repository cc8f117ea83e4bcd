"""What was made says where it is and what it came from, and others find it."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pystac
import pytest
from worlds import tree
from zarr.storage import MemoryStore

import s2sr_xr

BANDS = ["B02", "B03", "B04", "B05", "B08", "B11", "B12"]


def made(path, times=1, **attrs):
    """Write a small result to a store, and return its path."""
    rng = np.random.default_rng(0)
    gentle = lambda size: rng.uniform(0.2, 0.5, size).astype("f4")  # noqa: E731
    obj = tree((3, 4), BANDS, times=times, values=gentle)
    ten = obj.s2sr.upsample("bicubic").assign_attrs(attrs)
    ten.s2sr.to_zarr(path)
    return path


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A simulated scene, and the store that the default networks make of it."""
    folder = tmp_path_factory.mktemp("scene")
    item = s2sr_xr.simulate_scene(folder / "in", size=120)
    ten = s2sr_xr.open_stac(item).s2sr.upsample()
    ten.s2sr.to_zarr(folder / "out/ten.zarr")
    cogs = ten.isel(time=0).s2sr.to_cog(folder / "out/ten.tif")
    return item, folder / "out", cogs


def test_an_item_says_what_a_store_is(scene):
    source, folder, cogs = scene
    item = s2sr_xr.result_item(folder / "ten.zarr", sources=[source], cogs=cogs)
    ds = s2sr_xr.open_result(folder / "ten.zarr")
    assert item.id == "ten"
    assert item.datetime == source.datetime
    assert item.properties["proj:code"] == source.properties["proj:code"]
    assert item.properties["proj:shape"] == [120, 120]
    assert tuple(item.properties["proj:transform"]) == tuple(ds.rio.transform())[:6]
    assert item.properties["gsd"] == 10
    assert item.properties["processing:level"] == "L1C"
    assert item.properties["processing:software"] == {"s2sr_xr": s2sr_xr.__version__}
    assert item.properties["s2sr:sources"] == [source.id]
    # The source's outline is that of its swath, which cuts a corner off the grid.
    np.testing.assert_allclose(item.bbox, source.bbox, atol=1e-4)
    assert item.geometry["coordinates"][0][0] == source.geometry["coordinates"][0][0]
    (link,) = item.get_links("derived_from")
    assert link.target == source.get_self_href()
    models = {m["mlm:name"]: m for m in item.properties["s2sr:models"]}
    assert set(models) == {ds.B05.attrs["s2sr_model"], ds.B01.attrs["s2sr_model"]}
    for name, model in models.items():
        spec = s2sr_xr.get_spec(name)
        assert model["s2sr:weights"] == spec.sha256
        assert model["mlm:tasks"] == ["super-resolution"]
        assert model["mlm:hyperparameters"]["margin_cells"] == spec.margin
    assert json.loads(json.dumps(item.to_dict())) == item.to_dict()


def test_assets_say_how_their_pixels_are_coded(scene):
    rasterio = pytest.importorskip("rasterio")
    _, folder, cogs = scene
    item = s2sr_xr.result_item(folder / "ten.zarr", cogs=cogs)
    assert set(item.assets) == {"zarr", "bands", "quality"}
    assert item.assets["zarr"].media_type == "application/vnd.zarr; version=3"
    listed = item.assets["bands"].extra_fields["bands"]
    with rasterio.open(item.assets["bands"].href) as cog:
        assert [b["name"] for b in listed] == list(cog.descriptions)
        assert [b["raster:scale"] for b in listed] == list(cog.scales)
        assert [b["raster:offset"] for b in listed] == list(cog.offsets)
        assert {b["nodata"] for b in listed} == {cog.nodata}
        assert {b["data_type"] for b in listed} == set(cog.dtypes)
    edge = next(b for b in listed if b["name"] == "B05")
    assert edge["eo:common_name"] == "rededge071"
    assert edge["eo:center_wavelength"] == 0.7041
    (flags,) = item.assets["quality"].extra_fields["bands"]
    assert flags["data_type"] == "uint8"
    assert "nodata" not in flags


def test_an_item_is_valid_stac(scene):
    pytest.importorskip("jsonschema")
    from pystac.validation import validate_dict

    source, folder, cogs = scene
    item = s2sr_xr.result_item(folder / "ten.zarr", sources=[source], cogs=cogs)
    catalogue = s2sr_xr.write_catalogue(folder / "valid", [item])
    for described in (item, catalogue, *catalogue.get_items()):
        # The core's schemas come with pystac; those of extensions are on the network.
        assert validate_dict(described.to_dict(), extensions=[])


def test_several_times_make_a_span(tmp_path):
    item = s2sr_xr.result_item(made(tmp_path / "a.zarr", times=3))
    assert item.datetime is None
    assert item.properties["start_datetime"] == "2024-05-01T00:00:00Z"
    assert item.properties["end_datetime"] == "2024-05-11T00:00:00Z"
    assert item.properties["s2sr:sources"] == ["item-0", "item-1", "item-2"]
    assert [m["mlm:name"] for m in item.properties["s2sr:models"]] == ["bicubic-20m"]


def test_without_a_time_that_of_the_source_counts(tmp_path):
    when = dt.datetime(2024, 7, 1, 10, tzinfo=dt.UTC)
    source = pystac.Item("S2A_X", None, None, when, {})
    path = made(tmp_path / "a.zarr", times=None)
    with pytest.raises(s2sr_xr.StoreError, match=r"no time. Give sources="):
        s2sr_xr.result_item(path)
    item = s2sr_xr.result_item(path, sources=[source.to_dict()], item_id="mine")
    assert (item.id, item.datetime) == ("mine", when)
    assert item.properties["s2sr:sources"] == ["S2A_X"]
    assert not item.get_links("derived_from")  # it has no address


def test_what_has_no_item_is_said(tmp_path):
    stranger = pystac.Item("S2A_X", None, None, dt.datetime.now(dt.UTC), {})
    path = made(tmp_path / "a.zarr")
    with pytest.raises(s2sr_xr.StoreError, match="made from item-0, not from S2A_X"):
        s2sr_xr.result_item(path, sources=[stranger])
    with pytest.raises(s2sr_xr.StoreError, match="no address"):
        s2sr_xr.result_item(made(MemoryStore()))
    with pytest.raises(s2sr_xr.StoreError, match="no Zarr v3 store"):
        s2sr_xr.result_item(tmp_path / "nowhere")
    lost = tree((3, 3), BANDS)["r10m"].to_dataset().drop_vars("spatial_ref")
    lost.s2sr.to_zarr(tmp_path / "lost.zarr")
    with pytest.raises(s2sr_xr.GridError, match="no CRS"):
        s2sr_xr.result_item(tmp_path / "lost.zarr")


def test_no_secret_gets_into_an_item(tmp_path):
    source = pystac.Item("item-0", None, None, dt.datetime.now(dt.UTC), {})
    source.set_self_href("https://me:pw@host/item.json?sig=SECRET")
    path = made(tmp_path / "a.zarr", title="from https://h/x?sig=SECRET")
    cogs = {"bands": "https://host/a.tif?token=SECRET"}
    item = s2sr_xr.result_item(path, sources=[source], cogs=cogs)
    text = json.dumps(item.to_dict())
    assert "SECRET" not in text
    assert "pw" not in text
    (link,) = item.get_links("derived_from")
    assert link.target == "https://host/item.json"


def test_a_folder_is_found_by_others_wherever_it_is(scene, tmp_path):
    source, folder, cogs = scene
    shutil.copytree(folder, tmp_path / "a")
    here = {k: tmp_path / "a" / p.name for k, p in cogs.items()}
    item = s2sr_xr.result_item(tmp_path / "a/ten.zarr", sources=[source], cogs=here)
    s2sr_xr.write_catalogue(tmp_path / "a", [item])
    assert item.assets["zarr"].href == str(tmp_path / "a/ten.zarr")  # left as it was
    (tmp_path / "a").rename(tmp_path / "b")
    for file in ("catalog.json", "items/ten.json"):
        assert str(tmp_path) not in (tmp_path / "b" / file).read_text()
    catalogue = pystac.Catalog.from_file(str(tmp_path / "b/catalog.json"))
    (found,) = catalogue.get_items(recursive=True)
    found.make_asset_hrefs_absolute()
    opened = s2sr_xr.open_result(found.assets["zarr"].href)
    assert opened.B11.sizes == {"time": 1, "y": 120, "x": 120}
    (link,) = found.get_links("derived_from")
    assert pystac.Item.from_file(link.get_absolute_href()).id == source.id


def test_odc_loads_what_the_catalogue_names(scene, tmp_path):
    odc = pytest.importorskip("odc.stac")
    _, folder, cogs = scene
    item = s2sr_xr.result_item(folder / "ten.zarr", cogs=cogs)
    s2sr_xr.write_catalogue(tmp_path, [item])
    (found,) = pystac.Catalog.from_file(str(tmp_path / "catalog.json")).get_items()
    del found.assets["zarr"], found.assets["quality"]
    names = [b["name"] for b in found.assets["bands"].extra_fields["bands"]]
    name = f"bands.{names.index('B11') + 1}"
    loaded = odc.load([found], bands=[name])
    ds = s2sr_xr.open_result(folder / "ten.zarr")
    codes = loaded[name][0].where(loaded[name][0] != 0)
    np.testing.assert_allclose(codes * 1e-4 - 0.1, ds.B11[0], atol=1e-6)
    np.testing.assert_array_equal(loaded.x, ds.x)
    np.testing.assert_array_equal(loaded.y, ds.y)


def test_a_catalogue_grows(tmp_path):
    paths = [made(tmp_path / f"{n}.zarr") for n in "abc"]
    a, b, c = map(s2sr_xr.result_item, paths)
    s2sr_xr.write_catalogue(tmp_path, [a, b], description="ours")
    newer = s2sr_xr.result_item(paths[1])
    newer.properties["title"] = "again"
    s2sr_xr.write_catalogue(tmp_path, [newer, c])
    catalogue = pystac.Catalog.from_file(str(tmp_path / "catalog.json"))
    found = {i.id: i for i in catalogue.get_items()}
    assert sorted(found) == ["a", "b", "c"]
    assert found["b"].properties["title"] == "again"
    assert catalogue.description == "ours"
    for item in found.values():
        s2sr_xr.open_result(item.assets["zarr"].get_absolute_href())
        assert not item.assets["zarr"].href.startswith("/")
    assert not list(tmp_path.rglob("*.partial"))


def test_runs_that_end_together_list_all_their_items(tmp_path):
    item = s2sr_xr.result_item(made(tmp_path / "a.zarr"))

    def run(n):
        own = item.clone()
        own.id = f"item {n}"
        s2sr_xr.write_catalogue(tmp_path / "a.zarr/../all", [own])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(40)))
    catalogue = pystac.Catalog.from_file(str(tmp_path / "all/catalog.json"))
    found = sorted(i.id for i in catalogue.get_items())
    assert found == sorted(f"item {n}" for n in range(40))
    assert not list(tmp_path.rglob("*.partial"))


def test_the_catalogue_of_others_is_left_alone(tmp_path):
    item = s2sr_xr.result_item(made(tmp_path / "a.zarr"))
    theirs = pystac.Catalog("theirs", "theirs")
    theirs.normalize_and_save(str(tmp_path), pystac.CatalogType.SELF_CONTAINED)
    before = (tmp_path / "catalog.json").read_text()
    with pytest.raises(s2sr_xr.StoreError, match="not made by s2sr_xr"):
        s2sr_xr.write_catalogue(tmp_path, [item])
    assert (tmp_path / "catalog.json").read_text() == before
    for broken in ("{", "[]", "{}", item.to_dict()):
        (tmp_path / "catalog.json").write_text(
            broken if isinstance(broken, str) else json.dumps(broken)
        )
        with pytest.raises(s2sr_xr.StoreError, match="is not a STAC catalogue"):
            s2sr_xr.write_catalogue(tmp_path, [item])
    with pytest.raises(s2sr_xr.StoreError, match="a appears more than once"):
        s2sr_xr.write_catalogue(tmp_path / "new", [item, item])
    (tmp_path / "file").write_text("")
    with pytest.raises(s2sr_xr.StoreError, match="Cannot write the catalogue"):
        s2sr_xr.write_catalogue(tmp_path / "file", [item])
