"""The files of a SAFE product: in a directory, or inside a zip that stays packed."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from s2sr_xr.errors import ReadError
from s2sr_xr.readers.fetch.address import is_remote, without_query, zip_member
from s2sr_xr.readers.safe.xml import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Archive", "Directory", "Files", "join", "locate", "other_kind"]

MOST_MEMBERS = 100_000
"""Largest number of files in an archive. Products of 15 granules have some 4 000."""

MOST_UNPACKED = 64 * 2**30
"""Largest sum of unpacked sizes, in bytes. A datatake of the old format has 8 GB."""

MOST_RATIO = 500
"""Largest ratio of unpacked to packed bytes. Images without data reach some 200."""

RATIO_COUNTS_FROM = 64 * 2**20
"""Unpacked bytes below which no ratio is large."""

Listing = tuple[tuple[str, ...], tuple[str, ...]]


class Files(Protocol):
    """Where the files of a product are. Names are relative, with slashes."""

    def list(self, folder: str) -> Listing:
        """Return the names of the files and of the folders in a folder, sorted."""

    def size(self, name: str) -> int:
        """Return the bytes of a file."""

    def read(self, name: str) -> bytes:
        """Return a small file; of a large one, more bytes than metadata have."""

    def href(self, name: str) -> str:
        """Return the address under which an image is read."""

    def show(self, name: str) -> str:
        """Return what errors call a file or folder."""


@dataclass(frozen=True, slots=True)
class Directory:
    """Files on disk."""

    root: Path

    def list(self, folder: str) -> Listing:
        """Return the names of the files and of the folders in a folder, sorted."""
        try:
            found = sorted((p.name, p.is_dir()) for p in (self.root / folder).iterdir())
        except OSError as error:
            raise ReadError(f"{self.show(folder)} could not be listed: {error}.") from (
                error
            )
        files = tuple(name for name, is_folder in found if not is_folder)
        return files, tuple(name for name, is_folder in found if is_folder)

    def size(self, name: str) -> int:
        """Return the bytes of a file, 0 for a link that leads nowhere."""
        try:
            return (self.root / name).stat().st_size
        except OSError:
            return 0

    def read(self, name: str) -> bytes:
        """Return a small file; of a large one, more bytes than metadata have."""
        try:
            with (self.root / name).open("rb") as file:
                return file.read(MOST_BYTES + 1)
        except OSError as error:
            raise ReadError(f"{self.show(name)} could not be read: {error}.") from error

    def href(self, name: str) -> str:
        """Return the address under which an image is read."""
        return str(self.root / name)

    def show(self, name: str) -> str:
        """Return what errors call a file or folder."""
        return str(self.root / name)


@dataclass(frozen=True, slots=True)
class Archive:
    """Files inside a zip, of which nothing is ever written to disk."""

    path: Path
    _members: Mapping[str, zipfile.ZipInfo] = field(repr=False)
    _folders: Mapping[str, Listing] = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> Archive:
        """Return the archive at a path, after a look at its directory.

        Raises
        ------
        ReadError
            It is not a zip, cut, encrypted, a bomb, or points outside of itself.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except (OSError, zipfile.BadZipFile, ValueError) as error:
            raise ReadError(
                f"{path} is not a zip archive, or is cut: {error}. Fetch it again."
            ) from error
        _check_names(path, members)
        _check_sizes(path, members)
        files = {m.filename: m for m in members if not m.is_dir()}
        return cls(path, files, _folders(files))

    def list(self, folder: str) -> Listing:
        """Return the names of the files and of the folders in a folder, sorted."""
        return self._folders.get(folder, ((), ()))

    def size(self, name: str) -> int:
        """Return the bytes of a file."""
        return self._members[name].file_size

    def read(self, name: str) -> bytes:
        """Return a small file; of a large one, more bytes than metadata have."""
        try:
            with (
                zipfile.ZipFile(self.path) as archive,
                archive.open(self._members[name]) as file,
            ):
                return file.read(MOST_BYTES + 1)
        except (
            OSError,
            EOFError,
            NotImplementedError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise ReadError(
                f"{self.show(name)} could not be read: {error}. Fetch the archive "
                "again, or unpack it and open the directory."
            ) from error

    def href(self, name: str) -> str:
        """Return the address under which an image is read."""
        return zip_member(str(self.path), name)

    def show(self, name: str) -> str:
        """Return what errors call a file or folder."""
        return f"{self.path}!/{name}" if name else str(self.path)


def join(folder: str, name: str) -> str:
    """Return the name of a file or folder in a folder, which may be the root."""
    return f"{folder}/{name}" if folder else name


Kinds = Sequence[tuple[str, str, str]]
"""Patterns of names, what a thing of such a name is, and what to do with it."""


def other_kind(shown: str, names: Iterable[str], kinds: Kinds) -> ReadError | None:
    """Return the error that says what lies at a place instead of a product."""
    found = list(names)
    for pattern, what, remedy in kinds:
        if any(re.search(pattern, name) for name in found):
            return ReadError(f"{shown} is {what}; {remedy}.")
    return None


def locate(path: object, product: str = "SAFE product") -> tuple[Files, str]:
    """Return the files that a path lies among, and the folder there that it names.

    Parameters
    ----------
    path
        A product's directory or zip, one of its granules (of a zip too:
        ``a.zip/NAME.SAFE/GRANULE/...``), or one of the metadata files of either.
    product
        What errors call such a product.

    Raises
    ------
    ReadError
        There is nothing, or something else.
    """
    text = str(path)
    if is_remote(text):
        raise ReadError(
            f"{without_query(text)} is a URL; {product}s are opened from a local "
            "disk. Download it, or open its STAC item with s2sr_xr.open_stac."
        )
    place = Path(text).absolute()
    if ".." in place.parts:
        place = place.resolve()
    if place.suffix.lower() == ".xml" and place.is_file():
        place = place.parent
    if place.is_dir():
        if place.parent.name == "GRANULE":
            return Directory(place.parents[1]), f"GRANULE/{place.name}"
        return Directory(place), ""
    archive = next((p for p in (place, *place.parents) if p.is_file()), None)
    if archive is None:
        raise ReadError(f"{text} does not exist. Check the path and its disk.")
    if archive.suffix.lower() != ".zip":
        raise ReadError(
            f"{archive} is a file; give the directory of a {product}, a .zip that "
            "holds one, or a granule or metadata file of one."
        )
    inner = place.relative_to(archive).as_posix()
    return Archive.open(archive), "" if inner == "." else inner


def _check_names(path: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    """Raise if a name points outside, appears more than once, or is encrypted."""
    seen: set[str] = set()
    for member in members:
        name = member.filename
        parts = PurePosixPath(name).parts
        if name.startswith("/") or "\\" in name or ":" in name or ".." in parts:
            raise ReadError(f"{path} holds {name!r}, which points outside of it.")
        if name in seen:
            raise ReadError(
                f"{path} holds {name!r} more than once; which one is meant?"
            )
        if member.flag_bits & 1:
            raise ReadError(f"{path} is encrypted ({name!r}); unpack it first.")
        seen.add(name)


def _check_sizes(path: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    """Raise if an archive declares more than a product has."""
    sizes = [(m.file_size, m.compress_size) for m in members]
    unpacked, packed = sum(u for u, _ in sizes), sum(p for _, p in sizes)
    ratio = unpacked / max(packed, 1)
    if (
        len(sizes) > MOST_MEMBERS
        or unpacked > MOST_UNPACKED
        or (unpacked > RATIO_COUNTS_FROM and ratio > MOST_RATIO)
    ):
        raise ReadError(
            f"{path} declares {len(sizes)} files of {unpacked} bytes, packed 1 to "
            f"{ratio:.0f}: not a Sentinel-2 product. At most {MOST_MEMBERS} files, "
            f"{MOST_UNPACKED} bytes, 1 to {MOST_RATIO} are opened."
        )


def _folders(files: Iterable[str]) -> dict[str, Listing]:
    """Return what every folder of an archive holds, by its name."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for name in files:
        folder, _, last = name.rpartition("/")
        found.setdefault(folder, (set(), set()))[0].add(last)
        while folder:
            folder, _, last = folder.rpartition("/")
            found.setdefault(folder, (set(), set()))[1].add(last)
    return {
        folder: (tuple(sorted(names)), tuple(sorted(inside)))
        for folder, (names, inside) in found.items()
    }
