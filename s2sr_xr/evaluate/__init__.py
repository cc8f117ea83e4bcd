"""How good a result is, and how it looks: tables of scores, and pictures.

=================  =====================================================================
`score_scene`      models one scale below a scene, whose pixels are the reference
`score`            a result against a reference
`compare`          several results over the pixels that all of them have
`relative_rmse`    one number for a scene: RMSE over that of bicubic
`psnr_gain`        the same in dB
`table`            scores as text
`measure`          what a result keeps, gains and costs, without a reference
`fidelity_table`   the same as text
`fidelity_page`    the same as a picture
`before_after`     a picture of the scene before and after
`metrics`          functions of two arrays: RMSE, SRE, PSNR, SAM, UIQ, SSIM
=================  =====================================================================

Each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from s2sr_xr.evaluate import metrics

if TYPE_CHECKING:
    from s2sr_xr.evaluate.fidelity.measure import Fidelity, measure
    from s2sr_xr.evaluate.fidelity.page import fidelity_page, fidelity_table
    from s2sr_xr.evaluate.figures import before_after
    from s2sr_xr.evaluate.reduced_resolution import score_scene
    from s2sr_xr.evaluate.scores import (
        Row,
        Scores,
        compare,
        psnr_gain,
        relative_rmse,
        score,
        table,
    )

__all__ = [
    "Fidelity",
    "Row",
    "Scores",
    "before_after",
    "compare",
    "fidelity_page",
    "fidelity_table",
    "measure",
    "metrics",
    "psnr_gain",
    "relative_rmse",
    "score",
    "score_scene",
    "table",
]

_HOMES = {
    "fidelity.measure": ("Fidelity", "measure"),
    "fidelity.page": ("fidelity_page", "fidelity_table"),
    "figures": ("before_after",),
    "reduced_resolution": ("score_scene",),
    "scores": (
        *("Row", "Scores", "compare", "psnr_gain", "relative_rmse", "score", "table"),
    ),
}
"""Modules of this package, and the names that they hold."""


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Return a public name from the module that holds it."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*__all__, "__all__", "__doc__", "__file__"])
