"""Commands that train networks."""

# No ``from __future__ import annotations``: typer evaluates the annotations.
import time
from pathlib import Path
from typing import Annotated

import typer

from s2sr_xr.cli.app import app


@app.command()
def train(
    recipe: Annotated[
        Path, typer.Argument(help="A TOML file: recipe, scenes, out, [settings].")
    ],
) -> None:
    """Train a network as a TOML file says; after a kill, run it again to resume."""
    from s2sr_xr.train.config import read_training
    from s2sr_xr.train.config import train as steps

    training = read_training(recipe)
    begun = time.monotonic()
    recent: float | None = None
    for step, loss, _ in steps(training):
        recent = loss if recent is None else 0.98 * recent + 0.02 * loss
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - begun
            typer.echo(f"step {step + 1}  loss {recent:.5f}  {seconds:.0f} s")
    typer.echo(f"{training.out}")
