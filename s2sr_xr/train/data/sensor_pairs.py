"""What a network that is given the sensor learns from: scenes seen by drawn sensors.

A scene is fine bands and the coarse bands on the same fine pixels, as they should come
back. Each time it is taken it is seen by another sensor: other widths, other noise, the
bands a little beside each other, and the network is told the widths, not quite exactly.
What needs no learning (`Explained`) is done for the whole scene at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.core.filters import mirrored
from s2sr_xr.errors import GridError
from s2sr_xr.models.networks.explained import Explained, Known
from s2sr_xr.models.networks.layers import centre
from s2sr_xr.models.networks.sensor import SEEN, observe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

__all__ = [
    "Batch",
    "Drawn",
    "Sensed",
    "Sensors",
    "Truth",
    "known",
    "moved",
    "relative",
    "sense",
    "widened",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """A scene whose coarse bands are known on fine pixels."""

    name: str
    """Of the scene, for messages."""

    fine: torch.Tensor
    """``(P, H, W)``, reflectance, finite."""

    target: torch.Tensor
    """``(C, H, W)``, reflectance; NaN where it is unknown."""

    weight: float = 1.0
    """How often it is taken, beside a scene of the same size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensors:
    """The sensors that scenes are seen by. Widths and shifts are in fine pixels."""

    widths: tuple[tuple[float, float], ...]
    """Narrowest and widest, of each group of bands that share an optic."""

    groups: tuple[int, ...]
    """Bands in each of them."""

    factor: int = 2
    """Fine pixels along the side of a coarse one."""

    jitter: float = 0.015
    """Deviation of a band's width from that of its group."""

    mistold: float = 0.03
    """Deviation of the width that is told from the true one, in every second scene."""

    noise: tuple[float, float] = (2e-4, 4e-3)
    """Least and most, reflectance; by octaves, and rarely above 2e-3."""

    shift: float = 0.3
    """Longest, in two of three scenes."""

    mixed: float = 0.3
    """Share of scenes whose coarse bands are mixtures of themselves."""

    strange: float = 0.04
    """Share of scenes whose fine bands show, more or less, other ground."""

    gain: tuple[float, float] = (0.5, 2.0)
    """Scenes are darkened or brightened by so much."""


@dataclass(frozen=True, slots=True)
class Sensed:
    """A scene as a sensor saw it, and what needs no learning."""

    fine: torch.Tensor
    """``(1, P, H, W)``."""

    told: Known
    """On the whole ground."""

    width: torch.Tensor
    """``(1, C)``, as it is told."""

    plain: torch.Tensor
    """``(1, C, H, W)``, the coarse bands interpolated."""

    target: torch.Tensor
    """``(1, C, H, W)``."""


@dataclass(frozen=True, slots=True)
class Batch(Sensed):
    """Patches of scenes, ``(B, C, side, side)``."""


def moved(x: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Return bands ``(C, H, W)`` moved by ``(C, 2)`` pixels down and to the right.

    By the Fourier transform of the mirrored image: no frequency is lost.
    """
    rows, cols = x.shape[-2:]
    whole = torch.cat((x, x.flip(-2)), -2)
    whole = torch.cat((whole, whole.flip(-1)), -1).double()
    down = torch.fft.fftfreq(2 * rows, dtype=torch.float64)[:, None]
    right = torch.fft.rfftfreq(2 * cols, dtype=torch.float64)
    turn = shifts[:, 0, None, None] * down + shifts[:, 1, None, None] * right
    spectrum = torch.fft.rfft2(whole) * torch.exp(-2j * math.pi * turn)
    made: torch.Tensor = torch.fft.irfft2(spectrum, s=whole.shape[-2:])
    return made[..., :rows, :cols].to(x)


def sense(
    truth: Truth, sensors: Sensors, explained: Explained, rng: np.random.Generator
) -> Sensed:
    """Return a scene seen by a sensor that is drawn."""
    k, clear = sensors.factor, truth.target.isfinite()
    mean = truth.target.nanmean((-2, -1), keepdim=True)
    fine, target = truth.fine, torch.where(clear, truth.target, mean)
    if rng.random() < sensors.mixed:
        target, clear = _mixed(target, clear, rng)
    if rng.random() < sensors.strange:
        share = rng.random() ** 0.5
        fine = fine * (1 - share) + share * fine.flip(-1, -2)
    gain = float(np.exp(rng.uniform(*np.log(sensors.gain))))
    fine, target = fine * gain, target * gain
    width, told = _widths(sensors, rng)
    there = widened(moved(target, _shifts(sensors, len(target), rng))[None], SEEN * k)
    coarse = observe(there, width, k)
    most = sensors.noise[1] / (1 if rng.random() < 0.15 else 2)
    fine, coarse = (
        _noisy(image, sensors.noise[0], most, rng) for image in (fine[None], coarse)
    )
    return known(fine, coarse, torch.where(clear, target, torch.nan), told, explained)


def known(
    fine: torch.Tensor,
    coarse: torch.Tensor,
    target: torch.Tensor,
    width: torch.Tensor,
    explained: Explained,
) -> Sensed:
    """Return a scene as it was seen, with what needs no learning.

    ``(1, P, H, W)``, ``(1, C, h, w)``, ``(C, H, W)`` and ``(1, C)``.
    """
    k, r = explained.factor, explained.reach
    parts = explained(widened(fine, r * k), widened(coarse, r), width)
    like = {"coarse": coarse, "gain": coarse}
    names = [f.name for f in fields(Known)]
    told = Known(*(centre(getattr(parts, n), like.get(n, fine)).clone() for n in names))
    plain = F.interpolate(coarse, scale_factor=k, mode="bicubic", align_corners=False)
    return Sensed(fine, told, width, plain, target[None])


def _widths(
    sensors: Sensors, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the widths of the bands, and what is told of them, ``(1, C)``."""
    drawn = np.repeat([rng.uniform(*w) for w in sensors.widths], sensors.groups)
    drawn = drawn + rng.normal(0, sensors.jitter, len(drawn))
    told = drawn + rng.normal(0, sensors.mistold, len(drawn)) * (rng.random() < 0.5)
    both = np.stack((drawn, told)).clip(sensors.factor / 4, None)
    width, said = torch.from_numpy(both).float()[:, None]
    return width, said


def _shifts(sensors: Sensors, bands: int, rng: np.random.Generator) -> torch.Tensor:
    """Return how far bands lie beside the fine ones, ``(C, 2)`` fine pixels."""
    far = sensors.shift * (rng.random() < 2 / 3) * rng.random(bands) ** 0.5
    angle = rng.uniform(0, 2 * math.pi, bands)
    return torch.from_numpy(far * np.stack((np.sin(angle), np.cos(angle)))).T


def _noisy(
    image: torch.Tensor, least: float, most: float, rng: np.random.Generator
) -> torch.Tensor:
    """Return bands with noise, of its own deviation in each."""
    level = np.exp(rng.uniform(np.log(least), np.log(most)))
    std = level * rng.uniform(0.5, 1.5, image.shape[-3])
    noise = rng.standard_normal(image.shape, np.float32) * std[:, None, None]
    return image + torch.from_numpy(noise.astype(np.float32))


def _mixed(
    target: torch.Tensor, clear: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return bands that are mixtures of bands, and where they are known."""
    n = len(target)
    signs = rng.choice([1.0, 1.0, 1.0, -0.5], size=(n, n))
    share = rng.random()
    mixture = (1 - share) * np.eye(n) + share * rng.dirichlet([0.5] * n, n) * signs
    weights = torch.from_numpy(mixture).to(target)
    whole = clear.all(0, keepdim=True).expand_as(clear)
    return torch.einsum("ij,jhw->ihw", weights, target), whole


def widened(x: torch.Tensor, by: int) -> torch.Tensor:
    """Return `x` mirrored by so many pixels on each side, the edge included."""
    return mirrored(mirrored(x, by, -2), by, -1)


class Drawn:
    """Batches by step, a function of seed and step alone.

    Parameters
    ----------
    truths
        What to learn from.
    sensors, explained
        As in `sense`.
    side
        Coarse pixels along the side of a patch.
    batch
        Patches a batch.
    seed
        Decides every batch.
    every
        Steps after which a scene is seen by another sensor.
    """

    def __init__(
        self,
        truths: Sequence[Truth],
        sensors: Sensors,
        explained: Explained,
        *,
        side: int = 28,
        batch: int = 16,
        seed: int = 0,
        every: int = 400,
    ) -> None:
        self.truths, self.sensors, self.explained = truths, sensors, explained
        self.side, self.batch, self.seed, self.every = side, batch, seed, every
        small = [
            t.name for t in truths if min(t.fine.shape[1:]) < side * sensors.factor
        ]
        if small:
            raise GridError(
                f"{', '.join(small)} have fewer than {side} coarse pixels a side; use "
                "smaller patches."
            )
        self.seen = lru_cache(maxsize=len(truths) + 1)(self._seen)

    @cached_property
    def shares(self) -> np.ndarray:
        """How often each scene is taken."""
        areas = [
            t.weight * (t.fine.shape[1] * t.fine.shape[2]) ** 0.5 for t in self.truths
        ]
        shares: np.ndarray = np.array(areas) / sum(areas)
        return shares

    def _seen(self, which: int, time: int) -> Sensed:
        rng = np.random.default_rng((self.seed, which, time))
        with torch.no_grad():
            return sense(self.truths[which], self.sensors, self.explained, rng)

    def __call__(self, step: int) -> Batch:
        """Return the patches of a step."""
        rng = np.random.default_rng((self.seed, step, 7))
        found = [self._patch(step, rng) for _ in range(self.batch)]
        told = Known(
            *(
                torch.cat([getattr(p.told, f.name) for p in found])
                for f in fields(Known)
            )
        )
        parts = {
            f.name: torch.cat([getattr(p, f.name) for p in found])
            for f in fields(Sensed)
            if f.name != "told"
        }
        return Batch(told=told, **parts)

    def _patch(self, step: int, rng: np.random.Generator) -> Sensed:
        while True:
            which = int(rng.choice(len(self.truths), p=self.shares))
            # Not all scenes at once.
            time = (step + which * self.every // len(self.truths)) // self.every
            scene = self.seen(which, time)
            k = self.sensors.factor
            rows, cols = scene.told.coarse.shape[-2:]
            top, left = (int(rng.integers(n - self.side + 1)) for n in (rows, cols))
            turns, flip = int(rng.integers(4)), bool(rng.integers(2))

            def cut(x: torch.Tensor) -> torch.Tensor:
                f = x.shape[-1] // cols  # noqa: B023
                s = self.side * f
                part = x[..., top * f : top * f + s, left * f : left * f + s]  # noqa: B023
                part = torch.rot90(part, turns, (-2, -1))  # noqa: B023
                return part.flip(-1) if flip else part  # noqa: B023

            target = cut(scene.target)
            if target.isfinite().all():
                assert k * cols == scene.fine.shape[-1]
                told = Known(*(cut(getattr(scene.told, f.name)) for f in fields(Known)))
                return replace(
                    scene,
                    fine=cut(scene.fine),
                    told=told,
                    plain=cut(scene.plain),
                    target=target,
                )


EDGE = 8
"""Fine pixels along the border of a patch that count for nothing: there the network
pads, and never does in use."""


def relative(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the error over that without learning, and over interpolation's.

    The mean over patches and bands of both: what is gained counts in every band, and
    most where most is lacking; what is spoilt counts twice.
    """
    made = network(batch.fine, batch.told, batch.width)
    ours, first, plain = (
        (x - batch.target)[..., EDGE:-EDGE, EDGE:-EDGE].square().mean((-2, -1))
        for x in (made, batch.told.made, batch.plain)
    )
    error = (ours + 1e-10).sqrt()
    gained = error / (first.sqrt() + 2e-4)
    spoilt = (gained - 1).clamp(min=0)
    return (gained + spoilt + error / (plain.sqrt() + 1e-3)).mean()
