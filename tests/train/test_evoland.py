"""Laws of EvoLand's batches, losses and recipes, and of the shipped network's."""

import math

import pytest
import torch
from torch import nn

from s2sr_xr.core.filters import reduce_scale
from s2sr_xr.errors import GridError
from s2sr_xr.models.networks.carn import CARN
from s2sr_xr.models.networks.discriminator import Discriminator
from s2sr_xr.models.networks.resample import Upsample
from s2sr_xr.models.published import EVOLAND
from s2sr_xr.simulate.degrade import psf_downscale
from s2sr_xr.train.data.evoland_batches import (
    WALD_NOISE,
    Example,
    align_range,
    mosaic,
    simulated_batch,
    wald_batch,
)
from s2sr_xr.train.loop import fit
from s2sr_xr.train.losses import SPREAD, band_loss, high_pass
from s2sr_xr.train.plan import Plan
from s2sr_xr.train.recipes.evoland_gan import (
    Adversarial,
    Adversaries,
    relativistic_loss,
    two_rates,
)
from s2sr_xr.train.recipes.evoland_pretrain import Pretraining
from s2sr_xr.train.recipes.restoration import Restoration

QUIET = {"mtf": (0.4, 0.4), "loud": (0.0, 0.0)}
MEAN, STD = zip(*EVOLAND.values(), strict=True)


def batch(cells=16, fine=10, seed=0, count=2):
    """Parcels of 25 m: 10 m and 20 m bands, and one twice as fine."""
    generator = torch.Generator().manual_seed(seed)
    sides = [-(-4 * cells // 5)] * 2
    world = 0.1 + 0.2 * torch.rand(count, 1, *sides, generator=generator)
    world = world.repeat_interleave(5, 2).repeat_interleave(5, 3)
    world = world[..., : 4 * cells, : 4 * cells].expand(-1, 10, -1, -1)
    ten, twenty = reduce_scale(world[:, :4], 2), reduce_scale(world[:, 4:], 4)
    return ten, twenty, world[:, :fine]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small(seed=0):
    torch.manual_seed(seed)
    options = {"features": 16, "blocks": 1, "stages": 1, "groups": 1}
    network = CARN(mean=MEAN, std=STD, skip="bicubic", padding="same", **options)
    nn.init.zeros_(network.tail.weight)
    nn.init.zeros_(network.tail.bias)
    return network


# Batches


def test_a_wald_batch_knows_all_ten_bands_at_20_m():
    ten, twenty, _ = batch()
    example = wald_batch((ten, twenty), seeded(), **QUIET)
    assert torch.equal(example.images[0], psf_downscale(ten, 4, 0.4))
    assert torch.equal(example.images[1], psf_downscale(twenty, 4, 0.4))
    assert torch.equal(example.target[:, :4], psf_downscale(ten, 2, 0.4))
    assert torch.equal(example.target[:, 4:], twenty)
    assert example.bands == tuple(range(10))


def test_a_wald_batch_is_of_multiples_of_four_cells():
    ten, twenty = torch.rand(1, 4, 8, 8), torch.rand(1, 6, 4, 4)
    assert wald_batch((ten, twenty), seeded()).images[1].shape == (1, 6, 1, 1)
    with pytest.raises(GridError, match="do not divide into blocks of 4"):
        wald_batch((torch.rand(1, 4, 12, 12), torch.rand(1, 6, 6, 6)), seeded())


@pytest.mark.parametrize("bands", [8, 10])
def test_a_simulated_batch_is_made_of_the_finer_image(bands):
    ten, twenty, fine = batch(fine=bands)
    example = simulated_batch((ten, twenty, fine), seeded(), **QUIET)
    assert torch.equal(example.images[0], psf_downscale(fine[:, :4], 2, 0.4))
    made = bands - 4
    coarse = psf_downscale(fine[:, 4:], 4, 0.4)
    assert torch.equal(example.images[1][:, :made], coarse)
    assert torch.equal(example.images[1][:, made:], twenty[:, made:])
    assert torch.equal(example.target, fine)
    assert example.bands == tuple(range(bands))


def test_noise_is_the_published_one_and_one_draw_of_blur_serves_a_batch():
    flat = (torch.full((4, 4, 64, 64), 0.2), torch.full((4, 6, 32, 32), 0.2))
    example = wald_batch(flat, seeded(3), loud=(2, 2))
    for image, std in zip(
        example.images, (WALD_NOISE[:4], WALD_NOISE[4:]), strict=True
    ):
        found = image.std((0, 2, 3)).tolist()
        assert found == pytest.approx([2 * s for s in std], rel=0.2)
    assert torch.allclose(example.target, torch.tensor(0.2))
    again = wald_batch(flat, seeded(3), loud=(2, 2))
    assert torch.equal(example.images[0], again.images[0])


def test_a_finer_image_takes_the_range_of_the_real_bands():
    ten, twenty, fine = batch(fine=8)
    moved = align_range(3 * fine + 1, (ten, twenty))
    real = torch.cat((ten.amax((2, 3)), twenty.amax((2, 3))), 1)[:, :8]
    assert torch.allclose(moved.amax((2, 3)), real, atol=1e-5)
    level = align_range(torch.ones_like(fine), (ten, twenty))
    assert torch.isfinite(level).all()


def test_a_mosaic_has_no_seam():
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    made = mosaic(x)
    assert made.shape == (1, 1, 4, 6)
    assert torch.equal(made[..., :2, :3], x)
    assert torch.equal(made, made.flip(-1))
    assert torch.equal(made, made.flip(-2))


# Losses


def test_a_perfect_network_has_no_loss():
    ten, twenty, fine = batch()
    example = simulated_batch((ten, twenty, fine), seeded(), **QUIET)
    assert band_loss(example.target, example, 4) == 0
    off = example.target + torch.tensor(SPREAD)[:, None, None]
    assert band_loss(off, example, 4).item() == pytest.approx(1, abs=1e-5)
    # Each band counts in units of its own spread, and the border not at all.
    off[..., :4, :] = 99
    assert band_loss(off, example, 4).item() == pytest.approx(1, abs=1e-5)
    assert band_loss(off, example, 4, slice(8, 10)).item() == pytest.approx(1, abs=1e-5)


def test_restoration_asks_for_what_the_sensor_recorded():
    """The image whose degraded versions are the input has no loss in any term."""
    *_, fine = batch()
    levels = [fine]
    for _ in range(3):
        levels.append(reduce_scale(levels[-1], 2))

    def perfect(image, _):
        return next(x for x in levels if x.shape[-1] == 2 * image.shape[-1])

    exact = (levels[1][:, :4], levels[2][:, 4:])
    real = [(exact), (*exact, fine)]
    assert Restoration(loud=(0, 0))(perfect, real).item() < 1e-6
    assert Restoration(loud=(1, 1))(perfect, real).item() < 1e-6
    worse = Restoration()(lambda *x: 1.1 * perfect(*x), real)
    assert worse.item() > 0.1
    # The root of the error has a floor.
    relative = Restoration(loud=(0, 0), relative=True)
    assert relative(perfect, real).item() < 1e-2


def test_a_relative_loss_counts_dark_bands_as_much_as_bright_ones():
    *seen, fine = batch()
    plain = Upsample(2, "bicubic"), Upsample(4, "bicubic")

    def bicubic(*images):
        r = plain[0].reach
        wide = [nn.functional.pad(x, (r,) * 4, mode="replicate") for x in images]
        made = [up(x) for up, x in zip(plain, wide, strict=True)]
        return torch.cat(made, 1)

    def loss(dark, relative):
        scale = torch.ones(10, 1, 1)
        scale[4:] = dark
        given = seen[0], seen[1] * dark
        recipe = Restoration(loud=(0, 0), relative=relative, below=0.0)
        each = [recipe.error(bicubic(*given), given, fine * scale, 4)]
        each.append(recipe.once(bicubic, given))
        return [float(x) for x in each]

    bright, dim = loss(1.0, relative=True), loss(0.1, relative=True)
    assert bright == pytest.approx(dim, rel=0.2)
    assert bright[0] == pytest.approx(1, abs=0.05)
    bright, dim = loss(1.0, relative=False), loss(0.1, relative=False)
    assert dim[0] < 0.7 * bright[0]


def test_the_high_pass_removes_means_and_keeps_edges():
    x = torch.full((1, 2, 16, 16), 0.7)
    assert high_pass(x).abs().max() < 1e-6
    x[..., 8:] += 1
    passed = high_pass(x)
    assert passed.abs().max() > 0.2
    assert passed[..., 2:-2].mean().abs() < 0.02


def test_the_relativistic_loss_is_of_the_difference():
    one, two = torch.full((2, 1, 4, 4), 3.0), torch.full((2, 1, 4, 4), -1.0)
    assert relativistic_loss(one, two).item() == pytest.approx(
        math.log1p(math.exp(-4)), rel=1e-4
    )
    assert relativistic_loss(one, one).item() == pytest.approx(math.log(2))
    assert relativistic_loss(one + 5, two + 5) == relativistic_loss(one, two)
    assert relativistic_loss(one, two, 0.1) > relativistic_loss(one, two)


# Recipes


RECIPES = {
    "pretraining": (Pretraining(edge=4, **QUIET), lambda b: b),
    "restoration": (Restoration(loud=(0, 0)), lambda b: (b[:2], b)),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_few_steps_reduce_the_loss(name):
    recipe, shaped = RECIPES[name]
    given = shaped(batch())
    plan = Plan(steps=24, lr=3e-3, precision="float32", ema=0.5)
    losses = [s.loss for s in fit(small(), lambda _: given, recipe, plan)]
    assert losses[-1] < 0.9 * losses[0]


def test_the_shipped_network_begins_as_bicubic_interpolation():
    from s2sr_xr.models.networks.resample import Upsample

    ten, twenty, _ = batch()
    made = small().eval()(ten, twenty)
    fine = Upsample(2, "bicubic")(ten)
    assert torch.allclose(made[:, :4, 4:-4, 4:-4], fine, atol=1e-6)


def adversaries():
    torch.manual_seed(0)
    return Adversaries(small(), Discriminator(7, features=8))


def test_a_step_changes_both_networks_by_their_own_losses():
    network, given = adversaries(), batch()
    recipe = Adversarial(pretraining=Pretraining(edge=4))
    before = {k: v.clone() for k, v in network.named_parameters()}
    plan = Plan(steps=2, lr=1e-3, warm=0, precision="float32")
    steps = fit(
        network, lambda _: given, recipe, plan, optimiser=two_rates(network, 1e-4)
    )
    assert all(math.isfinite(s.loss) for s in steps)
    for part in ("generator", "discriminator"):
        moved = [
            (v - before[k]).abs().max().item()
            for k, v in network.named_parameters()
            if k.startswith(part)
        ]
        # Adam's first steps are as long as its rate.
        rate = {"generator": 1e-3, "discriminator": 1e-4}[part]
        assert rate / 2 < max(moved) < 3 * rate


def test_no_network_learns_from_the_loss_of_the_other():
    network, given = adversaries(), batch()
    recipe = Adversarial(pretraining=Pretraining(edge=4))
    _, made, example = recipe.pretraining.full(network, given)
    nn.init.normal_(network.generator.tail.weight, std=0.01)
    false, real = recipe.seen(network(*example.images)), recipe.seen(example.target)
    fooled = relativistic_loss(
        network(false, judge="fixed"), network(real, judge="fixed").detach()
    )
    fooled.backward()
    assert all(p.grad is None for p in network.discriminator.parameters())
    assert network.generator.tail.weight.grad.abs().max() > 0
    network.zero_grad()
    learnt = relativistic_loss(
        network(real, judge="learn"), network(false.detach(), judge="learn")
    )
    learnt.backward()
    assert all(
        not p.grad.any() for p in network.generator.parameters() if p.grad is not None
    )
    assert any(p.grad is not None for p in network.discriminator.parameters())
    assert recipe.seen(made).shape[-1] % 8 == 0


# What cannot be


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda a, b, _: wald_batch((b, a), seeded()), "4 bands at 10 m and 6 at 20 m"),
        (lambda a, b, c: simulated_batch((a, b, c[:, :9]), seeded()), "8 or 10 bands"),
        (lambda a, b, _: simulated_batch((a, b, a), seeded()), "8 or 10 bands"),
        (
            lambda *x: band_loss(x[2], Example(x[:2], x[2], tuple(range(10))), 32),
            "leaves nothing",
        ),
    ],
)
def test_what_is_no_batch_is_said(wrong, said):
    with pytest.raises(GridError, match=said):
        wrong(*batch())
