"""One run at a time writes a store: a small file says who, and that it is alive.

A run says that it is there, ``_s2sr/lease/<run>-<...>.json``, looks for others and, if
there are none, says that it stays. Two that start at once see each other, and one gives
way, whichever store it is: nothing but whole objects and listings is asked of it, no
lock of the file system and no clock shared to the second. Workers of a run write under
its lock.

The lock saves work and confusion, not pixels: runs that resume one store have equal
tokens and write equal bytes.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from s2sr_xr.errors import StoreError
from s2sr_xr.output.zarr.storage import RECORDS, delete, documents, put_json, storing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarr.abc.store import Store

__all__ = ["hold", "refuse_if_held"]

LOCKS = f"{RECORDS}/lease"

BEAT = 20.0
"""Seconds between two signs of life."""

SILENCE = 120.0
"""Seconds without one after which a run on another machine counts as dead."""

PATIENCE = 2.0
"""Seconds to wait for a run that is about to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """Who writes a store."""

    run: str
    """Drawn for each run; all its processes have it."""

    machine: str
    """Host, its boot and its space of process ids."""

    pid: int
    """The process that drives the run."""

    started: float
    """When that process started, to tell it from a later one of the same id."""

    beat: float
    """Its last sign of life, in seconds since 1970."""

    settled: bool = False
    """Whether it has looked for others, and stays."""

    @property
    def is_live(self) -> bool:
        """Whether the run still goes on, as far as this process can tell."""
        if self.machine != _machine():
            return time.time() - self.beat < SILENCE
        if self.pid == os.getpid():
            return self.run in _HELD
        return _runs(self.pid, self.started)


@cache
def _machine() -> str:
    """Return the name of the space in which a process id has a meaning."""
    parts = [platform.node()]
    with suppress(OSError):  # Linux only; elsewhere the host's name has to do
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _runs(pid: int, started: float) -> bool:
    import psutil  # type: ignore[import-untyped]

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # The start is counted from the boot, whose time moves when the clock is set.
        return bool(abs(process.create_time() - started) < 60)
    except psutil.NoSuchProcess:
        return False


class _Held:
    """A lock of this process, kept alive by a thread until it is given back."""

    def __init__(self, store: Store, run: str, patience: float, beat: float) -> None:
        self.store, self.run, self.holders = store, run, 0
        self.patience, self.beat = patience, beat
        self.key = f"{LOCKS}/{run}-{uuid4().hex}.json"
        self.taking, self.over = threading.Lock(), threading.Event()
        self.thread: threading.Thread | None = None

    def take(self) -> None:
        """Say that this run is there, unless another is; once, for all threads."""
        with self.taking, storing("take the lock of", self.store):
            if self.thread is not None:
                return
            refuse_if_held(self.store, self.run, patience=self.patience)
            try:
                self._say(settled=False)
                _settle(self.store, self.run)
                self._say()
            except BaseException:
                self._remove()
                raise
            self.thread = threading.Thread(target=self._beat, daemon=True)
            self.thread.start()

    def give_back(self) -> None:
        """Stop saying it."""
        self.over.set()
        if self.thread is not None:
            self.thread.join()
            self._remove()

    def _say(self, *, settled: bool = True) -> None:
        import psutil

        lock = Lock(
            run=self.run,
            machine=_machine(),
            pid=os.getpid(),
            started=psutil.Process().create_time(),
            beat=time.time(),
            settled=settled,
        )
        put_json(self.store, self.key, asdict(lock))

    def _remove(self) -> None:
        # What happened in the body matters more; a lock of ours that cannot be
        # removed is known to be over by `_HELD`, or by the end of this process.
        with suppress(OSError):
            delete(self.store, self.key)

    def _beat(self) -> None:
        from zarr.core.sync import sync

        while not self.over.wait(self.beat):
            # A full disk or a lost connection is reported by the next block, not here.
            with suppress(OSError):
                if not sync(self.store.exists(self.key)):
                    return  # the store was removed; it shall not come back by this
                self._say()


_HELD: dict[str, _Held] = {}
_LOCK = threading.Lock()


@contextmanager
def hold(
    store: Store, run: str, *, patience: float = PATIENCE, beat: float = BEAT
) -> Iterator[None]:
    """Hold the lock of `store` for `run` during the body; threads of a run share it.

    Raises
    ------
    StoreError
        Another run writes the store, or the lock cannot be written.
    """
    with _LOCK:
        held = _HELD.setdefault(run, _Held(store, run, patience, beat))
        held.holders += 1
    try:
        held.take()
        yield
    finally:
        with _LOCK:
            held.holders -= 1
            last = not held.holders
            if last:
                del _HELD[run]
        if last:
            held.give_back()


def refuse_if_held(store: Store, run: str = "", *, patience: float = PATIENCE) -> None:
    """Raise if another run than `run` writes the store, and does not end at once.

    Threads of a Dask computation that failed go on for a moment.
    """
    until = time.monotonic() + patience
    while others := _others(store, run):
        if time.monotonic() > until:
            raise _busy(store, others[0])
        time.sleep(0.1)


def _settle(store: Store, run: str) -> None:
    """Raise if another run said at the same time that it is there, and stays."""
    until = time.monotonic() + SILENCE
    while others := _others(store, run):
        # Of two that look at once the first by name waits for the other to withdraw,
        # however slow it is; one that had looked before stays, and is respected.
        gives_way = any(o.settled or o.run < run for o in others)
        if gives_way or time.monotonic() > until:
            raise _busy(store, others[0])
        time.sleep(0.1)


def _others(store: Store, run: str) -> list[Lock]:
    """Return the live locks of other runs; remove those of dead ones."""
    live = []
    for name, said in documents(store, LOCKS).items():
        try:
            lock = Lock(**said)
        except TypeError:  # of another version, or damaged
            lock = None
        if lock is not None and lock.run == run:
            continue
        if lock is not None and lock.is_live:
            live.append(lock)
        elif not store.read_only:
            delete(store, f"{LOCKS}/{name}")
    return live


def _busy(store: Store, lock: Lock) -> StoreError:
    host = lock.machine.split()[0]
    here = lock.machine == _machine()
    wait = "" if here else f" If it was killed, wait {SILENCE:.0f} s."
    return StoreError(
        f"{store} is being written by another run: process {lock.pid} on {host}, last "
        f"seen {max(time.time() - lock.beat, 0):.0f} s ago. Let it finish, or stop it "
        f"and run again with resume=True.{wait}",
        store=str(store),
    )
