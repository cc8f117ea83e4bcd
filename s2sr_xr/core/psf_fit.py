"""The width at which fine bands, seen through it, explain a coarse band best.

In small windows a coarse band is a linear function of what its sensor sees of the fine
bands. The width is that of the greatest likelihood, where each window has its own
weights and its own misfit: windows that are explained to the noise decide, others
hardly count. Bands lie a fraction of a pixel beside each other, and each fine band's
shift is sought with the width, or it would pass for blur. What the noise of the fine
bands adds to a misfit grows smaller with the width, which would favour wide ones: it
is taken away. Gauss-Newton, with weights eliminated (variable projection).

Arrays are float64, (H, W) or (P, H, W), in counts of 1e-4 reflectance, NaN where
missing. Widths and shifts are in fine pixels.

References
----------
Golub and Pereyra (1973), The differentiation of pseudo-inverses and nonlinear least
squares problems whose variables separate, SIAM J. Numerical Analysis 10(2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from s2sr_xr.core.psf_seen import power, seen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["NOTHING", "Chip", "Fit", "fit_width"]

WINDOW = 6
"""Coarse pixels along the side of a window."""

MARGIN = 3
"""Coarse pixels along the border that see what is not there."""

FLOOR = 3.0
"""Counts below which a misfit is as good as any."""

RIDGE = 1e-4
"""Share of the fine bands' mean variance that is added to each."""

LIKELY = 0.1
"""Fine pixels that a band is likely to lie beside another."""

FARTHEST = 1.2
"""Fine pixels that a shift may reach."""

BLOCK = 12
"""Coarse pixels along the side of what is taken to be independent of its neighbours."""

LEAST = 0.25
"""Counts squared: what rounding to whole ones leaves, and more."""

STEP, CLOSE, ROUNDS = 0.02, 1e-3, 10
"""Difference for derivatives; change at which the search ends; most rounds."""


@dataclass(frozen=True, slots=True)
class Chip:
    """A part of a scene: fine bands, one coarse band, and the fine bands' noise."""

    fine: Floats
    """``(P, h * factor, w * factor)``."""

    coarse: Floats
    """``(h, w)``."""

    factor: int
    """Fine pixels along the side of a coarse one."""

    noise: Floats
    """``(P,)``: deviation of each fine band's noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What was found."""

    width: float
    """Fine pixels; NaN where no window could be used."""

    stderr: float
    """Of `width`, from the scatter of parts of the scene."""

    misfit: float
    """Share of a lively window's contrast that is not explained, noise apart."""

    contrast: float
    """Deviation in the liveliest windows, one in twenty, beside that of the noise."""

    shifts: tuple[float, ...]
    """Longest shift of a fine band in each chip, fine pixels."""

    @property
    def shift(self) -> float:
        """The longest of all."""
        return max(self.shifts, default=math.nan)


NOTHING = Fit(width=np.nan, stderr=np.nan, misfit=np.nan, contrast=0.0, shifts=())


@dataclass(slots=True)
class _Part:
    """A chip with the shifts that were found so far, and its last linear system."""

    chip: Chip
    shifts: Floats
    windows: Floats = field(default_factory=lambda: np.empty(0))
    stride: int = 2
    score: Floats = field(default_factory=lambda: np.empty(0))
    info: Floats = field(default_factory=lambda: np.empty(0))
    left: Floats = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        own = self.chip.coarse[MARGIN:-MARGIN, MARGIN:-MARGIN]
        self.windows = _centred(_cut(own, self.stride))

    @property
    def places(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        rows, cols = (n - 2 * MARGIN - WINDOW for n in self.chip.coarse.shape)
        return rows // self.stride + 1, cols // self.stride + 1

    def seen(self, width: float, shifts: Floats) -> Floats:
        """Return what a sensor sees of each fine band, in windows ``(w, P, n)``."""
        chip = self.chip
        images = [
            seen(x, width, chip.factor, (float(s[0]), float(s[1])))
            for x, s in zip(chip.fine, shifts, strict=True)
        ]
        inner = np.stack(images)[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
        return _centred(np.stack([_cut(x, self.stride) for x in inner], 1))


def fit_width(chips: Sequence[Chip], start: float, *, stride: int = 2) -> Fit:
    """Return the width of the coarse band that chips have parts of.

    Parameters
    ----------
    chips
        Parts of one scene, of one band.
    start
        Where the search begins, fine pixels.
    stride
        Coarse pixels from window to window.
    """
    parts = [_Part(c, np.zeros((len(c.fine), 2)), stride=stride) for c in chips]
    assert parts
    assert all(min(c.coarse.shape) >= 2 * MARGIN + WINDOW for c in chips)
    factor = chips[0].factor
    width = start
    for _ in range(ROUNDS):
        step = _round(parts, width)
        if not np.isfinite(step):
            return NOTHING
        step = float(np.clip(step, -0.075 * factor, 0.075 * factor))
        width = float(np.clip(width + step, 0.26 * factor, factor))
        if abs(step) < CLOSE * factor / 2:
            break
    return _told(parts, width)


def _round(parts: Sequence[_Part], width: float) -> float:
    """Move the shifts of all parts; return by how much the width is to change."""
    top = bottom = 0.0
    solved = []
    for part in parts:
        _linearise(part, width)
        inverse = np.linalg.inv(part.info[1:, 1:])
        total = part.score.sum(0)
        total[1:] -= part.shifts.T.ravel() / LIKELY**2
        solved.append((total, inverse))
        top += total[0] - part.info[0, 1:] @ inverse @ total[1:]
        bottom += part.info[0, 0] - part.info[0, 1:] @ inverse @ part.info[1:, 0]
    if bottom <= 0:
        return np.nan
    step = float(np.clip(top / bottom, -0.15, 0.15))
    for part, (total, inverse) in zip(parts, solved, strict=True):
        move = inverse @ (total[1:] - part.info[1:, 0] * step)
        moved = part.shifts + np.clip(move.reshape(2, -1).T, -0.5, 0.5)
        part.shifts = np.clip(moved, -FARTHEST, FARTHEST)
    return top / bottom


def _linearise(part: _Part, width: float) -> None:
    """Bring score and information of a part up to date, at `width` and its shifts."""
    chip, own, count = part.chip, part.windows, len(part.chip.fine)
    size, shifts = WINDOW**2, part.shifts
    low = part.seen(width, shifts)
    # A sensor that looks elsewhere sees farther: into what is missing, perhaps.
    wider, down, right = (_difference(part, width, axis) for axis in (None, 0, 1))
    images = (low, wider, down, right)
    seen_by_all = np.all([np.isfinite(x).all((-1, -2)) for x in images], axis=0)
    clear = np.asarray(np.isfinite(own).all(-1) & seen_by_all)
    low, y = np.where(clear[:, None, None], low, 0), np.where(clear[:, None], own, 0)
    gram = low @ low.transpose(0, 2, 1)
    level = np.trace(gram, axis1=1, axis2=2) / count
    gram += (RIDGE * level + 1)[:, None, None] * np.eye(count)
    both = (low @ y[..., None])[..., 0]
    weights = _weights(
        gram, both, chip.noise * np.sqrt(power(width, chip.factor) * size)
    )
    left = y - np.einsum("wp,wpn->wn", weights, low)
    slopes = [np.einsum("wp,wpn->wn", weights, wider)[:, None]]
    slopes += [weights[..., None] * moved for moved in (down, right)]
    change = np.where(clear[:, None, None], np.concatenate(slopes, 1), 0)
    # What weights can make up for is no change.
    taken = np.linalg.solve(gram, low @ change.transpose(0, 2, 1))
    change -= taken.transpose(0, 2, 1) @ low
    free = size - count - 1
    part.left = np.where(clear, np.square(left).sum(-1) / free, np.nan)
    trust = np.where(clear, 1 / (np.square(left).sum(-1) / free + FLOOR**2), 0)
    thinned = (part.stride / WINDOW) ** 2  # windows overlap
    part.score = (change @ left[..., None])[..., 0] * trust[:, None] * thinned
    part.score[:, 0] += _favour(weights, chip, width) * trust * thinned * free
    scaled = change * trust[:, None, None]
    part.info = np.einsum("wqn,wrn->qr", scaled, change, optimize=True) * thinned
    prior = np.full(2 * count + 1, LIKELY**-2)
    prior[0] = 0
    part.info += np.diag(prior)


def _weights(gram: Floats, both: Floats, noise: Floats) -> Floats:
    """Return what each fine band counts for, were it without noise.

    Directions that are hardly more than noise are held down by as much instead.
    """
    strong, turned = np.linalg.eigh(gram / noise[:, None] / noise)
    strong = np.where(strong > 3, strong - 1, strong + 1)
    along = (turned.transpose(0, 2, 1) @ (both / noise)[..., None])[..., 0] / strong
    found: Floats = (turned @ along[..., None])[..., 0] / noise
    return found


def _favour(weights: Floats, chip: Chip, width: float) -> Floats:
    """Return what the fine bands' noise does to each window's score, times -1."""
    ends = [power(width + d, chip.factor) for d in (STEP, -STEP)]
    slope = (ends[0] - ends[1]) / (2 * STEP)
    found: Floats = 0.5 * np.square(weights) @ np.square(chip.noise) * slope
    return found


def _difference(part: _Part, width: float, axis: int | None) -> Floats:
    """Return the change of what is seen with width, or with shifts along an axis."""
    shift = np.zeros(2)
    if axis is not None:
        shift[axis] = STEP
    wider = STEP if axis is None else 0.0
    more = part.seen(width + wider, part.shifts + shift)
    less = part.seen(width - wider, part.shifts - shift)
    found: Floats = (more - less) / (2 * STEP)
    return found


def _told(parts: Sequence[_Part], width: float) -> Fit:
    """Return what the last round knows."""
    total, blocks = 0.0, []
    for part in parts:
        share = np.linalg.solve(part.info[1:, 1:], part.info[1:, 0])
        total += part.info[0, 0] - part.info[0, 1:] @ share
        along = part.score[:, 0] - part.score[:, 1:] @ share
        blocks += _block_sums(along.reshape(part.places), BLOCK // part.stride)
    left, own = (
        np.concatenate([_known(x) for x in found])
        for found in (
            [p.left for p in parts],
            [
                np.where(
                    np.isfinite(p.left),
                    np.square(p.windows).sum(-1) / (WINDOW**2 - 1),
                    np.nan,
                )
                for p in parts
            ],
        )
    )
    if not len(left):
        return NOTHING
    noise = max(float(np.quantile(left, 0.05)) / 0.65, LEAST)
    best = own >= min(max(float(np.median(own)), 9 * noise), float(own.max()))
    share = np.sqrt(np.maximum(left - noise, 0)[best] / np.maximum(own[best], LEAST))
    return Fit(
        width=width,
        stderr=float(np.sqrt(np.square(blocks).sum()) / total),
        misfit=float(np.median(share)),
        contrast=float(np.sqrt(np.quantile(own, 0.95) / noise)),
        shifts=tuple(float(np.abs(p.shifts).max()) for p in parts),
    )


def _known(x: Floats) -> Floats:
    return x[np.isfinite(x)]


def _block_sums(x: Floats, side: int) -> list[float]:
    rows, cols = (range(0, n, side) for n in x.shape)
    return [float(x[i : i + side, j : j + side].sum()) for i in rows for j in cols]


def _cut(image: Floats, stride: int) -> Floats:
    """Return the windows of an image, ``(w, n)``."""
    windows = sliding_window_view(image, (WINDOW, WINDOW))[::stride, ::stride]
    return windows.reshape(-1, WINDOW**2)


def _centred(windows: Floats) -> Floats:
    found: Floats = windows - windows.mean(-1, keepdims=True)
    return found
