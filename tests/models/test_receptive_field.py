"""A spec cannot lie: the margin of each exact model is what its network looks at."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.engine.predict import torch_threads
from s2sr_xr.errors import ModelError
from s2sr_xr.models.networks.carn import CARN
from s2sr_xr.models.networks.dsen2 import DSen2
from s2sr_xr.models.networks.rec import REC
from s2sr_xr.models.networks.resample import Upsample
from s2sr_xr.models.networks.rrdb import RRDBNet
from s2sr_xr.models.published import published
from s2sr_xr.models.receptive_field import measure_margin
from s2sr_xr.models.spec import BandGroup, ModelSpec

KINDS = {"dsen2": DSen2, "carn": CARN, "rrdb": RRDBNet}
EXACT = {spec.name: (spec, build) for spec, build in published() if spec.exact}


@pytest.fixture(autouse=True)
def _one_thread():
    """Small images: threads that wait for each other cost ten times the work."""
    with torch_threads(1):
        yield


def narrow(name, **options):
    """Return the network with few channels: how far it looks is the same."""
    kind = next(k for k in KINDS if k in name)
    few = {"features": 4} | ({"growth": 1} if kind == "rrdb" else {})
    _, given = EXACT[name][1].args
    return KINDS[kind](**(given | few | options))


@pytest.mark.parametrize("name", EXACT)
def test_the_margin_is_the_reach(name):
    spec, _ = EXACT[name]
    assert measure_margin(narrow(name), spec) == spec.margin


@pytest.mark.parametrize("name", ["dsen2-20m", "dsen2-60m", "carn-s"])
def test_channels_do_not_change_the_reach(name):
    spec, build = EXACT[name]
    assert measure_margin(build(), spec) == spec.margin


@pytest.mark.parametrize("start", [0, 12])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("name", ["dsen2-20m", "dsen2-60m", "carn-1x3x64g4sw"])
def test_the_measure_depends_on_neither_padding_nor_first_guess(name, padding, start):
    spec, _ = EXACT[name]
    network = narrow(name, padding=padding)
    assert measure_margin(network, replace(spec, margin=start)) == spec.margin


@pytest.mark.parametrize("name", EXACT)
def test_what_is_left_of_a_tile_with_its_margin_holds_the_tile(name):
    spec, _ = EXACT[name]
    network, k = narrow(name).eval(), spec.output.per_cell
    side = 3 + 2 * spec.margin
    stacks = [
        torch.rand(1, len(g.names), side * g.per_cell, side * g.per_cell)
        for g in spec.inputs
    ]
    with torch.inference_mode():
        out = network(*stacks)
    excess = out.shape[-1] - 3 * k
    assert out.shape == (1, len(spec.output.names), *(3 * k + excess,) * 2)
    assert excess % 2 == 0
    # No more than what the whole number of cells rounds up to.
    assert 0 <= excess < 2 * k


def spec_of(per_cell=1, factor=1, align=1):
    return ModelSpec(
        name="toy",
        title="toy",
        cell=10,
        inputs=(BandGroup(names=("B02",), per_cell=per_cell),),
        output=BandGroup(names=("B02",), per_cell=per_cell * factor),
        margin=0,
        tile=align,
        align=align,
    )


class Functions(nn.Module):
    """A network whose activations are functions, and would switch it off."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(1, 1, 3, padding=1) for _ in range(4))

    def forward(self, x):
        a, b, c, d = self.convs
        x = F.relu(a(x) - 1e6)
        x = torch.relu_(b(x) - 1e6)
        return d(c(x).sub(1e6).clamp_(min=0).tanh()).sigmoid()


def toys():
    def conv(kernel=3, **options):
        return nn.Conv2d(1, 1, kernel, **({"padding": kernel // 2} | options))

    zero = conv()
    nn.init.zeros_(zero.weight)
    yield "nothing", nn.Identity(), 1, 0
    yield "one", conv(), 1, 1
    yield "large kernel", conv(7), 1, 3
    yield "dilated", conv(dilation=3, padding=3), 1, 3
    yield "untrained", zero, 1, 1
    yield "valid", conv(5, padding=0), 1, 2
    yield (
        "module",
        nn.Sequential(conv(), nn.PReLU(), conv(), nn.ReLU(inplace=True)),
        1,
        2,
    )
    yield "functions", Functions(), 1, 4
    yield "max", nn.Sequential(nn.MaxPool2d(3, 1, 1), conv()), 1, 2
    yield "bicubic", Upsample(2, "bicubic"), 2, 2
    yield "bilinear", Upsample(3, "bilinear"), 3, 1


@pytest.mark.parametrize(
    ("network", "factor", "reach"), [pytest.param(*t[1:], id=t[0]) for t in toys()]
)
def test_the_reach_of_known_networks(network, factor, reach):
    assert measure_margin(network, spec_of(factor=factor)) == reach


def test_pixels_round_up_to_cells():
    network = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(4)))
    for per_cell, reach in ((2, 2), (3, 2), (4, 1), (5, 1)):
        # A spec needs one group of cells; here the network only sees the finer one.
        fine = spec_of()
        spec = replace(
            fine,
            inputs=(BandGroup(names=("B02",), per_cell=per_cell), _cells()),
            output=BandGroup(names=("B02",), per_cell=per_cell),
        )
        assert measure_margin(First(network), spec) == reach


def _cells():
    return BandGroup(names=("B01",), per_cell=1)


class First(nn.Module):
    """A network that ignores its coarse group."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, fine, coarse):
        return self.network(fine)


def test_strides_look_further_from_one_side_than_from_the_other():
    """A pixel sees whole 4 x 4 squares: the reach is that of the worst phase."""
    network = nn.Sequential(
        nn.MaxPool2d(4), nn.Conv2d(1, 1, 3, padding=1), Upsample(4, "nearest")
    )
    assert measure_margin(network, spec_of(align=4)) == 7


def test_a_network_that_pools_over_everything_has_no_margin():
    network = REC(bands=1, features=4, groups=1, blocks=1, reduction=2)
    with pytest.raises(ModelError, match="exact=False"):
        measure_margin(network, spec_of(factor=2), limit=32)


def test_the_network_is_not_changed():
    network = nn.Conv2d(1, 1, 3).train()
    before = network.weight.clone()
    measure_margin(network, spec_of())
    assert torch.equal(network.weight, before)
    assert network.training
    assert network.weight.requires_grad
    assert network.weight.dtype == torch.float32
