"""How good a model is: on a scene of your own, or by a reference."""

# No ``from __future__ import annotations``: typer evaluates the annotations.
import json
import math
import warnings
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

import s2sr_xr
from s2sr_xr.cli.app import app
from s2sr_xr.errors import GridError, StoreError


class Task(StrEnum):
    """What is judged."""

    twenty = "20m"
    sixty = "60m"
    five = "5m"


@app.command()
def score(
    src: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="STAC item (JSON), SAFE, EOPF href, or Theia; with --truth a store.",
        ),
    ],
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Name or weights file; give it again for several."),
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(help="Bands of 20m or 60m at 10 m, or bands at 5m. Default: 20m."),
    ] = None,
    bbox: Annotated[
        str | None, typer.Option(help="WEST,SOUTH,EAST,NORTH in degrees.")
    ] = None,
    bands: Annotated[
        str | None, typer.Option(help="Bands to judge, such as B11,B12. Default: all.")
    ] = None,
    border: Annotated[
        int, typer.Option(min=0, help="Pixels along each side that are left out.")
    ] = 0,
    truth: Annotated[
        str | None,
        typer.Option(help="A Zarr store with the reference of the result SRC."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON in place of a table.")
    ] = False,
) -> None:
    """Judge models on a scene one scale below, by the recorded pixels as the reference.

    With --truth, judge a stored result instead.
    """
    area = None if bbox is None else _area(bbox)
    names = None if bands is None else bands.replace(",", " ").split()
    if truth is not None:
        if model or task or border:
            raise typer.BadParameter(
                "--truth judges a stored result; --model, --task and --border are for "
                "scenes."
            )
        scores = _by_truth(src, truth, area, names)
        _print(scores, as_json=as_json, source=src, truth=truth)
        return
    from s2sr_xr.evaluate import score_scene
    from s2sr_xr.readers.any import open_any

    asked = (task or Task.twenty).value
    tree = open_any(src)
    scores = score_scene(
        tree if area is None else s2sr_xr.window(tree, bbox=area),
        model or None,
        task=asked,  # type: ignore[arg-type]  # the values of Task are its literals
        bands=names,
        border=border,
        device=device,
    )
    _print(scores, as_json=as_json, source=src, task=asked)


def _area(text: str) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = map(float, text.split(","))
    except ValueError as error:
        raise GridError(
            f"--bbox {text} is not four numbers: give WEST,SOUTH,EAST,NORTH in degrees."
        ) from error
    return west, south, east, north


def _by_truth(
    store: str,
    truth: str,
    area: tuple[float, float, float, float] | None,
    bands: list[str] | None,
) -> dict[str, Any]:
    """Return the scores of a stored result."""
    from s2sr_xr import evaluate

    made, true = s2sr_xr.open_result(store), _opened(truth)
    if area is not None:
        made, true = (s2sr_xr.window(ds, bbox=area) for ds in (made, true))
    return {"result": evaluate.score(made, true, bands)}


def _opened(store: str) -> Any:  # noqa: ANN401 - xarray stays out of the import
    """Return a store of ours, or of anybody."""
    import xarray as xr

    try:
        with warnings.catch_warnings():
            # Slow to open is not worth a word here.
            warnings.filterwarnings("ignore", "Failed to open Zarr", RuntimeWarning)
            found = xr.open_zarr(store, chunks=None)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"There is no Zarr store with the reference at {store}: {error}. Give one "
            "with a variable a band, in reflectance, on the pixels of the result.",
            store=store,
        ) from error
    if "state" in found.attrs:
        return s2sr_xr.open_result(store)  # says whether it is complete
    # A CRS that no band refers to is read as a variable.
    return found.set_coords([n for n, v in found.data_vars.items() if v.ndim == 0])


def _print(scores: Mapping[str, Any], *, as_json: bool, **what: str) -> None:
    if as_json:
        typer.echo(json.dumps({**what, "methods": _records(scores)}, indent=2))
        return
    from s2sr_xr.evaluate import table

    task = what.get("task")
    typer.echo(f"{TITLES[task] if task else 'Errors against the reference'}: {UNITS}\n")
    typer.echo(table(scores, psnr=True))


TITLES = {
    "20m": "20 m bands, made of 40 m pixels",
    "60m": "60 m bands, made of 360 m pixels",
    "5m": "10 m bands, made of 20 m pixels, and 20 m bands of 40 m ones",
}
UNITS = (
    "RMSE in 1e-4 reflectance (DN), SRE in dB,\nSAM in degrees over the bands of one "
    "pixel size, UIQ of 1 at best"
)


def _records(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores as JSON takes them."""
    from s2sr_xr.evaluate import psnr_gain, relative_rmse

    found: dict[str, Any] = {}
    base = scores.get("bicubic")
    for name, own in scores.items():
        found[name] = {
            part: {row.name: _row(row) for row in getattr(own, part)}
            for part in ("bands", "means")
        }
        if base is not None:
            found[name] |= {
                "figure": _finite(relative_rmse(own, base)),
                "psnr_gain": _finite(psnr_gain(own, base)),
            }
    return found


def _row(row: Any) -> dict[str, float | None]:  # noqa: ANN401 - report.Row
    return {k: _finite(getattr(row, k)) for k in ("rmse", "sre", "sam", "uiq")}


def _finite(value: float) -> float | None:
    """Return a number that JSON has: neither NaN nor infinity."""
    return float(value) if math.isfinite(value) else None
