"""What a model is: plain facts, no torch, no pixels."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - headers are read by the types
from dataclasses import dataclass, field
from typing import Any

from s2sr_xr.core.tiling import REACH
from s2sr_xr.core.token_parts import field_parts
from s2sr_xr.errors import ModelError

__all__ = ["BandGroup", "ModelSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BandGroup:
    """Bands that share one pixel grid."""

    names: tuple[str, ...]
    """ESA identifiers, in channel order."""

    per_cell: int
    """Pixels along the side of a cell."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return field_parts("band-group", 1, self)

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ModelError(f"A band group needs distinct names, got {self.names!r}")
        if self.per_cell < 1:
            raise ModelError(
                f"per_cell counts pixels, so it is at least 1; got {self.per_cell}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The facts of one model: what it takes, what it gives, how far it looks."""

    name: str
    """Registry name."""

    title: str
    """One line for people."""

    cell: int
    """Side of a cell, in metres: the footprint of the coarsest input pixel."""

    inputs: tuple[BandGroup, ...]
    """What the model takes: one image a group, finest pixels first."""

    output: BandGroup
    """What the model gives."""

    margin: int
    """How far the model looks beyond what it writes, in whole cells."""

    tile: int
    """Side of what the model writes at once, in cells."""

    also: tuple[str, ...] = ()
    """What it gives besides the bands of `output`, in the channels after them: the flow
    of a registration."""

    exact: bool = True
    """Whether an output depends only on what lies within the margin. A model that
    pools or normalises over all it sees is not exact: its tile and halo define it."""

    trained: bool = True
    """Whether it has weights that must be learnt; interpolation has none."""

    per_band: bool = False
    """Whether each band is made from itself alone, so that any subset works."""

    align: int = 1
    """Tile and margins together are a multiple of this many cells (for strides)."""

    units: str = "1"
    """What its pixels count, in and out: reflectance, or ``"count"`` for L1B."""

    levels: tuple[str, ...] = ()
    """Processing levels it was trained on; empty: it was not trained."""

    sensor: tuple[str, ...] = ()
    """Bands whose point spread function it is given, group by group; empty: none."""

    fill: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Mean of each band in training, in physical units: stands in for missing pixels
    with no valid one in reach."""

    sha256: str | None = None
    """Hex digest of the weights file; None: the model has no weights."""

    licence: str = "Apache-2.0"
    """SPDX identifier of the weights."""

    citation: str = ""
    """What to cite."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return field_parts("model-spec", 1, self)

    def __post_init__(self) -> None:
        names = [n for g in self.inputs for n in g.names]
        if not names or len(set(names)) != len(names):
            raise ModelError(f"{self.name}: inputs need distinct bands, got {names}")
        if unknown := [n for n in self.output.names if n not in names]:
            raise ModelError(
                f"{self.name}: gives {', '.join(unknown)}, which it does not take"
            )
        if min(g.per_cell for g in self.inputs) != 1:
            raise ModelError(
                f"{self.name}: a cell is the coarsest input pixel, so one input group "
                f"has per_cell=1; got {[g.per_cell for g in self.inputs]}"
            )
        if self.margin < 0 or self.tile < 1 or self.align < 1:
            raise ModelError(
                f"{self.name}: needs margin >= 0, tile >= 1 and align >= 1; got "
                f"{self.margin}, {self.tile} and {self.align}"
            )
        if (self.tile + 2 * self.margin) % self.align:
            raise ModelError(
                f"{self.name}: tile + 2 margin = {self.tile + 2 * self.margin} cells "
                f"is not a multiple of align = {self.align}"
            )

    @property
    def channels(self) -> tuple[str, ...]:
        """What the channels of its output are."""
        return self.output.names + self.also

    @property
    def halo(self) -> int:
        """How far is read beyond what is written, in cells."""
        return self.margin + REACH

    @property
    def resolution(self) -> float:
        """Side of an output pixel, in metres."""
        return self.cell / self.output.per_cell

    @property
    def bands(self) -> tuple[str, ...]:
        """Every band the model takes, in channel order."""
        return tuple(n for g in self.inputs for n in g.names)

    @property
    def flat(self) -> tuple[float, ...]:
        """What `fill` says of every band, 0 where nothing, in channel order."""
        return tuple(self.fill.get(band, 0.0) for band in self.bands)

    @property
    def factors(self) -> tuple[tuple[int, int], ...]:
        """Bands of each input group, and how many times finer it becomes on the finest.

        What a network is built with.
        """
        finest = self.inputs[0].per_cell
        return tuple((len(g.names), finest // g.per_cell) for g in self.inputs)

    def per_cell(self, band: str) -> int:
        """Return the pixels of `band` along the side of a cell."""
        return next(g.per_cell for g in self.inputs if band in g.names)
