"""What a network learns from: images of a scene, and what it should make of them.

Two protocols. *Reduced scale* needs no finer truth: everything is degraded by the
factor of the task, and the native coarse band is the target. *True scale* takes a
simulated scene, whose 10 m truth is known.

References
----------
Lanaras et al. (2018), ISPRS Journal 146, section 4.1: training one scale below.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

from s2sr_xr.core.filters import reduce_scale
from s2sr_xr.core.scene import scene_of
from s2sr_xr.core.tiling import Box, Span
from s2sr_xr.engine.nesting import check_nesting
from s2sr_xr.errors import GridError
from s2sr_xr.train.data.augment import Augment, augmented

if TYPE_CHECKING:
    import xarray as xr

    from s2sr_xr.core.scene import Object
    from s2sr_xr.models.spec import ModelSpec

__all__ = ["Pair", "estranged", "patches", "reduced_pair", "reduced_pairs", "true_pair"]


DARK = 1e-2
"""Reflectance below which a mean says nothing of how bright a scene is."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One scene as a network sees it, and what it should give."""

    name: str
    """Of the scene, for messages and tables."""

    images: tuple[torch.Tensor, ...]
    """``(C, rows * per_cell, cols * per_cell)`` a band group, reflectance."""

    target: torch.Tensor
    """``(C, rows * per_cell, cols * per_cell)`` of the output group; NaN: unknown."""

    weight: float = 1.0
    """How often patches are taken from it, compared with scenes of the same size."""

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        coarsest = self.images[-1]
        return coarsest.shape[-2], coarsest.shape[-1]


def reduced_pair(obj: Object, spec: ModelSpec, name: str) -> Pair:
    """Return a scene one scale below: degraded images, and the native band as target.

    A 20 m task makes 20 m pixels of 40 m ones; a 60 m task 60 m pixels of 360 m ones.
    Rows and columns beyond the last whole cell are left out.

    Parameters
    ----------
    obj
        Reflectance with the bands of `spec`; read here, the first time step.
    spec
        The task. Its last input group is the one that is made finer.
    name
        Of the scene.

    Raises
    ------
    MissingBandError, GridError
        A band is not there, pixels do not nest, or not one cell fits.
    """
    (pair,) = reduced_pairs(obj, spec, name, phases=1)
    return pair


def reduced_pairs(
    obj: Object, spec: ModelSpec, name: str, *, phases: int = 2
) -> list[Pair]:
    """Return a scene one scale below, decimated at several phases.

    The first pixel of each degraded image may be any of the native ones: each choice
    aliases in its own way. `phases` along either side, so 4 pairs for 2, which weigh as
    much as one together; what else, and what is raised, as in `reduced_pair`.
    """
    cells = check_nesting(scene_of(obj), spec).shape
    factor = spec.output.per_cell
    if min(cells) - phases + 1 < factor:
        raise GridError(
            f"{name} is smaller than one cell of {spec.cell * factor} m; one scale "
            f"below, a scene needs {factor + phases - 1} pixels of {spec.cell} m along "
            "each side."
        )
    native = _stacks(obj, spec)
    pairs = []
    for at in product(range(phases), repeat=2):
        rows, cols = (
            Span(start, start + (n - start) // factor * factor)
            for start, n in zip(at, cells, strict=True)
        )
        whole = [
            stack[:, *Box(rows, cols).scale(g.per_cell).slices]
            for g, stack in zip(spec.inputs, native, strict=True)
        ]
        images = tuple(reduce_scale(stack, factor) for stack in whole)
        pairs.append(Pair(name, images, whole[-1], weight=1 / phases**2))
    return pairs


def true_pair(obj: Object, truth: xr.Dataset, spec: ModelSpec, name: str) -> Pair:
    """Return a simulated scene at its own scale, with the 10 m truth as target.

    `truth` holds the bands of ``spec.output`` on 10 m pixels (`s2sr_xr.open_truth`).
    """
    check_nesting(scene_of(obj), spec)
    stack = np.stack([truth[b].to_numpy() for b in spec.output.names])
    return Pair(name, tuple(_stacks(obj, spec)), torch.from_numpy(stack))


def _stacks(obj: Object, spec: ModelSpec) -> list[torch.Tensor]:
    planes = scene_of(obj).planes
    stacks = []
    for group in spec.inputs:
        variables = [planes[b].variable for b in group.names]
        first = [v[0] if v.ndim == 3 else v for v in variables]
        stack = np.stack([v.to_numpy().astype(np.float32) for v in first])
        stacks.append(torch.from_numpy(stack))
    return stacks


def patches(
    pairs: list[Pair],
    spec: ModelSpec,
    *,
    side: int,
    batch: int,
    seed: int,
    step: int,
    augment: Augment | None = None,
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Return the batch of one training step: a function of seed and step alone.

    Patches of `side` cells at whole cells, from scenes in proportion to the root of
    their area, without missing pixels; turned and mirrored at random, and brightened or
    darkened together with their target, since what surrounds an edge should not decide
    how it is drawn; `augment` says otherwise.

    Raises
    ------
    GridError
        In 200 draws no scene gave a patch without missing pixels.
    """
    rng = np.random.default_rng((seed, step))
    names = [g.names for g in (*spec.inputs, spec.output)]
    large = [p for p in pairs if min(p.cells) >= side]
    if not large:
        raise GridError(
            f"No scene has {side} x {side} cells; the largest of {len(pairs)} has "
            f"{max((p.cells for p in pairs), default=(0, 0))}. Use smaller patches."
        )
    # The root of the area: a large scene holds more, but not more kinds of country.
    share = np.array([p.weight * (p.cells[0] * p.cells[1]) ** 0.5 for p in large])
    found: list[tuple[torch.Tensor, ...]] = []
    for _ in range(200 * batch):
        pair = large[rng.choice(len(large), p=share / share.sum())]
        patch = _patch(pair, spec, side, rng)
        if all(bool(torch.isfinite(t).all()) for t in patch):
            found.append(augmented(patch, rng, augment or Augment(), names))
        if len(found) == batch:
            *images, target = (torch.stack(t) for t in zip(*found, strict=True))
            return tuple(images), target
    raise GridError(
        f"200 draws a patch found {len(found)} of {batch} without missing pixels in "
        f"{', '.join(p.name for p in large)}."
    )


def estranged(image: torch.Tensor, share: float, seed: tuple[int, int]) -> torch.Tensor:
    """Return a batch in which some images show, more or less, the ground of others.

    So that a network learns to leave alone what its fine bands know nothing of: a
    featureless sea, a cloud that moved between two bands.

    Parameters
    ----------
    image
        ``(B, C, h, w)``, the finest group of a batch; any unit.
    share
        Of the images that change, in the mean. Each becomes a blend of itself and of
        another's detail, at its own mean.
    seed
        Decides which, and how much.
    """
    rng = np.random.default_rng((*seed, 1))
    chosen = np.flatnonzero(rng.random(len(image)) < share)
    if not len(chosen):
        return image
    own = image[chosen]
    others = image.roll(1, 0)[chosen]
    blend = torch.from_numpy(rng.random((len(chosen), 1, 1, 1)) ** 0.5).to(image)
    mean, theirs = (x.mean((2, 3), keepdim=True) for x in (own, others))
    gain = (mean / theirs.clamp_min(DARK)).clamp(0.1, 5)
    out = image.clone()
    out[chosen] = own * (1 - blend) + blend * (mean + (others - theirs) * gain)
    return out


def _patch(
    pair: Pair, spec: ModelSpec, side: int, rng: np.random.Generator
) -> list[torch.Tensor]:
    top, left = (int(rng.integers(n - side + 1)) for n in pair.cells)
    groups = [*spec.inputs, spec.output]
    return [
        image[
            :,
            top * g.per_cell : (top + side) * g.per_cell,
            left * g.per_cell : (left + side) * g.per_cell,
        ]
        for g, image in zip(groups, [*pair.images, pair.target], strict=True)
    ]
