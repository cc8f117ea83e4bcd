"""The GPU engine: with a fake whose lanes run in any order they may, and a real one."""

from __future__ import annotations

import random
import threading
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from worlds import MIXES, WholeNumbers

import s2sr_xr
from s2sr_xr.core.tiling import CORRECTION, Box, cuts
from s2sr_xr.engine.consistency import Consistent
from s2sr_xr.engine.gpu_memory import (
    BATCH,
    MEMORY,
    ROOM,
    Resident,
    batch_size,
    tile_bytes,
)
from s2sr_xr.engine.predict import on_gpu, predict
from s2sr_xr.engine.predictor import Predictor
from s2sr_xr.models.published import published

SPEC = MIXES["10+20->5"]
NETWORKS = {spec.name: (spec, build) for spec, build in published()}
TILE = (SPEC.tile, SPEC.tile)
RUN = WholeNumbers(SPEC)


class Fake:
    """A GPU that does what was begun in any order that its lanes and events allow.

    Memory that nothing was copied to yet is NaN. `fits` is how many tiles have room at
    the first call, the second ...: others take and leave memory.
    """

    def __init__(self, seed=0, *, fits=(99,), free=1 << 37, held=0):
        self.random = random.Random(seed)  # noqa: S311 - an order, not a secret
        self.fits, self.bytes = deque(fits), (free, held)
        self.lanes = {name: deque() for name in ("up", "work", "down")}
        self.told = []

    def free(self):
        return self.bytes[0]

    def held(self):
        return self.bytes[1]

    def release(self):
        self.told.append("release")

    def pinned(self, shape):
        self.told.append("pinned")
        return torch.full(tuple(shape), torch.nan)

    def upload(self, host):
        image = torch.full_like(host, torch.nan)
        self.begin("up", lambda: image.copy_(host))
        return image

    def call(self, run, images):
        self.told.append(len(images[0]))
        fits = self.fits.popleft() if len(self.fits) > 1 else self.fits[0]
        if len(images[0]) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        one = run(*(i[:1].clone() for i in images))
        made = torch.full((len(images[0]), *one.shape[1:]), torch.nan)
        self.begin("work", lambda: made.copy_(run(*images)))
        return made

    def download(self, made, host):
        self.begin("down", lambda: host.copy_(made))

    def mark(self, lane):
        event = Point(self)
        self.begin(lane, event.reach)
        return event

    def wait(self, lane, event):
        self.begin(lane, event)

    def broke(self, error):
        return "CUDA error" in str(error)

    def begin(self, lane, what):
        self.lanes[lane].append(what)
        for _ in range(self.random.randrange(4)):
            self.step()

    def step(self):
        """Do the next thing of some lane, unless it waits for another."""
        ready = [
            lane
            for lane in self.lanes.values()
            if lane and not (isinstance(lane[0], Point) and not lane[0].reached)
        ]
        if ready:
            what = self.random.choice(ready).popleft()
            if not isinstance(what, Point):
                what()
        return bool(ready)


class Point:
    def __init__(self, port):
        self.port, self.reached = port, False

    def reach(self):
        self.reached = True

    def synchronize(self):
        self.port.told.append("wait")
        while not self.reached:
            assert self.port.step(), "nothing can go on"


def world(rows=4, cols=3, spec=SPEC, seed=0):
    rng = np.random.default_rng(seed)
    shape = rows * spec.tile, cols * spec.tile
    images = [
        rng.random(
            (len(g.names), *((n + 2 * spec.margin) * g.per_cell for n in shape)), "f4"
        )
        for g in spec.inputs
    ]
    todo = [
        Box(r, c) for r in cuts(shape[0], spec.tile) for c in cuts(shape[1], spec.tile)
    ]
    return images, todo


def through(port, run, images, todo, batch=None, spec=SPEC):
    """Return the tiles as one array, as `predict` puts them together."""
    k = spec.output.per_cell
    last = todo[-1].scale(k)
    out = np.zeros((len(spec.channels), last.rows.stop, last.cols.stop), np.float32)
    for box, result in on_gpu(port, run, spec, images, todo, batch, "cuda:0"):
        at = box.scale(k)
        out[:, at.rows.start : at.rows.stop, at.cols.start : at.cols.stop] = result
    return out


@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 6),
    fits=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    rows=st.integers(1, 2),
)
def test_whatever_runs_first_the_pixels_are_the_same(seed, batch, fits, rows):
    images, todo = world(rows)
    port = Fake(seed, fits=fits)
    want = predict(RUN, SPEC, images, tile=TILE)
    np.testing.assert_array_equal(through(port, RUN, images, todo, batch), want)


def sizes(port):
    return [n for n in port.told if isinstance(n, int)]


def test_a_real_network_that_keeps_its_means_goes_through():
    spec, build = NETWORKS["dsen2-s-20m"]
    inner = replace(spec, tile=6)
    outer = replace(inner, margin=spec.margin + CORRECTION)
    images, todo = world(1, 3, outer)
    torch.manual_seed(0)
    network = build().eval()
    resident = Resident(network=network, run=network)
    run = Consistent(resident, inner)
    want = predict(run, outer, images, tile=(6, 6))
    port = Fake()
    made = through(port, run, images, todo, batch=2, spec=outer)
    np.testing.assert_allclose(made, want, atol=1e-5)
    assert sizes(port) == [2, 1]


def test_a_batch_is_begun_before_the_one_ahead_is_waited_for():
    images, todo = world()
    port = Fake()
    through(port, RUN, images, todo, batch=4)
    told = [what for what in port.told if what != "pinned"]
    assert told == [4, 4, "wait", 4, "wait", "wait"]
    assert port.told.count("pinned") == 2 * (len(SPEC.inputs) + 1)


def test_out_of_memory_halves_the_batch_for_good():
    images, todo = world()
    port = Fake(fits=[2])
    through(port, RUN, images, todo, batch=12)
    assert sizes(port) == [12, 6, 3, 1, *[1] * 11]
    assert port.told.count("release") == 3
    with pytest.raises(s2sr_xr.ModelError, match="test-20-5 on cuda:0 has no room for"):
        through(Fake(fits=[0]), RUN, images, todo)


def test_what_flies_lands_before_one_tile_is_given_up():
    images, todo = world(1)
    port = Fake(fits=[1, 0, 1])
    through(port, RUN, images, todo, batch=1)
    assert sizes(port) == [1, 1, 1, 1]
    wait = ["wait", "wait"]  # for the batch, and for what the next one still reads
    assert [w for w in port.told if w != "pinned"][:5] == [1, 1, *wait, "release"]


def failing(message):
    def run(*images):
        raise RuntimeError(message)

    return run


def test_a_broken_device_is_told_from_a_broken_network():
    images, todo = world()
    broken = failing("CUDA error: an illegal memory access\nCompile with ...")
    said = r"test-20-5 on cuda:0 failed: CUDA error: an illegal memory access\. This"
    with pytest.raises(s2sr_xr.ModelError, match=said):
        through(Fake(), broken, images, todo)
    with pytest.raises(RuntimeError, match="sizes differ"):
        through(Fake(), failing("sizes differ"), images, todo)


def test_a_result_of_another_shape_is_refused():
    images, todo = world()
    with pytest.raises(s2sr_xr.ModelError, match="the spec and the network disagree"):
        through(Fake(), lambda ten, _: ten, images, todo)


G = 1 << 30


@pytest.mark.parametrize(
    ("free", "held", "per_tile", "ceiling", "size"),
    [
        (100 * G, 0, G // 100, None, BATCH),
        (100 * G, 0, G // 100, 9, 9),
        (100 * G, 0, G // 2, 9, 7),
        (100 * G, 5 * G, G // 2, 9, 2),
        (3 * G, 0, G // 2, 9, 3),
        (G // 9, 0, G // 2, 9, 1),
        (100 * G, 8 * G, G // 2, 9, 1),
        (100 * G, 0, None, 9, 1),
    ],
)
def test_a_batch_takes_what_is_free_and_leaves_the_rest(
    free, held, per_tile, ceiling, size
):
    assert batch_size(Fake(free=free, held=held), per_tile, ceiling) == size


@pytest.mark.parametrize("name", ["dsen2-20m", "carn", "rrdb-wsx4", "rec-s"])
def test_networks_fit_the_promised_memory_and_are_left_alone(name):
    spec, build = NETWORKS[name]
    network = build()
    per_tile = tile_bytes(network, spec, (spec.tile, spec.tile))
    assert 0 < ROOM * per_tile < MEMORY
    assert {p.device.type for p in network.parameters()} == {"cpu"}


def test_a_network_that_needs_its_pixels_runs_tile_by_tile():
    class Curious(WholeNumbers):
        def forward(self, *images):
            float(images[0].max())
            return super().forward(*images)

    images, todo = world()
    port = Fake()
    with pytest.warns(s2sr_xr.S2SRWarning, match="its tiles run one by one"):
        through(port, Curious(SPEC), images, todo)
    assert set(sizes(port)) == {1}


def switch():
    return torch.backends.cudnn.conv.fp32_precision


@pytest.mark.parametrize(
    ("precision", "wanted"), [("float32", "ieee"), ("bf16", "ieee"), ("tf32", "tf32")]
)
@pytest.mark.parametrize("before", ["tf32", "ieee"])
def test_the_switch_of_tf32_is_set_and_left_as_it_was(precision, wanted, before):
    kept = switch()
    torch.backends.cudnn.conv.fp32_precision = before
    try:
        seen = []
        resident = Resident(
            network=None,
            run=lambda _: seen.append(switch()) or 1 / 0,
            precision=precision,
        )
        with pytest.raises(ZeroDivisionError, match="division"):
            resident(torch.zeros(1, 2, 3, 3))
        assert seen == [wanted]
        assert switch() == before
    finally:
        torch.backends.cudnn.conv.fp32_precision = kept


def test_threads_do_not_see_each_others_switch():
    seen, ready = {"float32": set(), "tf32": set()}, threading.Barrier(2)

    def work(precision):
        def run(image):
            before = switch()
            threading.Event().wait(1e-3)
            seen[precision].update({before, switch()})
            return image

        resident = Resident(network=None, run=run, precision=precision)
        ready.wait()
        for _ in range(10):
            resident(torch.zeros(1, 1, 2, 2))

    threads = [threading.Thread(target=work, args=(p,)) for p in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"float32": {"ieee"}, "tf32": {"tf32"}}


def test_images_come_channels_last():
    def run(image):
        assert image.is_contiguous(memory_format=torch.channels_last)
        return image

    resident = Resident(network=None, run=run)
    assert resident(torch.zeros(2, 3, 4, 5)).shape == (2, 3, 4, 5)


def test_tf32_is_refused_where_there_is_no_gpu():
    with pytest.raises(s2sr_xr.ModelError, match=r'runs the network on cpu\. Use "fl'):
        Predictor(name="dsen2-s-20m", precision="tf32", device="cpu").load()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
class TestReal:
    """What only a GPU can show."""

    @pytest.mark.parametrize(
        ("precision", "most"), [("float32", 1e-4), ("tf32", 1e-2), ("bf16", 2e-2)]
    )
    @pytest.mark.parametrize("name", ["dsen2-s-20m", "dsen2-s-60m", "carn-s"])
    def test_it_gives_what_the_cpu_gives(self, name, precision, most):
        spec, _ = NETWORKS[name]
        images, _ = world(3, 3, spec)
        tile = spec.tile, spec.tile
        made = []
        for device, arithmetic in (("cpu", "float32"), ("cuda", precision)):
            run, where = Predictor(
                name=name, device=device, precision=arithmetic
            ).load()
            made.append(np.stack(predict(run, spec, images, tile=tile, device=where)))
        error = np.square(made[0] - made[1]).mean() ** 0.5
        assert error < most * made[0].std()

    @pytest.mark.parametrize("name", ["dsen2-s-20m", "carn-s"])
    def test_memory_stays_below_what_is_promised(self, name):
        spec, _ = NETWORKS[name]
        images, _ = world(4, 4, spec)
        run, where = Predictor(name=name, device="cuda").load()
        torch.cuda.reset_peak_memory_stats()
        for batch in (None, 64):
            tile = spec.tile, spec.tile
            predict(run, spec, images, tile=tile, device=where, batch=batch)
        assert torch.cuda.max_memory_reserved() <= MEMORY
