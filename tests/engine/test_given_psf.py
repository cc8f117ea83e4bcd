"""Networks that are given the point spread function of the sensor."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from worlds import tree

import s2sr_xr
from s2sr_xr.errors import GridError, ModelError

BANDS = ["B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12"]


def scene(**attrs):
    made = tree((12, 12), BANDS)
    made.attrs |= attrs
    return made


def restored(obj, **options):
    return obj.s2sr.upsample(
        {"20m": "psf-regression-20m"}, keep_native=False, **options
    )


def test_the_unit_decides_the_width():
    by_a = restored(scene(platform="sentinel-2a")).B11
    by_b = restored(scene(platform="sentinel-2b")).B11
    assert by_a.attrs["s2sr_psf"].endswith("the published MTF of S2A")
    assert by_b.attrs["s2sr_psf"].endswith("the published MTF of S2B")
    assert not by_a.equals(by_b)


def test_an_unknown_unit_is_said():
    assert "the unit being unknown" in restored(scene()).B05.attrs["s2sr_psf"]


def test_a_width_is_used_and_kept_in_the_attributes():
    given = restored(scene(), psf={"B05": 7.5})
    assert given.B05.attrs["s2sr_psf"].startswith("7.5 m, given")
    plain = restored(scene())
    assert not given.B05.equals(plain.B05)
    # The bands of a regression share the mean of their widths; the others keep theirs.
    np.testing.assert_array_equal(given.B11, plain.B11)


def test_what_measure_psf_returns_can_be_given():
    measured = xr.Dataset(
        {"sigma": ("band", [8.7, 10.8]), "stderr": ("band", [0.1, 0.2])},
        {"band": ["B05", "B11"]},
    )
    made = restored(scene(), psf=measured)
    assert made.B11.attrs["s2sr_psf"].startswith("10.8 m, measured")


def test_tiling_is_invisible_whatever_the_width():
    whole = scene()
    lazy = restored(whole.chunk(x=50, y=37), psf={"B05": 9.0})
    xr.testing.assert_equal(lazy.compute(), restored(whole, psf={"B05": 9.0}))


def test_the_width_is_part_of_the_name_of_a_result():
    lazy = scene().chunk()
    names = {restored(lazy, psf={"B05": w}).B05.data.name for w in (8.0, 9.0)}
    assert len(names) == 2
    assert restored(lazy).B05.data.name == restored(lazy).B05.data.name


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"psf": {"B05": 99}}, GridError, "B05 is 99 m; supported are 5.0 m"),
        ({"psf": {"B05": float("nan")}}, GridError, "B05 is nan m"),
        ({"psf": {"B13": 9}}, s2sr_xr.MissingBandError, "'B13', which is not a band"),
        ({"psf": {"B01": 30}}, s2sr_xr.MissingBandError, "B01, not among the bands"),
        ({"psf": "mine"}, GridError, "psf='mine' is not known"),
        ({"consistent": True}, ModelError, "gives back what the sensor recorded"),
    ],
)
def test_what_is_not_a_psf_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        restored(scene(), **options)


def test_a_network_without_a_sensor_is_given_none():
    with pytest.raises(ModelError, match='use model="restored"'):
        scene().s2sr.upsample({"20m": "dsen2-s-20m"}, psf={"B05": 8.5})
