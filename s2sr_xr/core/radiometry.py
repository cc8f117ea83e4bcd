"""What the counts of an item mean: one decision per item and band, and its arithmetic.

Reflectance is ``(count + offset) * scale``. The sensing date says nothing about the
offset (Collection 1 processed old dates anew), so it comes, in this order, from

1. the asset: ``raster:bands`` (v1), ``raster:offset`` (v2), ``bands[0]`` (STAC 1.1);
2. the item's ``s2:processing_baseline``: -1000 from 04.00 on, else 0; in Earth Search
   v0 ``sentinel:boa_offset_applied`` and ``sentinel:processing_baseline``;
3. the baseline in the product's name, ``_N0511_``.

An asset that gives a scale without an offset has not said what we ask: 2 and 3 decide.
Baseline 99.99 marks a user's own processing and decides nothing.
"""

from __future__ import annotations

import math
import numbers
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from s2sr_xr.core.bands import BANDS, canonical
from s2sr_xr.core.reflectance import REMEDY, SCALE, Radiometry
from s2sr_xr.errors import MissingBandError, RadiometryError, S2SRWarning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pystac

__all__ = [
    "band_of",
    "baseline_of",
    "decide",
    "declared",
    "number_of",
    "offset_of",
    "override",
    "warn_of_doubt",
]


OFFSET = -1000
"""Counts added from baseline 04.00 on (ESA, Sentinel-2 PDGS announcement of 2022)."""


DOUBTFUL = "earthsearch:sentinel-2-l2a"
"""Source of a decision for the collection whose own metadata contradict its pixels."""

APPLIED = "sentinel:boa_offset_applied"
"""Property of Earth Search v0: its COGs hold the offset already."""

NO_BANDS = frozenset({"truth", "overview", "thumbnail", "metadata", "visual"})
"""Roles of assets that show bands, or describe them, but are none."""

COMMON_TO_SEVERAL = "rededge"
"""The common name that B05, B06 and B07 share: it names none of them."""

_BASELINE = re.compile(r"_N(\d\d)\.?(\d\d)(?=_|\.|$)")


def decide(item: pystac.Item | Mapping[str, Any], band: str) -> Radiometry:
    """Return what the counts of one band of a STAC item mean.

    Parameters
    ----------
    item
        A STAC item, as a pystac object or as the dict of its JSON.
    band
        ESA's identifier, such as ``"B8A"``, or a name that `bands.canonical` knows.

    Raises
    ------
    MissingBandError
        The item has no such band.
    RadiometryError
        Neither the asset nor a baseline says whether the offset is there.

    Warns
    -----
    S2SRWarning
        The item is of Earth Search's ``sentinel-2-l2a``, which is known to contradict
        its own pixels; 0 is returned.

    >>> properties = {"s2:processing_baseline": "05.11"}
    >>> item = {"id": "a", "properties": properties, "assets": {"B04": {"href": "x"}}}
    >>> str(decide(item, "B04"))
    '-1000, from s2:processing_baseline'
    """
    facts = (
        item if not hasattr(item, "to_dict") else item.to_dict(transform_hrefs=False)
    )
    name = canonical(band) or band
    of = {key: band_of(key, asset) for key, asset in facts["assets"].items()}
    keys = [key for key in of if of[key] == name]
    if not keys:
        raise MissingBandError(
            f"Item {facts['id']} has no asset for band {band} (it has "
            f"{', '.join(sorted({b for b in of.values() if b})) or 'no bands'}).",
            item=facts["id"],
            band=band,
        )
    # A COG before the JPEG 2000 it was made from, as the readers choose.
    key = min(keys, key=lambda k: "jp2" in str(facts["assets"][k].get("type")))
    radiometry = declared(facts, name, key)
    warn_of_doubt([radiometry], stacklevel=3)
    return radiometry


def declared(item: Mapping[str, Any], band: str, key: str) -> Radiometry:
    """Return what the asset `key` of an item dict declares, without a warning.

    Raises
    ------
    RadiometryError
        Nothing declares an offset.
    """
    asset = item["assets"][key]
    baseline, source = baseline_of(item)
    by_baseline = offset_of(baseline)
    if _is_doubtful(item, asset) and by_baseline != 0:
        return Radiometry(offset=0, source=DOUBTFUL)
    if (item.get("properties") or {}).get(APPLIED) is True:
        return Radiometry(offset=0, source=APPLIED)
    for place, source_of_place in _raster_fields(asset):
        if (offset := number_of(place.get("offset"))) is None:
            continue
        scale = number_of(place.get("scale", SCALE)) or 0.0
        added = offset / scale if scale else 0.0
        return Radiometry(
            scale=scale,
            # Whole counts: -0.1 / 1e-4 is not quite -1000.
            offset=float(round(added)) if math.isfinite(added) else added,
            nodata=_nodata(place, asset),
            source=source_of_place,
        )
    if by_baseline is not None:
        return Radiometry(
            offset=float(by_baseline), nodata=_nodata({}, asset), source=source
        )
    found = (
        f"baseline {baseline}, a user's own processing" if baseline else "no baseline"
    )
    raise RadiometryError(
        f"{band} of {item['id']}: the item gives no offset for its counts, and "
        f"{found}; {REMEDY}.",
        item=item["id"],
        band=band,
    )


def warn_of_doubt(decisions: Iterable[Radiometry], *, stacklevel: int = 2) -> None:
    """Warn, once for all of them, about decisions that the catalogue contradicts."""
    if any(d.source == DOUBTFUL for d in decisions):
        warnings.warn(
            "Earth Search's collection sentinel-2-l2a declares offsets that its pixels "
            "contradict; its COGs are taken as already corrected (offset 0). Prefer "
            f"sentinel-2-c1-l2a, or {REMEDY} to say it yourself.",
            S2SRWarning,
            stacklevel=stacklevel,
        )


def override(radiometry: object) -> Radiometry | None:
    """Return the user's own radiometry, or None for ``"auto"``.

    Parameters
    ----------
    radiometry
        ``"auto"``, or a mapping with ``offset`` (counts) and, if wanted, ``scale``.

    Raises
    ------
    RadiometryError
        It is something else.

    >>> str(override({"offset": -1000}))
    '-1000, from user'
    """
    if isinstance(radiometry, str) and radiometry == "auto":
        return None
    given = dict(radiometry) if isinstance(radiometry, Mapping) else {}
    if not {"offset"} <= set(given) <= {"offset", "scale"}:
        raise RadiometryError(
            f"radiometry={radiometry!r}: give 'auto', or a mapping such as "
            '{"offset": -1000} or {"offset": 0, "scale": 1e-4}. Trees always hold '
            "reflectance, so there is no raw."
        )
    offset, scale = (number_of(given.get(k, SCALE)) for k in ("offset", "scale"))
    if offset is None or scale is None:
        raise RadiometryError(f"radiometry={radiometry!r}: both must be numbers.")
    return Radiometry(scale=scale, offset=offset, source="user")


def band_of(key: str, asset: Mapping[str, Any]) -> str | None:
    """Return ESA's identifier of the band that an asset holds, or None.

    A single band with ESA's own name decides, then the asset's key, then a common name.

    >>> band_of("rededge2", {"eo:bands": [{"name": "B06", "common_name": "rededge"}]})
    'B06'
    >>> band_of("visual", {"eo:bands": [{"name": "B04"}, {"name": "B03"}]}) is None
    True
    """
    if NO_BANDS & set(asset.get("roles") or ()):
        return None
    bands = asset.get("bands") or asset.get("eo:bands") or []
    if len(bands) > 1:
        return None
    # The oldest items number their bands instead of naming them.
    fields = bands[0] if bands and isinstance(bands[0], Mapping) else {}
    name = str(fields.get("name", "")).upper()
    if name in BANDS:
        return name
    common = fields.get("eo:common_name") or fields.get("common_name") or ""
    by_common = None if common == COMMON_TO_SEVERAL else canonical(str(common))
    return canonical(key) or by_common


def baseline_of(item: Mapping[str, Any]) -> tuple[str, str]:
    """Return an item's processing baseline, such as ``"05.11"``, and who says so.

    Both are empty where nothing does.

    >>> baseline_of({"id": "S2A_MSIL1C_20200615T060641_N0209_R134_T45WWS_20200615"})
    ('02.09', 'product id')
    """
    properties = item.get("properties") or {}
    for key in ("s2:processing_baseline", "sentinel:processing_baseline"):
        if said := properties.get(key):
            return str(said), key
    names = (properties.get("s2:product_uri"), properties.get("sentinel:product_id"))
    for name in (*names, item.get("id")):
        if found := _BASELINE.search(str(name)):
            return f"{found[1]}.{found[2]}", "product id"
    return "", ""


def offset_of(baseline: str) -> int | None:
    """Return the counts to add for a baseline, None where it does not decide."""
    major = re.match(r"\d+", baseline)
    if major is None or int(major[0]) == 99:
        return None
    return OFFSET if int(major[0]) >= 4 else 0


def _is_doubtful(item: Mapping[str, Any], asset: Mapping[str, Any]) -> bool:
    """Return whether the asset is one whose flags contradict its pixels.

    Element84/earth-search#66, #71. Planetary Computer's collection has the same name.
    The JPEG 2000 assets of these items are ESA's own files, with ESA's own offset. The
    collection of v0 consists of the same COGs.
    """
    properties = item.get("properties") or {}
    of_v1 = item.get("collection") == "sentinel-2-l2a" and any(
        str(k).startswith("earthsearch:") for k in properties
    )
    of_v0 = item.get("collection") == "sentinel-s2-l2a-cogs"
    said = properties.get(APPLIED) is True
    return (of_v1 or (of_v0 and not said)) and "jp2" not in str(asset.get("type"))


def _raster_fields(asset: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the places that may hold scale and offset, under plain names."""
    for entry in _first(asset.get("raster:bands")):
        yield dict(entry), "raster:bands"
    for place in (asset, *_first(asset.get("bands"))):
        plain = {k.removeprefix("raster:"): v for k, v in place.items()}
        if "raster:offset" in place:
            yield plain, "raster:offset"


def _first(entries: object) -> Iterator[Mapping[str, Any]]:
    """Yield the first of some mappings; anything else says nothing."""
    if isinstance(entries, list | tuple):
        yield from (e for e in entries[:1] if isinstance(e, Mapping))


def number_of(value: object) -> float | None:
    """Return a value as a float, None where it is not a number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return float(value)


def _nodata(place: Mapping[str, Any], asset: Mapping[str, Any]) -> int:
    """Return the no-data count; text such as ``"nan"`` says nothing about integers."""
    for value in (place.get("nodata"), asset.get("nodata")):
        number = number_of(value)
        if number is not None and number.is_integer():
            return int(number)
    return 0
