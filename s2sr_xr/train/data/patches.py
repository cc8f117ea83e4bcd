"""Batches of patches from the trees that inference reads: a function of seed and step.

Steps go in rounds. A round draws windows, whole chunks of a scene where these are not
too large (our readers read any window, and are not asked for chunks), reads them once,
and takes many patches from each; while it lasts, the next one's windows are read in the
background. Nothing depends on what was read before, so a training goes on at any step,
and any number of scenes, of any backing, fits in memory.

A patch is refused, and another drawn, where

* a pixel of any band is missing;
* more than a share of it is cloud: by the scene classification where the tree has SCL
  (codes 1 defective, 3 cloud shadow, 8 and 9 cloud, 10 cirrus), else by a rule: bright
  in the blue (B02 over 0.25), white (B04 within 30 % of B02) and, to separate cloud
  from sand and snow, with B11 between 0.35 and 1.1 of B02;
* it is flat: no band of the finest group spreads as much as a threshold.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from s2sr_xr.errors import GridError
from s2sr_xr.train.data.augment import Augment, Patch, augmented
from s2sr_xr.train.data.read_ahead import Cache, Pixels, Window, read_window_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from s2sr_xr.train.data.scenes import Source

__all__ = ["Batches", "Rules", "Sampler", "band_means"]


TRIES = 4
"""Places tried in a window, before another window is."""

WINDOWS = 64
"""Windows tried for a patch, before the scenes are said to hold none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which patches are refused. Missing pixels always are."""

    cloud: float = 0.1
    """Largest share of cloud; 1 takes all."""

    flat: float = 0.001
    """Smallest standard deviation that one band of the finest group needs, in
    reflectance: 10 counts. 0 takes all."""

    def __post_init__(self) -> None:
        if not 0 <= self.cloud <= 1 or not self.flat >= 0:
            raise GridError(
                "cloud is a share in [0, 1] and flat a spread of 0 or more; got "
                f"{self.cloud} and {self.flat}"
            )


class Sampler:
    """Step -> batch, of patches from any scenes.

    The same scenes, options, seed and step give the same batch, bit for bit, whatever
    was asked before and however the scenes are backed.

    Parameters
    ----------
    scenes
        What `source` made, all with the same groups. Each is chosen in proportion to
        its weight and the root of its area: a large scene holds more, but not more
        kinds of country.
    side
        Cells along the side of a patch.
    batch
        Patches a batch.
    seed
        Decides every batch.
    rules, augment
        Which patches are refused, and what is done to the others.
    windows
        How many are held at a time and give the patches of a round.
    steps
        How many make a round: each window is read once and gives ``steps * batch /
        windows`` patches.
    most
        Cells along the longest side of a window; larger chunks are cut.
    threads
        How many windows are read at once, during the training; 0 reads when needed.
        They end after what they read when the sampler is dropped, or Python ends.

    Raises
    ------
    GridError
        No scenes, scenes of different groups, or none with `side` cells.
    """

    def __init__(
        self,
        scenes: Sequence[Source],
        *,
        side: int,
        batch: int,
        seed: int = 0,
        rules: Rules | None = None,
        augment: Augment | None = None,
        windows: int = 16,
        steps: int = 48,
        most: int = 256,
        threads: int = 1,
    ) -> None:
        _check_scenes(scenes, side)
        for name, value in {"batch": batch, "windows": windows, "steps": steps}.items():
            if value < 1:
                raise GridError(f"{name} is 1 or more; got {value}")
        self.scenes = [s for s in scenes if min(s.cells) >= side]
        self.side, self.batch, self.seed = side, batch, seed
        self.rules, self.augment = rules or Rules(), augment or Augment()
        self.windows, self.steps, self.threads = windows, steps, threads
        self.cuts = [_cuts(s, side, max(most, side)) for s in self.scenes]
        area = [s.weight * math.sqrt(s.cells[0] * s.cells[1]) for s in self.scenes]
        self.share = np.array(area) / sum(area)
        self.forget()

    def __call__(self, step: int) -> Patch:
        """Return the batch of a step: ``(B, C, side * per_cell, ...)`` a group.

        float32 reflectance, no NaN.

        Raises
        ------
        GridError
            The scenes hold too few patches that the rules take; the message says which
            rule refused how many.
        ReadError
            A window cannot be read; the message names it and its scene.
        """
        now = step // self.steps
        rounds = [(r, k) for r in (now, now + 1) for k in range(self.windows)]
        self.cache.foresee([self._window(r, k) for r, k in rounds])
        found = [self._patch(step, i) for i in range(self.batch)]
        return tuple(torch.stack(group) for group in zip(*found, strict=True))

    def _window(self, round_: int, k: int) -> Window:
        """Return the k-th window of a round."""
        rng = np.random.default_rng((self.seed, round_, k, 1))
        scene = int(rng.choice(len(self.scenes), p=self.share))
        rows, cols = self.cuts[scene]
        return Window(
            scene,
            int(rng.integers(self.scenes[scene].times)),
            rows[rng.choice(len(rows), p=_lengths(rows))],
            cols[rng.choice(len(cols), p=_lengths(cols))],
        )

    def _patch(self, step: int, i: int) -> Patch:
        rng = np.random.default_rng((self.seed, step, i, 2))
        first = (step % self.steps * self.batch + i) % self.windows
        refused: Counter[str] = Counter()
        for k in range(WINDOWS):
            # The windows of the round, and then others that no one has foreseen.
            at = (first + k) % self.windows if k < self.windows else first + k
            window = self._window(step // self.steps, at)
            pixels = self.cache[window]
            for _ in range(TRIES):
                patch, why = self._taken(pixels, window, rng)
                if patch is not None:
                    names = [g.names for g in self.scenes[0].groups]
                    return augmented(patch, rng, self.augment, names)
                refused[f"{self.scenes[window.scene].name} {why}"] += 1
        reasons = "; ".join(f"{name} {n} times" for name, n in refused.most_common(4))
        raise GridError(
            f"At step {step}, {WINDOWS * TRIES} places gave no patch of {self.side} x "
            f"{self.side} cells: {reasons}. Add scenes, use smaller patches, or loosen "
            f"{self.rules}."
        )

    def _taken(
        self, pixels: Pixels, window: Window, rng: np.random.Generator
    ) -> tuple[Patch | None, str]:
        """Return a patch, or why the place was refused."""
        sizes = [b - a for a, b in (window.rows, window.cols)]
        top, left = (int(rng.integers(n - self.side + 1)) for n in sizes)
        groups = self.scenes[window.scene].groups
        images = [
            _part(image, top, left, self.side, g.per_cell)
            for g, image in zip(groups, pixels.images, strict=True)
        ]
        cloud = _part(pixels.cloud[None], top, left, self.side, 1)
        if not all(np.isfinite(image).all() for image in images):
            return None, "misses pixels"
        if cloud.mean() > self.rules.cloud:
            return None, "is cloudy"
        if images[0].std((1, 2)).max() < self.rules.flat:
            return None, "is flat"
        return tuple(torch.from_numpy(image) for image in images), ""

    def forget(self) -> None:
        """Drop the pixels that are held, and the threads: a fork has neither."""
        # Of the scenes, not of `self`: who drops the sampler stops its threads.
        read = partial(read_window_of, self.scenes)
        self.cache = Cache(read, 2 * self.windows + 8, self.threads)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: everything but the pixels."""
        return {k: v for k, v in self.__dict__.items() if k != "cache"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` gave."""
        self.__dict__.update(state)
        self.forget()


class Batches(IterableDataset[Patch]):
    """The batches of a range of steps, for `torch.utils.data.DataLoader`.

    Give it ``batch_size=None``. Workers take every n-th step, so that the loader gives
    the steps in order with any number of them; each reads the windows for itself. With
    few cores, threads of the `Sampler` and no workers read less.

    Parameters
    ----------
    sampler
        Step -> batch.
    steps
        Which steps, such as ``range(first, last)`` to go on from `first`.
    """

    def __init__(self, sampler: Sampler, steps: range) -> None:
        self.sampler, self.steps = sampler, steps

    def __iter__(self) -> Iterator[Patch]:
        """Yield the batches of the steps, or of this worker's share of them."""
        worker = get_worker_info()
        if worker is not None:
            self.sampler.forget()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return map(self.sampler, self.steps[first::step])

    def __len__(self) -> int:
        """Return the number of batches, of all workers together."""
        return len(self.steps)


def band_means(
    scenes: Sequence[Source], *, side: int, seed: int, rules: Rules
) -> list[float]:
    """Return the mean reflectance of each band over some patches as they are."""
    plain = Augment(gain=(1, 1))
    sampler = Sampler(
        scenes, side=side, batch=8, seed=seed, rules=rules, augment=plain, threads=0
    )
    return [float(band.mean()) for group in sampler(0) for band in group.unbind(1)]


def _check_scenes(scenes: Sequence[Source], side: int) -> None:
    if not scenes:
        raise GridError("There is no scene to take patches from: the sample is empty.")
    first = scenes[0]
    for scene in scenes:
        if scene.groups != first.groups:
            raise GridError(
                f"{scene.name} has the groups {_told(scene)}, but {first.name} "
                f"{_told(first)}. Make all sources of a sampler with one spec.",
                scene=scene.name,
            )
    if side < 1 or not any(min(s.cells) >= side for s in scenes):
        largest = max((s.cells for s in scenes), key=min)
        raise GridError(
            f"No scene has {side} x {side} cells; the largest of {len(scenes)} has "
            f"{largest[0]} x {largest[1]}. Use smaller patches."
        )


def _told(scene: Source) -> str:
    return ", ".join(f"{'+'.join(g.names)} x{g.per_cell}" for g in scene.groups)


def _cuts(
    scene: Source, side: int, most: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the rows and the columns of the windows of a scene, in cells.

    Chunks; joined where they hold no patch or few, and cut where they are too large.
    """
    starts = scene.chunks()
    rows, cols = (
        _joined(begin, count, min(2 * side, most), most)
        for begin, count in zip(starts, scene.cells, strict=True)
    )
    return rows, cols


def _joined(
    starts: Sequence[int], count: int, least: int, most: int
) -> list[tuple[int, int]]:
    """Return intervals of `least` to `most` that cover 0..count, from `starts` on.

    The last may be longer, by less than `least`.

    >>> _joined([0, 10, 20, 30], 40, 16, 32)
    [(0, 20), (20, 40)]
    >>> _joined([0, 100], 110, 16, 32)
    [(0, 32), (32, 64), (64, 110)]
    """
    edges = [0]
    for start in [*starts[1:], count]:
        while start - edges[-1] > most:
            edges.append(edges[-1] + most)
        if start - edges[-1] >= least:
            edges.append(start)
    # What is left is too short to stand alone.
    edges = [e for e in edges if e == 0 or count - e >= least]
    return list(zip(edges, [*edges[1:], count], strict=True))


def _lengths(cuts: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    lengths = np.array([stop - start for start, stop in cuts], float)
    return np.asarray(lengths / lengths.sum())


def _part(
    image: NDArray[Any], top: int, left: int, side: int, per_cell: int
) -> NDArray[Any]:
    rows = slice(top * per_cell, (top + side) * per_cell)
    cols = slice(left * per_cell, (left + side) * per_cell)
    return image[:, rows, cols]
