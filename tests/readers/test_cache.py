"""Law 11 and law 4 with decoded blocks shared: the same pixels, decoded once."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import rasterio
from httpserver import Fault, Place
from hypothesis import given, settings
from hypothesis import strategies as st

import s2sr_xr
from s2sr_xr.errors import ReadError, S2SRError
from s2sr_xr.readers.fetch import blocks, diagnosis
from s2sr_xr.readers.fetch.asset import Asset
from s2sr_xr.readers.fetch.cache import BUDGET, DECODED, SWITCH, BlockCache, budget
from s2sr_xr.readers.fetch.retry import Retry
from s2sr_xr.readers.fetch.window import read_open, read_window

SIZE, SIDE = 300, 64
DRIVERS = {"tif": "GTiff", "jp2": "JP2OpenJPEG"}
ONCE = Retry(tries=1, connect=2, stall=1)
FAST = Retry(wait=0.01, connect=2, stall=1)
BLOCK = 2 * SIDE**2
"""Bytes of a decoded block."""


def write(path, counts, **options):
    """Write counts in blocks of 64 px, as a file that has not been touched for long."""
    if path.suffix == ".jp2":
        options = {"driver": "JP2OpenJPEG", "REVERSIBLE": "YES", "QUALITY": "100"}
    profile = {"driver": "GTiff", "tiled": True, "compress": "deflate", **options}
    with rasterio.open(
        path,
        "w",
        height=SIZE,
        width=SIZE,
        count=1,
        dtype="uint16",
        crs="EPSG:32633",
        transform=rasterio.Affine(10, 0, 600_000, 0, -10, 5_000_040),
        BLOCKXSIZE=SIDE,
        BLOCKYSIZE=SIDE,
        **profile,
    ) as dataset:
        dataset.write(counts, 1)
    os.utime(path, (10**9, 10**9))
    return path


def asset(href):
    driver = DRIVERS[str(href).partition("?")[0].rpartition(".")[2]]
    return Asset(item_id="a", band="B04", href=str(href), driver=driver)


def window(top, left, tall=100, wide=100):
    return slice(top, top + tall), slice(left, left + wide)


@pytest.fixture(scope="module")
def counts():
    return np.random.default_rng(3).integers(1, 9000, (SIZE, SIZE)).astype("u2")


@pytest.fixture(scope="module")
def files(tmp_path_factory, counts):
    folder = tmp_path_factory.mktemp("images")
    return {s: write(folder / f"B04.{s}", counts) for s in DRIVERS}


@pytest.fixture(autouse=True)
def empty():
    DECODED.clear()
    yield
    DECODED.clear()


class Watched:
    """An open image that records the shape of all that is decoded of it."""

    def __init__(self, dataset, decoded, then=lambda: None):
        self.dataset, self.decoded, self.then = dataset, decoded, then

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def read(self, index, *, window, out):
        self.dataset.read(index, window=window, out=out)
        self.decoded.append(out.shape)
        self.then()


def read_watched(path, rows, cols, decoded, then=lambda: None):
    """Read a window as `read_window` does, of an image that is watched."""
    one = asset(path)
    name, limit = blocks.identity(one.href, timeout=1), budget()
    with rasterio.open(path) as dataset:
        watched = Watched(dataset, decoded, then)
        return read_open(watched, one, rows, cols, name=name, limit=limit)


def area(shapes):
    return sum(a * b for a, b in shapes)


# --- windows --------------------------------------------------------------------------


@pytest.mark.parametrize("mib", ["0", "1", "384"])
@pytest.mark.parametrize("suffix", DRIVERS)
def test_pixels_are_equal_whatever_is_kept(files, counts, monkeypatch, suffix, mib):
    monkeypatch.setenv(SWITCH, mib)
    one = asset(files[suffix])

    @given(st.data())
    @settings(max_examples=20)
    def holds(data):
        edges = st.lists(st.integers(0, SIZE), min_size=2, max_size=2, unique=True)
        rows, cols = (slice(*sorted(data.draw(edges))) for _ in "yx")
        np.testing.assert_array_equal(read_window(one, rows, cols), counts[rows, cols])

    holds()
    assert (DECODED.held > 0) == (mib != "0")


@pytest.mark.parametrize("suffix", DRIVERS)
def test_neighbours_decode_each_block_once(files, counts, suffix):
    decoded = []
    # Three by three, each with 10 px of its neighbours.
    sides = (slice(0, 110), slice(90, 230), slice(210, SIZE))
    for rows, cols in product(sides, repeat=2):
        found = read_watched(files[suffix], rows, cols, decoded)
        np.testing.assert_array_equal(found, counts[rows, cols])
    assert area(decoded) == SIZE**2


def test_a_tiny_cache_decodes_again_and_keeps_its_budget(files):
    decoded = []
    with rasterio.open(files["tif"]) as dataset:
        for _ in range(2):
            for left in (0, 60, 120, 180):
                one = Watched(dataset, decoded)
                blocks.read_shared(one, 1, *window(0, left), name="a", limit=2 * BLOCK)
                assert DECODED.held <= 2 * BLOCK
    assert area(decoded) > 2 * 128 * SIZE


def test_only_the_rim_of_a_window_is_kept(files):
    read_window(asset(files["tif"]), *window(0, 0, 256, 256))
    assert DECODED.held == 12 * BLOCK


@pytest.mark.parametrize("options", [{"tiled": False}, {"BLOCKYSIZE": 16}])
def test_strips_are_read_directly(tmp_path, counts, options):
    decoded = []
    path = tmp_path / "strips.tif"
    profile = {"height": SIZE, "width": SIZE, "count": 1, "dtype": "uint16"}
    if options.get("tiled", True):
        options |= {"tiled": True, "BLOCKXSIZE": 256}
    with rasterio.open(path, "w", driver="GTiff", **profile, **options) as dataset:
        dataset.write(counts, 1)
    os.utime(path, (10**9, 10**9))
    found = read_watched(path, *window(7, 9), decoded)
    np.testing.assert_array_equal(found, counts[7:107, 9:109])
    assert (decoded, DECODED.held) == ([(100, 100)], 0)


# --- which bytes ----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["replaced", "overwritten"])
def test_a_changed_file_is_read_anew(tmp_path, counts, how):
    path = write(tmp_path / "a.tif", counts, compress="none")
    before = read_window(asset(path), *window(0, 0))
    other = write(tmp_path / "b.tif", counts[::-1], compress="none")
    assert other.stat().st_size == path.stat().st_size
    if how == "replaced":
        other.replace(path)
    else:
        path.write_bytes(other.read_bytes())
    after = read_window(asset(path), *window(0, 0))
    np.testing.assert_array_equal(before, counts[:100, :100])
    np.testing.assert_array_equal(after, counts[::-1][:100, :100])


def test_a_file_that_changes_while_it_is_read_is_not_mixed(tmp_path, counts):
    path = write(tmp_path / "a.tif", counts)
    other = write(tmp_path / "b.tif", counts[::-1]).read_bytes()
    read_window(asset(path), *window(0, 0))

    def meanwhile():
        (tmp_path / "c.tif").write_bytes(other)
        (tmp_path / "c.tif").replace(path)

    found = read_watched(path, *window(0, 60), [], meanwhile)
    # The handle is on the old file, all of it.
    np.testing.assert_array_equal(found, counts[:100, 60:160])
    found = read_window(asset(path), *window(0, 60))
    np.testing.assert_array_equal(found, counts[::-1][:100, 60:160])


def test_a_file_that_was_just_written_is_not_kept(tmp_path, counts):
    path = write(tmp_path / "a.tif", counts)
    os.utime(path)
    read_window(asset(path), *window(0, 0))
    assert DECODED.held == 0


def test_a_remote_image_is_known_by_its_tag(files, counts, tmp_path):
    other = write(tmp_path / "b.tif", counts[::-1]).read_bytes()
    with Place({"B04.tif": files["tif"].read_bytes()}, tags=True) as place:
        # A signature is renewed, and the pixels stay.
        for query in ("sig=SECRET&se=1", "sig=SECRET&se=2"):
            one = asset(place.url("B04.tif", query))
            found = read_window(one, *window(0, 0), retry=FAST)
            np.testing.assert_array_equal(found, counts[:100, :100])
        assert DECODED.held == 4 * BLOCK
        place.files["B04.tif"] = other
        found = read_window(one, *window(0, 0), retry=FAST)
        np.testing.assert_array_equal(found, counts[::-1][:100, :100])
        assert DECODED.held == 8 * BLOCK
        place.tags = False
        read_window(one, *window(200, 200), retry=FAST)
        assert DECODED.held == 8 * BLOCK


@pytest.mark.parametrize(
    ("said", "tag"), [('"abc"', '"abc"'), ('W/"abc"', None), (False, None)]
)
def test_only_strong_tags_count(said, tag):
    with Place({"a.tif": b"x"}, tags=said) as place:
        assert diagnosis.entity_tag(place.url("a.tif", "sig=SECRET"), 1.0) == tag


# --- faults ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", DRIVERS)
def test_a_fault_is_not_kept(files, counts, suffix):
    with Place({f"B04.{suffix}": files[suffix].read_bytes()}, tags=True) as place:
        one = asset(place.url(f"B04.{suffix}"))
        for kind in ("garble", "drop", "500"):
            place.break_with(Fault(kind=kind))
            with pytest.raises(ReadError, match="could not be read"):
                read_window(one, *window(40, 40), retry=ONCE)
            assert DECODED.held == 0
        place.break_with(Fault(kind="500", times=2))
        found = read_window(one, *window(40, 40), retry=FAST)
        np.testing.assert_array_equal(found, counts[40:140, 40:140])


def test_a_cut_file_raises_beside_what_is_kept(tmp_path, counts):
    path = write(tmp_path / "a.tif", counts)
    read_window(asset(path), *window(0, 0))
    path.write_bytes(path.read_bytes()[:60_000])
    with pytest.raises(ReadError, match="is cut"):
        read_window(asset(path), slice(0, SIZE), slice(0, SIZE))


# --- threads --------------------------------------------------------------------------


def test_threads_decode_each_block_once(files, counts):
    decoded = []
    corners = list(product(range(0, 200, 20), repeat=2))
    gate = threading.Barrier(8)

    def read(n):
        gate.wait()
        for top, left in corners[n::2]:
            found = read_watched(files["tif"], *window(top, left), decoded)
            np.testing.assert_array_equal(
                found, counts[top : top + 100, left : left + 100]
            )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, (0, 1) * 4))
    assert area(decoded) == SIZE**2


def test_who_waits_for_a_thread_that_fails_decodes_itself():
    cache, asked, begun = BlockCache(), [], threading.Event()
    waits = threading.Event()

    def broken(names):
        begun.set()
        waits.wait(5)
        raise OSError(str(names))

    def good(names):
        asked.append(sorted(names))
        if 2 in names:  # the first is claimed by the other; who waits, waits after this
            waits.set()
        return {n: np.full(4, n, "u1") for n in names}

    def get(names, decode):
        return cache.get(names, decode, keep=names, limit=100)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(get, [1], broken)
        assert begun.wait(5)
        second = pool.submit(get, [1, 2], good)
        assert second.result(5)[1].tolist() == [1] * 4
        with pytest.raises(OSError, match=r"\[1\]"):
            first.result(5)
    assert asked == [[2], [1]]
    assert get([1, 2], broken)[2].tolist() == [2] * 4
    assert cache.held == 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_waits_for_no_thread(files):
    claimed = DECODED._claim(["a"], {})
    assert claimed[0] == ["a"]
    child = os.fork()
    if child == 0:
        os._exit(0 if not DECODED._claims and DECODED.held == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0


# --- the promise ----------------------------------------------------------------------


def test_the_budget_is_an_environment_variable(monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)
    assert budget() == BUDGET << 20
    monkeypatch.setenv(SWITCH, "7")
    assert budget() == 7 << 20
    for text in ("lots", "-1", "", "1.5"):
        monkeypatch.setenv(SWITCH, text)
        with pytest.raises(
            S2SRError, match=rf"{SWITCH}='{text}' is not a number of MiB"
        ):
            budget()


def test_a_plan_counts_what_is_kept(tmp_path, monkeypatch):
    item = s2sr_xr.simulate_scene(tmp_path, size=480)
    ten = s2sr_xr.open_stac(item, chunks=240).s2sr.upsample("bicubic")
    monkeypatch.setenv(SWITCH, "0")
    without = ten.s2sr.plan(threads=1).memory
    monkeypatch.setenv(SWITCH, "1")
    assert ten.s2sr.plan(threads=1).memory == without + 2**20
    monkeypatch.setenv(SWITCH, "384")
    # All that there is to keep: four bands of 10 m, six of 20 m, two of 60 m.
    pixels = 4 * 480**2 + 6 * 240**2 + 2 * 80**2
    assert ten.s2sr.plan(threads=1).memory == without + 2 * pixels


def test_a_result_has_the_same_bits(tmp_path, monkeypatch):
    item = s2sr_xr.simulate_scene(tmp_path, size=240)
    for image in tmp_path.rglob("*.tif"):
        os.utime(image, (10**9, 10**9))
    made = {}
    for mib in ("0", "1", "384"):
        monkeypatch.setenv(SWITCH, mib)
        ten = s2sr_xr.open_stac(item, chunks=120).s2sr.upsample("bicubic")
        made[mib] = ten.load()
    assert DECODED.held > 0
    assert made["0"].identical(made["1"])
    assert made["0"].identical(made["384"])
