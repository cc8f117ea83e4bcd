"""Scenes to take patches from: what inference reads, none of it read yet."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.core.grid import grid_of
from s2sr_xr.core.scene import scene_of
from s2sr_xr.engine.nesting import check_nesting
from s2sr_xr.errors import GridError, MissingBandError, S2SRError
from s2sr_xr.readers.any import open_any
from s2sr_xr.readers.fetch.source import as_variable, source_of
from s2sr_xr.readers.stac.open import open_stac
from s2sr_xr.simulate import simulate_scene
from s2sr_xr.simulate.truth import finer_truth, open_truth

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from s2sr_xr.core.grid import Grid
    from s2sr_xr.core.scene import Object
    from s2sr_xr.models.spec import BandGroup, ModelSpec
    from s2sr_xr.simulate.item import Level

__all__ = ["Source", "open_scenes", "simulated_scene", "source"]


CHUNKS = 516
"""Side of what is read at once for patches, in 10 m pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A scene to take patches from: variables that were not read yet."""

    name: str
    """Of the scene, for messages."""

    groups: tuple[BandGroup, ...]
    """Bands of each group, and pixels along the side of a cell; finest first."""

    layers: tuple[tuple[xr.Variable, ...], ...]
    """One variable a band of each group, dims ``(time, y, x)`` or ``(y, x)``."""

    cells: tuple[int, int]
    """Rows and columns of cells."""

    classes: xr.Variable | None = None
    """The scene classification, where there is one."""

    classes_per_cell: int = 1
    """Its pixels along the side of a cell."""

    weight: float = 1.0
    """How often it is chosen, compared with a scene of the same size."""

    @property
    def times(self) -> int:
        """How many time steps."""
        first = self.layers[0][0]
        return first.sizes["time"] if "time" in first.dims else 1

    def chunks(self) -> tuple[list[int], list[int]]:
        """Return where chunks of the finest group begin, in whole cells, by y and x."""
        variable, per_cell = self.layers[0][0], self.groups[0].per_cell
        found = []
        for dim, count in zip(("y", "x"), self.cells, strict=True):
            sizes = _chunk_sizes(variable, dim)
            starts = np.cumsum([0, *sizes[:-1]]) // per_cell
            found.append(sorted({int(s) for s in starts if s < count}))
        return found[0], found[1]


def source(
    obj: Object,
    spec: ModelSpec,
    name: str,
    *,
    weight: float = 1.0,
    truth: tuple[xr.Dataset, BandGroup] | None = None,
) -> Source:
    """Return a scene to take patches from, checked, without reading a pixel.

    Parameters
    ----------
    obj
        What inference takes: a tree or Dataset of reflectance, Dask or not.
    spec
        Its inputs are the groups of a patch.
    name
        Of the scene, for messages.
    weight
        How often it is chosen, compared with a scene of the same size.
    truth
        A finer image of the same ground, dims ``(y, x)``, and the bands of it that
        become one more group.

    Raises
    ------
    MissingBandError, GridError, RadiometryError
        As `scene_of` and `check_nesting`, or the truth covers other ground. The message
        names the scene.
    """
    try:
        scene = scene_of(obj)
        grid = check_nesting(scene, spec)
    except S2SRError as error:
        raise type(error)(f"{name}: {error}", scene=name) from error
    layers = [
        tuple(_windowed(scene.planes[b].variable) for b in group.names)
        for group in spec.inputs
    ]
    groups = list(spec.inputs)
    if truth is not None:
        fine, group = truth
        layers.append(_truth_layers(fine, group, grid, name))
        groups.append(group)
    classes, per_cell = _classes(obj, grid)
    return Source(
        name=name,
        groups=tuple(groups),
        layers=tuple(layers),
        cells=grid.shape,
        classes=classes,
        classes_per_cell=per_cell,
        weight=weight,
    )


def open_scenes(
    places: Sequence[str],
) -> tuple[list[tuple[str, xr.DataTree]], tuple[str, ...]]:
    """Return scenes by name, opened for patches, and their processing levels."""
    trees = [(place, open_any(place, chunks=CHUNKS)) for place in places]
    levels = {str(tree.attrs.get("level", "")) for _, tree in trees} - {""}
    return trees, tuple(sorted(levels))


def simulated_scene(
    seed: int, level: Level, size: int, *, fine: bool
) -> tuple[xr.DataTree, xr.Dataset]:
    """Return a simulated scene in memory, and what its sensor would see finer.

    Parameters
    ----------
    seed, level, size
        As `simulate_scene` takes them.
    fine
        The truth is of 5 m pixels (`finer_truth`), not of 10 m (`open_truth`).
    """
    with tempfile.TemporaryDirectory() as folder:
        item = simulate_scene(folder, size=size, seed=seed, level=level)
        tree = open_stac(item, chunks=None).load()
        return tree, (finer_truth if fine else open_truth)(item).load()


def _truth_layers(
    fine: xr.Dataset, group: BandGroup, grid: Grid, name: str
) -> tuple[xr.Variable, ...]:
    if missing := [b for b in group.names if b not in fine]:
        raise MissingBandError(
            f"{name}: its truth has no {', '.join(missing)}; it has "
            f"{', '.join(map(str, fine.data_vars))}.",
            scene=name,
        )
    want = tuple(n * group.per_cell for n in grid.shape)
    have = tuple(fine.sizes[d] for d in ("y", "x"))
    if want != have:
        raise GridError(
            f"{name}: its truth has {have[0]} x {have[1]} pixels, but {want[0]} x "
            f"{want[1]} cover the scene. Cut both to the same ground.",
            scene=name,
        )
    return tuple(fine[b].variable.transpose("y", "x") for b in group.names)


def _classes(obj: Any, grid: Grid) -> tuple[xr.Variable | None, int]:  # noqa: ANN401
    """Return the scene classification, where it covers cells, and its pixels a cell."""
    places = obj.subtree if hasattr(obj, "subtree") else [obj]
    for place in places:
        if not hasattr(place, "data_vars"):
            continue
        for key, array in place.data_vars.items():
            if str(key).upper() == "SCL":
                own = grid_of(array.to_dataset(name="SCL"))
                if own.extent == grid.extent and not grid.res % own.res:
                    return _windowed(array.variable), round(grid.res / own.res)
    return None, 1


def _windowed(variable: xr.Variable) -> xr.Variable:
    """Return a variable of our readers without Dask: it gives a window, not chunks."""
    found = source_of(variable)
    return variable if found is None else as_variable(found, None, variable.attrs)


def _chunk_sizes(variable: xr.Variable, dim: str) -> list[int]:
    if variable.chunks is not None:
        return list(variable.chunksizes[dim])
    size = variable.sizes[dim]
    step = int(variable.encoding.get("preferred_chunks", {}).get(dim, size))
    return [min(step, size - start) for start in range(0, size, step)]
