"""A finer image of the same ground, laid on what a network makes of it.

Two sensors never agree to a fraction of a pixel, nor on what reflectance is. A network
that is asked for a target that lies a little off, now here, now there, learns the mean
of all of these: it blurs. So the target is first laid on what the network made, by one
shift a patch that all its bands share, and given a gain and an offset for each band,
from what is left when details are smoothed away. What moves is the target; nothing is
learnt through the alignment.

Gain and offset are those to Sentinel-2's own pixels, not to what the network makes of
them: that is softer than the target at first, would ask for less contrast, and so get
less and less.

References
----------
Baker, Matthews (2004), Lucas-Kanade 20 years on, IJCV 56(3), section 3: the forward
additive form, with gain and offset fitted anew at each step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.core.filters import gaussian_blur
from s2sr_xr.errors import GridError

__all__ = ["LOBES", "Aligned", "aligned", "inner", "moved"]

SMOOTH = (4.0, 4.0, 4.0, 2.0, 2.0, 2.0)
"""Blur of both images at each step of the search, in pixels of the finer one."""

LEVEL = 8.0
"""Blur of both images where gain and offset are fitted: pixels of 20 m are four wide,
and at this blur their own is no more than 3 % of contrast."""

LOBES = 4
"""Pixels on each side that an interpolated one is made of."""

LEAST = 1e-3
"""Added to the diagonal of the equations, in deviations: what is flat does not move."""

GAIN = (0.5, 2.0)
"""Gains that two sensors may differ by; beyond, something else differs."""


@dataclass(frozen=True, slots=True)
class Aligned:
    """A finer image that was laid on another, and how."""

    image: torch.Tensor
    """``(B, C, H, W)``. Along its border pixels are made up, as far as it was moved and
    `LOBES` more."""

    shift: torch.Tensor
    """``(B, 2)``: how far it was moved, pixels down and to the right."""

    gain: torch.Tensor
    """``(B, C)``: what it was multiplied with."""

    match: torch.Tensor
    """``(B,)``: correlation with what it was laid on, smoothed, over the bands."""


def moved(x: torch.Tensor, shift: torch.Tensor, reach: float) -> torch.Tensor:
    """Return each image of a batch moved by its own fraction of a pixel or more.

    By a sinc with a window of `LOBES` pixels (Lanczos), which keeps details that a
    cubic would blur. Beyond the edge the border is repeated.

    Parameters
    ----------
    x
        ``(B, C, H, W)``.
    shift
        ``(B, 2)``: pixels down and to the right, each at most `reach`.
    reach
        Largest shift that can be meant.
    """
    count, bands, _, _ = x.shape
    half = int(reach) + 1 + LOBES
    at = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
    for axis in (0, 1):
        away = at + shift[:, axis, None].to(x)
        taps = torch.sinc(away) * torch.sinc(away / LOBES) * (away.abs() < LOBES)
        taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(bands, 0)
        kernel = taps[:, None, None, :] if axis else taps[:, None, :, None]
        pad = (half, half, 0, 0) if axis else (0, 0, half, half)
        lines = F.pad(x, pad, mode="replicate").flatten(0, 1)[None]
        x = F.conv2d(lines, kernel, groups=count * bands)[0]
        x = x.reshape(count, bands, *x.shape[-2:])
    return x


def aligned(
    finer: torch.Tensor, like: torch.Tensor, level: torch.Tensor, *, reach: float = 3.0
) -> Aligned:
    """Return a finer image laid on another of the same ground.

    Shift and radiometry are fitted in turn, on both images blurred by 4 and then by 2
    pixels: Gauss-Newton for the shift, least squares for gain and offset.

    Parameters
    ----------
    finer
        ``(B, C, H, W)``, no NaN.
    like
        The same shape: where it is moved to. Nothing is learnt through it.
    level
        The same shape, maybe of larger pixels: what it takes gain and offset from.
    reach
        Largest shift, in pixels. What seems to lie farther stays there.

    Raises
    ------
    GridError
        The images differ in shape, or are too small to be moved so far.
    """
    shapes = [tuple(image.shape) for image in (finer, like, level)]
    if len({*shapes}) > 1 or finer.ndim != 4:
        raise GridError(
            "Images of one shape (B, C, H, W) are aligned; got "
            f"{', '.join(map(str, shapes))}"
        )
    edge = int(reach) + 1 + LOBES
    if min(finer.shape[-2:]) < 2 * edge + 8:
        raise GridError(
            f"{tuple(finer.shape[-2:])} pixels are too few to be moved by {reach:g}; "
            f"{2 * edge + 8} along each side are needed. Use larger patches."
        )
    like = like.detach().float()
    shift = torch.zeros(len(finer), 2, device=finer.device)
    for sigma in SMOOTH:
        soft, aim = gaussian_blur(finer, sigma), gaussian_blur(like, sigma)
        shift = shift + _step(moved(soft, shift, reach), aim, edge)
        shift = shift.clamp(-reach, reach)
    image = moved(finer, shift, reach)
    *_, match = _fitted(*_smoothed(image, like, SMOOTH[-1], edge))
    gain, offset, _ = _fitted(*_smoothed(image, level, LEVEL, edge))
    return Aligned(image * gain + offset, shift, gain[..., 0, 0], match)


def _smoothed(
    x: torch.Tensor, aim: torch.Tensor, sigma: float, edge: int
) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        inner(gaussian_blur(x, sigma), edge),
        inner(gaussian_blur(aim.float(), sigma), edge),
    )


def inner(x: torch.Tensor, edge: int) -> torch.Tensor:
    """Return an image without so many pixels along its border."""
    return x[..., edge:-edge, edge:-edge]


def _fitted(
    x: torch.Tensor, aim: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return gain and offset ``(B, C, 1, 1)`` that bring `x` to `aim`, and the match.

    Flat bands, of less than a count, keep a gain of 1.
    """
    means = [image.mean((-2, -1), keepdim=True) for image in (x, aim)]
    a, b = x - means[0], aim - means[1]
    floor = 1e-8
    across = (a * b).mean((-2, -1), keepdim=True)
    own = a.square().mean((-2, -1), keepdim=True)
    other = b.square().mean((-2, -1), keepdim=True)
    gain = ((across + floor) / (own + floor)).clamp(*GAIN)
    match = across / ((own + floor) * (other + floor)).sqrt()
    return gain, means[1] - gain * means[0], match.mean((1, 2, 3))


def _step(x: torch.Tensor, aim: torch.Tensor, edge: int) -> torch.Tensor:
    """Return how much farther to move `x`: one Gauss-Newton step."""
    down = (x[..., 2:, 1:-1] - x[..., :-2, 1:-1]) / 2
    right = (x[..., 1:-1, 2:] - x[..., 1:-1, :-2]) / 2
    x, aim, down, right = (
        inner(image, edge)
        for image in (x[..., 1:-1, 1:-1], aim[..., 1:-1, 1:-1], down, right)
    )
    gain, offset, _ = _fitted(x, aim)
    # In deviations, so that no band counts for its brightness.
    unit = 1 / (aim.std((-2, -1), keepdim=True) + 1e-4)
    left = (gain * x + offset - aim) * unit
    slopes = torch.stack([gain * unit * s for s in (down, right)], 1)
    normal = torch.einsum("bichw,bjchw->bij", slopes, slopes)
    least = LEAST * left[0].numel() * torch.eye(2, device=x.device)
    pull = torch.einsum("bichw,bchw->bi", slopes, left)
    found: torch.Tensor = torch.linalg.solve(normal + least, pull)
    return found
