"""From an xarray object to the same ground at 10 m: values, place, no-data, flags."""

from __future__ import annotations

import ast

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from worlds import CORNER, MIXES, grid, integers, tree

import s2sr_xr
from s2sr_xr.core.area import Area
from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.grid import grid_of
from s2sr_xr.core.scene import scene_of
from s2sr_xr.models import weights_file

ALL = [b for b in BANDS if b != "B10"]


def on_ten_metres(obj):
    """Return the tree as one Dataset at 10 m, nearest neighbour, as odc-stac does."""
    found, coords = {}, obj["r10m"].to_dataset().coords
    for node in obj.children.values():
        for name, array in node.data_vars.items():
            k = BANDS[name].native // 10
            found[name] = (array.dims, array.values.repeat(k, -2).repeat(k, -1))
    return xr.Dataset(found, coords)


def interpolated(values, factor):
    """Return torch's bicubic of the image mirrored at its edges."""
    padded = np.pad(values, 2, mode="symmetric")
    out = torch.nn.functional.interpolate(
        torch.from_numpy(padded.astype("f8"))[None, None],
        scale_factor=factor,
        mode="bicubic",
        align_corners=False,
    )[0, 0].numpy()
    return out[2 * factor : -2 * factor, 2 * factor : -2 * factor]


def test_bicubic_is_torchs():
    obj = tree((9, 7), ALL)
    ten = obj.s2sr.upsample("bicubic")
    for name in ("B05", "B12", "B01", "B09"):
        factor = BANDS[name].native // 10
        native = obj[f"r{BANDS[name].native}m"][name].values
        np.testing.assert_allclose(ten[name], interpolated(native, factor), atol=1e-6)


def test_native_bands_are_handed_on():
    obj = tree((3, 4), ALL, times=2)
    ten = obj.s2sr.upsample("bicubic")
    for name in ("B02", "B03", "B04", "B08"):
        np.testing.assert_array_equal(ten[name], obj["r10m"][name])
    assert "B02" not in obj.s2sr.upsample("bicubic", keep_native=False)


def test_variables_stand_in_instrument_order_with_flags_last():
    assert list(tree((2, 2), ALL).s2sr.upsample("bicubic")) == [*ALL, "quality"]


@pytest.mark.parametrize("times", [None, 1, 3])
def test_geolocation_is_kept(times):
    obj = tree((4, 5), ALL, times=times)
    ten = obj.s2sr.upsample("bicubic")
    for metres in (20, 60):
        coarse = ten.coarsen(x=metres // 10, y=metres // 10).mean()
        fine = obj[f"r{metres}m"].to_dataset()
        np.testing.assert_array_equal(coarse.x, fine.x)
        np.testing.assert_array_equal(coarse.y, fine.y)
    assert ten.x.dtype == ten.y.dtype == np.float64
    assert grid_of(ten) == grid_of(obj["r10m"].to_dataset())
    if times:
        assert list(ten.item_id.values) == [f"item-{t}" for t in range(times)]


def test_rioxarray_finds_the_crs():
    import rioxarray  # noqa: F401

    ten = tree((2, 2), ALL).s2sr.upsample("bicubic")
    assert ten.rio.crs.to_epsg() == 32722
    assert ten.B05.rio.crs.to_epsg() == 32722
    assert ten.B05.rio.transform()[:6] == (10, 0, CORNER[0], 0, -10, CORNER[1])


@pytest.mark.parametrize("form", ["dataset", "array", "common names", "dask dataset"])
def test_what_users_have_gives_the_same_as_a_tree(form):
    obj = tree((6, 5), ALL, times=2)
    flat = on_ten_metres(obj)
    if form == "array":
        flat = flat.to_dataarray("band").transpose("time", "band", "y", "x")
    if form == "common names":
        flat = flat.rename({b: BANDS[b].common for b in flat.data_vars})
    if form == "dask dataset":
        flat = flat.chunk({"x": 7, "y": 11, "time": 1})
    xr.testing.assert_equal(
        flat.s2sr.upsample("bicubic").load(), obj.s2sr.upsample("bicubic")
    )


def test_an_interpolated_cube_is_noticed():
    flat = on_ten_metres(tree((4, 4), ["B02", "B05"]))
    flat["B05"] = flat.B05.interp(x=flat.x + 2).assign_coords(x=flat.x)
    with pytest.warns(s2sr_xr.S2SRWarning, match="B05 is not constant"):
        flat.s2sr.upsample("bicubic")


def test_numpy_stays_numpy_and_dask_stays_lazy():
    obj = tree((3, 3), ALL)
    assert all(
        v.chunks is None for v in obj.s2sr.upsample("bicubic").variables.values()
    )
    lazy = obj.chunk(x=7, y=5).s2sr.upsample("bicubic")
    assert all(v.chunks is not None for v in lazy.data_vars.values())
    xr.testing.assert_identical(lazy.load(), obj.s2sr.upsample("bicubic"))


def test_nothing_is_read_early():
    import dask.array as da

    def explode(_):
        raise AssertionError("a pixel was read")

    def blown(array):
        data = array.data
        return array.copy(
            data=da.map_blocks(explode, data, dtype="f4", meta=data._meta)
        )

    obj = (
        tree((3, 3), ALL).chunk(x=20, y=20).map_over_datasets(lambda ds: ds.map(blown))
    )
    lazy = obj.s2sr.upsample("bicubic")
    with pytest.raises(AssertionError, match="a pixel was read"):
        lazy.B05.load()


def test_names_of_lazy_results_are_reproducible():
    obj = tree((3, 3), ALL).chunk(x=20, y=20)
    assert (
        obj.s2sr.upsample("bicubic").B05.data.name
        == obj.s2sr.upsample("bicubic").B05.data.name
    )
    assert (
        obj.s2sr.upsample("bicubic").B05.data.name
        != obj.s2sr.upsample("nearest").B05.data.name
    )


# --- finer than 10 m ---------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 17])
def test_five_metres_stand_where_ten_did(chunks, tmp_path):
    spec = MIXES["10+20->5"]
    obj = tree((9, 11), spec.bands, cell=20, times=2, values=integers())
    if chunks:
        obj = obj.chunk(x=chunks, y=chunks)
    five = obj.s2sr.superresolve(spec.name, check=False)
    assert list(five) == [b for b in BANDS if b in spec.output.names] + ["quality"]
    assert five.attrs["title"].endswith("5 m")
    coarse = five.coarsen(x=2, y=2).mean()
    np.testing.assert_array_equal(coarse.x, obj["r10m"].x)
    np.testing.assert_array_equal(coarse.y, obj["r10m"].y)
    alone = obj.s2sr.superresolve(spec.name, bands=["nir"], check=False)
    xr.testing.assert_equal(alone.B08, five.B08)
    if chunks:
        five[["quality"]].s2sr.to_zarr(tmp_path / "five.zarr")
        again = s2sr_xr.open_result(tmp_path / "five.zarr")
        np.testing.assert_array_equal(again.x, five.x)


def test_without_weights_there_is_no_five_metres():
    obj = tree((2, 2), ALL)
    with pytest.raises(s2sr_xr.ModelError, match="No weights of carn"):
        obj.s2sr.superresolve("carn")
    with pytest.raises(s2sr_xr.MissingBandError, match="carn does not make B01"):
        obj.s2sr.superresolve("carn", bands=["B01"])


# --- no-data -----------------------------------------------------------------------


@given(seed=st.integers(0, 999), chunks=st.integers(3, 40))
def test_no_data_stays_no_data_and_does_not_spread(seed, chunks):
    rng = np.random.default_rng(seed)
    obj = tree((5, 6), ALL, seed=seed)
    for node in obj.children.values():
        for name in node.data_vars:
            values = node[name].values
            values[rng.random(values.shape) < 0.05] = rng.choice(
                [np.nan, np.inf, -np.inf]
            )
            values[: rng.integers(0, 4)] = np.nan
    ten = obj.s2sr.upsample("bicubic")
    for name in ALL:
        k = BANDS[name].native // 10
        native = obj[f"r{BANDS[name].native}m"][name].values
        missing = ~np.isfinite(native).repeat(k, 0).repeat(k, 1)
        if k > 1:
            np.testing.assert_array_equal(np.isnan(ten[name]), missing)
    lazy = obj.chunk(x=chunks, y=chunks + 1).s2sr.upsample("bicubic")
    xr.testing.assert_identical(lazy.load(), ten)


@pytest.mark.parametrize("name", ["_FillValue", "nodata", "missing_value"])
@pytest.mark.parametrize("chunks", [None, 7])
def test_a_value_that_is_called_missing_is_missing(name, chunks):
    obj = on_ten_metres(tree((5, 6), ["B02", "B11"]))
    gone = np.zeros(obj.B11.shape, bool)
    gone[4:8, 6:10] = True
    filled = obj.where(~gone, -9999.0)
    for band in ("B02", "B11"):
        filled[band].attrs[name] = -9999.0
    filled = filled if chunks is None else filled.chunk(x=chunks, y=chunks)
    ten = filled.s2sr.upsample("bicubic", bands=["B11"])
    expected = obj.where(~gone).s2sr.upsample("bicubic", bands=["B11"])
    xr.testing.assert_equal(ten.load(), expected)
    assert np.array_equal(np.isnan(ten.B11), gone)


def test_a_zero_that_is_left_over_from_counts_stays():
    obj = on_ten_metres(tree((2, 2), ["B02", "B11"]))
    obj.B11.attrs["nodata"] = 0
    obj.B11[:2, :2] = 0
    assert np.isfinite(obj.s2sr.upsample("bicubic", bands=["B11"]).B11).all()


def test_far_from_a_hole_nothing_changes():
    clean = tree((9, 9), ALL)
    holed = clean.copy(deep=True)
    holed["r20m"]["B05"].values[0, 0] = np.nan
    a, b = clean.s2sr.upsample("bicubic"), holed.s2sr.upsample("bicubic")
    changed = (a.B05 != b.B05).values
    assert changed[:2, :2].all()
    assert not changed[6:].any()
    assert not changed[:, 6:].any()


def test_flags_say_what_the_network_saw():
    obj = tree((9, 9), ["B02", "B05"])
    obj["r20m"]["B05"].values[13, 13] = np.nan
    obj["r20m"]["B05"].values[4, 4] = 6.5535
    quality = obj.s2sr.upsample("bicubic").quality
    filled, saturated = quality & 1, quality & 2
    for bit, at in ((filled, 13), (saturated, 4)):
        seen = np.zeros((54, 54), bool)
        seen[2 * (at - 2) : 2 * (at + 3), 2 * (at - 2) : 2 * (at + 3)] = True
        np.testing.assert_array_equal(bit > 0, seen)
    assert quality.dtype == np.uint8
    assert list(quality.flag_masks) == [1, 2, 4, 8]
    assert len(quality.flag_meanings.split()) == 4


@pytest.mark.parametrize("chunks", [None, 11])
def test_masks_of_the_product_reach_the_flags(chunks):
    obj = tree((9, 9), ["B02", "B05", "B01"])
    masks = {20: np.zeros((27, 27), np.uint8), 60: np.zeros((9, 9), np.uint8)}
    masks[20][13, 13], masks[60][2, 6] = 4, 2
    obj = xr.DataTree.from_dict(
        {
            name: node.to_dataset().assign(
                {"flags": (("y", "x"), masks[int(name[1:-1])])}
                if name != "r10m"
                else {}
            )
            for name, node in obj.children.items()
        }
    )
    if chunks:
        obj = obj.chunk(x=chunks, y=chunks)
    quality = obj.s2sr.upsample("bicubic").quality.values
    defect, saturated = np.zeros((54, 54), bool), np.zeros((54, 54), bool)
    defect[2 * 11 : 2 * 16, 2 * 11 : 2 * 16] = True
    saturated[: 6 * 5, 6 * 4 : 6 * 9] = True
    np.testing.assert_array_equal(quality & 4 > 0, defect)
    np.testing.assert_array_equal(quality & 2 > 0, saturated)


def test_an_empty_scene_is_empty():
    obj = tree((3, 3), ALL, values=lambda size: np.full(size, np.nan, "f4"))
    ten = obj.s2sr.upsample("bicubic")
    assert all(np.isnan(ten[b]).all() for b in ALL)
    assert (ten.quality == 1).all()


@pytest.mark.parametrize("cells", [(1, 1), (1, 4), (3, 1)])
def test_a_single_cell_is_a_scene(cells):
    ten = tree(cells, ALL).s2sr.upsample("bicubic")
    assert ten.sizes == {"y": 6 * cells[0], "x": 6 * cells[1]}
    assert all(np.isfinite(ten[b]).all() for b in ALL)


# --- windows -----------------------------------------------------------------------


@given(
    x=st.tuples(st.floats(-50, 500), st.floats(-50, 500)),
    y=st.tuples(st.floats(-50, 500), st.floats(-50, 500)),
)
def test_a_window_holds_what_was_asked_for_in_whole_cells(x, y):
    obj = tree((6, 7), ALL)
    x = tuple(CORNER[0] + v for v in sorted(x))
    y = tuple(CORNER[1] - v for v in sorted(y, reverse=True))
    west, south, east, north = grid_of(obj["r10m"].to_dataset()).extent
    wanted = (max(x[0], west), max(y[0], south), min(x[1], east), min(y[1], north))
    try:
        cut = obj.s2sr.window(x=x, y=y)
    except s2sr_xr.GridError:
        # Edges are told apart to a micrometre.
        assert wanted[0] > wanted[2] - 1e-6 or wanted[1] > wanted[3] - 1e-6
        return
    extents = {grid_of(node.to_dataset()).extent for node in cut.children.values()}
    assert len(extents) == 1
    got = extents.pop()
    assert got[0] <= max(wanted[0], west)
    assert got[1] <= wanted[1]
    assert got[2] >= wanted[2]
    assert got[3] >= wanted[3]
    assert (got[0] % 60, (got[3] - 10_000_000) % 60) == (0, 0)
    cut.s2sr.upsample("bicubic")


def test_a_window_in_degrees_is_the_same_ground():
    from pyproj import Transformer

    obj = tree((20, 20), ALL)
    lon, lat = Transformer.from_crs(32722, 4326, always_xy=True).transform(
        [CORNER[0] + 300, CORNER[0] + 700], [CORNER[1] - 800, CORNER[1] - 400]
    )
    box = (lon[0], lat[0], lon[1], lat[1])
    ring = [[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[1]]]
    polygon = {"type": "Polygon", "coordinates": [ring]}

    class Shape:
        __geo_interface__ = polygon

    by_box = obj.s2sr.window(bbox=box)
    for geometry in (polygon, Shape(), {"type": "Feature", "geometry": polygon}):
        xr.testing.assert_identical(obj.s2sr.window(geometry=geometry), by_box)
    metres = (CORNER[0] + 300, CORNER[1] - 800, CORNER[0] + 700, CORNER[1] - 400)
    xr.testing.assert_identical(obj.s2sr.window(bbox=metres, crs="EPSG:32722"), by_box)
    west, south, east, north = grid_of(by_box["r10m"].to_dataset()).extent
    assert west <= metres[0] < west + 120
    assert south <= metres[1] < south + 120
    assert east - 120 < metres[2] <= east
    assert north - 120 < metres[3] <= north


@pytest.mark.parametrize(
    ("area", "match"),
    [
        ({}, "A window is one of"),
        ({"x": (0, 1)}, "A window is one of"),
        ({"bbox": (0, 0, 1, 1), "x": (0, 1), "y": (0, 1)}, "A window is one of"),
        ({"bbox": (0, 0, 1, 1)}, "does not meet a whole 60 m cell"),
        ({"bbox": (0, 0, float("nan"), 1)}, "finite numbers"),
        ({"geometry": {"type": "Polygon"}}, "without coordinates"),
        ({"geometry": 7}, "is a int without coordinates"),
        ({"bbox": (0, 0, 1, 1), "crs": "nowhere"}, "no place in the data's zone"),
        ({"bbox": (1, 0, 0, 1), "crs": "nowhere"}, "no place in the data's zone"),
        ({"bbox": (600300, 8198200, 600600, 8199000)}, r"itself are x=\(west, east\)"),
        ({"bbox": ("1", "2", "3", "4")}, "four finite numbers"),
        ({"x": slice(0, 9), "y": (0, 9)}, "x is two bounds in metres; got x=slice"),
        ({"x": (0, 9), "y": (0,)}, r"y is two bounds in metres; got y=\(0,\)"),
    ],
)
def test_a_window_that_is_none_is_refused(area, match):
    with pytest.raises(s2sr_xr.GridError, match=match):
        tree((2, 2), ALL).s2sr.window(**area)


def test_a_window_over_the_antimeridian_is_no_belt_around_the_globe():
    fiji = (177.0, -20.0, -178.0, -12.0)
    with pytest.raises(s2sr_xr.GridError, match="does not meet"):
        tree((2, 2), ALL).s2sr.window(bbox=fiji)
    part = Area(fiji).on(grid((2, 2), epsg="EPSG:32760"))
    whole = Area((177.0, -20.0, 182.0, -12.0)).on(grid((2, 2), epsg="EPSG:32760"))
    np.testing.assert_allclose(part, whole)
    assert Area((5.0, 1.0, 4.0, 0.0)).bounds == (4.0, 0.0, 5.0, 1.0)


def test_a_group_in_its_tree_is_cut_as_a_dataset():
    obj = tree((3, 3), ALL)
    ends = {"x": (CORNER[0], CORNER[0] + 60), "y": (CORNER[1] - 80, CORNER[1])}
    with pytest.raises(s2sr_xr.GridError, match=r"\['r10m'\].to_dataset"):
        obj["r10m"].s2sr.window(**ends)
    assert obj["r10m"].to_dataset().s2sr.window(**ends).sizes["x"] == 6


# --- bad input ---------------------------------------------------------------------


def flat(**changes):
    return on_ten_metres(tree((4, 4), ["B02", "B05", "B01"])).assign_coords(**changes)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: tree((2, 2), ["B02", "B08"]), s2sr_xr.MissingBandError, "all at 10 m"),
        (
            lambda: flat(x=flat().x - 5, y=flat().y + 5),
            s2sr_xr.GridError,
            'pixel corners.*xy_coords="center"',
        ),
        (lambda: flat(x=flat().x + 2), s2sr_xr.GridError, r"shifted by \(0.20, 0.00\)"),
        (
            lambda: flat().astype("uint16"),
            s2sr_xr.RadiometryError,
            r"s2sr.decode\(offset",
        ),
        (lambda: flat() * 1e4, s2sr_xr.RadiometryError, "counts or percent"),
        (lambda: flat() * 100, s2sr_xr.RadiometryError, "median of"),
        (lambda: flat() - 0.3, s2sr_xr.RadiometryError, "applied twice"),
        (lambda: flat().isel(x=0), s2sr_xr.GridError, "without x"),
        (lambda: flat().isel(x=slice(0)), s2sr_xr.GridError, "empty along x"),
        (
            lambda: flat().drop_vars("x"),
            s2sr_xr.GridError,
            "Without coordinates along x",
        ),
        (
            lambda: flat().drop_vars("spatial_ref"),
            s2sr_xr.GridError,
            "no CRS.*write_crs",
        ),
        (lambda: flat().isel(y=slice(None, None, -1)), s2sr_xr.GridError, "y ascends"),
        (lambda: flat().isel(x=slice(None, None, -1)), s2sr_xr.GridError, "x descends"),
        (
            lambda: flat().isel(x=[0, 1, 2, 5, 6, 7]),
            s2sr_xr.GridError,
            "x is not regular.*after index 2",
        ),
        (
            lambda: flat().rename(B02="red_edge", B05="a", B01="b"),
            s2sr_xr.MissingBandError,
            "No variable is named like",
        ),
        (
            lambda: flat().B05.drop_vars("x").rename("ndvi").isel(x=0, y=0),
            s2sr_xr.GridError,
            "without y and x",
        ),
        (
            lambda: xr.DataArray(np.zeros(3), dims="time"),
            s2sr_xr.GridError,
            "without y and x",
        ),
        (
            lambda: flat().expand_dims(sensor=2),
            s2sr_xr.GridError,
            "it needs",
        ),
        (xr.DataTree, s2sr_xr.GridError, "none of r10m"),
        (
            lambda: tree((2, 2), ["B02", "B05"]).s2sr.upsample("bicubic"),
            s2sr_xr.GridError,
            "already at 10 m, made by bicubic-20m",
        ),
        (
            lambda: flat(
                spatial_ref=grid((24, 24), epsg=32633).coords()["spatial_ref"]
            ),
            s2sr_xr.GridError,
            "20 m south|not made of whole",
        ),
        (
            lambda: flat().B02.rename("unnamed"),
            s2sr_xr.MissingBandError,
            "name 'unnamed'",
        ),
    ],
)
def test_bad_objects_are_refused_with_the_remedy(make, error, match):
    with pytest.raises(error, match=f"(?s){match}"):
        make().s2sr.upsample("bicubic")


def test_a_grid_that_is_not_utm_is_refused():
    from pyproj import CRS

    lonlat = xr.Variable((), 0, CRS.from_epsg(4326).to_cf())
    with pytest.raises(s2sr_xr.GridError, match="not in a UTM zone"):
        flat(spatial_ref=lonlat).s2sr.upsample("bicubic")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"bands": ["B11", "B6"]}, s2sr_xr.MissingBandError, "do not have B06"),
        ({"bands": ["B0l"]}, s2sr_xr.MissingBandError, r"did you mean B\d+\?"),
        ({"bands": ["B02"]}, s2sr_xr.GridError, "already at 10 m"),
        ({"bands": "B05"}, s2sr_xr.MissingBandError, r"bands=\['B05'\]"),
        ({"bands": []}, s2sr_xr.MissingBandError, "names no band"),
        ({"bands": [5]}, s2sr_xr.MissingBandError, "names no band"),
        ({"batch": 0}, s2sr_xr.ModelError, "at least 1; got 0"),
        ({"device": "gpu"}, s2sr_xr.ModelError, "device='gpu' is not usable"),
        ({"model": "bicubik"}, s2sr_xr.ModelError, "No model is named 'bicubik'"),
        ({"model": {"20m": "bicubic-20m"}}, s2sr_xr.ModelError, "no network for B01"),
        ({"model": {"30m": "x"}}, s2sr_xr.ModelError, "makes bands of 30m finer"),
        ({"model": "csr-s"}, s2sr_xr.ModelError, "'csr-s' makes bands of 10m finer"),
        ({"model": "carn-s"}, s2sr_xr.ModelError, r"superresolve\(model=\"carn-s\"\)"),
        ({"model": {"20m": None}}, s2sr_xr.ModelError, "no network for"),
        ({"model": 7}, s2sr_xr.ModelError, "model=7 is not a name, a file"),
        ({"bands": 11}, s2sr_xr.MissingBandError, "a list of names; got 11"),
        ({"precision": "float16"}, s2sr_xr.ModelError, "precision='float16'"),
        ({"device": "meta"}, s2sr_xr.ModelError, "device='meta' is not usable"),
        ({"device": "cuda:7"}, s2sr_xr.ModelError, "device='cuda:7' is not usable"),
    ],
)
def test_bad_options_are_refused_with_the_remedy(options, error, match):
    obj = tree((2, 2), ["B02", "B05", "B11", "B01"])
    with pytest.raises(error, match=match):
        obj.s2sr.upsample(**{"model": "bicubic"} | options)


def test_a_file_of_weights_may_be_a_path(tmp_path):
    path = tmp_path / "mine.safetensors"
    spec = s2sr_xr.get_spec("dsen2-s-20m")
    weights_file.save(path, s2sr_xr.load_model(spec.name), spec, spec.name)
    obj = tree((4, 4), spec.bands)
    by_path = obj.s2sr.upsample(path, bands=np.array(["B11"]))
    xr.testing.assert_equal(by_path, obj.s2sr.upsample("dsen2-s-20m", bands=["B11"]))


@pytest.mark.parametrize("crs", ["foo", "EPSG:999999"])
def test_a_crs_that_nobody_knows_is_said(crs):
    obj = flat().drop_vars("spatial_ref").assign_attrs(crs=crs)
    with pytest.raises(s2sr_xr.GridError, match=rf"CRS is '{crs}', which is unknown"):
        obj.s2sr.upsample("bicubic")


def test_groups_that_do_not_nest_are_refused():
    obj = tree((4, 4), ALL)
    obj["r60m"] = obj["r60m"].to_dataset().isel(x=slice(1, None))
    with pytest.raises(s2sr_xr.GridError, match=r"s2sr\.window"):
        obj.s2sr.upsample("bicubic")
    assert "B05" in obj.s2sr.upsample("bicubic", bands=["B05"])


def test_a_crop_on_20_m_works_for_20_m_bands_and_explains_itself_for_60_m():
    crop = flat().isel(x=slice(2, 20), y=slice(2, 20))
    assert crop.s2sr.upsample("bicubic", bands=["B05"]).sizes["x"] == 18
    with pytest.raises(s2sr_xr.GridError, match=r"whole 60 m cells.*bands=\[") as info:
        crop.s2sr.upsample("bicubic")
    assert "20 m east and 20 m south" in str(info.value)


def test_the_remedies_work():
    """What the messages of this file suggest, done."""
    crop = flat().isel(x=slice(2, 20), y=slice(2, 20))
    x, y = ((float(c.min()), float(c.max())) for c in (crop.x, crop.y))
    assert crop.s2sr.window(x=x, y=y).s2sr.upsample("bicubic").sizes == {
        "y": 12,
        "x": 12,
    }
    obj = tree((4, 4), ALL)
    obj["r60m"] = obj["r60m"].to_dataset().isel(x=slice(1, None))
    x, y = ((float(c.min()), float(c.max())) for c in (obj["r10m"].x, obj["r10m"].y))
    assert obj.s2sr.window(x=x, y=y).s2sr.upsample("bicubic").sizes == {
        "y": 24,
        "x": 18,
    }
    with pytest.raises(s2sr_xr.ModelError, match="no network for B01") as info:
        flat().s2sr.upsample({"20m": "nearest-20m"})
    said = str(info.value).partition("model=")[2].removesuffix(".")
    assert flat().s2sr.upsample(ast.literal_eval(said)).B01.attrs["s2sr_model"]
    noisy = flat(x=flat().x - 1e-7)
    assert noisy.s2sr.upsample("bicubic").x[0] == flat().x[0]


def test_a_single_time_stays():
    obj = tree((2, 2), ALL, times=2)
    one = obj.isel(time=1).s2sr.upsample("bicubic")
    assert one.B05.dims == ("y", "x")
    assert one.time == obj["r10m"].time[1]
    assert one.item_id.item() == "item-1"


def test_no_time_is_an_empty_selection():
    obj = tree((2, 2), ALL, times=2).isel(time=slice(0))
    with pytest.raises(s2sr_xr.GridError, match="empty along time"):
        obj.s2sr.upsample("bicubic")


def test_a_rim_of_the_swath_is_not_judged():
    obj = tree((9, 9), ["B02", "B05"], values=lambda s: np.full(s, np.nan, "f4"))
    obj["r20m"]["B05"].values[0, 0] = 6.4
    obj["r10m"]["B02"].values[0, 0] = -0.05
    assert np.isfinite(obj.s2sr.upsample("bicubic").B05[0, 0])


def test_masks_lie_where_the_bands_do():
    mask = np.zeros((27, 27), np.uint8)
    mask[2, 20] = 4
    obj = tree((9, 9), ["B02", "B05"], cell=60)
    ds = obj["r20m"].to_dataset().assign(flags=(("y", "x"), mask))
    obj["r20m"] = ds
    turned = xr.DataTree.from_dict(
        {n: g.to_dataset().transpose("x", "y") for n, g in obj.children.items()}
    )
    turned.attrs = obj.attrs
    xr.testing.assert_equal(
        obj.s2sr.upsample("bicubic"), turned.s2sr.upsample("bicubic")
    )


def test_the_cirrus_band_is_interpolated_only_by_name():
    obj = tree((3, 3), ["B02", "B05", "B10"])
    assert "B10" not in obj.s2sr.upsample("bicubic")
    assert (
        obj.s2sr.upsample("nearest", bands=["B10"]).B10.attrs["s2sr_model"]
        == "nearest-60m"
    )
    ten = obj.s2sr.upsample({"20m": "bicubic-20m"}, bands=["B05", "B10"])
    assert ten.B10.attrs["s2sr_model"] == "bicubic-60m"


def test_check_false_lets_strange_values_through():
    assert np.isfinite((flat() * 1e4).s2sr.upsample("bicubic", check=False).B05).all()


def test_counts_are_decoded_once():
    counts = (flat() * 1e4 + 1000).round().astype("uint16")
    counts["B05"][:2, :2] = 0
    ten = counts.s2sr.decode(offset=-1000).s2sr.upsample("bicubic")
    assert np.isnan(ten.B05[0, 0])
    np.testing.assert_allclose(ten.B02, flat().B02, atol=0.51e-4)
    with pytest.raises(s2sr_xr.RadiometryError, match="got 0"):
        counts.s2sr.decode(offset=-1000, scale=0)
    with pytest.raises(s2sr_xr.RadiometryError, match="got nan"):
        counts.s2sr.decode(offset=float("nan"))
    with pytest.raises(s2sr_xr.RadiometryError, match="B02 is reflectance already"):
        counts.s2sr.decode(offset=-1000).s2sr.decode(offset=0)
    with pytest.raises(s2sr_xr.RadiometryError, match="named like a band; the tree"):
        xr.DataTree(xr.Dataset({"depth": 1})).s2sr.decode(offset=0)


@pytest.mark.parametrize("fill", [-9999, 65535])
def test_counts_that_are_called_missing_are(fill):
    counts = xr.DataArray(
        np.array([[fill, 0, 5000]], np.int32), dims=("y", "x"), name="B02"
    )
    decoded = counts.assign_attrs(_FillValue=fill).s2sr.decode(offset=0)
    np.testing.assert_allclose(decoded, [[np.nan, np.nan, 0.5]])
    assert "_FillValue" not in decoded.attrs


def test_an_error_in_a_block_is_ours():
    lazy = (tree((3, 3), ["B02", "B05"]).chunk(x=6) * 1e4).s2sr.upsample("bicubic")
    with (
        dask.config.set(scheduler="threads"),
        pytest.raises(s2sr_xr.RadiometryError, match="counts or percent"),
    ):
        lazy.load()


def test_scene_knows_its_level():
    assert scene_of(tree((1, 1), ["B02"])).level == "L1C"


@pytest.mark.parametrize(("chunk", "threads"), [(2196, 4), (366, 1)])
def test_cores_that_have_no_block_help_with_those_there_are(chunk, threads):
    from s2sr_xr.engine.api import threads_of_torch
    from s2sr_xr.engine.lazy import job_of
    from s2sr_xr.engine.thread_team import cores

    obj = tree((130, 130), ALL).chunk(x=chunk, y=chunk)
    job = job_of(obj.s2sr.upsample("bicubic", bands=["B11"]))
    assert threads_of_torch(job, 16) == threads  # for 4 and 9 blocks
    assert job.task.threads == threads_of_torch(job, cores())
