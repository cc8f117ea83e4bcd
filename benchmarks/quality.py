"""Say how good a model is on real pixels: pictures to look at, and scores.

`--real` is a folder with ``l1c_native/*.npz`` and ``l2a_native/*.npz``: native counts
``im10``, ``im20``, ``im60`` (y, x, band) from one corner, the names ``bands10`` ... of
their bands, and ``meta``, a JSON text with ``level`` and ``dn_offset``. Every scene
becomes a local STAC item and takes the road that users take: `open_stac`, `upsample`.

At full scale nobody knows the truth: a picture a scene, to look at. At reduced scale
the truth is the recorded pixels: all bands are degraded by 2 (6), and the item says
that the degraded pixels are of 10, 20 and 60 m. So a 40 m (360 m) pixel is brought to
20 m (60 m), and compared with what the sensor saw.

    python benchmarks/quality.py --real real --out quality

One JSON line for each scene, scale and method, then the tables. Methods: nearest,
bicubic (a = -0.75, torch's), bicubic with a = -0.5 (the papers'), and `--model`. The
figure of a scene is the mean over its bands of RMSE / RMSE of bicubic, that of a set
the mean over its scenes. Scenes that bicubic gets right to 10 DN (calm sea) are listed,
but not in the mean: their figure compares noise.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import s2sr_xr
from s2sr_xr import report
from s2sr_xr.bands import BANDS
from s2sr_xr.degrade import reduce_scale
from s2sr_xr.models.resample import Upsample
from s2sr_xr.simulate import write_item

CORNER, EPSG = (600_000, 8_200_000), 32722  # a tile of the south: y % 60 is 40
SCALES = {20: 2, 60: 6}  # degraded by so much, bands of so many metres find their truth
LEAST = 6  # coarse pixels along a side: with fewer, edges are all there is
FLAT = 10  # DN: where bicubic is as near as this, noise is all there is to compare
PAPERS = "bicubic a=-0.5"


@dataclass(frozen=True, kw_only=True)
class Real:
    """Native counts of one scene."""

    name: str
    level: str
    offset: int
    counts: dict[str, np.ndarray]


def read(path: Path) -> Real:
    """Return the scene in a file."""
    with np.load(path) as file:
        meta = json.loads(str(file["meta"]))
        counts = {
            str(name): np.ascontiguousarray(file[f"im{metres}"][..., k])
            for metres in (10, 20, 60)
            if f"im{metres}" in file
            for k, name in enumerate(file[f"bands{metres}"])
        }
    return Real(
        name=path.stem,
        level=meta["level"].split()[0],
        offset=-int(meta["dn_offset"]),
        counts=counts,
    )


def natives(scene: Real) -> set[int]:
    """Return the sizes of pixels that a scene has, in metres."""
    return {BANDS[name].native for name in scene.counts}


def cropped(counts: dict[str, np.ndarray], cell: int) -> dict[str, np.ndarray]:
    """Return the whole cells of `cell` metres, from the upper left."""
    sides = [[n * BANDS[b].native // cell for n in c.shape] for b, c in counts.items()]
    rows, cols = np.min(sides, axis=0)
    return {
        b: c[: rows * cell // BANDS[b].native, : cols * cell // BANDS[b].native]
        for b, c in counts.items()
    }


def reduced(counts: np.ndarray, factor: int) -> np.ndarray:
    """Return counts as pixels `factor` times as wide would have them; 0 is missing."""
    seen = torch.from_numpy(counts.astype(np.float32))
    seen[seen == 0] = torch.nan
    coarse = reduce_scale(seen, factor).numpy()
    codes = np.clip(np.rint(np.nan_to_num(coarse)), 1, 65535)
    return np.where(np.isnan(coarse), 0, codes).astype(np.uint16)


def reflectance(counts: np.ndarray, offset: int) -> np.ndarray:
    """Return what counts mean; 0 is missing."""
    return np.where(counts == 0, np.nan, (counts.astype(np.float64) + offset) / 10_000)


def opened(scene: Real, counts: dict[str, np.ndarray], folder: Path) -> xr.DataTree:
    """Return counts as a user gets them: written as a local STAC item, and opened."""
    item = write_item(
        folder,
        scene.name,
        counts,
        corner=CORNER,
        epsg=EPSG,
        datetime=dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        level=scene.level,
        baseline="05.11" if scene.offset else "02.09",
        offset=scene.offset,
    )
    return s2sr_xr.open_stac(item)


def papers_bicubic(tree: xr.DataTree, metres: int, like: xr.Dataset) -> xr.Dataset:
    """Return the bands of one pixel size by Keys' kernel with a = -0.5."""
    up = Upsample(metres // 10, "bicubic", a=-0.5)
    found = {}
    for name, band in tree[f"r{metres}m"].data_vars.items():
        image = np.pad(band.values[0], up.reach, mode="symmetric")
        found[name] = (
            ("y", "x"),
            up(torch.from_numpy(image)[None, None])[0, 0].numpy(),
        )
    return xr.Dataset(found, like.isel(time=0).coords)


def at_reduced_scale(
    scene: Real, metres: int, model: str, folder: Path
) -> dict[str, report.Scores]:
    """Return what each method makes of the bands of `metres`, against the recorded."""
    factor = SCALES[metres]
    known = {b: c for b, c in scene.counts.items() if BANDS[b].native <= metres}
    known = cropped(known, metres * factor)
    bands = [b for b in known if BANDS[b].native == metres]
    coarse = {b: reduced(c, factor) for b, c in known.items()}
    if min(coarse[bands[0]].shape) < LEAST:
        raise s2sr_xr.GridError(f"only {coarse[bands[0]].shape} coarse pixels")
    tree = opened(scene, coarse, folder / f"by{factor}")
    # Full scale is checked. Here B09 of a dark sea is alone with B01, and half of it is
    # below 0: true of that scene, and what an offset applied twice would look like.
    asked = {"bands": bands, "keep_native": False}
    made = {
        name: tree.s2sr.upsample(name, check=False, **asked).compute()
        for name in dict.fromkeys(("nearest", "bicubic", model))
    }
    made[PAPERS] = papers_bicubic(tree, metres, made["bicubic"])
    truth = made[PAPERS].assign(
        {b: (("y", "x"), reflectance(known[b], scene.offset)) for b in bands}
    )
    return report.compare(made, truth, bands)


def at_full_scale(scene: Real, model: str, folder: Path, out: Path) -> None:
    """Draw native bands beside what the model makes of them."""
    counts = cropped(scene.counts, max(natives(scene)))
    tree = opened(scene, counts, folder / "full")
    made = tree.s2sr.upsample(model).compute()
    title = f"{scene.name} ({scene.level})"
    report.before_after(tree, made, out / f"{scene.name}.png", title=title)


def lines(scene: Real, metres: int, scores: dict[str, report.Scores]) -> list[dict]:
    """Return one record a method."""
    return [
        {
            "scene": scene.name,
            "level": scene.level,
            "metres": metres,
            "method": method,
            "figure": report.relative_rmse(own, scores["bicubic"]),
            "mean": asdict(own.means[0]),
            "bands": {row.name: asdict(row) for row in own.bands},
        }
        for method, own in scores.items()
    ]


def judge(scene: Real, model: str, out: Path) -> list[dict]:
    """Draw and score one scene, and say what cannot be done with it, and why."""
    if natives(scene) == {10}:
        print(f"skipped {scene.name}: no 20 m or 60 m bands")
        return []
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        try:
            at_full_scale(scene, model, Path(scratch), out)
        except s2sr_xr.S2SRError as error:
            print(f"skipped {scene.name} at full scale: {error}")
        for metres in sorted(natives(scene) - {10}):
            try:
                scores = at_reduced_scale(scene, metres, model, Path(scratch))
            except s2sr_xr.S2SRError as error:
                print(f"skipped {scene.name} at {metres} m: {error}")
                continue
            found += lines(scene, metres, scores)
    return found


def summary(found: list[dict]) -> str:
    """Return a table for each level and native pixel: scenes, and their mean."""
    text = []
    methods = list(dict.fromkeys(r["method"] for r in found))
    for level, metres in sorted({(r["level"], r["metres"]) for r in found}):
        own = [r for r in found if (r["level"], r["metres"]) == (level, metres)]
        text.append(f"\n{level}, {metres * SCALES[metres]} m -> {metres} m: mean bands")
        text.append(f"{'':<26}" + "".join(f"  {m:<34}" for m in methods))
        title = "  {:>6} {:>6} {:>6} {:>6} {:>6}"
        titles = title.format("RMSE", "SRE", "SAM", "UIQ", "figure")
        text.append(f"{'scene':<26}" + titles * len(methods))
        scenes = list(dict.fromkeys(r["scene"] for r in own))
        for name in scenes:
            row = {r["method"]: numbers(r) for r in own if r["scene"] == name}
            text.append(shown(name, [row[m] for m in methods]))
        flat = [
            r["scene"]
            for r in own
            if r["method"] == "bicubic" and r["mean"]["rmse"] < FLAT
        ]
        seen = [r for r in own if r["scene"] not in flat]
        sets = [[numbers(r) for r in seen if r["method"] == m] for m in methods]
        text.append(
            shown(
                f"mean of {len(scenes) - len(flat)}",
                [list(np.nanmean(s, axis=0)) if s else [np.nan] * 5 for s in sets],
            )
        )
        if flat:
            text.append(f"without {', '.join(flat)}: below {FLAT} DN, only noise")
    return "\n".join(text)


def numbers(record: dict) -> list[float]:
    """Return what the table shows of one scene and method."""
    return [
        *(record["mean"][k] for k in ("rmse", "sre", "sam", "uiq")),
        record["figure"],
    ]


def shown(name: str, columns: list[list[float]]) -> str:
    """Return one row of the table."""
    row = "  {:>6.1f} {:>6.2f} {:>6.3f} {:>6.3f} {:>6.3f}"
    return f"{name[:26]:<26}" + "".join(row.format(*c) for c in columns)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, required=True, help="folder of scenes")
    parser.add_argument("--out", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--model", default="bicubic")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    found = []
    for folder in ("l1c_native", "l2a_native"):
        for path in sorted((given.real / folder).glob("*.npz")):
            for record in judge(read(path), given.model, given.out):
                print(json.dumps(record), flush=True)
                found.append(record)
    text = summary(found)
    print(text)
    (given.out / "quality.txt").write_text(text.lstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
