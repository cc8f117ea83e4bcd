"""The metadata documents of a Zarr store, v2 or v3, consolidated or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2sr_xr.errors import ReadError, redact
from s2sr_xr.readers.eopf.keys import fetch, scheme
from s2sr_xr.readers.fetch.address import gdal_name, without_query
from s2sr_xr.readers.fetch.retry import insist

__all__ = ["Documents", "Node", "documents_of"]


@dataclass(frozen=True, slots=True)
class Node:
    """An array: its own metadata as text, and its attributes."""

    array: str
    attrs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Documents:
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

    def node(self, path: str) -> Node | None:
        """Return an array, None where there is none."""
        facts = dict(self.get(_join(path, "zarr.json" if self.v3 else ".zarray")))
        if not facts or facts.get("node_type") == "group":
            return None
        if self.v3:
            facts["attributes"] = {}
        return Node(json.dumps(facts, sort_keys=True), self.attrs(path))


def documents_of(href: str) -> Documents:
    """Return the metadata of a store.

    Raises
    ------
    ReadError
        There is not a Zarr store, or its metadata could not be read.
    """
    if consolidated := _json(href, ".zmetadata"):
        return Documents(href, consolidated.get("metadata") or {}, v3=False)
    if root := _json(href, "zarr.json"):
        inside = (root.get("consolidated_metadata") or {}).get("metadata")
        if inside is None:
            return Documents(href, None, v3=True)
        known = {_join(path, "zarr.json"): facts for path, facts in inside.items()}
        return Documents(href, known | {"zarr.json": root}, v3=True)
    if _json(href, ".zgroup") or _json(href, ".zattrs"):
        return Documents(href, None, v3=False)
    raise _no_store(href)


def _json(href: str, key: str) -> dict[str, Any] | None:
    """Return a document of a store, None where there is none."""
    shown = f"{redact(without_query(href))}/{key}"

    def fail(problem: str, **where: object) -> ReadError:
        return ReadError(f"{shown} could not be read: {problem}.", href=shown, **where)

    data = insist(lambda _: fetch(href, key), fail)
    if data is None:
        return None
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ReadError(
            f"{shown} is not JSON: {error}. Fetch the product again.", href=shown
        ) from error
    if not isinstance(found, dict):
        raise ReadError(f"{shown} holds no metadata of Zarr.", href=shown)
    return found


def _no_store(href: str) -> ReadError:
    """Return the error that says what lies there instead of a Zarr store."""
    shown = redact(without_query(href))
    place = Path(gdal_name(href)) if not scheme(href) else None
    if place is not None and not place.exists():
        return ReadError(f"{shown} does not exist. Check the path and its disk.")
    why = "there is no .zmetadata, zarr.json, .zgroup or .zattrs"
    remedy = "Give the root of an EOPF product, NAME.zarr"
    if place is not None and place.is_file():
        why, remedy = "it is a file", f"{remedy}; of a zip, unpack it"
    elif place is not None and (place / "manifest.safe").exists():
        why, remedy = "it is a SAFE product", "s2sr_xr.open_safe opens it"
    return ReadError(f"{shown} is not a Zarr store: {why}. {remedy}.", href=shown)


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
