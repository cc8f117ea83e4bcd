"""Finer pixels by fixed weights: what networks start from, and the baselines they beat.

An integer factor needs no coordinates. With half-pixel centres, output pixel
``i * factor + p`` lies ``(p + 0.5) / factor - 0.5`` input pixels from the centre of
input pixel ``i``, whatever ``i``: each of the phases ``p`` is one short filter.
`torch.nn.functional.interpolate` computes the coordinate of every pixel in float32
instead, so at a factor of 6 its weights depend on the position in the tile (1e-5).

References
----------
Keys (1981), Cubic convolution interpolation for digital image processing, IEEE TASSP
29(6); eq. 15 is the kernel with a = -0.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from torch.nn import functional as F  # noqa: N812

from s2sr_xr.errors import GridError, ModelError

__all__ = ["Kernel", "Upsample"]

Kernel: TypeAlias = Literal["nearest", "bilinear", "bicubic"]
"""Names of the interpolation kernels, from the shortest to the longest reach."""

if TYPE_CHECKING:
    Taps: TypeAlias = tuple[tuple[int, float], ...]  # (offset in input pixels, weight)


class Upsample(torch.nn.Module):
    """Images with `factor` times as many pixels a side; halo in, no halo out.

    Every output pixel is the same sequence of multiplications and additions, far taps
    first, along x and then along y: the result is equal bit for bit whatever the
    position of the pixel, the size of the tensor, its batch, its memory format and the
    number of threads, and mirrored input gives mirrored output. Nothing is clipped:
    bicubic overshoots at edges. Taps of weight 0 are skipped, so a NaN reaches only
    the pixels that weigh it.

    Parameters
    ----------
    factor
        Output pixels along the side of an input pixel.
    kernel
        ``"nearest"`` repeats pixels; ``"bilinear"`` and ``"bicubic"`` interpolate.
        All keep constants. Bilinear keeps straight ramps, as bicubic does with an `a`
        of -0.5 only: with -0.75 a ramp of slope 1 is off by up to 0.05.
    a
        Slope of Keys' kernel at distance 1; bicubic only. -0.75 is what torch and
        OpenCV use, -0.5 what MATLAB, Pillow and the papers use.

    Raises
    ------
    ModelError
        If `factor` is less than 1 or `kernel` is unknown.

    >>> up = Upsample(2, "bilinear")
    >>> up(torch.tensor([[[[0.0, 4.0, 8.0]] * 3]]))[0, 0, 0]
    tensor([3., 5.])
    """

    factor: int
    """Output pixels along the side of an input pixel."""

    kernel: Kernel
    """Name of the kernel."""

    a: float
    """Parameter of Keys' kernel."""

    reach: int
    """Input pixels that are lost on each side: 0, 1 or 2."""

    phases: tuple[Taps, ...]
    """The filter of each phase. Python floats: a float32 tensor is multiplied by the
    weight rounded to float32, a float64 tensor by the weight itself."""

    def __init__(
        self, factor: int, kernel: Kernel = "bicubic", *, a: float = -0.75
    ) -> None:
        super().__init__()
        if factor < 1:
            raise ModelError(f"factor counts pixels, so it is at least 1; got {factor}")
        if kernel not in get_args(Kernel):
            raise ModelError(
                f"Unknown kernel {kernel!r}; choose from {', '.join(get_args(Kernel))}"
            )
        self.factor, self.kernel, self.a = factor, kernel, a
        self.reach = get_args(Kernel).index(kernel)
        self.phases = tuple(
            _taps((2 * p + 1 - factor) / (2 * factor), kernel, a) for p in range(factor)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` on finer pixels, without its outer `reach` pixels.

        Parameters
        ----------
        x
            (B, C, h, w), float, any unit. Pad it by `reach` beforehand where the
            image ends.

        Returns
        -------
        torch.Tensor
            (B, C, (h - 2 reach) * factor, (w - 2 reach) * factor), the type and unit
            of `x`. NaN wherever a pixel with a weight is NaN.

        Raises
        ------
        GridError
            If nothing would be left of `x`.
        """
        if min(x.shape[-2:]) <= 2 * self.reach:
            raise GridError(
                f"{self.kernel} needs more than {2 * self.reach} pixels along both "
                f"sides, got {tuple(x.shape[-2:])}; pad the image by {self.reach}"
            )
        # Along x first: the pass with strided writes then runs on fewer pixels (13-60 %
        # faster than y first). Slices of one new tensor instead of a stack gain 0-16 %,
        # products shared by mirrored phases 10-25 %: neither is worth its lines.
        x = torch.stack(self._filtered(x, -1), dim=-1).flatten(-2)
        return torch.stack(self._filtered(x, -2), dim=-2).flatten(-3, -2)

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        """Return all of `x` on finer pixels, clamped at its edge.

        ``(B, C, h * factor, w * factor)`` of ``(B, C, h, w)``, otherwise as `forward`.
        """
        return self(F.pad(x, (self.reach,) * 4, mode="replicate"))  # type: ignore[no-any-return]

    def _filtered(self, x: torch.Tensor, dim: int) -> list[torch.Tensor]:
        """Return one image a phase."""
        size = x.shape[dim] - 2 * self.reach
        images = []
        for taps in self.phases:
            # A product and a sum, never one fused operation: vector code and the
            # scalar code at the end of a row would round it differently.
            terms = (x.narrow(dim, self.reach + k, size) * w for k, w in taps)
            image = next(terms)
            for term in terms:
                image += term
            images.append(image)
        return images

    def extra_repr(self) -> str:
        """Return what `repr` says of this layer."""
        a = f", a={self.a}" if self.kernel == "bicubic" else ""
        return f"{self.factor}, {self.kernel!r}{a}"


def _taps(centre: float, kernel: Kernel, a: float) -> Taps:
    """Return the pixels that a sample at `centre` weighs, from far to near.

    The order is a mirror image for mirrored phases, so that flips commute with the
    filter bit for bit; small weights are added first.
    """
    taps = ((k, _weight(abs(k - centre), kernel, a)) for k in range(-2, 3))
    seen = (tap for tap in taps if tap[1] != 0)
    return tuple(sorted(seen, key=lambda tap: -abs(tap[0] - centre)))


def _weight(d: float, kernel: Kernel, a: float) -> float:
    """Return the weight of a pixel whose centre lies `d` >= 0 pixels away."""
    if kernel == "nearest":
        return float(d < 0.5)
    if kernel == "bilinear":
        return max(0.0, 1 - d)
    if d < 1:
        return ((a + 2) * d - (a + 3)) * d * d + 1
    # Keys' polynomial in its factors: exactly 0 at the distances 1 and 2.
    return a * (d - 1) * (d - 2) ** 2 if d < 2 else 0.0
