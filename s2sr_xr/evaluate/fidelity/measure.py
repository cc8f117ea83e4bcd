"""All figures of a result, band by band, next to those of bicubic interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from s2sr_xr.core.bands import BANDS, group
from s2sr_xr.core.grid import grid_of
from s2sr_xr.errors import GridError, MissingBandError
from s2sr_xr.evaluate import metrics
from s2sr_xr.evaluate.fidelity.consistency import agreement
from s2sr_xr.evaluate.fidelity.edges import edge_response, find_edges
from s2sr_xr.evaluate.fidelity.noise import flat_windows, noise, seam_energy
from s2sr_xr.evaluate.fidelity.spectra import (
    LEAST,
    energy_gain,
    resolved,
    ring_correlation,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from s2sr_xr.evaluate.fidelity.edges import EdgeResponse

    Floats = NDArray[np.float64]

__all__ = ["BandFidelity", "Fidelity", "Images", "Seen", "images_of", "measure"]

_BORDER = 8  # native pixels along the edge of the scene, which networks make up


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How sharp and how noisy one image of a band is."""

    fwhm: float
    """Full width at half maximum of the line spread, in metres."""

    mtf: float
    """Transfer at the Nyquist frequency of the band's native pixel."""

    noise: float
    """Spread over flat windows, in reflectance; texture counts."""

    snr: float
    """Mean over spread of the same windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BandFidelity:
    """What was made of one band. NaN: there is too little ground, or no truth."""

    name: str
    """ESA's identifier."""

    native: int
    """Side of the native pixel, in metres."""

    reflectance: float
    """Mean absolute difference of the result averaged back, in reflectance."""

    spatial: float
    """By how much the result is moved, in native pixels."""

    edges: int
    """How many edges the widths come from."""

    seen: Mapping[str, Seen]
    """Of "native", "bicubic", "result", and "truth" where there is one."""

    gain: float
    """Power beyond the native Nyquist frequency over that of bicubic."""

    seams: float
    """Energy of jumps across the borders of tiles, over that of bicubic there, which
    has no tiles but the same ground; 1 is none."""

    psnr: float
    """Against the truth, in dB, peak 1."""

    psnr_bicubic: float
    """The same of bicubic interpolation."""

    resolved: float
    """Up to which frequency the result is the truth (ring correlation of 0.5), in
    cycles a native pixel: 0.5 is the native Nyquist frequency."""

    resolved_bicubic: float
    """The same of bicubic interpolation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """What was made of a scene."""

    bands: tuple[BandFidelity, ...]
    """One each, in the order of the instrument, coarse ones last."""

    spectral: Mapping[int, float]
    """Angle of the result averaged back to the native spectra, in degrees, for the
    bands of each native pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """One band at one time, float64."""

    name: str
    """ESA's identifier."""

    factor: int
    """Pixels of the result along a native one."""

    native: Floats
    """(H, W)."""

    fine: Mapping[str, Floats]
    """(H * factor, W * factor): "bicubic", "result", and "truth" if there is one."""

    @property
    def pixel(self) -> int:
        """Side of the native pixel, in metres."""
        return BANDS[self.name].native

    def inner(self, name: str) -> Floats:
        """Return a fine image without its border, if there is an inside."""
        image, n = self.fine[name], _BORDER * self.factor
        return image[n:-n, n:-n] if min(image.shape) > 6 * n else image

    def responses(self) -> dict[str, EdgeResponse]:
        """Return how wide the native image's edges are in each image."""
        edges = find_edges(self.native)
        made = {"native": edge_response(self.native, edges, pixel=self.pixel)}
        for name, image in self.fine.items():
            made[name] = edge_response(
                image, edges, factor=self.factor, pixel=self.pixel / self.factor
            )
        return made


def measure(
    native: xr.DataTree,
    result: xr.Dataset,
    *,
    truth: xr.Dataset | None = None,
    bands: Sequence[str] | None = None,
    tile: int | None = None,
    time: int = 0,
) -> Fidelity:
    """Return consistency, sharpness, noise, detail and seams of a result.

    Parameters
    ----------
    native
        The tree that `result` was made of.
    result
        What `upsample` or `superresolve` made of it, in reflectance, on its ground.
    truth
        Reflectance on the pixels of `result`, compared by position; NaN is left out.
    bands
        Which; None: all of both whose native pixel is coarser than the result's.
    tile
        Side of the tiles in pixels of `result`; None: that of the model's card.
    time
        Which time, by position.

    Raises
    ------
    MissingBandError
        No band is in both, or one that was asked for is not.
    GridError
        The result and the tree, or the truth, do not cover the same ground.
    """
    images = images_of(native, result, truth=truth, bands=bands, time=time)
    spectral: dict[int, float] = {}
    kept: dict[str, tuple[float, float]] = {}
    for metres in dict.fromkeys(i.pixel for i in images):
        own = [i for i in images if i.pixel == metres]
        found = agreement(
            np.stack([i.fine["result"] for i in own]), np.stack([i.native for i in own])
        )
        spectral[metres] = found.spectral
        pairs = zip(found.reflectance, found.spatial, strict=True)
        kept |= zip((i.name for i in own), pairs, strict=True)
    return Fidelity(
        bands=tuple(
            _band(i, *kept[i.name], tile or _tile(result[i.name])) for i in images
        ),
        spectral=spectral,
    )


def images_of(
    native: xr.DataTree,
    result: xr.Dataset,
    *,
    truth: xr.Dataset | None = None,
    bands: Sequence[str] | None = None,
    time: int = 0,
) -> list[Images]:
    """Return what is compared, band by band; parameters and errors as `measure`."""
    grid = grid_of(result)
    there = {str(b) for node in native.children.values() for b in node.data_vars}
    names = [
        b
        for b in sorted(BANDS, key=lambda b: BANDS[b].native)
        if b in result and b in there and BANDS[b].native > grid.res
    ]
    if gone := [b for b in bands or () if b not in names]:
        raise MissingBandError(
            f"{', '.join(gone)} cannot be measured: finer in the result than in the "
            f"tree are {', '.join(names) or 'no bands'}."
        )
    if not names:
        raise MissingBandError(
            f"The result has {', '.join(map(str, result.data_vars))} with pixels of "
            f"{grid.res:g} m: none of them is finer than in the tree."
        )
    made = []
    for name in names if bands is None else [b for b in names if b in bands]:
        own = native[group(BANDS[name].native)].to_dataset()
        if grid_of(own).extent != grid.extent:
            raise GridError(
                f"{name} covers {grid_of(own).extent} (west, south, east, north), the "
                f"result {grid.extent}. Cut the tree with obj.s2sr.window(...) first."
            )
        image = _values(own[name], time)
        factor = round(BANDS[name].native / grid.res)
        fine = {
            "bicubic": _bicubic(image, factor),
            "result": _values(result[name], time),
        }
        if truth is not None and name in truth:
            fine["truth"] = _values(truth[name], 0)
            if fine["truth"].shape != grid.shape:
                raise GridError(
                    f"The truth of {name} has {fine['truth'].shape} pixels, the result "
                    f"{grid.shape}; bring both to the same."
                )
        made.append(Images(name=name, factor=factor, native=image, fine=fine))
    return made


def _band(
    images: Images, reflectance: float, spatial: float, tile: int
) -> BandFidelity:
    factor, fine = images.factor, images.fine
    responses = images.responses()
    windows = flat_windows(images.native)
    seen = {}
    for name, response in responses.items():
        own = name == "native"
        spread = noise(
            images.native if own else fine[name], windows, factor=1 if own else factor
        )
        seen[name] = Seen(
            fwhm=response.fwhm,
            mtf=response.mtf(1 / (2 * images.pixel)),
            noise=spread.sigma,
            snr=spread.snr,
        )
    made, flat = (images.inner(k) for k in ("result", "bicubic"))
    wide = min(made.shape) >= LEAST
    scores = {"psnr": np.nan, "psnr_bicubic": np.nan}
    scores |= {"resolved": np.nan, "resolved_bicubic": np.nan}
    if "truth" in fine:
        true = images.inner("truth")
        for end, image in (("", made), ("_bicubic", flat)):
            scores["psnr" + end] = float(metrics.psnr(image, _where(true, made, flat)))
            if wide:
                curve = ring_correlation(image, true)
                scores["resolved" + end] = resolved(*curve) * factor
    tiled = tile > 0 and max(fine["result"].shape) > tile
    return BandFidelity(
        name=images.name,
        native=images.pixel,
        reflectance=reflectance,
        spatial=spatial,
        edges=responses["native"].count,
        seen=seen,
        gain=energy_gain(made, flat, above=0.5 / factor) if wide else np.nan,
        seams=_seams(images, tile) if tiled else np.nan,
        **scores,
    )


def _seams(images: Images, tile: int) -> float:
    """Return the jumps at tiles over those of bicubic at the same lines."""
    result, ground = (
        seam_energy(images.fine[k], tile, cell=images.factor)
        for k in ("result", "bicubic")
    )
    return result / ground


def _where(true: Floats, *images: Floats) -> Floats:
    """Return the truth where all images are known."""
    known = np.isfinite(images).all(0)
    return np.where(known, true, np.nan)


def _tile(band: xr.DataArray) -> int:
    """Return the side of the tiles that a band was made in, in pixels; 0: unknown."""
    from s2sr_xr.models.registry import list_models

    name = band.attrs.get("s2sr_model")
    spec = next((s for s in list_models() if s.name == name), None)
    return spec.tile * spec.output.per_cell if spec else 0


def _values(band: xr.DataArray, time: int) -> Floats:
    image = band.isel(time=time) if "time" in band.dims else band
    return np.asarray(image.to_numpy(), np.float64)


def _bicubic(image: Floats, factor: int) -> Floats:
    """Return finer pixels by interpolation (a = -0.75), edges mirrored."""
    import torch

    from s2sr_xr.models.networks.resample import Upsample

    up = Upsample(factor, "bicubic").double()
    padded = torch.from_numpy(np.pad(image, up.reach, mode="symmetric"))
    return np.asarray(up(padded[None, None])[0, 0].numpy(), np.float64)
