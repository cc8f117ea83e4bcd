"""Laws of ONNX graphs: what is ours becomes our network, others run as they are."""

from __future__ import annotations

import json
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from foreign_files import (
    CARN,
    CONSTANTS,
    MODELS,
    TEN,
    Graph,
    assert_is_the_graph,
    carn_file,
    carn_graph,
    describe,
    onnx,
    random_weights,
    refused,
    rrdb_graph,
    ten_bands,
)

import s2sr_xr
from s2sr_xr.engine.predict import predict
from s2sr_xr.engine.predictor import Predictor
from s2sr_xr.errors import ModelError, S2SRWarning, StoreError
from s2sr_xr.models import weights_file
from s2sr_xr.models.header import read_header
from s2sr_xr.models.importers.checkpoint import import_checkpoint


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
