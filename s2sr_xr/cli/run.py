"""Commands that make stores: one product, many of them, and whether they are sound."""

# No ``from __future__ import annotations``: typer evaluates the annotations.
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import s2sr_xr
from s2sr_xr.batches.report import BatchReport, Progress
from s2sr_xr.batches.run import Recipe, crew, run_batch
from s2sr_xr.batches.task import Piece, Rules
from s2sr_xr.cli.app import app
from s2sr_xr.cli.options import (
    Arithmetic,
    Bands,
    Block,
    Cog,
    Device,
    DryRun,
    Lay,
    Layout,
    Model,
    Out,
    Precision,
    Resume,
    Source,
)
from s2sr_xr.errors import ModelError, S2SRError

FAILED = 1
"""Exit code where something was not made, or is not sound."""

CALM = {
    "distributed.admin.tick.interval": "200ms",
    "distributed.worker.profile.interval": "200ms",
}
"""How often processes of Dask look at themselves. By its defaults, 50 and 100 times a
second, each of them burns 5 % of a core that the networks could have."""


class Task(StrEnum):
    """What is made of each item."""

    superresolve = "superresolve"
    upsample = "upsample"
    register = "register"


def _command(task: Task, text: str) -> None:
    """Add the command that makes one store of a product."""

    @app.command(task.value, help=text)
    def make(  # noqa: PLR0913 - a command's options
        src: Source,
        out: Out,
        *,
        model: Model = None,
        bands: Bands = None,
        precision: Arithmetic = Precision.float32,
        device: Device = "auto",
        block: Block = 2196,
        resume: Resume = True,
        layout: Lay = Layout.plain,
        cog: Cog = None,
        dry_run: DryRun = False,
    ) -> None:
        how = _recipe(task, model, bands, precision, device, block)
        _one(how, src, out, resume=resume, layout=layout, cog=cog, dry_run=dry_run)


_command(Task.upsample, "Bring the 20 m and 60 m bands of a product to 10 m.")
_command(
    Task.superresolve,
    "Bring the bands of a product to 5 m; of L1B, one store a detector.",
)


@app.command()
def register(
    src: Source,
    out: Out,
    *,
    model: Model = None,
    precision: Arithmetic = Precision.float32,
    device: Device = "auto",
    block: Block = 2196,
    resume: Resume = True,
    layout: Lay = Layout.plain,
    dry_run: DryRun = False,
) -> None:
    """Align the bands of L1B to green, one store a detector."""
    how = _recipe(Task.register, model, None, precision, device, block)
    _one(how, src, out, resume=resume, layout=layout, cog=None, dry_run=dry_run)


@app.command("batch")
def batch_(  # noqa: PLR0913 - a command's options
    items: Annotated[
        list[str],
        typer.Argument(help="JSON of a STAC search or a list of paths; or products."),
    ],
    *,
    out: Annotated[str, typer.Option(help="Folder for the stores, named by item.")],
    task: Annotated[Task, typer.Option(help="What to make.")] = Task.superresolve,
    model: Model = None,
    bands: Bands = None,
    precision: Arithmetic = Precision.float32,
    device: Device = "auto",
    block: Block = 2196,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes here. Default: threads of this one."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A cluster's scheduler, tcp://host:8786.")
    ] = None,
    resume: Resume = True,
    layout: Lay = Layout.plain,
    retries: Annotated[
        int, typer.Option(min=0, help="Tries more of a block that failed in passing.")
    ] = 2,
    report: Annotated[
        Path | None, typer.Option("--json", help="File for the report, as JSON.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="File for one line of JSON an event.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Make many products finer, a store each. Run it again to resume."""
    if workers and scheduler:
        raise typer.BadParameter("--workers and --scheduler are two ways; give one.")
    recipe = _recipe(task, model, bands, precision, device, block)
    given = items[0] if len(items) == 1 else items
    if dry_run:
        _plan_all(recipe, given, threads=1 if workers else None)
        return
    rules = Rules(resume=resume, retries=retries, layout=layout.value)
    with client_of(workers, scheduler) as client, _progress() as progress:
        made = run_batch(
            given, out, recipe, rules, client=client, log=log, progress=progress
        )
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(made.to_dict(), indent=2) + "\n", encoding="utf-8")
    _end(made)


@app.command()
def verify(
    store: Annotated[str, typer.Argument(help="A store that this library made.")],
) -> None:
    """Compare every block of a store with its checksum; mark bad ones to be redone."""
    bad = s2sr_xr.verify(store)
    for block in bad:
        typer.echo(f"block {block.index}  {block.what}: {block.reason}")
    if bad:
        typer.echo(
            f"{len(bad)} bad blocks. They are marked: the command that made the store "
            "writes them again.",
            err=True,
        )
        raise typer.Exit(FAILED)
    s2sr_xr.open_result(store)  # says so if blocks are still to be written
    typer.echo(f"{store} is sound")


def _recipe(
    task: Task,
    model: str | None,
    bands: str | None,
    precision: Precision,
    device: str,
    block: int,
) -> Recipe:
    return Recipe(
        task=task.value,
        model=model,
        bands=None if bands is None else bands.replace(",", " ").split(),
        precision=precision.value,
        device=device,
        block=block,
    )


def _one(
    recipe: Recipe,
    src: str,
    out: str,
    *,
    resume: bool,
    layout: Layout,
    cog: Path | None,
    dry_run: bool,
) -> None:
    """Make the store of one source, or of its detectors."""
    from s2sr_xr.batches.driver import Drive
    from s2sr_xr.batches.inputs import Entry
    from s2sr_xr.batches.report import Log

    name = Path(out).name.removesuffix(".zarr")
    results = list(recipe.results(name, Entry(name, src), out))
    if dry_run:
        _show_plans([result.ds for result in results], threads=None)
        return
    rules = Rules(resume=resume, layout=layout.value)
    with crew(None, recipe.device) as who, _progress() as progress, Log(None) as log:
        made = Drive([Piece(name, lambda: results)], who, rules, log, progress).run()
    if made.ok and cog is not None:
        for kind, path in s2sr_xr.to_cog(
            s2sr_xr.open_result(out, chunks={}), cog, overwrite=True
        ).items():
            typer.echo(f"{kind}: {path}")
    _end(made)


def _end(made: BatchReport) -> None:
    typer.echo(str(made))
    if not made.ok:
        raise typer.Exit(FAILED)


def _plan_all(recipe: Recipe, items: Any, *, threads: int | None) -> None:  # noqa: ANN401
    """Print what a job would take, item by item opened and let go."""
    from s2sr_xr.batches.inputs import listed

    found, failed = [], 0
    for entry in listed(items):
        try:
            made = recipe.results(entry.id, entry, f"{entry.id}.zarr")
            found += [s2sr_xr.plan(result.ds, threads=threads) for result in made]
        except S2SRError as error:
            failed += 1
            typer.echo(f"s2sr: {entry.id}: {' '.join(str(error).split())}", err=True)
    if found:
        typer.echo(f"{len(found)} stores\n{_sum(found)}")
    if failed:
        raise typer.Exit(FAILED)


def _show_plans(results: Sequence[Any], *, threads: int | None) -> None:
    typer.echo(str(_sum([s2sr_xr.plan(ds, threads=threads) for ds in results])))


def _sum(plans: Sequence[s2sr_xr.Plan]) -> s2sr_xr.Plan:
    """Return what all plans take together, one after another."""
    parts = ("pixels", "blocks", "tasks", "flops", "useful", "bytes_in", "bytes_out")
    total = {name: sum(getattr(p, name) for p in plans) for name in parts}
    return replace(plans[0], **total, memory=max(p.memory for p in plans))


@contextmanager
def client_of(workers: int | None, scheduler: str | None) -> Iterator[Any]:
    """Yield a client of the cluster that is asked for, None for threads."""
    if workers:
        import dask
        from distributed import Client, LocalCluster

        with (
            dask.config.set(CALM),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",
                preload=["s2sr_xr.batches.signals"],
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
    elif scheduler:
        from distributed import Client

        try:
            connected = Client(scheduler, timeout=10)
        except OSError as error:
            raise ModelError(
                f"There is no scheduler at {scheduler}: {error}. Start one with "
                "`dask scheduler`, or use --workers."
            ) from error
        with connected as client:
            yield client
    else:
        yield None


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """Show blocks, megapixels a second and the time left, on a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Shown

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    # Into a file or a pipe, a bar would only leave an empty line.
    with Shown(*columns, console=console, disable=not console.is_terminal) as shown:
        begun = time.monotonic()
        bar = shown.add_task("blocks", total=None, rate="")

        def show(now: Progress) -> None:
            rate = now.pixels / 1e6 / max(time.monotonic() - begun, 1e-6)
            shown.update(
                bar,
                completed=now.blocks_done,
                total=now.expected,
                description=f"item {now.items_begun}/{now.items}, blocks",
                rate=f"{rate:.2f} Mpx/s, {now.stored / 2**20:,.0f} MiB",
            )

        yield show
