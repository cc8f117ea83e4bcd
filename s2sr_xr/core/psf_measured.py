"""The point spread of a scene's coarse bands, measured on the scene itself.

Land has edges that all bands share. Where the 10 m bands, seen through a width, explain
a coarse band to the noise, that width is the band's (`psf_fit`). A band that they
explain badly seems wider than it is: less of its finest detail is theirs. How much, the
scene tells itself one scale up, where widths are known: the coarse band is degraded
once more, by the width that was found, and measured again beside the 10 m bands as its
own sensor sees them. What comes out too wide there is taken away here, as far as the
scene is large enough to tell it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from s2sr_xr.core.bands import BANDS, by_resolution, canonical
from s2sr_xr.core.psf import sensor_width, supported, unit_of
from s2sr_xr.core.psf_fit import NOTHING, Chip, Fit, fit_width
from s2sr_xr.core.psf_noise import noise_of
from s2sr_xr.core.psf_parts import FINE, LEAST, read_parts
from s2sr_xr.core.psf_seen import seen
from s2sr_xr.core.scene import scene_of
from s2sr_xr.errors import GridError, MissingBandError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from s2sr_xr.core.psf_parts import Part
    from s2sr_xr.core.scene import Object, Scene

    Place = tuple[int, ...]

__all__ = ["measure_psf"]

GUESS = 0.4
"""How far a width may be off, in fine pixels, for a misfit of 1."""

SURE = 0.004
"""Fine pixels by which a width is off where all is explained."""

SCATTER = 4.0
"""Fine pixels by which a scene of one coarse pixel, one scale up, is off: falls with
the root of their number."""

DULL, STRANGE, APART, VAGUE = 5.0, 0.45, 1.0, 0.12
"""Beyond these a band cannot be measured: contrast beside noise, misfit, shift in fine
pixels, standard error in halves of a native pixel."""

SHARP = 1.2
"""A width nearer to that of the pixel alone is not a sensor's: rather holes that are
not marked as missing."""

NO_PIXELS = "there are too few valid pixels"
CLOUD = "its edges lie more than 10 m beside those of the 10 m bands (cloud, waves)"
SIGMA = {"units": "m", "long_name": "width of point spread and pixel"}


def measure_psf(obj: Object, *, bands: Sequence[str] | None = None) -> xr.Dataset:
    """Return the width of each coarse band's point spread, measured on the scene.

    A few parts of the scene are read, whatever its size: land with fields, roads or
    houses is needed. The result is taken as ``psf=`` by `upsample`.

    Parameters
    ----------
    obj
        As `upsample` takes it: a tree with groups ``r10m``, ``r20m``, ``r60m``, or a
        Dataset on one 10 m grid; float reflectance, NaN where nothing was recorded.
    bands
        Which bands to measure; None: all of 20 m and 60 m, except B10.

    Returns
    -------
    xr.Dataset
        ``sigma(band)`` and ``stderr(band)`` in metres: standard deviation of what a
        pixel sees, the pixel included, beside the 10 m bands, and its standard error.
        NaN where a band cannot be measured here; ``sigma.attrs["not_measurable"]``
        says why.

    Raises
    ------
    MissingBandError
        A band that is asked for is not there, or has pixels of 10 m; fewer than two
        bands of 10 m, or none coarser.
    GridError
        The scene is too small, its grids do not nest, or no band can be measured: sea,
        cloud, nothing but noise.
    RadiometryError
        The pixels are not float reflectance.
    """
    scene = scene_of(obj)
    fine, asked = _chosen(scene, bands)
    told: dict[str, Fit | str] = {}
    cloudy: set[Place] = set()
    for native in (20, 60):
        # All of them: the bands that are explained best tell of the others, and those
        # of 20 m where there is cloud.
        there = [b for b in by_resolution(native) if b in scene.planes and b != "B10"]
        if there and (native == 20 or any(b in asked for b in there)):
            told |= _found(scene, fine, there, cloudy)
    return _dataset({b: told[b] for b in asked}, fine)


def _chosen(scene: Scene, bands: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the 10 m bands, and those to measure, in the order of the instrument."""
    have = sorted(scene.planes)
    fine = [b for b in by_resolution(FINE) if b in scene.planes]
    coarse = [b for b in BANDS if b in scene.planes and b not in fine and b != "B10"]
    if len(fine) < 2:
        raise MissingBandError(
            "A width is measured beside two or more of "
            f"{', '.join(by_resolution(FINE))}; the data have {', '.join(have)}. Load "
            'them, or take psf="sensor".'
        )
    if not coarse:
        raise MissingBandError(
            f"The data have {', '.join(have)}: there is no band of 20 m or 60 m to "
            "measure."
        )
    if bands is None:
        return fine, coarse
    named = [bands] if isinstance(bands, str) else list(bands)
    asked = {b: canonical(str(b)) for b in named}
    wrong = [str(b) for b, name in asked.items() if name not in coarse]
    if wrong or not asked:
        raise MissingBandError(
            f"{', '.join(wrong) or 'No band'} cannot be measured: the data have "
            f"{', '.join(coarse)} of 20 m and 60 m."
        )
    return fine, [b for b in BANDS if b in asked.values()]


# --- measuring ------------------------------------------------------------------------


def _found(
    scene: Scene, fine: Sequence[str], bands: Sequence[str], cloudy: set[Place]
) -> dict[str, Fit | str]:
    """Return what is found of bands of one pixel size, or why nothing is.

    `cloudy` places are left out, and those that are found to be so are added.
    """
    factor = BANDS[bands[0]].native // FINE
    read = read_parts(scene, fine, bands)
    if not read:
        return dict.fromkeys(bands, _too_small(bands))
    parts = [p for p in read if p.place not in cloudy]
    noise = {p.place: noise_of(p.fine) for p in parts}
    parts = [p for p in parts if np.isfinite(noise[p.place]).all()]
    unit = unit_of(str(scene.attrs.get("platform", "")))

    def fits(names: Sequence[str]) -> dict[str, Fit]:
        chips = {
            b: [Chip(p.fine, p.coarse[b], factor, noise[p.place]) for p in parts]
            for b in names
        }
        return {b: fit_width(c, sensor_width(b, unit) / FINE) for b, c in chips.items()}

    if not parts:
        return dict.fromkeys(bands, CLOUD if cloudy else NO_PIXELS)
    found = fits(bands)
    apart = {
        p.place
        for n, p in enumerate(parts)
        for f in found.values()
        if f.shifts and f.shifts[n] > APART and f.contrast > DULL
    }
    if apart:  # cloud lies elsewhere in each band
        cloudy |= apart
        parts = [p for p in parts if p.place not in apart]
        if not parts:
            return dict.fromkeys(bands, CLOUD)
        found = fits(bands)
    calibrated = _calibrated(found, parts) if factor == 2 else _all_doubtful(found)
    return {b: _reason(f, factor * FINE) or f for b, f in calibrated.items()}


def _all_doubtful(found: Mapping[str, Fit]) -> dict[str, Fit]:
    return {b: _doubtful(f, GUESS * f.misfit) for b, f in found.items()}


def _doubtful(fit: Fit, doubt: float) -> Fit:
    """Return a fit whose standard error has what a misfit may do to the width."""
    return replace(fit, stderr=math.hypot(fit.stderr, doubt, SURE))


def _calibrated(found: Mapping[str, Fit], parts: Sequence[Part]) -> dict[str, Fit]:
    """Return fits without what the misfit adds to the width, told one scale up.

    What all bands have in common there is the shape of the point spread, which is not
    quite a Gaussian's; what a band has beside it is the misfit's.
    """
    above = {b: _one_scale_up(b, f.width, parts) for b, f in found.items()}
    wide = {
        b: above[b].width ** 2 - f.width**2
        for b, f in found.items()
        if np.isfinite(above[b].width)
    }
    if not wide:
        return _all_doubtful(found)
    trust = [above[b].stderr ** -2 for b in wide]
    shape = float(np.average(list(wide.values()), weights=trust))
    count = sum(next(iter(p.coarse.values())).size for p in parts) / 4
    made = {}
    for band, fit in found.items():
        doubt = GUESS * fit.misfit
        if band not in wide:
            made[band] = _doubtful(fit, doubt)
            continue
        seen_doubt = math.hypot(above[band].stderr, SCATTER / math.sqrt(count))
        share = doubt**2 / (doubt**2 + seen_doubt**2)
        square = fit.width**2 - share * (wide[band] - shape)
        calibrated = replace(fit, width=math.sqrt(max(square, 0.25)))
        made[band] = _doubtful(calibrated, doubt * math.sqrt(1 - share))
    return made


def _one_scale_up(band: str, width: float, parts: Sequence[Part]) -> Fit:
    """Return what is measured of a band that is degraded by a width that is known."""
    chips = []
    for part in parts if np.isfinite(width) else ():
        rows, cols = (n // 2 * 2 for n in part.coarse[band].shape)
        fine = seen(part.fine, width, 2)[:, :rows, :cols]
        coarse = seen(part.coarse[band][:rows, :cols], width, 2)
        noise = noise_of(fine)
        if np.isfinite(noise).all():
            chips.append(Chip(fine, coarse, 2, noise))
    return fit_width(chips, width, stride=1) if chips else NOTHING


# --- telling --------------------------------------------------------------------------


def _too_small(bands: Sequence[str]) -> str:
    side = LEAST * BANDS[bands[0]].native
    return f"the scene is too small: it needs {side} x {side} m"


def _reason(fit: Fit, native: int) -> str | None:
    """Return why a band cannot be measured, None where it can."""
    if not math.isfinite(fit.width):
        return NO_PIXELS
    if fit.contrast < DULL:
        return "nothing here is sharper than the noise (sea, haze)"
    if fit.shift > APART:
        return CLOUD
    if fit.misfit > STRANGE:
        return "the 10 m bands do not show what it shows"
    least, most = (x / FINE for x in supported(native))
    if fit.stderr > VAGUE * native / 20 or not SHARP * least < fit.width < most:
        return (
            f"it comes out as {fit.width * FINE:.1f} m, with a standard error of "
            f"{fit.stderr * FINE:.1f} m"
        )
    return None


def _dataset(found: Mapping[str, Fit | str], fine: Sequence[str]) -> xr.Dataset:
    """Return the result, or say why there is none."""
    fits = {b: f for b, f in found.items() if isinstance(f, Fit)}
    told = "; ".join(f"{b}: {f}" for b, f in found.items() if isinstance(f, str))
    if not fits:
        raise GridError(
            f"The point spread cannot be measured here. {told}. Take a part of the "
            'scene with fields, roads or houses and without cloud, or psf="sensor".'
        )
    why = {"not_measurable": told} if told else {}
    sigma, stderr = (
        [getattr(fits[b], of) * FINE if b in fits else math.nan for b in found]
        for of in ("width", "stderr")
    )
    return xr.Dataset(
        {
            "sigma": ("band", sigma, SIGMA | why),
            "stderr": ("band", stderr, {"units": "m", "long_name": "standard error"}),
        },
        {"band": list(found)},
        {"relative_to": ", ".join(fine)},
    )
