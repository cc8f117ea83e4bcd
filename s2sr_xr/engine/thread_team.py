"""What a process has: cores, devices, memory; and how many blocks share them at once.

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

from s2sr_xr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "HOST",
    "TEAM",
    "Gate",
    "Team",
    "allowance",
    "cores",
    "is_cuda",
    "on",
    "resolve",
    "threads",
    "torch_threads",
]

ON_GPU = 2
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


def is_cuda(device: str) -> bool:
    """Return whether a device is a GPU of CUDA."""
    return device.startswith("cuda")


def resolve(device: str) -> str:
    """Return the device that "auto" means here, or `device` if it exists.

    Raises
    ------
    ModelError
        The device is not there.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        probe = torch.zeros(1, device=device)
        probe.cpu()  # "meta" makes tensors that hold nothing
        found = probe.device
    except (RuntimeError, AssertionError) as err:
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise ModelError(
            f"device={device!r} is not usable ({str(err).splitlines()[0]}): torch "
            f"{torch.__version__} sees {seen} CUDA devices. Use "
            'device="auto" or "cpu", or start the process again if it worked before.'
        ) from err
    # One name for one device: loaded networks are kept by it.
    return "cpu" if found.type == "cpu" else str(found)


class Team:
    """The threads of a process that have a block in work, and what each may use.

    As many as were at work together are taken for what whoever drives them grants, be
    it Dask's threads, a worker or a loop; it is forgotten once none is at work.
    """

    def __init__(self, have: Callable[[], int] = cores) -> None:
        self._have = have
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
            return max(threads, min(threads * self._most // self._now, self._have()))


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

    A CUDA GPU has `ON_GPU`, and orders their work itself. Others have one.
    """
    if device == "cpu":
        yield
        return
    with _MAKING:
        count = ON_GPU if is_cuda(device) else 1
        places = _ON.setdefault(device, threading.Semaphore(count))
    with places:
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
