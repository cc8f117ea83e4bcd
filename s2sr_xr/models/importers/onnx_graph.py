"""ONNX graphs, checked before anything runs them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.errors import ModelError
from s2sr_xr.models.importers.checks import check_foreign, extra
from s2sr_xr.models.importers.onnx_receptive_field import KNOWN, values_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["parse_graph", "read_graph"]

DOMAINS = frozenset(("", "ai.onnx"))
"""Operators of ONNX itself; any other could load code."""

GROWING = frozenset(("ConstantOfShape", "Pad", "Resize", "Upsample"))
"""Operators that make images larger by a size or a factor that they are given."""

SIZES = frozenset(("dilations", "kernel_shape", "output_padding", "pads", "strides"))
"""Attributes that are sizes."""

LARGE = 1024
"""The largest size or factor that a graph may have."""


def read_graph(source: Path) -> Any:  # noqa: ANN401 - onnx types are generated
    """Return the graph in a file, if it is one file, whole, and of plain operators.

    Raises
    ------
    ModelError
        It is not.
    """
    check_foreign(source, b"", "an ONNX graph")
    return parse_graph(source.name, source.read_bytes())


def parse_graph(name: str, data: bytes) -> Any:  # noqa: ANN401
    """Return the graph in the bytes of a file, as `read_graph` does."""
    onnx = extra("onnx")
    try:
        graph = onnx.load_model_from_string(data)
        _check_graph(name, graph, len(data))
        _check_sizes(name, graph)
        onnx.checker.check_model(graph)
    except ModelError:
        raise
    except Exception as error:
        # protobuf and the checker raise errors of their own, by version.
        raise ModelError(
            f"{name} is not a whole ONNX graph ({len(data)} bytes): "
            f"{type(error).__name__}. Fetch it again."
        ) from error
    return graph


def _check_graph(name: str, model: Any, size: int) -> None:  # noqa: ANN401
    domains = {o.domain for o in model.opset_import}
    domains |= {n.domain for n in model.graph.node}
    domains |= {f.domain or "local" for f in model.functions}
    if strange := domains - DOMAINS:
        raise ModelError(
            f"{name} needs operators of {', '.join(map(repr, sorted(strange)))}, which "
            "only code from elsewhere provides. It is not run."
        )
    if unknown := {n.op_type for n in model.graph.node} - KNOWN:
        raise ModelError(
            f"{name} has the operators {', '.join(sorted(unknown))}, whose reach is not"
            " known, so that its margin cannot be measured. It is not run."
        )
    needed = 0
    for tensor in _all_tensors(name, model.graph):
        if tensor.data_location or tensor.external_data:
            places = [e.value for e in tensor.external_data if e.key == "location"]
            raise ModelError(
                f"{name} keeps {tensor.name or 'a tensor'} in another file "
                f"({', '.join(places)!r:.80}). Only single files are read: export it "
                "with its weights inside."
            )
        needed += math.prod(max(d, 0) for d in tensor.dims)
    # The smallest number takes a byte.
    if needed > size:
        raise ModelError(
            f"{name} has {size} bytes but declares tensors of {needed} numbers: it was "
            "made to fill the memory."
        )


def _check_sizes(name: str, model: Any) -> None:  # noqa: ANN401
    """Raise if a constant makes images or kernels larger than any network's."""
    values = values_of(model)
    for node in model.graph.node:
        given = [n for a in node.attribute if a.name in SIZES for n in a.ints]
        first = 0 if node.op_type == "ConstantOfShape" else 1
        if node.op_type in GROWING:
            for key in node.input[first:]:
                given += values.get(key, np.zeros(0)).ravel().tolist()
        if any(not abs(n) <= LARGE for n in given):
            raise ModelError(
                f"{name}: {node.op_type} has the size {max(given, key=abs)}, more than "
                f"{LARGE}: it was made to fill the memory. It is not run."
            )


def _all_tensors(name: str, graph: Any) -> Iterator[Any]:  # noqa: ANN401
    attributes = [a for node in graph.node for a in node.attribute]
    sparse = (a for a in attributes if a.HasField("sparse_tensor") or a.sparse_tensors)
    if graph.sparse_initializer or any(sparse):
        raise ModelError(f"{name} has sparse tensors, which unpack to any size.")
    yield from graph.initializer
    for a in attributes:
        yield from (*([a.t] if a.HasField("t") else ()), *a.tensors)
