"""The network of this library that an ONNX graph is, with the graph's weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from s2sr_xr.models import weights_file
from s2sr_xr.models.importers.onnx_network import SCALE
from s2sr_xr.models.importers.onnx_receptive_field import values_of
from s2sr_xr.models.networks.layers import Conv, centre
from s2sr_xr.models.networks.standard import set_constants
from s2sr_xr.models.published import published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

    from s2sr_xr.models.importers.onnx_network import OnnxNetwork
    from s2sr_xr.models.spec import ModelSpec

__all__ = ["rebuilt"]

SAME = 1e-4
"""Relative difference up to which a network is its graph: two libraries add in other
orders."""


def rebuilt(
    graph: Any,  # noqa: ANN401
    network: OnnxNetwork,
    spec: ModelSpec,
) -> tuple[ModelSpec, nn.Module, dict[str, str]] | None:
    """Return the network of the catalogue that a graph is, or None.

    With it come its facts, and the constants where they are not the catalogue's.
    """
    pairs = list(_convolutions(graph))
    for known, build in published():
        facts = (known.inputs, known.output, known.units)
        if facts != (spec.inputs, spec.output, spec.units):
            continue
        want = _in_order(known, build)
        if [c.weight.shape for c in want.values()] != [k.shape for k, _ in pairs]:
            continue
        state = {}
        for at, (kernel, bias) in zip(want, pairs, strict=True):
            state[f"{at}.weight"], state[f"{at}.bias"] = kernel, bias
        twin = build()
        # Residual scales of the RRDB are parameters with a value of their own.
        weights_file.fill_network(twin, spec.name, {**_others(twin, state), **state})
        if _equal(twin, network, known):
            return known, twin, {}
        constants = _constants(graph, len(spec.bands))
        if constants:
            set_constants(twin, spec.name, constants)
            if _equal(twin, network, known):
                return known, twin, {"constants": constants}
    return None


def _others(
    twin: nn.Module, state: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    return {k: v for k, v in twin.state_dict().items() if k not in state}


def _in_order(spec: ModelSpec, build: Callable[[], nn.Module]) -> dict[str, Conv]:
    """Return the convolutions of a network by name, in the order they first run."""
    found: dict[str, Conv] = {}

    def note(name: str, module: Conv) -> None:
        def hook(*_: object) -> None:
            found.setdefault(name, module)

        module.register_forward_pre_hook(hook)

    side = 2 * spec.margin + 1
    with torch.device("meta"):  # shapes alone: nothing is computed
        network = build()
        for name, module in network.named_modules():
            if isinstance(module, Conv):
                note(name, module)
        network(
            *(
                torch.empty(1, len(g.names), *[side * g.per_cell] * 2)
                for g in spec.inputs
            )
        )
    return found


def _convolutions(graph: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:  # noqa: ANN401
    """Yield kernel and bias of each convolution, shared ones once, as they run."""
    values = values_of(graph)
    seen: set[str] = set()
    for node in graph.graph.node:
        if node.op_type != "Conv" or node.input[1] in seen:
            continue
        seen.add(node.input[1])
        kernel = values.get(node.input[1])
        bias = values.get(node.input[2]) if len(node.input) > 2 else None
        if kernel is None or bias is None:
            return
        yield torch.from_numpy(kernel.copy()), torch.from_numpy(bias.copy())


def _constants(graph: Any, bands: int) -> str:  # noqa: ANN401
    """Return mean and deviation as JSON: the first that are subtracted and divided by.

    Empty where the graph has none. In counts or in reflectance: what is larger than any
    reflectance was in counts.
    """
    values, found = values_of(graph), {}
    for node in graph.graph.node:
        key = {"Sub": "mean", "Div": "std"}.get(node.op_type)
        for name in node.input[1:2]:
            column = values.get(name)
            if key and key not in found and column is not None and column.size == bands:
                scale = SCALE if np.abs(column).max() > 2 else 1.0
                found[key] = [float(v) / scale for v in column.ravel()]
    return json.dumps(found) if len(found) == 2 else ""


def _equal(twin: nn.Module, network: OnnxNetwork, spec: ModelSpec) -> bool:
    """Return whether a network and a graph make the same of random images.

    Of usual reflectance, and of some far below 0 and above 1, which a graph may clip.
    """
    side = 2 * spec.margin + 2
    shapes = [(1, len(g.names), *[side * g.per_cell] * 2) for g in spec.inputs]
    generator = torch.Generator().manual_seed(0)
    for low, high in ((0.0, 0.5), (-2.0, 6.0)):
        images = [
            low + (high - low) * torch.rand(shape, generator=generator)
            for shape in shapes
        ]
        with torch.inference_mode():
            ours = twin(*images)
            theirs = centre(network(*images), ours)
        if float((ours - theirs).abs().max()) > SAME * float(theirs.abs().max()):
            return False
    return True
