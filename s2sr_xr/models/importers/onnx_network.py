"""A network that is an ONNX graph, which onnxruntime runs as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from s2sr_xr.errors import ModelError
from s2sr_xr.models.importers.checks import extra
from s2sr_xr.models.importers.onnx_graph import parse_graph
from s2sr_xr.models.networks.layers import Joint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from s2sr_xr.models.header import Header
    from s2sr_xr.models.spec import ModelSpec

__all__ = ["SCALE", "OnnxNetwork", "from_tensors"]

SCALE = 10_000.0
"""Counts of reflectance 1: what the graphs take and give."""


class OnnxNetwork(nn.Module):
    """A graph behind the face of every other network.

    Bands of coarse groups are interpolated as EvoLand does before its networks, by
    cubic convolution; the graph takes and gives counts.

    Parameters
    ----------
    data
        The bytes of the graph.
    spec
        Its facts.
    order
        Channels of the graph, as places in ``spec.bands``.
    """

    def __init__(self, data: bytes, spec: ModelSpec, order: Sequence[int]) -> None:
        super().__init__()
        self.name, self.order, self.data = spec.name, list(order), data
        self.factor = spec.output.per_cell // spec.inputs[0].per_cell
        self.joint = Joint(spec.factors, "bicubic", "same")
        self.session = _session(spec.name, data)
        _check_face(spec, self.session)

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        """Return reflectance ``(B, C, factor * H, factor * W)`` of the finest pixels.

        One reflectance stack ``(B, C, h, w)`` a group goes in.
        """
        joined = self.joint(*images)
        return self.graph(joined[:, self.order])

    def graph(self, joined: torch.Tensor) -> torch.Tensor:
        """Return what the graph makes of all its bands on one grid, in reflectance."""
        counts = (joined * SCALE).cpu().float().contiguous().numpy()
        try:
            (made,) = self.session.run(
                None, {self.session.get_inputs()[0].name: counts}
            )
        except Exception as error:
            # onnxruntime's errors share no class.
            raise ModelError(
                f"{self.name} does not run on an image of {counts.shape}: {error}"
            ) from error
        h, w = counts.shape[2:]
        want = (counts.shape[0], len(self.order), self.factor * h, self.factor * w)
        if made.shape != want:
            raise ModelError(
                f"{self.name} makes {made.shape} of {counts.shape}; its YAML file says "
                f"{want}."
            )
        return torch.from_numpy(np.array(made)).to(joined.device).div_(SCALE)


def _session(name: str, data: bytes) -> Any:  # noqa: ANN401
    ort = extra("onnxruntime")
    options = ort.SessionOptions()
    options.use_deterministic_compute = True
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [p for p in wanted if p in ort.get_available_providers()]
    try:
        return ort.InferenceSession(data, options, providers=providers)
    except Exception as error:
        raise ModelError(f"{name} does not run: {error}") from error


def _check_face(spec: ModelSpec, session: Any) -> None:  # noqa: ANN401
    takes, makes = session.get_inputs(), session.get_outputs()
    face = [(p.type, len(p.shape)) for p in (*takes, *makes)]
    if len(takes) != 1 or face != [("tensor(float)", 4)] * 2:
        raise ModelError(
            f"{spec.name} takes {[p.name for p in takes]} and makes "
            f"{[p.name for p in makes]}; one float32 image (B, C, h, w) each is needed."
        )
    bands, *sides = takes[0].shape[1:]
    if isinstance(bands, int) and bands != len(spec.bands):
        raise ModelError(
            f"{spec.name} takes {bands} bands, its YAML file names {len(spec.bands)}: "
            f"{' '.join(spec.output.names)}."
        )
    if any(isinstance(n, int) for n in sides):
        raise ModelError(
            f"{spec.name} takes images of {sides} only; export it dynamic."
        )


def from_tensors(
    name: str, header: Header, tensors: Mapping[str, torch.Tensor]
) -> nn.Module:
    """Return the network of a weights file that holds a graph.

    Raises
    ------
    ModelError
        The graph is not what `import_onnx` wrote.
    """
    try:
        data = tensors["onnx"].numpy().tobytes()
        order = [int(i) for i in json.loads(header.notes["channels"])]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{name} holds no whole graph: {error}.") from error
    if sorted(order) != list(range(len(header.spec.bands))):
        raise ModelError(f"{name}: its channels {order} are not its bands.")
    parse_graph(name, data)  # it may not come from this library at all
    return OnnxNetwork(data, header.spec, order).eval()
