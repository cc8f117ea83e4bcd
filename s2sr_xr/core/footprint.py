"""The outline of a grid on the ground, as STAC items give it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["COG", "footprint"]

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
"""Media type of everything that is written here."""


def footprint(
    outline: Sequence[tuple[float, float]], epsg: int
) -> tuple[dict[str, Any], list[float]]:
    """Return GeoJSON polygon and bounding box, in degrees, of corners in metres."""
    from pyproj import Transformer

    to_degrees = Transformer.from_crs(epsg, 4326, always_xy=True)
    lon, lat = to_degrees.transform(*zip(*outline, strict=True))
    # GeoJSON winds its outer rings against the clock; ours come with it.
    ring = [[x, y] for x, y in zip(lon, lat, strict=True)][::-1]
    geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    return geometry, [min(lon), min(lat), max(lon), max(lat)]
