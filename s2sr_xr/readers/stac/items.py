"""STAC items from whatever holds them, as plain JSON with a few derived facts.

pystac rewrites items as it loads them, and warns about assets that are not read here;
so items stay JSON, and those that pystac made are turned back.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.core.radiometry import band_of
from s2sr_xr.errors import GridError, ReadError
from s2sr_xr.readers.fetch.address import is_remote, without_query
from s2sr_xr.readers.fetch.diagnosis import account
from s2sr_xr.readers.fetch.hrefs import path_of
from s2sr_xr.readers.item import Item, self_link

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Found", "all_items", "load", "parse_item", "sensing_time"]

TIMEOUT = 30
"""Seconds to wait for the JSON of an item at a URL."""

LARGEST = 64 * 2**20
"""Bytes of JSON at a URL: thousands of items."""

YEARS = range(1678, 2262)
"""Years that nanoseconds in 64 bits can count."""

_CLASSES = re.compile(r"(?i)scl(_20m)?(-jp2)?")


@dataclass(frozen=True, slots=True)
class Found:
    """The JSON of an item that was read already, for readers to take as an item."""

    facts: Mapping[str, Any]
    """The item as plain JSON."""

    at: str
    """Local path or URL of the file that held it."""


def all_items(items: object) -> list[Item]:
    """Return the items by time, each once.

    `items` is what `open_stac` takes.

    Raises
    ------
    GridError
        There is none, or one appears more than once.
    ReadError
        Something is not an item, or could not be loaded.
    """
    found = sorted(_flatten(items, ""), key=lambda item: (item.time, item.id))
    if not found:
        raise GridError(
            "There are no items: the search found nothing, or was consumed."
        )
    seen: set[str] = set()
    for item in found:
        if item.id in seen:
            raise GridError(f"Item {item.id} appears more than once; drop the others.")
        seen.add(item.id)
    return found


def _flatten(items: Any, found_at: str) -> Iterator[Item]:  # noqa: ANN401 - as open_stac
    """Yield every item in whatever holds items."""
    if isinstance(items, str | Path):
        yield from _flatten(*load(str(items)))
    elif isinstance(items, Found):
        yield from _flatten(items.facts, items.at)
    elif isinstance(items, Mapping) and items.get("type") == "FeatureCollection":
        yield from _flatten(items.get("features", ()), found_at)
    elif isinstance(items, Mapping):
        yield parse_item(items, found_at)
    elif hasattr(items, "get_items") and hasattr(items, "to_dict"):
        raise GridError(
            f"{type(items).__name__} is a catalogue; give the items of it that are "
            "meant: open_stac(catalogue.get_items(recursive=True))."
        )
    elif hasattr(items, "to_dict"):
        # Hrefs as they are: pystac would make them relative to the item's place.
        yield from _flatten(items.to_dict(transform_hrefs=False), found_at)
    elif (found := _found_by(items)) is not None:
        yield from _flatten(found, found_at)
    elif isinstance(items, Iterable):
        for item in items:
            yield from _flatten(item, found_at)
    else:
        raise GridError(
            f"{type(items).__name__} is not a STAC item. Give pystac items, their "
            "dicts, a search, or paths of their JSON files."
        )


def _found_by(search: Any) -> Any:  # noqa: ANN401 - pystac-client is no dependency
    """Return what a search found, None for what is not a search."""
    for name in ("items_as_dicts", "items", "item_collection"):
        if callable(method := getattr(search, name, None)):
            return method()
    return None


def load(place: str) -> tuple[Any, str]:
    """Return JSON from a path or URL, and where it was found."""
    if is_remote(place):
        return _download(place), place
    try:
        path = Path(path_of(place)).absolute()
        return json.loads(path.read_text(encoding="utf-8")), str(path)
    except (OSError, ValueError) as error:
        why = "not found" if isinstance(error, FileNotFoundError) else str(error)
        raise ReadError(f"No STAC item could be loaded from {place}: {why}.") from error


def _download(url: str) -> Any:  # noqa: ANN401 - JSON
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310 - http(s), as asked
            text = answer.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")  # noqa: TRY301
        return json.loads(text)
    except Exception as error:  # noqa: BLE001 - sockets, TLS, HTTP, JSON
        raise ReadError(
            f"No STAC item could be loaded from {without_query(url)}: "
            f"{account(error, url)}. Check the address, or give the item itself."
        ) from None


def parse_item(facts: Mapping[str, Any], found_at: str) -> Item:
    """Return what is needed of an item, checked."""
    if missing := [k for k in ("id", "properties", "assets") if not facts.get(k)]:
        raise ReadError(
            f"{facts.get('id', found_at or 'A mapping')!r} is not a STAC item: it has "
            f"no {' and no '.join(missing)}."
        )
    own = self_link(facts)
    # A file may have been moved, and the answer to a search lies nowhere.
    place = own if is_remote(found_at) and is_remote(own) else found_at or own
    bands: dict[str, tuple[str, ...]] = {}
    for key, asset in facts["assets"].items():
        if (band := band_of(key, asset)) is not None:
            bands[band] = (*bands.get(band, ()), key)
    classes = tuple(key for key in facts["assets"] if _CLASSES.fullmatch(key))
    return Item(facts, place, sensing_time(facts), bands, classes)


def sensing_time(facts: Mapping[str, Any]) -> np.datetime64:
    """Return when an item was sensed."""
    properties = facts["properties"]
    text = properties.get("datetime") or properties.get("start_datetime")
    try:
        moment = dt.datetime.fromisoformat(str(text))
        if moment.tzinfo is not None:
            moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
        if moment.year not in YEARS:
            raise ValueError(f"the year {moment.year}")  # noqa: TRY301
    except (ValueError, OverflowError) as error:
        raise ReadError(f"Item {facts['id']} has the datetime {text!r}.") from error
    return np.datetime64(moment, "ns")
