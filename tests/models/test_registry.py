"""Laws of the registry: what it knows, what others bring, and that no fact is a lie."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pystac
import pytest
import torch
from pystac.extensions.mlm import MLMExtension
from torch import nn
from typer.testing import CliRunner
from worlds import tree

import s2sr_xr
from s2sr_xr.cli import app
from s2sr_xr.engine.predict import torch_threads
from s2sr_xr.errors import ModelError
from s2sr_xr.models import registry, weights_file
from s2sr_xr.models.mlm import to_mlm
from s2sr_xr.models.published import published
from s2sr_xr.models.receptive_field import measure_margin
from s2sr_xr.models.registry import (
    get_spec,
    list_models,
    load_model,
    register,
    register_model,
)
from s2sr_xr.models.spec import BandGroup, ModelSpec

CATALOGUE = {spec.name for spec, _ in published()}


@pytest.fixture(autouse=True)
def _one_thread():
    with torch_threads(1):
        yield


@pytest.fixture(autouse=True)
def _registry():
    """Leave the registry as it was."""
    models, plugins = dict(registry._MODELS), list(registry._PLUGINS)
    yield
    registry._MODELS.clear()
    registry._MODELS.update(models)
    registry._PLUGINS[:] = plugins


def spec_of(name, *, margin=2, exact=True, factor=2, align=1):
    return ModelSpec(
        name=name,
        title="a model of one's own",
        cell=20,
        inputs=(BandGroup(names=("B05", "B11"), per_cell=1),),
        output=BandGroup(names=("B05", "B11"), per_cell=factor),
        margin=margin,
        tile=12,
        exact=exact,
        align=align,
        trained=False,
    )


def network(kernel=3, factor=2):
    """Look ``kernel // 2`` cells far."""
    return nn.Sequential(
        nn.Conv2d(2, 2 * factor**2, kernel, padding=kernel // 2),
        nn.PixelShuffle(factor),
    )


# Law 2


LIGHT = [
    spec.name
    for spec in list_models()
    if spec.exact and (spec.name not in CATALOGUE or spec.sha256 is not None)
]
"""What can run here. test_margin measures the catalogue, narrower: it looks as far."""


@pytest.mark.parametrize("name", LIGHT)
def test_the_margin_of_what_is_registered_is_its_reach(name):
    assert measure_margin(load_model(name), get_spec(name)) == get_spec(name).margin


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_name_of_the_catalogue_is_registered(name):
    assert get_spec(name).name == name
    if get_spec(name).sha256 is None:
        with pytest.raises(ModelError, match=f"No weights of {name} are shipped"):
            load_model(name)


# Bring your own


def test_a_model_of_ones_own_works_like_any_other():
    register_model(network(5), spec_of("own-20m"))
    world = tree((24, 24), ["B02", "B05", "B11"], cell=20)
    made = s2sr_xr.upsample(world, "own", bands=["B05"], device="cpu")
    assert made.B05.shape == (48, 48)
    assert made.B05.attrs["s2sr_model"] == "own-20m"
    assert np.isfinite(made.B05).all()


def test_a_margin_that_is_too_small_is_refused_with_both_numbers():
    said = r"own looks 4 cells far, but its spec says margin=2: .* Set margin=4"
    with pytest.raises(ModelError, match=said):
        register_model(network(9), spec_of("own"))
    register_model(network(9), spec_of("own", margin=4))
    register_model(lambda: network(9), spec_of("built", margin=5))
    # Where tile and halo are the definition, nothing is promised.
    register_model(network(9), spec_of("inexact", exact=False))


def test_the_margin_of_a_network_that_pools_is_refused():
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=24))
    with pytest.raises(ModelError, match=r"exact=False|no margin"):
        register_model(nn.Sequential(network(), pool), spec_of("own"))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (nn.Conv2d(2, 3, 1), r"gave \(1, 3, 5, 5\) where its spec says \(1, 2, 2, 2\)"),
        (nn.Sequential(network(), nn.Flatten()), "gave .* where its spec says"),
        (
            nn.Conv2d(3, 2, 1),
            r"does not run on images of \[\(1, 2, 5, 5\)\].*3 channels",
        ),
        (7, "a torch.nn.Module or a function that builds one, not int"),
    ],
)
def test_a_network_that_gives_something_else_is_refused(made, said):
    with pytest.raises(ModelError, match=said):
        register_model(made, spec_of("own", exact=False))


def test_a_network_is_copied():
    mine = network()
    register_model(mine, spec_of("own"))
    before = load_model("own")[0].weight.clone()
    with torch.no_grad():
        mine[0].weight.zero_()
        load_model("own")[0].weight.zero_()
    assert torch.equal(load_model("own")[0].weight, before)


def test_names_are_taken_once_and_are_no_paths():
    register_model(network(), spec_of("own"))
    with pytest.raises(ModelError, match="A model named 'own' is registered"):
        register_model(network(), spec_of("own", margin=3))
    for name in ("a/b", "a.safetensors", "a.pt", " "):
        with pytest.raises(ModelError, match="looks like a path"):
            register(spec_of(name), network)


# Entry points


GOOD = """
from s2sr_xr.models.spec import BandGroup, ModelSpec
def models():
    from s2sr_xr.models.networks.resample import Upsample
    import s2sr_xr
    s2sr_xr.list_models()  # asks back while it is asked
    bands = BandGroup(names=("B05",), per_cell=1)
    spec = ModelSpec(
        name="plugged-20m", title="t", cell=20, inputs=(bands,), margin=2, tile=9,
        output=BandGroup(names=("B05",), per_cell=2), trained=False, per_band=True,
    )
    yield spec, lambda: Upsample(2, "bicubic")
"""

BAD = {
    "import": ("import not_there", "bad:models", "ModuleNotFoundError"),
    "raise": ("def models(): raise RuntimeError('ouch')", "bad:models", "ouch"),
    "exit": ("import sys; sys.exit(3)", "bad:models", "SystemExit: 3"),
    "name": ("x = 1", "bad:models", "AttributeError"),
    "kind": ("models = 7", "bad:models", "TypeError"),
    "pairs": ("def models(): return [1]", "bad:models", "TypeError"),
    "taken": (GOOD.replace("plugged", "bicubic"), "bad:models", "is registered"),
}


def install(folder, module, text, value):
    """Write a distribution with one entry point into a folder on the path."""
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n"
    )
    (info / "entry_points.txt").write_text(
        f"[{registry.ENTRY_POINTS}]\n{module}-models = {value}\n"
    )


def ask(folder, code):
    """Run code in a fresh process that sees the folder; return what it prints."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(folder), "PATH": ""},
    )


def test_another_package_brings_models(tmp_path):
    install(tmp_path, "good", GOOD, "good:models")
    done = ask(
        tmp_path,
        "import s2sr_xr, sys; assert 'good' not in sys.modules;"
        "s2sr_xr.get_spec('bicubic-20m'); assert 'good' not in sys.modules;"
        "from s2sr_xr.models.registry import family; print(family('plugged'));"
        "print(s2sr_xr.get_spec('plugged-20m').margin, 'torch' in sys.modules);"
        "print([s.name for s in s2sr_xr.list_models()].count('plugged-20m'));"
        "print(s2sr_xr.load_model('plugged-20m'))",
    )
    assert done.stdout.splitlines() == [
        "{'20m': 'plugged-20m'}",
        "2 True",  # the plug-in imported it
        "1",
        "Upsample(2, 'bicubic', a=-0.75)",
    ], done.stderr


@pytest.mark.parametrize(("text", "value", "said"), BAD.values(), ids=BAD)
def test_a_broken_package_is_one_warning(tmp_path, monkeypatch, text, value, said):
    install(tmp_path, "bad", text, value)
    install(tmp_path, "good", GOOD, "good:models")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("bad", "good"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.warns(s2sr_xr.S2SRWarning) as told:
        names = [spec.name for spec in list_models()]
    (warning,) = told
    assert f"bad-models = {value} cannot be used" in str(warning.message)
    assert said in str(warning.message)
    assert {"plugged-20m", "bicubic-20m"} <= set(names)
    assert [spec.name for spec in list_models()] == names  # said once
    for module in ("bad", "good"):
        sys.modules.pop(module, None)


# Facts as STAC


@pytest.mark.parametrize("spec", [s for s, _ in published()], ids=lambda s: s.name)
def test_a_model_is_a_stac_item(spec):
    made = to_mlm(replace(spec, sha256="ab" * 32))
    assert json.loads(json.dumps(made)) == made
    item = pystac.Item.from_dict(made)
    assert item.to_dict(include_self_link=False) == made
    mlm = MLMExtension.ext(item)
    assert mlm.mlm_name == spec.name
    for given, group in zip(mlm.input, spec.inputs, strict=True):
        side = (spec.tile + 2 * spec.margin) * group.per_cell
        assert given.input.shape == [-1, len(group.names), side, side]
        assert given.bands == list(group.names)
    (result,) = mlm.output
    side = spec.tile * spec.output.per_cell
    assert result.result.shape == [-1, len(spec.output.names), side, side]
    assert mlm.hyperparameters.to_dict()["margin_cells"] == spec.margin
    asset = item.assets["weights"]
    assert asset.extra_fields["file:checksum"] == "1220" + "ab" * 32
    assert [b["name"] for b in asset.to_dict()["bands"]] == list(spec.bands)


def test_a_model_without_weights_is_no_stac_item():
    with pytest.raises(ModelError, match="bicubic-20m has no weights file"):
        to_mlm(get_spec("bicubic-20m"))


# The command


def test_show_prints_the_card():
    done = CliRunner().invoke(app, ["models", "show", "dsen2-60m"])
    assert done.exit_code == 0, done.output
    for said in ("B01 B09 at 10 m", "margin      3 cells", "GPL-3.0-only", "Lanaras"):
        assert said in done.output
    done = CliRunner().invoke(app, ["models", "show", "nothing"])
    assert done.exit_code == 2
    assert done.stderr.startswith("s2sr: No model is named 'nothing'")


def test_show_prints_files_and_stac(tmp_path):
    spec, build = next(m for m in published() if m[0].name == "dsen2-s-20m")
    path = tmp_path / "mine.safetensors"
    weights_file.save(path, build(), spec, spec.name, notes={"source": "here"})
    said = CliRunner().invoke(app, ["models", "show", str(path)]).output
    assert '"kind": "dsen2-s-20m"' in said
    assert '"source": "here"' in said
    said = CliRunner().invoke(app, ["models", "show", str(path), "--mlm"]).output
    assert json.loads(said)["id"] == "dsen2-s-20m"


def test_listing_is_light():
    code = (
        "import sys, s2sr_xr; s2sr_xr.list_models(); from s2sr_xr.models import "
        "mlm; from s2sr_xr.models.importers import checkpoint;"
        "heavy = {'torch', 'h5py', 'onnx', 'onnxruntime', 'yaml'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
