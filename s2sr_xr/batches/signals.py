"""Ctrl-C as a wish to end in order, and only the second time as an order to stop."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["dask_setup", "orderly"]

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@contextmanager
def orderly(stopped: Callable[[str], None]) -> Iterator[None]:
    """Report the first SIGINT or SIGTERM during the body; the second acts as before.

    Signals arrive in the main thread; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in WORDS}

    def stop(number: int, _: FrameType | None) -> None:
        which = signal.Signals(number)
        signal.signal(which, before[which])
        stopped(WORDS[which])

    for number in WORDS:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def dask_setup(worker: object) -> None:
    """Ignore SIGINT in a worker that has a process of its own."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
