"""What a sensor records of a simulated landscape."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from s2sr_xr.simulate.texture import PITCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from s2sr_xr.simulate.country import Landscape

__all__ = [
    "CORNER",
    "EPSG",
    "MARGIN",
    "NOISE",
    "READ_NOISE",
    "SEEN",
    "TILE",
    "observe",
    "record",
    "surface",
    "top_of_atmosphere",
]

CORNER = (600_000.0, 8_200_000.0)
"""Easting and northing of the upper left corner of MGRS tile 22KFG, in EPSG:32722.
60 m cells count from northing 10 000 000 in the south, so y % 60 is 40 here."""


EPSG, TILE = 32722, "22KFG"


_OFFSET = -1000  # processing baseline 04.00 and later


# 4 sigma of the widest optics (B01, 90 m), in samples: the world beyond the scene.
MARGIN = 20


# Noise in counts, and the reflectance it was measured at: second percentile, over
# windows of 16 pixels, of the high-pass spread of real Level-1C scenes with calm sea.
# It grows with the square root of the signal; at the reference radiances that makes SNR
# 240 in B02 and 95 in B12, where the mission asks for 154 and 100 (Sentinel-2 User
# Handbook, ESA 2015).
NOISE: Mapping[str, tuple[float, float]] = MappingProxyType(
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


READ_NOISE = 0.01  # as much noise as the light of this reflectance makes


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


# The swath ends along a line that cuts the lower right corner off, as on a descending
# pass: from 10 % of the lower side to 45 % of the right one, as shares of the scene.
_CUT = (0.10, 0.45)


SEEN = ((0, 0), (1, 0), (1, 1 - _CUT[1]), (1 - _CUT[0], 1), (0, 1))


def _beyond_swath(n: int) -> NDArray[np.bool_]:
    """Return which of (n, n) pixels have their centre outside the swath."""
    inward = 1 - (np.arange(n) + 0.5) / n
    return np.asarray(inward[:, None] / _CUT[1] + inward / _CUT[0] < 1)


def surface(world: Landscape, band: str) -> NDArray[np.float32]:
    """Return surface reflectance with the clouds that lie over it."""
    white = np.float32(_CLOUD_WHITE.get(band, 1))
    clear = 1 - world.cloud
    seen = world.surface(band) * clear * clear + white * world.cloud
    return np.asarray(seen, dtype=np.float32)


def top_of_atmosphere(world: Landscape, band: str) -> NDArray[np.float32]:
    """Return reflectance above haze, gases, clouds and a breath of cirrus."""
    path, through = (np.float32(v) for v in _SKY[band])
    white = np.float32(_CLOUD_WHITE.get(band, 1))
    clear = 1 - world.cloud
    # Half of the gas lies above the clouds.
    above = white * np.sqrt(through) * world.cloud
    below = path + through * world.surface(band)
    seen = below * clear * clear + above + world.cirrus
    return np.asarray(seen, dtype=np.float32)


def observe(
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
    reach = min(int(np.ceil(4 * sigma)), MARGIN)
    gauss = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    response = np.convolve(gauss / gauss.sum(), np.full(width, 1 / width))
    return response.astype(np.float32)


def _sampled(
    lines: NDArray[np.float32], response: NDArray[np.float32], width: int
) -> NDArray[np.float32]:
    """Return (pixels, ...): the response to `lines` at every pixel along the rows."""
    first = MARGIN - (response.size - width) // 2
    pixels = (len(lines) - 2 * MARGIN) // width
    total = np.zeros((pixels, *lines.shape[1:]), np.float32)
    # A matrix product is as fast, but rounds differently with the number of threads.
    for k, weight in enumerate(response, start=first):
        total += weight * lines[k : k + width * pixels : width]
    return total


def record(
    reflectance: NDArray[np.float32], band: str, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Return counts as the product has them: noise, offset, 0 beyond the swath."""
    at_sea, sea = NOISE[band]
    signal = np.maximum(reflectance, 0) + READ_NOISE
    noise = at_sea * np.sqrt(signal / (sea + READ_NOISE))
    counts = reflectance * 10_000 + noise * rng.standard_normal(reflectance.shape)
    codes: NDArray[np.uint16] = np.clip(np.rint(counts) - _OFFSET, 1, 65535).astype(
        "u2"
    )
    codes[_beyond_swath(len(codes))] = 0
    return codes
