"""Law 1: any chunking, any driver, any batch gives the same pixels, bit for bit."""

from __future__ import annotations

import dask
import numpy as np
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import MIXES, integers, tree

from s2sr_xr.core import nodata
from s2sr_xr.core.scene import scene_of
from s2sr_xr.core.tiling import Box, Span
from s2sr_xr.engine import dask_graph
from s2sr_xr.engine.block import do_block, numpy_arrays
from s2sr_xr.engine.job import Blocks, BlockTask, Job
from s2sr_xr.engine.model_run import Pass
from s2sr_xr.engine.nesting import check_nesting
from s2sr_xr.engine.predict import predict, torch_threads
from s2sr_xr.engine.predictor import Predictor
from s2sr_xr.models.registry import load_model


def job_over(obj, spec, tiles=(1, 1), batch=None):
    """Return the job of one network over an object, blocks of `tiles` tiles."""
    scene = scene_of(obj)
    cells = check_nesting(scene, spec)
    fine = cells.at(spec.resolution)
    one = Pass(
        predictor=Predictor(name=spec.name),
        spec=spec,
        keep=spec.output.names,
        cells=cells.shape,
    )
    task = BlockTask(
        passes=(one,), shape=fine.shape, res=int(fine.res), check=False, batch=batch
    )
    k = spec.output.per_cell
    size = tuple(
        min(t * side * k, n)
        for t, side, n in zip(tiles, one.tile, fine.shape, strict=True)
    )
    planes = {b: p for b, p in scene.planes.items() if b in spec.bands}
    return Job(
        task=task, planes=planes, times=scene.times, blocks=Blocks(fine.shape, size)
    )


def untiled(obj, spec, time=None):
    """Return what one pass over the whole object gives: no tile, no block, no chunk."""
    stacks, gone = [], {}
    for g in spec.inputs:
        planes = [scene_of(obj).planes[b].variable.to_numpy() for b in g.names]
        stack = np.stack([p if time is None else p[time] for p in planes])
        missing = np.isnan(stack)
        gone |= dict(zip(g.names, missing, strict=True))
        filled = [
            nodata.fill(band, gaps, per_cell=g.per_cell, mean=spec.fill[name])
            for band, gaps, name in zip(stack, missing, g.names, strict=True)
        ]
        pad = spec.margin * g.per_cell
        stacks.append(
            np.pad(filled, [(0, 0), (pad, pad), (pad, pad)], mode="symmetric")
        )
    with torch.inference_mode():
        out = load_model(spec.name)(*(torch.from_numpy(s)[None] for s in stacks))[
            0
        ].numpy()
    for n, band in enumerate(spec.output.names):
        k = spec.output.per_cell // spec.per_cell(band)
        out[n][gone[band].repeat(k, 0).repeat(k, 1)] = np.nan
    return dict(zip(spec.output.names, out, strict=True))


@st.composite
def objects(draw, least=1, most=11, times=(None, None, 2)):
    mix = draw(st.sampled_from(sorted(MIXES)))
    spec = MIXES[mix]
    side = st.integers(least, most)
    cells = draw(st.tuples(side, side), label="cells")
    times = draw(st.sampled_from(list(times)), label="times")
    seed = draw(st.integers(0, 99), label="seed")
    obj = tree(cells, spec.bands, cell=spec.cell, times=times, values=integers(seed))
    rng = np.random.default_rng(seed)
    if draw(st.booleans(), label="swath edge"):
        for g in obj.children.values():
            for name in g.data_vars:
                values = g[name].values
                cut = rng.integers(0, values.shape[-1] + 1)
                values[..., :cut] = np.nan
    if draw(st.booleans(), label="holes"):
        for g in obj.children.values():
            for name in g.data_vars:
                values = g[name].values
                values[rng.random(values.shape) < 0.1] = np.nan
    return spec, obj, times


def chunked(draw, obj):
    """Return the object in random, possibly thin and uneven, chunks for each group."""
    out = {}
    for name, node in obj.children.items():
        ds = node.to_dataset()
        chunks = {
            d: tuple(_partition(draw, n))
            for d, n in ds.sizes.items()
            if d in ("y", "x")
        }
        out[name] = ds.chunk(chunks | ({"time": 1} if "time" in ds.dims else {}))
    made = xr.DataTree.from_dict(out)
    made.attrs = obj.attrs
    return made


def _partition(draw, n):
    while n > 0:
        size = draw(st.integers(1, min(n, 30)))
        yield size
        n -= size


@settings(max_examples=250)
@given(case=objects(), data=st.data())
def test_tiling_is_invisible(case, data):
    spec, obj, times = case
    tiles = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)), label="tiles")
    batch = data.draw(st.sampled_from([None, 1, 3]), label="batch")
    eager = numpy_arrays(job_over(obj, spec, tiles, batch))
    for t in range(times or 1):
        whole = untiled(obj, spec, None if times is None else t)
        for band, values in whole.items():
            got = eager[band] if times is None else eager[band][t]
            np.testing.assert_array_equal(got, values)
    job = job_over(chunked(data.draw, obj), spec, tiles, batch)
    names = list(dask_graph.arrays(job))
    with dask.config.set(scheduler="synchronous"):
        computed = dask.compute(dask_graph.arrays(job))[0]
    for name in names:
        np.testing.assert_array_equal(computed[name], eager[name])


@st.composite
def crops(draw, n, halo):
    """Return a range of [0, n) and the part of it that holds the halo, never empty."""
    first = draw(st.integers(0, n - 1), label="first kept")
    last = draw(st.integers(first + 1, n), label="end of kept")
    start = max(first - halo - draw(st.integers(0, 3)), 0)
    stop = min(last + halo + draw(st.integers(0, 3)), n)
    return (start, stop), (first, last)


@given(data=st.data())
def test_a_crop_is_a_part_of_the_scene(data):
    """Wherever the crop holds the margin, and the fill's reach where pixels miss."""
    spec, obj, times = data.draw(objects(least=8, most=30, times=[None]))
    assert times is None
    cells = check_nesting(scene_of(obj), spec).shape
    spans, kept = zip(*(data.draw(crops(n, spec.halo)) for n in cells), strict=True)
    crop = {}
    for name, node in obj.children.items():
        ds = node.to_dataset()
        k = spec.cell // int(name[1:-1])
        cut = {d: slice(a * k, b * k) for d, (a, b) in zip("yx", spans, strict=True)}
        crop[name] = ds.isel(cut)
    whole = numpy_arrays(job_over(obj, spec))
    part = numpy_arrays(job_over(xr.DataTree.from_dict(crop), spec))
    k = spec.output.per_cell
    outer = tuple(slice(a * k, b * k) for a, b in kept)
    inner = tuple(
        slice((a - s) * k, (b - s) * k)
        for (a, b), (s, _) in zip(kept, spans, strict=True)
    )
    for band in spec.output.names:
        np.testing.assert_array_equal(part[band][inner], whole[band][outer])


@given(case=objects(), data=st.data())
def test_a_block_needs_nothing_outside_its_halo(case, data):
    """With everything outside the window it names set to NaN, the block is the same."""
    spec, obj, times = case
    if times is not None:
        return
    job = job_over(obj, spec, (2, 1))
    _, _, box = data.draw(st.sampled_from(list(job.blocks)))
    windows = job.task.reads(box)
    values = {b: p.variable.to_numpy() for b, p in job.planes.items()}

    class Blind:
        def __init__(self, band):
            self.band = band

        def read(self, time, rows, cols):
            out = np.full_like(values[self.band], np.nan)
            inside = windows[self.band].slices
            out[inside] = values[self.band][inside]
            assert (
                Box(Span(rows.start, rows.stop), Span(cols.start, cols.stop))
                == windows[self.band]
            )
            return out[rows, cols]

    made = do_block(job.task, box, 0, {b: Blind(b) for b in values})
    whole = numpy_arrays(job)
    for name, block in made.items():
        np.testing.assert_array_equal(block, whole[name][box.slices])


def test_a_real_network_through_tiles_is_itself():
    spec = MIXES["10+20->10"]
    torch.manual_seed(0)
    a, b, last = (torch.nn.Conv2d(n, m, 3) for n, m in ((2, 8), (2, 8), (16, 2)))

    def run(ten, twenty):
        twenty = twenty.repeat_interleave(2, -1).repeat_interleave(2, -2)
        return last(torch.relu(torch.cat([a(ten), b(twenty)], 1)))

    rng = np.random.default_rng(0)
    rows, cols, m = 120, 80, spec.margin
    images = [
        rng.random((2, (rows + 2 * m) * k, (cols + 2 * m) * k), np.float32)
        for k in (2, 1)
    ]
    whole = predict(run, spec, images, tile=(rows, cols))
    found = set()
    for threads in (1, 2):
        with torch_threads(threads):
            for batch in (1, 2, 5):
                tiled = predict(run, spec, images, tile=(40, 40), batch=batch)
                found.add(b"".join(band.tobytes() for band in tiled))
    assert len(found) == 1
    np.testing.assert_allclose(tiled, whole, rtol=1e-6, atol=1e-6)
