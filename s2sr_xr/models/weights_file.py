"""Weights on disk: safetensors, with the facts of the model in the header.

A shipped model is two files in ``weights/``: ``NAME.safetensors`` and its card,
``NAME.json``. The card repeats the facts, so that models can be listed without opening
a tensor, and says where the numbers come from.

The header of every file that `save` writes holds ``kind``, the registry name of the
architecture that the tensors fit (or ``onnx``, see `models.importers.onnx`), ``spec``,
the facts as JSON, and what else is known of it: its source and its constants.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2sr_xr.errors import ModelError, StoreError
from s2sr_xr.models.header import Header, broken, parsed, spec_to_json
from s2sr_xr.models.weights_check import check_file, check_state, file_hash

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from s2sr_xr.models.spec import ModelSpec

    Tensors = Mapping[str, torch.Tensor]

__all__ = [
    "card_of",
    "fill_network",
    "load_file",
    "load_state",
    "save",
    "save_tensors",
    "shipped",
]

SHIPPED = Path(__file__).parent / "weights"
"""The folder of weights that come with the package."""


def shipped(name: str) -> Path | None:
    """Return the weights file that comes with the package for `name`, or None."""
    path = SHIPPED / f"{name}.safetensors"
    return path if path.exists() else None


@cache
def card_of(name: str) -> Mapping[str, Any] | None:
    """Return the card of a shipped model, or None."""
    path = SHIPPED / f"{name}.json"
    if not path.exists():
        return None
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card


def described(spec: ModelSpec, card: Mapping[str, Any]) -> ModelSpec:
    """Return the facts of an architecture with those that its card adds."""
    return replace(
        spec,
        sha256=card["sha256"],
        levels=tuple(card["levels"]),
        fill=dict(card["fill"]),
        licence=card["licence"],
        citation=card["citation"],
    )


# Writing


def save(
    path: Path,
    network: torch.nn.Module,
    spec: ModelSpec,
    kind: str,
    *,
    notes: Mapping[str, str] | None = None,
) -> str:
    """Write the weights of a network with its facts, and return the file's SHA-256.

    Parameters
    ----------
    path
        A ``.safetensors`` file; it appears whole or not at all.
    network, spec
        What is saved.
    kind
        Registry name of the architecture that the weights fit.
    notes
        What else the header says, such as where the weights come from.

    Raises
    ------
    StoreError
        The file cannot be written. What was there stays.
    """
    return save_tensors(path, network.state_dict(), spec, kind, notes=notes)


def save_tensors(
    path: Path,
    tensors: Tensors,
    spec: ModelSpec,
    kind: str,
    *,
    notes: Mapping[str, str] | None = None,
    remedy: str = "Make room, or name another place.",
) -> str:
    """Write tensors as `save` does; `remedy` ends the message where that fails."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Each in memory of its own: some may be parts of one.
    state = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
    metadata = {**(notes or {}), "kind": kind, "spec": spec_to_json(spec)}
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        save_file(state, part, metadata=metadata)
        found = file_hash(part)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"The weights cannot be written to {path}: {error}. {remedy}",
            store=str(path),
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return found


# Reading


def load_file(path: Path, sha256: str | None = None) -> tuple[Header, Tensors]:
    """Return the header and the tensors of a weights file.

    Parameters
    ----------
    path
        A ``.safetensors`` file.
    sha256
        The hash that the file must have; None: any. What is parsed are the bytes that
        were hashed.

    Raises
    ------
    ModelError
        The file has another hash, or is not a safetensors file of this library.
    """
    data, found = _read(path, sha256)
    tensors = _tensors(path, data)
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__")
    return parsed(path, metadata, found), tensors


def load_state(
    network: torch.nn.Module, path: Path, sha256: str | None
) -> torch.nn.Module:
    """Return the network with the weights of a file, all of them checked.

    Raises
    ------
    ModelError
        The hash differs, a tensor is missing, of another shape, or not finite.
    """
    data, _ = _read(path, sha256)
    return fill_network(network, path.name, _tensors(path, data))


def fill_network(
    network: torch.nn.Module, name: str, state: Tensors
) -> torch.nn.Module:
    """Return the network with the tensors `state`; `name` is their file, in errors.

    Raises
    ------
    ModelError
        A tensor is missing, strange, of another shape, or not finite.
    """
    check_state(name, network.state_dict(), state)
    network.load_state_dict(state, strict=True)
    return network


def _read(path: Path, sha256: str | None) -> tuple[bytes, str]:
    check_file(path)
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise ModelError(
            f"{path.name} has the SHA-256 {found[:12]}..., it should be "
            f"{sha256[:12]}...: the file was changed or damaged since the work was "
            "planned. Put the old one back, or start again with the new one."
        )
    return data, found


def _tensors(path: Path, data: bytes) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise broken(path, error) from error


# Facts as text
