"""Models without weights, that every network is compared with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from s2sr_xr.core.bands import by_resolution
from s2sr_xr.models.published import build_later, published
from s2sr_xr.models.spec import BandGroup, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

__all__ = ["untrained"]


def untrained() -> Iterator[tuple[ModelSpec, Callable[..., nn.Module]]]:
    """Yield the facts of each model, and a function that builds it.

    Interpolation makes each band finer by itself: ``bicubic`` is Keys' kernel with
    a = -0.75 (torch's, harder to beat than MATLAB's -0.5). Local regression learns from
    the finer bands of the scene.
    """
    yield from _interpolations()
    yield from _regressions()


def _interpolations() -> Iterator[tuple[ModelSpec, Callable[..., nn.Module]]]:
    for kernel, margin in (("bicubic", 2), ("nearest", 0)):
        for metres in (20, 60):
            names, factor = by_resolution(metres), metres // 10
            spec = ModelSpec(
                name=f"{kernel}-{metres}m",
                title=f"{kernel} interpolation of each {metres} m band to 10 m",
                cell=metres,
                inputs=(BandGroup(names=names, per_cell=1),),
                output=BandGroup(names=names, per_cell=factor),
                margin=margin,
                tile=366 // factor,
                per_band=True,
                trained=False,
            )
            yield spec, build_later("resample:Upsample", factor=factor, kernel=kernel)


def _regressions() -> Iterator[tuple[ModelSpec, Callable[..., nn.Module]]]:
    known = {spec.name: spec for spec, _ in published()}
    for like in ("dsen2-20m", "dsen2-60m"):
        spec = replace(
            known[like],
            name=like.replace("dsen2", "regression"),
            title="Local regression on the finer bands, to 10 m",
            margin=4,
            levels=(),
            licence="Apache-2.0",
            citation="",
            trained=False,
        )
        yield spec, build_later("regression:Regression", inputs=spec.factors)
