"""Recipes of training, one a file, all with the same four functions.

``settings(job)``
    The checked settings of a job, a frozen dataclass.
``data(job, settings)``
    Its scenes, opened, as `s2sr_xr.train.training.Data`.
``network(settings, build)``
    The network as training begins.
``steps(settings, network, data, files)``
    The training itself: a `Step` for each batch.

`RECIPES` lists them. A recipe is imported when it is used, and imports what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RECIPES", "Entry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known of a recipe before it is imported."""

    module: str
    """Its file in this folder."""

    network: str
    """The network that it trains."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from those of its dataclass."""

    finer: bool = False
    """Whether it can learn from images of a finer sensor."""

    chooses: bool = False
    """Whether it keeps the best network that it passes, not the last."""


_MUON = {"optimiser": "muon"}
_SMALL = {"steps": 1500, "side": 7, "edge": 12, "lr": 1e-3}
_CSR = {"steps": 1200, "lr": 2e-3, "side": 96, "batch": 4, "task": "supervised"}
_REC = {"steps": 5000, "lr": 2e-3, "side": 32, "batch": 12, "task": "supervised"}
_PRETRAIN = {"steps": 20_000, "lr": 2e-4, "side": 32, "batch": 16}
_GAN = {"steps": 4000, "lr": 1e-4, "side": 32, "first": "carn-s"}
_PAIRS = {"steps": 1500, "lr": 3e-4, "side": 32, "first": "carn-s"}

RECIPES: Mapping[str, Entry] = MappingProxyType(
    {
        "dsen2-20m": Entry(
            module="dsen2", network="dsen2-s-20m", defaults={"steps": 5000}
        ),
        "dsen2-60m": Entry(
            module="dsen2", network="dsen2-s-60m", defaults=_SMALL | _MUON
        ),
        "csr": Entry(
            module="csr", network="csr-s", defaults=_CSR | {"sensor": {"phase": 0.5}}
        ),
        "rec": Entry(
            module="rec",
            network="rec-s",
            defaults=_REC | _MUON | {"sensor": {"phase": 0.5, "apart": 1.0}},
        ),
        "restoration": Entry(
            module="restoration",
            network="carn-s",
            defaults={"steps": 2700, "lr": 1e-3, "odd": 0.25},
            finer=True,
        ),
        "evoland-pretrain": Entry(
            module="evoland_pretrain", network="carn-s", defaults=_PRETRAIN, finer=True
        ),
        "evoland-gan": Entry(
            module="evoland_gan",
            network="carn-s",
            defaults=_GAN,
            finer=True,
            chooses=True,
        ),
        "pairs": Entry(module="pairs", network="carn-s", defaults=_PAIRS, finer=True),
    }
)
"""Recipes by name. Their defaults are the settings of the shipped weights, of one stage
where there were several: the last of `csr`, the first of others (the cards list all).
No shipped weights were made with the last three; their defaults are the published
settings, with fewer steps."""
