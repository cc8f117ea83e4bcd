"""A Theia product gives flat reflectance on its own pixels, from a folder or a zip."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers .rio

import s2sr_xr  # noqa: F401 - registers .s2sr
from s2sr_xr.core.bands import BANDS
from s2sr_xr.errors import (
    ChunkError,
    GridError,
    MissingBandError,
    ReadError,
    S2SRWarning,
)
from s2sr_xr.readers.fetch.source import source_of
from s2sr_xr.readers.theia.open import open_theia

CORNER = (600_000.0, 8_200_000.0)  # y % 60 == 40, as half of all tiles
SIZE = 72  # ten-metre pixels
NAME = "SENTINEL2A_20240501-101559-024_L2A_T32TMS_C_V3-1"
BANDS_OF = {
    "R1": ["B02", "B03", "B04", "B08"],
    "R2": ["B05", "B06", "B07", "B8A", "B11", "B12"],
}
METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<Muscate_Metadata_Document>
  <Dataset_Identification>
    <IDENTIFIER>{name}</IDENTIFIER>
    <GEOGRAPHICAL_ZONE type="Tile">T32TMS</GEOGRAPHICAL_ZONE>
  </Dataset_Identification>
  <Product_Characteristics>
    <PRODUCT_ID>{name}</PRODUCT_ID>
    <ACQUISITION_DATE>2024-05-01T10:15:59.024Z</ACQUISITION_DATE>
    <PLATFORM>SENTINEL2A</PLATFORM>
  </Product_Characteristics>
  <Radiometric_Informations>
    <REFLECTANCE_QUANTIFICATION_VALUE>10000</REFLECTANCE_QUANTIFICATION_VALUE>
    <Special_Values_List>
      <SPECIAL_VALUE name="nodata">-10000</SPECIAL_VALUE>
      <SPECIAL_VALUE name="water_vapor_content_nodata">0</SPECIAL_VALUE>
    </Special_Values_List>
  </Radiometric_Informations>
</Muscate_Metadata_Document>
"""


def side(band):
    return SIZE * 10 // BANDS[band].native


def counts_of(band):
    """Return counts as Theia has them: the first row outside, some below zero."""
    rng = np.random.default_rng([*band.encode()])
    counts = rng.integers(-300, 9000, (side(band),) * 2).astype(np.int16)
    counts[0], counts[1, 0] = -10_000, 0
    return counts


def write(path, image, metres, *, corner=CORNER, epsg=32632):
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=image.shape[0],
        width=image.shape[1],
        count=1,
        dtype=image.dtype,
        crs=epsg and f"EPSG:{epsg}",
        transform=rasterio.transform.from_origin(*corner, metres, metres),
    ) as dataset:
        dataset.write(image, 1)


def mask_of(group, where=()):
    n = SIZE if group == "R1" else SIZE // 2
    mask = np.zeros((n, n), np.uint8)
    for place, value in where:
        mask[place] = value
    return mask


EDGE = [((slice(None), -1), 1)]
SATURATED = [((5, 7), 0b100), ((6, 7), 0b001)]
DEFECTIVE = [((5, 7), 0b010), ((9, 9), 0b001)]


def product(parent, *, name=NAME, xml=METADATA, kinds=("FRE", "SRE"), masks=True):
    """Write a product; return its folder. SRE has other counts than FRE."""
    folder = parent / name
    for group, bands in BANDS_OF.items():
        metres = 10 if group == "R1" else 20
        for band in bands:
            short = band.replace("B0", "B")
            for kind in kinds:
                image = counts_of(band) if kind == "FRE" else counts_of(band) // 2
                write(folder / f"{name}_{kind}_{short}.tif", image, metres)
        for kind, where in (("EDG", EDGE), ("SAT", SATURATED), ("DFP", DEFECTIVE)):
            if masks:
                path = folder / "MASKS" / f"{name}_{kind}_{group}.tif"
                write(path, mask_of(group, where), metres)
    (folder / f"{name}_MTD_ALL.xml").write_text(xml.format(name=name))
    return folder


def zipped(folder, path=None, **extra):
    path = path or folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{folder.name}/{file.relative_to(folder)}")
        for name, data in extra.items():
            archive.writestr(name, data)
    return path


def reflectance(band):
    counts = counts_of(band)
    decoded = counts.astype(np.float32) / np.float32(10_000)
    decoded[counts == -10_000] = np.nan
    decoded[:, -1] = np.nan
    return decoded


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return product(tmp_path_factory.mktemp("theia"))


# --- the tree -------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 24, 2196])
@pytest.mark.parametrize("kind", ["folder", "zip", "parent", "xml"])
def test_every_band_is_flat_reflectance(folder, kind, chunks):
    path = {
        "folder": folder,
        "parent": folder.parent,
        "xml": folder / f"{NAME}_MTD_ALL.xml",
        "zip": zipped(folder) if kind == "zip" else None,
    }[kind]
    tree = open_theia(path, chunks=chunks)
    assert list(tree.children) == ["r10m", "r20m"]
    for group, bands in zip(("r10m", "r20m"), BANDS_OF.values(), strict=True):
        assert [b for b in tree[group].data_vars if b != "flags"] == bands
        for band in bands:
            array = tree[group][band]
            assert array.dims == ("time", "y", "x")
            assert (array.chunks is None) == (chunks is None)
            np.testing.assert_array_equal(array[0].values, reflectance(band))
            assert array.values.dtype == np.float32
            assert array.rio.crs.to_epsg() == 32632
            assert array.rio.transform()[2:6:3] == CORNER
            assert array.encoding["grid_mapping"] == "spatial_ref"
    if kind == "zip":
        path.unlink()


def test_the_product_says_what_it_is(folder):
    tree = open_theia(folder)
    assert tree.attrs == {
        "level": "L2A",
        "platform": "Sentinel-2A",
        "mgrs_tile": "32TMS",
        "source": "Theia",
        "product": NAME,
    }
    r10m = tree["r10m"]
    moment = np.datetime64("2024-05-01T10:15:59.024", "ns")
    np.testing.assert_array_equal(r10m.time.values, [moment])
    assert r10m.item_id.values == [NAME]
    assert r10m.baseline.values == [""]
    assert r10m.B02.attrs["radiometry"] == "0, from MTD_ALL.xml"


def test_only_what_is_asked_for_is_opened(folder):
    tree = open_theia(folder, bands=["nir08", "B12"])
    assert list(tree.children) == ["r20m"]
    assert list(tree["r20m"].data_vars) == ["B8A", "B12", "flags"]


@pytest.mark.parametrize("chunks", [None, 24])
def test_masks_become_flags(folder, chunks):
    tree = open_theia(folder, chunks=chunks)
    for group in ("r10m", "r20m"):
        flags = tree[group].flags
        assert flags.dtype == np.uint8
        assert flags.dims == ("time", "y", "x")
        expected = np.zeros(flags.shape[1:], np.uint8)
        expected[5, 7], expected[6, 7], expected[9, 9] = 2 | 4, 2, 4
        np.testing.assert_array_equal(flags[0].values, expected)
        assert flags.attrs["flag_masks"] == [2, 4]


def test_masks_reach_the_quality_of_a_result(folder):
    quality = open_theia(folder).s2sr.upsample("bicubic", bands=["B05"]).quality
    assert (quality.values & 2).any()
    assert (quality.values & 4).any()


def test_without_masks_no_data_is_what_the_images_say(tmp_path):
    tree = open_theia(product(tmp_path, masks=False))
    assert "flags" not in tree["r10m"]
    found = tree["r10m"].B02[0].values
    np.testing.assert_array_equal(np.isnan(found), counts_of("B02") == -10_000)


def test_an_empty_mask_is_left_out_with_a_word(tmp_path):
    folder = product(tmp_path)
    (folder / "MASKS" / f"{NAME}_SAT_R1.tif").write_bytes(b"")
    with pytest.warns(S2SRWarning, match="the mask SAT_R1 is empty; left out"):
        tree = open_theia(folder)
    assert "flags" not in tree["r10m"]
    assert "flags" in tree["r20m"]


def test_arrays_know_their_source_and_read_windows(folder):
    tree = open_theia(folder, chunks=24)
    source = source_of(tree["r20m"].B05.data)
    window = source.read(0, slice(0, 9), slice(30, 36))
    np.testing.assert_array_equal(window, reflectance("B05")[:9, 30:36])
    again = open_theia(folder, chunks=24)
    for name in ("B05", "flags"):
        assert tree["r20m"][name].data.name == again["r20m"][name].data.name


def test_the_moment_is_in_the_name_where_the_metadata_do_not_say(tmp_path):
    xml = METADATA.replace("<ACQUISITION_DATE>2024-05-01T10:15:59.024Z", "<ACQ>")
    xml = xml.replace("</ACQUISITION_DATE>", "</ACQ>")
    tree = open_theia(product(tmp_path, xml=xml, masks=False))
    moment = np.datetime64("2024-05-01T10:15:59.024", "ns")
    np.testing.assert_array_equal(tree["r10m"].time.values, [moment])


def test_other_special_values_are_taken_from_the_metadata(tmp_path):
    xml = METADATA.replace(">-10000<", ">0.0<").replace(">10000<", ">5000<")
    tree = open_theia(product(tmp_path, xml=xml, masks=False))
    found, counts = tree["r10m"].B02[0].values, counts_of("B02")
    np.testing.assert_array_equal(np.isnan(found), counts == 0)
    np.testing.assert_array_equal(found[2], counts[2].astype("f4") / np.float32(5000))


# --- what cannot be used --------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ([f"{NAME}_SRE_B2.tif"], r"\(SRE\) only; flat reflectance \(FRE\)"),
        (["SENTINEL2X_20240515-000000-000_L3A_T32TMS_C_V1-0_FRC_B2.tif"], "L3A.*FRC"),
        (["MTD_MSIL2A.xml", "GRANULE/a"], "is a SAFE product; s2sr_xr.open_safe"),
        ([".zgroup"], "is a Zarr store; s2sr_xr.open_eopf"),
        (["VENUS-XS_20240501-101559-000_L2A_X_C_V1-0_FRE_B2.tif"], "another satellite"),
        (["SENTINEL2A_20240501-101559-024_L1C_T32TMS_C_V1-0_B2.tif"], "of level 1C"),
        (["readme.txt"], r"holds no image such as SENTINEL2A_.*it holds .*readme\.txt"),
    ],
)
@pytest.mark.parametrize("as_zip", [False, True])
def test_other_products_are_named(tmp_path, names, match, as_zip):
    folder = tmp_path / "some"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    with pytest.raises(ReadError, match=match):
        open_theia(zipped(folder) if as_zip else folder)


def test_what_is_not_there_is_an_error(folder, tmp_path):
    with pytest.raises(ReadError, match=r"gone does not exist\. Check the path"):
        open_theia(tmp_path / "gone")
    with pytest.raises(ReadError, match=r"https://host/a\.zip is a URL.*Download it"):
        open_theia("https://me:pw@host/a.zip?sig=SECRET")
    with pytest.raises(
        ReadError, match=r"is a file; give the directory of a Theia product"
    ):
        open_theia(folder / f"{NAME}_FRE_B2.tif")
    with pytest.raises(MissingBandError, match="has no asset for band B01"):
        open_theia(folder, bands=["B01", "B02"])
    with pytest.raises(ChunkError, match="chunks=1000"):
        open_theia(folder, chunks=1000)


def test_several_products_are_refused(tmp_path):
    other = NAME.replace("T32TMS", "T32TNS")
    for name in (NAME, other):
        product(tmp_path, name=name, masks=False, kinds=("FRE",))
    with pytest.raises(ReadError, match=f"several products: .*{other}. Give one"):
        open_theia(tmp_path)


@pytest.mark.parametrize(
    ("xml", "match"),
    [
        (METADATA.replace("<Muscate", "<!DOCTYPE a>\n<Muscate", 1), "line 2.*DOCTYPE"),
        (METADATA[:300], r"MTD_ALL\.xml is damaged in line \d+"),
        (METADATA.replace(">10000<", ">0<"), "is '0', not a positive number"),
        (METADATA.replace(">10000<", "><"), "no REFLECTANCE_QUANTIFICATION_VALUE"),
        (METADATA.replace(">-10000<", ">none<"), "SPECIAL_VALUE is 'none'"),
        (METADATA.replace("2024-05-01T10", "10h"), "not a moment in UTC"),
        (METADATA.replace("Muscate_Metadata_Document", "A"), "describes a A, not"),
    ],
)
def test_metadata_are_read_with_care(tmp_path, xml, match):
    folder = product(tmp_path, xml="", masks=False, kinds=("FRE",))
    (folder / f"{NAME}_MTD_ALL.xml").write_text(xml)
    with pytest.raises(ReadError, match=match):
        open_theia(folder)


def test_a_product_without_metadata_is_refused(tmp_path):
    folder = product(tmp_path, masks=False, kinds=("FRE",))
    (folder / f"{NAME}_MTD_ALL.xml").unlink()
    with pytest.raises(ReadError, match=r"holds 0 files \*_MTD_ALL.xml"):
        open_theia(folder)


@pytest.mark.parametrize(
    ("metres", "facts", "match"),
    [
        (20, {}, r"B03 in .*FRE_B3\.tif has pixels of 20 x 20, not 10 m"),
        (10, {"epsg": None}, "has no CRS. Write the CRS"),
        (10, {"epsg": 32633}, "B03 of .* covers EPSG:32633"),
        (10, {"corner": (600_005.0, 8_200_000.0)}, r"corners 5 and 0 m apart"),
    ],
)
def test_images_elsewhere_are_refused(tmp_path, metres, facts, match):
    folder = product(tmp_path, masks=False, kinds=("FRE",))
    write(folder / f"{NAME}_FRE_B3.tif", counts_of("B03"), metres, **facts)
    with pytest.raises(GridError, match=match):
        open_theia(folder)


def test_a_mask_of_other_pixels_is_an_error(tmp_path):
    folder = product(tmp_path, kinds=("FRE",))
    write(folder / "MASKS" / f"{NAME}_EDG_R1.tif", mask_of("R2"), 20)
    tree = open_theia(folder, bands=["B02"])
    with pytest.raises(GridError, match=r"has the shape \(36, 36\) in its file"):
        tree["r10m"].B02.compute()


def test_damage_is_an_error(tmp_path):
    folder = product(tmp_path, kinds=("FRE",))
    tree = open_theia(folder)
    for name, band in ((f"{NAME}_FRE_B2.tif", "B02"), (f"MASKS/{NAME}_SAT_R2.tif", "")):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-500])
        array = tree["r10m"].B02 if band else tree["r20m"].flags
        with pytest.raises(ReadError, match=f"of {NAME} could not be read, rows 0:"):
            array.compute()


def test_images_of_a_zip_that_is_damaged_are_an_error(tmp_path):
    path = zipped(product(tmp_path, kinds=("FRE",)))
    tree = open_theia(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 8 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 8)
    path.write_bytes(data)
    with pytest.raises(ReadError, match="could not be read"):
        tree.compute()


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("../evil.tif", "points outside of it"),
        ("/etc/evil.tif", "points outside of it"),
    ],
)
def test_a_zip_that_points_outside_is_refused(folder, tmp_path, name, match):
    path = zipped(folder, tmp_path / "a.zip", **{name: b"x"})
    with pytest.raises(ReadError, match=match):
        open_theia(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ReadError, match="is not a zip archive, or is cut"):
        open_theia(path)


def test_opening_reads_no_pixels(tmp_path):
    """Only headers: images of which nothing else is left are opened."""
    copy = product(tmp_path, kinds=("FRE",))
    for path in copy.glob("*.tif"):
        path.write_bytes(path.read_bytes()[:600])
    assert list(open_theia(copy)["r10m"].data_vars) == [*BANDS_OF["R1"], "flags"]
