"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Arithmetic",
    "Bands",
    "Block",
    "Cog",
    "Device",
    "DryRun",
    "Lay",
    "Layout",
    "Model",
    "Out",
    "Precision",
    "Resume",
    "Source",
]


class Precision(StrEnum):
    """Arithmetic of the networks."""

    float32 = "float32"
    bf16 = "bf16"
    tf32 = "tf32"


class Layout(StrEnum):
    """How blocks lie in a store."""

    plain = "plain"
    sharded = "sharded"


Source = Annotated[
    str,
    typer.Argument(
        metavar="SRC", help="STAC item or search (JSON), SAFE, EOPF href, or Theia."
    ),
]


Out = Annotated[str, typer.Argument(metavar="OUT", help="A Zarr store to make.")]


Model = Annotated[
    str | None,
    typer.Option(help="Name or weights file; see `s2sr models`."),
]


Bands = Annotated[
    str | None, typer.Option(help="Bands to make, such as B11,B12. Default: all.")
]


Arithmetic = Annotated[Precision, typer.Option(help="Arithmetic of the networks.")]


Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")]


Block = Annotated[
    int, typer.Option(help="Side of a block in 10 m pixels, a multiple of 6.")
]


Resume = Annotated[
    bool,
    typer.Option(help="Resume what is there; or refuse stores that exist."),
]


Lay = Annotated[
    Layout, typer.Option(help="plain, or sharded: fewer files, for object stores.")
]


Cog = Annotated[
    Path | None,
    typer.Option(help="Also write a cloud-optimised GeoTIFF (replaced if there)."),
]


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what it would take, and stop.")
]
