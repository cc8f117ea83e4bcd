"""An EOPF product, ESA's Zarr of Sentinel-2, to one lazy tree: native pixels, decoded.

Zarr itself reads a chunk that is not there as its fill value: a product that is cut,
half copied, or taken away during a long job would read as no data. So the keys that a
window needs are fetched here, each of them whole or with an error, and zarr-python only
decodes them; it never sees the store.

Cost: a window decodes every chunk that it meets, 0.1 s for one of 5490 x 5490 (60 MB)
from a local disk. Dask chunks of 2196 decode the 10 m chunks of L2A nine times and its
one chunk of 20 m 25 times; ``chunks=5490`` does so once and four times. For L1C, with
chunks of 1830, take ``chunks=1830`` or a multiple.

References
----------
EOPF-Explorer/data-model, tests/_test_data/s2_examples: groups, attributes and chunks.
EOPF-Sample-Service/xarray-eopf#88: products whose arrays name no CRS.
"""

from __future__ import annotations

import json
import random
import time as clock
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product as every
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast
from urllib.parse import urlsplit

import numpy as np
import xarray as xr

from s2sr_xr.bands import BANDS, group
from s2sr_xr.errors import GridError, ReadError, redact
from s2sr_xr.grid import Grid, grid_of
from s2sr_xr.radiometry import (
    Radiometry,
    _number,
    baseline_of,
    declared,
    decode,
    override,
)
from s2sr_xr.readers._diagnosis import (
    Diagnosis,
    _of_refusal,
    _probe,
    account,
    gdal_name,
    is_remote,
    refusal,
    without_query,
)
from s2sr_xr.readers._items import _item, all_items
from s2sr_xr.readers._tree import (
    _attrs_of,
    _check_chunks,
    _check_nesting,
    _crs,
    _Image,
    _is_native,
    _wanted,
    _wkt,
)
from s2sr_xr.readers.source import as_variable
from s2sr_xr.readers.window import RETRY, Retry, _check_window

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    import pystac
    import zarr

    from s2sr_xr.readers._items import Item

__all__ = ["ZarrBand", "open_eopf"]

T = TypeVar("T")

REFLECTANCE = "measurements/reflectance"
"""The group that holds ``r10m``, ``r20m`` and ``r60m``."""

SCHEMES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Object stores that are read through fsspec, with the credentials that it finds."""

CODECS = frozenset(
    {"blosc", "bytes", "crc32c", "gzip", "lz4", "sharding_indexed", "shuffle"}
    | {"transpose", "zlib", "zstd"}
)
"""What may decode a chunk. Others are refused: some run code that the data hold."""

MOST_CHUNK = 2**30
"""Largest chunk that is decoded, in bytes. The largest of real products has 241 MB."""


def open_eopf(
    href: str | os.PathLike[str] | pystac.Item | Mapping[str, Any],
    *,
    bands: Sequence[str] | None = None,
    chunks: int | None = 2196,
    radiometry: str | Mapping[str, float] = "auto",
    missing: Literal["raise", "nodata"] = "raise",
) -> xr.DataTree:
    """Return an EOPF Zarr product of Sentinel-2, L1C or L2A, as a lazy tree.

    Parameters
    ----------
    href
        Local path or http(s) URL of the product, or an object store's (``s3://``,
        ``gs://``, ``az://``: with the packages that fsspec needs for them). Or its STAC
        item: a pystac Item, a dict, or the path or URL of its JSON.
    bands
        ESA's identifiers or STAC's common names. Default: all native bands of the
        product, but not B10, which no model takes. Resampled copies are never read.
    chunks
        Side of a Dask chunk in 10 m pixels, a multiple of 6; 20 m and 60 m bands get
        the same ground. None for lazily indexed variables without Dask.
    radiometry
        ``"auto"`` takes each array's ``scale_factor`` and ``add_offset``, and where
        they are not there the processing baseline. A mapping such as
        ``{"offset": -1000}`` (counts added before the scale, which is 1e-4 unless
        ``"scale"`` is given) says it for all bands.
    missing
        What a Zarr chunk that is not there means. Writers may leave out chunks without
        data, but a product that is incomplete looks the same: ``"raise"`` stops;
        ``"nodata"`` reads NaN, as long as the product itself is still there.

    Returns
    -------
    xr.DataTree
        As `open_stac` returns it, with one time step: groups ``r10m``, ``r20m``,
        ``r60m``, those that have bands, with one variable a band: float32 reflectance,
        1.0 = full, negative values kept, NaN for no data, dims ``(time, y, x)``.
        Attributes say how counts were decoded.

    Raises
    ------
    ReadError
        There is no such product, or its metadata could not be read or are not safe to
        use. Pixels are read, and may fail, when they are computed.
    MissingBandError
        A band is not there at its native pixel.
    GridError
        Arrays do not say where they lie, have other pixels than their band, or do not
        nest.
    RadiometryError
        Neither attributes nor a baseline say what the counts mean.
    ChunkError
        Chunks do not hold whole 60 m pixels.
    """
    _check_chunks(chunks)
    meaning = override(radiometry)
    if missing not in ("raise", "nodata"):
        raise ReadError(f'missing={missing!r}: give "raise" or "nodata".')
    product = _product(href)
    names = _wanted([product.item], bands)
    layers = {band: _layer(product, band, meaning, missing) for band in names}
    # Only the band and the grid of an image are asked for here.
    _check_nesting(product.item, cast("list[_Image]", list(layers.values())))
    groups = {
        group(res): _dataset(product.item, [layers[b] for b in here], chunks)
        for res in (10, 20, 60)
        if (here := [b for b in names if BANDS[b].native == res])
    }
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = _attrs_of([product.item]) | {"source": "EOPF Zarr"}
    return tree


# --- keys of a store ------------------------------------------------------------------


class _FaultError(OSError):
    """Why a key or a chunk could not be had, without secrets."""

    def __init__(self, found: Diagnosis) -> None:
        super().__init__(found.text)
        self.found = found


def _fetch(href: str, key: str, retry: Retry = RETRY) -> bytes | None:
    """Return the whole value of a key of a store, None where there is none.

    Raises
    ------
    _FaultError
        It is there, or may be, and could not be read.
    """
    if is_remote(href):
        found = _fetch_http(href, key, retry)
    elif _scheme(href) in SCHEMES:
        found = _fetch_fsspec(href, key)
    else:
        found = _fetch_file(href, key)
    if isinstance(found, Diagnosis):
        # Raised here: an error from inside would carry the request, and its signature.
        raise _FaultError(replace(found, text=f"{key}: {found.text}"))
    return found


def _fetch_file(href: str, key: str) -> bytes | Diagnosis | None:
    try:
        return Path(gdal_name(href), key).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        return Diagnosis(text=why, remedy="Check the file and its disk")


def _fetch_http(href: str, key: str, retry: Retry) -> bytes | Diagnosis | None:
    import urllib.error
    import urllib.request

    parts = urlsplit(href)
    url = parts._replace(path=f"{parts.path.rstrip('/')}/{key}").geturl()
    request = _probe(url)
    request.remove_header("Range")
    try:
        # http(s) only: `_check_href` has been asked before.
        with urllib.request.urlopen(request, timeout=retry.stall) as answer:  # noqa: S310
            # Without an amount, a body that is shorter than promised is an error.
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in {404, 410}:
            return None
        return _of_refusal(error.code, error.headers.get("Retry-After", ""))
    except Exception as error:  # noqa: BLE001 - sockets, TLS, bodies that are cut
        return Diagnosis(
            text=f"the transfer broke ({redact(account(error, url))})",
            remedy="Check the network, and try again",
            passing=True,
        )


def _fetch_fsspec(href: str, key: str) -> bytes | Diagnosis | None:
    try:
        import fsspec  # type: ignore[import-untyped]

        fs, root = fsspec.core.url_to_fs(href)
        return bytes(fs.cat_file(f"{root.rstrip('/')}/{key}"))
    except FileNotFoundError:
        return None
    except ImportError as error:
        return Diagnosis(text=str(error), remedy="Install it, or download the product")
    except Exception as error:  # noqa: BLE001 - whatever a file system may raise
        return Diagnosis(
            text=redact(account(error, href)),
            remedy="Check the credentials and the network, and try again",
            passing=not isinstance(error, PermissionError),
        )


def _scheme(href: str) -> str:
    head, mark, _ = href.partition("://")
    return head.lower() if mark else ""


def _insist(use: Callable[[], T], fail: Callable[[str], ReadError], retry: Retry) -> T:
    """Return what `use` gives, trying again while that may help."""
    fault: _FaultError | None = None
    begun = clock.monotonic()
    for tries in range(1, retry.tries + 1):
        outcome = _once(use)
        if not isinstance(outcome, _FaultError):
            return outcome
        fault, found = outcome, outcome.found
        # Half to one and a half: workers that fail together do not return together.
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - spread, not secrecy
        wait = max(retry.wait * 2 ** (tries - 1) * jitter, found.wait)
        late = clock.monotonic() - begun + wait > retry.total
        if not found.passing or tries == retry.tries or late:
            break
        clock.sleep(wait)
    seconds = clock.monotonic() - begun
    spent = f"{tries} tries in {seconds:.1f} s, last: " if tries > 1 else ""
    raise fail(f"{spent}{found.text}. {found.remedy}") from fault


def _once(use: Callable[[], T]) -> T | _FaultError:
    try:
        return use()
    except _FaultError as fault:
        return fault


# --- a band ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ZarrBand:
    """One array of a product, decoded to reflectance as it is read."""

    item_id: str
    """The product that it belongs to."""

    band: str
    """ESA's identifier of the band."""

    href: str
    """Root of the product: local path, http(s) URL with its query, or fsspec URL."""

    path: str
    """The array inside the product."""

    array: str
    """The array's own metadata, as the JSON of Zarr v2 or v3."""

    radiometry: Radiometry
    """What the counts mean."""

    missing: Literal["raise", "nodata"] = "raise"
    """What a chunk that is not there means."""

    retry: Retry = RETRY
    """How long to try again when a server fails."""

    def __repr__(self) -> str:
        return f"ZarrBand({self.band} of {self.item_id}, {self.shown})"

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        # A signature in the query expires; the pixels behind it stay the same.
        meaning = self.radiometry
        return (
            type(self).__name__,
            self.item_id,
            self.band,
            without_query(self.href),
            self.path,
            self.array,
            (meaning.scale, meaning.offset, meaning.nodata, self.missing),
        )

    @property
    def shown(self) -> str:
        """The array's address for people: without query, user and password."""
        return f"{redact(without_query(self.href))}/{self.path}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """One time step, rows and columns."""
        rows, cols = json.loads(self.array)["shape"]
        return 1, rows, cols

    def at(self, time: int) -> Self:
        """Return the source of the one time step."""
        assert time in (0, -1)
        return self

    def read(self, time: int, rows: slice, cols: slice) -> np.ndarray:
        """Return a window as reflectance.

        Parameters
        ----------
        time
            Index of the one time step.
        rows, cols
            Pixels inside the image, not empty, step 1.

        Returns
        -------
        np.ndarray
            float32 of shape ``(rows, cols)``, 1.0 = full reflectance, negative values
            kept, NaN at the no-data count.

        Raises
        ------
        ReadError
            A chunk could not be read or decoded, or is not there.
        """
        assert time in (0, -1)
        _check_window(rows, cols, self.shape[1:])
        part = f"rows {rows.start}:{rows.stop}, cols {cols.start}:{cols.stop}"
        counts = _insist(
            lambda: self._counts((rows, cols)),
            lambda problem: self.error(f"could not be read, {part}: {problem}"),
            self.retry,
        )
        return decode(counts, self.radiometry)

    def error(self, problem: str) -> ReadError:
        """Return the error that says `problem` of this band."""
        return ReadError(
            f"{self.band} of {self.item_id} {problem} ({self.shown}).",
            item=self.item_id,
            band=self.band,
            href=self.shown,
        )

    def _counts(self, window: tuple[slice, ...]) -> np.ndarray:
        """Return the counts of a window, from chunks fetched for it."""
        found = {key: self._chunk(key) for key in _keys(_array(self.array), window)}
        there = {key: data for key, data in found.items() if data is not None}
        return _decoded(self.array, there, window, self.href)

    def _chunk(self, key: str) -> bytes | None:
        """Return a chunk; None where it is not there, and that means no data."""
        data = _fetch(self.href, f"{self.path}/{key}", self.retry)
        if data is not None:
            return data
        name = "zarr.json" if '"zarr_format": 3' in self.array else ".zarray"
        if _fetch(self.href, f"{self.path}/{name}", self.retry) is None:
            raise _FaultError(
                Diagnosis(
                    text=f"chunk {key} is not there, and {name} is gone too",
                    remedy="The product was moved or taken away; search for it again",
                )
            )
        fill = _array(self.array).fill_value
        if self.missing == "raise" or fill != self.radiometry.nodata:
            raise _FaultError(
                Diagnosis(
                    text=f"chunk {key} is not there",
                    remedy="Fetch the product again; if its writer leaves out chunks "
                    'without data, open it with missing="nodata"',
                )
            )
        return None


def _array(text: str, chunks: Mapping[str, bytes] | None = None) -> zarr.Array[Any]:
    """Return the array that metadata describe, with the chunks that are given."""
    import zarr
    from zarr.buffer import cpu
    from zarr.storage import MemoryStore, StorePath

    held: dict[str, Any] = {
        key: cpu.Buffer.from_bytes(data) for key, data in (chunks or {}).items()
    }
    return zarr.Array.from_dict(StorePath(MemoryStore(held), ""), json.loads(text))


def _keys(array: zarr.Array[Any], window: Sequence[slice]) -> Iterator[str]:
    """Yield the keys of the chunks (of Zarr v3: of the shards) that a window meets."""
    sides = array.shards or array.chunks
    spans = [
        range(w.start // side, (w.stop - 1) // side + 1)
        for w, side in zip(window, sides, strict=True)
    ]
    for place in every(*spans):
        yield array.metadata.encode_chunk_key(place)


def _decoded(
    text: str, chunks: Mapping[str, bytes], window: tuple[slice, ...], href: str
) -> np.ndarray:
    """Return a window of an array from its chunks."""
    try:
        return np.asarray(_array(text, chunks)[window])
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a codec may raise
        why = redact(account(error, href))
        remote = _scheme(href) != ""
        fault = Diagnosis(
            text=f"{' or '.join(chunks)} is cut, damaged, or no chunk ({why})",
            remedy="Fetch the product again" if not remote else "Try again later",
            passing=remote,
        )
    raise _FaultError(fault)


# --- metadata -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Node:
    """An array: its own metadata as text, and its attributes."""

    array: str
    attrs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Documents:
    """The metadata documents of a store, all at once where they are consolidated."""

    href: str
    known: Mapping[str, Any] | None
    v3: bool

    def get(self, key: str) -> Mapping[str, Any]:
        """Return a document, empty where there is none."""
        if self.known is None:
            return _json(self.href, key) or {}
        found = self.known.get(key)
        return found if isinstance(found, Mapping) else {}

    def attrs(self, path: str) -> Mapping[str, Any]:
        """Return the attributes of a group or an array, empty where there are none."""
        if not self.v3:
            return self.get(_join(path, ".zattrs"))
        return self.get(_join(path, "zarr.json")).get("attributes") or {}

    def node(self, path: str) -> _Node | None:
        """Return an array, None where there is none."""
        facts = dict(self.get(_join(path, "zarr.json" if self.v3 else ".zarray")))
        if not facts or facts.get("node_type") == "group":
            return None
        if self.v3:
            facts["attributes"] = {}
        return _Node(json.dumps(facts, sort_keys=True), self.attrs(path))


def _documents(href: str) -> _Documents:
    """Return the metadata of a store.

    Raises
    ------
    ReadError
        There is no Zarr store, or its metadata could not be read.
    """
    if consolidated := _json(href, ".zmetadata"):
        return _Documents(href, consolidated.get("metadata") or {}, v3=False)
    if root := _json(href, "zarr.json"):
        inside = (root.get("consolidated_metadata") or {}).get("metadata")
        if inside is None:
            return _Documents(href, None, v3=True)
        known = {_join(path, "zarr.json"): facts for path, facts in inside.items()}
        return _Documents(href, known | {"zarr.json": root}, v3=True)
    if _json(href, ".zgroup") or _json(href, ".zattrs"):
        return _Documents(href, None, v3=False)
    raise _no_store(href)


def _json(href: str, key: str) -> dict[str, Any] | None:
    """Return a document of a store, None where there is none."""
    shown = f"{redact(without_query(href))}/{key}"

    def fail(problem: str) -> ReadError:
        return ReadError(f"{shown} could not be read: {problem}.", href=shown)

    data = _insist(lambda: _fetch(href, key), fail, RETRY)
    if data is None:
        return None
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ReadError(
            f"{shown} is no JSON: {error}. Fetch the product again.", href=shown
        ) from error
    if not isinstance(found, dict):
        raise ReadError(f"{shown} holds no metadata of Zarr.", href=shown)
    return found


def _no_store(href: str) -> ReadError:
    """Return the error that says what lies there instead of a Zarr store."""
    shown = redact(without_query(href))
    place = Path(gdal_name(href)) if not _scheme(href) else None
    if place is not None and not place.exists():
        return ReadError(f"{shown} does not exist. Check the path and its disk.")
    why = "there is no .zmetadata, zarr.json, .zgroup or .zattrs"
    remedy = "Give the root of an EOPF product, NAME.zarr"
    if place is not None and place.is_file():
        why, remedy = "it is a file", f"{remedy}; of a zip, unpack it"
    elif place is not None and (place / "manifest.safe").exists():
        why, remedy = "it is a SAFE product", "s2sr_xr.open_safe opens it"
    return ReadError(f"{shown} is no Zarr store: {why}. {remedy}.", href=shown)


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


# --- the product ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    """A product: its metadata, its native bands, and its facts under STAC's names."""

    documents: _Documents
    root: Mapping[str, Any]
    nodes: Mapping[str, _Node]
    item: Item


@dataclass(frozen=True, slots=True)
class _Layer:
    """One band of the product: where its pixels come from, and where they lie."""

    asset: ZarrBand
    grid: Grid


def _product(given: object) -> _Product:
    """Return the product that the user means, its metadata read."""
    href, catalogue = _address(given)
    documents = _documents(href)
    root = documents.attrs("")
    found = {band: documents.node(_path(band)) for band in BANDS}
    nodes = {band: node for band, node in found.items() if node is not None}
    if not nodes:
        raise _foreign(href, root)
    item = _facts(href, root, nodes, catalogue)
    return _Product(documents=documents, root=root, nodes=nodes, item=item)


def _path(band: str) -> str:
    """Return where a product has a band at its native pixel.

    >>> _path("B8A")
    'measurements/reflectance/r20m/b8a'
    """
    return f"{REFLECTANCE}/{group(BANDS[band].native)}/{band.lower()}"


def _address(given: Any) -> tuple[str, Mapping[str, Any]]:  # noqa: ANN401 - see open_eopf
    """Return the address of a product, and what its STAC item says of it."""
    is_item = hasattr(given, "to_dict") or isinstance(given, Mapping)
    if not is_item and not without_query(str(given)).endswith(".json"):
        href = str(given)
        _check_href(href, href)
        return href.rstrip("/") or href, {}
    items = all_items([given])
    if len(items) > 1:
        raise ReadError(f"{len(items)} items were given; open one product at a time.")
    (item,) = items
    assets = item.facts["assets"]
    if "product" not in assets:
        raise ReadError(
            f"Item {item.id} has no asset 'product', as items of EOPF have (it has "
            f"{', '.join(list(assets)[:12])}). s2sr_xr.open_stac opens other items.",
            item=item.id,
        )
    href = str(assets["product"].get("href", ""))
    _check_href(href, f"The product of {item.id}")
    if _scheme(href) not in SCHEMES:
        href = item.absolute("product", href)
    return href.rstrip("/"), item.properties


def _check_href(href: str, what: str) -> None:
    """Raise unless an address is one that is read here."""
    problem = None if _scheme(href) in SCHEMES else refusal(href)
    if problem is None and _scheme(href) and "::" in href:
        problem = "chains addresses; give that of the product alone"
    if problem:
        raise ReadError(f"{redact(without_query(what))} {problem}.")


def _foreign(href: str, root: Mapping[str, Any]) -> ReadError:
    """Return the error that says what a Zarr store is instead of a product."""
    shown = redact(without_query(href))
    if "s2sr:version" in root:
        return ReadError(f"{shown} is a result; s2sr_xr.open_result opens it.")
    kind = _discovery(root).get("product:type") or "no type"
    return ReadError(
        f"{shown} has no native band of Sentinel-2 under {REFLECTANCE}, and its "
        f"metadata say {kind}. Give the root of an EOPF product of L1C or L2A.",
        href=shown,
    )


def _discovery(root: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties that a product says for STAC; some say null as text."""
    said = (root.get("stac_discovery") or {}).get("properties") or {}
    return {k: v for k, v in said.items() if v not in (None, "", "null")}


def _facts(
    href: str,
    root: Mapping[str, Any],
    nodes: Mapping[str, _Node],
    catalogue: Mapping[str, Any],
) -> Item:
    """Return the product under the names that STAC has for it."""
    own = _discovery(root)
    if start := own.get("start_datetime"):
        # The same by address and by item: an item's datetime may be another moment.
        own.setdefault("datetime", start)
    properties = {**catalogue, **own}
    baseline = own.get("eopf:baseline") or properties.get("processing:version")
    if baseline:
        properties["s2:processing_baseline"] = str(baseline)
    name = str((root.get("stac_discovery") or {}).get("id") or Path(href).name)
    facts = {
        "id": without_query(name).removesuffix(".SAFE").removesuffix(".zarr"),
        "properties": properties or {"datetime": None},
        "assets": {band.lower(): {} for band in nodes},
    }
    return _item(facts, href)


# --- bands ----------------------------------------------------------------------------


def _layer(
    product: _Product,
    band: str,
    meaning: Radiometry | None,
    missing: Literal["raise", "nodata"],
) -> _Layer:
    """Return one band of a product, its metadata checked."""
    node, item = product.nodes[band], product.item
    source = ZarrBand(
        item_id=item.id,
        band=band,
        href=product.documents.href,
        path=_path(band),
        array=node.array,
        radiometry=_radiometry(item, band, node, meaning),
        missing=missing,
    )
    _check_array(source, node)
    return _Layer(source, _grid(product, source, node))


def _radiometry(
    item: Item, band: str, node: _Node, meaning: Radiometry | None
) -> Radiometry:
    """Return what the counts of an array mean."""
    attrs = {**(node.attrs.get("_eopf_attrs") or {}), **node.attrs}
    fill = json.loads(node.array).get("fill_value")
    nodata = _number(attrs.get("_FillValue", attrs.get("fill_value", fill)))
    code = int(nodata) if nodata is not None and nodata.is_integer() else 0
    if meaning is not None:
        return replace(meaning, nodata=code)
    scale, offset = (_number(attrs.get(k)) for k in ("scale_factor", "add_offset"))
    if scale is None or offset is None:
        # A scale alone does not say whether the offset is there, as in STAC items.
        return replace(declared(item.facts, band, band.lower()), nodata=code)
    return Radiometry(
        scale=scale,
        # Whole counts: -0.1 / 1e-4 is not quite -1000.
        offset=float(round(offset / scale)) if scale else 0.0,
        nodata=code,
        source="CF attrs",
    )


def _check_array(source: ZarrBand, node: _Node) -> None:
    """Raise unless an array is a plane of integers that is safe to decode."""
    facts = json.loads(node.array)
    if strange := sorted(set(_codecs(facts)) - CODECS):
        raise source.error(f"is encoded with {', '.join(strange)}, not decoded here")
    try:
        array = _array(node.array)
    except Exception as error:
        raise source.error(f"has metadata that are not Zarr's: {error}") from error
    dims = facts.get("dimension_names") or node.attrs.get("_ARRAY_DIMENSIONS")
    if array.ndim != 2 or list(dims or ("y", "x")) != ["y", "x"]:
        raise source.error(f"has the dimensions {dims or array.shape}, not (y, x)")
    if array.dtype.kind not in "iu":
        raise source.error(f"holds {array.dtype} where integer counts were expected")
    sides = array.shards or array.chunks
    if sides[0] * sides[1] * array.dtype.itemsize > MOST_CHUNK:
        raise source.error(f"has chunks of {sides}, more than {MOST_CHUNK} bytes")


def _codecs(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of all that encodes an array, of shards inside too."""
    found = [facts.get("compressor"), *(facts.get("filters") or ())]
    found += [*(facts.get("codecs") or ()), *(facts.get("index_codecs") or ())]
    for codec in found:
        if codec is not None:
            yield str(codec.get("id") or codec.get("name"))
            yield from _codecs(codec.get("configuration") or {})


def _grid(product: _Product, source: ZarrBand, node: _Node) -> Grid:
    """Return where a band lies: from its attributes, else from its coordinates."""
    shape = source.shape[1:]
    crs = _wkt(_crs_of(product, source, node))
    said = node.attrs.get("proj:transform")
    if said:
        transform = tuple(float(c) for c in said[:6])
        res, x_edge, y_edge = transform[0], transform[2], transform[5]
        grid = Grid(crs=crs, x_edge=x_edge, y_edge=y_edge, res=res, shape=shape)
    else:
        folder = source.path.rpartition("/")[0]
        coords = {d: _coordinate(product, source, f"{folder}/{d}") for d in ("x", "y")}
        grid = grid_of(xr.Dataset(coords=coords, attrs={"crs": crs}))
        transform = grid.transform
    if not _is_native(source.band, transform):
        raise _wrong(
            source,
            f"has the transform {transform}; its native pixel is "
            f"{BANDS[source.band].native} m, north up",
        )
    told = node.attrs.get("proj:shape") or shape
    if tuple(told) != shape or grid.shape != shape:
        raise _wrong(source, f"has {shape} pixels, but says {tuple(told)}")
    return grid


def _coordinate(product: _Product, like: ZarrBand, path: str) -> np.ndarray:
    """Return the pixel centres along a side of a band."""
    node = product.documents.node(path)
    if node is None:
        raise _wrong(like, f"has no proj:transform, and there is no {path}")
    plain = Radiometry(offset=0, source="coordinates")
    source = replace(like, path=path, array=node.array, radiometry=plain)
    facts = json.loads(node.array)
    if set(_codecs(facts)) - CODECS:
        raise source.error("is encoded in a way that is not decoded here")
    (size,) = facts["shape"]
    return _insist(
        lambda: source._counts((slice(0, size),)),  # noqa: SLF001 - its own module
        lambda problem: source.error(f"could not be read: {problem}"),
        source.retry,
    )


def _crs_of(product: _Product, source: ZarrBand, node: _Node) -> str:
    """Return the CRS, from the first of the places that products keep it in."""
    folder = source.path.rpartition("/")[0]
    other = product.root.get("other_metadata") or {}
    code = {str(k).lower(): v for k, v in other.items()}.get("horizontal_crs_code")
    found = (
        _crs(node.attrs)
        or _crs(product.documents.attrs(folder))
        or code
        or _crs(product.item.properties)
        or product.documents.attrs(f"{folder}/spatial_ref").get("crs_wkt")
    )
    if not found:
        raise _wrong(source, "has no CRS, nor has its product")
    return str(found)


def _wrong(source: ZarrBand, problem: str) -> GridError:
    return GridError(
        f"{source.band} of {source.item_id} {problem} ({source.shown}). Use the "
        "product as ESA distributes it.",
        item=source.item_id,
        band=source.band,
        href=source.shown,
    )


def _dataset(item: Item, layers: Sequence[_Layer], chunks: int | None) -> xr.Dataset:
    """Return the bands of one pixel size."""
    grid = layers[0].grid
    chunk = None if chunks is None else chunks * 10 // int(grid.res)
    coords = {
        "time": ("time", np.array([item.time], "datetime64[ns]")),
        # Objects: fixed-width text has no stable form in Zarr.
        "item_id": ("time", np.array([item.id], object)),
        "baseline": ("time", np.array([baseline_of(item.facts)[0]], object)),
    }
    variables = {i.asset.band: _variable(i.asset, chunk) for i in layers}
    return xr.Dataset(variables, coords | grid.coords())


def _variable(source: ZarrBand, chunk: int | None) -> xr.Variable:
    band = BANDS[source.band]
    attrs = {
        "long_name": f"reflectance in {band.name}, {band.wavelength:g} nm",
        "units": "1",
        "wavelength": band.wavelength,
        "radiometry": str(source.radiometry),
    }
    variable = as_variable(source, chunk, attrs)
    variable.encoding["grid_mapping"] = "spatial_ref"
    return variable
