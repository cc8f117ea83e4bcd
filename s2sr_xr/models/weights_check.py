"""Checks of weights before they are used: sizes, hashes, state."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from typing import TYPE_CHECKING

from s2sr_xr.errors import ModelError, StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    Tensors = Mapping[str, torch.Tensor]

__all__ = [
    "LARGEST",
    "MOST",
    "check_file",
    "check_new",
    "check_size",
    "check_state",
    "digest",
    "file_hash",
    "file_stamp",
]

LARGEST = 2**30
"""Bytes of the largest file that is opened: VDSen2 in float32 has 151 MB, 454 MB in
Keras' format with the two moments of its optimiser."""


MOST = 1_000_000
"""The largest count in the facts of a model that can be meant."""


def check_new(path: Path) -> None:
    """Raise unless weights can become a file there, before they are learnt.

    Raises
    ------
    StoreError
        It exists, has another ending, or no folder.
    """
    if path.suffix != ".safetensors" or path.exists():
        raise StoreError(
            f"The weights would go to {path}, which exists or is not a .safetensors "
            'file. Say out="NEW.safetensors".',
            store=str(path),
        )
    if not path.parent.is_dir():
        raise StoreError(
            f"The weights would go to {path}, and there is no folder {path.parent}. "
            "Make it first.",
            store=str(path),
        )


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, computed once as long as it does not change."""
    return _digest(path, file_stamp(path))


@lru_cache(maxsize=64)
def _digest(path: Path, stamp: tuple[int, ...]) -> str:  # noqa: ARG001 - a key
    return file_hash(path)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when the file does. The bytes that run are hashed anyway."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def check_file(path: Path) -> None:
    """Raise a ModelError unless `path` is a weights file of a size that can be meant.

    Nothing is parsed; another format is recognised by its name.
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
