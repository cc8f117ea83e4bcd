"""A, what coarse pixels see of fine ones, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from s2sr_xr.errors import GridError
from s2sr_xr.models.networks.sensor import (
    NEAR,
    SEEN,
    bell,
    gaussian_part,
    observe,
    pixels_of,
    restore,
    restoring,
    widest,
)

WIDTHS = {2: (0.5, 0.71, 0.85, 1.05, 1.4), 3: (0.9, 1.6), 6: (1.8, 2.5, 4.0)}
CASES = [(k, w) for k, widths in WIDTHS.items() for w in widths]


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("factor", "width"), CASES)
def test_it_sees_what_scipy_sees(factor, width):
    x = image(1, 1, 12 * factor, 14 * factor)
    sigma = float(gaussian_part(torch.tensor(width), factor))
    blurred = gaussian_filter(
        x[0, 0].double().numpy(), sigma, mode="reflect", radius=SEEN * factor
    )
    means = blurred.reshape(12, factor, 14, factor).mean((1, 3))
    seen = observe(x, torch.tensor([width]), factor)[0, 0]
    np.testing.assert_allclose(seen, means[SEEN:-SEEN, SEEN:-SEEN], atol=3e-7)


@pytest.mark.parametrize(("factor", "width"), CASES)
def test_a_width_is_that_of_what_is_seen(factor, width):
    taps = bell(torch.tensor(width, dtype=torch.float64), factor)
    at = torch.arange(len(taps), dtype=torch.float64)
    centre = (taps * at).sum()
    found = (taps * (at - centre) ** 2).sum().sqrt()
    assert taps.sum() == pytest.approx(1)
    # Samples of a Gaussian narrower than a pixel are narrower than it; the widest is
    # cut at 3 standard deviations.
    narrow = gaussian_part(torch.tensor(width), factor) < 0.6
    assert float(found) == pytest.approx(width, rel=0.1 if narrow else 0.02)


@given(
    factor=st.sampled_from([2, 3, 6]),
    top=st.integers(0, 4),
    left=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_bits_do_not_depend_on_where_a_pixel_lies(factor, top, left, seed):
    cells = 2 * SEEN + 3 + 4
    width = image(2, 3, seed=seed) * 0.3 * factor + 0.4 * factor
    x = image(2, 3, (cells + 2) * factor, cells * factor, seed=seed)
    part = x[..., top * factor :, left * factor :]
    assert torch.equal(
        observe(part, width, factor),
        observe(x, width, factor)[..., top:, left:],
    )
    y = image(2, 3, 2 * NEAR + 7, 2 * NEAR + 6, seed=seed)
    assert torch.equal(
        restore(y[..., top:, left:], width, factor),
        restore(y, width, factor)[..., top * factor :, left * factor :],
    )


@pytest.mark.parametrize(("factor", "width"), CASES)
@pytest.mark.parametrize("axis", [-2, -1])
def test_a_flipped_image_gives_a_flipped_one(factor, width, axis):
    width = torch.tensor([width])
    x, y = image(1, 1, 8 * factor, 7 * factor), image(1, 1, 9, 8)
    assert torch.equal(
        observe(x.flip(axis), width, factor), observe(x, width, factor).flip(axis)
    )
    assert torch.equal(
        restore(y.flip(axis), width, factor), restore(y, width, factor).flip(axis)
    )


@pytest.mark.parametrize(("factor", "width"), CASES)
def test_nothing_beyond_the_margin_is_looked_at(factor, width):
    width = torch.tensor([width], dtype=torch.float64)
    x = image(1, 1, 9 * factor, 9 * factor).double().requires_grad_()
    observe(x, width, factor)[0, 0, 2, 2].backward()  # of cell 2 + SEEN
    seen = x.grad[0, 0].ne(0).any(0).nonzero()
    assert seen.min() >= 2 * factor
    assert seen.max() < (2 + 2 * SEEN + 1) * factor
    y = image(1, 1, 9, 9).double().requires_grad_()
    restore(y, width, factor)[0, 0, factor, factor].backward()
    told = y.grad[0, 0].ne(0).any(0).nonzero()
    assert told.min() >= 1
    assert told.max() <= 1 + 2 * NEAR


@pytest.mark.parametrize(("factor", "width"), CASES)
def test_what_is_restored_is_seen_again(factor, width):
    width = torch.tensor([width])
    # Ground that is correlated as ground is.
    ground = gaussian_filter(np.random.default_rng(0).random((400, 400)), 2 * factor)
    ground = torch.from_numpy(ground).float()[None, None]
    y = observe(ground[..., : 24 * factor, : 24 * factor], width, factor)
    seen = observe(restore(y, width, factor), width, factor)
    own = y[..., NEAR + SEEN : -NEAR - SEEN, NEAR + SEEN : -NEAR - SEEN]
    assert (seen - own).abs().max() < 0.05 * own.std()


@pytest.mark.parametrize(("factor", "width"), CASES)
def test_what_is_flat_stays_flat(factor, width):
    weights = restoring(torch.tensor([width]), factor)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, factor).double())
    y = torch.full((1, 1, 8, 8), 0.3)
    torch.testing.assert_close(
        restore(y, torch.tensor([width]), factor),
        torch.full((1, 1, 2 * factor, 2 * factor), 0.3),
    )


def test_widths_are_given_in_metres():
    assert pixels_of([8.5, 10.5], 10.0, 2).tolist() == pytest.approx([0.85, 1.05])
    assert pixels_of([7.071], 10.0, 2).tolist() == pytest.approx([0.7071])


@pytest.mark.parametrize("metres", [0.0, -8.5, 4.9, float("nan"), float("inf"), 14.3])
def test_what_is_no_width_is_refused(metres):
    with pytest.raises(GridError, match=r"A width of .* m cannot be"):
        pixels_of([8.5, metres], 10.0, 2)
    assert widest(2) * 10 < 14.3
