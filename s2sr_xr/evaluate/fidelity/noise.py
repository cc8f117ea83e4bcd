"""Noise where there is nothing else, and jumps along lines that nothing should show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from s2sr_xr.errors import GridError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Corners = NDArray[np.intp]

__all__ = ["Noise", "flat_windows", "noise", "seam_energy"]

SIDE = 6
_BESIDE = 4  # lines on each side of a seam: they cross the same ground
_PLANE = 3  # what a plane takes from the degrees of freedom


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What varies over windows that are nearly flat."""

    sigma: float
    """Standard deviation, in the unit of the pixels. Texture counts as noise: of ground
    that is nowhere even this is an upper bound."""

    signal: float
    """Mean over the same windows."""

    @property
    def snr(self) -> float:
        """Signal over noise; infinite without noise, NaN without a window."""
        return self.signal / self.sigma if self.sigma else float("inf")


def flat_windows(image: ArrayLike, *, side: int = SIDE, share: float = 0.02) -> Corners:
    """Return where an image varies least about a plane.

    Parameters
    ----------
    image
        (H, W), NaN where missing: windows with a NaN are left out.
    side
        Of the windows, in pixels; they do not overlap.
    share
        Of the windows that are whole: so many of the flattest, one at least.

    Returns
    -------
    np.ndarray
        (N, 2): first row and column of each. They are chosen by every second pixel of a
        chequered board; `noise` looks at the others, so that windows which happen to be
        quiet do not make the noise small.
    """
    values = np.asarray(image, np.float64)
    rows, cols = (range(0, n - side + 1, side) for n in values.shape)
    corners = np.array([(i, j) for i in rows for j in cols], np.intp).reshape(-1, 2)
    corners = corners[np.isfinite(_cut(values, corners, side)).all((-2, -1))]
    if not len(corners):
        return corners
    spread = _spread(_cut(values, corners, side), ~_board(side, 1))
    # Clipped and saturated ground is flatter than any noise.
    alive = spread > 0
    order = np.argsort(spread[alive])
    return corners[alive][order[: max(1, round(share * alive.sum()))]]


def noise(
    image: ArrayLike, windows: Corners, *, side: int = SIDE, factor: int = 1
) -> Noise:
    """Return the noise over windows: what is left of them without a plane.

    Parameters
    ----------
    image
        (H, W), any unit.
    windows, side
        Of `flat_windows`, in pixels of the image they were found in.
    factor
        Pixels of `image` along one of those: the same windows are looked at in a finer
        image, so that the ratio of two noises is the amplification.

    Returns
    -------
    Noise
        Waves of all lengths up to a window count, so that smooth noise of interpolation
        is not taken for none, as a Laplacian would. NaN without a window that is whole.
    """
    values = np.asarray(image, np.float64)
    found = _cut(values, windows * factor, side * factor)
    found = found[np.isfinite(found).all((-2, -1))]
    if not len(found):
        return Noise(sigma=float("nan"), signal=float("nan"))
    spread = _spread(found, _board(side, factor))
    own = side * side // 2
    return Noise(
        sigma=float(np.sqrt(spread.mean() * own / (own - _PLANE))),
        signal=float(found.mean()),
    )


def _cut(image: Floats, corners: Corners, side: int) -> Floats:
    """Return ``(N, side, side)``."""
    at = np.arange(side)
    rows, cols = (corners[:, k, None] + at for k in (0, 1))
    return np.asarray(image[rows[:, :, None], cols[:, None, :]])


def _board(side: int, factor: int) -> NDArray[np.bool_]:
    """Return the dark fields of a chequered board, each `factor` pixels wide."""
    at = np.arange(side * factor) // factor
    return np.asarray((at[:, None] + at) % 2 == 1)


def _spread(windows: Floats, chosen: NDArray[np.bool_]) -> Floats:
    """Return the mean square of each window's chosen pixels about their plane."""
    # Counted from a pixel of its own, ground that is constant is 0, not nearly so.
    windows = windows - windows[:, :1, :1]
    rows, cols = np.nonzero(chosen)
    plane, _ = np.linalg.qr(np.stack([np.ones(rows.size), rows, cols], 1))
    pixels = windows[:, rows, cols]
    rest = pixels - (pixels @ plane) @ plane.T
    return np.asarray(np.square(rest).mean(1))


def seam_energy(
    image: ArrayLike, step: int, *, cell: int = 1, offset: int = 0
) -> float:
    """Return the mean squared jump across the lines of a grid over that next to them.

    Parameters
    ----------
    image
        (H, W), any unit; steps with a NaN are left out.
    step
        Pixels between lines of the grid, along both axes.
    cell
        Only lines at multiples of so many pixels are compared, the four before and
        after each line of the grid. Interpolated pixels jump less inside a native
        pixel than next to its edge, and tiles begin at such edges.
    offset
        Pixels before the first line.

    Returns
    -------
    float
        1: its lines differ from no others, up to chance, which is a tenth or
        two where few lines cross a scene; 4: jumps are twice as large. NaN if the image
        has no line of the grid, or is flat next to it.

    Raises
    ------
    GridError
        `step` is not a multiple of `cell`, or holds no other line.

    >>> tiles = np.kron([[0, 1], [1, 0]], np.ones((8, 8)))
    >>> seam_energy(tiles + np.random.default_rng(0).normal(0, 0.1, (16, 16)), 8) > 9
    True
    """
    if step % cell or step == cell or step < 1:
        raise GridError(
            f"step={step}: a grid of seams is a multiple of cell={cell} px, and at "
            "least two of them."
        )
    values = np.asarray(image, np.float64)
    on, off = [], []
    for axis in (0, 1):
        squares = np.square(np.diff(values, axis=axis))
        squares = squares if axis == 0 else squares.T
        line = np.arange(1, len(squares) + 1) - offset
        on.append(squares[line % step == 0].ravel())
        beside = np.minimum(line % step, -line % step)
        near = (line % cell == 0) & (beside > 0) & (beside <= _BESIDE * cell)
        off.append(squares[near].ravel())
    seams, others = (_mean(np.concatenate(v)) for v in (on, off))
    return seams / others if others > 0 else float("nan")


def _mean(values: Floats) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")
