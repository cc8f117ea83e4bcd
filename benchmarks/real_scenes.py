"""The real scenes that networks learn from and are judged by: a folder of ``.npz``.

``l1c_native/*.npz`` and ``l2a_native/*.npz`` hold native counts ``im10``, ``im20``,
``im60`` (y, x, band) from one corner, the names ``bands10`` ... of their bands, and
``meta``, a JSON text with ``level`` and ``dn_offset``. Each becomes a local STAC item
and is read as users read one. Places in `LEFT_OUT` are held out.
"""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import s2sr_xr
from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.filters import reduce_scale
from s2sr_xr.simulate import write_item

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr

CORNER, EPSG = (600_000, 8_200_000), 32722  # a tile of the south: y % 60 is 40

PLACES = {
    "dsen2_T33UUB": "Oresund",
    "hvn2_australia": "Australia",
    "hvn2_coastalA": "coast A",
    "hvn2_iceland": "Iceland",
    "hvn2_usa": "USA",
    "ssl4eo_0000200": "Punjab",
    "terramind_282D": "Brazil",
    "terramind_433D": "Chile",
    "terramind_637U": "Jutland",
    "majortom_0U": "Congo",
    "majortom_199U": "T48QUE",
    "ben_S2A_MSIL2A_20170613T101031_87": "Austria 1",
    "ben_S2A_MSIL2A_20170613T101031_N9999": "Austria 2",
    "ben_S2A_MSIL2A_20170617T113321_36": "Ireland 1",
    "ben_S2A_MSIL2A_20170617T113321_4_": "Ireland 2",
    "ben_S2B": "Finland",
    "ftw_austria": "Austria 3",
    "openeo_icor": "T31UFS",
    "cijjas": "Argentina",
    "hydro_patch_1": "hydro 1",
    "hydro_patch_10": "hydro 10",
    "hydro_patch_100": "hydro 100",
    "hydro_patch_10000": "hydro 10000",
    "hydro_patch_100000": "hydro 100000",
}
"""Where a scene is, by the beginning of its name, the longest that fits."""

LEFT_OUT = {
    # Every second place of those with L1C, and of the others, by the alphabet.
    "20m": {"Brazil", "coast A", "Jutland", "Punjab", "Austria 2", "Finland"}
    | {"hydro 10", "hydro 10000", "Ireland 1", "T48QUE"},
    # Half of those that are large enough to be judged at 360 m.
    "60m": {"Oresund", "Australia", "coast A", "T48QUE"},
}
"""Places that judge the weights, and that the weights never saw."""

TEN, TWENTY = ([b for b in BANDS if BANDS[b].native == n] for n in (10, 20))
"""Bands of 10 m and of 20 m."""


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


def scenes_in(folder: Path) -> Iterator[Real]:
    """Yield the scenes of a folder."""
    yield from map(read, sorted(folder.glob("l?[ac]_native/*.npz")))


def whole_scenes(folder: Path) -> Iterator[Real]:
    """Yield those that have all bands, in whole cells of 60 m."""
    for scene in scenes_in(folder):
        if natives(scene) == {10, 20, 60} and "partial" not in scene.name:
            yield replace(scene, counts=cropped(scene.counts, 60))


def loaded(scene: Real) -> xr.DataTree:
    """Return a scene as users open it, read."""
    with tempfile.TemporaryDirectory() as scratch:
        return opened(scene, scene.counts, Path(scratch)).load()


def title(scene: Real) -> str:
    """Return what a card calls a scene."""
    return f"{scene.level}:{scene.name}"


def place(name: str) -> str:
    """Return where a scene is."""
    return PLACES[max((p for p in PLACES if name.startswith(p)), key=len)]


def reflectance(scene: Real, band: str) -> np.ndarray:
    """Return a band as reflectance."""
    return (scene.counts[band].astype(np.float32) + scene.offset) / 1e4


def partial_scenes(folder: Path) -> list[Real]:
    """Return those that lack 20 m bands, completed from what may be learnt from."""
    clear = [
        s
        for s in whole_scenes(folder)
        if place(s.name) not in LEFT_OUT["20m"] and "cloud" not in s.name
    ]
    return [
        completed(read(path), clear)
        for path in sorted(folder.glob("l?[ac]_native/*_partial.npz"))
    ]


def completed(scene: Real, others: list[Real]) -> Real:
    """Return a scene with the 20 m bands that it lacks, as its other bands tell them.

    By linear regression over the pixels of other scenes. What the sensor saw of the
    ground is in the bands that were recorded, so that it is one more place to learn
    from, if not one more spectrum.
    """
    have = [b for b in TWENTY if b in scene.counts]
    lack = [b for b in TWENTY if b not in scene.counts]

    def known(one: Real) -> np.ndarray:
        fine = [torch.from_numpy(reflectance(one, b)[None]) for b in TEN]
        bands = [reduce_scale(f, 2)[0].numpy() for f in fine]
        bands += [reflectance(one, b) for b in have]
        return np.stack([*(band.ravel() for band in bands), np.ones(bands[0].size)], 1)

    seen, told = [], []
    for other in others:
        rows = np.stack([reflectance(other, b).ravel() for b in lack], 1)
        # All scenes alike, whatever their size.
        some = np.random.default_rng(0).integers(len(rows), size=8000)
        seen.append(known(other)[some])
        told.append(rows[some])
    weights = np.linalg.lstsq(np.concatenate(seen), np.concatenate(told))[0]
    shape = scene.counts[have[0]].shape
    made = (known(scene) @ weights * 1e4 - scene.offset).T.reshape(-1, *shape)
    counts = scene.counts | dict(zip(lack, made, strict=True))
    # A count of 0 is no data, and dark pixels of some exports are clamped there.
    filled = {b: np.rint(c).clip(1, 65535).astype(np.uint16) for b, c in counts.items()}
    return replace(scene, counts=filled)
