"""Law 10 over whole catalogues: layouts, addresses, tokens, tiles, masks, costs."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import pickle
import sys
import time
import traceback
import types
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import numpy as np
import pystac
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr
from golden import (
    CORNER,
    EPSG,
    LAYOUTS,
    LEVEL_2A,
    REAL,
    SIZE,
    STRIP,
    classes,
    proj,
    reflectance,
    write_band,
    write_scene,
)
from httpserver import Handler, Place

import s2sr_xr  # noqa: F401 - registers .s2sr
from s2sr_xr.core.bands import BANDS
from s2sr_xr.core.radiometry import band_of, decide
from s2sr_xr.errors import GridError, MissingBandError, ReadError, S2SRWarning
from s2sr_xr.readers.fetch.asset import Asset
from s2sr_xr.readers.fetch.retry import Retry
from s2sr_xr.readers.fetch.signing import PLANETARY_COMPUTER, SasSigner
from s2sr_xr.readers.fetch.source import source_of
from s2sr_xr.readers.fetch.window import read_window
from s2sr_xr.readers.stac.open import open_stac, open_stac_tiles

ITEMS = Path(__file__).parents[3] / "shared" / "data" / "stac_items"
C1 = LAYOUTS["earth search, c1"].make
PC = LAYOUTS["planetary computer, new"].make


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def place(folder):
    with Place({p.name: p.read_bytes() for p in folder.iterdir()}) as place:
        yield place


def base(place):
    """Return a server's address, as a folder."""
    return place.url("", query="").rstrip("/")


def bands_of(tree):
    """Return the bands of a tree by name."""
    return {
        str(name): array
        for node in tree.children.values()
        for name, array in node.data_vars.items()
        if name in BANDS
    }


def opened(items, **options):
    """Open items, and let known doubts pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", S2SRWarning)
        return open_stac(items, **options)


# --- the golden table -----------------------------------------------------------------


@pytest.mark.parametrize("form", [dict, pystac.Item.from_dict])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_scene(place, name, form):
    layout = LAYOUTS[name]
    wanted = LEVEL_2A if layout.level == "L2A" else list(BANDS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", S2SRWarning)
        tree = open_stac(form(layout.make(base(place), wanted)), chunks=30)
    doubts = [w for w in caught if w.category is S2SRWarning]
    assert len(doubts) == layout.doubtful
    assert tree.attrs["level"] == layout.level
    assert tree.attrs["mgrs_tile"] == "22KGV"
    assert list(bands_of(tree)) == sorted(LEVEL_2A, key=lambda b: BANDS[b].native)
    for metres in (10, 20, 60):
        ds = tree[f"r{metres}m"].to_dataset()
        corner = (ds.x.to_numpy()[0] - metres / 2, ds.y.to_numpy()[0] + metres / 2)
        assert corner == CORNER
        assert ds.rio.crs.to_epsg() == EPSG
    for band in ("B02", "B8A", "B09"):
        got = bands_of(tree)[band].to_numpy()[0]
        np.testing.assert_array_equal(got, reflectance(band, offset=layout.offset))
    assert ("SCL" in tree["r20m"]) == layout.masks
    if layout.masks:
        np.testing.assert_array_equal(tree["r20m/SCL"][0], classes())


def test_every_layout_fits_on_one_time_axis(place):
    """Baselines and catalogues mixed: each item keeps its own meaning."""
    mixed = [layout for layout in LAYOUTS.values() if layout.level == "L2A"]
    items = [
        layout.make(base(place), ["B04", "B11"]) | {"id": f"{n:02}"}
        for n, layout in enumerate(mixed)
    ]
    got = bands_of(opened(items, chunks=24).load())
    assert {layout.offset for layout in mixed} == {0, -1000}
    for n, layout in enumerate(mixed):
        for band in ("B04", "B11"):
            wanted = reflectance(band, offset=layout.offset)
            np.testing.assert_array_equal(got[band][n], wanted)


def test_the_offset_of_cdse_is_that_of_each_band(place):
    item = LAYOUTS["cdse"].make(base(place), ["B04", "B8A"])
    item["assets"]["B8A_20m"]["raster:offset"] = -0.05
    got = bands_of(open_stac(item))
    np.testing.assert_array_equal(got["B04"][0], reflectance("B04", offset=-1000))
    np.testing.assert_array_equal(got["B8A"][0], reflectance("B8A", offset=-500))


def real(golden):
    """Return a real item as JSON, and the path of its file."""
    path = ITEMS / golden.folder
    if path.suffix == ".json":
        features = json.loads(path.read_text())["features"]
        return next(f for f in features if f["id"].startswith(golden.name)), path
    path /= f"{golden.name}.json"
    if not path.exists():  # some ids end in a time that the file's name leaves out
        (path,) = path.parent.glob(f"{golden.name}*")
    return json.loads(path.read_text()), path


@pytest.mark.skipif(not ITEMS.exists(), reason="real STAC items are not here")
@pytest.mark.parametrize("golden", REAL, ids=lambda g: f"{g.folder[:14]}-{g.tile}")
def test_real_items_mean_what_the_golden_table_says(golden):
    item, path = real(golden)
    if golden.fault:
        with pytest.raises(ReadError, match=golden.fault):
            open_stac(path)
        text = json.dumps(item).replace("s3://sentinel-s2-l1c/", "https://host/")
        item = json.loads(text)
    if golden.offset is not None:
        bands = {b for k, a in item["assets"].items() if (b := band_of(k, a))}
        assert len(bands) >= 12
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", S2SRWarning)
            assert {decide(item, b).offset for b in bands} == {golden.offset}
    if golden.corner is None:
        return
    item["links"] = [k for k in item["links"] if k["rel"] != "self"]
    tree = opened(item if path.name == STRIP or golden.fault else path)
    assert tree.attrs["mgrs_tile"] == golden.tile
    assert len(bands_of(tree)) == 12
    for metres, n in ((10, 10980), (20, 5490), (60, 1830)):
        ds = tree[f"r{metres}m"].to_dataset()
        assert ds.sizes == {"time": 1, "y": n, "x": n}
        half = metres / 2
        assert (ds.x.values[0] - half, ds.y.values[0] + half) == golden.corner
        assert ds.rio.crs.to_epsg() == golden.epsg


@pytest.mark.skipif(not ITEMS.exists(), reason="real STAC items are not here")
def test_the_golden_table_is_complete():
    files = {p.relative_to(ITEMS).as_posix() for p in ITEMS.rglob("*.json")}
    files = {f for f in files if not f.startswith("eopf_zarr_metadata")}
    known = {real(g)[1].relative_to(ITEMS).as_posix() for g in REAL}
    # Given up by its own catalogue: JPEG 2000 in files named .tif, no projection.
    assert files - known == {"misc_old/S2B_23VMF_20200102_0_L2A.json"}


# --- how items may be given -----------------------------------------------------------


class Search:
    """A search as pystac-client has them, by its method's name."""

    def __init__(self, name, found):
        setattr(self, name, lambda: found)


def test_a_search_is_as_good_as_what_it_finds(folder):
    items = [C1(folder, ["B04"]) | {"id": name} for name in "ab"]
    collection = {"type": "FeatureCollection", "features": items}
    searches = [
        Search("items", iter([pystac.Item.from_dict(i) for i in items])),
        Search("items_as_dicts", iter(items)),
        Search("item_collection", pystac.ItemCollection.from_dict(collection)),
    ]
    for search in searches:
        assert open_stac(search).r10m.item_id.to_numpy().tolist() == ["a", "b"]
    with pytest.raises(GridError, match="the search found nothing, or was consumed"):
        open_stac(Search("items", iter([])))


def test_a_catalogue_is_not_an_item():
    catalogue = pystac.Catalog("all", "everything")
    with pytest.raises(
        GridError, match=r"Catalog is a catalogue.*get_items\(recursive"
    ):
        open_stac(catalogue)


def test_an_item_comes_from_its_url(folder):
    item = C1("..", ["B04"])
    files = {"items/one.json": json.dumps(item).encode(), "items/bad.json": b"{"}
    files |= {p.name: p.read_bytes() for p in folder.glob("*.tif")}
    with Place(files) as place:
        tree = open_stac(place.url("items/one.json"))
        np.testing.assert_array_equal(tree["r10m/B04"][0], reflectance("B04"))
        for name, said in (("items/none.json", "404"), ("items/bad.json", "Expecting")):
            with pytest.raises(ReadError, match=f"loaded from http.*{said}") as caught:
                open_stac(place.url(name))
            assert "SECRET" not in spoken(caught.value)


def test_fields_of_the_item_hold_for_an_asset_that_is_alone(folder):
    item = C1(folder, ["B04"])
    fields = proj(10)
    for key in fields:
        del item["assets"]["red"][key]
    item["properties"] |= fields
    del item["assets"]["scl"]
    item["assets"]["red"]["href"] = "/none/B04.tif"  # and no header is asked
    assert open_stac(item).r10m.sizes["x"] == SIZE


def test_boxes_in_degrees_say_nothing(folder):
    item = LAYOUTS["boxes"].make(folder, ["B04"])
    for asset in item["assets"].values():
        asset["proj:bbox"] = [-49.1, -16.3, -49.0, -16.2]
    np.testing.assert_array_equal(open_stac(item)["r10m/B04"][0], reflectance("B04"))


def test_the_crs_may_be_any_text(folder):
    from pyproj import CRS

    crs = CRS.from_epsg(EPSG)
    for fields in ({"proj:wkt2": crs.to_wkt()}, {"proj:projjson": crs.to_json_dict()}):
        item = C1(folder, ["B04"])
        del item["properties"]["proj:epsg"]
        item["properties"] |= fields
        assert open_stac(item).r10m.to_dataset().rio.crs.to_epsg() == EPSG


# --- addresses ------------------------------------------------------------------------

AFAR = [{"rel": "self", "href": "https://host/items/one.json?sig=SECRET"}]


@pytest.mark.parametrize(
    "href", ["/etc/passwd", "file:///etc/passwd", "FILE:///a.tif", "/vsizip//a/b.tif"]
)
@pytest.mark.parametrize("self_link", ["https://host/one.json", "s3://bucket/one.json"])
def test_a_remote_item_does_not_lead_to_local_files(folder, href, self_link):
    item = C1(folder, ["B04"]) | {"links": [{"rel": "self", "href": self_link}]}
    item["assets"]["red"]["href"] = href
    with pytest.raises(
        ReadError, match=r"B04 of .* points to the local file"
    ) as caught:
        open_stac(item)
    assert caught.value.where["item"] == item["id"]
    assert caught.value.where["href"] == href
    with pytest.raises(ReadError, match=r"B04 of .* points to the local file"):
        open_stac(pystac.Item.from_dict(item))


def test_a_saved_remote_item_leads_only_beside_itself(folder, tmp_path):
    (tmp_path / "in").mkdir()
    item = C1("data", ["B04"]) | {"links": AFAR}
    del item["assets"]["scl"]
    path = tmp_path / "in" / "item.json"
    for href in ("data/B04.tif", "../B04.tif", f"{folder}/B04.tif", "link/B04.tif"):
        item["assets"]["red"]["href"] = href
        path.write_text(json.dumps(item))
        (tmp_path / "in" / "link").unlink(missing_ok=True)
        (tmp_path / "in" / "link").symlink_to(folder)
        if href.startswith("data"):
            open_stac(path)
            continue
        with pytest.raises(ReadError, match="points to the local file") as caught:
            open_stac(path)
        assert "SECRET" not in spoken(caught.value)
    # An item of one's own may lie where it wants.
    item = C1(folder, ["B04"])
    path.write_text(json.dumps(item))
    np.testing.assert_array_equal(open_stac(path)["r10m/B04"][0], reflectance("B04"))


@pytest.mark.parametrize(
    ("href", "said"),
    [
        ("s3://sentinel-s2-l1c/B04.jp2", r"requester-pays.*download the product"),
        ("s3://eodata/B04.jp2", r"needs keys of the Copernicus Data Space"),
        ("gs://any/B04.jp2", r"not known to be public: it may need credentials"),
        ("/vsicurl/http://host/B04.tif", "virtual file systems"),
        ("WMS:http://host/B04.tif", "begins with WMS:"),
        ("<VRTDataset/>", "no address but text"),
        ("", "no address"),
    ],
)
def test_addresses_that_cannot_be_opened_say_what_to_do(folder, href, said):
    item = C1(folder, ["B04"])
    item["assets"]["red"] |= {"href": href, "type": "image/tiff"}
    with pytest.raises(ReadError, match=f"B04 of .*{said}"):
        open_stac(item)


def test_public_buckets_are_read_over_https():
    item = C1("s3://e84-earth-search-sentinel-data/x y", ["B04"])
    item["links"] = [{"rel": "self", "href": "s3://sentinel-cogs/a/item.json"}]
    assets = source_of(open_stac(item)["r10m/B04"]).assets
    bucket = "https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com"
    assert assets[0].href == f"{bucket}/x%20y/B04.tif"
    item["assets"]["red"]["href"] = "./B04.tif"
    assets = source_of(open_stac(item)["r10m/B04"]).assets
    assert assets[0].href.endswith("sentinel-cogs.s3.us-west-2.amazonaws.com/a/B04.tif")


# --- tokens ---------------------------------------------------------------------------


class VaultHandler(Handler):
    """Hands out tokens, and refuses objects to who has none that is good."""

    def answer(self, *, head):
        vault = self.server.place
        path, _, query = self.path.partition("?")
        if path.startswith("/token/"):
            body = json.dumps(vault.token()).encode()
            self.send(200, body, head=head, of="application/json")
        elif any(f"sig=SECRET{n}&" in f"{query}&" for n in vault.good):
            super().answer(head=head)
        else:
            vault.refused += 1
            self.refuse(403, None)


class Vault(Place):
    """A blob container with shared-access tokens."""

    def __init__(self, files, lifetime=3600):
        self.container = uuid.uuid4().hex
        super().__init__({f"{self.container}/{k}": v for k, v in files.items()})
        self.lifetime, self.issued, self.refused = lifetime, 0, 0
        self.good: set[int] = set()  # tokens that open it
        self.closed = False  # whether no token does

    def __enter__(self):
        super().__enter__()
        self.server.RequestHandlerClass = VaultHandler
        return self

    def token(self):
        with self.lock:
            self.issued += 1
            self.good = set() if self.closed else {self.issued}
            end = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.lifetime)
            text = end.strftime("%Y-%m-%dT%H:%M:%SZ")
            token = f"sv=2024&se={text}&sig=SECRET{self.issued}"
            return {"msft:expiry": text, "token": token}

    def asset(self, band="B04"):
        return Asset(
            item_id="S2A_TEST",
            band=band,
            href=self.url(f"{self.container}/{band}.tif", query=""),
            driver="GTiff",
            sign=PLANETARY_COMPUTER,
        )


@pytest.fixture
def vault(folder, monkeypatch):
    with Vault({p.name: p.read_bytes() for p in folder.glob("*.tif")}) as vault:
        monkeypatch.setenv("PC_SDK_SAS_URL", vault.url("token", query=""))
        yield vault


ALL = slice(0, SIZE), slice(0, SIZE)
FAST = Retry(tries=2, wait=0.01, connect=2, stall=1)


def spoken(error):
    """Return everything that people may see of an error."""
    shown = [
        str(error),
        repr(error),
        repr(error.where),
        *traceback.format_exception(error),
    ]
    return "\n".join([*shown, repr(error.__cause__), repr(error.__context__)])


def test_items_of_planetary_computer_are_signed_when_they_are_read():
    account = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2"
    source = source_of(open_stac(PC(account, ["B04"]))["r10m/B04"])
    assert source.assets[0].sign == PLANETARY_COMPUTER
    assert source.assets[0].href == f"{account}/B04.tif"
    other = PC("https://mine.blob.core.windows.net/box", ["B04"])
    assert source_of(open_stac(other)["r10m/B04"]).assets[0].sign is None
    other["links"] = [
        {
            "rel": "root",
            "href": "https://planetarycomputer.microsoft.com/api/stac/v1/",
        }
    ]
    assert source_of(open_stac(other)["r10m/B04"]).assets[0].sign == PLANETARY_COMPUTER
    assert (
        source_of(open_stac(C1("https://host", ["B04"]))["r10m/B04"]).assets[0].sign
        is None
    )


def test_one_token_serves_all_who_read(vault):
    asset = pickle.loads(pickle.dumps(vault.asset()))  # noqa: S301 - our own
    assert vault.issued == 0
    with ThreadPoolExecutor(8) as pool:
        windows = list(
            pool.map(lambda _: read_window(asset, *ALL, retry=FAST), range(8))
        )
    assert vault.issued == 1
    assert vault.refused == 0
    for window in windows:
        np.testing.assert_array_equal(window, windows[0])
    assert "SECRET" not in repr(asset) + str(asset.__dask_tokenize__())
    assert b"SECRET" not in pickle.dumps(asset)


def test_a_token_that_ends_meanwhile_is_renewed_once(vault):
    asset = vault.asset()
    first = read_window(asset, *ALL, retry=FAST)
    vault.good = set()
    again = read_window(asset, *ALL, retry=Retry(tries=1, connect=2, stall=1))
    np.testing.assert_array_equal(again, first)
    assert vault.issued == 2


def test_a_refusal_that_stays_raises_without_the_token(vault):
    vault.closed = True
    asset = vault.asset()
    with pytest.raises(ReadError, match=r"B04 of S2A_TEST .* 403 Forbidden") as caught:
        read_window(asset, *ALL, retry=FAST)
    assert vault.issued == 2
    assert "SECRET" not in spoken(caught.value)
    assert caught.value.where["status"] == 403


def test_tokens_are_kept_until_shortly_before_their_end(vault):
    signer = SasSigner()
    href = vault.asset().href
    assert len({signer(href) for _ in range(3)}) == 1
    vault.lifetime = 100  # seconds: too short to be kept
    short = SasSigner()
    assert len({short(href) for _ in range(3)}) == 3
    assert "SECRET" not in repr(signer)


def test_tokens_that_have_ended_are_no_tokens(vault):
    vault.lifetime = -1
    with pytest.raises(ReadError, match=r"could not be signed: .*has ended") as caught:
        read_window(vault.asset(), *ALL, retry=FAST)
    assert "SECRET" not in spoken(caught.value)


def test_no_token_raises(vault, monkeypatch):
    monkeypatch.setenv("PC_SDK_SAS_URL", "http://127.0.0.1:9/token")
    with pytest.raises(ReadError, match="B04 of S2A_TEST could not be signed"):
        read_window(vault.asset(), *ALL, retry=FAST)
    with pytest.raises(ReadError, match="signed by 'nobody', which is not known"):
        read_window(
            Asset(item_id="a", band="B04", href="x", driver="GTiff", sign="nobody"),
            *ALL,
        )


def test_what_the_user_signed_stays_while_it_is_good(vault):
    signer = SasSigner()
    href = vault.asset().href
    good, late = (f"{href}?sig=MINE&se={y}-01-01T00:00:00Z" for y in (2099, 2020))
    assert signer(good) == good
    assert "sig=SECRET1" in signer(late)
    assert "MINE" not in signer(good, refused=good)


def test_the_catalogues_own_package_signs_where_it_is(vault, monkeypatch):
    package = types.ModuleType("planetary_computer")
    package.sign = lambda href: f"{href}?sig=PACKAGE"
    monkeypatch.setitem(sys.modules, "planetary_computer", package)
    signer = SasSigner()
    href = vault.asset().href
    assert signer(href) == f"{href}?sig=PACKAGE"
    assert "sig=SECRET1" in signer(href, refused=f"{href}?sig=PACKAGE")


# --- several tiles, and boxes ---------------------------------------------------------


def tile(folder, name, corner, **properties):
    item = C1(folder, ["B04", "B11", "B01"])
    item["id"] = name
    item["properties"] |= {"grid:code": f"MGRS-{name[:5]}"} | properties
    for asset in item["assets"].values():
        asset.update(proj(int(asset["proj:transform"][0]), corner=corner))
    return item


EAST = (CORNER[0] + 600, CORNER[1])


def test_tiles_open_one_tree_each(folder):
    items = [
        tile(folder, "22KGW_b", EAST),
        tile(folder, "22KGV_a", CORNER),
        tile(folder, "22KGV_c", CORNER),
    ]
    trees = open_stac_tiles(items)
    assert list(trees) == ["22KGV", "22KGW"]
    assert trees["22KGV"].r10m.item_id.to_numpy().tolist() == ["22KGV_a", "22KGV_c"]
    xr.testing.assert_identical(trees["22KGV"], open_stac(items[1:]))
    assert trees["22KGW"].r10m.x.to_numpy()[0] == EAST[0] + 5
    with pytest.raises(GridError, match=r"2 grids: .*open_stac_tiles"):
        open_stac(items)


def test_tiles_without_one_name_are_called_by_their_place(folder):
    items = [tile(folder, "22KGV_a", CORNER), tile(folder, "22KGV_b", EAST)]
    places = list(open_stac_tiles(items))
    assert places == [
        "EPSG:32722 x 600000..600720, y 8199280..8200000",
        "EPSG:32722 x 600600..601320, y 8199280..8200000",
    ]


def degrees(west, south, east, north):
    """Return a box in metres from the corner as longitude and latitude."""
    from pyproj import Transformer

    to = Transformer.from_crs(EPSG, 4326, always_xy=True)
    x, y = CORNER
    return to.transform_bounds(x + west, y + south, x + east, y + north)


@pytest.mark.parametrize("chunks", [None, 12, 2196])
def test_a_box_opens_whole_cells(folder, chunks):
    item = PC(folder, LEVEL_2A)
    box = degrees(130, -400, 290, -190)
    part = open_stac(item, bbox=box, chunks=chunks)
    whole = open_stac(item, chunks=chunks)
    xr.testing.assert_identical(part.load(), whole.s2sr.window(bbox=box).load())
    for metres in (10, 20, 60):
        ds = part[f"r{metres}m"].to_dataset()
        assert (ds.sizes["y"] * metres, ds.sizes["x"] * metres) == (240, 180)
        west, north = ds.x.values[0] - metres / 2, ds.y.values[0] + metres / 2
        assert (west - CORNER[0], north - CORNER[1]) == (120, -180)


def test_a_part_reads_its_own_window(folder):
    part = open_stac(PC(folder, ["B05"]), bbox=degrees(130, -400, 290, -190), chunks=12)
    source = source_of(part["r20m/B05"])
    read = source.read(0, slice(0, 3), slice(1, 4))
    np.testing.assert_array_equal(read, reflectance("B05")[9:12, 7:10])
    assert dask.base.tokenize(source) != dask.base.tokenize(source.source)


def test_a_box_that_meets_nothing_says_so(folder):
    items = [tile(folder, "22KGV_a", CORNER), tile(folder, "22KGW_b", EAST)]
    west = degrees(10, -100, 200, -50)
    assert list(open_stac_tiles(items, bbox=west)) == ["22KGV"]
    with pytest.raises(GridError, match="does not meet the data"):
        open_stac(items[1], bbox=west)
    with pytest.raises(GridError, match=r"No tile meets the bbox \(0, 0, 1, 1\)"):
        open_stac_tiles(items, bbox=(0, 0, 1, 1))
    with pytest.raises(GridError, match="four finite numbers"):
        open_stac(items[0], bbox=(0, 0, 1))


@pytest.mark.skipif(not ITEMS.exists(), reason="real STAC items are not here")
def test_a_real_strip_opens_tile_by_tile():
    trees = open_stac_tiles(ITEMS / "planetary_computer_l2a" / STRIP)
    golden = sorted((g for g in REAL if STRIP in g.folder), key=lambda g: g.tile)
    assert list(trees) == [g.tile for g in golden]


# --- the scene classification ---------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 24])
def test_the_scene_classification_becomes_flags(folder, chunks):
    tree = open_stac(PC(folder, ["B05"]), chunks=chunks)
    ds = tree["r20m"].to_dataset()
    assert ds.SCL.dtype == ds.flags.dtype == np.uint8
    assert ds.SCL.attrs["flag_meanings"].split()[1] == "saturated_or_defective"
    assert len(ds.SCL.attrs["flag_meanings"].split()) == 12
    assert ds.flags.attrs["flag_masks"] == [4]
    np.testing.assert_array_equal(ds.SCL[0], classes())
    np.testing.assert_array_equal(ds.flags[0], np.where(classes() == 1, 4, 0))
    assert source_of(ds.SCL) is not None
    rows = source_of(ds.flags).read(0, slice(3, 5), slice(0, 36))
    np.testing.assert_array_equal(rows, ds.flags[0, 3:5])


def test_classifications_come_when_they_are_there_or_asked_for(folder):
    both = [PC(folder, ["B04", "B05"]) | {"id": name} for name in "ab"]
    assert "SCL" in open_stac(both)["r20m"]
    assert "SCL" not in open_stac(both, bands=["B04", "B05"])["r20m"]
    assert list(open_stac(both, bands=["scl"]).children) == ["r20m"]
    assert list(open_stac(both, bands="SCL")["r20m"].data_vars) == ["SCL", "flags"]
    asked = open_stac(both, bands=["B04", "SCL"])
    assert list(asked.children) == ["r10m", "r20m"]
    assert asked["r20m/SCL"].sizes["time"] == 2
    del both[1]["assets"]["SCL"]
    assert "SCL" not in open_stac(both)["r20m"]
    with pytest.raises(MissingBandError, match="Item b has no asset for SCL; 1 of 2"):
        open_stac(both, bands=["SCL"])


def test_a_classification_is_bytes(folder, tmp_path):
    write_band(tmp_path / "SCL.tif", classes().astype(np.uint16), 20)
    item = PC(folder, ["B05"])
    item["assets"]["SCL"]["href"] = str(tmp_path / "SCL.tif")
    with pytest.raises(ReadError, match=r"SCL of .* holds uint16 where uint8"):
        open_stac(item)["r20m/SCL"].load()


def test_defective_pixels_reach_the_quality_of_results(folder, tmp_path):
    codes = np.full((SIZE // 2, SIZE // 2), 4, np.uint8)
    codes[20, 21] = 1
    write_band(tmp_path / "SCL.tif", codes, 20)
    item = PC(folder, ["B04", "B05"])
    item["assets"]["SCL"]["href"] = str(tmp_path / "SCL.tif")
    results = [
        open_stac(item, chunks=chunks).s2sr.upsample("bicubic", check=False).compute()
        for chunks in (None, 36)
    ]
    xr.testing.assert_identical(*results)
    marked = np.argwhere(results[0].quality.to_numpy()[0] & 4)
    assert [40, 42] in marked.tolist()
    assert np.abs(marked - (40, 42)).max() < 12
    plain = open_stac(item, bands=["B04", "B05"]).s2sr.upsample("bicubic", check=False)
    assert not (plain.quality.to_numpy() & 4).any()


# --- what it costs --------------------------------------------------------------------


def test_opening_asks_for_nothing(place):
    with place.lock:
        place.log.clear()
    for name, layout in LAYOUTS.items():
        if name == "no projection":
            continue
        opened(layout.make(base(place), LEVEL_2A))
    assert place.log == []


def textured(n, *, seed=3):
    """Return counts that compress like land does: about 1.5 bytes a pixel."""
    rng = np.random.default_rng(seed)
    field = rng.normal(0, 40, (n, n)).astype(np.float32)
    field += np.linspace(1200, 3000, n, dtype=np.float32)[:, None]
    return field.astype(np.uint16)


def write_large(path, counts, block):
    driver = {".tif": "COG", ".jp2": "JP2OpenJPEG"}[path.suffix]
    options = {
        "COG": {"compress": "deflate", "predictor": 2, "overviews": "none"},
        "JP2OpenJPEG": {"REVERSIBLE": "YES", "QUALITY": "100"},
    }[driver]
    size = (
        {"blocksize": block}
        if driver == "COG"
        else dict.fromkeys(("BLOCKXSIZE", "BLOCKYSIZE"), block)
    )
    with rasterio.open(
        path,
        "w",
        driver=driver,
        height=len(counts),
        width=len(counts),
        count=1,
        dtype="uint16",
        crs=f"EPSG:{EPSG}",
        transform=rasterio.transform.from_origin(*CORNER, 10, 10),
        **options,
        **size,
    ) as dataset:
        dataset.write(counts, 1)
    return path


def served(place, size):
    """Return requests and bytes that a server sent, from its log."""
    sent = 0
    for method, _, span, _ in place.log:
        if method == "GET":
            start, stop = (
                (span or f"bytes=0-{size - 1}").removeprefix("bytes=").split("-")
            )
            sent += min(int(stop), size - 1) - int(start) + 1
    return len(place.log), sent


def test_a_small_window_of_a_large_cog_costs_little(tmp_path):
    path = write_large(tmp_path / "B04.tif", textured(5490), 512)
    with rasterio.open(path) as file:
        sizes = {
            (i, j): int(file.get_tag_item(f"BLOCK_SIZE_{j}_{i}", "TIFF", bidx=1))
            for i, j in itertools.product(range(11), range(11))
        }
    with Place({path.name: path.read_bytes()}) as place:
        asset = Asset(
            item_id="a", band="B04", href=place.url(path.name), driver="GTiff"
        )
        found = []
        # In one block; over two; over four.
        for row, col in ((1100, 2100), (1100, 1950), (1950, 3500)):
            place.log.clear()
            read_window(asset, slice(row, row + 200), slice(col, col + 200))
            own = [
                sizes[i, j]
                for i in range(row // 512, (row + 199) // 512 + 1)
                for j in range(col // 512, (col + 199) // 512 + 1)
            ]
            requests, sent = served(place, path.stat().st_size)
            spans = [s for m, _, s, _ in place.log if m == "GET"]
            extra = requests - len(
                [s for s in spans if s and not s.startswith("bytes=0-")]
            )
            found.append((len(own), requests, extra, round(sent / sum(own), 2)))
    # Which bytes these are, a HEAD, and the header.
    assert all(extra <= 3 and ratio <= 3 for _, _, extra, ratio in found), found
    assert all(ratio <= 1.6 for *_, ratio in found), found  # 1.1 to 1.3 when written


@pytest.mark.parametrize(
    ("suffix", "block", "tags", "most"),
    [
        ("tif", 128, False, 1.6),
        ("tif", 128, True, 1.15),
        ("jp2", 256, False, 7.5),
        ("jp2", 256, True, 2.2),
    ],
)
def test_reading_a_tile_block_by_block_costs_what_overlaps(
    tmp_path, suffix, block, tags, most
):
    """A tile in a quarter of its size: 2745 px for 10980, in 25 windows of 549 px.

    Blocks of 2196 px meet more storage blocks than they fill, of 512 px in COGs and of
    1024 px in JPEG 2000: (26 / 22)^2 = 1.40 and (15 / 11)^2 = 1.86 times the bytes. A
    whole tile took 1.42 times as a COG of 157 MB (182 requests), and 3.6 times as a
    JPEG 2000 file of 117 MB (1738 requests): there GDAL also looks for tiles one by
    one, and reads ahead. In a small file looking for tiles is most of it. Where the
    server names its bytes, decoded blocks are kept, and what overlaps comes once.
    """
    n, side, halo = 2745, 549, 6
    path = write_large(tmp_path / f"B04.{suffix}", textured(n), block)
    driver = {"tif": "GTiff", "jp2": "JP2OpenJPEG"}[suffix]
    size = path.stat().st_size
    with Place({path.name: path.read_bytes()}, tags=tags) as place:
        asset = Asset(item_id="a", band="B04", href=place.url(path.name), driver=driver)
        spans = [
            slice(max(k - halo, 0), min(k + side + halo, n)) for k in range(0, n, side)
        ]
        for rows, cols in itertools.product(spans, spans):
            read_window(asset, rows, cols)
        requests, sent = served(place, size)
    assert sent / size < most, (sent / size, requests)


def test_a_hundred_items_of_any_layout_open_at_once():
    items = [C1("https://host", LEVEL_2A) | {"id": f"i{n}"} for n in range(100)]
    for item in items:
        for asset in item["assets"].values():
            asset.update(proj(int(asset["proj:transform"][0]), size=10980))
    begun = time.process_time()
    trees = open_stac_tiles(items)
    assert time.process_time() - begun < 5  # 0.3 s on a quiet machine
    assert trees["22KGV"].r10m.sizes == {"time": 100, "y": 10980, "x": 10980}
