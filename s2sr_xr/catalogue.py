"""A static STAC catalogue of what was made: where the next step finds its inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from s2sr_xr.about import library_version
from s2sr_xr.errors import StoreError
from s2sr_xr.store.place import storing

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pystac
    from pystac.stac_io import StacIO

__all__ = ["check_catalogue", "write_catalogue"]

FOLDER = "items"
"""Where the items of a catalogue lie, away from the stores beside it."""

MARK = "s2sr:version"
"""What tells our catalogues from those of others."""


def write_catalogue(
    folder: str | Path,
    items: Iterable[pystac.Item],
    *,
    description: str = "Sentinel-2 imagery made finer by s2sr_xr",
) -> pystac.Catalog:
    """Write items into the static catalogue of a folder, with relative links.

    Stores and files beside it are linked relatively, so the folder may be moved or put
    on a server as it is. Items of an earlier call stay; one of the same id is replaced.

    Parameters
    ----------
    folder
        Local directory; ``catalog.json`` goes there, items into ``items/``.
    items
        As `result_item` returns them; they are not changed.
    description
        Of a new catalogue.

    Returns
    -------
    pystac.Catalog
        The catalogue as written, with all its items.

    Raises
    ------
    StoreError
        ``catalog.json`` there is not of this library, two items have one id, or the
        folder cannot be written.
    """
    import pystac
    from pystac.layout import TemplateLayoutStrategy

    root = Path(folder).absolute()
    new = [item.clone() for item in items]
    ids = [item.id for item in new]
    if double := sorted({i for i in ids if ids.count(i) > 1}):
        raise StoreError(
            f"{', '.join(double)} stands twice among the items; give each an id of its "
            "own: result_item(store, item_id=...)."
        )
    with storing("write the catalogue", root):
        catalogue = _catalogue(root / "catalog.json", description)
        for item in new:
            catalogue.remove_item(item.id)
            catalogue.add_item(item)
        layout = TemplateLayoutStrategy(item_template=FOLDER)
        catalogue.normalize_hrefs(str(root), strategy=layout)
        for item in new:
            item.make_asset_hrefs_relative()
        # Items first, then the catalogue that names them; each file whole.
        catalogue.save(pystac.CatalogType.SELF_CONTAINED, stac_io=_whole_files())
    return catalogue


def check_catalogue(folder: str | Path) -> None:
    """Raise if the catalogue of a folder cannot be added to; there may be none.

    Raises
    ------
    StoreError
        ``catalog.json`` there is not of this library, or cannot be read.
    """
    root = Path(folder).absolute()
    path = root / "catalog.json"
    with storing("read the catalogue", root):
        if path.exists():
            _catalogue(path, "")


def _catalogue(path: Path, description: str) -> pystac.Catalog:
    """Return the catalogue at `path`, or a new one."""
    import pystac
    from pystac.errors import STACError, STACTypeError

    if not path.exists():
        return pystac.Catalog(
            id=path.parent.name or "s2sr_xr",
            description=description,
            extra_fields={MARK: library_version()},
        )
    try:
        found = pystac.Catalog.from_dict(
            dict(json.loads(path.read_text(encoding="utf-8"))), href=str(path)
        )
    except (STACError, STACTypeError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is no STAC catalogue ({error}). Remove it, or choose another "
            "folder.",
            store=str(path),
        ) from error
    if MARK not in found.extra_fields:
        raise StoreError(
            f"{path} was not made by s2sr_xr, so it is left alone. Choose another "
            "folder, and link its catalogue from yours.",
            store=str(path),
        )
    return found


def _whole_files() -> StacIO:
    """Return the way to write STAC that leaves no file half written."""
    from pystac.stac_io import DefaultStacIO

    class Whole(DefaultStacIO):
        def write_text_to_href(self, href: str, txt: str) -> None:
            part = f"{href}.partial"
            super().write_text_to_href(part, txt)
            Path(part).replace(href)

    return Whole()
