"""A source behind xarray gives the pixels of one read of everything, and reads less."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass, field, replace

import dask
import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
from dask.base import tokenize
from hypothesis import assume, given
from hypothesis import strategies as st

from s2sr_xr.core.reflectance import Radiometry, decode
from s2sr_xr.errors import GridError, ReadError
from s2sr_xr.readers.fetch.asset import Asset
from s2sr_xr.readers.fetch.source import BandSource, Crop, as_variable, source_of
from s2sr_xr.readers.fetch.source_protocol import Source
from s2sr_xr.readers.fetch.window import read_window

SHAPE = (3, 40, 30)


@dataclass(frozen=True)
class Numbers:
    """A source of known pixels that remembers what it was asked for."""

    values: np.ndarray
    asked: list = field(default_factory=list)

    @property
    def shape(self):
        return self.values.shape

    def at(self, time):
        return replace(self, values=self.values[time : time + 1])

    def read(self, time, rows, cols):
        for window, n in ((rows, self.shape[1]), (cols, self.shape[2])):
            assert window.step is None
            assert 0 <= window.start < window.stop <= n
        self.asked.append((time, rows, cols))
        return self.values[time, rows, cols].copy()

    def __dask_tokenize__(self):
        return ("Numbers", self.values.tobytes(), self.shape)


def numbers():
    values = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    values[:, 3, 4] = np.nan
    return Numbers(values)


def images(folder, counts, **facts):
    """Write counts as one GeoTIFF a time step; return their source."""
    assets = []
    for t, image in enumerate(counts):
        path = folder / f"t{t}.tif"
        profile = {"driver": "GTiff", "count": 1, "dtype": image.dtype}
        rows, cols = image.shape
        with rasterio.open(path, "w", height=rows, width=cols, **profile) as dataset:
            dataset.write(image, 1)
        assets.append(
            Asset(
                item_id=f"item{t}",
                band="B05",
                href=str(path),
                driver="GTiff",
                shape=image.shape,
                **facts,
            )
        )
    meanings = (
        Radiometry(offset=-1000 * (t % 2), source="x") for t in range(len(counts))
    )
    return BandSource(assets=tuple(assets), radiometry=tuple(meanings))


@pytest.fixture
def on_disk(tmp_path):
    counts = np.random.default_rng(3).integers(0, 2000, SHAPE).astype(np.uint16)
    return counts, images(tmp_path, counts)


# --- band sources ---------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_counts_are_decoded_as_they_are_read(on_disk):
    counts, source = on_disk
    assert isinstance(source, Source)
    assert source.shape == SHAPE
    for t in range(3):
        expected = decode(counts[t], source.radiometry[t])
        whole = source.read(t, slice(0, 40), slice(0, 30))
        np.testing.assert_array_equal(whole, expected)
        part = source.at(t).read(0, slice(5, 9), slice(2, 30))
        np.testing.assert_array_equal(part, expected[5:9, 2:30])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("chunk", [None, 7, 64])
def test_a_tree_of_chunks_gives_what_the_strict_read_gives(on_disk, chunk):
    _, source = on_disk
    variable = as_variable(source, chunk, {"units": "1"})
    assert variable.attrs == {"units": "1"}
    assert variable.dims == ("time", "y", "x")
    assert variable.dtype == np.float32
    expected = [
        decode(read_window(a, slice(0, 40), slice(0, 30)), r)
        for a, r in zip(source.assets, source.radiometry, strict=True)
    ]
    np.testing.assert_array_equal(variable.to_numpy(), np.stack(expected))


def test_one_meaning_an_image():
    asset = Asset(item_id="a", band="B05", href="/a.tif", driver="GTiff", shape=(4, 4))
    meaning = Radiometry(offset=0, source="x")
    for assets, meanings in (((), ()), ((asset,), ()), ((asset,), (meaning,) * 2)):
        with pytest.raises(ValueError, match="One radiometry an image"):
            BandSource(assets=assets, radiometry=meanings)
    with pytest.raises(GridError, match=r"B05 have the shapes.*one grid at a time"):
        BandSource(
            assets=(asset, replace(asset, shape=(5, 4))), radiometry=(meaning,) * 2
        )
    with pytest.raises(GridError, match="one known shape"):
        BandSource(assets=(replace(asset, shape=None),), radiometry=(meaning,))


def test_names_depend_on_the_pixels_and_on_no_signature():
    def named(query="sig=one", offset=0, chunk=4, words="x"):
        asset = Asset(
            item_id="a",
            band="B05",
            href=f"https://host/a.tif?{query}",
            driver="GTiff",
            shape=(8, 8),
        )
        meaning = Radiometry(offset=offset, source=words)
        source = BandSource(assets=(asset,), radiometry=(meaning,))
        return as_variable(source, chunk, {}).data.name

    assert named() == named(query="sig=SECRET&se=9") == named(words="y")
    assert len({named(), named(offset=-1000), named(chunk=8)}) == 3
    assert named().startswith("s2sr-read-B05-")
    with dask.config.set({"tokenize.ensure-deterministic": True}):
        named()


def test_a_source_travels():
    asset = Asset(item_id="a", band="B05", href="/a.tif", driver="GTiff", shape=(4, 4))
    source = BandSource(assets=(asset,), radiometry=(Radiometry(offset=0, source="x"),))
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own
    assert again == source
    assert tokenize(again) == tokenize(source)


# --- xarray ---------------------------------------------------------------------------

AXIS = st.one_of(
    st.integers(-25, 24),
    st.builds(
        slice,
        st.none() | st.integers(-45, 45),
        st.none() | st.integers(-45, 45),
        st.sampled_from([None, 1, 2, 3, 7, -1, -2]),
    ),
    st.lists(st.integers(-25, 24), min_size=1, max_size=5),
)


def from_before_the_first(key, size: int) -> bool:
    if not isinstance(key, slice) or key.start is None:
        return False
    return key.start < -size and (key.step or 1) < 0


@given(time=st.integers(-3, 2) | st.just(slice(None)) | st.just([2, 0]), y=AXIS, x=AXIS)
def test_lazy_indexing_is_that_of_numpy(time, y, x):
    source = numbers()
    variable = as_variable(source, None, {})
    # Wherever xarray 2026.9 indexes lazily, it takes [-31::-1] of 30 for [::-1].
    assume(not any(map(from_before_the_first, (y, x), variable.shape[1:])))
    expected = xr.Variable(variable.dims, source.values)[{"time": time, "y": y, "x": x}]
    part = variable[{"time": time, "y": y, "x": x}]
    assert not source.asked
    np.testing.assert_array_equal(part.to_numpy(), expected.to_numpy())


def test_a_lazy_slice_reads_its_own_window():
    source = numbers()
    array = xr.DataArray(as_variable(source, None, {}))
    array.isel(time=1, y=slice(10, 20), x=slice(5, 9)).load()
    assert source.asked == [(1, slice(10, 20), slice(5, 9))]
    source.asked.clear()
    array.isel(y=slice(10, 20)).isel(time=slice(1, 3), y=slice(2, 6, 3)).load()
    whole = slice(0, 30)
    assert source.asked == [(1, slice(12, 16), whole), (2, slice(12, 16), whole)]
    source.asked.clear()
    assert array.isel(y=slice(4, 4)).to_numpy().shape == (3, 0, 30)
    assert not source.asked


@pytest.mark.parametrize("chunk", [None, 8])
def test_nothing_is_read_on_build(chunk):
    source = numbers()
    array = xr.DataArray(as_variable(source, chunk, {}), name="B05")
    repr(array)
    (array if chunk is None else array + 1).isel(x=slice(2, 5))
    assert not source.asked


def test_each_chunk_is_read_once():
    source = numbers()
    array = as_variable(source, 16, {}).data
    assert array.chunks == ((1, 1, 1), (16, 16, 8), (16, 14))
    assert len(array.dask) == 3 * 3 * 2
    np.testing.assert_array_equal(array.compute(), source.values)
    assert len(source.asked) == 18


def test_a_task_carries_one_time_step():
    source = numbers()
    layer = as_variable(source, 16, {}).data.dask.layers.popitem()[1]
    for key in layer:
        (step, *_) = layer[key].args
        assert step.shape == (1, 40, 30)


# --- source_of ------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 8])
def test_an_untouched_array_shows_its_source(chunk):
    source = numbers()
    variable = as_variable(source, chunk, {})
    assert source_of(variable) is source
    tree = xr.DataTree.from_dict({"r20m": xr.Dataset({"B05": variable})})
    assert source_of(tree["r20m/B05"]) is source
    assert source_of(tree["r20m/B05"].copy(deep=False)) is source
    assert source_of(tree["r20m/B05"].isel(time=slice(None))) is source
    assert not source.asked


def test_a_dask_array_shows_its_source_by_itself():
    source = numbers()
    array = as_variable(source, 8, {}).data
    assert source_of(array) is source
    travelled = source_of(pickle.loads(pickle.dumps(array)))  # noqa: S301 - our own
    np.testing.assert_array_equal(travelled.values, source.values)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a + 0,
        lambda a: a[:, :8],
        lambda a: a[0],
        lambda a: a.rechunk(5),
        lambda a: a.astype("f8"),
        lambda a: a.persist(scheduler="sync"),
        lambda a: dask.optimize(a)[0],
        lambda a: a.map_blocks(np.negative),
        lambda a: a.compute(),
        lambda a: da.concatenate([a, a]),
    ],
)
def test_a_changed_array_shows_none(change):
    assert source_of(change(as_variable(numbers(), 8, {}).data)) is None


def test_a_part_of_a_lazy_array_shows_none():
    variable = as_variable(numbers(), None, {})
    for part in (
        variable[0],
        variable[:, :8],
        variable[:, ::-1],
        variable[:, [0, 1]],
        variable.transpose("x", "y", "time"),
        variable.copy().load(),
    ):
        assert source_of(part) is None


@pytest.mark.parametrize(
    "other", [None, np.zeros(3), da.zeros(3), xr.Variable("x", [1.0]), "B05"]
)
def test_others_have_no_source(other):
    assert source_of(other) is None


# --- crop -----------------------------------------------------------------------------


def test_a_crop_is_the_slice_but_reads_its_own_windows():
    source = numbers()
    part = Crop(source=source, rows=(6, 30), cols=(12, 24))
    assert isinstance(part, Source)
    assert part.shape == (3, 24, 12)
    variable = as_variable(part, 16, {})
    np.testing.assert_array_equal(variable.to_numpy(), source.values[:, 6:30, 12:24])
    assert len(source.asked) == 6  # three times, two chunks of rows, one of columns
    assert source_of(variable) is part
    window = part.at(2).read(0, slice(1, 3), slice(0, 5))
    np.testing.assert_array_equal(window, source.values[2, 7:9, 12:17])
    assert tokenize(part) != tokenize(replace(part, rows=(5, 29)))


# --- the process ----------------------------------------------------------------------


def test_an_unreadable_chunk_fails_the_computation(tmp_path):
    asset = Asset(
        item_id="gone",
        band="B05",
        href=str(tmp_path / "gone.tif"),
        driver="GTiff",
        shape=(8, 8),
    )
    source = BandSource(assets=(asset,), radiometry=(Radiometry(offset=0, source="x"),))
    array = as_variable(source, 4, {}).data
    with pytest.raises(ReadError, match=r"B05 of gone .* file not found"):
        array.compute(scheduler="threads")


def test_reading_without_dask_loads_no_dask():
    code = """
import sys, numpy as np
from s2sr_xr.readers.fetch.source import as_variable
from s2sr_xr.readers.fetch import source, window
from s2sr_xr.readers.stac import open
print([m for m in ("dask", "distributed", "rasterio", "torch") if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
