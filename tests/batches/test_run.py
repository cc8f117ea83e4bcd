"""Many items: a block a task, the same pixels as one by one, whatever fails between."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pystac
import pytest
import xarray as xr
from worlds import MIXES, WholeNumbers

import s2sr_xr
from s2sr_xr.batches import open_any, workers
from s2sr_xr.batches.driver import Drive
from s2sr_xr.batches.inputs import Entry, listed, stem
from s2sr_xr.batches.report import SHOWN, BatchReport, ItemReport, Log
from s2sr_xr.batches.run import Recipe
from s2sr_xr.batches.task import Piece, Rules
from s2sr_xr.batches.workers import (
    ClusterLostError,
    Threads,
    Workers,
    check_versions,
    versions,
)
from s2sr_xr.engine.fingerprint import token_of
from s2sr_xr.engine.lazy import job_of
from s2sr_xr.errors import ReadError, S2SRError, S2SRWarning, StoreError
from s2sr_xr.models.registry import register
from s2sr_xr.output.zarr import resume_or_create
from s2sr_xr.output.zarr.write import StoreWork, sources_of
from s2sr_xr.readers.any import is_json, kind_of
from s2sr_xr.simulate.item import write_item

BANDS = {"B02": 10, "B08": 10, "B05": 20, "B11": 20}

HOW = {"task": "upsample", "model": {"20m": "test-20"}, "block": 24}
"""A network of whole numbers with tiles of 8 px: many blocks on little ground."""

BLOCKS = 9
"""Of an item of 72 px."""


def night(folder, count=2, side=72, hole=None):
    """Write items of four bands, and return the paths of their JSON."""
    paths = []
    for n in range(count):
        rng = np.random.default_rng(n)
        counts = {}
        for band, res in BANDS.items():
            shape = (side * 10 // res,) * 2
            counts[band] = rng.integers(2000, 3000, shape, np.uint16)
            if hole is not None:
                counts[band][: hole * 10 // res, : hole * 10 // res] = 0
        seen = dt.datetime(2025, 1, 1 + n, 10, tzinfo=dt.UTC)
        item = write_item(
            folder,
            f"S2B_MSIL1C_2025010{1 + n}T100000_N0511_R081_T32UPE_2025010{1 + n}T120000",
            counts,
            corner=(600_000.0, 5_400_000.0),
            epsg=32632,
            datetime=seen,
            level="L1C",
        )
        paths.append(Path(item.self_href))
    return paths


def one_by_one(paths, folder, how=HOW):
    """Write each item by itself, and return the results by name."""
    results = {}
    for path in paths:
        tree = s2sr_xr.open_stac(path, chunks=how["block"])
        store = folder / f"{path.stem}.zarr"
        s2sr_xr.upsample(tree, how["model"]).s2sr.to_zarr(store)
        results[path.stem] = s2sr_xr.open_result(store).load()
    return results


def same(out, wanted):
    """Whether the stores of a batch hold these results, bit for bit."""
    assert {p.stem for p in Path(out).glob("*.zarr")} == set(wanted)
    for name, ds in wanted.items():
        made = s2sr_xr.open_result(Path(out) / f"{name}.zarr").load()
        for own in ("s2sr:key", "s2sr:outline"):  # drawn for each store; its layout
            made.attrs[own] = ds.attrs[own]
        xr.testing.assert_identical(made, ds)
        assert s2sr_xr.verify(Path(out) / f"{name}.zarr") == []
    return True


def records(out):
    """Return when the record of each block that is there was written."""
    found = Path(out).glob("*.zarr/_s2sr/*.json")
    return {f"{p.parents[1].name}/{p.name}": p.stat().st_mtime_ns for p in found}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three items, and what each gives by itself."""
    folder = tmp_path_factory.mktemp("world")
    paths = night(folder / "items", 3)
    return paths, one_by_one(paths, folder / "single")


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            dashboard_address="127.0.0.1:0",
            resources={"lamp": 1},
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("who", ["threads", "cluster"])
@pytest.mark.parametrize("layout", ["plain", "sharded"])
def test_a_batch_gives_what_each_item_gives(tmp_path, world, client, who, layout):
    paths, wanted = world
    told = []
    report = s2sr_xr.batch(
        paths,
        tmp_path / "out",
        **HOW,
        client=client if who == "cluster" else None,
        layout=layout,
        log=tmp_path / "log.jsonl",
        progress=told.append,
    )
    assert report.ok, report
    assert same(tmp_path / "out", wanted)
    assert (report.blocks_written, report.blocks_skipped) == (3 * BLOCKS, 0)
    assert told[-1].blocks_done == told[-1].expected == 3 * BLOCKS
    assert told[-1].pixels == 3 * 72 * 72
    lines = [json.loads(s) for s in (tmp_path / "log.jsonl").read_text().splitlines()]
    # One task a block, and nothing else: tasks of a tile are its blocks.
    assert sum(s["event"] == "block" for s in lines) == 3 * BLOCKS
    assert not client.futures
    again = s2sr_xr.batch(paths, tmp_path / "out", **HOW, layout=layout)
    assert [item.state for item in again.items] == ["skipped"] * 3
    assert (again.blocks_written, again.blocks_skipped) == (0, 3 * BLOCKS)


def test_trained_networks_give_the_same_bits(tmp_path):
    item = s2sr_xr.simulate_scene(tmp_path / "scene", size=60)
    s2sr_xr.upsample(s2sr_xr.open_stac(item)).s2sr.to_zarr(tmp_path / "one.zarr")
    assert s2sr_xr.batch(item, tmp_path / "out", task="upsample").ok
    made = s2sr_xr.open_result(tmp_path / "out" / f"{item.id}.zarr").load()
    one = s2sr_xr.open_result(tmp_path / "one.zarr").load()
    xr.testing.assert_identical(made.drop_attrs(), one.drop_attrs())


def test_blocks_without_a_pixel_are_counted(tmp_path):
    paths = night(tmp_path / "items", 1, hole=24)
    report = s2sr_xr.batch(paths, tmp_path / "out", **HOW)
    assert (report.blocks_empty, report.blocks_written) == (1, BLOCKS - 1)


def test_a_batch_takes_items_in_every_form(world, tmp_path):
    import pystac

    paths, _ = world
    items = [pystac.Item.from_file(p) for p in paths]
    search = tmp_path / "search.json"
    search.write_text(json.dumps(pystac.ItemCollection(items).to_dict()))
    few = tmp_path / "few.json"
    few.write_text(json.dumps([os.path.relpath(p, tmp_path) for p in paths]))
    names = [p.stem for p in paths]
    forms = (paths, items, [i.to_dict() for i in items], search, few, iter(items))
    for form in (*forms, pystac.ItemCollection(items), json.loads(search.read_text())):
        found = listed(form)
        assert [e.id for e in found] == names
        assert found[0].open(chunks=24).r10m.B02.shape == (1, 72, 72)


@pytest.mark.parametrize("own", ["file:///old/a.json", "https://host/a.json", "/old"])
def test_relative_addresses_of_a_collection_count_from_its_file(world, tmp_path, own):
    facts = json.loads(world[0][0].read_text())
    facts["links"] = [{"rel": "self", "href": own}]
    path = tmp_path / "found here.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [facts]}))
    for asset in facts["assets"].values():
        shutil.copy(world[0][0].parent / asset["href"], tmp_path)
    direct = s2sr_xr.open_stac(path, chunks=24).load()
    for place in (path, path.as_uri()):
        (entry,) = listed(place)
        xr.testing.assert_identical(entry.open(chunks=24).load(), direct)
    if own.startswith("https:"):  # nor may it lead away from there
        asset["href"] = "../secret.tif"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [facts]}))
        (entry,) = listed(path)
        with pytest.raises(ReadError, match="points to the local file"):
            entry.open(chunks=24)


def test_a_file_url_is_a_path(world, tmp_path):
    path = world[0][0]
    assert set(open_any(path.as_uri()).children) == {"r10m", "r20m"}
    few = tmp_path / "a few.json"
    few.write_text(json.dumps([path.as_uri(), os.path.relpath(world[0][1], tmp_path)]))
    for form in (few.as_uri(), [few.as_uri()]):
        assert [e.id for e in listed(form)] == [p.stem for p in world[0][:2]]
    with pytest.raises(ReadError, match=r"There is nothing at /no/a b\.SAFE"):
        open_any("file:///no/a%20b.SAFE")


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("https://host/a.zarr?sig=SECRET", "eopf"),
        ("https://host/a.ZARR/", "eopf"),
        ("https://host/a.SAFE", "safe"),
        ("https://host/a.SAFE.zip?sig=SECRET", "safe"),
        ("/data/a.ZIP/S2A_MSIL1C_x.SAFE/GRANULE/x", "safe"),
        ({"assets": {"product": {"href": "https://host/a.zarr?sig=SECRET"}}}, "eopf"),
    ],
)
def test_the_name_says_the_kind(place, kind):
    assert kind_of(place, load=lambda _: {}) == kind


def test_other_names_on_the_web_are_items():
    assert is_json("https://host/a")


def test_a_remote_safe_says_what_to_do():
    with pytest.raises(ReadError, match=r"^https://host/a\.SAFE is a URL; SAFE prod"):
        open_any("https://host/a.SAFE?sig=SECRET")


def test_open_any_knows_the_reader_by_the_name(tmp_path, world):
    import l1bs
    import safes

    paths, _ = world
    assert set(open_any(paths[0]).children) == {"r10m", "r20m"}
    safe = safes.make(tmp_path).path
    assert open_any(safe).attrs["source"] == "SAFE"
    assert stem(str(safe)) == safe.stem
    scene = l1bs.simulate_l1b(tmp_path / "l1b")
    tree = open_any(scene.path, chunks=48)
    assert set(tree.children) == {"d05", "d06"}
    assert tree.d05.B02.attrs["shift_score"] > 0.5
    with pytest.raises(ReadError, match="There is nothing at"):
        open_any(tmp_path / "nothing.SAFE")
    (tmp_path / "notes").mkdir()
    with pytest.raises(
        ReadError, match="not a product that is read here: give the JSON"
    ):
        open_any(tmp_path / "notes")
    eopf = {"id": "a", "assets": {"product": {"href": str(tmp_path / "a.zarr")}}}
    with pytest.raises(ReadError, match=r"a\.zarr"):
        open_any({**eopf, "properties": {"datetime": "2025-01-01T00:00:00Z"}})


def test_detectors_get_a_store_each(tmp_path):
    import l1bs

    scene = l1bs.simulate_l1b(tmp_path / "l1b")
    spec = replace(MIXES["10->5"], name="test-l1b", units="count")

    def twice(images):
        inner = images[:, :, spec.margin : -spec.margin, spec.margin : -spec.margin]
        return inner.repeat_interleave(2, -1).repeat_interleave(2, -2)

    register(spec, lambda: twice)
    report = s2sr_xr.batch(scene.path, tmp_path / "out", model="test-l1b", block=96)
    assert report.ok, report
    assert [i.id.rpartition("_")[2] for i in report.items] == ["d05", "d06"]
    for item in report.items:
        assert s2sr_xr.open_result(item.store).B02.attrs["units"] == "count"


# --- bad input ---


def bad_items(tmp_path, paths):
    (tmp_path / "words.json").write_text("no JSON")
    (tmp_path / "number.json").write_text("7")
    return {
        "nothing": ([], {}, "There are no items: the list is empty"),
        "a search of nothing": (
            {"type": "FeatureCollection", "features": []},
            {},
            "There are no items",
        ),
        "twice": (
            [paths[0], paths[1], paths[0]],
            {},
            f"Item {paths[0].stem} appears more than once among the items",
        ),
        "twice on some disks": (
            [{"id": "a", "assets": {}}, {"id": "A", "assets": {}}],
            {},
            "Item A appears more than once among the items, as a: both would be",
        ),
        "no JSON": (
            tmp_path / "words.json",
            {},
            r"No STAC item could be loaded from .*words.json: Expecting value",
        ),
        "no items": (tmp_path / "number.json", {}, "is not a STAC item, a collection"),
        "no file": (tmp_path / "no.json", {}, r"loaded from .*no.json: not found"),
        "a number": (7, {}, "int is not an item. Give STAC items"),
        "task": (paths, {"task": "sharpen"}, "task='sharpen' is not one of superres"),
        "model": (paths, {"model": "sharper"}, "No model is named 'sharper'"),
        "precision": (paths, {"precision": "fp8"}, "precision='fp8' is not one of"),
        "block": (paths, {"block": 100}, "block=100: the side of a block is a multip"),
        "device": (paths, {"device": "abacus"}, "device='abacus' is not usable"),
        "bands": (
            paths,
            {"task": "register", "model": None, "bands": ["B02"]},
            "register takes all bands",
        ),
        "on_error": (
            paths,
            {"on_error": "ignore"},
            'on_error is "continue" or "raise"',
        ),
        "log": (paths, {"log": paths[0] / "log"}, "The log .* cannot be written"),
    }


KINDS = sorted(bad_items(Path(os.devnull).parent / "shm", [Path("a"), Path("b")]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_call_fails_before_the_start(tmp_path, world, kind):
    items, how, said = bad_items(tmp_path, world[0])[kind]
    with pytest.raises(S2SRError, match=said):
        s2sr_xr.batch(items, tmp_path / "out", **HOW | how)
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_no_worker_has_is_an_error_not_a_wait(tmp_path, world, client):
    with pytest.raises(
        S2SRError, match=r"needs workers with the resource GPU, and none of the 2"
    ):
        s2sr_xr.batch(world[0], tmp_path, **HOW, client=client, device="cuda")


def test_a_gpu_that_a_worker_promises_gets_the_work(tmp_path, world):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=1,
            processes=False,
            dashboard_address="127.0.0.1:0",
            resources={"GPU": 1},
        ) as cluster,
        Client(cluster) as client,
    ):
        report = s2sr_xr.batch(
            world[0][:1], tmp_path, **HOW, client=client, device="cuda"
        )
    # Here the promise may be false: the block says so, and nothing waits for ever.
    assert report.ok or "device='cuda' is not usable" in report.failed[0].error


class Deserted:
    """The client of a cluster whose workers were there, and are gone."""

    status = "running"
    asked = 0

    def run(self, *_, **__):
        worker = {"versions": versions(), "threads": 4, "resources": {"GPU": 1}}
        return {"tcp://a:1": worker}

    def nthreads(self):
        self.asked += 1
        return {}


@pytest.mark.parametrize("gpu", [False, True])
def test_a_cluster_without_workers_is_given_up_while_waiting(gpu):
    client = Deserted()
    now = [0.0]
    crew = Workers(client, gpu=gpu, clock=lambda: now[0])
    crew.ended(0)
    assert client.asked == 0  # it was asked just now
    now[0] = 10
    for _ in range(3):
        crew.ended(0)
    assert client.asked == 1
    crew.room()
    now[0] = workers.ABANDONED + 20
    with pytest.raises(ClusterLostError, match="has had no worker for 300 s"):
        crew.ended(0)


def test_other_versions_on_a_worker_are_an_error():
    check_versions({"tcp://a:1": {"versions": versions()}})
    theirs = {"versions": versions() | {"torch": "1.0"}}
    with pytest.raises(S2SRError, match=r"tcp://a:1 has torch 1\.0, this process"):
        check_versions({"tcp://a:1": theirs})


@pytest.mark.parametrize("item", ["../../x", "/etc/x", "a b", ".hidden", "..", "é:c"])
def test_a_hostile_id_stays_in_the_folder(tmp_path, item):
    from s2sr_xr.batches.run import store_of

    place = Path(store_of(tmp_path / "out", item))
    assert place.resolve().parent == (tmp_path / "out").resolve()
    assert place.name.endswith(".zarr")


def test_a_catalogue_of_others_is_noticed_before_the_start(tmp_path, world):
    theirs = pystac.Catalog("theirs", "of others").to_dict()
    (tmp_path / "catalog.json").write_text(json.dumps(theirs))
    with pytest.raises(StoreError, match="was not made by s2sr_xr, so it is left"):
        s2sr_xr.batch(world[0], tmp_path, **HOW)
    (tmp_path / "catalog.json").write_text("words")
    with pytest.raises(StoreError, match="is not a STAC catalogue"):
        s2sr_xr.batch(world[0], tmp_path, **HOW)
    assert [p.name for p in tmp_path.iterdir()] == ["catalog.json"]


# --- what fails on the way ---


def test_a_catalogue_that_cannot_be_written_costs_no_report(tmp_path, world):
    def occupy(now):
        if now.blocks_done == 1:
            (tmp_path / "catalog.json").write_text("words")

    with pytest.warns(
        S2SRWarning, match="not catalogued: StoreError: .* is not a STAC"
    ):
        report = s2sr_xr.batch(world[0][:1], tmp_path, **HOW, progress=occupy)
    assert report.ok
    assert same(tmp_path, {world[0][0].stem: world[1][world[0][0].stem]})


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")  # noqa: PTH110
def test_a_log_on_a_full_disk_does_not_end_the_night(tmp_path, world):
    with pytest.warns(S2SRWarning, match="log /dev/full .* any more: No space") as told:
        report = s2sr_xr.batch(world[0][:1], tmp_path, **HOW, log="/dev/full")
    assert len(told) == 1
    assert report.ok


def test_a_broken_item_does_not_stop_the_good_ones(tmp_path, world):
    paths, wanted = world
    broken = json.loads(paths[0].read_text())
    broken |= {"id": "broken", "assets": {"B02": {"href": "nowhere.tif"}}}
    items = ["gone.json", paths[0], broken, {"id": "empty"}, paths[1], paths[2]]
    report = s2sr_xr.batch(items, tmp_path / "out", **HOW, log=tmp_path / "log")
    assert [f.item for f in report.failed] == ["gone", "broken", "empty"]
    assert report.failed[0].error.startswith("ReadError: No STAC item could be loaded")
    assert all(f.block is None for f in report.failed)
    assert not report.ok
    assert "3 of 6 done" in str(report)
    assert "failed: gone: ReadError" in report._repr_html_()
    assert same(tmp_path / "out", wanted)
    said = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [s["item"] for s in said if s["event"] == "failed"] == [
        *("gone", "broken", "empty")
    ]
    with pytest.raises(ReadError, match="could be loaded from gone"):
        s2sr_xr.batch(items, tmp_path / "more", **HOW, on_error="raise")


def test_a_source_that_vanishes_fails_its_item_which_is_resumed(tmp_path):
    paths = night(tmp_path / "items")
    wanted = one_by_one(paths, tmp_path / "single")
    image = paths[0].parent / "B05.tif"

    def vanish(now):
        if now.blocks_done == 3 and image.exists():
            image.rename(image.with_suffix(".away"))

    report = s2sr_xr.batch(paths, tmp_path / "out", **HOW, progress=vanish, retries=0)
    states = {i.id: i.state for i in report.items}
    assert states == {paths[0].stem: "failed", paths[1].stem: "written"}
    assert "ReadError" in report.failed[0].error
    assert report.failed[0].block is not None
    assert not list((tmp_path / "out").glob("*/_s2sr/lease/*"))
    image.with_suffix(".away").rename(image)
    done = records(tmp_path / "out")
    again = s2sr_xr.batch(paths, tmp_path / "out", **HOW)
    assert again.ok
    assert again.blocks_written == 2 * BLOCKS - len(done)
    assert done.items() <= records(tmp_path / "out").items()
    assert same(tmp_path / "out", wanted)


def test_a_store_that_is_deleted_fails_its_item(tmp_path, world):
    paths, wanted = world
    out = tmp_path / "out"

    def remove(now):
        if now.blocks_done == 3:
            shutil.rmtree(out / f"{paths[0].stem}.zarr", ignore_errors=True)

    report = s2sr_xr.batch(paths, out, **HOW, progress=remove, retries=0)
    assert {f.item for f in report.failed} == {paths[0].stem}
    why = "was removed, or created anew|No such file or directory"
    assert re.search(why, report.failed[0].error)
    assert [i.state for i in report.items].count("written") == 2
    shutil.rmtree(out / f"{paths[0].stem}.zarr", ignore_errors=True)
    assert s2sr_xr.batch(paths, out, **HOW).ok
    assert same(out, wanted)


def test_two_batches_do_not_write_one_store(tmp_path, world):
    paths, wanted = world
    reports = []

    def another(now):
        if now.blocks_done == 1 and not reports:
            reports.append(s2sr_xr.batch(paths[:1], tmp_path / "out", **HOW))

    assert s2sr_xr.batch(paths, tmp_path / "out", **HOW, progress=another).ok
    assert "is being written by another run" in reports[0].failed[0].error
    assert same(tmp_path / "out", wanted)


def test_what_another_job_began_is_refused(tmp_path, world):
    paths, _ = world
    assert s2sr_xr.batch(paths[:1], tmp_path, **HOW).ok
    other = s2sr_xr.batch(paths[:1], tmp_path, **HOW | {"model": "bicubic"})
    assert "ResumeMismatchError" in other.failed[0].error
    fresh = s2sr_xr.batch(paths[:1], tmp_path, **HOW, resume=False)
    assert "exists, state 'complete'" in fresh.failed[0].error


class Flaky(WholeNumbers):
    """Fails some times, then works."""

    left = 0
    error: Exception = OSError("a disk that was busy")
    lock = threading.Lock()

    def forward(self, *images):
        with Flaky.lock:
            Flaky.left -= 1
            if Flaky.left >= 0:
                raise Flaky.error
        return super().forward(*images)


def flaky(left, error):
    spec = replace(MIXES["10+20->10"], name="test-flaky")
    register(spec, lambda: Flaky(spec))
    Flaky.left, Flaky.error = left, error
    return HOW | {"model": {"20m": "test-flaky"}}


@pytest.mark.parametrize(
    ("error", "failures", "retries", "ok"),
    [
        (OSError("a disk that was busy"), 2, 2, True),
        (ReadError("503 four times"), 1, 1, True),
        (OSError("a disk that was busy"), 1, 0, False),
        (ValueError("always wrong"), 1, 2, False),
    ],
)
def test_what_may_pass_is_tried_again(tmp_path, world, error, failures, retries, ok):
    report = s2sr_xr.batch(
        world[0][:1],
        tmp_path / "out",
        **flaky(failures, error),
        retries=retries,
        log=tmp_path / "log",
    )
    assert report.ok is ok
    assert ("retried" in (tmp_path / "log").read_text()) is ok
    if not ok:
        assert report.failed[0].error == f"{type(error).__name__}: {error}"


def test_the_first_error_is_raised_when_what_is_in_work_has_ended(tmp_path, world):
    how = flaky(3, ValueError("always wrong"))
    with pytest.raises(ValueError, match="always wrong"):
        s2sr_xr.batch(world[0], tmp_path, **how, on_error="raise")
    assert not list(tmp_path.glob("*/_s2sr/lease/*"))
    assert s2sr_xr.batch(world[0], tmp_path, **how, on_error="raise").ok


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_in_order_and_the_job_goes_on(tmp_path, world, sign):
    paths, wanted = world
    before = signal.getsignal(sign)

    def interrupt(now):
        if now.blocks_done == 12:
            os.kill(os.getpid(), sign)

    report = s2sr_xr.batch(paths, tmp_path, **HOW, progress=interrupt)
    assert signal.getsignal(sign) is before
    word = "interrupted" if sign == signal.SIGINT else "terminated"
    assert report.stopped == f"{word} (1 of 3 items not begun)"
    assert [i.state for i in report.items] == ["written", "unfinished"]
    assert not report.ok
    assert f"stopped: {word}" in str(report)
    assert not list(tmp_path.glob("*/_s2sr/lease/*"))
    done = records(tmp_path)
    assert 12 <= len(done) < 3 * BLOCKS
    again = s2sr_xr.batch(paths, tmp_path, **HOW)
    assert again.ok
    assert again.blocks_written == 3 * BLOCKS - len(done)
    assert done.items() <= records(tmp_path).items()
    assert same(tmp_path, wanted)


class Counting(Threads):
    """Threads that count what is in flight."""

    most = now = tasks = 0

    def submit(self, work, index):
        self.tasks += 1
        self.now += 1
        self.most = max(self.most, self.now)
        return super().submit(work, index)

    def result(self, future):
        self.now -= 1
        return super().result(future)


def test_few_blocks_are_in_flight_and_items_open_one_by_one(tmp_path, world):
    paths, _ = world
    recipe = Recipe(**HOW)
    crew, opened = Counting(2), []

    def make(path):
        opened.append((path, crew.tasks))
        return recipe.results(
            path.stem, Entry(path.stem, path), str(tmp_path / path.stem)
        )

    pieces = [Piece(p.stem, lambda p=p: make(p)) for p in paths]
    assert Drive(pieces, crew, Rules(), Log(None)).run().ok
    assert crew.tasks == 3 * BLOCKS
    assert crew.most <= 4
    assert [tasks for _, tasks in opened] == [0, BLOCKS, 2 * BLOCKS]


def test_a_block_that_is_there_is_not_done_again(tmp_path, world):
    """A scheduler repeats a block whose worker dies before it has answered."""
    paths, wanted = world
    assert s2sr_xr.batch(paths[0], tmp_path, **HOW).ok
    store = tmp_path / f"{paths[0].stem}.zarr"
    entry = Entry(paths[0].stem, paths[0])
    (made,) = Recipe(**HOW).results(entry.id, entry, str(store))
    (chunk,) = (store / "B11/c/0").glob("1/2")
    chunk.write_bytes(b"half")
    job, token = job_of(made.ds), token_of(made.ds)
    target = resume_or_create(store, made.ds, block=job.blocks.size, token=token)
    work = StoreWork(item="a", task=job.task, pixels=sources_of(job), target=target)
    assert repr(work) == "StoreWork(a)"
    before = records(tmp_path)
    assert work.do((0, 1, 1)).state == work.do((0, 1, 2)).state == "written"
    changed = {n for n, t in records(tmp_path).items() if before[n] != t}
    assert changed == {f"{store.name}/0-1-2.json"}
    target.finish()
    assert same(tmp_path, {entry.id: wanted[entry.id]})


def test_the_benchmark_runs(tmp_path):
    script = Path(__file__).parents[2] / "benchmarks/batch.py"
    command = [sys.executable, script, "--tiles", "4", "--side", "2", "--out", tmp_path]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "4 tiles of 4 blocks" in said


def test_a_long_report_names_what_failed_first():
    good = [
        ItemReport(id=f"good-{n}", store="", state="written", blocks_written=2)
        for n in range(60)
    ]
    bad = ItemReport(id="bad", store="", state="failed")
    report = BatchReport(items=(*good, bad))
    lines = str(report).splitlines()
    assert lines[1].startswith("bad ")
    assert lines[-2] == f"... and {61 - SHOWN} more"
    assert lines[-1].split() == ["all", "60", "of", "61", "done", "120", "0", "0"]
    assert json.loads(json.dumps(report.to_dict()))["blocks_written"] == 120


def test_what_is_complete_is_catalogued(tmp_path):
    item = s2sr_xr.simulate_scene(tmp_path / "world", size=120)
    for _ in range(2):  # the second run finds it complete
        s2sr_xr.batch([item], tmp_path / "out", task="upsample", model="bicubic")
    catalogue = pystac.Catalog.from_file(str(tmp_path / "out" / "catalog.json"))
    (made,) = catalogue.get_items()
    ten = s2sr_xr.open_result(made.assets["zarr"].get_absolute_href())
    assert ten.sizes["x"] == 120
    assert made.properties["s2sr:sources"] == [item.id]
    assert [link.rel for link in made.links].count("derived_from") == 1
