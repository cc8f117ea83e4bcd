"""The laws, over every network of the registry with fresh weights, as a user calls it.

Tiles are a few cells: what holds for a small tile holds for a large one, and a network
of 38 million parameters has to run on each.
"""

from __future__ import annotations

from dataclasses import replace

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from worlds import detector, tree

from s2sr_xr.engine.predict import torch_threads
from s2sr_xr.models import registry
from s2sr_xr.models.published import published

NETWORKS = {spec.name: (spec, build) for spec, build in published()}


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def case(request):
    """Yield a network of fresh weights, an object of two tiles, the call, its result.

    The object has a hole in its first band.
    """
    spec, build = NETWORKS[request.param]
    tile = 16 if spec.align > 1 else 4
    torch.manual_seed(0)
    network = build().eval()
    fresh = replace(
        spec, name=f"fresh-{spec.name}", tile=tile, trained=False, sha256=None
    )
    if fresh.name not in registry._MODELS:
        registry.register(fresh, lambda: network)
    cells = (tile, 2 * tile - 1)
    if fresh.units == "count":
        obj = detector(cells)
        obj[fresh.bands[0]][1:3, 2:4] = np.nan
        call = "register" if fresh.also else "superresolve"
    else:
        obj = tree(cells, fresh.bands, cell=fresh.cell)
        native = obj[finest(fresh)]
        native[fresh.bands[0]].values[1:3, 2:4] = np.nan
        call = "upsample" if fresh.resolution == 10 else "superresolve"
    given = (
        {"model": {f"{fresh.cell}m": fresh.name}, "bands": fresh.output.names}
        if call == "upsample"
        else {"model": fresh.name}
    )
    if call == "register":
        given["flow"] = True

    def made(o):
        return getattr(o.s2sr, call)(**given)

    with torch_threads(1):
        eager = made(obj)
    yield fresh, obj, made, eager
    del registry._MODELS[fresh.name]


def finest(spec):
    """Return the group of a tree that holds the finest pixels that a model takes."""
    return f"r{spec.cell // spec.inputs[0].per_cell}m"


def computed(ds, threads=1):
    with dask.config.set(scheduler="synchronous"), torch_threads(threads):
        return ds.compute()


def test_chunks_threads_and_drivers_are_invisible(case):
    _, obj, call, eager = case
    lazy = call(obj.chunk(x=7, y=9))
    assert all(v.chunks for v in lazy.values())
    xr.testing.assert_identical(computed(lazy, threads=2), eager)


def test_a_crop_is_part_of_the_scene(case):
    spec, *_ = case
    if not spec.exact:
        pytest.skip("what it makes depends on the whole tile with its halo")
    network = registry.load_model(spec.name)
    side, more = spec.tile + 2 * spec.margin, 2
    rng = np.random.default_rng(1)
    images = [
        torch.from_numpy(
            rng.uniform(0, 0.6, (1, len(g.names), *[(side + more) * g.per_cell] * 2))
        ).float()
        for g in spec.inputs
    ]
    crop = [
        i[..., more * g.per_cell :, : side * g.per_cell]
        for g, i in zip(spec.inputs, images, strict=True)
    ]
    k = spec.output.per_cell
    with torch.inference_mode():
        whole, part = network(*images), network(*crop)
    # Both without their margin.
    m = (whole.shape[-1] - (spec.tile + more) * k) // 2
    whole = whole[..., m : whole.shape[-2] - m, m : whole.shape[-1] - m]
    m = (part.shape[-1] - spec.tile * k) // 2
    part = part[..., m : part.shape[-2] - m, m : part.shape[-1] - m]
    there = whole[..., more * k :, : spec.tile * k]
    assert float((there - part).abs().max()) <= 1e-6 * float(whole.abs().max())


def test_geolocation_and_holes_are_kept(case):
    spec, obj, _, made = case
    native = obj if isinstance(obj, xr.Dataset) else obj[finest(spec)]
    factor = spec.output.per_cell // spec.inputs[0].per_cell
    for dim in "yx":
        coarse = made[dim].coarsen({dim: factor}).mean()
        np.testing.assert_allclose(coarse, native[dim], rtol=0, atol=1e-9)
    first = spec.bands[0]
    for name in spec.output.names:
        missing = int(made[name].isnull().sum())
        if spec.also:
            continue  # it moved, and what came from beyond the edge is missing too
        assert missing == (4 * factor**2 if name == first else 0)
        assert made[name].dtype == np.float32
    assert int(made.quality.max()) & 1
