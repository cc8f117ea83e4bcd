"""Published weights as files of this library.

What other libraries wrote is read as tensors and nothing else: no pickle runs, no layer
is built from a file's words, no link is followed. What is unsafe, damaged or of another
architecture is a `ModelError`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from s2sr_xr.errors import ModelError
from s2sr_xr.models import weights_file
from s2sr_xr.models.importers.checks import provenance
from s2sr_xr.models.published import published
from s2sr_xr.models.weights_check import check_state

if TYPE_CHECKING:
    import os

    import torch

    from s2sr_xr.models.spec import ModelSpec

__all__ = ["KINDS", "import_checkpoint"]


def import_checkpoint(
    path: str | os.PathLike[str], kind: str, *, out: str | os.PathLike[str]
) -> Path:
    """Write published weights as a ``.safetensors`` file that works like a model name.

    Parameters
    ----------
    path
        What the authors publish: ``.hdf5`` of DSen2, ``.pt`` and ``.pth.tar`` of L1BSR,
        ``.onnx`` of EvoLand with its ``.yaml`` next to it.
    kind
        ``"dsen2-20m"``, ``"dsen2-60m"``, ``"vdsen2-20m"``, ``"vdsen2-60m"``,
        ``"l1bsr-rec"``, ``"l1bsr-csr"`` or ``"evoland-onnx"``.
    out
        A new ``.safetensors`` file, or a folder for one named after `kind`.

    Returns
    -------
    Path
        The file. Give it as ``model=`` wherever a name goes.

    Raises
    ------
    ModelError
        The file is unsafe, damaged, or holds another architecture; nothing of it was
        executed, and nothing is written.
    """
    if kind not in KINDS:
        raise ModelError(f"kind={kind!r} is not one of {', '.join(KINDS)}.")
    source, target = Path(path).expanduser(), _target(out, kind)
    KINDS[kind](source, target)
    return target


def _target(out: str | os.PathLike[str], kind: str) -> Path:
    target = Path(out).expanduser()
    if target.is_dir():
        target /= f"{kind}.safetensors"
    if target.suffix != ".safetensors":
        raise ModelError(f"out={str(target)!r} does not end in .safetensors.")
    if target.exists():
        raise ModelError(f"{str(target)!r} exists. Remove it, or name another.")
    if not target.parent.is_dir():
        raise ModelError(f"There is no folder {str(target.parent)!r} to write to.")
    return target


def _write(
    source: Path,
    target: Path,
    *,
    model: str,
    read: Callable[[Path, torch.nn.Module, ModelSpec], Mapping[str, torch.Tensor]],
) -> None:
    import torch

    spec, build = next(m for m in published() if m[0].name == model)
    with torch.device("meta"):  # shapes alone: random weights would take a second
        network = build()
    state = read(source, network, spec)
    check_state(source.name, network.state_dict(), state)
    weights_file.save_tensors(target, state, spec, model, notes=provenance(source))


def _keras(
    source: Path, network: torch.nn.Module, spec: ModelSpec
) -> Mapping[str, torch.Tensor]:
    from s2sr_xr.models.importers.keras import state_of

    return state_of(source, network, spec.bands)


def _pickle(
    source: Path,
    _network: torch.nn.Module,
    _spec: ModelSpec,
    *,
    key: str | None = None,
) -> Mapping[str, torch.Tensor]:
    from s2sr_xr.models.importers.pytorch import read_state

    return read_state(source, key)


def _onnx(source: Path, target: Path) -> None:
    from s2sr_xr.models.importers.onnx import import_onnx

    import_onnx(source, target)


def _kinds() -> dict[str, Kind]:
    keras = ("dsen2-20m", "dsen2-60m", "vdsen2-20m", "vdsen2-60m")
    csr = functools.partial(_pickle, key="state_dictCSR")
    return {
        **{name: functools.partial(_write, model=name, read=_keras) for name in keras},
        "l1bsr-rec": functools.partial(_write, model="rec", read=_pickle),
        "l1bsr-csr": functools.partial(_write, model="csr", read=csr),
        "evoland-onnx": _onnx,
    }


Kind: TypeAlias = Callable[[Path, Path], None]
"""Reads the file that is given first and writes the second."""

KINDS: Mapping[str, Kind] = _kinds()
"""What can be imported, by name."""
