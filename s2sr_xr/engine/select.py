"""Which networks make which bands of a scene."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from s2sr_xr.core.bands import BANDS, canonical
from s2sr_xr.errors import GridError, MissingBandError, ModelError
from s2sr_xr.models.registry import family, get_spec, has_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from s2sr_xr.core.scene import Scene

__all__ = ["for_registration", "for_superresolution", "for_upsampling", "wanted_bands"]


CIRRUS = "B10"
"""No network is trained on it: it is interpolated, and only when asked for by name."""


def wanted_bands(scene: Scene, bands: Sequence[str] | None) -> tuple[str, ...]:
    """Return the bands to make finer, in instrument order: those asked for, or all.

    Raises
    ------
    MissingBandError
        A band is not in the scene, or none is coarser than 10 m.
    GridError
        A band is already at 10 m.
    """
    coarse = [b for b in scene.planes if BANDS[b].native > 10 and b != CIRRUS]
    if bands is None:
        if not coarse:
            raise MissingBandError(
                f"The data have {', '.join(scene.planes)}, all at 10 m: there is "
                "nothing to bring to 10 m. Load 20 m or 60 m bands too."
            )
        return tuple(b for b in BANDS if b in coarse)
    names = _names(bands)
    for name in names:
        if name not in scene.planes:
            raise MissingBandError(
                f"The data do not have {name}{_closest(name, scene.planes)}; they have "
                f"{', '.join(scene.planes)}.",
                band=name,
            )
        if BANDS[name].native == 10:
            raise GridError(
                f"{name} is already at 10 m; keep_native=True keeps it in the result.",
                band=name,
            )
    return tuple(b for b in BANDS if b in names)


def _names(bands: Iterable[str]) -> list[str]:
    """Return ESA's identifiers for names that a user gives."""
    if isinstance(bands, str):
        raise MissingBandError(f"bands is a list of names: bands=[{bands!r}].")
    if not np.iterable(bands):
        raise MissingBandError(f"bands is a list of names; got {bands!r}.")
    bands = [str(b) if isinstance(b, str) else b for b in bands]
    if not bands or not all(isinstance(b, str) for b in bands):
        raise MissingBandError(
            f"bands={bands!r} names no band; give names such as ['B11'], or None "
            "for all."
        )
    return [canonical(b) or b for b in bands]


def _closest(name: str, have: Mapping[str, object]) -> str:
    close = get_close_matches(name.upper(), list(have), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def models_by_native(
    model: str | os.PathLike[str] | Mapping[str, str],
) -> dict[str, str]:
    """Return the models that bring bands to 10 m, by native pixel (``"20m"``).

    Raises
    ------
    ModelError
        No such model, or one that makes other pixels.
    """
    if isinstance(model, str | os.PathLike):
        by_native = family(model)
    elif isinstance(model, Mapping):
        by_native = {k: v for k, v in model.items() if v is not None}
    else:
        raise ModelError(f"model={model!r} is not a name, a file or a mapping of them.")
    if strange := set(by_native) - {"20m", "60m"}:
        raise ModelError(
            f"{model!r} makes bands of {', '.join(sorted(strange))} finer; upsample "
            "those of 20 m and 60 m. It takes a name, or a mapping such as "
            '{"20m": "bicubic-20m", "60m": "bicubic-60m"}.'
        )
    for name in by_native.values():
        if (pixel := get_spec(name).resolution) != 10:
            raise ModelError(
                f"{name} makes pixels of {pixel:g} m, and upsample those of 10 m. Call "
                f'superresolve(model="{name}").'
            )
    return by_native


def for_upsampling(
    model: str | os.PathLike[str] | Mapping[str, str], wanted: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return, for each model that runs to bring bands to 10 m, those it makes.

    Raises
    ------
    ModelError
        No such model, none for a band, or one that makes other pixels.
    """
    by_native = models_by_native(model)
    chosen: dict[str, tuple[str, ...]] = {}
    for band in wanted:
        native = BANDS[band].native
        own = by_native.get(f"{native}m")
        if own is None or band not in get_spec(own).output.names:
            if band != CIRRUS:
                raise ModelError(
                    f"{model!r} has no network for {band}. Leave it out (bands=[...]), "
                    "or name one for each pixel size: "
                    f"model={by_native | {f'{native}m': f'bicubic-{native}m'}}.",
                    band=band,
                )
            own = "bicubic-60m"
        chosen[own] = (*chosen.get(own, ()), band)
    return chosen


FIVE_METRES = {"1": ("carn-s", "carn", "rrdb"), "count": ("rec-s", "rec")}
"""Networks that bring bands to 5 m, in the order in which they are preferred: of
reflectance, and of the counts of L1B."""

REGISTRATION = ("csr-s", "csr")
"""Networks that align the bands of L1B, in the order in which they are preferred."""


def for_superresolution(
    model: str | os.PathLike[str] | None,
    bands: Sequence[str] | None,
    *,
    units: str = "1",
) -> dict[str, tuple[str, ...]]:
    """Return the model that makes bands finer than 10 m, and which it makes.

    None stands for the first network of pixels of `units` whose weights are there.

    Raises
    ------
    ModelError
        No such model, or no weights of any.
    MissingBandError
        The model does not make a band.
    """
    model = os.fspath(model or _ready(FIVE_METRES[units]))
    makes = get_spec(model).output.names
    asked = makes if bands is None else tuple(_names(bands))
    if strange := [b for b in asked if b not in makes]:
        raise MissingBandError(
            f"{model} does not make {', '.join(strange)}; it makes {', '.join(makes)}."
        )
    return {model: tuple(b for b in makes if b in asked)}


def for_registration(
    model: str | os.PathLike[str] | None, reference: str, *, flow: bool
) -> tuple[dict[str, tuple[str, ...]], str]:
    """Return the model that aligns bands and what it makes, and the band they lie on.

    Raises
    ------
    ModelError
        No such model, no weights of any, or one that does not register.
    MissingBandError
        The model does not take the reference.
    """
    model = os.fspath(model or _ready(REGISTRATION))
    spec = get_spec(model)
    if not spec.also:
        raise ModelError(
            f"{model} gives no flow: it does not register. Choose one of "
            f"{', '.join(REGISTRATION)}, or the path of such weights."
        )
    (anchor,) = _names([reference])
    if anchor not in spec.bands:
        raise MissingBandError(
            f"reference={reference!r} is not a band that {model} takes; it takes "
            f"{', '.join(spec.bands)}."
        )
    flows = (n for n in spec.also if not n.endswith(anchor))
    return {model: (*spec.output.names, *(flows if flow else ()))}, anchor


def _ready(names: Sequence[str]) -> str:
    """Return the first model that has weights."""
    found = next(filter(has_weights, names), None)
    if found is None:
        raise ModelError(
            f"No weights of {', '.join(names)} are shipped. Give model=, the path of a "
            ".safetensors file that training or s2sr_xr.import_checkpoint made."
        )
    return found
