"""bf16 where it is asked for: near float32, the same for any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from worlds import tree

import s2sr_xr
from s2sr_xr.engine.predict import torch_threads
from s2sr_xr.engine.predictor import Predictor
from s2sr_xr.models.networks.layers import Conv, lower
from s2sr_xr.models.published import published

NETWORKS = {spec.name: (spec, build) for spec, build in published()}
SMALL = ("dsen2-s-20m", "dsen2-s-60m", "carn-s", "carn-1x3x64g4sw", "rec-s", "csr-s")


@pytest.fixture(params=SMALL)
def runs(request):
    spec, build = NETWORKS[request.param]
    torch.manual_seed(0)
    full, low = build(), build()
    low.load_state_dict(full.state_dict())
    assert lower(low, spec.flat) > 0
    channels = [2] if spec.also else [len(g.names) for g in spec.inputs]
    least = 2 * spec.margin + 8
    side = least + -least % spec.align
    scale = 400 if spec.units == "count" and not spec.also else 1
    images = [
        scale * torch.rand(1, c, side * g.per_cell, side * g.per_cell)
        for c, g in zip(channels, spec.inputs, strict=True)
    ]
    return full, low, images


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    item = s2sr_xr.simulate_scene(tmp_path_factory.mktemp("scene"), size=240, seed=3)
    return s2sr_xr.open_stac(item, chunks=None).load()


def test_bf16_is_near_float32(runs):
    full, low, images = runs
    with torch.inference_mode():
        want, got = full(*images), low(*images)
    assert got.dtype == torch.float32
    error = float((got - want).square().mean().sqrt())
    assert 0 < error < 0.02 * float(want.std())


@pytest.mark.parametrize("name", ["dsen2-s-20m", "dsen2-s-60m", "dsen2-20m"])
def test_features_count_from_those_of_a_flat_scene(name):
    spec, build = NETWORKS[name]
    torch.manual_seed(0)
    full = build()
    for layer in full.modules():
        if isinstance(layer, Conv):
            torch.nn.init.normal_(layer.bias, std=0.1)
    centred, low, near = (build() for _ in range(3))
    for network in (centred, low, near):
        network.load_state_dict(full.state_dict())
    centred.centre_on([0.2] * len(spec.bands))
    lower(low)
    lower(near, [0.2] * len(spec.bands))
    side = 2 * spec.margin + 8
    images = [
        0.2 + 0.02 * torch.rand(1, len(g.names), side * g.per_cell, side * g.per_cell)
        for g in spec.inputs
    ]
    with torch.inference_mode():
        want, same, *others = (
            n(*(i.clone() for i in images)) for n in (full, centred, low, near)
        )
    torch.testing.assert_close(same, want, rtol=0, atol=1e-5 * float(want.abs().max()))
    plain, better = (float((x - want).square().mean()) ** 0.5 for x in others)
    assert 0 < better < 0.5 * plain


def test_features_are_counted_anew_once_and_not_where_edges_are_zeros():
    spec, build = NETWORKS["dsen2-s-20m"]
    flat = [0.2] * len(spec.bands)
    once, padded = build(), build(padding="same")
    once.centre_on(flat)
    state = {k: v.clone() for k, v in once.state_dict().items()}
    once.centre_on(flat)
    assert all(torch.equal(v, state[k]) for k, v in once.state_dict().items())
    before = padded.head.bias.clone()
    assert lower(padded, flat) > 0
    assert torch.equal(padded.head.bias, before)


def test_threads_do_not_change_a_bit(runs):
    _, low, images = runs
    made = []
    for n in (1, 2):
        with torch.inference_mode(), torch_threads(n):
            made.append(low(*images))
    assert torch.equal(*made)


def test_precision_is_told_and_chunks_stay_invisible():
    obj = tree((4, 5), NETWORKS["dsen2-s-20m"][0].bands, cell=60)
    eager = obj.s2sr.upsample(bands=["B11"], precision="bf16")
    lazy = obj.chunk(x=17, y=11).s2sr.upsample(bands=["B11"], precision="bf16")
    assert eager.attrs["s2sr_precision"] == "bf16"
    np.testing.assert_array_equal(lazy.B11.compute(scheduler="synchronous"), eager.B11)
    full = obj.s2sr.upsample(bands=["B11"])
    assert 0 < float(((eager.B11 - full.B11) ** 2).mean()) ** 0.5 < 1e-3


def test_what_bands_enter_and_leave_by_stays_float32(runs):
    """Rounded as they come in, bands cost what is made of them 2.6 counts."""
    _, low, _ = runs
    convs = [m for m in low.modules() if isinstance(m, Conv)]
    assert {convs[0].weight.dtype, convs[-1].weight.dtype} == {torch.float32}
    assert torch.bfloat16 in {m.weight.dtype for m in convs}


@pytest.mark.parametrize(
    ("call", "bands", "most"),
    [
        ("upsample", ["B05", "B8A", "B12"], 1e-4),
        ("upsample", ["B01", "B09"], 1.5e-4),
        ("superresolve", ["B03", "B08", "B11"], 2e-4),
    ],
)
def test_bf16_costs_few_counts_with_our_weights(scene, call, bands, most):
    made = [
        getattr(scene.s2sr, call)(bands=bands, precision=p)[bands]
        for p in ("float32", "bf16")
    ]
    error = float(((made[0] - made[1]) ** 2).mean().to_array().mean()) ** 0.5
    assert 0 < error < most


def test_a_network_without_our_layers_says_so(tmp_path):
    spec = s2sr_xr.ModelSpec(
        name="foreign",
        title="for tests",
        cell=20,
        inputs=(s2sr_xr.BandGroup(names=("B05",), per_cell=1),),
        output=s2sr_xr.BandGroup(names=("B05",), per_cell=2),
        margin=0,
        tile=8,
    )
    network = torch.nn.Upsample(scale_factor=2)
    s2sr_xr.register_model(network, spec)
    with pytest.raises(s2sr_xr.ModelError, match="foreign has no layers"):
        Predictor(name="foreign", precision="bf16", device="cpu").load()


def printed(code, switch):
    """Return what a process of its own prints, the allocator switched."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"S2SR_MALLOPT": switch},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("switch", ["0", "1"])
def test_the_allocator_is_told_once_and_can_be_left_alone(switch):
    code = (
        "from s2sr_xr.engine.allocator import keep_memory;"
        "told = keep_memory(), keep_memory(); print(*told)"
    )
    told = printed(code, switch)
    linux = sys.platform.startswith("linux")
    expected = switch == "1" and linux
    assert told.split() == [str(expected)] * 2


WHERE = """
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

import s2sr_xr
from s2sr_xr.engine.allocator import has_main_heap
from s2sr_xr.engine.predict import predict

spec = s2sr_xr.get_spec("nearest-20m")
seen = []


def run(x):
    seen.append((threading.get_ident(), has_main_heap(), torch.get_num_threads()))
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def work(tiles):
    image = np.zeros((6, 4, 4 * tiles), np.float32)
    torch.set_num_threads(1)
    predict(run, spec, [image], tile=(4, 4))
    return threading.get_ident(), has_main_heap()


with ThreadPoolExecutor(1) as pool:
    own, kept = pool.submit(work, 2).result()
for ident, heap, threads in seen:
    print(ident == own, kept, heap, threads)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heaps")
@pytest.mark.parametrize("switch", ["0", "1"])
def test_threads_of_a_pool_run_networks_on_the_heap_that_is_kept(switch):
    companion = "False False True 1"
    assert printed(WHERE, switch).splitlines() == 2 * [
        companion if switch == "1" else "True False False 1"
    ]
