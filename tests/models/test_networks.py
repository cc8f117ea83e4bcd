"""Laws of the networks; each is stated a second time, from its description alone.

The statements take a dict of weights and use nothing of the library. For REC and CSR
the dict has the names of the published checkpoints, so that equality also shows that
those load.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.engine.predict import torch_threads
from s2sr_xr.errors import GridError, ModelError
from s2sr_xr.models.networks.carn import CARN
from s2sr_xr.models.networks.csr import CSR
from s2sr_xr.models.networks.discriminator import Discriminator
from s2sr_xr.models.networks.dsen2 import DSen2
from s2sr_xr.models.networks.layers import Conv, centre
from s2sr_xr.models.networks.rec import REC
from s2sr_xr.models.networks.registration import register_bands, standardise, warp
from s2sr_xr.models.networks.rrdb import RRDBNet
from s2sr_xr.models.published import EVOLAND, published

MODELS = {spec.name: (spec, build) for spec, build in published()}
TWO, THREE = ((4, 1), (6, 2)), ((4, 1), (6, 2), (2, 6))
TEN = dict(zip(("mean", "std"), zip(*EVOLAND.values(), strict=True), strict=True))


@pytest.fixture(autouse=True)
def _one_thread():
    """Small images: threads that wait for each other cost ten times the work."""
    with torch_threads(1):
        yield


EXACT = {
    "dsen2-20m": lambda **k: DSen2(TWO, features=16, blocks=2, **k),
    "dsen2-60m": lambda **k: DSen2(THREE, features=16, blocks=3, **k),
    "carn": lambda **k: CARN(TWO, features=32, blocks=2, **TEN, **k),
    "carn-g4": lambda **k: CARN(TWO, features=16, blocks=2, shared=False, **TEN, **k),
    "carn-g1sw": lambda **k: CARN(TWO, features=16, blocks=2, groups=1, **TEN, **k),
    "rrdb": lambda **k: RRDBNet(TWO, features=16, growth=8, blocks=1, **TEN, **k),
    "rrdb-x4": lambda **k: RRDBNet(
        ((10, 1),), factor=4, features=16, growth=8, blocks=1, **TEN, **k
    ),
}
"""Networks of every kind that shrink, small: their laws do not depend on the size."""


def randomised(network, seed=0):
    """Return the network with random biases too, ready to run."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim == 4:
                fan = parameter[0].numel()
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise / fan**0.5)
    return network.eval()


def images(inputs, cells, dtype=torch.float32, seed=1):
    """Return one reflectance image a group, `cells` wide."""
    generator = torch.Generator().manual_seed(seed)
    finest = inputs[-1][1]
    return [
        0.5
        * torch.rand((1, n, *[cells * finest // f] * 2), generator=generator).to(dtype)
        for n, f in inputs
    ]


def run(network, stacks):
    with torch.inference_mode():
        return network(*stacks)


def assert_near(found, expected, tolerance):
    assert found.shape == expected.shape
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < tolerance, float(error)


def conv(w, name, x, **options):
    kernel = w[f"{name}.weight"]
    options = {"padding": kernel.shape[-1] // 2} | options
    return F.conv2d(x, kernel, w[f"{name}.bias"], **options)


def mirror_conv(w, name, x):
    return conv(w, name, F.pad(x, (1, 1, 1, 1), mode="reflect"), padding=0)


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x)


def finer(x, factor, mode):
    return F.interpolate(x, scale_factor=factor, mode=mode, align_corners=False)


# Counts


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("dsen2-20m", 1_789_574),
        ("dsen2-60m", 1_787_266),
        ("vdsen2-20m", 37_802_246),
        ("vdsen2-60m", 37_797_634),
        ("rec", 15_445_796),
        ("csr", 4_104_674),
        ("carn-1x3x64g4sw", 1_243_530),
        ("carn-2x3x64g4sw", 1_867_914),
        ("carn", 2_492_298),
        ("carn-4x3x64g4sw", 3_116_682),
        ("carn-3x3x64g4", 4_659_594),
        ("carn-3x3x64g1sw", 5_146_506),
        ("rrdb", 2_280_662),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name, count):
    with torch.device("meta"):
        network = MODELS[name][1]()
    assert sum(p.numel() for p in network.parameters()) == count
    # What is saved is what is counted: constants and shared blocks appear once.
    assert sum(v.numel() for v in network.state_dict().values()) == count


@pytest.mark.parametrize(
    ("name", "megabytes"),
    [
        ("dsen2-s-20m", 1.0),
        ("dsen2-s-60m", 1.0),
        ("carn-s", 1.5),
        ("rec-s", 1.5),
        ("csr-s", 2.1),
    ],
)
def test_small_models_are_small(name, megabytes):
    with torch.device("meta"):
        network = MODELS[name][1]()
    assert 2 * sum(p.numel() for p in network.parameters()) < megabytes * 1e6


# Parity


def dsen2(w, stacks, factors):
    fine = [finer(x / 0.2, f, "bilinear") for x, f in zip(stacks, factors, strict=True)]
    x = torch.relu(conv(w, "head", torch.cat(fine, 1)))
    for i in range(sum(k.endswith("conv1.weight") for k in w)):
        y = torch.relu(conv(w, f"trunk.{i}.conv1", x))
        x = x + 0.1 * conv(w, f"trunk.{i}.conv2", y)
    return 0.2 * (conv(w, "tail", x) + fine[-1])


@pytest.mark.parametrize("inputs", [TWO, THREE])
def test_dsen2_is_algorithm_1_of_lanaras(inputs):
    network = randomised(DSen2(inputs, padding="same"))
    stacks = images(inputs, 60 // inputs[-1][1])
    expected = dsen2(network.state_dict(), stacks, [f for _, f in inputs])
    assert_near(run(network, stacks), expected, 1e-5)


def carn(w, stacks, *, blocks, groups, shared):
    mean, std = (torch.tensor(TEN[k])[:, None, None] for k in ("mean", "std"))
    joined = torch.cat((stacks[0], finer(stacks[1], 2, "bicubic")), 1)
    x = mirror_conv(w, "head", (joined - mean) / std)
    outer = x
    for b in range(blocks):
        block = inner = x
        for s in range(3):
            at = f"trunk.stages.{b}.stages.{0 if shared else s}"
            y = leaky(conv(w, f"{at}.conv1", block, groups=groups))
            y = leaky(conv(w, f"{at}.conv2", y, groups=groups))
            y = leaky(conv(w, f"{at}.conv3", y) + block)
            inner = inner + y
            block = conv(w, f"trunk.stages.{b}.mixes.{s}", inner)
        outer = outer + block
        x = conv(w, f"trunk.mixes.{b}", outer)
    x = F.pixel_shuffle(conv(w, "widen", x), 2)
    return conv(w, "tail", x) * std + mean


@pytest.mark.parametrize(
    ("groups", "shared"), [(4, True), (4, False), (1, True)], ids=str
)
def test_carn_is_its_statement(groups, shared):
    options = {"blocks": 2, "groups": groups, "shared": shared}
    network = randomised(CARN(TWO, features=64, **options, **TEN, padding="same"))
    stacks = images(TWO, 24)
    expected = carn(network.state_dict(), stacks, **options)
    assert_near(run(network, stacks), expected, 1e-5)


def rrdb(w, stacks, factor):
    mean, std = (torch.tensor(TEN[k])[:, None, None] for k in ("mean", "std"))
    joined = torch.cat([stacks[0], *(finer(x, 2, "bicubic") for x in stacks[1:])], 1)
    x = head = conv(w, "head", (joined - mean) / std)
    for b in range(3):
        start = x
        for d in range(3):
            seen = [x]
            for c in range(5):
                y = conv(w, f"trunk.{b}.dense.{d}.convs.{c}", torch.cat(seen, 1))
                seen.append(leaky(y))
            x = x + w[f"trunk.{b}.dense.{d}.scale"] * seen[-1]
        x = start + w[f"trunk.{b}.scale"] * x
    x = head + conv(w, "trunk.3", x)
    for i in range(factor // 2):
        x = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
        x = leaky(conv(w, f"octaves.{i}", x))
    return conv(w, "tail", leaky(conv(w, "fine", x))) * std + mean


@pytest.mark.parametrize(("inputs", "factor"), [(TWO, 2), (((10, 1),), 4)], ids=str)
def test_rrdb_is_its_statement(inputs, factor):
    network = randomised(RRDBNet(inputs, factor=factor, **TEN, padding="same"))
    stacks = images(inputs, 32 // inputs[-1][1])
    expected = rrdb(network.state_dict(), stacks, factor)
    assert_near(run(network, stacks), expected, 1e-5)


def published_weights(shapes, gain=1.0, seed=3):
    """Return random weights under the names of a published checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    w = {}
    for name, (made, bands, kernel) in shapes.items():
        shape = (made, bands, kernel, kernel)
        noise = torch.randn(shape, generator=generator)
        w[f"{name}.weight"] = gain * noise / (bands * kernel**2) ** 0.5
        w[f"{name}.bias"] = 0.1 * torch.randn(made, generator=generator)
    return w


def rec_shapes():
    shapes = {"head.0": (64, 4, 3), "body.10": (64, 64, 3)}
    for g in range(10):
        for b in range(20):
            at = f"body.{g}.body.{b}.body"
            shapes[f"{at}.0"] = shapes[f"{at}.2"] = (64, 64, 3)
            shapes[f"{at}.3.conv_du.0"] = (4, 64, 1)
            shapes[f"{at}.3.conv_du.2"] = (64, 4, 1)
        shapes[f"body.{g}.body.20"] = (64, 64, 3)
    return shapes | {"tail.0.0": (256, 64, 3), "tail.1": (4, 64, 3)}


def rec(w, counts):
    x = head = conv(w, "head.0", counts / 400)
    for g in range(10):
        group = x
        for b in range(20):
            at = f"body.{g}.body.{b}.body"
            y = conv(w, f"{at}.2", torch.relu(conv(w, f"{at}.0", x)))
            pooled = F.adaptive_avg_pool2d(y, 1)
            squeezed = torch.relu(conv(w, f"{at}.3.conv_du.0", pooled))
            x = x + y * torch.sigmoid(conv(w, f"{at}.3.conv_du.2", squeezed))
        x = group + conv(w, f"body.{g}.body.20", x)
    x = head + conv(w, "body.10", x)
    return 400 * conv(w, "tail.1", F.pixel_shuffle(conv(w, "tail.0.0", x), 2))


def test_rec_is_its_statement_on_published_names():
    # Damped, as training leaves 200 residuals: at 1 they amplify rounding without end.
    w = published_weights(rec_shapes(), gain=0.3)
    network = REC().eval()
    network.load_state_dict(w, strict=True)
    counts = 1000 * torch.rand((1, 4, 12, 16), generator=torch.manual_seed(0))
    assert_near(run(network, [counts]), rec(w, counts), 1e-5)


CSR_WIDTHS = {
    "Pool": [(2, 32), (32, 64), (64, 128), (128, 256)],
    "Binl": [(256, 256), (256, 256), (256, 128), (128, 64)],
}


def csr_shapes():
    shapes = {"conv1": (32, 64, 3), "conv2": (2, 32, 3)}
    for kind, widths in CSR_WIDTHS.items():
        for i, (bands, made) in enumerate(widths, start=1):
            shapes[f"conv{kind}{i}.convleaky.conv1"] = (made, bands, 3)
            shapes[f"conv{kind}{i}.convleaky.conv2"] = (made, made, 3)
    return shapes


def csr(w, x):
    for kind in CSR_WIDTHS:
        for i in range(1, 5):
            for layer in ("conv1", "conv2"):
                x = leaky(mirror_conv(w, f"conv{kind}{i}.convleaky.{layer}", x))
            x = F.max_pool2d(x, 2) if kind == "Pool" else finer(x, 2, "bilinear")
    x = leaky(mirror_conv(w, "conv1", x))
    return 10 * torch.tanh(mirror_conv(w, "conv2", x))


def test_csr_is_its_statement_on_published_names():
    w = published_weights(csr_shapes())
    network = CSR().eval()
    network.load_state_dict(w, strict=True)
    pair = torch.randn((2, 2, 48, 64), generator=torch.manual_seed(0))
    assert_near(run(network, [pair]), csr(w, pair), 1e-5)


@pytest.mark.parametrize("skips", [True, False])
def test_the_discriminator_is_its_statement(skips):
    network = Discriminator(10, features=8, skips=skips).eval()
    kernels = {n: m.weight for n, m in network.named_modules() if hasattr(m, "weight")}
    x = torch.randn((2, 10, 24, 32), generator=torch.manual_seed(0))
    expected = [leaky(F.conv2d(x, kernels["head"], network.head.bias, padding=1))]
    for i in range(3):
        y = F.conv2d(expected[-1], kernels[f"down.{i}"], stride=2, padding=1)
        expected.append(leaky(y))
    y = expected.pop()
    for i in range(3):
        y = leaky(F.conv2d(finer(y, 2, "bilinear"), kernels[f"up.{i}"], padding=1))
        y = y + expected.pop() if skips else y
    for i in range(2):
        y = leaky(F.conv2d(y, kernels[f"last.{i}"], padding=1))
    y = F.conv2d(y, kernels["tail"], network.tail.bias, padding=1)
    assert_near(network(x).detach(), y.detach(), 1e-5)


def test_the_discriminator_learns_with_bounded_gain():
    network = Discriminator(4, features=8).train()
    x = torch.randn((2, 4, 16, 16), generator=torch.manual_seed(0))
    for _ in range(40):  # power iterations
        network(x)
    for layer in (*network.down, *network.up, *network.last):
        gain = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert abs(float(gain.detach()) - 1) < 0.05
    network(x).sum().backward()
    with pytest.raises(GridError, match="multiples of 8"):
        network(x[..., :12])


# Shrinking


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str
)
@pytest.mark.parametrize("name", EXACT)
def test_padding_changes_nothing_but_the_border(name, dtype, tolerance):
    same = randomised(EXACT[name](padding="same")).to(dtype)
    valid = EXACT[name](padding="valid").eval().to(dtype)
    valid.load_state_dict(same.state_dict())
    stacks = images(THREE if "60m" in name else TWO, 12 if "60m" in name else 36, dtype)
    if name == "rrdb-x4":
        stacks = [torch.cat((stacks[0], stacks[0], stacks[0][:, :2]), 1)]
    inner, whole = run(valid, stacks), run(same, stacks)
    assert inner.shape[-1] < whole.shape[-1]
    # A network that padded all the same would leave less.
    assert_near(inner, centre(whole, inner), tolerance)


@pytest.mark.parametrize("name", ["dsen2-s-20m", "dsen2-s-60m", "carn-s"])
def test_a_network_that_shrinks_moves_with_its_image(name):
    """A crop is the same part of the scene, from any whole cell on."""
    spec, build = MODELS[name]
    network = randomised(build().double())
    side = 2 * spec.margin + 3
    inputs = [
        (len(g.names), spec.inputs[0].per_cell // g.per_cell) for g in spec.inputs
    ]
    stacks = images(inputs, side, torch.float64)
    whole = run(network, stacks)
    k = spec.output.per_cell
    per_cell = [g.per_cell for g in spec.inputs]
    crops = [
        x[..., n : (side - 1) * n, n : (side - 1) * n]
        for x, n in zip(stacks, per_cell, strict=True)
    ]
    part = run(network, crops)
    assert_near(part, whole[..., k:-k, k:-k], 1e-12)


# Units


def test_dsen2_adds_a_correction_to_the_bands_it_sharpens():
    network = DSen2(TWO, features=8, blocks=1, padding="same").eval()
    torch.nn.init.zeros_(network.tail.weight)
    ten, twenty = images(TWO, 9)
    expected = finer(twenty, 2, "bilinear")
    assert_near(run(network, [ten, twenty]), expected, 1e-6)


@pytest.mark.parametrize("name", ["carn", "rrdb"])
def test_a_network_that_says_nothing_gives_the_mean_reflectance(name):
    network = EXACT[name]().eval()
    for parameter in network.tail.parameters():
        torch.nn.init.zeros_(parameter)
    out = run(network, images(TWO, 30))
    for b, mean in enumerate(TEN["mean"]):
        assert (out[:, b] - mean).abs().max() < 1e-6


def test_networks_leave_their_input_alone():
    for name, make in EXACT.items():
        inputs = THREE if "60m" in name else TWO
        stacks = images(inputs, 36 // inputs[-1][1] * 2)
        stacks = [torch.cat((stacks[0],) * 3, 1)[:, :10]] if "x4" in name else stacks
        before = [x.clone() for x in stacks]
        run(make().eval(), stacks)
        assert all(map(torch.equal, before, stacks))


# Threads


@pytest.mark.parametrize("cells", ["tile", "object"])
@pytest.mark.parametrize(
    "name", ["dsen2-20m", "dsen2-s-60m", "carn-s", "rrdb", "rec-s", "csr-s"]
)
def test_the_number_of_threads_changes_no_bit(name, cells):
    spec, build = MODELS[name]
    network = randomised(build())
    side = {"tile": 90, "object": 4}[cells] * 10 // spec.cell or 1
    side += 2 * spec.margin
    side += -side % spec.align
    inputs = [
        (len(g.names), spec.inputs[0].per_cell // g.per_cell) for g in spec.inputs
    ]
    stacks = images(inputs, side)
    if name == "csr-s":
        stacks = [standardise(stacks[0][:, :2])]
    results = []
    for n in (1, 2):
        with torch_threads(n):
            results.append(run(network, stacks))
    assert torch.equal(*results)


@pytest.mark.parametrize("side", [1, 3, 9, 70])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_is_torchs_with_the_bits_of_any_number_of_threads(kernel, side):
    layer = randomised(Conv(64, 6, kernel, padding="same"))
    x = torch.randn((1, 64, side, side), generator=torch.manual_seed(0))
    results = []
    for n in (1, 2):
        with torch_threads(n):
            results.append(run(layer, [x]))
    assert torch.equal(*results)
    expected = F.conv2d(x, layer.weight, layer.bias, padding=kernel // 2)
    assert_near(results[0], expected.detach(), 1e-5)


# Training


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("name", EXACT)
def test_gradients_reach_every_weight(name, padding):
    network = EXACT[name](padding=padding).train()
    inputs = THREE if "60m" in name else TWO
    stacks = images(inputs, 48 // inputs[-1][1])
    stacks = [torch.cat((stacks[0],) * 3, 1)[:, :10]] if "x4" in name else stacks
    network(*stacks).square().mean().backward()
    for key, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.any(), key
        else:
            assert key.endswith("scale")


def test_gradients_reach_every_weight_of_rec_and_csr():
    x = torch.rand((1, 4, 32, 32), generator=torch.manual_seed(0))
    for network, image in (
        (REC(features=16, groups=2, blocks=2), 400 * x),
        (CSR(width=4), x[:, :2]),
    ):
        network.train()(image).square().mean().backward()
        assert all(p.grad.isfinite().all() for p in network.parameters())


def test_evaluation_and_training_have_the_same_gradients():
    """The convolutions of the two modes are not the same code."""
    network, found = EXACT["carn"](), []
    for mode in (True, False):
        network.train(mode).zero_grad()
        network(*images(TWO, 30)).square().mean().backward()
        found.append(network.head.weight.grad.clone())
    assert_near(*found, 1e-4)


# Registration


def test_warp_samples_where_the_flow_points():
    x = torch.rand((1, 3, 24, 31), generator=torch.manual_seed(0), dtype=torch.float64)
    flow = torch.zeros((1, 2, 24, 31), dtype=x.dtype)
    assert_near(warp(x, flow), x, 1e-12)
    flow[:, 0], flow[:, 1] = 3, -2
    moved = warp(x, flow)[..., 2:, :-3]
    assert_near(moved, x[..., :-2, 3:], 1e-12)
    # Keys' kernel half-way between pixels, a = -0.75.
    flow[:, 0], flow[:, 1] = 0.5, 0
    taps = torch.tensor([-0.09375, 0.59375, 0.59375, -0.09375], dtype=x.dtype)
    expected = sum(t * x[..., k : k + 28] for k, t in enumerate(taps))
    assert_near(warp(x, flow)[..., 1:29], expected, 1e-12)


def test_warp_mirrors_at_the_edge():
    x = torch.rand((1, 1, 20, 20), generator=torch.manual_seed(0), dtype=torch.float64)
    flow = torch.zeros((1, 2, 20, 20), dtype=x.dtype)
    flow[:, 0] = -4
    expected = torch.from_numpy(np.pad(x.numpy()[0, 0], ((0, 0), (4, 0)), "reflect"))
    assert_near(warp(x, flow)[0, 0], expected[:, :20], 1e-12)


def test_bands_are_warped_onto_the_reference():
    x = 500 + 300 * torch.rand((1, 4, 32, 48), generator=torch.manual_seed(0))

    def two_right(pair):
        assert pair.shape == (1, 2, 32, 48)
        # The reference first; standardised.
        assert_near(pair[:, :1], standardise(x[:, 1:2]), 1e-6)
        flow = torch.zeros(1, 2, 32, 48)
        flow[:, 0] = 2
        return flow

    aligned, flow = register_bands(two_right, x)
    assert torch.equal(aligned[:, 1], x[:, 1])
    assert not flow[:, 1].any()
    for band in (0, 2, 3):
        assert_near(aligned[:, band, :, :-2], x[:, band, :, 2:], 1e-5)
        assert (flow[:, band, 0] == 2).all()


def test_a_flat_band_stays_finite():
    x = torch.ones(1, 4, 32, 32)
    aligned, flow = register_bands(CSR(width=4).eval().requires_grad_(False), x)
    assert aligned.isfinite().all()
    assert flow.isfinite().all()


def test_flows_are_bounded_and_sides_are_checked():
    network = CSR(width=4).eval().requires_grad_(False)
    assert network(1e4 * torch.randn(1, 2, 32, 32)).abs().max() <= 10
    with pytest.raises(GridError, match="multiples of 16"):
        network(torch.zeros(1, 2, 32, 40))


@pytest.mark.parametrize("factor", [-2, 0, 1, 3, 6])
def test_a_factor_that_is_no_power_of_two_is_refused(factor):
    with pytest.raises(ModelError, match=rf"power of 2: 2, 4, 8 \.\.\.; got {factor}"):
        RRDBNet(TWO, factor=factor, **TEN)


# The catalogue


def test_the_catalogue_loads_no_torch():
    code = (
        "import sys; from s2sr_xr.models.published import published;"
        "published(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_in_the_catalogue_are_distinct_and_bands_in_trained_order():
    assert len(MODELS) == len(published())
    order = MODELS["dsen2-20m"][0].bands
    assert order == (
        "B04",
        "B03",
        "B02",
        "B08",
        *("B05", "B06", "B07", "B8A"),
        "B11",
        "B12",
    )
    assert MODELS["dsen2-60m"][0].bands == (*order, "B01", "B09")
    assert MODELS["carn"][0].bands == tuple(EVOLAND)
    for spec, _ in MODELS.values():
        assert spec.cell * spec.tile in {3660, 3520}


def test_what_the_catalogue_builds_is_ready():
    _, build = MODELS["dsen2-s-20m"]
    network = build()
    assert not network.training
    kernel = network.trunk[0].conv1.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    # One network a call: none is shared between those who ask.
    assert build() is not network
