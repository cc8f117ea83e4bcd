"""The command that shows it all: a simulated scene, made finer, and judged."""

# No ``from __future__ import annotations``: typer evaluates the annotations.
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import s2sr_xr
from s2sr_xr.cli.app import app
from s2sr_xr.models.registry import family


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
        from s2sr_xr import evaluate

        made = s2sr_xr.open_result(store)
        truth = s2sr_xr.open_truth(item)
        preds = {m: s2sr_xr.upsample(tree, m) for m in ("nearest", "bicubic")}
        text = evaluate.table(evaluate.compare({**preds, model: made}, truth))
        scores.write_text(text + "\n", encoding="utf-8")
    with steps.timed("draw it"):
        title = f"{item.id}: {model}"
        evaluate.before_after(tree, made, picture, truth=truth, title=title)
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
