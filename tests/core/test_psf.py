"""Laws of the point spread: published widths, what users say, what is measured."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import xarray as xr
from worlds import grid

import s2sr_xr
from s2sr_xr.core.bands import BANDS, by_resolution, group
from s2sr_xr.core.psf import MTF, UNITS, Psf, resolve_psf, sensor_width, supported
from s2sr_xr.core.psf_measured import measure_psf
from s2sr_xr.core.psf_seen import seen
from s2sr_xr.errors import GridError, MissingBandError, RadiometryError

TWENTY = by_resolution(20)


# --- published ------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [*UNITS, None])
def test_the_sensor_is_what_was_measured_on_real_scenes(unit):
    # 10 to 90 % of 22 real scenes: B05 to B8A 8.2 to 9.2, B11 and B12 10.6 to 12.3.
    for band in ("B05", "B06", "B07", "B8A"):
        assert 8.0 <= sensor_width(band, unit) <= 9.0
    for band in ("B11", "B12"):
        assert 10.0 <= sensor_width(band, unit) <= 11.2


@pytest.mark.parametrize("target", [10, 5])
def test_every_published_width_is_supported(target):
    for unit in UNITS:
        for band in MTF[unit]:
            if BANDS[band].native > target:
                least, most = supported(BANDS[band].native, target)
                assert least < sensor_width(band, unit, target=target) < most


def test_squared_widths_add_up_from_grid_to_grid():
    # 20 m beside 5 m is 20 m beside 10 m, and what 10 m has beside 5 m.
    fine = [sensor_width(b, "S2A", target=5) ** 2 for b in by_resolution(10)]
    made = math.sqrt(sensor_width("B11", "S2A") ** 2 + np.mean(fine))
    assert sensor_width("B11", "S2A", target=5) == pytest.approx(made)


def test_an_unknown_unit_is_the_mean_and_says_so():
    psf = resolve_psf(bands=["B05"])
    mean = np.mean([sensor_width("B05", u) for u in UNITS])
    assert psf["B05"] == pytest.approx(mean, abs=1e-3)
    assert "mean of S2A, S2B, S2C" in psf.source


# --- said -----------------------------------------------------------------------------


def test_a_psf_is_the_same_in_every_process():
    psf = resolve_psf({"B8A": 8.5}, bands=TWENTY, unit="S2B")
    again = pickle.loads(pickle.dumps(psf))  # noqa: S301 - our own
    assert again == psf
    assert hash(again) == hash(psf)
    assert list(psf) == list(TWENTY)
    assert resolve_psf(psf, bands=TWENTY) == psf


def test_bands_that_are_not_named_have_the_sensors_width():
    psf = resolve_psf({"b8a": 8.5}, bands=["B8A", "B11"], unit="S2A")
    assert psf["B8A"] == 8.5
    assert psf["B11"] == pytest.approx(sensor_width("B11", "S2A"), abs=1e-3)


def test_what_was_measured_is_taken_and_what_was_not_has_a_remedy():
    found = xr.Dataset(
        {"sigma": ("band", [8.4, np.nan])}, coords={"band": ["B05", "B11"]}
    )
    with pytest.raises(GridError, match=r'B11 could not be measured.*dropna\("band"\)'):
        resolve_psf(found, bands=["B05", "B11"])
    psf = resolve_psf(found.dropna("band"), bands=["B05", "B11"], unit="S2A")
    assert psf["B05"] == 8.4
    assert psf["B11"] == pytest.approx(sensor_width("B11", "S2A"), abs=1e-3)


@pytest.mark.parametrize(
    ("psf", "kind", "message"),
    [
        ("lens", GridError, r"psf='lens' is not known. Give \"sensor\""),
        ([8.5], GridError, r"got list \(\[8.5\]\)"),
        ({"B05": "wide"}, GridError, "B05 is 'wide', which is not a number"),
        ({"B05": True}, GridError, "B05 is True, which is not a number"),
        ({"B05": np.nan}, GridError, r"nan m; supported are 5.0 m .* to 14.2 m"),
        ({"B05": -8.5}, GridError, r"-8.5 m; supported are 5.0 m .* to 14.2 m"),
        ({"B05": 20.0}, GridError, r"20 m; supported are 5.0 m .* to 14.2 m"),
        ({"B05": 0.85}, GridError, r"0.85 m; supported are 5.0 m"),
        ({"B99": 8.5}, MissingBandError, "'B99', which is not a band"),
        ({"B11": 8.5}, MissingBandError, "B11, not among the bands .*: B05"),
        (xr.Dataset({"width": 1}), GridError, r"\['width'\]; a psf has sigma\(band\)"),
    ],
)
def test_what_is_not_a_psf_is_refused(psf, kind, message):
    with pytest.raises(kind, match=message):
        resolve_psf(psf, bands=["B05"])


def test_what_has_no_width_is_refused():
    with pytest.raises(GridError, match="B02 has pixels of 10 m: beside pixels of 10"):
        sensor_width("B02")
    with pytest.raises(MissingBandError, match="The MTF of B10 is not published"):
        sensor_width("B10")
    with pytest.raises(GridError, match="Unit 'S2Z' is not known; choose from S2A"):
        sensor_width("B05", "S2Z")
    with pytest.raises(GridError, match="B02, whose pixels of 10 m are not coarser"):
        resolve_psf({"B02": 8.0}, bands=["B02", "B05"])


# --- seen -----------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 6])
def test_a_pixel_is_as_wide_as_it_is_said_to_be(factor):
    width = 0.45 * factor
    size = 20 * factor
    points = np.eye(size)[:, None].repeat(factor, 1)  # a line at each place in turn
    line = seen(points, width, factor)[:, 0, 10]
    at = np.arange(size) - (10 * factor + (factor - 1) / 2)
    assert line.sum() == pytest.approx(1)
    assert np.sqrt((line * at**2).sum()) == pytest.approx(width, rel=0.01)


def test_a_shift_is_where_a_pixel_looks():
    plane = np.add.outer(np.arange(80.0), 3 * np.arange(80.0))
    here, there = (seen(plane, 0.9, 2, s) for s in ((0, 0), (0.3, -0.2)))
    inner = np.s_[6:-6, 6:-6]
    np.testing.assert_allclose((there - here)[inner], 0.3 - 3 * 0.2, atol=0.04)


# --- measured -------------------------------------------------------------------------


def ground(size, seed, factor=2):
    """Return fields and roads of two materials, 10 m bands and a coarse-to-be band."""
    rng = np.random.default_rng(seed)
    share = np.zeros((size, size))
    for _ in range(size * size // 60):
        y, x = rng.integers(0, size, 2)
        h, w = rng.integers(2, 5 * factor, 2)
        share[y : y + h, x : x + w] = rng.uniform()
    slow = np.cumsum(np.cumsum(rng.normal(0, 1e-3, (size, size)), 0), 1)
    slow = slow / np.abs(slow).max() * 0.02
    bands = {
        b: 0.05 + 0.2 * share * c + slow * d
        for b, c, d in zip(
            by_resolution(10), (0.5, 0.7, 1.0, -0.6), (1, 0.5, 0.2, 1), strict=True
        )
    }
    return bands, 0.1 + 0.15 * share - 0.5 * slow


def scene(size=168, *, width=8.6, noise=5e-4, seed=0, native=20, band="B05", drop=()):
    """Return a tree of the 10 m bands and one coarse band of a width in metres."""
    factor = native // 10
    fine, truth = ground(size, seed, factor)
    rng = np.random.default_rng(seed + 100)
    coarse = seen(truth, width / 10, factor)
    groups = {
        group(10): xr.Dataset(
            {
                b: (("y", "x"), (x + rng.normal(0, noise, x.shape)).astype("f4"))
                for b, x in fine.items()
                if b not in drop
            },
            grid((size, size)).coords(),
        ),
        group(native): xr.Dataset(
            {
                band: (
                    ("y", "x"),
                    (coarse + rng.normal(0, noise, coarse.shape)).astype("f4"),
                )
            },
            grid(coarse.shape, native).coords(),
        ),
    }
    return xr.DataTree.from_dict(groups)


@pytest.mark.parametrize("width", [7.2, 8.6, 11.0, 13.0])
@pytest.mark.parametrize("noise", [2e-4, 2e-3])
def test_a_width_that_is_known_comes_out(width, noise):
    found = measure_psf(scene(width=width, noise=noise))
    assert float(found.sigma.sel(band="B05")) == pytest.approx(width, abs=0.2)
    assert 0 < float(found.stderr.sel(band="B05")) < 0.4


def test_a_shift_does_not_pass_for_blur():
    tree = scene()
    fine = tree["r10m"].to_dataset()
    for b, shift in (("B02", (0.3, 0)), ("B08", (-0.2, 0.2))):
        moved = _moved(fine[b].to_numpy(), shift)
        fine[b] = ("y", "x"), moved.astype("f4")
    tree["r10m"] = xr.DataTree(fine)
    found = measure_psf(tree)
    assert float(found.sigma[0]) == pytest.approx(8.6, abs=0.2)


def _moved(x, by):
    """Return an image moved by a fraction of a pixel, by its Fourier transform."""
    n = x.shape[0]
    whole = np.pad(x, ((0, n), (0, n)), mode="symmetric")
    turn = np.add.outer(np.fft.fftfreq(2 * n) * by[0], np.fft.fftfreq(2 * n) * by[1])
    made = np.fft.ifft2(np.fft.fft2(whole) * np.exp(-2j * np.pi * turn)).real
    return made[:n, :n]


def test_bands_of_60_m_are_measured_too():
    found = measure_psf(scene(360, width=29.0, native=60, band="B01"))
    assert float(found.sigma.sel(band="B01")) == pytest.approx(29.0, abs=1.0)


def test_the_same_comes_out_of_every_kind_of_object():
    tree = scene()
    known = measure_psf(tree)
    fine = tree["r10m"].to_dataset()
    repeated = tree["r20m"]["B05"].to_numpy().repeat(2, 0).repeat(2, 1)
    flat = fine.assign(B05=(("y", "x"), repeated))
    chunked = xr.DataTree.from_dict(
        {n: g.to_dataset().chunk(37) for n, g in tree.children.items()}
    )
    dated = xr.DataTree.from_dict(
        {n: g.to_dataset().expand_dims(time=2) for n, g in tree.children.items()}
    )
    xr.testing.assert_allclose(measure_psf(chunked), known)
    xr.testing.assert_allclose(measure_psf(flat), known)
    xr.testing.assert_allclose(measure_psf(dated).sigma, known.sigma, rtol=0.02)
    # One row and one column of 10 m pixels before the first whole native pixel.
    odd = flat.isel(y=slice(1, None), x=slice(1, None))
    assert float(measure_psf(odd).sigma[0]) == pytest.approx(8.6, abs=0.2)


def test_missing_pixels_are_left_out():
    tree = scene(240)
    coarse = tree["r20m"].to_dataset()
    tree["r20m"] = xr.DataTree(coarse.where(coarse.x > float(coarse.x[30])))
    assert float(measure_psf(tree).sigma[0]) == pytest.approx(8.6, abs=0.2)


def test_what_is_measured_is_taken_by_resolve():
    tree = scene()
    found = measure_psf(tree, bands=["B5"])
    psf = resolve_psf(found, bands=["B05"])
    assert isinstance(psf, Psf)
    assert psf.source == "measured"
    assert found.sigma.attrs["units"] == "m"
    assert found.attrs["relative_to"] == "B02, B03, B04, B08"


def _plain(tree, *, values):
    rng = np.random.default_rng(0)
    return xr.DataTree.from_dict(
        {
            n: g.to_dataset().map(lambda v: v.copy(data=values(rng, v.shape)))
            for n, g in tree.children.items()
        }
    )


def test_sea_cannot_be_measured():
    sea = _plain(scene(), values=lambda rng, s: rng.normal(0.02, 5e-4, s).astype("f4"))
    with pytest.raises(GridError, match=r"B05: .*sea.*Take a part of the scene"):
        measure_psf(sea)


def test_cloud_cannot_be_measured():
    cloud = scene()
    fine = cloud["r10m"].to_dataset()
    cloud["r10m"] = xr.DataTree(fine.roll(y=2, roll_coords=False))
    with pytest.raises(GridError, match=r"lie more than 10 m beside.*cloud"):
        measure_psf(cloud)


def test_a_band_that_cannot_be_measured_says_why_beside_one_that_can():
    tree = scene()
    noise = np.random.default_rng(0).normal(0.02, 1e-3, tree["r20m"]["B05"].shape)
    coarse = tree["r20m"].to_dataset().assign(B11=(("y", "x"), noise.astype("f4")))
    tree["r20m"] = xr.DataTree(coarse)
    found = measure_psf(tree)
    assert np.isnan(found.sigma.sel(band="B11"))
    assert np.isfinite(found.sigma.sel(band="B05"))
    assert "B11" in found.sigma.attrs["not_measurable"]


@pytest.mark.parametrize(
    ("tree", "options", "kind", "message"),
    [
        (scene(36), {}, GridError, "too small: it needs 480 x 480 m"),
        (scene(drop=by_resolution(10)[1:]), {}, MissingBandError, "two or more of B02"),
        (scene(), {"bands": ["B11"]}, MissingBandError, "B11 cannot be measured"),
        (scene(), {"bands": ["B02"]}, MissingBandError, "B02 cannot be measured"),
        (scene(), {"bands": []}, MissingBandError, "No band cannot be measured"),
        (
            xr.DataTree.from_dict({"r10m": scene()["r10m"].to_dataset()}),
            {},
            MissingBandError,
            "no band of 20 m or 60 m",
        ),
        (
            xr.DataTree.from_dict({"r20m": scene()["r20m"].to_dataset()}),
            {},
            MissingBandError,
            "two or more of B02.*the data have B05",
        ),
        (
            xr.DataTree.from_dict(
                {
                    "r10m": scene()["r10m"].to_dataset().astype("i2"),
                    "r20m": scene()["r20m"].to_dataset(),
                }
            ),
            {},
            RadiometryError,
            "integers",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(tree, options, kind, message):
    with pytest.raises(kind, match=message):
        measure_psf(tree, **options)


def test_the_edge_of_a_swath_is_left_out(tmp_path):
    """Slopes look farther than the image that they belong to."""
    item = s2sr_xr.simulate_scene(tmp_path, size=480)
    tree = s2sr_xr.open_stac(item)
    assert tree["r10m"].B02.isnull().any()
    found = s2sr_xr.measure_psf(tree, bands=["B05", "B11"])
    assert np.isfinite(found.sigma).all()
    assert (found.stderr < 0.5).all()
