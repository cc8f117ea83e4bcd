"""One picture of what a result keeps, gains and costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.evaluate.fidelity.edges import LEAST
from s2sr_xr.evaluate.fidelity.measure import images_of, measure
from s2sr_xr.evaluate.fidelity.spectra import ring_correlation, spectrum

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr
    from matplotlib.axes import Axes

    from s2sr_xr.evaluate.fidelity.measure import BandFidelity, Fidelity, Images

__all__ = ["fidelity_page", "fidelity_table"]

_STYLE: dict[str, dict[str, Any]] = {
    "native": {"color": "#8c8c8c", "linestyle": ":", "linewidth": 1.6},
    "bicubic": {"color": "#8c8c8c", "linestyle": "-", "linewidth": 1.4},
    "result": {"color": "#c8501e", "linestyle": "-", "linewidth": 2.0},
    "truth": {"color": "#1e3c78", "linestyle": "--", "linewidth": 1.4},
}
_DN = 1e-4

_COLUMNS: dict[str, tuple[str, Callable[[BandFidelity], str]]] = {
    "kept to": ("DN", lambda b: f"{b.reflectance / _DN:.1f}"),
    "moved": ("px", lambda b: f"{b.spatial:.3f}"),
    "edges": ("", lambda b: f"{b.edges}"),
    "width of an edge": ("m", lambda b: _each(b, "fwhm", "{:.1f}")),
    "MTF at Nyquist": ("", lambda b: _each(b, "mtf", "{:.2f}")),
    "noise": ("DN", lambda b: _each(b, "noise", "{:.1f}", 1 / _DN)),
    "SNR": ("", lambda b: _each(b, "snr", "{:.0f}")),
    "fine detail": ("x bicubic", lambda b: f"{b.gain:.1f}"),
    "seams": ("1 = none", lambda b: f"{b.seams:.2f}"),
    "PSNR": ("dB", lambda b: f"{b.psnr_bicubic:.1f} -> {b.psnr:.1f}"),
    "true up to": (
        "cycles/px",
        lambda b: f"{b.resolved_bicubic:.2f} -> {b.resolved:.2f}",
    ),
}


def fidelity_page(
    native: xr.DataTree,
    result: xr.Dataset,
    path: str | Path,
    *,
    truth: xr.Dataset | None = None,
    time: int = 0,
    title: str = "",
) -> Path:
    """Write a picture of spectra, edges and figures of a result, and return its path.

    One row for each native pixel: power of native, bicubic and finer pixels; what is
    true of it (with `truth`) or its ratio to bicubic; the profile of an edge. Below
    them the table of all bands.

    Parameters
    ----------
    native, result, truth, time
        As in `measure`.
    path
        A ``.png``; replaced if it is there.
    title
        Stands above all.

    Raises
    ------
    MissingBandError, GridError
        As `measure`.
    """
    from matplotlib.figure import Figure

    found = measure(native, result, truth=truth, time=time)
    shown = _shown(found)
    images = images_of(native, result, truth=truth, bands=shown, time=time)
    high, low = 3.1 * len(images), 0.9 + 0.24 * len(found.bands)
    figure = Figure(figsize=(13, high + low), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=(high, low))
    panels = grid[0].subgridspec(len(images), 3)
    for row, own in enumerate(images):
        axes = [figure.add_subplot(panels[row, k]) for k in range(3)]
        _draw_power(axes[0], own)
        (_draw_truth if "truth" in own.fine else _draw_ratio)(axes[1], own)
        _draw_edge(axes[2], own)
    _draw_table(figure.add_subplot(grid[1]), found)
    figure.suptitle(title or "Fidelity", fontsize=13)
    figure.savefig(path, dpi=110)
    return Path(path)


def fidelity_table(found: Fidelity) -> str:
    """Return the figures as plain text; pairs are before -> after.

    Noise and means kept in counts of 1e-4 reflectance. Before is the native image;
    for PSNR, and for the frequency up to which the image is true, bicubic.
    """
    cells = _cells(found)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells
    ]
    return "\n".join([*lines, _angles(found)])


def _shown(found: Fidelity) -> list[str]:
    """Return the band of each native pixel that has the most edges to show."""
    best: dict[int, BandFidelity] = {}
    for band in found.bands:
        if band.native not in best or band.edges > best[band.native].edges:
            best[band.native] = band
    return [band.name for band in best.values()]


def _draw_power(ax: Axes, images: Images) -> None:
    f, power = spectrum(images.native)
    ax.semilogy(f, power, label=f"native, {images.pixel} m", **_STYLE["native"])
    for name, image in images.fine.items():
        f, power = spectrum(image)
        # As much ground in each: a fine pixel is a part of a native one.
        power = power / images.factor**2
        ax.semilogy(f * images.factor, power, label=name, **_STYLE[name])
    _frame(ax, images, "power at each frequency", "reflectance squared")
    ax.legend(fontsize=8, frameon=False)


def _draw_ratio(ax: Axes, images: Images) -> None:
    f, power = spectrum(images.fine["result"])
    _, base = spectrum(images.fine["bicubic"])
    with np.errstate(invalid="ignore", divide="ignore"):
        ax.semilogy(f * images.factor, power / base, **_STYLE["result"])
    ax.axhline(1, **_STYLE["bicubic"])
    _frame(ax, images, "power over that of bicubic", "ratio")


def _draw_truth(ax: Axes, images: Images) -> None:
    for name in ("bicubic", "result"):
        f, curve = ring_correlation(images.fine[name], images.fine["truth"])
        ax.plot(f * images.factor, curve, **_STYLE[name])
    ax.axhline(0.5, color="0.8", linewidth=0.8)
    ax.set_ylim(0, 1.02)
    _frame(ax, images, "how much of it is true", "ring correlation with the truth")


def _draw_edge(ax: Axes, images: Images) -> None:
    responses = images.responses()
    for name, response in responses.items():
        if response.count >= LEAST:
            label = f"{name}: {response.fwhm:.1f} m"
            ax.plot(response.distance, response.profile, label=label, **_STYLE[name])
    count = responses["native"].count
    ax.set_xlim(-2.5 * images.pixel, 2.5 * images.pixel)
    few = count < LEAST
    what = "too few straight edges" if few else f"profile of {count} edges"
    ax.set_title(f"{images.name}: {what}", fontsize=10)
    ax.set_xlabel("metres from the edge", fontsize=9)
    _plain(ax)
    if few:
        ax.set_axis_off()
    else:
        ax.legend(fontsize=8, frameon=False, loc="upper left")


def _frame(ax: Axes, images: Images, title: str, unit: str) -> None:
    ax.axvline(0.5, color="0.8", linewidth=0.8)
    ax.set_xlim(0, images.factor / 2)
    ax.set_title(f"{images.name}: {title}", fontsize=10)
    ax.set_xlabel(f"cycles a native pixel ({images.pixel} m)", fontsize=9)
    ax.set_ylabel(unit, fontsize=9)
    _plain(ax)


def _plain(ax: Axes) -> None:
    ax.tick_params(labelsize=8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _draw_table(ax: Axes, found: Fidelity) -> None:
    ax.set_axis_off()
    heads, units, *rows = _cells(found)
    labels = [f"{h}\n{u}" for h, u in zip(heads, units, strict=True)]
    widths = [max(len(c) for c in column) for column in zip(heads, *rows, strict=True)]
    table = ax.table(
        [labels, *rows],
        loc="upper center",
        cellLoc="center",
        edges="horizontal",
        colWidths=[w / sum(widths) for w in widths],
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    high = 1 / (len(rows) + 3.5)
    for (row, _), cell in table.get_celld().items():
        cell.set_height(high * (1.8 if row == 0 else 1))
        cell.set_edgecolor("0.85")
    ax.text(0.5, 0, _angles(found), ha="center", va="bottom", fontsize=8.5)


def _cells(found: Fidelity) -> list[list[str]]:
    """Return heads, units, and a row for each band; empty columns are left out."""
    made: list[list[str]] = [["band", "", *(b.name for b in found.bands)]]
    for head, (unit, cell) in _COLUMNS.items():
        column = [cell(b).replace("nan", "-") for b in found.bands]
        if any(c.strip("-> ") for c in column):
            made.append([head, unit, *column])
    return [list(row) for row in zip(*made, strict=True)]


def _each(band: BandFidelity, what: str, form: str, scale: float = 1) -> str:
    """Return native > result, and the truth if there is one."""
    values = {n: scale * getattr(seen, what) for n, seen in band.seen.items()}
    if np.isnan(values["native"]) and np.isnan(values["result"]):
        return "-"
    text = f"{form.format(values['native'])} -> {form.format(values['result'])}"
    if "truth" not in band.seen or what in ("noise", "snr"):
        return text
    return f"{text} ({form.format(values['truth'])})"


def _angles(found: Fidelity) -> str:
    angles = [
        f"{angle:.3f} degrees ({metres} m)"
        for metres, angle in found.spectral.items()
        if np.isfinite(angle)
    ]
    text = "Pairs: before -> after"
    if "truth" in found.bands[0].seen:
        text += " (truth)"
    if angles:
        text += f". Spectra, averaged back, keep their direction to {', '.join(angles)}"
    return f"{text}."
