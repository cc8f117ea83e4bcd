"""Which network runs and how, loaded once a process."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2sr_xr.core.token_parts import field_parts
from s2sr_xr.engine.allocator import keep_memory
from s2sr_xr.engine.thread_team import is_cuda, resolve
from s2sr_xr.errors import ModelError
from s2sr_xr.models.registry import get_spec, is_path, load_model

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., Any]

__all__ = ["Predictor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """Which network runs, and how: a few hundred bytes that travel in the graph.

    The weights do not: each process loads them once, by name and hash.
    """

    name: str
    """Registry name, or the path of a weights file, which becomes absolute: a worker
    may run in another folder."""

    sha256: str | None = None
    """Hash of the weights, None for a model without. What is loaded must have it."""

    precision: str = "float32"
    """Arithmetic of the network."""

    device: str = "auto"
    """Where it runs; "auto" is resolved by the process that runs it."""

    reference: int | None = None
    """Channel that the others are aligned to, for a network that registers."""

    psf: tuple[float, ...] = ()
    """Width of the point spread function of each band of ``spec.sensor``, in metres."""

    def __post_init__(self) -> None:
        if is_path(self.name):
            path = Path(self.name).expanduser().absolute()
            object.__setattr__(self, "name", str(path))

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return field_parts("predictor", 1, self)

    def load(self) -> tuple[Run, str]:
        """Return the network and its device, loaded once."""
        device = resolve(self.device)
        # Two paths of one file, or one in two places, are one network.
        known = self.sha256 and Path(self.name).is_absolute()
        name = None if known else self.name
        key = (name, self.sha256, device, self.precision, self.psf)
        with _LOADING:
            if key not in _LOADED:
                _LOADED[key] = self._ready(device)
        run = network = _LOADED[key]
        if self.reference is not None:
            align: Run = network.align  # type: ignore[attr-defined]
            run = functools.partial(align, reference=self.reference)
        if is_cuda(device):
            from s2sr_xr.engine.gpu_memory import Resident

            run = Resident(network=network, run=run, precision=self.precision)
        return run, device

    def _ready(self, device: str) -> Run:
        from s2sr_xr.engine.gpu import check_precision
        from s2sr_xr.engine.gpu_memory import settle
        from s2sr_xr.models.networks.layers import lower

        check_precision(self.precision, device)
        if device == "cpu":
            keep_memory()
        network = load_model(self.name, device, sha256=self.sha256)
        if self.psf:
            network.set_widths(self.psf)  # type: ignore[operator] # its own
        # Interpolation has no convolutions between features, and nothing to gain.
        spec = get_spec(self.name)
        lowered = self.precision != "bf16" or lower(network, spec.flat)
        if not lowered and spec.trained:
            raise ModelError(
                f"{self.name} has no layers of this library that compute in bf16. Use "
                'precision="float32".'
            )
        if is_cuda(device):
            settle(network, device)
        return network


_LOADED: dict[tuple[Any, ...], Run] = {}


_LOADING = threading.Lock()
