"""The convolutions in a Keras HDF5 file, read without Keras and executing nothing.

Keras stores the layers under ``model_weights`` (whole models) or at the root (weights
alone), with their names in the attribute ``layer_names`` and those of their tensors in
``weight_names``. The attribute ``model_config`` describes the graph; it is read as JSON
and only for the order of the layers. What layers do, `Lambda` code included, is never
looked at.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.errors import ModelError
from s2sr_xr.models.importers.checks import check_foreign, check_memory, extra

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    Arrays = tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]

__all__ = ["read_convolutions", "state_of"]

MAGIC = b"\x89HDF\r\n\x1a\n"

LAYERS = 1000
"""More layers than any model here; VDSen2 has 134."""

FILTERS = frozenset((1, 2, 3))
"""Deflate, shuffle, checksum: HDF5's own. Others would load a plug-in."""


def state_of(
    path: Path, network: torch.nn.Module, bands: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Return the state dict for a network whose convolutions are those of a file.

    Parameters
    ----------
    path
        A Keras file.
    network
        Its convolutions stand in the order in which they run.
    bands
        What it takes, for the error.

    Raises
    ------
    ModelError
        The file is unsafe, damaged, or holds another architecture.
    """
    import torch

    pairs = read_convolutions(path)
    names = [k.removesuffix(".weight") for k in network.state_dict() if "weight" in k]
    if len(pairs) != len(names):
        raise ModelError(
            f"{path.name} holds {len(pairs)} convolutions, this kind has {len(names)}: "
            "it is another architecture (DSen2 has 14, VDSen2 66)."
        )
    state = {}
    for name, (kernel, bias) in zip(names, pairs, strict=True):
        # Keras: rows, columns, in, out; also of models trained channels-first.
        state[f"{name}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        state[f"{name}.bias"] = torch.from_numpy(bias)
    first, want = state[f"{names[0]}.weight"], network.state_dict()
    if first.shape[1] != len(bands):
        raise ModelError(
            f"{path.name} takes {first.shape[1]} bands, this kind {len(bands)}: "
            f"{' '.join(bands)}. Is it the network of the other pixel size?"
        )
    last = f"{names[-1]}.weight"
    if state[last].shape[0] != want[last].shape[0]:
        raise ModelError(
            f"{path.name} makes {state[last].shape[0]} bands, this kind "
            f"{want[last].shape[0]}. Is it the network of the other pixel size?"
        )
    return state


def read_convolutions(path: Path) -> list[Arrays]:
    """Return kernel ``(rows, columns, in, out)`` and bias of each, as they run.

    Raises
    ------
    ModelError
        The file is unsafe, damaged, or has layers other than convolutions.
    """
    check_foreign(path, MAGIC, "an HDF5 file")
    h5py = extra("h5py")
    try:
        with h5py.File(path, "r", locking=False) as file:
            return _read(path, file)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{path.name} is not a whole HDF5 file: {error}. Fetch it again."
        ) from error


def _read(path: Path, file: Any) -> list[Arrays]:  # noqa: ANN401 - h5py has no types
    group = _child(path, file, "model_weights") if "model_weights" in file else file
    found: dict[str, list[Any]] = {}
    for layer in _strings(path, group, "layer_names") or sorted(group, key=_natural):
        node = _child(path, group, layer)
        tensors = _strings(path, node, "weight_names")
        if tensors:
            found[layer] = [_dataset(path, node, name) for name in tensors]
    check_memory(
        path, sum(d.size * d.dtype.itemsize for s in found.values() for d in s)
    )
    order = _order(path, _config(path, file), list(found))
    return [_pair(path, layer, found[layer]) for layer in order]


def _pair(path: Path, layer: str, datasets: Sequence[Any]) -> Arrays:
    by_rank = {d.ndim: d for d in datasets}
    if len(datasets) != 2 or by_rank.keys() != {4, 1}:
        shapes = [d.shape for d in datasets]
        raise ModelError(
            f"{path.name}: the layer {layer!r} has tensors of {shapes}, not the kernel "
            "and bias of a convolution. It is another architecture."
        )
    return by_rank[4][()], by_rank[1][()]


# What is opened: plain datasets behind hard links of the file itself, nothing else.


def _child(path: Path, group: Any, name: str) -> Any:  # noqa: ANN401
    """Return a member of a group, refusing every link out of the file."""
    h5py = extra("h5py")
    for part in name.split("/"):
        if not isinstance(group, h5py.Group) or part not in group.keys():  # noqa: SIM118
            raise ModelError(f"{path.name} is damaged: it has no {name!r}.")
        link = group.get(part, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ModelError(
                f"{path.name}: {name!r} is a {type(link).__name__}, which may read "
                "another file. Nothing was read."
            )
        group = group[part]
    return group


def _dataset(path: Path, group: Any, name: str) -> Any:  # noqa: ANN401
    """Return a dataset whose bytes lie in the file, unread."""
    h5py = extra("h5py")
    data = _child(path, group, name)
    if not isinstance(data, h5py.Dataset) or data.dtype.kind != "f":
        raise ModelError(f"{path.name}: {name!r} is not an array of floats.")
    if data.external or data.is_virtual:
        raise ModelError(
            f"{path.name}: {name!r} keeps its values in another file. Nothing was read."
        )
    settings = data.id.get_create_plist()
    filters = {settings.get_filter(i)[0] for i in range(settings.get_nfilters())}
    if not filters <= FILTERS:
        raise ModelError(f"{path.name}: {name!r} needs the plug-ins {filters} of HDF5.")
    check_memory(path, data.size * data.dtype.itemsize)
    return data


def _strings(path: Path, node: Any, name: str) -> list[str]:  # noqa: ANN401
    """Return an attribute that lists names, also one that Keras cut in pieces."""
    if name in node.attrs:
        return _attribute(path, node, name)
    pieces: list[str] = []
    while f"{name}{len(pieces)}" in node.attrs and len(pieces) < LAYERS:
        pieces.append(f"{name}{len(pieces)}")
    return [text for piece in pieces for text in _attribute(path, node, piece)]


def _attribute(path: Path, node: Any, name: str) -> list[str]:  # noqa: ANN401
    shape = node.attrs.get_id(name).shape
    if shape is None or math.prod(shape) > LAYERS or len(shape) > 1:
        raise ModelError(f"{path.name}: {name} lists {shape} names, which cannot be.")
    values = np.atleast_1d(node.attrs[name]).tolist()
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


# The order of the layers


def _config(path: Path, file: Any) -> list[Mapping[str, Any]]:  # noqa: ANN401
    """Return the layers that the file describes; none where it holds only weights."""
    if "model_config" not in file.attrs:
        return []
    (text,) = _attribute(path, file, "model_config")
    try:
        layers = json.loads(text)["config"]["layers"]
        return [layer for layer in layers if isinstance(_name(layer), str)]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(
            f"{path.name}: its model_config does not describe a network: {error!r}."
        ) from error


def _name(layer: Mapping[str, Any]) -> Any:  # noqa: ANN401
    return layer.get("name") or layer["config"]["name"]


def _order(
    path: Path, config: Sequence[Mapping[str, Any]], have: list[str]
) -> list[str]:
    """Return the layers with weights in the order in which they run."""
    if config:
        order = _topological(path, config)
        if missing := set(have) - set(order):
            raise ModelError(
                f"{path.name}: its model_config does not have the layers "
                f"{', '.join(sorted(missing)[:3])}."
            )
        return [name for name in order if name in have]
    stems = {re.sub(r"_?\d*$", "", name) for name in have}
    natural = sorted(have, key=_natural)
    if len(stems) == 1 and natural != have:
        # Keras counts layers up as they are made. One list is wrong, and a wrong order
        # of equal layers would go unseen.
        raise ModelError(
            f"{path.name} lists its layers as {', '.join(have[:3])} ..., but their "
            f"numbers say {', '.join(natural[:3])} ...: their order is unknown. "
            "Save the whole model, with its model_config."
        )
    return have


def _topological(path: Path, config: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return all layers, each after those it takes; else in the order of the file."""
    waiting = {_name(layer): set[str]() for layer in config}
    for layer in config:
        nodes = layer.get("inbound_nodes", [])
        waiting[_name(layer)] = set(_sources(nodes, waiting)) - {_name(layer)}
    order: list[str] = []
    while waiting:
        ready = next((n for n, before in waiting.items() if not before), None)
        if ready is None:
            raise ModelError(f"{path.name}: its model_config is a loop of layers.")
        del waiting[ready]
        for before in waiting.values():
            before.discard(ready)
        order.append(ready)
    return order


def _sources(node: Any, known: Mapping[str, Any], depth: int = 0) -> Iterator[str]:  # noqa: ANN401
    """Yield the layers in ``["conv2d", 0, 0, ...]``, however they are nested."""
    if depth > 20:
        return
    if isinstance(node, list):
        if node and isinstance(node[0], str) and node[0] in known:
            yield node[0]
            return
        for item in node:
            yield from _sources(item, known, depth + 1)
    elif isinstance(node, dict):
        for item in node.values():
            yield from _sources(item, known, depth + 1)


def _natural(name: str) -> list[int | str]:
    """Return a key that sorts ``conv2d``, ``conv2d_9``, ``conv2d_10``."""
    parts = re.split(r"(\d+)", name)
    return [int(p[:9]) if i % 2 else p.rstrip("_") for i, p in enumerate(parts)]
