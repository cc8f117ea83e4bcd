"""Commands that list the models, and bring others in."""

# No ``from __future__ import annotations``: typer evaluates the annotations.
import json
import warnings
from pathlib import Path
from typing import Annotated

import typer

import s2sr_xr
from s2sr_xr.cli.app import app
from s2sr_xr.errors import S2SRWarning
from s2sr_xr.models import weights_file
from s2sr_xr.models.header import read_header
from s2sr_xr.models.importers.checkpoint import KINDS, import_checkpoint
from s2sr_xr.models.mlm import to_mlm
from s2sr_xr.models.registry import is_path
from s2sr_xr.models.spec import ModelSpec
from s2sr_xr.models.weights_check import digest

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
        header = read_header(Path(name).expanduser())
        more = {"kind": header.kind, **header.notes}
    else:
        more = dict(weights_file.card_of(name) or {})
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
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", S2SRWarning)
        made = import_checkpoint(path, kind, out=out)
    for warning in seen:
        typer.echo(f"s2sr: {warning.message}", err=True)
    typer.echo(f"{made}  {digest(made)}")


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
