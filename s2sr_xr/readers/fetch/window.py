"""The one strict read: a window of one asset, or a `ReadError`; never silent zeros.

GDAL can return a window of which it could not read a part, without an error: with its
default threads, a window over several blocks of a cut JPEG 2000 file comes back as
zeros or as the freed memory of another array. Everything here is there so that this,
and its relatives, cannot happen:

* one decoding thread (`OPTIONS`): then GDAL raises; parallelism is the caller's,
* a fresh handle and a fresh cache for each try: a failed read leaves zeros in both,
* the driver is fixed by the catalogue; only plain files and http(s) are opened,
* the header must say what the catalogue said,
* blocks that were decoded for another window (`cache`) are of the same bytes, and of a
  read that succeeded.

Faults that pass are retried; a probe of one byte learns the HTTP status that GDAL
loses. Bytes damaged inside an intact container cannot be detected.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from s2sr_xr.errors import GridError, ReadError, redact
from s2sr_xr.readers.fetch.address import gdal_name, is_remote
from s2sr_xr.readers.fetch.blocks import identity, read_direct, read_shared
from s2sr_xr.readers.fetch.cache import budget
from s2sr_xr.readers.fetch.diagnosis import account, diagnose
from s2sr_xr.readers.fetch.retry import FaultError, Retry, insist, retry_in_use
from s2sr_xr.readers.fetch.signing import SIGNERS, SigningError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from rasterio.crs import CRS
    from rasterio.io import DatasetReader

    from s2sr_xr.readers.fetch.asset import Asset

__all__ = ["check_window", "read_header", "read_open", "read_window", "use_image"]

T = TypeVar("T")


OPTIONS: Mapping[str, Any] = {
    # With more threads a failed block of a JPEG 2000 file raises nothing (module doc).
    "GDAL_NUM_THREADS": 1,
    # Set in some environments; the missing blocks of a cut file would be zeros.
    "GTIFF_IGNORE_READ_ERRORS": "NO",
    # Georeference and statistics in neighbouring files are not the file's.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "VSI_CACHE": "NO",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    # Tries are counted here; GDAL's own would multiply them.
    "GDAL_HTTP_MAX_RETRY": 0,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 10_000,
}
"""GDAL's configuration during a read."""

BLOCK_CACHE = 128 * 2**20
"""Bytes for GDAL's block cache. Its default is 5 % of the memory, which is never of
use here, since a handle lives for one window."""


def read_window(
    asset: Asset, rows: slice, cols: slice, *, retry: Retry | None = None
) -> np.ndarray:
    """Read one window, or raise.

    Parameters
    ----------
    asset
        The image. Its shape, transform and CRS, where known, must be the file's.
    rows, cols
        Pixels from the upper left corner, inside the image, not empty, step 1.
    retry
        How long to try again; None: `retry_in_use`.

    Returns
    -------
    np.ndarray
        Counts of the file's own integer type, shape ``(rows, cols)``, C-contiguous.

    Raises
    ------
    ReadError
        The pixels could not be read: what failed, after how many tries, what to do.
    GridError
        The file is not the image that the catalogue describes.
    """
    limit = budget()
    if asset.shape is not None:
        check_window(rows, cols, asset.shape)
    # Asked before the image is opened, or old pixels could get the name of new ones.
    patience = retry or retry_in_use()
    name = identity(_signed(asset), timeout=patience.connect) if limit else None

    def pixels(dataset: DatasetReader) -> np.ndarray:
        return read_open(dataset, asset, rows, cols, name=name, limit=limit)

    part = f"rows {rows.start}:{rows.stop}, cols {cols.start}:{cols.stop}"
    return use_image(asset, pixels, part, retry=retry)


def read_open(
    dataset: DatasetReader,
    asset: Asset,
    rows: slice,
    cols: slice,
    *,
    name: Hashable | None,
    limit: int,
) -> np.ndarray:
    """Return a window of an open image, of shared blocks where it has a name.

    `name` is its `identity` from before it was opened, `limit` as in `read_shared`.
    """
    check_window(rows, cols, dataset.shape)
    index = asset.index or 1
    if name is not None:
        counts = read_shared(dataset, index, rows, cols, name=name, limit=limit)
        # A local file that was replaced meanwhile gives old and new blocks.
        if counts is not None and _still(asset, name):
            return counts
    return read_direct(dataset, index, rows, cols)


def _still(asset: Asset, name: Hashable) -> bool:
    """Return whether a local file is the one that has this identity.

    A remote one is not checked again: a window that GDAL reads may be as mixed.
    """
    return is_remote(asset.href) or identity(asset.href, timeout=0) == name


def read_header(asset: Asset, *, retry: Retry | None = None) -> Asset:
    """Return the asset with the shape, transform and CRS that its file has.

    Raises
    ------
    ReadError
        The header could not be read.
    GridError
        It contradicts what the asset already says.
    """

    def completed(dataset: DatasetReader) -> Asset:
        crs = dataset.crs and (_epsg(dataset.crs) or dataset.crs.to_wkt())
        return replace(
            asset,
            shape=tuple(dataset.shape),
            transform=tuple(dataset.transform)[:6],
            crs=asset.crs or crs,
        )

    return use_image(asset, completed, "header", retry=retry)


def use_image(
    asset: Asset,
    use: Callable[[DatasetReader], T],
    part: str,
    *,
    retry: Retry | None = None,
) -> T:
    """Return what `use` makes of the open image, trying again while that may help.

    `part` says what is read, for the error.
    """
    patience = retry or retry_in_use()
    href = _signed(asset)
    anew = asset.sign is not None

    def attempt(tries: int) -> T:
        nonlocal href, anew
        # Some servers refuse HEAD (URLs signed for GET): the later tries do without.
        method = "HEAD" if tries == 1 else "GET"
        outcome = _once(asset, href, use, patience, method=method)
        if not isinstance(outcome, OSError):
            return outcome
        found = diagnose(href, asset.driver, timeout=max(patience.connect, 1.0))
        if anew and found.status in {401, 403}:
            anew, href = False, _signed(asset, refused=href)
            return attempt(2)
        raise FaultError(found) from outcome

    def fail(problem: str, **where: object) -> ReadError:
        text = f"could not be read, {part}: {problem}"
        return asset.error(text, window=part, **where)

    return insist(attempt, fail, patience)


def _signed(asset: Asset, *, refused: str | None = None) -> str:
    """Return the address that is opened."""
    if asset.sign is None:
        return asset.href
    if asset.sign not in SIGNERS:
        raise asset.error(f"is to be signed by {asset.sign!r}, which is not known")
    try:
        return SIGNERS[asset.sign](asset.href, refused=refused)
    except SigningError as error:
        raise asset.error(
            f"could not be signed: {error}. Check the network, and try again"
        ) from error


def _once(
    asset: Asset,
    href: str,
    use: Callable[[DatasetReader], T],
    retry: Retry,
    *,
    method: str,
) -> T | OSError:
    """Return what `use` makes of the image at `href`, opened anew, or what GDAL said.

    `method` is the HTTP method that asks a server for the object's size.
    """
    import rasterio
    from rasterio.session import DummySession

    _prepare_process()
    options = {
        **OPTIONS,
        "CPL_VSIL_CURL_USE_HEAD": "YES" if method == "HEAD" else "NO",
        "GDAL_HTTP_CONNECTTIMEOUT": max(round(retry.connect), 1),
        "GDAL_HTTP_LOW_SPEED_TIME": max(round(retry.stall), 1),
    }
    try:
        with (
            rasterio.Env(session=DummySession(), **options),
            rasterio.open(gdal_name(href), driver=asset.driver) as dataset,
        ):
            _check_header(dataset, asset)
            return use(dataset)
    except (GridError, ReadError, IndexError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever GDAL and rasterio may raise
        # Returned, not raised: an error raised here would carry this one, and the
        # signature in its text, as its context.
        return OSError(redact(account(error, href)))


def check_window(rows: slice, cols: slice, shape: tuple[int, ...]) -> None:
    """Refuse a window that does not lie inside the image."""
    for name, window, size in (("rows", rows, shape[0]), ("cols", cols, shape[1])):
        inside = 0 <= window.start < window.stop <= size
        if not inside or window.step not in (None, 1):
            raise IndexError(f"{name} {window} are not a window of {size} pixels")


def _check_header(dataset: DatasetReader, asset: Asset) -> None:
    """Raise unless the file is the image that the asset describes."""
    if asset.index is None and dataset.count != 1:
        raise asset.error(f"holds {dataset.count} bands where one was expected")
    if asset.index is not None and not 1 <= asset.index <= dataset.count:
        raise asset.error(f"has {dataset.count} bands, none with index {asset.index}")
    dtype = np.dtype(dataset.dtypes[(asset.index or 1) - 1])
    if dtype.kind not in "iu":
        raise asset.error(f"holds {dtype} where integer counts were expected")
    if asset.shape is not None and tuple(dataset.shape) != tuple(asset.shape):
        raise _contradiction(asset, "shape", tuple(dataset.shape), asset.shape)
    found = tuple(dataset.transform)[:6]
    if asset.transform is not None and not _same_place(found, asset.transform):
        raise _contradiction(asset, "transform", found, asset.transform)
    code = _epsg(dataset.crs) if dataset.crs and asset.crs else None
    expected = (asset.crs or "").upper()
    if code is not None and expected.startswith("EPSG:") and code != expected:
        raise _contradiction(asset, "CRS", code, asset.crs)


def _same_place(found: tuple[float, ...], expected: tuple[float, ...]) -> bool:
    """Return whether two transforms agree within a millionth of a pixel."""
    return bool(np.allclose(found, expected, rtol=0, atol=1e-6 * abs(expected[0])))


def _contradiction(
    asset: Asset, what: str, found: object, expected: object
) -> GridError:
    return GridError(
        f"{asset.band} of {asset.item_id} has the {what} {found} in its file, but "
        f"{expected} in the catalogue ({asset.shown}). One of them is wrong; "
        "correct it.",
        item=asset.item_id,
        band=asset.band,
        href=asset.shown,
    )


def _epsg(crs: CRS) -> str | None:
    """Return a CRS as text with its EPSG code, None where it has none."""
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else None


class _NoTokens(logging.Filter):
    """Takes the queries out of URLs in log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass, redacted."""
        record.msg, record.args = redact(record.getMessage()), None
        return True


@functools.cache
def _prepare_process() -> None:
    """Bound GDAL's block cache and keep tokens out of rasterio's logs, once."""
    from rasterio.env import get_gdal_config, set_gdal_config

    if get_gdal_config("GDAL_CACHEMAX") > BLOCK_CACHE:
        set_gdal_config("GDAL_CACHEMAX", BLOCK_CACHE)
    # GDAL warns of each refused request with its whole URL.
    for name in ("_env", "_err", "_base", "_io", "_path", "env"):
        logging.getLogger(f"rasterio.{name}").addFilter(_NoTokens())
