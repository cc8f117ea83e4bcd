"""An area of a grid: metres snapped outward to whole cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from s2sr_xr.core.grid import CELL, Grid, Ground
from s2sr_xr.errors import GridError

__all__ = ["HALF", "Area"]

HALF = 180
"""Degrees around half of the globe."""


def _finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class Area:
    """A bounding box, and the CRS that its numbers are in."""

    bounds: Ground
    """West, south, east and north bound; either order of a pair is put right.

    Degrees from a west above an east by more than half the globe are those of RFC 7946:
    they cross the antimeridian, as from 177 to -178.
    """

    crs: str | None = "EPSG:4326"
    """None for metres of the data's own zone."""

    def __post_init__(self) -> None:
        # min and max would pass over a NaN.
        if len(self.bounds) != 4 or not all(map(_finite, self.bounds)):
            raise GridError(
                f"The bounds of a window are four finite numbers; got {self.bounds}."
            )
        west, south, east, north = self.bounds
        if west > east and not (west - east > HALF and self._in_degrees()):
            west, east = east, west
        ordered = west, min(south, north), east, max(south, north)
        object.__setattr__(self, "bounds", ordered)

    def _in_degrees(self) -> bool:
        from pyproj import CRS
        from pyproj.exceptions import CRSError

        try:
            return bool(self.crs and CRS.from_user_input(self.crs).is_geographic)
        except CRSError as error:
            raise GridError(f"crs={self.crs!r} is unknown: {error}") from None

    def on(self, grid: Grid) -> Ground:
        """Return the bounding box in the metres of `grid`."""
        if self.crs is None:
            return self.bounds
        from pyproj import Transformer
        from pyproj.exceptions import ProjError

        try:
            change = Transformer.from_crs(self.crs, grid.crs, always_xy=True)
            # Straight edges in degrees are bent in metres.
            moved = change.transform_bounds(*self.bounds, densify_pts=21)
        except ProjError as error:
            raise GridError(
                f"The area {self.bounds} in {self.crs} has no place in the "
                f"data's zone: {error}. Give longitude and latitude, or name their crs."
            ) from error
        if not all(map(math.isfinite, moved)):
            raise GridError(
                f"The area {self.bounds} in {self.crs} has no place in the data's "
                "zone. Give longitude and latitude, or name their crs; metres of the "
                "zone itself are x=(west, east) with y=(south, north)."
            )
        west, south, east, north = moved
        return west, south, east, north

    def window(self, grid: Grid) -> tuple[slice, slice] | None:
        """Return rows and columns of the whole cells that meet it, None if none do."""
        west, south, east, north = self.on(grid)
        left, top = grid.phase
        cols = _outward(west - left, east - left, left, grid.res, grid.shape[1])
        # Downwards: rows run from north to south, cells count from `zero` northwards.
        rows = _outward(
            grid.y_edge - north, grid.y_edge - south, -top, grid.res, grid.shape[0]
        )
        return None if cols is None or rows is None else (rows, cols)

    def slices(self, grid: Grid) -> tuple[slice, slice]:
        """Return rows and columns of the whole cells that meet it.

        Raises
        ------
        GridError
            None do.
        """
        found = self.window(grid)
        if found is None:
            raise GridError(
                f"The window (west, south, east, north) = {self.on(grid)} does not "
                f"meet the data, which cover {grid.extent}, in metres of their own UTM "
                "zone."
            )
        return found


def _outward(
    first: float, last: float, phase: float, res: float, n: int
) -> slice | None:
    """Return the pixels of the whole cells that meet [`first`, `last`], in metres.

    Metres count from the edge of the first pixel, which lies `phase` metres from where
    cells begin.
    """
    start = math.floor((first + phase) / CELL) * CELL - phase
    stop = math.ceil((last + phase) / CELL) * CELL - phase
    lower, upper = max(round(start / res), 0), min(round(stop / res), n)
    return slice(lower, upper) if lower < upper else None
