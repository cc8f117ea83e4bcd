"""Blocks that feed a GPU: read and written while it computes, and bounded."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from worlds import MIXES, WholeNumbers, grid, tree

import s2sr_xr
from s2sr_xr.batches.driver import Drive
from s2sr_xr.batches.report import Log
from s2sr_xr.batches.task import Piece, Result, Rules
from s2sr_xr.batches.workers import PARTS, Threads, Workers
from s2sr_xr.engine import thread_team
from s2sr_xr.engine.dask_graph import arrays
from s2sr_xr.engine.job import BlockTask
from s2sr_xr.engine.lazy import job_of
from s2sr_xr.engine.model_run import Pass
from s2sr_xr.engine.predictor import Predictor
from s2sr_xr.readers.fetch.source import as_variable

BLOCKS = 6


class Scene:
    """A source of one band that says what is done when."""

    def __init__(self, diary, name, shape):
        self.diary, self.name, self.shape = diary, name, shape

    def __dask_tokenize__(self):
        return (self.name, self.shape)

    def at(self, time):
        return self

    def read(self, _, rows, cols):
        if self.name == "B02":
            self.diary.say("read", "begins")
            if self.diary.last_is_alone:
                self.diary.wait_to_be_alone()
            time.sleep(0.01)
        return np.full((rows.stop - rows.start, cols.stop - cols.start), 0.2, "f4")


class Diary:
    """What happened, in order, by which thread."""

    def __init__(self):
        self.lines, self.lock = [], threading.Condition()
        self.now = self.most = 0
        self.used = []
        self.patient = self.last_is_alone = False

    def say(self, what, when):
        with self.lock:
            self.lines.append((what, when, threading.get_ident()))
            self.lock.notify_all()

    def readers(self):
        """Return the threads that feed the device."""
        return {thread for what, _, thread in self.lines if what == "read"}

    def wait_for_the_next_read(self):
        """Let a network go on when the block after its own is being read, if at all."""
        with self.lock:
            wanted = min(len(self.at("predict", "begins")) + 1, BLOCKS)
            self.lock.wait_for(
                lambda: len(self.at("read", "begins")) >= wanted, timeout=60
            )

    def wait_to_be_alone(self):
        """Let the last block go on once no other is in work."""
        end = time.monotonic() + 60
        while len(self.at("read", "begins")) == BLOCKS and time.monotonic() < end:
            if thread_team.TEAM._now == 1:
                return
            time.sleep(0.001)

    def take(self, n):
        with self.lock:
            self.now += n
            self.most = max(self.most, self.now)

    def at(self, what, when):
        return [i for i, line in enumerate(self.lines) if line[:2] == (what, when)]


@dataclass(frozen=True, kw_only=True)
class Keeper:
    """A predictor whose network is that of `test-20`, and writes a diary."""

    diary: Diary
    device: str
    name: str = "test-20"
    sha256: str | None = None
    precision: str = "float32"

    def __dask_tokenize__(self):
        return (self.name, self.device)

    def load(self):
        return self.run, self.device

    def run(self, *images):
        self.diary.used.append(torch.get_num_threads())
        self.diary.say("predict", "begins")
        if self.diary.patient:
            self.diary.wait_for_the_next_read()
        time.sleep(0.01)
        made = WholeNumbers(MIXES["10+20->10"])(*images)
        self.diary.say("predict", "ends")
        return made


@pytest.fixture
def diary():
    return Diary()


def result(diary, device="cpu:0"):
    """Return a lazy result of six blocks in a row, one tile each, by a `Keeper`.

    torch knows "cpu:0", this library does not: to it, it is some accelerator.
    """
    groups = {}
    for res, names in ((10, ("B02", "B08")), (20, ("B05", "B11"))):
        shape = (80 // res, BLOCKS * 80 // res)
        attrs = {"units": "1"}
        bands = {
            b: as_variable(Scene(diary, b, (1, *shape)), 80 // res, attrs)
            for b in names
        }
        coords = grid(shape, res).coords() | {"time": [np.datetime64("2024-05-01")]}
        groups[f"r{res}m"] = xr.Dataset(bands, coords)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs["level"] = "L1C"
    ten = tree.s2sr.upsample({"20m": "test-20"}, keep_native=False)
    job = job_of(ten)
    keeper = Keeper(diary=diary, device=device)
    passes = tuple(replace(p, predictor=keeper) for p in job.task.passes)
    ten = ten.copy(data=arrays(replace(job, task=replace(job.task, passes=passes))))
    assert ten.s2sr.plan(threads=1).blocks == BLOCKS
    return ten


def by_lazy(ten, folder):
    ten.s2sr.to_zarr(folder / "a.zarr")


def by_batch(ten, folder):
    piece = Piece("a", lambda: [Result("a", str(folder / "a.zarr"), ten)])
    crew = Threads(dask.config.get("num_workers", thread_team.threads("cpu:0")))
    assert Drive([piece], crew, Rules(), Log(None)).run().ok


@pytest.fixture(params=[by_lazy, by_batch])
def write(request):
    return request.param


def test_blocks_are_read_and_written_while_one_is_computed(tmp_path, diary, write):
    diary.patient = True
    write(result(diary), tmp_path)
    begun, ended = diary.at("predict", "begins"), diary.at("predict", "ends")
    assert len(begun) == len(ended) == BLOCKS
    # One at a time on the device, although three threads feed it.
    assert all(e < b for e, b in zip(ended, begun[1:], strict=False))
    reads = diary.at("read", "begins")
    # Each block was being read before the device was done with the one before.
    assert all(r < e for r, e in zip(reads[1:], ended, strict=False))
    assert 1 < len(diary.readers()) <= thread_team.threads("cpu:0")


def test_blocks_in_work_fit_into_memory(tmp_path, diary, write, monkeypatch):
    ten, room = result(diary), 20_000
    hold = thread_team.Gate.hold

    def counted(gate, size, limit):
        stack = ExitStack()
        stack.enter_context(hold(gate, size, limit))
        diary.take(size)
        stack.callback(diary.take, -size)
        return stack

    monkeypatch.setattr(thread_team.Gate, "hold", counted)
    monkeypatch.setattr(thread_team, "allowance", lambda: room)
    with dask.config.set(num_workers=8):
        write(ten, tmp_path)
    assert diary.now == 0
    assert room / 2 < diary.most <= room
    few, many = (ten.s2sr.plan(threads=n).memory for n in (1, 8))
    assert 0 < many - few < room
    assert ten.s2sr.plan().threads == max(thread_team.cores(), thread_team.FEEDERS)


def test_on_the_cpu_nothing_waits(tmp_path, diary, write):
    with thread_team.HOST.hold(1, 1):  # nothing else would be let in
        write(result(diary, "cpu"), tmp_path)
    assert len(diary.at("predict", "ends")) == BLOCKS
    with dask.config.set(num_workers=1):
        assert thread_team.threads("cpu") == thread_team.cores()


def test_what_a_user_said_of_threads_stays(tmp_path, diary):
    with dask.config.set(num_workers=1):
        by_lazy(result(diary), tmp_path)
    assert len(diary.readers()) == 1


def test_a_gate_lets_in_what_fits_and_always_one():
    gate, log = thread_team.Gate(), []
    inside = threading.Semaphore(0)
    go = threading.Event()

    def block(size):
        with gate.hold(size, 10):
            log.append(size)
            inside.release()
            assert go.wait(5)

    with ThreadPoolExecutor(3) as pool:
        work = [pool.submit(block, 6), pool.submit(block, 6), pool.submit(block, 4)]
        for _ in range(2):
            assert inside.acquire(timeout=5)
        assert sorted(log) == [4, 6]
        go.set()
        for one in work:
            one.result(5)
    with gate.hold(99, 10):
        pass
    with pytest.raises(KeyError), gate.hold(99, 10):
        raise KeyError
    with gate.hold(10, 10):
        assert gate._taken == 10


@pytest.mark.parametrize(
    ("device", "most"), [("cuda:9", thread_team.ON_GPU), ("other", 1)]
)
def test_a_device_holds_few_blocks(device, most):
    now, seen, lock = [], [], threading.Lock()

    def block(n):
        with thread_team.on(device):
            with lock:
                now.append(n)
                seen.append(len(now))
            time.sleep(0.01)
            with lock:
                now.remove(n)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(block, range(12)))
    assert max(seen) == most


def test_the_last_block_takes_over_the_threads_of_those_that_are_done():
    have = [4]
    team = thread_team.Team(lambda: have[0])
    assert team.share(1) == 1  # nobody is at work
    with team.at_work(), ThreadPoolExecutor(3) as pool:
        assert (team.share(1), team.share(2)) == (1, 2)
        inside, go = threading.Barrier(4), threading.Event()

        def block():
            with team.at_work(), team.at_work():  # counts once
                inside.wait(5)
                assert go.wait(5)

        others = [pool.submit(block) for _ in range(3)]
        inside.wait(5)
        assert (team.share(1), team.share(2)) == (1, 2)
        go.set()
        for one in others:
            one.result(5)
        assert (team.share(1), team.share(2)) == (4, 4)  # as many as there are cores
        have[0] = 3
        assert (team.share(1), team.share(4)) == (3, 4)  # and never fewer than before
    # Another run may be granted fewer.
    with pytest.raises(KeyError), team.at_work():
        raise KeyError
    with team.at_work():
        assert team.share(1) == 1


@pytest.mark.skipif(thread_team.cores() < 2, reason="there are no other threads")
def test_the_last_block_computes_on_all_threads(tmp_path, diary):
    diary.last_is_alone = True
    ten = result(diary, "cpu")
    one = replace(job_of(ten).task, threads=1)
    ten = ten.copy(data=arrays(replace(job_of(ten), task=one)))
    with dask.config.set(scheduler="threads", num_workers=2):
        by_lazy(ten, tmp_path)
    assert diary.used[0] == 1
    assert diary.used[-1] == 2


MEETING = threading.Barrier(4)


def _meet():
    return MEETING.wait(10)


def test_the_allowance_follows_the_worker():
    from distributed import Client, LocalCluster

    whole = thread_team.allowance()
    assert whole > 2**28
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=4,
            processes=False,
            memory_limit="1GiB",
            resources={"GPU": 1},
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        assert client.submit(thread_team.allowance, pure=False).result() == 2**29
        crew = Workers(client, gpu=True)
        assert crew.room() == 2 * 4
        # One GPU, and as many blocks beside each other as the worker has threads.
        waits = [
            client.submit(_meet, resources=crew.resources, pure=False) for _ in "four"
        ]
        assert sorted(client.gather(waits)) == [0, 1, 2, 3]
    assert crew.resources == {"GPU": 1 / PARTS}


def test_memory_of_a_block_grows_with_it():
    spec = s2sr_xr.get_spec("test-20")
    one = Pass(
        predictor=Predictor(name="test-20"), spec=spec, keep=("B05",), cells=(99, 99)
    )
    task = BlockTask(passes=(one,), shape=(198, 198), res=10)
    from s2sr_xr.core.tiling import Box, Span

    small, large = (task.held(Box(Span(0, n), Span(0, n))) for n in (16, 64))
    assert large > 4 * 64 * 64 * 4
    assert small < large < 16 * small


def test_a_gpu_that_others_have_is_planned_for():
    """The client of a cluster plans, and need not have what its workers have."""
    obj = tree((2, 2), ["B02", "B08", "B05", "B11"]).chunk()
    how = {"model": {"20m": "test-20"}, "keep_native": False}
    plans = {d: obj.s2sr.upsample(**how, device=d).s2sr.plan() for d in ("cpu", "cuda")}
    cores = thread_team.cores()
    assert plans["cpu"].threads == cores
    assert plans["cuda"].threads == max(cores, thread_team.FEEDERS)
