"""`benchmarks/true_scale.py` at toy size: what it makes, what it compares."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from test_psf import ground

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def true_scale():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("true_scale")
    sys.path.remove(str(FOLDER))


@pytest.fixture
def folder(tmp_path, true_scale):
    fine, coarse = ground(108, seed=3)
    bands = fine | dict.fromkeys((*true_scale.B20, *true_scale.B60), coarse)
    truth = np.round(np.stack(list(bands.values()), -1) * 1e4).astype("u2")
    np.savez(tmp_path / "toy.npz", truth=truth, bands=list(bands))
    return tmp_path


def test_splits_share_no_scene(true_scale):
    names = [n for split in true_scale.SPLIT.values() for n in split]
    assert len(names) == len(set(names))


def test_the_table_has_every_method_and_its_figure(true_scale, folder, capsys):
    methods = ["nearest", "bicubic", "ATPRK", "SupReME", "regression"]
    true_scale.main([str(folder), "--scenes", "toy", "--methods", *methods])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    figures = {c[1]: float(c[-2]) for c in lines if c[:1] == ["toy"]}
    assert list(figures) == methods
    assert figures["bicubic"] == 1
    assert figures["nearest"] > 1
    # Given the point spread, and regressed on bands that explain all.
    assert figures["SupReME"] < figures["regression"] < 1


def test_what_is_told_is_what_the_scene_was_made_with(true_scale, folder):
    (trial,) = true_scale.trials(folder, ["toy"], noise=4, shift=0.2)
    given = true_scale.point_spread(trial, "given")
    found = true_scale.point_spread(trial, "measured")
    assert given["B05"] == 8.5
    assert found["B05"] == pytest.approx(8.5, abs=0.4)
    assert true_scale.point_spread(trial, "sensor") is None


def test_a_scene_is_made_the_same_each_time(true_scale, folder):
    one, two = (
        next(iter(true_scale.trials(folder, ["toy"], noise=4, shift=0.3)))
        for _ in range(2)
    )
    for band, image in {**one.fine, **one.coarse}.items():
        np.testing.assert_array_equal(image, {**two.fine, **two.coarse}[band])
