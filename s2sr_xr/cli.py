"""The command ``s2sr``: what the library does, from a shell.

A command is a function with `Annotated` arguments under ``@app.command()``. Errors of
ours become one line on stderr and exit code 2. Heavy imports stay inside functions.
"""

# No ``from __future__ import annotations``: typer evaluates the annotations, and they
# would have to be importable without anybody using them.
import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

import s2sr_xr
from s2sr_xr.errors import S2SRError, S2SRWarning
from s2sr_xr.models import files
from s2sr_xr.models.importing import KINDS, import_checkpoint
from s2sr_xr.models.mlm import to_mlm
from s2sr_xr.models.registry import family, is_path
from s2sr_xr.models.spec import ModelSpec

__all__ = ["app"]


class _Commands(TyperGroup):
    """Commands whose expected errors are a line, not a traceback."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's own types
        """Run a command."""
        try:
            return super().invoke(ctx)
        except S2SRError as error:
            if ctx.params.get("debug"):
                raise
            typer.echo(f"s2sr: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Commands,
    help="Finer Sentinel-2 imagery, at scale, inside xarray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # variables may hold tokens
)


def _version(asked: bool) -> None:  # noqa: FBT001 - typer calls it with the value
    if asked:
        typer.echo(f"s2sr_xr {s2sr_xr.__version__}")
        raise typer.Exit


@app.callback()
def main(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Say which version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error comes from.")
    ] = False,
) -> None:
    """Finer Sentinel-2 imagery, at scale, inside xarray."""
    del version, debug  # read before, and by _Commands


models = typer.Typer(
    help="List the models: what each takes and makes, and how far it looks.",
    invoke_without_command=True,
)
app.add_typer(models, name="models")


@models.callback()
def _list(context: typer.Context) -> None:
    if context.invoked_subcommand is not None:
        return
    titles = ("name", "cell", "pixel", "margin", "tile", "weights", "takes", "makes")
    rows = [titles, *(_facts(spec) for spec in s2sr_xr.list_models())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
    typer.echo("\nMargin and tile are counted in cells.")


@models.command()
def show(
    name: Annotated[str, typer.Argument(help="A model, or a .safetensors file.")],
    *,
    mlm: Annotated[
        bool, typer.Option("--mlm", help="As a STAC item of the MLM extension.")
    ] = False,
) -> None:
    """Print all that is known of a model: its facts, and its card as JSON."""
    spec = s2sr_xr.get_spec(name)
    if mlm:
        typer.echo(json.dumps(to_mlm(spec), indent=2))
        return
    for title, value in _card(spec).items():
        typer.echo(f"{title:<10}  {value}")
    if is_path(name):
        header = files.read_header(Path(name).expanduser())
        more = {"kind": header.kind, **header.notes}
    else:
        more = dict(files.card_of(name) or {})
    if more:
        typer.echo(f"\n{json.dumps(more, indent=2)}")


def _card(spec: ModelSpec) -> dict[str, object]:
    groups = (
        f"{' '.join(g.names)} at {spec.cell / g.per_cell:g} m" for g in spec.inputs
    )
    return {
        "name": spec.name,
        "title": spec.title,
        "takes": "; ".join(groups),
        "makes": f"{' '.join(spec.output.names)} at {spec.resolution:g} m",
        "cell": f"{spec.cell} m",
        "tile": f"{spec.tile} cells",
        "margin": f"{spec.margin} cells" + ("" if spec.exact else ", by definition"),
        "halo": f"{spec.halo} cells",
        "levels": " ".join(spec.levels) or "any",
        "weights": spec.sha256 or "none",
        "licence": spec.licence,
        "cite": spec.citation or "-",
    }


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="What the authors publish.")],
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(KINDS)}.")],
    out: Annotated[Path, typer.Option(help="A new .safetensors file, or a folder.")],
) -> None:
    """Bring published weights in, as a file that works like a model name."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", S2SRWarning)
        made = import_checkpoint(path, kind, out=out)
    for warning in told:
        typer.echo(f"s2sr: {warning.message}", err=True)
    typer.echo(f"{made}  {files.digest(made)}")


def _facts(spec: ModelSpec) -> tuple[str, ...]:
    return (
        spec.name,
        f"{spec.cell} m",
        f"{spec.resolution:g} m",
        str(spec.margin),
        str(spec.tile),
        spec.sha256[:12] if spec.sha256 else "none",
        "each itself" if spec.per_band else " ".join(spec.bands),
        " ".join(spec.output.names),
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path(
        "demo_out"
    ),
    size: Annotated[
        int, typer.Option(help="Side of the scene in 10 m pixels, a multiple of 6.")
    ] = 1098,
    seed: Annotated[int, typer.Option(min=0, help="Which scene.")] = 0,
    model: Annotated[
        str, typer.Option(help="What makes the bands finer; see `s2sr models`.")
    ] = "dsen2",
) -> None:
    """Simulate a scene, make its 20 m and 60 m bands finer, and judge the result.

    Needs no data and no network: the scene is made up, so its truth is known.
    """
    import dask

    family(model)  # an unknown name fails now, not after the scene is made
    steps = _Steps()
    store, picture, scores = (
        out / "ten.zarr",
        out / "before_after.png",
        out / "scores.txt",
    )
    with steps.timed("simulate a scene"):
        item = s2sr_xr.simulate_scene(out / "scene", size=size, seed=seed)
    with steps.timed("open its STAC item"):
        tree = s2sr_xr.open_stac(item, chunks=366)
        ten = s2sr_xr.upsample(tree, model)
    with steps.timed(f"make it finer ({model}) and write Zarr"):
        work = s2sr_xr.to_zarr(ten, store, mode="w", compute=False)
        with _progress(steps.console):
            dask.compute(work)
    with steps.timed("score it against the truth"):
        from s2sr_xr import report

        made = s2sr_xr.open_result(store)
        truth = s2sr_xr.open_truth(item)
        preds = {m: s2sr_xr.upsample(tree, m) for m in ("nearest", "bicubic")}
        text = report.table(report.compare({**preds, model: made}, truth))
        scores.write_text(text + "\n", encoding="utf-8")
    with steps.timed("draw it"):
        title = f"{item.id}: {model}"
        report.before_after(tree, made, picture, truth=truth, title=title)
    typer.echo(
        f"\nErrors against the truth: RMSE in 1e-4 reflectance (DN), SRE in dB,\n"
        f"SAM in degrees over the bands of one pixel size, UIQ of 1 at best\n\n{text}\n"
    )
    steps.summarise()
    _say_where(item=Path(item.self_href), result=store, picture=picture, scores=scores)


@dataclass
class _Steps:
    """What was done, and how long it took."""

    console: Console = field(default_factory=Console)
    took: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Say that a step begins, and keep how long it took."""
        self.console.print(f"[dim]{step} ...[/dim]", highlight=False)
        begun = time.perf_counter()
        yield
        self.took[step] = time.perf_counter() - begun

    def summarise(self) -> None:
        """Print the seconds of each step."""
        for step, seconds in {**self.took, "all": sum(self.took.values())}.items():
            typer.echo(f"{seconds:6.1f} s  {step}")


def _say_where(**places: Path) -> None:
    typer.echo()
    for name, place in places.items():
        typer.echo(f"{name:<8} {place}")
    typer.echo(f'\nOpen it with  s2sr_xr.open_result("{places["result"]}")')


@contextmanager
def _progress(console: Console) -> Iterator[None]:
    """Show how many Dask tasks are done."""
    from dask.callbacks import Callback
    from rich.progress import Progress

    # Into a file or a pipe, a bar would only leave an empty line.
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("blocks", total=None)

        def start(_: object, state: dict[str, Any]) -> None:
            bar.update(task, total=len(state["ready"]) + len(state["waiting"]))

        def advance(*_: object) -> None:
            bar.advance(task)

        with Callback(start_state=start, posttask=advance):
            yield
