"""Detectors of L1B through the accessor: registered, made finer, or refused."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from worlds import detector, tree

import s2sr_xr
from s2sr_xr.core.bands import BANDS as ALL
from s2sr_xr.models import registry
from s2sr_xr.models.spec import BandGroup, ModelSpec

BANDS = ("B02", "B03", "B04", "B08")
SHIFTS = {"B02": (0, 2), "B03": (0, 0), "B04": (-3, 1), "B08": (1, -2)}


class KnownShifts(torch.nn.Module):
    """Stands for a network that finds the flows: each band's, from its mean."""

    def align(self, image, *, reference):
        from s2sr_xr.models.networks.registration import warp

        flow = torch.zeros(len(image), 4, 2, *image.shape[-2:])
        for n, band in enumerate(BANDS):
            for axis in range(2):
                own = SHIFTS[band][axis] - SHIFTS[BANDS[reference]][axis]
                flow[:, n, 1 - axis] = own
        out = torch.cat([warp(image[:, n, None], flow[:, n]) for n in range(4)], dim=1)
        return torch.cat([out, flow.flip(2).flatten(1, 2)], dim=1)


@pytest.fixture(scope="module", autouse=True)
def _networks():
    group = BandGroup(names=BANDS, per_cell=1)
    spec = ModelSpec(
        name="known-shifts",
        title="for tests",
        cell=10,
        inputs=(group,),
        output=group,
        margin=8,
        tile=16,
        exact=False,
        trained=False,
        units="count",
        also=tuple(f"flow_{a}_{b}" for b in BANDS for a in "yx"),
    )
    registry.register(spec, KnownShifts)
    yield
    del registry._MODELS["known-shifts"]


def moved(shape=(40, 50)):
    """Return a detector whose bands show one image, each `SHIFTS` away."""
    rng = np.random.default_rng(0)
    world = rng.uniform(60, 900, (shape[0] + 8, shape[1] + 8)).astype("f4")
    ds = detector(shape)
    for band, (down, right) in SHIFTS.items():
        rows = slice(4 - down, 4 - down + shape[0])
        cols = slice(4 - right, 4 - right + shape[1])
        ds[band].values[:] = world[rows, cols]
    return ds


@pytest.mark.parametrize("chunks", [None, 13])
@pytest.mark.parametrize("reference", ["B03", "red"])
def test_bands_lie_on_the_reference(chunks, reference):
    ds = moved() if chunks is None else moved().chunk(x=chunks, y=chunks)
    made = ds.s2sr.register("known-shifts", reference=reference, flow=True)
    anchor = {"red": "B04"}.get(reference, reference)
    with dask.config.set(scheduler="synchronous"):
        made = made.compute()
    for band in BANDS:
        valid = made[band].notnull().to_numpy()
        assert valid.mean() > 0.7
        np.testing.assert_allclose(
            made[band].values[valid], ds[anchor].values[valid], atol=0.01
        )
        if band == anchor:
            assert f"flow_y_{band}" not in made
            continue
        down, right = np.subtract(SHIFTS[band], SHIFTS[anchor])
        assert np.nanmax(np.abs(made[f"flow_y_{band}"] - down)) == 0
        assert np.nanmax(np.abs(made[f"flow_x_{band}"] - right)) == 0
    assert made.B02.attrs["units"] == "count"
    xr.testing.assert_equal(made.y, ds.y)
    assert "spatial_ref" not in made.coords


def test_what_comes_from_a_hole_or_from_beyond_is_missing():
    ds = moved()
    ds.B04.values[20, 20] = np.nan
    made = ds.s2sr.register("known-shifts")
    down, right = SHIFTS["B04"]
    gone = np.argwhere(np.isnan(made.B04.values[4:, :-1]))
    assert gone.tolist() == [[20 - down - 4, 20 - right]]
    assert np.isnan(made.B04.values[:3]).all()  # from above the first line
    assert not made.B03.isnull().any()


def test_a_tree_gives_a_tree_with_its_flags():
    ds = moved()
    ds.B02.attrs["saturated"] = 899
    obj = xr.DataTree.from_dict({"d05": ds, "d06": moved()})
    obj.attrs["level"] = "L1B"
    made = obj.s2sr.register("known-shifts")
    assert sorted(made.children) == ["d05", "d06"]
    assert int((made["d05"].quality & 2).max()) == 2
    assert int((made["d06"].quality & 2).max()) == 0
    assert made["d05"].attrs["title"] == "Sentinel-2 bands on B03"


def test_a_registered_detector_goes_to_zarr_and_back(tmp_path):
    made = moved().s2sr.register("known-shifts", flow=True)
    made.s2sr.to_zarr(tmp_path / "d05.zarr")
    again = s2sr_xr.open_result(tmp_path / "d05.zarr").load()
    np.testing.assert_allclose(again.B08, made.B08, atol=0.05001)
    np.testing.assert_array_equal(again.flow_x_B02, made.flow_x_B02)
    np.testing.assert_array_equal(again.x, made.x)


def named(**attrs):
    ds = moved()
    ds.B02.attrs |= attrs
    return ds


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: tree((2, 2), ALL), s2sr_xr.GridError, "takes L1B in sensor geometry"),
        (lambda: moved().drop_vars("B08"), s2sr_xr.MissingBandError, "takes B08"),
        (lambda: moved()[["B02", "B03"]].isel(y=slice(0, 0)), ValueError, "no lines"),
        (lambda: moved().isel(y=slice(None, None, 2)), ValueError, "without a stride"),
        (lambda: named(s2sr_model="csr"), s2sr_xr.GridError, "was made by csr"),
        (
            lambda: moved().assign(B04=moved().B04.astype("u2")),
            s2sr_xr.RadiometryError,
            "take float counts",
        ),
    ],
)
def test_what_is_no_detector_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        make().s2sr.register("known-shifts")


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda o: o.s2sr.register("rec-s"), s2sr_xr.ModelError, "does not register"),
        (
            lambda o: o.s2sr.register("known-shifts", reference="B05"),
            s2sr_xr.MissingBandError,
            "reference='B05' is not a band",
        ),
        (
            lambda o: o.s2sr.superresolve("bicubic-20m"),
            s2sr_xr.RadiometryError,
            "takes reflectance .* the data are raw counts",
        ),
        (lambda o: o.s2sr.upsample(), s2sr_xr.S2SRError, "no CRS|L1B"),
    ],
)
def test_the_wrong_network_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call(moved())


def test_counts_are_not_taken_for_reflectance():
    obj = tree((2, 2), ALL)
    with pytest.raises(s2sr_xr.RadiometryError, match="known-shifts takes raw counts"):
        obj.s2sr.superresolve("known-shifts")
