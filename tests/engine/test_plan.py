"""What a result will cost, known beforehand and held to what is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from worlds import tree

import s2sr_xr
from s2sr_xr.core.bands import BANDS
from s2sr_xr.models.cost import cost_of
from s2sr_xr.models.networks.layers import lower


def lazy(cells=(61, 61), **options):
    obj = tree(cells, BANDS).chunk(x=366, y=366)
    return obj.s2sr.upsample(**options)


def test_operations_of_a_cell_are_those_of_its_convolutions():
    spec = s2sr_xr.get_spec("dsen2-s-20m")
    cost = cost_of(s2sr_xr.load_model("dsen2-s-20m"), spec, (40, 40))
    kernels = [
        p
        for n, p in s2sr_xr.load_model("dsen2-s-20m").named_parameters()
        if n.endswith("weight")
    ]
    assert cost.useful == 4 * 2 * sum(p.numel() for p in kernels)
    assert cost.flops > 40**2 * cost.useful
    low = s2sr_xr.load_model("dsen2-s-20m")
    lower(low)
    assert cost_of(low, spec, (40, 40)).activations < cost.activations


def test_a_plan_counts_what_is_there():
    ten = lazy(bands=["B11", "B12"])
    made = s2sr_xr.plan(ten, threads=1)
    assert (made.blocks, made.tasks) == (1, 2)
    assert made.variables == 7
    assert made.pixels == 366**2
    assert made.bytes_out == 366**2 * (6 * 2 + 1)
    assert made.bytes_in == 2 * (4 * 366**2 + 6 * 183**2)
    assert made.flops > made.useful > 0
    assert s2sr_xr.plan(ten[["B02"]], threads=1).flops == 0
    assert s2sr_xr.plan(ten, threads=3).memory > made.memory
    text = str(made)
    assert "7 x 0.1 Mpx" in text
    assert "GiB a worker of 1 thread" in text


def test_tasks_are_those_of_the_graph(tmp_path):
    ten = s2sr_xr.open_stac(
        s2sr_xr.simulate_scene(tmp_path, size=480), chunks=240
    ).s2sr.upsample("bicubic")
    work = ten.s2sr.to_zarr(tmp_path / "ten.zarr", compute=False)
    assert ten.s2sr.plan().tasks == len(dict(work.dask))


@pytest.mark.parametrize(
    "make",
    [
        lambda: tree((2, 2), BANDS).s2sr.upsample("bicubic"),
        lambda: lazy((2, 2), model="bicubic") * 2,
        lambda: tree((2, 2), BANDS)["r10m"].to_dataset().chunk(),
    ],
)
def test_what_is_no_lazy_result_is_refused(make):
    with pytest.raises(s2sr_xr.GridError, match="A plan is of a lazy result"):
        s2sr_xr.plan(make())


@pytest.mark.parametrize("threads", [0, -1, "2"])
def test_threads_are_counted_from_one(threads):
    with pytest.raises(s2sr_xr.ModelError, match=f"or more; got {threads!r}"):
        lazy((2, 2), model="bicubic").s2sr.plan(threads=threads)


MEASURE = """
import json, pathlib, re, sys
import dask, s2sr_xr
model, place, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
item = next(pathlib.Path(place).rglob("S2*.json"))
ten = s2sr_xr.open_stac(item, chunks=366).s2sr.upsample(json.loads(model))
promised = s2sr_xr.plan(ten, threads=threads).memory
with dask.config.set(scheduler="threads", num_workers=threads):
    ten.s2sr.to_zarr(place + "/out.zarr", mode="w")
status = pathlib.Path("/proc/self/status").read_text()
print(json.dumps([1024 * int(re.search(r"VmHWM:\\s*([0-9]+)", status)[1]), promised]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("model", ["bicubic", "dsen2"])
def test_memory_is_promised(model, tmp_path):
    s2sr_xr.simulate_scene(tmp_path, size=732)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(model), str(tmp_path), "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    peak, promised = json.loads(done.stdout)
    assert 0.3 * promised < peak < promised


@pytest.mark.parametrize("model", ["dsen2", "bicubic"])
def test_a_block_of_two_threads_is_promised_below_four_gibibytes(model):
    obj = tree((183, 366), BANDS).chunk(x=2196, y=2196)
    ten = obj.s2sr.upsample(model)
    assert s2sr_xr.plan(ten, threads=2).memory < 4 << 30


def test_ten_bands_at_five_metres_are_promised_below_four_gibibytes():
    names = s2sr_xr.get_spec("carn-s").bands
    obj = tree((183, 366), names).chunk(x=2196, y=2196)
    five = obj.s2sr.superresolve()
    assert five.B11.data.chunksize[-1] <= 2196
    assert s2sr_xr.plan(five, threads=2).memory < 4 << 30
