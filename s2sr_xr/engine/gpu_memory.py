"""What networks take of GPU memory, and how many tiles fit in it."""

from __future__ import annotations

import copy
import functools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from s2sr_xr.engine.gpu import arithmetic, first_line
from s2sr_xr.errors import S2SRWarning
from s2sr_xr.models.cost import cost_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from s2sr_xr.engine.gpu_stream import Port
    from s2sr_xr.models.spec import ModelSpec

    Run = Callable[..., torch.Tensor]

__all__ = ["BATCH", "MEMORY", "ROOM", "Resident", "batch_size", "settle", "tile_bytes"]

MEMORY = 7 << 30
"""Bytes that this library takes of a GPU unless a limit is set; with what the driver
and its libraries hold, that is below 8 GiB. Other processes may share the rest."""


BATCH = 4
"""Tiles that run together where nothing else is said. One of 366 px already fills a
GPU; more hide the launching, fewer shorten the first and last copy of a block."""


ROOM = 2
"""How much more than its tensors a batch takes: workspaces of the convolutions, the
other slot's images and results, and what lies between blocks of the allocator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A network on a GPU, run in one arithmetic, with images channels last."""

    network: Any
    """The network itself, or a function of tensors."""

    run: Run
    """What of it is run."""

    precision: str = "float32"
    """Arithmetic; for "bf16" the network was lowered before."""

    def __call__(self, *images: torch.Tensor) -> torch.Tensor:
        """Return what `run` gives of one ``(B, C, h, w)`` a band group."""
        last = [i.contiguous(memory_format=torch.channels_last) for i in images]
        with arithmetic(self.precision):
            return self.run(*last)


def settle(network: Any, device: str) -> None:  # noqa: ANN401 - a module or function
    """Lay the weights of a network out channels last, and wait until they lie there."""
    if isinstance(network, torch.nn.Module):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.cuda.synchronize(device)


@functools.lru_cache(maxsize=64)
def tile_bytes(
    network: Any,  # noqa: ANN401 - a module, or any function of tensors
    spec: ModelSpec,
    tile: tuple[int, int],
) -> int | None:
    """Return the bytes of the tensors that a tile of `tile` cells takes at once.

    None, with a warning, for a network that does not run on tensors without pixels.
    """
    try:
        return cost_of(_ghost(network), spec, tile).activations
    except (NotImplementedError, RuntimeError) as error:
        warnings.warn(
            f"What {spec.name} takes of a GPU is not known beforehand "
            f"({first_line(error)}): its tiles run one by one. Make its forward() run "
            "on meta tensors.",
            S2SRWarning,
            stacklevel=2,
        )
        return None


def _ghost(network: Any) -> Any:  # noqa: ANN401
    """Return a copy of a network without its numbers, for `cost_of` to use up."""
    if not isinstance(network, torch.nn.Module):
        return network
    tensors = (*network.parameters(), *network.buffers())
    empty: dict[int, Any] = {}
    for t in tensors:
        bare = t.detach().to("meta")
        is_weight = isinstance(t, torch.nn.Parameter)
        empty[id(t)] = torch.nn.Parameter(bare, False) if is_weight else bare
    return copy.deepcopy(network, empty)


def batch_size(port: Port, per_tile: int | None, ceiling: int | None) -> int:
    """Return how many tiles run together: what is free now, and shared, allows.

    Parameters
    ----------
    port
        The GPU.
    per_tile
        Bytes of the tensors of one tile; None where they are not known.
    ceiling
        What the user allows; None: `BATCH`.
    """
    if per_tile is None:
        return 1
    room = min(port.free(), MEMORY - port.held())
    return max(1, min(ceiling or BATCH, room // max(1, ROOM * per_tile)))
