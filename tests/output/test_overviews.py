"""Each level of a pyramid is the mean of the valid pixels of the one before."""

from __future__ import annotations

import json
import tracemalloc
import warnings
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from worlds import tree
from zarr.storage import MemoryStore

import s2sr_xr
from s2sr_xr.output import zarr as s2
from s2sr_xr.output.overviews import halve, mean_of, write_pyramid

BANDS = ["B02", "B03", "B04", "B05", "B08", "B11", "B12"]


def result(cells=(13, 15), times=2):
    """Return a result of odd sides in which pixels are missing."""
    rng = np.random.default_rng(0)
    obj = tree(
        cells,
        BANDS,
        times=times,
        values=lambda s: rng.uniform(0.1, 0.5, s).astype("f4"),
    )
    ten = obj.s2sr.upsample("bicubic").isel(x=slice(1, None))
    ten["B11"] = ten.B11.where(rng.random(ten.B11.shape) > 0.4)
    ten["ndvi"] = (ten.B08 - ten.B04) / (ten.B08 + ten.B04)
    ten["sea"] = (ten.B08 < 0.2).astype("int16")
    ten["quality"] = ten.quality + rng.integers(0, 8, ten.quality.shape, "u1")
    ten.quality.attrs = {"flag_masks": np.uint8([1, 2, 4])}
    return ten


@pytest.fixture(params=["directory", "memory", "url"])
def place(request, tmp_path):
    if request.param == "url":
        return f"memory://{tmp_path.name}.zarr"
    return tmp_path / "out.zarr" if request.param == "directory" else MemoryStore()


def test_levels_are_means_of_the_valid(place):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result().s2sr.to_zarr(place)
        assert s2sr_xr.add_pyramid(place, levels=3) == (
            "overviews/x2",
            "overviews/x4",
            "overviews/x8",
        )
        levels = [
            xr.open_zarr(place, group=g or None)
            for g in ("", "overviews/x2", "overviews/x4", "overviews/x8")
        ]
    cut = {"y": 2, "x": 2, "boundary": "pad"}
    for fine, coarse in pairwise(levels):
        for name in (*BANDS, "ndvi"):
            mean = fine[name].coarsen(**cut).mean()
            step = 1e-6 if name == "ndvi" else 0.51e-4
            np.testing.assert_allclose(coarse[name], mean, atol=step)
        np.testing.assert_array_equal(coarse.sea, fine.sea[:, ::2, ::2])
        for bit in (1, 2, 4):
            had = ((fine.quality & bit) > 0).astype(float).coarsen(**cut).max()
            np.testing.assert_array_equal((coarse.quality & bit) > 0, had == 1)
        assert coarse.item_id.values.tolist() == ["item-0", "item-1"]
        np.testing.assert_array_equal(coarse.time, fine.time)


@given(
    values=arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7),
        elements=st.sampled_from([np.nan, 0.1, 0.25, 1.5]).map(np.float32),
    )
)
def test_a_mean_is_missing_only_where_all_are(values):
    padded = np.pad(
        values.astype(float), [(0, n % 2) for n in values.shape], constant_values=np.nan
    )
    cells = padded.reshape(padded.shape[0] // 2, 2, -1, 2).swapaxes(1, 2)
    found = mean_of(values)
    for cell, mean in zip(cells.reshape(-1, 4), found.ravel(), strict=True):
        valid = cell[~np.isnan(cell)]
        assert np.isnan(mean) == (valid.size == 0)
        assert valid.size == 0 or mean == pytest.approx(valid.mean())


def test_codes_at_the_end_of_the_range_stay():
    attrs = {"scale_factor": 1e-4, "add_offset": -0.1}
    for code in (0, 1, 65535):
        assert (
            halve(np.full((3, 3), code, np.uint16), attrs).tolist() == [[code] * 2] * 2
        )


def test_pixels_stay_where_they_are(tmp_path):
    import rioxarray  # noqa: F401

    ten = result()
    ten.s2sr.to_zarr(tmp_path / "a.zarr")
    s2sr_xr.add_pyramid(tmp_path / "a.zarr", levels=2)
    opened = xr.open_datatree(tmp_path / "a.zarr", group="overviews", engine="zarr")
    for factor in (2, 4):
        level = opened[f"x{factor}"].to_dataset()
        res = 10 * factor
        assert level.rio.crs.to_epsg() == level.B11.rio.crs.to_epsg() == 32722
        expected = (res, 0, 600_010, 0, -res, 8_200_000)
        assert tuple(level.rio.transform())[:6] == expected
        assert tuple(level.rio.transform(recalc=True))[:6] == expected
        assert level.attrs["spatial:transform"] == list(map(float, expected))
        assert level.B11.attrs["spatial:shape"] == list(level.B11.shape[1:])


def test_a_part_does_not_inherit_the_levels_of_the_whole(tmp_path):
    result().s2sr.to_zarr(tmp_path / "out.zarr")
    s2sr_xr.add_pyramid(tmp_path / "out.zarr", levels=1)
    assert "multiscales" in xr.open_zarr(tmp_path / "out.zarr").attrs
    assert "multiscales" not in s2sr_xr.open_result(tmp_path / "out.zarr").attrs


def test_the_store_says_what_its_levels_are(tmp_path):
    path = tmp_path / "a.zarr"
    result().s2sr.to_zarr(path)
    before = s2sr_xr.open_result(path).load()
    s2sr_xr.add_pyramid(path, levels=2)
    after = s2sr_xr.open_result(path)
    xr.testing.assert_equal(before, after)
    assert after.attrs["state"] == "complete"
    meta = json.loads((path / "zarr.json").read_text())
    attrs, listed = meta["attributes"], meta["consolidated_metadata"]["metadata"]
    assert "overviews/x4/B11" in listed
    assert [c["name"] for c in attrs["zarr_conventions"]] == [
        "proj",
        "spatial",
        "multiscales",
    ]
    layout = attrs["multiscales"]["layout"]
    assert [e["asset"] for e in layout] == [".", "overviews/x2", "overviews/x4"]
    assert [e.get("derived_from") for e in layout] == [None, ".", "overviews/x2"]
    root = zarr.open_group(path, mode="r")
    for entry in layout:
        node = root if entry["asset"] == "." else root[entry["asset"]]
        assert list(node["B02"].shape[1:]) == entry["spatial:shape"]
        assert entry["transform"]["translation"] == [0, 0]
    assert layout[2]["transform"]["scale"] == [2, 2]


def test_an_older_pyramid_is_replaced(place):
    result().s2sr.to_zarr(place)
    s2sr_xr.add_pyramid(place, levels=3)
    s2sr_xr.add_pyramid(place, levels=1)
    root = zarr.open_group(place, mode="r")
    assert list(root["overviews"]) == ["x2"]
    assert len(root.attrs["multiscales"]["layout"]) == 2
    assert len(root.attrs["zarr_conventions"]) == 3


def test_how_many_levels(tmp_path):
    ten = result((13, 15), None)
    ten.s2sr.to_zarr(tmp_path / "a.zarr")
    assert s2sr_xr.add_pyramid(tmp_path / "a.zarr") == ("overviews/x2",)
    large = tree((180, 2), ["B02"])["r10m"].to_dataset()
    large.s2sr.to_zarr(tmp_path / "b.zarr")
    assert len(s2sr_xr.add_pyramid(tmp_path / "b.zarr")) == 2  # 1080 to 540 to 270
    for levels in (0, 7, -1):
        with pytest.raises(s2sr_xr.GridError, match=rf"levels={levels} .*1 to 6"):
            s2sr_xr.add_pyramid(tmp_path / "a.zarr", levels=levels)


def test_an_unfinished_store_is_refused(tmp_path):
    target = s2.create(tmp_path / "a.zarr", result(), block=(20, 20))
    with pytest.raises(s2sr_xr.StoreError, match="unfinished"):
        s2sr_xr.add_pyramid(tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr/overviews").exists()
    assert target.blocks == (2, 4, 5)
    xr.Dataset({"a": 1}).to_zarr(tmp_path / "theirs", consolidated=False, zarr_format=3)
    with pytest.raises(s2sr_xr.StoreError, match="not made by"):
        s2sr_xr.add_pyramid(tmp_path / "theirs")


def test_memory_does_not_grow_with_the_store():
    """A store sixteen times as large takes no more than twice the memory."""
    peaks = []
    for side in (256, 1024):
        store = MemoryStore()
        ds = tree((-(-side // 6),) * 2, ["B02"])["r10m"].to_dataset()
        ds = ds.isel(x=slice(side), y=slice(side))
        target = s2.create(store, ds, block=(64, 64), unit=(64, 64))
        for index in target.indices():
            target.write(index, {"B02": ds.B02.values[target.box(index).slices]})
        target.finish()
        tracemalloc.start()
        write_pyramid(store, 1, block=64)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        kept = sum(len(v) for k, v in store._store_dict.items() if "overviews" in k)
        peaks[-1] -= kept
    assert peaks[1] < 2 * peaks[0]
