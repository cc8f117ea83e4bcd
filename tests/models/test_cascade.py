"""Bands of 60 m at 10 m, guided by those of 20 m."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from s2sr_xr.core.filters import mirrored
from s2sr_xr.errors import GridError
from s2sr_xr.models.networks.cascade import Cascade
from s2sr_xr.models.networks.layers import centre
from s2sr_xr.models.networks.sensor import SEEN, observe
from s2sr_xr.models.networks.unrolled import Unrolled
from s2sr_xr.models.published import R10, R20, R60
from s2sr_xr.models.receptive_field import measure_margin
from s2sr_xr.models.spec import BandGroup, ModelSpec

WIDTH = [8.5, 8.5, 8.5, 8.5, 10.5, 10.5]
SIXTY = [26.0, 24.0]
MARGIN = 18


def network() -> Cascade:
    first = Unrolled(((4, 1), (6, 2)), width=WIDTH, groups=(4, 2), blocks=())
    return Cascade(first, width=SIXTY).eval()


def wide(x: torch.Tensor, by: int) -> torch.Tensor:
    return mirrored(mirrored(x, by, -2), by, -1)


def test_its_reach_is_known():
    spec = ModelSpec(
        name="trial",
        title="Trial",
        cell=60,
        inputs=(
            BandGroup(names=R10, per_cell=6),
            BandGroup(names=R20, per_cell=3),
            BandGroup(names=R60, per_cell=1),
        ),
        output=BandGroup(names=R60, per_cell=6),
        margin=MARGIN,
        tile=2,
    )
    assert measure_margin(network(), spec) == MARGIN


@given(top=st.integers(0, 2), left=st.integers(0, 2), seed=st.integers(0, 9))
def test_bits_do_not_depend_on_where_a_pixel_lies(top, left, seed):
    cells = 2 * MARGIN + 6
    rng = torch.Generator().manual_seed(seed)
    images = [
        torch.rand((1, n, (cells + 2) * k, (cells + 2) * k), generator=rng)
        for n, k in ((4, 6), (6, 3), (2, 1))
    ]
    parts = [
        x[..., k * top : k * (top + cells), k * left : k * (left + cells)]
        for x, k in zip(images, (6, 3, 1), strict=True)
    ]
    with torch.inference_mode():
        whole, part = network()(*images), network()(*parts)
    rows, cols = part.shape[-2:]
    assert torch.equal(
        part, whole[..., 6 * top : 6 * top + rows, 6 * left : 6 * left + cols]
    )


def test_what_finer_bands_explain_comes_back():
    rng = np.random.default_rng(0)
    cells = 20
    fields = gaussian_filter(rng.random((4, 6 * cells, 6 * cells)), (0, 2, 2))
    fine = torch.from_numpy(fields).float()[None]

    def bands(n: int) -> torch.Tensor:
        mixture = torch.from_numpy(rng.dirichlet([1] * 4, n)).float()
        return torch.einsum("cp,bphw->bchw", mixture, fine)

    def seen(x: torch.Tensor, metres: list[float], k: int) -> torch.Tensor:
        return observe(wide(x, SEEN * k), torch.tensor(metres) / 10, k)

    truth = bands(2)
    images = (fine, seen(bands(6), WIDTH, 2), seen(truth, SIXTY, 6))
    with torch.inference_mode():
        made = network()(
            *(wide(x, 20 * k) for x, k in zip(images, (6, 3, 1), strict=True))
        )
    error = (centre(made, fine) - truth).square().mean().sqrt()
    assert error < 0.1 * truth.std()


def test_a_width_that_a_60_m_pixel_cannot_have_is_refused():
    with pytest.raises(GridError, match=r"a pixel of 60 m alone has 17.08 m"):
        network().set_widths([15.0, 26.0])
