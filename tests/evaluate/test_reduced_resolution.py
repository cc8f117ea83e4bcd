"""Laws of scores without a finer truth, of their command, and of classical methods."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from test_scores import as_real
from typer.testing import CliRunner
from worlds import grid, tree

import s2sr_xr
from s2sr_xr import evaluate
from s2sr_xr.cli import app
from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.filters import reduce_scale
from s2sr_xr.errors import GridError, MissingBandError, ModelError, RadiometryError
from s2sr_xr.evaluate import psnr_gain, score_scene, table
from s2sr_xr.evaluate.degraded_scene import one_scale_below
from s2sr_xr.evaluate.reduced_resolution import attempt, compare_trial

TEN = ["B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12"]
ALL = [*TEN, "B01", "B09", "B10"]
RUN = CliRunner()


@pytest.fixture(scope="module")
def item(tmp_path_factory):
    return s2sr_xr.simulate_scene(tmp_path_factory.mktemp("scene"), size=288, seed=3)


@pytest.fixture(scope="module")
def scene(item):
    return s2sr_xr.open_stac(item)


def pixels(obj, band):
    return obj[f"r{BANDS[band].native}m"][band].to_numpy().squeeze()


# --- one scale below ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "factor", "judged"),
    [("20m", 2, TEN[4:]), ("60m", 6, ["B01", "B09"]), ("5m", 2, TEN)],
)
def test_the_truth_is_what_was_recorded(task, factor, judged):
    native = tree((37, 40), ALL, times=1)
    native["r20m"]["B11"][0, 5, 7] = np.nan
    trial = one_scale_below(native, task)
    assert sorted(trial.bands) == sorted(judged)
    for band in judged:
        true = trial.truth[BANDS[band].native][band].to_numpy()
        rows, cols = true.shape
        np.testing.assert_array_equal(true, pixels(native, band)[:rows, :cols])
        coarse = reduce_scale(torch.from_numpy(true), factor)
        np.testing.assert_array_equal(pixels(trial.coarse, band), coarse)
    for node in trial.coarse.children.values():
        assert {grid(n.shape[-2:]).x_edge for n in node.data_vars.values()} == {600_000}


def test_every_kind_of_object_gives_the_same(scene):
    def scores(obj):
        return score_scene(obj, "dsen2", bands=["B11"])

    loaded = scene.load()
    once = loaded.isel(time=0)
    ten, twenty = (once[g].to_dataset() for g in ("r10m", "r20m"))
    repeated = twenty.sel(x=ten.x, y=ten.y, method="nearest")
    ten = ten.assign({b: (("y", "x"), repeated[b].data) for b in repeated.data_vars})
    expected = str(scores(scene))
    for other in (loaded, once, ten, loaded.chunk(x=50, y=70)):
        assert str(scores(other)) == expected


@pytest.mark.parametrize("task", ["20m", "60m", "5m"])
def test_models_are_judged_beside_interpolation(scene, task):
    found = score_scene(scene, task=task)
    nearest, bicubic, model = found.values()
    assert list(found) == ["nearest", "bicubic", "carn-s" if task == "5m" else "dsen2"]
    assert evaluate.relative_rmse(nearest, bicubic) > 1
    assert evaluate.relative_rmse(model, bicubic) < 0.85
    assert psnr_gain(model, bicubic) > 1
    sizes = {"20m": ["20 m"], "60m": ["60 m"], "5m": ["10 m", "20 m"]}[task]
    assert [row.name for row in model.means] == sizes
    text = table(found, psnr=True).splitlines()
    assert text[-len(sizes) - 1].startswith("PSNR over that of bicubic in dB")
    assert text[-1].split()[3] == "+0.00"


def test_the_degraded_scene_takes_the_road_of_users(scene):
    """Interpolation by layers is what `upsample` does, away from missing pixels."""
    trial = one_scale_below(scene)
    made = attempt(trial, "bicubic")[20]
    users = s2sr_xr.upsample(trial.coarse, "bicubic", keep_native=False)
    there = np.isfinite(made.B11.to_numpy())
    assert there.mean() > 0.5
    np.testing.assert_array_equal(
        users.B11.to_numpy()[there], made.B11.to_numpy()[there]
    )


def test_missing_pixels_judge_nobody(scene):
    trial = one_scale_below(scene, bands=["B05"])
    made = {m: attempt(trial, m) for m in ("bicubic", "dsen2")}
    gone = np.isnan(trial.truth[20].B05.to_numpy())
    assert gone.any()  # beyond the swath
    before = compare_trial(trial, made)["dsen2"]
    made["dsen2"][20].B05.to_numpy()[gone] = 1
    assert str(compare_trial(trial, made)["dsen2"]) == str(before)


def test_a_border_is_left_out():
    trial = one_scale_below(tree((16, 16), TEN), bands=["B05"])
    made = {"bicubic": attempt(trial, "bicubic")}
    inner = compare_trial(trial, made, border=4)["bicubic"].bands[0].rmse
    made["bicubic"][20].B05.to_numpy()[:, :4] = 1
    assert compare_trial(trial, made, border=4)["bicubic"].bands[0].rmse == inner
    assert compare_trial(trial, made)["bicubic"].bands[0].rmse > 1.5 * inner
    with pytest.raises(GridError, match=r"border=21 of 48 pixels .* from 0 to 20"):
        compare_trial(trial, made, border=21)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"bands": ["zz"]}, MissingBandError, "the 20m task judges B05, "),
        ({"bands": ["B02"]}, MissingBandError, r"\['B02'\] cannot be judged"),
        ({"bands": []}, MissingBandError, r"\[\] cannot be judged"),
        ({"task": "7m"}, ModelError, "task='7m' is not one of"),
    ],
)
def test_what_cannot_be_judged_one_scale_below_is_said(options, error, said):
    with pytest.raises(error, match=said):
        one_scale_below(tree((16, 16), TEN), **options)


def test_bands_that_say_nothing_do_not_count_in_a_gain():
    obj = tree((16, 16), TEN)
    obj["r20m"]["B11"][:] = 0.25
    trial = one_scale_below(obj)
    made = {m: attempt(trial, m) for m in ("nearest", "bicubic")}
    found = compare_trial(trial, made)
    assert np.isfinite(psnr_gain(found["nearest"], found["bicubic"]))


def test_five_metres_are_no_ten():
    obj = tree((16, 16), TEN)
    with pytest.raises(ModelError, match=r"carn-s makes pixels of 5 m.*superresolve"):
        score_scene(obj, ["carn-s"], task="20m")


def test_a_perfect_model_gains_without_end():
    trial = one_scale_below(tree((16, 16), TEN))
    made = {"bicubic": attempt(trial, "bicubic"), "truth": trial.truth}
    found = compare_trial(trial, made)
    assert psnr_gain(found["truth"], found["bicubic"]) == np.inf
    assert psnr_gain(found["bicubic"], found["bicubic"]) == 0


def ten(cells=(16, 16), bands=TEN, **how):
    return lambda: tree(cells, bands, **how)


def uneven():
    two = tree((16, 16), TEN)
    two["r20m"] = two["r20m"].isel(x=slice(3, None))
    return two


def counts():
    return tree((16, 16), TEN).map_over_datasets(lambda ds: ds * 1e4)


@pytest.mark.parametrize(
    ("make", "how", "error", "said"),
    [
        (ten((3, 9)), {}, GridError, "4 x 13 whole cells of 40 m.*240 m"),
        (ten((35, 40), ALL), {"task": "60m"}, GridError, "5 x 6 .* 360 m.*2160 m"),
        (ten(times=2), {}, GridError, r"2 times; judge one.*isel\(time=0\)"),
        (uneven, {}, GridError, "covers"),
        (counts, {}, RadiometryError, "median"),
        (ten(bands=TEN[:-1]), {}, MissingBandError, "takes B12, which the data do not"),
        (ten(bands=TEN[:4]), {}, MissingBandError, "all at 10 m"),
        (ten(bands=TEN[4:]), {"task": "5m"}, MissingBandError, "takes B02"),
        (ten(), {"task": "60m"}, MissingBandError, "no band of 60 m to judge"),
        (ten(), {"bands": ["B01"]}, MissingBandError, "B01 cannot .* make B05, B06"),
        (ten(), {"models": "sharper"}, ModelError, "No model is named 'sharper'"),
        (ten(), {"models": "dsen2-60m"}, ModelError, 'not 20m ones.*task="60m"'),
        (ten(), {"models": ["dsen2-s-20m"], "task": "5m"}, ModelError, "of 10 m"),
        (ten(), {"models": ["rec-s"], "task": "5m"}, ModelError, "reflectance to 5 m"),
        (ten(), {"models": ["rrdb"], "task": "5m"}, ModelError, "No weights of rrdb"),
        (ten(), {"task": "2m"}, ModelError, "task='2m' is not one of 20m, 60m, 5m"),
    ],
)
def test_what_cannot_be_judged_raises(make, how, error, said):
    with pytest.raises(error, match=said):
        score_scene(make(), **how)


def test_a_truth_that_is_no_store_is_told(scene, tmp_path):
    made = str(tmp_path / "made.zarr")
    s2sr_xr.upsample(scene, "nearest", bands=["B05"]).s2sr.to_zarr(made)
    done = RUN.invoke(app, ["score", made, "--truth", str(tmp_path / "none.zarr")])
    assert done.exit_code == 2
    assert "There is no Zarr store with the reference at" in done.stderr


# --- the command ----------------------------------------------------------------------


def test_the_command_judges_a_scene(item):
    path = item.get_self_href()
    more = ["--model", "dsen2", "--model", "nearest", "--bands", "b11 B12".upper()]
    done = RUN.invoke(app, ["score", path, *more])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("20 m bands, made of 40 m pixels")
    assert lines[3].split() == ["nearest", "bicubic", "dsen2"]
    assert [line.split()[0] for line in lines[5:7]] == ["B11", "B12"]
    assert lines[-3].split()[:3:2] == ["all", "1.000"]


def test_the_command_speaks_json(item):
    west, south, east, north = item.bbox
    area = f"{west},{(south + north) / 2},{east},{north}"
    asked = ["score", item.get_self_href(), "--task", "5m", "--bbox", area]
    done = RUN.invoke(app, [*asked, "--json", "--border", "4"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["task"] == "5m"
    model = said["methods"]["carn-s"]
    assert set(model["bands"]) == set(TEN)
    assert model["bands"]["B02"]["sam"] is None
    assert model["means"]["10 m"]["sam"] > 0
    assert model["figure"] < 1 < 1 + model["psnr_gain"]
    assert said["methods"]["bicubic"]["figure"] == 1


def test_the_command_judges_a_result_by_a_truth(item, scene, tmp_path):
    made, ours, plain = (str(tmp_path / n) for n in ("made.zarr", "a.zarr", "b.zarr"))
    s2sr_xr.upsample(scene, "bicubic").s2sr.to_zarr(made)
    s2sr_xr.upsample(scene, "nearest").s2sr.to_zarr(ours)
    true = s2sr_xr.open_truth(item)
    true.to_zarr(plain, consolidated=False)
    expected = evaluate.score(s2sr_xr.open_result(made), true)
    done = RUN.invoke(app, ["score", made, "--truth", plain, "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["methods"]["result"]["bands"]
    assert rows["B11"]["rmse"] == pytest.approx(expected.bands[4].rmse, rel=1e-3)
    done = RUN.invoke(app, ["score", made, "--truth", ours, "--bands", "B05"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Errors against the reference")
    assert "B05" in done.stdout
    assert "B11" not in done.stdout


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["nowhere"], "There is nothing at nowhere"),
        (["{item}", "--model", "sharper"], "No model is named 'sharper'"),
        (["{item}", "--bbox", "1,2,3"], "--bbox 1,2,3 is not four numbers"),
        (["{item}", "--bbox", "-9,1,-8,2"], "does not meet"),
        (["{item}", "--task", "60m", "--border", "21"], "border=21 of 48 pixels"),
        (["{item}", "--bands", "B02"], "B02 cannot be judged"),
        (["{item}", "--truth", "x.zarr"], "{item}"),
    ],
)
def test_failures_are_one_line(item, asked, said):
    asked = [a.format(item=item.get_self_href()) for a in asked]
    done = RUN.invoke(app, ["score", *asked])
    assert done.exit_code == 2, done.output
    assert done.stderr.count("\n") == 1
    assert said.format(item=item.get_self_href()) in done.stderr


def test_a_truth_and_a_task_are_two_questions():
    done = RUN.invoke(app, ["score", "a.zarr", "--truth", "b.zarr", "--task", "20m"])
    assert done.exit_code == 2
    assert "judges a stored result" in done.output


# --- classical methods ----------------------------------------------------------------


@pytest.fixture
def classical(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return import_module("classical")


@pytest.mark.parametrize("task", ["20m", "60m"])
@pytest.mark.parametrize("method", ["by_atprk", "by_supreme"])
def test_classical_methods_beat_bicubic(classical, scene, task, method):
    trial = one_scale_below(scene, task)
    made = {
        "bicubic": attempt(trial, "bicubic"),
        method: getattr(classical, method)(trial),
    }
    found = compare_trial(trial, made)
    assert evaluate.relative_rmse(found[method], found["bicubic"]) < 0.7


@pytest.mark.parametrize("factor", [2, 6])
def test_atprk_keeps_block_means(classical, factor):
    rng = np.random.default_rng(0)
    fine = rng.normal(size=(3, 12 * factor, 9 * factor))
    coarse = rng.normal(size=(12, 9))
    made = classical.atprk(fine, coarse)
    means = made.reshape(12, factor, 9, factor).mean((1, 3))
    np.testing.assert_allclose(means, coarse, atol=1e-8)


def test_supreme_knows_the_sensor(classical):
    """It observes as `reduce_scale` does, and its transpose is one."""
    rng = np.random.default_rng(0)
    for factor in (2, 6):
        fine = rng.normal(size=(4 * factor, 5 * factor))
        coarse = rng.normal(size=(4, 5))
        seen = classical._observed(fine, factor)
        expected = reduce_scale(torch.from_numpy(fine), factor).numpy()
        np.testing.assert_allclose(seen, expected, atol=1e-12)
        spread = classical._spread(coarse, factor)
        assert np.sum(seen * coarse) == pytest.approx(np.sum(fine * spread))


def test_the_papers_tables_are_printed(item, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    quality = import_module("quality")
    as_real(tmp_path / "l1c_native", item)
    made = tmp_path / "l1c_native" / "10-20-60.npz"
    made.rename(made.with_name("hvn2_coastalA.npz"))  # a place that is left out
    as_real(tmp_path / "l2a_native", item, (10, 20))
    quality.main(["--real", str(tmp_path), "--out", str(tmp_path), "--tables"])
    text = (tmp_path / "tables.txt").read_text()
    assert text.rstrip() in capsys.readouterr().out
    assert "Tables 3 and 4: L1C, 40 m -> 20 m, means of 1" in text
    assert "Table 5: L1C, 360 m -> 60 m, means of 1" in text
    assert "L2A" not in text  # a scene that is not left out, or not whole
    rows = [line.split() for line in text.splitlines()]
    assert sum(row[:1] == ["SupReME"] for row in rows) == 8
