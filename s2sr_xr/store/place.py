"""The few things asked of zarr-python, with errors that name the store and the remedy.

Everything goes through Zarr's own store interface, so directories, memory and object
stores behave alike.
"""

from __future__ import annotations

import json
import os
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2sr_xr.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import zarr
    from zarr.abc.store import Store
    from zarr.storage import StorePath

__all__ = [
    "RECORDS",
    "attributes",
    "children",
    "consolidate",
    "make_room",
    "open_store",
    "place",
    "put_json",
    "storing",
]

RECORDS = "_s2sr"
"""Where a store keeps the records of its blocks."""


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
            "permissions and the free space, then run again.",
            store=str(store),
        ) from error


def place(store: str | Path | Store) -> str | Store:
    """Return a path as an absolute one, good in any process; others as they are."""
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
        return FsspecStore.from_url(where, read_only=read_only)
    return LocalStore(where, read_only=read_only)


def attributes(store: Store) -> dict[str, Any] | None:
    """Return the attributes of the root of `store`, None if it is no Zarr v3 group."""
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


def put_json(path: StorePath, value: object) -> None:
    """Write `value` whole, as one object."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    text = json.dumps(value, allow_nan=False)
    sync(path.set(default_buffer_prototype().buffer.from_bytes(text.encode())))


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
    if sync(store.is_empty("")):
        return
    found = attributes(store)
    if found is None or "s2sr:version" not in found:
        what = "holds files that are no Zarr v3 store" if found is None else "exists"
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
    import zarr
    from zarr.core.sync import sync

    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    root.attrs["state"] = "writing"

    async def delete() -> None:
        for name in [n async for n in store.list_dir("")]:
            if name != "zarr.json":
                with suppress(ValueError):  # a stray file: not ours, so it stays
                    await store.delete_dir(name)
        await store.delete("zarr.json")

    sync(delete())


def consolidate(store: Store) -> zarr.Group:
    """Consolidate the metadata of `store` and return its root."""
    import zarr

    with warnings.catch_warnings():
        # v3 consolidation is not in the specification yet, and zarr-python meets our
        # records without knowing them. Both are on purpose.
        warnings.filterwarnings("ignore", "Consolidated metadata is currently")
        warnings.filterwarnings("ignore", f"Object at {RECORDS} is not")
        return zarr.consolidate_metadata(store)
