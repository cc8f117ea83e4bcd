"""Law 11: no read fails silently; and what is read is what rasterio reads."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from httpserver import Fault, Place
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

from s2sr_xr.errors import GridError, ReadError
from s2sr_xr.readers.fetch.asset import Asset, driver_of
from s2sr_xr.readers.fetch.retry import Retry
from s2sr_xr.readers.fetch.window import read_header, read_window

SIZE = 768
ORIGIN = (600_000.0, 5_000_040.0)
TRANSFORM = (10.0, 0.0, ORIGIN[0], 0.0, -10.0, ORIGIN[1])
DRIVERS = {"tif": "GTiff", "jp2": "JP2OpenJPEG"}
FAST = Retry(wait=0.01, connect=2, stall=1)
ONCE = Retry(tries=1, connect=2, stall=1)

# One block, one block and its halo (four or nine blocks), everything.
WINDOWS = {
    "block": (slice(512, 768), slice(256, 512)),
    "halo": (slice(220, 560), slice(220, 560)),
    "whole": (slice(0, SIZE), slice(0, SIZE)),
}


def write(path, counts, driver, **changes):
    options = {
        "GTiff": {"driver": "COG", "compress": "deflate", "blocksize": 256},
        "JP2OpenJPEG": {
            "driver": driver,
            "REVERSIBLE": "YES",
            "QUALITY": "100",
            "BLOCKXSIZE": 256,
            "BLOCKYSIZE": 256,
        },
    }[driver]
    bands = counts.reshape(-1, *counts.shape[-2:])
    profile = {
        "height": bands.shape[1],
        "width": bands.shape[2],
        "count": bands.shape[0],
        "dtype": counts.dtype,
        "crs": "EPSG:32633",
        "transform": rasterio.Affine(*TRANSFORM),
    }
    with rasterio.open(path, "w", **{**profile, **options, **changes}) as dataset:
        dataset.write(bands)
    return path


@pytest.fixture(scope="module")
def counts():
    # Noise, so that no block compresses to nothing; none is zero.
    rng = np.random.default_rng(7)
    return rng.integers(1, 10_000, (SIZE, SIZE)).astype(np.uint16)


@pytest.fixture(scope="module")
def files(tmp_path_factory, counts):
    folder = tmp_path_factory.mktemp("images")
    return {
        s: write(folder / f"B04.{s}", counts, driver) for s, driver in DRIVERS.items()
    }


@pytest.fixture(scope="module")
def place(files):
    with Place({path.name: path.read_bytes() for path in files.values()}) as place:
        yield place


def asset(href, suffix="tif", **facts):
    known = {"shape": (SIZE, SIZE), "transform": TRANSFORM, "crs": "EPSG:32633"}
    return Asset(
        item_id="S2A_TEST",
        band="B04",
        href=str(href),
        driver=DRIVERS[suffix],
        **(known | facts),
    )


def poison():
    """Free some memory that is full of 7777: it must not come back as pixels."""
    heaps = [np.full((SIZE, SIZE), 7777, np.uint16) for _ in range(4)]
    heaps += [np.full((340, 340), 7777, np.uint16) for _ in range(4)]
    del heaps


def spoken(error):
    """Return everything that people may see of an error."""
    return "\n".join(
        [
            str(error),
            repr(error),
            repr(error.where),
            repr(error.__cause__),
            repr(error.__context__),
            *traceback.format_exception(error),
        ]
    )


# --- what is read ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", DRIVERS)
@given(data=st.data())
@settings(max_examples=25)
def test_a_window_is_what_rasterio_reads(files, suffix, data):
    edges = st.lists(st.integers(0, SIZE), min_size=2, max_size=2, unique=True)
    (top, bottom), (left, right) = (sorted(data.draw(edges)) for _ in "yx")
    with rasterio.open(files[suffix]) as dataset:
        window = Window(left, top, right - left, bottom - top)
        expected = dataset.read(1, window=window)
    read = read_window(
        asset(files[suffix], suffix), slice(top, bottom), slice(left, right)
    )
    assert read.dtype == np.uint16
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("suffix", DRIVERS)
def test_a_remote_window_is_the_local_one(place, counts, suffix):
    place.break_with(None)
    remote = asset(place.url(f"B04.{suffix}"), suffix)
    read = read_window(remote, *WINDOWS["halo"], retry=FAST)
    np.testing.assert_array_equal(read, counts[WINDOWS["halo"]])


def test_threads_read_the_same_as_one(files, counts):
    rng = np.random.default_rng(0)
    corners = rng.integers(0, SIZE - 300, (40, 2))

    def check(numbered):
        n, (y, x) = numbered
        suffix = ("tif", "jp2")[n % 2]
        rows, cols = slice(y, y + 300), slice(x, x + 300)
        read = read_window(asset(files[suffix], suffix), rows, cols)
        return np.array_equal(read, counts[rows, cols])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, enumerate(corners)))


def test_names_with_odd_characters_are_read(tmp_path, files, counts):
    for name in ("a b.tif", "a?sig=b.tif", "ä%20.tif", "GTIFF_DIR:1:x.tif", "a!b.tif"):
        path = tmp_path / name
        path.write_bytes(files["tif"].read_bytes())
        read = read_window(asset(path), slice(0, 9), slice(0, 9))
        np.testing.assert_array_equal(read, counts[:9, :9])
    url = asset((tmp_path / "a b.tif").as_uri())
    np.testing.assert_array_equal(
        read_window(url, slice(0, 9), slice(0, 9)), counts[:9, :9]
    )


def test_one_band_of_several_is_read_by_its_index(tmp_path):
    counts = np.stack([np.full((64, 64), v, np.int16) for v in (-5, 7)])
    path = write(tmp_path / "two.tif", counts, "GTiff")
    two = asset(path, shape=(64, 64), index=2)
    assert (read_window(two, slice(0, 64), slice(0, 64)) == 7).all()
    with pytest.raises(ReadError, match="holds 2 bands where one was expected"):
        read_window(asset(path, shape=None), slice(0, 9), slice(0, 9))
    with pytest.raises(ReadError, match="has 2 bands, none with index 3"):
        read_window(dataclasses.replace(two, index=3), slice(0, 9), slice(0, 9))


def test_only_counts_are_read(tmp_path):
    path = write(tmp_path / "f.tif", np.ones((64, 64), np.float32), "GTiff")
    with pytest.raises(ReadError, match="holds float32 where integer counts"):
        read_window(asset(path, shape=(64, 64)), slice(0, 9), slice(0, 9))


@pytest.mark.parametrize(
    ("rows", "cols"),
    [
        (slice(-1, 5), slice(0, 5)),
        (slice(0, SIZE + 1), slice(0, 5)),
        (slice(5, 5), slice(0, 5)),
        (slice(0, 5), slice(0, 5, 2)),
    ],
)
def test_a_window_lies_inside(files, rows, cols):
    with pytest.raises(IndexError, match="are not a window of 768 pixels"):
        read_window(asset(files["tif"]), rows, cols)
    with pytest.raises(IndexError, match="are not a window of 768 pixels"):
        read_window(asset(files["tif"], shape=None), rows, cols)


# --- the header -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", DRIVERS)
def test_the_header_completes_an_asset(files, suffix):
    bare = asset(files[suffix], suffix, shape=None, transform=None, crs=None)
    assert read_header(bare) == asset(files[suffix], suffix)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"shape": (SIZE, SIZE + 1)}, r"shape \(768, 768\) .* \(768, 769\)"),
        (
            {"transform": (*TRANSFORM[:2], ORIGIN[0] + 5, *TRANSFORM[3:])},
            r"transform .*600000\.0.* but .*600005\.0",
        ),
        ({"crs": "EPSG:32634"}, "CRS EPSG:32633 in its file, but EPSG:32634"),
    ],
)
def test_a_header_that_contradicts_the_catalogue_raises(files, facts, said):
    with pytest.raises(GridError, match=said):
        read_window(asset(files["tif"], **facts), slice(0, 9), slice(0, 9))


# --- what is not opened ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("href", "said"),
    [
        ("/vsizip/a.zip/b.tif", "virtual file systems"),
        ("/./vsicurl/http://host/b.tif", "virtual file systems"),
        ("file:///vsimem/b.tif", "virtual file systems"),
        ("WMS:http://host", "begins with WMS:"),
        ("vrt:///data/b.tif?bands=1", "begins with vrt:"),
        ("GTIFF_DIR:1:/data/b.tif", "could not be read"),
        ("s3://bucket/b.tif", "begins with s3:.*https alternative"),
        ("zip+https://host/b.zip!b.tif", "begins with zip"),
        ("<VRTDataset></VRTDataset>", "no address but text"),
        ("  <VRTDataset/>", "no address but text"),
        ("", "no address"),
    ],
)
def test_only_files_and_http_are_opened(href, said):
    with pytest.raises(ReadError, match=f"(?s)B04 of S2A_TEST .*{said}"):
        read_window(asset(href, shape=None), slice(0, 9), slice(0, 9))


def test_other_drivers_are_refused():
    with pytest.raises(ReadError, match="of the kind 'VRT'"):
        Asset(item_id="a", band="B04", href="/data/a.vrt", driver="VRT")


def test_a_vrt_in_disguise_is_not_opened(tmp_path, files):
    disguised = tmp_path / "b.tif"
    with rasterio.open(files["tif"]) as dataset:
        disguised.write_text(
            '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand '
            'dataType="UInt16" band="1"><SimpleSource><SourceFilename>'
            f"{dataset.name}</SourceFilename><SourceBand>1</SourceBand>"
            "</SimpleSource></VRTRasterBand></VRTDataset>"
        )
    with pytest.raises(ReadError, match="cut, damaged, or not a GTiff image"):
        read_window(asset(disguised, shape=None), slice(0, 9), slice(0, 9))


@pytest.mark.parametrize(
    ("media", "href", "driver"),
    [
        ("image/tiff; application=geotiff; profile=cloud-optimized", "x", "GTiff"),
        ("image/vnd.stac.geotiff", "x", "GTiff"),
        ("image/jp2", "B02.tif", "JP2OpenJPEG"),
        (None, "https://h/B02.TIF?sig=a.jp2", "GTiff"),
        (None, "/data/B02.jp2", "JP2OpenJPEG"),
        ("application/x-hdf5", "B02.tif", None),
        (None, "/data/B02", None),
    ],
)
def test_the_media_type_fixes_the_driver(media, href, driver):
    assert driver_of(media, href) == driver


# --- local faults ---------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("percent", [10, 30, 60, 90])
@pytest.mark.parametrize("suffix", DRIVERS)
def test_a_cut_file_raises_or_gives_the_right_pixels(
    tmp_path, files, counts, suffix, percent, window
):
    whole = files[suffix].read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole[: len(whole) * percent // 100])
    rows, cols = WINDOWS[window]
    poison()
    try:
        read = read_window(asset(cut, suffix), rows, cols)
    except ReadError as error:
        assert f"{cut.stat().st_size} bytes) is cut" in str(error)  # noqa: PT017
        assert error.where["tries"] == 1  # noqa: PT017 - waiting does not mend a file
        assert error.__cause__ is not None  # noqa: PT017
    else:
        np.testing.assert_array_equal(read, counts[rows, cols])
        assert window != "whole"  # something of the whole is always missing


def test_a_cut_jp2_raises_in_every_thread(tmp_path, files, monkeypatch):
    whole = files["jp2"].read_bytes()
    cut = tmp_path / "cut.jp2"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    # What a cluster's environment may say, and what a user may say around a read.
    monkeypatch.setenv("GDAL_NUM_THREADS", "ALL_CPUS")

    def attempt(_):
        poison()
        with pytest.raises(ReadError, match="is cut"):
            read_window(asset(cut, "jp2"), *WINDOWS["whole"])

    with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"), ThreadPoolExecutor(4) as pool:
        list(pool.map(attempt, range(8)))
        attempt(0)


def test_an_environment_that_ignores_read_errors_is_overruled(tmp_path, files):
    whole = files["tif"].read_bytes()
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole[: len(whole) // 2])
    with (
        rasterio.Env(GTIFF_IGNORE_READ_ERRORS="YES"),
        pytest.raises(ReadError, match="is cut"),
    ):
        read_window(asset(cut), *WINDOWS["whole"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ReadError, match=r"B04 of S2A_TEST .* not found.*none\.tif"):
        read_window(asset(tmp_path / "none.tif"), slice(0, 9), slice(0, 9))
    with pytest.raises(ReadError, match="not a file"):
        read_window(asset(tmp_path), slice(0, 9), slice(0, 9))


# --- remote faults --------------------------------------------------------------------

BEYOND = 40_000  # past the header: the open succeeds, the read does not
STATUSES = ("401", "403", "404", "408", "410", "429", "500", "502", "503")
FAULTS = [
    *((kind, beyond) for kind in STATUSES for beyond in (0, BEYOND)),
    *((kind, beyond) for kind in ("drop", "garble", "html") for beyond in (0, BEYOND)),
    ("cut", 0),
    ("norange", 0),
    ("stall", BEYOND),
]
FINAL = ("401", "403", "404", "410", "html")


@pytest.mark.parametrize(("kind", "beyond"), FAULTS)
@pytest.mark.parametrize("suffix", DRIVERS)
def test_a_lasting_fault_raises(place, suffix, kind, beyond):
    place.break_with(Fault(kind=kind, beyond=beyond))
    broken = asset(place.url(f"B04.{suffix}"), suffix)
    # Each request of a read stalls by itself: one block is enough.
    window, retry = ("block", ONCE) if kind == "stall" else ("whole", FAST)
    poison()
    begun = time.monotonic()
    with pytest.raises(ReadError, match="B04 of S2A_TEST could not be read") as caught:
        read_window(broken, *WINDOWS[window], retry=retry)
    assert time.monotonic() - begun < 15
    error = caught.value
    assert "SECRET" not in spoken(error)
    assert "?" not in str(error)
    assert error.where["window"].startswith("rows ")
    assert error.where["band"] == "B04"
    if beyond == 0 and kind in FINAL:
        assert error.where["tries"] == 1
    if beyond == 0 and kind in STATUSES:
        assert error.where["status"] == int(kind)
        assert kind in str(error)
        assert error.where["tries"] == (1 if kind in FINAL else FAST.tries)


@pytest.mark.parametrize(
    ("kind", "beyond"), [f for f in FAULTS if f[0] not in (*FINAL, "norange")]
)
@pytest.mark.parametrize("suffix", DRIVERS)
def test_a_fault_that_passes_heals(place, counts, suffix, kind, beyond):
    place.break_with(Fault(kind=kind, beyond=beyond, times=2, seconds=2))
    healing = asset(place.url(f"B04.{suffix}"), suffix)
    poison()
    read = read_window(healing, *WINDOWS["whole"], retry=FAST)
    np.testing.assert_array_equal(read, counts)
    assert place.struck == 2


def test_tries_are_counted(place):
    place.break_with(Fault(kind="503"))
    broken = asset(place.url("B04.tif"))
    with pytest.raises(
        ReadError, match=r"3 tries in .* last: 503 Service Unav"
    ) as info:
        read_window(
            broken, slice(0, 9), slice(0, 9), retry=dataclasses.replace(FAST, tries=3)
        )
    assert info.value.where["tries"] == 3
    probes = [entry for entry in place.log if entry[2] == "bytes=0-0"]
    assert len(probes) == 1 + 3  # first, which bytes these are; then a try each


def test_the_total_time_bounds_the_tries(place):
    place.break_with(Fault(kind="503"))
    hurried = Retry(tries=50, total=0.5, wait=0.2, connect=2, stall=1)
    begun = time.monotonic()
    with pytest.raises(ReadError, match="503"):
        read_window(
            asset(place.url("B04.tif")), slice(0, 9), slice(0, 9), retry=hurried
        )
    assert time.monotonic() - begun < 2


def test_the_server_says_how_long_to_wait(place, counts):
    place.break_with(Fault(kind="429", retry_after=1, times=3))
    begun = time.monotonic()
    read = read_window(
        asset(place.url("B04.tif")), slice(0, 9), slice(0, 9), retry=FAST
    )
    assert time.monotonic() - begun > 1
    np.testing.assert_array_equal(read, counts[:9, :9])
    place.break_with(Fault(kind="429", retry_after=3600))
    with pytest.raises(ReadError, match="429 Too Many Requests"):  # beyond the total
        read_window(asset(place.url("B04.tif")), slice(0, 9), slice(0, 9), retry=FAST)


def test_no_server_at_all_is_named():
    with Place({}) as place:
        href = place.url("B04.tif")
    with pytest.raises(
        ReadError, match=r"4 tries .* no answer from the server"
    ) as info:
        read_window(asset(href), slice(0, 9), slice(0, 9), retry=FAST)
    assert "SECRET" not in spoken(info.value)


def test_one_failed_read_leaves_nothing_for_the_next(place, counts):
    for kind in ("garble", "drop", "404"):
        place.break_with(Fault(kind=kind))
        for suffix in DRIVERS:
            with pytest.raises(ReadError, match="could not be read"):
                read_window(
                    asset(place.url(f"B04.{suffix}"), suffix),
                    *WINDOWS["whole"],
                    retry=ONCE,
                )
        place.break_with(None)
        for suffix in DRIVERS:
            healed = asset(place.url(f"B04.{suffix}"), suffix)
            read = read_window(healed, *WINDOWS["whole"], retry=ONCE)
            np.testing.assert_array_equal(read, counts)


def test_threads_that_read_one_object_do_not_disturb_each_other(place, counts):
    # A shared cache of headers, emptied by whoever closes first, cost 20 s here.
    place.break_with(None)
    remote = asset(place.url("B04.tif"))
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        reads = pool.map(
            lambda y: read_window(remote, slice(y, y + 9), slice(0, 9)), range(40)
        )
        for y, read in enumerate(reads):
            np.testing.assert_array_equal(read, counts[y : y + 9, :9])
    assert time.monotonic() - begun < 10
    # Which bytes these are, a HEAD, the header, and a block each.
    assert len(place.log) <= 4 * 40


def test_an_object_that_was_replaced_is_read_anew(files, counts, tmp_path):
    new = write(tmp_path / "new.tif", counts[::-1], "GTiff")
    with Place({"B04.tif": files["tif"].read_bytes()}) as place:
        remote = asset(place.url("B04.tif"))
        before = read_window(remote, *WINDOWS["halo"], retry=FAST)
        place.files["B04.tif"] = new.read_bytes()
        after = read_window(remote, *WINDOWS["halo"], retry=FAST)
    np.testing.assert_array_equal(before, counts[WINDOWS["halo"]])
    np.testing.assert_array_equal(after, counts[::-1][WINDOWS["halo"]])


@pytest.mark.parametrize("kind", ["403", "405"])
@pytest.mark.parametrize("suffix", DRIVERS)
def test_a_server_that_refuses_head_is_read(place, counts, suffix, kind):
    place.break_with(Fault(kind=kind, method="HEAD"))
    signed_for_get = asset(place.url(f"B04.{suffix}"), suffix)
    read = read_window(signed_for_get, *WINDOWS["halo"], retry=FAST)
    np.testing.assert_array_equal(read, counts[WINDOWS["halo"]])


# --- secrets --------------------------------------------------------------------------


def test_no_token_is_logged(place, caplog):
    caplog.set_level(logging.DEBUG)
    for kind in ("403", "500", "garble", "drop"):
        place.break_with(Fault(kind=kind, beyond=BEYOND if kind == "drop" else 0))
        with pytest.raises(ReadError, match="could not be read"):
            read_window(
                asset(place.url("B04.tif", query="SECRET")),
                *WINDOWS["whole"],
                retry=ONCE,
            )
        with pytest.raises(ReadError, match="could not be read") as info:
            read_window(asset(place.url("B04.tif")), *WINDOWS["whole"], retry=ONCE)
        assert "SECRET" not in spoken(info.value)
    signed = [r.getMessage() for r in caplog.records if "sig=SECRET" in r.getMessage()]
    assert not signed


def test_an_asset_shows_no_token():
    secret = asset("https://me:pw@host/a.tif?sig=SECRET#SECRET")
    for text in (repr(secret), str(secret), secret.shown, repr([secret])):
        assert "SECRET" not in text
        assert "pw" not in text
    assert secret.shown == "https://host/a.tif"


def test_an_asset_travels_and_keeps_its_name():
    from dask.base import tokenize

    first = asset("https://host/a.tif?sig=one")
    other = asset("https://host/a.tif?sig=two")
    assert pickle.loads(pickle.dumps(first)) == first  # noqa: S301 - our own
    assert tokenize(first) == tokenize(other)
    assert tokenize(first) == tokenize(pickle.loads(pickle.dumps(first)))  # noqa: S301
    assert tokenize(first) != tokenize(dataclasses.replace(first, shape=(9, 9)))


def test_a_password_reaches_the_probe_and_nothing_else(place):
    place.break_with(Fault(kind="403"))
    href = place.url("B04.tif").replace("http://", "http://me:SECRET@")
    with pytest.raises(ReadError, match=r"403 Forbidden.*fresh credentials") as info:
        read_window(asset(href), slice(0, 9), slice(0, 9), retry=FAST)
    assert "SECRET" not in spoken(info.value)


# --- the process ----------------------------------------------------------------------


def test_the_block_cache_is_bounded_and_settings_are_put_back(files):
    code = f"""
import rasterio
from rasterio.env import get_gdal_config, set_gdal_config
set_gdal_config("GDAL_CACHEMAX", 2**33)
from s2sr_xr.readers.fetch.asset import Asset
from s2sr_xr.readers.fetch.window import read_window
import sys
loaded = [m for m in ("torch", "dask") if m in sys.modules]
a = Asset(item_id="a", band="B04", href={str(files["tif"])!r}, driver="GTiff")
read_window(a, slice(0, 9), slice(0, 9))
print(get_gdal_config("GDAL_CACHEMAX"), get_gdal_config("GDAL_NUM_THREADS"), loaded)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=2) == ["134217728", "None", "[]\n"]
