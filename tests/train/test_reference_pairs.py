"""Laws of learning from a finer sensor that lies a little off."""

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers .rio
import torch
import xarray as xr
from test_evoland import batch, small
from worlds import tree

import s2sr_xr
from s2sr_xr.core.filters import gaussian_blur
from s2sr_xr.core.scene import scene_of
from s2sr_xr.engine.nesting import check_nesting
from s2sr_xr.errors import GridError, MissingBandError, RadiometryError, ReadError
from s2sr_xr.models.published import published
from s2sr_xr.simulate.truth import finer_truth
from s2sr_xr.train.alignment import aligned, moved
from s2sr_xr.train.data.patches import Rules, Sampler
from s2sr_xr.train.data.reference_image import open_finer, with_finer
from s2sr_xr.train.loop import fit
from s2sr_xr.train.losses import SPREAD
from s2sr_xr.train.plan import Plan
from s2sr_xr.train.recipes.pairs import Supervised

SPEC = next(s for s, _ in published() if s.name == "carn-s")
RGBN = ["B02", "B03", "B04", "B08"]


# Alignment


def test_moving_there_and_back_loses_little():
    image = gaussian_blur(batch(cells=24)[2][:, :4], 0.8)
    shift = torch.tensor([[0.7, -1.3], [-2.0, 0.4]])
    there = moved(image, shift, 3)
    back = moved(there, -shift, 3)
    inner = (..., slice(16, -16), slice(16, -16))
    assert (back - image)[inner].abs().mean() < 0.02 * image.std()
    # Down and to the right, as it says: whole pixels are a roll.
    whole = moved(image, torch.tensor([[2.0, -1.0]] * 2), 3)
    rolled = image.roll((2, -1), (-2, -1))
    assert torch.allclose(whole[inner], rolled[inner], atol=1e-6)


@pytest.mark.parametrize("shift", [(0.7, -0.3), (-2.2, 1.6), (0.0, 0.0)])
def test_a_shift_and_a_gain_are_found_against_a_blurred_image(shift):
    image = gaussian_blur(batch(cells=24, seed=3)[2][:, :4], 0.8)
    off = 1.1 * moved(image, -torch.tensor([shift] * 2), 3) + 0.02
    found = aligned(off, gaussian_blur(image, 1.5), gaussian_blur(image, 1.0))
    assert found.shift[0].tolist() == pytest.approx(shift, abs=0.05)
    assert found.gain.flatten().tolist() == pytest.approx([1 / 1.1] * 8, rel=0.03)
    assert found.match.min() > 0.98
    inner = (..., slice(10, -10), slice(10, -10))
    assert (found.image - image)[inner].abs().mean() < 0.05 * image.std()


def test_what_is_flat_or_another_ground_is_not_moved_far_nor_counted():
    image = batch(cells=16)[2][:, :4]
    other = batch(cells=16, seed=9)[2][:, :4]
    level = aligned(torch.full_like(image, 0.3), *[torch.full_like(image, 0.2)] * 2)
    assert level.shift.abs().max() == 0
    assert torch.allclose(level.image, torch.tensor(0.2))
    assert aligned(other, image, image).match.max() < 0.5
    ten, twenty, _ = batch(cells=16)
    like = Supervised(keep=0).like
    assert like(image, (ten, twenty, other)) == 0
    assert like(image, (ten, twenty, 1.5 * image)) < 0.1
    assert Supervised(keep=0, align=False).like(image, (ten, twenty, other)) > 0.1


def learnt(align):
    """Return the error, to the truth, of a network that was shown one which is off."""
    steps = []
    for seed in range(6):
        ten, twenty, truth = batch(cells=16, seed=seed)
        truth = gaussian_blur(truth, 0.6)
        generator = torch.Generator().manual_seed(seed)
        # 0.7 pixels off, now here, now there.
        angle = 6.28 * torch.rand(2, generator=generator)
        off = moved(truth[:, :4], 0.7 * torch.stack([angle.cos(), angle.sin()], 1), 3)
        steps.append((ten, twenty, 1.1 * off, truth))
    recipe = Supervised(align=align, keep=0)
    plan = Plan(steps=60, lr=5e-3, precision="float32", ema=0.9, warm=0.1)
    *_, last = fit(small(), lambda step: steps[step % 6][:3], recipe, plan)
    ten, twenty, _, truth = steps[0]
    with torch.inference_mode():
        made = last.network(ten, twenty)[:, :4]
    inner = (..., slice(8, -8), slice(8, -8))
    return float((made - truth[:, :4])[inner].square().mean().sqrt())


def test_an_aligned_target_teaches_more_than_one_that_is_off():
    assert learnt(align=True) < 0.8 * learnt(align=False)


def test_the_loss_is_of_the_bands_that_the_finer_sensor_has():
    ten, twenty, fine = batch(cells=16)
    recipe = Supervised(bands=(1, 2), align=False, keep=0)

    def perfect(*_):
        return fine + torch.tensor(SPREAD)[:, None, None]

    found = recipe(perfect, (ten, twenty, fine[:, 1:3]))
    assert found.item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(GridError, match=r"of bands \[1, 2\], the finer image is"):
        recipe(perfect, (ten, twenty, fine[:, :4]))

    def level(image, _):
        return torch.full((2, 10, *(2 * n for n in image.shape[-2:])), 0.2)

    more = Supervised(bands=(1, 2), align=False)
    given = (ten, twenty, fine[:, 1:3])
    assert more(level, given) > recipe(level, given)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda x: aligned(x, x[:, :2], x), "Images of one shape"),
        (lambda x: aligned(*[x[..., :16]] * 3), "24 along each side are needed"),
    ],
)
def test_what_cannot_be_aligned_is_said(wrong, said):
    with pytest.raises(GridError, match=said):
        wrong(batch(cells=16)[2])


# Finer images beside a scene


def finer(scene, *, res=5.0, cells=None, away=(0.0, 0.0), epsg=None, names=RGBN):
    """A raster that says where its pixels are, over some cells of a scene."""
    grid = check_nesting(scene_of(scene), SPEC)
    rows, cols = cells or grid.shape
    y = grid.y_edge - away[0] - res * (np.arange(round(rows * 20 / res)) + 0.5)
    x = grid.x_edge + away[1] + res * (np.arange(round(cols * 20 / res)) + 0.5)
    values = (y[:, None] - grid.y_edge) * 1e-4 + (x - grid.x_edge) * 1e-5 + 0.3
    made = xr.Dataset(
        {n: (("y", "x"), values.astype("f4")) for n in names}, {"y": y, "x": x}
    )
    return made.rio.write_crs(epsg or grid.crs)


@pytest.mark.parametrize("res", [5.0, 2.5, 1.0, 3.0])
def test_a_finer_image_gives_its_means_on_the_grid_of_5_m(res):
    scene = tree((6, 6), SPEC.bands)
    image = finer(scene, res=res, away=(40, 60), cells=(12, 9))
    found = with_finer(scene, SPEC, "Here", image)
    assert found.cells == (12, 9)
    assert found.groups[-1].names == tuple(RGBN)
    assert found.groups[-1].per_cell == 4
    truth = found.layers[-1][0].to_numpy()
    here = -(np.arange(48) * 5 + 42.5)[:, None] * 1e-4
    here = here + (np.arange(36) * 5 + 62.5) * 1e-5 + 0.3
    # Means by area of a plane: what covers an edge is there in part.
    assert np.abs(truth - here)[1:-1, 1:-1].max() < (1e-6 if 5 % res == 0 else 2e-4)
    whole = scene["r10m"].B02.to_numpy()
    assert np.array_equal(found.layers[0][0].to_numpy(), whole[4:28, 6:24])


def test_patches_of_a_scene_and_its_finer_image_are_of_one_place():
    scene = tree((8, 8), SPEC.bands)
    coarse = scene["r10m"].to_dataset()
    grid = finer(scene, away=(20, 20), cells=(20, 20))
    image = finer(scene, res=10.0)
    level = {n: (("y", "x"), image[n].to_numpy()) for n in RGBN}
    scene["r10m"] = coarse.assign(level)
    one = with_finer(scene, SPEC, "Here", grid)
    ten, _, fine = Sampler([one], side=8, batch=4, rules=Rules(cloud=1))(0)
    mean = fine.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-1, -3))
    assert torch.allclose(mean, ten, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"epsg": "EPSG:32631"}, GridError, r"Here lies in .*22S.*31N.*EPSG:32722"),
        ({"away": (9e4, 0)}, GridError, "share no whole cell of 20 m"),
        ({"res": 10.0}, GridError, "pixels of 10 x 10 m, and truth at 5 m is needed"),
        ({"names": ["B09"]}, MissingBandError, "Here: the finer image has B09; the"),
    ],
)
def test_what_is_no_finer_image_of_a_scene_is_said(options, error, said):
    scene = tree((6, 6), SPEC.bands)
    with pytest.raises(error, match=said):
        with_finer(scene, SPEC, "Here", finer(scene, **options))


def test_a_raster_is_read_as_reflectance_by_its_names(tmp_path):
    image = finer(tree((2, 2), SPEC.bands))
    path = tmp_path / "planet.tif"
    stack = image.to_dataarray("band").transpose("band", "y", "x")
    counts = (stack * 1e4).round().astype("u2").rio.write_nodata(0)
    counts[0, 0, 0] = 0
    counts.rio.to_raster(path)
    names = ["blue", "green", "", "nir"]
    found = open_finer(path, bands=names, scale=1e-4)
    assert list(found.data_vars) == ["B02", "B03", "B08"]
    assert np.isnan(found.B02[0, 0])
    assert found.B08.to_numpy() == pytest.approx(image.B08.to_numpy(), abs=1e-4)
    with pytest.raises(RadiometryError, match=r"what one count is worth\. Say scale"):
        open_finer(path, bands=names)
    with pytest.raises(MissingBandError, match="has 4 bands and 1 names"):
        open_finer(path, bands=["blue"], scale=1e-4)
    with pytest.raises(MissingBandError, match="haze is not the name of a Sent"):
        open_finer(path, bands=["haze", *names[1:]], scale=1e-4)
    with pytest.raises(MissingBandError, match="B02 appears more than once"):
        open_finer(path, bands=["B02", "blue", *names[2:]], scale=1e-4)
    with pytest.raises(ReadError, match=r"nowhere\.tif cannot be read"):
        open_finer(tmp_path / "nowhere.tif")


def test_a_scale_that_is_given_stands_in_for_that_of_the_file(tmp_path):
    path = tmp_path / "scaled.tif"
    profile = {"width": 2, "height": 2, "count": 1, "dtype": "uint16"}
    transform = rasterio.Affine(5, 0, 0, 0, -5, 0)
    with rasterio.open(path, "w", **profile, transform=transform) as file:
        file.write(np.full((1, 2, 2), 2000, np.uint16))
        file.scales = (1e-4,)
    for scale, worth in ((None, 0.2), (1e-4, 0.2), (1e-3, 2.0)):
        found = open_finer(path, bands=["B02"], scale=scale).B02
        assert found.dtype == np.float32
        assert found.to_numpy() == pytest.approx(worth)


# Simulated scenes


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_a_simulated_scene_knows_what_a_finer_sensor_saw(level, tmp_path):
    item = s2sr_xr.simulate_scene(tmp_path, size=120, seed=4, level=level)
    fine, ten = finer_truth(item), s2sr_xr.open_truth(item)
    assert list(fine.data_vars) == list(ten.data_vars)
    assert fine.rio.bounds() == ten.rio.bounds()
    assert fine.sizes == {"y": 240, "x": 240}
    for band in ("B02", "B08", "B11"):
        mean = fine[band].coarsen(y=2, x=2).mean().to_numpy()
        soft = ten[band].to_numpy()
        # The same world, through optics of half the width.
        assert np.corrcoef(mean.ravel(), soft.ravel())[0, 1] > 0.99
        assert fine[band].std() > ten[band].std()
    item.assets["truth"].extra_fields.pop("truth:seed")
    with pytest.raises(MissingBandError, match="do not record their seed"):
        finer_truth(item)
