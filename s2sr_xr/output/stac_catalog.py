"""A static STAC catalogue of what was made: where the next step finds its inputs."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from s2sr_xr.core.version import library_version
from s2sr_xr.errors import StoreError
from s2sr_xr.output.zarr.storage import storing

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pystac
    from pystac.stac_io import StacIO

__all__ = ["check_catalogue", "write_catalogue"]

FOLDER = "items"
"""Where the items of a catalogue lie, away from the stores next to it."""

MARK = "s2sr:version"
"""What marks our catalogues among those of others."""


def write_catalogue(
    folder: str | Path,
    items: Iterable[pystac.Item],
    *,
    description: str = "Sentinel-2 imagery made finer by s2sr_xr",
) -> pystac.Catalog:
    """Write items into the static catalogue of a folder, with relative links.

    Stores and files next to it are linked relatively, so the folder may be moved or put
    on a server as it is. Items of an earlier call stay; one of the same id is replaced.
    Several runs may write into one folder: in the end all their items are listed.

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
            f"{', '.join(double)} appears more than once among the items; give each an "
            "id of its own: result_item(store, item_id=...)."
        )
    layout = TemplateLayoutStrategy(item_template=FOLDER)
    with storing("write the catalogue", root):
        # pystac makes the folder once it has looked, and fails where another run did.
        (root / "items").mkdir(parents=True, exist_ok=True)
        catalogue = _catalogue(root / "catalog.json", description)
        catalogue.catalog_type = pystac.CatalogType.SELF_CONTAINED
        catalogue.set_self_href(str(root / "catalog.json"))
        # Items first, then the catalogue that names them; each file whole.
        stac_io, before = _whole_files(), _listed(catalogue)
        for item in new:
            if link := before.get(f"{item.id}.json"):
                catalogue.links.remove(link)
            catalogue.add_item(item, strategy=layout)
            item.make_asset_hrefs_relative()
            item.save_object(include_self_link=False, stac_io=stac_io)
        catalogue.save_object(include_self_link=False, stac_io=stac_io)
        # Of runs that end together, each has written its items by now, and the last to
        # write the catalogue finds them all.
        while unlisted := _unlisted(catalogue, root / FOLDER):
            catalogue.add_links(unlisted)
            catalogue.save_object(include_self_link=False, stac_io=stac_io)
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
            f"{path} is not a STAC catalogue ({error}). Remove it, or choose another "
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


def _listed(catalogue: pystac.Catalog) -> dict[str, pystac.Link]:
    """Return the links to items, by the name of the file: all are in one folder."""
    return {Path(str(k.get_href())).name: k for k in catalogue.get_item_links()}


def _unlisted(catalogue: pystac.Catalog, folder: Path) -> list[pystac.Link]:
    """Return links to the items in a folder that the catalogue does not list."""
    import pystac

    listed = _listed(catalogue)
    return [
        pystac.Link(pystac.RelType.ITEM, str(path), pystac.MediaType.GEOJSON)
        for path in sorted(folder.glob("*.json"))
        if path.name not in listed
    ]


def _whole_files() -> StacIO:
    """Return the way to write STAC that leaves no file half written."""
    from pystac.stac_io import DefaultStacIO

    class Whole(DefaultStacIO):
        def write_text_to_href(self, href: str, txt: str) -> None:
            part = f"{href}.{secrets.token_hex(4)}.partial"
            super().write_text_to_href(part, txt)
            Path(part).replace(href)

    return Whole()
