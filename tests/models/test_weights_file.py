"""Laws of weights files: they say what they are, and work wherever a name does."""

import json
import pickle
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from worlds import tree

import s2sr_xr
from s2sr_xr.core.bands import BANDS
from s2sr_xr.engine.predictor import Predictor
from s2sr_xr.errors import ModelError
from s2sr_xr.models import weights_file
from s2sr_xr.models.header import read_header, spec_from_json, spec_to_json
from s2sr_xr.models.published import published
from s2sr_xr.models.registry import check_runs, family
from s2sr_xr.models.spec import BandGroup, ModelSpec
from s2sr_xr.models.weights_check import LARGEST, digest

NAME = "dsen2-s-20m"
SPEC, BUILD = next(m for m in published() if m[0].name == NAME)
SPEC = replace(SPEC, tile=15, title="for tests")


def random_network(seed=0):
    torch.manual_seed(seed)
    return BUILD()


@pytest.fixture
def path(tmp_path):
    weights_file.save(tmp_path / "mine.safetensors", random_network(), SPEC, NAME)
    return tmp_path / "mine.safetensors"


# What a file says


@st.composite
def specs(draw):
    bands = draw(st.lists(st.sampled_from(list(BANDS)), min_size=2, unique=True))
    cut = draw(st.integers(1, len(bands) - 1))
    align = draw(st.integers(1, 4))
    names = st.text(min_size=1, max_size=9)
    return ModelSpec(
        name=draw(names),
        title=draw(names),
        cell=draw(st.sampled_from([10, 20, 60])),
        inputs=(
            BandGroup(names=tuple(bands[:cut]), per_cell=draw(st.integers(1, 6))),
            BandGroup(names=tuple(bands[cut:]), per_cell=1),
        ),
        output=BandGroup(names=tuple(bands[cut:]), per_cell=draw(st.integers(1, 12))),
        margin=draw(st.integers(0, 99)) * align,
        tile=draw(st.integers(1, 99)) * align,
        align=align,
        exact=draw(st.booleans()),
        trained=draw(st.booleans()),
        levels=tuple(draw(st.lists(st.sampled_from(["L1B", "L1C", "L2A"])))),
        fill=draw(st.dictionaries(st.sampled_from(bands), st.floats(-1, 1))),
        licence=draw(names),
        citation=draw(st.text()),
    )


@given(spec=specs())
def test_facts_survive_the_header(spec):
    assert spec_from_json(spec_to_json(spec)) == spec


def test_a_file_says_what_it_is(path):
    header = read_header(path)
    spec, kind = header.spec, header.kind
    assert kind == NAME
    assert replace(spec, sha256=None) == SPEC
    assert spec.sha256 == digest(path)
    assert s2sr_xr.get_spec(path) == s2sr_xr.get_spec(str(path)) == spec


def test_a_file_appears_whole_or_not_at_all(path):
    before = path.read_bytes()
    with pytest.raises(TypeError, match="int"):
        weights_file.save(path, random_network(1), SPEC, NAME, notes={"a": 7})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"margin": -1}, r"margin >= 0, .* got -1"),
        ({"margin": 10**9}, "margin = 1000000000 is not a count"),
        ({"margin": 8.5}, "margin = 8.5 is not of the kind int"),
        ({"tile": True}, "tile = True is not of the kind int"),
        ({"title": 7}, "title = 7 is not of the kind str"),
        ({"exact": "yes"}, "exact = 'yes' is not of the kind bool"),
        ({"levels": "L1C"}, "levels = 'L1C' is not of the kind tuple"),
        ({"inputs": {}}, "inputs = {} is not of the kind tuple"),
        (
            {"output": {"names": ["B05"]}},
            r"output = {'names': .* not of the kind BandGroup",
        ),
        ({"fill": {"B02": float("nan")}}, r"'B02': nan. is not finite"),
        ({"sha256": "0" * 64}, "'0+': no file holds its own hash"),
        ({"colour": "red"}, "'colour' is unknown"),
    ],
)
def test_strange_facts_are_refused(change, said):
    facts = json.loads(spec_to_json(SPEC)) | change
    with pytest.raises(ModelError, match=said):
        spec_from_json(json.dumps(facts))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", "[" * 10_000, "{}", "1" * 9999]
)
def test_what_are_no_facts_is_refused(text):
    with pytest.raises(ModelError, match=r"cannot be read|unknown"):
        spec_from_json(text)


def header(body, length=None):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def tensor(start, stop, shape=(1,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, stop]}


BROKEN = {
    "truncated": header({"a": tensor(0, 4)}),
    "short": b"\x00\x00",
    "no header": header(b"", 10**6),
    "huge header": header(b"{}", 2**62),
    "overlap": header({"a": tensor(0, 4), "b": tensor(0, 4)}) + b"\x00" * 4,
    "overflow": header({"a": tensor(0, 4, (2**40, 2**40))}) + b"\x00" * 4,
    "hole": header({"a": tensor(4, 8)}) + b"\x00" * 8,
    "not json": header(b"<html></html>   "),
    "deep": header(b"[" * 100_000),
    "pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named(tmp_path, data):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(data)
    for read in (read_header, weights_file.load_file, s2sr_xr.load_model):
        with pytest.raises(ModelError, match=r"broken\.safetensors is not a whole"):
            read(broken)


def test_files_of_others_are_told_apart(tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(ModelError, match="does not say what model it is"):
        s2sr_xr.get_spec(other)
    with pytest.raises(ModelError, match="There is no weights file"):
        s2sr_xr.get_spec(tmp_path / "none.safetensors")
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(ModelError, match="import_checkpoint"):
        s2sr_xr.get_spec(tmp_path / "model.pt")
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(ModelError, match="is empty"):
        s2sr_xr.get_spec(tmp_path / "empty.safetensors")
    with (tmp_path / "big.safetensors").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(ModelError, match=r"has 1\.0 GiB"):
        s2sr_xr.get_spec(tmp_path / "big.safetensors")


def resaved(path, *, spec=SPEC, kind=NAME, tensors=None, **notes):
    """Write a file whose header and tensors need not fit."""
    state = tensors or random_network().state_dict()
    weights_file.save_tensors(path, state, spec, kind, notes=notes)
    return path


def test_a_header_cannot_lie_about_its_architecture(tmp_path):
    path = tmp_path / "lie.safetensors"
    small = replace(SPEC, margin=SPEC.margin - 1)
    with pytest.raises(
        ModelError, match=r"margin=11.*margin=12: its header was changed"
    ):
        s2sr_xr.get_spec(resaved(path, spec=small))
    with pytest.raises(ModelError, match="its header was changed"):
        s2sr_xr.get_spec(resaved(path, kind="dsen2-60m"))
    with pytest.raises(ModelError, match="No model is named 'elsewhere'"):
        s2sr_xr.get_spec(resaved(path, kind="elsewhere"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("head.weight"), r"1 tensors are missing \(head.weight\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 are strange \(extra\)"),
        (lambda s: s.update({"head.bias": torch.zeros(3)}), r"head.bias has the shape"),
        (lambda s: s["tail.bias"].fill_(float("nan")), "tail.bias holds values that"),
        (lambda s: s["tail.bias"].fill_(float("inf")), "tail.bias holds values that"),
        (lambda s: s.update({"tail.bias": torch.zeros(6).int()}), "not a float"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, said):
    state = {k: v.clone() for k, v in random_network().state_dict().items()}
    change(state)
    path = resaved(tmp_path / "bad.safetensors", tensors=state)
    with pytest.raises(ModelError, match=said):
        s2sr_xr.load_model(path)


def test_half_precision_is_read_and_large_halves_do_not_overflow(tmp_path):
    state = {k: v.half() for k, v in random_network().state_dict().items()}
    state["head.weight"].fill_(60_000)
    path = resaved(tmp_path / "half.safetensors", tensors=state)
    assert s2sr_xr.load_model(path).head.weight.dtype == torch.float32


# Wherever a name goes


def test_a_path_is_a_model(path, monkeypatch):
    network = s2sr_xr.load_model(path)
    assert not network.training
    for key, value in random_network().state_dict().items():
        assert torch.equal(network.state_dict()[key], value)
    assert family(str(path)) == {"20m": str(path)}
    check_runs(str(path))
    monkeypatch.chdir(path.parent)
    assert s2sr_xr.get_spec("mine.safetensors").name == NAME


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_upsample_takes_a_path(path, lazy, mapped):
    world = tree((10, 10), ["B02", "B03", "B04", "B08", *SPEC.output.names])
    world = world.chunk({"y": 30, "x": 30}) if lazy else world
    model = {"20m": str(path)} if mapped else str(path)
    made = s2sr_xr.upsample(world, model, bands=["B05", "B12"], device="cpu")
    assert made.B05.attrs["s2sr_weights"] == digest(path)
    plain = s2sr_xr.upsample(world, "bicubic", bands=["B05"])
    assert made.B05.shape == (60, 60)
    assert np.isfinite(made.B05.compute()).all()
    assert not np.allclose(made.B05.compute(), plain.B05.compute())


def test_the_graph_holds_a_path_and_no_weights(path):
    world = tree((10, 10), ["B02", "B03", "B04", "B08", *SPEC.output.names])
    made = s2sr_xr.upsample(world.chunk({"y": 30}), str(path), device="cpu")
    graph = pickle.dumps(
        dict(made.drop_vars(world["r10m"].data_vars).B05.__dask_graph__())
    )
    weights = random_network().head.weight.detach().numpy().tobytes()
    assert weights[:64] not in graph
    predictor = Predictor(name=str(path), sha256=digest(path))
    assert len(pickle.dumps(predictor)) < 1000


def test_a_path_travels_absolute(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    assert Predictor(name="mine.safetensors").name == str(path)
    assert Predictor(name="bicubic-20m").name == "bicubic-20m"


def test_a_file_that_changed_is_refused(path):
    # Not the weights of the other tests: this process would know them by their hash.
    weights_file.save(path, random_network(seed=6), SPEC, NAME)
    world = tree((10, 10), ["B02", "B03", "B04", "B08", *SPEC.output.names])
    made = s2sr_xr.upsample(world.chunk({"y": 30}), str(path), device="cpu")
    weights_file.save(path, random_network(seed=7), SPEC, NAME)
    with pytest.raises(ModelError, match="changed or damaged since the work was"):
        made.B05.compute()


@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_a_flipped_bit_is_refused(path, place):
    sha256 = digest(path)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=f"it should be {sha256[:12]}"):
        s2sr_xr.load_model(path, sha256=sha256)


def test_one_file_in_two_places_is_loaded_once(path, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    sha256 = digest(path)
    first, *_ = Predictor(name=str(path), sha256=sha256, device="cpu").load()
    again, *_ = Predictor(name=str(copy), sha256=sha256, device="cpu").load()
    assert first is again


def test_a_name_with_other_weights_is_refused():
    predictor = Predictor(name="bicubic-20m", sha256="0" * 64, device="cpu")
    with pytest.raises(
        ModelError, match=r"weights none here.*planned with 000000000000"
    ):
        predictor.load()
