"""Images without a catalogue: their place from headers, their meaning from the user."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers .rio
from httpserver import Fault, Place

import s2sr_xr
from s2sr_xr.core.bands import BANDS
from s2sr_xr.errors import (
    ChunkError,
    GridError,
    MissingBandError,
    RadiometryError,
    ReadError,
)
from s2sr_xr.readers.fetch.source import source_of
from s2sr_xr.readers.files import open_files

CORNER = (600_000.0, 8_200_000.0)  # y % 60 == 40, as half of all tiles
EPSG = 32722
SIZE = 72  # ten-metre pixels
NEW, OLD = {"offset": -1000}, {"offset": 0}


def counts_of(band, *, dtype="uint16", metres=None):
    """Return counts; the first row has no data."""
    n = SIZE * 10 // (metres or BANDS[band].native)
    rng = np.random.default_rng([*band.encode()])
    counts = rng.integers(1, 9000, (n, n)).astype(dtype)
    counts[0] = 0
    return counts


def write(path, images, metres, *, corner=CORNER, epsg=EPSG, **profile):
    images = np.atleast_3d(images) if np.ndim(images) == 3 else np.array(images)[None]
    kind = {".tif": "GTiff", ".jp2": "JP2OpenJPEG"}[path.suffix]
    lossless = {"REVERSIBLE": "YES", "QUALITY": "100"} if kind != "GTiff" else {}
    facts = {
        "height": images.shape[1],
        "width": images.shape[2],
        "count": images.shape[0],
        "dtype": images.dtype,
        "crs": epsg and f"EPSG:{epsg}",
        "transform": rasterio.transform.from_origin(*corner, metres, metres),
    }
    with rasterio.open(path, "w", driver=kind, **{**facts, **lossless, **profile}) as d:
        d.write(images)
    return path


def reflectance(band, offset=-1000, nodata=0, **of):
    counts = counts_of(band, **of)
    decoded = (counts.astype(np.float32) + np.float32(offset)) / np.float32(10_000)
    return np.where(counts == nodata, np.float32("nan"), decoded)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for band in BANDS:
        for suffix in ("tif", "jp2"):
            path = folder / f"T22KGV_20240501_{band}.{suffix}"
            write(path, counts_of(band), BANDS[band].native)
    return folder


def paths(folder, *bands, suffix="tif"):
    return {b: folder / f"T22KGV_20240501_{b}.{suffix}" for b in bands}


# --- the tree -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["tif", "jp2"])
@pytest.mark.parametrize("chunks", [None, 12, 2196])
def test_every_band_is_decoded_on_its_own_pixels(folder, chunks, suffix):
    files = paths(folder, *BANDS, suffix=suffix)
    tree = open_files(files, radiometry=NEW, chunks=chunks, time="2024-05-01T10:15:59Z")
    for band, facts in BANDS.items():
        array = tree[f"r{facts.native}m"][band]
        assert array.dims == ("time", "y", "x")
        assert array.dtype == np.float32
        assert (array.chunks is None) == (chunks is None)
        np.testing.assert_array_equal(array[0].values, reflectance(band))
        assert array.attrs["radiometry"] == "-1000, from user"
        with rasterio.open(files[band]) as dataset:
            assert array.rio.crs == dataset.crs
            assert array.rio.transform() == dataset.transform
    r10m = tree["r10m"]
    assert r10m.item_id.values == ["T22KGV_20240501_B01"]
    assert r10m.baseline.values == [""]
    assert r10m.time.values == np.array(["2024-05-01T10:15:59"], "datetime64[ns]")
    assert tree.attrs == {"source": "files"}


def test_only_groups_with_bands_are_there(folder):
    tree = open_files(paths(folder, "B05", "B8A"), radiometry=OLD)
    assert list(tree.children) == ["r20m"]
    np.testing.assert_array_equal(tree["r20m"].B05[0], reflectance("B05", offset=0))


def test_bands_of_a_stack_are_read_by_their_place(tmp_path):
    names = ["B04", "B02", "B08", "B03"]
    images = np.stack([counts_of(b) for b in names])
    path = str(write(tmp_path / "stack.tif", images, 10))
    files = {b: (path, n) for n, b in enumerate(names, 1)}
    tree = open_files(files, radiometry=NEW)
    assert list(tree["r10m"].data_vars) == ["B02", "B03", "B04", "B08"]
    for band in names:
        np.testing.assert_array_equal(tree["r10m"][band][0], reflectance(band))


def test_common_names_and_text_are_taken(folder):
    path = str(paths(folder, "B04")["B04"])
    tree = open_files({"red": path}, radiometry={"offset": -1000, "scale": 1e-4})
    np.testing.assert_array_equal(tree["r10m"].B04[0], reflectance("B04"))


@pytest.mark.parametrize("said", ["file", "user"])
def test_signed_counts_have_their_own_no_data(tmp_path, said):
    counts = counts_of("B02", dtype="int16")
    counts[0], counts[1, 0], counts[2, 0] = -10_000, -57, 0
    declared = {"nodata": -10_000} if said == "file" else {}
    path = write(tmp_path / "b.tif", counts, 10, **declared)
    given = {"offset": 0} if said == "file" else {"offset": 0, "nodata": -10_000}
    found = open_files({"B02": path}, radiometry=given)["r10m"].B02[0].values
    assert np.isnan(found[0]).all()
    assert not np.isnan(found[1:]).any()
    assert (found[1, 0], found[2, 0]) == (np.float32(-0.0057), 0)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (None, "NaT"),
        (dt.date(2024, 5, 1), "2024-05-01"),
        (dt.datetime(2024, 5, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2))), None),
        (np.datetime64("2024-05-01T10:00", "ns"), None),
    ],
)
def test_time_is_what_the_user_says(folder, time, expected):
    tree = open_files(paths(folder, "B02"), radiometry=NEW, time=time)
    moment = np.datetime64(expected or "2024-05-01T10:00", "ns")
    np.testing.assert_array_equal(tree["r10m"].time.values, [moment])


def test_arrays_know_their_source_and_read_windows(folder):
    tree = open_files(paths(folder, "B02"), radiometry=NEW, chunks=24)
    source = source_of(tree["r10m"].B02.data)
    window = source.read(0, slice(3, 9), slice(60, 72))
    np.testing.assert_array_equal(window, reflectance("B02")[3:9, 60:72])


def test_trees_of_files_are_made_finer(folder, tmp_path):
    tree = open_files(paths(folder, "B02", "B03", "B04", "B08", "B05"), radiometry=OLD)
    ten = tree.s2sr.upsample("bicubic", bands=["B05"])
    assert ten.B05.shape[-2:] == (SIZE, SIZE)
    with pytest.warns(s2sr_xr.S2SRWarning, match="were clipped"):
        ten.s2sr.to_zarr(tmp_path / "ten.zarr")
    again = s2sr_xr.open_result(tmp_path / "ten.zarr")
    stored = np.maximum(ten.B05, -0.0999)  # bicubic of noise reaches below all codes
    np.testing.assert_allclose(again.B05, stored, atol=6e-5)
    assert np.isnat(again.time.values).all()


def test_urls_are_read(folder):
    data = paths(folder, "B02")["B02"].read_bytes()
    with Place({"b02.tif": data}) as place:
        tree = open_files({"B02": place.url("b02.tif")}, radiometry=NEW)
        np.testing.assert_array_equal(tree["r10m"].B02[0], reflectance("B02"))
        place.break_with(Fault(kind="403"))
        with pytest.raises(ReadError, match="403 Forbidden") as caught:
            tree["r10m"].B02.compute()
    assert "SECRET" not in str(caught.value)


# --- what cannot be used --------------------------------------------------------------


@pytest.mark.parametrize(
    "radiometry",
    ["auto", None, {}, {"scale": 1e-4}, {"offset": "-1000"}, {"nodata": 0}],
)
def test_the_meaning_of_counts_is_never_guessed(folder, radiometry):
    with pytest.raises(RadiometryError, match=r"^radiometry="):
        open_files(paths(folder, "B02"), radiometry=radiometry)
    with pytest.raises(TypeError, match="radiometry"):
        open_files(paths(folder, "B02"))


@pytest.mark.parametrize("nodata", [0.5, "0", True])
def test_no_data_is_a_count(folder, nodata):
    with pytest.raises(RadiometryError, match="nodata is a count"):
        open_files(paths(folder, "B02"), radiometry={"offset": 0, "nodata": nodata})


@pytest.mark.parametrize(
    ("files", "error", "match"),
    [
        ({}, MissingBandError, "There are no files"),
        ({"B99": "a.tif"}, MissingBandError, "B99: no such band. Sentinel-2 has B01"),
        ({"B02": "gone.tif"}, ReadError, r"file not found. Check the path.*gone\.tif"),
        ({"B02": "a.nc"}, ReadError, r"a\.nc is neither \.tif nor \.jp2.*rioxarray"),
        ({"B02": ("a.tif", 0)}, ReadError, "count from 1"),
        ({"B02": ["a.tif"]}, ReadError, r"is not a file: give a path, or \(path, band"),
        ({"B02": "s3://b/a.tif"}, ReadError, "begins with s3:; only local"),
        ({"B02": "/vsizip/a.zip/a.tif"}, ReadError, "virtual file systems"),
        ({"B02": "a.tif", "blue": "b.tif"}, GridError, "B02 and blue both are B02"),
    ],
)
def test_what_is_not_an_image_is_refused(tmp_path, monkeypatch, files, error, match):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=match):
        open_files(files, radiometry=NEW)


def test_a_missing_place_in_a_stack_is_an_error(tmp_path):
    path = write(tmp_path / "stack.tif", np.stack([counts_of("B02")] * 2), 10)
    with pytest.raises(ReadError, match="has 2 bands, none with index 3"):
        open_files({"B02": (path, 3)}, radiometry=NEW)
    with pytest.raises(ReadError, match="holds 2 bands where one was expected"):
        open_files({"B02": path}, radiometry=NEW)


@pytest.mark.parametrize(
    ("metres", "facts", "match"),
    [
        (10, {}, r"B05 in .*b\.tif has pixels of 10 x 10, not 20 m.*resampled to 10 m"),
        (20, {"epsg": None}, r"b\.tif has no CRS\. Write the CRS"),
        (
            20,
            {"transform": rasterio.Affine(20, 0, 600000, 0, 20, 8.2e6)},
            "turned or mirrored, not 20 m north up",
        ),
        (
            20,
            {"transform": rasterio.Affine(20, 1, 600000, 1, -20, 8.2e6)},
            "turned or mirrored",
        ),
        (
            0.0002,
            {"epsg": 4326, "corner": (10.0, 50.0)},
            "has pixels of 0.0002 x 0.0002, not 20 m",
        ),
    ],
)
def test_pixels_that_are_not_the_bands_are_refused(tmp_path, metres, facts, match):
    path = write(tmp_path / "b.tif", counts_of("B05"), metres, **facts)
    with pytest.raises(GridError, match=match):
        open_files({"B05": path}, radiometry=NEW)


@pytest.mark.parametrize(
    ("corner", "epsg", "match"),
    [
        ((600_010.0, CORNER[1]), EPSG, r"b05\.tif covers EPSG:32722 x 600010\.\."),
        (CORNER, 32723, r"b05\.tif covers EPSG:32723 .* covers EPSG:32722"),
    ],
)
def test_images_of_several_places_are_refused(tmp_path, corner, epsg, match):
    blue = write(tmp_path / "b02.tif", counts_of("B02"), 10)
    edge = write(tmp_path / "b05.tif", counts_of("B05"), 20, corner=corner, epsg=epsg)
    with pytest.raises(GridError, match=match):
        open_files({"B02": blue, "B05": edge}, radiometry=NEW)


def test_floats_are_refused(tmp_path):
    path = write(tmp_path / "b.tif", counts_of("B02").astype("float32"), 10)
    with pytest.raises(ReadError, match="holds float32 where integer counts"):
        open_files({"B02": path}, radiometry=NEW)


def test_damage_is_an_error(folder, tmp_path):
    whole = paths(folder, "B02")["B02"].read_bytes()
    path = tmp_path / "b.tif"
    path.write_bytes(whole[:50])
    with pytest.raises(ReadError, match="is cut, damaged, or not a GTiff"):
        open_files({"B02": path}, radiometry=NEW)
    path.write_bytes(whole)
    tree = open_files({"B02": path}, radiometry=NEW)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReadError, match="B02 of b could not be read, rows 0:72"):
        tree.compute()


def test_chunks_hold_whole_cells(folder):
    with pytest.raises(ChunkError, match="chunks=1000"):
        open_files(paths(folder, "B02"), radiometry=NEW, chunks=1000)


def test_importing_the_readers_is_light():
    heavy = ("rasterio", "torch", "dask", "zarr", "pyproj", "fsspec")
    code = (
        "import sys; import s2sr_xr.readers.files, s2sr_xr.readers.theia,"
        f"s2sr_xr.readers.eopf.open; found = [m for m in {heavy} if m in sys.modules];"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
