"""How good a result is, and how it looks: tables of scores, and pictures.

>>> import numpy as np
>>> row = Row(name="B05", native=20, rmse=81.25, sre=24.5, sam=np.nan, uiq=0.91)
>>> print(table({"bicubic": Scores(bands=(row,), means=())}))
         bicubic
           RMSE    SRE    SAM    UIQ
B05        81.2  24.50      -  0.910
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from s2sr_xr import metrics
from s2sr_xr.bands import BANDS, by_resolution, group
from s2sr_xr.errors import GridError, MissingBandError
from s2sr_xr.fidelity import fidelity_page
from s2sr_xr.grid import grid_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating]
    Ground: TypeAlias = tuple[float, float, float, float]  # west, south, east, north
    Stretch: TypeAlias = tuple[Floats, Floats]

__all__ = [
    "Row",
    "Scores",
    "before_after",
    "compare",
    "detailed",
    "fidelity_page",
    "relative_rmse",
    "score",
    "table",
]

DN = 1e-4
"""Reflectance of one count: the unit of RMSE in tables."""


# --- scores ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Scores of one band, or their means over the bands of one native pixel."""

    name: str
    """ESA's identifier, or the native pixel, such as ``"20 m"``."""

    native: int
    """Side of the native pixel, in metres."""

    rmse: float
    """Root mean squared error, in counts of 1e-4 reflectance."""

    sre: float
    """Signal to reconstruction error, in dB."""

    sam: float
    """Mean angle between the spectra of all bands of one native pixel, in degrees; NaN
    for one band, which has no spectrum."""

    uiq: float
    """Universal image quality index, over windows of 8 pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How near one prediction is to the truth; ``print`` shows a table."""

    bands: tuple[Row, ...]
    """One row a band, in the order of the instrument."""

    means: tuple[Row, ...]
    """One row a native pixel size: the means over its bands."""

    def __str__(self) -> str:
        return table({"": self})


def score(
    pred: xr.Dataset, truth: xr.Dataset, bands: Sequence[str] | None = None
) -> Scores:
    """Return the scores of each band of a prediction, and their means.

    Parameters
    ----------
    pred, truth
        Reflectance on the same pixels, one variable a band, ``(y, x)`` or a `time` of
        one. Pixels that are missing (NaN) in either are left out.
    bands
        Which bands; None: all in both whose native pixel is coarser than these.

    Raises
    ------
    MissingBandError
        A band is not in both, or there is none to score.
    GridError
        The two do not lie on the same pixels, there are several times, or the image is
        smaller than a window of UIQ (8 pixels).
    RadiometryError
        A value is infinite.
    """
    return compare({"the prediction": pred}, truth, bands)["the prediction"]


def compare(
    preds: Mapping[str, xr.Dataset],
    truth: xr.Dataset,
    bands: Sequence[str] | None = None,
) -> dict[str, Scores]:
    """Return the scores of several methods over the pixels that all of them have.

    Parameters
    ----------
    preds
        What each method made, by its name.
    truth, bands
        As in `score`. A pixel that is missing in any prediction, or in the truth, is
        left out for all: else a method gains by leaving the hard ones out.

    Raises
    ------
    MissingBandError, GridError, RadiometryError
        As in `score`.
    """
    names = _scored(preds, truth, bands)
    for method, pred in preds.items():
        _check_same_pixels(method, pred, truth)
    # All bands of a method in one go: one task of a lazy result makes them together.
    preds = {method: pred[list(names)].compute() for method, pred in preds.items()}
    found: dict[str, list[Row]] = {method: [] for method in preds}
    for _, same in groupby(names, key=lambda name: BANDS[name].native):
        own = tuple(same)
        images = {method: _stack(pred, own) for method, pred in preds.items()}
        true = _stack(truth, own).astype(np.float64)
        for image in images.values():
            true[np.isnan(image)] = np.nan
        for method, image in images.items():
            found[method] += _rows(own, image, true)
    return {method: _scores(rows) for method, rows in found.items()}


def relative_rmse(
    scores: Scores, baseline: Scores, *, native: int | None = None
) -> float:
    """Return the figure of a scene: the mean over bands of RMSE over RMSE of bicubic.

    Below 1 is better than the baseline. The figure of a set is the mean over scenes.

    Parameters
    ----------
    scores, baseline
        What `compare` says of a method, and of bicubic.
    native
        Bands of this native pixel only, in metres; None: all bands.

    Returns
    -------
    float
        NaN where no band has a pixel in common, or the baseline is perfect.
    """
    ratios = [
        row.rmse / base.rmse
        for row, base in zip(scores.bands, baseline.bands, strict=True)
        if native in (None, row.native) and base.rmse > 0
    ]
    return float(np.mean(ratios)) if ratios else float("nan")


def table(scores: Mapping[str, Scores], *, baseline: str = "bicubic") -> str:
    """Return the scores of methods side by side as plain text.

    RMSE in counts of 1e-4 reflectance, SRE in dB, SAM in degrees. Where `baseline` is
    one of several methods, the last lines are `relative_rmse` against it.
    """
    lines = [
        "       " + "".join(f"  {name:<27}" for name in scores),
        "       " + "  {:>6} {:>6} {:>6} {:>6}".format(*_TITLES) * len(scores),
    ]
    first, *_ = scores.values()
    for native in dict.fromkeys(row.native for row in first.bands):
        lines += [
            f"{cells[0].name:<7}" + "".join(map(_cells, cells))
            for cells in _side_by_side(scores, native)
        ]
    if baseline in scores and len(scores) > 1:
        lines += [f"RMSE / RMSE of {baseline}, mean over the bands:"]
        sizes = [row.native for row in first.means]
        for size in (*sizes, None) if len(sizes) > 1 else (None,):
            ratios = (
                relative_rmse(s, scores[baseline], native=size) for s in scores.values()
            )
            label = f"{size} m" if size else "all"
            lines += [f"{label:<7}" + "".join(f"  {r:>6.3f}{'':21}" for r in ratios)]
    return "\n".join(line.rstrip() for line in lines)


_TITLES = ("RMSE", "SRE", "SAM", "UIQ")


def _side_by_side(
    scores: Mapping[str, Scores], native: int
) -> Iterator[tuple[Row, ...]]:
    """Yield the rows of one native pixel, one of each method at a time; means last."""
    for kind in ("bands", "means"):
        rows: list[tuple[Row, ...]] = [getattr(s, kind) for s in scores.values()]
        for same in zip(*rows, strict=True):
            if same[0].native == native:
                yield same


def _cells(row: Row) -> str:
    sam = "-" if np.isnan(row.sam) else f"{row.sam:.3f}"
    return f"  {row.rmse:>6.1f} {row.sre:>6.2f} {sam:>6} {row.uiq:>6.3f}"


def _scored(
    preds: Mapping[str, xr.Dataset], truth: xr.Dataset, bands: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the bands to score, in the order of the instrument, coarse ones last."""
    everywhere = [b for b in BANDS if all(b in d for d in (truth, *preds.values()))]
    if bands is None:
        pixel = grid_of(truth).res
        chosen = [b for b in everywhere if BANDS[b].native > pixel]
    else:
        chosen = [b for b in BANDS if b in bands]
        if gone := [b for b in bands if b not in everywhere]:
            raise MissingBandError(
                f"{', '.join(gone)} cannot be scored: the predictions and the truth "
                f"have {', '.join(everywhere) or 'no band'} in common."
            )
    if not chosen:
        raise MissingBandError(
            "There is no band to score: the predictions and the truth have "
            f"{', '.join(everywhere) or 'no band'} in common, none coarser than the "
            "pixels. Name bands=[...] to score them all the same."
        )
    return tuple(sorted(chosen, key=lambda name: BANDS[name].native))


def _check_same_pixels(method: str, pred: xr.Dataset, truth: xr.Dataset) -> None:
    ours, theirs = grid_of(pred), grid_of(truth)
    if ours != theirs:
        raise GridError(
            f"{method} has {ours.shape} pixels of {ours.res:g} m over {ours.extent} "
            f"(west, south, east, north), the truth {theirs.shape} of {theirs.res:g} m "
            f"over {theirs.extent}, or another CRS. Cut both to the same window."
        )


def _stack(ds: xr.Dataset, names: Sequence[str]) -> Floats:
    """Return bands as one array (B, H, W)."""
    return np.stack([np.asarray(_at_one_time(ds[name]).values) for name in names])


def _at_one_time(image: xr.DataArray) -> xr.DataArray:
    if "time" not in image.dims:
        return image
    if image.sizes["time"] != 1:
        raise GridError(
            f"{image.name} has {image.sizes['time']} times; take one at a time with "
            ".isel(time=0)."
        )
    return image.isel(time=0)


def _rows(names: Sequence[str], pred: Floats, true: Floats) -> list[Row]:
    """Return the rows of the bands of one native pixel, the row of their means last."""
    native = BANDS[names[0]].native
    rmse, sre = metrics.rmse(pred, true) / DN, metrics.sre(pred, true)
    uiq = metrics.uiq(pred, true)
    sam = float(metrics.sam(pred, true)) if len(names) > 1 else float("nan")
    rows = [
        Row(name=name, native=native, rmse=r, sre=s, sam=float("nan"), uiq=u)
        for name, r, s, u in zip(names, *map(_numbers, (rmse, sre, uiq)), strict=True)
    ]
    r, s, u = (float(np.mean(values)) for values in (rmse, sre, uiq))
    return [
        *rows,
        Row(name=f"{native} m", native=native, rmse=r, sre=s, sam=sam, uiq=u),
    ]


def _numbers(values: Floats) -> list[float]:
    return [float(v) for v in values]


def _scores(rows: Sequence[Row]) -> Scores:
    return Scores(
        bands=tuple(r for r in rows if r.name in BANDS),
        means=tuple(r for r in rows if r.name not in BANDS),
    )


# --- pictures -------------------------------------------------------------------------

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
    """Write a picture of native bands beside their finer ones, and return its path.

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
    stretch = _stretch(_pixels(own, view.bands, view.ground))
    colour = data.native.get(group(10), data.result)
    if all(b in colour for b in TRUE_COLOUR):
        true = _pixels(colour, TRUE_COLOUR, view.ground)
        _show(axes[0], true, view, _stretch(true), "B04 B03 B02, 10 m")
    else:
        axes[0].set_axis_off()
    panels = [(own, f"native {view.native} m"), (data.result, str(model))]
    if data.truth is not None:
        panels.append((data.truth, "truth"))
    for ax, (ds, name) in zip(axes[1:], panels, strict=False):
        _show(
            ax, _pixels(ds, view.bands, view.ground), view, stretch, f"{label}, {name}"
        )
    _scale_bar(axes[1], view.ground)
    if data.truth is not None:
        _show_errors(figure, axes[4:], view, data)


def _show_errors(figure: Figure, axes: list[Axes], view: _View, data: _Data) -> None:
    """Fill the panels with the errors of the native pixels and of the result."""
    from matplotlib import colormaps

    assert data.truth is not None
    true = _pixels(data.truth, view.bands, view.ground)
    own = _pixels(data.native[group(view.native)], view.bands, view.ground)
    factor = true.shape[0] // own.shape[0]
    repeated = own.repeat(factor, 0).repeat(factor, 1)
    made = _pixels(data.result, view.bands, view.ground)
    errors = [np.sqrt(np.square(p - true).mean(-1)) / DN for p in (repeated, made)]
    top = _quantile(errors[0], 0.98)
    colours = colormaps["magma"].with_extremes(bad=_MISSING)
    for ax, error, name in zip(axes, errors, ("native", "result"), strict=True):
        rms = np.sqrt(np.nanmean(np.square(error))) if np.isfinite(error).any() else 0
        image = ax.imshow(error, cmap=colours, vmin=0, vmax=top, extent=_extent(view))
        _frame(ax, image, view, f"error of {name}: {rms:.0f} DN")
    figure.colorbar(image, ax=axes[-1], label="DN (1e-4 reflectance)", shrink=0.8)


def _pixels(ds: xr.Dataset, bands: Sequence[str], ground: Ground) -> Floats:
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
