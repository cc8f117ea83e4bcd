"""A simulated scene is a Sentinel-2 product that also knows the truth."""

import datetime as dt
import itertools
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from pyproj import Transformer

from s2sr_xr.core.bands import BANDS
from s2sr_xr.errors import GridError, MissingBandError, RadiometryError
from s2sr_xr.simulate import simulate_scene, write_item
from s2sr_xr.simulate.observation import CORNER, MARGIN, NOISE, READ_NOISE, observe
from s2sr_xr.simulate.texture import PITCH
from s2sr_xr.simulate.truth import open_truth

SIZE = 240
REPO = Path(__file__).parents[2]
REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def item(tmp_path_factory):
    return simulate_scene(tmp_path_factory.mktemp("l1c"), size=SIZE, seed=3)


@pytest.fixture(scope="module")
def truth(item):
    return open_truth(item)


def counts(item, band):
    with rasterio.open(item.assets[band].get_absolute_href()) as source:
        return source.read(1)


def reflectance(item, band):
    codes = counts(item, band)
    return np.where(codes == 0, np.nan, codes * 1e-4 - 0.1)


def means(image, factor):
    n = len(image) // factor
    return image.reshape(n, factor, n, factor).mean((1, 3))


def test_the_seed_decides_every_pixel(tmp_path):
    one, same, other = (
        simulate_scene(tmp_path / folder, size=60, seed=seed)
        for folder, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one.id == same.id != other.id
    for band in BANDS:
        assert np.array_equal(counts(one, band), counts(same, band))
        assert not np.array_equal(counts(one, band), counts(other, band))
    assert open_truth(one).equals(open_truth(same))


def test_both_levels_show_the_same_country(tmp_path):
    top, ground = (simulate_scene(tmp_path, size=60, level=v) for v in ("L1C", "L2A"))
    assert set(top.assets) - set(ground.assets) == {"B10"}
    assert ground.properties["s2:product_type"] == "S2MSI2A"
    one, two = open_truth(top), open_truth(ground)
    assert np.corrcoef(one.B08.values.ravel(), two.B08.values.ravel())[0, 1] > 0.999
    # Haze is bluest: it adds to dark pixels what the ground does not have.
    added = [float(one[b].min() - two[b].min()) for b in ("B02", "B04", "B8A")]
    assert added[0] > added[1] > added[2]


@pytest.mark.parametrize("band", [*BANDS, "truth"])
def test_files_are_cloud_optimised(item, band):
    with rasterio.open(item.assets[band].get_absolute_href()) as source:
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert source.dtypes[0] == "uint16"
        assert source.compression.value == "DEFLATE"
        assert source.block_shapes[0] == (512, 512)
        assert source.nodata == (None if band == "truth" else 0)


def test_large_files_have_overviews(tmp_path):
    image = np.ones((1100, 1100), np.uint16)
    made = write(tmp_path, {"B02": image})
    with rasterio.open(made.assets["B02"].get_absolute_href()) as source:
        assert source.overviews(1) == [2, 4]


def test_grids_nest_in_cells_that_count_from_the_origin(item):
    corners = set()
    for band, facts in BANDS.items():
        fields = item.assets[band].extra_fields
        with rasterio.open(item.assets[band].get_absolute_href()) as source:
            assert list(source.transform)[:6] == fields["proj:transform"]
            assert list(source.shape) == fields["proj:shape"]
            assert source.shape == (SIZE * 10 // facts.native,) * 2
            assert source.res == (facts.native,) * 2 == (fields["gsd"],) * 2
            assert f"EPSG:{source.crs.to_epsg()}" == item.properties["proj:code"]
            corners.add((source.bounds.left, source.bounds.top))
    ((x, y),) = corners
    assert x % 60 == 0
    assert y % 60 == 40
    assert (10_000_000 - y) % 60 == 0


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("pixel", ["10 m", "native"])
def test_a_band_transfers_its_mtf_at_nyquist(band, pixel):
    metres = 10 if pixel == "10 m" else BANDS[band].native
    samples, margin = 48, MARGIN
    at = (np.arange(samples + 2 * margin) - margin + 0.5) * PITCH / metres
    wave = np.cos(np.pi * (at - 0.5)).astype(np.float32)
    seen = observe(
        np.broadcast_to(wave, (at.size, at.size)), BANDS[band].mtf, pixel=metres
    )
    expected = BANDS[band].mtf * (-1.0) ** np.arange(seen.shape[1])
    # The optics of B09 at 10 m are 0.7 samples wide: 2 % of them are lost.
    np.testing.assert_allclose(seen, np.broadcast_to(expected, seen.shape), atol=0.012)


@pytest.mark.parametrize("band", BANDS)
def test_light_is_kept(band):
    flat = np.full((88, 88), 0.3, np.float32)
    seen = observe(flat, BANDS[band].mtf, pixel=BANDS[band].native)
    np.testing.assert_allclose(seen, 0.3, rtol=1e-5)


@pytest.mark.parametrize("band", ["B02", "B03", "B04", "B08"])
def test_ten_metre_counts_are_truth_and_noise(item, truth, band):
    error = reflectance(item, band) - truth[band].values
    at_sea, sea = NOISE[band]
    signal = np.maximum(truth[band].values, 0) + READ_NOISE
    sigma = 1e-4 * at_sea * np.sqrt(signal / (sea + READ_NOISE))
    scaled = (error / sigma)[np.isfinite(error)]
    assert abs(scaled.mean()) < 5 / np.sqrt(scaled.size) + 0.01
    assert scaled.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("band", [b for b in BANDS if BANDS[b].native > 10])
def test_coarse_counts_are_the_truth_seen_through_wider_optics(item, truth, band):
    factor = BANDS[band].native // 10
    sharp, seen = truth[band].values.astype(np.float64), reflectance(item, band)
    assert np.nanmean(seen) == pytest.approx(sharp.mean(), rel=0.05)
    # What the optics of the coarse pixel blur beyond those of the fine one.
    log_m = np.log(BANDS[band].mtf)
    apertures = [np.log(w * np.sin(np.pi / 2 / w)) for w in (2, 2 * factor)]
    fine, coarse = (-2 * (log_m + a) / np.pi**2 for a in apertures)
    variance = factor**2 * coarse - fine
    f2 = np.fft.fftfreq(SIZE)[:, None] ** 2 + np.fft.rfftfreq(SIZE) ** 2
    transfer = np.exp(-2 * np.pi**2 * variance * f2)
    blurred = np.fft.irfft2(np.fft.rfft2(sharp) * transfer, sharp.shape)
    inside = slice(4, -4)  # the transform wraps around
    error = (seen - means(blurred, factor))[inside, inside]
    at_sea, sea = NOISE[band]
    bright = np.sqrt((sharp.mean() + 0.01) / (sea + 0.01))
    # Half of the noise again for what aliased in the truth at 10 m.
    assert np.nanstd(error) < max(1.5 * 1e-4 * at_sea * bright, 2e-4)


@pytest.mark.parametrize("band", BANDS)
def test_no_data_is_what_lies_outside_the_footprint(item, band):
    to_metres = Transformer.from_crs(4326, item.properties["proj:code"], always_xy=True)
    ring = item.geometry["coordinates"][0]
    x, y = np.array([to_metres.transform(*p) for p in ring]).T
    codes, pixel = counts(item, band), BANDS[band].native
    columns = CORNER[0] + pixel * (np.arange(len(codes)) + 0.5)
    rows = CORNER[1] - pixel * (np.arange(len(codes)) + 0.5)
    # The ring runs against the clock: inside is to the left of every side.
    across = [
        (x[k + 1] - x[k]) * (rows[:, None] - y[k])
        - (y[k + 1] - y[k]) * (columns - x[k])
        for k in range(len(x) - 1)
    ]
    assert np.array_equal(codes > 0, np.min(across, axis=0) >= 0)
    assert codes[-1, -1] == 0
    assert 0.95 < (codes > 0).mean() < 1


def test_truth_is_complete_and_on_the_pixel_centres(truth):
    assert list(truth.data_vars) == list(BANDS)
    assert {v.dtype for v in truth.values()} == {np.dtype("f4")}
    assert {v.dims for v in truth.values()} == {("y", "x")}
    assert truth.rio.crs.to_epsg() == 32722
    assert all(bool(np.isfinite(v).all()) for v in truth.values())
    west, north = CORNER
    assert truth.x.dtype == truth.y.dtype == np.float64
    np.testing.assert_array_equal(truth.x, west + 10 * (np.arange(SIZE) + 0.5))
    np.testing.assert_array_equal(truth.y, north - 10 * (np.arange(SIZE) + 0.5))


def slope(image):
    """Return the exponent of the power spectrum, 0.02 to 0.3 cycles a pixel."""
    side = len(image)
    hann = np.hanning(side)
    power = np.abs(np.fft.fft2((image - image.mean()) * hann * hann[:, None])) ** 2
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    edges = np.geomspace(0.02, 0.3, 11)
    rings = [(f >= a) & (f < b) for a, b in itertools.pairwise(edges)]
    middle = np.sqrt(edges[1:] * edges[:-1])
    return np.polyfit(np.log(middle), [np.log(power[r].mean()) for r in rings], 1)[0]


def test_statistics_are_those_of_real_scenes(item, truth):
    # Ranges over ten real Level-1C scenes of land (benchmarks/realism.py).
    ranges = {
        "B02": (0.089, 0.206),
        "B04": (0.046, 0.182),
        "B08": (0.128, 0.377),
        "B8A": (0.147, 0.431),
        "B11": (0.073, 0.252),
        "B12": (0.032, 0.151),
    }
    for band, (low, high) in ranges.items():
        assert low < np.nanmean(reflectance(item, band)) < high
    for band, low, high in (("B02", -3.43, -1.67), ("B08", -3.39, -2.22)):
        assert low < slope(truth[band].values) < high
    pairs = {"B08 B8A": 0.98, "B02 B03": 0.82, "B04 B05": 0.74, "B11 B12": 0.88}
    for pair, least in pairs.items():
        one, two = (truth[b].values.ravel() for b in pair.split())
        assert np.corrcoef(one, two)[0, 1] > least


def test_covers_have_their_spectra(truth):
    t = {b: v.values for b, v in truth.items()}
    water = t["B03"] - t["B08"] > 0.3 * (t["B03"] + t["B08"])
    water &= t["B03"] < 0.2
    leaves = t["B08"] - t["B04"] > 0.6 * (t["B08"] + t["B04"])
    snow = (t["B03"] - t["B11"] > 0.6 * (t["B03"] + t["B11"])) & (t["B04"] > 0.4)
    cloud = (t["B02"] > 0.35) & (t["B11"] > 0.25)
    shares = {"water": water, "leaves": leaves, "snow": snow, "cloud": cloud}
    assert {
        k: bool(0.002 < v.mean() < 0.5) for k, v in shares.items()
    } == dict.fromkeys(shares, True)
    assert np.median(t["B08"][water]) < 0.05
    assert np.median(t["B05"][leaves] / t["B07"][leaves]) < 0.5
    assert float(truth.B10.max()) < 0.02


def test_the_item_reopens_from_its_file(item, truth):
    file = Path(item.self_href)
    assert file.name == f"{item.id}.json"
    assert item.id.startswith("S2B_MSIL1C_")
    again = pystac.Item.from_file(file)
    assert again.to_dict() == item.to_dict()
    assert set(again.assets) == {*BANDS, "truth"}
    assert open_truth(again).equals(truth)
    stored = json.loads(file.read_text())
    assert all(a["href"].startswith("./") for a in stored["assets"].values())
    assert stored["properties"].items() >= {
        ("platform", "sentinel-2b"),
        ("constellation", "sentinel-2"),
        ("s2:processing_baseline", "05.11"),
        ("s2:mgrs_tile", "22KFG"),
        ("grid:code", "MGRS-22KFG"),
        ("s2:product_type", "S2MSI1C"),
        ("proj:code", "EPSG:32722"),
    }
    for band in BANDS:
        asset = stored["assets"][band]
        assert asset["roles"] == ["data", "reflectance"]
        (packing,) = asset["raster:bands"]
        assert (packing["nodata"], packing["scale"]) == (0, 1e-4)
        assert packing["offset"] == -0.1
    west, south, east, north = stored["bbox"]
    assert -51 < west < east < -50
    assert -17 < south < north < -16


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (100, r"size=100.*multiple of 6.*96 or 102"),
        (61, r"size=61.*60 or 66"),
        (54, r"size=54.*nearest is 60"),
        (-6, r"size=-6.*nearest is 60"),
    ],
)
def test_a_size_that_is_no_whole_cell_is_refused(tmp_path, size, message):
    with pytest.raises(GridError, match=message):
        simulate_scene(tmp_path, size=size)


def test_a_seed_below_0_is_refused(tmp_path):
    with pytest.raises(GridError, match="seed=-1: the seed of a scene is 0 or more"):
        simulate_scene(tmp_path, size=60, seed=-1)


def test_a_level_that_is_none_is_refused(tmp_path):
    with pytest.raises(RadiometryError, match=r"level='L1B'.*L1C.*L2A"):
        simulate_scene(tmp_path, size=60, level="L1B")


def write(path, images, **facts):
    defaults = {
        "corner": (300_000.0, 6_000_000.0),
        "epsg": 32633,
        "datetime": dt.datetime(2017, 5, 27, tzinfo=dt.UTC),
        "level": "L1C",
    }
    return write_item(path, "S2A_MSIL1C_20170527_T33UUB", images, **defaults | facts)


@pytest.mark.parametrize(("offset", "packed"), [(-1000, -0.1), (0, 0), (None, None)])
def test_counts_come_back_as_they_were_written(tmp_path, offset, packed):
    rng = np.random.default_rng(0)
    images = {
        b: rng.integers(0, 65536, (240 // r, 120 // r), np.uint16)
        for b, r in (("B02", 10), ("B8A", 20), ("B01", 60))
    }
    made = write(tmp_path, images, offset=offset, baseline="02.05")
    assert made.properties["platform"] == "sentinel-2a"
    assert made.properties["s2:processing_baseline"] == "02.05"
    for band, image in images.items():
        assert np.array_equal(counts(made, band), image)
        packing = made.assets[band].extra_fields.get("raster:bands")
        assert (packing[0]["offset"] if packing else None) == packed
    with pytest.raises(MissingBandError, match=r"S2A_MSIL1C_20170527.*no truth"):
        open_truth(made)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ({}, MissingBandError, "use B01, B02"),
        ({"red": (6, 6, "u2")}, MissingBandError, r"\['red'\].*use B01"),
        ({"B02": (6, 6, "f4")}, GridError, "B02 is float32 of shape"),
        ({"B02": (6, 6, "u2"), "B05": (6, 6, "u2")}, GridError, "B05.*120, 120"),
    ],
)
def test_counts_that_are_no_scene_are_refused(tmp_path, images, error, message):
    arrays = {b: np.ones(s[:2], s[2]) for b, s in images.items()}
    with pytest.raises(error, match=message):
        write(tmp_path, arrays)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real scenes in {REAL}")
def test_the_slopes_are_those_of_the_real_scenes():
    realism = runpy.run_path(str(REPO / "benchmarks" / "realism.py"))
    scenes = realism["real_scenes"](REAL, "L1C")
    slopes = [realism["slope"](scene["B02"]) for scene in scenes.values()]
    assert min(slopes) == pytest.approx(-3.42, abs=0.01)
    assert max(slopes) == pytest.approx(-1.67, abs=0.01)


def test_the_realism_benchmark_runs(tmp_path):
    program = REPO / "benchmarks" / "realism.py"
    figure = tmp_path / "realism.png"
    asked = ["--size", "120", "--seeds", "0", "--out", str(figure)]
    done = subprocess.run(
        [sys.executable, str(program), *asked],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPO,
    )
    assert "corr B08/B8A" in done.stdout
    assert figure.stat().st_size > 10_000


def test_import_is_light():
    heavy = "{'torch', 'rasterio', 'dask', 'distributed'} & set(sys.modules)"
    code = f"import sys, s2sr_xr.simulate; print({heavy} or 'light')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "light"
