"""Each benchmark runs at toy size, and reports what its question asks for."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest
import torch

import s2sr_xr

FOLDER = Path(__file__).parents[1] / "benchmarks"
FACTS = {"benchmark", "commit", "date", "machine", "cores", "versions"}
ALONE = ["--threads", "1"]
SMALL = ["--tile", "10", *ALONE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Keep the made-up products: those of 120 px serve several benchmarks."""
    return tmp_path_factory.mktemp("products")


def run(name, *options):
    """Run a benchmark; return what it said, and its JSON lines."""
    command = [sys.executable, FOLDER / f"{name}.py", *map(str, options)]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    assert all(set(row) >= FACTS for row in rows)
    return done.stdout, rows


def test_benchmarks_import_in_no_circle_and_stay_short():
    names = {path.stem for path in FOLDER.glob("*.py")}
    others = {}
    for name in names:
        text = (FOLDER / f"{name}.py").read_text()
        assert len(text.splitlines()) <= 450, name
        found = re.findall(r"^\s*(?:from|import) (\w+)", text, re.MULTILINE)
        others[name] = {other for other in found if other in names - {name}}
    assert list(TopologicalSorter(others).static_order())


def test_engine_compares_with_products_a_peer_and_a_worker():
    options = ["--model", "dsen2-20m", "--tiles", 6, "--rounds", 1, *ALONE]
    _, rows = run("engine", *options, "--precision", "float32", "--peer", "--cluster")
    by_place = {r["where"]: r for r in rows if r["run"] == "float32"}
    assert list(by_place) == ["process", "a worker", "all workers"]
    assert by_place["process"]["over_onnxruntime"] > 0
    for row in by_place.values():
        ratio = row["useful_gflops"] / by_place["process"]["useful_gflops"]
        assert row.get("over_process", 1) == pytest.approx(ratio, rel=0.01)


STAGES = ["read", "predict", "encode", "write", "other", "waiting"]


def test_scene_tells_shares_of_all_threads_and_of_the_engine(folder):
    options = ["--size", 120, "--model", "carn-s", "--block", 60, *SMALL]
    _, (row,) = run("scene", *options, "--workers", 1, "--folder", folder)
    assert list(row["shares"]) == STAGES
    assert sum(row["shares"].values()) == pytest.approx(1, abs=0.01)
    assert all(row["shares"][s] > 0 for s in ("read", "predict", "write"))
    ratio = row["mpx_s"] / row["engine_mpx_s"]
    assert row["of_engine"] == pytest.approx(ratio, rel=0.1, abs=1e-3)
    assert (row["blocks"], row["alone_blocks"]) == (4, 4)
    assert row["peak_bytes"] > 100e6


def test_peers_make_the_same_pixels(folder):
    options = ["--size", 60, "--side", 80, "--rounds", 1, *SMALL]
    options += ["--model", "dsen2-20m", "carn", "--precision", "float32"]
    _, rows = run("peers", *options, "--folder", folder)
    assert [r["run"] for r in rows] == ["ours float32", "loop"] * 2
    for mine, loop in zip(rows[::2], rows[1::2], strict=True):
        # Both are rounded to counts.
        assert mine["apart_counts"] <= 1.01
        assert mine["compared"] > 0.5
        assert loop["over_loop"] == 1
        assert min(mine["peak_bytes"], loop["peak_bytes"]) > 100e6


def test_graph_has_a_task_a_block():
    said, rows = run("graph", "--blocks", 1, 16)
    assert [r["tasks"] - r["blocks"] for r in rows] == [1, 1]
    assert all(r["scheduler_ms_a_block"] > 0 for r in rows)
    assert "graph_bytes_a_block: times" in said


def test_scaling_cuts_as_many_blocks_as_it_says(folder):
    options = ["--blocks", 1, 4, "--block", 60, "--model", "carn-s", *SMALL]
    said, rows = run("scaling", *options, "--folder", folder)
    assert [r["blocks"] for r in rows] == [1, 4]
    assert rows[1]["mpx"] == 4 * rows[0]["mpx"]
    assert "s_mpx" in said


def test_gpu_runs_on_a_cpu(folder):
    options = ["--device", "cpu", "--size", 120, "--side", 2, "--rounds", 1, *SMALL]
    options += ["--batch", 2, "--model", "carn-s", "--whole", "carn-s"]
    _, rows = run("gpu", *options, "--folder", folder)
    parts = [row["part"] for row in rows]
    assert sorted(parts) == ["engine", "engine", "room", "tile"]
    by_part = dict(zip(parts, rows, strict=True))
    assert 0 < by_part["engine"]["apart_rms_counts"] < 10
    assert by_part["room"]["apart"] == 0
    assert by_part["tile"]["over_slowest"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_says_when_there_is_none():
    said, rows = run("gpu")
    assert said.startswith("no CUDA device")
    assert rows == []


def test_peak_memory_is_of_the_child_alone(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import common

    mine = np.ones(400 << 20, np.uint8)
    found = common.child("common.facts")
    assert found["versions"]["numpy"] == np.__version__
    assert 0 < found["peak_bytes"] < mine.nbytes


@pytest.mark.parametrize("model", ["dsen2-s-20m", "carn-s"])
def test_finetuning_judges_what_it_has_not_seen(model):
    options = ["--simulated", 1, "--size", 240, "--steps", 1, "--model", model]
    _, (row,) = run("finetuning", *options)
    assert 0 <= float(row["moved"]) <= 1
    assert {0.5 < row[scale] < 1.5 for scale in ("reduced", "true")} == {True}


def test_bands_that_a_scene_lacks_follow_from_other_scenes(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from real_scenes import TEN, TWENTY, Real, completed, reflectance

    rng = np.random.default_rng(0)
    lack = ["B06", "B12"]
    have = [b for b in TWENTY if b not in lack]

    def scene(name, offset):
        sides = dict.fromkeys(TEN, 40) | dict.fromkeys(TWENTY, 20)
        counts = {
            b: rng.integers(2000, 9000, (n, n)).astype("u2") for b, n in sides.items()
        }
        one = Real(name=name, level="L1C", offset=offset, counts=counts)
        rho = {b: reflectance(one, b) for b in have}
        made = {"B06": (rho["B05"] + rho["B8A"]) / 2, "B12": 0.5 * rho["B11"] + 0.02}
        found = {b: np.rint(x * 1e4 - offset) for b, x in made.items()}
        return replace(one, counts=counts | found)

    others = [scene(f"other {k}", offset) for k, offset in enumerate((0, -1000))]
    whole = scene("partial", -1000)
    known = {b: c for b, c in whole.counts.items() if b not in lack}
    partial = replace(whole, counts=known)
    made = completed(partial, others)
    assert set(made.counts) == set(whole.counts)
    for band, counts in made.counts.items():
        assert counts.dtype == np.uint16
        assert abs(counts - whole.counts[band]).max() <= (1 if band in lack else 0)


@pytest.mark.parametrize("recipe", sorted((FOLDER / "recipes").glob("*.toml")))
def test_a_recipe_says_what_the_card_of_the_shipped_weights_says(recipe, monkeypatch):
    """A stage's settings, and every name in it is one that its maker knows."""
    monkeypatch.syspath_prepend(FOLDER)
    from make_weights import maker_of, read_recipe

    read = read_recipe(recipe.stem)
    maker = maker_of(read, FOLDER)
    weights = Path(s2sr_xr.__file__).parent / "models/weights"
    card = json.loads((weights / f"{recipe.stem}.json").read_text())["recipe"]
    cards = card.get("stages") or list(firsts(card))[::-1]
    assert len(read["stages"]) == len(cards)
    assert read.get("note") == card.get("note")
    for stage, theirs in zip(read["stages"], cards, strict=True):
        assert set(stage) <= maker.names
        known = theirs | theirs.get("plan", {})
        said = {k: known.get(k, stage[k]) for k in stage}
        if "taught" in stage:
            how = stage["taught"]
            assert theirs["taught"] == how["batches"] * 16
            assert theirs["share"] == how["share"]
            said["taught"] = how
        if "sensor" in stage:
            said["sensor"] = {k: said["sensor"][k] for k in stage["sensor"]}
        if isinstance(said.get("optimiser"), str):
            said["optimiser"] = said["optimiser"].lower()
        assert said == stage


def firsts(recipe):
    """Yield a recipe of a card, and those that it began with."""
    while recipe:
        yield recipe
        recipe = recipe["first"] and recipe["first"]["recipe"] | {
            "first": recipe["first"]["first"]
        }


def test_adversarial_tells_what_it_brings_beside_its_control():
    options = ["--steps", 3, "--batch", 1, "--weights", 10, "--size", 180]
    _, rows = run("adversarial", *options, "--patches", 1, "--natural", 48)
    assert [r["network"] for r in rows] == ["as shipped", "control", "weight 10"]
    assert all(r["db"] > 3 and 0.5 < r["detail"] < 1.5 for r in rows)
    assert len({(r["db"], r["natural"]) for r in rows}) == 3


def test_what_is_like_ice_shows_other_ground_in_the_dark_bands(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from weights_5m import iced

    rng = np.random.default_rng(0)
    ten = torch.rand(3, 4, 8, 8) * 0.2 + 0.1
    twenty = torch.rand(3, 6, 4, 4) * 0.2 + 0.1
    bright, both = iced(ten, twenty, 1.0, rng)
    # One gain for all bright bands of a patch.
    gain = bright / ten
    torch.testing.assert_close(gain, gain[:, :1, :1, :1].expand_as(gain))
    assert (bright.mean((1, 2, 3)) > 0.29).all()
    torch.testing.assert_close(both[:, :4] / twenty[:, :4], gain[:, :, :4, :4])
    assert (both[:, 4:].mean((1, 2, 3)) < 0.11).all()
    ratio = both[:, 4:] / twenty.roll(1, 0)[:, 4:]
    torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio))
    assert iced(ten, twenty, 0.0, rng) == (ten, twenty)


def test_pixels_tells_what_another_version_changed(tmp_path):
    command = [sys.executable, FOLDER / "pixels.py", "--size", "120"]
    first = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(first)
    models = {"dsen2", "carn-s", "csr-s", "rec-s"}
    assert models <= {name.rsplit(" ", 1)[0] for name in found}
    before = tmp_path / "before.json"
    before.write_text(json.dumps(found | {"dsen2 B11": "of another version"}))
    again = subprocess.run(
        [*command, "--against", before], check=False, capture_output=True, text=True
    )
    assert again.returncode == 1
    assert "1 differ: ['dsen2 B11']" in again.stderr


def test_road_counts_files_and_frames():
    out, (row,) = run("road", "--size", 120, "--model", "bicubic", "--list")
    assert 10 < row["files_block"] < row["files_to_zarr"] < row["files"] <= 60
    assert 5 < row["depth_block"] <= row["depth_to_zarr"] <= 20
    assert "  output/zarr/write.py:write_block" in out


@pytest.mark.parametrize("name", ["sensor_weights", "sensor_report", "sensor_share"])
def test_programs_of_the_sensor_start(name):
    command = [sys.executable, FOLDER / f"{name}.py", "--help"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--truth" in done.stdout
