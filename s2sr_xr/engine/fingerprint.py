"""What decides the pixels of a result, as a token that another process makes too."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from s2sr_xr.core.version import library_version
from s2sr_xr.readers.fetch.source import source_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr

    from s2sr_xr.core.scene import Plane
    from s2sr_xr.engine.job import BlockTask, Job
    from s2sr_xr.engine.lazy import Made
    from s2sr_xr.readers.fetch.source_protocol import Source

__all__ = ["UNREPEATABLE", "token_of"]

UNREPEATABLE = "not repeatable"
"""The part of a token that says which variables differ on each run, and why."""

_DRAWN = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


def token_of(ds: xr.Dataset) -> dict[str, Any]:
    """Return what decides the pixels of a result, readable where it can be.

    Equal for equal work on equal data, in any process: models with their weights,
    precision, radiometry, sources, and for each variable a hash of all that its blocks
    are made from. Of a variable that was computed from results it is the name of its
    Dask array, which stands for the arithmetic; of one in memory, a hash of its pixels.
    Where the work runs, and how many tiles at once, is left out.

    Names that Dask draws at random (``da.from_array(name=False)``, `dask.delayed`
    without ``pure=True``) are found and reported under `UNREPEATABLE`; other random
    names cannot be, and differ on resume.

    Parameters
    ----------
    ds
        Variables on one grid. Nothing is read that is not in memory.

    Returns
    -------
    dict
        Text and nested dicts of text.
    """
    from s2sr_xr.engine.lazy import made_as, made_in

    parts: dict[str, Any] = {"library": library_version()}
    said: dict[str, defaultdict[str, set[str]]] = {
        part: defaultdict(set)
        for part in ("model", "precision", "radiometry", "sources")
    }
    pixels, doubts = {}, {}
    known: dict[str, dict[str, tuple[str, str | None]]] = {}
    for name, array in sorted((str(n), v.variable) for n, v in ds.data_vars.items()):
        try:
            if array.chunks is None:
                pixels[name] = _own(array)
                _recall(name, array, said)
                continue
            lazy = array.data
            drawn = next(filter(_DRAWN.search, map(str, lazy.dask.layers)), None)
            if drawn is not None:
                doubts[name] = f"Dask drew a name at random, {drawn}"
            for made in made_in(lazy):
                _describe(made, said, known)
            own = made_as(lazy)
            pixels[name] = lazy.name if own is None else _hash_of(own, known)
        except _NoTokenError as error:
            pixels[name], doubts[name] = "unknown", str(error)
    for part, found in said.items():
        parts[part] = {k: ", ".join(sorted(v)) for k, v in sorted(found.items())}
    return parts | {"pixels": pixels} | ({UNREPEATABLE: doubts} if doubts else {})


class _NoTokenError(Exception):
    """Something has no token that another process would make too."""


def _hash(*parts: object) -> str:
    """Return a token of `parts`; raise where Dask would draw one at random."""
    import dask
    from dask.base import tokenize
    from dask.tokenize import TokenizationError

    with dask.config.set({"tokenize.ensure-deterministic": True}):
        try:
            return str(tokenize(*parts))
        except TokenizationError as error:
            raise _NoTokenError(str(error)) from error


def _own(array: xr.Variable) -> str:
    """Return the token of a variable without Dask."""
    source = source_of(array)
    if source is not None:
        return _hash(source)
    if not array._in_memory:  # noqa: SLF001 - to look otherwise is to load
        raise _NoTokenError(
            "its pixels are neither in memory nor in a Dask array; load() or chunk() it"
        )
    return _hash(array.to_numpy())


def _recall(
    name: str, array: xr.Variable, said: dict[str, defaultdict[str, set[str]]]
) -> None:
    """Add what the attributes of pixels in memory say of how they were made."""
    if "s2sr_model" in array.attrs:
        weights = str(array.attrs.get("s2sr_weights"))[:12]
        said["model"][name].add(f"{array.attrs['s2sr_model']} (weights {weights})")
    if "radiometry" in array.attrs:
        said["radiometry"][name].add(str(array.attrs["radiometry"]))


def _describe(
    made: Made,
    said: dict[str, defaultdict[str, set[str]]],
    known: dict[str, dict[str, tuple[str, str | None]]],
) -> None:
    """Add what people want to know of the call that made a variable."""
    job, bands = made.job.only({made.variable}), _bands(made, known)
    for p in job.task.passes:
        cell, weights = f"{p.spec.cell} m", (p.predictor.sha256 or "none")[:12]
        said["model"][cell].add(f"{p.spec.name} (weights {weights})")
        said["precision"][cell].add(p.predictor.precision)
    for band in job.planes:
        token, meaning = bands[band]
        said["sources"][band].add(token)
        if meaning is not None:
            said["radiometry"][band].add(meaning)


def _hash_of(made: Made, known: dict[str, dict[str, tuple[str, str | None]]]) -> str:
    """Return a hash of all that decides the pixels of a variable that a call made."""
    job, bands = made.job.only({made.variable}), _bands(made, known)
    read = {band: (bands[band][0], p.repeat) for band, p in job.planes.items()}
    # A network is its weights, wherever their file lies.
    networks = [p.predictor.sha256 or p.predictor.name for p in job.task.passes]
    return _hash(made.variable, networks, _essence(job.task), job.times, read)


def _essence(task: BlockTask) -> BlockTask:
    """Return the task without what may change between two runs of one job."""
    passes = tuple(
        replace(
            p,
            psf_source="",
            predictor=replace(p.predictor, name="", device="auto"),
            spec=replace(p.spec, title="", citation="", licence=""),
        )
        for p in task.passes
    )
    return replace(task, passes=passes, batch=None, threads=None, check=True)


def _bands(
    made: Made, known: dict[str, dict[str, tuple[str, str | None]]]
) -> dict[str, tuple[str, str | None]]:
    """Return the token and the radiometry of each band that a call reads."""
    if made.token not in known:
        known[made.token] = dict(_tokens(made.job))
    return known[made.token]


def _tokens(job: Job) -> Iterator[tuple[str, tuple[str, str | None]]]:
    for band, plane in job.planes.items():
        lazy = plane.variable.chunks is not None
        source = source_of(plane.variable.data if lazy else plane.variable)
        yield band, (_token(plane, source, lazy=lazy), _meaning(plane, source))


def _token(plane: Plane, source: Source | None, *, lazy: bool) -> str:
    if source is not None:
        return _hash(source)
    return str(plane.variable.data.name) if lazy else _own(plane.variable)


def _meaning(plane: Plane, source: Source | None) -> str | None:
    """Return what the counts of a band mean, in words for people."""
    part: Any = source
    while part is not None:
        if found := getattr(part, "radiometry", None):
            each = found if isinstance(found, tuple) else (found,)
            return " or ".join(sorted({f"{r.offset:+g} x {r.scale:g}" for r in each}))
        part = getattr(part, "source", getattr(part, "band_source", None))
    return plane.variable.attrs.get("radiometry")
