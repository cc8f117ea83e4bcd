"""How many blocks are in work at once: on a device, and in a process that feeds one.

On the CPU a block has a thread, and a thread a core: they overlap by themselves. When
the last blocks are fewer than the threads, they take over the cores of those that have
none left (`TEAM`). A GPU computes a block in less time than one thread reads the next
or writes the last, so that more threads feed it than it has use for at once. Two things
are bounded then: the blocks that are on the GPU (`on`), and the memory of all that are
in work (`HOST`).
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "HOST",
    "TEAM",
    "Gate",
    "Team",
    "allowance",
    "cores",
    "on",
    "threads",
    "torch_threads",
]

LANES = 2
"""Blocks that are on a GPU at once: while one is computed, the first tiles of the next
are copied up and the last tiles of the one before are copied down and checked."""

FEEDERS = 3
"""Threads that feed a GPU, at least: one reads, one waits for the network, one
writes."""

SHARE = 0.5
"""The part of the memory that blocks in work may take where they feed a GPU."""


def cores() -> int:
    """Return the processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def threads(device: str) -> int:
    """Return how many threads keep a device busy: "cpu", or the name of a GPU."""
    return cores() if device == "cpu" else max(cores(), FEEDERS)


def allowance() -> int:
    """Return the bytes that blocks in work may take where they feed a GPU.

    That is half of what the process may have: the limit of its Dask worker, or else of
    its control group or machine.
    """
    from distributed import get_worker
    from distributed.system import MEMORY_LIMIT

    try:
        own = get_worker().memory_manager.memory_limit
    except ValueError:  # not in a worker
        own = None
    return int(SHARE * (own or MEMORY_LIMIT))


class Team:
    """The threads of a process that have a block in work, and what each may use.

    As many as were at work together are taken for what whoever drives them grants, be
    it Dask's threads, a worker or a loop; it is forgotten once none is at work.
    """

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._own = threading.local()
        self._now = self._most = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count the calling thread among those at work during the body, once."""
        if getattr(self._own, "at_work", False):
            yield
            return
        with self._changing:
            self._now += 1
            self._most = max(self._most, self._now)
        self._own.at_work = True
        try:
            yield
        finally:
            self._own.at_work = False
            with self._changing:
                self._now -= 1
                self._most = self._most if self._now else 0

    def share(self, threads: int) -> int:
        """Return the threads of torch for one of those at work that has `threads`.

        More once others have gone, but no more in all than when they were here.
        """
        with self._changing:
            if not self._now:
                return threads
            return max(threads, min(threads * self._most // self._now, cores()))


TEAM = Team()
"""The threads of this process."""


class Gate:
    """Lets blocks in while there is room for their bytes; one is always let in."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = 0

    @contextmanager
    def hold(self, size: int, limit: int) -> Iterator[None]:
        """Wait for room among `limit` bytes, and take `size` of them for the body.

        A thread that holds a part must not ask for another.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: not self._taken or self._taken + size <= limit
            )
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()


HOST = Gate()
"""The memory of this process that blocks in work take, where they feed a GPU."""

_ON: dict[str, threading.Semaphore] = {}
_MAKING = threading.Lock()


@contextmanager
def on(device: str) -> Iterator[None]:
    """Be one of the few blocks on a device during the body; on the CPU any may be.

    A CUDA GPU has `LANES`, and orders their work itself. Others have one.
    """
    if device == "cpu":
        yield
        return
    with _MAKING:
        count = LANES if device.startswith("cuda") else 1
        lanes = _ON.setdefault(device, threading.Semaphore(count))
    with lanes:
        yield


@contextmanager
def torch_threads(n: int | None) -> Iterator[None]:
    """Run torch with `n` threads in the calling thread; None leaves it alone.

    torch keeps the count per thread once a thread has used it, so that it must be set
    where the network runs.
    """
    import torch

    before = torch.get_num_threads()
    if n is None or n == before:
        yield
        return
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
