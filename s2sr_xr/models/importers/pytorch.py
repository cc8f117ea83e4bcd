"""The tensors in a torch checkpoint, unpickled by torch's reader of tensors alone."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from s2sr_xr.errors import ModelError
from s2sr_xr.models.importers.checks import check_foreign, check_memory

if TYPE_CHECKING:
    from pathlib import Path

    import torch

__all__ = ["SAFE", "check_torch", "read_state"]

SAFE = (2, 10)
"""The first torch whose ``weights_only=True`` has no known hole (CVE-2025-32434,
CVE-2026-24747)."""

RATIO = 20
"""A member of an archive may unpack to this many times its size. torch stores."""

MEMBERS = 20_000
"""More tensors than any model here."""


def read_state(path: Path, key: str | None = None) -> dict[str, torch.Tensor]:
    """Return the state dict in a checkpoint.

    Parameters
    ----------
    path
        What ``torch.save`` wrote.
    key
        Where the state dict lies in it; None: it is the state dict.

    Raises
    ------
    ModelError
        The file is unsafe or damaged, or it holds anything but tensors there.
    """
    import torch

    check_foreign(path, b"", "a torch checkpoint")
    check_torch(path, torch.__version__)
    _check_archive(path)
    loaded = _load(path)
    if key is not None:
        if not isinstance(loaded, Mapping) or key not in loaded:
            raise ModelError(
                f"{path.name} has no {key!r}; it holds {_what(loaded)}. It is another "
                "checkpoint than this kind."
            )
        loaded = loaded[key]
    return _plain(path, loaded)


def _load(path: Path) -> Any:  # noqa: ANN401
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text advises weights_only=False: it must not be handed on.
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = (
            f"holds more than tensors: it asks for {found[1]}, which may run code"
            if found
            else "is not a whole torch checkpoint, or holds more than tensors"
        )
        raise ModelError(
            f"{path.name} {what}. Nothing was executed. Ask for its state_dict as "
            "safetensors."
        ) from None
    except Exception as error:
        # Damaged files raise errors of every kind, from IndexError to UnicodeError.
        size = path.stat().st_size
        raise ModelError(
            f"{path.name} ({size} bytes) is not a whole torch checkpoint: "
            f"{type(error).__name__}. Fetch it again."
        ) from error


def check_torch(path: Path, version: str) -> None:
    """Raise a ModelError if a torch of this version may not open a pickle."""
    have = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if have < SAFE:
        raise ModelError(
            f"{path.name} is a pickle, which torch {version} may not open "
            f"safely. Upgrade to torch {'.'.join(map(str, SAFE))} or convert it to "
            "safetensors elsewhere."
        )


def _check_archive(path: Path) -> None:
    """Raise if a zip is a bomb or a program, from its directory alone."""
    if not zipfile.is_zipfile(path):
        return  # a legacy checkpoint, or none
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise ModelError(
            f"{path.name} is not a whole torch checkpoint: {error}. Fetch it again."
        ) from error
    if len(members) > MEMBERS:
        raise ModelError(f"{path.name} has {len(members)} members, which cannot be.")
    for m in members:
        if m.file_size > RATIO * max(m.compress_size, 1):
            raise ModelError(
                f"{path.name}: {m.filename} unpacks from {m.compress_size} to "
                f"{m.file_size} bytes: it was made to fill the memory. Nothing was "
                "unpacked."
            )
    check_memory(path, sum(m.file_size for m in members))
    if any(m.filename.endswith("/constants.pkl") for m in members):
        raise ModelError(
            f"{path.name} is a TorchScript program, not weights. Nothing was executed. "
            "Ask for its state_dict as safetensors."
        )


def _plain(path: Path, loaded: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401
    """Return the tensors of a state dict, none of them larger than what is stored."""
    import torch

    if not isinstance(loaded, Mapping) or not loaded:
        raise ModelError(f"{path.name} holds {_what(loaded)}, not a state dict.")
    for name, tensor in loaded.items():
        if not isinstance(name, str) or type(tensor) not in (
            torch.Tensor,
            torch.nn.Parameter,
        ):
            raise ModelError(
                f"{path.name}: {name!r:.60} is {type(tensor).__name__}, not a tensor: "
                "this is not a state dict."
            )
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ModelError(f"{path.name}: {name} is not a plain tensor.")
    check_memory(path, sum(t.numel() * t.element_size() for t in loaded.values()))
    # DataParallel puts its own name before all others.
    wrapped = all(name.startswith("module.") for name in loaded)
    return {k.removeprefix("module.") if wrapped else k: t for k, t in loaded.items()}


def _what(loaded: object) -> str:
    if isinstance(loaded, Mapping):
        return f"the keys {', '.join(str(k)[:40] for k in list(loaded)[:5])}"
    return f"a {type(loaded).__name__}"
