"""Laws of fidelity: images whose sharpness, noise, place and seams are known."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from worlds import tree

import s2sr_xr
from s2sr_xr import evaluate
from s2sr_xr.errors import GridError, MissingBandError
from s2sr_xr.evaluate import fidelity

RNG = np.random.default_rng


def texture(shape, seed=0, limit=0.3):
    """Return random waves up to `limit` cycles a pixel, periodic, of variance 1."""
    f = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij"))
    waves = np.fft.fft2(RNG(seed).normal(size=shape)) * (f < limit)
    image = np.fft.ifft2(waves).real
    return image / image.std()


def moved(image, dy, dx):
    fy, fx = np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij")
    turned = np.fft.fft2(image) * np.exp(-2j * np.pi * (fy * dy + fx * dx))
    return np.fft.ifft2(turned).real


def borders(sigma, size=160, pixel=1.0, period=40.0, angle=0.12):
    """Return stripes with Gaussian-blurred edges every 20 m, on `pixel` metres."""
    at = (np.arange(size) + 0.5) * pixel
    d = at * math.cos(angle) + at[:, None] * math.sin(angle)
    image = np.zeros_like(d)
    for k in range(int(d.max() / period) + 2):
        for sign, place in ((1, k * period), (-1, (k + 0.5) * period)):
            z = (d - place) / sigma / math.sqrt(2)
            image += sign * 0.5 * (1 + np.vectorize(math.erf)(z))
    return 0.1 + 0.2 * image


# --- agreement ------------------------------------------------------------------------


@pytest.mark.parametrize(("dy", "dx"), [(0.3, -0.2), (0.01, 0), (-2.4, 1.6), (0, 0)])
def test_a_shift_is_found(dy, dx):
    image = texture((150, 170))
    seen = moved(image, dy, dx) + RNG(1).normal(0, 0.02, image.shape)
    assert fidelity.shift(seen, image) == pytest.approx([dy, dx], abs=0.02)


def test_shift_leaves_missing_pixels_out():
    image = texture((200, 200))
    seen = moved(image, 0.3, 0.1)
    seen[150:, 150:] = np.nan
    assert fidelity.shift(seen, image) == pytest.approx([0.3, 0.1], abs=0.02)
    assert np.isnan(fidelity.shift(image * np.nan, image)).all()
    assert np.isnan(fidelity.shift(image * 0 + 1, image)).all()


def test_agreement_tells_brightness_from_colour_from_place():
    native = np.stack([0.3 + 0.02 * texture((96, 96), seed=s) for s in (1, 2)])
    fine = native.repeat(2, 1).repeat(2, 2)
    same = fidelity.agreement(fine, native)
    assert same.reflectance == (0, 0)
    assert same.spectral == 0
    assert same.spatial == pytest.approx((0, 0), abs=1e-6)
    brighter = fidelity.agreement(fine * 1.1, native)
    assert brighter.reflectance == pytest.approx((0.03, 0.03), rel=0.02)
    assert brighter.spectral == pytest.approx(0, abs=1e-5)
    redder = fidelity.agreement(fine * [[[1.0]], [[1.1]]], native)
    assert redder.spectral == pytest.approx(2.72, abs=0.05)


def test_agreement_is_in_pixels_of_the_input():
    fine = texture((192, 192), limit=0.2)
    native = fine.reshape(96, 2, 96, 2).mean((1, 3))
    found = fidelity.agreement(moved(fine, 0, 0.5)[None], native[None])
    assert found.spatial == pytest.approx((0.25,), abs=0.01)
    assert math.isnan(found.spectral)


def test_pixels_that_do_not_nest_are_refused():
    with pytest.raises(GridError, match=r"\(13, 12\).*\(6, 6\)"):
        fidelity.agreement(np.ones((1, 13, 12)), np.ones((1, 6, 6)))
    with pytest.raises(GridError, match=r"\(2, 12, 12\)"):
        fidelity.agreement(np.ones((2, 12, 12)), np.ones((1, 6, 6)))


# --- spectra --------------------------------------------------------------------------


def test_white_noise_has_its_variance_at_every_frequency():
    f, power = fidelity.spectrum(RNG(0).normal(5, 0.3, (512, 512)), side=32)
    assert f[[0, -1]] == pytest.approx([1 / 32, 0.5])
    assert power[1:] == pytest.approx(0.09, rel=0.1)


def test_a_band_limited_image_ends_at_its_limit():
    f, power = fidelity.spectrum(texture((256, 256), limit=0.25))
    inside, beyond = power[f < 0.2], power[f > 0.3]
    assert beyond.max() < 1e-4 * inside.min()


def test_the_truth_is_resolved_up_to_where_noise_begins():
    truth = texture((256, 256), limit=0.6)
    low = np.fft.fft2(truth)
    f = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256))
    known = np.fft.ifft2(low * (f < 0.3)).real
    other = np.fft.fft2(RNG(3).normal(size=f.shape))
    guess = known + np.fft.ifft2(other * (f >= 0.3)).real
    found = fidelity.resolved(*fidelity.ring_correlation(guess, truth))
    assert found == pytest.approx(0.3, abs=0.02)
    assert fidelity.resolved(*fidelity.ring_correlation(3 * truth, truth)) == 0.5


@pytest.mark.parametrize(
    ("curve", "found"),
    [([1, 0.75, 0.25], 0.25), ([0.4, 1, 1], 0), ([1, 1, 1], 0.3), ([np.nan] * 3, None)],
)
def test_resolved_is_the_first_crossing(curve, found):
    made = fidelity.resolved(np.array([0.1, 0.2, 0.3]), np.array(curve))
    assert math.isnan(made) if found is None else made == pytest.approx(found)


def test_energy_gain_counts_only_beyond():
    base = texture((256, 256), limit=0.6)
    waves = np.fft.fft2(base)
    f = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256))
    louder = np.fft.ifft2(waves * np.where(f > 0.25, 2, 1)).real
    assert fidelity.energy_gain(louder, base, above=0.28) == pytest.approx(4, rel=0.02)
    quieter = np.fft.ifft2(waves * np.where(f < 0.2, 9, 1)).real
    assert fidelity.energy_gain(quieter, base, above=0.28) == pytest.approx(1, rel=0.05)


def test_spectra_of_nothing_are_nan():
    gone = np.full((70, 70), np.nan)
    assert np.isnan(fidelity.spectrum(gone)[1]).all()
    assert np.isnan(fidelity.ring_correlation(gone, gone)[1]).all()
    assert math.isnan(fidelity.energy_gain(gone, gone, above=0.2))
    with pytest.raises(GridError, match=r"8 pixels.*\(4, 70\)"):
        fidelity.spectrum(gone[:4])


# --- edges ----------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.6, 1.0, 1.8])
def test_the_width_of_an_edge_is_found(sigma):
    image = borders(sigma) + RNG(0).normal(0, 0.001, (160, 160))
    edges = fidelity.find_edges(image, radius=6, widest=6)
    found = fidelity.edge_response(image, edges, pixel=10)
    assert found.count > 20
    assert found.fwhm == pytest.approx(10 * 2.355 * sigma, rel=0.05)
    gauss = math.exp(-2 * (math.pi * sigma * 0.25) ** 2)
    assert found.mtf(0.25 / 10) == pytest.approx(gauss, abs=0.03)


def test_the_same_edges_are_measured_in_a_finer_image():
    coarse = borders(10, size=150, pixel=10, period=220)
    fine = borders(5, size=300, pixel=5, period=220)
    edges = fidelity.find_edges(coarse, radius=5)
    found = fidelity.edge_response(fine, edges, factor=2, pixel=5)
    assert found.count == len(edges) > 10
    assert found.fwhm == pytest.approx(2.355 * 5, rel=0.05)
    assert np.abs(found.distance).max() < 50


def test_overshoot_raises_the_transfer_and_not_the_profile_in_the_fields():
    image = borders(1.0)
    sharp = image * 3 - 2 * 0.25 * sum(
        np.roll(image, s, axis) for s in (-1, 1) for axis in (0, 1)
    )
    edges = fidelity.find_edges(image, radius=6)
    plain, made = (fidelity.edge_response(v, edges) for v in (image, sharp))
    assert made.mtf(0.2) > plain.mtf(0.2) * 1.2
    assert made.profile.max() > 1.01
    assert plain.profile[:8] == pytest.approx(0, abs=0.01)


def test_what_has_no_edges_has_no_width():
    for image in (texture((90, 90)), np.ones((90, 90)), np.full((90, 90), np.nan)):
        edges = fidelity.find_edges(image)
        found = fidelity.edge_response(image, edges)
        assert len(edges) < 3
        if not len(edges):
            assert math.isnan(found.fwhm)
            assert math.isnan(found.mtf(0.5))


# --- noise ----------------------------------------------------------------------------


def test_noise_is_found_beside_texture():
    image = 0.2 + 0.05 * texture((200, 240), limit=0.1)
    image[:, :120] = 0.3 + 1e-4 * np.arange(120)
    image += RNG(0).normal(0, 2e-4, image.shape)
    windows = fidelity.flat_windows(image, share=0.4)
    found = fidelity.noise(image, windows)
    assert windows[:, 1].max() < 120
    assert found.sigma == pytest.approx(2e-4, rel=0.05)
    assert found.snr == pytest.approx(0.306 / 2e-4, rel=0.05)


def test_windows_that_happen_to_be_quiet_do_not_make_noise_small():
    image = 1 + RNG(0).normal(0, 0.01, (400, 400))
    found = fidelity.noise(image, fidelity.flat_windows(image, share=0.02))
    assert found.sigma == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("gain", [1.0, 1.7])
def test_amplification_is_the_ratio_of_two_noises(gain):
    native = 1 + RNG(0).normal(0, 0.01, (200, 200))
    fine = 1 + gain * (native - 1).repeat(2, 0).repeat(2, 1)
    windows = fidelity.flat_windows(native)
    before = fidelity.noise(native, windows)
    after = fidelity.noise(fine, windows, factor=2)
    assert after.sigma / before.sigma == pytest.approx(gain, rel=0.01)


def test_noise_of_nothing_is_nan():
    gone = np.full((40, 40), np.nan)
    assert len(fidelity.flat_windows(gone)) == 0
    assert math.isnan(fidelity.noise(gone, fidelity.flat_windows(gone)).snr)


# --- seams ----------------------------------------------------------------------------


def test_seams_stand_out_by_their_energy():
    ground = RNG(0).normal(0, 1, (240, 240))
    assert fidelity.seam_energy(ground, 24) == pytest.approx(1, abs=0.05)
    tiles = np.kron(np.indices((10, 10)).sum(0) % 2, np.ones((24, 24)))
    # A step of 2 adds 4 to the squared jump of two unit noises, 2.
    assert fidelity.seam_energy(ground + 2 * tiles, 24) == pytest.approx(3, rel=0.05)
    assert fidelity.seam_energy(ground + 2 * tiles, 24, offset=5) < 1.2


def test_native_pixels_are_not_taken_for_seams():
    blocks = RNG(0).normal(size=(120, 120)).repeat(2, 0).repeat(2, 1)
    assert fidelity.seam_energy(blocks, 24) > 1.5
    assert fidelity.seam_energy(blocks, 24, cell=2) == pytest.approx(1, abs=0.1)


def test_without_a_seam_there_is_no_energy():
    assert math.isnan(fidelity.seam_energy(np.ones((20, 20)), 10))
    assert math.isnan(fidelity.seam_energy(RNG(0).normal(size=(20, 20)), 30))
    with pytest.raises(GridError, match=r"step=7.*cell=2"):
        fidelity.seam_energy(np.ones((20, 20)), 7, cell=2)


# --- a result and its tree ------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Return a simulated scene, its 20 m and 60 m bands at 10 m, and their truth."""
    folder = tmp_path_factory.mktemp("fidelity")
    item = s2sr_xr.simulate_scene(folder, size=180)
    native = s2sr_xr.open_stac(item).isel(time=0).load()
    made = native.s2sr.upsample("bicubic", keep_native=False, device="cpu").compute()
    return native, made, s2sr_xr.open_truth(item).load()


def test_bicubic_is_as_good_as_bicubic(scene):
    native, made, truth = scene
    found = fidelity.measure(native, made, truth=truth)
    assert [b.native for b in found.bands] == [20] * 6 + [60] * 2
    for band in found.bands:
        assert band.psnr == pytest.approx(band.psnr_bicubic, abs=0.5)
        assert band.resolved == pytest.approx(band.resolved_bicubic, abs=0.05)
        assert band.gain == pytest.approx(1, rel=0.1)
        assert band.spatial < 0.02 or math.isnan(band.spatial)


def test_the_truth_is_sharper_and_true(scene):
    native, made, truth = scene
    best = made.assign({b: (("y", "x"), truth[b].to_numpy()) for b in ("B8A", "B05")})
    found = fidelity.measure(native, best, truth=truth, bands=["B8A", "B05"])
    for band in found.bands:
        assert band.psnr == math.inf
        assert band.resolved == pytest.approx(1)  # the Nyquist frequency of 10 m
        assert band.gain > 5
        assert band.seen["result"].noise == band.seen["truth"].noise


@pytest.mark.parametrize("value", [0.1, 0.3, 1.5, 6.4535])
def test_ground_that_is_constant_is_no_noise(value):
    image = 0.1 + 0.02 * RNG(0).normal(size=(240, 240))
    image[:60, :60] = value
    found = fidelity.noise(image, fidelity.flat_windows(image))
    assert found.sigma == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("value", [0.1, 0.3, 1.0])
def test_a_constant_has_no_waves(value):
    flat, other = np.full((64, 64), value), texture((64, 64))
    assert np.isnan(fidelity.shift(flat, other)).all()
    assert math.isnan(fidelity.energy_gain(other, flat, above=0.2))
    assert np.isnan(fidelity.ring_correlation(flat, other)[1]).all()


def test_a_band_with_few_pixels_is_measured_as_far_as_that_goes():
    native = tree((5, 5), ["B02", "B05", "B01"])
    found = fidelity.measure(native, native.s2sr.upsample("bicubic"))
    sixty, twenty = (next(b for b in found.bands if b.native == n) for n in (60, 20))
    assert math.isnan(sixty.spatial)
    assert sixty.reflectance < 0.1
    assert twenty.spatial < 0.5


def test_consistent_results_keep_the_means(scene):
    native, _, _ = scene
    how = {"keep_native": False, "device": "cpu", "bands": ["B11", "B12"]}
    kept = native.s2sr.upsample("bicubic", consistent=True, **how).compute()
    found = fidelity.measure(native, kept)
    assert max(b.reflectance for b in found.bands) < 1e-6
    assert found.spectral[20] < 1e-3
    assert all(math.isnan(b.psnr) for b in found.bands)


def test_what_cannot_be_measured_is_said(scene):
    native, made, truth = scene
    with pytest.raises(MissingBandError, match=r"B02.*B05, B06"):
        fidelity.measure(native, made, bands=["B02"])
    with pytest.raises(MissingBandError, match=r"B10.*10 m"):
        fidelity.measure(native, made[["quality"]].assign(B10=made.B05))
    with pytest.raises(GridError, match=r"B05 covers.*window"):
        fidelity.measure(native, made.isel(x=slice(0, 120)))
    with pytest.raises(GridError, match=r"truth of B05.*\(120, 180\)"):
        fidelity.measure(native, made, truth=truth.isel(y=slice(0, 120)))


@pytest.mark.parametrize("known", [True, False])
def test_the_page_is_drawn(scene, tmp_path, known):
    native, made, truth = scene
    path = evaluate.fidelity_page(
        native, made, tmp_path / "page.png", truth=truth if known else None
    )
    assert path.stat().st_size > 30_000
    text = fidelity.fidelity_table(fidelity.measure(native, made))
    assert "B8A" in text
    assert "PSNR" not in text  # there is no truth


# --- the benchmark --------------------------------------------------------------------


def test_the_benchmark_runs(monkeypatch, capsys, tmp_path):
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    main = runpy.run_path(str(folder / "fidelity.py"))["main"]
    main(["--size=96", "--levels", "L2A", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    records = [json.loads(t) for t in printed.splitlines() if t.startswith("{")]
    runs = [(r["task"], r["consistent"]) for r in records]
    assert runs == [(t, c) for t in ("upsample", "superresolve") for c in (False, True)]
    assert all(0.2 < r["true scale"]["20 m"] < 1 for r in records)
    assert all(0.5 < v < 5 for r in records for v in r["noise gain"].values())
    assert len(list(tmp_path.glob("*.png"))) == 2
    assert "simulated superresolve: noise gain, 20 m" in printed
