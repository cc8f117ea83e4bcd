"""Say how good a model is on real pixels: pictures to look at, and scores.

`--real` is a folder as in `real_scenes.py`. Every scene becomes a local STAC item, and
is opened and upsampled as users do it (`open_stac`, `upsample`).

At full scale nobody knows the truth: a picture a scene, to look at. At reduced scale
the truth is the recorded pixels, as in `evaluate.reduced_resolution`: a 40 m (360 m)
pixel is brought to 20 m (60 m), and compared with what the sensor saw.

    python benchmarks/quality.py --real real --out quality
    python benchmarks/quality.py --real real --out quality --model dsen2 --tables

One JSON line for each scene, scale and method, then the tables. Methods: nearest,
bicubic (a = -0.75, torch's), bicubic with a = -0.5 (the papers'), and `--model`. The
figure of a scene is the mean over its bands of RMSE / RMSE of bicubic, that of a set
the mean over its scenes. Scenes that bicubic gets right to 10 DN (calm sea) are listed,
but not in the mean: their figure compares noise.

With `--tables` nothing is drawn, only places left out of training are judged
(`real_scenes.LEFT_OUT`), ATPRK and SupReME of `classical.py` run too, and the tables
are those of the DSen2 paper on these scenes: 3 and 4 for 20 m bands, 5 for 60 m ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from real_scenes import (
    LEFT_OUT,
    Real,
    cropped,
    natives,
    opened,
    place,
    scenes_in,
    whole_scenes,
)

import s2sr_xr
from s2sr_xr import evaluate
from s2sr_xr.core.bands import BANDS
from s2sr_xr.evaluate.degraded_scene import one_scale_below
from s2sr_xr.evaluate.reduced_resolution import INTERPOLATIONS, attempt, compare_trial

if TYPE_CHECKING:
    import xarray as xr

    from s2sr_xr.evaluate.degraded_scene import Trial

SCALES = {20: 2, 60: 6}  # degraded by so much, bands of so many metres find their truth
FLAT = 10  # DN: where bicubic is as near as this, noise is all there is to compare


def at_reduced_scale(
    scene: Real, metres: int, model: str, folder: Path, *, classical: bool
) -> dict[str, evaluate.Scores]:
    """Return what each method makes of the bands of `metres`, against the recorded."""
    known = {b: c for b, c in scene.counts.items() if BANDS[b].native <= metres}
    tree = opened(scene, cropped(known, metres), folder / f"for{metres}")
    trial = one_scale_below(tree, f"{metres}m")
    # Full scale is checked. Here B09 of a dark sea is alone with B01, and half of it is
    # below 0: true of that scene, and what an offset applied twice would look like.
    made = {m: attempt(trial, m, check=False) for m in (*INTERPOLATIONS, model)}
    if classical:
        # Before the model, as in the paper.
        made = {**made, **by_classics(trial), model: made.pop(model)}
    return compare_trial(trial, made)


def by_classics(trial: Trial) -> dict[str, dict[int, xr.Dataset]]:
    """Return what methods without a network make of a scene."""
    from classical import by_atprk, by_supreme

    return {"ATPRK": by_atprk(trial), "SupReME": by_supreme(trial)}


def at_full_scale(scene: Real, model: str, folder: Path, out: Path) -> None:
    """Draw native bands beside what the model makes of them."""
    counts = cropped(scene.counts, max(natives(scene)))
    tree = opened(scene, counts, folder / "full")
    made = tree.s2sr.upsample(model).compute()
    title = f"{scene.name} ({scene.level})"
    evaluate.before_after(tree, made, out / f"{scene.name}.png", title=title)


def lines(scene: Real, metres: int, scores: dict[str, evaluate.Scores]) -> list[dict]:
    """Return one record a method."""
    return [
        {
            "scene": scene.name,
            "level": scene.level,
            "metres": metres,
            "method": method,
            "figure": evaluate.relative_rmse(own, scores["bicubic"]),
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
    with tempfile.TemporaryDirectory() as scratch:
        try:
            at_full_scale(scene, model, Path(scratch), out)
        except s2sr_xr.S2SRError as error:
            print(f"skipped {scene.name} at full scale: {error}")
    return scored(scene, model, sorted(natives(scene) - {10}))


def scored(
    scene: Real, model: str, sizes: list[int], *, classical: bool = False
) -> list[dict]:
    """Score the bands of some native pixels, or say why they cannot be."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for metres in sizes:
            try:
                scores = at_reduced_scale(
                    scene, metres, model, Path(scratch), classical=classical
                )
            except s2sr_xr.S2SRError as error:
                print(f"skipped {scene.name} at {metres} m: {error}")
                continue
            found += lines(scene, metres, scores)
    return found


def left_out(scene: Real) -> list[int]:
    """Return the native pixels whose weights never saw the place of a scene."""
    return [m for m in SCALES if place(scene.name) in LEFT_OUT[f"{m}m"]]


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
        seen = not_flat(own)
        flat = [n for n in scenes if n not in {r["scene"] for r in seen}]
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


# The tables of the paper


def papers_tables(found: list[dict]) -> str:
    """Return Tables 3 to 5 of the DSen2 paper, for each level: means over scenes."""
    text = []
    for metres, level in sorted({(r["metres"], r["level"]) for r in found}):
        own = [r for r in found if (r["metres"], r["level"]) == (metres, level)]
        kept = not_flat(own)
        scenes = {r["scene"] for r in kept}
        title = "Tables 3 and 4" if metres == 20 else "Table 5"
        scales = f"{metres * SCALES[metres]} m -> {metres} m"
        text.append(f"\n{title}: {level}, {scales}, means of {len(scenes)}")
        text += papers_table(kept) if kept else ()
        text += figures(own, scenes)
    text.append(f"\nOnly noise: bicubic is right to {FLAT} DN; not in the means.")
    return "\n".join(text)


def papers_table(found: list[dict]) -> list[str]:
    """Return the lines of one level and native pixel."""
    methods = list(dict.fromkeys(r["method"] for r in found))
    bands = list(found[0]["bands"])
    rows = []
    for key, digits in (("rmse", 1), ("sre", 1), ("uiq", 3)):
        rows.append(f"{key.upper():<16}" + "".join(f"{b:>8}" for b in (*bands, "mean")))
        for m in methods:
            own = [r for r in found if r["method"] == m]
            cells = [[r["bands"][b][key] for r in own] for b in bands]
            cells.append([r["mean"][key] for r in own])
            shown = (f"{np.nanmean(c):>8.{digits}f}" for c in cells)
            rows.append(f"  {m:<14}" + "".join(shown))
    rows.append(f"{'':<16}{'SAM':>8}{'figure':>8}")
    for m in methods:
        own = [r for r in found if r["method"] == m]
        sam = np.nanmean([r["mean"]["sam"] for r in own])
        figure = np.nanmean([r["figure"] for r in own])
        rows.append(f"  {m:<14}{sam:>8.2f}{figure:>8.3f}")
    return rows


def figures(found: list[dict], kept: set[str]) -> list[str]:
    """Return the figure of each scene and method."""
    methods = list(dict.fromkeys(r["method"] for r in found))
    rows = [f"{'figure':<30}" + "".join(f"{m[:9]:>10}" for m in methods)]
    for name in dict.fromkeys(r["scene"] for r in found):
        own = {r["method"]: r["figure"] for r in found if r["scene"] == name}
        row = "".join(f"{own[m]:>10.3f}" for m in methods)
        rows.append(f"  {name[:28]:<28}{row}{'' if name in kept else '  only noise'}")
    return rows


def not_flat(found: list[dict]) -> list[dict]:
    """Return the records of scenes where there is more than noise to compare."""
    flat = {
        (r["scene"], r["metres"])
        for r in found
        if r["method"] == "bicubic" and r["mean"]["rmse"] < FLAT
    }
    return [r for r in found if (r["scene"], r["metres"]) not in flat]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, required=True, help="folder of scenes")
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--model", default="bicubic")
    parser.add_argument(
        "--tables", action="store_true", help="those of the DSen2 paper, and no picture"
    )
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    found = []
    if given.tables:
        own = (
            scored(s, given.model, left_out(s), classical=True)
            for s in whole_scenes(given.real)
        )
    else:
        own = (judge(s, given.model, given.out) for s in scenes_in(given.real))
    for record in chain.from_iterable(own):
        print(json.dumps(record), flush=True)
        found.append(record)
    text = papers_tables(found) if given.tables else summary(found)
    print(text)
    name = "tables.txt" if given.tables else "quality.txt"
    (given.out / name).write_text(text.lstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
