"""Laws of the score without a truth: what harms an image raises it, and only that."""

import functools

import pytest
import torch
from safetensors.torch import load_file, save_file

from s2sr_xr.core.filters import gaussian_blur
from s2sr_xr.errors import GridError, ModelError
from s2sr_xr.train.niqe import Natural, fit_natural


@functools.cache
def leaves(seed, side=128, bands=2):
    """Leaves that hide each other, as a soft lens sees them; a gain for each band."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(side, side)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for _ in range(250):
        at, tone = (
            torch.rand(2, generator=generator),
            torch.rand(2, generator=generator),
        )
        radius = 2 / (0.03 + torch.rand((), generator=generator))
        cy, cx = at * side
        image[(y - cy).square() + (x - cx).square() < radius**2] = tone[0]
    noise = torch.randn(bands, side, side, generator=generator)
    soft = gaussian_blur(image[None], 0.7) + 0.01 * noise
    return 0.1 + 0.3 * soft


def blurred(x):
    return gaussian_blur(x, 1.5)


def noisy(x):
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    return x + 0.03 * noise


def checkered(x):
    y, z = torch.meshgrid(*map(torch.arange, x.shape[1:]), indexing="ij")
    return x + 0.01 * (1 - 2 * ((y + z) % 2))


def ringing(x):
    return x + 2.5 * (x - gaussian_blur(x, 1.0))


@pytest.fixture(scope="module")
def natural():
    return fit_natural([leaves(seed) for seed in range(8)], block=16)


@pytest.mark.parametrize("harm", [blurred, noisy, checkered, ringing])
def test_what_harms_an_image_raises_its_score(natural, harm):
    for seed in (50, 51):
        image = leaves(seed)
        assert natural.score([harm(image)]) > 1.3 * natural.score([image])


def test_more_harm_scores_higher(natural):
    image = leaves(60)
    found = [natural.score([gaussian_blur(image, s)]) for s in (0.0, 0.7, 1.4, 2.8)]
    assert found == sorted(found)


def test_gain_offset_turns_and_mirrors_leave_a_score(natural):
    image = leaves(70)
    score = natural.score([image])
    gain = torch.tensor([0.3, 5.0])[:, None, None]
    for same in (gain * image - 0.2, image.flip(-1), image.flip(-2), image.mT):
        assert natural.score([same]) == pytest.approx(score, rel=1e-4)


def test_blocks_without_all_pixels_do_not_count(natural):
    image = leaves(80)
    cut = image.clone()
    cut[:, 96:] = torch.nan
    assert natural.score([cut]) == pytest.approx(natural.score([image]), rel=0.5)
    cut[:] = torch.nan
    with pytest.raises(GridError, match="no whole block of 16 x 16 pixels without NaN"):
        natural.score([cut])


def test_it_goes_through_a_file(natural, tmp_path):
    save_file(natural.tensors(), tmp_path / "a.safetensors")
    again = Natural.of(load_file(tmp_path / "a.safetensors"))
    image = leaves(90)
    assert again.score([image]) == natural.score([image])


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda n: n.score([leaves(0)[:1]]), GridError, "have 1 bands; .* from 2"),
        (lambda n: n.score([leaves(0)[..., :12]]), GridError, "no whole block"),
        (lambda n: n.score([torch.full((2, 64, 64), 0.2)]), GridError, "not flat"),
        (lambda n: n.score([]), GridError, "no whole block"),
        (lambda n: n.score([leaves(0), leaves(0)[:1]]), GridError, "another 1"),
        (lambda _: fit_natural([leaves(0)]), GridError, " sharp blocks of 48 x 48"),
        (lambda _: fit_natural([], block=30), GridError, "block is a multiple of 4"),
        (lambda _: Natural.of({"mean": torch.zeros(1)}), ModelError, "covariance"),
        (
            lambda n: Natural.of(n.tensors() | {"mean": torch.zeros(3, 20)}),
            ModelError,
            "is no covariance",
        ),
    ],
)
def test_what_cannot_be_scored_is_said(natural, wrong, error, said):
    with pytest.raises(error, match=said):
        wrong(natural)
