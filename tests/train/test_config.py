"""Trainings from a TOML file."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers .rio
import torch
from test_datasets import first as sen2venus_1
from test_datasets import overlaps
from test_datasets import second as sen2venus_2
from typer.testing import CliRunner

import s2sr_xr
from s2sr_xr.cli import app
from s2sr_xr.models.header import read_header
from s2sr_xr.models.published import EVOLAND
from s2sr_xr.simulate.truth import finer_truth
from s2sr_xr.train.config import read_training, recipe_module, recipe_of, train
from s2sr_xr.train.loop import fit
from s2sr_xr.train.recipes import RECIPES
from s2sr_xr.train.recipes.dsen2 import first_network

SMALL = {
    "dsen2-20m": "steps = 3\nbatch = 2\nside = 12",
    "dsen2-60m": "steps = 3\nbatch = 2\nside = 4\nedge = 4",
    "csr": "steps = 3\nbatch = 2\nside = 64",
    "rec": "steps = 3\nbatch = 2\nside = 16",
    "restoration": "steps = 3\nbatch = 2\nside = 16\nfiner_side = 16",
    "evoland-pretrain": "steps = 3\nbatch = 2\nside = 24",
    "evoland-gan": (
        "steps = 3\nbatch = 2\nside = 24\nfeatures = 8\n"
        "choice = {every = 2, patches = 2, side = 24, natural = 24, block = 12}"
    ),
    "pairs": "steps = 3\nbatch = 2\nside = 16",
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    item = s2sr_xr.simulate_scene(tmp_path_factory.mktemp("world"), size=360)
    return item.get_self_href()


def stop_after(count, steps):
    """Make some steps, of which the last leaves no checkpoint."""
    for _ in range(count):
        next(steps)
    steps.close()


def toml(value):
    """Return a value as TOML writes it on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{k} = {toml(v)}" for k, v in value.items()).join("{}")
    if isinstance(value, list):
        return ", ".join(map(toml, value)).join("[]")
    return json.dumps(value)


def test_a_sensor_differs_only_in_what_is_set(scene, tmp_path):
    path = write(tmp_path, scene, "rec", "sensor = {noise = 0.002}")
    sensor = recipe_of(read_training(path)).sensor
    assert (sensor.noise, sensor.phase, sensor.apart) == (0.002, 0.5, 1.0)


def test_rec_is_learnt_as_the_shipped_weights_were(scene, tmp_path):
    path = write(tmp_path, scene, "rec", "seed = 0")
    recipe = json.loads(json.dumps(asdict(recipe_of(read_training(path)))))
    card = Path(s2sr_xr.__file__).parent / "models/weights/rec-s.json"
    theirs = json.loads(card.read_text())["recipe"]
    assert recipe == {k: v for k, v in theirs.items() if k in recipe}


@pytest.mark.parametrize("recipe", ["csr", "rec"])
def test_networks_of_level_1b_learn_from_real_pairs(recipe, tmp_path):
    overlaps(tmp_path / "l1b")
    path = write(tmp_path, "l1b", recipe, "steps = 3\nbatch = 2\nside = 16")
    done = CliRunner().invoke(app, ["train", str(path)])
    assert done.exit_code == 0, done.output
    spec = s2sr_xr.get_spec(tmp_path / "mine.safetensors")
    assert spec.levels == ("L1B",)
    assert spec.fill["B08"] == pytest.approx(spec.fill["B02"] + 300, abs=1)


@pytest.mark.parametrize(("recipe", "task"), [("csr", "anchor"), ("rec", "self")])
def test_real_pairs_show_no_truth(recipe, task, tmp_path):
    overlaps(tmp_path / "l1b")
    path = write(tmp_path, "l1b", recipe, 'task = "supervised"')
    with pytest.raises(s2sr_xr.ModelError, match=f"say task = '{task}'"):
        read_training(path)


def write(folder, scene, recipe, settings="steps = 3", **more):
    told = {"recipe": recipe, "scenes": [str(scene)], "out": "mine.safetensors"} | more
    lines = [f"{k} = {toml(v)}" for k, v in told.items()]
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
    assert spec.output == s2sr_xr.get_spec(RECIPES[recipe].network).output
    assert set(spec.fill) == set(spec.bands)
    assert spec.levels == (("L1B",) if spec.units == "count" else ("L1C",))
    s2sr_xr.load_model(out)
    assert len((tmp_path / "mine.csv").read_text().splitlines()) == 4
    assert not (tmp_path / "mine.checkpoint").exists()


FOUR = ("settings", "data", "network", "steps")


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_has_the_same_four_functions(recipe):
    module = recipe_module(recipe)
    assert all(callable(getattr(module, name)) for name in FOUR)
    assert set(FOUR) <= set(module.__all__)


def test_every_file_of_recipes_is_one():
    folder = Path(s2sr_xr.__file__).parent / "train/recipes"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files == {entry.module for entry in RECIPES.values()}


def test_no_code_that_runs_recipes_names_one():
    """Only their list does; `RECIPES` says what differs between them."""
    for file in ("config.py", "training.py", "settings.py"):
        text = (Path(s2sr_xr.__file__).parent / "train" / file).read_text()
        code = text.split('"""', 2)[2]
        assert not [name for name in RECIPES if f'"{name}"' in code], file


def test_a_recipe_loads_only_what_it_needs(scene, tmp_path):
    path = write(tmp_path, scene, "dsen2-20m", SMALL["dsen2-20m"])
    code = (
        "import sys, s2sr_xr.train; list(s2sr_xr.train.train(sys.argv[1]));"
        "print(*(m for m in sys.modules if m.startswith('s2sr_xr')))"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    loaded = {name.removeprefix("s2sr_xr.") for name in done.stdout.split()}
    recipes = {name for name in loaded if name.startswith("train.recipes.")}
    assert recipes == {"train.recipes.dsen2"}
    data = {name for name in loaded if name.startswith("train.data.l1b")}
    networks = {f"models.networks.{name}" for name in ("csr", "rec", "lucas_kanade")}
    assert not data | networks & loaded


@pytest.mark.parametrize("recipe", ["dsen2-20m", "dsen2-60m"])
def test_what_learns_is_the_network_that_weights_are_loaded_into(
    recipe, scene, tmp_path
):
    job = read_training(write(tmp_path, scene, recipe, SMALL[recipe]))
    learns = first_network(recipe_of(job))
    loads = s2sr_xr.load_model(RECIPES[recipe].network)
    assert repr(learns.project) == repr(loads.project).replace("valid", "same")
    assert (learns.project is None) == (recipe == "dsen2-60m")
    assert {k: v.shape for k, v in learns.state_dict().items()} == {
        k: v.shape for k, v in loads.state_dict().items()
    }


@pytest.mark.parametrize(
    ("recipe", "setting"),
    [
        ("dsen2-20m", "project = 0.2"),
        ("dsen2-20m", "features = 32"),
        ("dsen2-20m", "blocks = 2"),
        ("dsen2-20m", "guide = false"),
        ("rec", 'bands = ["B02", "B03"]'),
    ],
)
def test_what_a_network_is_made_of_is_no_setting(recipe, setting, scene, tmp_path):
    name = setting.partition(" ")[0]
    with pytest.raises(s2sr_xr.ModelError, match=f"{name}: no such setting"):
        read_training(write(tmp_path, scene, recipe, setting))


@pytest.mark.parametrize(
    ("recipe", "stage"), [("dsen2-20m", 0), ("dsen2-60m", 0), ("csr", None)]
)
def test_what_is_left_out_is_as_the_card_says(recipe, stage, scene, tmp_path):
    own = recipe_of(read_training(write(tmp_path, scene, recipe, "seed = 0")))
    ours = json.loads(json.dumps(asdict(own)))
    card = (
        Path(s2sr_xr.__file__).parent / f"models/weights/{RECIPES[recipe].network}.json"
    )
    theirs = json.loads(card.read_text())["recipe"]
    theirs = theirs if stage is None else theirs["stages"][stage]
    assert theirs | {k: v for k, v in ours.items() if k in theirs} == theirs


def test_scenes_without_a_band_are_refused_before_a_step(scene, tmp_path):
    item = pystac.Item.from_file(scene)
    for asset in item.assets.values():
        asset.href = asset.get_absolute_href()
    with rasterio.open(item.assets["B03"].href) as whole:
        profile, nothing = whole.profile, np.zeros_like(whole.read())
    item.assets["B03"].href = str(tmp_path / "B03.tif")
    with rasterio.open(item.assets["B03"].href, "w", **profile) as file:
        file.write(nothing)
    item.save_object(dest_href=str(tmp_path / "empty.json"))
    for recipe, error in (("csr", "B03 has no pixel"), ("dsen2-20m", "misses pixels")):
        job = read_training(write(tmp_path, "empty.json", recipe, SMALL[recipe]))
        with pytest.raises(s2sr_xr.GridError, match=error):
            next(train(job))
        both = [str(scene), "empty.json"]
        path = write(tmp_path, "", recipe, SMALL[recipe], scenes=both)
        assert len(list(train(read_training(path)))) == 3
        spec = s2sr_xr.get_spec(tmp_path / "mine.safetensors")
        assert all(map(math.isfinite, spec.fill.values()))
        (tmp_path / "mine.safetensors").unlink()


@pytest.mark.parametrize("recipe", ["dsen2-20m", "csr", "rec"])
def test_the_checkpoint_of_other_scenes_is_refused(
    recipe, scene, real, tmp_path, monkeypatch
):
    monkeypatch.setitem(fit.__kwdefaults__, "every", 1)
    stop_after(2, train(read_training(write(tmp_path, scene, recipe, SMALL[recipe]))))
    assert (tmp_path / "mine.checkpoint").exists()
    job = read_training(write(tmp_path, real, recipe, SMALL[recipe]))
    with pytest.raises(s2sr_xr.ModelError, match=r"another recipe: scenes was .*real"):
        next(train(job))


def test_the_checkpoint_of_another_finer_image_is_refused(scene, real, tmp_path):
    settings = "save_every = 1\n" + SMALL["pairs"]
    one, other = (
        finer_image(scene, tmp_path / f"{name}.tif", ["B02", "B03"]) for name in "ab"
    )
    stop_after(2, train(paired(tmp_path, real, "pairs", one, settings)))
    with pytest.raises(s2sr_xr.ModelError, match=r"another recipe: .*b\.tif"):
        next(train(paired(tmp_path, real, "pairs", other, settings)))


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
        ({}, "[", s2sr_xr.ModelError, "is not a recipe"),
        ({"out": "mine.pt"}, "", s2sr_xr.StoreError, r"is not a \.safetensors file"),
        (
            {"out": "no/mine.safetensors"},
            "",
            s2sr_xr.StoreError,
            r"no folder .*Make it first",
        ),
        ({"out": 5}, "", s2sr_xr.ModelError, "out = 5 is not of the kind str"),
        ({"scenes": [5]}, "", s2sr_xr.ModelError, r"scenes = \[5\] is not of the kind"),
        ({"recipe": ["csr"]}, "", s2sr_xr.ModelError, "is not one of dsen2-20m"),
        ({"recipe": "evoland-gan", "held": 5}, "", s2sr_xr.ModelError, "held = 5 is"),
        ({}, 'steps = "many"', s2sr_xr.ModelError, "steps = 'many' is not of the kind"),
        ({}, "side = -4", s2sr_xr.ModelError, "side is a multiple of 16 pixels"),
        ({"recipe": "dsen2-20m"}, "steps = 2.5", s2sr_xr.ModelError, "2.5 is not of"),
        ({"recipe": "dsen2-20m"}, "lr = -1", s2sr_xr.ModelError, "lr is above 0"),
        ({"recipe": "dsen2-20m"}, "batch = 0", s2sr_xr.ModelError, "batch and side"),
        ({"recipe": "dsen2-20m"}, "mixed = 2", s2sr_xr.ModelError, "mixed is a share"),
        (
            {"recipe": "evoland-gan"},
            "choice = {every = 0}",
            s2sr_xr.GridError,
            "every of choice is 1 or more",
        ),
        (
            {"recipe": "evoland-gan"},
            "bands = [0, 12]",
            s2sr_xr.ModelError,
            "bands are some of 0 to 9",
        ),
        (
            {"recipe": "restoration"},
            "gain = [1.0]",
            s2sr_xr.ModelError,
            r"gain = \[1.0\] is not of the kind tuple",
        ),
        (
            {"recipe": "restoration"},
            "threads = -1",
            s2sr_xr.GridError,
            "threads are 0 or more",
        ),
        (
            {"recipe": "rec"},
            'optimiser = "sgd"',
            s2sr_xr.ModelError,
            "optimiser is adam or muon; got 'sgd'",
        ),
        (
            {"recipe": "dsen2-20m"},
            'optimiser = "sgd"',
            s2sr_xr.ModelError,
            "optimiser is adam or muon; got 'sgd'",
        ),
        (
            {"recipe": "dsen2-20m"},
            'loss = "l2"',
            s2sr_xr.ModelError,
            "loss is relative or l1; got 'l2'",
        ),
        (
            {"recipe": "rec"},
            "sensor = 3",
            s2sr_xr.ModelError,
            "3 is not a table of settings",
        ),
    ],
)
def test_what_is_no_recipe_is_refused(change, settings, error, match, scene, tmp_path):
    with pytest.raises(error, match=match):
        read_training(
            write(tmp_path, scene, **{"recipe": "csr", **change}, settings=settings)
        )


@pytest.mark.parametrize(
    ("change", "settings", "error", "match"),
    [
        ({"finer": ["a.tif", "b.tif"]}, "", s2sr_xr.ModelError, "2 images of 1 scenes"),
        ({"finer": [{"path": "a.tif", "gain": 2}]}, "", s2sr_xr.ModelError, "gain: no"),
        ({"held": ["a.json"]}, "", s2sr_xr.ModelError, "pairs chooses no checkpoint"),
        ({}, "side = 20", s2sr_xr.GridError, "side is a multiple of 8 cells, 16 or"),
        ({}, "bands = [1]", s2sr_xr.ModelError, "bands: no such setting; there are"),
        ({}, 'side = "x"', s2sr_xr.ModelError, "side = 'x' is not of the kind int"),
        ({}, "restoration = 3", s2sr_xr.ModelError, "3 is not a table of settings"),
        (
            {"recipe": "evoland-pretrain"},
            "mtf = [0.7, 0.3]",
            s2sr_xr.ModelError,
            r"mtf is a range, two numbers from 0.001 to 1; got \(0.7, 0.3\)",
        ),
        (
            {"recipe": "csr", "finer": ["a.tif"]},
            "",
            s2sr_xr.ModelError,
            "csr learns from no finer images",
        ),
    ],
)
def test_what_is_no_recipe_of_5_m_is_refused(
    change, settings, error, match, scene, tmp_path
):
    with pytest.raises(error, match=match):
        read_training(
            write(tmp_path, scene, **{"recipe": "pairs", **change}, settings=settings)
        )


@pytest.fixture
def real(scene, tmp_path):
    """The scene again, as if it were real: nobody knows its truth."""
    item = pystac.Item.from_file(scene)
    item.assets.pop("truth")
    for asset in item.assets.values():
        asset.href = asset.get_absolute_href()
    item.save_object(dest_href=str(tmp_path / "real.json"))
    return tmp_path / "real.json"


def finer_image(scene, path, bands):
    """Write what a finer sensor saw, as counts, and return how a recipe names it."""
    truth = finer_truth(pystac.Item.from_file(scene))[bands]
    truth = truth.isel(y=slice(0, 240), x=slice(0, 240))
    counts = (truth.to_dataarray("band") * 1e4).clip(1, 65535).round().astype("u2")
    counts.rio.write_crs(truth.spatial_ref.attrs["crs_wkt"]).rio.to_raster(path)
    return {"path": path.name, "bands": bands, "scale": 1e-4}


def paired(folder, real, recipe, image, settings):
    return read_training(write(folder, real, recipe, settings, finer=[image]))


def test_a_raster_beside_a_real_scene_is_learnt_from(scene, real, tmp_path):
    image = finer_image(scene, tmp_path / "planet.tif", ["B03", "B04"])
    job = paired(tmp_path, real, "pairs", image, SMALL["pairs"])
    losses = [loss for _, loss, _ in train(job)]
    assert len(losses) == 3
    s2sr_xr.load_model(tmp_path / "mine.safetensors")


@pytest.mark.parametrize("make", [sen2venus_2, sen2venus_1])
def test_an_index_of_sen2venus_is_a_scene(make, tmp_path):
    make(tmp_path)
    settings = SMALL["evoland-pretrain"] + "\ncloud = 1"
    path = write(tmp_path, "index.csv", "evoland-pretrain", settings)
    if make is sen2venus_1:
        with pytest.raises(s2sr_xr.MissingBandError, match="lacks B11 and B12"):
            next(train(read_training(path)))
        return
    assert len(list(train(read_training(path)))) == 3
    assert s2sr_xr.get_spec(tmp_path / "mine.safetensors").levels == ("L2A",)


def test_a_real_scene_without_finer_image_is_named_among_others(scene, real, tmp_path):
    path = write(tmp_path, "", "pairs", SMALL["pairs"], scenes=[str(scene), str(real)])
    with pytest.raises(s2sr_xr.GridError, match=r"real\.json has no finer image"):
        next(train(read_training(path)))


@pytest.mark.parametrize(
    ("recipe", "bands", "said"),
    [
        ("evoland-pretrain", ["B02", "B03"], "lacks B04, B08, B05, .* Pretraining"),
        ("restoration", [*EVOLAND][:8], "lacks B11, B12, which Restoration needs"),
        ("pairs", ["B01"], "the finer image has B01; the network makes B02"),
    ],
)
def test_bands_that_a_finer_image_lacks_are_named(
    recipe, bands, said, scene, real, tmp_path
):
    image = finer_image(scene, tmp_path / "planet.tif", bands)
    job = paired(tmp_path, real, recipe, image, SMALL[recipe])
    with pytest.raises(s2sr_xr.MissingBandError, match=rf"planet\.tif: .*{said}"):
        next(train(job))


@pytest.mark.parametrize("recipe", ["evoland-pretrain", "evoland-gan", "pairs"])
def test_a_recipe_without_finer_images_says_where_they_come_from(
    recipe, real, tmp_path
):
    job = read_training(write(tmp_path, real, recipe, SMALL[recipe]))
    with pytest.raises(s2sr_xr.GridError, match=r"none of .*real\.json has one: name"):
        next(train(job))


@pytest.mark.parametrize("recipe", ["dsen2-20m", "csr", "restoration"])
def test_a_scene_that_lacks_bands_is_named_with_them(recipe, real, tmp_path):
    item = pystac.Item.from_file(real)
    for band in ("B03", "B11"):
        item.assets.pop(band)
    item.save_object(dest_href=str(real))
    job = read_training(write(tmp_path, real, recipe, SMALL[recipe]))
    with pytest.raises(s2sr_xr.MissingBandError, match=r"real\.json.* B03"):
        next(train(job))


@pytest.mark.parametrize("recipe", ["restoration", "evoland-gan"])
def test_a_stopped_training_goes_on_with_the_same_losses(recipe, scene, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    jobs = []
    for folder in (one, two):
        folder.mkdir()
        settings = "save_every = 2\n" + SMALL[recipe].replace("= 3", "= 5", 1)
        jobs.append(read_training(write(folder, scene, recipe, settings)))
    whole = [loss for _, loss, _ in train(jobs[0])]
    stopped = train(jobs[1])
    seen = [next(stopped)[1] for _ in range(3)]
    stopped.close()
    assert not (two / "mine.safetensors").exists()
    again = [loss for _, loss, _ in train(jobs[1])]
    assert seen[:2] + again == whole
    heads = [read_header(f / "mine.safetensors") for f in (one, two)]
    assert heads[0].notes == heads[1].notes
    weights = [s2sr_xr.load_model(f / "mine.safetensors") for f in (one, two)]
    for a, b in zip(*(w.parameters() for w in weights), strict=True):
        assert torch.equal(a, b)
    assert sorted(p.name for p in two.iterdir()) == [
        "mine.csv",
        "mine.safetensors",
        "recipe.toml",
    ]


def test_the_checkpoint_of_another_recipe_is_refused(scene, tmp_path):
    settings = "save_every = 1\n" + SMALL["restoration"]
    path = write(tmp_path, scene, "restoration", settings)
    stop_after(2, train(read_training(path)))
    for recipe in ("pairs", "csr"):
        path = write(tmp_path, scene, recipe, SMALL[recipe])
        with pytest.raises(
            s2sr_xr.ModelError, match=r"mine\.checkpoint is of another recipe"
        ):
            next(train(read_training(path)))


def test_a_full_disk_at_the_end_costs_no_training(scene, tmp_path):
    job = read_training(write(tmp_path, scene, "dsen2-20m", SMALL["dsen2-20m"]))
    steps = train(job)
    losses = [next(steps)[1] for _ in range(3)]
    # A folder where the weights would go: they cannot be put there.
    job.out.mkdir()
    with pytest.raises(s2sr_xr.StoreError, match="checkpoint next to them is whole"):
        next(steps)
    job.out.rmdir()
    ((step, loss, _),) = train(job)
    assert (step, loss) == (2, losses[-1])
    assert job.out.is_file()


def test_first_weights_of_another_network_are_refused(scene, tmp_path):
    settings = SMALL["restoration"] + '\nfirst = "dsen2-s-20m"'
    job = read_training(write(tmp_path, scene, "restoration", settings))
    with pytest.raises(s2sr_xr.ModelError, match="dsen2-s-20m"):
        next(train(job))


def test_a_scene_that_is_not_there_is_named(tmp_path):
    job = read_training(write(tmp_path, "nowhere.json", "dsen2-20m"))
    with pytest.raises(s2sr_xr.ReadError, match=r"nowhere\.json"):
        next(train(job))
