"""Laws of scores and pictures: what is compared, what is left out, what is shown."""

from __future__ import annotations

import importlib.util
import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from worlds import grid, tree

import s2sr_xr
from s2sr_xr import evaluate
from s2sr_xr.core.bands import BANDS
from s2sr_xr.errors import GridError, MissingBandError
from s2sr_xr.evaluate.figures import detailed, pixels_of

COARSE = ["B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09"]


def image(bands=("B05", "B8A", "B01"), shape=(24, 30), seed=0, **corner):
    """Return random reflectance of coarse bands on one 10 m grid."""
    rng = np.random.default_rng(seed)
    return xr.Dataset(
        {b: (("y", "x"), rng.uniform(0.05, 0.5, shape).astype("f4")) for b in bands},
        grid(shape, **corner).coords(),
    )


def worse(truth, counts):
    return truth.map(lambda band: band + np.float32(counts * 1e-4), keep_attrs=True)


# --- scores ---------------------------------------------------------------------------


def test_the_truth_is_perfect():
    truth = image()
    found = evaluate.score(truth, truth)
    assert [row.name for row in found.bands] == ["B05", "B8A", "B01"]
    assert [row.name for row in found.means] == ["20 m", "60 m"]
    for row in (*found.bands, *found.means):
        assert (row.rmse, row.sre) == (0, math.inf)
        assert row.uiq == pytest.approx(1)
    assert found.means[0].sam == 0
    assert math.isnan(found.means[1].sam)  # one band has no spectrum


@given(counts=st.floats(1, 500))
def test_rmse_is_in_counts(counts):
    found = evaluate.score(worse(image(), counts), image())
    for row in (*found.bands, *found.means):
        assert row.rmse == pytest.approx(counts, rel=1e-3)


def test_means_are_of_the_bands_of_one_native_pixel():
    truth = image()
    pred = xr.merge(
        [worse(truth[[b]], n) for b, n in zip(truth, (1, 3, 9), strict=True)]
    )
    found = evaluate.score(pred, truth)
    assert [row.rmse for row in found.means] == pytest.approx([2, 9], rel=1e-3)


def test_a_method_does_not_gain_by_leaving_pixels_out():
    truth = image()
    shy, bold = worse(truth, 10), worse(truth, 10)
    shy["B05"][3:9, 4:11] = np.nan
    bold["B05"][3:9, 4:11] = 1  # wrong where the other has nothing
    found = evaluate.compare({"shy": shy, "bold": bold}, truth)
    rows = [[r.rmse for r in found[m].bands] for m in ("shy", "bold")]
    assert rows[0] == rows[1]
    assert found["bold"].bands[0].rmse == pytest.approx(10, rel=1e-3)
    assert evaluate.score(bold, truth).bands[0].rmse > 100


def test_a_time_of_one_is_one_image():
    truth = image()
    found = evaluate.score(worse(truth, 5).expand_dims("time"), truth)
    assert [row.rmse for row in found.bands] == pytest.approx([5] * 3, rel=1e-3)


def test_lazy_predictions_are_scored_like_loaded_ones():
    truth = image()
    pred = worse(truth, 5)
    rows = [evaluate.score(p, truth).bands for p in (pred, pred.chunk(x=7))]
    assert [r.rmse for r in rows[0]] == [r.rmse for r in rows[1]]


def test_bands_at_their_native_pixel_are_scored_only_by_name():
    truth = image(("B02", "B05"))
    assert [row.name for row in evaluate.score(truth, truth).bands] == ["B05"]
    named = evaluate.score(truth, truth, ["B02"])
    assert [row.name for row in named.bands] == ["B02"]
    with pytest.raises(MissingBandError, match="none coarser than the pixels"):
        evaluate.score(truth[["B02"]], truth)


def test_what_cannot_be_compared_raises():
    truth = image()
    with pytest.raises(MissingBandError, match=r"B12 cannot be scored.*B01, B05, B8A"):
        evaluate.score(truth, truth, ["B05", "B12"])
    moved = image(corner=(600_020, 8_200_000))
    with pytest.raises(GridError, match="Cut both to the same window"):
        evaluate.score(moved, truth)
    with pytest.raises(GridError, match="another CRS"):
        evaluate.score(image(epsg="EPSG:32721"), truth)
    with pytest.raises(GridError, match=r"2 times; take one .*isel\(time=0\)"):
        evaluate.score(xr.concat([truth, truth], "time"), truth)


def test_the_figure_is_the_mean_ratio_over_bands():
    truth = image()
    base = evaluate.score(worse(truth, 10), truth)
    mixed = xr.merge(
        [worse(truth[[b]], n) for b, n in zip(truth, (5, 10, 30), strict=True)]
    )
    found = evaluate.score(mixed, truth)
    assert evaluate.relative_rmse(base, base) == 1
    assert evaluate.relative_rmse(found, base) == pytest.approx(1.5, rel=1e-3)
    assert evaluate.relative_rmse(found, base, native=20) == pytest.approx(
        0.75, rel=1e-3
    )
    assert evaluate.relative_rmse(found, base, native=60) == pytest.approx(3, rel=1e-3)
    perfect = evaluate.score(truth, truth)
    assert math.isnan(evaluate.relative_rmse(base, perfect))


def test_a_table_has_a_row_a_band_and_columns_a_method():
    truth = image()
    preds = {"nearest": worse(truth, 20), "bicubic": worse(truth, 10)}
    text = evaluate.table(evaluate.compare(preds, truth))
    methods, titles, *rows = text.splitlines()
    assert methods.split() == ["nearest", "bicubic"]
    assert titles.split() == ["RMSE", "SRE", "SAM", "UIQ"] * 2
    names = [row.split()[0] for row in rows]
    assert names == ["B05", "B8A", "20", "B01", "60", "RMSE", "20", "60", "all"]
    assert rows[0].split()[1] == "20.0"
    assert rows[-1].split() == ["all", "2.000", "1.000"]
    assert len({row.index("1.000") for row in rows[-3:]}) == 1  # columns are straight
    alone = evaluate.score(preds["nearest"], truth)
    assert str(alone).splitlines()[-1].startswith("60 m")


def test_what_is_public_loads_when_it_is_used():
    heavy = {"torch", "dask", "matplotlib", "rasterio", "pyproj"}
    code = (
        "import sys; from s2sr_xr import evaluate;"
        f"assert not {heavy} & set(sys.modules);"
        "assert all(getattr(evaluate, n).__doc__ for n in evaluate.__all__);"
        "assert set(evaluate.__all__) <= set(dir(evaluate))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'worth'"):
        _ = evaluate.worth


# --- where to look --------------------------------------------------------------------


@given(data=st.data())
def test_close_ups_avoid_missing_pixels(data):
    rows, cols = data.draw(st.tuples(*[st.integers(20, 40)] * 2))
    size, step = data.draw(st.integers(4, 20)), data.draw(st.integers(1, 6))
    seed = data.draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, cols))
    missing = np.zeros((rows, cols), bool)
    missing[rng.integers(0, rows), rng.integers(0, cols)] = True
    values[missing] = np.nan
    found = detailed(values, missing, size, count=3, step=step)
    free = [
        not missing[i : i + size, j : j + size].any()
        for i in range(0, rows - size + 1, step)
        for j in range(0, cols - size + 1, step)
    ]
    i, j = found[0]
    assert missing[i : i + size, j : j + size].any() != any(free)
    times = np.zeros((rows, cols), int)
    for i, j in found:
        assert i % step == j % step == 0
        times[i : i + size, j : j + size] += 1
    assert times.max() == 1  # no overlap
    assert times.sum() == len(found) * size**2  # inside the image


def test_close_ups_show_the_most_detail():
    rng = np.random.default_rng(0)
    values = np.zeros((60, 60))
    values[30:48, 12:30] = rng.normal(size=(18, 18))
    values[:, 55] = 100  # one bright edge
    assert detailed(values, np.zeros((60, 60), bool), 18) == [(30, 12)]


# --- pictures -------------------------------------------------------------------------


def scene(bands=("B02", "B03", "B04", "B08", *COARSE), cells=(18, 24)):
    native = tree(cells, bands, times=1)
    native["r20m"]["B12"][:, :9, :9] = np.nan
    return native, s2sr_xr.upsample(native, "nearest")


def test_panels_show_the_same_ground():
    native, made = scene()
    west, south, east, north = grid((108, 144)).extent
    ground = (west + 120, south + 60, east - 60, north - 240)
    own = pixels_of(native["r20m"].to_dataset().isel(time=0), ("B05",), ground)
    fine = pixels_of(made.isel(time=0), ("B05",), ground)
    np.testing.assert_array_equal(own.repeat(2, 0).repeat(2, 1), fine)
    assert fine.shape == ((1080 - 300) // 10, (1440 - 180) // 10, 1)


def shape_of(path):
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", head[16:])
    return height, width


def test_a_picture_has_three_columns_and_six_with_truth(tmp_path):
    native, made = scene()
    truth = made.isel(time=0).fillna(0.1)
    plain = evaluate.before_after(native, made, tmp_path / "a.png", side=300)
    told = evaluate.before_after(
        native, made, tmp_path / "b.png", side=300, truth=truth
    )
    assert (plain, told) == (tmp_path / "a.png", tmp_path / "b.png")
    assert shape_of(told)[1] == 2 * shape_of(plain)[1]
    assert shape_of(told)[0] == shape_of(plain)[0]


@pytest.mark.parametrize(
    ("bands", "rows"),
    [
        (["B11"], 3),
        (["B09"], 2),
        (["B02", "B03", "B04", "B8A", "B01"], 4),
        (["B08", "B05", "B8A", "B11", "B12"], 3),
    ],
)
def test_a_picture_shows_what_there_is(tmp_path, bands, rows):
    native = tree((18, 24), bands)
    made = native.s2sr.upsample("nearest")
    path = evaluate.before_after(native, made, tmp_path / "a.png", side=240)
    assert shape_of(path)[0] == round(rows * 3.25 * 120)


def test_a_picture_of_nothing_raises(tmp_path):
    native, made = scene()
    with pytest.raises(MissingBandError, match="none of the 20 m or 60 m bands"):
        evaluate.before_after(native, made[["B02"]], tmp_path / "a.png")


def test_pictures_need_no_screen_and_no_global_state(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from worlds import tree; from s2sr_xr import evaluate\n"
        "assert 'matplotlib' not in sys.modules\n"
        "native = tree((6, 6), ['B05'])\n"
        "evaluate.before_after(native, native.s2sr.upsample('nearest'), sys.argv[2])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    here = Path(__file__).parents[1]
    command = [sys.executable, "-c", code, here, tmp_path / "a.png"]
    subprocess.run(command, check=True)


# --- the benchmark --------------------------------------------------------------------


def quality(monkeypatch):
    path = Path(__file__).parents[2] / "benchmarks" / "quality.py"
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location("quality", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["quality"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def as_real(folder, item, metres=(10, 20, 60)):
    """Write a simulated scene as the benchmark expects real ones."""
    arrays = {}
    for m in metres:
        names = [b for b in BANDS if BANDS[b].native == m and b != "B10"]
        assets = [item.assets[b].get_absolute_href() for b in names]
        pixels = []
        for href in assets:
            with rasterio.open(href) as file:
                pixels.append(file.read(1))
        arrays |= {f"im{m}": np.stack(pixels, -1), f"bands{m}": np.array(names)}
    meta = json.dumps({"level": "L1C", "dn_offset": 1000})
    folder.mkdir(exist_ok=True)
    name = "-".join(map(str, metres))
    np.savez(folder / f"{name}.npz", meta=np.array(meta), **arrays)


def test_the_quality_benchmark_runs(tmp_path, capsys, monkeypatch):
    item = s2sr_xr.simulate_scene(tmp_path / "scene", size=216)
    for metres in ((10, 20, 60), (10, 20), (10,)):
        as_real(tmp_path / "l1c_native", item, metres)
    out = tmp_path / "out"
    quality(monkeypatch).main(["--real", str(tmp_path), "--out", str(out)])
    printed = capsys.readouterr().out
    records = [json.loads(t) for t in printed.splitlines() if t.startswith("{")]
    assert {(r["scene"], r["metres"]) for r in records} == {
        ("10-20-60", 20),
        ("10-20-60", 60),
        ("10-20", 20),
    }
    for r in records:
        low, high = {"bicubic": (1, 1), "nearest": (1.005, 2)}.get(
            r["method"], (0.95, 1.1)
        )
        assert low <= r["figure"] <= high, r
        assert len(r["bands"]) == {20: 6, 60: 2}[r["metres"]]
    assert "skipped 10: no 20 m or 60 m bands" in printed
    assert {p.name for p in out.iterdir()} == {
        "10-20-60.png",
        "10-20.png",
        "quality.txt",
    }
    assert "mean of 2" in (out / "quality.txt").read_text()
