"""EvoLand's networks: an ONNX graph, and a YAML file that says what it takes.

Where the graph is one of our networks, its weights are taken out, and the network is
compared with the graph on one image. Any other graph is kept whole, and onnxruntime
runs it. EvoLand's YAML promises a margin that is too small for most of its networks; it
is measured here (`s2sr_xr.models.importers.onnx_receptive_field`).
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from s2sr_xr.core.bands import BANDS, canonical
from s2sr_xr.errors import ModelError, S2SRWarning
from s2sr_xr.models import weights_file
from s2sr_xr.models.importers.checks import extra, provenance
from s2sr_xr.models.importers.onnx_graph import read_graph
from s2sr_xr.models.importers.onnx_network import OnnxNetwork
from s2sr_xr.models.importers.onnx_rebuild import rebuilt
from s2sr_xr.models.importers.onnx_receptive_field import measure
from s2sr_xr.models.published import EVOLAND
from s2sr_xr.models.spec import BandGroup, ModelSpec
from s2sr_xr.models.weights_check import MOST

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["import_onnx"]

WORDS = 64 * 1024
"""Bytes of the largest YAML file that is opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the YAML file says."""

    bands: tuple[str, ...]
    """In the order of the channels."""

    margin: int
    """Output pixels that it says to cut."""

    factor: int
    """Output pixels along an input pixel."""


def import_onnx(source: Path, target: Path) -> None:
    """Write the file `target` of an ONNX graph and its YAML file.

    Raises
    ------
    ModelError
        The files are unsafe, damaged, or do not fit each other.
    """
    described = _read_yaml(source)
    graph = read_graph(source)
    data = graph.SerializeToString()
    spec, order = _spec(source, described)
    network = OnnxNetwork(data, spec, order)
    network.graph(torch.rand(1, len(order), 24, 24))  # it runs, and has this factor
    spec = _with_margin(network, graph, spec, described)
    notes = provenance(source)
    if found := rebuilt(graph, network, spec):
        known, twin, constants = found
        weights_file.save(target, twin, known, known.name, notes=notes | constants)
        return
    notes["channels"] = json.dumps(order)
    tensors = {"onnx": torch.frombuffer(bytearray(data), dtype=torch.uint8)}
    weights_file.save_tensors(target, tensors, spec, "onnx", notes=notes)


def _read_yaml(source: Path) -> Described:
    found = [p for s in (".yaml", ".yml") if (p := source.with_suffix(s)).is_file()]
    if not found:
        raise ModelError(
            f"There is no {source.with_suffix('.yaml').name} next to {source.name}: it "
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
    return _described(path, words)


def _described(path: Path, words: Mapping[str, Any]) -> Described:
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
    return Described(bands=names, margin=margin, factor=factor)


def _spec(source: Path, described: Described) -> tuple[ModelSpec, list[int]]:
    """Return the facts, without margin, and the graph's channels as places in them."""
    natives = sorted({BANDS[b].native for b in described.bands})
    cell = natives[-1]
    groups = tuple(
        BandGroup(
            names=tuple(b for b in described.bands if BANDS[b].native == metres),
            per_cell=cell // metres,
        )
        for metres in natives
    )
    per_cell = groups[0].per_cell * described.factor
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", source.stem)
    spec = ModelSpec(
        name=name,
        title=f"{name}: {len(described.bands)} bands at {cell / per_cell:g} m, by ONNX",
        cell=cell,
        inputs=groups,
        output=BandGroup(names=described.bands, per_cell=per_cell),
        margin=0,
        tile=3660 // cell,
        fill={b: EVOLAND[b][0] for b in described.bands if b in EVOLAND},
        levels=("L2A",),
        citation="CESBIO, EvoLand project",
    )
    return spec, [spec.bands.index(b) for b in described.bands]


def _with_margin(
    network: OnnxNetwork,
    graph: Any,  # noqa: ANN401
    spec: ModelSpec,
    described: Described,
) -> ModelSpec:
    """Return the facts with the measured margin; warn where the YAML file has less."""
    reach = measure(graph, network.joint, spec, network.order)
    if reach is None:
        warnings.warn(
            f"{spec.name} looks at all it is given, so its result depends on the tile. "
            f"Its YAML file's margin of {described.margin} px is kept.",
            S2SRWarning,
            stacklevel=5,
        )
        cells = -(-described.margin // spec.output.per_cell)
        return replace(spec, margin=cells, exact=False)
    if described.margin < reach.pixels:
        warnings.warn(
            f"{spec.name} looks {reach.pixels} output pixels far, but its YAML file "
            f"says margin: {described.margin}, which would leave seams. The measured "
            "margin is used.",
            S2SRWarning,
            stacklevel=5,
        )
    return replace(spec, margin=reach.cells)
