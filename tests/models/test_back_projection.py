"""Back-projection: what was seen stays, what was not is given back, tiles are equal."""

import pytest
import torch

from s2sr_xr.core.filters import reduce_scale
from s2sr_xr.engine.predict import torch_threads
from s2sr_xr.models.networks.back_projection import BackProjection
from s2sr_xr.models.networks.layers import centre


def scene(factor, cells=12, seed=0):
    """Return fine pixels, and what the coarse sensor sees of them."""
    side = cells * factor
    made = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(seed))
    return made, reduce_scale(made, factor)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("factor", [2, 6])
def test_what_explains_the_coarse_pixels_stays(factor, padding):
    truth, coarse = scene(factor)
    made = BackProjection(factor, 1.0, padding)(truth, coarse)
    torch.testing.assert_close(made, centre(truth, made), rtol=0, atol=1e-6)
    lost = {"valid": 2 * factor, "same": 0}[padding]
    assert made.shape[-1] == truth.shape[-1] - lost


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_a_constant_error_is_given_back_by_its_share(share):
    truth, coarse = scene(2)
    made = BackProjection(2, share)(truth + 0.1, coarse)
    left = made - centre(truth, made)
    torch.testing.assert_close(
        left, torch.full_like(left, 0.1 * (1 - share)), rtol=0, atol=1e-6
    )


def test_all_that_is_given_back_comes_nearer_to_what_was_seen():
    truth, coarse = scene(2)
    noise = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1))
    made = truth + 0.2 * noise
    better = BackProjection(2, 0.5, "same")(made, coarse)
    before, after = ((reduce_scale(x, 2) - coarse).std() for x in (made, better))
    assert after < 0.6 * before


def test_a_result_that_ends_within_a_coarse_pixel_loses_that():
    truth, coarse = scene(6)
    whole = BackProjection(6, 0.5)(truth, coarse)
    # 14 pixels a side, as six blocks take: 2 cells and a third, so that 3 are gone.
    part = BackProjection(6, 0.5)(truth[..., 14:-14, 14:-14], coarse)
    assert part.shape[-1] == truth.shape[-1] - 2 * (3 + 1) * 6
    assert torch.equal(part, centre(whole, part))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("factor", [2, 6])
def test_a_crop_gives_the_same_bits(factor, threads):
    truth, _ = scene(factor, cells=40)
    _, coarse = scene(factor, cells=40, seed=1)
    network = BackProjection(factor, 0.5)
    whole = network(truth, coarse)
    with torch_threads(threads):
        part = network(
            truth[..., 3 * factor : 20 * factor, 5 * factor :],
            coarse[..., 3:20, 5:],
        )
    rows = slice(3 * factor, 3 * factor + part.shape[-2])
    cols = slice(5 * factor, 5 * factor + part.shape[-1])
    assert torch.equal(whole[..., rows, cols], part)
