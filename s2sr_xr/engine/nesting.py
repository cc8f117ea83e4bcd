"""Whether the grids of the bands of a scene nest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s2sr_xr.errors import GridError, MissingBandError

if TYPE_CHECKING:
    from s2sr_xr.core.grid import Grid
    from s2sr_xr.core.scene import Scene
    from s2sr_xr.models.spec import ModelSpec

__all__ = ["check_nesting"]


def check_nesting(scene: Scene, spec: ModelSpec) -> Grid:
    """Return the grid of cells of `spec` under the bands it takes.

    Raises
    ------
    MissingBandError
        A band that the model takes is not there.
    GridError
        The bands cover different ground, or not whole cells.
    """
    if missing := [b for b in spec.bands if b not in scene.planes]:
        raise MissingBandError(
            f"{spec.name} takes {', '.join(missing)}, which the data do not have (they "
            f"have {', '.join(sorted(scene.planes))}). Load them, or choose another "
            'model: "bicubic" takes each band alone, s2sr_xr.list_models() lists all.'
        )
    grids = {b: scene.planes[b].grid for b in spec.bands}
    (first, grid), *others = grids.items()
    for band, other in others:
        if other.crs != grid.crs or other.extent != grid.extent:
            raise GridError(_unnested(first, grid, band, other))
    for band, count in ((b, spec.per_cell(b)) for b in spec.bands):
        native = scene.planes[band].native
        if native * count != spec.cell:
            raise GridError(
                f"{spec.name} takes {band} at {spec.cell / count:g} m, but the data "
                f"have it at {native} m."
            )
    off = [round(p % spec.cell, 3) for p in grid.phase]
    rest = [round(n * grid.res % spec.cell, 3) for n in grid.shape]
    if any(off) or any(rest):
        raise GridError(
            f"The area is not made of whole {spec.cell} m cells, which "
            f"{', '.join(spec.output.names)} need: it starts {off[0]:g} m east and "
            f"{(spec.cell - off[1]) % spec.cell:g} m south of a cell's corner and is "
            f"{grid.shape[1] * grid.res:g} x {grid.shape[0] * grid.res:g} m large. Cut "
            "it with obj.s2sr.window(x=..., y=...), which snaps to whole 60 m cells, "
            "or leave these bands out: bands=[...]."
        )
    return grid.at(spec.cell)


def _unnested(a: str, grid: Grid, b: str, other: Grid) -> str:
    return (
        f"{a} covers (west, south, east, north) = {grid.extent} and {b} covers "
        f"{other.extent}: their pixels do not nest. Cut all groups at once with "
        "obj.s2sr.window(x=..., y=...), or leave bands out: bands=[...]."
    )
