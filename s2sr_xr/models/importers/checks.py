"""What every foreign weights file passes before anything parses it."""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any

from s2sr_xr.errors import ModelError
from s2sr_xr.models.weights_check import check_size, digest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SLACK", "check_foreign", "check_memory", "extra", "provenance"]

SLACK = 1.1
"""Tensors may need this many times the bytes of their file: weights do not compress."""


def check_foreign(path: Path, magic: bytes, what: str) -> None:
    """Raise a ModelError unless a file is there, of a sane size, and starts right.

    Parameters
    ----------
    path
        The file.
    magic
        Its first bytes; empty where the format has none.
    what
        The format, for people.
    """
    if not path.is_file():
        raise ModelError(f"There is no file {str(path)!r} to import.")
    check_size(path)
    with path.open("rb") as file:
        start = file.read(512)
    if re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
        raise ModelError(
            f"{path.name} looks like a web page ({path.stat().st_size} bytes), not "
            f"{what}: the download went wrong. Fetch it again."
        )
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(
            f"{path.name} is a pointer to a file in Git LFS, not {what}. Fetch it with "
            "`git lfs pull`."
        )
    if not start.startswith(magic):
        raise ModelError(f"{path.name} is not {what}: it starts with {start[:8]!r}.")


def check_memory(path: Path, needed: int) -> None:
    """Raise a ModelError if tensors would need far more bytes than their file has."""
    size = path.stat().st_size
    if needed > SLACK * size:
        raise ModelError(
            f"{path.name} has {size} bytes but declares tensors of {needed}: it was "
            "made to fill the memory. Nothing was read."
        )


def provenance(source: Path) -> dict[str, str]:
    """Return what a header says of the file that weights come from."""
    return {"source": source.name, "source_sha256": digest(source)}


def extra(name: str) -> Any:  # noqa: ANN401 - none of these has types
    """Return a module that only some imports need.

    Raises
    ------
    ModelError
        It is not installed; the message says how to.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(
            f'Weights of this format need {name}: pip install "s2sr-xr[checkpoints]".'
        ) from error
