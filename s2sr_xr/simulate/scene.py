"""A simulated scene, written as a catalogue would hold it."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np

from s2sr_xr.core.bands import BANDS
from s2sr_xr.errors import GridError, RadiometryError
from s2sr_xr.simulate.country import landscape
from s2sr_xr.simulate.item import write_item
from s2sr_xr.simulate.observation import (
    CORNER,
    EPSG,
    MARGIN,
    TILE,
    observe,
    record,
    surface,
    top_of_atmosphere,
)
from s2sr_xr.simulate.texture import PITCH
from s2sr_xr.simulate.truth import add_truth

if TYPE_CHECKING:
    from pathlib import Path

    import pystac

    from s2sr_xr.simulate.item import Level

__all__ = ["simulate_scene"]


_FIRST_PASS = dt.datetime(2025, 1, 4, 13, 32, 31, tzinfo=dt.UTC)


def simulate_scene(
    path: str | Path, *, size: int = 1098, seed: int = 0, level: Level = "L1C"
) -> pystac.Item:
    """Write a small Sentinel-2 scene with its truth, and return its STAC item.

    Fields, woods, hills with snow, a river, lakes, a town, villages, roads, clouds and
    their shadows; a slanted swath edge leaves the lower right corner without data.
    Pixels are the same for the same `size`, `seed` and `level`.

    Parameters
    ----------
    path
        Directory of a catalogue; made if missing. The scene goes to
        ``<path>/<item id>/``: ``B02.tif`` ... , ``truth.tif``, ``<item id>.json``.
    size
        Side of the scene in 10 m pixels: a multiple of 6, at least 60. 1098 (a tenth of
        a tile) takes about 10 s and 1 GiB; both grow with the area.
    seed
        Which scene, 0 or more.
    level
        ``"L1C"``: top of the atmosphere, 13 bands. ``"L2A"``: surface, without B10.

    Returns
    -------
    pystac.Item
        One asset a band, keyed by ESA's identifier: uint16 counts on the native grid,
        reflectance = counts * 1e-4 - 0.1 (baseline 05.11), 0 for no data, every other
        code 1..65535. The asset ``"truth"`` is for `open_truth`.

    Raises
    ------
    GridError
        `size` does not make whole 60 m cells, or is too small; `seed` is below 0.
    RadiometryError
        `level` is neither of the two.
    """
    if size < 60 or size % 6:
        below = max(size // 6 * 6, 60)
        near = f"{below} or {below + 6}" if size > 60 else "60"
        raise GridError(
            f"size={size}: the side of a scene is a multiple of 6 ten-metre pixels, "
            f"60 at least. The nearest is {near}."
        )
    if seed < 0:
        raise GridError(f"seed={seed}: the seed of a scene is 0 or more.")
    if level not in ("L1C", "L2A"):
        raise RadiometryError(f'level={level!r}: choose "L1C" or "L2A".')
    names = [b for b in BANDS if level == "L1C" or b != "B10"]
    rng = np.random.default_rng(seed)
    world = landscape(round(size * 10 / PITCH) + 2 * MARGIN, rng)
    counts, truth = {}, {}
    for name, noise in zip(names, rng.spawn(len(names)), strict=True):
        radiance = (
            top_of_atmosphere(world, name) if level == "L1C" else surface(world, name)
        )
        truth[name] = observe(radiance, BANDS[name].mtf, pixel=10)
        native = truth[name]
        if BANDS[name].native != 10:
            native = observe(radiance, BANDS[name].mtf, pixel=BANDS[name].native)
        counts[name] = record(native, name, noise)
    sensed = _FIRST_PASS + dt.timedelta(days=5 * (seed % 73))
    made = sensed + dt.timedelta(hours=2, seconds=seed)
    item = write_item(
        path,
        f"S2B_MSI{level}_{sensed:%Y%m%dT%H%M%S}_N0511_R081_T{TILE}_{made:%Y%m%dT%H%M%S}",
        counts,
        corner=CORNER,
        epsg=EPSG,
        datetime=sensed,
        level=level,
    )
    return add_truth(item, truth, seed)
