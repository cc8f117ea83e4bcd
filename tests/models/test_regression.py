"""Local regression: exact where bands are linear in each other, and blind to tiling."""

import pytest
import torch

import s2sr_xr
from s2sr_xr.core.filters import reduce_scale
from s2sr_xr.engine.predict import torch_threads
from s2sr_xr.models.networks.layers import centre
from s2sr_xr.models.networks.regression import Regression
from s2sr_xr.models.networks.resample import Upsample

TWENTY = ((4, 1), (6, 2))
SIXTY = ((4, 1), (6, 2), (2, 6))


def images(inputs, cells, seed=0, dtype=torch.float32):
    """Return images of one ground whose coarse bands are linear in the fine ones."""
    generator = torch.Generator().manual_seed(seed)
    factor = inputs[-1][1]
    side = cells * factor
    rough = torch.rand((1, 12, side, side), generator=generator, dtype=dtype)
    fine = 0.1 + 0.2 * rough[:, : inputs[0][0]]
    stacks, truth = [fine], fine
    for n, (bands, k) in enumerate(inputs[1:], 1):
        mix = torch.rand((bands, 4), generator=generator, dtype=dtype)
        truth = torch.einsum("cp,bphw->bchw", mix / mix.sum(1, keepdim=True), fine)
        if n < len(inputs) - 1:  # of their own, for the last to lean on
            truth = 0.7 * truth + 0.06 * rough[:, 4 : 4 + bands]
        stacks.append(reduce_scale(truth, k))
    return stacks, truth


@pytest.mark.parametrize("inputs", [TWENTY, SIXTY])
def test_what_is_linear_in_the_fine_bands_comes_back(inputs):
    stacks, truth = images(inputs, 24)
    made = Regression(inputs)(*stacks)
    plain = centre(Upsample(inputs[-1][1])(stacks[-1]), made)
    error, yard = (
        (x - centre(truth, made)).square().mean().sqrt() for x in (made, plain)
    )
    assert error < 0.2 * yard


@pytest.mark.parametrize("inputs", [TWENTY, SIXTY])
def test_an_edge_that_is_repeated_changes_only_the_edge(inputs):
    stacks, _ = images(inputs, 12)
    whole, inner = Regression(inputs, "same")(*stacks), Regression(inputs)(*stacks)
    assert whole.shape[-1] == 12 * inputs[-1][1]
    assert torch.equal(centre(whole, inner), inner)


@pytest.mark.parametrize("inputs", [TWENTY, SIXTY])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_crop_gives_the_same_bits(inputs, threads):
    stacks, _ = images(inputs, 30)
    factor = inputs[-1][1]
    network = Regression(inputs)
    whole = network(*stacks)
    parts = [
        s[..., 3 * factor // f : 20 * factor // f, 5 * factor // f :]
        for s, (_, f) in zip(stacks, inputs, strict=True)
    ]
    with torch_threads(threads):
        part = network(*parts)
    rows = slice(3 * factor, 3 * factor + part.shape[-2])
    cols = slice(5 * factor, 5 * factor + part.shape[-1])
    assert torch.equal(whole[..., rows, cols], part)


def test_where_nothing_varies_it_is_interpolation():
    flat = [torch.full((1, 4, 40, 40), 0.1), torch.rand(1, 6, 20, 20)]
    made = Regression(TWENTY)(*flat)
    plain = centre(Upsample(2)(flat[1]), made)
    torch.testing.assert_close(made, plain, rtol=0, atol=1e-6)


def test_upsample_takes_it_without_weights(tmp_path):
    item = s2sr_xr.simulate_scene(tmp_path, size=120, seed=1)
    tree = s2sr_xr.open_stac(item)
    truth = s2sr_xr.open_truth(item)
    made = tree.s2sr.upsample("regression").isel(time=0).compute()
    plain = tree.s2sr.upsample("bicubic").isel(time=0).compute()
    for band in ("B05", "B11", "B01"):
        error, yard = (
            float(s2sr_xr.metrics.rmse(x[band].values, truth[band].values))
            for x in (made, plain)
        )
        assert error < 0.8 * yard
