"""What a job did: a report for people and programs, and a log line by line."""

from __future__ import annotations

import datetime as dt
import html
import json
import threading
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from s2sr_xr.errors import S2SRWarning, StoreError, redact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import TextIOWrapper
    from pathlib import Path

    from s2sr_xr.output.zarr import Index

__all__ = ["BatchReport", "Failure", "ItemReport", "Log", "Progress", "one_line"]

SHOWN = 40
"""Items that a printed report lists; failed ones come first."""


def one_line(error: BaseException) -> str:
    """Return an error as one line without secrets, its class first.

    >>> one_line(OSError("no space at https://host/a?sig=abc&x=1"))
    'OSError: no space at https://host/a'
    """
    return f"{type(error).__name__}: {redact(' '.join(str(error).split()))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Something that was not made."""

    item: str
    """Whose it is."""

    block: Index | None
    """Time, block row, block column; None where the item as a whole failed."""

    error: str
    """What went wrong, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemReport:
    """What was done for one store."""

    id: str
    """The item; of L1B with the detector, such as ``"S2A_..._d05"``."""

    store: str
    """Where its store is, or would be."""

    state: str
    """"written", "skipped" (it was complete), "failed", or "unfinished"."""

    blocks_written: int = 0
    """Blocks with pixels that this run wrote."""

    blocks_skipped: int = 0
    """Blocks that an earlier run had written."""

    blocks_empty: int = 0
    """Blocks without any pixel that this run wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """What `batch` did. Prints as a table."""

    items: tuple[ItemReport, ...]
    """Every store that was tried, in the order in which they ended."""

    failed: tuple[Failure, ...] = ()
    """What was not made, and why; empty if all is well."""

    stopped: str | None = None
    """Why the run ended before its end, such as "interrupted"; None if it did not."""

    seconds: float = 0.0
    """How long it took."""

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is complete."""
        return not self.failed and self.stopped is None

    @property
    def blocks_written(self) -> int:
        """Blocks with pixels that this run wrote."""
        return sum(item.blocks_written for item in self.items)

    @property
    def blocks_skipped(self) -> int:
        """Blocks that an earlier run had written."""
        return sum(item.blocks_skipped for item in self.items)

    @property
    def blocks_empty(self) -> int:
        """Blocks without any pixel that this run wrote."""
        return sum(item.blocks_empty for item in self.items)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain JSON."""
        totals = ("ok", "blocks_written", "blocks_skipped", "blocks_empty")
        return {n: getattr(self, n) for n in totals} | asdict(self)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table: titles, items with the failed ones first, the sum."""
        ended = sorted(self.items, key=lambda i: i.state in ("written", "skipped"))
        rows: list[tuple[str, ...]] = [
            ("item", "state", "written", "skipped", "empty"),
            *(_row(i.id, i.state, i) for i in ended[:SHOWN]),
        ]
        if more := len(ended) - SHOWN:
            rows += [(f"... and {more} more", *[""] * 4)] if more > 0 else []
        done = sum(i.state in ("written", "skipped") for i in self.items)
        return [*rows, _row("all", f"{done} of {len(self.items)} done", self)]

    def __str__(self) -> str:
        """Return the table, then what failed."""
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                f"{c:<{w}}" if n < 2 else f"{c:>{w}}"
                for n, (c, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *self._troubles()])

    def _repr_html_(self) -> str:
        cells = (
            "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
            for row in self.rows()
        )
        table = "".join(f"<tr>{row}</tr>" for row in cells)
        return f"<table>{table}</table>" + "".join(
            f"<p>{html.escape(line)}</p>" for line in self._troubles()
        )

    def _troubles(self) -> Iterator[str]:
        for failure in self.failed[:SHOWN]:
            block = "" if failure.block is None else f" block {failure.block}"
            yield f"failed: {failure.item}{block}: {failure.error}"
        if (more := len(self.failed) - SHOWN) > 0:
            yield f"... and {more} more failures"
        if self.stopped:
            yield f"stopped: {self.stopped}. Run it again to resume."


def _row(name: str, state: str, counts: ItemReport | BatchReport) -> tuple[str, ...]:
    blocks = counts.blocks_written, counts.blocks_skipped, counts.blocks_empty
    return name, state, *map(str, blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is, reported after each block and each item."""

    items: int
    """Items of the job."""

    items_begun: int
    """Items that were opened so far."""

    blocks: int
    """Blocks of the items opened so far, skipped ones left out."""

    blocks_done: int
    """Blocks written."""

    pixels: int
    """Output pixels written, of one variable."""

    stored: int
    """Bytes written, as compressed."""

    @property
    def expected(self) -> int:
        """Blocks of the whole job, as far as known from the items opened so far."""
        return round(self.blocks * self.items / max(self.items_begun, 1))


@dataclass(slots=True)
class Log:
    """A file of JSON, a line an event, flushed: what is in it has happened.

    A disk that is full ends the log, with a warning, and not the work.
    """

    path: Path | None
    """Where it is; later runs append. None: nowhere."""

    _file: TextIOWrapper | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("a", encoding="utf-8")
            except OSError as error:
                raise StoreError(
                    f"The log {self.path} cannot be written: {error.strerror}. Give "
                    "log= another place."
                ) from error
        return self

    def __exit__(self, *_: object) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                self._warn(error)

    def say(self, event: str, item: str, **more: object) -> None:
        """Write one event."""
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, "item": item, **more})
        with self._lock:
            if self._file is None:
                return
            try:
                self._file.write(line + "\n")
                self._file.flush()
            except OSError as error:
                file, self._file = self._file, None
                with suppress(OSError):  # it would write again what did not fit
                    file.close()
                self._warn(error)

    def _warn(self, error: OSError) -> None:
        warnings.warn(
            f"The log {self.path} cannot be written any more: {error.strerror}. The "
            "work goes on without it.",
            S2SRWarning,
            stacklevel=3,
        )
