"""`batch`: one task over many items, a store each."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from s2sr_xr.batches.inputs import file_name, listed
from s2sr_xr.batches.task import Piece, Result, Rules
from s2sr_xr.engine.options import Options
from s2sr_xr.errors import ChunkError, MissingBandError, ModelError, S2SRWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from distributed import Client

    from s2sr_xr.batches.inputs import Entry
    from s2sr_xr.batches.report import BatchReport, Progress
    from s2sr_xr.batches.workers import Crew
    from s2sr_xr.output.zarr import Layout

__all__ = ["TASKS", "Recipe", "Task", "batch", "crew", "run_batch", "store_of"]

Task = Literal["superresolve", "upsample", "register"]

TASKS = ("superresolve", "upsample", "register")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is made of each item."""

    task: Task = "superresolve"
    """The call that makes it."""

    model: str | os.PathLike[str] | Mapping[str, str] | None = None
    """As that call takes it; None: its own choice."""

    bands: Sequence[str] | None = None
    """The bands to make; None: all."""

    precision: str = "float32"
    """Arithmetic of the networks."""

    device: str = "auto"
    """Where networks run."""

    block: int = 2196
    """Side of a block in 10 m pixels."""

    def __post_init__(self) -> None:
        Options(precision=self.precision)  # or raise
        if self.task not in TASKS:
            raise ModelError(f"task={self.task!r} is not one of {', '.join(TASKS)}.")
        if self.block < 6 or self.block % 6:
            raise ChunkError(
                f"block={self.block}: the side of a block is a multiple of 6 ten-metre "
                f"pixels, such as 2196."
            )
        if self.task == "register" and self.bands is not None:
            raise MissingBandError(
                "register takes all bands of a detector; leave bands= out."
            )
        self._check_model()

    def _check_model(self) -> None:
        """Raise if the model is unknown or has no weights, before a night begins."""
        from s2sr_xr.engine.select import for_registration, models_by_native
        from s2sr_xr.models.registry import check_runs

        if self.model is None:
            return
        if self.task == "upsample":
            for name in models_by_native(self.model).values():
                check_runs(name)
            return
        if not isinstance(self.model, str | os.PathLike):
            raise ModelError(f"{self.task} takes one model by name, got {self.model}.")
        check_runs(self.model)
        if self.task == "register":
            for_registration(self.model, "B03", flow=False)

    def apply(self, tree: xr.DataTree) -> xr.Dataset | xr.DataTree:
        """Return the lazy result; a tree of L1B detectors gives a tree."""
        from s2sr_xr.engine.api import register, superresolve, upsample

        how: dict[str, Any] = {"device": self.device, "precision": self.precision}
        if self.model is not None:
            how["model"] = self.model
        if self.task == "register":
            return register(tree, **how)
        if self.task == "upsample":
            return upsample(tree, bands=self.bands, **how)
        return superresolve(tree, bands=self.bands, **how)

    def results(self, item: str, source: Entry, store: str) -> Iterator[Result]:
        """Open an item and yield what is made of it, a store each.

        `store` ends in ".zarr"; detectors of L1B get one each, ``..._d05.zarr``.
        """
        made = self.apply(source.open(chunks=self.block))
        if isinstance(made, xr.Dataset):
            yield Result(item, store, made)
            return
        for name, node in made.children.items():
            place = f"{store.removesuffix('.zarr')}_{name}.zarr"
            yield Result(f"{item}_{name}", place, node.to_dataset())


def batch(  # noqa: PLR0913 - what a night's job is made of, all by name
    items: Any,  # noqa: ANN401 - see Parameters
    out: str | Path,
    *,
    task: Task = "superresolve",
    model: str | os.PathLike[str] | Mapping[str, str] | None = None,
    client: Client | None = None,
    block: int = 2196,
    precision: str = "float32",
    resume: bool = True,
    retries: int = 2,
    on_error: Literal["continue", "raise"] = "continue",
    bands: Sequence[str] | None = None,
    device: str = "auto",
    layout: Layout = "plain",
    log: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> BatchReport:
    """Make many items finer, a Zarr store each, whatever fails on the way.

    A block is a unit of its own: it reads its window, runs the networks, is written and
    recorded. A few a worker are in flight at once. Whatever dies, the same call
    resumes, and no block that is recorded is computed again.

    Stores on a map that are complete are described as STAC items, in a static catalogue
    next to them (``catalog.json``), where `out` is a local folder.

    Ctrl-C (or SIGTERM) ends the run in order: no block is begun, those in work are
    finished, and the report says so. A second Ctrl-C ends it at once.

    Parameters
    ----------
    items
        STAC items in any form (a pystac ItemCollection, dicts, a search, the path of
        the JSON of a search), paths of SAFE, L1B or Theia products, hrefs of EOPF
        products, a list of those, or the path of a JSON file with such a list.
    out
        Folder or URL for the stores, each named by its item: ``<id>.zarr``. Of L1B one
        store a detector, ``<id>_d05.zarr``.
    task
        "superresolve", "upsample" or "register".
    model, bands, precision, device
        As in the call of that name. "cuda" on a cluster asks for workers with the
        resource GPU.
    client
        A `distributed.Client`, whose workers see `out` and the items; None: threads of
        this process, one a core, three at least for a GPU: they read and write blocks
        while it computes others. For the same reason give workers with a GPU as many
        threads as there are cores for each.
    block
        Side of a block in 10 m pixels, a multiple of 6.
    resume
        Whether to resume stores that an equal job began; complete ones are left as
        they are. False: a store that exists fails its item.
    retries
        How often a block is tried again that could not be read or written, or whose
        worker died. Other errors would come again.
    on_error
        "continue": other items go on when one fails; "raise": the first error is raised
        when what is in work has ended.
    layout
        As in `to_zarr`.
    log
        File for one line of JSON an event; later runs append.
    progress
        Called after each block and item.

    Returns
    -------
    BatchReport
        What was written, skipped and empty, and what failed; prints as a table.

    Raises
    ------
    GridError
        There is no item, or one appears more than once.
    ReadError
        `items` is a file that cannot be read.
    ModelError
        The task, model, precision or device is unknown; the cluster has no worker, none
        with a GPU that was asked for, or workers of other versions.
    ChunkError
        `block` is not a multiple of 6.
    StoreError
        The log cannot be written, `layout` is unknown, or ``catalog.json`` in `out` is
        not of this library.

    Warns
    -----
    S2SRWarning
        The log or the catalogue cannot be written any more; stores are not touched.
    """
    recipe = Recipe(
        task=task,
        model=model,
        bands=bands,
        precision=precision,
        device=device,
        block=block,
    )
    rules = Rules(resume=resume, retries=retries, on_error=on_error, layout=layout)
    return run_batch(
        items, out, recipe, rules, client=client, log=log, progress=progress
    )


def run_batch(
    items: Any,  # noqa: ANN401 - see `batch`
    out: str | Path,
    recipe: Recipe,
    rules: Rules,
    *,
    client: Client | None = None,
    log: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> BatchReport:
    """Do what `batch` promises, with what its options say put together."""
    from s2sr_xr.batches.driver import Drive
    from s2sr_xr.batches.report import Log, one_line

    entries = listed(items)
    folder = None if "://" in os.fspath(out) else Path(out)
    if folder is not None:
        from s2sr_xr.output.stac_catalog import check_catalogue

        check_catalogue(folder)
    pieces = [
        Piece(e.id, partial(recipe.results, e.id, e, store_of(out, e.id)))
        for e in entries
    ]
    lines = Log(None if log is None else Path(log))
    with crew(client, recipe.device) as who, lines:
        report = Drive(pieces, who, rules, lines, progress).run()
    if folder is not None:
        try:
            _catalogue(folder, report, entries)
        except Exception as error:  # noqa: BLE001 - the report must come back
            warnings.warn(
                f"The stores in {folder} are as the report says, but were not "
                f"catalogued: {one_line(error)}",
                S2SRWarning,
                stacklevel=3,
            )
    return report


def _catalogue(out: Path, report: BatchReport, entries: Sequence[Entry]) -> None:
    """Describe the stores that are complete, for the next step to find."""
    from s2sr_xr.output.stac_catalog import write_catalogue
    from s2sr_xr.output.stac_item import result_item

    sources = {e.id: e.source for e in entries if isinstance(e.source, dict)}
    made = [
        result_item(r.store, sources=[sources[r.id]] if r.id in sources else ())
        for r in report.items
        # Detectors of L1B lie nowhere on a map.
        if r.state in ("written", "skipped") and r.id in {e.id for e in entries}
    ]
    if made:
        write_catalogue(out, made)


@contextmanager
def crew(client: Client | None, device: str) -> Iterator[Crew]:
    """Yield who does the blocks: threads here, or the workers of a client.

    Raises
    ------
    ModelError
        The device is not there, or the workers cannot do the work.
    """
    from s2sr_xr.batches.workers import Threads, Workers

    if client is not None:
        yield Workers(client, gpu=device.startswith("cuda"))
        return
    from s2sr_xr.engine.thread_team import resolve, threads

    yield Threads(threads(resolve(device)))


def store_of(out: str | Path, item: str) -> str:
    """Return where the store of an item goes."""
    name = f"{file_name(item)}.zarr"
    text = os.fspath(out)
    if "://" in text:
        return f"{text.rstrip('/')}/{name}"
    return str(Path(text).absolute() / name)
