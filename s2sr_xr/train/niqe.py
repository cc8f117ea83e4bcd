"""How natural an image looks, without a truth to compare it with.

A NIQE-type score: statistics of an image's contrast, block by block, and how far they
lie from those of images that are known to be good. It is fitted on any scenes, so that
nothing is downloaded, and chooses among the checkpoints of an adversarial training::

    natural = fit_natural(real_images)
    natural.score(made_images)  # lower is better

Compare scores of one model of what is natural, and of images of the same ground.

Two things differ from the paper. Each band of an image is divided by its deviation
first: neither gain nor offset changes a score. And what neighbours across and down
show is put together, as what diagonal ones do: a satellite image has no upside.

References
----------
Mittal, Soundararajan, Bovik (2013), Making a completely blind image quality analyzer,
IEEE SPL 20(3).
Lasmar, Stitou, Berthoumieu (2009), Multiscale skewed heavy tailed model for texture
analysis, ICIP: moments of the asymmetric generalised Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.core.filters import block_mean, gaussian_blur
from s2sr_xr.errors import GridError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Natural", "fit_natural"]

WIDTH = 7 / 6
"""Deviation of the window of local means and contrasts, in pixels."""

FLOOR = 0.02
"""Added to local contrast, in deviations of the band: 1 of 255 grey values is as much
of a photograph."""

SCALES = 2
"""The image, and the means of its blocks of 2 x 2."""

FEATURES = 10
"""Numbers that each scale gives: 2 of the contrast, 4 of neighbours, 4 of diagonals."""

FLAT = 1e-6
"""Local contrast of a block, in deviations of the band, that rounding may leave."""

LEAST = 3 * SCALES * FEATURES
"""Blocks of a band that a model needs: fewer do not decide a covariance."""

STEPS = torch.arange(0.2, 10, 0.001, dtype=torch.float64)
"""Exponents that are tried: 2 is a Gaussian, 1 a Laplacian."""


@dataclass(frozen=True, slots=True)
class Natural:
    """What blocks of good images look like: one Gaussian over features a band."""

    mean: torch.Tensor
    """``(C, 20)``, float64."""

    covariance: torch.Tensor
    """``(C, 20, 20)``, float64."""

    block: int
    """Pixels along the side of a block, a multiple of 4."""

    def score(self, images: Iterable[torch.Tensor]) -> float:
        """Return how far images are from natural, over all bands; lower is better.

        The same for images that were turned by quarters, mirrored, or had any gain
        above 0 and any offset given to each of their bands, where their sides are whole
        blocks.

        Parameters
        ----------
        images
            ``(C, H, W)`` each, any unit. What is beyond the last whole block is left
            out, and so are blocks with or next to NaN and flat ones.

        Raises
        ------
        GridError
            Other bands than it was fitted on, or no block of a band is left.
        """
        found = _blocks(images, self.block)
        if len(found) != len(self.mean):
            raise GridError(
                f"The images have {len(found)} bands; what is natural was learnt from "
                f"{len(self.mean)}. Give the same bands in the same order."
            )
        distances = [
            _distance(values, mean, covariance)
            for (values, _), mean, covariance in zip(
                found, self.mean, self.covariance, strict=True
            )
        ]
        return sum(distances) / len(distances)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint or a safetensors file holds of it."""
        return {
            "mean": self.mean,
            "covariance": self.covariance,
            "block": torch.tensor(self.block),
        }

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Natural:
        """Return what `tensors` gave.

        Raises
        ------
        ModelError
            They are none of a model of what is natural.
        """
        try:
            mean, covariance = tensors["mean"], tensors["covariance"]
            whole = covariance.shape == (*mean.shape, SCALES * FEATURES)
            if not whole or mean.shape[1:] != covariance.shape[2:]:
                raise ModelError(
                    f"Of {tuple(mean.shape)} features {tuple(covariance.shape)} is no "
                    "covariance: it was fitted by another version. Fit it again."
                )
            return cls(mean, covariance, int(tensors["block"]))
        except KeyError as error:
            raise ModelError(
                f"The tensors {', '.join(sorted(tensors))} are no model of what is "
                f"natural: {error} is missing."
            ) from error


def fit_natural(images: Iterable[torch.Tensor], *, block: int = 48) -> Natural:
    """Return what images that are known to be good have in common.

    The sharper half of the blocks of each band, by their mean local contrast, is taken.

    Parameters
    ----------
    images
        ``(C, H, W)`` each, any unit, the same bands. NaN and flat blocks are left out.
    block
        Pixels along the side of a block, a multiple of 4.

    Raises
    ------
    GridError
        `block` is not a multiple of 4, bands differ, or a band has too few blocks.
    """
    if block < 8 or block % 4:
        raise GridError(f"block is a multiple of 4 pixels, 8 or more; got {block}")
    kept = [_sharper(*band) for band in _blocks(images, block)]
    few = min(map(len, kept), default=0)
    if few < LEAST:
        raise GridError(
            f"A band has {few} sharp blocks of {block} x {block} pixels, and {LEAST} "
            "are needed to say what is natural. Give more images, or smaller blocks."
        )
    return Natural(
        torch.stack([values.mean(0) for values in kept]),
        torch.stack([values.T.cov() for values in kept]),
        block,
    )


def _sharper(values: torch.Tensor, sharp: torch.Tensor) -> torch.Tensor:
    return values[sharp >= sharp.median()] if len(sharp) else values


def _distance(
    values: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor
) -> float:
    """Return how far blocks are from a Gaussian over features."""
    away = values.mean(0) - mean
    own = values.T.cov() if len(values) > 1 else torch.zeros_like(covariance)
    both = (covariance + own) / 2
    # As small as rounding: a feature that never varies decides nothing alone.
    both.diagonal().add_(1e-9 * both.diagonal().mean())
    return float((away @ torch.linalg.solve(both, away)).clamp(min=0).sqrt())


def _blocks(
    images: Iterable[torch.Tensor], block: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return features ``(n, 20)`` and sharpness ``(n,)`` of the blocks of each band."""
    bands: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
    for image in images:
        found = _of_image(image, block)
        bands = bands or [[] for _ in found]
        if len(found) != len(bands):
            raise GridError(
                f"One image has {len(bands)} bands and another {len(found)}; a score "
                "is of the same bands of each."
            )
        for band, new in zip(bands, found, strict=True):
            band.append(new)
    joined = [
        (torch.cat(v), torch.cat(s)) for v, s in (zip(*b, strict=True) for b in bands)
    ]
    if not joined or not all(len(values) for values, _ in joined):
        raise GridError(
            f"There is no whole block of {block} x {block} pixels without NaN that is "
            "not flat in each band. Give larger images, or other ones."
        )
    return joined


def _of_image(
    image: torch.Tensor, block: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the features and the sharpness of the blocks of each band of an image."""
    if image.ndim != 3:
        raise GridError(f"An image is (C, H, W); got {tuple(image.shape)}")
    rows, cols = (n // block * block for n in image.shape[-2:])
    if not rows or not cols:
        return [(torch.zeros(0, SCALES * FEATURES), torch.zeros(0))] * len(image)
    x = _levelled(image[:, :rows, :cols].double())
    features, sharpness = [], torch.zeros(0)
    for scale in range(SCALES):
        contrast, spread = _normalised(x)
        features.append(_features(_cut(contrast, block >> scale)))
        if scale == 0:
            sharpness = _cut(spread, block).mean((2, 3))
        x = block_mean(x, 2)
    values = torch.cat(features, -1)
    whole = values.isfinite().all(-1) & (sharpness > FLAT)
    return [(v[w], s[w]) for v, s, w in zip(values, sharpness, whole, strict=True)]


def _levelled(x: torch.Tensor) -> torch.Tensor:
    """Return each band less its mean, in its deviation; a flat one is NaN."""
    known = x.isfinite()
    x = torch.where(known, x, torch.nan)
    mean = x.nanmean((1, 2), keepdim=True)
    spread = (x - mean).square().nanmean((1, 2), keepdim=True).sqrt()
    return (x - mean) / torch.where(spread > FLAT * mean.abs(), spread, torch.nan)


def _normalised(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return contrast in local deviations, and these deviations (eq. 1 to 3)."""
    mean = gaussian_blur(x, WIDTH)
    spread = (gaussian_blur(x.square(), WIDTH) - mean.square()).clamp(min=0).sqrt()
    return (x - mean) / (spread + FLOOR), spread


def _cut(x: torch.Tensor, block: int) -> torch.Tensor:
    """Return ``(C, n, block, block)``."""
    bands = x.shape[0]
    cut = F.unfold(x[:, None], block, stride=block)
    return cut.mT.reshape(bands, -1, block, block)


def _features(x: torch.Tensor) -> torch.Tensor:
    """Return the 10 features of blocks ``(C, n, b, b)`` of contrast."""
    across, down = x[..., 1:] * x[..., :-1], x[..., 1:, :] * x[..., :-1, :]
    falling = x[..., 1:, 1:] * x[..., :-1, :-1]
    rising = x[..., 1:, :-1] * x[..., :-1, 1:]
    shape, _, left, right = _asymmetric(x.flatten(2))
    pairs = [
        torch.cat([one.flatten(2), other.flatten(2)], -1)
        for one, other in ((across, down), (falling, rising))
    ]
    products = [value for pair in pairs for value in _asymmetric(pair)]
    return torch.stack([shape, (left + right) / 2, *products], -1)


def _asymmetric(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return exponent, mean, left and right width of the Gaussian that fits best.

    By moments, over the last dim. What has no negative or no positive value, or is
    flat, gives NaN.
    """
    square = x.square()
    low, high = (x < 0).double(), (x > 0).double()
    left = ((square * low).sum(-1) / low.sum(-1)).sqrt()
    right = ((square * high).sum(-1) / high.sum(-1)).sqrt()
    ratio = left / right
    peaked = x.abs().mean(-1).square() / square.mean(-1)
    seen = peaked * (ratio**3 + 1) * (ratio + 1) / (ratio.square() + 1).square()
    first, second, third = (torch.lgamma(k / STEPS) for k in (1, 2, 3))
    table = (2 * second - first - third).exp()
    at = torch.searchsorted(table, seen.contiguous()).clamp(max=len(STEPS) - 1)
    shape = torch.where(seen.isfinite(), STEPS[at], torch.nan)
    one, two, three = (torch.lgamma(k / shape) for k in (1, 2, 3))
    unit = ((one - three) / 2).exp()
    mean = (right - left) * unit * (two - one).exp()
    return shape, mean, left * unit, right * unit
