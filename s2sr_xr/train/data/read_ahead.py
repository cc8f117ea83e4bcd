"""Patches are read ahead in threads, within a bound of memory."""

from __future__ import annotations

import weakref
from collections import OrderedDict, deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock, Thread, main_thread
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from s2sr_xr.errors import ReadError
from s2sr_xr.train.data.clouds import CLOUDS, cloudy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from s2sr_xr.train.data.scenes import Source

__all__ = ["Cache", "Pixels", "Window", "read_window_of"]


@dataclass(frozen=True, slots=True)
class Window:
    """Cells of one time step of a scene."""

    scene: int
    time: int
    rows: tuple[int, int]
    cols: tuple[int, int]


@dataclass(slots=True)
class Pixels:
    """What was read of a window."""

    images: tuple[NDArray[np.float32], ...]
    cloud: NDArray[np.bool_]  # one a cell


_Read: TypeAlias = "Callable[[Window], Pixels]"


_Queue: TypeAlias = "deque[tuple[Window, Future[Pixels]]]"


@dataclass(slots=True, weakref_slot=True, eq=False)
class Cache:
    """The windows that were read last, and some that will be asked for."""

    read: _Read

    most: int
    """Windows held."""

    count: int
    """Threads that read ahead."""

    held: OrderedDict[Window, Pixels] = field(default_factory=OrderedDict)
    coming: dict[Window, Future[Pixels]] = field(default_factory=dict)
    queue: _Queue = field(default_factory=deque)
    threads: list[Thread] = field(default_factory=list)
    lock: Any = field(default_factory=Lock)

    def __post_init__(self) -> None:
        # The threads know the queue alone: it is empty when no one needs the pixels.
        weakref.finalize(self, self.queue.clear)

    def __getitem__(self, window: Window) -> Pixels:
        with self.lock:
            if window not in self.held:
                future = self.coming.pop(window, None)
                if future is None or future.cancel():  # no thread has begun it
                    self.held[window] = self.read(window)
                else:
                    self.held[window] = future.result()
            self.held.move_to_end(window)
            while len(self.held) > self.most:
                self.held.popitem(last=False)
            return self.held[window]

    def foresee(self, windows: Sequence[Window]) -> None:
        """Begin to read windows in the background, and drop what else was begun."""
        if not (self.count and main_thread().is_alive()):
            return
        for window in self.coming.keys() - set(windows):
            self.coming.pop(window).cancel()
        for window in windows:
            if window not in self.held and window not in self.coming:
                self.coming[window] = Future()
                self.queue.append((window, self.coming[window]))
        self.threads = [t for t in self.threads if t.is_alive()]
        while self.queue and len(self.threads) < self.count:
            given = self.read, self.queue
            self.threads.append(Thread(target=_ahead, args=given, name="s2sr-patches"))
            self.threads[-1].start()


def _ahead(read: _Read, queue: _Queue) -> None:
    """Read the windows of a queue until it is empty, or Python is about to end.

    Not a pool's: Python waits at its end for all that a pool has been given, and for
    a plain thread only.
    """
    while main_thread().is_alive():
        try:
            window, future = queue.popleft()
        except IndexError:
            return
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(read(window))
            except BaseException as error:  # noqa: BLE001 - raised where it is asked for
                future.set_exception(error)


def read_window_of(scenes: Sequence[Source], window: Window) -> Pixels:
    """Return the pixels of a window."""
    scene = scenes[window.scene]
    try:
        images = tuple(
            _stack(layers, window, g.per_cell)
            for g, layers in zip(scene.groups, scene.layers, strict=True)
        )
        cloud = _clouds(scene, images, window)
    except Exception as error:
        (top, bottom), (left, right) = window.rows, window.cols
        raise ReadError(
            f"{scene.name}: cells {top}:{bottom}, {left}:{right} of time step "
            f"{window.time} cannot be read: {type(error).__name__}: {error}",
            scene=scene.name,
            window=(window.rows, window.cols),
        ) from error
    return Pixels(images, cloud)


def _stack(
    layers: Sequence[xr.Variable], window: Window, per_cell: int
) -> NDArray[np.float32]:
    """Read one group of a window, all bands at once where Dask holds them."""
    parts = [_cut(layer, window, per_cell) for layer in layers]
    if any(part.chunks is not None for part in parts):
        import dask

        values = dask.compute(*[part.data for part in parts])
    else:
        values = tuple(part.to_numpy() for part in parts)
    return np.stack([np.asarray(v, dtype=np.float32) for v in values])


def _cut(layer: xr.Variable, window: Window, per_cell: int) -> xr.Variable:
    (top, bottom), (left, right) = window.rows, window.cols
    place: dict[str, Any] = {
        "y": slice(top * per_cell, bottom * per_cell),
        "x": slice(left * per_cell, right * per_cell),
    }
    if "time" in layer.dims:
        place["time"] = window.time
    return layer.isel(place)


def _clouds(
    scene: Source, images: Sequence[NDArray[np.float32]], window: Window
) -> NDArray[np.bool_]:
    """Return which cells of a window are cloudy."""
    if scene.classes is not None:
        codes = _cut(scene.classes, window, scene.classes_per_cell).to_numpy()
        n = scene.classes_per_cell
        bad = np.isin(codes, CLOUDS)
        cells = bad.reshape(bad.shape[0] // n, n, bad.shape[1] // n, n)
        return np.asarray(cells.any((1, 3)))
    shape = tuple(b - a for a, b in (window.rows, window.cols))
    bands: dict[str, NDArray[np.float32]] = {}
    for group, image in zip(scene.groups, images, strict=True):
        n = group.per_cell
        for name, band in zip(group.names, image, strict=True):
            if name in ("B02", "B04", "B11"):
                split = band.reshape(shape[0], n, shape[1], n)
                bands.setdefault(name, split.mean((1, 3)))
    return cloudy(bands, shape)
