"""Written here, read by others: pixels, places and gaps stay to the last digit."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from worlds import grid, tree

import s2sr_xr
from s2sr_xr.output import zarr as s2

odc_xr = pytest.importorskip("odc.geo.xr")

GRIDS = {
    "10 m": grid((67, 53), 10),
    "5 m": grid((80, 130), 5, (600_060.0, 8_199_940.0)),
    "2.5 m, north": grid((40, 41), 2.5, (399_960.0, 4_900_020.0), "EPSG:32631"),
}


def made(where, times=None):
    """Return something like a result, of values that codes hold exactly."""
    rng = np.random.default_rng(3)
    shape = where.shape if times is None else (times, *where.shape)
    dims = ("y", "x") if times is None else ("time", "y", "x")
    codes = rng.integers(1, 65536, (2, *shape), dtype=np.uint16)
    codes[:, ..., 5:20, 7:30] = 0
    codes[1, ..., -1, :] = 0
    bands = {
        n: (dims, s2.decode(c, s2.REFLECTANCE), {"units": "1"})
        for n, c in zip(("B02", "B11"), codes, strict=True)
    }
    quality = rng.integers(0, 16, shape, dtype=np.uint8)
    coords = where.coords()
    if times is not None:
        coords["time"] = np.datetime64("2024-05-01T10:56:21.024", "ns") + np.arange(
            times
        ) * np.timedelta64(5, "D")
    return xr.Dataset({**bands, "quality": (dims, quality)}, coords)


@pytest.fixture(params=GRIDS)
def where(request):
    return GRIDS[request.param]


def check_place(obj, where):
    """The CRS, the corner and the centres, as each library sees them."""
    np.testing.assert_array_equal(obj.x, where.coords()["x"][1])
    np.testing.assert_array_equal(obj.y, where.coords()["y"][1])
    assert obj.x.dtype == obj.y.dtype == np.float64
    assert obj.rio.crs == rasterio.crs.CRS.from_wkt(where.crs)
    assert tuple(obj.rio.transform())[:6] == where.transform
    assert tuple(obj.rio.transform(recalc=True))[:6] == where.transform
    box = obj.odc.geobox
    assert box.shape == where.shape
    assert tuple(box.affine)[:6] == where.transform
    assert box.crs == rasterio.crs.CRS.from_wkt(where.crs).to_wkt()


@pytest.mark.parametrize("times", [None, 2])
def test_plain_xarray_reads_a_store(tmp_path, where, times):
    ds = made(where, times)
    ds.s2sr.to_zarr(tmp_path / "a.zarr")
    for chunks in (None, {}):
        plain = xr.open_zarr(tmp_path / "a.zarr", chunks=chunks)
        check_place(plain, where)
        for name, array in ds.data_vars.items():
            assert plain[name].dims == array.dims
            np.testing.assert_allclose(plain[name], array, rtol=0, atol=1e-6)
            np.testing.assert_array_equal(np.isnan(plain[name]), np.isnan(array))
            check_place(plain[name], where)
    if times:
        np.testing.assert_array_equal(plain.time, ds.time)


def test_rioxarray_reads_a_cog(tmp_path, where):
    ds = made(where)
    paths = ds.s2sr.to_cog(tmp_path / "a.tif")
    cog = rioxarray.open_rasterio(paths["bands"], mask_and_scale=True)
    check_place(cog, where)
    assert cog.long_name == ("B02", "B11")
    for band, name in zip(cog, ("B02", "B11"), strict=True):
        np.testing.assert_allclose(band, ds[name], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(np.isnan(band), np.isnan(ds[name]))
    flags = rioxarray.open_rasterio(paths["quality"])
    check_place(flags, where)
    np.testing.assert_array_equal(flags[0], ds.quality)


def test_gdal_reads_a_cog_window(tmp_path, where):
    ds = made(where)
    paths = ds.s2sr.to_cog(tmp_path / "a.tif")
    with rasterio.open(paths["bands"]) as cog:
        x, y = float(ds.x[31]), float(ds.y[12])
        (sampled,) = cog.sample([(x, y)])
        assert sampled.tolist() == [
            int(s2.encode(ds[n].values[12:13, 31:32], s2.REFLECTANCE)[0][0, 0])
            for n in ("B02", "B11")
        ]
        np.testing.assert_array_equal(cog.read_masks(2) > 0, ~np.isnan(ds.B11))


def test_gdal_reads_a_store(tmp_path, where):
    ds = made(where)
    ds.s2sr.to_zarr(tmp_path / "a.zarr")
    try:
        source = rasterio.open(f'ZARR:"{tmp_path / "a.zarr"}":/B11')
    except rasterio.errors.RasterioIOError as error:
        pytest.skip(f"GDAL {rasterio.__gdal_version__} reads no such Zarr v3: {error}")
    with source:
        codes = s2.encode(ds.B11.values, s2.REFLECTANCE)[0]
        np.testing.assert_array_equal(source.read(1), codes)
        assert tuple(source.transform)[:6] == where.transform


def test_every_road_gives_the_codes_back(tmp_path, where):
    """Store to COG to store: nothing is rounded twice."""
    made(where).s2sr.to_zarr(tmp_path / "a.zarr")
    first = s2sr_xr.open_result(tmp_path / "a.zarr")
    paths = first.s2sr.to_cog(tmp_path / "a.tif")
    cog = rioxarray.open_rasterio(paths["bands"], mask_and_scale=True)
    again = cog.assign_coords(band=list(cog.long_name)).to_dataset("band")
    again.s2sr.to_zarr(tmp_path / "b.zarr")
    second = s2sr_xr.open_result(tmp_path / "b.zarr")
    for name in ("B02", "B11"):
        np.testing.assert_array_equal(second[name], first[name])
    check_place(second, where)


@pytest.mark.parametrize("chunks", [None, {}])
def test_a_part_lies_where_it_lay(tmp_path, where, chunks):
    made(where, 2).s2sr.to_zarr(tmp_path / "a.zarr")
    whole = s2sr_xr.open_result(tmp_path / "a.zarr", chunks=chunks)
    rows, cols = slice(3, 36), slice(9, 40)
    part = whole.isel(time=1, y=rows, x=cols)
    expected = where.part(rows, cols)
    check_place(part, expected)
    part.s2sr.to_zarr(tmp_path / "b.zarr")
    paths = part.s2sr.to_cog(tmp_path / "b.tif")
    stored = xr.open_zarr(tmp_path / "b.zarr")
    cog = rioxarray.open_rasterio(paths["bands"], mask_and_scale=True)
    for obj, array in ((stored, stored.B11), (cog, cog[1])):
        check_place(obj, expected)
        np.testing.assert_allclose(array, part.B11, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(np.isnan(array), np.isnan(part.B11))


def test_a_pyramid_harms_no_reader(tmp_path, where):
    ds = made(where)
    ds.s2sr.to_zarr(tmp_path / "a.zarr")
    (level,) = s2sr_xr.add_pyramid(tmp_path / "a.zarr", levels=1)
    for opened in (
        s2sr_xr.open_result(tmp_path / "a.zarr"),
        xr.open_zarr(tmp_path / "a.zarr"),
    ):
        check_place(opened, where)
        np.testing.assert_allclose(opened.B11, ds.B11, rtol=0, atol=1e-6)
    coarse = where.at(2 * where.res)
    coarse = type(coarse)(
        crs=coarse.crs,
        x_edge=coarse.x_edge,
        y_edge=coarse.y_edge,
        res=coarse.res,
        shape=tuple(-(-n // 2) for n in where.shape),
    )
    check_place(xr.open_zarr(tmp_path / "a.zarr", group=level), coarse)


def test_a_result_is_not_made_finer_twice(tmp_path):
    """What comes back from disk still says that it was made, on both roads."""
    obj = tree(
        (3, 3),
        ["B02", "B03", "B04", "B08", "B05", "B11"],
        values=lambda s: np.random.default_rng(0).uniform(0.2, 0.5, s).astype("f4"),
    )
    ten = obj.s2sr.upsample("bicubic")
    ten.s2sr.to_zarr(tmp_path / "a.zarr")
    paths = ten.s2sr.to_cog(tmp_path / "a.tif")
    stored = s2sr_xr.open_result(tmp_path / "a.zarr")
    cog = rioxarray.open_rasterio(paths["bands"], mask_and_scale=True)
    named = cog.assign_coords(band=list(cog.long_name))
    for back in (stored, xr.open_zarr(tmp_path / "a.zarr"), named):
        with pytest.raises(s2sr_xr.GridError, match="already at 10 m, made by bicubic"):
            back.s2sr.upsample("bicubic")
        x, y = float(ten.x[0]), float(ten.y[0])
        cut = back.s2sr.window(x=(x, x + 1), y=(y - 1, y))
        assert (cut.sizes["y"], cut.sizes["x"]) == (6, 6)
    with pytest.raises(s2sr_xr.MissingBandError, match=r"'1', '2'.*Rename them"):
        cog.s2sr.upsample("bicubic")
