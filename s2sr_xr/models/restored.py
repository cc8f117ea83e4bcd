"""The models that are given the sensor: their facts, and how to build them.

As in `s2sr_xr.models.published`: facts only, torch is imported when a network is built.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from s2sr_xr.models.spec import BandGroup, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

__all__ = ["SIXTY", "TRAINED", "TWENTY", "restored", "through_the_sensor"]

R10 = ("B02", "B03", "B04", "B08")
R20 = ("B05", "B06", "B07", "B8A", "B11", "B12")
R60 = ("B01", "B09")

TWENTY = (8.5, 8.5, 8.5, 8.5, 10.5, 10.5)
"""Metres that a 20 m pixel sees beside one of 10 m: measured on 30 land scenes for B05
to B8A, between what was measured and what the MTF says for B11 and B12."""

SIXTY = (27.8, 25.1)
"""Metres that a 60 m pixel sees beside one of 10 m, by the MTF in `core.bands`."""

FEATURES, BLOCKS = 48, (3, 3)
"""Of the network that is shipped."""


TRAINED = {"B05": (7.2, 10.0), "B11": (9.0, 14.0)}
"""Metres that the network has learnt from: those of B05 to B8A, and of B11 and B12."""

_20M: dict[str, Any] = {
    "cell": 20,
    "inputs": (BandGroup(names=R10, per_cell=2), BandGroup(names=R20, per_cell=1)),
    "output": BandGroup(names=R20, per_cell=2),
    "tile": 183,
    "sensor": R20,
}
_60M: dict[str, Any] = {
    "cell": 60,
    "inputs": (
        BandGroup(names=R10, per_cell=6),
        BandGroup(names=R20, per_cell=3),
        BandGroup(names=R60, per_cell=1),
    ),
    "output": BandGroup(names=R60, per_cell=6),
    "tile": 61,
    "sensor": (*R20, *R60),
    "margin": 18,
    "title": "Regression through the sensor: 60 m bands at 10 m",
    "trained": False,
}


def through_the_sensor() -> list[tuple[ModelSpec, Callable[..., nn.Module]]]:
    """Return the facts of each model without weights, and a function that builds it.

    What is built sees through the widths above until its `set_widths` is called.
    """
    first = ModelSpec(
        name="psf-regression-20m",
        title="Regression through the sensor: 20 m bands at 10 m",
        margin=17,
        trained=False,
        **_20M,
    )
    return [
        (first, functools.partial(_ready, _twenty, blocks=())),
        *(
            (ModelSpec(name=name, **_60M), functools.partial(_ready, _sixty))
            for name in ("psf-regression-60m", "restored-60m")
        ),
    ]


def restored() -> list[tuple[ModelSpec, Callable[..., nn.Module]]]:
    """Return the facts of the network that learns, and a function that builds it."""
    spec = ModelSpec(
        name="restored-20m",
        title="Network that is given the sensor: 20 m bands at 10 m",
        margin=35,
        **_20M,
    )
    return [(spec, functools.partial(_ready, _twenty, blocks=BLOCKS))]


def _ready(build: Callable[..., nn.Module], **options: Any) -> nn.Module:  # noqa: ANN401
    import torch

    return build(**options).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _twenty(**options: Any) -> nn.Module:  # noqa: ANN401
    from s2sr_xr.models.networks.unrolled import Unrolled

    inputs = ((len(R10), 1), (len(R20), 2))
    learnt = [TRAINED["B05"]] * 4 + [TRAINED["B11"]] * 2
    return Unrolled(
        inputs,
        width=TWENTY,
        groups=(4, 2),
        learnt=learnt,
        **{"features": FEATURES} | options,
    )


def _sixty() -> nn.Module:
    from s2sr_xr.models.networks.cascade import Cascade
    from s2sr_xr.models.networks.unrolled import Unrolled

    inputs = ((len(R10), 1), (len(R20), 2))
    first = Unrolled(inputs, width=TWENTY, groups=(4, 2), blocks=())
    return Cascade(first, width=SIXTY)
