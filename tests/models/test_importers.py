"""Laws of imports: published layouts become our networks; nothing in them runs."""

from __future__ import annotations

import base64
import json
import marshal
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import s2sr_xr
from s2sr_xr.engine.predict import predict, torch_threads
from s2sr_xr.engine.predictor import Predictor
from s2sr_xr.errors import ModelError, S2SRWarning, StoreError
from s2sr_xr.models import weights_file
from s2sr_xr.models.header import read_header
from s2sr_xr.models.importers import pytorch
from s2sr_xr.models.importers.checkpoint import KINDS, import_checkpoint
from s2sr_xr.models.published import EVOLAND, published
from s2sr_xr.models.weights_check import LARGEST, digest

h5py = pytest.importorskip("h5py")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
yaml = pytest.importorskip("yaml")

MODELS = {spec.name: (spec, build) for spec, build in published()}
TEN = ("B2", "B3", "B4", "B8", "B5", "B6", "B7", "B8A", "B11", "B12")


@pytest.fixture(autouse=True)
def _one_thread():
    with torch_threads(1):
        yield


def refused(path, kind, said, tmp_path):
    """Assert that an import raises `said` and leaves nothing behind."""
    out = tmp_path / "out.safetensors"
    with pytest.raises(ModelError, match=said):
        import_checkpoint(path, kind, out=out)
    assert not list(tmp_path.glob("*out*"))
    assert not list(tmp_path.glob("canary*"))


# Keras


def convolutions(takes=10, makes=6, features=128, blocks=6, seed=0):
    """Return random kernels and biases of DSen2, as Keras shapes them."""
    rng = np.random.default_rng(seed)
    sizes = [(takes, features), *[(features, features)] * (2 * blocks)]
    sizes.append((features, makes))
    return [
        (
            rng.normal(0, 0.03, (3, 3, i, o)).astype("f4"),
            rng.normal(0, 0.1, o).astype("f4"),
        )
        for i, o in sizes
    ]


def conv_names(n, first=1):
    return [f"conv2d_{first + i}" for i in range(n)]


def chain(names, version=2, extra=()):
    """Return the model_config of layers that follow one another, `extra` first."""
    layers, before = [*extra], "input_1"
    for name in names:
        node = [[[before, 0, 0, {}]]]
        if version == 3:
            history = {"class_name": "__keras_tensor__"}
            history["config"] = {"keras_history": [before, 0, 0]}
            node = [{"args": [history], "kwargs": {}}]
        layers.append(
            {"class_name": "Conv2D", "name": name, "config": {}, "inbound_nodes": node}
        )
        before = name
    layers.insert(0, {"class_name": "InputLayer", "name": "input_1", "config": {}})
    return json.dumps({"class_name": "Model", "config": {"layers": layers}})


def keras_file(path, pairs, names=None, *, config=None, listed=None, whole=True):
    """Write a file as Keras does."""
    names = names or conv_names(len(pairs))
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights") if whole else file
        if config is not None:
            file.attrs["model_config"] = np.bytes_(config)
        listed = names if listed is None else listed
        layers = ["input_1", *listed, "lambda_1"]
        group.attrs["layer_names"] = [n.encode() for n in layers]
        for name in ("input_1", "lambda_1"):
            group.create_group(name).attrs["weight_names"] = np.zeros(0, "S1")
        for name, (kernel, bias) in zip(names, pairs, strict=True):
            layer = group.create_group(name)
            keys = [f"{name}/kernel:0", f"{name}/bias:0"]
            layer.attrs["weight_names"] = [k.encode() for k in keys]
            for key, value in zip(keys, (kernel, bias), strict=True):
                layer[key] = value
        if whole:
            file.create_group("optimizer_weights")["step"] = np.zeros(9)
    return path


def assert_holds(path, pairs):
    """Assert that the k-th convolution of an imported network is the k-th pair."""
    state = s2sr_xr.load_model(path).state_dict()
    names = [k.removesuffix(".weight") for k in state if k.endswith("weight")]
    assert len(names) == len(pairs)
    for name, (kernel, bias) in zip(names, pairs, strict=True):
        found = state[f"{name}.weight"].numpy()
        for place in ((0, 0, 1, 0), (2, 1, 0, 1), (1, 2, -1, -1)):
            y, x, i, o = place
            assert found[o, i, y, x] == kernel[place]
        assert np.array_equal(state[f"{name}.bias"].numpy(), bias)


@pytest.mark.parametrize(
    ("kind", "takes", "makes"), [("dsen2-20m", 10, 6), ("dsen2-60m", 12, 2)]
)
def test_dsen2_in_its_published_layout(tmp_path, kind, takes, makes):
    pairs = convolutions(takes, makes)
    source = keras_file(tmp_path / "s2_032_lr_1e-04.hdf5", pairs, config=None)
    made = import_checkpoint(source, kind, out=tmp_path)
    assert made == tmp_path / f"{kind}.safetensors"
    assert_holds(made, pairs)
    spec, _ = MODELS[kind]
    found = s2sr_xr.get_spec(made)
    assert found.sha256 == digest(made)
    assert (found.licence, found.margin) == ("GPL-3.0-only", spec.margin)
    notes = read_header(made).notes
    assert notes["source"] == "s2_032_lr_1e-04.hdf5"
    assert notes["source_sha256"] == digest(source)


def shuffled(names):
    return [names[i] for i in np.random.default_rng(1).permutation(len(names))]


@pytest.mark.parametrize("version", [2, 3])
def test_layers_run_in_the_order_of_the_graph(tmp_path, version):
    """Neither names, nor lists, nor places in the file say it: the graph does."""
    pairs, names = convolutions(), shuffled(conv_names(14, first=37))
    source = keras_file(
        tmp_path / "a.hdf5",
        pairs,
        names,
        config=chain(names, version),
        listed=sorted(names),
    )
    assert_holds(import_checkpoint(source, "dsen2-20m", out=tmp_path), pairs)


def test_without_a_graph_the_list_is_the_order(tmp_path):
    """Keras lists layers as they run, and numbers them so, over 9 too."""
    pairs = convolutions()
    for name, whole in (("a.hdf5", True), ("b.h5", False)):
        names = conv_names(14, first=3)
        source = keras_file(tmp_path / name, pairs, names, whole=whole)
        out = tmp_path / f"{name}.safetensors"
        assert_holds(import_checkpoint(source, "dsen2-20m", out=out), pairs)


def test_an_order_that_cannot_be_told_is_refused(tmp_path):
    names = conv_names(14)
    source = keras_file(
        tmp_path / "a.hdf5", convolutions(), names, listed=sorted(names)
    )
    refused(source, "dsen2-20m", "their order is unknown", tmp_path)


def test_lambda_code_is_not_run(tmp_path):
    canary = tmp_path / "canary"
    code = compile(f"open({str(canary)!r}, 'w')", "x", "exec")
    function = [base64.b64encode(marshal.dumps(code)).decode(), None, None]
    layer = {
        "class_name": "Lambda",
        "name": "lambda_1",
        "config": {"name": "lambda_1", "function": function, "module": "os"},
        "inbound_nodes": [[["conv2d_1", 0, 0, {}]]],
    }
    pairs, names = convolutions(), conv_names(14)
    source = keras_file(tmp_path / "a.hdf5", pairs, config=chain(names, extra=[layer]))
    assert_holds(import_checkpoint(source, "dsen2-20m", out=tmp_path), pairs)
    assert not canary.exists()


SMALL = {"features": 8}


def tampered(tmp_path, change, pairs=None):
    source = keras_file(tmp_path / "a.hdf5", pairs or convolutions(**SMALL))
    with h5py.File(source, "a") as file:
        change(file["model_weights"], file)
    return source


def replaced(make):
    """Return a change that puts something else in the place of a kernel."""

    def change(group, file):
        place = group["conv2d_5/conv2d_5"]
        del place["kernel:0"]
        make(place, file)

    return change


def external_link(place, file):
    place["kernel:0"] = h5py.ExternalLink("secret.hdf5", "/secret")


def soft_link(place, file):
    place["kernel:0"] = h5py.SoftLink("/model_weights/conv2d_1/conv2d_1/kernel:0")


def external_storage(place, file):
    shape = (3, 3, 8, 8)
    place.create_dataset(
        "kernel:0", shape, "f4", external=[("secret.raw", 0, 4 * 9 * 64)]
    )


def virtual(place, file):
    layout = h5py.VirtualLayout((3, 3, 8, 8), "f4")
    layout[:] = h5py.VirtualSource("secret.hdf5", "secret", (3, 3, 8, 8))
    place.create_virtual_dataset("kernel:0", layout)


def bomb(place, file):
    place.create_dataset("kernel:0", (3, 3, 10**5, 10**5), "f4", chunks=(3, 3, 8, 8))


def zipped(place, file):
    zeros = np.zeros((3, 3, 1024, 1024), "f4")
    place.create_dataset("kernel:0", data=zeros, compression="gzip")


def words(place, file):
    place["kernel:0"] = np.array([b"abc"] * 9)


def plug_in(place, file):
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((3, 3, 8, 8))
    settings.set_filter(32000, h5py.h5z.FLAG_OPTIONAL, (0,))
    space = h5py.h5s.create_simple((3, 3, 8, 8))
    h5py.h5d.create(place.id, b"kernel:0", h5py.h5t.IEEE_F32LE, space, settings)


def deleted(place, file):
    pass


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (external_link, "ExternalLink, which may read another file"),
        (soft_link, "SoftLink, which may"),
        (external_storage, "keeps its values in another file"),
        (virtual, "keeps its values in another file"),
        (bomb, "bytes but declares tensors of 360000000000"),
        (zipped, "made to fill the memory"),
        (words, "not an array of floats"),
        (plug_in, r"needs the plug-ins \{32000\}"),
        (deleted, "damaged: it has no 'conv2d_5/kernel:0'"),
    ],
)
def test_what_hdf5_can_hide_is_refused(tmp_path, make, said):
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["secret"] = np.zeros((3, 3, 8, 8), "f4")
    (tmp_path / "secret.raw").write_bytes(bytes(4 * 9 * 64))
    refused(tampered(tmp_path, replaced(make)), "dsen2-20m", said, tmp_path)


def linked_group(group, file):
    del file["model_weights"]
    file["model_weights"] = h5py.ExternalLink("secret.hdf5", "/")


def many_names(group, file):
    group.attrs["layer_names"] = np.zeros(5000, "S2")


def many_kernels(group, file):
    """One dataset that many layers share."""
    big = file.create_dataset("big", data=np.zeros((3, 3, 100, 100), "f4"))
    for name in conv_names(14):
        del group[f"{name}/{name}/kernel:0"]
        group[f"{name}/{name}/kernel:0"] = big


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (linked_group, "ExternalLink"),
        (many_names, r"layer_names lists \(5000,\) names"),
        (many_kernels, "made to fill the memory"),
        (lambda g, f: f.attrs.update(model_config=np.bytes_("{")), "does not describe"),
        (lambda g, f: f.attrs.update(model_config="[" * 50_000), "does not describe"),
        (lambda g, f: f.attrs.update(model_config=chain(["a"])), "not have the layers"),
        (
            lambda g, f: f.attrs.update(
                model_config=chain(["a", "b"]).replace('"input_1", 0', '"b", 0')
            ),
            "loop of layers",
        ),
        (lambda g, f: g["conv2d_1"].attrs.update(weight_names=["conv2d_1/bias:0"]),
         "not the kernel and bias"),
    ],
)  # fmt: skip
def test_a_strange_keras_file_is_refused(tmp_path, change, said):
    refused(tampered(tmp_path, change), "dsen2-20m", said, tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"takes": 12, "makes": 2},
            "takes 12 bands, this kind 10: B04 B03 B02 B08 B05",
        ),
        ({"makes": 2}, "makes 2 bands, this kind 6"),
        ({"blocks": 32}, "holds 66 convolutions, this kind has 14"),
        ({}, r"head.weight has the shape \(8, 10, 3, 3\), the model needs \(128, 10"),
    ],
)
def test_another_keras_network_is_refused(tmp_path, options, said):
    source = keras_file(tmp_path / "a.hdf5", convolutions(**SMALL | options))
    refused(source, "dsen2-20m", said, tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    pairs = convolutions()
    pairs[3][0][0, 0, 0, 0] = np.nan
    source = keras_file(tmp_path / "a.hdf5", pairs)
    refused(source, "dsen2-20m", r"trunk\.1\.conv1\.weight holds values", tmp_path)


STARTS = {
    "empty": (b"", "is empty"),
    "html": (b"\n<!DOCTYPE html><html>404", r"looks like a web page \(25 bytes\)"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "pointer to a file in Git",
    ),
    "noise": (b"noise" * 99, "not an HDF5 file|not a whole"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("data", "said"), STARTS.values(), ids=STARTS)
def test_what_is_no_checkpoint_is_named(tmp_path, kind, data, said):
    (tmp_path / "a.bin").write_bytes(data)
    describe(tmp_path / "a.bin")
    refused(tmp_path / "a.bin", kind, said, tmp_path)
    refused(tmp_path / "b.bin", kind, "There is no|no b.yaml", tmp_path)


@pytest.mark.parametrize("kind", ["dsen2-20m", "l1bsr-rec", "evoland-onnx"])
def test_half_a_file_is_named(tmp_path, kind):
    makers = {
        "dsen2-20m": lambda p: keras_file(p, convolutions(**SMALL)),
        "l1bsr-rec": lambda p: torch.save({"a": torch.rand(99)}, p),
        "evoland-onnx": carn_file,
    }
    path = tmp_path / "a.onnx"
    makers[kind](path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, kind, "a.onnx .*is not a whole", tmp_path)


def test_a_file_that_is_too_large_is_not_opened(tmp_path):
    with (tmp_path / "a.hdf5").open("wb") as file:
        file.write(b"\x89HDF\r\n\x1a\n")
        file.truncate(LARGEST + 1)
    refused(tmp_path / "a.hdf5", "dsen2-20m", "more than any model", tmp_path)


def test_out_is_a_new_file(tmp_path):
    source = keras_file(tmp_path / "a.hdf5", convolutions(**SMALL))
    (tmp_path / "old.safetensors").touch()
    for out, said in (
        ("old.safetensors", "exists. Remove"),
        ("new.pt", "does not end in .safetensors"),
        ("sub/new.safetensors", "There is no folder"),
    ):
        with pytest.raises(ModelError, match=said):
            import_checkpoint(source, "dsen2-20m", out=tmp_path / out)
    with pytest.raises(ModelError, match="'dsen2' is not one of dsen2-20m, dsen2-60m"):
        import_checkpoint(source, "dsen2", out=tmp_path)


# ru_maxrss tells the peak of the runner that started this process; VmHWM begins anew.
MEASURE = """
import pathlib, re, sys, time
import h5py, torch, safetensors.torch, s2sr_xr
from s2sr_xr.models.importers.checkpoint import import_checkpoint
begun = time.process_time()
import_checkpoint(sys.argv[1], "vdsen2-20m", out=sys.argv[2])
seconds = time.process_time() - begun
status = pathlib.Path("/proc/self/status").read_text()
print(seconds, re.search(r"VmHWM:\\s*([0-9]+) kB", status)[1])
"""


@pytest.mark.slow
def test_38_million_parameters_take_5_seconds_and_a_gigabyte(tmp_path):
    pairs = convolutions(features=256, blocks=32)
    source = keras_file(tmp_path / "a.hdf5", pairs)
    out = tmp_path / "b.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, source, out],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, kilobytes = map(float, done.stdout.split())
    assert kilobytes < 2**20
    assert seconds < 10  # of the processor, on any machine; 2 s when quiet
    assert_holds(out, pairs)


# Pickles


def small_state():
    return {"head.0.weight": torch.rand(4, 4), "head.0.bias": torch.rand(4)}


def random_state(name):
    torch.manual_seed(3)
    return {k: torch.randn_like(v) for k, v in MODELS[name][1]().state_dict().items()}


@pytest.mark.parametrize("wrap", ["", "module."])
@pytest.mark.parametrize("legacy", [False, True])
def test_csr_in_its_published_layout(tmp_path, wrap, legacy):
    state = random_state("csr")
    path = tmp_path / "CSR_Real_L1B.pth.tar"
    checkpoint = {"state_dictCSR": {wrap + k: v for k, v in state.items()}, "epoch": 7}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    made = import_checkpoint(path, "l1bsr-csr", out=tmp_path)
    found = s2sr_xr.load_model(made).state_dict()
    assert all(torch.equal(found[k], v) for k, v in state.items())
    assert s2sr_xr.get_spec(made).levels == ("L1B",)


def test_rec_in_its_published_layout(tmp_path):
    state = random_state("rec")
    assert "body.9.body.19.body.3.conv_du.2.weight" in state
    torch.save(state, tmp_path / "REC_Real_L1B.pt")
    made = import_checkpoint(tmp_path / "REC_Real_L1B.pt", "l1bsr-rec", out=tmp_path)
    found = s2sr_xr.load_model(made).state_dict()
    assert all(torch.equal(found[k], v) for k, v in state.items())


class Canary:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("how", ["zip", "legacy", "raw", "inside"])
def test_a_pickle_that_runs_code_is_refused(tmp_path, how):
    path, canary = tmp_path / "a.pt", Canary(tmp_path / "canary")
    if how == "raw":
        path.write_bytes(pickle.dumps(canary, protocol=2))
    else:
        loaded = {"head.0.weight": canary} if how == "inside" else canary
        torch.save(loaded, path, _use_new_zipfile_serialization=how != "legacy")
    refused(
        path,
        "l1bsr-rec",
        "more than tensors.*may run code.*Nothing was executed",
        tmp_path,
    )
    out = tmp_path / "out.safetensors"
    with pytest.raises(ModelError, match=r"asks for (posix|nt)\.system") as caught:
        import_checkpoint(path, "l1bsr-csr", out=out)
    assert "False" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_programs_and_whole_networks_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    refused(tmp_path / "whole.pt", "l1bsr-rec", "asks for torch.nn", tmp_path)
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", pickle.dumps({}))
        archive.writestr("script/constants.pkl", b"x")
        archive.writestr("script/code/__torch__.py", b"def forward(self): ...")
    refused(tmp_path / "script.pt", "l1bsr-rec", "TorchScript program", tmp_path)


def test_bombs_are_refused(tmp_path):
    path = tmp_path / "expanded.pt"
    torch.save({"head.0.weight": torch.zeros(1).expand(10**11)}, path)
    refused(path, "l1bsr-rec", "declares tensors of 400000000000", tmp_path)
    path = tmp_path / "zeros.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros/data.pkl", bytes(10**7))
    refused(path, "l1bsr-rec", "unpacks from .* to 10000000 bytes", tmp_path)
    path = tmp_path / "twelvefold.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", np.random.default_rng(0).bytes(2000) * 12)
    refused(path, "l1bsr-rec", "made to fill the memory", tmp_path)


@pytest.mark.parametrize(
    ("loaded", "said"),
    [
        ({"epoch": 3, "state": {}}, "'epoch' is int, not a tensor"),
        ([torch.zeros(3)], "holds a list, not a state dict"),
        ({}, "holds the keys , not a state dict"),
        ({"a": torch.zeros(3).to_sparse()}, "a is not a plain tensor"),
        (small_state(), "holds another architecture: 1 tensors|another architecture"),
    ],
)
def test_another_checkpoint_is_refused(tmp_path, loaded, said):
    torch.save(loaded, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "l1bsr-rec", said, tmp_path)
    refused(
        tmp_path / "a.pt", "l1bsr-csr", "has no 'state_dictCSR'; it holds", tmp_path
    )


def test_a_torch_with_holes_opens_no_pickle(tmp_path):
    said = r"torch 2\.9\.1.*Upgrade to torch 2\.10"
    with pytest.raises(ModelError, match=said):
        pytorch.check_torch(tmp_path / "a.pt", "2.9.1+cpu")
    pytorch.check_torch(tmp_path / "a.pt", "2.10.0")
    assert pytorch.SAFE == (2, 10)


# ONNX


class Graph:
    """An ONNX graph that is written down node by node."""

    def __init__(self):
        self.nodes, self.values, self.n = [], [], 0

    def op(self, kind, *inputs, **options):
        self.n += 1
        out = f"t{self.n}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [out], **options))
        return out

    def value(self, array, name=None):
        name = name or f"v{len(self.values)}"
        self.values.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def conv(self, x, weights, name, *, pad=1, groups=1, edge=False):
        w, b = (f"{name}.weight", f"{name}.bias")
        for key in (w, b):
            if key not in {v.name for v in self.values}:
                self.value(weights[key].numpy(), key)
        if edge:
            pads = self.value(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
            x, pad = self.op("Pad", x, pads, mode="reflect"), 0
        return self.op("Conv", x, w, b, pads=[pad] * 4, group=groups)

    def leaky(self, x):
        return self.op("LeakyRelu", x, alpha=0.2)

    def number(self, x):
        return self.value(np.float32(x))

    def model(self, out, *, bands=10, opset=17, domains=()):
        shape = ["b", bands, "h", "w"]
        info = onnx.helper.make_tensor_value_info
        float32 = onnx.TensorProto.FLOAT
        graph = onnx.helper.make_graph(
            [*self.nodes, onnx.helper.make_node("Identity", [out], ["output"])],
            "g",
            [info("input", float32, shape)],
            [info("output", float32, ["b", bands, "H", "W"])],
            self.values,
        )
        opsets = [onnx.helper.make_opsetid("", opset)]
        opsets += [onnx.helper.make_opsetid(d, 1) for d in domains]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)


def column(values):
    return np.array(values, "f4").reshape(1, -1, 1, 1)


CONSTANTS = [column(v) for v in zip(*EVOLAND.values(), strict=True)]


def carn_graph(state, constants=CONSTANTS, alpha=0.2, pixels=2):
    """Return the published graph: counts in, a CARN of one block, counts out."""
    g = Graph()
    mean, std = (g.value(c) for c in constants)
    x = g.op("Div", "input", g.number(10_000))
    x = g.op("Div", g.op("Sub", x, mean), std)
    x = outer = g.conv(x, state, "head", edge=True)
    block = inner = x
    at = "trunk.stages.0.stages.0"
    for s in range(3):
        y = g.op(
            "LeakyRelu", g.conv(block, state, f"{at}.conv1", groups=4), alpha=alpha
        )
        y = g.leaky(g.conv(y, state, f"{at}.conv2", groups=4))
        y = g.leaky(g.op("Add", g.conv(y, state, f"{at}.conv3", pad=0), block))
        inner = g.op("Add", inner, y)
        block = g.conv(inner, state, f"trunk.stages.0.mixes.{s}", pad=0)
    outer = g.op("Add", outer, block)
    x = g.conv(outer, state, "trunk.mixes.0", pad=0)
    x = g.conv(x, state, "widen")
    x = g.op("DepthToSpace", x, blocksize=pixels, mode="CRD")
    x = g.conv(x, state, "tail")
    x = g.op("Add", g.op("Mul", x, std), mean)
    return g.model(g.op("Mul", x, g.number(10_000)))


def random_weights(name, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = MODELS[name][1]().state_dict()
    for key, value in state.items():
        if value.ndim:
            fan = value[0].numel() if value.ndim > 1 else 100
            state[key] = torch.randn(value.shape, generator=generator) / fan**0.5
    return state


CARN = "carn-1x3x64g4sw"


def describe(path, **changes):
    words = {"model": path.name, "bands": list(TEN), "margin": 32, "factor": 2}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(words | changes))
    return path


def carn_file(path, **options):
    onnx.save(carn_graph(random_weights(CARN), **options), path)
    return describe(path)


def run_graph(path, images):
    """Return what onnxruntime makes of all bands on 10 m, as EvoLand feeds it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes())
    up = torch.nn.functional.interpolate(images[1], scale_factor=2, mode="bicubic")
    joined = torch.cat((images[0], up), 1) * 10_000
    (made,) = session.run(None, {"input": joined.numpy()})
    return torch.from_numpy(made) / 10_000


def ten_bands(cells):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.rand(1, n, cells * k, cells * k, generator=generator) / 2
        for n, k in ((4, 2), (6, 1))
    ]


def assert_is_the_graph(network, path, cells=20):
    images = ten_bands(cells)
    with torch.inference_mode():
        made = network(*images)
    expected = run_graph(path, images)
    border = (expected.shape[-1] - made.shape[-1]) // 2
    inner = slice(border, expected.shape[-1] - border)
    expected = expected[..., inner, inner]
    skip = slice(2, -2)  # both interpolate beyond the edge, in their own way
    error = (made - expected)[..., skip, skip].abs().max() / expected.abs().max()
    assert error < 1e-4


def dense(g, w, x, at):
    seen = x
    for i in range(5):
        y = g.leaky(g.conv(seen, w, f"{at}.convs.{i}"))
        seen = g.op("Concat", seen, y, axis=1)
    return g.op("Add", g.op("Mul", y, g.number(0.2)), x)


def rrdb_graph(w):
    """Return the published graph of three blocks."""
    g = Graph()
    mean, std = (g.value(c) for c in CONSTANTS)
    x = g.op("Div", "input", g.number(10_000))
    x = first = g.conv(g.op("Div", g.op("Sub", x, mean), std), w, "head")
    for b in range(3):
        before = x
        for d in range(3):
            x = dense(g, w, x, f"trunk.{b}.dense.{d}")
        x = g.op("Add", g.op("Mul", x, g.number(0.2)), before)
    x = g.op("Add", g.conv(x, w, "trunk.3"), first)
    scales = g.value(np.array([1, 1, 2, 2], "f4"))
    options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
    x = g.op("Resize", x, "", scales, nearest_mode="floor", **options)
    x = g.conv(g.leaky(g.conv(x, w, "octaves.0")), w, "fine")
    x = g.conv(g.leaky(x), w, "tail")
    x = g.op("Add", g.op("Mul", x, std), mean)
    return g.model(g.op("Mul", x, g.number(10_000)))


def test_a_deep_graph_that_is_ours_becomes_our_network(tmp_path):
    """And the margin that EvoLand publishes for it is a third of what it needs."""
    weights = random_weights("rrdb")
    onnx.save(rrdb_graph(weights), tmp_path / "a.onnx")
    describe(tmp_path / "a.onnx", margin=34)
    with pytest.warns(S2SRWarning, match="looks 97 output pixels.*says margin: 34"):
        made = import_checkpoint(tmp_path / "a.onnx", "evoland-onnx", out=tmp_path)
    assert read_header(made).kind == "rrdb"
    state = s2sr_xr.load_model(made).state_dict()
    assert all(torch.equal(state[k], v) for k, v in weights.items())


def test_a_graph_that_is_ours_becomes_our_network(tmp_path):
    source = carn_file(tmp_path / "carn_1x3x64g4sw_bootstrap.onnx")
    made = import_checkpoint(source, "evoland-onnx", out=tmp_path)
    assert read_header(made).kind == CARN
    network = s2sr_xr.load_model(made)
    assert type(network).__name__ == "CARN"
    for key, value in random_weights(CARN).items():
        assert torch.equal(network.state_dict()[key], value), key
    assert_is_the_graph(network, source)
    assert s2sr_xr.get_spec(made).margin == MODELS[CARN][0].margin


def test_a_graph_that_clips_stays_a_graph(tmp_path):
    """Of usual reflectance it makes the same as a network that does not."""
    weights = random_weights(CARN)
    weights["tail.weight"] *= 0.02
    model = carn_graph(weights)
    last = model.graph.node[-1]
    bounds = [
        onnx.numpy_helper.from_array(np.float32(v), n)
        for n, v in (("lo", 0), ("hi", 1e4))
    ]
    model.graph.initializer.extend(bounds)
    clip = onnx.helper.make_node("Clip", [last.input[0], "lo", "hi"], ["clipped"])
    model.graph.node.insert(len(model.graph.node) - 1, clip)
    last.input[0] = "clipped"
    onnx.save(model, tmp_path / "a.onnx")
    made = import_checkpoint(
        describe(tmp_path / "a.onnx"), "evoland-onnx", out=tmp_path
    )
    network = s2sr_xr.load_model(made)
    with torch.inference_mode():
        assert network(*(8 * i - 2 for i in ten_bands(20))).min() >= 0


def test_a_graph_of_four_bands_is_not_taken_for_one_of_level_1b(tmp_path):
    g, generator = Graph(), torch.Generator().manual_seed(0)
    weights = {
        "up.weight": torch.randn(16, 4, 3, 3, generator=generator) / 6,
        "up.bias": torch.zeros(16),
    }
    up = g.op("DepthToSpace", g.conv("input", weights, "up"), blocksize=2, mode="CRD")
    onnx.save(g.model(up, bands=4), tmp_path / "a.onnx")
    four = {"bands": ["B2", "B3", "B4", "B8"], "margin": 2}
    describe(tmp_path / "a.onnx", **four)
    made = import_checkpoint(tmp_path / "a.onnx", "evoland-onnx", out=tmp_path)
    assert s2sr_xr.get_spec(made).bands == ("B02", "B03", "B04", "B08")


def test_a_full_disk_is_said(tmp_path):
    """No file may grow beyond 4 KiB: the weights do not fit."""
    source = carn_file(tmp_path / "a.onnx")
    out = tmp_path / "mine.safetensors"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StoreError, match=r"too large.*\. Make room, or"):
            import_checkpoint(source, "evoland-onnx", out=out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.glob("*mine*"))


def test_tensors_that_share_memory_are_saved(tmp_path):
    spec = s2sr_xr.get_spec("csr-s")
    network = s2sr_xr.load_model("csr-s")
    state, whole = network.state_dict(), torch.zeros(10_000)
    shared = {k: v if v.ndim != 1 else whole[: v.numel()] for k, v in state.items()}
    path = tmp_path / "a.safetensors"
    weights_file.save_tensors(path, shared, spec, "csr-s")
    loaded = s2sr_xr.load_model(path).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in shared.items())


def test_its_constants_travel_with_it(tmp_path):
    """In counts, as other exports have them: the graph is ours with other numbers."""
    mean, std = CONSTANTS
    source = carn_file(tmp_path / "a.onnx", constants=(mean * 1.25, std * 0.8))
    made = import_checkpoint(source, "evoland-onnx", out=tmp_path)
    header = read_header(made)
    assert header.kind == CARN
    assert json.loads(header.notes["constants"])["mean"][0] == pytest.approx(
        0.0478 * 1.25
    )
    assert_is_the_graph(s2sr_xr.load_model(made), source)
    for text, said in (("{}", "cannot be used"), ('{"mean": [1], "std": [0]}', "")):
        network = MODELS[CARN][1]()
        bad = tmp_path / f"bad{len(text)}.safetensors"
        weights_file.save(
            bad, network, MODELS[CARN][0], CARN, notes={"constants": text}
        )
        with pytest.raises(ModelError, match=f"constants.*{said}"):
            s2sr_xr.load_model(bad)


def test_any_other_graph_runs_as_it_is(tmp_path):
    source = carn_file(tmp_path / "other.onnx", alpha=0.3)
    made = import_checkpoint(source, "evoland-onnx", out=tmp_path)
    header = read_header(made)
    assert (header.kind, header.spec.name) == ("onnx", "other")
    spec, _ = MODELS[CARN]
    assert header.spec.margin == spec.margin
    assert header.spec.inputs == spec.inputs
    network = s2sr_xr.load_model(made)
    assert_is_the_graph(network, source)
    assert network(*ten_bands(8)).shape == (1, 10, 32, 32)
    with pytest.raises(ModelError, match=r"a graph of ONNX, which runs but cannot"):
        s2sr_xr.finetune(xr.Dataset(), made, out=tmp_path / "mine.safetensors")


def test_tiles_of_a_graph_do_not_show(tmp_path):
    """The measured margin is enough, and two cells less are not."""
    source = carn_file(tmp_path / "other.onnx", alpha=0.3)
    made = import_checkpoint(source, "evoland-onnx", out=tmp_path)
    spec = s2sr_xr.get_spec(made)
    run, device = Predictor(name=str(made), sha256=spec.sha256, device="cpu").load()
    errors = []
    for margin in (spec.margin, spec.margin - 2):
        less = replace(spec, margin=margin)
        cut = spec.margin - margin
        images = [i[0].numpy() for i in ten_bands(4 + 2 * spec.margin)]
        sides = [slice(k * cut, -k * cut or None) for k in (2, 1)]
        images = [i[:, s, s] for i, s in zip(images, sides, strict=True)]
        whole, tiles = (
            np.stack(predict(run, less, images, tile=(n, n), device=device))
            for n in (4, 2)
        )
        errors.append(np.abs(whole - tiles).max() / np.abs(whole).max())
    assert errors[0] < 1e-6
    assert errors[1] > 1e-5


def test_a_margin_that_is_too_small_is_said(tmp_path):
    source = describe(carn_file(tmp_path / "a.onnx", alpha=0.3), margin=16)
    with pytest.warns(S2SRWarning, match="looks 17 output pixels.*says margin: 16"):
        import_checkpoint(source, "evoland-onnx", out=tmp_path)


def test_bands_may_come_in_any_order(tmp_path):
    order = [5, 0, 9, 1, 2, 3, 4, 6, 7, 8]
    g = Graph()
    kernel = torch.zeros(10, 10, 1, 1)
    kernel[range(10), range(10), 0, 0] = torch.arange(1.0, 11)
    x = g.conv("input", {"c.weight": kernel, "c.bias": torch.zeros(10)}, "c", pad=0)
    onnx.save(g.model(x), tmp_path / "a.onnx")
    bands = [TEN[i] for i in order]
    describe(tmp_path / "a.onnx", bands=bands, factor=1, margin=0)
    made = import_checkpoint(tmp_path / "a.onnx", "evoland-onnx", out=tmp_path)
    spec = s2sr_xr.get_spec(made)
    images = ten_bands(6)
    out = s2sr_xr.load_model(made)(*images)
    assert spec.margin == 2  # the interpolation of 20 m bands
    channel = spec.output.names.index("B08")
    stored = images[0][0, spec.inputs[0].names.index("B08")]
    assert torch.allclose(out[0, channel], stored * (channel + 1), rtol=1e-5)


def tall(g, state):
    return g.op(
        "Conv", "input", g.value(np.ones((10, 10, 9, 1), "f4")), pads=[4, 0, 4, 0]
    )


def dead(g, state):
    """No light passes the units, and half the kernel is 0: it still looks that far."""
    kernel = np.zeros((10, 10, 7, 7), "f4")
    kernel[:, :, 3, 3] = -1
    x = g.op("Relu", g.op("Conv", "input", g.value(kernel), pads=[3] * 4))
    return g.op("Sub", x, x)


def dilated(g, state):
    kernel = g.value(np.ones((10, 10, 3, 3), "f4"))
    return g.op("Conv", "input", kernel, pads=[6] * 4, dilations=[6, 6])


@pytest.mark.parametrize(("make", "reach"), [(tall, 4), (dead, 3), (dilated, 6)])
def test_the_reach_of_a_graph_is_measured(tmp_path, make, reach):
    g = Graph()
    onnx.save(g.model(make(g, None)), tmp_path / "a.onnx")
    describe(tmp_path / "a.onnx", factor=1, margin=reach - 1)
    with pytest.warns(S2SRWarning, match=f"looks {reach} output pixels far"):
        made = import_checkpoint(tmp_path / "a.onnx", "evoland-onnx", out=tmp_path)
    # 10 m pixels, and a cell of 20 m; bicubic looks 2 cells more for the 20 m bands,
    # less the half pixel that whole cells round up.
    assert -(-reach // 2) + 1 <= s2sr_xr.get_spec(made).margin <= -(-reach // 2) + 2


def test_a_graph_that_pools_is_not_exact(tmp_path):
    g = Graph()
    x = g.op("Mul", "input", g.op("GlobalAveragePool", "input"))
    onnx.save(g.model(x), tmp_path / "a.onnx")
    describe(tmp_path / "a.onnx", factor=1, margin=7)
    with pytest.warns(S2SRWarning, match="looks at all it is given"):
        made = import_checkpoint(tmp_path / "a.onnx", "evoland-onnx", out=tmp_path)
    spec = s2sr_xr.get_spec(made)
    assert (spec.exact, spec.margin) == (False, 4)


def external(location):
    def change(model):
        tensor = model.graph.initializer[3]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location

    return change


def foreign(model):
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))


def foreign_node(model):
    model.graph.node[0].domain = "com.example"


def loop(model):
    model.graph.node.append(onnx.helper.make_node("Loop", [], ["x"]))


def declared(model):
    model.graph.initializer[3].dims[:] = [10**5, 10**5]


def sparse(model):
    values = onnx.numpy_helper.from_array(np.ones(1, "f4"), "s")
    indices = onnx.numpy_helper.from_array(np.zeros((1, 2), "i8"), "i")
    model.graph.sparse_initializer.append(
        onnx.helper.make_sparse_tensor(values, indices, [10**6, 10**6])
    )


def grown(kind, *sizes, **options):
    """Return a change that puts an operator that makes the image huge in front."""

    def change(model):
        names = []
        for size in sizes:
            names.append(f"size{len(names)}")
            value = onnx.numpy_helper.from_array(size, names[-1])
            model.graph.initializer.append(value)
        first = [] if kind == "ConstantOfShape" else ["input"]
        node = onnx.helper.make_node(kind, [*first, *names], ["huge"], **options)
        model.graph.node.insert(0, node)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (grown("ConstantOfShape", np.array([10**6] * 2)), "has the size 1000000, more"),
        (grown("Pad", np.array([0, 0, 10**6, 0] * 2)), "Pad has the size 1000000"),
        (
            grown("Resize", np.zeros(0, "f4"), np.array([1, 1, 9e4, 9e4], "f4")),
            "Resize has the size 90000",
        ),
        (
            lambda m: m.graph.node[10].attribute.append(
                onnx.helper.make_attribute("dilations", [10**7] * 2)
            ),
            "has the size 10000000",
        ),
        (external("weights.bin"), "in another file .'weights.bin'"),
        (external("../secret"), "in another file"),
        (external("/etc/passwd"), "in another file"),
        (foreign, "needs operators of 'com.example'"),
        (foreign_node, "needs operators of 'com.example'"),
        (loop, "has the operators Loop, whose reach is not known"),
        (declared, "bytes but declares tensors of 100"),
        (sparse, "sparse tensors"),
        (lambda m: m.graph.ClearField("output"), r"makes \[\]; one float32 image"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "x"), "is not a whole ONNX"),
    ],
)
def test_what_onnx_can_hide_is_refused(tmp_path, change, said):
    model = carn_graph(random_weights(CARN))
    change(model)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "weights.bin").write_bytes(bytes(10**6))
    refused(describe(tmp_path / "a.onnx"), "evoland-onnx", said, tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bands": ["B2"]}, "takes 10 bands, its YAML file names 1"),
        ({"bands": ["B2", "red!"]}, "distinct Sentinel-2 bands"),
        ({"bands": ["B2", "B02"]}, "distinct Sentinel-2 bands"),
        ({"bands": "B2"}, "bands is a list"),
        ({"factor": 3}, "makes .* its YAML file says"),
        ({"factor": "2"}, "factor is 1 to 8"),
        ({"margin": -1}, "margin counts pixels"),
        ({"model": "../other.onnx"}, "describes '../other.onnx', not a.onnx"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, changes, said):
    source = describe(carn_file(tmp_path / "a.onnx"), **changes)
    refused(source, "evoland-onnx", said, tmp_path)


def test_yaml_is_words_and_nothing_else(tmp_path):
    source = carn_file(tmp_path / "a.onnx")
    told = source.with_suffix(".yaml")
    canary = tmp_path / "canary"
    told.write_text(f"model: !!python/object/apply:os.system ['touch {canary}']")
    refused(source, "evoland-onnx", "is not plain YAML", tmp_path)
    told.write_text("model: a.onnx")
    refused(source, "evoland-onnx", "does not say bands, factor", tmp_path)
    told.write_text("a: " + "x" * 70_000)
    refused(source, "evoland-onnx", "has 70003 bytes", tmp_path)
    told.write_text("[" * 20_000)
    refused(source, "evoland-onnx", "is not plain YAML", tmp_path)


def test_a_graph_in_a_weights_file_passes_the_same_gates(tmp_path):
    made = tmp_path / "a.safetensors"
    model = carn_graph(random_weights(CARN))
    external("/etc/passwd")(model)
    data = torch.frombuffer(bytearray(model.SerializeToString()), dtype=torch.uint8)
    spec, _ = MODELS[CARN]
    notes = {"channels": json.dumps(list(range(10)))}
    weights_file.save_tensors(made, {"onnx": data}, spec, "onnx", notes=notes)
    with pytest.raises(ModelError, match="in another file"):
        s2sr_xr.load_model(made)
    notes = {"channels": "[0, 0]"}
    weights_file.save_tensors(made, {"onnx": data}, spec, "onnx", notes=notes)
    with pytest.raises(ModelError, match=r"its channels \[0, 0\] are not its bands"):
        s2sr_xr.load_model(made)


class Exported(torch.nn.Module):
    """What torch writes in many nodes: reflection, repetition, a cut, a shuffle."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Conv2d(10, 8, 3, padding=1, padding_mode="reflect")
        self.slope = torch.nn.PReLU()
        self.body = torch.nn.Conv2d(8, 40, 5, padding=2)

    def forward(self, counts):
        x = self.body(self.slope(self.head(counts / 10_000)))
        x = torch.nn.functional.pixel_shuffle(x, 2)
        size = [2 * n for n in counts.shape[2:]]
        up = torch.nn.functional.interpolate(counts, size, mode="bicubic")
        return up[..., : size[0], : size[1]] + 1000 * torch.sigmoid(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_an_export_of_torch_runs(tmp_path):
    torch.manual_seed(0)
    torch.onnx.export(
        Exported(),
        (torch.rand(1, 10, 16, 16) * 5000,),
        tmp_path / "a.onnx",
        dynamo=False,
        input_names=["input"],
        dynamic_axes={"input": {0: "b", 2: "h", 3: "w"}},
    )
    source = describe(tmp_path / "a.onnx", margin=7)
    made = import_checkpoint(source, "evoland-onnx", out=tmp_path)
    assert_is_the_graph(s2sr_xr.load_model(made), source)
    # A 20 m pixel reaches 3 pixels of 10 m beyond itself by interpolation, and 3 more
    # by the convolutions.
    assert s2sr_xr.get_spec(made).margin == 3


# The command


def test_the_command_imports_and_shows(tmp_path):
    from typer.testing import CliRunner

    from s2sr_xr.cli import app

    source = describe(carn_file(tmp_path / "a.onnx"), margin=3)
    out = tmp_path / "b.safetensors"
    asked = ["import", str(source), "evoland-onnx", "--out", str(out)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert digest(out) in done.output
    assert "says margin: 3" in done.stderr
    shown = CliRunner().invoke(app, ["models", "show", str(out)]).output
    assert digest(out) in shown
    assert '"source": "a.onnx"' in shown
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 2
    assert "exists. Remove" in again.stderr
