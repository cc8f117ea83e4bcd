"""Which models there are, by name."""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2sr_xr.errors import ModelError, S2SRWarning
from s2sr_xr.models import weights_file
from s2sr_xr.models.header import Header, read_header
from s2sr_xr.models.published import named, published
from s2sr_xr.models.restored import restored, through_the_sensor
from s2sr_xr.models.untrained import untrained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from s2sr_xr.models.spec import ModelSpec

__all__ = [
    "ENTRY_POINTS",
    "family",
    "get_spec",
    "is_path",
    "list_models",
    "load_model",
    "register",
    "register_model",
]

Build = Callable[[], Any]
"""Makes the network: an ``nn.Module``, or any callable on float32 tensors."""

ENTRY_POINTS = "s2sr_xr.models"
"""Group of entry points by which another package brings models: each loads to a
function without arguments that returns pairs of a `ModelSpec` and a function that
builds the network."""

SUFFIXES = frozenset(
    (".safetensors", ".pt", ".pth", ".tar", ".onnx", ".h5", ".hdf5", ".keras", ".pkl")
)
"""A name that ends like this is meant as a file."""


@dataclass(frozen=True, slots=True)
class _Entry:
    spec: ModelSpec
    build: Build


_MODELS: dict[str, _Entry] = {}
_ARCHITECTURES: dict[str, _Entry] = {}
"""The networks of the catalogue with random weights, for weights that come as files."""


def register(spec: ModelSpec, build: Build) -> None:
    """Add a model under ``spec.name``; `build` makes the network when it is first run.

    Raises
    ------
    ModelError
        Another model has the name, or it would be taken for a path.
    """
    if is_path(spec.name) or not spec.name.strip():
        raise ModelError(f"{spec.name!r} cannot name a model: it looks like a path.")
    if spec.name in _MODELS and _MODELS[spec.name].spec != spec:
        raise ModelError(f"A model named {spec.name!r} is registered; choose another.")
    _MODELS[spec.name] = _Entry(spec, build)


def register_model(network: nn.Module | Build, spec: ModelSpec) -> None:
    """Add a model of your own, after its margin is measured.

    It is known in this process. For Dask workers in other processes, save it as a file
    and give its path, or bring it in a package with an entry point of the group
    ``s2sr_xr.models``.

    Parameters
    ----------
    network
        Takes one float32 reflectance stack ``(B, C, h, w)`` a group of `spec`, and
        gives one of the same ground, or of its centre without the margin; or a function
        that builds such a network. A network that is handed over is copied.
    spec
        Its facts. The margin of an exact model must cover what the network looks at.

    Raises
    ------
    ModelError
        The name is taken, the margin is too small, or the network does not give what
        the facts say.
    """
    from s2sr_xr.models.network_check import check_network

    build = _builder(network)
    check_network(build(), spec)
    register(spec, build)


def _builder(network: nn.Module | Build) -> Build:
    from torch import nn

    if isinstance(network, nn.Module):
        kept = deepcopy(network).eval()
        return lambda: deepcopy(kept)
    if not callable(network):
        raise ModelError(
            f"network is a torch.nn.Module or a function that builds one, not "
            f"{type(network).__name__}."
        )
    return network


def list_models(bands: Sequence[str] | None = None) -> list[ModelSpec]:
    """Return the facts of every model, or of those that `bands` suffice for."""
    _find_plugins()
    specs = [e.spec for e in _MODELS.values()]
    if bands is None:
        return specs
    return [s for s in specs if set(s.bands) <= set(bands) or s.per_band]


def get_spec(name: str | os.PathLike[str]) -> ModelSpec:
    """Return the facts of a model.

    Parameters
    ----------
    name
        Its name, or the path of a ``.safetensors`` file that training or
        `import_checkpoint` wrote.

    Raises
    ------
    ModelError
        No such model; the message lists those there are. Or no such file, or one that
        holds no model of this library.
    """
    if is_path(name):
        header = read_header(_path(name))
        _architecture(header)
        return header.spec
    return _entry(str(name)).spec


def load_model(
    name: str | os.PathLike[str], device: str = "cpu", *, sha256: str | None = None
) -> nn.Module:
    """Return the network of a model on `device`, ready to predict.

    Its ``forward(*images)`` takes one float32 ``(B, C, h, w)`` stack a band group,
    channels in the order of ``spec.inputs[i].names``, in reflectance, and gives
    reflectance.

    Parameters
    ----------
    name
        Its name, or the path of a ``.safetensors`` file.
    device
        As torch names it.
    sha256
        What the weights must hash to; None: whatever they do.

    Raises
    ------
    ModelError
        No such model, or its weights are others than `sha256` says.
    """
    if is_path(name):
        network = _from_file(_path(name), sha256)
    else:
        entry = _entry(str(name))
        if sha256 not in (None, entry.spec.sha256):
            raise ModelError(
                f"{name} has the weights {_short(entry.spec.sha256)} here, the work "
                f"was planned with {_short(sha256)}. Install the same version of "
                "s2sr-xr everywhere."
            )
        network = entry.build()
    if hasattr(network, "to"):
        network = network.to(device).eval()
    return network  # type: ignore[no-any-return]


def is_path(name: str | os.PathLike[str]) -> bool:
    """Return whether a model is given as a file.

    >>> [is_path(n) for n in ("dsen2-20m", "mine.safetensors", "sub/mine")]
    [False, True, True]
    """
    if not isinstance(name, str):
        return True
    return "/" in name or os.sep in name or Path(name).suffix.lower() in SUFFIXES


def _path(name: str | os.PathLike[str]) -> Path:
    return Path(name).expanduser()


def _short(sha256: str | None) -> str:
    return f"{sha256[:12]}..." if sha256 else "none"


def _from_file(path: Path, sha256: str | None) -> Any:  # noqa: ANN401
    header, tensors = weights_file.load_file(path, sha256)
    build = _architecture(header)
    if build is None:
        network = named("importers.onnx_network:from_tensors")
        return network(path.name, header, tensors)
    network = weights_file.fill_network(build(), path.name, tensors)
    if "constants" in header.notes:
        set_constants = named("networks.standard:set_constants")
        set_constants(network, path.name, header.notes["constants"])
    return network


def _architecture(header: Header) -> Build | None:
    """Return what builds the network of a weights file; None: it is an ONNX graph.

    Raises
    ------
    ModelError
        No such architecture, or its facts are not those that the file gives.
    """
    if header.kind == "onnx":
        return None
    entry = _ARCHITECTURES.get(header.kind) or _entry(header.kind)
    given, own = header.spec, entry.spec
    if _shape(given) != _shape(own) or given.margin < own.margin:
        raise ModelError(
            f"The file of {given.name} has {_shape(given)} with margin={given.margin}, "
            f"but its architecture, {header.kind}, has {_shape(own)} with margin="
            f"{own.margin}: its header was changed, or another version of s2sr_xr "
            "wrote it. Make it or import it again."
        )
    return entry.build


def _shape(spec: ModelSpec) -> dict[str, Any]:
    """Return those facts of a model that its architecture fixes."""
    return {
        "takes": [(len(g.names), g.per_cell) for g in spec.inputs],
        "makes": (len(spec.output.names), spec.output.per_cell),
        "exact": spec.exact,
        "align": spec.align,
    }


def has_weights(name: str | os.PathLike[str]) -> bool:
    """Return whether a model can run: it needs no weights, or has them."""
    spec = get_spec(name)
    return not spec.trained or spec.sha256 is not None


def family(model: str | os.PathLike[str]) -> dict[str, str]:
    """Return the models a name stands for in `upsample`, by native pixel.

    A family is a pair of networks, ``NAME-20m`` and ``NAME-60m``. Where these have no
    weights, it stands for its small pair, ``NAME-s-20m`` and ``NAME-s-60m``.

    >>> family("bicubic")
    {'20m': 'bicubic-20m', '60m': 'bicubic-60m'}
    """
    if is_path(model):
        return {f"{get_spec(model).cell}m": os.fspath(model)}
    name = str(model)
    if not (found := _pairs(name)):
        _find_plugins()
        found = _pairs(name) or [{f"{get_spec(name).cell}m": name}]
    return next((p for p in found if all(map(has_weights, p.values()))), found[0])


def _pairs(model: str) -> list[dict[str, str]]:
    pairs = (
        {f"{m}m": f"{stem}-{m}m" for m in (20, 60) if f"{stem}-{m}m" in _MODELS}
        for stem in (model, f"{model}-s")
    )
    return [p for p in pairs if p]


def check_runs(name: str | os.PathLike[str]) -> None:
    """Raise a ModelError, before anything is built, if a model has no weights."""
    if not has_weights(name):
        _refuse(os.fspath(name))


def _entry(name: str) -> _Entry:
    if name not in _MODELS:
        _find_plugins()
    if name in _MODELS:
        return _MODELS[name]
    known = ", ".join(sorted(_MODELS))
    raise ModelError(f"No model is named {name!r}. There are {known}.")


_PLUGINS: list[str] = []
"""The entry points that were tried, so that each is tried once."""
_FINDING = threading.RLock()


def _find_plugins() -> None:
    """Register what other packages bring, once; what is broken becomes a warning."""
    from importlib.metadata import entry_points

    with _FINDING:
        for point in entry_points(group=ENTRY_POINTS):
            if point.value in _PLUGINS:
                continue
            _PLUGINS.append(point.value)
            try:
                for spec, build in point.load()():
                    register(spec, build)
            # Whatever other people's code does must not break this library.
            except (Exception, SystemExit) as error:  # noqa: BLE001
                warnings.warn(
                    f"The models of the entry point {point.name} = {point.value} cannot"
                    f" be used: {type(error).__name__}: {error}. Mend or remove the "
                    "package that brings it.",
                    S2SRWarning,
                    stacklevel=3,
                )


def restrict(spec: ModelSpec, bands: Sequence[str]) -> ModelSpec:
    """Return a per-band model's facts for `bands` alone."""
    if not spec.per_band:
        return spec
    (group,) = spec.inputs
    names = tuple(n for n in group.names if n in bands)
    return replace(
        spec,
        inputs=(replace(group, names=names),),
        output=replace(spec.output, names=names),
    )


def _register_networks() -> None:
    for spec, build in (*published(), *restored()):
        _ARCHITECTURES[spec.name] = _Entry(spec, build)
        card = weights_file.card_of(spec.name)
        if card is None:
            register(spec, functools.partial(_refuse, spec.name))
        else:
            facts = weights_file.described(spec, card)
            register(facts, functools.partial(_shipped, facts, build))


def _shipped(spec: ModelSpec, build: Build) -> Any:  # noqa: ANN401
    path = weights_file.shipped(spec.name)
    if path is None:
        raise ModelError(f"The weights of {spec.name} are missing; install again.")
    return weights_file.load_state(build(), path, spec.sha256)


def _refuse(name: str) -> Any:  # noqa: ANN401
    ready = [n for n in _MODELS if has_weights(n)]
    raise ModelError(
        f"No weights of {name} are shipped. Choose one of {', '.join(ready)}, or give "
        "the path of a .safetensors file that training or s2sr_xr.import_checkpoint "
        "made."
    )


for _spec, _build in (*untrained(), *through_the_sensor()):
    register(_spec, _build)
_register_networks()
