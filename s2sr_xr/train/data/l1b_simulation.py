"""Level-1B as two neighbouring detectors see it, made of any finer image, with truth.

An image of aligned bands stands for the ground. It is blurred a little, so that what is
sampled from it aliases. Each of two detectors sees it through a homography of its own,
each band of a detector through another that is mostly a shift, and every second pixel
is kept. As all homographies are known, so is where each pixel of one band lies in any
other, exactly.

References
----------
Nguyen et al. (2023), L1BSR, CVPR workshops, section 4.1, eq. 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.core.filters import gaussian_blur
from s2sr_xr.errors import GridError
from s2sr_xr.models.networks.registration import LONGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from s2sr_xr.train.plan import Plan

    Matrix: TypeAlias = NDArray[np.float64]

__all__ = [
    "BANDS",
    "GREEN",
    "Sensor",
    "Views",
    "blurred",
    "inside",
    "sample",
    "simulated",
    "to_counts",
    "true_flow",
    "views",
]

BANDS = ("B02", "B03", "B04", "B08")
"""The channels of every image here."""

GREEN = 1
"""The channel that the others are aligned to."""

DARK, FULL = 40.0, 3500.0
"""Counts of no light, and what a reflectance of 1 adds to them: real crops have 30 to
150 over the darkest ground, and 12 bits."""

FLAT = 3.0
"""A patch whose green deviates by less than so many times the noise shows nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor:
    """How two detectors see one image. Lengths are in pixels of the detector."""

    blur: float = 0.7
    """Of the optics: standard deviation in fine pixels, half as wide."""

    apart: float = 3.0
    """Farthest shift of a detector from where the image is, along x or y."""

    parallax: float = 1.5
    """Farthest shift of a band from green, along x or y."""

    bend: float = 0.25
    """Farthest shift of a corner besides that of its image."""

    noise: float = 0.001
    """Standard deviation, in reflectance."""

    dimmest: float = 0.5
    """The light of a pair is that of its image times something between this..."""

    brightest: float = 1.5
    """...and this."""

    phase: float = 0.0
    """Where a pixel of the detector lies among its two fine pixels, along x and y: 0 on
    the first, as the paper has it, 0.5 in the middle, as a grid of half the pixel."""

    def __post_init__(self) -> None:
        if self.farthest > LONGEST:
            raise GridError(
                f"Two bands of two detectors may lie {self.farthest:g} pixels apart, "
                f"CSR finds shifts up to {LONGEST:g}. Lower apart, parallax or bend."
            )

    @property
    def farthest(self) -> float:
        """Longest shift between two bands of two detectors, along x or y."""
        return 2 * (self.apart + self.parallax + 2 * self.bend)

    @property
    def reach(self) -> int:
        """Fine pixels that are seen around those of a patch."""
        return int(self.farthest) + 4


@dataclass(frozen=True, slots=True)
class Views:
    """What two detectors saw of the same ground, and the truth."""

    counts: torch.Tensor
    """``(B, 2, 4, h, w)``: detector, band."""

    maps: torch.Tensor
    """``(B, 2, 4, 3, 3)``, float64: pixel (x, y, 1) of a band to a place on the ground,
    in its fine pixels."""

    truth: torch.Tensor
    """``(B, 2, 4, 2 h, 2 w)``: counts of the ground in pixels of half the side, without
    noise, all bands where green is. Empty unless it was asked for."""


def to_counts(reflectance: torch.Tensor) -> torch.Tensor:
    """Return Level-1B counts of reflectance, any shape.

    >>> to_counts(torch.tensor([0.0, 0.1]))
    tensor([ 40., 390.])
    """
    return DARK + FULL * reflectance


def blurred(images: Sequence[torch.Tensor], sensor: Sensor) -> list[torch.Tensor]:
    """Return what `views` takes of reflectance: its counts as a blurred surface.

    The surface is a cubic spline, given by its coefficients: so every view samples one
    and the same ground, anywhere between pixels. Bicubic interpolation would not do: by
    a = -0.75, it is 0.05 pixels off a quarter from a pixel.

    Parameters
    ----------
    images
        (4, H, W) each: B02, B03, B04, B08, aligned; NaN where missing.
    sensor
        Whose blur.

    Raises
    ------
    GridError
        An image has another shape.
    """
    for image in images:
        if image.ndim != 3 or image.shape[0] != len(BANDS):
            raise GridError(
                f"An image has the bands {', '.join(BANDS)}: shape (4, H, W); got "
                f"{tuple(image.shape)}"
            )
    return [_spline(gaussian_blur(to_counts(image), sensor.blur)) for image in images]


def views(
    grounds: Sequence[torch.Tensor],
    sensor: Sensor,
    *,
    side: int,
    batch: int,
    seed: int,
    step: int,
    truth: bool = False,
) -> Views:
    """Return the batch of one training step: a function of seed and step alone.

    Parameters
    ----------
    grounds
        What `blurred` gives; taken in proportion to the root of their area.
    sensor
        Who looks.
    side, batch
        Pixels of a view along its side; pairs of views.
    seed, step
        Decide everything.
    truth
        Whether the fine images are made too: twice the work.

    Raises
    ------
    GridError
        No image is large enough, or in 200 draws a patch none had a patch that shows
        something and misses nothing.
    """
    rng = np.random.default_rng((seed, step))
    wide = 2 * side + 2 * sensor.reach
    patch = torch.stack(_patches(grounds, sensor, wide, batch, rng))
    maps = _maps(sensor, side, batch, rng)
    source = patch[:, None].expand(batch, 2, *patch.shape[1:])
    seen = _on_spline(source, _places(maps, side))
    noise = rng.standard_normal(tuple(seen.shape), dtype=np.float32)
    counts = seen + sensor.noise * FULL * torch.from_numpy(noise)
    fine = torch.empty(0)
    if truth:
        # Green's pixel p is fine pixel 2 p + phase: so the fine grid, back from it.
        halves = maps[:, :, GREEN, None] @ _affine(0.5, -sensor.phase / 2)
        spots = _places(halves, 2 * side).expand(-1, -1, len(BANDS), -1, -1, -1)
        fine = _on_spline(source, spots)
    return Views(counts, maps, fine)


class Simulation(Protocol):
    """What a recipe says of its batches."""

    @property
    def sensor(self) -> Sensor: ...
    @property
    def side(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def plan(self) -> Plan: ...


def simulated(
    recipe: Simulation, images: Sequence[torch.Tensor], *, truth: bool = False
) -> Callable[[int], Views]:
    """Return the batches of simulated detectors, step by step."""
    grounds = blurred(images, recipe.sensor)

    def draw(step: int) -> Views:
        return views(
            grounds,
            recipe.sensor,
            side=recipe.side,
            batch=recipe.batch,
            seed=recipe.plan.seed,
            step=step,
            truth=truth,
        )

    return draw


def true_flow(reference: torch.Tensor, moving: torch.Tensor, side: int) -> torch.Tensor:
    """Return where each pixel of one band lies in another, less where it is itself.

    Parameters
    ----------
    reference, moving
        (B, 3, 3) each, of `Views.maps`.
    side
        Pixels of a view along its side.

    Returns
    -------
    torch.Tensor
        (B, 2, side, side), float32, in pixels: x, then y, as `CSR` gives it.
    """
    there = _places(torch.linalg.inv(moving) @ reference, side)
    eye = torch.eye(3, dtype=there.dtype, device=there.device)
    return (there - _places(eye[None], side)).movedim(-1, 1).float()


def inside(flow: torch.Tensor, edge: float = 1.0) -> torch.Tensor:
    """Return where `flow`, (B, 2, h, w), points into the image: (B, 1, h, w), bool.

    `edge` pixels along its border do not count as inside.
    """
    h, w = flow.shape[-2:]
    rows = torch.arange(h, device=flow.device)[:, None]
    x, y = flow[:, 0] + torch.arange(w, device=flow.device), flow[:, 1] + rows
    within = (x >= edge) & (x <= w - 1 - edge) & (y >= edge) & (y <= h - 1 - edge)
    return within[:, None]


def sample(image: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return `image` at `places`: bicubic (a = -0.75), clamped at the edge.

    Parameters
    ----------
    image
        (B, C, H, W), any unit.
    places
        (B, h, w, 2): x, then y, in pixels of `image`.

    Returns
    -------
    torch.Tensor
        (B, C, h, w).
    """
    h, w = image.shape[-2:]
    size = torch.tensor([w - 1, h - 1], dtype=places.dtype, device=places.device)
    return F.grid_sample(
        image,
        (places * (2 / size) - 1).to(image.dtype),
        mode="bicubic",
        padding_mode="border",
        align_corners=True,
    )


def _spline(image: torch.Tensor) -> torch.Tensor:
    """Return the coefficients of the cubic spline through an image (C, H, W)."""
    # The inverse of (1, 4, 1) / 6, which has fallen to 1e-8 where it is cut.
    pole, reach = 3**0.5 - 2, 14
    taps = [3**0.5 * pole ** abs(k) for k in range(-reach, reach + 1)]
    kernel = torch.tensor(taps, dtype=image.dtype)[None, None, None]
    x = image[:, None]
    for turned in (kernel, kernel.mT):
        pad = [reach * (n > 1) for n in turned.shape[:1:-1] for _ in range(2)]
        x = F.conv2d(F.pad(x, pad, mode="replicate"), turned)
    return x[:, 0]


def _on_spline(coefficients: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return values (..., h, w) of splines (..., H, W) at places (..., h, w, 2)."""
    height, width = coefficients.shape[-2:]
    flat = coefficients.reshape(-1, height * width)
    whole = places.floor()
    part = (places - whole).float().reshape(len(flat), -1, 2)
    x, y = whole.long().reshape(len(flat), -1, 2).unbind(-1)
    across, down = (_bells(t) for t in part.unbind(-1))
    first = (y - 1) * width + x - 1
    rows = []
    for j in range(4):
        taps = (flat.gather(1, first + (j * width + i)) * across[i] for i in range(4))
        rows.append(sum(taps, torch.zeros(())) * down[j])
    return sum(rows, torch.zeros(())).reshape(places.shape[:-1])


def _bells(t: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the weights of four neighbours of a cubic B-spline, 0 <= t < 1."""
    s, square = 1 - t, t * t
    return (
        s**3 / 6,
        (4 - 6 * square + 3 * square * t) / 6,
        (4 - 6 * s * s + 3 * s**3) / 6,
        square * t / 6,
    )


def _patches(
    grounds: Sequence[torch.Tensor],
    sensor: Sensor,
    wide: int,
    batch: int,
    rng: np.random.Generator,
) -> list[torch.Tensor]:
    large = [g for g in grounds if min(g.shape[-2:]) >= wide]
    if not large:
        most = max((min(g.shape[-2:]) for g in grounds), default=0)
        raise GridError(
            f"A patch needs {wide} x {wide} fine pixels; the largest of {len(grounds)} "
            f"images has {most} along its shorter side. Use smaller patches."
        )
    share = np.array([(g.shape[-2] * g.shape[-1]) ** 0.5 for g in large])
    found: list[torch.Tensor] = []
    for _ in range(200 * batch):
        ground = large[rng.choice(len(large), p=share / share.sum())]
        top, left = (int(rng.integers(n - wide + 1)) for n in ground.shape[-2:])
        patch = ground[:, top : top + wide, left : left + wide]
        gain = float(rng.uniform(sensor.dimmest, sensor.brightest))
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        # A missing pixel makes the deviation NaN, which is not above anything.
        if not float(patch[GREEN].std()) * gain > FLAT * sensor.noise * FULL:
            continue
        if torch.isfinite(patch).all():
            turned = torch.rot90(patch, turns, (-2, -1))
            turned = turned.flip(-1) if flip else turned
            found.append((turned - DARK) * gain + DARK)
        if len(found) == batch:
            return found
    raise GridError(
        f"{200 * batch} draws found {len(found)} of {batch} patches without missing "
        f"pixels whose green deviates by more than {FLAT:g} times the noise."
    )


def _maps(
    sensor: Sensor, side: int, batch: int, rng: np.random.Generator
) -> torch.Tensor:
    """Return the way from each pixel to the ground, (B, 2, 4, 3, 3)."""
    on_patch = _affine(1.0, float(sensor.reach))
    to_fine = _affine(2.0, sensor.phase)
    out = torch.empty(batch, 2, len(BANDS), 3, 3, dtype=torch.float64)
    for b in range(batch):
        for t in range(2):
            view = _homography(2 * side, 2 * sensor.apart, 2 * sensor.bend, rng)
            for i in range(len(BANDS)):
                far = 2 * sensor.parallax
                shift = _homography(2 * side, far, 2 * sensor.bend, rng)
                band = np.eye(3) if i == GREEN else shift
                whole = on_patch.numpy() @ view @ band @ to_fine.numpy()
                out[b, t, i] = torch.from_numpy(whole)
    return out


def _affine(scale: float, shift: float) -> torch.Tensor:
    """Return the matrix of ``scale * p + shift`` along both axes."""
    return torch.tensor(
        [[scale, 0, shift], [0, scale, shift], [0, 0, 1]], dtype=torch.float64
    )


def _homography(
    side: int, shift: float, bend: float, rng: np.random.Generator
) -> Matrix:
    """Return a random homography of a square: a shift, and a little more at corners."""
    s = side - 1.0
    corners = np.array([[0, 0], [s, 0], [0, s], [s, s]])
    moved = corners + rng.uniform(-shift, shift, 2) + rng.uniform(-bend, bend, (4, 2))
    rows, right = [], []
    for (x, y), (u, v) in zip(corners, moved, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    found = np.linalg.solve(np.array(rows), np.array(right))
    return np.append(found, 1.0).reshape(3, 3)


def _places(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Return where maps (..., 3, 3) take each pixel of a square: (..., h, w, 2)."""
    line = torch.arange(side, dtype=maps.dtype, device=maps.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    pixels = torch.stack((x, y, torch.ones_like(x)), dim=-1)
    there = torch.einsum("...ij,hwj->...hwi", maps, pixels)
    return there[..., :2] / there[..., 2:]
