"""Training: networks learn from scenes, by a TOML file or step by step.

A TOML file decides everything (`s2sr_xr.train.config` describes it)::

    for step, loss, network in s2sr_xr.train.train("mine.toml"):
        ...

Or any network, batches and loss are given to the same loop::

    sampler = Sampler([source(tree, spec, "A")], side=64, batch=16)
    for step in fit(network, sampler, loss, Plan(steps=1000, lr=1e-3)):
        ...

Nothing is loaded before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2sr_xr.train.config import read_training, train
    from s2sr_xr.train.data.augment import Augment
    from s2sr_xr.train.data.datasets import sen2venus
    from s2sr_xr.train.data.l1bsr import l1bsr
    from s2sr_xr.train.data.patches import Batches, Rules, Sampler
    from s2sr_xr.train.data.reference_image import open_finer
    from s2sr_xr.train.data.scenes import Source, simulated_scene, source
    from s2sr_xr.train.loop import fit
    from s2sr_xr.train.optim import Muon
    from s2sr_xr.train.plan import DivergedError, Plan, Step
    from s2sr_xr.train.recipes import RECIPES
    from s2sr_xr.train.training import Training

__all__ = [
    "RECIPES",
    "Augment",
    "Batches",
    "DivergedError",
    "Muon",
    "Plan",
    "Rules",
    "Sampler",
    "Source",
    "Step",
    "Training",
    "fit",
    "l1bsr",
    "open_finer",
    "read_training",
    "sen2venus",
    "simulated_scene",
    "source",
    "train",
]

_MODULES = {
    "config": ("read_training", "train"),
    "data.augment": ("Augment",),
    "data.datasets": ("sen2venus",),
    "data.l1bsr": ("l1bsr",),
    "data.patches": ("Batches", "Rules", "Sampler"),
    "data.reference_image": ("open_finer",),
    "data.scenes": ("Source", "simulated_scene", "source"),
    "loop": ("fit",),
    "optim": ("Muon",),
    "plan": ("DivergedError", "Plan", "Step"),
    "recipes": ("RECIPES",),
    "training": ("Training",),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a class or a function
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names; modules that are not public can still be imported."""
    return sorted(__all__)
