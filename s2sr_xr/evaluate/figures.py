"""Native pixels next to finer ones, and to the reference where it is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from s2sr_xr.core.bands import BANDS, by_resolution, group
from s2sr_xr.core.grid import grid_of
from s2sr_xr.errors import MissingBandError
from s2sr_xr.evaluate.scores import DN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating]
    Ground: TypeAlias = tuple[float, float, float, float]  # west, south, east, north
    Stretch: TypeAlias = tuple[Floats, Floats]

__all__ = ["before_after", "detailed", "pixels_of"]

TRUE_COLOUR = ("B04", "B03", "B02")
COMPOSITES = {
    20: (
        ("B12", "B8A", "B05"),
        ("B11", "B8A", "B05"),
        *((name,) for name in reversed(by_resolution(20))),
    ),
    60: tuple((name,) for name in ("B09", "B01", "B10")),
}
"""What is shown of the bands of a native pixel: the first that is there whole."""

_MISSING = (0.75, 0.85, 1.0)  # pixels that were not recorded: no colour of the others
_PANEL = 3.0  # inches


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """What one picture is made of, at one time and without the time axis."""

    native: Mapping[str, xr.Dataset]
    result: xr.Dataset
    truth: xr.Dataset | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """One row of panels: some ground, seen in some bands of one native pixel."""

    ground: Ground
    bands: tuple[str, ...]
    whole: bool

    @property
    def native(self) -> int:
        """Side of the native pixel of the bands, in metres."""
        return BANDS[self.bands[0]].native


def before_after(
    native: xr.DataTree,
    result: xr.Dataset,
    path: str | Path,
    *,
    truth: xr.Dataset | None = None,
    time: int = 0,
    side: int = 900,
    title: str = "",
) -> Path:
    """Write a picture of native bands next to their finer ones, and return its path.

    Rows: the whole scene, two close-ups where there is most detail, and one of a 60 m
    band. Columns: true colour, the native bands, the result, and with `truth` also the
    truth and the errors of both. Panels of one row show the same ground with one
    stretch, north up.

    Parameters
    ----------
    native
        The tree that `result` was made of.
    result
        What `upsample` made of it.
    path
        A ``.png``; replaced if it is there.
    truth
        Reflectance on the pixels of `result`.
    time
        Which time is shown, by position.
    side
        Width of the close-ups in metres; those of 60 m bands are three times as wide.
    title
        Stands above all.

    Raises
    ------
    MissingBandError
        `result` has no band of 20 m or 60 m that can be shown.
    """
    from matplotlib.figure import Figure

    data = _Data(
        native={name: _at(node.to_dataset(), time) for name, node in native.items()},
        result=_at(result, time),
        truth=None if truth is None else _at(truth, 0),
    )
    views = _views(data, side)
    columns = 3 if data.truth is None else 6
    figure = Figure(
        figsize=(_PANEL * columns, (_PANEL + 0.25) * len(views)), layout="constrained"
    )
    figure.suptitle(title or "Before and after")
    axes = figure.subplots(len(views), columns, squeeze=False)
    for row, view in zip(axes, views, strict=True):
        _draw(figure, list(row), view, data)
    first = [next(ax for ax in row if ax.images) for row in axes]
    for ax, view, letter in zip(first[1:], views[1:], "abc", strict=False):
        _outline(first[0], view.ground, letter)
        ax.set_ylabel(letter, rotation=0, fontsize=12)
    figure.savefig(path, dpi=120)
    return Path(path)


def detailed(
    image: NDArray[np.floating],
    missing: NDArray[np.bool_],
    size: int,
    *,
    count: int = 1,
    step: int = 6,
) -> list[tuple[int, int]]:
    """Return where square windows hold the most detail, and nothing is missing.

    Parameters
    ----------
    image
        (H, W); detail is the squared gradient, its strongest tenth capped, so that many
        edges outweigh a bright one: fields and towns, not the rim of a cloud.
    missing
        (H, W), True where nothing was recorded. If every window has such pixels, those
        with the fewest are taken.
    size
        Side of the windows, in pixels; at most that of the image.
    count
        How many windows; they do not overlap, so there may be fewer.
    step
        Windows begin at multiples of so many pixels.

    Returns
    -------
    list
        First row and column of each window, the one with the most detail first.
    """
    rows, cols = image.shape
    size = min(size, rows, cols)
    down, right = (np.diff(image, axis=a, append=np.nan) ** 2 for a in (0, 1))
    energy = np.nan_to_num(down) + np.nan_to_num(right)
    energy = np.minimum(energy, _quantile(energy[~missing], 0.9))
    gone = _box_sums(missing.astype(np.float64), size)[::step, ::step]
    rank = _box_sums(energy, size)[::step, ::step]
    # A missing pixel weighs more than all the detail there can be.
    rank = rank / max(float(rank.max()), 1e-30) - gone
    found = []
    for _ in range(count):
        i, j = np.unravel_index(int(rank.argmax()), rank.shape)
        if rank[i, j] == -np.inf:
            break
        found.append((int(i) * step, int(j) * step))
        reach = -(-size // step) - 1
        near = slice(max(i - reach, 0), i + reach + 1)
        rank[near, max(j - reach, 0) : j + reach + 1] = -np.inf
    return found


def _box_sums(image: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return the sum of every whole window of `size` pixels a side."""
    total = np.pad(image.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    tall = total[size:] - total[:-size]
    sums: NDArray[np.float64] = tall[:, size:] - tall[:, :-size]
    return sums


def _at(ds: xr.Dataset, time: int) -> xr.Dataset:
    return ds.isel(time=time) if "time" in ds.dims else ds


def _views(data: _Data, side: int) -> list[_View]:
    """Return what the rows show."""
    shown = {}
    for metres, wishes in COMPOSITES.items():
        have = data.native.get(group(metres), ())
        for bands in wishes:
            if all(b in have and b in data.result for b in bands):
                shown[metres] = bands
                break
    if not shown:
        raise MissingBandError(
            f"The result has {', '.join(map(str, data.result.data_vars))}: none of the "
            "20 m or 60 m bands that a picture shows."
        )
    first = next(iter(shown.values()))
    views = [_View(ground=grid_of(data.result).extent, bands=first, whole=True)]
    for metres, bands in shown.items():
        wide, count = (side, 2) if metres == 20 else (3 * side, 1)
        views += [
            _View(ground=ground, bands=bands, whole=False)
            for ground in _close_ups(data, bands, wide, count)
        ]
    return views


def _close_ups(
    data: _Data, bands: tuple[str, ...], side: int, count: int
) -> list[Ground]:
    """Return the ground of the windows with the most detail, in whole 60 m cells."""
    grid = grid_of(data.result)
    guide = next((b for b in ("B08", "B04", *bands) if b in data.result), bands[0])
    image = data.result[guide].to_numpy()
    missing = np.isnan(image)
    for name in bands:
        missing |= np.isnan(data.result[name].to_numpy())
    cell = round(60 / grid.res)
    size = min(side // 60 * cell, *(n // cell * cell for n in grid.shape))
    west, _, _, north = grid.extent
    return [
        (
            west + col * grid.res,
            north - (row + size) * grid.res,
            west + (col + size) * grid.res,
            north - row * grid.res,
        )
        for row, col in detailed(image, missing, size, count=count, step=cell)
    ]


def _draw(figure: Figure, axes: list[Axes], view: _View, data: _Data) -> None:
    """Fill one row of panels."""
    own = data.native[group(view.native)]
    label = " ".join(view.bands)
    model = data.result[view.bands[0]].attrs.get("s2sr_model", "result")
    stretch = _stretch(pixels_of(own, view.bands, view.ground))
    colour = data.native.get(group(10), data.result)
    if all(b in colour for b in TRUE_COLOUR):
        true = pixels_of(colour, TRUE_COLOUR, view.ground)
        _show(axes[0], true, view, _stretch(true), "B04 B03 B02, 10 m")
    else:
        axes[0].set_axis_off()
    panels = [(own, f"native {view.native} m"), (data.result, str(model))]
    if data.truth is not None:
        panels.append((data.truth, "truth"))
    for ax, (ds, name) in zip(axes[1:], panels, strict=False):
        _show(
            ax,
            pixels_of(ds, view.bands, view.ground),
            view,
            stretch,
            f"{label}, {name}",
        )
    _scale_bar(axes[1], view.ground)
    if data.truth is not None:
        _show_errors(figure, axes[4:], view, data)


def _show_errors(figure: Figure, axes: list[Axes], view: _View, data: _Data) -> None:
    """Fill the panels with the errors of the native pixels and of the result."""
    from matplotlib import colormaps

    assert data.truth is not None
    true = pixels_of(data.truth, view.bands, view.ground)
    own = pixels_of(data.native[group(view.native)], view.bands, view.ground)
    factor = true.shape[0] // own.shape[0]
    repeated = own.repeat(factor, 0).repeat(factor, 1)
    made = pixels_of(data.result, view.bands, view.ground)
    errors = [np.sqrt(np.square(p - true).mean(-1)) / DN for p in (repeated, made)]
    top = _quantile(errors[0], 0.98)
    colours = colormaps["magma"].with_extremes(bad=_MISSING)
    for ax, error, name in zip(axes, errors, ("native", "result"), strict=True):
        rms = np.sqrt(np.nanmean(np.square(error))) if np.isfinite(error).any() else 0
        image = ax.imshow(error, cmap=colours, vmin=0, vmax=top, extent=_extent(view))
        _frame(ax, image, view, f"error of {name}: {rms:.0f} DN")
    figure.colorbar(image, ax=axes[-1], label="DN (1e-4 reflectance)", shrink=0.8)


def pixels_of(ds: xr.Dataset, bands: Sequence[str], ground: Ground) -> Floats:
    """Return (y, x, band): the pixels whose centre lies on `ground`."""
    west, south, east, north = ground
    part = ds[list(bands)].sel(x=slice(west, east), y=slice(north, south))
    return np.stack([part[b].to_numpy() for b in bands], -1)


def _stretch(image: Floats) -> Stretch:
    """Return what is black and what is white in each channel."""
    channels = np.moveaxis(image, -1, 0)
    low, middle, bright, high = (
        np.array([_quantile(channel, q) for channel in channels])
        for q in (0.01, 0.5, 0.9, 0.99)
    )
    # A few clouds are white, and do not make the land black.
    high = np.minimum(high, middle + 3 * (bright - middle))
    return low, np.maximum(high, low + 10 * DN)


def _quantile(values: Floats, q: float) -> float:
    there = values[np.isfinite(values)]
    return float(np.quantile(there, q)) if there.size else 0.0


def _show(ax: Axes, image: Floats, view: _View, stretch: Stretch, title: str) -> None:
    low, high = stretch
    seen = np.clip((image - low) / (high - low), 0, 1)
    if seen.shape[-1] == 1:
        seen = seen.repeat(3, -1)
    seen[np.isnan(image).any(-1)] = _MISSING
    _frame(ax, ax.imshow(seen, extent=_extent(view)), view, title)


def _frame(ax: Axes, image: AxesImage, view: _View, title: str) -> None:
    # A close-up shows its pixels as they are; a whole scene is smaller than its pixels.
    image.set_interpolation("antialiased" if view.whole else "nearest")
    ax.set_title(title, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])


def _extent(view: _View) -> tuple[float, float, float, float]:
    west, south, east, north = view.ground
    return west, east, south, north


def _outline(ax: Axes, ground: Ground, letter: str) -> None:
    """Draw where a close-up lies in the whole scene."""
    west, south, east, north = ground
    x, y = [west, east, east, west, west], [south, south, north, north, south]
    ax.plot(x, y, color="yellow", linewidth=1)
    ax.text(west, north, f" {letter}", color="yellow", va="top", fontsize=9)


def _scale_bar(ax: Axes, ground: Ground) -> None:
    """Draw a bar of a round length, about a quarter of the width."""
    west, south, east, north = ground
    lengths = [k * 10**n for n in range(1, 6) for k in (1, 2, 5)]
    length = max((v for v in lengths if v <= 0.35 * (east - west)), default=10)
    x, y = west + 0.05 * (east - west), south + 0.06 * (north - south)
    for width, colour in ((5, "black"), (2.5, "white")):
        ax.plot([x, x + length], [y, y], color=colour, linewidth=width)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length} m"
    box = {"facecolor": "black", "alpha": 0.5, "pad": 1, "edgecolor": "none"}
    ax.text(x, y + 0.03 * (north - south), text, color="white", fontsize=8, bbox=box)
