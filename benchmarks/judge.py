"""Scores of a network in training, on pairs that it does not learn from."""

from __future__ import annotations

import torch

from s2sr_xr.evaluate.metrics import psnr, rmse
from s2sr_xr.train.data.l1b_simulation import FULL
from s2sr_xr.train.losses import bicubic
from s2sr_xr.train.recipes.rec import EDGE


@torch.inference_mode()
def ratio_to_bicubic(network, spec, pair, *, border):
    """Return RMSE over that of bicubic interpolation, band by band.

    `border` output pixels along the edge are left out, and missing ones.
    """
    plain = bicubic(pair.images[-1][None], spec.output.per_cell)
    made = network(*(i[None] for i in pair.images))[0]
    inner = slice(border, -border or None)
    truth = pair.target[..., inner, inner].numpy()
    ours = rmse(made[..., inner, inner].numpy(), truth)
    theirs = rmse(plain[0, ..., inner, inner].numpy(), truth)
    return dict(zip(spec.output.names, map(float, ours / theirs), strict=True))


@torch.inference_mode()
def l1b_psnr(network, views, recipe):
    """Return the PSNR of each band in dB, of pixels away from the border.

    The peak is the counts of a reflectance of 1. `views` has its truth.
    """
    made = network(views.counts[:, 0, recipe.channels])
    inner = slice(2 * EDGE, -2 * EDGE)
    truth = views.truth[:, 0, recipe.channels]
    pair = (x[..., inner, inner].movedim(1, 0).flatten(1, 2) for x in (made, truth))
    found = psnr(*(x.numpy() for x in pair), peak=FULL)
    return dict(zip(recipe.bands, map(float, found), strict=True))
