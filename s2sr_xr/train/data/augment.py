"""What is done to a patch before it is learnt from: turned, brightened, mixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from s2sr_xr.errors import GridError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Augment", "Patch", "augmented"]

Patch: TypeAlias = tuple[torch.Tensor, ...]
"""One stack ``(..., C, side * per_cell, side * per_cell)`` a group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """What is done to a patch that is taken, to all its groups alike."""

    turn: bool = True
    """Quarter turns and mirroring, all eight alike."""

    gain: tuple[float, float] = (0.5, 4.0)
    """Brightened or darkened by a factor in this range, equally often by octaves: what
    surrounds an edge should not decide how it is drawn. ``(1, 1)`` leaves it."""

    odd: float = 0.0
    """Share of patches whose bands are each dimmed by a factor of their own, 0.05 to 1,
    equally often by octaves. Ice is white to the eye and black in the short-wave
    infrared: detail must not be carried over from what other bands are elsewhere."""

    mixed: float = 0.0
    """Share of patches whose bands are each replaced by a random mixture of the bands
    of their group. Blur and decimation are linear, so that what was true of the bands
    is true of the mixtures: a few scenes show the spectra of many."""

    def __post_init__(self) -> None:
        low, high = self.gain
        if not 0 < low <= high:
            raise GridError(f"gain is a range of positive factors, got {self.gain}")
        for name in ("odd", "mixed"):
            if not 0 <= getattr(self, name) <= 1:
                raise GridError(
                    f"{name} is a share in [0, 1], got {getattr(self, name)}"
                )


def augmented(
    patch: Sequence[torch.Tensor],
    rng: np.random.Generator,
    how: Augment,
    names: Sequence[Sequence[str]] = (),
) -> Patch:
    """Return a patch turned, mirrored and with another gain, all groups alike.

    `names` are the bands of each group; ``how.odd`` and ``how.mixed`` need them.

    >>> one = torch.arange(4.0).reshape(1, 2, 2)
    >>> how = Augment(turn=False, gain=(2, 2))
    >>> augmented([one], np.random.default_rng(0), how)[0].flatten()
    tensor([0., 2., 4., 6.])
    """
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    low, high = how.gain
    gain = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if how.mixed and rng.random() < how.mixed:
        patch = _mixtures(patch, rng, names)
    out = []
    for image in patch:
        turned = torch.rot90(image, turns * how.turn, (-2, -1))
        out.append((turned.flip(-1) if flip and how.turn else turned) * gain)
    if how.odd and rng.random() < how.odd:
        return _dimmed(out, rng, names)
    return tuple(out)


def _mixtures(
    patch: Sequence[torch.Tensor],
    rng: np.random.Generator,
    names: Sequence[Sequence[str]],
) -> Patch:
    """Return a patch of mixtures, the same for groups of the same bands."""
    mixtures: dict[tuple[str, ...], torch.Tensor] = {}
    out = []
    for image, group in zip(patch, names, strict=True):
        n = len(group)
        if tuple(group) not in mixtures:
            # One in four of the others is taken away instead of added.
            signs = rng.choice([1.0, 1.0, 1.0, -0.5], size=(n, n))
            strange = rng.dirichlet([0.5] * n, size=n) * signs
            share = rng.random()
            mixture = (1 - share) * np.eye(n) + share * strange
            mixtures[tuple(group)] = torch.from_numpy(mixture)
        weights = mixtures[tuple(group)].to(image)
        out.append(torch.einsum("ij,jhw->ihw", weights, image))
    return tuple(out)


def _dimmed(
    patch: Sequence[torch.Tensor],
    rng: np.random.Generator,
    names: Sequence[Sequence[str]],
) -> Patch:
    """Return a patch with each band dimmed, in whatever group it is."""
    bands = sorted({name for group in names for name in group})
    factors = dict(
        zip(bands, np.exp(rng.uniform(np.log(0.05), 0, len(bands))), strict=True)
    )
    return tuple(
        image * torch.tensor([factors[n] for n in group]).to(image)[:, None, None]
        for image, group in zip(patch, names, strict=True)
    )
