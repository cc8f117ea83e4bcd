"""Which calls made a lazy result: the one place that looks into Dask's graphs.

`dask_graph.arrays` gives each variable that it makes a `MadeLayer`, which knows the job
behind it. Whoever has such a variable, unmodified, can do better than compute its
chunks: write whole blocks, plan, hand blocks out, say what decides the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import dask.array as da
from dask.highlevelgraph import MaterializedLayer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import xarray as xr

    from s2sr_xr.engine.job import Job

__all__ = ["Made", "MadeLayer", "Origin", "job_of", "made_as", "made_in", "origins"]


@dataclass(frozen=True, slots=True)
class Made:
    """One variable that a call made."""

    job: Job
    """All that the call computes."""

    token: str
    """Equal for equal calls on equal data."""

    variable: str
    """What the job calls it."""


class MadeLayer(MaterializedLayer):  # type: ignore[misc]
    """The layer of one variable, and what made it."""

    def __init__(self, tasks: Mapping[Any, Any], made: Made) -> None:
        super().__init__(tasks)
        self.made = made


@dataclass(frozen=True, slots=True)
class Origin:
    """A call that made some variables of a Dataset, and nothing that others need."""

    job: Job
    """What computes these variables, and no more."""

    names: Mapping[str, str]
    """What the job calls each of them, by its name in the Dataset."""


def made_in(array: da.Array) -> list[Made]:
    """Return everything of ours that an array is computed from."""
    layers = array.dask.layers.values()
    return [layer.made for layer in layers if isinstance(layer, MadeLayer)]


def made_as(array: Any) -> Made | None:  # noqa: ANN401 - what a variable holds
    """Return what an array is, if it is as our call returned it; else None."""
    if not isinstance(array, da.Array):
        return None
    layer = array.dask.layers.get(array.name)
    return layer.made if isinstance(layer, MadeLayer) else None


def origins(ds: xr.Dataset) -> list[Origin]:
    """Return the calls that made variables of a Dataset, unmodified; each call once."""
    jobs: dict[str, Job] = {}
    names: dict[str, dict[str, str]] = {}
    for name, array in ds.data_vars.items():
        made = made_as(array.data) if array.chunks is not None else None
        if made is not None:
            jobs[made.token] = made.job
            names.setdefault(made.token, {})[str(name)] = made.variable
    return [Origin(j.only({*names[t].values()}), names[t]) for t, j in jobs.items()]


def job_of(ds: xr.Dataset) -> Job | None:
    """Return the one job that makes all variables of a Dataset, or None."""
    found = origins(ds)
    alone = len(found) == 1 and len(found[0].names) == len(ds.data_vars)
    return found[0].job if alone else None
