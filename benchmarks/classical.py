"""Methods without a network that the DSen2 paper compares itself with.

*ATPRK*, area-to-point regression kriging (Wang et al.): each coarse band is regressed
on the 10 m bands where both are known, at the coarse pixel; the regression is applied
to the fine pixels, and what it leaves is brought there by area-to-point kriging. Ours
takes all 10 m bands as regressors (the paper's second scheme, with coefficients by
least squares). The point variogram is an exponential whose mean over pixels fits the
variogram of the residuals best, in place of the iterative deconvolution; kriging is
ordinary, over 5 x 5 coarse pixels. It is coherent: block means of the result are the
coarse pixels. Of 60 m bands it uses the 10 m bands alone.

*SupReME* (Lanaras et al.): all bands at once, as ``U z`` in a subspace of few spectra,
so that what the sensor would make of them is what it recorded, and the gradients of
each coefficient are small but where the 10 m bands have edges. The problem is convex
and quadratic; ours is solved by conjugate gradients in place of ADMM. Parameters are as
the authors chose them, as far as we know; none was tuned on our scenes. It is told the
blur that made the data, which in practice nobody knows.

Both are written from the papers. Arrays are (H, W), float, any unit, NaN where missing.

References
----------
Wang, Shi, Li, Atkinson (2016), Fusion of Sentinel-2 images, RSE 187.
Kyriakidis (2004), A geostatistical framework for area-to-point spatial interpolation.
Lanaras, Bioucas-Dias, Baltsavias, Schindler (2017), Super-resolution of multispectral
multiresolution images from a single sensor, CVPR workshops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from scipy.ndimage import correlate1d
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, cg

from s2sr_xr.core.bands import BANDS, group
from s2sr_xr.models.networks.resample import Upsample

if TYPE_CHECKING:
    from s2sr_xr.evaluate.degraded_scene import Trial

REACH = 2
"""Coarse pixels on each side that kriging looks at."""

LAGS = 5
"""Distances, in coarse pixels, at which the variogram is known."""

RANGES = np.geomspace(0.25, 16, 25)
"""Of the exponential, in coarse pixels: those that are tried."""

SPECTRA = 7
"""Dimensions of SupReME's subspace."""

STRICTNESS = (1.0, 1.5, 4.0, 8.0, 15.0, 15.0, 20.0)
"""How strongly the gradients of each coefficient count, the main spectrum first."""

LAMBDA = 0.005
"""Weight of all gradients, beside bands of a mean square of 1."""


# --- ATPRK ----------------------------------------------------------------------------


def atprk(fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Return a coarse band on the pixels of fine ones, (K, H, W)."""
    factor = fine.shape[-1] // coarse.shape[-1]
    seen = _block_means(fine, factor)
    there = np.isfinite(coarse) & np.isfinite(seen).all(0)
    plane = np.linalg.lstsq(_design(seen[:, there]), coarse[there], rcond=None)[0]
    trend = plane[0] + np.tensordot(plane[1:], fine, 1)
    rest = coarse - (plane[0] + np.tensordot(plane[1:], seen, 1))
    made = trend + kriged(np.where(there, rest, 0), factor)
    made[np.isnan(coarse).repeat(factor, 0).repeat(factor, 1)] = np.nan
    return made


def _design(rows: np.ndarray) -> np.ndarray:
    return np.stack([np.ones(rows.shape[1]), *rows], -1)


def _block_means(images: np.ndarray, factor: int) -> np.ndarray:
    *lead, rows, cols = images.shape
    blocks = images.reshape(*lead, rows // factor, factor, cols // factor, factor)
    return blocks.mean((-3, -1))


def kriged(rest: np.ndarray, factor: int) -> np.ndarray:
    """Return residuals of areas at the points in them: their means are kept."""
    weights = _weights(_fitted_range(rest, factor), factor)
    padded = np.pad(rest, REACH, mode="symmetric")
    side = 2 * REACH + 1
    rows, cols = rest.shape
    near = np.stack(
        [padded[i : i + rows, j : j + cols] for i in range(side) for j in range(side)]
    )
    points = np.tensordot(weights, near, 1)
    points = points.reshape(factor, factor, rows, cols).transpose(2, 0, 3, 1)
    return points.reshape(rows * factor, cols * factor)


def _points(factor: int) -> np.ndarray:
    """Return where the fine pixels of a coarse one lie, in coarse pixels."""
    at = (np.arange(factor) + 0.5) / factor - 0.5
    return np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)


@cache
def _distances(factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Return distances among the points of the neighbours, (N, P, N, P) and (P, N, P).

    The second are those from the points of the middle one.
    """
    at = np.arange(-REACH, REACH + 1)
    centres = np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 1, 2)
    spots = centres + _points(factor)
    own = _points(factor)
    among = np.linalg.norm(spots[:, :, None, None] - spots[None, None], axis=-1)
    return among, np.linalg.norm(own[:, None, None] - spots[None], axis=-1)


@cache
def _weights(scale: float, factor: int) -> np.ndarray:
    """Return the weights of the neighbours for each point, (P, N): ordinary kriging."""
    among, own = (np.exp(-d / scale) for d in _distances(factor))
    areas, point = among.mean((1, 3)), own.mean(2)
    n = len(areas)
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = areas
    system[n, n] = 0
    right = np.concatenate([point, np.ones((len(point), 1))], 1)
    return np.linalg.solve(system, right.T)[:n].T


def _fitted_range(rest: np.ndarray, factor: int) -> float:
    """Return the range of the exponential that explains the residuals of areas."""
    lags = range(1, min(LAGS, min(rest.shape) - 1) + 1)
    seen = np.array([_half_variance(rest, k) for k in lags])
    best = None
    for scale in RANGES:
        model = _regularised(float(scale), factor)[: len(seen)]
        sill = model @ seen / (model @ model)
        error = float(np.sum(np.square(sill * model - seen)))
        if best is None or error < best[0]:
            best = error, float(scale)
    assert best is not None
    return best[1]


def _half_variance(x: np.ndarray, k: int) -> float:
    """Return half the mean squared difference of pixels `k` apart."""
    down, right = x[k:] - x[:-k], x[:, k:] - x[:, :-k]
    return float(np.mean(np.square(down)) + np.mean(np.square(right))) / 4


@cache
def _regularised(scale: float, factor: int) -> np.ndarray:
    """Return the variogram of areas at whole lags, of an exponential of points."""
    points = _points(factor)

    def mean(lag: int) -> float:
        apart = points[:, None] - (points + np.array([lag, 0]))[None]
        return float(np.exp(-np.linalg.norm(apart, axis=-1) / scale).mean())

    return np.array([mean(0) - mean(lag) for lag in range(1, LAGS + 1)])


# --- SupReME --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One band as it was recorded."""

    image: np.ndarray
    """(H / factor, W / factor)."""

    factor: int
    """Fine pixels along the side of one of its own."""

    width: float | None = None
    """Standard deviation of what a pixel sees along a line, itself included, in fine
    pixels; None: that of DSen2's protocol."""


def supreme(bands: list[Seen], *, steps: int = 200) -> np.ndarray:
    """Return all bands on the finest pixels, (C, H, W).

    `steps` of conjugate gradients at most; they end at a residual of 1e-4.
    """
    shape = next(b.image.shape for b in bands if b.factor == 1)
    scale = np.array([np.sqrt(np.nanmean(np.square(b.image))) for b in bands])
    images = [b.image / s for b, s in zip(bands, scale, strict=True)]
    known = [np.isfinite(x) for x in images]
    images = [np.where(k, x, 0) for k, x in zip(known, images, strict=True)]
    factors, widths = [b.factor for b in bands], [b.width for b in bands]
    sensors = list(zip(factors, widths, strict=True))
    spectra = _subspace(images, factors, shape)
    strict = LAMBDA * np.array(STRICTNESS[: spectra.shape[1]])[:, None, None]
    guides = [x for x, f in zip(images, factors, strict=True) if f == 1]
    edges = _edge_weights(guides)

    def back(residuals: list[np.ndarray]) -> np.ndarray:
        """Return the transpose of what the sensor does, in the subspace."""
        fine = np.stack(
            [_spread(r, *s) for r, s in zip(residuals, sensors, strict=True)]
        )
        return np.tensordot(spectra.T, fine, 1)

    def normal(flat: np.ndarray) -> np.ndarray:
        z = flat.reshape(-1, *shape)
        fine = np.tensordot(spectra, z, 1)
        seen = [
            k * _observed(x, *s) for x, s, k in zip(fine, sensors, known, strict=True)
        ]
        return (back(seen) + strict * _roughness(z, edges)).ravel()

    size = spectra.shape[1] * shape[0] * shape[1]
    start = np.tensordot(
        spectra.T,
        np.stack([_interpolated(x, f) for x, f in zip(images, factors, strict=True)]),
        1,
    )
    solved, _ = cg(
        LinearOperator((size, size), matvec=normal, dtype=float),
        back(images).ravel(),
        x0=start.ravel(),
        rtol=1e-4,
        maxiter=steps,
    )
    fine = np.tensordot(spectra, solved.reshape(-1, *shape), 1)
    return fine * scale[:, None, None]


def _subspace(images: list[np.ndarray], factors: list[int], shape) -> np.ndarray:
    """Return the main spectra, (C, K), of the bands when all are as blurred."""
    coarsest = max(factors)
    blurred = [
        _interpolated(_observed(x, coarsest // f), coarsest)
        for x, f in zip(images, factors, strict=True)
    ]
    assert all(x.shape == shape for x in blurred)
    u, _, _ = np.linalg.svd(np.stack([x.ravel() for x in blurred]), full_matrices=False)
    return u[:, :SPECTRA]


def _edge_weights(guides: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return how much gradients down and to the right count: half, at strong edges."""
    steps = [
        np.stack([np.abs(np.diff(g, axis=a)) for g in guides]).max(0) for a in (0, 1)
    ]
    found = []
    for step in steps:
        strong = max(float(np.percentile(step, 95)), 1e-9)
        found.append(np.maximum(np.exp(-np.square(step / strong) / 2), 0.5))
    return found[0], found[1]


def _roughness(z: np.ndarray, edges: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return half the gradient of the sum of weighted squares of all gradients."""
    found = np.zeros_like(z)
    for axis, edge in zip((-2, -1), edges, strict=True):
        steps = np.diff(z, axis=axis) * np.square(edge)
        ends = [(0, 0)] * z.ndim
        ends[axis] = (1, 1)
        found -= np.diff(np.pad(steps, ends), axis=axis)
    return found


@cache
def _sensor(size: int, factor: int, width: float | None) -> csr_array:
    """Return what makes coarse pixels of a line of fine ones: as `reduce_scale`."""
    sigma = 1 / factor
    if width is not None:
        sigma = math.sqrt(max(width**2 - (factor**2 - 1) / 12, 1e-6))
    radius = int(4 * sigma + 0.5)
    bell = np.exp(-0.5 * np.square(np.arange(-radius, radius + 1) / sigma))
    blur = correlate1d(np.eye(size), bell / bell.sum(), axis=0, mode="reflect")
    return csr_array(blur.reshape(size // factor, factor, size).mean(1))


def _observed(x: np.ndarray, factor: int, width: float | None = None) -> np.ndarray:
    """Return a fine image as coarse pixels have it."""
    if factor == 1:
        return x
    down, right = (_sensor(n, factor, width) for n in x.shape)
    return (right @ (down @ x).T).T


def _spread(x: np.ndarray, factor: int, width: float | None = None) -> np.ndarray:
    """Return the transpose of `_observed`."""
    if factor == 1:
        return x
    down, right = (_sensor(n * factor, factor, width) for n in x.shape)
    return (right.T @ (down.T @ x).T).T


def _interpolated(x: np.ndarray, factor: int) -> np.ndarray:
    up = Upsample(factor, "bicubic", a=-0.5)
    padded = np.pad(x, up.reach, mode="symmetric")
    return up(torch.from_numpy(padded)[None, None])[0, 0].numpy()


# --- on scenes ------------------------------------------------------------------------


def by_atprk(trial: Trial) -> dict[int, xr.Dataset]:
    """Return what ATPRK makes of a scene one scale below, as `scoring.attempt` does."""
    fine = np.stack([x.to_numpy() for x in trial.coarse["r10m"].data_vars.values()])
    fine = _filled(fine.astype(float))
    return {
        n: _like(
            truth, {b: atprk(fine, trial.coarse[group(n)][b].to_numpy()) for b in truth}
        )
        for n, truth in trial.truth.items()
    }


def by_supreme(trial: Trial) -> dict[int, xr.Dataset]:
    """Return what SupReME makes of a scene one scale below, as `attempt` does."""
    named = {
        str(b): Seen(
            image=image.to_numpy().astype(float), factor=BANDS[str(b)].native // 10
        )
        for g in trial.coarse.children.values()
        for b, image in g.data_vars.items()
        if b != "B10"
    }
    made = dict(zip(named, supreme(list(named.values())), strict=True))
    for name, band in named.items():
        gone = np.isnan(band.image).repeat(band.factor, 0).repeat(band.factor, 1)
        made[name][gone] = np.nan
    return {n: _like(truth, made) for n, truth in trial.truth.items()}


def _filled(images: np.ndarray) -> np.ndarray:
    """Return images without missing pixels: each has the mean of its band."""
    means = np.nanmean(images, axis=(-2, -1), keepdims=True)
    return np.where(np.isnan(images), means, images)


def _like(truth: xr.Dataset, made: dict[str, np.ndarray]) -> xr.Dataset:
    bands = {b: (("y", "x"), made[b].astype(np.float32)) for b in truth.data_vars}
    return xr.Dataset(bands, truth.coords)
