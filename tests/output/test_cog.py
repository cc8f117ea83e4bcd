"""A COG holds the result's pixels where they lie, and appears only when whole."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import dask
import numpy as np
import pytest
import rasterio
import xarray as xr
from worlds import tree

import s2sr_xr
from s2sr_xr.output import zarr as s2
from s2sr_xr.readers.fetch.source import as_variable

BANDS = ["B02", "B03", "B04", "B05", "B08", "B11", "B12"]


def gentle(size):
    return np.random.default_rng(0).uniform(0.2, 0.5, size).astype("f4")


@pytest.fixture(scope="module")
def ten():
    """A result of 1206 x 1200 px in which part of a band is missing."""
    obj = tree((200, 201), BANDS, values=gentle)
    obj["r20m"]["B11"].values[..., :150, :77] = np.nan
    return obj.s2sr.upsample("bicubic").compute()


def codes_of(ds, name):
    return s2.encode(ds[name].values, s2.REFLECTANCE)[0]


@pytest.mark.parametrize("chunks", [None, {"x": 700, "y": 300}, {"x": 90}])
def test_a_cog_holds_the_result(tmp_path, ten, chunks):
    ds = ten.chunk(chunks) if chunks else ten
    paths = ds.s2sr.to_cog(tmp_path / "new" / "ten.tif")
    assert paths == {
        "bands": tmp_path / "new/ten.tif",
        "quality": tmp_path / "new/ten_quality.tif",
    }
    assert set((tmp_path / "new").iterdir()) == set(paths.values())
    with rasterio.open(paths["bands"]) as cog:
        assert cog.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert cog.dtypes == ("uint16",) * len(BANDS)
        assert cog.descriptions == tuple(BANDS)
        assert set(zip(cog.scales, cog.offsets, strict=True)) == {(1e-4, -0.1)}
        assert cog.nodata == 0
        assert cog.block_shapes[0] == (512, 512)
        assert cog.tags(6)["wavelength_nm"] == "1613.7"
        assert cog.units == ("1",) * len(BANDS)
        assert cog.crs.to_epsg() == 32722
        assert tuple(cog.transform)[:6] == (10, 0, 600_000, 0, -10, 8_200_000)
        for k, name in enumerate(BANDS, start=1):
            np.testing.assert_array_equal(cog.read(k), codes_of(ten, name))
    with rasterio.open(paths["quality"]) as cog:
        np.testing.assert_array_equal(cog.read(1), ten.quality)
        assert cog.nodata is None
        assert "filled" in cog.tags(1)["flag_meanings"]


def test_overviews_are_means_of_the_valid(tmp_path, ten):
    paths = ten.s2sr.to_cog(tmp_path / "ten.tif")
    codes = codes_of(ten, "B11").astype(float)
    codes[codes == 0] = np.nan
    expected = xr.DataArray(codes, dims=("y", "x")).coarsen(y=2, x=2).mean().values
    with rasterio.open(paths["bands"]) as cog:
        assert cog.overviews(6) == [2, 4]
    with rasterio.open(paths["bands"], overview_level=0) as half:
        found = half.read(6).astype(float)
    found[found == 0] = np.nan
    assert np.isnan(expected).any()
    np.testing.assert_allclose(found, expected, atol=0.51)


def test_one_time_is_an_image_and_several_are_not(tmp_path):
    ds = tree((3, 3), BANDS, times=2, values=gentle).s2sr.upsample("bicubic")
    with pytest.raises(s2sr_xr.GridError, match=r"2 times.*isel\(time=i\)"):
        ds.s2sr.to_cog(tmp_path / "a.tif")
    for one in (ds.isel(time=[1]), ds.isel(time=1)):
        paths = one.s2sr.to_cog(tmp_path / "a.tif", overwrite=True)
        with rasterio.open(paths["bands"]) as cog:
            np.testing.assert_array_equal(cog.read(1), codes_of(ds.isel(time=1), "B02"))
            assert cog.tags()["time"].startswith("2024-05-06")
            assert cog.tags()["item_id"] == "item-1"


def test_what_no_cog_can_hold_is_refused(tmp_path, ten):
    small = ten.isel(x=slice(20), y=slice(20))
    cases = [
        (small[["quality"]], s2sr_xr.StoreError, "no band"),
        (small.assign(ndvi=small.B08 - small.B04), s2sr_xr.StoreError, "ndvi.*to_rast"),
        (small.assign(B08=small.B08.mean("x")), s2sr_xr.GridError, "B08 has dims"),
        (
            small.assign(B08=small.quality),
            s2sr_xr.StoreError,
            "B08 .uint8. is not a band",
        ),
        (small.drop_vars("spatial_ref"), s2sr_xr.GridError, "without a CRS.*to_zarr"),
        (small.isel(x=[0, 1, 5]), s2sr_xr.GridError, "'x' is not regular"),
        (
            small.assign(B08=small.B08.assign_attrs(units="count")),
            s2sr_xr.GridError,
            "Counts of B08 make no COG",
        ),
    ]
    for ds, error, match in cases:
        with pytest.raises(error, match=match):
            ds.s2sr.to_cog(tmp_path / "a.tif")
    with pytest.raises(s2sr_xr.StoreError, match="URL"):
        small.s2sr.to_cog("s3://bucket/a.tif")
    assert not list(tmp_path.iterdir())


def test_files_are_replaced_only_when_asked(tmp_path, ten):
    small = ten.isel(x=slice(20), y=slice(20))
    (tmp_path / "a_quality.tif").write_text("mine")
    with pytest.raises(s2sr_xr.StoreError, match=r"a_quality\.tif exists.*overwrite"):
        small.s2sr.to_cog(tmp_path / "a.tif")
    assert [p.name for p in tmp_path.iterdir()] == ["a_quality.tif"]
    small.s2sr.to_cog(tmp_path / "a.tif", overwrite=True)
    with rasterio.open(tmp_path / "a_quality.tif") as cog:
        assert cog.shape == (20, 20)
    small.drop_vars("quality").s2sr.to_cog(tmp_path / "a.tif", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_a_failure_leaves_what_was_there(tmp_path, ten):
    def broken(block):
        raise OSError("the source is gone")

    small = ten.isel(x=slice(40), y=slice(40))
    small.s2sr.to_cog(tmp_path / "a.tif")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    bad = small.chunk(x=20)
    bad["B05"] = bad.B05.copy(data=bad.B05.data.map_blocks(broken, dtype="f4"))
    with pytest.raises(s2sr_xr.StoreError, match="the source is gone"):
        bad.s2sr.to_cog(tmp_path / "a.tif", overwrite=True)
    with pytest.raises(s2sr_xr.StoreError, match=r"B05 lie outside.*not written"):
        (small[["B05"]] * 1e4).s2sr.to_cog(tmp_path / "b.tif")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_few_clipped_pixels_are_told(tmp_path, ten):
    few = ten[["B11"]].where((ten.x > ten.x[0]) | (ten.y < ten.y[800]), 9)
    with pytest.warns(s2sr_xr.S2SRWarning, match=r"0\.0\d% .*were clipped"):
        few.s2sr.to_cog(tmp_path / "few.tif")


@pytest.mark.skipif(os.name != "posix", reason="POSIX limits")
def test_a_full_disk_leaves_no_file(tmp_path):
    # Too little for the plain file of 2.1 MB, for the COG of noise of 2.6 MB, enough.
    code = f"""
        import resource, signal
        import numpy as np, s2sr_xr, xarray as xr
        from pyproj import CRS
        from s2sr_xr.core.grid import Grid
        crs = CRS.from_epsg(32631).to_wkt()
        grid = Grid(crs=crs, x_edge=0, y_edge=0, res=10, shape=(1024, 1024))
        noise = np.random.default_rng(0).uniform(-0.09, 6.4, grid.shape).astype("f4")
        ds = xr.Dataset({{"B02": (("y", "x"), noise)}}, grid.coords())
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for limit in (1_000_000, 2_300_000, 4_000_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, 4_000_000))
            try:
                ds.s2sr.to_cog({str(tmp_path)!r} + f"/{{limit}}.tif")
                print("written")
            except s2sr_xr.StoreError as error:
                print(str(error)[:20], "free space" in str(error))
    """
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    assert said.splitlines() == ["Cannot write the COG True"] * 2 + ["written"]
    assert [p.name for p in tmp_path.iterdir()] == ["4000000.tif"]
    with rasterio.open(tmp_path / "4000000.tif") as cog:
        assert cog.read(1).all()


class Counted:
    """A source that counts how often it is read."""

    def __init__(self, shape, seen):
        self.shape, self.seen = shape, seen

    def __dask_tokenize__(self):
        return (self.shape, id(self.seen))

    def at(self, time):
        return Counted((1, *self.shape[1:]), self.seen)

    def read(self, time, rows, cols):
        self.seen.append((rows.stop - rows.start) * (cols.stop - cols.start))
        return np.full((rows.stop - rows.start, cols.stop - cols.start), 0.3, "f4")


def test_every_block_is_computed_once(tmp_path):
    seen, made = [], tree((400, 400), ["B02"], times=1)["r10m"].to_dataset()
    for chunk in (None, 1200):
        seen.clear()
        made["B02"] = as_variable(Counted(made.B02.shape, seen), chunk, {})
        made.s2sr.to_cog(tmp_path / "a.tif", overwrite=True)
        assert sum(seen) == 2400 * 2400
        assert max(seen) <= 1200 * 1200


def test_bands_of_a_block_share_its_work(tmp_path):
    runs = []

    def two(block):
        runs.append(block.shape)
        return np.stack([block, block + np.float32(0.1)])

    base = tree((200, 200), ["B02"])["r10m"].to_dataset().chunk(x=600, y=600)
    both = base.B02.data.map_blocks(two, new_axis=0, chunks=(2, 600, 600), dtype="f4")
    runs.clear()
    ds = base.assign(B02=(("y", "x"), both[0]), B03=(("y", "x"), both[1]))
    with dask.config.set(scheduler="synchronous"):
        ds.s2sr.to_cog(tmp_path / "a.tif")
    assert len(runs) == 4
