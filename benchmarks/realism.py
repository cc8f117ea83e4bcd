"""How much does a simulated scene look like Sentinel-2? A figure and a table.

    python benchmarks/realism.py --real DIR --out realism.png

`DIR` holds real scenes as ``*.npz``, at any depth: ``im10``, ``im20``, ``im60`` of
shape (y, x, band) on nested native grids, ``bands10`` ... with ESA's names, and
``meta``, a JSON text with ``level`` and ``dn_offset``. Without it only the simulated
scenes appear. The seeds are fixed. Level-1C is compared with Level-1C; scenes of
nothing but sea or cloud are left out. A star marks a row where a simulated scene lies
outside the range of the real ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import rasterio

from s2sr_xr.simulate import simulate_scene

SHOWN = 240  # 10 m pixels of a scene in the figure
PAIRS = (
    *("B02/B03", "B02/B04", "B03/B04", "B04/B08", "B08/B8A", "B04/B05", "B06/B8A"),
    *("B8A/B11", "B11/B12", "B04/B12", "B02/B01", "B08/B09"),
)


def real_scenes(folder: Path, level: str) -> dict[str, dict[str, np.ndarray]]:
    """Return reflectance by scene and band, of scenes with all 10 and 20 m bands."""
    scenes = {}
    for file in sorted(folder.rglob("*.npz")):
        with np.load(file) as z:
            if "meta" not in z.files:
                continue
            meta = json.loads(str(z["meta"]))
            if not meta.get("level", "").startswith(level):
                continue
            scene = {
                str(name): (z[f"im{r}"][..., k].astype(np.float32) - meta["dn_offset"])
                / 10_000
                for r in (10, 20, 60)
                if f"im{r}" in z.files
                for k, name in enumerate(z[f"bands{r}"])
            }
        whole = {"B02", "B08", "B05", "B12", "B01"} <= scene.keys()
        if whole and scene["B08"].mean() > 0.08 and scene["B04"].mean() < 0.3:
            scenes[file.stem[:28]] = scene
    return scenes


def simulated_scene(folder: str, size: int, seed: int, level: str) -> dict:
    """Return reflectance by band of a new scene, NaN outside the swath."""
    item = simulate_scene(folder, size=size, seed=seed, level=level)
    scene = {}
    for name, asset in item.assets.items():
        if "reflectance" in asset.roles:
            with rasterio.open(asset.get_absolute_href()) as source:
                counts = source.read(1)
            reflectance = counts.astype(np.float32) / 10_000 - np.float32(0.1)
            scene[name] = np.where(counts == 0, np.nan, reflectance)
    return scene


def power(image: np.ndarray, side: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Return frequency in cycles a pixel, and radial power over windows of `side`."""
    side = min(side, min(image.shape) // 2)
    hann = np.hanning(side)
    windows = [
        image[i : i + side, j : j + side]
        for i in range(0, image.shape[0] - side + 1, side)
        for j in range(0, image.shape[1] - side + 1, side)
    ]
    whole = [w - w.mean() for w in windows if np.isfinite(w).all()]
    spectrum = np.mean(
        [np.abs(np.fft.fft2(w * hann * hann[:, None])) ** 2 for w in whole], axis=0
    )
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    edges = np.geomspace(0.02, 0.5, 14)
    rings = [(f >= a) & (f < b) for a, b in itertools.pairwise(edges)]
    keep = [r.any() for r in rings]
    middle = np.sqrt(edges[:-1] * edges[1:])[keep]
    return middle, np.array([spectrum[r].mean() for r in rings if r.any()])


def slope(image: np.ndarray) -> float:
    """Return the exponent of the power spectrum between 0.02 and 0.3 cycles a pixel."""
    f, p = power(image)
    inside = f < 0.3
    return float(np.polyfit(np.log(f[inside]), np.log(p[inside]), 1)[0])


def gradient(image: np.ndarray) -> np.ndarray:
    """Return the length of the gradient, in reflectance a pixel, where known."""
    steps = np.hypot(np.diff(image, axis=1)[:-1], np.diff(image, axis=0)[:, :-1])
    return steps[np.isfinite(steps)]


def coarse(image: np.ndarray, factor: int) -> np.ndarray:
    """Return means over `factor` x `factor` pixels."""
    y, x = (n // factor for n in image.shape)
    whole = image[: y * factor, : x * factor]
    return whole.reshape(y, factor, x, factor).mean((1, 3))


def correlation(scene: dict[str, np.ndarray], a: str, b: str) -> float:
    """Return the correlation of two bands on the coarser one's pixels."""
    one, two = scene[a], scene[b]
    rows = min(one.shape[0], two.shape[0])
    one, two = (coarse(v, v.shape[0] // rows) for v in (one, two))
    both = np.isfinite(one) & np.isfinite(two)
    return float(np.corrcoef(one[both], two[both])[0, 1])


def statistics(scene: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the row of the table for one scene; reflectances in percent."""
    row = {}
    for name in ("B01", "B02", "B04", "B08", "B8A", "B09", "B11", "B12"):
        row[f"mean {name}"] = 100 * float(np.nanmean(scene[name]))
        row[f"sd {name}"] = 100 * float(np.nanstd(scene[name]))
    for name in ("B02", "B04", "B08", "B05", "B8A", "B11"):
        row[f"slope {name}"] = slope(scene[name])
    for name in ("B02", "B04", "B08", "B11"):
        steps = 100 * gradient(scene[name])
        row[f"grad50 {name}"] = float(np.median(steps))
        row[f"grad95 {name}"] = float(np.percentile(steps, 95))
    for pair in PAIRS:
        row[f"corr {pair}"] = correlation(scene, *pair.split("/"))
    return row


def report(simulated: dict[str, dict], real: dict[str, dict]) -> str:
    """Return the table: every simulated scene, and the range of the real ones."""
    table = {name: statistics(scene) for name, scene in (simulated | real).items()}
    lines = [
        f"{'':16}" + "".join(f"{n:>9}" for n in simulated) + "   real: min, median, max"
    ]
    for key in next(iter(table.values())):
        ours = "".join(f"{table[n][key]:9.2f}" for n in simulated)
        theirs = sorted(table[n][key] for n in real) or [np.nan]
        inside = all(theirs[0] <= table[n][key] <= theirs[-1] for n in simulated)
        span = f"{theirs[0]:9.2f}{np.median(theirs):9.2f}{theirs[-1]:9.2f}"
        lines.append(f"{key:16}{ours}   {span}{'' if inside else '  *'}")
    return "\n".join(lines)


def picture(scene: dict[str, np.ndarray], bands: tuple[str, ...], top: float):
    """Return an RGB crop in 0..1, stretched alike for all scenes."""
    rows = min(scene[b].shape[0] for b in bands)
    stack = [coarse(scene[b], scene[b].shape[0] // rows) for b in bands]
    n = SHOWN * rows // scene["B02"].shape[0] if rows < scene["B02"].shape[0] else SHOWN
    rgb = np.nan_to_num(np.stack(stack, -1)[:n, :n] / top)
    return np.clip(rgb, 0, 1) ** (1 / 1.5)


def figure(simulated: dict[str, dict], real: dict[str, dict], out: Path) -> None:
    """Draw pictures of all scenes, their spectra of power, and their gradients."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    names = [*simulated, *real]
    columns = 5
    rows = -(-len(names) // columns)
    fig = plt.figure(figsize=(3 * columns, 3.2 * rows + 4), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[3.2 * rows, 4])
    for ax, name in zip(top.subplots(rows, columns).flat, names, strict=False):
        ax.imshow(picture((simulated | real)[name], ("B04", "B03", "B02"), 0.26))
        ax.set_title(name, fontsize=8)
    for ax in top.axes:
        ax.axis("off")
    spectra, steps = bottom.subplots(1, 2)
    for name, scene in (simulated | real).items():
        style = {"color": "C3"} if name in simulated else {"color": "0.6", "lw": 0.8}
        f, p = power(scene["B04"])
        spectra.loglog(f, p / p[0], **style)
        bins = np.geomspace(1e-4, 0.3, 50)
        density, _ = np.histogram(gradient(scene["B04"]), bins, density=True)
        steps.loglog(bins[:-1], density, **style)
    spectra.set(title="power of B04, first ring = 1", xlabel="cycles a pixel")
    steps.set(title="gradient of B04", xlabel="reflectance a pixel")
    fig.savefig(out, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, help="folder of real scenes")
    parser.add_argument("--out", type=Path, default=Path("realism.png"))
    parser.add_argument("--size", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--level", default="L1C")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        simulated = {
            f"seed {seed}": simulated_scene(folder, args.size, seed, args.level)
            for seed in args.seeds
        }
    real = real_scenes(args.real, args.level) if args.real else {}
    print(report(simulated, real))
    figure(simulated, real, args.out)


if __name__ == "__main__":
    main()
