"""Laws of the sampler: a batch is its seed and step, and reads are few."""

import json
import runpy
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
from torch.utils.data import DataLoader
from worlds import tree

import s2sr_xr
from s2sr_xr.errors import GridError, MissingBandError, RadiometryError, ReadError
from s2sr_xr.models.spec import BandGroup, ModelSpec
from s2sr_xr.readers.fetch.source import BandSource, as_variable, source_of
from s2sr_xr.train.data.augment import Augment, augmented
from s2sr_xr.train.data.clouds import cloudy
from s2sr_xr.train.data.patches import Batches, Rules, Sampler
from s2sr_xr.train.data.scenes import source

SPEC = ModelSpec(
    name="two",
    title="for tests",
    cell=20,
    inputs=(
        BandGroup(names=("B02", "B04"), per_cell=2),
        BandGroup(names=("B11",), per_cell=1),
    ),
    output=BandGroup(names=("B11",), per_cell=2),
    margin=0,
    tile=8,
)
DARK = Augment(turn=False, gain=(1, 1))


def dark(seed):
    rng = np.random.default_rng(seed)
    return lambda size: rng.uniform(0.02, 0.2, size).astype("f4")


def world(cells=(20, 20), seed=0, **options):
    """A tree of 60 m cells without cloud."""
    return tree(cells, SPEC.bands, values=dark(seed), **options)


def sampler(*trees, side=8, batch=3, **options):
    scenes = [source(t, SPEC, f"scene {i}") for i, t in enumerate(trees)]
    return Sampler(scenes, side=side, batch=batch, **options)


def equal(one, other):
    return all(map(torch.equal, one, other))


# A function of seed and step


def test_a_batch_is_its_seed_and_step_whatever_came_before():
    scenes = [world(seed=s) for s in range(3)]
    options = {"windows": 4, "steps": 2}
    on = sampler(*scenes, **options)
    batches = [on(step) for step in range(6)]
    for threads in (0, 2):
        anew = sampler(*scenes, threads=threads, **options)
        for step in (5, 0, 3):
            assert equal(anew(step), batches[step])
    assert not equal(batches[0], batches[1])
    assert not equal(sampler(*scenes, seed=1, **options)(0), batches[0])


def test_memory_dask_and_disk_give_the_same_batches(tmp_path):
    scene = world((24, 24))
    # Chunks decide the windows, so the same must be told of each.
    lazy = scene.map_over_datasets(
        lambda d: d.chunk(dict.fromkeys("yx", d.sizes["y"] // 3)) if d else d
    )
    for name, group in lazy.children.items():
        group.to_dataset().to_zarr(tmp_path / name)
    stored = xr.DataTree.from_dict(
        {n: xr.open_zarr(tmp_path / n, chunks=None) for n in lazy.children}
    )
    made = [sampler(x)(7) for x in (lazy, stored)]
    assert equal(*made)


def test_a_scene_of_stac_is_sampled(tmp_path):
    item = s2sr_xr.simulate_scene(tmp_path, size=120, level="L2A")
    scene = s2sr_xr.open_stac(item)
    truth = s2sr_xr.open_truth(item)
    group = BandGroup(names=("B11", "B04"), per_cell=2)
    one = source(scene, SPEC, "simulated", truth=(truth, group))
    batch = Sampler([one], side=8, batch=2, augment=DARK, rules=Rules(cloud=1))(0)
    assert [tuple(x.shape) for x in batch] == [
        (2, 2, 16, 16),
        (2, 1, 8, 8),
        (2, 2, 16, 16),
    ]
    # The 10 m band is its truth, but for noise: windows of all groups are of one place.
    assert (batch[0][:, 1] - batch[2][:, 1]).abs().mean() < 2e-3


class CountedSource(BandSource):
    """One band of our readers that notes the shape of each window it is asked for."""

    seen: ClassVar[list[tuple[int, int]]] = []

    def read(self, time, rows, cols):
        self.seen.append((rows.stop - rows.start, cols.stop - cols.start))
        return super().read(time, rows, cols)


def through_counted(tree, chunk):
    """Return the same scene, opened through sources that count."""

    def again(array):
        if (found := source_of(array.variable)) is None:
            return array
        own = CountedSource(assets=found.assets, radiometry=found.radiometry)
        return array.copy(data=as_variable(own, chunk, {})._data)

    return tree.map_over_datasets(lambda ds: ds.map(again, keep_attrs=True))


def test_our_readers_are_asked_for_windows_not_for_chunks(tmp_path):
    item = s2sr_xr.simulate_scene(tmp_path, size=240, level="L2A")
    options = {"side": 8, "batch": 2, "rules": Rules(cloud=1), "most": 24, "threads": 0}
    native, seen = s2sr_xr.open_stac(item, chunks=None), CountedSource.seen
    whole = sampler(through_counted(native, None), **options)(3)
    without, seen[:] = sorted(seen), []
    assert without
    chunked = sampler(through_counted(native, 102), **options)(3)
    assert equal(whole, chunked)
    assert sorted(seen) == without
    # Of 24 cells, the last of a row or column with what is left: less than 16 more.
    assert max(max(shape) for shape in seen) < 2 * (24 + 16)


def test_workers_share_the_steps_and_keep_their_order():
    on = sampler(world(), threads=1)
    on(0)  # threads of this process do not reach another
    expected = [on(step) for step in range(2, 7)]
    loader = DataLoader(Batches(on, range(2, 7)), batch_size=None, num_workers=2)
    assert all(equal(a, b) for a, b in zip(loader, expected, strict=True))
    assert len(Batches(on, range(2, 7))) == 5


# Reads


class Counted(xr.backends.BackendArray):
    """An array on disk that says how often it was read, and may break."""

    def __init__(self, values, log, broken=False):
        self.values, self.log, self.broken = values, log, broken
        self.shape, self.dtype = values.shape, values.dtype

    def __getitem__(self, key):
        def read(place):
            if self.broken:
                raise OSError("the disk is gone")
            self.log.append(place)
            return self.values[place]

        return xr.core.indexing.explicit_indexing_adapter(
            key, self.shape, xr.core.indexing.IndexingSupport.BASIC, read
        )


def counted(scene, log, chunk=None, broken=False):
    """The same scene, of arrays that count their reads."""

    def lazy(dataset):
        if not dataset:
            return dataset
        found = {}
        for name, band in dataset.data_vars.items():
            array = Counted(band.to_numpy(), log, broken)
            data = xr.core.indexing.LazilyIndexedArray(array)
            found[name] = xr.Variable(band.dims, data)
            if chunk:
                size = chunk * 20 // round(abs(float(band.x[1] - band.x[0])))
                found[name].encoding["preferred_chunks"] = {"y": size, "x": size}
        return dataset.assign(found)

    return scene.map_over_datasets(lazy)


@pytest.mark.parametrize("threads", [0, 1])
def test_a_window_is_read_once_a_round_and_as_a_whole_chunk(threads):
    log = []
    scene = counted(world((40, 40)), log, chunk=30)
    on = sampler(scene, batch=5, windows=3, steps=4, threads=threads)
    for step in range(4):
        on(step)
    # Three windows of three bands, for 20 patches; others may be read ahead by now.
    read = [place for place in log if place[0].stop - place[0].start == 60]
    if not threads:
        assert len(log) <= 9
    assert read
    starts = {place[0].start % 30 for place in log}
    assert starts == {0}
    assert all(len(range(*p.indices(240))) in (30, 60) for place in log for p in place)


def test_nothing_is_read_before_the_first_batch_is_asked_for():
    log = []
    sampler(counted(world(), log))
    assert not log


class Slow(list):
    """A log of reads that take long."""

    def append(self, place):
        time.sleep(0.02)
        super().append(place)


def slow(log):
    """A sampler whose queue takes seconds to read."""
    scene = counted(world((120, 120)), log, chunk=8)
    return sampler(scene, batch=1, windows=64, most=24, threads=1)


def test_who_drops_a_sampler_stops_its_reads():
    log, others = Slow(), set(threading.enumerate())
    on = slow(log)
    on(0)
    (reader,) = set(threading.enumerate()) - others
    del on
    before = len(log)
    reader.join(5)
    assert not reader.is_alive()
    assert len(log) <= before + 3  # the bands of one window


CHILD = """
import os, sys
sys.path[:0] = {tests!r}
from test_patches import Slow, slow

class Told(Slow):
    def append(self, place):
        os.write(1, b"read\\n")  # whole, beside other threads
        super().append(place)

on = slow(Told())
on(0)
os.write(1, b"end\\n")
raise KeyboardInterrupt
"""


def test_python_ends_without_the_reads_that_wait():
    code = CHILD.format(tests=[str(p) for p in Path(__file__).parents[:2]])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "KeyboardInterrupt" in done.stderr
    lines = done.stdout.split()
    assert "read" in lines
    # The bands of one window, and of one begun meanwhile; there are dozens.
    assert len(lines[lines.index("end") :]) <= 1 + 6


def test_what_no_thread_has_begun_is_read_where_it_is_asked_for():
    held = threading.Event()

    class Stuck(list):
        def append(self, place):
            if threading.current_thread() is not threading.main_thread():
                assert held.wait(60)
            super().append(place)

    on = slow(Stuck())
    on.cache.foresee([on._window(0, k) for k in range(40)])
    last = on._window(0, 39)
    assert on.cache[last].images[0].shape[0] == 2
    held.set()


def test_a_reader_that_fails_is_named_with_its_window():
    on = sampler(world(), counted(world(), [], broken=True))
    with pytest.raises(ReadError, match=r"scene 1: cells 0:60, 0:60.*disk is gone"):
        list(map(on, range(20)))


def test_the_benchmark_runs(monkeypatch, capsys):
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    main = runpy.run_path(str(folder / "sampling.py"))["main"]
    main(["--steps=1", "--warm=1", "--size=60", "--side=16", "--batch=1"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [x["source"] for x in lines] == ["zarr", "zarr, dask", "http", "http, dask"]
    assert all(0 <= x["not_waiting"] <= 1 for x in lines)


# Which patches


def test_missing_pixels_are_never_in_a_patch():
    scene = world((30, 30))
    scene["r20m"].B11[20:, :] = np.nan
    scene["r10m"].B04[:, 100:] = np.nan
    on = sampler(scene)
    assert all(torch.isfinite(x).all() for step in range(20) for x in on(step))


def test_cloud_is_refused_by_its_classes_where_there_are_any():
    scene = world((30, 30), seed=1)
    grid = scene["r20m"].to_dataset()
    codes = np.full(grid.B11.shape, 4, np.uint8)
    codes[:, 40:] = 9
    data = xr.DataTree.from_dict(
        {
            "r10m": scene["r10m"].to_dataset(),
            "r20m": grid.assign(
                SCL=(("y", "x"), codes),
                # So that a patch says where it is from.
                B11=grid.B11 * 0 + 0.01 + 1e-4 * np.arange(grid.sizes["x"]),
            ),
        }
    )
    on = sampler(data, augment=DARK, rules=Rules(cloud=0))
    for step in range(30):
        _, coarse = on(step)
        assert coarse.max() < 0.01 + 1e-4 * 40


def test_cloud_is_bright_and_white_and_neither_sand_nor_snow():
    b02 = np.array([0.5, 0.05, 0.4, 0.8, 0.5])
    b04 = np.array([0.5, 0.05, 0.7, 0.8, 0.5])
    b11 = np.array([0.4, 0.02, 0.8, 0.08, 0.6])
    found = cloudy({"B02": b02, "B04": b04, "B11": b11}, (5,))
    assert found.tolist() == [True, False, False, False, False]
    assert cloudy({"B02": b02, "B04": b04}, (5,)).tolist() == [1, 0, 0, 1, 1]
    assert not cloudy({"B11": b11}, (5,)).any()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (lambda size: np.full(size, 0.5, "f4"), "scene 0 is cloudy 256 times"),
        (lambda size: np.full(size, np.nan, "f4"), "scene 0 misses pixels 256 times"),
        (lambda size: np.full(size, 0.1, "f4"), "scene 0 is flat 256 times"),
    ],
)
def test_a_scene_without_patches_is_named_with_the_reason(values, said):
    on = sampler(tree((20, 20), SPEC.bands, values=values))
    with pytest.raises(GridError, match=said):
        on(0)


def test_turns_and_gain_are_those_of_all_groups():
    rng = np.random.default_rng(0)
    fine = torch.arange(16.0).reshape(1, 4, 4)
    coarse = fine.reshape(1, 2, 2, 2, 2).mean((2, 4))
    seen = set()
    for _ in range(60):
        a, b = augmented((fine, coarse), rng, Augment(gain=(0.5, 4)))
        assert torch.allclose(a.reshape(1, 2, 2, 2, 2).mean((2, 4)), b)
        gain = float(a.sum() / fine.sum())
        assert 0.5 <= gain <= 4
        seen.add(tuple((b / gain).round(decimals=3).flatten().tolist()))
    assert len(seen) == 8


def test_odd_patches_dim_each_band_alike_in_every_group():
    rng = np.random.default_rng(0)
    how = Augment(turn=False, gain=(1, 1), odd=1)
    ones = torch.ones(2, 4, 4), torch.ones(1, 8, 8)
    names = (("B02", "B11"), ("B11",))
    (coarse, fine) = augmented(ones, rng, how, names)
    factors = coarse[:, 0, 0]
    assert torch.equal(fine[0], coarse[1, 0, 0].expand(8, 8))
    assert factors[0] != factors[1]
    assert (factors <= 1).all()
    assert (factors >= 0.05).all()


# What cannot be sampled


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (sampler, GridError, "the sample is empty"),
        (lambda: sampler(world((3, 3)), side=10), GridError, "largest of 1 has 9 x 9"),
        (lambda: sampler(world(), batch=0), GridError, "batch is 1 or more; got 0"),
        (
            lambda: source(tree((4, 4), ["B02", "B11"]), SPEC, "Here"),
            MissingBandError,
            "Here: two takes B04",
        ),
        (
            lambda: source(
                world().map_over_datasets(lambda d: d.astype("u2")), SPEC, "H"
            ),
            RadiometryError,
            "H: B02 holds integers",
        ),
        (lambda: Rules(cloud=2), GridError, "cloud is a share"),
        (lambda: Augment(gain=(0, 1)), GridError, "range of positive factors"),
        (lambda: Augment(odd=-1), GridError, "odd is a share"),
    ],
)
def test_what_cannot_be_sampled_is_said(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_a_truth_covers_the_scene():
    group = BandGroup(names=("B11",), per_cell=4)
    fine = xr.Dataset({"B11": (("y", "x"), np.zeros((8, 8)))})
    with pytest.raises(GridError, match=r"Here: its truth has 8 x 8.*48 x 48 cover"):
        source(world((4, 4)), SPEC, "Here", truth=(fine, group))
    other = (fine.rename(B11="B8A"), group)
    with pytest.raises(MissingBandError, match="its truth has no B11; it has B8A"):
        source(world((4, 4)), SPEC, "Here", truth=other)
    plain = source(world((4, 4)), SPEC, "Plain")
    whole = xr.Dataset({"B11": (("y", "x"), np.zeros((48, 48)))})
    other = source(world((4, 4)), SPEC, "Other", truth=(whole, group))
    with pytest.raises(GridError, match=r"Other has the groups .* but Plain"):
        Sampler([plain, other], side=4, batch=1)
