"""A job that was killed goes on where it was, and no other goes on with its store."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from test_to_zarr import ALL, Hills, gentle, own_tree
from test_zarr import fill, make_template, pixels
from worlds import tree
from zarr.storage import FsspecStore, LocalStore, MemoryStore

import s2sr_xr
from s2sr_xr.engine.fingerprint import token_of
from s2sr_xr.errors import ResumeMismatchError, StoreError
from s2sr_xr.output import zarr as s2
from s2sr_xr.output.zarr import lock
from s2sr_xr.output.zarr import template as outline

TESTS = Path(__file__).parents[1]
SEEDS = range(max(3, int(os.environ.get("S2SR_FAULTS", "3"))))


def result():
    """Return a small lazy result: own sources, a network, 12 blocks, arithmetic too."""
    ten = own_tree((70, 130), times=2, chunk=366).s2sr.upsample("bicubic")
    ndvi = (ten.B08 - ten.B04) / (ten.B08 + ten.B04)
    return ten[["B01", "B05", "B08", "quality"]].assign(ndvi=ndvi)


def equal(path, ds):
    """Whether a store is complete and holds what writing `ds` at once would give."""
    whole = MemoryStore()
    ds.s2sr.to_zarr(whole)
    xr.testing.assert_identical(
        s2sr_xr.open_result(path).load().drop_attrs(),
        s2sr_xr.open_result(whole).load().drop_attrs(),
    )
    return True


def records(path):
    """Return when the record of each block that is there was written."""
    return {p.name: p.stat().st_mtime_ns for p in Path(path).glob("_s2sr/*.json")}


CHILD = """
    import os, signal, sys
    from pathlib import Path
    sys.path[:0] = [{tests!r}, {tests!r} + "/output"]
    from test_resume import result

    # Whoever started this may have told it to ignore Ctrl-C, as a shell's "&" does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    count, real = 0, Path.replace

    def replace(self, target):
        # zarr-python makes each object whole by this call: before it, a file is half
        # there; after it, whatever should follow is not.
        global count
        count += 1
        if count == {at} and {before}:
            os.kill(os.getpid(), {signal})
        done = real(self, target)
        if count == {at} and not {before}:
            os.kill(os.getpid(), {signal})
        return done

    Path.replace = replace
    result().s2sr.to_zarr({path!r}, resume=True, layout={layout!r})
    print(count)
"""


def run(path, at=0, before=False, layout="plain", sign=signal.SIGKILL):
    """Write the result in another process, killed at its `at`-th object."""
    values = {"at": at, "before": before, "signal": int(sign), "path": str(path)}
    code = textwrap.dedent(CHILD).format(tests=str(TESTS), layout=layout, **values)
    env = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    child = [sys.executable, "-c", code]
    return subprocess.run(child, check=False, capture_output=True, text=True, env=env)


def test_killed_before_anything_is_whole(tmp_path):
    path = tmp_path / "out.zarr"
    assert run(path, at=1, before=True).returncode == -signal.SIGKILL
    assert [p.suffix for p in path.iterdir()] == [".partial"]
    result().s2sr.to_zarr(path, resume=True)
    assert equal(path, result())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_run_is_resumed(tmp_path, seed):
    """Law 7: the same pixels, and no finished block computed twice."""
    rng = np.random.default_rng(seed)
    path, layout = tmp_path / "out.zarr", rng.choice(["plain", "sharded"])
    ds = result()
    at, before = int(rng.integers(1, 98)), bool(rng.random() < 0.6)  # of 97 objects
    died = run(path, at, before, str(layout))
    assert died.returncode == -signal.SIGKILL, died.stderr
    done = records(path)
    ds.s2sr.to_zarr(path, resume=True, layout=str(layout))
    assert {n: t for n, t in records(path).items() if n in done} == done
    assert equal(path, ds)
    assert not list(path.rglob("*.partial"))


def test_an_interrupted_run_is_resumed(tmp_path):
    path = tmp_path / "out.zarr"
    died = run(path, at=60, sign=signal.SIGINT)
    assert "KeyboardInterrupt" in died.stderr
    assert not list(path.glob("_s2sr/lease/*"))
    done = records(path)
    assert done
    Hills.reads = 0
    result().s2sr.to_zarr(path, resume=True)
    assert {n: t for n, t in records(path).items() if n in done} == done
    assert equal(path, result())


def test_only_what_is_missing_is_computed(tmp_path):
    path, ds = tmp_path / "out.zarr", result()[["B05", "quality"]]
    ds.s2sr.to_zarr(path)
    count = 2 * len(ds.B05.data.chunks[1]) * len(ds.B05.data.chunks[2])
    Hills.reads = 0
    ds.s2sr.to_zarr(path, resume=True)
    assert Hills.reads == 0
    for name in ("0-0-0", "1-1-0"):
        (path / f"_s2sr/{name}.json").unlink()
    assert len(dict(ds.s2sr.to_zarr(path, resume=True, compute=False).dask)) == 2 + 1
    with pytest.raises(
        StoreError, match=rf"{count - 2} of {count} blocks.*resume=True"
    ):
        s2sr_xr.open_result(path)
    ds.s2sr.to_zarr(path, resume=True)
    per_block = Hills.reads // 2
    Hills.reads = 0
    ds.s2sr.to_zarr(path, mode="w")
    assert Hills.reads == per_block * count > 0


def places(tmp_path):
    return {
        "path": tmp_path / "a.zarr",
        "file": (tmp_path / "b.zarr").as_uri(),
        "memory": MemoryStore(),
        "url": f"memory://{tmp_path.name}-u.zarr",
        "fsspec": FsspecStore.from_url(f"memory://{tmp_path.name}-f.zarr"),
    }


@pytest.mark.parametrize("layout", ["plain", "sharded"])
@pytest.mark.parametrize("kind", ["path", "file", "memory", "url", "fsspec"])
@pytest.mark.parametrize("lazy", [True, False])
def test_every_kind_of_store_resumes_and_verifies(tmp_path, kind, layout, lazy):
    place, ds = places(tmp_path)[kind], result()[["B05", "quality"]]
    ds = ds if lazy else ds.compute()
    token = token_of(ds)
    size = ds.B05.chunks[1][0] if lazy else 2196
    block = (min(size, ds.sizes["y"]), min(size, ds.sizes["x"]))
    s2.create(place, ds, block=block, layout=layout, token=token)
    for _ in range(2):
        ds.s2sr.to_zarr(place, resume=True, layout=layout)
        assert equal(place, ds)
    assert s2sr_xr.verify(place) == []


# --- torn chunks ---


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x10
    path.write_bytes(bytes(content))


HARM = {
    "cut": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "flipped": flip,
}


@pytest.mark.parametrize("layout", ["plain", "sharded"])
@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("seed", range(3))
def test_a_torn_chunk_is_found_and_written_again(tmp_path, layout, harm, seed):
    path = tmp_path / "out"
    template = make_template(2, (22, 17))
    block, unit = (8, 8), (4, 4) if layout == "plain" else None
    made = {"block": block, "unit": unit, "layout": layout}
    target = s2.create(path, template, **made)
    fill(target)
    target.finish()
    assert s2sr_xr.verify(path) == []
    names = [v.name for v in target.variables]
    files = sorted(p for n in names for p in path.glob(f"{n}/c/**/*") if p.is_file())
    victim = files[np.random.default_rng(seed).integers(len(files))]
    (index,) = (
        i
        for i in target.indices()
        for v in target.variables
        if victim.relative_to(path).as_posix() in target.keys(i, v.name)
    )
    before = victim.read_bytes()
    HARM[harm](victim)
    if harm == "flipped":
        (bad,) = s2sr_xr.verify(path)
        assert (bad.index, bad.what) == (index, victim.relative_to(path).parts[0])
        assert "checksum" in bad.reason or "cannot be decoded" in bad.reason
    again = s2.resume_or_create(path, template, **made)
    assert again.missing() == [index]
    with pytest.raises(StoreError, match="unfinished"):
        s2sr_xr.open_result(path)
    with pytest.raises(StoreError, match="not complete: 1 of 18"):
        again.finish()
    again.write(index, pixels(again, index))
    again.finish()
    assert victim.read_bytes() == before
    assert s2sr_xr.verify(path) == []


def test_verify_says_what_is_wrong(tmp_path):
    path = tmp_path / "out"
    target = s2.create(path, make_template(1), block=(22, 9), unit=(22, 9))
    target.write((0, 0, 0), pixels(target, (0, 0, 0)))
    assert s2sr_xr.verify(path) == []  # not written yet is not bad
    fill(target)
    target.finish()
    (path / "_s2sr/0-0-0.json").unlink()
    (path / "_s2sr/0-0-1.json").write_text("{")
    bad = s2sr_xr.verify(path)
    assert [(b.index, b.what, b.reason) for b in bad] == [
        ((0, 0, 0), "record", "there is none"),
        ((0, 0, 1), "record", "it is damaged"),
    ]
    fill(target)
    target.finish()
    (path / "B11/c/0/0/1").unlink()
    (bad,) = s2sr_xr.verify(path)
    assert (bad.what, bad.reason) == ("B11", "B11/c/0/0/1 is not there")
    with pytest.raises(StoreError, match="no Zarr v3 store at"):
        s2sr_xr.verify(tmp_path / "nowhere")


# --- another job ---


def scene(seed=0, **coords):
    return tree((13, 14), ALL, values=gentle, **coords).chunk(x=40, y=40)


def bicubic(obj, *names, **options):
    return obj.s2sr.upsample("bicubic", **options)[list(names) or ["B05", "B11"]]


CHANGES = {
    "model": (
        lambda: scene().s2sr.upsample("nearest")[["B05", "B11"]],
        r"model 20 m was bicubic-20m \(weights none\), is now nearest-20m",
    ),
    "weights": (
        lambda: scene().s2sr.upsample("dsen2")[["B05", "B11"]],
        r"model 20 m was bicubic-20m .*is now dsen2-s-20m \(weights \w{12}\)",
    ),
    "grid": (
        lambda: bicubic(scene(corner=(600_060.0, 8_200_000.0))),
        r"grid transform was \[10.0, 0.0, 600000.0",
    ),
    "source": (
        lambda: bicubic(scene().map_over_datasets(lambda ds: ds * 0.5)),
        r"sources B05 was xarray-B05-\w+, is now mul-",
    ),
    "arithmetic": (
        lambda: bicubic(scene()).assign(B11=lambda ds: ds.B11 * 2),
        r"pixels B11 was \w{32}, is now mul-\w{32}",
    ),
    "bands": (lambda: bicubic(scene(), "B05"), "variables B11 dtype|variables B11 was"),
    "packing": (
        lambda: bicubic(scene()).assign(
            B05=lambda ds: ds.B05.assign_attrs(units="count")
        ),
        "variables B05 packing scale_factor was 0.0001, is now 0.1",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_job_is_refused_by_name(tmp_path, change):
    path = tmp_path / "out"
    bicubic(scene()).s2sr.to_zarr(path, resume=True)
    before = records(path)
    make, said = CHANGES[change]
    with pytest.raises(ResumeMismatchError, match=f"another job: .*{said}") as caught:
        make().s2sr.to_zarr(path, resume=True)
    assert 'mode="w"' in str(caught.value)
    assert records(path) == before
    bicubic(scene()).s2sr.to_zarr(path, resume=True)


def test_radiometry_layout_and_blocks_are_named(tmp_path):
    item = s2sr_xr.simulate_scene(tmp_path / "scene", size=120)
    ten = s2sr_xr.open_stac(item).s2sr.upsample("bicubic", bands=["B11"])
    ten.s2sr.to_zarr(tmp_path / "out", resume=True)
    other = s2sr_xr.open_stac(item, radiometry={"offset": 0, "scale": 1e-4})
    other = other.s2sr.upsample("bicubic", bands=["B11"])
    with pytest.raises(ResumeMismatchError, match=r"radiometry B02 was -1000 x 0.0001"):
        other.s2sr.to_zarr(tmp_path / "out", resume=True)
    with pytest.raises(ResumeMismatchError, match="layout was plain, is now sharded"):
        ten.s2sr.to_zarr(tmp_path / "out", resume=True, layout="sharded")
    small, large = (
        own_tree((130, 130), chunk=n).s2sr.upsample("bicubic") for n in (366, 732)
    )
    small.s2sr.to_zarr(tmp_path / "small")
    said = r"job: block was \[366, 366\], is now \[732, 732\]"
    with pytest.raises(ResumeMismatchError, match=said):
        large.s2sr.to_zarr(tmp_path / "small", resume=True)
    with pytest.raises(StoreError, match='layout is "plain" or "sharded"'):
        ten.s2sr.to_zarr(tmp_path / "other", layout="round")


def test_pixels_in_memory_are_compared_by_what_they_are(tmp_path):
    ten = bicubic(scene()).compute()
    ten.s2sr.to_zarr(tmp_path / "out")
    (tmp_path / "out/_s2sr/0-0-0.json").unlink()
    changed = ten.copy(deep=True)
    changed.B05[0, 0] += 0.1
    with pytest.raises(ResumeMismatchError, match="pixels B05 was"):
        changed.s2sr.to_zarr(tmp_path / "out", resume=True)
    ten.s2sr.to_zarr(tmp_path / "out", resume=True)
    assert equal(tmp_path / "out", ten)


def test_where_the_work_runs_is_no_matter():
    a = token_of(bicubic(scene(), batch=1, device="cpu", check=False))
    assert a == token_of(bicubic(scene()))


def test_what_nobody_can_tell_is_not_resumed(tmp_path):
    ten = bicubic(scene())
    drawn = da.from_array(ten.B05.values, chunks=40, name=False)
    mixed = ten.assign(extra=(("y", "x"), drawn * 2))
    with pytest.raises(ResumeMismatchError, match=r"extra cannot .*at random, array-"):
        mixed.s2sr.to_zarr(tmp_path / "a", resume=True)
    assert not (tmp_path / "a").exists()
    mixed.s2sr.to_zarr(tmp_path / "a")  # without resume it is no matter
    behind = s2sr_xr.open_result(tmp_path / "a")
    with pytest.raises(ResumeMismatchError, match="neither in memory nor in a Dask"):
        behind.s2sr.to_zarr(tmp_path / "b", resume=True)
    with pytest.raises(StoreError, match="pass one of them"):
        ten.s2sr.to_zarr(tmp_path / "c", resume=True, mode="w")


def test_what_is_not_ours_is_not_resumed(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("miaow")
    xr.Dataset({"a": 1}).to_zarr(tmp_path / "theirs", zarr_format=3, consolidated=False)
    for name in ("photos", "theirs"):
        with pytest.raises(StoreError, match="was not made by s2sr_xr"):
            bicubic(scene()).s2sr.to_zarr(tmp_path / name, resume=True)
    assert (tmp_path / "photos/cat.jpg").read_text() == "miaow"
    s2.create(tmp_path / "old", make_template(1), block=(8, 8))
    about = json.loads((tmp_path / "old/zarr.json").read_text())
    del about["attributes"]["s2sr:outline"]
    (tmp_path / "old/zarr.json").write_text(json.dumps(about))
    with pytest.raises(StoreError, match="earlier version"):
        s2.resume_or_create(tmp_path / "old", make_template(1), block=(8, 8))
    with pytest.raises(StoreError, match="earlier version"):
        s2sr_xr.verify(tmp_path / "old")


def test_the_first_differences_are_named():
    place, made = MemoryStore(), {"block": (8, 8), "template": make_template(1)}
    was = {"model": {"20 m": "a (weights 1)"}, "precision": "float32", "n": 1, "m": 1}
    now = {"model": {"20 m": "a (weights 2)"}, "precision": "bf16", "n": 2, "m": 2}
    s2.create(place, **made, token=was | {"pixels": {"B05": "x"}})
    said = (
        r"job: model 20 m was a \(weights 1\), is now a \(weights 2\); precision was "
        r"float32, is now bf16; n was 1, is now 2; and 1 more\. Resume"
    )
    with pytest.raises(ResumeMismatchError, match=said):
        s2.resume_or_create(place, **made, token=now | {"pixels": {"B05": "y"}})


def test_a_complete_store_takes_no_block():
    place = MemoryStore()
    target = s2.create(place, make_template(1), block=(22, 17))
    fill(target)
    target.finish()
    with pytest.raises(StoreError, match=r"is complete, so block .* not written"):
        fill(target)


# --- one run at a time ---

HOLDER = """
    import sys
    sys.path[:0] = [{tests!r}, {tests!r} + "/output"]
    from test_resume import result
    from s2sr_xr.output.zarr import Target
    real = Target.write

    def write(self, index, arrays):
        record = real(self, index, arrays)
        print("written", flush=True)
        sys.stdin.read()  # until it is killed
        return record

    Target.write = write
    result().s2sr.to_zarr({path!r}, resume=True)
"""


def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path):
    path, ds = tmp_path / "out.zarr", result()
    code = textwrap.dedent(HOLDER).format(tests=str(TESTS), path=str(path))
    env = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=env, **pipes) as first:
        assert first.stdout.readline() == "written\n"
        for options in ({"resume": True}, {"mode": "w"}):
            with pytest.raises(StoreError, match=rf"another run: process {first.pid} "):
                ds.s2sr.to_zarr(path, **options)
        with pytest.raises(StoreError, match="another run"):
            s2sr_xr.verify(path)
        work = None
        with suppress(StoreError):
            work = ds.s2sr.to_zarr(path, resume=True, compute=False)
        assert work is None
        first.kill()
    done = records(path)
    assert done
    ds.s2sr.to_zarr(path, resume=True)
    assert {n: t for n, t in records(path).items() if n in done} == done
    assert equal(path, ds)


class SlowMemory(MemoryStore):
    """A store that takes its time to delete."""

    slow = 0.0

    async def delete(self, key):
        await asyncio.sleep(self.slow)
        await super().delete(key)


class SlowDisk(LocalStore):
    """A folder that takes its time to delete."""

    slow = 0.0

    async def delete(self, key):
        await asyncio.sleep(self.slow)
        await super().delete(key)


@pytest.mark.parametrize("slow", [0, 0.3])
def test_of_runs_that_start_at_once_one_holds_the_lock(tmp_path, slow):
    for n in range(8):
        place = SlowMemory() if n % 2 else SlowDisk(tmp_path / f"{n}")
        place.slow = slow
        held, refused = [], []
        begin, end = (threading.Barrier(4, timeout=60) for _ in range(2))

        def start(run, place=place, held=held, refused=refused, begin=begin, end=end):
            begin.wait()
            try:
                with lock.hold(place, run, patience=0.1):
                    held.append(run)
                    end.wait()
            except StoreError:
                refused.append(run)
                end.wait()

        threads = [threading.Thread(target=start, args=(r,)) for r in "abcd"]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(held) == 1
        assert len(refused) == 3


def test_a_lock_outlives_no_failure(tmp_path):
    bad = (scene() * 1e4).s2sr.upsample("bicubic")
    for work in (
        lambda: bad.s2sr.to_zarr(tmp_path / "out", mode="w"),
        lambda: dask.compute(
            bad.s2sr.to_zarr(tmp_path / "out", mode="w", compute=False)
        ),
    ):
        with pytest.raises(s2sr_xr.RadiometryError, match="counts"):
            work()
        assert not list(Path(tmp_path / "out").glob("_s2sr/lease/*"))


@pytest.mark.parametrize("lazy", [True, False])
def test_work_for_later_takes_the_lock_when_it_runs(tmp_path, lazy):
    path, ds = tmp_path / "out", result() if lazy else result().compute()
    work = ds.s2sr.to_zarr(path, compute=False)
    target = s2.resume_or_create(
        path, ds, block=s2sr_xr.output.to_zarr.blocks_of(ds).size, token=token_of(ds)
    )
    with target.lock(), pytest.raises(StoreError, match="another run"):
        dask.compute(work)
    work = ds.s2sr.to_zarr(path, resume=True, compute=False)
    dask.compute(work)
    assert equal(path, ds)


@pytest.mark.parametrize("named", [True, False])
def test_a_store_that_another_run_begins_meanwhile_is_not_for_mode_w(
    named, tmp_path, monkeypatch
):
    """Between the look at the place and the first object, another was quicker."""
    path, first = tmp_path / "a.zarr", outline.make_room

    def overtaken(at, mode):
        if named:
            s2.create(path, make_template(), block=(60, 60))
        first(at, mode)
        if not named:
            s2.create(path, make_template(), block=(60, 60))

    looks = iter([overtaken])

    def look(at, mode):
        next(looks, first)(at, mode)

    monkeypatch.setattr(outline, "make_room", look)
    with pytest.raises(StoreError, match=r"Another run begins .*a\.zarr.*resume=True"):
        s2.resume_or_create(path, make_template(), block=(60, 60))
    assert s2.resume_or_create(path, make_template(), block=(60, 60)).missing()


def test_a_lock_from_elsewhere_dies_of_silence(tmp_path):
    target = s2.create(tmp_path / "out", make_template(1), block=(22, 17))
    said = {"run": "r", "machine": "moon", "pid": 1, "started": 0.0, "beat": 0.0}
    folder = tmp_path / "out/_s2sr/lease"
    folder.mkdir(parents=True)

    for age, held in ((0, True), (lock.SILENCE + 5, False)):
        (folder / "r-x.json").write_text(json.dumps(said | {"beat": time.time() - age}))
        if held:
            with (
                pytest.raises(StoreError, match=r"process 1 on moon.*wait 120 s"),
                target.lock(),
            ):
                pass
    with lock.hold(LocalStore(tmp_path / "out"), "mine", beat=0.01):
        assert not (folder / "r-x.json").exists()
        (mine,) = folder.iterdir()
        beat = json.loads(mine.read_text())["beat"]
        while json.loads(mine.read_text())["beat"] == beat:
            pass
    assert not list(folder.iterdir())


# --- disks and cables ---


class Failing(MemoryStore):
    """A store that fails from its `left`-th object on, until it is mended."""

    left, code = 10**9, errno.ENOSPC

    async def set(self, key, value, byte_range=None):
        self.left -= 1
        if self.left < 0:
            raise OSError(self.code, os.strerror(self.code))
        await super().set(key, value, byte_range)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("after", [0, 40, 70])
def test_a_failing_disk_is_named_and_survived(code, after):
    place, ds = Failing(), result()
    place.left, place.code = after, code
    with pytest.raises(StoreError, match=rf"Cannot .*{os.strerror(code)}.*free space"):
        ds.s2sr.to_zarr(place)
    place.left = 10**9
    ds.s2sr.to_zarr(place, resume=True)
    assert equal(place, ds)


def test_a_small_disk_fills_up(tmp_path):
    mount, umount = shutil.which("mount"), shutil.which("umount")
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=3m", "none", str(disk)]
    tried = mount and subprocess.run([mount, *options], check=False).returncode
    if tried != 0:
        pytest.skip("this user may not mount a tmpfs")
    try:
        path, ds = disk / "out.zarr", result()
        with pytest.raises(StoreError, match="No space left on device"):
            ds.s2sr.to_zarr(path)
        with pytest.raises(StoreError, match="No space left on device"):
            ds.s2sr.to_zarr(path, resume=True)
        more = [mount, "-o", "remount,size=30m", str(disk)]
        subprocess.run(more, check=True)
        ds.s2sr.to_zarr(path, resume=True)
        assert equal(path, ds)
    finally:
        subprocess.run([umount, str(disk)], check=True)


def test_a_store_removed_under_way_stays_removed(tmp_path):
    path, ds = tmp_path / "out.zarr", result()
    work = ds.s2sr.to_zarr(path, compute=False)
    target = s2.create(tmp_path / "b", make_template(1), block=(8, 8))
    target.write((0, 0, 0), pixels(target, (0, 0, 0)))
    for place in (path, tmp_path / "b"):
        shutil.rmtree(place)
    with pytest.raises(StoreError, match="was removed, or created anew"):
        target.write((0, 0, 1), pixels(target, (0, 0, 1)))
    with pytest.raises(StoreError, match="was removed, or created anew"):
        dask.compute(work)
    assert not path.exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.filterwarnings("ignore:Object at mine.partial is not")
def test_what_killed_writes_left_is_swept(tmp_path):
    path = tmp_path / "out"
    target = s2.create(path, make_template(1), block=(8, 8))
    fill(target)
    left = [path / f"B05/c/0/0/0.{'0af3' * 8}.partial", path / "mine.partial"]
    for file in left:
        file.write_bytes(b"half")
    again = s2.resume_or_create(path, make_template(1), block=(8, 8))
    assert [f.exists() for f in left] == [False, True]
    left[0].write_bytes(b"half")
    again.finish()
    assert [f.exists() for f in left] == [False, True]


def test_a_store_in_memory_takes_no_other_process():
    import pickle

    from test_zarr import run_child

    target = s2.create(MemoryStore(), make_template(1), block=(22, 17))
    code = """
        import pickle, sys, numpy as np
        target = pickle.loads(sys.stdin.buffer.read())
        try:
            target.write((0, 0, 0), {v.name: np.ones((22, 17),
                "u1" if v.dtype == "uint8" else "f4") for v in target.variables})
        except OSError as error:
            print(error)
    """
    said = run_child(code, pickle.dumps(target))
    assert f"in the memory of process {os.getpid()}" in said


@pytest.mark.parametrize("compute", [True, False])
def test_a_cluster_of_processes_writes_and_resumes(tmp_path, compute, cluster):
    ds = bicubic(scene(), "B05", "B11", "quality")
    with pytest.raises(StoreError, match=rf"memory of process {os.getpid()}"):
        ds.s2sr.to_zarr(MemoryStore())
    path = tmp_path / "out"
    work = ds.s2sr.to_zarr(path, compute=compute)
    if not compute:
        cluster.compute(work).result()
    assert not list(path.glob("_s2sr/lease/*"))
    (path / "_s2sr/0-0-0.json").unlink()
    ds.s2sr.to_zarr(path, resume=True)
    s2sr_xr.open_result(path).load()
    assert s2sr_xr.verify(path) == []


@pytest.fixture(scope="module")
def cluster():
    from distributed import Client, LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as made, Client(made) as client:
        yield client


def test_the_writing_benchmark_runs(tmp_path):
    script = TESTS.parent / "benchmarks/writing.py"
    for layout in ("plain", "sharded"):
        options = ["--size", "64", "--rounds", "1", "--layout", layout]
        said = subprocess.run(
            [sys.executable, script, "--out", tmp_path, *options],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "ratio by CPU" in said
