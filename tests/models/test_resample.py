"""Laws of upsampling; torch's interpolation and a NumPy statement as oracles."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate, pad
from torch.testing import assert_close

from s2sr_xr.errors import GridError, ModelError
from s2sr_xr.models.networks.resample import Upsample

KERNELS = ["nearest", "bilinear", "bicubic"]
kernels = st.sampled_from(KERNELS)
factors = st.sampled_from([2, 3, 4, 6])
sizes = st.integers(5, 24)
values = st.integers(-1_000, 15_000).map(lambda count: count / 10_000)
dtypes = st.sampled_from([torch.float32, torch.float64])


def image(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=dtype)


def symmetric(x, by):
    widths = [(0, 0)] * (x.ndim - 2) + [(by, by)] * 2
    return torch.from_numpy(np.pad(x.numpy(), widths, mode="symmetric"))


def torch_upsampled(x, factor, kernel):
    options = {} if kernel == "nearest" else {"align_corners": False}
    return interpolate(x, scale_factor=factor, mode=kernel, **options)


def keys(d, a):
    """Keys' kernel, as the polynomials are printed."""
    d = np.abs(d)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d < 1, near, np.where(d < 2, far, 0))


def matrix(n, factor, a):
    """The upsampling of a line of n pixels, as one matrix; the outer 2 are halo."""
    centres = (np.arange((n - 4) * factor) + 0.5) / factor - 0.5 + 2
    return keys(centres[:, None] - np.arange(n), a)


@given(kernel=kernels, factor=factors, h=sizes, w=sizes)
def test_it_is_torchs_interpolation_with_halo_in_and_no_halo_out(kernel, factor, h, w):
    x = image(1, 2, h, w)
    up = Upsample(factor, kernel)
    r = up.reach * factor
    whole = torch_upsampled(x, factor, kernel)
    inner = whole[..., r : whole.shape[-2] - r, r : whole.shape[-1] - r]
    assert_close(up(x), inner, rtol=0, atol=1e-13)


@given(kernel=kernels, factor=factors, h=st.integers(2, 12), w=st.integers(2, 12))
def test_a_mirrored_edge_gives_the_whole_image(kernel, factor, h, w):
    x = image(1, 2, h, w)
    up = Upsample(factor, kernel)
    finer = up(symmetric(x, up.reach))
    assert finer.shape == (1, 2, h * factor, w * factor)
    # Torch sees two more mirrored pixels, so that its own clamped edge stays outside.
    far = 4 * factor
    whole = torch_upsampled(symmetric(symmetric(x, 2), 2), factor, kernel)
    assert_close(finer, whole[..., far:-far, far:-far], rtol=0, atol=1e-13)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("factor", [2, 3, 4, 6])
def test_a_clamped_edge_is_torchs_own(kernel, factor):
    x = image(1, 2, 9, 7)
    up = Upsample(factor, kernel)
    finer = up(pad(x, (up.reach,) * 4, mode="replicate"))
    expected = torch_upsampled(x, factor, kernel)
    assert_close(finer, expected, rtol=0, atol=1e-13)


@given(
    factor=factors, h=sizes, w=sizes, a=st.sampled_from([-0.5, -0.75, -0.6, -1.0, 0.0])
)
def test_bicubic_is_keys_kernel_at_half_pixel_centres(factor, h, w, a):
    x = image(h, w).numpy()
    expected = matrix(h, factor, a) @ x @ matrix(w, factor, a).T
    finer = Upsample(factor, "bicubic", a=a)(torch.from_numpy(x)[None, None])
    np.testing.assert_allclose(finer[0, 0].numpy(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("factor", [2, 6])
def test_float32_is_the_stated_products_and_sums(kernel, factor):
    # NumPy fuses nothing, so equal bits mean that torch did not either.
    up = Upsample(factor, kernel)
    x = image(21, 37, dtype=torch.float32)
    expected = x.numpy()
    for axis in (1, 0):
        n = expected.shape[axis] - 2 * up.reach
        phases = []
        for taps in up.phases:
            total = None
            for k, w in taps:
                at = np.arange(n) + up.reach + k
                term = expected.take(at, axis) * np.float32(w)
                total = term if total is None else total + term
            phases.append(total)
        shape = list(expected.shape)
        shape[axis] = n * factor
        expected = np.stack(phases, axis + 1).reshape(shape)
    assert np.array_equal(up(x[None, None])[0, 0].numpy(), expected)


# What every upsampling keeps


@given(kernel=kernels, factor=factors, value=values, a=st.floats(-1, 0), d=dtypes)
def test_a_flat_image_stays_flat(kernel, factor, value, a, d):
    x = torch.full((1, 1, 7, 6), value, dtype=d)
    finer = Upsample(factor, kernel, a=a)(x)
    tolerance = 8 * torch.finfo(d).eps * abs(value)
    assert_close(finer, torch.full_like(finer, value), rtol=0, atol=tolerance)


def ramp(h, w, *, pixel, origin):
    rows = origin + pixel * (torch.arange(h).double() + 0.5)
    cols = origin + pixel * (torch.arange(w).double() + 0.5)
    return (2 * rows[:, None] - 3 * cols)[None, None]


@pytest.mark.parametrize(("kernel", "a"), [("bilinear", 0.0), ("bicubic", -0.5)])
@given(factor=factors, h=sizes, w=sizes)
def test_a_ramp_stays_straight_and_in_place(kernel, a, factor, h, w):
    up = Upsample(factor, kernel, a=a)
    finer = up(ramp(h, w, pixel=1, origin=0))
    expected = ramp(*finer.shape[-2:], pixel=1 / factor, origin=up.reach)
    assert_close(finer, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("factor", [2, 3, 4, 6])
def test_torchs_bicubic_bends_a_ramp_but_does_not_move_it(factor):
    # With a = -0.75 no ramp is kept: off by 3/64 of the slope at a quarter pixel, and
    # the errors of the phases cancel.
    slope = torch.arange(9.0).double().expand(1, 1, 9, 9)
    expected = (torch.arange(5.0 * factor).double() + 0.5) / factor + 1.5
    error = (Upsample(factor, "bicubic")(slope) - expected)[0, 0, 0]
    assert error.abs().max().item() <= 0.05
    if factor == 2:
        assert error.abs().max().item() == pytest.approx(3 / 64)
    assert error.reshape(5, factor).sum(1).abs().max().item() < 1e-12


@given(kernel=kernels, factor=factors, d=dtypes)
def test_a_mirrored_image_gives_the_mirrored_result(kernel, factor, d):
    up = Upsample(factor, kernel)
    x = image(1, 1, 9, 8, dtype=d)
    for dims in ((-1,), (-2,), (-2, -1)):
        assert torch.equal(up(x.flip(dims)), up(x).flip(dims))


def test_overshoot_is_not_clipped():
    step = torch.zeros(1, 1, 9, 9)
    step[..., 4:] = 1
    finer = Upsample(2, "bicubic")(step)
    assert finer.min() < 0
    assert finer.max() > 1


@given(kernel=kernels, factor=factors, h=sizes, w=sizes, data=st.data())
def test_a_missing_pixel_reaches_only_the_pixels_that_weigh_it(
    kernel, factor, h, w, data
):
    up = Upsample(factor, kernel)
    row, col = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    spot = torch.zeros(1, 1, h, w, dtype=torch.float64)
    spot[..., row, col] = 1
    x = image(1, 1, h, w)
    before = up(x)
    x[..., row, col] = torch.nan
    finer = up(x)
    weighed = up(spot) != 0
    assert torch.equal(finer.isnan(), weighed)
    assert torch.equal(finer[~weighed], before[~weighed])


# Equal bit for bit


@given(kernel=kernels, factor=factors, h=sizes, w=sizes, d=dtypes, data=st.data())
def test_a_crop_of_the_result_is_the_result_of_the_crop(kernel, factor, h, w, d, data):
    up = Upsample(factor, kernel)
    x = image(1, 2, h, w, dtype=d)
    need = 2 * up.reach + 1
    top = data.draw(st.integers(0, h - need))
    left = data.draw(st.integers(0, w - need))
    bottom = data.draw(st.integers(top + need, h))
    right = data.draw(st.integers(left + need, w))
    part = up(x[..., top:bottom, left:right])
    rows = slice(top * factor, top * factor + part.shape[-2])
    cols = slice(left * factor, left * factor + part.shape[-1])
    assert torch.equal(part, up(x)[..., rows, cols])


@given(kernel=kernels, factor=factors, n=st.integers(1, 5), d=dtypes)
def test_a_batch_is_its_images(kernel, factor, n, d):
    up = Upsample(factor, kernel)
    x = image(n, 3, 9, 11, dtype=d)
    whole = up(x)
    for i in range(n):
        assert torch.equal(whole[i : i + 1], up(x[i : i + 1]))
        assert torch.equal(whole[i : i + 1, 1:2], up(x[i : i + 1, 1:2]))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("factor", "size"), [(2, 187), (6, 65)])
def test_threads_and_memory_format_change_no_bit(kernel, factor, size):
    up = Upsample(factor, kernel)
    x = image(2, 6, size, size, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = up(x)
        torch.set_num_threads(2)
        assert torch.equal(up(x), one)
        assert torch.equal(up(x.contiguous(memory_format=torch.channels_last)), one)
    finally:
        torch.set_num_threads(before)


@given(kernel=kernels, factor=factors)
def test_recording_gradients_changes_no_bit(kernel, factor):
    up = Upsample(factor, kernel)
    x = image(1, 2, 9, 8, dtype=torch.float32)
    assert torch.equal(up(x.clone().requires_grad_()).detach(), up(x))


# In a network


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_are_exact(kernel):
    x = image(1, 1, 6, 7).requires_grad_()
    assert torch.autograd.gradcheck(Upsample(3, kernel), x)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_input_is_left_as_it_was(kernel):
    x = image(1, 1, 6, 7)
    before = x.clone()
    Upsample(2, kernel)(x)
    assert torch.equal(x, before)


def test_it_has_nothing_to_train_and_nothing_to_store():
    up = Upsample(2).double()
    assert not list(up.parameters())
    assert not up.state_dict()
    assert up(image(1, 1, 6, 6)).dtype == torch.float64
    assert up(image(1, 1, 6, 6, dtype=torch.float32)).dtype == torch.float32


@pytest.mark.parametrize(
    ("kernel", "reach"), [("nearest", 0), ("bilinear", 1), ("bicubic", 2)]
)
def test_the_reach_is_what_the_taps_need(kernel, reach):
    up = Upsample(2, kernel)
    assert up.reach == reach
    assert max(abs(k) for taps in up.phases for k, _ in taps) == reach


def test_taps_of_weight_zero_are_skipped():
    # At an odd factor the middle phase lies on the pixel itself.
    assert Upsample(3, "bicubic").phases[1] == ((0, 1.0),)
    assert Upsample(3, "bilinear").phases[1] == ((0, 1.0),)


def test_it_says_what_it_is():
    assert repr(Upsample(2)) == "Upsample(2, 'bicubic', a=-0.75)"
    assert repr(Upsample(6, "bilinear")) == "Upsample(6, 'bilinear')"


def test_the_kernel_must_be_known():
    with pytest.raises(ModelError, match="choose from nearest, bilinear, bicubic"):
        Upsample(2, "lanczos")


def test_the_factor_counts_pixels():
    with pytest.raises(ModelError, match="at least 1; got 0"):
        Upsample(0)


@pytest.mark.parametrize("shape", [(1, 1, 4, 9), (1, 1, 9, 4)])
def test_an_image_within_the_reach_is_refused(shape):
    with pytest.raises(GridError, match=r"bicubic needs more than 4 pixels.*pad.*by 2"):
        Upsample(2)(image(*shape))
