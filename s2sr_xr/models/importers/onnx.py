"""EvoLand's networks: an ONNX graph, and a YAML file that says what it takes.

Where the graph is one of our networks, its weights are taken out, and the network is
compared with the graph on one image. Any other graph is kept whole, and onnxruntime
runs it. EvoLand's YAML promises a margin that is too small for most of its networks; it
is measured here (`s2sr_xr.models.importers.onnx_receptive_field`).
"""

from __future__ import annotations

import json
import math
import re
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from s2sr_xr.core.bands import BANDS, canonical
from s2sr_xr.errors import ModelError, S2SRWarning
from s2sr_xr.models import weights_file
from s2sr_xr.models.importers.checks import check_foreign, extra
from s2sr_xr.models.importers.onnx_receptive_field import KNOWN, measure
from s2sr_xr.models.networks.layers import Conv, Joint, centre
from s2sr_xr.models.published import EVOLAND, published
from s2sr_xr.models.spec import BandGroup, ModelSpec
from s2sr_xr.models.weights_check import MOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from s2sr_xr.models.header import Header

__all__ = ["OnnxNetwork", "from_tensors", "import_onnx", "set_constants"]

SCALE = 10_000.0
"""Counts of reflectance 1: what the graphs take and give."""

DOMAINS = frozenset(("", "ai.onnx"))
"""Operators of ONNX itself; any other could load code."""

GROWING = frozenset(("ConstantOfShape", "Pad", "Resize", "Upsample"))
"""Operators that make images larger by a size or a factor that they are given."""

SIZES = frozenset(("dilations", "kernel_shape", "output_padding", "pads", "strides"))
"""Attributes that are sizes."""

LARGE = 1024
"""The largest size or factor that a graph may have."""

WORDS = 64 * 1024
"""Bytes of the largest YAML file that is opened."""

SAME = 1e-4
"""Relative difference up to which a network is its graph: two libraries add in other
orders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the YAML file says."""

    bands: tuple[str, ...]
    """In the order of the channels."""

    margin: int
    """Output pixels that it says to cut."""

    factor: int
    """Output pixels along an input pixel."""


def import_onnx(
    source: Path, target: Path, provenance: Callable[[Path], dict[str, str]]
) -> None:
    """Write the file `target` of an ONNX graph and its YAML file.

    Raises
    ------
    ModelError
        The files are unsafe, damaged, or do not fit each other.
    """
    told = _read_yaml(source)
    graph = read_graph(source)
    data = graph.SerializeToString()
    spec, order = _spec(source, told)
    network = OnnxNetwork(data, spec, order)
    network.graph(torch.rand(1, len(order), 24, 24))  # it runs, and has this factor
    spec = _with_margin(network, graph, spec, told)
    notes = provenance(source)
    if found := _rebuilt(graph, network, spec):
        known, twin, constants = found
        weights_file.save(target, twin, known, known.name, notes=notes | constants)
        return
    notes["channels"] = json.dumps(order)
    tensors = {"onnx": torch.frombuffer(bytearray(data), dtype=torch.uint8)}
    weights_file.save_tensors(target, tensors, spec, "onnx", notes=notes)


# What is read


def _read_yaml(source: Path) -> Told:
    found = [p for s in (".yaml", ".yml") if (p := source.with_suffix(s)).is_file()]
    if not found:
        raise ModelError(
            f"There is no {source.with_suffix('.yaml').name} beside {source.name}: it "
            "says which bands the network takes."
        )
    path = found[0]
    if path.stat().st_size > WORDS:
        raise ModelError(f"{path.name} has {path.stat().st_size} bytes: too many.")
    yaml = extra("yaml")
    try:
        words = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} is not plain YAML: {error}") from error
    keys = {"model", "bands", "margin", "factor"}
    if not isinstance(words, dict) or not keys <= words.keys():
        raise ModelError(f"{path.name} does not say {', '.join(sorted(keys))}.")
    if words["model"] not in (source.name, source.stem):
        raise ModelError(
            f"{path.name} describes {words['model']!r:.80}, not {source.name}."
        )
    return _told(path, words)


def _told(path: Path, words: Mapping[str, Any]) -> Told:
    bands, margin, factor = words["bands"], words["margin"], words["factor"]
    if not isinstance(bands, list) or not 1 <= len(bands) <= len(BANDS):
        raise ModelError(f"{path.name}: bands is a list of names, got {bands!r:.80}.")
    names = tuple(canonical(str(b)[:20]) or "" for b in bands)
    if "" in names or len(set(names)) < len(names):
        raise ModelError(
            f"{path.name}: bands are distinct Sentinel-2 bands, got {bands!r:.80}."
        )
    if type(factor) is not int or not 1 <= factor <= 8:
        raise ModelError(f"{path.name}: factor is 1 to 8, got {factor!r:.40}.")
    if type(margin) is not int or not 0 <= margin <= MOST:
        raise ModelError(f"{path.name}: margin counts pixels, got {margin!r:.40}.")
    return Told(bands=names, margin=margin, factor=factor)


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
    values = _values(model)
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


def _spec(source: Path, told: Told) -> tuple[ModelSpec, list[int]]:
    """Return the facts, without margin, and the graph's channels as places in them."""
    natives = sorted({BANDS[b].native for b in told.bands})
    cell = natives[-1]
    groups = tuple(
        BandGroup(
            names=tuple(b for b in told.bands if BANDS[b].native == metres),
            per_cell=cell // metres,
        )
        for metres in natives
    )
    per_cell = groups[0].per_cell * told.factor
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", source.stem)
    spec = ModelSpec(
        name=name,
        title=f"{name}: {len(told.bands)} bands at {cell / per_cell:g} m, by ONNX",
        cell=cell,
        inputs=groups,
        output=BandGroup(names=told.bands, per_cell=per_cell),
        margin=0,
        tile=3660 // cell,
        fill={b: EVOLAND[b][0] for b in told.bands if b in EVOLAND},
        levels=("L2A",),
        citation="CESBIO, EvoLand project",
    )
    return spec, [spec.bands.index(b) for b in told.bands]


def _with_margin(
    network: OnnxNetwork,
    graph: Any,  # noqa: ANN401
    spec: ModelSpec,
    told: Told,
) -> ModelSpec:
    """Return the facts with the measured margin; warn where the YAML file has less."""
    reach = measure(graph, network.joint, spec, network.order)
    if reach is None:
        warnings.warn(
            f"{spec.name} looks at all it is given, so its result depends on the tile. "
            f"Its YAML file's margin of {told.margin} px is kept.",
            S2SRWarning,
            stacklevel=5,
        )
        cells = -(-told.margin // spec.output.per_cell)
        return replace(spec, margin=cells, exact=False)
    if told.margin < reach.pixels:
        warnings.warn(
            f"{spec.name} looks {reach.pixels} output pixels far, but its YAML file "
            f"says margin: {told.margin}, which would leave seams. The measured margin "
            "is used.",
            S2SRWarning,
            stacklevel=5,
        )
    return replace(spec, margin=reach.cells)


# A graph that runs as it is


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


# A graph that is one of ours


def _rebuilt(
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
    values = _values(graph)
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


def _values(graph: Any) -> dict[str, np.ndarray[Any, Any]]:  # noqa: ANN401
    """Return what is constant in a graph, by name."""
    to_array = extra("onnx.numpy_helper").to_array
    found = {t.name: to_array(t) for t in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            found[node.output[0]] = to_array(node.attribute[0].t)
    return found


def _constants(graph: Any, bands: int) -> str:  # noqa: ANN401
    """Return mean and deviation as JSON: the first that are subtracted and divided by.

    Empty where the graph has none. In counts or in reflectance: what is larger than any
    reflectance was in counts.
    """
    values, found = _values(graph), {}
    for node in graph.graph.node:
        key = {"Sub": "mean", "Div": "std"}.get(node.op_type)
        for name in node.input[1:2]:
            column = values.get(name)
            if key and key not in found and column is not None and column.size == bands:
                scale = SCALE if np.abs(column).max() > 2 else 1.0
                found[key] = [float(v) / scale for v in column.ravel()]
    return json.dumps(found) if len(found) == 2 else ""


def set_constants(network: nn.Module, name: str, text: str) -> None:
    """Give a network the mean and deviation of its bands that a header tells.

    Raises
    ------
    ModelError
        They are not one positive deviation and one mean for each band.
    """
    standard = getattr(network, "standard", None)
    try:
        told = json.loads(text)
        mean, std = (torch.tensor([*map(float, told[k])]) for k in ("mean", "std"))
        for have, new in ((standard.mean, mean), (standard.std, std)):  # type: ignore[union-attr]
            have.copy_(new.reshape(have.shape))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{name}: its constants cannot be used: {error}.") from error
    if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
        raise ModelError(f"{name}: its constants are not finite and positive: {text}")


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
