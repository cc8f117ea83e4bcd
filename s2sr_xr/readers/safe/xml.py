"""The XML of a product, parsed within bounds of size and depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from s2sr_xr.errors import ReadError

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

__all__ = [
    "MOST_BYTES",
    "MOST_ELEMENTS",
    "Facts",
    "child",
    "first",
    "number_of",
    "pairs",
    "parse",
]

MOST_BYTES = 8 * 2**20
"""Largest metadata file that is parsed. Real ones have up to 0.7 MB."""


MOST_ELEMENTS = 200_000
"""Real files have up to 8 000."""


def parse(data: bytes, name: str) -> Element:
    """Return the tree of a metadata file, its tags without namespaces.

    Parameters
    ----------
    data
        The whole file.
    name
        What errors call it.

    Raises
    ------
    ReadError
        The file is malformed, too large, or declares a DOCTYPE.
    """
    if len(data) > MOST_BYTES:
        raise ReadError(
            f"{name} has more than {MOST_BYTES} bytes: not Sentinel-2 metadata."
        )
    builder = TreeBuilder()
    parser = expat.ParserCreate(namespace_separator="}")
    left = MOST_ELEMENTS

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ReadError(f"{name} has more than {MOST_ELEMENTS} elements.")
        builder.start(_local(tag), attributes)

    def refuse(*_: object) -> NoReturn:
        raise ReadError(
            f"{name}, line {parser.CurrentLineNumber}, declares a DOCTYPE, which may "
            "hold entities; Sentinel-2 metadata have none. Fetch the product again."
        )

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda tag: builder.end(_local(tag))
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        line = getattr(error, "lineno", parser.CurrentLineNumber)
        raise ReadError(
            f"{name} is damaged in line {line}: {error}. Fetch the product again.",
            file=name,
            line=line,
        ) from error
    return builder.close()


@dataclass(frozen=True, slots=True)
class Facts:
    """The first element of a name that says something, anywhere in the tree."""

    root: Element
    name: str

    def text(self, *tags: str) -> str:
        """Return the text of the first of `tags` that has any, else nothing."""
        for tag in tags:
            for element in self.root.iter(tag):
                if said := (element.text or "").strip():
                    return said
        return ""

    def needed(self, *tags: str) -> str:
        """Return a text that has to be there."""
        if said := self.text(*tags):
            return said
        raise ReadError(
            f"{self.name} has no {' or '.join(tags)}. Fetch the product again."
        )

    def number(self, *tags: str) -> float:
        """Return a positive number that has to be there."""
        text = self.needed(*tags)
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < np.inf:
            raise ReadError(
                f"{self.name}: {tags[0]} is {text!r}, not a positive number."
            )
        return value

    def whole(self, tag: str) -> int:
        """Return a whole number that has to be there."""
        text = self.text(tag)
        try:
            return int(text)
        except ValueError as error:
            raise ReadError(
                f"{self.name}: {tag} is {text!r}, not a whole number. Fetch the "
                "product again."
            ) from error

    def attribute(self, tag: str, key: str) -> str:
        """Return an attribute of the first element of a name, else nothing."""
        element = self.root.find(f".//{tag}")
        return "" if element is None else element.get(key, "")

    def time(self, *tags: str) -> np.datetime64 | None:
        """Return a moment in UTC."""
        text = self.text(*tags)
        if not text:
            return None
        try:
            return np.datetime64(text.removesuffix("Z"), "ns")
        except ValueError as error:
            raise ReadError(
                f"{self.name}: {tags[0]} is {text!r}, not a moment in UTC."
            ) from error


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def first(pattern: re.Pattern[str], text: str) -> str:
    """Return the first group of a pattern that a text matches, or nothing."""
    found = pattern.fullmatch(text)
    return found[1] if found else ""


def number_of(element: Element, name: str) -> float:
    """Return the number that an element holds."""
    text = (element.text or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ReadError(f"{name}: {element.tag} is {text!r}, not a finite number.")
    return value


def child(element: Element, tag: str, name: str) -> float:
    """Return the number in a child that has to be there."""
    found = element.find(tag)
    if found is None:
        raise ReadError(f"{name}: {element.tag} has no {tag}.")
    return number_of(found, name)


def pairs(root: Element, parent: str, stem: str) -> Iterator[tuple[str, int]]:
    """Yield names and codes of a list of ``<stem>_TEXT`` and ``<stem>_INDEX``."""
    for element in root.iter(parent):
        text = (element.findtext(f"{stem}_TEXT") or "").strip()
        code = (element.findtext(f"{stem}_INDEX") or "").strip()
        if text and code.isdecimal():
            yield text, int(code)
