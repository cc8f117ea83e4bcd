"""A network that goes on learning on one scene."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from test_loop import full_disk
from worlds import tree

import s2sr_xr
from s2sr_xr.core.bands import BANDS
from s2sr_xr.models import weights_file
from s2sr_xr.models.header import read_header
from s2sr_xr.models.published import published
from s2sr_xr.train.data.pairs import reduced_pair, reduced_pairs
from s2sr_xr.train.data.scenes import source
from s2sr_xr.train.finetune_tasks import makes_ten, parted, ten_parted


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    item = s2sr_xr.simulate_scene(tmp_path_factory.mktemp("world"), size=240)
    return s2sr_xr.open_stac(item, chunks=None).load()


def error(scene, model):
    """Return the mean error one scale below, where the network sees no edge."""
    spec = s2sr_xr.get_spec(model)
    pair = reduced_pair(scene, spec, "scene")
    with torch.inference_mode():
        made = s2sr_xr.load_model(model)(*(i[None] for i in pair.images))[0]
    cut = (pair.target.shape[-1] - made.shape[-1]) // 2
    return float((made - pair.target[:, cut:-cut, cut:-cut]).abs().nanmean())


@pytest.mark.filterwarnings("ignore:After 1 steps")
def test_it_learns_the_scene_and_gives_weights_that_run(scene, tmp_path):
    out = tmp_path / "mine.safetensors"
    made = scene.s2sr.finetune("dsen2-s-20m", steps=20, lr=1e-4, out=out)
    assert made == out
    assert error(scene, made) < error(scene, "dsen2-s-20m")
    spec = s2sr_xr.get_spec(made)
    assert spec.name == "dsen2-s-20m-finetuned"
    ten = scene.s2sr.upsample({"20m": str(made)}, bands=["B11"])
    assert ten.B11.attrs["s2sr_model"] == "dsen2-s-20m-finetuned"
    assert np.isfinite(ten.B11).any()
    again = scene.s2sr.finetune(made, steps=1, out=tmp_path / "more.safetensors")
    assert s2sr_xr.get_spec(again).output == spec.output


def test_what_does_not_help_is_not_kept(scene, tmp_path):
    out = tmp_path / "wild.safetensors"
    with pytest.warns(s2sr_xr.S2SRWarning, match="has the weights it began with"):
        scene.s2sr.finetune("dsen2-s-20m", steps=3, lr=10.0, out=out)
    mine, theirs = (s2sr_xr.load_model(n).state_dict() for n in (out, "dsen2-s-20m"))
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    notes = read_header(out).notes
    assert notes["moved"] == "0 of the way"
    assert notes["held_back"] == "1.000 of the error before"


def rows(of, missing):
    """Return what makes images whose pixels say which of so many rows they are of."""

    def made(shape):
        row = np.arange(shape[0]) * (of / shape[0])
        seen = np.where(row < of - missing, row, np.nan)
        return np.broadcast_to(seen[:, None], shape).astype("f4")

    return made


@pytest.mark.parametrize("missing", [0, 17])
def test_nothing_is_learnt_from_what_judges(missing):
    """Each target says which native row it is of."""
    obj = tree((40, 20), BANDS, values=rows(120, missing))
    spec = s2sr_xr.get_spec("dsen2-s-20m")
    learnt, held = parted(reduced_pairs(obj, spec, "scene"), spec)
    border = spec.margin * spec.output.per_cell
    most = max(float(p.target[:, :-border].max()) for p in learnt)
    least = float(held.target[:, border:].min())
    assert most < least
    assert least - most < 4  # and hardly anything is for neither
    assert float(held.target.isfinite().float().mean()) > 0.95


def test_ten_bands_are_learnt_at_5_m(scene, tmp_path):
    made = scene.s2sr.finetune(
        "carn-s", steps=12, lr=3e-4, out=tmp_path / "a.safetensors"
    )
    notes = read_header(made).notes
    assert float(notes["held_back"].split()[0]) < 1
    fine = scene.s2sr.superresolve(made, bands=["B11"]).B11
    assert fine.attrs["s2sr_model"] == "carn-s-finetuned"
    before = scene.s2sr.superresolve("carn-s", bands=["B11"]).B11
    assert 0 < float(abs(fine - before).mean()) < 0.01


@pytest.mark.parametrize("missing", [0, 9])
def test_of_ten_bands_no_row_is_learnt_from_and_judges(missing):
    # Cells of 60 m hold three of 20 m.
    obj = tree((27, 10), BANDS, values=rows(80, missing))
    spec = s2sr_xr.get_spec("carn-s")
    learnt, held = ten_parted(source(obj, spec, "scene"), spec)
    (most, least), (first, last) = (
        (float(np.nanmax(part.layers[1][0])), float(np.nanmin(part.layers[0][0])))
        for part in (learnt, held)
    )
    assert least == 0
    assert most < last
    assert 80 - missing - 2 < first < 80 - missing
    assert learnt.cells[0] + held.cells[0] == np.ceil((80 - missing) * 81 / 80)


def test_constants_of_a_training_set_are_kept(scene, tmp_path):
    """An imported network may standardise its bands in its own way."""
    spec, network = s2sr_xr.get_spec("carn-s"), s2sr_xr.load_model("carn-s")
    mean = torch.linspace(0.05, 0.3, 10)
    told = json.dumps({"mean": mean.tolist(), "std": [0.1] * 10})
    own, out = tmp_path / "own.safetensors", tmp_path / "mine.safetensors"
    weights_file.save(own, network, spec, "carn-s", notes={"constants": told})
    with pytest.warns(s2sr_xr.S2SRWarning, match="has the weights it began with"):
        scene.s2sr.finetune(own, steps=1, lr=10.0, out=out)
    for path in (own, out):
        kept = s2sr_xr.load_model(path).standard.mean.flatten()
        torch.testing.assert_close(kept, mean)


def test_a_scene_too_small_for_ten_bands_is_refused(tmp_path):
    obj = tree((9, 9), BANDS)
    with pytest.raises(s2sr_xr.GridError, match="27 x 27 cells of 20 m; carn-s needs"):
        obj.s2sr.finetune("carn-s", out=tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("model", "ten"), [("carn", True), ("rrdb", True), ("rrdb-s2v2x2", False)]
)
def test_networks_of_ten_bands_are_known(model, ten):
    spec = next(s for s, _ in published() if s.name == model)
    assert makes_ten(spec) is ten


def test_a_scene_without_pixels_has_no_rows(scene, tmp_path):
    empty = scene.map_over_datasets(
        lambda ds: ds.where(False) if "x" in ds.dims else ds
    )
    with pytest.raises(s2sr_xr.GridError, match="has 0 x 59 cells of 40 m"):
        empty.s2sr.finetune("dsen2-s-20m", steps=1, out=tmp_path / "a.safetensors")


@pytest.mark.filterwarnings("ignore:After 1 steps")
def test_where_the_scene_ends_it_is_not_judged(scene, tmp_path):
    cut = scene.map_over_datasets(
        lambda ds: ds.where(ds.y > float(ds.y.quantile(0.3))) if "y" in ds.dims else ds
    )
    out = cut.s2sr.finetune("dsen2-s-20m", steps=1, out=tmp_path / "a.safetensors")
    assert "of the error before" in read_header(out).notes["held_back"]


def test_the_same_seed_gives_the_same_weights(scene, tmp_path):
    paths = [
        scene.s2sr.finetune(
            "dsen2-s-20m", steps=2, seed=5, out=tmp_path / f"{n}.safetensors"
        )
        for n in "ab"
    ]
    a, b = (s2sr_xr.load_model(p).state_dict() for p in paths)
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("model", "error", "match"),
    [
        ("dsen2", s2sr_xr.ModelError, "stands for dsen2-s-20m and dsen2-s-60m"),
        ("bicubic-20m", s2sr_xr.ModelError, "does not learn one scale below"),
        ("rec-s", s2sr_xr.ModelError, "makes neither its coarsest bands nor ten"),
        ("dsen2-20m", s2sr_xr.ModelError, "No weights of dsen2-20m"),
        ("dsen2-s-60m", s2sr_xr.GridError, "needs at least 21 x 16 to learn"),
    ],
)
def test_what_cannot_learn_is_refused(model, error, match, scene, tmp_path):
    with pytest.raises(error, match=match):
        scene.s2sr.finetune(model, steps=1, out=tmp_path / "x.safetensors")


def test_weights_are_not_written_over(scene, tmp_path):
    out = tmp_path / "mine.safetensors"
    out.write_text("precious")
    with pytest.raises(s2sr_xr.StoreError, match=r"exists or is not a \.safetensors"):
        scene.s2sr.finetune("dsen2-s-20m", steps=1, out=out)
    assert out.read_text() == "precious"


def test_a_folder_that_is_not_there_is_said_before_a_step(scene, tmp_path):
    out = tmp_path / "no" / "mine.safetensors"
    with pytest.raises(s2sr_xr.StoreError, match=r"there is no folder .*Make it first"):
        scene.s2sr.finetune("dsen2-s-20m", steps=10**9, out=out)


@pytest.mark.filterwarnings("ignore:After 1 steps")
def test_a_full_disk_is_said(scene, tmp_path):
    # The simulated scenes that are learnt from too are written once a process.
    scene.s2sr.finetune("dsen2-s-20m", steps=1, out=tmp_path / "first.safetensors")
    size = (tmp_path / "first.safetensors").stat().st_size
    said = r"mine\.safetensors: .*File too large.*Make room"
    with full_disk(size // 2), pytest.raises(s2sr_xr.StoreError, match=said):
        scene.s2sr.finetune("dsen2-s-20m", steps=1, out=tmp_path / "mine.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["first.safetensors"]


@pytest.mark.filterwarnings("ignore:After 1 steps")
def test_weights_at_home_go_on_learning(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    scene.s2sr.finetune("dsen2-s-20m", steps=1, out="~/a.safetensors")
    scene.s2sr.finetune("~/a.safetensors", steps=1, out="~/b.safetensors")
    assert (tmp_path / "b.safetensors").exists()


def test_a_missing_band_is_named(tmp_path):
    obj = tree((9, 9), [b for b in BANDS if b != "B05"])
    with pytest.raises(s2sr_xr.MissingBandError, match="B05"):
        obj.s2sr.finetune("dsen2-s-20m", out=tmp_path / "x.safetensors")
