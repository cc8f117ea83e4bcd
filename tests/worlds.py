"""Small objects on real kinds of grids, and networks whose sums are exact."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from s2sr_xr.core.bands import BANDS, group
from s2sr_xr.core.grid import Grid
from s2sr_xr.models.registry import register
from s2sr_xr.models.spec import BandGroup, ModelSpec

SOUTH = "EPSG:32722"  # a southern zone: 60 m cells count from 10 000 000
CORNER = (600_000.0, 8_200_000.0)  # y % 60 == 40, as half of all tiles


def grid(shape, res=10, corner=CORNER, epsg=SOUTH):
    from pyproj import CRS

    return Grid(
        crs=CRS.from_user_input(epsg).to_wkt(),
        x_edge=corner[0],
        y_edge=corner[1],
        res=float(res),
        shape=shape,
    )


def tree(cells, bands, *, cell=60, times=None, seed=0, values=None, corner=CORNER):
    """Return a tree of whole `cells` of `cell` metres, random reflectance."""
    rng = np.random.default_rng(seed)
    groups = {}
    for metres in (10, 20, 60):
        names = [b for b in bands if BANDS[b].native == metres]
        if not names:
            continue
        shape = tuple(n * cell // metres for n in cells)
        lead = () if times is None else (times,)
        dims = ("y", "x") if times is None else ("time", "y", "x")
        coords = grid(shape, metres, corner).coords()
        if times is not None:
            start = np.datetime64("2024-05-01", "ns")
            coords["time"] = start + np.arange(times) * np.timedelta64(5, "D")
            coords["item_id"] = (
                "time",
                np.array([f"item-{t}" for t in range(times)], object),
            )
        make = values or (lambda size: rng.uniform(0.02, 0.6, size).astype("f4"))
        groups[group(metres)] = xr.Dataset(
            {b: (dims, make(lead + shape)) for b in names}, coords
        )
    made = xr.DataTree.from_dict(groups)
    made.attrs["level"] = "L1C"
    return made


def detector(shape, seed=0):
    """Return one detector in counts, from line 100 and sample 40 on."""
    rng = np.random.default_rng(seed)
    coords = {
        d: start + 0.5 + np.arange(n)
        for d, start, n in zip("yx", (100, 40), shape, strict=True)
    }
    bands = {
        b: (("y", "x"), rng.uniform(60, 900, shape).astype("f4"), {"units": "count"})
        for b in ("B02", "B03", "B04", "B08")
    }
    return xr.Dataset(bands, coords)


def integers(seed=0):
    """Return a maker of small whole numbers: their float32 sums are exact."""
    rng = np.random.default_rng(seed)
    return lambda size: rng.integers(-9, 10, size).astype("f4")


class WholeNumbers(torch.nn.Module):
    """A network of whole-number weights that looks exactly `margin` cells far.

    Every output band is its own input, repeated, plus one fixed lopsided kernel over
    the first band of every group. In float64 the sums are exact, those of filled pixels
    too, so any difference is a pixel that was read from the wrong place.
    """

    def __init__(self, spec, *, valid=True):
        super().__init__()
        self.spec, self.valid = spec, valid

    def forward(self, *images):
        spec, k = self.spec, self.spec.output.per_cell
        shared = 0
        images = [image.double() for image in images]
        for g, image in zip(spec.inputs, images, strict=True):
            reach = spec.margin * g.per_cell
            side = 2 * reach + 1
            kernel = torch.zeros(1, 1, side, side, dtype=torch.float64)
            kernel[0, 0, 0, 0], kernel[0, 0, -1, 0] = 1, 2  # the far corners
            kernel[0, 0, reach, -1], kernel[0, 0, reach, reach] = 3, -1
            seen = torch.nn.functional.conv2d(image[:, :1], kernel)
            shared = shared + _repeat(seen, k // g.per_cell)
        own = []
        for name in spec.output.names:
            g, image = next(
                (g, i)
                for g, i in zip(spec.inputs, images, strict=True)
                if name in g.names
            )
            m = spec.margin * g.per_cell
            band = image[:, g.names.index(name)][:, None]
            band = band[:, :, m : band.shape[2] - m, m : band.shape[3] - m]
            own.append(_repeat(band, k // g.per_cell) + shared)
        return torch.cat(own, 1).float()


def _repeat(x, k):
    return x.repeat_interleave(k, -2).repeat_interleave(k, -1)


def _spec(name, cell, inputs, makes, per_cell, margin, tile):
    return ModelSpec(
        name=name,
        title="whole numbers, for tests",
        cell=cell,
        inputs=tuple(BandGroup(names=n, per_cell=k) for n, k in inputs),
        output=BandGroup(names=makes, per_cell=per_cell),
        margin=margin,
        tile=tile,
        trained=False,
        fill={"B02": 3.0, "B08": 1.0, "B05": -2.0, "B11": 4.0, "B01": 5.0},
    )


MIXES = {
    "10->5": _spec("test-5", 10, [(("B02", "B08"), 1)], ("B02", "B08"), 2, 3, 5),
    "10+20->10": _spec(
        "test-20",
        20,
        [(("B02", "B08"), 2), (("B05", "B11"), 1)],
        ("B05", "B11"),
        2,
        2,
        4,
    ),
    "10+20+60->10": _spec(
        "test-60",
        60,
        [(("B02", "B08"), 6), (("B05", "B11"), 3), (("B01",), 1)],
        ("B01",),
        6,
        1,
        3,
    ),
    "10+20->5": _spec(
        "test-20-5",
        20,
        [(("B02", "B08"), 2), (("B05", "B11"), 1)],
        ("B02", "B08", "B05", "B11"),
        4,
        2,
        3,
    ),
}

for made in MIXES.values():
    register(made, lambda made=made: WholeNumbers(made))
