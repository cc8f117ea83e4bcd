"""Our small REC: what it is given, and what it makes of bands whose shifts it knows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import s2sr_xr
from s2sr_xr.errors import ModelError
from s2sr_xr.models.cost import cost_of
from s2sr_xr.models.networks.aligned_rec import AlignedREC
from s2sr_xr.models.networks.csr import CSR
from s2sr_xr.models.networks.lucas_kanade import LucasKanade
from s2sr_xr.models.networks.rec import REC
from s2sr_xr.train.data.l1b_simulation import (
    BANDS,
    GREEN,
    Sensor,
    blurred,
    true_flow,
    views,
)
from s2sr_xr.train.plan import Plan
from s2sr_xr.train.recipes import rec


def small(bands=4, **options):
    torch.manual_seed(0)
    sizes = {"features": 16, "blocks": 2}
    reference = 1 if bands > 1 else 0
    return AlignedREC(bands=bands, reference=reference, **sizes, **options).eval()


def ground(size=160, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(4, size // 4, size // 4, generator=generator)
    image = torch.nn.functional.interpolate(coarse[None], scale_factor=4)
    return image[0] * 0.2 + 0.05


def tiny_csr():
    return CSR(width=2, scales=1)


def learning(**options):
    plan = Plan(steps=30, lr=2e-3, warm=0.1, ema=0.9)
    recipe = {"task": "supervised", "plan": plan, "side": 24, "batch": 2}
    sensor = Sensor(phase=0.5, apart=0.5, parallax=1.0, bend=0.1)
    return rec.Recipe(**recipe, sensor=sensor, optimiser="muon", **options)


@torch.no_grad()
@pytest.mark.parametrize("phase", [0.0, 0.5])
def test_it_begins_with_each_band_fetched_where_the_flow_says(phase):
    line = torch.arange(16.0)
    ramp = (100 + 8 * line + 2 * line[:, None]).expand(1, 4, 16, 16)
    flow = torch.zeros(1, 4, 2, 16, 16)
    flow[:, 2, 0], flow[:, 3, 1] = 1.25, -0.5
    made = small(phase=phase)(ramp, flow)[0, :, 8:-8, 8:-8]
    fine = (torch.arange(32.0)[8:-8] - phase) / 2
    green = 100 + 8 * fine + 2 * fine[:, None]
    for band, more in enumerate((0, 0, 8 * 1.25, 2 * -0.5)):
        # Bicubic interpolation by a = -0.75 is up to 0.05 pixels off on a ramp.
        torch.testing.assert_close(made[band], green + more, rtol=0, atol=0.5)


def test_a_shift_of_a_whole_pixel_has_the_phase_of_none():
    network, flow = small(), torch.rand(1, 4, 2, 5, 5)
    moved = flow + torch.tensor([2.0, -3.0])[:, None, None]
    torch.testing.assert_close(
        network.phases(flow), network.phases(moved), rtol=0, atol=1e-5
    )
    assert network.phases(flow).shape == (1, 24, 5, 5)
    assert not torch.allclose(network.phases(flow), network.phases(flow + 0.5))


def test_one_band_needs_no_flow():
    made = small(bands=1)(torch.full((1, 1, 16, 16), 300.0))
    torch.testing.assert_close(
        made, torch.full((1, 1, 32, 32), 300.0), rtol=1e-5, atol=0
    )


def test_the_registration_learns_nothing():
    network = rec.begun(small(), LucasKanade(), phase=0.5)
    before = {k: v.clone() for k, v in network.registration.state_dict().items()}
    recipe = replace(learning(), task="self", plan=Plan(steps=2, lr=1e-2, ema=0.0))
    *_, last = rec.train(recipe, network, [ground()], csr=LucasKanade())
    after = last.network.registration.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(p.requires_grad for p in network.registration.parameters())
    assert not network.find(torch.rand(1, 4, 16, 16).requires_grad_()).requires_grad


def test_its_cost_is_counted_without_pixels():
    found = cost_of(s2sr_xr.load_model("rec-s"), s2sr_xr.get_spec("rec-s"), (64, 64))
    assert found.activations > 1e6


def test_it_takes_over_the_registration_it_begins_with():
    known = LucasKanade()
    network = rec.begun(small(), known, phase=0.5)
    theirs = known.state_dict()
    mine = network.registration.state_dict()
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)


def test_it_learns_from_flows_that_it_is_told():
    recipe = learning()
    sensor = recipe.sensor
    seen = views(
        blurred([ground(seed=1)], sensor),
        sensor,
        side=32,
        batch=4,
        seed=9,
        step=0,
        truth=True,
    )
    network = rec.begun(small(), LucasKanade(), phase=0.5)
    flow = rec.flow_with_errors(seen, recipe)

    def error(network):
        with torch.no_grad():
            return float(rec.supervised_loss(network, seen, recipe, flow))

    before = error(network)
    *_, last = rec.train(recipe, network, [ground()])
    assert error(last.network) < before


def test_flows_with_errors_are_the_true_ones_with_the_errors_asked_for():
    exact, wrong = learning(told=0.0), learning(told=0.1, bands=BANDS[:3])
    seen = views(
        blurred([ground()], exact.sensor),
        exact.sensor,
        side=24,
        batch=64,
        seed=0,
        step=0,
    )
    maps = seen.maps[:, 0]
    flow = rec.flow_with_errors(seen, exact)
    assert torch.equal(flow[:, 3], true_flow(maps[:, GREEN], maps[:, 3], 24))
    assert float(flow[:, GREEN].abs().max()) < 1e-6
    error = rec.flow_with_errors(seen, wrong) - flow[:, :3]
    assert float(error[:, GREEN].abs().max()) < 1e-6
    assert float(error[:, [0, 2]].std()) == pytest.approx(0.1, rel=0.2)
    assert float((error - error[..., :1, :1]).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("network", "csr", "phase", "said"),
    [
        (small, LucasKanade, 0.0, r"the sensor has 0: say sensor = \{phase = 0.5\}"),
        (tiny_csr, LucasKanade, 0.5, "CSR is neither REC nor AlignedREC"),
        (small, tiny_csr, 0.5, "such as load_model.'csr-s'.; got a CSR"),
    ],
)
def test_what_cannot_begin_is_refused(network, csr, phase, said):
    with pytest.raises(ModelError, match=said):
        rec.begun(network(), csr(), phase=phase)


def test_a_published_network_begins_as_interpolation():
    network = REC(features=8, groups=1, blocks=1, reduction=4)
    assert rec.begun(network, LucasKanade(), phase=0.0) is network
    flat = network.eval()(torch.full((1, 4, 8, 8), 300.0))
    torch.testing.assert_close(
        flat[..., 4:-4, 4:-4], torch.full((1, 4, 8, 8), 300.0), rtol=1e-5, atol=0.01
    )
