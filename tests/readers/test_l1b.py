"""L1B lies as the detectors saw it: counts by line and sample; bands move by wholes."""

from __future__ import annotations

import pickle
import shutil
import warnings
import zipfile
from pathlib import Path

import l1bs
import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.registration import phase_cross_correlation

from s2sr_xr.errors import (
    ChunkError,
    GridError,
    MissingBandError,
    ReadError,
    S2SRWarning,
)
from s2sr_xr.readers.fetch.source import source_of
from s2sr_xr.readers.l1b.open import align_to_green, open_l1b, overlaps
from s2sr_xr.readers.l1b.product import open_product
from s2sr_xr.readers.l1b.shift import estimate

DATA = Path(__file__).parents[3] / "shared" / "data"
REAL = DATA / "l1b"
METADATA = DATA / "safe_metadata" / "l1b"
BANDS = ("B02", "B03", "B04", "B08")


def counts(shape=(40, 30), seed=0, bands=BANDS):
    rng = np.random.default_rng(seed)
    return {b: rng.integers(1, 4096, shape).astype(np.uint16) for b in bands}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Two detectors of a simulated country; corners a few pixels wrong, as terrain."""
    return l1bs.simulate_l1b(tmp_path_factory.mktemp("l1b"), corner_error=(6, -9))


@pytest.fixture
def tiff(tmp_path):
    images = counts()
    stack = np.stack([images[b] for b in BANDS])
    return l1bs.write_image(tmp_path / "crop.tif", stack), images


@pytest.fixture
def product(tmp_path):
    """Two granules of detector 5, one of detector 6."""
    a, b, c = counts(seed=1), counts(seed=2), counts(seed=3)
    folder = l1bs.write_product(tmp_path, [(5, 101, a), (5, 141, b), (6, 61, c)])
    return folder, (a, b, c)


# --- opening --------------------------------------------------------------------------


def test_a_product_is_a_group_a_detector_counted_in_its_own_raster(product):
    folder, (a, b, c) = product
    tree = open_l1b(folder)
    assert [*tree.children] == ["d05", "d06"]
    five, six = tree["d05"], tree["d06"]
    for ds in (five, six):
        assert [*ds.data_vars] == [*BANDS]
        assert all(v.dims == ("y", "x") for v in ds.data_vars.values())
        assert all(v.dtype == np.float32 for v in ds.data_vars.values())
        assert "spatial_ref" not in ds.coords
        assert ds.y.dtype == ds.x.dtype == np.float64
    assert (five.y[0], five.y[-1], five.x[0], five.x[-1]) == (100.5, 179.5, 0.5, 29.5)
    assert (six.y[0], six.y[-1]) == (60.5, 99.5)
    for band in BANDS:
        np.testing.assert_array_equal(five[band], np.vstack([a[band], b[band]]))
        np.testing.assert_array_equal(six[band], c[band])
        attrs = five[band].attrs
        assert attrs["units"] == "count"
        assert (attrs["shift_y"], attrs["shift_x"]) == (0, 0)
        assert attrs["saturated"] == 4095
    assert tree.attrs == {
        "level": "L1B",
        "platform": "Sentinel-2A",
        "baseline": "05.11",
        "start_time": "2025-01-04T13:32:31.024Z",
        "datatake": "GS2A_20250104T133231_049806_N05.11",
        "source": "SAFE",
    }
    assert five.attrs["detector"] == 5


def test_a_granule_a_metadata_file_and_a_zip_open_too(product, tmp_path):
    folder, (_, b, _) = product
    granule = sorted((folder / "GRANULE").iterdir())[2]
    metadata = next(granule.glob("*.xml"))
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            if path.is_file():
                archive.write(path, path.relative_to(tmp_path))
    whole = open_l1b(folder)
    xr.testing.assert_equal(open_l1b(packed)["d05"].ds, whole["d05"].ds)
    xr.testing.assert_equal(
        open_l1b(next(folder.glob("*.xml")))["d06"].ds, whole["d06"].ds
    )
    for path in (granule, metadata):
        tree = open_l1b(path)
        assert [*tree.children] == ["d05"]
        assert float(tree["d05"].y[0]) == 140.5
        np.testing.assert_array_equal(tree["d05"].B08, b["B08"])


def test_a_tiff_is_one_detector(tiff, tmp_path):
    path, images = tiff
    tree = open_l1b(path)
    assert [*tree.children] == ["d01"]
    assert tree.attrs["source"] == "TIFF"
    for band in BANDS:
        np.testing.assert_array_equal(tree["d01"][band], images[band])
    for name, group in {
        "S2A_OPER_MSI_L1B_GR_X_D07_N05.11.tif": "d07",
        "d12.tiff": "d12",
        "place-d03-4.TIF": "d03",
        "d13.tif": "d01",
        "mid05.tif": "d01",
    }.items():
        shutil.copy(path, tmp_path / name)
        assert [*open_l1b(tmp_path / name).children] == [group], name


def test_descriptions_order_the_bands_of_a_tiff(tmp_path):
    images = counts()
    names = ("B08", "B04", "B03", "B02")
    stack = np.stack([images[b] for b in names])
    path = l1bs.write_image(tmp_path / "rgb.tif", stack, descriptions=names)
    ds = open_l1b(path)["d01"]
    assert [*ds.data_vars] == [*BANDS]
    for band in BANDS:
        np.testing.assert_array_equal(ds[band], images[band])


def test_detectors_are_chosen_by_any_name(product):
    folder, _ = product
    for asked in ([6], ["06"], ["d06"], ("D06",), "d06", 6):
        assert [*open_l1b(folder, detectors=asked).children] == ["d06"]
    for asked in ([4], ["d07", 5], [], ["green"]):
        with pytest.raises(GridError, match=r"it has 05, 06\. Name them"):
            open_l1b(folder, detectors=asked)


def test_no_data_and_missing_granules_are_nan(tmp_path):
    a, b = counts(seed=1), counts(seed=2)
    a["B04"][3, 4] = 0
    folder = l1bs.write_product(tmp_path, [(2, 1, a), (2, 91, b)])
    ds = open_l1b(folder)["d02"]
    assert ds.sizes["y"] == 130
    missing = np.isnan(ds.B04.values)
    assert missing[3, 4]
    assert missing[40:90].all()
    assert missing.sum() == 1 + 50 * 30
    np.testing.assert_array_equal(ds.B04[90:], b["B04"])


@pytest.mark.parametrize("chunks", [7, 2196, None])
def test_any_window_is_what_the_whole_holds(scene, chunks):
    whole = open_l1b(scene.path, chunks=None)["d05"].B08.values
    lazy = open_l1b(scene.path, chunks=chunks)["d05"].B08
    rng = np.random.default_rng(0)
    for _ in range(5):
        rows, cols = (np.sort(rng.choice(150, 2, replace=False)) for _ in range(2))
        rows += 70  # across both granules
        part = np.s_[rows[0] : rows[1] : 2, cols[0] : cols[1]]
        np.testing.assert_array_equal(lazy[part], whole[part])
    np.testing.assert_array_equal(lazy[::-3, 5], whole[::-3, 5])
    assert lazy[10:10].shape == (0, 192)


@pytest.mark.parametrize("chunks", [64, None])
def test_nothing_is_read_at_opening_or_aligned_before_asked(product, chunks):
    folder, _ = product
    for image in folder.rglob("*.jp2"):
        image.write_bytes(b"no image")
    tree = open_l1b(folder, chunks=chunks)
    for array in tree["d05"].data_vars.values():
        assert source_of(array.variable) is not None
    with pytest.raises(ReadError, match=r"B02 of .*_D05_N05\.11 could not be read"):
        tree["d05"].B02.compute()
    with pytest.raises(ReadError, match="could not be read"):
        align_to_green(tree)


def test_dask_arrays_know_their_source_and_travel(scene):
    array = open_l1b(scene.path, chunks=100)["d06"].B04
    assert array.chunks == ((100, 100, 88), (100, 92))
    source = source_of(array.variable)
    assert source.shape == (1, 288, 192)
    window = source.read(0, slice(140, 150), slice(3, 9))
    np.testing.assert_array_equal(window, array[140:150, 3:9])
    again = pickle.loads(pickle.dumps(array))  # noqa: S301 - our own
    np.testing.assert_array_equal(again, array)
    assert open_l1b(scene.path, chunks=100)["d06"].B04.data.name == array.data.name
    other = open_l1b(scene.path, chunks=100)["d05"].B04
    assert other.data.name != array.data.name


def test_no_warning_that_an_image_is_not_on_the_map(tiff):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_l1b(tiff[0])["d01"].compute()


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [0, -5, True, 2.5])
def test_chunks_are_positive_whole_numbers(tiff, chunks):
    with pytest.raises(ChunkError, match="positive number of pixels"):
        open_l1b(tiff[0], chunks=chunks)


@pytest.mark.parametrize("level", ["1C", "2A"])
def test_other_levels_name_their_opener(tmp_path, level):
    (tmp_path / "GRANULE").mkdir()
    (tmp_path / f"MTD_MSIL{level}.xml").write_text(
        f'<n1:Level-{level}_User_Product xmlns:n1="x"/>'
    )
    with pytest.raises(ReadError, match=rf"MTD_MSIL{level}\.xml .*s2sr_xr\.open_safe"):
        open_l1b(tmp_path)


def test_what_is_not_a_product_is_refused(tmp_path):
    with pytest.raises(ReadError, match=r"a\.tif is a URL"):
        open_l1b("https://host/a.tif")
    with pytest.raises(ReadError, match="virtual file systems"):
        open_l1b("/vsizip/a.zip/a.tif")
    with pytest.raises(ReadError, match="nowhere does not exist"):
        open_l1b(tmp_path / "nowhere")
    with pytest.raises(ReadError, match="holds no granule of L1B"):
        open_l1b(tmp_path)
    with pytest.raises(ReadError, match=r"nowhere\.tif.*file not found"):
        open_l1b(tmp_path / "nowhere.tif")
    (tmp_path / "text.tif").write_text("no image")
    with pytest.raises(ReadError, match=r"text\.tif.*cut, damaged"):
        open_l1b(tmp_path / "text.tif")
    (tmp_path / "MTD_X.xml").write_text("<Something/>")
    with pytest.raises(ReadError, match=r"MTD_X\.xml describe neither"):
        open_l1b(tmp_path)
    (tmp_path / "A.SAFE").mkdir()
    (tmp_path / "B.SAFE").mkdir()
    (tmp_path / "MTD_X.xml").unlink()
    with pytest.raises(GridError, match=r"holds 2 products: A\.SAFE, B\.SAFE"):
        open_l1b(tmp_path)


def test_tiffs_of_other_kinds_are_refused(tmp_path):
    image = counts()["B02"]
    three = l1bs.write_image(tmp_path / "three.tif", np.stack([image] * 3))
    with pytest.raises(MissingBandError, match=r"three\.tif has 3 bands"):
        open_l1b(three)
    names = ("B02", "B03", "B04", "B05")
    named = l1bs.write_image(
        tmp_path / "named.tif", np.stack([image] * 4), descriptions=names
    )
    with pytest.raises(MissingBandError, match=r"describes its bands as 'B02'.*'B05'"):
        open_l1b(named)
    place = rasterio.transform.from_origin(6e5, 8.2e6, 10, 10)
    on_map = l1bs.write_image(
        tmp_path / "map.tif", np.stack([image] * 4), crs="EPSG:32722", transform=place
    )
    with pytest.raises(GridError, match=r"map\.tif has a CRS"):
        open_l1b(on_map)
    floats = l1bs.write_image(
        tmp_path / "floats.tif", np.stack([image] * 4).astype(np.float32)
    )
    with pytest.raises(ReadError, match="holds float32 where integer"):
        open_l1b(floats)


def test_a_missing_band_is_named(product):
    folder, _ = product
    next(folder.rglob("*D06_B04.jp2")).unlink()
    with pytest.raises(
        MissingBandError, match=r"_D06_.* no image of B04 \(it has B02, B03"
    ):
        open_l1b(folder)
    assert "B04" in open_l1b(folder, detectors=[5])["d05"]
    shutil.rmtree(next(folder.rglob("*D06*/IMG_DATA")))
    with pytest.raises(
        MissingBandError, match=r"no image of B02 \(it has none of 10 m"
    ):
        open_l1b(folder)


def test_granules_that_make_no_raster_are_refused(tmp_path):
    a = counts()
    wide = l1bs.write_product(tmp_path / "a", [(5, 1, a), (5, 41, counts((40, 31)))])
    with pytest.raises(GridError, match="30 and 31 samples"):
        open_l1b(wide)
    over = l1bs.write_product(tmp_path / "b", [(5, 1, a), (5, 40, a)])
    with pytest.raises(GridError, match=r"ends before line 40, .* begins at line 39"):
        open_l1b(over)


def test_an_image_of_another_shape_than_its_metadata_is_refused(tmp_path):
    folder = l1bs.write_product(tmp_path, [])
    l1bs.write_granule(folder, 5, 1, counts((40, 30)), shape=(40, 32))
    tree = open_l1b(folder)
    with pytest.raises(
        GridError, match=r"shape \(40, 30\) in its file, but \(40, 32\)"
    ):
        tree["d05"].B03.compute()


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("<DETECTOR_ID>05", "<DETECTOR_ID>13", ReadError, "DETECTOR_ID is '13'"),
        ("<DETECTOR_ID>05", "<DETECTOR_ID>../5", ReadError, "DETECTOR_ID is '../5'"),
        ("<POSITION>101", "<POSITION>top", ReadError, "POSITION is 'top'"),
        ("<POSITION>101", "<POSITION>-7", GridError, "from line -8 are not an image"),
        ("<NROWS>40", "<NROWS>0", GridError, "0 lines of 30 samples"),
        ('resolution="10"', 'resolution="11"', ReadError, "no size of 10 m images"),
        ("</n1:Level-1B", "</n1:Level", ReadError, "is damaged in line"),
        (
            "<n1:General",
            '<!DOCTYPE a [<!ENTITY b "c">]><n1:General',
            ReadError,
            "damaged",
        ),
    ],
)
def test_damaged_metadata_are_refused(product, old, new, error, message):
    folder, _ = product
    path = next(folder.rglob("*00101_D05.xml"))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(error, match=message):
        open_l1b(folder)


def test_entities_are_refused(product):
    folder, _ = product
    path = next(folder.rglob("*00101_D05.xml"))
    bomb = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>\n'
    path.write_text(path.read_text().replace("?>\n", "?>\n" + bomb, 1))
    with pytest.raises(ReadError, match="declares a DOCTYPE"):
        open_l1b(folder)


def test_names_in_metadata_are_never_followed(product, tmp_path):
    """Images are those of the granule's own folder; a path in the XML is only text."""
    folder, (a, _, _) = product
    secret = l1bs.write_image(tmp_path / "secret_B02.jp2", counts(seed=9)["B02"])
    path = next(folder.rglob("*00101_D05.xml"))
    inside = (
        f"<IMAGE_ID>../../../{secret.name}</IMAGE_ID><IMAGE_FILE>{secret}</IMAGE_FILE>"
    )
    text = path.read_text().replace("<SENSING_TIME>", inside + "<SENSING_TIME>", 1)
    path.write_text(text.replace("<GRANULE_ID>", "<GRANULE_ID>../../../", 1))
    np.testing.assert_array_equal(open_l1b(folder)["d05"].B02[:40], a["B02"])


def test_only_the_bands_of_ten_metres_are_there(product):
    folder, _ = product
    for granule in (folder / "GRANULE").iterdir():
        for name in ("x_B05.jp2", "x_B8A.jp2", ".x_B02.jp2", "x_B02.jp2.aux.xml"):
            (granule / "IMG_DATA" / name).write_text("not read")
    assert [*open_l1b(folder)["d05"].data_vars] == [*BANDS]
    (granule / "IMG_DATA" / "again_B02.jp2").write_text("not read")
    with pytest.raises(GridError, match="holds B02 twice"):
        open_l1b(folder)


# --- whole-pixel shifts ---------------------------------------------------------------


@given(y=st.integers(-6, 6), x=st.integers(-6, 6), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_a_whole_shift_is_found_through_gaps_gain_and_reversal(y, x, seed):
    """Whatever is missing in either, and whatever the second does to brightness."""
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(64, 72)).cumsum(0).cumsum(1).astype(np.float32)
    a, b = field[8:-8, 8:-8].copy(), field[8 - y : 56 - y, 8 - x : 64 - x].copy()
    b = 3 - 0.5 * b
    a[rng.random(a.shape) < 0.02] = np.nan
    b[:, : rng.integers(0, 20)] = np.nan
    found = estimate([(a, b)], reach=8)
    assert found[:2] == (y, x)
    assert found.score == pytest.approx(1, abs=1e-6)


def test_the_score_is_the_correlation_it_says():
    """Against the correlation of the shared pixels, computed one shift at a time."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 20, 24))
    a[3:6, 4] = np.nan

    def edges(v):
        size = np.full(v.shape, np.nan)
        down, right = v[2:, 1:-1] - v[:-2, 1:-1], v[1:-1, 2:] - v[1:-1, :-2]
        size[1:-1, 1:-1] = np.hypot(down, right)
        return size

    p, q = (np.pad(edges(v), 4, constant_values=np.nan) for v in (a, b))
    scores = {}
    for y in range(-4, 5):
        for x in range(-4, 5):
            moved = np.roll(q, (-y, -x), (0, 1))
            both = np.isfinite(p) & np.isfinite(moved)
            scores[y, x] = np.corrcoef(p[both], moved[both])[0, 1]
    best = max(scores, key=scores.get)
    found = estimate([(a, b)], reach=4)
    assert found[:2] == best
    assert found.score == pytest.approx(scores[best], abs=1e-9)


def test_flat_or_absent_images_have_no_shift():
    flat, rough = np.ones((20, 20)), np.random.default_rng(0).normal(size=(20, 20))
    for a, b in ((flat, rough), (rough, flat * np.nan), (flat[:2], rough[:2])):
        assert estimate([(a, b)], reach=4) == (0, 0, 0.0)
    assert estimate([], reach=4) == (0, 0, 0.0)


@pytest.mark.parametrize("chunks", [100, None])
def test_bands_come_to_green_by_the_nearest_whole_pixel(scene, chunks):
    before = open_l1b(scene.path, chunks=chunks)
    tree = align_to_green(before)
    for name in ("d05", "d06"):
        for band, truth in scene.shifts.items():
            array, raw = tree[name][band], before[name][band]
            shift = array.attrs["shift_y"], array.attrs["shift_x"]
            assert shift == tuple(round(t) for t in truth), (name, band)
            expected = raw.compute().shift(y=shift[0], x=shift[1])
            np.testing.assert_array_equal(array, expected)
            assert array.dtype == np.float32
            assert array.chunks == raw.chunks
            assert source_of(array.variable) is not None
            assert (raw.attrs["shift_y"], raw.attrs["shift_x"]) == (0, 0)
        xr.testing.assert_identical(tree[name].y, before[name].y)
    assert tree.attrs == before.attrs


def test_aligning_again_changes_nothing(scene):
    once = align_to_green(open_l1b(scene.path))
    twice = align_to_green(once)
    for name in once.children:
        xr.testing.assert_equal(once[name].ds, twice[name].ds)
        for band in BANDS:
            for key in ("shift_y", "shift_x"):
                assert once[name][band].attrs[key] == twice[name][band].attrs[key]


def test_a_part_in_memory_or_in_dask_aligns_as_the_whole_does(scene):
    part = open_l1b(scene.path).isel(y=slice(20, 180), x=slice(10, 150))
    lazy, loaded = align_to_green(part), align_to_green(part.compute())
    for band, truth in scene.shifts.items():
        for tree in (lazy, loaded):
            attrs = tree["d05"][band].attrs
            assert (attrs["shift_y"], attrs["shift_x"]) == tuple(map(round, truth))
        np.testing.assert_array_equal(lazy["d05"][band], loaded["d05"][band])
    assert lazy["d05"].B02.chunks is not None


def test_a_band_without_texture_stays_and_says_so(tmp_path):
    images = counts((80, 80))
    images["B08"][:] = 77
    stack = np.stack([images["B03"], images["B03"], images["B03"], images["B08"]])
    tree = open_l1b(l1bs.write_image(tmp_path / "d04.tif", stack))
    with pytest.warns(S2SRWarning, match="B08 of d04 has no texture") as caught:
        aligned = align_to_green(tree)
    ours = [w for w in caught if w.category is S2SRWarning]
    assert [w.filename for w in ours] == [__file__]
    assert aligned["d04"].B08.attrs["shift_y"] == 0
    assert aligned["d04"].B02.attrs["shift_score"] == 1.0


def test_only_detectors_with_green_align(tiff):
    with pytest.raises(GridError, match="none of d01 to d12"):
        align_to_green(xr.DataTree.from_dict({"r10m": xr.Dataset()}))
    tree = open_l1b(tiff[0])
    blind = xr.DataTree.from_dict({"d01": tree["d01"].to_dataset().drop_vars("B03")})
    with pytest.raises(MissingBandError, match="d01 has no B03"):
        align_to_green(blind)
    with pytest.raises(MissingBandError, match="d01 has no B03"):
        overlaps(blind)


# --- overlaps -------------------------------------------------------------------------


def without_corners(tree):
    tree = tree.copy(deep=False)
    for name in tree.children:
        ds = tree[name].to_dataset()
        ds.attrs.pop("tie_points", None)
        tree[name].dataset = ds
    return tree


def test_corners_place_detectors_against_each_other(scene, tmp_path):
    exact = l1bs.simulate_l1b(tmp_path, size=(96, 96), seed=1)
    ties = np.array(open_l1b(exact.path)["d05"].attrs["tie_points"])
    assert ties[:, :2].tolist() == [
        *([2304, 0], [2352, 0], [2352, 96], [2304, 96]),
        *([2352, 0], [2400, 0], [2400, 96], [2352, 96]),
    ]
    assert (ties[:, 2:] > (44, 9)).all()
    from s2sr_xr.readers.l1b.pair import from_ground

    there = np.array(open_l1b(exact.path)["d06"].attrs["tie_points"])
    assert from_ground(ties, there) == tuple(round(v) for v in exact.offset)
    # The corners of the other scene are wrong on purpose.
    a, b = (
        np.array(open_l1b(scene.path)[d].attrs["tie_points"]) for d in ("d05", "d06")
    )
    off = np.subtract(from_ground(a, b), scene.offset)
    np.testing.assert_allclose(off, (-6, 9), atol=0.51)


@pytest.mark.parametrize("prepare", [lambda t: t, without_corners, align_to_green])
def test_overlaps_show_the_same_ground_twice(scene, prepare):
    tree = prepare(open_l1b(scene.path))
    lines, samples = scene.shared
    found = list(overlaps(tree, size=(64, 48), min_valid=0.9))
    assert len(found) == (lines // 64) * (samples // 48)
    for first, second, offset in found:
        assert offset == tuple(round(v) for v in scene.offset)
        for view, detector in ((first, 5), (second, 6)):
            assert view.sizes == {"y": 64, "x": 48}
            assert view.attrs["detector"] == detector
            assert [*view.data_vars] == [*BANDS]
            own = open_l1b(scene.path)[f"d0{detector}"]
            np.testing.assert_array_equal(view.B03, own.B03.sel(y=view.y, x=view.x))
        np.testing.assert_array_equal(second.y - offset.y, first.y)
        np.testing.assert_array_equal(second.x - offset.x, first.x)
        same = np.corrcoef(first.B03.values.ravel(), second.B03.values.ravel())[0, 1]
        assert same > 0.95
        assert not np.array_equal(first.B03, second.B03)
    # No pixel twice.
    corners = {(float(v.y[0]), float(v.x[0])) for v, _, _ in found}
    assert len(corners) == len(found)


def test_overlaps_come_out_the_same_every_time(scene):
    tree = open_l1b(scene.path)
    one, two = (list(overlaps(tree, size=40)) for _ in range(2))
    assert one
    for (a, b, offset), (c, d, other) in zip(one, two, strict=True):
        assert offset == other
        xr.testing.assert_identical(a, c)
        xr.testing.assert_identical(b, d)


def test_crops_are_read_by_strips_not_by_chunks(tmp_path):
    """One chunk holds both granules, one of them damaged; the first crops come."""
    a, b = counts((600, 60)), counts((100, 60))
    granules = [(d, p, i) for d in (5, 6) for p, i in ((1, a), (601, b))]
    folder = l1bs.write_product(tmp_path, granules)
    for image in folder.rglob("*00601_D0*.jp2"):
        image.write_bytes(b"no image")
    tree = open_l1b(folder, chunks=2196)
    found = overlaps(tree, size=48, reach=0, offsets={(5, 6): (0, 0)})
    for line, (first, second, offset) in zip(range(0, 480, 48), found, strict=False):
        assert first.y[0] == second.y[0] == line + 0.5
        np.testing.assert_array_equal(first.B08, a["B08"][line : line + 48, :48])
        assert offset == (0, 0)
        first.B02[:] = second.B02[:] = -1  # the caller's own
    with pytest.raises(ReadError, match=r"00601_D05.* could not be read"):
        list(found)


def test_a_given_offset_is_refined_within_reach(scene):
    tree = without_corners(open_l1b(scene.path))
    truth = tuple(round(v) for v in scene.offset)
    near = truth[0] + 3, truth[1] - 2
    for reach, expected in ((10, truth), (0, near)):
        given_ = overlaps(tree, size=48, reach=reach, offsets={(5, 6): near})
        assert {o for _, _, o in given_} == {expected}


def test_crops_with_missing_pixels_are_left_out(scene):
    tree = open_l1b(scene.path).compute()
    whole = len(list(overlaps(tree, size=(64, 60))))
    assert whole == 4
    tree["d06"].B08[:20, :30] = np.nan
    assert len(list(overlaps(tree, size=(64, 60)))) == whole - 1
    assert len(list(overlaps(tree, size=(64, 60), min_valid=0.5))) == whole
    tree["d05"].B03[:] = np.nan
    assert not list(overlaps(tree, size=64))


def test_detectors_that_are_no_neighbours_share_nothing(scene):
    tree = open_l1b(scene.path)
    apart = xr.DataTree.from_dict({"d05": tree["d05"].ds, "d07": tree["d06"].ds})
    assert not list(overlaps(apart))
    assert not list(overlaps(open_l1b(scene.path, detectors=[5])))
    assert not list(overlaps(tree, offsets={(5, 6): (90_000, 0)}))


def test_what_overlaps_cannot_do_is_said(scene):
    tree = open_l1b(scene.path)
    for wrong in ({"size": 4}, {"size": (96, 2)}, {"min_valid": 1.5}):
        with pytest.raises(GridError, match=r"a share lies in 0\.\.1"):
            overlaps(tree, **wrong)
    noise = xr.DataTree.from_dict(
        {
            f"d0{i}": tree["d05"].to_dataset().drop_attrs()
            + np.random.default_rng(i).normal(size=(288, 192)) * 1e4
            for i in (1, 2)
        }
    )
    with pytest.raises(GridError, match=r"do not match .* Give offsets=\{\(1, 2\)"):
        list(overlaps(noise))


# --- real products --------------------------------------------------------------------


# Lines and samples that blue, red and near infrared move to lie on green: by phase
# correlation of the whole crops (the folder's README), an independent estimate.
MANIFEST = {
    "00": ((-1, 1), (1, 2), (0, 0)),
    "01": ((-1, -1), (1, 0), (0, 0)),
    "02": ((0, 0), (1, 1), (0, 1)),
    "03": ((-1, 0), (0, 0), (-1, 0)),
    "04": ((-1, 1), (0, 0), (-1, 0)),
    "05": ((-1, 1), (0, 0), (-1, 1)),
    "06": ((-1, 0), (0, 0), (-1, 0)),
}
BETWEEN = {("03", "B04"): (0, -1)}
"""Where the truth lies about half-way, at (-0.35, -0.55), and we say the other side."""


@pytest.mark.skipif(not REAL.exists(), reason="real L1B crops are not here")
@pytest.mark.parametrize("number", MANIFEST)
def test_real_crops_move_as_an_independent_estimate_says(number):
    ds = align_to_green(open_l1b(REAL / f"l1bsr_example_{number}.tif"))["d01"]
    raw = open_l1b(REAL / f"l1bsr_example_{number}.tif")["d01"]
    assert ds.sizes == {"y": 352, "x": 352}
    assert 30 < float(raw.to_dataset().min().to_array().min()) < 200  # counts, not 0..1
    for band, reported in zip(("B02", "B04", "B08"), MANIFEST[number], strict=True):
        attrs = ds[band].attrs
        shift = attrs["shift_y"], attrs["shift_x"]
        assert shift == BETWEEN.get((number, band), reported), band
        fine = phase_cross_correlation(
            raw.B03.values, raw[band].values, upsample_factor=10
        )[0]
        assert np.abs(np.subtract(shift, fine)).max() < 0.7
        assert attrs["shift_score"] > (0.3 if band == "B08" else 0.8)


@pytest.mark.skipif(not METADATA.exists(), reason="real L1B metadata are not here")
def test_real_granule_metadata_are_understood(tmp_path):
    name = "S2A_OPER_MTD_L1B_GR_MPS__20140926T120000_S20130707T171927_D06.xml"
    shutil.copy(METADATA / name, tmp_path / name)
    (granule,) = open_product(tmp_path).granules
    assert granule.name.endswith("S20130707T171927_D06_N01.01")
    assert (granule.detector, granule.line, granule.shape) == (6, 0, (41066, 2548))
    assert granule.time == "2013-07-07T17:19:27.000000Z"
    assert granule.corners == (
        (0, 0, 30.651514297, -97.494317649),
        (41066, 0, 30.438835086, -97.551671648),
        (41066, 2548, 30.387815142, -97.295330553),
        (0, 2548, 30.600435577, -97.237411956),
    )
    assert not granule.images
    with pytest.raises(MissingBandError, match="no image of B02"):
        open_l1b(tmp_path / name)


@pytest.mark.skipif(not METADATA.exists(), reason="real L1B metadata are not here")
def test_real_product_metadata_are_understood(product):
    folder, _ = product
    next(folder.glob("*.xml")).unlink()
    for path in METADATA.glob("*SAFL1B*.xml"):
        shutil.copy(path, folder)
    tree = open_l1b(folder)
    assert tree.attrs["platform"] == "Sentinel-2A"
    assert tree.attrs["baseline"] == "N01.01"
    assert tree.attrs["datatake"] == "GS2A_20130707T171925_000069_N01.01"
    assert tree["d05"].B02.attrs["saturated"] == 4095


@pytest.mark.skipif(not METADATA.exists(), reason="GDAL's stand-ins are not here")
@pytest.mark.parametrize("name", ["fake_l1b", "fake_l1b_geoloc"])
def test_the_layout_of_gdals_stand_ins_opens(name):
    (safe,) = (METADATA.parent / "gdal_synthetic" / name).glob("*.SAFE")
    ds = open_l1b(safe)["d02"]
    assert ds.sizes == {"y": 2304, "x": 2552}
    assert ds.attrs["tie_points"][2] == [2304, 2552, 45, 13]
