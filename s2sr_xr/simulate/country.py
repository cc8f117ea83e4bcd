"""A piece of invented country, sampled every five metres, in thirteen bands.

Everything a place reflects is a blend of two endmember spectra under one light: a wheat
field is leaf over soil, a wood is broadleaf among conifer, a river is silt in clear
water. The blend and the light are textured, so bands vary together as they do in
nature, and a second, fainter texture (`tone`) pulls visible, near and short-wave
infrared apart. Borders are exact in metres; only the mosaic of parcels is looked up.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.core.bands import BANDS
from s2sr_xr.simulate.texture import (
    PITCH,
    Mosaic,
    Texture,
    away_from_sun,
    bends,
    exceeded_by,
    hillshade,
    smoothstep,
    stroke,
    turned,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from s2sr_xr.simulate.texture import Map, Mask

__all__ = ["Landscape", "landscape"]

# Typical reflectance in thousandths, the blends of which give whole scenes the means,
# spreads and correlations of real ones (benchmarks/realism.py); no place in particular.
# The ground is never seen in B10.
_TABLE = """
            B01  B02  B03  B04  B05  B06  B07  B08  B8A  B09  B10  B11  B12
cereal       20   24   52   27   80  310  410  415  445  450    0  170   75
pasture      26   32   66   44  104  265  325  335  360  370    0  215  112
rape         34   42  132   98  165  350  430  440  465  470    0  200   98
beet         22   28   62   36   96  360  480  490  520  520    0  220  100
straw        60   78  115  150  178  220  248  265  288  300    0  345  245
broadleaf    18   22   42   23   62  215  285  300  320  325    0  150   68
conifer      14   17   27   18   38  115  150  160  175  180    0   82   36
heath        30   36   56   60   88  150  178  190  208  220    0  210  135
darksoil     42   50   70   88  104  118  128  138  152  160    0  205  165
palesoil     70   88  126  170  195  218  236  252  274  285    0  360  310
gravel      120  140  172  200  215  230  240  250  262  270    0  320  300
asphalt      70   78   92  104  112  122  130  138  148  152    0  185  172
tile         60   72   98  165  190  208  220  232  246  255    0  285  255
slate        66   72   80   86   92  100  106  112  120  124    0  150  140
metal       300  340  370  390  400  410  420  425  435  440    0  430  390
rock         62   74   96  116  132  146  156  166  182  190    0  235  200
snow        800  830  825  815  810  795  780  770  740  660    0   95   70
clear        22   23   24   14   12   10   10    9    8    8    0    4    3
silt         62   78  112   98   82   42   42   38   26   24    0    7    4
"""
SPECTRA: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        row.split()[0]: tuple(int(v) / 1000 for v in row.split()[1:])
        for row in _TABLE.strip().splitlines()[1:]
    }
)

# Share of the light that comes from the sky and reaches the shade: Rayleigh's blue.
_SKYLIGHT = {b.name: 0.34 * (443 / b.wavelength) ** 1.5 + 0.02 for b in BANDS.values()}

# How `tone` moves a band: drier and paler (+) in the visible and short-wave infrared.
_TONE = dict(
    zip(
        BANDS,
        (0.04, 0.04, 0.04, 0.06, 0.04, 0.00, -0.02, -0.02, -0.02, -0.02, 0, 0.05, 0.07),
        strict=True,
    )
)

# What grows on a parcel: leaf, ground, mean and spread of cover, share of parcels.
_CROPS = (
    ("cereal", "darksoil", 0.88, 0.10, 0.25),
    ("pasture", "palesoil", 0.90, 0.10, 0.21),
    ("rape", "darksoil", 0.85, 0.08, 0.05),
    ("beet", "darksoil", 0.45, 0.22, 0.15),
    ("straw", "palesoil", 0.55, 0.25, 0.14),
    ("pasture", "darksoil", 0.22, 0.12, 0.10),
    ("palesoil", "darksoil", 0.50, 0.28, 0.10),
)
_PARCEL_KINDS = 1024
_ROOF_KINDS = 64
_WOOD, _UPLAND, _SNOW, _WATER, _BANK, _STREET, _GARDEN = range(
    _PARCEL_KINDS, _PARCEL_KINDS + 7
)
_ROOF = _GARDEN + 1
_ENDS = (
    ("broadleaf", "conifer"),
    ("heath", "rock"),
    ("snow", "rock"),
    ("silt", "clear"),
    ("gravel", "darksoil"),
    ("gravel", "asphalt"),
    ("pasture", "broadleaf"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """What lies where, and in which light. All maps are (n, n), `PITCH` apart."""

    kind: NDArray[np.uint16]
    """Row of `first` and `second` that a sample blends."""

    first: NDArray[np.float32]
    """(kinds, 13) reflectance of the first endmember, bands as in `BANDS`."""

    second: NDArray[np.float32]
    """(kinds, 13) reflectance of the second endmember."""

    blend: Map
    """Share of the first endmember, 0..1."""

    sunlight: Map
    """Direct light, 1 on open flat ground, 0 in full shade."""

    tone: Map
    """Standard normal texture that pulls the parts of the spectrum apart."""

    lines: tuple[tuple[str, Map], ...]
    """Roads, tracks and hedges: of what, and how much of a sample they cover."""

    cloud: Map
    """Reflectance of the clouds in the visible, 0..0.75; they let the rest pass."""

    cirrus: Map
    """Reflectance of thin ice cloud above everything, about 0.001."""

    def surface(self, band: str) -> Map:
        """Return the reflectance of the ground in `band`, in its own light."""
        b = list(BANDS).index(band)
        second = self.second[:, b][self.kind]
        ground = second + self.blend * (self.first[:, b][self.kind] - second)
        for material, share in self.lines:
            ground += share * (np.float32(SPECTRA[material][b]) - ground)
        sky = np.float32(_SKYLIGHT[band])
        ground *= sky + (1 - sky) * self.sunlight
        ground *= 1 + np.float32(_TONE[band]) * self.tone
        return ground


@dataclass(slots=True)
class _Canvas:
    """The country while it is painted, from the fields up to the clouds."""

    texture: Texture
    rng: np.random.Generator
    extent: float
    x: Map
    y: Map
    kind: NDArray[np.uint16]
    blend: Map
    tall: Mask
    patches: Map

    @classmethod
    def blank(cls, n: int, rng: np.random.Generator) -> _Canvas:
        """Return bare ground on coordinates that bend a little, in metres."""
        texture, extent = Texture(n, rng), n * PITCH
        along = (np.arange(n, dtype=np.float32) + np.float32(0.5)) * np.float32(PITCH)
        bend = np.float32(min(60, extent / 60))
        x = along + bend * texture(min(3000, extent / 2), slope=4.5)
        y = along[:, None] + bend * texture(min(3000, extent / 2), slope=4.5)
        return cls(
            texture=texture,
            rng=rng,
            extent=extent,
            x=x,
            y=y,
            kind=np.zeros((n, n), np.uint16),
            blend=np.zeros((n, n), np.float32),
            tall=np.zeros((n, n), np.bool_),
            patches=texture(500, slope=2.7),
        )

    def span(self, metres: float, share: float) -> float:
        """Return `metres`, or a `share` of the extent where the scene is small."""
        return min(metres, share * self.extent)

    def paint(
        self, where: Mask, kind: NDArray[Any] | int, blend: Map, *, tall: bool
    ) -> None:
        """Cover a place with something else."""
        np.copyto(self.kind, np.asarray(kind, np.uint16), where=where)
        np.copyto(self.blend, np.clip(blend, 0, 1), where=where, casting="same_kind")
        self.tall[where] = tall


def _terrain(c: _Canvas, heading: float) -> Map:
    """Return the height in metres: a plain that rises to hills towards `heading`."""
    rise, _ = turned(c.x - c.extent / 2, c.y - c.extent / 2, heading)
    rise = rise / np.float32(c.extent) + 0.16 * c.texture(c.span(6000, 0.6), slope=4)
    hills = smoothstep(rise, exceeded_by(rise, 0.30), exceeded_by(rise, 0.002))
    ridges = 1 - np.abs(c.texture(c.span(2600, 0.4), slope=4.3))
    height = c.span(560, 0.05) * hills * (1 + 0.45 * ridges)
    return height + np.float32(c.span(7, 0.001)) * c.texture(1200, slope=4)


def _fields(c: _Canvas) -> list[tuple[str, Map]]:
    """Lay out districts and their parcels; return the lines that divide them."""
    rng = c.rng
    districts = Mosaic.cut(rng, 1.3 * c.extent, c.span(1700, 0.3) ** 2)
    district, lane, _ = districts.at(*turned(c.x, c.y, rng.uniform(0, np.pi)))
    n = len(districts.bounds)
    angle = rng.normal(0, 0.45, n).astype(np.float32)[district]
    size = np.exp(rng.normal(0, 0.33, n)).astype(np.float32)[district]

    parcels = Mosaic.cut(rng, max(c.extent, 2400), 45_000)
    u, v = turned(c.x, c.y, angle)
    parcel, border, across = parcels.at(u / size, v / size)
    border, across = border * size, across * size
    # A hash, so that the parcels of two districts that share a number differ.
    kind = (parcel * 37 + district * 7919) % _PARCEL_KINDS
    c.paint(np.ones_like(c.tall), kind, _sown(c, kind, across), tall=False)

    hedged = c.texture(c.span(1800, 0.3), slope=3.5) + (kind % 7 == 0)
    hedge = smoothstep(c.patches + hedged, 0.5, 1.2)
    c.tall |= (hedge > 0.5) & (border < 4)
    yard = (kind % 16 == 3) & (across < 60) & (border > 5)
    _settle(c, yard & (c.texture(160, slope=3) > 0.6), crowd=0.5)
    return [
        ("pasture", 0.8 * stroke(border, 5)),
        ("broadleaf", 0.85 * hedge * stroke(border, 9)),
        ("gravel", 0.8 * stroke(border, 5) * (kind % 6 == 1)),
        ("pasture", stroke(lane, 18)),
        ("asphalt", 0.8 * stroke(lane, 7)),
    ]


def _sown(c: _Canvas, kind: NDArray[np.int32], across: Map) -> Map:
    """Return the cover of leaves: patchy, and in rows where it was drilled."""
    rng = c.rng
    crop = _crop_of_kind(_PARCEL_KINDS)
    cover = np.array([row[2] for row in _CROPS])[crop]
    spread = np.array([row[3] for row in _CROPS])[crop]
    mean = np.clip(cover + spread * rng.normal(size=crop.size), 0, 1).astype(np.float32)
    uneven = rng.uniform(0.015, 0.075, crop.size).astype(np.float32)
    drilled = rng.random(crop.size) < 0.6
    rows = (drilled * rng.uniform(0, 0.06, crop.size)).astype(np.float32)
    step = rng.uniform(18, 40, crop.size).astype(np.float32)
    blend = mean[kind] + uneven[kind] * c.patches
    ridge = np.sin(np.float32(2 * np.pi) * across / step[kind])
    return np.asarray(blend + rows[kind] * ridge, dtype=np.float32)


def _crop_of_kind(kinds: int) -> NDArray[np.int64]:
    """Return the row of `_CROPS` that each kind of parcel grows, in fixed shares."""
    shares = np.cumsum([row[4] for row in _CROPS])
    # The golden ratio spreads the kinds evenly, so every scene has every crop.
    spread = (np.arange(kinds) * 0.6180339887) % shares[-1]
    return np.asarray(np.searchsorted(shares, spread))


def _woods(c: _Canvas, height: Map) -> None:
    """Grow forest on the slopes, in the plain where it was left, and on odd parcels."""
    slope_wood = 1.3 * smoothstep(height, 40, 160)
    wooded = c.texture(c.span(2400, 0.35), slope=3.0) + slope_wood
    stands = 0.06 * ((c.kind % 7).astype(np.float32) - 3)
    mixed = 0.55 + 0.35 * c.texture(c.span(1400, 0.3), slope=3) + stands
    where = (wooded > exceeded_by(wooded, 0.19)) | (c.kind % 29 == 5)
    c.paint(where, _WOOD, mixed + 0.08 * c.patches, tall=True)


def _hilltops(c: _Canvas, height: Map) -> None:
    """Put heath and rock above the trees, and snow above those."""
    ragged = height + np.float32(c.span(22, 0.004)) * c.patches
    where = ragged > exceeded_by(ragged, 0.075)
    c.paint(where, _UPLAND, 0.60 + 0.28 * c.patches, tall=False)
    depth = smoothstep(ragged, exceeded_by(ragged, 0.016), exceeded_by(ragged, 0.001))
    c.paint(depth > 0, _SNOW, 0.9 * np.sqrt(depth), tall=False)


def _waters(c: _Canvas, height: Map, heading: float) -> None:
    """Dig lakes, and let a river wind along the foot of the hills."""
    basin = c.texture(c.span(1700, 0.3), slope=4.2) - height / 30
    lake = basin > exceeded_by(basin, 0.016)
    silt = 0.16 + 0.10 * c.texture(c.span(2000, 0.4), slope=3.5)
    c.paint(lake, _WATER, silt, tall=False)

    away, along = turned(c.x - c.extent / 2, c.y - c.extent / 2, heading)
    bend, slope = bends(c.rng, along, (c.span(3300, 0.8), c.span(1250, 0.3)))
    middle = (away + np.float32(0.14 * c.extent) - bend) / np.sqrt(1 + slope**2)
    half = np.float32(c.span(38, 0.01))
    wide = half * (1 + 0.25 * np.sin(along / np.float32(c.span(420, 0.1))))
    shore = np.abs(middle) - wide
    ragged = shore + half * 0.5 * c.patches
    c.paint(
        (ragged < 2.2 * half) & (shore > 0), _WOOD, 0.9 + 0.1 * c.patches, tall=True
    )
    c.paint(
        (ragged < 0.05 * half) & (shore > 0), _BANK, 0.7 + 0.2 * c.patches, tall=False
    )
    c.paint(shore < 0, _WATER, 0.8 + 0.04 * c.patches, tall=False)


def _settle(c: _Canvas, where: Mask, *, crowd: float) -> None:
    """Build streets, houses and gardens; `crowd` is the share of lots with a house."""
    rng = c.rng
    x, y = turned(c.x, c.y, rng.uniform(0, np.pi))
    works = np.where(c.texture(700, slope=4) > 1.1, np.float32(2.6), np.float32(1))
    blocks = Mosaic.cut(rng, 1500, 11_000)
    lots = Mosaic.cut(rng, 1200, 420)
    _, street, _ = blocks.at(x, y)
    lot, fence, _ = lots.at(x / works, y / works)
    n = len(lots.bounds)
    setback = rng.uniform(3.0, 6.5, n).astype(np.float32)[lot]
    roofed = (rng.random(n) < crowd)[lot] & (fence > setback) & (street > 4)
    c.paint(where, _GARDEN, 0.62 + 0.25 * c.patches, tall=False)
    c.paint(where & (street < 4.5), _STREET, 0.12 + 0.1 * c.patches, tall=False)
    roof = _ROOF + lot % _ROOF_KINDS
    c.paint(where & roofed, roof, 0.8 + 0.15 * c.patches, tall=True)


def _towns(c: _Canvas, height: Map) -> list[tuple[str, Map]]:
    """Found a town and villages in the plain; return the roads through three."""
    plain = (height < exceeded_by(height, 0.5)) & (c.kind != _WATER)
    count = 2 + int(min((c.extent / 2600) ** 2, 12))
    radii = [c.span(850, 0.10), *c.rng.uniform(0.012, 0.028, count) * c.extent]
    rows, cols = np.nonzero(plain[::16, ::16])
    near = np.full_like(c.x, np.inf)
    roads = np.full_like(c.x, np.inf)
    for k, radius in enumerate(radii):
        at = c.rng.integers(rows.size)
        x, y = (np.float32(16 * PITCH * i[at]) for i in (cols, rows))
        np.minimum(near, np.hypot(c.x - x, c.y - y) / np.float32(radius), out=near)
        if k < 3:
            t, away = turned(c.x - x, c.y - y, c.rng.uniform(0, np.pi))
            bend, slope = bends(c.rng, t, (c.span(5200, 1.3),))
            away = np.abs(away - 0.6 * bend) / np.sqrt(1 + 0.36 * slope**2)
            np.minimum(roads, away, out=roads)
    built = near + 0.22 * c.patches < 1
    _settle(c, built & (c.kind != _WATER), crowd=0.82)
    # Roads bridge the silty river; nobody built one through a lake or over the snow.
    dry = ~((c.kind == _SNOW) | ((c.kind == _WATER) & (c.blend < 0.5)))
    return [
        ("pasture", dry * stroke(roads, 26)),
        ("asphalt", 0.9 * dry * stroke(roads, 12)),
    ]


def _clouds(c: _Canvas) -> Map:
    """Return the reflectance of scattered cumulus, 0 in the clear and 0.75 at most."""
    heap = c.texture(c.span(1500, 0.3), slope=3.3)
    heap += 1.4 * c.texture(c.span(5000, 0.8), slope=4)
    heap += 0.12 * c.texture(300, slope=2.8)
    thick = smoothstep(heap, exceeded_by(heap, 0.05), exceeded_by(heap, 0.003))
    puffs = 1 + 0.10 * c.texture(400, slope=3.2)
    return np.clip(0.66 * thick * puffs, 0, 0.75).astype(np.float32)


def _spectra_of_kinds(rng: np.random.Generator) -> tuple[Map, Map]:
    """Return the two endmembers of every kind, no two kinds quite alike."""
    crops = [_CROPS[k][:2] for k in _crop_of_kind(_PARCEL_KINDS)]
    roofs = rng.choice(["tile", "slate", "metal"], _ROOF_KINDS, p=(0.5, 0.42, 0.08))
    pairs = [*crops, *_ENDS, *((str(roof), "asphalt") for roof in roofs)]
    ends = np.array([[SPECTRA[a], SPECTRA[b]] for a, b in pairs])
    # Age, moisture and variety: a common gain, and a bend across the spectrum.
    gain = rng.normal(0, 0.10, (len(pairs), 2, 1))
    bend = rng.normal(0, 0.06, (len(pairs), 2, 1)) * np.linspace(-1, 1, len(BANDS))
    free = rng.normal(0, 0.012, ends.shape)
    varied = np.s_[:_PARCEL_KINDS], np.s_[_ROOF:]
    for rows in varied:
        ends[rows] *= np.exp(gain + bend + free)[rows]
    return ends[:, 0].astype(np.float32), ends[:, 1].astype(np.float32)


def landscape(n: int, rng: np.random.Generator) -> Landscape:
    """Invent a country of (n, n) samples: hills, fields, woods, water, towns, clouds.

    Everything is there at any size: in small scenes things stand closer together.
    """
    c = _Canvas.blank(n, rng)
    heading = rng.uniform(0, 2 * np.pi)
    height = _terrain(c, heading)
    borders = _fields(c)
    _woods(c, height)
    _hilltops(c, height)
    _waters(c, height, heading)
    roads = _towns(c, height)
    open_land = c.kind < _PARCEL_KINDS
    lines = [*((what, share * open_land) for what, share in borders), *roads]

    crowns = np.where(c.kind == _WOOD, np.float32(0.14), np.float32(0.022))
    crowns[c.kind == _WATER] = 0.006
    light = hillshade(height) * (1 + crowns * c.texture(60, slope=2.0))
    # Trees and houses about 12 m high throw shade over the two samples behind.
    shade = (away_from_sun(c.tall, 7) | away_from_sun(c.tall, 13)) & ~c.tall
    light[shade] *= 0.45
    cloud = _clouds(c)
    light *= (1 - away_from_sun(cloud, c.span(900, 0.09))) ** 2.5

    first, second = _spectra_of_kinds(rng)
    return Landscape(
        kind=c.kind,
        first=first,
        second=second,
        blend=c.blend,
        sunlight=np.clip(light, 0, 2),
        tone=c.texture(900, slope=2.4),
        lines=tuple(lines),
        cloud=cloud,
        cirrus=np.float32(8e-4) * np.exp(0.5 * c.texture(c.span(6000, 0.6), slope=3.4)),
    )
