"""Whatever dies during a batch, the same call goes on: equal pixels, nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from test_run import BLOCKS, HOW, night, one_by_one, records, same

import s2sr_xr

TESTS = Path(__file__).parents[1]
SEEDS = range(max(3, int(os.environ.get("S2SR_FAULTS", "3"))))
ITEMS = 2
ENV = os.environ | {
    "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:3])),
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    paths = night(folder / "items", ITEMS)
    return paths, one_by_one(paths, folder / "single")


def moment(seed):
    """Return after which block something dies: not the first, not the last ones."""
    return int(np.random.default_rng(seed).integers(1, ITEMS * BLOCKS - 5))


def goes_on(paths, out, wanted, **how):
    """Whether the same call makes the rest, and leaves what was finished alone."""
    done = records(out)
    report = s2sr_xr.batch(paths, out, **HOW, **how)
    assert report.ok, report
    assert report.blocks_written == ITEMS * BLOCKS - len(done)
    assert done.items() <= records(out).items()
    assert not list(Path(out).rglob("*.partial"))
    return same(out, wanted)


CHILD = """
    import os, signal
    from pathlib import Path
    import s2sr_xr, worlds
    from test_run import HOW

    count, real = 0, Path.replace

    def replace(self, target):
        # zarr-python makes each object whole by this call.
        global count
        count += 1
        if count == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, target)

    Path.replace = replace
    s2sr_xr.batch({paths}, {out!r}, **HOW)
    print(count)
"""


@pytest.mark.parametrize("seed", SEEDS)
def test_the_process_is_killed(tmp_path, world, seed):
    paths, wanted = world
    at = int(np.random.default_rng(seed).integers(15, 130))
    out = tmp_path / "out"
    code = textwrap.dedent(CHILD).format(
        at=at, paths=[str(p) for p in paths], out=str(out)
    )
    died = subprocess.run(
        [sys.executable, "-c", code],
        env=ENV,
        check=False,
        capture_output=True,
        text=True,
    )
    assert died.returncode == -signal.SIGKILL, died.stdout + died.stderr
    assert goes_on(paths, out, wanted)


class Cluster:
    """A scheduler and workers, each a process of its own, none of them restarted."""

    def __init__(self, folder, workers=1):
        self.file = folder / "scheduler.json"
        where = ["--scheduler-file", str(self.file)]
        self.scheduler = self._start(
            "scheduler", *where, "--port", "0", "--no-dashboard", "--host", "127.0.0.1"
        )
        self.workers = [
            self._start(
                *("worker", *where, "--nthreads", "1", "--no-nanny", "--no-dashboard"),
                *("--preload", "worlds", "--death-timeout", "60"),
            )
            for _ in range(workers)
        ]

    def _start(self, what, *more):
        command = [sys.executable, "-m", "dask", what, *more]
        return subprocess.Popen(
            command, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def close(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


def connected(cluster):
    """Return a client that is nobody's default: it may not live to give that back."""
    from distributed import Client

    file = str(cluster.file)
    return Client(scheduler_file=file, timeout=60, set_as_default=False)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_is_killed(tmp_path, world, seed):
    """The job does not even notice; blocks that were finished are not done again."""
    paths, wanted = world
    cluster, out, before = Cluster(tmp_path, workers=2), tmp_path / "out", {}

    def kill(now):
        if now.blocks_done == moment(seed) and not before:
            before.update(records(out))
            cluster.workers[0].kill()

    try:
        with connected(cluster) as client:
            client.wait_for_workers(2, timeout=120)
            report = s2sr_xr.batch(paths, out, **HOW, client=client, progress=kill)
    finally:
        cluster.close()
    assert report.ok, report
    assert before
    assert before.items() <= records(out).items()
    assert report.blocks_written == ITEMS * BLOCKS
    assert same(out, wanted)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_scheduler_is_killed(tmp_path, world, seed):
    paths, wanted = world
    cluster, out = Cluster(tmp_path), tmp_path / "out"
    killed = []

    def kill(now):
        if now.blocks_done == moment(seed) and not killed:
            cluster.scheduler.kill()
            killed.append(cluster.scheduler.wait())

    try:
        with connected(cluster) as client:
            report = s2sr_xr.batch(paths, out, **HOW, client=client, progress=kill)
            client.close(timeout=1)
    finally:
        cluster.close()
    assert killed
    assert not report.ok
    assert "The scheduler at tcp://127.0.0.1" in report.stopped
    assert "is gone. What was written is safe" in str(report)
    assert not list(out.glob("*/_s2sr/lease/*"))
    assert moment(seed) <= len(records(out)) < ITEMS * BLOCKS
    assert goes_on(paths, out, wanted)


def test_ctrl_c_at_the_terminal_ends_in_order(tmp_path):
    """A terminal sends SIGINT to the whole group: to the workers too."""
    paths = night(tmp_path / "items", 2, side=732)
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-c", "from s2sr_xr.cli import app; app()"),
        *("batch", *map(str, paths), "--out", str(out), "--task", "upsample"),
        *("--model", "bicubic", "--bands", "B05", "--block", "366"),
        *("--json", str(tmp_path / "report.json")),
    ]
    child = subprocess.Popen(
        [*command, "--workers", "1"],
        env=ENV,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        while child.poll() is None and not records(out):
            time.sleep(0.005)
        os.killpg(child.pid, signal.SIGINT)
        said, told = child.communicate(timeout=120)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 1, told
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["stopped"].startswith("interrupted"), told
    assert "stopped: interrupted" in said
    assert "Traceback" not in told
    assert not list(out.glob("*/_s2sr/lease/*"))
    done = records(out)
    again = subprocess.run(command, env=ENV, check=False, capture_output=True)
    assert again.returncode == 0, again.stderr
    assert done.items() <= records(out).items()
