"""What do recorded pixels look like before and after? The pictures of the README.

    python benchmarks/pictures.py DATA --out docs/pictures

`DATA` is a folder of real Sentinel-2 crops: ``l2a_native/*.npz`` as in `quality.py`,
and ``l1b/*.tif``, four bands (B02, B03, B04, B08) of one detector in counts. Two
pictures are made, each of one small crop, drawn so large that single pixels are seen:

``swir.png``
    Short-wave infrared and red edge (B12, B11, B05): the 20 m pixels
    as recorded, bicubic interpolation, and 10 m pixels by ``upsample()``.
``l1b.png``
    Red, green, blue of Level-1B: as one detector recorded them, with colour fringes;
    each band moved by whole pixels; and 5 m pixels by ``superresolve()``.

All panels of a picture show the same ground with the same contrast: for each channel,
the darkest and the brightest hundredth of the recorded pixels are cut off. Nothing is
sharpened or smoothed for display.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from real_scenes import cropped, opened, read

import s2sr_xr

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

SCENE = "ben_S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43"
"""Fields and farms in Austria. The weights for 20 m bands never saw the place."""

SWIR = ("B12", "B11", "B05")
DETECTOR = "l1bsr_example_00"
"""A motorway and roofs. No shipped weights learnt from L1B images."""

RGB = ("B04", "B03", "B02")
Area: TypeAlias = "tuple[int, int, int]"
"""Top row, left column and side of a crop, in 10 m pixels of the scene."""

PANEL, GAP, HEAD = 480, 12, 40
"""Side of a panel, gap and headline in pixels of the picture."""


def swir_panels(path: Path, area: Area) -> dict[str, np.ndarray]:
    """Return the panels of ``swir.png``, (y, x, 3) reflectance of the same ground."""
    scene = read(path)
    with tempfile.TemporaryDirectory() as scratch:
        tree = opened(scene, cropped(scene.counts, 60), Path(scratch)).load()
    made = {
        "bicubic interpolation": tree.s2sr.upsample("bicubic", bands=SWIR),
        "10 m by upsample()": tree.s2sr.upsample(bands=SWIR),
    }
    panels = {"20 m as recorded": cut(tree["r20m"].to_dataset(), SWIR, area, 20)}
    return panels | {name: cut(ds, SWIR, area, 10) for name, ds in made.items()}


def l1b_panels(path: Path, area: Area) -> dict[str, np.ndarray]:
    """Return the panels of ``l1b.png``, (y, x, 3) counts of the same ground."""
    tree = s2sr_xr.open_l1b(path).load()
    moved = s2sr_xr.align_to_green(tree)
    five = moved.s2sr.superresolve()
    made = {
        "L1B as recorded, 10 m": (tree, 10),
        "moved by whole pixels, 10 m": (moved, 10),
        "5 m by superresolve()": (five, 5),
    }
    return {
        name: cut(of["d01"].to_dataset(), RGB, area, metres)
        for name, (of, metres) in made.items()
    }


def cut(ds: xr.Dataset, bands: Sequence[str], area: Area, metres: int) -> np.ndarray:
    """Return a crop of some bands, (y, x, band)."""
    top, left, side = (n * 10 // metres for n in area)
    rows, cols = slice(top, top + side), slice(left, left + side)
    return np.stack([np.squeeze(ds[b].to_numpy())[rows, cols] for b in bands], -1)


def draw(panels: dict[str, np.ndarray], path: Path, *, gamma: float = 1) -> None:
    """Write panels side by side, each pixel a square of whole screen pixels."""
    recorded = next(iter(panels.values()))
    low, high = np.nanpercentile(recorded, [1, 99], axis=(0, 1))
    width = len(panels) * (PANEL + GAP) - GAP
    dpi = 100
    figure = Figure(figsize=(width / dpi, (PANEL + HEAD) / dpi), dpi=dpi)
    for n, (name, values) in enumerate(panels.items()):
        shown = np.clip((values - low) / (high - low), 0, 1) ** gamma
        zoom = PANEL // len(values)
        left = n * (PANEL + GAP)
        figure.figimage(shown.repeat(zoom, 0).repeat(zoom, 1), left, 0, origin="upper")
        figure.text(
            (left + PANEL / 2) / width,
            (PANEL + HEAD / 2) / (PANEL + HEAD),
            name,
            ha="center",
            va="center",
            fontsize=15,
        )
    figure.savefig(path, dpi=dpi)


def main(arguments: list[str] | None = None) -> None:
    """Draw both pictures, and say where they are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder of real crops")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--swir", type=int, nargs=3, default=(10, 12, 96))
    parser.add_argument("--l1b", type=int, nargs=3, default=(150, 210, 80))
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    swir, l1b = asked.out / "swir.png", asked.out / "l1b.png"
    draw(swir_panels(asked.data / "l2a_native" / f"{SCENE}.npz", asked.swir), swir)
    draw(l1b_panels(asked.data / "l1b" / f"{DETECTOR}.tif", asked.l1b), l1b, gamma=0.6)
    for path in (swir, l1b):
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
