"""Training pairs as L1BSR publishes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from s2sr_xr.errors import GridError, ReadError
from s2sr_xr.train.data.l1b_simulation import BANDS, FLAT, FULL, GREEN, Sensor, Views

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["l1bsr"]


def l1bsr(
    folder: str | Path, *, side: int = 96, batch: int = 16, seed: int = 0
) -> Callable[[int], Views]:
    """Return the pairs of L1BSR as batches, step by step, for `csr` and `rec`.

    ::

        csr.train(csr.Recipe(task="anchor"), network, l1bsr("L1B_dataset", side=64))

    A batch is a function of `seed` and its step alone. Pairs are drawn evenly; both
    views of one are cut at the same place, turned and flipped alike, and either may
    come first. Patches with missing pixels, or without anything to see, are not drawn.

    Parameters
    ----------
    folder
        Above the folders of images, at any depth. Nothing is read before the first
        batch, and then only what is drawn.
    side
        Pixels of a view along its side; a multiple of 16 for CSR.
    batch
        Pairs of views a step.
    seed
        Decides everything, with the step.

    Returns
    -------
    Callable
        Step -> `Views` of counts, without maps and truth: there are none. So only
        the tasks "anchor" of `csr` and "self" of `rec` learn from it.

    Raises
    ------
    ReadError
        There are no pairs, or a folder lacks its other half; later, a file cannot be
        read, or two that belong together differ in size. It is named.
    GridError
        Later: in 200 draws a patch none was large enough and showed something.
    """
    pairs = _pairs_of_views(Path(folder))

    def draw(step: int) -> Views:
        rng = np.random.default_rng((seed, step))
        found: list[NDArray[np.float32]] = []
        for _ in range(200 * batch):
            views = _two_views(*pairs[rng.integers(len(pairs))], side, rng)
            if views is not None:
                found.append(views)
            if len(found) == batch:
                none = torch.empty(0)
                return Views(torch.from_numpy(np.stack(found)), none, none)
        raise GridError(
            f"{200 * batch} draws from {len(pairs)} pairs of views found {len(found)} "
            f"of {batch} patches of {side} x {side} pixels that miss none and show "
            "something. Use smaller patches."
        )

    return draw


def _pairs_of_views(folder: Path) -> list[tuple[Path, Path]]:
    """Return the files that belong together."""
    pairs: list[tuple[Path, Path]] = []
    for left in sorted(p for p in folder.rglob("*_left") if p.is_dir()):
        right = left.with_name(f"{left.name.removesuffix('_left')}_right")
        one, two = (sorted(p.glob("*.tif")) for p in (left, right))
        if len(one) != len(two):
            raise ReadError(
                f"{left.name} has {len(one)} .tif files and {right.name} {len(two)}: "
                "each belongs to one of the other folder. Is the archive whole?"
            )
        pairs.extend(zip(one, two, strict=True))
    if not pairs:
        raise ReadError(
            f"{folder.name} has no folder NAME_left with .tif files, and NAME_right "
            "next to it: L1BSR's pairs lie so. Unpack the archive first."
        )
    return pairs


def _two_views(
    one: Path, two: Path, side: int, rng: np.random.Generator
) -> NDArray[np.float32] | None:
    """Return counts (2, 4, side, side) of a random place, or None: not usable."""
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    from s2sr_xr.readers.l1b.raster import quiet

    quiet()
    try:
        with rasterio.open(one) as a, rasterio.open(two) as b:
            _check_views(a, b)
            if min(a.shape) < side:
                return None
            top, left = (int(rng.integers(n - side + 1)) for n in a.shape)
            window = Window(left, top, side, side)
            counts = np.stack([f.read(window=window) for f in (a, b)])
    except RasterioError as error:
        raise ReadError(f"{one.name} or {two.name} cannot be read: {error}") from error
    turns, flip, swap = (int(rng.integers(n)) for n in (4, 2, 2))
    shows = counts[:, GREEN].std((-2, -1)) > FLAT * Sensor().noise * FULL
    if (counts == 0).any() or not shows.all():
        return None
    counts = np.rot90(counts[::-1] if swap else counts, turns, (-2, -1))
    return np.asarray(counts[..., ::-1] if flip else counts, dtype=np.float32)


def _check_views(one: Any, two: Any) -> None:  # noqa: ANN401 - rasterio's
    """Raise unless two open files show the same ground in four bands."""
    shapes = [(f.count, *f.shape) for f in (one, two)]
    if shapes[0] != shapes[1] or one.count != len(BANDS):
        raise ReadError(
            f"{Path(one.name).name} has (bands, rows, columns) {shapes[0]}, "
            f"{Path(two.name).name} {shapes[1]}; two views that belong together have "
            f"the same, and the bands {', '.join(BANDS)}."
        )
