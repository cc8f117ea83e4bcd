"""What a training is asked for, what it learns from, and the files it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s2sr_xr.models.published import published
from s2sr_xr.train.recipes import RECIPES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

    from s2sr_xr.models.spec import ModelSpec
    from s2sr_xr.train.checkpoint import Best
    from s2sr_xr.train.recipes import Entry

__all__ = ["Data", "Files", "Finer", "Training"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finer:
    """A raster of a finer sensor, for `reference_image.open_finer`."""

    path: str
    """Anything that rasterio opens; empty: the scene has no finer image."""

    bands: tuple[str, ...] = ()
    """Names of its bands; empty: as its band descriptions say."""

    scale: float | None = None
    """Reflectance of one count; None: as its metadata says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a TOML file asks for."""

    recipe: str
    """One of `RECIPES`."""

    scenes: tuple[str, ...]
    """What `s2sr_xr.readers.any.open_any` opens."""

    out: Path
    """A ``.safetensors`` file that does not exist yet."""

    settings: Mapping[str, Any]
    """Settings of the recipe that differ from its defaults."""

    finer: tuple[Finer, ...] = ()
    """One for each scene, or empty."""

    held: tuple[str, ...] = ()
    """As `scenes`: held-out scenes that a generator is judged by."""

    @property
    def entry(self) -> Entry:
        """What is known of the recipe."""
        return RECIPES[self.recipe]

    @property
    def published(self) -> tuple[ModelSpec, Callable[..., nn.Module]]:
        """The network that is trained: its facts, and how it is built."""
        return next(p for p in published() if p[0].name == self.entry.network)

    @property
    def spec(self) -> ModelSpec:
        """The facts of the network that is trained."""
        return self.published[0]

    @property
    def best(self) -> Path:
        """Where the best generator so far is written, while one is chosen."""
        return self.out.with_suffix(".best.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What a network learns from."""

    source: Any
    """Scenes or batches, as the recipe's `steps` takes them."""

    names: tuple[str, ...]
    """Names of the scenes: a checkpoint of others is refused."""

    levels: tuple[str, ...]
    """Processing levels of the scenes."""

    fill: Mapping[str, float]
    """Mean of each band, which stands in for missing pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What a training writes while it runs."""

    checkpoint: Path
    """What it resumes from."""

    log: Path
    """A CSV file with one row for each step."""

    best: Best | None = None
    """The best network so far, where the recipe chooses one."""
