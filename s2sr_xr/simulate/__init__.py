"""Scenes that never were: a small Sentinel-2 world with its truth, as a STAC item.

`simulate_scene` writes what a catalogue would hold: one cloud-optimised GeoTIFF a band
on the native grid of that band, and an item that says what the counts mean. Beside it
lies what no satellite gives: every band at 10 m, without noise.

The sensor is the one of `bands`. A band's MTF at the Nyquist frequency of its pixel is
that of the whole instrument: pixel aperture times a Gaussian for the optics. So the
Gaussian is narrower than one that has all of the MTF, and the aperture counts once.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from s2sr_xr.bands import BANDS
from s2sr_xr.errors import GridError, MissingBandError, RadiometryError
from s2sr_xr.simulate.country import landscape
from s2sr_xr.simulate.item import COG, footprint, write_cog, write_item
from s2sr_xr.simulate.texture import PITCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pystac
    import xarray as xr
    from numpy.typing import NDArray

    from s2sr_xr.simulate.country import Landscape
    from s2sr_xr.simulate.item import Level

__all__ = ["finer_truth", "open_truth", "simulate_scene", "write_item"]

CORNER = (600_000.0, 8_200_000.0)
"""Easting and northing of the upper left corner of MGRS tile 22KFG, in EPSG:32722.
60 m cells count from northing 10 000 000 in the south, so y % 60 is 40 here."""

_EPSG, _TILE = 32722, "22KFG"
_FIRST_PASS = dt.datetime(2025, 1, 4, 13, 32, 31, tzinfo=dt.UTC)
_OFFSET = -1000  # processing baseline 04.00 and later
_TRUTH_SCALE, _TRUTH_OFFSET = 2.5e-5, -0.1

# 4 sigma of the widest optics (B01, 90 m), in samples: the world beyond the scene.
_MARGIN = 20

# Noise in counts, and the reflectance it was measured at: second percentile, over
# windows of 16 pixels, of the high-pass spread of real Level-1C scenes with calm sea.
# It grows with the square root of the signal; at the reference radiances that makes SNR
# 240 in B02 and 95 in B12, where the mission asks for 154 and 100 (Sentinel-2 User
# Handbook, ESA 2015).
_NOISE: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "B01": (2.0, 0.118),
        "B02": (5.5, 0.084),
        "B03": (4.3, 0.055),
        "B04": (3.6, 0.029),
        "B05": (3.2, 0.025),
        "B06": (3.8, 0.022),
        "B07": (3.7, 0.020),
        "B08": (3.5, 0.017),
        "B8A": (4.4, 0.017),
        "B09": (1.7, 0.006),
        "B10": (0.8, 0.001),
        "B11": (2.7, 0.006),
        "B12": (2.7, 0.004),
    }
)
_READ_NOISE = 0.01  # as much noise as the light of this reflectance makes

# Clear sky over a bright morning: reflectance of the path, two-way transmittance. Path
# from the darkest pixels of real Level-1C scenes of sea and forest; water vapour (2 cm)
# closes B09 in part and B10 altogether.
_SKY: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "B01": (0.100, 0.76),
        "B02": (0.064, 0.80),
        "B03": (0.032, 0.84),
        "B04": (0.018, 0.89),
        "B05": (0.014, 0.90),
        "B06": (0.011, 0.92),
        "B07": (0.009, 0.94),
        "B08": (0.008, 0.92),
        "B8A": (0.006, 0.96),
        "B09": (0.003, 0.26),
        "B10": (0.0004, 0.0),
        "B11": (0.001, 0.95),
        "B12": (0.0005, 0.93),
    }
)

# Ice and water absorb in the short-wave infrared: a cloud is not white there.
_CLOUD_WHITE = {"B11": 0.72, "B12": 0.52}


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
    world = landscape(round(size * 10 / PITCH) + 2 * _MARGIN, rng)
    counts, truth = {}, {}
    for name, noise in zip(names, rng.spawn(len(names)), strict=True):
        radiance = (
            _top_of_atmosphere(world, name) if level == "L1C" else _surface(world, name)
        )
        truth[name] = _observe(radiance, BANDS[name].mtf, pixel=10)
        native = truth[name]
        if BANDS[name].native != 10:
            native = _observe(radiance, BANDS[name].mtf, pixel=BANDS[name].native)
        counts[name] = _record(native, name, noise)
    sensed = _FIRST_PASS + dt.timedelta(days=5 * (seed % 73))
    made = sensed + dt.timedelta(hours=2, seconds=seed)
    item = write_item(
        path,
        f"S2B_MSI{level}_{sensed:%Y%m%dT%H%M%S}_N0511_R081_T{_TILE}_{made:%Y%m%dT%H%M%S}",
        counts,
        corner=CORNER,
        epsg=_EPSG,
        datetime=sensed,
        level=level,
    )
    return _add_truth(item, truth, seed)


def open_truth(item: pystac.Item) -> xr.Dataset:
    """Return what the sensor would see with 10 m pixels in every band, without noise.

    The truth of a band has the same MTF at the Nyquist frequency of 10 m pixels as the
    band has at that of its native ones: the point spread shrinks with the pixel. It is
    complete, also where the counts have no data.

    Parameters
    ----------
    item
        An item that `simulate_scene` wrote, or the same opened from its JSON file.

    Returns
    -------
    xr.Dataset
        One float32 variable a band, dims ``(y, x)``, reflectance in steps of 2.5e-5,
        no NaN. Coordinates are the centres of the 10 m pixels in metres, float64.

    Raises
    ------
    MissingBandError
        The item has no truth.
    """
    import rasterio
    import rioxarray  # noqa: F401 - registers .rio
    import xarray as xr

    asset = item.assets.get("truth")
    if asset is None or "truth" not in (asset.roles or ()):
        raise MissingBandError(
            f"Item {item.id!r} has no truth: only items of simulate_scene() do.",
            item=item.id,
        )
    with rasterio.open(asset.get_absolute_href()) as source:
        codes, names, crs = source.read(), source.descriptions, source.crs
        left, top, (step, _) = source.bounds.left, source.bounds.top, source.res
    rows, cols = codes.shape[1:]
    values = codes.astype(np.float32) * np.float32(_TRUTH_SCALE)
    values += np.float32(_TRUTH_OFFSET)
    truth = xr.Dataset(
        {
            name: (("y", "x"), band, {"units": "1", "long_name": f"{name} reflectance"})
            for name, band in zip(names, values, strict=True)
        },
        coords={
            "y": top - step * (np.arange(rows) + 0.5),
            "x": left + step * (np.arange(cols) + 0.5),
        },
    )
    georeferenced: xr.Dataset = truth.rio.write_crs(crs)
    return georeferenced


def finer_truth(item: pystac.Item) -> xr.Dataset:
    """Return what the sensor would see with 5 m pixels in every band, without noise.

    As `open_truth`, at the pitch of the simulated world, which is made again.

    Parameters
    ----------
    item
        An item that `simulate_scene` wrote, or the same opened from its JSON file.

    Returns
    -------
    xr.Dataset
        One float32 variable a band, dims ``(y, x)``, reflectance, no NaN. Coordinates
        are the centres of the 5 m pixels in metres, float64.

    Raises
    ------
    MissingBandError
        The item does not say which world it shows.
    """
    import xarray as xr

    from s2sr_xr.grid import Grid

    asset = item.assets.get("truth")
    seed = None if asset is None else asset.extra_fields.get("truth:seed")
    if asset is None or seed is None:
        raise MissingBandError(
            f"Item {item.id!r} has no finer truth: only items of simulate_scene() do, "
            "and older ones do not tell their seed. Simulate it again.",
            item=item.id,
        )
    import rasterio
    from pyproj import CRS

    with rasterio.open(asset.get_absolute_href()) as source:
        side = source.width * 10
    rng = np.random.default_rng(seed)
    world = landscape(round(side / PITCH) + 2 * _MARGIN, rng)
    light = _surface if "L2A" in item.id else _top_of_atmosphere
    grid = Grid(
        crs=CRS.from_epsg(_EPSG).to_wkt(),
        x_edge=CORNER[0],
        y_edge=CORNER[1],
        res=PITCH,
        shape=(round(side / PITCH),) * 2,
    )
    bands = {
        name: (("y", "x"), _observe(light(world, name), BANDS[name].mtf, pixel=5))
        for name in asset.extra_fields["truth:bands"]
    }
    return xr.Dataset(bands, grid.coords())


def _add_truth(
    item: pystac.Item, truth: Mapping[str, NDArray[np.float32]], seed: int
) -> pystac.Item:
    """Write the truth beside the item, and save the item with it."""
    import pystac

    codes = [np.rint((v - _TRUTH_OFFSET) / _TRUTH_SCALE) for v in truth.values()]
    stack = np.stack([np.clip(c, 0, 65535).astype(np.uint16) for c in codes])
    home = Path(item.self_href).parent
    write_cog(home / "truth.tif", stack, CORNER, 10, _EPSG, nodata=None, names=[*truth])
    item.add_asset(
        "truth",
        pystac.Asset(
            href="./truth.tif",
            title="Noiseless reflectance of every band at 10m",
            media_type=COG,
            roles=["truth"],
            extra_fields={"gsd": 10, "truth:bands": [*truth], "truth:seed": seed},
        ),
    )
    side = 10 * stack.shape[1]
    outline = [(CORNER[0] + x * side, CORNER[1] - y * side) for x, y in _SEEN]
    item.geometry, item.bbox = footprint(outline, _EPSG)
    item.save_object()
    return item


# The swath ends along a line that cuts the lower right corner off, as on a descending
# pass: from 10 % of the lower side to 45 % of the right one, as shares of the scene.
_CUT = (0.10, 0.45)
_SEEN = ((0, 0), (1, 0), (1, 1 - _CUT[1]), (1 - _CUT[0], 1), (0, 1))


def _beyond_swath(n: int) -> NDArray[np.bool_]:
    """Return which of (n, n) pixels have their centre outside the swath."""
    inward = 1 - (np.arange(n) + 0.5) / n
    return np.asarray(inward[:, None] / _CUT[1] + inward / _CUT[0] < 1)


def _surface(world: Landscape, band: str) -> NDArray[np.float32]:
    """Return surface reflectance with the clouds that lie over it."""
    white = np.float32(_CLOUD_WHITE.get(band, 1))
    clear = 1 - world.cloud
    seen = world.surface(band) * clear * clear + white * world.cloud
    return np.asarray(seen, dtype=np.float32)


def _top_of_atmosphere(world: Landscape, band: str) -> NDArray[np.float32]:
    """Return reflectance above haze, gases, clouds and a breath of cirrus."""
    path, through = (np.float32(v) for v in _SKY[band])
    white = np.float32(_CLOUD_WHITE.get(band, 1))
    clear = 1 - world.cloud
    # Half of the gas lies above the clouds.
    above = white * np.sqrt(through) * world.cloud
    below = path + through * world.surface(band)
    seen = below * clear * clear + above + world.cirrus
    return np.asarray(seen, dtype=np.float32)


def _observe(
    radiance: NDArray[np.float32], mtf: float, *, pixel: int
) -> NDArray[np.float32]:
    """Return what pixels of `pixel` metres see of the world, without noise."""
    width = round(pixel / PITCH)
    response = _line_response(mtf, width)
    rows = _sampled(radiance, response, width)
    columns = _sampled(np.ascontiguousarray(rows.T), response, width)
    return np.ascontiguousarray(columns.T)


def _line_response(mtf: float, width: int) -> NDArray[np.float32]:
    """Return how much each sample of a line counts in a pixel of `width` samples.

    Aperture and optics together transfer `mtf` at the Nyquist frequency of the pixel. A
    Gaussian of transfer m at Nyquist has sigma = width / pi * sqrt(-2 ln m).
    """
    aperture = 1 / (width * np.sin(np.pi / (2 * width)))
    sigma = width / np.pi * np.sqrt(-2 * np.log(mtf / aperture))
    reach = min(int(np.ceil(4 * sigma)), _MARGIN)
    gauss = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    response = np.convolve(gauss / gauss.sum(), np.full(width, 1 / width))
    return response.astype(np.float32)


def _sampled(
    lines: NDArray[np.float32], response: NDArray[np.float32], width: int
) -> NDArray[np.float32]:
    """Return (pixels, ...): the response to `lines` at every pixel along the rows."""
    first = _MARGIN - (response.size - width) // 2
    pixels = (len(lines) - 2 * _MARGIN) // width
    total = np.zeros((pixels, *lines.shape[1:]), np.float32)
    # A matrix product is as fast, but rounds differently with the number of threads.
    for k, weight in enumerate(response, start=first):
        total += weight * lines[k : k + width * pixels : width]
    return total


def _record(
    reflectance: NDArray[np.float32], band: str, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Return counts as the product has them: noise, offset, 0 beyond the swath."""
    at_sea, sea = _NOISE[band]
    signal = np.maximum(reflectance, 0) + _READ_NOISE
    noise = at_sea * np.sqrt(signal / (sea + _READ_NOISE))
    counts = reflectance * 10_000 + noise * rng.standard_normal(reflectance.shape)
    codes: NDArray[np.uint16] = np.clip(np.rint(counts) - _OFFSET, 1, 65535).astype(
        "u2"
    )
    codes[_beyond_swath(len(codes))] = 0
    return codes
