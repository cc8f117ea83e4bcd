"""The header of a weights file: a model specification as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from s2sr_xr.errors import ModelError
from s2sr_xr.models.spec import BandGroup, ModelSpec
from s2sr_xr.models.weights_check import MOST, check_file, digest, file_stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

    Tensors = Mapping[str, torch.Tensor]

__all__ = [
    "Header",
    "broken",
    "parsed",
    "read_header",
    "read_spec",
    "spec_from_json",
    "spec_to_json",
]


def spec_to_json(spec: ModelSpec) -> str:
    """Return the facts of a model as text; the hash is the file's own affair."""
    return json.dumps(asdict(replace(spec, sha256=None, fill=dict(spec.fill))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a weights file says of itself."""

    spec: ModelSpec
    """The facts of the model, with the hash of the file."""

    kind: str
    """Registry name of the architecture that the tensors fit."""

    notes: Mapping[str, str]
    """Everything else: source, constants."""


def read_spec(path: Path) -> tuple[ModelSpec, str]:
    """Return the facts in a weights file, and the architecture that it fits.

    Raises
    ------
    ModelError
        The file is no safetensors file, or not one that this library wrote.
    """
    header = read_header(path)
    return header.spec, header.kind


def read_header(path: Path) -> Header:
    """Return what a weights file says of itself.

    Raises
    ------
    ModelError
        The file is no safetensors file, or not one that this library wrote.
    """
    check_file(path)
    return _header(path, file_stamp(path))


@lru_cache(maxsize=64)
def _header(path: Path, stamp: tuple[int, ...]) -> Header:  # noqa: ARG001 - a key
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
    except (SafetensorError, OSError) as error:
        raise broken(path, error) from error
    return parsed(path, metadata, digest(path))


def parsed(path: Path, metadata: Mapping[str, str] | None, sha256: str) -> Header:
    """Return the header that the metadata of a weights file hold."""
    notes = dict(metadata or {})
    if not {"kind", "spec"} <= notes.keys():
        raise ModelError(
            f"{path.name} does not say what model it is: it was not written by this "
            "library. Bring published weights in with s2sr_xr.import_checkpoint."
        )
    kind, text = notes.pop("kind"), notes.pop("spec")
    try:
        spec = spec_from_json(text)
    except ModelError as error:
        raise ModelError(f"{path.name}: {error}") from error
    return Header(spec=replace(spec, sha256=sha256), kind=kind, notes=notes)


def broken(path: Path, error: Exception) -> ModelError:
    """Return the error of a file that cannot be read as safetensors."""
    return ModelError(
        f"{path.name} is not a whole safetensors file: {error}. Fetch it again."
    )


def spec_from_json(text: str) -> ModelSpec:
    """Return the facts in what `spec_to_json` wrote.

    Raises
    ------
    ModelError
        A fact is missing, strange, or of a kind or size that cannot be meant.
    """
    try:
        facts = json.loads(text)
        return ModelSpec(**{key: _READ[key](value) for key, value in facts.items()})
    except KeyError as error:
        raise ModelError(
            f"the fact {error} is unknown: the file was written by a newer version of "
            "this library, or by another. Upgrade, or import the weights again."
        ) from error
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(
            f"the facts in its header cannot be read: {error}. Import it again."
        ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not text")
    return value


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MOST:
        raise TypeError(f"{value!r:.40} is not a count")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is neither true nor false")
    return value


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} is not a list")
    return tuple(map(_text, value))


def _group(value: object) -> BandGroup:
    if not isinstance(value, dict) or value.keys() != {"names", "per_cell"}:
        raise TypeError(f"{value!r:.40} is not a band group")
    return BandGroup(names=_names(value["names"]), per_cell=_count(value["per_cell"]))


def _groups(value: object) -> tuple[BandGroup, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} is not a list")
    return tuple(map(_group, value))


def _means(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.40} is not a mapping")
    means = {_text(k): float(v) for k, v in value.items()}
    if not all(map(math.isfinite, means.values())):
        raise ValueError("a mean to fill with is not finite")
    return means


def _nothing(value: object) -> None:
    if value is not None:
        raise TypeError("a file cannot hold its own hash")


_READ: Mapping[str, Callable[[object], Any]] = {
    **dict.fromkeys(("name", "title", "units", "licence", "citation"), _text),
    **dict.fromkeys(("cell", "margin", "tile", "align"), _count),
    **dict.fromkeys(("exact", "trained", "per_band"), _flag),
    "inputs": _groups,
    "output": _group,
    "also": _names,
    "levels": _names,
    "fill": _means,
    "sha256": _nothing,
}
"""How each fact is read: what is not what it should be is refused."""
