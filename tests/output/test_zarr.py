"""A store holds what was written, where it was, and never passes for more than that."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pyproj import CRS
from zarr.storage import FsspecStore, MemoryStore

from s2sr_xr.errors import ChunkError, GridError, RadiometryError, StoreError
from s2sr_xr.output import zarr as s2
from s2sr_xr.output.zarr import template as outline
from s2sr_xr.output.zarr.attrs import jsonable

PACKINGS = [s2.REFLECTANCE, s2.COUNTS]
PLAIN_OPEN = (
    "ignore:Failed to open Zarr store with consolidated:RuntimeWarning",
    "ignore:Object at _s2sr is not:zarr.errors.ZarrUserWarning",
)


def run_child(code, stdin=b""):
    """What a fresh process, somewhere else, prints."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(
        run, input=stdin, stdout=subprocess.PIPE, cwd="/", env=env, check=True
    ).stdout.decode()


# --- codes ---


def exact_code(value, packing):
    """One code in rational arithmetic: Python rounds a Fraction half to even."""
    if not np.isfinite(value):
        return 0, False
    code = round(Fraction(float(value)) * packing.per_unit + packing.zero)
    return min(max(code, 1), 65535), not 1 <= code <= 65535


def floats(packing):
    """Any float32, those in range more often, ties more often still."""
    step = packing.scale_factor
    tie = st.integers(-40, 200).map(lambda k: k * packing.per_unit * step / 32)
    code = st.integers(-5, 65540).map(lambda c: c * step + packing.add_offset)
    return st.one_of(st.floats(width=32), tie, code).map(np.float32)


@pytest.mark.parametrize("packing", PACKINGS)
@given(data=st.data())
def test_codes_are_those_of_exact_arithmetic(packing, data):
    shape = data.draw(array_shapes(min_dims=1, max_dims=3, max_side=7))
    values = data.draw(arrays(np.float32, shape, elements=floats(packing)))
    codes, clipped = s2.encode(values, packing)
    expected = [exact_code(v, packing) for v in values.flat]
    assert codes.dtype == np.uint16
    assert codes.shape == values.shape
    assert codes.ravel().tolist() == [code for code, _ in expected]
    assert clipped == sum(beyond for _, beyond in expected)


def test_codes_do_not_depend_on_strips_or_layout():
    values = np.random.default_rng(0).normal(0.3, 1.0, (701, 397)).astype(np.float32)
    values[::9, ::7] = np.nan
    whole = s2.encode(values, s2.REFLECTANCE)
    for other in (values, np.asfortranarray(values), values[None]):
        codes, clipped = s2.encode(other, s2.REFLECTANCE, strip=1000)
        assert (codes.reshape(values.shape) == whole[0]).all()
        assert clipped == whole[1] > 0


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_code_survives_decoding(packing):
    codes = np.arange(65536, dtype=np.uint16)
    values = s2.decode(codes, packing)
    assert values.dtype == np.float32
    assert np.flatnonzero(np.isnan(values)).tolist() == [0]
    assert values[packing.zero] == 0
    assert (s2.encode(values, packing)[0] == codes).all()
    assert s2.encode(values, packing)[1] == 0


@pytest.mark.parametrize("packing", PACKINGS)
@given(data=st.data())
def test_round_trip_is_within_half_a_code(packing, data):
    value = st.floats(packing.add_offset * 0.99, 60000 * packing.scale_factor)
    values = data.draw(arrays(np.float32, (5, 8), elements=value.map(np.float32)))
    codes, clipped = s2.encode(values, packing)
    error = np.abs(s2.decode(codes, packing).astype(float) - values)
    size = np.maximum(np.abs(values), -packing.add_offset)
    rounding = 2 * np.finfo(np.float32).eps * size
    assert clipped == 0
    assert (error <= packing.scale_factor / 2 + rounding).all()


def test_only_floats_are_encoded_by_whole_steps():
    with pytest.raises(RadiometryError, match=r"uint16.*obj\.s2sr\.decode"):
        s2.encode(np.ones((2, 2), np.uint16), s2.REFLECTANCE)
    with pytest.raises(RadiometryError, match=r"whole numbers.*0.0003"):
        s2.Packing(scale_factor=3e-4, add_offset=0.0)


def test_what_must_not_happen_to_codes():
    # The ways in which a plain cast or CF packing goes wrong, from bitter experience.
    values = np.float32([[7.0, -1e-5 - 0.1, -0.1, np.nan, np.inf, -np.inf, 0, -0.0]])
    codes, clipped = s2.encode(values, s2.REFLECTANCE)
    assert codes.tolist() == [[65535, 1, 1, 0, 0, 0, 1000, 1000]]
    assert clipped == 3


# --- stores ---


def make_template(times=2, shape=(22, 17), res=5.0, *, timed=True, crs=True, **extra):
    """A scene whose pixels raise when touched: Dask arrays of a failing task."""
    import dask.array as da

    def touched(*_, **__):
        raise AssertionError("the template's pixels were computed")

    dims = ("time", "y", "x") if timed else ("y", "x")
    full = (times, *shape) if timed else shape

    def lazy(dtype):
        return da.map_blocks(
            touched,
            dtype=dtype,
            chunks=[(n,) for n in full],
            meta=np.empty((0,) * len(full), dtype),
        )

    stale = {"scale_factor": 2.0, "nodata": 0, "proj:shape": [1, 2], "long_name": "é"}
    data = {
        "B05": (dims, lazy("f4"), {**stale, "wavelength": np.float32(704.1)}),
        "B11": (dims, lazy("f8"), {"units": "count"} if extra.get("counts") else {}),
        "height": (dims, lazy("f4"), {"units": "m"}),
        "quality": (
            dims,
            lazy("u1"),
            {"flag_masks": np.uint8([1, 2, 4]), "flag_meanings": "a b c"},
        ),
    }
    coords = {
        "x": 199980.0 + res * (np.arange(shape[1]) + 0.5),
        "y": 4000020.0 - res * (np.arange(shape[0]) + 0.5),
    }
    if timed:
        when = np.datetime64("2024-05-01T10:56:21.024", "ns")
        coords |= {
            "time": when + np.arange(times) * np.timedelta64(5, "D"),
            "item_id": ("time", [f"S2A_{i}" for i in range(times)]),
            "baseline": ("time", np.array(["05.10"] * times, object)),
        }
    if crs:
        attrs = {
            "crs_wkt": CRS.from_epsg(32631).to_wkt(),
            "GeoTransform": "1 2 3 4 5 6",
        }
        coords["spatial_ref"] = ((), 0, attrs)
    return xr.Dataset(data, coords, {"model": "carn-s", "spatial:shape": [1, 1]})


def pixels(target, index, seed=0):
    """The block `index` of every variable, reproducible, some of it missing."""
    shape = target.box(index).shape
    rng = np.random.default_rng([seed, *index])
    made = {}
    for v in target.variables:
        if v.dtype == "uint8":
            made[v.name] = rng.integers(0, 8, shape, np.uint8)
            continue
        values = rng.uniform(-0.05, 1.2, shape).astype(np.float32)
        made[v.name] = np.where(rng.random(shape) < 0.1, np.float32(np.nan), values)
    return made


def fill(target):
    return {i: target.write(i, pixels(target, i)) for i in target.indices()}


def expected(target, name):
    """All pixels of a variable that `fill` wrote, from the blocks themselves."""
    whole = np.empty(target.shape, np.dtype("u1" if name == "quality" else "f4"))
    for i in target.indices():
        rows, cols = target.box(i).rows, target.box(i).cols
        whole[i[0], rows.start : rows.stop, cols.start : cols.stop] = pixels(target, i)[
            name
        ]
    return whole


@pytest.fixture(params=["directory", "memory", "fsspec"])
def place(request, tmp_path):
    """Three kinds of store, empty, each in its own place."""
    if request.param == "directory":
        return tmp_path / "out.zarr"
    if request.param == "memory":
        return MemoryStore()
    url = f"memory://{tmp_path.name}.zarr"
    return FsspecStore.from_url(url)


def test_a_store_gives_back_what_was_written(place):
    template = make_template()
    target = s2.create(place, template, block=(8, 8), unit=(4, 8))
    records = fill(target)
    target.finish()
    result = s2.open_result(place)
    assert result["B05"].dtype == result["B11"].dtype == np.float32
    for name in ("B05", "B11"):
        written, packing = expected(target, name), s2.REFLECTANCE
        again = s2.decode(s2.encode(written, packing)[0], packing)
        np.testing.assert_array_equal(result[name].values, again)  # bit for bit
        assert np.nanmax(np.abs(again - written)) <= 0.5e-4 + 1e-7
    np.testing.assert_array_equal(result["height"], expected(target, "height"))
    np.testing.assert_array_equal(result["quality"], expected(target, "quality"))
    assert result["quality"].dtype == np.uint8
    assert {r.state for r in records.values()} == {"written"}


@pytest.mark.parametrize("timed", [True, False])
def test_a_plain_open_zarr_is_enough(tmp_path, timed):
    template = make_template(timed=timed)
    path = tmp_path / "out.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target = s2.create(path, template, block=(8, 8), attrs={"who": np.int16(3)})
        fill(target)
        target.finish()
        plain = xr.open_zarr(path)
        result = s2.open_result(path)
    for opened in (plain, result):
        assert opened["B05"].dims == template["B05"].dims
        assert opened["B05"].rio.crs == opened.rio.crs == CRS.from_epsg(32631)
        assert opened["B05"].rio.transform()[:6] == (5, 0, 199980, 0, -5, 4000020)
        for name, coord in template.coords.items():
            np.testing.assert_array_equal(opened[name].values, coord.values)
            assert name in opened["B05"].coords
        assert opened["x"].dtype == opened["y"].dtype == np.float64
        assert opened.attrs["model"] == "carn-s"
        assert opened.attrs["who"] == 3
        assert opened["quality"].attrs["flag_masks"] == [1, 2, 4]
        assert opened["B05"].attrs["long_name"] == "é"
        assert opened["B05"].attrs["wavelength"] == pytest.approx(704.1)
        assert "nodata" not in opened["B05"].attrs
        assert (
            np.isnan(opened["B05"].values) == np.isnan(expected(target, "B05"))
        ).all()
        np.testing.assert_allclose(opened["B05"], result["B05"], atol=1e-6)
    assert "scale_factor" not in result["B05"].encoding
    assert plain["B05"].encoding["scale_factor"] == 1e-4


def test_readers_of_geozarr_find_the_pixels(tmp_path):
    path = tmp_path / "out.zarr"
    s2.create(path, make_template(), block=(8, 8))
    group = json.loads((path / "zarr.json").read_text())["attributes"]
    array = json.loads((path / "B05/zarr.json").read_text())
    for attrs in (group, array["attributes"]):
        assert attrs["spatial:dimensions"] == ["y", "x"]
        assert attrs["spatial:transform"] == [5, 0, 199980, 0, -5, 4000020]
        assert attrs["spatial:shape"] == [22, 17]
        assert attrs["spatial:bbox"] == [199980, 3999910, 200065, 4000020]
        assert attrs["proj:code"] == "EPSG:32631"
        assert CRS.from_wkt(attrs["proj:wkt2"]) == CRS.from_epsg(32631)
        assert {c["name"] for c in attrs["zarr_conventions"]} == {"proj", "spatial"}
    assert array["attributes"]["_FillValue"] == array["fill_value"] == 0
    assert "sharding" not in json.dumps(array["codecs"])
    spatial_ref = json.loads((path / "spatial_ref/zarr.json").read_text())["attributes"]
    assert spatial_ref["GeoTransform"] == "199980.0 5.0 0.0 4000020.0 0.0 -5.0"


def test_a_detector_has_counts_and_no_crs(tmp_path):
    template = make_template(timed=False, crs=False, counts=True)
    template = template.assign_coords(x=np.arange(17) + 0.5, y=np.arange(22) + 0.5)
    target = s2.create(tmp_path / "d", template[["B11"]], block=(22, 17))
    counts = np.linspace(-99, 4095, 22 * 17, dtype=np.float32).reshape(22, 17)
    target.write((0, 0, 0), {"B11": counts})
    target.finish()
    result = s2.open_result(tmp_path / "d")
    assert np.abs(result["B11"].values - counts).max() <= 0.05 + 1e-3
    assert result["B11"].attrs == {"units": "count"}
    attrs = json.loads((tmp_path / "d/zarr.json").read_text())["attributes"]
    assert attrs["spatial:bbox"] == [0, 0, 17, 22]
    assert not [k for k in attrs if k.startswith("proj:")]


@settings(max_examples=15)
@given(data=st.data())
def test_any_order_of_blocks_covers_every_pixel_once(data):
    shape = data.draw(st.tuples(st.integers(2, 30), st.integers(2, 30)), label="shape")
    unit = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)), label="unit")
    times = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)), label="times")
    block = unit[0] * times[0], unit[1] * times[1]
    place = MemoryStore()
    template = make_template(1, shape)[["B05", "quality"]]
    target = s2.create(place, template, block=block, unit=unit)
    seen = np.zeros(target.shape, int)
    for i in data.draw(st.permutations(list(target.indices()))):
        box = target.box(i)
        seen[i[0], box.rows.start : box.rows.stop, box.cols.start : box.cols.stop] += 1
        target.write(i, pixels(target, i))
    assert (seen == 1).all()
    target.finish()
    written = expected(target, "B05")
    again = s2.decode(s2.encode(written, s2.REFLECTANCE)[0], s2.REFLECTANCE)
    np.testing.assert_array_equal(s2.open_result(place)["B05"], again)


def test_concurrent_writers_lose_nothing(tmp_path):
    path = tmp_path / "out.zarr"
    target = s2.create(path, make_template(shape=(64, 64)), block=(8, 8), unit=(4, 4))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: target.write(i, pixels(target, i)), target.indices()))
    target.finish()
    written = s2.encode(expected(target, "B05"), s2.REFLECTANCE)[0]
    raw = xr.open_zarr(path, mask_and_scale=False)
    np.testing.assert_array_equal(raw["B05"], written)


def test_a_target_works_in_another_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = s2.create("out.zarr", make_template(1), block=(22, 17))
    blob = pickle.dumps(target)
    assert len(blob) < 2000
    assert pickle.loads(blob) == target  # noqa: S301 - our own bytes
    code = """
        import pickle, sys, numpy as np
        target = pickle.loads(sys.stdin.buffer.read())
        ones = {v.name: np.ones((1, 22, 17), "u1" if v.dtype == "uint8" else "f4")
                for v in target.variables}
        target.write((0, 0, 0), ones)
    """
    run_child(code, blob)
    target.finish()
    assert (s2.open_result("out.zarr")["B05"] == 1).all()


def test_records_tell_the_truth(tmp_path):
    path = tmp_path / "out.zarr"
    target = s2.create(path, make_template(1), block=(8, 8), unit=(4, 4))
    block = pixels(target, (0, 2, 2))  # 6 x 1 px at the corner
    block["B05"][0, 0] = 8.0
    record = target.write((0, 2, 2), block)
    on_disk = {
        v.name: [path / v.name / f"c/0/{i}/4" for i in (4, 5)] for v in target.variables
    }
    assert record.sizes == {
        name: sum(p.stat().st_size for p in files) for name, files in on_disk.items()
    }
    for v in target.variables:
        stored = block[v.name]
        stored = s2.encode(stored, v.packing)[0] if v.packing else stored
        assert record.crc32[v.name] == crc32(stored.tobytes())
    assert (record.state, record.clipped) == ("written", 1)
    saved = json.loads((path / "_s2sr/0-2-2.json").read_text())
    assert s2.Record(**saved | {"index": tuple(saved["index"])}) == record
    assert target.write((0, 2, 2), block) == record  # again, the same


def test_blocks_without_a_pixel_are_written_and_said_to_be_empty(tmp_path):
    path = tmp_path / "out.zarr"
    target = s2.create(path, make_template(1), block=(8, 8))
    block = pixels(target, (0, 0, 0))
    nothing = {k: v if v.dtype == "u1" else v * np.nan for k, v in block.items()}
    assert target.write((0, 0, 0), nothing).state == "empty"
    assert (path / "B05/c/0/0/0").stat().st_size > 0
    assert (path / "height/c/0/0/0").stat().st_size > 0
    almost = nothing | {"height": block["height"]}
    assert target.write((0, 0, 0), almost).state == "written"


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            lambda b: b.pop("B05"),
            StoreError,
            "must hold B05, B11, height, quality.*B11",
        ),
        (lambda b: b.update(B99=b["B05"]), StoreError, r"all and only.*B99"),
        (lambda b: b.update(B05=b["B05"][:4]), ChunkError, r"B05.*\(8, 8\).*\(4, 8\)"),
        (lambda b: b.update(B05=b["quality"]), StoreError, "B05 takes float.*uint8"),
        (lambda b: b.update(height=b["quality"]), StoreError, "height takes float"),
        (
            lambda b: b.update(quality=b["B05"]),
            StoreError,
            "quality takes uint8 pixels, got float32",
        ),
    ],
)
def test_a_block_that_does_not_fit_is_refused(tmp_path, change, error, match):
    target = s2.create(tmp_path / "a", make_template(), block=(8, 8))
    block = pixels(target, (1, 0, 0))
    change(block)
    with pytest.raises(error, match=match):
        target.write((1, 0, 0), block)
    assert not (tmp_path / "a/_s2sr").exists()


@pytest.mark.parametrize("index", [(2, 0, 0), (0, 3, 0), (0, 0, -1)])
def test_there_is_no_block_outside(index):
    target = s2.create(MemoryStore(), make_template(), block=(8, 8))
    with pytest.raises(ChunkError, match=r"No block \(.*has \(2, 3, 3\) blocks"):
        target.write(index, {})


def test_blocks_are_whole_write_units():
    with pytest.raises(ChunkError, match=r"\(2196, 2190\).*\(732, 732\)"):
        s2.create(MemoryStore(), make_template(), block=(2196, 2190), unit=(732, 732))
    with pytest.raises(ChunkError, match=r"positive.*\(0, 8\)"):
        s2.create(MemoryStore(), make_template(), block=(0, 8))


@given(block=st.integers(1, 9000))
def test_the_default_unit_divides_any_block(block):
    unit, other = outline._whole((block, 366), None)[1]
    assert other == 366
    assert block % unit == 0
    assert unit == block or 274 <= unit <= 1098


@pytest.mark.parametrize(
    ("spoil", "error", "match"),
    [
        (lambda t: t.isel(x=[0, 1, 3]), GridError, "'x' is not regular"),
        (lambda t: t.isel(y=slice(1)), GridError, "centres.*'y'"),
        (lambda t: t.drop_vars("x"), GridError, "centres.*'x'"),
        (lambda t: t.assign(B02=t["B05"][0]), StoreError, r"or all \(y, x\), got.*B02"),
        (lambda t: t.assign(B02=t["quality"] > 1), StoreError, "B02 is bool"),
        (
            lambda t: t.assign_coords(spec=("time", [{}, {}])),
            StoreError,
            r"'spec'.*drop_vars\('spec'\)",
        ),
        (
            lambda t: t.assign_coords(spatial_ref=((), 0, {"crs_wkt": "Narnia"})),
            GridError,
            "crs_wkt of spatial_ref is not a CRS.*Narnia",
        ),
    ],
)
def test_a_template_that_cannot_be_stored_deletes_nothing(
    tmp_path, spoil, error, match
):
    good = make_template()
    s2.create(tmp_path / "a", good, block=(8, 8))
    before = (tmp_path / "a/zarr.json").read_text()
    with pytest.raises(error, match=match):
        s2.create(tmp_path / "a", spoil(good), block=(8, 8), mode="w")
    assert (tmp_path / "a/zarr.json").read_text() == before


# --- states ---


def test_only_complete_stores_are_opened(place):
    target = s2.create(place, make_template(), block=(8, 8))
    target.write((0, 1, 1), pixels(target, (0, 1, 1)))
    with pytest.raises(
        StoreError, match=r"unfinished: state 'writing', 1 of 18.*mode="
    ):
        s2.open_result(place)
    with pytest.raises(
        StoreError, match=r"17 of 18 blocks.*first \(0, 0, 0\), \(0, 0, 1"
    ):
        target.finish()
    fill(target)
    target.finish()
    assert s2.open_result(place).attrs["state"] == "complete"


@pytest.mark.filterwarnings(*PLAIN_OPEN)
def test_a_plain_reader_sees_the_state(tmp_path):
    path = tmp_path / "out.zarr"
    target = s2.create(path, make_template(), block=(8, 8))
    target.write((0, 1, 1), pixels(target, (0, 1, 1)))
    assert xr.open_zarr(path).attrs["state"] == "writing"
    fill(target)
    target.finish()
    assert xr.open_zarr(path, consolidated=True).attrs["state"] == "complete"


def test_mode_w_minus_never_overwrites(place):
    template = make_template(1)
    target = s2.create(place, template, block=(22, 17))
    with pytest.raises(StoreError, match=r"exists, state 'writing'.*mode=\Sw"):
        s2.create(place, template, block=(22, 17))
    fill(target)
    target.finish()
    with pytest.raises(StoreError, match="exists, state 'complete'"):
        s2.create(place, template, block=(22, 17))
    assert s2.open_result(place).sizes["time"] == 1


def test_mode_w_leaves_nothing_of_the_old_store(place):
    target = s2.create(place, make_template(), block=(22, 17))
    fill(target)
    target.finish()
    small = make_template(1)[["B11"]]
    new = s2.create(place, small, block=(11, 17), mode="w")
    with pytest.raises(StoreError, match="0 of 2 blocks"):
        s2.open_result(place)
    fill(new)
    new.finish()
    assert set(s2.open_result(place).data_vars) == {"B11"}


@pytest.mark.parametrize("mode", ["w-", "w"])
def test_what_is_not_ours_is_never_deleted(tmp_path, mode):
    template = make_template(1)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("miaow")
    with pytest.raises(StoreError, match="not a Zarr v3 store and was not made by"):
        s2.create(tmp_path / "photos", template, block=(8, 8), mode=mode)
    assert (tmp_path / "photos/cat.jpg").read_text() == "miaow"
    xr.Dataset({"a": 1}).to_zarr(tmp_path / "theirs", zarr_format=3, consolidated=False)
    with pytest.raises(StoreError, match="exists and was not made by s2sr_xr"):
        s2.create(tmp_path / "theirs", template, block=(8, 8), mode=mode)
    assert (tmp_path / "theirs/a/zarr.json").exists()
    (tmp_path / "file").write_text("text")
    with pytest.raises(StoreError, match=r"Cannot create .*file: ") as caught:
        s2.create(tmp_path / "file", template, block=(8, 8), mode=mode)
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(
        StoreError, match=r"Cannot create .*file/below: Not a directory"
    ):
        s2.create(tmp_path / "file/below", template, block=(8, 8), mode=mode)
    assert (tmp_path / "file").read_text() == "text"


def test_an_empty_directory_is_room_enough(tmp_path):
    s2.create(tmp_path, make_template(1), block=(8, 8))
    with pytest.raises(StoreError, match='mode is "w-" or "w", got \'a\''):
        s2.create(tmp_path, make_template(1), block=(8, 8), mode="a")


class DyingStore(MemoryStore):
    """A store that stops for good after `left` changes, as a killed process does."""

    left = 10**9

    def change(self):
        self.left -= 1
        if self.left < 0:
            raise OSError("killed")

    async def set(self, key, value, byte_range=None):
        self.change()
        await super().set(key, value, byte_range)

    async def delete(self, key):
        self.change()
        await super().delete(key)


def test_killed_anywhere_a_store_is_whole_or_refused():
    template = make_template(1, (4, 4))[["B05"]]

    def job(place, value):
        target = s2.create(place, template, block=(2, 4), mode="w")
        for i in target.indices():
            target.write(i, {"B05": np.full((2, 4), value, np.float32)})
        target.finish()

    seen = []
    while "new" not in seen:
        place = DyingStore()
        job(place, 1.0)
        place.left = len(seen)
        with suppress(StoreError):
            job(place, 2.0)
        place.left = 10**9
        try:
            found = np.unique(s2.open_result(place)["B05"]).round(3).tolist()
        except StoreError:
            seen.append("refused")
        else:
            seen.append({(1.0,): "old", (2.0,): "new"}[tuple(found)])
        job(place, 3.0)  # whatever was left, mode="w" replaces it
    assert seen == ["old"] + ["refused"] * (len(seen) - 2) + ["new"]
    assert len(seen) > 30


def test_what_is_not_a_result_is_not_opened(tmp_path):
    with pytest.raises(StoreError, match=r"no Zarr v3 store at .*nowhere"):
        s2.open_result(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    xr.Dataset({"a": 1}).to_zarr(tmp_path / "theirs", zarr_format=3, consolidated=False)
    with pytest.raises(StoreError, match=r"not made by s2sr_xr.*xarray\.open_zarr"):
        s2.open_result(tmp_path / "theirs")
    s2.create(tmp_path / "cut", make_template(1), block=(8, 8))
    (tmp_path / "cut/zarr.json").write_text('{"zarr_format":')
    with pytest.raises(StoreError, match=r"zarr\.json of .*cut is damaged"):
        s2.open_result(tmp_path / "cut")


@pytest.mark.skipif(os.name != "posix", reason="POSIX limits")
def test_a_full_disk_is_a_store_error_and_leaves_no_record(tmp_path):
    # A limit on file size stands in for the disk: the same OSError from the same call.
    target = s2.create(tmp_path / "out", make_template(1, (64, 64)), block=(64, 64))
    code = """
        import pickle, resource, sys, numpy as np
        from s2sr_xr.errors import StoreError
        target = pickle.loads(sys.stdin.buffer.read())
        noise = np.random.default_rng(0).random((64, 64), "f4")
        block = {v.name: noise if v.dtype != "uint8" else noise.astype("u1")
                 for v in target.variables}
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            target.write((0, 0, 0), block)
        except StoreError as error:
            print(type(error.__cause__).__name__, error)
    """
    said = run_child(code, pickle.dumps(target))
    assert said.startswith("OSError Cannot write block (0, 0, 0) of")
    assert "free space" in said
    assert not (tmp_path / "out/_s2sr").exists()
    with pytest.raises(StoreError, match="1 of 1 blocks were not written"):
        target.finish()


def test_a_store_deleted_under_way_is_noticed(tmp_path):
    import shutil

    target = s2.create(tmp_path / "out", make_template(1), block=(22, 17))
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(StoreError, match="was removed, or created anew"):
        fill(target)
    with pytest.raises(StoreError, match="was removed, or created anew"):
        target.finish()
    assert not (tmp_path / "out").exists()


def test_a_target_never_writes_into_its_successor(place):
    old = s2.create(place, make_template(1), block=(8, 8))
    new = s2.create(place, make_template(1), block=(11, 17), mode="w")
    with pytest.raises(StoreError, match="use the target of the latest create"):
        fill(old)
    fill(new)
    with pytest.raises(StoreError, match="use the target of the latest create"):
        old.finish()
    new.finish()
    new.finish()  # no harm


def test_writing_reads_nothing(tmp_path):
    # So that a chunk cut by a crash is simply written again, at the edge too.
    target = s2.create(tmp_path / "out", make_template(1), block=(8, 8))
    fill(target)
    for chunk in (tmp_path / "out/B05/c").rglob("[0-9]"):
        if chunk.is_file():
            chunk.write_bytes(b"cut")
    fill(target)
    target.finish()
    written = expected(target, "B05")
    again = s2.decode(s2.encode(written, s2.REFLECTANCE)[0], s2.REFLECTANCE)
    np.testing.assert_array_equal(s2.open_result(tmp_path / "out")["B05"], again)


# --- attributes, laziness, import ---


def test_attributes_are_plain_json_without_secrets():
    odd = {
        1: np.float32(0.5),
        "when": np.datetime64("2024-05-01"),
        "whens": np.array(["2024-05-01"], "M8[D]"),
        "inf": [float("inf"), np.nan],
        "path": Path("/a"),
        "flag": np.bool_(True),
        "href": "https://host/a.tif?sig=SECRET",
        "none": None,
    }
    clean = jsonable(odd)
    assert json.loads(json.dumps(clean, allow_nan=False)) == clean
    assert clean["1"] == 0.5
    assert clean["flag"] is True
    assert clean["whens"] == ["2024-05-01"]
    assert clean["inf"] == ["inf", "nan"]
    assert "SECRET" not in str(clean)


def test_the_token_is_kept_without_secrets(tmp_path):
    token = {"model": "carn-s", "items": ("a", "b"), "href": "s3://x/y?sig=SECRET"}
    s2.create(tmp_path / "a", make_template(1), block=(8, 8), token=token)
    text = (tmp_path / "a/zarr.json").read_text()
    kept = json.loads(text)["attributes"]
    assert kept["s2sr:token"] == {
        "model": "carn-s",
        "items": ["a", "b"],
        "href": "s3://x/y",
    }
    assert "SECRET" not in text


def test_results_are_lazy_and_take_chunks():
    place = MemoryStore()
    target = s2.create(place, make_template(), block=(8, 8))
    fill(target)
    target.finish()
    assert s2.open_result(place)["B05"].chunks is None
    assert not s2.open_result(place)["B05"].variable._in_memory
    chunked = s2.open_result(place, chunks={})
    assert chunked["B05"].chunks == ((1, 1), (8, 8, 6), (8, 8, 1))
    assert chunked["B05"].dtype == np.float32
    xr.testing.assert_identical(chunked.compute(), s2.open_result(place).compute())


def test_a_result_can_be_a_template(tmp_path):
    target = s2.create(tmp_path / "a", make_template(), block=(8, 8))
    fill(target)
    target.finish()
    first = s2.open_result(tmp_path / "a")
    cropped = first.isel(x=slice(4, 12), y=slice(8, 16))
    again = s2.create(tmp_path / "b", cropped, block=(8, 8))
    for t, _, _ in again.indices():
        again.write((t, 0, 0), {n: v.values[t] for n, v in cropped.data_vars.items()})
    again.finish()
    second = s2.open_result(tmp_path / "b")
    xr.testing.assert_equal(second, cropped)
    assert second.rio.transform() == cropped.rio.transform()


def test_import_is_light():
    code = """
        import sys, s2sr_xr.output.zarr
        heavy = "torch dask distributed rasterio zarr".split()
        print([name for name in heavy if name in sys.modules])
    """
    assert run_child(code) == "[]\n"


def test_the_codec_benchmark_runs(tmp_path):
    counts = np.random.default_rng(0).integers(200, 3000, (40, 30, 2), np.uint16)
    np.savez(tmp_path / "scene.npz", im10=counts)
    script = Path(__file__).parents[2] / "benchmarks/codecs.py"
    for options in (["--real", str(tmp_path)], ["--size", "32"]):
        said = run_child(f"""
            import runpy, sys
            sys.argv[1:] = {[*options, "--rounds", "1"]}
            runpy.run_path({str(script)!r}, run_name="__main__")
        """)
        assert "blosc zstd 1 bitshuffle" in said
