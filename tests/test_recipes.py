"""Trainings from a TOML file."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import s2sr_xr
from s2sr_xr.cli import app
from s2sr_xr.recipes import RECIPES, read_training, train

SMALL = {
    "dsen2-20m": "steps = 3\nbatch = 2\nside = 12\nfeatures = 64",
    "dsen2-60m": "steps = 3\nbatch = 2\nside = 4",
    "csr": "steps = 3\nbatch = 2\nside = 64",
    "rec": "steps = 3\nbatch = 2\nside = 16",
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    item = s2sr_xr.simulate_scene(tmp_path_factory.mktemp("world"), size=360)
    return item.get_self_href()


def write(folder, scene, recipe, settings="steps = 3", **more):
    told = {"recipe": recipe, "scenes": [str(scene)], "out": "mine.safetensors"} | more
    lines = [f"{k} = {json.dumps(v)}" for k, v in told.items()]
    path = folder / "recipe.toml"
    path.write_text("\n".join([*lines, "[settings]", settings]))
    return path


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_makes_weights_that_load(recipe, scene, tmp_path):
    path = write(tmp_path, scene, recipe, SMALL[recipe])
    done = CliRunner().invoke(app, ["train", str(path)])
    assert done.exit_code == 0, done.output
    out = tmp_path / "mine.safetensors"
    spec = s2sr_xr.get_spec(out)
    assert spec.output == s2sr_xr.get_spec(RECIPES[recipe]).output
    assert set(spec.fill) == set(spec.bands)
    assert spec.levels == (("L1B",) if spec.units == "count" else ("L1C",))
    s2sr_xr.load_model(out)
    assert len((tmp_path / "mine.csv").read_text().splitlines()) == 4
    assert not (tmp_path / "mine.checkpoint").exists()


def test_the_same_file_makes_the_same_weights(scene, tmp_path):
    path = write(tmp_path, scene, "csr", SMALL["csr"])
    once = [loss for _, loss, _ in train(read_training(path))]
    first = s2sr_xr.load_model(tmp_path / "mine.safetensors").state_dict()
    (tmp_path / "mine.safetensors").unlink()
    again = [loss for _, loss, _ in train(read_training(path))]
    second = s2sr_xr.load_model(tmp_path / "mine.safetensors").state_dict()
    assert once == again
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize(
    ("change", "settings", "error", "match"),
    [
        ({"recipe": "gan"}, "", s2sr_xr.ModelError, "is not one of dsen2-20m"),
        ({"scenes": []}, "", s2sr_xr.ModelError, "names none"),
        ({"stepps": 3}, "", s2sr_xr.ModelError, "a recipe has"),
        ({}, "stepps = 3", s2sr_xr.ModelError, "stepps: no such setting; there are"),
        ({}, "steps = 0", s2sr_xr.ModelError, "steps is 1 or more"),
        ({}, "[", s2sr_xr.ModelError, "is no recipe"),
        ({"out": "mine.pt"}, "", s2sr_xr.StoreError, r"is no \.safetensors file"),
    ],
)
def test_what_is_no_recipe_is_refused(change, settings, error, match, scene, tmp_path):
    with pytest.raises(error, match=match):
        read_training(
            write(tmp_path, scene, **{"recipe": "csr", **change}, settings=settings)
        )


def test_a_scene_that_is_not_there_is_named(tmp_path):
    job = read_training(write(tmp_path, "nowhere.json", "dsen2-20m"))
    with pytest.raises(s2sr_xr.ReadError, match=r"nowhere\.json"):
        next(train(job))
