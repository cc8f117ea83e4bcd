"""What short-wave infrared at 10 m brings to a land cover map, over 20 m.

A scene is simulated, so that its land cover is known on every pixel. Its two bands of
short-wave infrared come to 10 m in three ways: repeated, by bicubic interpolation, and
by the network. Each result goes to a Zarr store. From the store a classifier takes its
samples, out of every second block, and maps the scene block by block into another
store. The blocks that it took no sample from are scored. A classifier that has the 10 m
bands alone says what the short-wave infrared is good for at all, one that has the
noiseless truth what there is to gain.

    python examples/classify.py --out land_cover
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import xarray as xr

import s2sr_xr
from s2sr_xr.core.bands import BANDS
from s2sr_xr.simulate import SPECTRA, landscape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from sklearn.pipeline import Pipeline

    Image: TypeAlias = NDArray[np.float32]
    Classes: TypeAlias = NDArray[np.uint8]
    Scores: TypeAlias = dict[str, float]

NATIVE = ("B02", "B03", "B04", "B08")
SWIR = ("B11", "B12")
METHODS = {
    "10 m bands alone": None,
    "SWIR repeated": "nearest",
    "SWIR bicubic": "bicubic",
    "SWIR by dsen2": "dsen2",
}
"""What a classifier sees: the model that brought the short-wave infrared to 10 m."""

CLASSES = {
    "cereal": ("#a5c639", ("cereal",)),
    "grass": ("#5fae57", ("pasture",)),
    "rape": ("#f2e34c", ("rape",)),
    "beet": ("#1f9e89", ("beet",)),
    "stubble": ("#e3c58a", ("straw",)),
    "bare soil": ("#9c6b3f", ("palesoil", "darksoil", "rock")),
    "trees": ("#1b5e20", ("broadleaf", "conifer")),
    "heath": ("#a05a9c", ("heath",)),
    "snow": ("#9be7ff", ("snow",)),
    "water": ("#2b6cb0", ("silt", "clear")),
    "buildings": ("#d7301f", ("tile", "slate", "metal")),
    "roads": ("#4a4a4a", ("asphalt", "gravel")),
}
"""Colour on the map, and the materials of the simulation that make up the class."""

UNKNOWN = 255
"""Where the map has no class: a pixel was not recorded, or lies under a cloud."""

BEYOND = 20
"""Samples of the world around a simulated scene, for the sensor's blur."""


# --- what is there --------------------------------------------------------------------


def land_cover(size: int, seed: int) -> Classes:
    """Return the class that covers most of each 10 m pixel of a simulated scene.

    The simulation draws the same country from the same seed. Roads and hedges lie over
    the parcels with the share of the ground that they take.

    Parameters
    ----------
    size, seed
        As given to `simulate_scene`.

    Returns
    -------
    np.ndarray
        (size, size), position in `CLASSES`; `UNKNOWN` under clouds and their edges.
    """
    world = landscape(2 * (size + BEYOND), np.random.default_rng(seed))
    parcel = _classes_of(world.first)[world.kind]
    shares = [(parcel == n).astype(np.float32) for n in range(len(CLASSES))]
    for material, share in world.lines:
        shares = [s * (1 - share) for s in shares]
        shares[_class_of(material)] += share
    classes = np.stack([_pixels(s) for s in shares]).argmax(0).astype(np.uint8)
    classes[_pixels(world.cloud) > 0.01] = UNKNOWN
    return classes


def _pixels(samples: Image) -> Image:
    """Return the mean of the 2 x 2 samples of each 10 m pixel, without the surround."""
    n = len(samples) // 2
    inner = slice(BEYOND // 2, n - BEYOND // 2)
    means: Image = samples.reshape(n, 2, n, 2).mean((1, 3))[inner, inner]
    return means


def _class_of(material: str) -> int:
    return next(n for n, (_, made) in enumerate(CLASSES.values()) if material in made)


def _classes_of(spectra: Image) -> NDArray[np.intp]:
    """Return the class of each spectrum (kinds, 13): that of the material it is.

    Parcels differ from the spectrum of their material by a gain and a slope.
    """
    ground = [n for n, band in enumerate(BANDS) if band != "B10"]
    known = np.log(np.array([*SPECTRA.values()])[:, ground])
    distance = np.log(spectra[:, ground])[:, None] - known
    slope = np.linspace(-1, 1, len(BANDS))[ground]
    basis, _ = np.linalg.qr(np.stack([np.ones_like(slope), slope], 1))
    distance -= distance @ basis @ basis.T
    nearest = np.square(distance).sum(-1).argmin(-1)
    return np.array([_class_of(m) for m in SPECTRA])[nearest]


# --- from a store to a map ------------------------------------------------------------


def train(
    scene: xr.Dataset, known: Classes, chosen: NDArray[np.bool_], samples: int
) -> Pipeline:
    """Return a classifier that knows some of the `chosen` pixels of a scene.

    Only the blocks that hold them are read, and one at a time.
    """
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    some = chosen & (rng.random(chosen.shape) < samples / chosen.sum())
    spectra, labels = [], []
    for rows, cols in blocks(scene):
        take = some[rows, cols]
        if take.any():
            block = scene.isel(y=rows, x=cols).to_dataarray("band").to_numpy()
            spectra.append(block[:, take].T)
            labels.append(known[rows, cols][take])
    # A random forest was 4 points worse here.
    perceptron = MLPClassifier(
        (64, 64), early_stopping=True, n_iter_no_change=25, random_state=0
    )
    classifier = make_pipeline(StandardScaler(), perceptron)
    return classifier.fit(np.concatenate(spectra), np.concatenate(labels))


def blocks(scene: xr.Dataset) -> list[tuple[slice, slice]]:
    """Return the rows and columns of each chunk of a scene."""
    edges = [np.cumsum((0, *scene.chunksizes[d])).tolist() for d in ("y", "x")]
    rows, cols = ([slice(*ends) for ends in pairwise(e)] for e in edges)
    return [(r, c) for r in rows for c in cols]


def classify(scene: xr.Dataset, classifier: Pipeline) -> xr.DataArray:
    """Return the lazy map of a scene: one task a chunk, nothing is read yet."""

    def label(*images: Image) -> Classes:
        spectra = np.stack(images, -1)
        seen = np.isfinite(spectra).all(-1)
        classes = np.full(seen.shape, UNKNOWN, np.uint8)
        if seen.any():
            classes[seen] = classifier.predict(spectra[seen])
        return classes

    mapped = xr.apply_ufunc(
        label, *scene.values(), dask="parallelized", output_dtypes=[np.uint8]
    )
    mapped.attrs = {
        "long_name": "land cover",
        "flag_values": list(range(len(CLASSES))),
        "flag_meanings": " ".join(name.replace(" ", "_") for name in CLASSES),
    }
    # Both, or what opens the store does not find the CRS.
    mapped.encoding = {"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
    return mapped.rename("land_cover")


# --- how good it is -------------------------------------------------------------------


def scores(mapped: Classes, known: Classes, judged: NDArray[np.bool_]) -> Scores:
    """Return the accuracies of a map, and the F1 of its thin classes, in percent."""
    from sklearn.metrics import f1_score

    right = mapped == known
    border = borders(known)
    f1 = f1_score(
        known[judged],
        mapped[judged],
        labels=range(len(CLASSES)),
        average=None,
        zero_division=0,
    )
    there = [n for n in range(len(CLASSES)) if (known[judged] == n).any()]
    by_name = dict(zip(CLASSES, f1, strict=True))
    return {
        "all": 100 * right[judged].mean(),
        "borders": 100 * right[judged & border].mean(),
        "inside": 100 * right[judged & ~border].mean(),
        "mean F1": 100 * f1[there].mean(),
        "F1 roads": 100 * by_name["roads"],
        "F1 buildings": 100 * by_name["buildings"],
        "F1 trees": 100 * by_name["trees"],
    }


def borders(known: Classes) -> NDArray[np.bool_]:
    """Return which pixels touch, by side or corner, one of another class."""
    near = np.lib.stride_tricks.sliding_window_view(np.pad(known, 1, "edge"), (3, 3))
    found: NDArray[np.bool_] = (near != known[..., None, None]).any((-2, -1))
    return found


def table(found: Mapping[str, Scores]) -> str:
    """Return the scores of every map, one a line."""
    columns = next(iter(found.values()))
    lines = [f"{'percent':<18}" + "".join(f"{c:>14}" for c in columns)]
    for name, row in found.items():
        lines.append(f"{name:<18}" + "".join(f"{v:>14.1f}" for v in row.values()))
    return "\n".join(lines)


# --- the picture ----------------------------------------------------------------------


def picture(
    path: Path,
    scenes: Mapping[str, xr.Dataset],
    maps: Mapping[str, Classes],
    found: Mapping[str, Scores],
) -> None:
    """Draw a close-up: above what each classifier saw, below what it made of it."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    known = maps["land cover"]
    at = _liveliest(known, min(120, len(known)))
    figure = Figure(figsize=(3 * len(maps), 7.2), layout="constrained")
    figure.suptitle(
        f"{10 * (at[0].stop - at[0].start)} m of the scene; accuracies are of all its"
        " clear pixels in blocks that gave no sample"
    )
    axes = figure.subplots(2, len(maps))
    swir = scenes["truth"].B12.to_numpy()[at]
    low, high = np.nanquantile(swir, (0.01, 0.99))
    for (above, below), name in zip(axes.T, maps, strict=True):
        scene = scenes["truth" if name == "land cover" else name]
        if "B12" in scene:
            what = "truth" if name == "land cover" else name.removeprefix("SWIR ")
            _show(above, scene.B12.to_numpy()[at], f"B12, {what}", (low, high))
        else:
            colour = [scene[b].to_numpy()[at] for b in ("B04", "B03", "B02")]
            tops = [np.nanquantile(c, (0.01, 0.98)) for c in colour]
            rgb = [(c - a) / (b - a) for c, (a, b) in zip(colour, tops, strict=True)]
            _show(above, np.clip(np.stack(rgb, -1), 0, 1), "B04 B03 B02, 10 m")
        title = f"{name}: {found[name]['all']:.1f} %" if name in found else name
        _show(below, _coloured(maps[name][at]), title)
    entries = [Patch(facecolor=c, label=n, ec="0.5") for n, (c, _) in CLASSES.items()]
    entries.append(Patch(facecolor="white", label="cloud or not seen", ec="0.5"))
    figure.legend(handles=entries, loc="outside lower center", ncols=7, frameon=False)
    figure.savefig(path, dpi=110)


def _liveliest(known: Classes, side: int) -> tuple[slice, slice]:
    """Return the window with the most borders between classes, and few clouds."""
    busy = borders(known) - 4.0 * (known == UNKNOWN)
    total = np.pad(busy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    tall = total[side:] - total[:-side]
    sums = tall[:, side:] - tall[:, :-side]
    row, col = np.unravel_index(int(sums.argmax()), sums.shape)
    return slice(row, row + side), slice(col, col + side)


def _coloured(classes: Classes) -> NDArray[np.float64]:
    from matplotlib.colors import to_rgb

    colours = np.ones((256, 3))
    colours[: len(CLASSES)] = [to_rgb(colour) for colour, _ in CLASSES.values()]
    return colours[classes]


def _show(
    ax: Axes, image: NDArray[np.floating], title: str, ends: Sequence[float] = (0, 1)
) -> None:
    ax.imshow(image, cmap="gray", vmin=ends[0], vmax=ends[1], interpolation="nearest")
    ax.set_title(title, fontsize=10)
    ax.set_xticks([])
    ax.set_yticks([])


# --- all of it ------------------------------------------------------------------------


def main(out: Path, *, size: int, seed: int, samples: int) -> dict[str, Scores]:
    """Write stores, maps and a figure to `out`; print the table and return it."""
    item = s2sr_xr.simulate_scene(out / "scene", size=size, seed=seed)
    tree = s2sr_xr.open_stac(item)
    for model in filter(None, METHODS.values()):
        ten = tree.s2sr.upsample(model, bands=SWIR)
        ten.s2sr.to_zarr(out / f"{model}.zarr", mode="w")

    known = land_cover(size, seed)
    scenes, side = {}, -(-size // 6)
    for name, model in METHODS.items():
        ten = s2sr_xr.open_result(out / f"{model or 'nearest'}.zarr", chunks={})
        wanted = NATIVE if model is None else (*NATIVE, *SWIR)
        # The blocks of a whole product need no cutting; a small scene is one block.
        scenes[name] = ten[[*wanted]].isel(time=0).chunk(y=side, x=side)
    truth = s2sr_xr.open_truth(item)[[*NATIVE, *SWIR]]
    scenes["truth"] = truth.chunk(y=side, x=side)

    row, col = (np.arange(size) // side,) * 2
    trained = (row[:, None] + col) % 2 == 0
    seen = scenes["SWIR repeated"].to_dataarray("band").notnull().all("band")
    clear = (known != UNKNOWN) & seen.to_numpy()
    maps, found = {"land cover": known}, {}
    for name, scene in scenes.items():
        classifier = train(scene, known, clear & trained, samples)
        store = out / f"land_cover_{name.replace(' ', '_')}.zarr"
        classify(scene, classifier).to_dataset().to_zarr(
            store, mode="w", consolidated=False
        )
        mapped = xr.open_zarr(store, consolidated=False).land_cover.to_numpy()
        found[name] = scores(mapped, known, clear & ~trained)
        if name != "truth":
            maps[name] = mapped
    print(table(found))
    picture(out / "land_cover.png", scenes, maps, found)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for all of it")
    parser.add_argument("--size", type=int, default=720, help="side of the scene, px")
    parser.add_argument("--seed", type=int, default=0, help="which scene")
    parser.add_argument("--samples", type=int, default=20_000, help="pixels to learn")
    options = vars(parser.parse_args())
    main(options.pop("out"), **options)
