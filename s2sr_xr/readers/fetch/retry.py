"""Another try where that may help: how many, for how long, and what comes of them."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from s2sr_xr.errors import ReadError
    from s2sr_xr.readers.fetch.diagnosis import Diagnosis

__all__ = ["FaultError", "Retry", "insist", "retry_in_use", "retrying"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How long to try again when a server fails."""

    tries: int = 4
    """Reads, the first included."""

    total: float = 120.0
    """Seconds after which no further try starts."""

    wait: float = 0.5
    """Mean seconds before the second try; doubles with each."""

    connect: float = 10.0
    """Seconds to wait for a connection."""

    stall: float = 20.0
    """Seconds below 10 kB/s after which a transfer is given up."""

    def __post_init__(self) -> None:
        if self.tries < 1 or min(self.total, self.wait, self.connect, self.stall) < 0:
            raise ValueError(f"A Retry tries at least once, in times >= 0; got {self}")


_IN_USE = [Retry()]


def retry_in_use() -> Retry:
    """Return what reads use that are not given a `Retry` of their own."""
    return _IN_USE[-1]


@contextmanager
def retrying(retry: Retry) -> Iterator[None]:
    """Use another `Retry` inside of the block, in all threads of this process."""
    _IN_USE.append(retry)
    try:
        yield
    finally:
        _IN_USE.remove(retry)


class FaultError(OSError):
    """Why one try failed, without secrets."""

    def __init__(self, found: Diagnosis) -> None:
        super().__init__(found.text)
        self.found = found


class Fail(Protocol):
    """Makes the error that a read ends with."""

    def __call__(self, problem: str, **where: object) -> ReadError:
        """Return the error that says `problem`; `where` holds tries and status."""


def insist(use: Callable[[int], T], fail: Fail, retry: Retry | None = None) -> T:
    """Return what `use` gives, trying again while that may help.

    Parameters
    ----------
    use
        Takes the number of the try, from 1, and may raise a `FaultError`.
    fail
        Makes the error after the last try.
    retry
        How long to try again; None: `retry_in_use`.
    """
    patience = retry or retry_in_use()
    begun = time.monotonic()
    tries = 0
    while True:
        tries += 1
        outcome = _once(use, tries)
        if not isinstance(outcome, FaultError):
            return outcome
        found = outcome.found
        # Half to one and a half: workers that fail together do not return together.
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - spread, not secrecy
        wait = max(patience.wait * 2 ** (tries - 1) * jitter, found.wait)
        late = time.monotonic() - begun + wait > patience.total
        if not found.passing or tries >= patience.tries or late:
            break
        time.sleep(wait)
    seconds = time.monotonic() - begun
    spent = f"{tries} tries in {seconds:.1f} s, last: " if tries > 1 else ""
    problem = f"{spent}{found.text}. {found.remedy}"
    raise fail(problem, tries=tries, status=found.status) from outcome


def _once(use: Callable[[int], T], tries: int) -> T | FaultError:
    try:
        return use(tries)
    except FaultError as fault:
        return fault
