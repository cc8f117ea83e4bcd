"""Textures, parcels, lines and light on a square of ground: tools of `country`.

Maps are float32 of shape (n, n), rows to the south, `PITCH` metres apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "PITCH",
    "SUN",
    "Map",
    "Mask",
    "Mosaic",
    "Texture",
    "away_from_sun",
    "bends",
    "exceeded_by",
    "hillshade",
    "smoothstep",
    "stroke",
    "turned",
]

Map: TypeAlias = NDArray[np.floating[Any]]
Mask: TypeAlias = NDArray[np.bool_]

Shadow = TypeVar("Shadow", Map, Mask)

PITCH = 5.0
"""Distance between the samples of the world, in metres."""

SUN = (40.0, 43.0)
"""Azimuth and elevation of the sun: a winter morning south of the equator."""


def smoothstep(x: Map, low: float, high: float) -> Map:
    """Return 0 below `low`, 1 above `high`, and a smooth rise between.

    >>> smoothstep(np.float32([0, 1, 2, 4]), 0, 2)
    array([0. , 0.5, 1. , 1. ], dtype=float32)
    """
    t = np.clip((x - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


class Texture:
    """Draws stationary random fields of one size: zero mean, unit variance."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.n, self.rng = n, rng
        f = np.fft.fftfreq(n).astype(np.float32)
        self.f2 = f[:, None] ** 2 + f[: n // 2 + 1] ** 2
        self.f2[0, 0] = 1  # the mean is taken out below

    def __call__(self, longest: float, *, slope: float) -> Map:
        """Return a field whose power falls as f**-slope below `longest` metres."""
        shape = self.f2.shape
        noise = self.rng.standard_normal((*shape, 2), np.float32).view(np.complex64)
        spectrum = noise[..., 0] * (self.f2 + (PITCH / longest) ** 2) ** (-slope / 4)
        spectrum[0, 0] = 0
        field = np.fft.irfft2(spectrum, (self.n, self.n))
        return np.asarray(field / field.std(), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Rectangles that tile a square of the plane, which repeats without end."""

    side: float
    """Period in metres."""

    index: NDArray[np.int32]
    """Which rectangle covers which sample of the square."""

    bounds: NDArray[np.float32]
    """(rectangles, 4): u0, u1, v0, v1 in metres."""

    @classmethod
    def cut(cls, rng: np.random.Generator, side: float, area: float) -> Mosaic:
        """Halve rectangles, never quite in the middle, down to about `area` m2."""
        n = round(side / PITCH)
        todo, done = [(0, n, 0, n)], []
        floor = area / PITCH**2
        while todo:
            u0, u1, v0, v1 = todo.pop()
            du, dv = u1 - u0, v1 - v0
            if du * dv < floor * rng.lognormal(0.45, 0.55) or max(du, dv) < 4:
                done.append((u0, u1, v0, v1))
                continue
            # Now and then across the short side: that is how strips come about.
            along_u = (du > dv) != (rng.random() < 0.18 and min(du, dv) >= 8)
            at = rng.uniform(0.34, 0.66)
            if along_u:
                m = u0 + min(max(round(at * du), 1), du - 1)
                todo += [(u0, m, v0, v1), (m, u1, v0, v1)]
            else:
                m = v0 + min(max(round(at * dv), 1), dv - 1)
                todo += [(u0, u1, v0, m), (u0, u1, m, v1)]
        index = np.empty((n, n), np.int32)
        for k, (u0, u1, v0, v1) in enumerate(done):
            index[u0:u1, v0:v1] = k
        return cls(n * PITCH, index, np.asarray(done, np.float32) * np.float32(PITCH))

    def at(self, u: Map, v: Map) -> tuple[NDArray[np.int32], Map, Map]:
        """Return rectangle, distance to its border, distance along its short side."""
        u, v = u % np.float32(self.side), v % np.float32(self.side)
        last = len(self.index) - 1
        i, j = (np.minimum((w / PITCH).astype(np.int32), last) for w in (u, v))
        which = self.index[i, j]
        u0, u1, v0, v1 = (self.bounds[:, k][which] for k in range(4))
        across_u, across_v = np.minimum(u - u0, u1 - u), np.minimum(v - v0, v1 - v)
        across = np.where(u1 - u0 < v1 - v0, u - u0, v - v0)
        return which, np.minimum(across_u, across_v), across


def stroke(distance: Map, width: float) -> Map:
    """Return how much of a sample lies within a line `width` metres wide."""
    share = np.clip(0.5 + (width / 2 - distance) / PITCH, 0, 1)
    return np.asarray(share, dtype=np.float32)


def turned(x: Map, y: Map, angle: float | Map) -> tuple[Map, Map]:
    """Return coordinates along and across an axis at `angle` radians."""
    c, s = np.cos(angle, dtype=np.float32), np.sin(angle, dtype=np.float32)
    return c * x + s * y, c * y - s * x


def bends(rng: np.random.Generator, t: Map, waves: Sequence[float]) -> tuple[Map, Map]:
    """Return offset and slope of a line that winds with `waves` metres."""
    offset, slope = np.zeros_like(t), np.zeros_like(t)
    for wave in waves:
        k = np.float32(2 * np.pi / wave)
        reach = np.float32(wave * rng.uniform(0.05, 0.11))
        phase = np.float32(rng.uniform(0, 2 * np.pi))
        offset += reach * np.sin(k * t + phase)
        slope += reach * k * np.cos(k * t + phase)
    return offset, slope


def away_from_sun(field: Shadow, metres: float) -> Shadow:
    """Return `field` moved `metres` away from the sun; it repeats at its edges."""
    azimuth = np.radians(SUN[0])
    rows, cols = metres * np.cos(azimuth) / PITCH, -metres * np.sin(azimuth) / PITCH
    shift = round(rows), round(cols)
    return np.roll(field, shift, (0, 1))


def hillshade(height: Map) -> Map:
    """Return direct light on the relief, 1 where the ground is flat."""
    down, right = np.gradient(height, PITCH)
    azimuth, elevation = np.radians(SUN)
    # Rows run south: the slope towards the north is +down.
    towards = right * -np.sin(azimuth) + down * np.cos(azimuth)
    light = (1 + towards / np.tan(elevation)) / np.sqrt(1 + down**2 + right**2)
    return np.asarray(np.clip(light, 0, 1.6), dtype=np.float32)


def exceeded_by(field: Map, share: float) -> float:
    """Return the value that a `share` of `field` exceeds."""
    return float(np.quantile(field[::4, ::4], 1 - share))
