"""What a scene teaches a network one scale below its use, and what judges it there.

Two kinds of network learn so: one that brings coarse bands to the pixels of the finest
(all is degraded by its factor, and the native coarse bands are the truth), and one that
makes all ten bands twice as fine (`Restoration`). In either case the last quarter of
the rows is not learnt from.

What is blurred in software is not what the sensor blurs. A network
therefore keeps seeing simulated scenes at the scale of its use, as in its training:
without them its sharpness there is lost (Robins 1995, Catastrophic forgetting,
rehearsal and pseudorehearsal, Connection Science 7).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from s2sr_xr.errors import GridError, ModelError
from s2sr_xr.models.header import read_header
from s2sr_xr.models.published import EVOLAND, published
from s2sr_xr.models.registry import is_path, load_model
from s2sr_xr.train.data.evoland_batches import TEN
from s2sr_xr.train.data.pairs import patches, reduced_pairs, true_pair
from s2sr_xr.train.data.patches import Rules, Sampler
from s2sr_xr.train.data.scenes import simulated_scene, source
from s2sr_xr.train.losses import over_bicubic
from s2sr_xr.train.recipes.restoration import Restoration

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr
    from torch import nn

    from s2sr_xr.core.scene import Object
    from s2sr_xr.models.spec import ModelSpec
    from s2sr_xr.simulate.item import Level
    from s2sr_xr.train.data.pairs import Pair
    from s2sr_xr.train.data.scenes import Source

__all__ = ["Lesson", "lesson", "makes_coarse", "makes_ten", "parted", "ten_parted"]

BATCH = 8
"""Patches a step."""

HELD = 4
"""The last of so many parts of the rows is held back, to judge by."""

JUDGED = 24
"""Patches of them."""

KEPT = 16
"""Cells along the side of what a patch of coarse bands is judged on."""

FEWEST = 4
"""Rows of these that are held back at least."""

SIDE = 32
"""Cells of 20 m along the side of a patch of ten bands."""

LEAST = 16
"""The same, at least."""

LOUD = (0.0, 0.2)
"""Range of the factor on Wald's noise: as the shipped weights learnt."""

REHEARSED: tuple[tuple[int, Level], ...] = ((200, "L1C"), (201, "L2A"))
"""Simulated scenes that are not forgotten: seeds and levels."""

SIZE = 300
"""Of these, in pixels of 10 m."""

BESIDE = 2
"""Patches a step that show them, besides those of the scene."""


class Lesson(NamedTuple):
    """What is needed to go on learning, and to judge it."""

    network: nn.Module
    """With the weights of the model."""

    draw: Callable[[int], Any]
    """Step -> batch."""

    loss: Callable[[nn.Module, Any], torch.Tensor]
    """Of a batch."""

    error: Callable[[nn.Module], torch.Tensor]
    """Over that of bicubic, where nothing is learnt."""


def makes_coarse(spec: ModelSpec) -> bool:
    """Return whether a network brings its coarsest bands to the finest pixels."""
    return spec.output.names == spec.inputs[-1].names


def makes_ten(spec: ModelSpec) -> bool:
    """Return whether a network brings the ten bands of 10 m and 20 m to 5 m."""
    kinds = [(len(g.names), g.per_cell) for g in spec.inputs]
    return (
        kinds == [(TEN, 2), (len(EVOLAND) - TEN, 1)]
        and spec.output.names == spec.bands == tuple(EVOLAND)
        and spec.output.per_cell == 4
    )


def lesson(obj: Object, spec: ModelSpec, model: str | Path, seed: int) -> Lesson:
    """Return what a scene teaches a network of either kind.

    Parameters
    ----------
    obj
        Reflectance; read here, the first time step.
    spec
        What the network is.
    model
        Its name, or the path of its weights.
    seed
        Decides every batch.

    Raises
    ------
    MissingBandError, GridError
        The scene lacks a band, or is too small for a patch one scale below; a batch
        raises `GridError` where pixels are missing all over.
    """
    make = _coarse_bands if makes_coarse(spec) else _ten_bands
    return make(obj, spec, model, seed)


@lru_cache(maxsize=2)
def _rehearsed(*, fine: bool) -> list[tuple[xr.DataTree, xr.Dataset]]:
    """Return simulated scenes, with truth at 5 m if `fine`, else at 10 m.

    About 3 s each, once a process.
    """
    return [simulated_scene(seed, level, SIZE, fine=fine) for seed, level in REHEARSED]


# Coarse bands on the finest pixels


def _coarse_bands(obj: Object, spec: ModelSpec, model: str | Path, seed: int) -> Lesson:
    learnt, held = parted(reduced_pairs(obj, spec, "the scene"), spec)
    known = [true_pair(*scene, spec, "simulated") for scene in _rehearsed(fine=False)]
    side = min(KEPT + 2 * spec.margin, *(n for p in (*learnt, held) for n in p.cells))
    given: dict[str, Any] = {"side": side, "seed": seed}
    judged = patches([held], spec, batch=JUDGED, step=0, **given)

    def draw(step: int) -> Any:  # noqa: ANN401
        images, target = patches(learnt, spec, batch=BATCH, step=step, **given)
        more, true = patches(known, spec, batch=BESIDE, step=step, **given)
        both = (torch.cat(pair) for pair in zip(images, more, strict=True))
        return tuple(both), torch.cat((target, true))

    network = load_model(model)
    return Lesson(network, draw, _relative, lambda made: _relative(made, judged))


def _relative(network: nn.Module, batch: Any) -> torch.Tensor:  # noqa: ANN401
    """Return the loss of the shipped weights where the network gives a result."""
    images, target = batch
    return over_bicubic(network(*images), images[-1], target).mean()


def parted(pairs: list[Pair], spec: ModelSpec) -> tuple[list[Pair], Pair]:
    """Return what is learnt from, and what is held back: no target is in both."""
    least, metres = 2 * spec.margin + 4, spec.cell * spec.output.per_cell
    # Below the last row with pixels there is nothing to judge by.
    seen = [p.target.isfinite().any((0, 2)).nonzero() for p in pairs]
    ends = (int(s[-1]) // spec.output.per_cell + 1 if len(s) else 0 for s in seen)
    rows, columns = (min(p.cells[i] for p in pairs) for i in (0, 1))
    rows = min(rows, *ends)
    # Of two phases, one begins less than a cell after the other: one row is neither's.
    spare = rows - least - 1
    if spare < FEWEST or columns < least:
        raise GridError(
            f"The scene has {rows} x {columns} cells of {metres} m; {spec.name} needs "
            f"at least {least + 1 + FEWEST} x {least} to learn from. Take a larger "
            "part."
        )
    last = min(max(rows // HELD, FEWEST), spare)
    # A target lies within the margin of its patch.
    held = _rows(pairs[0], spec, slice(rows - last - 2 * spec.margin, rows))
    return [_rows(p, spec, slice(0, rows - last - 1)) for p in pairs], held


def _rows(pair: Pair, spec: ModelSpec, rows: slice) -> Pair:
    groups = [*spec.inputs, spec.output]
    *images, target = (
        image[:, rows.start * g.per_cell : rows.stop * g.per_cell]
        for g, image in zip(groups, (*pair.images, pair.target), strict=True)
    )
    return replace(pair, images=tuple(images), target=target)


# Ten bands at 5 m


def _ten_bands(obj: Object, spec: ModelSpec, model: str | Path, seed: int) -> Lesson:
    learnt, held = ten_parted(source(obj, spec, "the scene"), spec)
    # Twice degraded by 2.
    side = min(SIDE, *learnt.cells, *held.cells) // 8 * 8
    known = [
        source(tree, spec, "simulated", truth=(truth, spec.output))
        for tree, truth in _rehearsed(fine=True)
    ]
    given: dict[str, Any] = {"side": side, "seed": seed, "threads": 0}
    given["rules"] = Rules(cloud=1, flat=0)
    draw = Sampler([learnt], batch=BATCH, **given)
    true = Sampler(known, batch=BESIDE, **given)
    judged = Sampler([held], batch=JUDGED, **given)(0)
    recipe = Restoration(loud=LOUD, edge=side // 4, relative=True)
    quiet = replace(recipe, loud=(0.0, 0.0))
    return Lesson(
        _padded(spec, model),
        lambda step: (draw(step), true(step)),
        recipe,
        lambda made: quiet(made, (judged,)),
    )


def ten_parted(scene: Source, spec: ModelSpec) -> tuple[Source, Source]:
    """Return what is learnt from, and what is held back."""
    scene = _read(scene)
    rows, columns = scene.cells
    if rows < 2 * LEAST or columns < LEAST:
        raise GridError(
            f"The scene has {rows} x {columns} cells of {spec.cell} m; {spec.name} "
            f"needs at least {2 * LEAST} x {LEAST} to learn from. Take a larger part."
        )
    last = max(rows // HELD, LEAST)
    return _cut(scene, 0, rows - last), _cut(scene, rows - last, rows)


def _padded(spec: ModelSpec, model: str | Path) -> nn.Module:
    """Return the network of a model as it is trained: it pads its images."""
    kind = read_header(Path(model)).kind if is_path(model) else spec.name
    build = next((build for known, build in published() if known.name == kind), None)
    if build is None:
        raise ModelError(
            f"{model} is {kind}, none of the networks of this library: how it is built "
            "for training is not known. Choose one such as carn-s."
        )
    network, ready = build(padding="same"), load_model(model)
    network.load_state_dict(ready.state_dict())
    # Constants of a training set are no weights.
    for mine, theirs in zip(network.buffers(), ready.buffers(), strict=True):
        mine.copy_(theirs)
    return network


def _read(scene: Source) -> Source:
    """Return the first time step of a scene in memory, as far as rows have pixels."""
    layers = tuple(
        tuple(v.isel(time=0, missing_dims="ignore").load() for v in group)
        for group in scene.layers
    )
    per_cell = scene.groups[0].per_cell
    seen = np.flatnonzero(np.isfinite(layers[0][0].to_numpy()).any(1))
    rows = int(seen[-1]) // per_cell + 1 if len(seen) else 0
    return _cut(replace(scene, layers=layers, classes=None), 0, rows)


def _cut(scene: Source, first: int, last: int) -> Source:
    """Return the rows of a scene, in cells."""
    layers = tuple(
        tuple(v.isel(y=slice(first * g.per_cell, last * g.per_cell)) for v in group)
        for g, group in zip(scene.groups, scene.layers, strict=True)
    )
    return replace(scene, layers=layers, cells=(last - first, scene.cells[1]))
