"""The header of a weights file: a model specification as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, get_type_hints

from s2sr_xr.core.typed import typed
from s2sr_xr.errors import ModelError
from s2sr_xr.models.spec import ModelSpec
from s2sr_xr.models.weights_check import MOST, check_file, digest, file_stamp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    Tensors = Mapping[str, torch.Tensor]

__all__ = [
    "Header",
    "broken",
    "parsed",
    "read_header",
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


def read_header(path: Path) -> Header:
    """Return what a weights file says of itself.

    Raises
    ------
    ModelError
        The file is not a safetensors file, or not one that this library wrote.
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
        hints = get_type_hints(ModelSpec)
        read = {name: typed(name, value, hints[name]) for name, value in facts.items()}
        spec = ModelSpec(**read)
        _check_facts(spec)
    except KeyError as error:
        raise ModelError(
            f"the fact {error} is unknown: the file was written by a newer version of "
            "this library, or by another. Upgrade, or import the weights again."
        ) from error
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(
            f"the facts in its header cannot be read: {str(error).rstrip('.')}. Import "
            "it again."
        ) from error
    return spec


def _check_facts(spec: ModelSpec) -> None:
    """Raise unless the numbers are of a size that can be meant."""
    counts = {"cell": spec.cell, "margin": spec.margin, "tile": spec.tile}
    counts |= {"align": spec.align, "per_cell": max(g.per_cell for g in spec.inputs)}
    for name, count in counts.items():
        if not 0 <= count <= MOST:
            raise ModelError(f"{name} = {count} is not a count.")
    if not all(map(math.isfinite, spec.fill.values())):
        raise ModelError(f"fill = {dict(spec.fill)} is not finite.")
    if spec.sha256 is not None:
        raise ModelError(f"sha256 = {spec.sha256!r:.80}: no file holds its own hash.")
