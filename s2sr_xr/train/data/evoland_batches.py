"""Batches of Evoland: simulated pairs and pairs one scale below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from s2sr_xr.errors import GridError, ModelError
from s2sr_xr.simulate.degrade import add_noise, psf_downscale

if TYPE_CHECKING:
    from collections.abc import Callable

    Network: TypeAlias = Callable[..., torch.Tensor]

__all__ = [
    "LOUD",
    "MTF",
    "SIMULATED_NOISE",
    "TEN",
    "WALD_NOISE",
    "Batch",
    "Example",
    "align_range",
    "between",
    "check_range",
    "mosaic",
    "simulated_batch",
    "wald_batch",
]

Batch: TypeAlias = Sequence[torch.Tensor]
"""``(B, 4, 2 h, 2 w)`` of the 10 m bands, ``(B, 6, h, w)`` of the 20 m bands, and for
simulation ``(B, 10, 4 h, 4 w)`` of a finer image; reflectance."""


TEN = 4
"""How many of the ten bands are 10 m bands; they come first."""


SIMULATED_NOISE = (
    *(0.000578, 0.0008, 0.001358, 0.001622),
    *(0.00123, 0.00129, 0.001544, 0.00164),
)
"""Deviation of the noise on simulated images, B02 to B8A, before the draw."""


WALD_NOISE = (
    *(0.00040749, 0.000564, 0.00095739, 0.00114351, 0.0012226815),
    *(0.0012823245, 0.0015348132, 0.001630242, 0.0023777676, 0.002306196),
)
"""Deviation of the noise on Wald images, B02 to B12, before the draw."""


MTF = (0.3, 0.7)
"""Range of the contrast that a simulated sensor leaves at its Nyquist frequency."""


LOUD = (2.0, 3.0)
"""Range of the factor on the noise."""


@dataclass(frozen=True, slots=True)
class Example:
    """What a network is shown, and what it should make of it."""

    images: tuple[torch.Tensor, torch.Tensor]
    """Its inputs: the finer group, and the coarser."""

    target: torch.Tensor
    """``(B, C, 2 H, 2 W)`` for a finer group of ``(B, 4, H, W)``."""

    bands: tuple[int, ...]
    """Which channels of the network's output the channels of `target` are."""


def wald_batch(
    batch: Batch,
    generator: torch.Generator,
    *,
    mtf: tuple[float, float] = MTF,
    loud: tuple[float, float] = LOUD,
) -> Example:
    """Return real images four times coarser, and what is known of them at 20 m.

    The images are `psf_downscale` by 4 with noise: 40 m and 80 m pixels. The target is
    the 10 m bands by 2, and the real 20 m bands: all ten at 20 m, without noise. One
    MTF and one loudness are drawn for the batch.

    Raises
    ------
    GridError
        The batch is not of 4 bands at 10 m and 6 at 20 m of the same ground, or the
        sides of the 20 m images are not multiples of 4.
    """
    ten, twenty = batch[:2]
    _check_batch(ten, twenty)
    m, noise = between(mtf, generator), between(loud, generator)
    levels = [noise * n for n in WALD_NOISE]
    images = (
        add_noise(psf_downscale(ten, 4, m), levels[:TEN], generator),
        add_noise(psf_downscale(twenty, 4, m), levels[TEN:], generator),
    )
    target = torch.cat((psf_downscale(ten, 2, m), twenty), 1)
    return Example(images, target, tuple(range(10)))


def simulated_batch(
    batch: Batch,
    generator: torch.Generator,
    *,
    mtf: tuple[float, float] = MTF,
    loud: tuple[float, float] = LOUD,
) -> Example:
    """Return Sentinel-2 as simulated from a finer image, which is the target.

    Ten bands of the finer image, or the eight that Venus has: then B11 and B12 are the
    real ones, and no target. 10 m images are `psf_downscale` by 2, 20 m images by 4,
    both with noise. One MTF and one loudness are drawn for the batch.

    Raises
    ------
    GridError
        The finer image has neither 8 nor 10 bands, or is not twice as fine as the 10 m
        images.
    """
    ten, twenty, fine = batch
    _check_batch(ten, twenty)
    if fine.shape[1] not in (8, 10) or fine.shape[-2:] != _twice(ten):
        raise GridError(
            f"The finer image is of 8 or 10 bands with {tuple(_twice(ten))} pixels, "
            f"twice those of the 10 m images; got {tuple(fine.shape[1:])}"
        )
    m, noise = between(mtf, generator), between(loud, generator)
    levels = [noise * n for n in (*SIMULATED_NOISE, *WALD_NOISE[8:])]
    made = [
        add_noise(psf_downscale(bands, factor, m), std, generator)
        for bands, factor, std in (
            (fine[:, :TEN], 2, levels[:TEN]),
            (fine[:, TEN:], 4, levels[TEN : fine.shape[1]]),
        )
    ]
    coarse = torch.cat((made[1], twenty[:, made[1].shape[1] :]), 1)
    return Example((made[0], coarse), fine, tuple(range(fine.shape[1])))


def align_range(fine: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return a finer image whose bands span what the real bands span, patch by patch.

    Another sensor sees other reflectance; the network should not learn the difference.

    Parameters
    ----------
    fine
        ``(B, 8 or 10, H, W)``.
    batch
        The 10 m and 20 m bands of the same ground.
    """
    real = [b for group in batch[:2] for b in group.unbind(1)][: fine.shape[1]]
    low, high = (
        torch.stack([end(b.flatten(1), 1) for b in real], 1)[..., None, None]
        for end in (torch.amin, torch.amax)
    )
    flat = fine.flatten(2)
    first, last = flat.amin(2)[..., None, None], flat.amax(2)[..., None, None]
    # A band without spread keeps its own range, moved.
    scale = torch.where(last > first, (high - low) / (last - first), 1.0)
    return (fine - first) * scale + low


def mosaic(x: torch.Tensor) -> torch.Tensor:
    """Return ``(..., 2 H, 2 W)``: `x` and its mirror images, without a seam.

    So that a small patch has as many pixels as others, and its edges neighbours.
    """
    x = torch.cat((x, x.flip(-1)), -1)
    return torch.cat((x, x.flip(-2)), -2)


def between(ends: tuple[float, float], generator: torch.Generator) -> float:
    """Return a random number between two ends."""
    low, high = ends
    return low + (high - low) * float(torch.rand((), generator=generator))


def check_range(
    name: str, ends: tuple[float, float], least: float, most: float
) -> None:
    """Refuse ends that are not a range within two bounds."""
    if len(ends) != 2 or not least <= ends[0] <= ends[1] <= most:
        raise ModelError(
            f"{name} is a range, two numbers from {least:g} to {most:g}; got {ends}."
        )


def _twice(x: torch.Tensor) -> torch.Size:
    return torch.Size(2 * n for n in x.shape[-2:])


def _check_batch(ten: torch.Tensor, twenty: torch.Tensor) -> None:
    if ten.shape[1] != TEN or twenty.shape[1] != 6 or ten.shape[-2:] != _twice(twenty):
        raise GridError(
            "A batch has 4 bands at 10 m and 6 at 20 m of the same ground; got "
            f"{tuple(ten.shape)} and {tuple(twenty.shape)}"
        )
