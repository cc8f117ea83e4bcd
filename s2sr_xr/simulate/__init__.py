"""Simulated scenes: a small Sentinel-2 world with its reference, as a STAC item.

`simulate_scene` writes what a catalogue would hold: one cloud-optimised GeoTIFF a band
on the native grid of that band, and an item that says what the counts mean. With it
comes what no satellite gives: every band at 10 m, without noise (`open_truth`), or at
5 m (`finer_truth`).

The sensor is the one of `s2sr_xr.core.bands`. A band's MTF at the Nyquist frequency of
its pixel is that of the whole instrument: pixel aperture times a Gaussian for the
optics. So the Gaussian is narrower than one that has all of the MTF, and the aperture
counts once.

`psf_downscale`, `add_noise`, `shift_bands` and `sampled_in` degrade images of torch;
torch is loaded when one of them is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s2sr_xr.simulate.country import SPECTRA, Landscape, landscape
from s2sr_xr.simulate.item import write_item
from s2sr_xr.simulate.scene import simulate_scene
from s2sr_xr.simulate.truth import finer_truth, open_truth

if TYPE_CHECKING:
    from s2sr_xr.simulate.degrade import (
        OPTICS,
        add_noise,
        psf_downscale,
        sampled_in,
        shift_bands,
    )

__all__ = [
    "OPTICS",
    "SPECTRA",
    "Landscape",
    "add_noise",
    "finer_truth",
    "landscape",
    "open_truth",
    "psf_downscale",
    "sampled_in",
    "shift_bands",
    "simulate_scene",
    "write_item",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a function or a number
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from s2sr_xr.simulate import degrade

    return getattr(degrade, name)


def __dir__() -> list[str]:
    """Return the public names; modules that are not public can still be imported."""
    return sorted(__all__)
