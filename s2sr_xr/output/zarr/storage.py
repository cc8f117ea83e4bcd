"""The few things asked of zarr-python, with errors that name the store and the remedy.

Everything goes through Zarr's own store interface, so directories, memory and object
stores behave alike.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2sr_xr.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import zarr
    from zarr.abc.store import Store

__all__ = [
    "RECORDS",
    "attributes",
    "children",
    "consolidate",
    "delete",
    "documents",
    "in_memory",
    "make_room",
    "open_store",
    "our_attributes",
    "place",
    "put_json",
    "set_state",
    "sizes",
    "storing",
    "sweep",
]

RECORDS = "_s2sr"
"""Where a store keeps the records of its blocks."""

_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial$")
"""What zarr-python's local store calls a file that is not whole yet."""


@contextmanager
def storing(doing: str, store: object) -> Iterator[None]:
    """Turn an OSError in the body into a StoreError that names `store`."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"Cannot {doing} {store}: {error.strerror or error}. Check the path, its "
            "permissions and the free space, then run again; resume=True keeps what is "
            "written.",
            store=str(store),
        ) from error


def place(store: str | Path | Store) -> str | Store:
    """Return a path as an absolute one, good in any process; others as they are."""
    if isinstance(store, str) and store.startswith(("file://", "local://")):
        # fsspec writes files in place; zarr's own local store replaces them whole.
        from fsspec.implementations.local import (  # type: ignore[import-untyped]
            LocalFileSystem,
        )

        store = str(LocalFileSystem._strip_protocol(store))  # noqa: SLF001 - no other way
    if isinstance(store, Path) or (isinstance(store, str) and "://" not in store):
        return os.path.abspath(store)  # noqa: PTH100 - links stay as the user wrote them
    return store


def open_store(where: str | Store, *, read_only: bool = False) -> Store:
    """Return the Zarr store at a path or URL; a Zarr store is returned as it is.

    Nothing is created here, but zarr-python makes the directory of a local store at
    the first access, unless it is `read_only`.
    """
    from zarr.storage import FsspecStore, LocalStore

    if not isinstance(where, str):
        return where
    if "://" in where:
        try:
            return FsspecStore.from_url(where, read_only=read_only)
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"{where} cannot be reached: {error}. Install what fsspec needs for "
                f"{where.partition('://')[0]}://, such as s3fs or gcsfs, or name a "
                "local path.",
                store=where,
            ) from error
    return LocalStore(where, read_only=read_only)


def attributes(store: Store) -> dict[str, Any] | None:
    """Return the attributes of the root of `store`, None if it is not Zarr v3."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    try:
        stored = sync(store.get("zarr.json", prototype=default_buffer_prototype()))
    except FileNotFoundError:  # of the directory of a local store
        return None
    if stored is None:
        return None
    try:
        return dict(json.loads(stored.to_bytes()).get("attributes", {}))
    except (ValueError, AttributeError) as error:
        raise StoreError(
            f"zarr.json of {store} is damaged ({error}); remove the store and write it "
            "again",
            store=str(store),
        ) from error


def our_attributes(store: Store) -> dict[str, Any]:
    """Return the attributes of a store of this library; raise if it is none."""
    attrs = attributes(store)
    if attrs is None:
        raise StoreError(f"There is no Zarr v3 store at {store}", store=str(store))
    if "s2sr:version" not in attrs:
        raise StoreError(
            f"{store} was not made by s2sr_xr; open it with xarray.open_zarr",
            store=str(store),
        )
    return attrs


def set_state(store: Store, state: str) -> None:
    """Change the state in the attributes of our own store."""
    import zarr

    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    root.attrs["state"] = state


def in_memory(where: str | Store) -> bool:
    """Return whether other processes cannot see the store."""
    from zarr.storage import FsspecStore, MemoryStore

    if isinstance(where, FsspecStore):
        return "memory" in where.fs.protocol
    return isinstance(where, MemoryStore) or str(where).startswith("memory://")


def put_json(store: Store, key: str, value: object) -> None:
    """Write `value` whole, as one object."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    text = json.dumps(value, allow_nan=False)
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(text.encode())))


def documents(store: Store, prefix: str) -> dict[str, Any]:
    """Return the JSON documents directly under `prefix`, None for a damaged one."""
    import asyncio

    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    names = sorted(n for n in children(store, prefix) if n.endswith(".json"))

    async def fetched() -> list[bytes | None]:
        wanted = (store.get(f"{prefix}/{n}", default_buffer_prototype()) for n in names)
        got = await asyncio.gather(*wanted)
        return [None if b is None else b.to_bytes() for b in got]

    found: dict[str, Any] = {}
    for name, text in zip(names, sync(fetched()), strict=True):
        if text is None:  # removed since it was listed
            continue
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = None
    return found


def delete(store: Store, *keys: str) -> None:
    """Remove objects; those that are not there are not an error."""
    import asyncio

    from zarr.core.sync import sync

    async def removed() -> None:
        await asyncio.gather(*map(store.delete, keys))

    with suppress(FileNotFoundError):
        sync(removed())


def sizes(store: Store) -> dict[str, int]:
    """Return the bytes of every object, by its key: one listing where that suffices."""
    import asyncio

    from zarr.core.sync import sync
    from zarr.storage import FsspecStore, LocalStore

    async def asked() -> dict[str, int]:
        if isinstance(store, FsspecStore):
            root = store.path.rstrip("/") + "/"
            # A listing that was kept from before the writing would be wrong.
            store.fs.invalidate_cache()
            found = await store.fs._find(store.path, detail=True)  # noqa: SLF001 - as zarr-python does
            return {str(k).removeprefix(root): v["size"] for k, v in found.items()}
        keys = [key async for key in store.list()]
        got = await asyncio.gather(*map(store.getsize, keys))
        return dict(zip(keys, got, strict=True))

    if not isinstance(store, LocalStore):
        return sync(asked())
    return {
        os.path.relpath(entry.path, store.root).replace(os.sep, "/"): (
            entry.stat().st_size
        )
        for entry in _files(store.root)
    }


def _files(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path)
            else:
                yield entry


def sweep(store: Store) -> None:
    """Remove the files that killed writes to a local store left half-made."""
    from zarr.storage import LocalStore

    if isinstance(store, LocalStore):
        for entry in _files(store.root):
            if _PARTIAL.search(entry.name):
                Path(entry.path).unlink(missing_ok=True)


def children(store: Store, prefix: str = "") -> set[str]:
    """Return the names directly under `prefix`."""
    from zarr.core.sync import sync

    async def listed() -> set[str]:
        return {name async for name in store.list_dir(prefix)}

    return sync(listed())


def make_room(store: Store, mode: str) -> None:
    """Make sure that `store` is empty, or raise; delete only what is ours, if asked."""
    from zarr.core.sync import sync

    if mode not in ("w-", "w"):
        raise StoreError(f'mode is "w-" or "w", got {mode!r}')
    if all(map(_PARTIAL.search, children(store))):
        sweep(store)  # killed before its first object was whole
    if sync(store.is_empty("")):
        return
    found = attributes(store)
    if found is None or "s2sr:version" not in found:
        what = "holds files that are not a Zarr v3 store" if found is None else "exists"
        raise StoreError(
            f"{store} {what} and was not made by s2sr_xr, so it is left alone, with "
            'mode="w" too. Remove it first, or choose another path.',
            store=str(store),
        )
    if mode == "w-":
        raise StoreError(
            f'{store} exists, state {found["state"]!r}. Pass mode="w" to replace it, '
            "or choose another path.",
            store=str(store),
        )
    _clear(store)


def _clear(store: Store) -> None:
    """Delete our own store so that, killed anywhere, it never passes for complete."""
    from zarr.core.sync import sync

    set_state(store, "writing")

    async def removed() -> None:
        names = {n async for n in store.list_dir("")} - {"zarr.json"}
        # Records first: what is left without them is never resumed.
        for name in sorted(names, key=lambda n: n != RECORDS):
            with suppress(ValueError):  # a stray file: not ours, so it stays
                await store.delete_dir(name)
        await store.delete("zarr.json")

    sync(removed())


def consolidate(store: Store) -> zarr.Group:
    """Consolidate the metadata of `store` and return its root."""
    import zarr

    with warnings.catch_warnings():
        # v3 consolidation is not in the specification yet, and zarr-python meets our
        # records without knowing them. Both are on purpose.
        warnings.filterwarnings("ignore", "Consolidated metadata is currently")
        warnings.filterwarnings("ignore", f"Object at {RECORDS} is not")
        return zarr.consolidate_metadata(store)
