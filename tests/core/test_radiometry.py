"""Law 10: the offset is applied once, for every catalogue, level and baseline."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from s2sr_xr.core.radiometry import band_of, baseline_of, decide, override
from s2sr_xr.core.reflectance import Radiometry, decode
from s2sr_xr.errors import MissingBandError, RadiometryError, S2SRWarning

ITEMS = Path(__file__).parents[3] / "shared" / "data" / "stac_items"
COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def item(key="B04", asset=None, *, name="S2A_x", collection=None, **properties):
    """Return the least of an item: one band."""
    fields = {"href": f"https://host/{key}.tif", "type": COG, **(asset or {})}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        "geometry": None,
        "properties": {"datetime": "2024-05-01T10:00:00Z", **properties},
        "links": [],
        "assets": {key: fields},
    }


def v1(scale=1e-4, offset=-0.1, **more):
    return {
        "raster:bands": [{"nodata": 0, "scale": scale, "offset": offset, **more}],
        "eo:bands": [{"name": "B04", "common_name": "red"}],
    }


V2 = {"raster:scale": 1e-4, "raster:offset": -0.1, "nodata": 0}
BASELINE = "s2:processing_baseline"

# Layouts of real catalogues, reduced: what is there, and what it means.
GOLDEN = {
    "planetary computer, old": (item(**{BASELINE: "02.12"}), "0", BASELINE),
    "planetary computer, last before": (item(**{BASELINE: "03.01"}), "0", BASELINE),
    "planetary computer, first with": (item(**{BASELINE: "04.00"}), "-1000", BASELINE),
    "planetary computer, new": (item(**{BASELINE: "05.11"}), "-1000", BASELINE),
    "planetary computer, raster without offset": (
        item(asset={"raster:bands": [{"nodata": 0}]}, **{BASELINE: "05.10"}),
        "-1000",
        BASELINE,
    ),
    "earth search c1": (
        item("red", v1(), collection="sentinel-2-c1-l2a", **{BASELINE: "05.11"}),
        "-1000",
        "raster:bands",
    ),
    "earth search l1c, old": (
        item("red", v1(offset=0), collection="sentinel-2-l1c", **{BASELINE: "02.09"}),
        "0",
        "raster:bands",
    ),
    "earth search l2a, old": (
        item(
            "red",
            v1(offset=0),
            collection="sentinel-2-l2a",
            **{BASELINE: "02.14", "earthsearch:boa_offset_applied": False},
        ),
        "0",
        "raster:bands",
    ),
    "cdse": (item("B04_10m", V2), "-1000", "raster:offset"),
    "stac 1.1": (
        item(asset={"bands": [{"name": "B04", **V2}]}),
        "-1000",
        "raster:offset",
    ),
    "no metadata, named product": (
        item(name="S2A_MSIL1C_20200615T060641_N0209_R134_T45WWS_20200615T080720"),
        "0",
        "product id",
    ),
    "no metadata, product in a property": (
        item(**{"s2:product_uri": "S2B_MSIL2A_20250731T131909_N0511_R095_T20EPT.SAFE"}),
        "-1000",
        "product id",
    ),
    "scale of another unit": (
        item(asset=v1(scale=1e-5, offset=-0.1)),
        "-10000, scale 1e-05",
        "raster:bands",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("make", [lambda i: i, pystac.Item.from_dict])
def test_every_layout_is_decided(name, make):
    facts, offset, source = GOLDEN[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decided = decide(make(facts), "B04")
    assert str(decided) == f"{offset}, from {source}"
    assert decided.nodata == 0


def test_deciding_leaves_the_item_alone():
    facts = item("red", v1())
    before = json.dumps(facts)
    decide(facts, "B04")
    assert json.dumps(facts) == before


@pytest.mark.parametrize("flag", [True, False])
def test_flags_that_contradict_the_pixels_are_not_believed(flag):
    doubtful = item(
        "red",
        v1(),
        collection="sentinel-2-l2a",
        **{BASELINE: "05.09", "earthsearch:boa_offset_applied": flag},
    )
    with pytest.warns(S2SRWarning, match=r"sentinel-2-l2a.*radiometry=") as warned:
        decided = decide(doubtful, "B04")
    assert decided.offset == 0
    assert [Path(w.filename).name for w in warned] == ["test_radiometry.py"]


def test_esas_own_files_beside_them_are_believed():
    facts = item("red-jp2", v1(), collection="sentinel-2-l2a", **{BASELINE: "05.09"})
    facts["properties"]["earthsearch:boa_offset_applied"] = True
    facts["assets"]["red-jp2"]["type"] = "image/jp2"
    assert decide(facts, "B04").offset == -1000


@pytest.mark.parametrize("properties", [{}, {BASELINE: "99.99"}, {BASELINE: ""}])
def test_an_undecidable_item_raises_with_the_remedy(properties):
    with pytest.raises(RadiometryError, match=r"B04 of S2A_x.*radiometry=\{\"offset\""):
        decide(item(**properties), "B04")


def test_a_missing_band_is_named():
    with pytest.raises(MissingBandError, match=r"S2A_x has no .* B11 \(it has B04\)"):
        decide(item(), "B11")


@pytest.mark.parametrize("scale", [0, -1e-4, float("nan")])
def test_a_scale_that_is_none_raises(scale):
    with pytest.raises(RadiometryError, match="positive number"):
        decide(item(asset=v1(scale=scale)), "B04")


@pytest.mark.skipif(not ITEMS.exists(), reason="real STAC items are not here")
@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("planetary_computer_l2a", "0, from s2:processing_baseline"),
        ("earth_search_v1_c1_l2a", "-1000, from raster:bands"),
    ],
)
def test_real_items_are_decided(folder, text):
    paths = sorted((ITEMS / folder).glob("S2*.json"))
    assert len(paths) >= 3
    for path in paths:
        facts = json.loads(path.read_text())
        bands = {b for b in (band_of(k, a) for k, a in facts["assets"].items()) if b}
        assert len(bands) == 12
        assert {str(decide(facts, band)) for band in bands} == {text}


# --- the user's word ------------------------------------------------------------------


def test_the_user_may_decide():
    assert override("auto") is None
    assert override({"offset": -1000}) == Radiometry(offset=-1000, source="user")
    both = override({"offset": 0, "scale": 2e-4})
    assert (both.offset, both.scale) == (0, 2e-4)


@pytest.mark.parametrize(
    "wrong", ["raw", None, -1000, {}, {"scale": 1e-4}, {"offset": 0, "gain": 1}]
)
def test_other_words_are_refused(wrong):
    with pytest.raises(RadiometryError, match=r"radiometry=.*give 'auto'"):
        override(wrong)


def test_a_decision_holds_numbers():
    with pytest.raises(RadiometryError, match="both must be numbers"):
        override({"offset": "-1000"})
    with pytest.raises(RadiometryError, match="finite number of counts"):
        override({"offset": float("inf")})


# --- arithmetic -----------------------------------------------------------------------

ALL_COUNTS = np.arange(2**16, dtype=np.uint16)


@pytest.mark.parametrize("offset", [-1000, 0, 250])
def test_every_count_is_rounded_once(offset):
    decoded = decode(ALL_COUNTS, Radiometry(offset=offset, source="test"))
    plain = (ALL_COUNTS.astype(np.float32) + np.float32(offset)) / np.float32(10_000)
    exact = ((ALL_COUNTS.astype(np.float64) + offset) / 10_000).astype(np.float32)
    assert decoded.dtype == np.float32
    assert np.isnan(decoded[0])
    np.testing.assert_array_equal(decoded[1:], plain[1:])
    np.testing.assert_array_equal(decoded[1:], exact[1:])


@given(
    counts=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.int32]), (3, 4)
    ),
    offset=st.sampled_from([-1000, 0]),
    nodata=st.integers(0, 3),
)
def test_only_no_data_is_lost(counts, offset, nodata):
    before = counts.copy()
    decoded = decode(counts, Radiometry(offset=offset, nodata=nodata, source="test"))
    np.testing.assert_array_equal(np.isnan(decoded), counts == nodata)
    np.testing.assert_array_equal(counts, before)
    back = np.round(decoded.astype(np.float64) * 10_000 - offset)
    small = (counts != nodata) & (np.abs(counts.astype(np.int64)) < 2**16)
    np.testing.assert_array_equal(back[small], counts[small])


def test_dark_pixels_stay_negative():
    dark = decode(
        np.array([1, 500], np.uint16), Radiometry(offset=-1000, source="test")
    )
    np.testing.assert_array_equal(dark, np.array([-0.0999, -0.05], np.float32))


def test_another_scale_is_a_product():
    halves = Radiometry(offset=1, scale=0.3, source="test")
    np.testing.assert_allclose(decode(np.array([1, 2]), halves), [0.6, 0.9], rtol=1e-6)


def test_counts_are_decoded_once():
    with pytest.raises(RadiometryError, match="got float32: they were decoded already"):
        decode(np.ones(3, np.float32), Radiometry(offset=0, source="test"))


# --- names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "asset", "band"),
    [
        ("B04", {}, "B04"),
        ("red", {}, "B04"),
        ("B02_10m", {}, "B02"),
        ("nir08", {"eo:bands": [{"name": "B8A", "common_name": "nir08"}]}, "B8A"),
        ("rededge2", {"eo:bands": [{"name": "rededge2", "common_name": "x"}]}, "B06"),
        ("image", {"bands": [{"name": "b8a"}]}, "B8A"),
        ("image", {"bands": [{"eo:common_name": "swir16"}]}, "B11"),
        ("image", {"eo:bands": [{"common_name": "rededge"}]}, None),
        ("visual", {"eo:bands": [{"name": "B04"}, {"name": "B03"}]}, None),
        ("B04", {"roles": ["thumbnail"]}, None),
        ("B04", {"roles": ["truth"]}, None),
        ("B04", {"eo:bands": [3]}, "B04"),
        ("scl", {}, None),
        ("AOT_10m", {}, None),
    ],
)
def test_assets_are_matched_to_bands(key, asset, band):
    assert band_of(key, asset) == band


@pytest.mark.parametrize(
    ("name", "baseline"),
    [
        ("S2A_MSIL2A_20230625T234621_N0509_R073_T01WCP_20230626T022157", "05.09"),
        ("S2A_OPER_MSI_L2A_TL_ESRI_20201007T214651_A018417_T58UFE_N02.12", "02.12"),
        ("S2A_28QCH_20200714_0_L2A", ""),
    ],
)
def test_the_baseline_is_in_the_products_name(name, baseline):
    assert baseline_of({"id": name})[0] == baseline
