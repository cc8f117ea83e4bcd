"""How the C library keeps memory that a network gives back.

glibc hands large blocks back to the system and faults every page again on the next
call; a network that runs tile after tile pays for it more than for its arithmetic. It
can be set to keep them (`keep_memory`), but only on its main heap: the arenas that
other threads allocate from give large blocks back in any case, and a thread
cannot change its arena. So a thread of a pool has its network run by a companion thread
that lives on the main heap (`on_main_heap`).
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SWITCH", "has_main_heap", "keep_memory", "on_main_heap"]

T = TypeVar("T")

SWITCH = "S2SR_MALLOPT"
"""Environment variable; "0" leaves the allocator alone."""

OPTIONS = {
    -8: 1,  # M_ARENA_MAX: what one thread frees another can take
    -4: 0,  # M_MMAP_MAX: large blocks come from the heap, which stays mapped
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD
    -2: 256 << 20,  # M_TOP_PAD
}
"""From <malloc.h>, and what they are set to."""


@functools.cache
def keep_memory() -> bool:
    """Make glibc keep freed memory for the next tile; return whether it took it.

    Once a process, when its first network runs: what the process holds then stays near
    its peak. Only on Linux with glibc, and not with ``S2SR_MALLOPT=0``.
    """
    if os.environ.get(SWITCH) == "0" or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    taken = [mallopt(option, value) for option, value in OPTIONS.items()]
    return all(taken)


def on_main_heap(work: Callable[[], T]) -> T:
    """Return what `work` gives, done by a thread that allocates from the main heap.

    That is this thread, or its companion; this one too where the allocator was left
    alone, or where no thread with the main heap is to be had.
    """
    if not keep_memory() or has_main_heap():
        return work()
    if not hasattr(_OWN, "companion"):
        _OWN.companion = _companion()
    companion: ThreadPoolExecutor | None = _OWN.companion
    return work() if companion is None else companion.submit(work).result()


def has_main_heap() -> bool:
    """Return whether this thread allocates from the heap that `keep_memory` keeps.

    Only where `keep_memory` took: it looks at the flags that glibc keeps before each
    block, of which one says that the block is not of the main heap.
    """
    if not hasattr(_OWN, "main"):
        library = ctypes.CDLL(None)
        library.malloc.restype = ctypes.c_void_p
        library.malloc.argtypes = [ctypes.c_size_t]
        library.free.argtypes = [ctypes.c_void_p]
        # Larger than what a thread keeps for itself, of whatever heap.
        block = library.malloc(1 << 15)
        word = ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t))
        _OWN.main = not word.value & OF_AN_ARENA
        library.free(block)
    return bool(_OWN.main)


OF_AN_ARENA = 4
"""NON_MAIN_ARENA of glibc."""

TRIES = 64
"""Threads that are begun at most to find one with the main heap: glibc deals its arenas
out in turn, and does not make more than there are 8 of a core."""

_OWN = threading.local()
_FINDING = threading.Lock()


def _companion() -> ThreadPoolExecutor | None:
    """Return a thread with the main heap, if one is found."""
    others: list[ThreadPoolExecutor] = []
    with _FINDING:
        try:
            for _ in range(TRIES):
                one = ThreadPoolExecutor(1, thread_name_prefix="s2sr-network")
                if one.submit(has_main_heap).result():
                    return one
                # It lives until the end, or the next thread would get its arena.
                others.append(one)
        finally:
            for one in others:
                one.shutdown()
    return None
