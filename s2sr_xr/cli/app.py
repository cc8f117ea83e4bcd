"""The program itself: what all commands share.

Errors of ours become one line on stderr and exit code 2. Heavy imports stay inside
functions.
"""

# No ``from __future__ import annotations``: typer evaluates the annotations, and they
# would have to be importable without anybody using them.
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import s2sr_xr
from s2sr_xr.errors import S2SRError

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
