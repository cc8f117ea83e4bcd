"""What a batch is made of: items, the stores of each, and the rules for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from s2sr_xr.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import xarray as xr

    from s2sr_xr.output.zarr import Layout

__all__ = ["Piece", "Result", "Rules"]


@dataclass(frozen=True, slots=True)
class Result:
    """One store to be made."""

    id: str
    """What it is called in reports."""

    store: str
    """Where it goes."""

    ds: xr.Dataset
    """The lazy result."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One item of a job."""

    id: str
    """What it is called in reports."""

    make: Callable[[], Iterable[Result]]
    """Opens it, and returns what is to be made of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a job deals with what is there, and with what fails."""

    resume: bool = True
    """Whether to resume stores that are there; False refuses them."""

    retries: int = 2
    """How often a block that may succeed is tried again."""

    on_error: Literal["continue", "raise"] = "continue"
    """Whether other items go on when one fails."""

    layout: Layout = "plain"
    """How blocks lie in a store."""

    def __post_init__(self) -> None:
        if self.layout not in ("plain", "sharded"):
            raise StoreError(f'layout is "plain" or "sharded", got {self.layout!r}.')
        if self.on_error not in ("continue", "raise"):
            raise StoreError(
                f'on_error is "continue" or "raise", got {self.on_error!r}.'
            )
