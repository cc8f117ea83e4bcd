"""Decoded blocks of images, kept for the neighbours that want them too.

Images come in blocks (tiles of a COG, code blocks of a JPEG 2000 file), and a block
that is met is decoded as a whole. The window of a task rarely ends where they end: what
it cuts, its neighbours decode again. `DECODED` keeps such blocks for the process,
the latest first, up to `budget` bytes; who asks for one that is just being decoded
waits for it.

Not kept are blocks of images in strips or in one piece, of local files that were
written a moment ago, and of servers that give no entity tag: a change of these would
not be noticed. Their windows are read directly, as they are with a budget
of 0.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from s2sr_xr.errors import S2SRError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Mapping

    import numpy as np

__all__ = ["DECODED", "SWITCH", "BlockCache", "budget"]

SWITCH = "S2SR_BLOCK_CACHE"
"""Environment variable: MiB of decoded blocks that a process keeps; "0" for none."""

BUDGET = 384
"""MiB without it: what one row of blocks of a product leaves for the next. Of a full
product, 192 MiB leave 1.4 times the pixels to decode, none leave 2.0 (JPEG 2000)."""


def budget() -> int:
    """Return how many bytes of decoded blocks this process may keep.

    Raises
    ------
    S2SRError
        The environment variable is not a number of MiB.
    """
    text = os.environ.get(SWITCH, str(BUDGET))
    if not (text.isascii() and text.isdecimal()):
        raise S2SRError(
            f"{SWITCH}={text!r} is not a number of MiB. Set it to {BUDGET}, which "
            "is the default, to more or less, or to 0 to keep no blocks."
        )
    return int(text) << 20


class _Claim:
    """Blocks that one thread is decoding, and others wait for."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.blocks: Mapping[Hashable, np.ndarray] = {}


class BlockCache:
    """Blocks by name, the least recently used dropped first. Safe between threads."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything, also who is decoding: a forked child has no such threads.

        Not while other threads of this process use it.
        """
        self._lock = threading.Lock()
        self._blocks: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._claims: dict[Hashable, _Claim] = {}
        self.held = 0

    def get(
        self,
        wanted: Collection[Hashable],
        decode: Callable[[Collection[Hashable]], Mapping[Hashable, np.ndarray]],
        *,
        keep: Collection[Hashable],
        limit: int,
    ) -> dict[Hashable, np.ndarray]:
        """Return blocks, those that are neither kept nor in work from `decode`.

        Each is decoded once, however many threads ask. What `decode` raises goes to the
        thread that called it; nothing of it is kept, and the others decode themselves.

        Parameters
        ----------
        wanted
            Names that say which bytes they stand for: blocks of a file that changed
            have others.
        decode
            Takes names, and returns the block of each.
        keep
            The blocks that others may want.
        limit
            Bytes that may be kept. Blocks that are in use are not counted.
        """
        found: dict[Hashable, np.ndarray] = {}
        # A thread waits only when it holds no claim, so that none waits for it.
        while missing := [name for name in wanted if name not in found]:
            mine, others = self._claim(missing, found)
            if mine:
                found |= self._decode(mine, decode, keep, limit)
            for claim in others:
                claim.over.wait()
                found |= {n: b for n, b in claim.blocks.items() if n in missing}
        return found

    def _claim(
        self, missing: Collection[Hashable], found: dict[Hashable, np.ndarray]
    ) -> tuple[list[Hashable], set[_Claim]]:
        """Put what is kept into `found`; return what to decode and whom to wait for."""
        mine, others, claim = [], set(), _Claim()
        with self._lock:
            for name in missing:
                if name in self._blocks:
                    self._blocks.move_to_end(name)
                    found[name] = self._blocks[name]
                elif name in self._claims:
                    others.add(self._claims[name])
                else:
                    self._claims[name] = claim
                    mine.append(name)
        return mine, others

    def _decode(
        self,
        mine: Collection[Hashable],
        decode: Callable[[Collection[Hashable]], Mapping[Hashable, np.ndarray]],
        keep: Collection[Hashable],
        limit: int,
    ) -> Mapping[Hashable, np.ndarray]:
        made: Mapping[Hashable, np.ndarray] = {}
        kept: Mapping[Hashable, np.ndarray] = {}
        try:
            made = decode(mine)
            # Copies: a view would keep all that was decoded with it.
            kept = {name: made[name].copy() for name in mine if name in keep}
        finally:
            with self._lock:
                claims = {self._claims.pop(name) for name in mine}
                self._put(kept, limit)
            for claim in claims:
                claim.blocks = made
                claim.over.set()
        return made

    def _put(self, blocks: Mapping[Hashable, np.ndarray], limit: int) -> None:
        for name, block in blocks.items():
            self._blocks[name] = block
            self.held += block.nbytes
        while self.held > limit:
            self.held -= self._blocks.popitem(last=False)[1].nbytes


DECODED = BlockCache()
"""What this process keeps."""

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=DECODED.clear)
