"""What networks learn from: phases, mixtures, strangers, and the relative loss."""

import numpy as np
import pytest
import torch

import s2sr_xr
from s2sr_xr.core.filters import reduce_scale
from s2sr_xr.train import losses
from s2sr_xr.train.data.augment import Augment, augmented
from s2sr_xr.train.data.pairs import estranged, reduced_pair, reduced_pairs
from s2sr_xr.train.data.scenes import source
from s2sr_xr.train.recipes import dsen2

SPEC = s2sr_xr.get_spec("dsen2-s-20m")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    item = s2sr_xr.simulate_scene(tmp_path_factory.mktemp("scene"), size=240, seed=3)
    return s2sr_xr.open_stac(item).load()


def test_each_phase_is_the_scene_without_its_first_pixels(scene):
    pairs = reduced_pairs(scene, SPEC, "scene")
    assert len(pairs) == 4
    whole = reduced_pair(scene, SPEC, "scene")
    same = {"equal_nan": True}
    torch.testing.assert_close(pairs[0].target, whole.target, **same)
    # One native pixel to the right, and the last column of cells has no partner.
    torch.testing.assert_close(pairs[1].target, whole.target[..., 1:-1], **same)
    blurred = pairs[1].images[1]
    assert not torch.allclose(blurred, whole.images[1][..., : blurred.shape[-1]])


def test_mixtures_are_of_one_group_and_the_same_for_its_image_and_its_target():
    names = [g.names for g in (*SPEC.inputs, SPEC.output)]
    coarse = torch.rand(6, 4, 4)
    patch = [torch.rand(4, 8, 8), coarse, coarse.clone()]
    how = Augment(turn=False, gain=(1, 1), mixed=1)
    fine, made, target = augmented(patch, np.random.default_rng(0), how, names)
    torch.testing.assert_close(made, target)
    assert not torch.allclose(made, coarse)
    # Each is a linear mixture, pixel by pixel, of the bands of its own group.
    for image, mixture in ((patch[0], fine), (coarse, made)):
        known, mixed = image.flatten(1).T, mixture.flatten(1).T
        weights = torch.linalg.lstsq(known, mixed).solution
        torch.testing.assert_close(known @ weights, mixed, atol=1e-4, rtol=1e-4)


def test_strangers_keep_their_mean_and_take_the_detail_of_another():
    images = torch.rand(8, 4, 6, 6) * torch.arange(1, 9).reshape(8, 1, 1, 1) / 10
    made = estranged(images, 1.0, (0, 0))
    torch.testing.assert_close(made.mean((2, 3)), images.mean((2, 3)))
    assert not torch.allclose(made, images)
    assert estranged(images, 0.0, (0, 0)) is images
    torch.testing.assert_close(estranged(images, 1.0, (0, 0)), made)


def test_the_relative_loss_of_bicubic_is_one_less_the_noise(scene):
    pair = reduced_pair(scene, SPEC, "scene")
    # The scene's lower right corner is beyond the swath.
    images = [
        i[None, ..., : 30 * g.per_cell, : 30 * g.per_cell]
        for g, i in zip(SPEC.inputs, pair.images, strict=True)
    ]
    batch = tuple(images), pair.target[None, ..., :60, :60]

    def bicubic(_, coarse):
        return losses.bicubic(coarse, 2)

    loss = dsen2.relative_inside(bicubic, batch, 4)
    brighter = dsen2.relative_inside(
        bicubic, (tuple(100 * i for i in batch[0]), 100 * batch[1]), 4
    )
    assert 0.7 < loss < 1
    assert 0.99 < brighter < 1


def test_patches_are_degraded_as_whole_scenes_are(scene):
    recipe = dsen2.Recipe(spec=SPEC, side=12, edge=2, batch=4, mixed=0, strangers=0)
    draw = dsen2.one_scale_below(recipe, [source(scene, SPEC, "A")], threads=0)
    images, target = draw(3)
    assert [i.shape for i in images] == [(4, 4, 24, 24), (4, 6, 12, 12)]
    assert target.shape == (4, 6, 24, 24)
    again = dsen2.one_scale_below(recipe, [source(scene, SPEC, "A")], threads=0)(3)
    assert torch.equal(again[1], target)
    # What a patch cannot see beyond its edge is within what the loss leaves out.
    for image, native in zip(images, (None, target), strict=True):
        if native is not None:
            inner = reduce_scale(native, 2)
            assert torch.equal(image, inner)
        assert torch.isfinite(image).all()
    mean = images[1].mean((2, 3)) / target.mean((2, 3))
    assert mean == pytest.approx(torch.ones_like(mean).numpy(), abs=0.02)


def test_cloudy_scenes_are_refused_one_scale_below(scene):
    bright = scene.map_over_datasets(lambda ds: ds * 0 + 0.8 if "x" in ds else ds)
    recipe = dsen2.Recipe(spec=SPEC, side=12, edge=2)
    with pytest.raises(s2sr_xr.GridError, match="is cloudy"):
        dsen2.one_scale_below(recipe, [source(bright, SPEC, "A")], threads=0)(0)


def test_an_edge_that_leaves_nothing_is_refused():
    with pytest.raises(s2sr_xr.GridError, match=r"edge=8 .* 8 cells, 16 pixels"):
        dsen2.Recipe(spec=SPEC, side=8)


def test_what_is_no_share_is_refused():
    with pytest.raises(s2sr_xr.GridError, match=r"mixed is a share in \[0, 1\], got 2"):
        Augment(mixed=2)


def test_no_feature_begins_behind_its_relu():
    network = dsen2.first_network(dsen2.Recipe(spec=SPEC))
    found = []
    network.head.register_forward_hook(lambda *call: found.append(call[2]))
    network(
        *(
            torch.full((1, len(g.names), 8 * g.per_cell, 8 * g.per_cell), 0.1)
            for g in SPEC.inputs
        )
    )
    assert (found[0][..., 4:-4, 4:-4] > 0).all()
