"""One array of a Zarr product as a band, its chunks fetched whole or with an error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product as every
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from s2sr_xr.core.reflectance import Radiometry, decode
from s2sr_xr.core.token_parts import token_parts
from s2sr_xr.errors import ReadError, redact
from s2sr_xr.readers.eopf.keys import fetch, scheme
from s2sr_xr.readers.fetch.address import without_query
from s2sr_xr.readers.fetch.diagnosis import Diagnosis, account
from s2sr_xr.readers.fetch.retry import FaultError, Retry, insist
from s2sr_xr.readers.fetch.window import check_window

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import zarr

    from s2sr_xr.readers.eopf.metadata import Node

__all__ = ["ZarrBand", "check_array", "strange_codecs"]

CODECS = frozenset(
    {"blosc", "bytes", "crc32c", "gzip", "lz4", "sharding_indexed", "shuffle"}
    | {"transpose", "zlib", "zstd"}
)
"""What may decode a chunk. Others are refused: some run code that the data hold."""

MOST_CHUNK = 2**30
"""Largest chunk that is decoded, in bytes. The largest of real products has 241 MB."""


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

    retry: Retry | None = None
    """How long to try again when a server fails; None: `retry_in_use`."""

    def __repr__(self) -> str:
        return f"ZarrBand({self.band} of {self.item_id}, {self.shown})"

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        # A signature in the query expires; the pixels behind it stay the same.
        return token_parts(
            "zarr-band",
            1,
            self.item_id,
            self.band,
            without_query(self.href),
            self.path,
            self.array,
            self.radiometry,
            self.missing,
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
        """Return a window as reflectance; see `Source.read`."""
        assert time in (0, -1)
        check_window(rows, cols, self.shape[1:])
        part = f"rows {rows.start}:{rows.stop}, cols {cols.start}:{cols.stop}"
        return decode(self.counts((rows, cols), f", {part}"), self.radiometry)

    def error(self, problem: str, **where: object) -> ReadError:
        """Return the error that says `problem` of this band."""
        return ReadError(
            f"{self.band} of {self.item_id} {problem} ({self.shown}).",
            item=self.item_id,
            band=self.band,
            href=self.shown,
            **where,
        )

    def counts(self, window: tuple[slice, ...], part: str = "") -> np.ndarray:
        """Return the counts of a window, trying again while that may help."""

        def fail(problem: str, **where: object) -> ReadError:
            return self.error(f"could not be read{part}: {problem}", **where)

        return insist(lambda _: self._counts(window), fail, self.retry)

    def _counts(self, window: tuple[slice, ...]) -> np.ndarray:
        """Return the counts of a window, from chunks fetched for it."""
        found = {key: self._chunk(key) for key in _keys(array_of(self.array), window)}
        there = {key: data for key, data in found.items() if data is not None}
        return _decoded(self.array, there, window, self.href)

    def _chunk(self, key: str) -> bytes | None:
        """Return a chunk; None where it is not there, and that means no data."""
        data = fetch(self.href, f"{self.path}/{key}", self.retry)
        if data is not None:
            return data
        name = "zarr.json" if '"zarr_format": 3' in self.array else ".zarray"
        if fetch(self.href, f"{self.path}/{name}", self.retry) is None:
            raise FaultError(
                Diagnosis(
                    text=f"chunk {key} is not there, and {name} is gone too",
                    remedy="The product was moved or taken away; search for it again",
                )
            )
        fill = array_of(self.array).fill_value
        if self.missing == "raise" or fill != self.radiometry.nodata:
            raise FaultError(
                Diagnosis(
                    text=f"chunk {key} is not there",
                    remedy="Fetch the product again; if its writer leaves out chunks "
                    'without data, open it with missing="nodata"',
                )
            )
        return None


def array_of(text: str, chunks: Mapping[str, bytes] | None = None) -> zarr.Array[Any]:
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
        return np.asarray(array_of(text, chunks)[window])
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a codec may raise
        why = redact(account(error, href))
        remote = scheme(href) != ""
        fault = Diagnosis(
            text=f"{' or '.join(chunks)} is cut, damaged, or not a chunk ({why})",
            remedy="Fetch the product again" if not remote else "Try again later",
            passing=remote,
        )
    raise FaultError(fault)


def check_array(source: ZarrBand, node: Node) -> None:
    """Raise unless an array is a plane of integers that is safe to decode."""
    facts = json.loads(node.array)
    if strange := strange_codecs(facts):
        raise source.error(f"is encoded with {', '.join(strange)}, not decoded here")
    try:
        array = array_of(node.array)
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


def strange_codecs(facts: Mapping[str, Any]) -> list[str]:
    """Return the names of what encodes an array and is not decoded here."""
    return sorted(set(_codecs(facts)) - CODECS)


def _codecs(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of all that encodes an array, of shards inside too."""
    found = [facts.get("compressor"), *(facts.get("filters") or ())]
    found += [*(facts.get("codecs") or ()), *(facts.get("index_codecs") or ())]
    for codec in found:
        if codec is not None:
            yield str(codec.get("id") or codec.get("name"))
            yield from _codecs(codec.get("configuration") or {})
