"""Many stores, a few blocks of them in flight: hand out, settle, retry, finish.

What is kept is small and does not grow with blocks: stores that are open, blocks in
flight, a line an item. Items are opened one after another, when there is room.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from s2sr_xr.batches.report import BatchReport, Failure, ItemReport, Progress, one_line
from s2sr_xr.batches.signals import orderly
from s2sr_xr.batches.workers import ClusterLostError, passing
from s2sr_xr.engine.fingerprint import token_of
from s2sr_xr.engine.lazy import job_of
from s2sr_xr.output.zarr import create, resume_or_create
from s2sr_xr.output.zarr.write import StoreWork, sources_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from s2sr_xr.batches.report import Log
    from s2sr_xr.batches.task import Piece, Result, Rules
    from s2sr_xr.batches.workers import Crew
    from s2sr_xr.engine.job import Job
    from s2sr_xr.output.zarr import Index, Record, Target

__all__ = ["Drive"]

_LOG = logging.getLogger(__name__)

WAIT = 0.5
"""Seconds before a block is tried again; doubles with each try."""

LOOK = 0.5
"""Seconds after which a driver that waits looks whether it was asked to stop."""


@dataclass(slots=True, eq=False)
class _Open:
    """A store that is being written."""

    result: Result
    work: StoreWork
    todo: list[Index]
    holding: ExitStack
    report: ItemReport
    flying: int = 0
    """Blocks handed out, or to be tried again."""
    over: bool = False
    """Whether no more blocks are handed out."""
    failed: bool = False


@dataclass(slots=True)
class _Flight:
    """A block that was handed out."""

    opened: _Open
    index: Index
    tries: int
    begun: float


@dataclass(slots=True)
class Drive:
    """Drives a job to its end, whatever happens to its parts."""

    pieces: Sequence[Piece]
    crew: Crew
    rules: Rules
    log: Log
    progress: Callable[[Progress], None] | None = None

    _flying: dict[Any, _Flight] = field(default_factory=dict)
    _ended: deque[Any] = field(default_factory=deque)
    _later: list[tuple[float, int, _Flight]] = field(default_factory=list)
    _count: count[int] = field(default_factory=count)
    _open: dict[int, _Open] = field(default_factory=dict)
    _reports: list[ItemReport] = field(default_factory=list)
    _failures: list[Failure] = field(default_factory=list)
    _stop: str | None = None
    _now: Progress = field(
        default_factory=lambda: Progress(
            items=0, items_begun=0, blocks=0, blocks_done=0, pixels=0, stored=0
        )
    )

    def run(self) -> BatchReport:
        """Do all of it, and say what was done."""
        begun = time.monotonic()
        self._now = replace(self._now, items=len(self.pieces))
        with orderly(self._asked_to_stop):
            try:
                self._work()
                self._drain()
            except ClusterLostError as error:
                self._stop = str(error)
                self._flying.clear()
            except Exception:
                self._stop = "failed"
                with suppress(ClusterLostError):
                    self._drain()
                raise
            finally:
                self.crew.close(wait=not self._flying)
                for opened in list(self._open.values()):
                    self._leave(opened, "failed" if opened.failed else "unfinished")
        if self._stop and (rest := self._now.items - self._now.items_begun):
            self._stop += f" ({rest} of {len(self.pieces)} items not begun)"
        report = BatchReport(
            items=tuple(self._reports),
            failed=tuple(self._failures),
            stopped=self._stop,
            seconds=round(time.monotonic() - begun, 3),
        )
        self.log.say("end", "", ok=report.ok, stopped=report.stopped)
        return report

    def _asked_to_stop(self, word: str) -> None:
        self._stop = word
        _LOG.warning("%s: blocks in work are finished first", word)

    def _work(self) -> None:
        units = self._units()
        more = True
        while not self._stop and (more or self._flying or self._later):
            room = self.crew.room() - len(self._flying)
            while room > 0 and not self._stop:
                flight = self._due() or next(units, None)
                if flight is None:
                    more = False
                    break
                self._hand_out(flight)
                room -= 1
            self._settle_some(self._pause())

    def _drain(self) -> None:
        """Wait for what is in flight, so that nothing is written without the lock."""
        self._later.clear()
        while self._flying:
            self._settle_some(LOOK)

    def _pause(self) -> float:
        due = self._later[0][0] - time.monotonic() if self._later else LOOK
        return min(max(due, 0.0), LOOK)

    def _due(self) -> _Flight | None:
        """Return a block whose time to be tried again has come."""
        if self._later and self._later[0][0] <= time.monotonic():
            return heapq.heappop(self._later)[2]
        return None

    def _units(self) -> Iterator[_Flight]:
        """Yield the blocks of one store after another, opening each when it is due."""
        for piece in self.pieces:
            self._report(items_begun=self._now.items_begun + 1)
            for result in self._results(piece):
                opened = self._opened(result)
                if opened is None:
                    continue
                for index in opened.todo:
                    if opened.failed:
                        break
                    opened.flying += 1
                    yield _Flight(opened, index, 0, 0.0)
                opened.over = True
                self._end_if_done(opened)

    def _results(self, piece: Piece) -> Iterator[Result]:
        try:
            yield from piece.make()
        except Exception as error:  # noqa: BLE001 - whatever a broken item raises
            empty = ItemReport(id=piece.id, store="", state="failed")
            self._fail(empty, None, error)
            self._reports.append(empty)

    def _opened(self, result: Result) -> _Open | None:
        """Return a store with its blocks to do, None if it is complete or cannot be."""
        report = ItemReport(id=result.id, store=result.store, state="unfinished")
        holding = ExitStack()
        try:
            job = job_of(result.ds)
            assert job is not None, "a result as the call returned it"
            target = self._target(result, job)
            done = self.rules.resume and target.is_complete
            todo = target.missing() if done else []
            if not done or todo:
                holding.enter_context(target.lock())
                todo = target.missing() if self.rules.resume else [*target.indices()]
            # Blocks of other items take what this one leaves idle.
            task = replace(job.task, threads=1)
            work = StoreWork(
                item=result.id, task=task, pixels=sources_of(job), target=target
            )
        except Exception as error:  # noqa: BLE001 - one item shall not stop the rest
            holding.close()
            failed = replace(report, state="failed")
            self._reports.append(failed)
            self._fail(failed, None, error)
            return None
        skipped = len(list(target.indices())) - len(todo)
        report = replace(report, blocks_skipped=skipped)
        if done and not todo:
            self._reports.append(replace(report, state="skipped"))
            self.log.say("item", result.id, state="skipped", store=result.store)
            return None
        self.log.say(
            "item", result.id, state="begun", store=result.store, blocks=len(todo)
        )
        opened = _Open(result, work, todo, holding, report)
        self._open[id(opened)] = opened
        self._report(blocks=self._now.blocks + len(todo))
        return opened

    def _target(self, result: Result, job: Job) -> Target:
        make = resume_or_create if self.rules.resume else create
        return make(
            result.store,
            result.ds,
            block=job.blocks.size,
            layout=self.rules.layout,
            token=token_of(result.ds),
        )

    def _hand_out(self, flight: _Flight) -> None:
        if flight.opened.failed:  # since it was to be tried again
            flight.opened.flying -= 1
            self._end_if_done(flight.opened)
            return
        flight.begun = time.monotonic()
        future = self.crew.submit(flight.opened.work, flight.index)
        self._flying[future] = flight

    def _settle_some(self, seconds: float) -> None:
        if not self._flying:
            time.sleep(seconds if self._later else 0)
            return
        # Kept until each is settled: one that raises must not lose the others.
        self._ended.extend(self.crew.ended(0 if self._ended else seconds))
        while self._ended:
            future = self._ended.popleft()
            self._settle(future, self._flying.pop(future))

    def _settle(self, future: Any, flight: _Flight) -> None:  # noqa: ANN401 - a future
        opened, index = flight.opened, flight.index
        try:
            record: Record = self.crew.result(future)
        except ClusterLostError:
            raise
        except Exception as error:  # noqa: BLE001 - judged here
            if self._try_again(flight, error):
                return
            opened.flying -= 1
            self._fail(opened.report, index, error, opened)
            self._end_if_done(opened)
            return
        opened.flying -= 1
        kind = "blocks_empty" if record.state == "empty" else "blocks_written"
        opened.report = replace(
            opened.report, **{kind: getattr(opened.report, kind) + 1}
        )
        rows, cols = opened.work.target.box(index).shape
        self.log.say(
            "block",
            opened.result.id,
            block=index,
            state=record.state,
            seconds=round(time.monotonic() - flight.begun, 3),
        )
        self._report(
            blocks_done=self._now.blocks_done + 1,
            pixels=self._now.pixels + rows * cols,
            stored=self._now.stored + sum(record.sizes.values()),
        )
        self._end_if_done(opened)

    def _try_again(self, flight: _Flight, error: Exception) -> bool:
        """Put a block back, if it may succeed; return whether it was."""
        opened = flight.opened
        if (
            self._stop
            or opened.failed
            or flight.tries >= self.rules.retries
            or not passing(error)
        ):
            return False
        wait = WAIT * 2**flight.tries
        again = _Flight(opened, flight.index, flight.tries + 1, 0.0)
        heapq.heappush(self._later, (time.monotonic() + wait, next(self._count), again))
        self.log.say(
            "block",
            opened.result.id,
            block=flight.index,
            state="retried",
            error=one_line(error),
        )
        return True

    def _end_if_done(self, opened: _Open) -> None:
        """Finish a store of which nothing is left to do."""
        if opened.flying or not (opened.over or opened.failed):
            return
        if id(opened) not in self._open:
            return
        if opened.failed:
            self._leave(opened, "failed")
            return
        try:
            opened.work.target.finish()
        except Exception as error:  # noqa: BLE001 - one store shall not stop the rest
            opened.failed = True
            self._leave(opened, "failed")
            self._fail(opened.report, None, error)
            return
        self._leave(opened, "written")

    def _leave(self, opened: _Open, state: str) -> None:
        """Give a store's lock back, and keep what was done for it."""
        del self._open[id(opened)]
        opened.holding.close()
        self._reports.append(replace(opened.report, state=state))
        self.log.say("item", opened.result.id, state=state, store=opened.result.store)

    def _fail(
        self,
        report: ItemReport,
        index: Index | None,
        error: Exception,
        opened: _Open | None = None,
    ) -> None:
        """Keep a failure; raise it where the first one ends the run."""
        if opened is not None:
            opened.failed = True
        failure = Failure(item=report.id, block=index, error=one_line(error))
        self._failures.append(failure)
        self.log.say(
            "failed", report.id, block=index, error=failure.error, store=report.store
        )
        if self.rules.on_error == "raise" and not self._stop:
            raise error

    def _report(self, **changed: int) -> None:
        self._now = replace(self._now, **changed)
        if self.progress is not None:
            self.progress(self._now)
