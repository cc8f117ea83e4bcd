"""Who does the blocks: threads of this process, or the workers of a cluster."""

from __future__ import annotations

import platform
import queue
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from s2sr_xr.engine.thread_team import cores
from s2sr_xr.errors import ModelError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client

    from s2sr_xr.output.zarr import Index

__all__ = [
    "ClusterLostError",
    "Crew",
    "Threads",
    "Workers",
    "check_versions",
    "passing",
]

AHEAD = 2
"""Blocks in flight for each thread: one in work, one that waits for it."""

PARTS = 16
"""Blocks that a worker with one GPU has in work, if it has as many threads: each asks
for such a part of the resource. One computes while others are read and written."""

PATIENCE = 60.0
"""Seconds to wait for the first worker of a cluster."""

ABANDONED = 300.0
"""Seconds without any worker after which a job on a cluster gives up."""

RECOUNT = 5.0
"""Seconds for which the number of a cluster's threads is taken as known."""


class ClusterLostError(StoreError):
    """The scheduler of a cluster is gone."""


class Work(Protocol):
    """What the blocks of one store have in common."""

    @property
    def item(self) -> str:
        """Whose it is."""

    def do(self, index: Index) -> Any:  # noqa: ANN401 - what the driver understands
        """Do one block."""


class Crew(Protocol):
    """Does blocks, some at once."""

    def room(self) -> int:
        """Return how many blocks may be in flight."""

    def submit(self, work: Work, index: Index) -> Any:  # noqa: ANN401 - a future
        """Hand out one block; return what `ended` gives back."""

    def ended(self, seconds: float | None) -> list[Any]:
        """Return blocks that have ended; wait for the first, at most `seconds`."""

    def result(self, future: Any) -> Any:  # noqa: ANN401 - a future
        """Return what became of a block that ended, or raise what it raised."""

    def close(self, *, wait: bool) -> None:
        """Let go of all that is in flight, or wait for it."""


class _Ended:
    """Futures in the order in which they end."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def put(self, future: Any) -> None:  # noqa: ANN401 - a future
        self._queue.put(future)

    def get(self, seconds: float | None) -> list[Any]:
        found = []
        with suppress(queue.Empty):
            found.append(self._queue.get(timeout=seconds))
            while True:
                found.append(self._queue.get_nowait())
        return found


class Threads:
    """Threads of this process, one a core by default; torch has one thread in each."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or cores()
        self._pool = ThreadPoolExecutor(self.count, "s2sr")
        self._ended = _Ended()

    def room(self) -> int:
        """Return how many blocks may be in flight."""
        return AHEAD * self.count

    def submit(self, work: Work, index: Index) -> Any:  # noqa: ANN401 - a future
        """Hand out one block."""
        future = self._pool.submit(work.do, index)
        future.add_done_callback(self._ended.put)
        return future

    def ended(self, seconds: float | None) -> list[Any]:
        """Return blocks that have ended."""
        return self._ended.get(seconds)

    def result(self, future: Any) -> Any:  # noqa: ANN401 - a future
        """Return what became of a block, or raise what it raised."""
        return future.result()

    def close(self, *, wait: bool) -> None:
        """Cancel what has not begun, and wait for the rest if asked to."""
        self._pool.shutdown(wait=wait, cancel_futures=True)


class Workers:
    """The workers of a `distributed` cluster; GPU workers by their resource.

    Raises
    ------
    ModelError
        The cluster has no worker that can do the work, or workers of other versions.
    """

    def __init__(
        self,
        client: Client,
        *,
        gpu: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client, self.clock = client, clock
        self.resources = {"GPU": 1 / PARTS} if gpu else None
        self._run = uuid4().hex[:8]
        self._count = 0
        self._ended = _Ended()
        found = self._ask()
        check_versions(found)
        if gpu and not any(w["resources"].get("GPU") for w in found.values()):
            raise ModelError(
                f'device="cuda" needs workers with the resource GPU, and none of the '
                f"{len(found)} workers of {_address(client)} has it. Start them with "
                '--resources "GPU=1" (dask worker) or resources={"GPU": 1}, with a '
                "thread for each core that may read and write for it, or use "
                'device="auto".'
            )
        self._feeders: int = sum(
            min(int(w["threads"]), round(PARTS * w["resources"].get("GPU", 0)))
            for w in found.values()
        )
        self._threads = sum(int(w["threads"]) for w in found.values())
        self._asked = self._seen = self.clock()

    def room(self) -> int:
        """Return how many blocks may be in flight: workers come and go."""
        self._recount()
        if self.resources:
            return AHEAD * self._feeders
        return AHEAD * max(self._threads, 1)

    def submit(self, work: Work, index: Index) -> Any:  # noqa: ANN401 - a future
        """Hand out one block."""
        self._count += 1
        where = "-".join(map(str, index))
        future = self.client.submit(
            _do,
            work,
            index,
            key=f"s2sr-{work.item}-{where}-{self._run}-{self._count}",
            pure=False,
            resources=self.resources,
        )
        future.add_done_callback(self._ended.put)
        return future

    def ended(self, seconds: float | None) -> list[Any]:
        """Return blocks that have ended."""
        found = self._ended.get(seconds)
        if not found and self.client.status in ("closed", "closing", "connecting"):
            raise self._lost()
        if not found:
            self._recount()  # a job that only waits asks for no room
        if found or self._threads:
            self._seen = self.clock()
        elif self.clock() - self._seen > ABANDONED:
            raise ClusterLostError(
                f"The cluster at {_address(self.client)} has had no worker for "
                f"{ABANDONED:.0f} s. What was written is safe; start workers and run "
                "it again."
            )
        return found

    def result(self, future: Any) -> Any:  # noqa: ANN401 - a future
        """Return what became of a block, or raise what it raised; forget it."""
        try:
            if future.cancelled() and self.client.status != "running":
                raise self._lost()
            return future.result(timeout=PATIENCE)
        finally:
            future.release()

    def close(self, *, wait: bool) -> None:
        """Nothing is held: whoever made the cluster closes it."""
        del wait

    def _recount(self) -> None:
        """Ask how many threads the workers have, where that was not asked lately."""
        if self.clock() - self._asked <= RECOUNT or self.client.status != "running":
            return
        try:
            self._threads = sum(self.client.nthreads().values())
        except OSError as error:
            raise self._lost() from error
        self._asked = self.clock()

    def _ask(self) -> dict[str, dict[str, Any]]:
        """Ask every worker what it is; wait for the first of a cluster that starts."""
        said: dict[str, Any] = self.client.run(_about, on_error="return")
        if not said:
            try:
                # A task, since adaptive clusters start workers for nothing less.
                self.client.submit(_about_nothing, pure=False).result(timeout=PATIENCE)
            except TimeoutError as error:
                raise ModelError(
                    f"The cluster at {_address(self.client)} has no worker, and none "
                    f"came in {PATIENCE:.0f} s. Start workers first."
                ) from error
            said = self.client.run(_about, on_error="return")
        # Workers that are about to end may fail to answer; others are there.
        found = {a: w for a, w in said.items() if not isinstance(w, BaseException)}
        if not found:
            raise ModelError(
                f"The workers of {_address(self.client)} cannot run this library: "
                f"{next(iter(said.values()), 'they are gone')}. Install the same "
                "s2sr_xr there."
            )
        return found

    def _lost(self) -> ClusterLostError:
        return ClusterLostError(
            f"The scheduler at {_address(self.client)} is gone. What was written is "
            "safe; start a cluster and run it again."
        )


def _address(client: Client) -> str:
    scheduler = getattr(client, "scheduler", None)
    return str(getattr(scheduler, "address", "the cluster"))


def _do(work: Work, index: Index) -> Any:  # noqa: ANN401 - see `Work`
    return work.do(index)


def _about_nothing() -> None:
    """Make a cluster start a worker."""


def _about(dask_worker: Any = None) -> dict[str, Any]:  # noqa: ANN401 - distributed's
    """Return what a worker is: versions, threads, resources."""
    state = dask_worker.state
    return {
        "versions": versions(),
        "threads": int(state.nthreads),
        "resources": dict(state.total_resources),
    }


def versions() -> dict[str, str]:
    """Return the versions that decide pixels, and whether objects can be exchanged."""
    import importlib.metadata

    def of(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "none"

    python = ".".join(platform.python_version_tuple()[:2])
    torch = of("torch").partition("+")[0]  # "+cu126": GPU workers have other builds
    return {"python": python, "s2sr_xr": of("s2sr-xr"), "torch": torch}


def check_versions(found: dict[str, dict[str, Any]]) -> None:
    """Raise if a worker has other versions than this process."""
    own = versions()
    for address, worker in found.items():
        for name, version in own.items():
            theirs = worker["versions"].get(name)
            if theirs != version:
                raise ModelError(
                    f"The worker {address} has {name} {theirs}, this process "
                    f"{version}: pixels could differ, or tasks not be understood. "
                    "Use one environment for both."
                )


def passing(error: BaseException) -> bool:
    """Return whether the same block may succeed when it is tried again.

    Workers that are killed and futures that are lost may; so may reads, and stores that
    cannot be written now. Nothing else: the same pixels would fail again.
    """
    lost = isinstance(error, CancelledError) or type(error).__name__ == "KilledWorker"
    return lost or isinstance(error, OSError)
