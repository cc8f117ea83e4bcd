"""Preloaded by the workers of `s2sr batch --workers`: Ctrl-C is not for them.

A terminal sends SIGINT to all processes of a command. The one that drives ends the job
in order, and needs its workers until what they have begun is done.
"""

from __future__ import annotations

import signal

__all__ = ["dask_setup"]


def dask_setup(worker: object) -> None:
    """Ignore SIGINT in a worker that has a process of its own."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
