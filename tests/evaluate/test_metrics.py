"""Laws of the scores; scikit-image, torchmetrics and the papers as oracles."""

import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import (
    spectral_angle_mapper,
    universal_image_quality_index,
)

from s2sr_xr.errors import GridError, RadiometryError, S2SRError
from s2sr_xr.evaluate.metrics import aligned_psnr, psnr, rmse, sam, sre, ssim, uiq

PERFECT = {rmse: 0.0, sre: np.inf, psnr: np.inf, sam: 0.0, uiq: 1.0, ssim: 1.0}
ALL = pytest.mark.parametrize("score", PERFECT, ids=lambda f: f.__name__)
PER_BAND = pytest.mark.parametrize(
    "score", [rmse, sre, psnr, uiq, ssim], ids=lambda f: f.__name__
)


@pytest.mark.parametrize("kind", ["f4", "u2"])
def test_what_a_mask_hides_is_missing(kind):
    truth = np.arange(400).reshape(20, 20).astype(kind)
    pred = np.ma.masked_array(truth + 0, mask=truth > 300)
    pred.data[truth > 300] = 9
    assert rmse(pred, truth) == 0


@st.composite
def scenes(draw, shape=None):
    """Three bands of a few levels: flat, dark, bright and negative parts are common."""
    shape = shape or (3, draw(st.integers(11, 14)), draw(st.integers(11, 14)))
    levels = draw(st.lists(st.integers(-1_000, 15_000), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return rng.choice(levels, shape) / 10_000


def pair(*shape, noise=0.05, seed=0):
    """A prediction and its truth: a smooth scene with texture, in 0..1 or so."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[: shape[-2], : shape[-1]] / 9
    truth = 0.3 + 0.1 * np.sin(rows) * np.cos(cols) + 0.05 * rng.random(shape)
    return truth + noise * rng.standard_normal(shape), truth


def windows_by_hand(pred, truth, side, score):
    """Score every whole window in a loop."""
    h, w = truth.shape
    return [
        score(pred[i : i + side, j : j + side], truth[i : i + side, j : j + side])
        for i in range(h - side + 1)
        for j in range(w - side + 1)
    ]


def quality(x, y):
    """Wang and Bovik's eq. 1, for one window that is neither flat nor dark."""
    cov = ((x - x.mean()) * (y - y.mean())).mean()
    top = 4 * cov * x.mean() * y.mean()
    return top / ((x.var() + y.var()) * (x.mean() ** 2 + y.mean() ** 2))


@ALL
@given(scene=scenes())
def test_a_perfect_prediction_scores_best(score, scene):
    if score is sre:
        scene[:, 0, 0] += 1e3  # a mean of 0 has no signal to compare with
    if score is sam:
        scene[0] += 1  # nor has a spectrum of zeros a direction
    assert (score(scene, scene.copy()) == PERFECT[score]).all()


@pytest.mark.parametrize(
    "score", [rmse, psnr, sam, uiq, ssim], ids=lambda f: f.__name__
)
@given(scene=scenes(), data=st.data())
def test_two_images_are_as_far_from_each_other_either_way(score, scene, data):
    other = data.draw(scenes(scene.shape))
    assert np.array_equal(score(scene, other), score(other, scene), equal_nan=True)


def test_only_sre_takes_sides():
    pred, truth = pair(20, 20)
    assert sre(2 * pred, truth) != pytest.approx(sre(truth, 2 * pred), abs=1)


@given(exponent=st.integers(-10, 14))
def test_the_unit_changes_rmse_and_nothing_else(exponent):
    # Powers of two, so that not even rounding changes.
    unit = 2.0**exponent
    pred, truth = pair(3, 20, 20)
    p, t = unit * pred, unit * truth
    assert np.array_equal(rmse(p, t), unit * rmse(pred, truth))
    assert np.array_equal(psnr(p, t, peak=unit), psnr(pred, truth))
    assert np.array_equal(sre(p, t), sre(pred, truth))
    assert np.array_equal(uiq(p, t), uiq(pred, truth))
    assert sam(p, t) == sam(pred, truth)
    assert ssim(p, t, peak=unit) == pytest.approx(ssim(pred, truth), abs=1e-12)


@given(gain=st.floats(0.1, 10))
def test_sam_ignores_brightness(gain):
    pred, truth = pair(4, 9, 9)
    shade = gain * np.linspace(0.5, 2, 81).reshape(9, 9)
    assert sam(shade * pred, truth) == pytest.approx(sam(pred, truth), abs=1e-9)


@pytest.mark.parametrize("degrees", [1e-7, 1e-3, 0.5, 45, 90, 179.9])
def test_sam_is_the_angle_however_small(degrees):
    angle = np.radians(degrees)
    truth = np.ones((2, 3, 3)) * np.array([1.0, 0.0])[:, None, None]
    pred = np.ones((2, 3, 3)) * np.array([np.cos(angle), np.sin(angle)])[:, None, None]
    assert sam(pred, truth) == pytest.approx(degrees, rel=1e-8)


def test_sre_is_equation_7_of_dsen2():
    pred, truth = pair(50, 40)
    expected = 10 * np.log10(
        truth.mean() ** 2 / (np.linalg.norm(pred - truth) ** 2 / truth.size)
    )
    assert sre(pred, truth) == pytest.approx(expected, rel=1e-12)


def test_sre_without_signal_says_so():
    zero = np.zeros((4, 4))
    assert sre(zero + 1, zero) == -np.inf
    assert np.isnan(sre(zero, zero))


@PER_BAND
def test_bands_are_scored_alone(score):
    pred, truth = pair(2, 3, 15, 16)
    scores = score(pred, truth)
    assert scores.shape == (2, 3)
    assert scores.dtype == np.float64
    for i in np.ndindex(2, 3):
        assert scores[i] == score(pred[i], truth[i])


def test_sam_takes_the_bands_together():
    pred, truth = pair(2, 3, 15, 16)
    assert sam(pred, truth).tolist() == [
        sam(p, t) for p, t in zip(pred, truth, strict=True)
    ]


@ALL
def test_one_image_gives_a_plain_number(score):
    shape = (3, 12, 12) if score is sam else (12, 12)
    assert isinstance(json.loads(json.dumps(score(*pair(*shape)))), float)


@PER_BAND
@pytest.mark.parametrize("height", [17, 31, 32, 33, 42, 43, 75])
def test_strips_are_invisible(score, height):
    pred, truth = pair(height, 30)
    pred[5, 5] = np.nan
    in_one_strip = score(pred.T, truth.T)  # 30 rows, fewer than a strip has
    assert score(pred, truth) == pytest.approx(in_one_strip, rel=1e-12)


# Missing pixels


@ALL
@given(data=st.data())
def test_a_missing_pixel_counts_for_nothing(score, data):
    # Whatever lies under a missing pixel, of either array, cannot change the score.
    pred, truth = pair(3, 24, 24)
    where = np.zeros((24, 24), bool)
    for _ in range(data.draw(st.integers(1, 4))):
        where[data.draw(st.integers(0, 3)), data.draw(st.integers(0, 23))] = True
    in_pred, in_truth = pred.copy(), truth.copy()
    in_pred[:, where] = np.nan
    in_truth[:, where] = np.nan
    wild = pred.copy()
    wild[:, where] = 1e6
    expected = score(in_pred, in_truth)
    assert np.isfinite(expected).all()
    assert np.array_equal(score(wild, in_truth), expected)
    if score is not sre:
        assert np.array_equal(score(in_pred, truth), expected)
    else:
        assert sre(in_pred, truth) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("score", [rmse, sre, psnr], ids=lambda f: f.__name__)
def test_the_rest_is_scored_as_if_it_were_all(score):
    pred, truth = pair(40, 12)
    kept = score(pred[:33], truth[:33])
    pred[33:] = np.nan
    assert score(pred, truth) == pytest.approx(kept, rel=1e-12)


@pytest.mark.parametrize(("score", "side"), [(uiq, 8), (ssim, 11)])
def test_windows_that_touch_a_missing_pixel_are_left_out(score, side):
    pred, truth = pair(40, 30)
    pred[20, 0] = np.nan
    h, w = 40 - side + 1, 30 - side + 1
    scores = np.array(windows_by_hand(pred, truth, side, score)).reshape(h, w)
    touched = np.zeros((h, w), bool)
    touched[20 - side + 1 : 21, 0] = True
    assert np.array_equal(np.isnan(scores), touched)
    assert score(pred, truth) == pytest.approx(scores[~touched].mean(), rel=1e-12)


def test_a_spectrum_with_a_missing_band_or_of_zeros_is_left_out_of_sam():
    pred, truth = pair(3, 5, 5)
    expected = sam(pred[:, 1:], truth[:, 1:])
    pred[1, 0, :3] = np.nan
    truth[:, 0, 3:] = 0
    assert sam(pred, truth) == pytest.approx(expected, rel=1e-12)


@ALL
def test_where_nothing_is_left_there_is_no_score(score):
    pred, truth = pair(2, 3, 12, 12)
    pred[0] = np.nan
    scores = score(pred, truth)
    assert np.isnan(scores[0]).all()
    assert np.isfinite(scores[1]).all()


# Oracles


@pytest.mark.parametrize("peak", [1.0, 0.4, 10_000.0])
def test_psnr_is_that_of_scikit_image(peak):
    pred, truth = pair(30, 20)
    expected = peak_signal_noise_ratio(truth, pred, data_range=peak)
    assert psnr(pred, truth, peak=peak) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("peak", [1.0, 0.4])
@pytest.mark.parametrize("shape", [(11, 11), (11, 40), (70, 33), (150, 120)])
def test_ssim_is_that_of_scikit_image(shape, peak):
    pred, truth = pair(*shape)
    expected = structural_similarity(
        truth,
        pred,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=peak,
    )
    assert ssim(pred, truth, peak=peak) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("window", [2, 8, 9])
def test_uiq_is_equation_1_in_every_window(window):
    pred, truth = pair(45, 20)
    expected = np.mean(windows_by_hand(pred, truth, window, quality))
    assert uiq(pred, truth, window=window) == pytest.approx(expected, rel=1e-10)


def test_uiq_is_that_of_torchmetrics_on_windows_of_equal_weights():
    # torchmetrics has Gaussian windows of odd sides only; a very wide bell is flat.
    pred, truth = pair(40, 30)
    expected = universal_image_quality_index(
        torch.from_numpy(pred)[None, None],
        torch.from_numpy(truth)[None, None],
        kernel_size=(9, 9),
        sigma=(1e6, 1e6),
    )
    assert uiq(pred, truth, window=9) == pytest.approx(float(expected), abs=1e-9)


def test_uiq_is_not_what_torchmetrics_calls_it_by_default():
    # Its default windows are SSIM's (Gaussian, 11 x 11), not those of the paper.
    pred, truth = pair(40, 30)
    theirs = universal_image_quality_index(
        torch.from_numpy(pred)[None, None], torch.from_numpy(truth)[None, None]
    )
    assert abs(uiq(pred, truth) - float(theirs)) > 1e-3


def test_sam_is_that_of_torchmetrics_in_degrees():
    pred, truth = pair(6, 40, 30)
    theirs = spectral_angle_mapper(
        torch.from_numpy(pred)[None], torch.from_numpy(truth)[None]
    )
    assert sam(pred, truth) == pytest.approx(np.degrees(float(theirs)), rel=1e-9)


def test_a_spectrum_of_zeros_is_no_angle_where_torchmetrics_has_none_at_all():
    pred, truth = pair(6, 4, 4)
    truth[:, 0, 0] = 0
    theirs = spectral_angle_mapper(
        torch.from_numpy(pred)[None], torch.from_numpy(truth)[None]
    )
    assert torch.isnan(theirs)
    assert np.isfinite(sam(pred, truth))


# After alignment


def shifted(by, *, noise=0.0, shape=(2, 64, 60)):
    """A truth that is smooth between pixels, and itself moved down and left."""
    rng = np.random.default_rng(0)
    wide = rng.random((*shape[:-2], shape[-2] + 16, shape[-1] + 16))
    wide = ndimage.gaussian_filter(wide, (0, 1.5, 1.5))
    moved = ndimage.shift(wide, (0, by, -by / 2), order=3)
    inner = np.s_[..., 8:-8, 8:-8]
    error = noise * rng.standard_normal(shape)
    return moved[inner] + error, wide[inner]


@pytest.mark.parametrize("by", [0.3, 1.2])
def test_alignment_undoes_a_shift(by):
    pred, truth = shifted(by, noise=1e-3)
    scores = aligned_psnr(pred, truth)
    assert scores.shape == (2,)
    assert (scores > psnr(pred, truth) + 12).all()
    # What is left is the noise of 60 dB, in the main.
    assert (scores > 54).all()


def test_without_a_shift_alignment_gains_little():
    pred, truth = shifted(0, noise=5e-3)
    gain = aligned_psnr(pred, truth) - psnr(pred, truth)
    assert (gain >= 0).all()
    assert (gain < 2).all()
    assert (aligned_psnr(truth, truth) == np.inf).all()


def test_alignment_does_not_hide_blur():
    _, truth = shifted(0)
    blurred = ndimage.gaussian_filter(truth, (0, 1.5, 1.5))
    assert (aligned_psnr(blurred, truth) < psnr(blurred, truth) + 3).all()


def test_a_missing_pixel_moves_with_the_truth():
    pred, truth = shifted(1.2)
    whole = aligned_psnr(pred, truth)
    broken = truth.copy()
    broken[0, 30, 30] = np.nan
    pred[0, 5, 5] = np.nan
    scores = aligned_psnr(pred, broken)
    assert scores[1] == whole[1]
    assert scores[0] == pytest.approx(whole[0], abs=3)
    pred[0] = np.nan
    assert np.isnan(aligned_psnr(pred, truth)[0])


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_flat_images_need_no_alignment(level):
    flat = np.full((20, 20), level)
    assert aligned_psnr(flat, flat) == np.inf


def test_what_cannot_be_aligned_is_said(monkeypatch):
    with pytest.raises(GridError, match="15 x 40 pixels is too small to be aligned"):
        aligned_psnr(np.ones((15, 40)), np.ones((15, 40)))
    with pytest.raises(RadiometryError, match=r"attachment is a weight.*got 0"):
        aligned_psnr(*pair(20, 20), attachment=0)
    with pytest.raises(RadiometryError, match="peak is the brightest"):
        aligned_psnr(*pair(20, 20), peak=0)
    monkeypatch.setitem(sys.modules, "skimage.registration", None)
    with pytest.raises(S2SRError, match="pip install scikit-image"):
        aligned_psnr(*pair(20, 20))


# Flat windows


@pytest.mark.parametrize("level", [0.0, 0.1, 0.3, 1234.0])
def test_flat_windows_have_luminance_only(level):
    # 0.1 and 0.3 leave rounding in the variance, which must not pass for contrast.
    truth = np.full((20, 20), level)
    assert uiq(truth, truth) == 1
    expected = 1.0 if level == 0 else 0.8  # 2 * 1 * 2 / (1 + 4)
    assert uiq(2 * truth, truth) == pytest.approx(expected, rel=1e-12)


def test_dark_windows_have_contrast_and_structure_only():
    truth = np.resize([1.0, -1.0], (9, 9))  # every 8 x 8 window has mean 0
    assert uiq(-truth, truth) == -1
    assert uiq(3 * truth, truth) == pytest.approx(0.6)  # 2 * 3 / (9 + 1)


def test_water_in_float32_is_not_noise():
    rng = np.random.default_rng(1)
    truth = np.full((20, 20), 0.0213, np.float32)
    pred = truth * (1 + rng.integers(-1, 2, truth.shape) * np.float32(6e-8))
    assert uiq(pred.astype(np.float32), truth) == pytest.approx(1, abs=1e-6)


# What is taken, what is refused


@ALL
def test_integers_do_not_wrap(score):
    truth = np.random.default_rng(0).integers(0, 200, (3, 12, 12)).astype(np.uint8)
    pred = truth[..., ::-1]
    as_float = score(pred.astype(float), truth.astype(float))
    assert np.array_equal(score(pred, truth), as_float)


@ALL
def test_inputs_are_left_as_they_were(score):
    pred, truth = pair(3, 12, 12)
    pred[0, 0, 0] = np.nan
    before = pred.copy(), truth.copy()
    score(pred, truth)
    assert np.array_equal(pred, before[0], equal_nan=True)
    assert np.array_equal(truth, before[1])


@ALL
def test_shapes_must_match(score):
    with pytest.raises(GridError, match=r"pred has shape \(3, 12, 12\).*\(3, 12, 13\)"):
        score(np.ones((3, 12, 12)), np.ones((3, 12, 13)))


@ALL
@pytest.mark.parametrize("shape", [(), (12,), (3, 0, 12), (0, 12, 12)])
def test_there_must_be_an_image(score, shape):
    with pytest.raises(GridError, match=r"Scores need shape \(\.\.\., "):
        score(np.ones(shape), np.ones(shape))


def test_sam_needs_a_band_axis():
    with pytest.raises(GridError, match=r"\(\.\.\., B, H, W\)"):
        sam(np.ones((12, 12)), np.ones((12, 12)))


@ALL
@pytest.mark.parametrize("which", ["pred", "truth"])
def test_infinite_pixels_do_not_pass_for_missing_ones(score, which):
    images = dict(zip(("pred", "truth"), pair(3, 12, 12), strict=True))
    images[which][0, 3, 3] = -np.inf
    with pytest.raises(RadiometryError, match=f"{which} has 1 infinite values"):
        score(**images)


@pytest.mark.parametrize(("score", "side"), [(uiq, 8), (ssim, 11)])
def test_an_image_must_hold_a_window(score, side):
    image = np.ones((side - 1, 40))
    with pytest.raises(GridError, match=f"holds no window of {side} x {side}"):
        score(image, image)


@pytest.mark.parametrize("score", [psnr, ssim])
@pytest.mark.parametrize("peak", [0, -1, np.nan, np.inf])
def test_the_peak_is_positive(score, peak):
    with pytest.raises(RadiometryError, match="brightest value there can be"):
        score(*pair(12, 12), peak=peak)


def test_a_window_of_one_pixel_has_no_variance():
    with pytest.raises(GridError, match="2 pixels or more, got 1"):
        uiq(*pair(12, 12), window=1)


def test_every_error_is_ours_and_a_value_error():
    assert issubclass(GridError, S2SRError)
    assert issubclass(GridError, ValueError)
    assert issubclass(RadiometryError, ValueError)
