"""The small registration network: flows by learned features and Lucas-Kanade."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from worlds import detector

import s2sr_xr
from s2sr_xr.models.networks.lucas_kanade import LucasKanade
from s2sr_xr.models.networks.registration import standardise, warp


def ground(side=160, seed=0):
    """Return a smooth random image, (1, 1, side, side)."""
    from s2sr_xr.core.filters import gaussian_blur

    noise = torch.randn((1, 1, side, side), generator=torch.manual_seed(seed))
    return standardise(gaussian_blur(noise, 1.5))


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.4, -1.3), (-6.25, 4.5)])
@pytest.mark.parametrize("gain", [1.0, -0.5])
def test_a_shift_is_found_before_anything_is_learnt(shift, gain):
    """Of an inverted image too: features leave out the sign of the gradient."""
    torch.manual_seed(0)
    network = LucasKanade().eval()
    image = ground()
    flow = torch.tensor(shift)[None, :, None, None].expand(1, 2, 160, 160)
    pair = torch.cat([warp(image, flow), gain * image], dim=1)
    with torch.inference_mode():
        found = network(standardise(pair[..., 16:-16, 16:-16]))
    error = (found - torch.tensor(shift)[None, :, None, None]).abs()
    assert float(error[..., 16:-16, 16:-16].mean()) < 0.12


def test_the_shipped_weights_bring_bands_to_green():
    """Bands of one image, moved by fractions of a pixel, seen through `register`."""
    ds = detector((144, 160))
    image = 300 + 60 * ground(160, seed=1)[..., :144, :]
    moves = {"B02": (0.3, -0.6), "B03": (0.0, 0.0), "B04": (-0.8, 0.4)}
    for band, (x, y) in moves.items():
        flow = torch.tensor([x, y])[None, :, None, None].expand(1, 2, 144, 160)
        ds[band].values[:] = warp(image, -flow)[0, 0].numpy()
    made = ds.s2sr.register(flow=True)
    assert made.B02.attrs["s2sr_model"] == "csr-s"
    inner = {"y": slice(24, -24), "x": slice(24, -24)}
    for band, (x, y) in moves.items():
        if band == "B03":
            continue
        for axis, true in (("x", x), ("y", y)):
            off = made[f"flow_{axis}_{band}"].isel(inner) - true
            assert float(abs(off).mean()) < 0.1
        before = abs(ds[band] - ds.B03).isel(inner).mean()
        after = abs(made[band] - made.B03).isel(inner).mean()
        assert float(after) < 0.3 * float(before)
    assert np.isfinite(made.B08.isel(inner)).all()


def test_sides_are_multiples_of_its_cells():
    with pytest.raises(s2sr_xr.GridError, match="multiples of 4 pixels, got"):
        LucasKanade()(torch.zeros(1, 2, 30, 32))
