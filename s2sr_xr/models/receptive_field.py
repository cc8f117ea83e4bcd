"""How far a network looks, measured: so that no spec can lie about its margin.

A margin that is too small gives seams, one that is too large wastes work, and what the
literature prints is often wrong. Here the network is made linear and positive (absolute
weights, no biases, activations replaced by the identity, maxima by means), so that no
path from an input pixel to an output pixel can cancel or be switched off; then the
gradient of a cell of the output is nonzero exactly where the cell looks.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from s2sr_xr.errors import ModelError, S2SRError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from s2sr_xr.models.spec import ModelSpec

__all__ = ["measure_margin"]

ACTIVATIONS = frozenset(
    (
        *("abs", "celu", "clamp", "clip", "elu", "gelu", "hardsigmoid", "hardswish"),
        *("hardtanh", "leaky_relu", "mish", "prelu", "relu", "relu6", "rrelu", "selu"),
        *("sigmoid", "silu", "softplus", "softsign", "tanh"),
    )
)
"""Functions of each number alone, by their names in torch; `_` may follow."""


LEAST = 4
"""Cells around the cell in the smallest trial: in a network that pads inside, a larger
gap in what it sees (a dilated kernel) would fall outside the image and go unseen."""


def measure_margin(module: nn.Module, spec: ModelSpec, *, limit: int = 128) -> int:
    """Return how many cells beyond a cell any of its output pixels looks.

    The smallest whole number that covers the reach of every phase of the cell, of
    every band, on each side. `module` is copied, not changed; it may pad inside or not.
    Activations may be modules, functions or methods; those inside a composite function
    of torch, such as its attention, are not found.

    Parameters
    ----------
    module
        Takes one ``(B, C, h, w)`` a band group of `spec`, gives one image of the same
        ground or a smaller centre of it.
    spec
        Its grids; ``spec.margin`` is only where the search starts.
    limit
        Cells beyond which the search stops.

    Raises
    ------
    ModelError
        It looks at all it is given, as a network that pools globally does, or it does
        not run on images of the spec's shapes.
    """
    network = _positive(module)
    failure, tried = None, 0
    for tried in _sizes(max(spec.margin + 1, LEAST), limit):
        try:
            reaches = [_reach(network, spec, tried, i) for i in range(spec.align)]
        except (RuntimeError, S2SRError) as err:  # too small for its kernels
            failure = err
            continue
        if None not in reaches:
            return max(r for r in reaches if r is not None)
    raise ModelError(
        f"{spec.name}: no margin up to {tried} cells covers what the network looks at. "
        "One that pools over its whole image is exact=False; limit= searches further."
    ) from failure


class _Linear(TorchFunctionMode):
    """While it is on, activations do nothing and the largest pixel is the mean."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        name = getattr(func, "__name__", "").rstrip("_")
        kwargs = kwargs or {}
        if name in ACTIVATIONS:
            return args[0] if args else kwargs["input"]
        if "max_pool2d" in name:
            given = dict(zip(("input", *_POOL), args, strict=False)) | dict(kwargs)
            return F.avg_pool2d(
                given["input"], **{k: given[k] for k in _POOL if k in given}
            )
        return func(*args, **kwargs)


_POOL = ("kernel_size", "stride", "padding")


def _sizes(first: int, limit: int) -> list[int]:
    """Return the margins to try: a wrong guess doubles."""
    sizes = [first]
    while 2 * sizes[-1] <= limit:
        sizes.append(2 * sizes[-1])
    return sizes


def _positive(module: nn.Module) -> nn.Module:
    """Return a float64 copy with positive weights and without biases."""
    network = copy.deepcopy(module).to(torch.float64).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.rpartition(".")[2] == "bias":
            parameter.zero_()
        else:
            # Not 0: a weight that training left at 0 still is a path.
            parameter.abs_().add_(1e-3)
    return network


def _reach(network: nn.Module, spec: ModelSpec, margin: int, phase: int) -> int | None:
    """Return how many cells a cell amid an image looks beyond itself.

    The image has `margin` cells or a few more on each side; None if it is not enough.
    `phase` is the place of the cell on the grid that strides make (``spec.align``).
    """
    step = spec.align
    before = margin + -margin % step
    side = 2 * before + step
    cell = before + phase
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    images = [
        rand(1, len(g.names), side * g.per_cell, side * g.per_cell).requires_grad_()
        for g in spec.inputs
    ]
    with _Linear():
        result = network(*images)
    k = spec.output.per_cell
    first = cell * k - (side * k - result.shape[-1]) // 2
    if first < 0 or first + k > result.shape[-1]:
        raise ModelError(f"{spec.name}: {margin} cells do not hold a cell of output")
    one = result[..., first : first + k, first : first + k]
    # Random: the pixels of a cell must not cancel in the interpolation's small taps.
    weights = rand(*one.shape) + 0.5
    found = torch.autograd.grad((one * weights).sum(), images, allow_unused=True)
    cells = torch.zeros(side, dtype=torch.bool)
    for group, gradient in zip(spec.inputs, found, strict=True):
        if gradient is not None:
            pixels = gradient[0].ne(0).any(dim=0)
            lines = pixels.any(dim=0) | pixels.any(dim=1)
            cells |= lines.reshape(side, group.per_cell).any(dim=1)
    if cells[0] or cells[-1]:
        return None
    seen = cells.nonzero().flatten().tolist()
    return max(cell - seen[0], seen[-1] - cell, 0) if seen else 0
