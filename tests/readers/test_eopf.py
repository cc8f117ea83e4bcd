"""An EOPF product gives its native bands, decoded, or an error; never silent fill."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import socket
import threading
from dataclasses import replace
from pathlib import Path

import numcodecs
import numpy as np
import pystac
import pytest
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr
import zarr
from httpserver import Fault, Place
from hypothesis import given
from hypothesis import strategies as st

import s2sr_xr  # noqa: F401 - registers .s2sr
from s2sr_xr.core.bands import BANDS
from s2sr_xr.errors import (
    ChunkError,
    GridError,
    MissingBandError,
    RadiometryError,
    ReadError,
)
from s2sr_xr.readers.eopf.band import ZarrBand
from s2sr_xr.readers.eopf.open import open_eopf
from s2sr_xr.readers.fetch.retry import Retry
from s2sr_xr.readers.fetch.source import source_of

REAL = (
    Path(__file__).parents[3] / "shared" / "data" / "stac_items" / "eopf_zarr_metadata"
)
ITEMS = REAL.parent / "eopf_l2a"
CORNER = (600_000.0, 8_200_000.0)  # y % 60 == 40, as half of all tiles
EPSG = 32722
SIZE = 72  # ten-metre pixels
NAME = "S2A_MSIL2A_20240501T101559_N0510_R065_T22KGV_20240501T153000"
REFLECTANCE = "measurements/reflectance"
L1C = {10: 12, 20: 6, 60: 2}  # 6 x 6 chunks, as 1830, 915, 305 of a real product
L2A = {10: 36, 20: 36, 60: 12}  # 2 x 2 chunks, then one: 5490, 5490, 1830
BLOSC = {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 2, "blocksize": 0}


def counts_of(band, metres=None):
    """Return counts; the first row has no data, the last is darker than the offset."""
    n = SIZE * 10 // (metres or BANDS[band].native)
    rng = np.random.default_rng([*band.encode(), metres or 0])
    counts = rng.integers(1, 9000, (n, n)).astype("<u2")
    counts[0], counts[-1] = 0, 500
    return counts


def reflectance(band, offset=-1000):
    counts = counts_of(band)
    decoded = (counts.astype(np.float32) + np.float32(offset)) / np.float32(10_000)
    return np.where(counts == 0, np.float32("nan"), decoded)


def proj(metres):
    n = SIZE * 10 // metres
    transform = [metres, 0.0, CORNER[0], 0.0, -metres, CORNER[1], 0.0, 0.0, 1.0]
    return {
        "proj:epsg": EPSG,
        "proj:shape": [n, n],
        "proj:transform": [float(c) for c in transform],
    }


CF = {"scale_factor": 0.0001, "add_offset": -0.1, "fill_value": 0}


def root_attrs(name=NAME):
    level = name[7:10]
    return {
        "stac_discovery": {
            "id": f"{name}.SAFE",
            "properties": {
                "datetime": "null",
                "start_datetime": "2024-05-01T10:15:59.024000+00:00",
                "eopf:baseline": "05.10",
                "platform": "sentinel-2a",
                "product:type": f"S02MSI{level}",
                "processing:version": "",
                "proj:epsg": EPSG,
            },
        },
        "other_metadata": {"horizontal_CRS_code": f"EPSG:{EPSG}"},
    }


def array_facts(data, side, compressor=BLOSC, fill=0):
    return {
        "zarr_format": 2,
        "shape": list(data.shape),
        "chunks": [min(side, n) for n in data.shape],
        "dtype": data.dtype.str,
        "fill_value": fill,
        "order": "C",
        "filters": None,
        "dimension_separator": ".",
        "compressor": compressor,
    }


def put(files, path, data, side, attrs):
    """Write an array of Zarr v2 by its specification: padded chunks, C order."""
    facts = array_facts(data, side)
    files[f"{path}/.zarray"] = facts
    files[f"{path}/.zattrs"] = attrs
    codec = numcodecs.get_codec(dict(BLOSC))
    places = [
        range(-(-n // c)) for n, c in zip(data.shape, facts["chunks"], strict=True)
    ]
    for place in np.ndindex(*(len(p) for p in places)):
        chunk = np.zeros(facts["chunks"], data.dtype)
        part = data[
            tuple(
                slice(p * c, (p + 1) * c)
                for p, c in zip(place, facts["chunks"], strict=True)
            )
        ]
        chunk[tuple(slice(n) for n in part.shape)] = part
        files[f"{path}/{'.'.join(map(str, place))}"] = codec.encode(chunk)


def product(name=NAME, *, bands=None, sides=L2A, copies=True):
    """Return a product as documents (dicts) and chunks (bytes), by key."""
    files = {".zgroup": {"zarr_format": 2}, ".zattrs": root_attrs(name)}
    files["measurements/.zgroup"] = {"zarr_format": 2}
    files[f"{REFLECTANCE}/.zgroup"] = {"zarr_format": 2}
    for metres in (10, 20, 60):
        folder = f"{REFLECTANCE}/r{metres}m"
        files[f"{folder}/.zgroup"] = {"zarr_format": 2}
        half, n = metres / 2, SIZE * 10 // metres
        x = (CORNER[0] + half + metres * np.arange(n)).astype("<i8")
        y = (CORNER[1] - half - metres * np.arange(n)).astype("<i8")
        put(files, f"{folder}/x", x, n, {"_ARRAY_DIMENSIONS": ["x"]})
        put(files, f"{folder}/y", y, n, {"_ARRAY_DIMENSIONS": ["y"]})
        for band in bands or BANDS:
            native = BANDS[band].native
            if native == metres or (copies and native < metres):
                image = counts_of(band, None if native == metres else metres)
                attrs = {"_ARRAY_DIMENSIONS": ["y", "x"], **CF, **proj(metres)}
                put(files, f"{folder}/{band.lower()}", image, sides[metres], attrs)
    return files


def encoded(files, *, consolidated=True):
    """Return the keys of a store as bytes."""
    raw = {
        k: json.dumps(v).encode() if isinstance(v, dict) else v
        for k, v in files.items()
    }
    if consolidated:
        documents = {k: v for k, v in files.items() if isinstance(v, dict)}
        whole = {"metadata": documents, "zarr_consolidated_format": 1}
        raw[".zmetadata"] = json.dumps(whole).encode()
    return raw


def write(root, files, **how):
    for key, data in encoded(files, **how).items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write(tmp_path_factory.mktemp("eopf") / f"{NAME}.zarr", product())


@pytest.fixture
def small(tmp_path):
    """One band, to be spoilt: its store and its documents."""
    files = product(bands=["B02"], copies=False)
    return tmp_path / f"{NAME}.zarr", files


B02 = f"{REFLECTANCE}/r10m/b02"


# --- the tree -------------------------------------------------------------------------


def check(tree, bands=BANDS, chunks=None):
    for band in bands:
        facts = BANDS[band]
        array = tree[f"r{facts.native}m"][band]
        assert array.dims == ("time", "y", "x")
        assert array.dtype == np.float32
        assert (array.chunks is None) == (chunks is None)
        np.testing.assert_array_equal(array[0].values, reflectance(band))
        assert array.attrs["radiometry"] == "-1000, from CF attrs"
        assert array.rio.crs.to_epsg() == EPSG
        assert (
            array.rio.transform()[:6] == tuple(proj(facts.native)["proj:transform"])[:6]
        )


@pytest.mark.parametrize("chunks", [None, 12, 30, 2196])
@pytest.mark.parametrize("sides", [L1C, L2A])
def test_native_bands_are_decoded_whatever_the_chunks(tmp_path, sides, chunks):
    name = NAME.replace("L2A", "L1C") if sides is L1C else NAME
    files = product(name, sides=sides, copies=sides is L2A)
    tree = open_eopf(write(tmp_path / "p", files), bands=list(BANDS), chunks=chunks)
    check(tree, chunks=chunks)
    assert tree.attrs == {
        "level": f"L{name[8:10]}",
        "platform": "Sentinel-2A",
        "mgrs_tile": "22KGV",
        "source": "EOPF Zarr",
    }
    assert tree["r20m"].item_id.values == [name]
    assert tree["r20m"].baseline.values == ["05.10"]
    moment = np.datetime64("2024-05-01T10:15:59.024", "ns")
    np.testing.assert_array_equal(tree["r20m"].time.values, [moment])


def test_without_consolidated_metadata_it_is_the_same(tmp_path):
    files = product(bands=["B02", "B05"])
    tree = open_eopf(write(tmp_path / "p", files, consolidated=False))
    check(tree, ["B02", "B05"], chunks=2196)
    assert list(tree.children) == ["r10m", "r20m"]


@pytest.mark.parametrize("shards", [None, (36, 36)])
@pytest.mark.parametrize("consolidated", [False, True])
def test_version_3_of_zarr_is_read_too(tmp_path, shards, consolidated):
    root = zarr.create_group(tmp_path / "p", attributes=root_attrs())
    for band in ("B02", "B05"):
        metres = BANDS[band].native
        array = root.create_array(
            f"{REFLECTANCE}/r{metres}m/{band.lower()}",
            data=counts_of(band),
            chunks=(18, 18),
            shards=shards,
            fill_value=0,
            dimension_names=("y", "x"),
            attributes={**CF, **proj(metres)},
        )
        assert array.metadata.zarr_format == 3
    if consolidated:
        zarr.consolidate_metadata(tmp_path / "p")
    check(open_eopf(tmp_path / "p", chunks=12), ["B02", "B05"], chunks=12)


def test_the_oracle_xarray_decodes_the_same(store):
    tree = open_eopf(store)
    for metres in (10, 20, 60):
        oracle = xr.open_dataset(
            store, engine="zarr", group=f"{REFLECTANCE}/r{metres}m", zarr_format=2
        )
        for band, array in tree[f"r{metres}m"].data_vars.items():
            stored = oracle[band.lower()]
            np.testing.assert_array_equal(array.x, stored.x)
            np.testing.assert_array_equal(array.y, stored.y)
            expected = np.where(counts_of(band) == 0, np.nan, stored)
            np.testing.assert_allclose(array[0], expected, atol=1e-7)


@given(data=st.data())
def test_any_window_is_the_same_part_of_the_whole(store, data):
    source = source_of(open_eopf(store, bands=["B02"], chunks=30)["r10m"].B02.data)
    rows, cols = (
        slice(start, data.draw(st.integers(start + 1, SIZE)))
        for start in (data.draw(st.integers(0, SIZE - 1)) for _ in "yx")
    )
    window = source.read(0, rows, cols)
    np.testing.assert_array_equal(window, reflectance("B02")[rows, cols])


def test_only_what_is_asked_for_is_opened(store):
    assert list(open_eopf(store, bands=["nir08"])["r20m"].data_vars) == ["B8A"]
    assert "B10" not in open_eopf(store)["r60m"]


def test_opening_reads_no_chunk(small):
    root, files = small
    documents = {k: v for k, v in files.items() if isinstance(v, dict)}
    tree = open_eopf(write(root, documents))
    with pytest.raises(ReadError, match="is not there"):
        tree["r10m"].B02.compute()


def test_trees_are_made_finer(store):
    tree = open_eopf(store, chunks=36, radiometry={"offset": 0})
    ten = tree.s2sr.upsample("bicubic", bands=["B05"])
    assert ten.B05.shape[-2:] == (SIZE, SIZE)
    assert ten.B02.values.dtype == np.float32


# --- by its item ----------------------------------------------------------------------


def item_of(href):
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": NAME,
        "collection": "sentinel-2-l2a",
        "geometry": None,
        "properties": {
            "datetime": "2024-05-01T10:21:52Z",
            "proj:code": f"EPSG:{EPSG}",
            "product:type": "S02MSIL2A",
        },
        "links": [],
        "assets": {
            "product": {"href": str(href), "type": "application/vnd+zarr"},
            "SR_10m": {"href": f"{href}/{REFLECTANCE}/r10m"},
        },
    }


@pytest.mark.parametrize("kind", ["dict", "pystac", "path", "relative"])
def test_an_item_opens_its_product(store, tmp_path, kind):
    facts = item_of(store)
    if kind == "pystac":
        facts = pystac.Item.from_dict(facts)
    if kind in ("path", "relative"):
        if kind == "relative":
            shutil.copytree(store, tmp_path / "p.zarr")
            facts["assets"]["product"]["href"] = "./p.zarr"
        (tmp_path / "item.json").write_text(json.dumps(facts))
        facts = tmp_path / "item.json"
    tree = open_eopf(facts)
    xr.testing.assert_identical(tree.load(), open_eopf(store).load())


@pytest.mark.skipif(not ITEMS.exists(), reason="real EOPF items are not here")
@pytest.mark.parametrize("path", sorted(ITEMS.glob("*.json")), ids=lambda p: p.stem)
def test_real_items_point_at_a_product(path, tmp_path):
    """Their product is not fetched; a local one takes its place."""
    facts = json.loads(path.read_text())
    assert facts["assets"]["product"]["href"].endswith(".zarr")
    facts["assets"]["product"]["href"] = str(write(tmp_path / "p", product(path.stem)))
    with pytest.raises(ReadError, match="a catalogue elsewhere has no business"):
        open_eopf(facts)
    facts["links"] = []
    tree = open_eopf(facts)
    assert tree["r10m"].item_id.values == [path.stem]
    assert tree.attrs["level"] == "L2A"


# --- what it means --------------------------------------------------------------------


def spoil(small, change, **opened):
    """Open the small product after `change` was made to its documents."""
    root, files = small
    files = copy.deepcopy(files)
    change(files)
    return open_eopf(write(root, files), **opened)


def without(*names):
    def change(files):
        for name in names:
            files[f"{B02}/.zattrs"].pop(name)

    return change


@pytest.mark.parametrize(
    ("attrs", "baseline", "said"),
    [
        ({"scale_factor": 1e-4, "add_offset": 0.0}, "05.10", "0, from CF attrs"),
        ({"scale_factor": 2e-4, "add_offset": -0.2}, None, "-1000, scale 0.0002, from"),
        ({}, "05.10", "-1000, from s2:processing_baseline"),
        ({"scale_factor": 1e-4}, "02.09", "0, from s2:processing_baseline"),
        ({"_eopf_attrs": {"scale_factor": 1e-4, "add_offset": -0.1}}, None, "-1000, f"),
    ],
)
def test_attributes_then_the_baseline_say_what_counts_mean(
    small, attrs, baseline, said
):
    def change(files):
        without("scale_factor", "add_offset")(files)
        files[f"{B02}/.zattrs"] |= attrs
        files[".zattrs"]["stac_discovery"]["properties"]["eopf:baseline"] = baseline

    array = spoil(small, change)["r10m"].B02
    assert array.attrs["radiometry"].startswith(said)
    source = source_of(array.data)
    expected = (counts_of("B02") + source.radiometry.offset) * source.radiometry.scale
    expected[0] = np.nan
    np.testing.assert_allclose(array[0], expected, rtol=1e-6)


def test_the_user_may_say_it(store):
    tree = open_eopf(store, bands=["B02"], radiometry={"offset": 0})
    np.testing.assert_array_equal(tree["r10m"].B02[0], reflectance("B02", offset=0))


def test_counts_without_a_meaning_are_refused(small):
    def change(files):
        without("scale_factor", "add_offset")(files)
        facts = files[".zattrs"]["stac_discovery"]
        facts["id"] = "a"
        del facts["properties"]["eopf:baseline"]

    with pytest.raises(RadiometryError, match=r"B02 of a: .* no baseline; give radio"):
        spoil(small, change)


@pytest.mark.parametrize("place", ["array", "group", "product", "discovery", "wkt"])
def test_the_crs_is_found_where_products_keep_it(small, place):
    from pyproj import CRS

    def change(files):
        without("proj:epsg")(files)
        root = files[".zattrs"]
        del root["stac_discovery"]["properties"]["proj:epsg"], root["other_metadata"]
        folder = f"{REFLECTANCE}/r10m"
        if place == "array":
            files[f"{B02}/.zattrs"]["proj:code"] = f"EPSG:{EPSG}"
        elif place == "group":
            files[f"{folder}/.zattrs"] = {"proj:code": f"EPSG:{EPSG}"}
        elif place == "product":
            root["other_metadata"] = {"horizontal_CRS_code": f"EPSG:{EPSG}"}
        elif place == "discovery":
            root["stac_discovery"]["properties"]["proj:code"] = f"EPSG:{EPSG}"
        else:
            wkt = CRS.from_epsg(EPSG).to_wkt()
            files[f"{folder}/spatial_ref/.zattrs"] = {"crs_wkt": wkt}

    check(spoil(small, change), ["B02"], chunks=2196)


def test_coordinates_say_where_pixels_lie_without_a_transform(small):
    change = without("proj:transform", "proj:shape")
    check(spoil(small, change), ["B02"], chunks=2196)


# --- what must never be fill ----------------------------------------------------------


def test_a_missing_chunk_is_an_error_unless_the_user_says_no_data(small):
    root, files = small
    write(root, files)
    (root / B02 / "1.0").unlink()
    tree = open_eopf(root, chunks=36)
    with pytest.raises(
        ReadError,
        match=rf'B02 of {NAME} .*rows 36:72, cols 0:36: chunk 1\.0 is not.*missing="no',
    ):
        tree["r10m"].B02.compute()
    np.testing.assert_array_equal(  # other chunks are as good as ever
        tree["r10m"].B02[0, :36].values, reflectance("B02")[:36]
    )
    found = open_eopf(root, missing="nodata")["r10m"].B02[0].values
    expected = reflectance("B02")
    expected[36:, :36] = np.nan
    np.testing.assert_array_equal(found, expected)


def test_no_data_for_missing_chunks_needs_a_fill_that_is_no_data(small):
    def change(files):
        files[f"{B02}/.zarray"]["fill_value"] = 7
        del files[f"{B02}/1.0"]

    array = spoil(small, change, missing="nodata")["r10m"].B02
    with pytest.raises(ReadError, match=r"chunk 1\.0 is not there"):
        array.compute()


@pytest.mark.parametrize("missing", ["raise", "nodata"])
def test_a_product_that_was_taken_away_is_an_error(small, missing):
    root, files = small
    tree = open_eopf(write(root, files), missing=missing)
    shutil.rmtree(root)
    with pytest.raises(ReadError, match="moved or taken away; search for it again"):
        tree["r10m"].B02.compute()


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:10],
        lambda data: b"",
        lambda data: b"<html>Please log in</html>",
        lambda data: data[:16] + bytes(b ^ 0x5A for b in data[16:]),
    ],
    ids=["byte", "half", "header", "empty", "html", "garble"],
)
def test_a_damaged_chunk_is_an_error(small, spoilt):
    root, files = small
    tree = open_eopf(write(root, files))
    path = root / B02 / "0.1"
    path.write_bytes(spoilt(path.read_bytes()))
    with pytest.raises(ReadError, match=r"B02 of .*cut, damaged.*Fetch the product"):
        tree["r10m"].B02.compute()


def test_a_file_that_cannot_be_opened_is_an_error(small):
    root, files = small
    tree = open_eopf(write(root, files))
    path = root / B02 / "0.1"
    path.unlink()
    path.mkdir()
    with pytest.raises(ReadError, match=r"0\.1: is a directory"):
        tree["r10m"].B02.compute()


# --- over the network -----------------------------------------------------------------

QUICK = Retry(tries=3, wait=0.01)


@pytest.fixture
def place():
    files = encoded(product(bands=["B02"], copies=False))
    with Place({f"p.zarr/{key}": data for key, data in files.items()}) as place:
        yield place


def quick(array):
    return replace(source_of(array.data), retry=QUICK)


def whole(source):
    return source.read(0, slice(0, SIZE), slice(0, SIZE))


def test_a_url_with_a_signature_is_read_key_by_key(place):
    tree = open_eopf(place.url("p.zarr"), chunks=36)
    opened = [path.split("?")[0] for _, path, _, _ in place.log]
    assert opened == ["/p.zarr/.zmetadata"]
    check(tree, ["B02"], chunks=36)
    asked = [path for _, path, _, _ in place.log][1:]
    assert len(asked) == len(set(asked)) == 4  # one request a chunk
    assert all(path.endswith("?sig=SECRET&se=2026") for path in asked)
    source = source_of(tree["r10m"].B02.data)
    found = repr(source) + source.shown + str(source.__dask_tokenize__())
    assert "SECRET" not in found
    again = open_eopf(place.url("p.zarr", "sig=OTHER"), chunks=36)
    assert again["r10m"].B02.data.name == tree["r10m"].B02.data.name


@pytest.mark.parametrize("kind", ["500", "503", "429", "garble", "html", "cut"])
def test_faults_that_pass_are_survived(place, kind):
    source = quick(open_eopf(place.url("p.zarr"))["r10m"].B02)
    place.break_with(Fault(kind=kind, times=2))
    np.testing.assert_array_equal(whole(source), reflectance("B02"))


@pytest.mark.parametrize(
    ("kind", "tries", "match"),
    [
        ("500", 3, "3 tries in .*500 Internal Server Error"),
        ("403", 1, "403 Forbidden. Open the items again with fresh credentials"),
        ("404", 1, "chunk 0.0 is not there, and .zarray is gone too"),
        ("garble", 3, "cut, damaged, or not a chunk"),
        ("html", 3, "cut, damaged, or not a chunk"),
        ("cut", 3, "cut, damaged, or not a chunk"),
    ],
)
def test_faults_that_stay_are_errors(place, kind, tries, match):
    source = quick(open_eopf(place.url("p.zarr"))["r10m"].B02)
    place.break_with(Fault(kind=kind))
    with pytest.raises(ReadError, match=match) as caught:
        whole(source)
    found = str(caught.value) + str(caught.value.where) + repr(caught.value.__cause__)
    assert f"B02 of {NAME}" in found
    assert "/p.zarr/measurements/reflectance/r10m/b02)" in found
    assert "SECRET" not in found
    firsts = [path for _, path, _, _ in place.log if "b02/0.0?" in path]
    assert len(firsts) == tries


def test_a_body_that_is_cut_short_is_an_error():
    """The server promises more bytes than it sends, for every key but metadata."""
    files = encoded(product(bands=["B02"], copies=False))

    def serve(server):
        for _ in range(4):
            link, _ = server.accept()
            key = link.recv(9999).split()[1].decode().removeprefix("/p.zarr/")
            body = files[key]
            short = body if key == ".zmetadata" else body[:-7]
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
            link.sendall(head.encode() + short)
            link.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        href = f"http://127.0.0.1:{server.getsockname()[1]}/p.zarr"
        source = quick(open_eopf(href)["r10m"].B02)
        with pytest.raises(ReadError, match=r"3 tries.*the transfer broke"):
            whole(source)


def test_metadata_that_cannot_be_had_are_an_error(place):
    place.break_with(Fault(kind="403"))
    with pytest.raises(
        ReadError, match=r"p\.zarr/\.zmetadata could not be read: .*403"
    ):
        open_eopf(place.url("p.zarr"))
    place.break_with(Fault(kind="html"))
    with pytest.raises(ReadError, match=r"\.zmetadata is not JSON"):
        open_eopf(place.url("p.zarr"))


def test_object_stores_are_read_through_fsspec(small):
    import fsspec

    _, files = small
    fs = fsspec.filesystem("memory")
    for key, data in encoded(files).items():
        fs.pipe(f"/bucket/p.zarr/{key}", data)
    check(open_eopf("memory://bucket/p.zarr"), ["B02"], chunks=2196)
    fs.rm("/bucket/p.zarr", recursive=True)
    with pytest.raises(ReadError, match=r"memory://bucket/p.zarr is not a Zarr store"):
        open_eopf("memory://bucket/p.zarr")


# --- what cannot be used --------------------------------------------------------------


@pytest.mark.parametrize(
    ("href", "match"),
    [
        ("gone.zarr", r"gone\.zarr does not exist"),
        ("file.zip", "it is a file. Give the root .* of a zip, unpack it"),
        ("empty", r"empty is not a Zarr store: there is no \.zmetadata"),
        ("safe", "is a SAFE product. s2sr_xr.open_safe opens it"),
        ("ftp://host/p.zarr", "begins with ftp:; only local files"),
        ("simplecache::s3://b/p.zarr", "begins with simplecache:"),
        ("s3://b/p.zarr::file:///etc", "chains addresses"),
        ("/vsicurl/http://h/p.zarr", "virtual file systems"),
        ("<VRTDataset/>", "has no address but text"),
        ("http://127.0.0.1:9/item.json", "No STAC item could be loaded"),
    ],
)
def test_what_is_not_a_product_is_refused(tmp_path, monkeypatch, href, match):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.zip").write_bytes(b"PK")
    (tmp_path / "safe").mkdir()
    (tmp_path / "safe" / "manifest.safe").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReadError, match=match):
        open_eopf(href)


@pytest.mark.parametrize(
    ("attrs", "match"),
    [
        ({"s2sr:version": "1"}, "is a result; s2sr_xr.open_result opens it"),
        (
            {"stac_discovery": {"properties": {"product:type": "S01SIWGRH"}}},
            "no native band of Sentinel-2 under measurements/.* say S01SIWGRH",
        ),
        ({}, "its metadata say no type"),
    ],
)
def test_other_zarr_stores_are_named(tmp_path, attrs, match):
    root = write(tmp_path / "p", {".zattrs": attrs, ".zgroup": {"zarr_format": 2}})
    with pytest.raises(ReadError, match=match):
        open_eopf(root)


def test_items_of_other_catalogues_are_named(store):
    facts = item_of(store)
    facts["assets"]["B02"] = facts["assets"].pop("product")
    with pytest.raises(ReadError, match=r"no asset 'product'.*s2sr_xr\.open_stac"):
        open_eopf(facts)
    facts = item_of("gopher://h/p.zarr")
    with pytest.raises(ReadError, match=f"The product of {NAME} has an address that"):
        open_eopf(facts)


@pytest.mark.parametrize(
    ("key", "facts", "error", "match"),
    [
        (
            ".zattrs",
            {"proj:transform": [20, 0, 6e5, 0, -20, 8.2e6]},
            GridError,
            "10 m,",
        ),
        (".zattrs", {"proj:transform": [10, 0, 6e5, 0, 10, 8.2e6]}, GridError, "north"),
        (".zattrs", {"proj:shape": [71, 72]}, GridError, r"has \(72, 72\) pixels, but"),
        (".zattrs", {"proj:epsg": 1}, GridError, "'EPSG:1' is not a coordinate"),
        (".zattrs", {"scale_factor": 0}, RadiometryError, "positive number, got 0.0"),
        (".zattrs", {"_ARRAY_DIMENSIONS": ["x", "y"]}, ReadError, r"not \(y, x\)"),
        (".zarray", {"shape": [72]}, ReadError, "metadata that are not Zarr's"),
        (".zarray", {"dtype": "<f4"}, ReadError, "holds float32 where integer"),
        (".zarray", {"dtype": "|O"}, ReadError, "metadata that are not Zarr's"),
        (".zarray", {"filters": [{"id": "pickle"}]}, ReadError, "with pickle, not dec"),
        (".zarray", {"compressor": {"id": "x"}}, ReadError, "encoded with x, not"),
        (
            ".zarray",
            {"shape": [10**6] * 2, "chunks": [10**6] * 2},
            ReadError,
            r"chunks of \(1000000, 1000000\), more than",
        ),
    ],
)
def test_arrays_that_are_no_band_are_refused(small, key, facts, error, match):
    def change(files):
        files[f"{B02}/{key}"] |= facts

    with pytest.raises(error, match=match):
        spoil(small, change)


def test_arrays_without_a_place_are_refused(small):
    def nowhere(files):
        without("proj:transform")(files)
        del files[f"{REFLECTANCE}/r10m/x/.zarray"]

    def no_crs(files):
        without("proj:epsg")(files)
        del files[".zattrs"]["other_metadata"]
        del files[".zattrs"]["stac_discovery"]["properties"]["proj:epsg"]

    with pytest.raises(GridError, match=r"no proj:transform, and there is no .*r10m/x"):
        spoil(small, nowhere)
    with pytest.raises(GridError, match="has no CRS, nor has its product"):
        spoil(small, no_crs)


def test_bands_of_several_places_are_refused(tmp_path):
    files = product(bands=["B02", "B05"])
    transform = files[f"{REFLECTANCE}/r20m/b05/.zattrs"]["proj:transform"]
    transform[2] += 20
    with pytest.raises(GridError, match=r"B05 of .* \(corners 20 and 0 m apart"):
        open_eopf(write(tmp_path / "p", files))


def test_copies_are_no_bands(tmp_path):
    files = product(bands=["B02", "B05"])
    for key in [k for k in files if k.startswith(B02)]:
        del files[key]
    root = write(tmp_path / "p", files)
    with pytest.raises(MissingBandError, match="has no asset for band B02"):
        open_eopf(root, bands=["B02"])
    assert list(open_eopf(root).children) == ["r20m"]


def test_arguments_are_checked(store):
    with pytest.raises(ChunkError, match="chunks=1000"):
        open_eopf(store, chunks=1000)
    with pytest.raises(RadiometryError, match="radiometry='raw'"):
        open_eopf(store, radiometry="raw")
    with pytest.raises(MissingBandError, match="B99: no such band"):
        open_eopf(store, bands=["B99"])
    with pytest.raises(ReadError, match="missing='skip': give"):
        open_eopf(store, missing="skip")
    source = source_of(open_eopf(store)["r10m"].B02.data)
    with pytest.raises(IndexError, match="are not a window of 72 pixels"):
        source.read(0, slice(0, 73), slice(0, 9))


def test_a_source_travels_to_other_processes(store):
    source = source_of(open_eopf(store)["r10m"].B02.data)
    assert isinstance(source, ZarrBand)
    assert len(pickle.dumps(source)) < 2000
    np.testing.assert_array_equal(
        whole(pickle.loads(pickle.dumps(source))),  # noqa: S301 - our own bytes
        reflectance("B02"),
    )


# --- real products --------------------------------------------------------------------


def documents_of(path):
    """Return the documents of a real product, from its metadata as one JSON."""
    found = {}

    def walk(node, path):
        kind = ".zarray" if "shape" in node else ".zgroup"
        facts = {k: v for k, v in node.items() if k not in ("attributes", "members")}
        found[f"{path}{kind}"] = facts
        found[f"{path}.zattrs"] = node.get("attributes") or {}
        for name, member in (node.get("members") or {}).items():
            walk(member, f"{path}{name}/")

    walk(json.loads(path.read_text()), "")
    return found


@pytest.mark.skipif(not REAL.exists(), reason="real EOPF metadata are not here")
@pytest.mark.parametrize("path", sorted(REAL.glob("*.json")), ids=lambda p: p.stem)
def test_real_metadata_are_understood(path, tmp_path):
    """With one chunk of B01 of the real size, written by the specification."""
    files = documents_of(path)
    key = f"{REFLECTANCE}/r60m/b01"
    side = files[f"{key}/.zarray"]["chunks"][0]
    chunk = np.arange(side * side, dtype="<u2").reshape(side, side)
    codec = numcodecs.get_codec(dict(files[f"{key}/.zarray"]["compressor"]))
    files[f"{key}/0.0"] = codec.encode(chunk)
    tree = open_eopf(write(tmp_path / "p", files))
    assert tree["r10m"].item_id.values == [path.stem]
    assert tree.attrs["level"] == f"L{path.stem[8:10]}"
    assert tree.attrs["mgrs_tile"] == path.stem[39:44]
    native = [b for b in BANDS if b != "B10"]
    for band in native:
        array = tree[f"r{BANDS[band].native}m"][band]
        assert array.attrs["radiometry"] == "-1000, from CF attrs"
        assert array.shape == (1, *(2 * [109_800 // BANDS[band].native]))
        assert array.rio.crs.to_epsg() == 32632
    found = tree["r60m"].B01[0, :200, :200]
    source = source_of(tree["r60m"].B01.data)
    window = source.read(0, slice(0, 200), slice(100, 300))
    expected = (chunk[:200, 100:300].astype("f4") - 1000) / np.float32(10_000)
    expected[chunk[:200, 100:300] == 0] = np.nan
    np.testing.assert_array_equal(window, expected)
    assert found.dtype == np.float32
