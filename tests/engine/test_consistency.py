"""Fine pixels whose mean over a native pixel is what the sensor recorded there."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import torch
from worlds import MIXES, detector, integers, tree

import s2sr_xr
from s2sr_xr.core.bands import BANDS
from s2sr_xr.engine.consistency import spread_means


@pytest.mark.parametrize("factor", [2, 4, 6])
def test_a_plane_stays_a_plane_and_edges_meet(factor):
    y, x = torch.meshgrid(
        torch.arange(7.0, dtype=torch.float64),
        torch.arange(9.0, dtype=torch.float64),
        indexing="ij",
    )
    at = (torch.arange(5 * factor, dtype=torch.float64) + 0.5) / factor + 0.5
    made = spread_means(3 * y + x, factor)
    np.testing.assert_allclose(made[:, 0], 3 * at + made[0, 0] - 3 * at[0], atol=1e-12)
    # A step of one pixel is climbed with a slope of at most 2, and has no edge.
    step = (x > 4).to(torch.float64)
    jumps = spread_means(step, factor)[0].diff().abs()
    assert float(jumps.max()) <= 2 / factor + 1e-12


@pytest.mark.parametrize("chunks", [None, 31])
@pytest.mark.parametrize("model", ["bicubic", "dsen2"])
def test_the_mean_of_the_result_is_the_input(model, chunks):
    obj = tree((4, 5), BANDS, times=2)
    obj["r20m"].B11.values[0, 3, 4] = np.nan
    given = obj if chunks is None else obj.chunk(x=chunks, y=chunks)
    ten = given.s2sr.upsample(model, consistent=True)
    with dask.config.set(scheduler="synchronous"):
        ten = ten.compute()
    for group, factor in (("r20m", 2), ("r60m", 6)):
        for band, native in obj[group].items():
            if band == "B10":
                continue
            cells = (
                ten[band]
                .coarsen(x=factor, y=factor)
                .construct(x=("x", "i"), y=("y", "j"))
            )
            mean = cells.mean(("i", "j"), skipna=False)
            np.testing.assert_allclose(mean, native, atol=3e-7)
            assert "s2sr_consistent" in ten[band].attrs
    assert "s2sr_consistent" not in ten.B02.attrs


def test_chunks_are_invisible_at_five_metres_too():
    spec = MIXES["10+20->5"]
    obj = tree((9, 11), spec.bands, cell=20, values=integers())
    eager = obj.s2sr.superresolve(spec.name, consistent=True, check=False)
    lazy = obj.chunk(x=7, y=9).s2sr.superresolve(
        spec.name, consistent=True, check=False
    )
    with dask.config.set(scheduler="synchronous"):
        for name, values in lazy.compute().items():
            np.testing.assert_array_equal(values, eager[name])
    mean = eager.B02.coarsen(x=2, y=2).mean()
    np.testing.assert_allclose(mean, obj["r10m"].B02, atol=1e-4)


def test_networks_that_move_bands_are_refused():
    with pytest.raises(s2sr_xr.ModelError, match=r"moves them|No weights"):
        detector((40, 40)).s2sr.superresolve("rec-s", consistent=True)
