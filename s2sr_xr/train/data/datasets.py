"""Readers of published training sets.

Sen2Venus, as scenes of a `Sampler`: Sentinel-2 patches of 10 m and 20 m with what Venus
saw of them at 5 m on the same day. An index, tab-separated, says which files belong
together. Version 1 has one row and four torch files for each pair of products, each of
all its patches, ``(n, 4, h, w)``; version 2 one row a patch, GeoTIFF files that may lie
in zip archives, and B11 and B12. Counts are reflectance times 10 000, -10 000 is no
data.

L1BSR, as batches of the recipes `csr` and `rec`: what two neighbouring detectors saw of
the same ground, 3740 pairs of some 400 x 120 to 200 pixels, moved by whole pixels until
at most 10 are left between them. The authors describe no files; that they lie as
follows is taken from public code that reads them: TIFF files in folders whose names end
in ``_left``, and as many in a folder next to each that ends in ``_right``, where the
n-th by name belong together. That they hold B02, B03, B04 and B08 as 12-bit counts is
taken from the authors' examples, which tifffile wrote as (H, W, 4); 0 is no data as in
all of Level-1B.

References
----------
Michel et al. (2022), SEN2VENuS, a dataset for the training of Sentinel-2
super-resolution algorithms, Data 7(7), section 3.3. Zenodo 6514159 and 14603764.
Nguyen et al. (2023), L1BSR, CVPR workshops, section 4.4. Zenodo 7826696.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from s2sr_xr.errors import GridError, ReadError
from s2sr_xr.models.spec import BandGroup
from s2sr_xr.train.data.scenes import Source

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["sen2venus"]

MISSING = -10_000
SCALE = 10_000

TEN = ("B02", "B03", "B04", "B08")
EDGE = ("B05", "B06", "B07", "B8A")
SWIR = ("B11", "B12")

FIRST = {
    "tensor_10m_b2b3b4b8": (TEN, 2),
    "tensor_20m_b5b6b7b8a": (EDGE, 1),
    "tensor_05m_b2b3b4b8": (TEN, 4),
    "tensor_05m_b5b6b7b8a": (EDGE, 4),
}
"""Columns of version 1: bands, and pixels along the side of a 20 m cell."""

SECOND = {
    "b2b3b4b8_10m": (TEN, 2),
    "b5b6b7b8a_20m": (EDGE, 1),
    "b11b12_20m": (SWIR, 1),
    "b2b3b4b8_05m": (TEN, 4),
    "b5b6b7b8a_05m": (EDGE, 4),
}
"""Columns of version 2."""

CELLS = 64
"""Side of a patch, in cells of 20 m."""


def sen2venus(index: str | Path) -> list[Source]:
    """Return the patches of Sen2Venus, either version, without reading their pixels.

    Give them to a `Sampler` with ``Rules(cloud=1)``: they are free of cloud. Batches
    are what ``evoland-pretrain`` takes: 10 m bands, 20 m bands (of version 2 with B11
    and B12), and eight bands at 5 m.

    Parameters
    ----------
    index
        The index file, or the folder of ``index.csv``. Files are looked for next to it.

    Raises
    ------
    ReadError
        There is no index, it has no rows, a row is cut off, or a file of the first row
        cannot be opened.
    GridError
        Its columns are of neither version.
    """
    path = Path(index)
    path = path / "index.csv" if path.is_dir() else path
    if not path.is_file():
        raise ReadError(f"There is no index {path.name} in {path.parent.name}.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if not rows:
        raise ReadError(f"{path.name} lists no patches.")
    for columns, patches in ((FIRST, _of_tensors), (SECOND, _of_images)):
        if set(columns) <= set(rows[0]):
            _check_rows(path.name, rows, columns)
            made = [patches(path.parent, row) for row in rows]
            if columns is SECOND:  # of which none was opened
                for column, (_, n) in SECOND.items():
                    _Image(path.parent / rows[0][column], n).open().close()
            return made
    raise GridError(
        f"{path.name} has the columns {', '.join(rows[0])}; version 1 of Sen2Venus has "
        f"{', '.join(FIRST)}, version 2 {', '.join(SECOND)}, separated by tabs."
    )


def _check_rows(
    name: str, rows: Sequence[Mapping[str, str | None]], columns: Collection[str]
) -> None:
    """Raise unless each row names a file in each column."""
    for number, row in enumerate(rows, 1):
        if missing := [c for c in columns if not row[c]]:
            raise ReadError(
                f"Row {number} of {len(rows)} in {name} names no file of "
                f"{', '.join(missing)}: it is cut off. Fetch the index again."
            )


def _of_tensors(folder: Path, row: dict[str, str]) -> Source:
    """Return the patches of one pair of products: patches stand where time does."""
    layers = {c: _Tensors(folder / row[c], len(b)) for c, (b, _) in FIRST.items()}
    return _source(row["tensor_10m_b2b3b4b8"], FIRST, layers, ("time", "y", "x"))


def _of_images(folder: Path, row: dict[str, str]) -> Source:
    """Return one patch."""
    layers = {c: _Image(folder / row[c], n) for c, (_, n) in SECOND.items()}
    return _source(row["b2b3b4b8_10m"], SECOND, layers, ("y", "x"))


def _source(
    name: str,
    columns: Mapping[str, tuple[tuple[str, ...], int]],
    files: dict[str, Any],
    dims: tuple[str, ...],
) -> Source:
    groups, layers = [], []
    for per_cell in (2, 1, 4):
        own = [c for c, (_, n) in columns.items() if n == per_cell]
        names = tuple(b for c in own for b in columns[c][0])
        groups.append(BandGroup(names=names, per_cell=per_cell))
        layers.append(
            tuple(
                xr.Variable(dims, indexing.LazilyIndexedArray(files[c].band(k)))
                for c in own
                for k in range(len(columns[c][0]))
            )
        )
    first = layers[1][0]
    cells = first.sizes["y"], first.sizes["x"]
    return Source(name=name, groups=tuple(groups), layers=tuple(layers), cells=cells)


@dataclass(frozen=True)
class _Tensors:
    """A torch file of patches."""

    path: Path
    bands: int

    def band(self, k: int) -> _Band:
        """Return one band of all patches."""
        patches, bands, rows, cols = self.open().shape
        if bands != self.bands:
            raise ReadError(f"{self.path.name} has {bands} bands, not {self.bands}.")
        return _Band(self, k, (patches, rows, cols))

    def open(self) -> Any:  # noqa: ANN401
        """Return the tensor, on disk where its format allows."""
        import zipfile

        try:
            mapped = zipfile.is_zipfile(self.path)
            return torch.load(self.path, "cpu", weights_only=True, mmap=mapped)
        except Exception as error:
            raise ReadError(
                f"{self.path.name} cannot be read as a tensor: {error}"
            ) from error

    def read(self, k: int, place: tuple[Any, ...]) -> NDArray[Any]:
        """Return counts of a part of a band."""
        first, *rest = place
        return np.asarray(self.open()[first, k].numpy()[(..., *rest)])


@dataclass(frozen=True)
class _Image:
    """A GeoTIFF file of one patch, maybe in an archive."""

    path: Path
    per_cell: int

    def band(self, k: int) -> _Band:
        """Return one band, unopened: all patches of the set have one size."""
        side = CELLS * self.per_cell
        return _Band(self, k, (side, side))

    def href(self) -> str:
        """Return the path as GDAL takes it."""
        archive = next((p for p in self.path.parents if p.suffix == ".zip"), None)
        if archive is None or archive.is_dir():
            return str(self.path)
        return f"/vsizip/{archive}/{self.path.relative_to(archive)}"

    def open(self) -> Any:  # noqa: ANN401 - rasterio's
        """Return the file, open, without its pixels."""
        import rasterio
        from rasterio.errors import RasterioError

        try:
            file = rasterio.open(self.href())
        except RasterioError as error:
            raise ReadError(f"{self.path.name} cannot be opened: {error}") from error
        side = CELLS * self.per_cell
        if file.shape != (side, side):
            file.close()
            raise ReadError(
                f"{self.path.name} has {file.shape} pixels; patches of Sen2Venus "
                f"have {side} x {side} there."
            )
        return file

    def read(self, k: int, place: tuple[Any, ...]) -> NDArray[Any]:
        """Return counts of a part of a band."""
        with self.open() as file:
            return np.asarray(file.read(k + 1)[place])


class _Band(BackendArray):
    """One band of a file, as reflectance, read when it is indexed."""

    def __init__(self, file: _Tensors | _Image, k: int, shape: tuple[int, ...]) -> None:
        self.file, self.k = file, k
        self.shape, self.dtype = shape, np.dtype("f4")

    def __getitem__(self, key: indexing.ExplicitIndexer) -> NDArray[np.float32]:
        """Return reflectance, NaN where there is none."""
        return np.asarray(
            indexing.explicit_indexing_adapter(
                key, self.shape, indexing.IndexingSupport.BASIC, self._read
            )
        )

    def _read(self, place: tuple[Any, ...]) -> NDArray[np.float32]:
        counts = self.file.read(self.k, place)
        reflectance = counts.astype(np.float32) / np.float32(SCALE)
        reflectance[counts == MISSING] = np.nan
        return reflectance
