"""Weights as other libraries write them, and the assertion that one is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import s2sr_xr
from s2sr_xr.errors import ModelError
from s2sr_xr.models.importers.checkpoint import import_checkpoint
from s2sr_xr.models.published import EVOLAND, published

h5py = pytest.importorskip("h5py")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
yaml = pytest.importorskip("yaml")

MODELS = {spec.name: (spec, build) for spec, build in published()}
TEN = ("B2", "B3", "B4", "B8", "B5", "B6", "B7", "B8A", "B11", "B12")


def refused(path, kind, said, tmp_path):
    """Assert that an import raises `said` and leaves nothing behind."""
    out = tmp_path / "out.safetensors"
    with pytest.raises(ModelError, match=said):
        import_checkpoint(path, kind, out=out)
    assert not list(tmp_path.glob("*out*"))
    assert not list(tmp_path.glob("canary*"))


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


SMALL = {"features": 8}
"""A network of another size, which is quick to write."""


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


def small_state():
    return {"head.0.weight": torch.rand(4, 4), "head.0.bias": torch.rand(4)}


def random_state(name):
    torch.manual_seed(3)
    return {k: torch.randn_like(v) for k, v in MODELS[name][1]().state_dict().items()}


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
