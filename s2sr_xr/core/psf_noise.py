"""The noise of fine bands, told by what they do not have in common.

Arrays are float64, ``(P, H, W)``, any unit, NaN where missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["noise_of"]

SIDE = 10
"""Pixels along the side of a window."""

QUIET = 0.88
"""What the quietest twentieth of windows shows of the noise."""

LEAST = 0.3
"""Counts: what rounding to whole ones leaves."""


def noise_of(fine: Floats) -> Floats:
    """Return the deviation of each fine band's noise, ``(P,)``.

    What the other bands and their slopes do not explain of the finest detail, in the
    quietest windows. No band is taken to have more than twice the noise of most.
    """
    detail = _fine_detail(fine)
    slopes = [_fine_detail(np.gradient(fine, axis=axis)) for axis in (-2, -1)]
    found = []
    for i in range(len(fine)):
        others = [x[j] for x in (detail, *slopes) for j in range(len(fine)) if j != i]
        rows = np.stack([_tiles(x) for x in others], 1)
        own = _tiles(detail[i])
        clear = np.isfinite(rows).all((-1, -2)) & np.isfinite(own).all(-1)
        rows, own = rows[clear], own[clear]
        if not len(own):
            return np.full(len(fine), np.nan)
        gram = rows @ rows.transpose(0, 2, 1)
        level = np.trace(gram, axis1=1, axis2=2)[:, None, None]
        gram += (1e-9 * level + 1e-9) * np.eye(rows.shape[1])
        both = (rows @ own[..., None])[..., 0]
        told = (np.linalg.solve(gram, both[..., None])[..., 0] * both).sum(-1)
        free = own.shape[1] - rows.shape[1]
        found.append(np.quantile((np.square(own).sum(-1) - told) / free, 0.05))
    noise = np.sqrt(np.maximum(found, 0)) / QUIET
    return np.clip(noise, LEAST, max(2 * float(np.median(noise)), LEAST))


def _fine_detail(x: Floats) -> Floats:
    """Return second differences along both axes, of the deviation that noise has."""
    x = x[..., :-2, :] - 2 * x[..., 1:-1, :] + x[..., 2:, :]
    found: Floats = (x[..., :-2] - 2 * x[..., 1:-1] + x[..., 2:]) / 6
    return found


def _tiles(x: Floats) -> Floats:
    return sliding_window_view(x, (SIDE, SIDE))[::5, ::5].reshape(-1, SIDE**2)
