"""Say how far results are from the truth, at the scale at which people use them.

``TRUTH`` is a folder of ``*.npz`` files: `truth` (y, x, band) reflectance times 1e4 on
pixels that pose as 10 m, and `bands`, their names. Each scene is made into Sentinel-2:
every coarse band is seen through its point spread (a Gaussian, then the pixel; widths
in `WIDTHS`, both included), with noise, and, if asked for, each band a little beside
the others. What a method makes of it is compared with what was there.

With ``--real`` also what is known of real scenes: the recorded 20 m pixels, after all
bands were degraded by two, once by what the sensor's point spread is (0.85 pixels of
the finer grid; 1.05 for B11 and B12) and once by DSen2's 0.71. Only places are judged
that were left out of training (`shipped.LEFT_OUT`).

    python benchmarks/true_scale.py TRUTH
    python benchmarks/true_scale.py TRUTH --psf measured --shift 0.2 --noise 10
    python benchmarks/true_scale.py TRUTH --split test --real REAL

Methods are names that `upsample` takes, and ``ATPRK`` and ``SupReME`` of
`classical.py`; SupReME is told the point spread. RMSE is in 1e-4 reflectance. The
figure of a scene is the mean over its bands of RMSE over that of bicubic; that of a set
the mean over its scenes. Recipes are chosen by the validation split; the test split is
for cards.
"""

from __future__ import annotations

import argparse
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr
from common import table, tell
from scipy.ndimage import gaussian_filter

import s2sr_xr
from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.psf_measured import measure_psf
from s2sr_xr.models.registry import family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

B10 = ("B02", "B03", "B04", "B08")
B20 = ("B05", "B06", "B07", "B8A", "B11", "B12")
B60 = ("B01", "B09")

GROUPS = {"B05-B8A": B20[:4], "B11 B12": B20[4:], "20 m": B20, "60 m": B60}
"""Bands that have a column in the table."""

SPLIT: Mapping[str, tuple[str, ...]] = {
    "train": (
        *("abu_airport1", "abu_airport2", "abu_airport3", "abu_urban4", "abu_urban5"),
        *("abu_urban1", "abu_urban2", "indian_pines"),
        *("neon_harv", "neon_ex", "neon_sjer"),
    ),
    "validation": (
        *("sandiego_a", "sandiego_b", "abu_airport4", "abu_beach3", "salton_sea"),
    ),
    "test": ("jasper_ridge", "enmap_potsdam", "abu_urban3", "abu_beach1"),
}
"""Scenes with all bands, by flight: what is learnt from, chosen by, and judged by."""

PARTS = {"enmap_potsdam": (np.s_[:60, :96], np.s_[96:156, 36:156])}
"""The parts of a scene without gaps."""

OMIT = {"abu_urban1": ("B12",), "abu_urban2": ("B12",), "abu_urban3": ("B11", "B12")}
"""Bands whose truth is not good enough to judge by: stripes, shifts."""

WIDTHS = dict.fromkeys(B20[:4], 0.85) | dict.fromkeys(B20[4:], 1.05)
WIDTHS |= dict.fromkeys(B60, 3.0)
"""Standard deviation of Gaussian and pixel, in pixels of 10 m."""

DSEN2 = 0.7071
"""The same in DSen2's protocol."""

METHODS = ("nearest", "bicubic", "ATPRK", "SupReME", "regression", "dsen2")
BORDER = {20: 4, 60: 6}
FLAT = 10  # 1e-4: where bicubic is as near as this, noise is all there is to compare


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Coarse bands to be made finer, and what they should become; counts of 1e-4."""

    name: str
    fine: Mapping[str, np.ndarray]
    coarse: Mapping[str, np.ndarray]
    truth: Mapping[str, np.ndarray]
    widths: Mapping[str, float] = field(default_factory=dict)

    @property
    def tree(self) -> xr.DataTree:
        """The bands as `upsample` takes them."""
        groups: dict[int, dict[str, np.ndarray]] = {}
        for band, image in {**self.fine, **self.coarse}.items():
            groups.setdefault(native(band), {})[band] = image
        return xr.DataTree.from_dict(
            {f"r{n}m": _dataset(own, n) for n, own in groups.items()}
        )


def native(band: str) -> int:
    return 10 if band in B10 else 20 if band in B20 else 60


def _dataset(images: Mapping[str, np.ndarray], res: int) -> xr.Dataset:
    rows, cols = next(iter(images.values())).shape
    made = xr.Dataset(
        {b: (("y", "x"), (x / 1e4).astype("f4")) for b, x in images.items()},
        {
            "y": 8_200_000 - res * (np.arange(rows) + 0.5),
            "x": 600_000 + res * (np.arange(cols) + 0.5),
        },
    )
    return made.rio.write_crs("EPSG:32722")


# --- making Sentinel-2 ----------------------------------------------------------------


def seen(image: np.ndarray, width: float, factor: int) -> np.ndarray:
    """Return an image through a point spread of `width` pixels, its pixel included."""
    sigma = max(width**2 - (factor**2 - 1) / 12, 0) ** 0.5
    blurred = gaussian_filter(image, sigma, mode="reflect")
    rows, cols = (n // factor for n in image.shape)
    blocks = blurred[: rows * factor, : cols * factor]
    return blocks.reshape(rows, factor, cols, factor).mean((1, 3))


def moved(image: np.ndarray, by: Sequence[float]) -> np.ndarray:
    """Return an image moved by a fraction of a pixel: no frequency is lost."""
    rows, cols = image.shape
    whole = np.pad(image, ((0, rows), (0, cols)), mode="symmetric")
    turn = np.add.outer(
        np.fft.fftfreq(2 * rows) * by[0], np.fft.fftfreq(2 * cols) * by[1]
    )
    made = np.fft.ifft2(np.fft.fft2(whole) * np.exp(-2j * np.pi * turn)).real
    return made[:rows, :cols]


def trials(
    folder: Path, names: Sequence[str], *, noise: float, shift: float
) -> Iterator[Trial]:
    """Yield each scene made into Sentinel-2. The coarse bands have 2/3 of the noise."""
    for name in names:
        with np.load(folder / f"{name}.npz") as file:
            bands = [str(b) for b in file["bands"]]
            whole = file["truth"].astype(float)
        for n, part in enumerate(PARTS.get(name, (np.s_[:],))):
            rows, cols = (k // 6 * 6 for k in whole[part].shape[:2])
            cut = whole[part][:rows, :cols]
            truth = {b: cut[..., i] for i, b in enumerate(bands)}
            label = f"{name} {n + 1}" if name in PARTS else name
            rng = np.random.default_rng(zlib.crc32(label.encode()))
            yield _sensed(label, truth, noise, shift, rng, OMIT.get(name, ()))


def _sensed(
    name: str,
    truth: Mapping[str, np.ndarray],
    noise: float,
    shift: float,
    rng: np.random.Generator,
    omit: Sequence[str],
) -> Trial:
    images = {}
    for band, image in truth.items():
        far, turn = shift * rng.uniform() ** 0.5, rng.uniform(0, 2 * np.pi)
        there = moved(image, (far * np.sin(turn), far * np.cos(turn))) if far else image
        own = noise if band in B10 else noise * 2 / 3
        if band not in B10:
            there = seen(there, WIDTHS[band], native(band) // 10)
        images[band] = there + rng.normal(0, own, there.shape)
    return Trial(
        name=name,
        fine={b: x for b, x in images.items() if b in B10},
        coarse={b: x for b, x in images.items() if b not in B10},
        truth={b: x for b, x in truth.items() if b not in (*B10, *omit)},
        widths={b: w for b, w in WIDTHS.items() if b in images},
    )


def reduced(folder: Path, *, sensor: bool) -> Iterator[tuple[str, Trial]]:
    """Yield level and trial of real scenes that were degraded by two."""
    from quality import left_out, whole_scenes

    for scene in whole_scenes(folder):
        known = {b: c for b, c in scene.counts.items() if native(b) <= 20}
        if 20 not in left_out(scene):
            continue
        side = [
            min(c.shape[i] * native(b) // 40 for b, c in known.items()) for i in (0, 1)
        ]
        counts = {}
        for b, c in known.items():
            rows, cols = (n * 40 // native(b) for n in side)
            gone = c[:rows, :cols] == 0
            counts[b] = np.where(gone, np.nan, c[:rows, :cols] + float(scene.offset))
        widths = {b: WIDTHS.get(b, WIDTHS["B05"]) if sensor else DSEN2 for b in counts}
        low = {b: seen(x, widths[b], 2) for b, x in counts.items()}
        coarse = {b: x for b, x in low.items() if b in B20}
        yield (
            scene.level,
            Trial(
                name=scene.name,
                fine={b: x for b, x in low.items() if b in B10},
                coarse=coarse,
                truth={b: counts[b] for b in coarse},
                widths={b: widths[b] for b in coarse},
            ),
        )


# --- methods --------------------------------------------------------------------------


def attempt(trial: Trial, method: str, psf: str) -> dict[str, np.ndarray]:
    """Return what a method makes of the coarse bands; those that it does not, not."""
    told = point_spread(trial, psf)
    if method == "ATPRK":
        return by_atprk(trial)
    if method == "SupReME":
        return by_supreme(trial, told)
    tree, made = trial.tree, {}
    options = {"keep_native": False, "device": "cpu", "check": False}
    for bands in (B20, B60):
        own = [b for b in bands if b in trial.coarse]
        if not own:
            continue
        options["psf"] = given_to(method, BANDS[own[0]].native, told)
        try:
            found = s2sr_xr.upsample(tree, method, bands=own, **options)
        except (s2sr_xr.ModelError, s2sr_xr.MissingBandError):
            continue  # a network of the other pixel size
        made |= {b: found[b].to_numpy() * 1e4 for b in own}
    return made


def given_to(method: str, native: int, widths: dict[str, float] | None):
    """Return the widths of the bands that a method is given them for."""
    network = family(method).get(f"{native}m")
    sensor = s2sr_xr.get_spec(network).sensor if network else ()
    return (
        {b: widths[b] for b in sensor if b in widths} if widths and sensor else "sensor"
    )


def point_spread(trial: Trial, psf: str) -> dict[str, float] | None:
    """Return the widths in metres that methods are told; None: those of the sensor."""
    given = {b: 10 * w for b, w in trial.widths.items()}
    if psf == "given":
        return given
    if psf == "sensor":
        return None
    try:
        found = measure_psf(trial.tree)
    except s2sr_xr.S2SRError:
        return None
    from s2sr_xr.core.psf import resolve_psf

    return dict(resolve_psf(found.dropna("band"), bands=list(given)))


def by_atprk(trial: Trial) -> dict[str, np.ndarray]:
    from classical import atprk

    fine = np.stack([_filled(x) for x in trial.fine.values()])
    return {b: atprk(fine, y) for b, y in trial.coarse.items()}


def by_supreme(trial: Trial, told: Mapping[str, float] | None) -> dict[str, np.ndarray]:
    from classical import Seen, supreme

    from s2sr_xr.core.psf import resolve_psf

    told = told or resolve_psf(bands=list(trial.coarse))
    bands = {b: Seen(image=x, factor=1) for b, x in trial.fine.items()}
    bands |= {
        b: Seen(image=y, factor=native(b) // 10, width=told[b] / 10)
        for b, y in trial.coarse.items()
    }
    made = dict(zip(bands, supreme(list(bands.values())), strict=True))
    return {b: made[b] for b in trial.coarse}


def _filled(x: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x), np.nanmean(x), x)


# --- scores ---------------------------------------------------------------------------


def errors(trial: Trial, made: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the RMSE of each band, away from the border."""
    found = {}
    for band, truth in trial.truth.items():
        if band in made:
            edge = BORDER[native(band)]
            inner = np.s_[edge:-edge, edge:-edge]
            off = (made[band] - truth)[inner]
            found[band] = float(np.sqrt(np.nanmean(np.square(off))))
    return found


def row(name: str, method: str, own: Mapping[str, float], base: Mapping[str, float]):
    """Return a line of the table: RMSE of each group, and figures."""
    line: dict[str, object] = {"scene": name[:28], "method": method}
    for title, bands in GROUPS.items():
        there = [b for b in bands if b in own]
        line[title] = _mean([own[b] for b in there])
    for title in ("20 m", "60 m"):
        there = [b for b in GROUPS[title] if b in own and b in base]
        line[f"figure {title}"] = _mean([own[b] / base[b] for b in there])
    return line


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def judged(given: Iterator[Trial], methods: Sequence[str], psf: str) -> list[dict]:
    """Return the lines of scenes and methods."""
    rows = []
    for trial in given:
        base = errors(trial, attempt(trial, "bicubic", psf))
        for method in methods:
            own = (
                base
                if method == "bicubic"
                else errors(trial, attempt(trial, method, psf))
            )
            rows.append(row(trial.name, method, own, base))
    return rows


def means(rows: Sequence[dict]) -> list[dict]:
    """Return the mean line of each method, scenes of nothing but noise left out."""
    flat = {r["scene"] for r in rows if r["method"] == "bicubic" and r["20 m"] < FLAT}
    kept = [r for r in rows if r["scene"] not in flat]
    made = []
    for method in dict.fromkeys(r["method"] for r in kept):
        own = [r for r in kept if r["method"] == method]
        numbers = {k: _mean([r[k] for r in own]) for k in own[0] if k not in LABELS}
        made.append({"scene": f"mean of {len(own)}", "method": method} | numbers)
    return made


LABELS = ("scene", "method")


def show(title: str, rows: list[dict], *, as_json: bool) -> None:
    """Print a set's lines and their means."""
    print(f"\n{title}")
    found = [*rows, *means(rows)]
    if as_json:
        for line in found:
            tell("true_scale", {"set": title} | line)
    else:
        table([{k: _short(v) for k, v in r.items()} for r in found])


def _short(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if np.isnan(value) else f"{value:.3f}" if value < 3 else f"{value:.1f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("truth", type=Path, help="folder of references")
    parser.add_argument("--real", type=Path, help="folder of real scenes")
    parser.add_argument("--split", default="validation", help="or train, test, all")
    parser.add_argument("--scenes", nargs="+", help="in place of a split")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument(
        "--psf", choices=("given", "measured", "sensor"), default="given"
    )
    parser.add_argument("--noise", type=float, default=6, help="1e-4, of 10 m bands")
    parser.add_argument(
        "--shift", type=float, default=0, help="pixels of 10 m, at most"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    every = [s for names in SPLIT.values() for s in names]
    names = given.scenes or (every if given.split == "all" else SPLIT[given.split])
    made = trials(given.truth, names, noise=given.noise, shift=given.shift)
    of = "named scenes" if given.scenes else given.split
    title = f"True scale, {of}, psf {given.psf}, noise {given.noise:g}"
    rows = judged(made, given.methods, given.psf)
    show(f"{title}, shift {given.shift:g}", rows, as_json=given.json)
    for sensor in (True, False) if given.real else ():
        found: dict[str, list[dict]] = {}
        for level, trial in reduced(given.real, sensor=sensor):
            own = judged(iter((trial,)), given.methods, given.psf)
            found.setdefault(level, []).extend(own)
        name = "the sensor's" if sensor else "DSen2's"
        for level, own in sorted(found.items()):
            show(f"Reduced, {name} width, {level}", own, as_json=given.json)


if __name__ == "__main__":
    main()
