"""A network of a user's own, held to what its specification says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from s2sr_xr.errors import ModelError
from s2sr_xr.models.receptive_field import measure_margin

if TYPE_CHECKING:
    from s2sr_xr.models.spec import ModelSpec

__all__ = ["check_network"]


def check_network(network: Any, spec: ModelSpec) -> None:  # noqa: ANN401
    """Raise a ModelError unless a network gives what its specification says.

    The margin of an exact model must cover what it looks at.
    """
    if spec.exact:
        reach = measure_margin(network, spec)
        if reach > spec.margin:
            raise ModelError(
                f"{spec.name} looks {reach} cells far, but its spec says margin="
                f"{spec.margin}: its tiles would show seams. Set margin={reach}."
            )
    _check_shapes(network, spec)


def _check_shapes(network: Any, spec: ModelSpec) -> None:  # noqa: ANN401
    """Raise unless a small tile with its margin gives what the facts say."""
    tile = 1 + -(1 + 2 * spec.margin) % spec.align
    side = tile + 2 * spec.margin
    sizes = [(1, len(g.names), *[side * g.per_cell] * 2) for g in spec.inputs]
    try:
        with torch.inference_mode():
            made = tuple(network(*map(torch.rand, sizes)).shape)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{spec.name} does not run on images of {sizes}, which its spec says it "
            f"takes: {error}"
        ) from error
    k, bands = spec.output.per_cell, len(spec.output.names)
    excess = [n - tile * k for n in made[2:]]
    if len(made) != 4 or made[:2] != (1, bands) or any(e < 0 or e % 2 for e in excess):
        raise ModelError(
            f"{spec.name} gave {made} where its spec says {(1, bands, *[tile * k] * 2)}"
            f" or the same with its margin, from {sizes}."
        )
