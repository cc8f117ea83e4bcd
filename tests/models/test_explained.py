"""Coarse bands as far as finer bands explain them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from s2sr_xr.core.filters import mirrored
from s2sr_xr.models.networks.explained import Explained
from s2sr_xr.models.networks.layers import centre
from s2sr_xr.models.networks.sensor import SEEN, observe
from s2sr_xr.models.networks.unrolled import Unrolled
from s2sr_xr.models.published import R10, R20
from s2sr_xr.models.receptive_field import measure_margin
from s2sr_xr.models.spec import BandGroup, ModelSpec

WIDTH = (8.5, 8.5, 8.5, 8.5, 10.5, 10.5)
INPUTS = ((4, 1), (6, 2))


def spec(margin: int) -> ModelSpec:
    return ModelSpec(
        name="trial",
        title="Trial",
        cell=20,
        inputs=(BandGroup(names=R10, per_cell=2), BandGroup(names=R20, per_cell=1)),
        output=BandGroup(names=R20, per_cell=2),
        margin=margin,
        tile=2,
    )


def network(**options) -> Unrolled:
    torch.manual_seed(0)
    made = Unrolled(INPUTS, width=WIDTH, groups=(4, 2), **options).eval()
    for name, weights in made.named_parameters():
        if "tail" in name:
            torch.nn.init.normal_(weights, std=0.1)
    return made


def wide(x: torch.Tensor, by: int) -> torch.Tensor:
    return mirrored(mirrored(x, by, -2), by, -1)


def world(cells: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return four fine bands, and six that are functions of them, in reflectance."""
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.random((4, 2 * cells, 2 * cells)), (0, 1, 1))
    fine = torch.from_numpy(fields).float()[None]
    mixture = torch.from_numpy(rng.dirichlet([1] * 4, 6)).float()
    return fine, torch.einsum("cp,bphw->bchw", mixture, fine)


def seen(x: torch.Tensor, width) -> torch.Tensor:
    return observe(wide(x, 2 * SEEN), torch.as_tensor(width), 2)


def made_of(net: torch.nn.Module, fine: torch.Tensor, coarse: torch.Tensor, reach=40):
    with torch.inference_mode():
        return centre(net(wide(fine, 2 * reach), wide(coarse, reach)), fine)


@pytest.mark.parametrize(
    ("blocks", "margin"), [((), 17), ((3, 3), 35), ((1,), 24)], ids=str
)
def test_its_reach_is_known(blocks, margin):
    assert measure_margin(network(blocks=blocks), spec(margin)) == margin


@pytest.mark.parametrize("blocks", [(), (1, 1)], ids=str)
@given(top=st.integers(0, 3), left=st.integers(0, 3), seed=st.integers(0, 9))
def test_bits_do_not_depend_on_where_a_pixel_lies(blocks, top, left, seed):
    net = network(features=16, blocks=blocks)
    margin = 36
    rng = torch.Generator().manual_seed(seed)
    fine = torch.rand((1, 4, 4 * margin + 12, 4 * margin + 12), generator=rng)
    coarse = torch.rand((1, 6, 2 * margin + 6, 2 * margin + 6), generator=rng)
    cells = 2 * margin + 3
    with torch.inference_mode():
        whole = net(fine, coarse)
        part = net(
            fine[..., 2 * top :, 2 * left :][..., : 2 * cells, : 2 * cells],
            coarse[..., top:, left:][..., :cells, :cells],
        )
    lost = (2 * cells - part.shape[-1]) // 2
    first = [
        2 * n + lost - (fine.shape[-1] - whole.shape[-1]) // 2 for n in (top, left)
    ]
    same = whole[..., first[0] :, first[1] :][..., : part.shape[-2], : part.shape[-1]]
    assert torch.equal(part, same)


def test_what_the_fine_bands_explain_comes_back():
    fine, truth = world()
    coarse = seen(truth, [w / 10 for w in WIDTH])
    error = (made_of(network(blocks=()), fine, coarse) - truth).square().mean().sqrt()
    plain = torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bicubic")
    assert error < 0.1 * (plain - truth).square().mean().sqrt()


def test_a_wrong_width_costs_what_the_right_one_gains():
    fine, truth = world()
    coarse = seen(truth, [1.2] * 6)
    net = network(blocks=())
    errors = {}
    for width in (8.0, 12.0):
        net.set_widths([width] * 6)
        gap = made_of(net, fine, coarse) - truth
        errors[width] = float(gap.square().mean().sqrt())
    assert errors[12.0] < 0.3 * errors[8.0]


def test_coarse_pixels_come_back_through_the_sensor():
    fine, truth = world(seed=1)
    rng = np.random.default_rng(5)
    own = gaussian_filter(rng.random((6, 80, 80)), (0, 2, 2)) * 2
    truth = truth + torch.from_numpy(own).float()  # what no fine band tells
    width = torch.tensor([w / 10 for w in WIDTH])
    coarse = seen(truth, width)
    explained = Explained(2, groups=(4, 2), align=False)
    r = explained.reach
    with torch.inference_mode():
        told = explained(wide(fine, 2 * r), wide(coarse, r), width)
    again = seen(centre(told.made, fine), width)
    inner = (again - coarse)[..., 4:-4, 4:-4]
    assert inner.abs().max() < 0.1 * coarse.std()
    assert inner.square().mean().sqrt() < 1e-3


@pytest.mark.parametrize("shift", [(0.2, 0.0), (-0.15, 0.2)])
def test_a_band_beside_the_others_is_put_back(shift):
    from s2sr_xr.train.data.sensor_pairs import moved

    fine, truth = world()
    there = moved(truth[0], torch.tensor([shift] * 6))[None]
    width = torch.tensor([w / 10 for w in WIDTH])
    errors = {}
    for align in (True, False):
        net = network(blocks=())
        net.explained.align = align
        made = made_of(net, fine, seen(there, width))
        errors[align] = float((made - truth)[..., 8:-8, 8:-8].square().mean().sqrt())
    assert errors[True] < 0.5 * errors[False]


def test_an_untrained_network_is_the_regression():
    torch.manual_seed(0)
    net = Unrolled(INPUTS, width=WIDTH, groups=(4, 2), features=16, blocks=(1, 1))
    plain = Unrolled(INPUTS, width=WIDTH, groups=(4, 2), blocks=())
    fine, truth = world()
    coarse = seen(truth, [w / 10 for w in WIDTH])
    torch.testing.assert_close(
        made_of(net.eval(), fine, coarse), made_of(plain, fine, coarse)
    )


def test_what_is_flat_stays_flat():
    fine, coarse = torch.full((1, 4, 160, 160), 0.2), torch.full((1, 6, 80, 80), 0.3)
    made = network(blocks=())(fine, coarse)
    torch.testing.assert_close(made, torch.full_like(made, 0.3))
