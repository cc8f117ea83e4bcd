"""Weights on disk: safetensors, with the facts of the model in the header.

A shipped model is two files in ``weights/``: ``NAME.safetensors`` and its card,
``NAME.json``. The card repeats the facts, so that models can be listed without opening
a tensor, and says where the numbers come from.

The header of every file that `save` writes holds ``kind``, the registry name of the
architecture that the tensors fit (or ``onnx``, see `s2sr_xr.models._onnx`), ``spec``,
the facts as JSON, and what else is known of it: its source and its constants.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2sr_xr.errors import ModelError, StoreError
from s2sr_xr.models.spec import BandGroup, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    Tensors = Mapping[str, torch.Tensor]

__all__ = [
    "Header",
    "card_of",
    "check_file",
    "check_new",
    "check_size",
    "check_state",
    "digest",
    "fill_network",
    "load_file",
    "load_state",
    "read_header",
    "read_spec",
    "save",
    "save_tensors",
    "shipped",
    "spec_from_json",
    "spec_to_json",
]

SHIPPED = Path(__file__).parent / "weights"
"""The folder of weights that come with the package."""

LARGEST = 2**30
"""Bytes of the largest file that is opened: VDSen2 in float32 has 151 MB, 454 MB in
Keras' format with the two moments of its optimiser."""

MOST = 1_000_000
"""The largest count in the facts of a model that can be meant."""


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


def check_new(path: Path) -> None:
    """Raise unless weights can become a file there, before they are learnt.

    Raises
    ------
    StoreError
        It exists, has another ending, or no folder.
    """
    if path.suffix != ".safetensors" or path.exists():
        raise StoreError(
            f"The weights would go to {path}, which exists or is no .safetensors file. "
            'Say out="NEW.safetensors".',
            store=str(path),
        )
    if not path.parent.is_dir():
        raise StoreError(
            f"The weights would go to {path}, and there is no folder {path.parent}. "
            "Make it first.",
            store=str(path),
        )


def save_tensors(
    path: Path,
    tensors: Tensors,
    spec: ModelSpec,
    kind: str,
    *,
    notes: Mapping[str, str] | None = None,
    remedy: str = "Make room, or name another place.",
) -> str:
    """Write tensors as `save` does; `remedy` is what is told where that fails."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Each in memory of its own: some may be parts of one.
    state = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
    metadata = {**(notes or {}), "kind": kind, "spec": spec_to_json(spec)}
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        save_file(state, part, metadata=metadata)
        found = _hash(part)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"The weights cannot be written to {path}: {error}. {remedy}",
            store=str(path),
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return found


def spec_to_json(spec: ModelSpec) -> str:
    """Return the facts of a model as text; the hash is the file's own affair."""
    return json.dumps(asdict(replace(spec, sha256=None, fill=dict(spec.fill))))


# Reading


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
    return _header(path, _stamp(path))


@lru_cache(maxsize=64)
def _header(path: Path, stamp: tuple[int, ...]) -> Header:  # noqa: ARG001 - a key
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
    except (SafetensorError, OSError) as error:
        raise _broken(path, error) from error
    return _parsed(path, metadata, digest(path))


def load_file(path: Path, sha256: str | None = None) -> tuple[Header, Tensors]:
    """Return the header and the tensors of a weights file.

    Parameters
    ----------
    path
        A ``.safetensors`` file.
    sha256
        What the file must hash to; None: whatever it does. What is parsed are the bytes
        that were hashed.

    Raises
    ------
    ModelError
        The file has another hash, or is no safetensors file of this library.
    """
    data, found = _read(path, sha256)
    tensors = _tensors(path, data)
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__")
    return _parsed(path, metadata, found), tensors


def load_state(
    network: torch.nn.Module, path: Path, sha256: str | None
) -> torch.nn.Module:
    """Return the network with the weights of a file, hash, shapes and values checked.

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


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, computed once as long as it does not change."""
    return _digest(path, _stamp(path))


@lru_cache(maxsize=64)
def _digest(path: Path, stamp: tuple[int, ...]) -> str:  # noqa: ARG001 - a key
    return _hash(path)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when the file does. The bytes that run are hashed anyway."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


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
        raise _broken(path, error) from error


def _parsed(path: Path, metadata: Mapping[str, str] | None, sha256: str) -> Header:
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


def _broken(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path.name} is not a whole safetensors file: {error}. Fetch it again."
    )


def check_file(path: Path) -> None:
    """Raise a ModelError unless `path` is a weights file of a size that can be meant.

    Parsed is nothing; a file that is another format is told apart by its name.
    """
    if not path.is_file():
        raise ModelError(f"There is no weights file {os.fspath(path)!r}.")
    if path.suffix != ".safetensors":
        raise ModelError(
            f"{path.name} is not a .safetensors file. Convert other formats with "
            "s2sr_xr.import_checkpoint; pickles are never executed."
        )
    check_size(path)


def check_size(path: Path) -> None:
    """Raise a ModelError if a file is larger than any model here, or empty."""
    size = path.stat().st_size
    if size > LARGEST:
        raise ModelError(
            f"{path.name} has {size / 2**30:.1f} GiB, more than any model here."
        )
    if size == 0:
        raise ModelError(f"{path.name} is empty. Fetch it again.")


def check_state(name: str, want: Tensors, have: Tensors) -> None:
    """Raise a ModelError unless tensors have the names and shapes of `want`.

    They must be finite floats too; `name` is their file.
    """
    import torch

    if want.keys() != have.keys():
        missing = sorted(want.keys() - have.keys())
        extra = sorted(have.keys() - want.keys())
        raise ModelError(
            f"{name} holds another architecture: {len(missing)} tensors are missing "
            f"({', '.join(missing[:3])}), {len(extra)} are strange "
            f"({', '.join(extra[:3])})."
        )
    for key, tensor in have.items():
        if tensor.shape != want[key].shape:
            raise ModelError(
                f"{name}: {key} has the shape {tuple(tensor.shape)}, the model needs "
                f"{tuple(want[key].shape)}."
            )
        if not tensor.is_floating_point():
            raise ModelError(f"{name}: {key} is {tensor.dtype}, not a float.")
        # Ends, not each number: `isfinite` took 2 s for 38 million, this 0.1 s.
        ends = torch.aminmax(tensor.float()) if tensor.numel() else ()
        if not all(map(torch.isfinite, ends)):
            raise ModelError(f"{name}: {key} holds values that are not finite.")


# Facts as text


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
