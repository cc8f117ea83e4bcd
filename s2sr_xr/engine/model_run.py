"""One network over one block: fill, predict, put no-data back, flag."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.core import nodata
from s2sr_xr.core.psf import resolve_psf, unit_of
from s2sr_xr.core.scene import flags_name
from s2sr_xr.core.tiling import CORRECTION, REACH, Box, mirror, mirrored_source
from s2sr_xr.core.token_parts import field_parts
from s2sr_xr.engine import thread_team
from s2sr_xr.engine.nesting import check_nesting
from s2sr_xr.engine.options import Options
from s2sr_xr.engine.predict import predict
from s2sr_xr.engine.predictor import Predictor
from s2sr_xr.errors import GridError, ModelError, RadiometryError
from s2sr_xr.models.registry import check_runs, get_spec, restrict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from s2sr_xr.core.grid import Grid
    from s2sr_xr.core.psf import Psf
    from s2sr_xr.core.scene import Scene
    from s2sr_xr.models.spec import ModelSpec

__all__ = ["Pass", "passes_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One network over one object."""

    predictor: Predictor
    """Which network, and how it runs."""

    spec: ModelSpec
    """Its facts."""

    keep: tuple[str, ...]
    """The bands of its output that are wanted."""

    cells: tuple[int, int]
    """Rows and columns of the object, in the model's cells."""

    flags: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Masks of the product that concern its bands, and their pixels along a cell."""

    psf_source: str = ""
    """Who says how wide the point spread functions are; empty: it is given none."""

    consistent: bool = False
    """Whether the result's means over native pixels are put right; in its margin."""

    ceiling: float = nodata.CEILING
    """From which value on a pixel is saturated."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return field_parts("pass", 1, self)

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of a tile, in cells: the card's, or less for a small object.

        What an exact model writes does not depend on its tile, so that a small object
        need not be blown up to a whole one.
        """
        spec = self.spec
        if not spec.exact:
            return spec.tile, spec.tile
        least = (n + -(n + 2 * spec.margin) % spec.align for n in self.cells)
        rows, cols = (min(spec.tile, n) for n in least)
        return rows, cols

    @property
    def per_cell(self) -> dict[str, int]:
        """Pixels along a cell, of everything that is read: bands and masks."""
        return {b: self.spec.per_cell(b) for b in self.spec.bands} | dict(self.flags)

    def reads(self, block: Box) -> Box:
        """Return the cells `block` (in output pixels) needs, the fill's reach too."""
        span = self.tiles(block).grow(self.spec.margin)
        source = Box(
            mirrored_source(span.rows, self.cells[0]),
            mirrored_source(span.cols, self.cells[1]),
        )
        return source.grow(REACH).clip(self.cells)

    def tiles(self, block: Box) -> Box:
        """Return the whole tiles that make up `block` (in output pixels), in cells."""
        return block.group(self.spec.output.per_cell).outward(self.tile)

    def run(
        self, block: Box, images: Mapping[str, NDArray[np.float32]], batch: int | None
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.uint8]]:
        """Return the wanted bands of `block`, and its flags.

        `images` holds, for each band the model takes, the cells that `reads` names;
        missing pixels are NaN, saturated ones +inf or beyond the ceiling.
        """
        spec, source = self.spec, self.reads(block)
        tiles = self.tiles(block)
        seen = tiles.grow(spec.margin)
        stacks, flags = [], np.zeros(source.shape, np.uint8)
        absent: dict[str, NDArray[np.bool_]] = {}
        for group in spec.inputs:
            k, filled = group.per_cell, []
            for b in group.names:
                image, missing = images[b], ~np.isfinite(images[b])
                flags |= nodata.FILLED * _any_in_cell(missing, k)
                flags |= nodata.SATURATED * _any_in_cell(image >= self.ceiling, k)
                mean = spec.fill.get(b, 0.0)
                filled.append(nodata.fill(image, missing, per_cell=k, mean=mean))
                absent[b] = missing
            stacks.append(_mirrored(filled, seen, source, self.cells, k))
        for name, k in self.flags.items():
            # Beyond the mask, or where it is unknown, nothing is flagged.
            known = np.nan_to_num(images[name]).astype(np.uint8)
            for bit in (nodata.SATURATED, nodata.DEFECT):
                flags |= bit * _any_in_cell(known & bit > 0, k)
        k = spec.output.per_cell
        inner = block.slices_in(tiles.scale(k))
        gone = {
            b: _repeat(absent[b], k // spec.per_cell(b))[
                block.slices_in(source.scale(k))
            ]
            for b in spec.output.names
            if absent[b].any()
        }
        if all(b in gone and gone[b].all() for b in map(_band_of, self.keep)):
            result = {n: np.full(block.shape, np.nan, np.float32) for n in self.keep}
        else:
            made = dict(zip(spec.channels, self._predict(stacks, batch), strict=True))
            result = {n: _own(made[n], inner) for n in self.keep}
            if spec.also:
                gone = {
                    b: _moved(
                        absent[b],
                        tuple(made[f"flow_{axis}_{b}"][inner] for axis in "yx"),
                        block,
                        source,
                        self.cells,
                    )
                    for b in spec.output.names
                }
            for n in self.keep:
                if (band := _band_of(n)) in gone:
                    result[n][gone[band]] = np.nan
        seen_flags = _mirrored([flags], seen, source, self.cells, 1)[0]
        return result, _spread(seen_flags, spec.margin, k)[inner]

    def _predict(
        self, stacks: list[NDArray[np.float32]], batch: int | None
    ) -> list[NDArray[np.float32]]:
        run, device = self.predictor.load()
        if self.consistent:
            from s2sr_xr.engine.consistency import Consistent

            inner = self.spec.margin - CORRECTION
            run = Consistent(run, replace(self.spec, margin=inner))
        with thread_team.on(device):
            return predict(
                run, self.spec, stacks, tile=self.tile, batch=batch, device=device
            )


def _any_in_cell(marked: NDArray[np.bool_], k: int) -> NDArray[np.uint8]:
    """Return, cell by cell, 1 where any pixel is marked."""
    rows, cols = marked.shape
    cells = np.zeros((rows // k, cols // k), bool)
    if marked.any():  # most blocks have nothing marked
        for i in range(k):
            for j in range(k):
                cells |= marked[i::k, j::k]
    return cells.view(np.uint8)


def _mirrored(
    images: Sequence[NDArray[Any]],
    seen: Box,
    source: Box,
    cells: tuple[int, int],
    k: int,
) -> NDArray[Any]:
    """Return the cells `seen` of images of `source`, mirrored at the edges, stacked."""
    inner = seen.clip(cells)
    into = inner.scale(k).slices_in(seen.scale(k))
    cut = inner.scale(k).slices_in(source.scale(k))
    out = np.empty((len(images), *seen.scale(k).shape), images[0].dtype)
    # Where each row and column comes from, and the few that lie beyond the edge.
    origin = [
        np.array([mirror(i, n * k) for i in range(span.start * k, span.stop * k)])
        - held.start * k
        for span, held, n in (
            (seen.rows, source.rows, cells[0]),
            (seen.cols, source.cols, cells[1]),
        )
    ]
    rows, cols = origin
    edge_rows, edge_cols = (
        np.delete(np.arange(len(places)), middle)
        for places, middle in zip(origin, into, strict=True)
    )
    for image, made in zip(images, out, strict=True):
        made[into] = image[cut]
        made[edge_rows] = image[np.ix_(rows[edge_rows], cols)]
        made[into[0], edge_cols] = image[cut[0], cols[edge_cols]]
    return out


def _own(image: NDArray[np.float32], inner: tuple[slice, slice]) -> NDArray[np.float32]:
    """Return a part of an image, not a view that would keep all of it alive."""
    part = image[inner]
    return part if part.shape == image.shape else part.copy()


def _band_of(name: str) -> str:
    """Return the band that an output belongs to: itself, or that of a flow.

    >>> _band_of("flow_y_B02")
    'B02'
    """
    return name.rpartition("_")[2]


def _moved(
    missing: NDArray[np.bool_],
    flow: tuple[NDArray[np.float32], ...],
    block: Box,
    source: Box,
    cells: tuple[int, int],
) -> NDArray[np.bool_]:
    """Return where a warped band was fetched from a missing pixel, or from beyond."""
    grid = np.ogrid[
        block.rows.start : block.rows.stop, block.cols.start : block.cols.stop
    ]
    inside = np.ones(block.shape, bool)
    index = []
    for at, shift, held, n in zip(
        grid, flow, (source.rows, source.cols), cells, strict=True
    ):
        place = at + np.rint(shift).astype(np.int64)
        inside &= (place >= 0) & (place < n)
        index.append(place.clip(held.start, held.stop - 1) - held.start)
    return np.asarray(missing[tuple(index)] | ~inside)


def _repeat(image: NDArray[Any], k: int) -> NDArray[Any]:
    return image.repeat(k, axis=0).repeat(k, axis=1)


def _spread(flags: NDArray[np.uint8], margin: int, k: int) -> NDArray[np.uint8]:
    """Return each output pixel's flags: those of every cell its network looked at."""
    shape = tuple(n - 2 * margin for n in flags.shape)
    out = np.zeros(shape, np.uint8)
    for bit in (nodata.FILLED, nodata.SATURATED, nodata.DEFECT):
        marked = flags & bit > 0
        if marked.any():
            out |= np.uint8(bit) * nodata.spread(marked, margin)
    return _repeat(out, k)


_UNITS = {"1": "reflectance (L1C, L2A)", "count": "raw counts (L1B)"}


def passes_for(
    scene: Scene,
    chosen: Mapping[str, tuple[str, ...]],
    options: Options = Options(),  # noqa: B008 - frozen
    *,
    reference: str | None = None,
) -> tuple[tuple[Pass, ...], Grid]:
    """Return how each chosen network runs over a scene, and the grid that they make.

    `chosen` holds, for each model that runs, the bands it makes; `reference` is the
    band that a registration aligns the others to.

    Raises
    ------
    ModelError
        A model has no weights.
    RadiometryError
        The pixels of the scene count something else than a model takes.
    MissingBandError, GridError
        The scene lacks a band that a network takes, or its pixels do not nest.
    """
    psf = _psf_of(scene, chosen, options)
    passes, grid = [], None
    for name, own in chosen.items():
        check_runs(name)
        spec = restrict(get_spec(name), own)
        if spec.units != scene.units:
            takes, has = (_UNITS.get(u, u) for u in (spec.units, scene.units))
            raise RadiometryError(
                f"{name} takes {takes}; the data are {has}. Choose another model: "
                "s2sr_xr.list_models() lists them."
            )
        if options.consistent:
            spec = _with_correction(spec)
        cells = check_nesting(scene, spec)
        predictor = Predictor(
            name=name,
            sha256=spec.sha256,
            precision=options.precision,
            device=options.device,
            reference=None if reference is None else spec.bands.index(reference),
            psf=tuple(psf[b] for b in spec.sensor),
        )
        # Masks of the pixel sizes that it takes, where the product has them.
        flags = {
            flags_name(spec.cell / g.per_cell): g.per_cell
            for g in spec.inputs
            if flags_name(spec.cell / g.per_cell) in scene.flags
        }
        passes.append(
            Pass(
                predictor=predictor,
                spec=spec,
                keep=own,
                cells=cells.shape,
                flags=flags,
                ceiling=scene.ceiling,
                psf_source=psf.source if spec.sensor else "",
                consistent=options.consistent,
            )
        )
        fine = cells.at(spec.resolution)
        if grid is not None and grid != fine:
            raise GridError(
                f"The {spec.cell} m bands ({', '.join(own)}) cover {fine.extent} "
                f"(west, south, east, north), the others {grid.extent}. Cut all groups "
                "at once with obj.s2sr.window(x=..., y=...), or leave bands out: "
                "bands=[...]."
            )
        grid = fine
    assert grid is not None
    return tuple(passes), grid


def _psf_of(
    scene: Scene, chosen: Mapping[str, tuple[str, ...]], options: Options
) -> Psf:
    """Return the point spread functions that the chosen networks are given."""
    bands = {b for name in chosen for b in get_spec(name).sensor}
    if not bands and options.psf != "sensor":
        raise ModelError(
            f"{' and '.join(chosen)} cannot be given a point spread function. Leave "
            'psf out, or use model="restored".'
        )
    unit = unit_of(str(scene.attrs.get("platform", "")))
    return resolve_psf(options.psf, bands=sorted(bands), unit=unit)


def _with_correction(spec: ModelSpec) -> ModelSpec:
    """Return the facts of a model whose means are put right after it."""
    if spec.sensor:
        raise ModelError(
            f"{spec.name} gives back what the sensor recorded, seen through its point "
            "spread function; consistent=True keeps means over pixels, which are not "
            "what it recorded. Leave it out."
        )
    if not spec.exact:
        raise ModelError(
            f"consistent=True needs a network whose bands stay where they are, and "
            f"{spec.name} moves them. Leave it out."
        )
    margin = spec.margin + CORRECTION
    return replace(spec, margin=margin, tile=spec.tile + -2 * CORRECTION % spec.align)
