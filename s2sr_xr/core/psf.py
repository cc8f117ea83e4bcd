"""The point spread of each band, as a width in metres, beside the grid that is made.

A coarse pixel is ``y = A x``: a Gaussian, then the mean over the pixel. A band's
*width* is the standard deviation of both along a line, beside the point spread that
the finer pixels have themselves: the 10 m bands where 10 m is made. Deconvolution
gives back no more than that.

The widths of the units follow from the published MTFs: a Gaussian of
``p / pi * sqrt(-2 ln m)`` metres has the MTF m at the Nyquist frequency of pixels of
p metres. Level-1C pixels are interpolated once more, from sensor to map, which costs
`RESAMPLING` of a pixel; and the squared width of the finer pixels is taken away. At
5 m there is no such band: its own point spread is that of the 10 m bands, half as
wide.

References
----------
Clerc and MPC team (2017), S2 MPC L1C Data Quality Report, S2-PDGS-MPC-DQR, section
2.3.4: MTF of Sentinel-2A; the same figures in Lanaras et al. (2017), Super-resolution
of multispectral multiresolution images from a single sensor, CVPR workshops, and
Ulfarsson et al. (2019), Sentinel-2 sharpening using a reduced-rank method, IEEE TGRS.
CNES sensorsio (2021), ``Sentinel2.MTF``: figures of ESA, the unit not stated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

from s2sr_xr.core.bands import BANDS, by_resolution, canonical
from s2sr_xr.errors import GridError, MissingBandError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

__all__ = [
    "MTF",
    "UNITS",
    "Psf",
    "PsfLike",
    "resolve_psf",
    "sensor_width",
    "supported",
    "unit_of",
]

PsfLike: TypeAlias = "Literal['sensor'] | Mapping[str, float] | xr.Dataset"
"""What a user may say: the published widths, their own in metres, or measured ones."""

_MPC_2017 = {
    "B01": 0.32,
    "B02": 0.26,
    "B03": 0.28,
    "B04": 0.24,
    "B05": 0.38,
    "B06": 0.34,
    "B07": 0.34,
    "B08": 0.26,
    "B8A": 0.33,
    "B09": 0.26,
    "B11": 0.22,
    "B12": 0.23,
}
# B01 is not in the table; that of Sentinel-2A stands in.
_CNES_2021 = {b.name: b.mtf for b in BANDS.values() if b.name != "B10"}

MTF: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "S2A": MappingProxyType(_MPC_2017),
        "S2B": MappingProxyType(_CNES_2021),
        "S2C": MappingProxyType(_CNES_2021),
    }
)
"""MTF at the Nyquist frequency of native pixels, by unit and band. For S2B and S2C no
table of their own was to be had: they have that of CNES, which names no unit. Its
widths and those of S2A differ by at most 0.6 m in the 20 m bands."""

UNITS = tuple(MTF)
"""The units whose widths are known."""

RESAMPLING = 0.22
"""Native pixels by which the interpolation from sensor to map widens. It is what is
lacking between the published MTFs and what `measure_psf` finds on real scenes."""

GIVEN = "given"
"""The source of widths that a user names."""

SEEN, TAILS = 2, 3.0
"""A coarse pixel sees so many coarse pixels on each side of it, and so many standard
deviations of the Gaussian must fit into them."""


def unit_of(platform: str | None) -> str | None:
    """Return the unit that a platform or product name tells, None where it does not.

    Several units, as in "sentinel-2a, sentinel-2b", are none.

    >>> unit_of("sentinel-2b"), unit_of("S2A_MSIL2A_20200101"), unit_of("Sentinel-2")
    ('S2B', 'S2A', None)
    """
    found = set()
    for part in (platform or "").upper().replace("SENTINEL", "S").split(","):
        stem = part.strip().replace("-", "")[:3]
        found.add(stem if stem in MTF else None)
    return found.pop() if len(found) == 1 else None


def supported(native: int, target: float = 10) -> tuple[float, float]:
    """Return the narrowest and the widest width that a band may have, in metres.

    The narrowest is the pixel alone; the widest is what still fits into the pixels
    that are looked at.

    Parameters
    ----------
    native
        Side of a pixel of the band, in metres.
    target
        Side of the pixels that are made, in metres; divides `native`.

    >>> [round(w, 1) for w in supported(20)], [round(w, 1) for w in supported(60)]
    ([5.0, 14.2], [17.1, 43.5])
    """
    factor = round(native / target)
    alone = math.sqrt((factor**2 - 1) / 12)
    return alone * target, math.hypot(SEEN * factor / TAILS, alone) * target


def sensor_width(band: str, unit: str | None = None, *, target: float = 10) -> float:
    """Return the width of a band from its published MTF, in metres.

    Parameters
    ----------
    band
        ESA's identifier; a band that is coarser than `target`.
    unit
        One of `UNITS`; None: the mean of all.
    target
        Side of the pixels that are made, in metres.

    Raises
    ------
    MissingBandError
        B10, whose MTF is not published, or no such band.
    GridError
        The unit is unknown, or the band is not coarser than `target`.

    >>> round(sensor_width("B8A", "S2A"), 2), round(sensor_width("B11"), 2)
    (8.78, 10.6)
    """
    if unit is None:
        return sum(sensor_width(band, u, target=target) for u in UNITS) / len(UNITS)
    if unit not in MTF:
        raise GridError(
            f"Unit {unit!r} is not known; choose from {', '.join(UNITS)}, or None for "
            "their mean."
        )
    if band not in MTF[unit]:
        raise MissingBandError(
            f"The MTF of {band} is not published; it is known of "
            f"{', '.join(MTF[unit])}. Give its width yourself: psf={{{band!r}: ...}}."
        )
    if BANDS[band].native <= target:
        raise GridError(
            f"{band} has pixels of {BANDS[band].native} m: beside pixels of {target:g} "
            "m it has no width. Leave it out."
        )
    fine = [_spread(b, unit) ** 2 for b in by_resolution(10)]
    # A finer grid has the point spread of the 10 m bands, scaled to its pixel.
    own = sum(fine) / len(fine) * (target / 10) ** 2
    return math.sqrt(_spread(band, unit) ** 2 - own)


def _spread(band: str, unit: str) -> float:
    """Return the standard deviation of all that blurs a band, in metres."""
    native = BANDS[band].native
    gaussian = native / math.pi * math.sqrt(-2 * math.log(MTF[unit][band]))
    return math.hypot(gaussian, RESAMPLING * native)


@dataclass(frozen=True, slots=True)
class Psf(Mapping[str, float]):
    """Widths in metres by band, checked: hashable, and the same in every process."""

    pairs: tuple[tuple[str, float], ...]
    """Band and width, in the order of the instrument."""

    source: str
    """Where they come from, for attributes and people."""

    def __getitem__(self, band: str) -> float:
        """Return the width of a band."""
        return dict(self.pairs)[band]

    def __iter__(self) -> Iterator[str]:
        """Yield the bands."""
        return (band for band, _ in self.pairs)

    def __len__(self) -> int:
        """Return how many bands there are."""
        return len(self.pairs)

    def __str__(self) -> str:
        """Return widths and source as text.

        >>> str(Psf((("B05", 8.66),), "given"))
        'B05 8.66 m (given)'
        """
        told = ", ".join(f"{band} {width:.4g} m" for band, width in self.pairs)
        return f"{told} ({self.source})"


def resolve_psf(
    psf: PsfLike = "sensor",
    *,
    bands: Sequence[str],
    unit: str | None = None,
    target: float = 10,
) -> Psf:
    """Return the width of each band, from what the user says and the unit.

    Parameters
    ----------
    psf
        ``"sensor"``: the published MTFs of the unit. A mapping from bands to metres,
        or the Dataset of `measure_psf`: bands that it does not name have the sensor's.
    bands
        The bands that are made finer.
    unit
        One of `UNITS`; None where it is not known: the mean, and `source` says so.
    target
        Side of the pixels that are made, in metres.

    Returns
    -------
    Psf
        Widths in metres; `source` tells where they come from.

    Raises
    ------
    MissingBandError
        A mapping names what is not a band, or not one that is made finer.
    GridError
        A width is not a number, or outside what is supported; the message has the
        range.

    >>> print(resolve_psf({"B5": 8.5}, bands=["B05", "B11"], unit="S2A"))
    B05 8.5 m, B11 10.48 m (given, the rest from the published MTF of S2A)
    """
    named, source = _told(psf)
    made = [b for b in BANDS if b in bands]
    if source == GIVEN and (absent := [b for b in named if b not in made]):
        raise MissingBandError(
            f"psf names {', '.join(absent)}, not among the bands that are made finer: "
            f"{', '.join(made)}. Leave it out of psf."
        )
    for band in made:
        if band in named:
            _check(band, named[band], target)
    rest = [b for b in made if b not in named]
    sensor = f"the published MTF of {unit or 'the mean of ' + ', '.join(UNITS)}"
    if rest and unit is None:
        sensor += ", the unit being unknown"
    parts = [source] if len(rest) < len(made) or not made else []
    if rest:
        parts.append(f"the rest from {sensor}" if parts else sensor)
    widths = {b: named[b] if b in named else _of(b, unit, target) for b in made}
    return Psf(tuple(widths.items()), ", ".join(parts))


def _of(band: str, unit: str | None, target: float) -> float:
    """Return the sensor's width, to the millimetre: bits are the same everywhere."""
    return round(sensor_width(band, unit, target=target), 3)


def _told(psf: object) -> tuple[dict[str, float], str]:
    """Return the widths that are named, and what to call their source."""
    if isinstance(psf, str):
        if psf != "sensor":
            raise GridError(
                f'psf={psf!r} is not known. Give "sensor", a mapping such as '
                '{"B05": 8.5} in metres, or what measure_psf returns.'
            )
        return {}, ""
    import xarray as xr

    if isinstance(psf, xr.Dataset):
        return _measured(psf), "measured"
    if not isinstance(psf, Mapping):
        raise GridError(
            f"A psf is a width in metres for each band; got {type(psf).__name__} "
            f'({psf!r}). Give "sensor", a mapping such as {{"B05": 8.5}}, or what '
            "measure_psf returns."
        )
    named: dict[str, float] = {}
    for name, width in psf.items():
        band = canonical(str(name))
        if band is None:
            raise MissingBandError(
                f"psf names {name!r}, which is not a band. Sentinel-2 has "
                f"{', '.join(BANDS)}."
            )
        if isinstance(width, bool | str) or not isinstance(width, Real):
            raise GridError(
                f"The width of {band} is {width!r}, which is not a number of metres."
            )
        named[band] = float(width)
    return named, psf.source if isinstance(psf, Psf) else GIVEN


def _measured(found: xr.Dataset) -> dict[str, float]:
    """Return the widths of a Dataset of `measure_psf`."""
    if "sigma" not in found or found["sigma"].dims != ("band",) or "band" not in found:
        raise GridError(
            f"The Dataset has {sorted(map(str, found))}; a psf has sigma(band), in "
            "metres, as measure_psf returns it."
        )
    widths = dict(
        zip(map(str, found["band"].to_numpy()), found["sigma"].to_numpy(), strict=True)
    )
    if lacking := [b for b, w in widths.items() if math.isnan(w)]:
        raise GridError(
            f"{', '.join(lacking)} could not be measured (sigma is NaN). Take the "
            'sensor\'s width for them: psf=measured.dropna("band").'
        )
    return {b: float(w) for b, w in widths.items()}


def _check(band: str, width: float, target: float) -> None:
    native = BANDS[band].native
    if native <= target:
        raise GridError(
            f"psf names {band}, whose pixels of {native} m are not coarser than the "
            f"{target:g} m that are made. Leave it out."
        )
    least, most = supported(native, target)
    # The pixel alone, to four figures: the 7.071 m of DSen2's protocol are above it.
    if not least * 0.999 <= width <= most:
        raise GridError(
            f"The width of {band} is {width:g} m; supported are {least:.1f} m (the "
            f"pixel of {native} m alone) to {most:.1f} m beside pixels of {target:g} "
            "m. It is the standard deviation of point spread and pixel, in metres."
        )
