"""How the C library keeps memory that a network gives back.

glibc hands large blocks back to the system and faults every page again on the next
call; a network that runs tile after tile pays for it more than for its arithmetic.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

__all__ = ["SWITCH", "keep_memory"]

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
    """Tell glibc to keep freed memory for the next tile; return whether it took it.

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
