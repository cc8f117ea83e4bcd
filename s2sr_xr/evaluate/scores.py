"""Scores of results against a reference, and tables of them.

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
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.grid import grid_of
from s2sr_xr.errors import GridError, MissingBandError
from s2sr_xr.evaluate import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import xarray as xr
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating]

__all__ = [
    "DN",
    "Row",
    "Scores",
    "compare",
    "psnr_gain",
    "relative_rmse",
    "score",
    "table",
]

DN = 1e-4
"""Reflectance of one count: the unit of RMSE in tables."""


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
    """How near one prediction is to the reference; ``print`` shows a table."""

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


def psnr_gain(scores: Scores, baseline: Scores, *, native: int | None = None) -> float:
    """Return by how many dB the PSNR is above that of a baseline, mean over the bands.

    Parameters
    ----------
    scores, baseline
        What `compare` says of a method, and of bicubic.
    native
        Bands of this native pixel only, in metres; None: all bands.

    Returns
    -------
    float
        ``inf`` where a band is perfect; NaN where there is no band. Those without a
        pixel in common are left out, and those that the baseline makes perfectly.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = [
            20 * np.log10(np.float64(base.rmse) / row.rmse)
            for row, base in zip(scores.bands, baseline.bands, strict=True)
            if native in (None, row.native) and base.rmse > 0
        ]
    return float(np.mean(gains)) if gains else float("nan")


def table(
    scores: Mapping[str, Scores], *, baseline: str = "bicubic", psnr: bool = False
) -> str:
    """Return the scores of methods side by side as plain text.

    RMSE in counts of 1e-4 reflectance, SRE in dB, SAM in degrees. Where `baseline` is
    one of several methods, the last lines are `relative_rmse` against it; with `psnr`,
    `psnr_gain` follows.
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
        if psnr:
            lines += _gains(scores, scores[baseline], baseline)
    return "\n".join(line.rstrip() for line in lines)


def _gains(scores: Mapping[str, Scores], base: Scores, name: str) -> Iterator[str]:
    yield f"PSNR over that of {name} in dB, mean over the bands:"
    for mean in base.means:
        cells = (psnr_gain(s, base, native=mean.native) for s in scores.values())
        yield f"{mean.name:<7}" + "".join(f"  {g:>+6.2f}{'':21}" for g in cells)


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
