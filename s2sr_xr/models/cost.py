"""What one tile of a network costs, counted on tensors without pixels."""

from __future__ import annotations

import functools
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from s2sr_xr.models.spec import ModelSpec

__all__ = ["Cost", "cost_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one tile takes."""

    flops: int
    """Multiplications and additions of the convolutions, the halo's included."""

    useful: int
    """The same for one cell of a tile without a halo."""

    activations: int
    """Bytes of the tensors that live at once, at most."""

    weights: int
    """Bytes of the network itself."""


class _Sampling(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Knows the shape that sampling gives; torch needs a hundred operations for it."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is torch.ops.aten.grid_sampler_2d.default:
            image, grid = args[:2]
            return image.new_empty((*image.shape[:2], *grid.shape[1:3]))
        return func(*args, **(kwargs or {}))


class _Live(_Sampling):
    """Counts the bytes of the storages that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        out = super().__torch_dispatch__(func, types, args, kwargs)
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, torch.Tensor):
                self._add(made.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # noqa: SLF001 - views of one storage share it
        if key in self.known:
            return
        self.known.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def cost_of(
    network: Any,  # noqa: ANN401 - a module, or any function of tensors
    spec: ModelSpec,
    tile: tuple[int, int],
) -> Cost:
    """Return what a tile of `tile` cells with its halo takes, without computing it.

    A network is of no use afterwards: its weights are gone. A function that is not an
    ``nn.Module`` (interpolation) counts no operations, and as activations twice what it
    takes and gives.
    """
    images = _images(spec, tile)
    if not isinstance(network, torch.nn.Module):
        taken = sum(i.numel() for i in images)
        made = taken * spec.output.per_cell**2
        return Cost(flops=0, useful=0, activations=8 * (made + taken), weights=0)
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    network = network.to("meta")
    run: Callable[..., Any] = network
    if spec.also:
        run = functools.partial(network.align, reference=0)
    with torch.no_grad(), _Live() as live:
        run(*images)
    # Operations are a polynomial of the side: what grows with its square is useful.
    step = spec.align
    ahead = [_flops(run, _images(spec, [n + k * step for n in tile])) for k in range(3)]
    useful = (ahead[2] - 2 * ahead[1] + ahead[0]) // (2 * step**2)
    return Cost(flops=ahead[0], useful=useful, activations=live.peak, weights=weights)


def _images(spec: ModelSpec, tile: Sequence[int]) -> list[torch.Tensor]:
    rows, cols = (n + 2 * spec.margin for n in tile)
    return [
        torch.empty(
            (1, len(g.names), rows * g.per_cell, cols * g.per_cell), device="meta"
        )
        for g in spec.inputs
    ]


def _flops(run: Callable[..., Any], images: Sequence[torch.Tensor]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _Sampling():  # type: ignore[no-untyped-call]
        run(*images)
    return int(counter.get_total_flops())
