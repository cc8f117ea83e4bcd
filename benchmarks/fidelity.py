"""What finer pixels keep, gain and cost: spectra, sharpness, noise, consistency, seams.

    python benchmarks/fidelity.py --real DIR --out DIR

`upsample()` and `superresolve()` as they are installed, each with and without
``consistent=True``, on two simulated scenes, whose truth is known at 10 m and at 5 m,
and on a scene of each real place that no shipped weights have seen (`--real` is a
folder as in `real_scenes.py`). One JSON line for each scene and run, and a table:

* what `s2sr_xr.evaluate.fidelity.measure` says, band by band, before and after;
* *noise gain*: white noise of 10 counts is added to every native band, and the spread
  of what it changes is divided by 10 counts; exact, where flat ground is not;
* *reduced scale* (real scenes): all bands degraded by 2, RMSE against what was recorded
  over that of bicubic, means over 10 m and 20 m bands;
* *true scale* (simulated scenes): RMSE against the truth over that of bicubic.

`--out` receives a page a scene and task.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from quality import FLAT
from real_scenes import LEFT_OUT, Real, cropped, loaded, place, whole_scenes

import s2sr_xr
from s2sr_xr.core.bands import BANDS
from s2sr_xr.evaluate import fidelity, metrics, reduced_resolution
from s2sr_xr.evaluate.degraded_scene import one_scale_below
from s2sr_xr.evaluate.fidelity.measure import images_of
from s2sr_xr.simulate import finer_truth

if TYPE_CHECKING:
    import xarray as xr

MODELS = {"upsample": "dsen2", "superresolve": "carn-s"}
NOISE = 1e-3


def finer(tree: xr.DataTree, task: str, *, consistent: bool) -> xr.Dataset:
    """Return what a task makes of a scene, in memory."""
    more = {"keep_native": False} if task == "upsample" else {}
    run = getattr(tree.s2sr, task)
    return run(
        MODELS[task], consistent=consistent, check=False, device="cpu", **more
    ).compute()


def noisy(tree: xr.DataTree, seed: int = 0) -> xr.DataTree:
    """Return a scene with white noise."""
    rng = np.random.default_rng(seed)

    def add(band: xr.DataArray) -> xr.DataArray:
        if band.name not in BANDS:
            return band
        return band + rng.normal(0, NOISE, band.shape).astype(np.float32)

    return tree.map_over_datasets(lambda ds: ds.map(add, keep_attrs=True))


def noise_gain(plain: xr.Dataset, shaken: xr.Dataset) -> dict[str, float]:
    """Return by how much each band has made the added noise larger."""
    return {
        b: round(float((shaken[b] - plain[b]).std()) / NOISE, 3)
        for b in plain.data_vars
        if b in BANDS
    }


def at_true_scale(
    tree: xr.DataTree, made: xr.Dataset, truth: xr.Dataset
) -> dict[str, float]:
    """Return RMSE over that of bicubic where the truth is known, by native pixel."""
    errors = {}
    for own in images_of(tree, made, truth=truth):
        true = own.inner("truth")
        errors[own.name] = [
            float(metrics.rmse(own.inner(k), true)) for k in ("result", "bicubic")
        ]
    return ratios(errors)


def at_reduced_scale(
    tree: xr.DataTree, task: str, *, consistent: bool
) -> dict[str, float]:
    """Return RMSE over that of bicubic where the recorded pixels are the truth."""
    trial = one_scale_below(tree, "20m" if task == "upsample" else "5m")
    made = {
        "bicubic": reduced_resolution.attempt(trial, "bicubic"),
        "ours": reduced_resolution.attempt(
            trial, MODELS[task], consistent=consistent, check=False, device="cpu"
        ),
    }
    scores = reduced_resolution.compare_trial(trial, made, border=8)
    pairs = zip(scores["ours"].bands, scores["bicubic"].bands, strict=True)
    return ratios({a.name: [1e-4 * a.rmse, 1e-4 * b.rmse] for a, b in pairs})


def ratios(errors: dict[str, list[float]]) -> dict[str, float]:
    """Return means by native pixel, of bands in which there is more than noise."""
    found: dict[int, list[float]] = {}
    for band, (ours, theirs) in errors.items():
        if theirs > FLAT * 1e-4:
            found.setdefault(BANDS[band].native, []).append(ours / theirs)
    return {f"{m} m": round(float(np.mean(v)), 3) for m, v in found.items()}


def judged(
    name: str,
    tree: xr.DataTree,
    task: str,
    out: Path | None,
    *,
    truth: xr.Dataset | None = None,
    consistent: bool,
    shake: xr.DataTree,
) -> dict[str, object]:
    """Return the record of one scene and run, and draw its page."""
    made = finer(tree, task, consistent=consistent)
    found = fidelity.measure(tree, made, truth=truth)
    print(f"\n{name}, {task}(consistent={consistent})")
    print(fidelity.fidelity_table(found), flush=True)
    if out and not consistent:
        out.mkdir(parents=True, exist_ok=True)
        page, title = f"{name}-{task}.png".replace(" ", "_"), f"{name}: {task}()"
        fidelity.fidelity_page(tree, made, out / page, truth=truth, title=title)
    record = {
        "scene": name,
        "task": task,
        "consistent": consistent,
        "noise gain": noise_gain(made, finer(shake, task, consistent=consistent)),
        **asdict(found),
    }
    if truth is not None:
        record["true scale"] = at_true_scale(tree, made, truth)
    return record


def simulated_records(size: int, level: str, seed: int, out: Path | None):
    """Yield the records of a simulated scene."""
    with tempfile.TemporaryDirectory() as scratch:
        item = s2sr_xr.simulate_scene(scratch, size=size, seed=seed, level=level)
        coarse, fine = s2sr_xr.open_truth(item).load(), finer_truth(item)
        tree = s2sr_xr.open_stac(item).isel(time=0).load()
    shake = noisy(tree)
    for task, truth in zip(MODELS, (coarse, fine), strict=True):
        for consistent in (False, True):
            yield judged(
                f"simulated {seed} {level}",
                tree,
                task,
                out,
                truth=truth,
                consistent=consistent,
                shake=shake,
            )


def left_out(folder: Path) -> dict[str, Real]:
    """Return the first scene of each place that no shipped weights have seen."""
    found: dict[str, Real] = {}
    for scene in whole_scenes(folder):
        if (where := place(scene.name)) in LEFT_OUT["20m"]:
            found.setdefault(where, scene)
    return found


def real_records(where: str, scene: Real, side: int, out: Path | None):
    """Yield the records of a real scene."""
    limits = {b: side * 10 // BANDS[b].native for b in scene.counts}
    counts = {b: c[: limits[b], : limits[b]] for b, c in scene.counts.items()}
    tree = loaded(replace(scene, counts=cropped(counts, 60))).isel(time=0)
    shake = noisy(tree)
    for task in MODELS:
        for consistent in (False, True):
            given = {"consistent": consistent}
            name = f"{where} {scene.level}"
            record = judged(name, tree, task, out, shake=shake, **given)
            record["reduced scale"] = at_reduced_scale(tree, task, **given)
            yield record


def summary(records: list[dict]) -> str:
    """Return the means over scenes, each run with and without `consistent`."""
    lines = [f"\n{'means over scenes':44}{'plain':>12}{'consistent':>12}"]
    sets = [(kind, task) for kind in ("simulated", "real") for task in MODELS]
    for kind, task in sets:
        own = [
            r
            for r in records
            if r["task"] == task
            and r["scene"].startswith("simulated") == (kind == "simulated")
        ]
        for label in dict.fromkeys(k for r in own for k in numbers(r)):
            pair = [
                np.nanmean(
                    [numbers(r).get(label, np.nan) for r in own if r["consistent"] == c]
                )
                for c in (False, True)
            ]
            lines.append(
                f"{kind} {task}: {label:<{42 - len(kind + task)}}"
                + "".join(f"{v:12.3f}" for v in pair)
            )
    return "\n".join(lines)


def numbers(record: dict) -> dict[str, float]:
    """Return the figures of a record, means over the bands of a native pixel."""
    found: dict[str, float] = {}
    for key in ("true scale", "reduced scale"):
        for size, ratio in record.get(key, {}).items():
            found[f"RMSE / bicubic, {key}, {size}"] = ratio
    for metres in dict.fromkeys(b["native"] for b in record["bands"]):
        own = [b for b in record["bands"] if b["native"] == metres]
        wide = [b for b in own if b["edges"] >= 5]
        found |= {
            f"means kept to, DN, {metres} m": 1e4
            * mean([b["reflectance"] for b in own]),
            f"spectral angle, deg, {metres} m": record["spectral"][metres],
            f"moved, px, {metres} m": mean([b["spatial"] for b in own]),
            f"noise gain, {metres} m": mean(
                [record["noise gain"][b["name"]] for b in own]
            ),
            f"flat ground's spread, ratio, {metres} m": mean(
                [
                    b["seen"]["result"]["noise"] / b["seen"]["native"]["noise"]
                    for b in own
                ]
            ),
            f"FWHM before, m, {metres} m": mean(
                [b["seen"]["native"]["fwhm"] for b in wide]
            ),
            f"FWHM after, m, {metres} m": mean(
                [b["seen"]["result"]["fwhm"] for b in wide]
            ),
            f"MTF after, {metres} m": mean([b["seen"]["result"]["mtf"] for b in wide]),
            f"energy beyond / bicubic, {metres} m": mean([b["gain"] for b in own]),
            f"seam energy, {metres} m": mean([b["seams"] for b in own]),
            f"PSNR gain, dB, {metres} m": mean(
                [b["psnr"] - b["psnr_bicubic"] for b in own]
            ),
            f"true up to, cycles/px, {metres} m": mean([b["resolved"] for b in own]),
        }
    return {k: v for k, v in found.items() if np.isfinite(v)}


def tidy(value):
    """Return what JSON can hold: four digits, and null for NaN."""
    if isinstance(value, dict):
        return {str(k): tidy(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [tidy(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return value


def mean(values: list[float]) -> float:
    there = [v for v in values if np.isfinite(v)]
    return float(np.mean(there)) if there else float("nan")


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, help="folder of scenes")
    parser.add_argument("--out", type=Path, help="folder of pages")
    parser.add_argument("--size", type=int, default=480, help="of simulated scenes")
    parser.add_argument("--side", type=int, default=408, help="of real scenes, at most")
    parser.add_argument("--levels", nargs="*", default=["L1C", "L2A"])
    given = parser.parse_args(arguments)
    records = []

    def keep(found) -> None:
        for record in found:
            print(json.dumps(tidy(record)), flush=True)
            records.append(record)

    for level in given.levels:
        keep(simulated_records(given.size, level, 0, given.out))
    for where, scene in left_out(given.real).items() if given.real else ():
        keep(real_records(where, scene, given.side, given.out))
    print(summary(records))
    return records


if __name__ == "__main__":
    main()
