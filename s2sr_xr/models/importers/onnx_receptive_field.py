"""How far an ONNX graph looks, measured on what it sees instead of what it computes.

Every number becomes 0 or 1: whether the lit pixel can be seen there. Kernels become
ones, activations and constants vanish, differences become sums, and after each kernel
the sign is taken; so nothing cancels, is switched off, underflows or grows. Then one
pixel or one cell is lit, and the outputs that are not 0 are those that it reaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from s2sr_xr.errors import ModelError
from s2sr_xr.models.importers.checks import extra

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from s2sr_xr.models.networks.layers import Joint
    from s2sr_xr.models.spec import ModelSpec

    Strip = Callable[[torch.Tensor], torch.Tensor]

__all__ = ["KNOWN", "Reach", "measure", "values_of"]

KERNELS = frozenset(("Conv", "ConvTranspose"))
BLENDS = frozenset(("Resize", "Upsample"))
"""With negative weights, perhaps."""

SAME = frozenset(
    (
        *("Abs", "BatchNormalization", "Celu", "Clip", "Dropout", "Elu", "Erf", "Gelu"),
        *("HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg", "PRelu", "Relu"),
        *("Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh"),
    )
)
"""Functions of each number alone."""

PAIRS = frozenset(("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Sum"))
MOVES = frozenset(
    (
        *("Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "DepthToSpace"),
        *("Floor", "Gather", "Identity", "Pad", "Reshape", "Shape", "Slice", "Split"),
        *("Squeeze", "Transpose", "Unsqueeze"),
    )
)
"""They move numbers, or make the shapes by which others move them."""

GLOBAL = frozenset(
    (
        *("GlobalAveragePool", "GlobalMaxPool", "InstanceNormalization"),
        *("LayerNormalization", "ReduceMax", "ReduceMean", "ReduceSum", "Softmax"),
    )
)
"""They look at the whole image, or may."""

KNOWN = KERNELS | BLENDS | SAME | PAIRS | MOVES | GLOBAL
"""The operators whose reach is known; a graph with any other is refused."""

SIZES = (4, 16, 64, 256)
"""Cells on each side of the lit one; more are tried where they are not enough."""

ROWS = 8
"""Pixels across a strip, at least. A kernel that is wide enough along one axis is
measured along it, so that a strip shows what a square would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far a graph looks."""

    cells: int
    """Whole cells that cover it."""

    pixels: int
    """Output pixels, from one pixel on the grid that goes into the graph."""


def measure(
    model: Any,  # noqa: ANN401 - onnx types are generated
    joint: Joint,
    spec: ModelSpec,
    order: Sequence[int],
) -> Reach | None:
    """Return how far a graph looks, or None if it looks at everything.

    Parameters
    ----------
    model
        Of operators in `KNOWN`.
    joint
        What brings the groups of `spec` to the graph's grid.
    spec
        The grids; its margin is not used.
    order
        The graph's channels, as places in ``spec.bands``.

    Raises
    ------
    ModelError
        It has strides, or kernels that are not constant.
    """
    if {n.op_type for n in model.graph.node} & GLOBAL:
        return None
    run = _runner(_sight(model))
    fine, k = spec.inputs[0].per_cell, spec.output.per_cell

    def cell(side: int, lit: int) -> torch.Tensor:
        images = []
        for g in spec.inputs:
            image = torch.zeros(1, len(g.names), rows * g.per_cell, side * g.per_cell)
            image[..., lit * g.per_cell : (lit + 1) * g.per_cell] = 1
            images.append(image)
        return joint(*images)[:, list(order)].abs().sign()  # type: ignore[no-any-return]

    def pixel(side: int, lit: int) -> torch.Tensor:
        image = torch.zeros(1, len(order), rows * fine, side * fine)
        image[..., lit * fine] = 1
        return image

    rows = -(-ROWS // fine)
    for size in SIZES:
        side = 2 * size + 1
        cells = [_span(s, cell(side, size)) for s in (run, _turned(run))]
        pixels = [_span(s, pixel(side, size)) for s in (run, _turned(run))]
        if None not in (*cells, *pixels):
            own, factor = size * fine * (k // fine), k // fine
            return Reach(
                cells=max(max(size - a // k, b // k - size) for a, b in _sure(cells)),
                pixels=max(
                    max(own - a, b - own - factor + 1) for a, b in _sure(pixels)
                ),
            )
    return None


def _sure(spans: Sequence[tuple[int, int] | None]) -> list[tuple[int, int]]:
    return [s for s in spans if s is not None]


def _span(run: Strip, strip: torch.Tensor) -> tuple[int, int] | None:
    """Return the first and the last column that is lit; None if one is at the end."""
    lit = run(strip)[0].ne(0).flatten(0, 1).any(0).nonzero().flatten().tolist()
    width = run(strip).shape[-1]
    if not lit or lit[0] == 0 or lit[-1] == width - 1:
        return None
    return lit[0], lit[-1]


def _turned(run: Strip) -> Strip:
    return lambda strip: run(strip.transpose(-2, -1)).transpose(-2, -1)


def _runner(model: Any) -> Strip:  # noqa: ANN401
    ort = extra("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def run(strip: torch.Tensor) -> torch.Tensor:
        (made,) = session.run(None, {name: strip.contiguous().numpy()})
        return torch.from_numpy(np.array(made))

    return run


def _sight(model: Any) -> Any:  # noqa: ANN401
    """Return the graph that computes what can be seen."""
    helper = extra("onnx.helper")
    copy = type(model)()
    copy.CopyFrom(model)
    given = {t.name for t in copy.graph.initializer}
    images = {p.name for p in copy.graph.input if p.name not in given}
    shapes = {name: array.shape for name, array in values_of(copy).items()}
    nodes, ones = [], dict[str, Any]()
    for node in copy.graph.node:
        seen = [name for name in node.input if name in images]
        if seen and node.op_type != "Shape":
            images |= set(node.output)
            nodes += _seen(node, seen, shapes, ones)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [t for t in copy.graph.initializer if t.name in used]
    graph = helper.make_graph(
        nodes, "sight", copy.graph.input, copy.graph.output, [*kept, *ones.values()]
    )
    opsets = list(copy.opset_import)
    return helper.make_model(graph, opset_imports=opsets, ir_version=copy.ir_version)


def _seen(
    node: Any,  # noqa: ANN401
    seen: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    ones: dict[str, Any],
) -> list[Any]:
    """Return the nodes that stand for one that touches the image."""
    helper = extra("onnx.helper")
    kind, out = node.op_type, node.output[0]
    if kind in SAME:
        return [helper.make_node("Identity", seen[:1], [out])]
    if kind in PAIRS:
        if len(seen) == 1:
            return [helper.make_node("Identity", seen, [out])]
        return _signed([helper.make_node("Sum", seen, [f"{out}#"])], out)
    if kind in KERNELS:
        return _signed([_lit_kernel(node, shapes, ones)], out)
    if kind in BLENDS:
        node.output[0] = f"{out}#"
        return _signed([node], out)
    return [node]


def _signed(nodes: list[Any], out: str) -> list[Any]:
    helper = extra("onnx.helper")
    return [
        *nodes,
        helper.make_node("Abs", [f"{out}#"], [f"{out}##"]),
        helper.make_node("Sign", [f"{out}##"], [out]),
    ]


def _lit_kernel(
    node: Any,  # noqa: ANN401
    shapes: Mapping[str, tuple[int, ...]],
    ones: dict[str, Any],
) -> Any:  # noqa: ANN401
    """Return the convolution with ones and without bias; its output gets a ``#``."""
    helper, numpy_helper = extra("onnx.helper"), extra("onnx.numpy_helper")
    kernel = node.input[1]
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if kernel not in shapes:
        raise ModelError(
            f"{node.name or kernel}: a kernel that is computed is refused."
        )
    if node.op_type == "Conv" and set(options.get("strides", [1])) != {1}:
        raise ModelError(
            f"{node.name or kernel} has strides {options['strides']}: the graph makes "
            "pixels coarser, so its margin depends on where a tile starts. Such a "
            "network cannot be imported; register_model takes it."
        )
    name = f"{kernel}#{'x'.join(map(str, shapes[kernel]))}"
    ones[name] = numpy_helper.from_array(np.ones(shapes[kernel], np.float32), name)
    return helper.make_node(
        node.op_type, [node.input[0], name], [f"{node.output[0]}#"], **options
    )


def values_of(model: Any) -> dict[str, np.ndarray[Any, Any]]:  # noqa: ANN401
    """Return what is constant in a graph, by name."""
    to_array = extra("onnx.numpy_helper").to_array
    found = {t.name: to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            found[node.output[0]] = to_array(node.attribute[0].t)
    return found
