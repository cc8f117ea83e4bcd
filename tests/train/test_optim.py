"""Muon for kernels, Adam for the rest: one optimiser, as `fit` uses it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from s2sr_xr.train.loop import fit
from s2sr_xr.train.optim import Muon
from s2sr_xr.train.plan import Plan


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 1))


def draw(step):
    torch.manual_seed(step)
    image = torch.rand(4, 2, 8, 8)
    return image, image[:, :1, 1:-1, 1:-1] - image[:, 1:, :-2, 1:-1]


def loss(network, batch):
    image, target = batch
    return (network(image) - target).square().mean()


def losses(optimiser=Muon, steps=60, lr=1e-2, **options):
    plan = Plan(steps=steps, lr=lr, precision="float32")
    run = fit(network(), draw, loss, plan, optimiser=optimiser, **options)
    return [s.loss for s in run]


def test_kernels_move_as_matrices_and_the_rest_as_by_adam():
    mine, theirs = network(), network()
    muon = Muon(mine.parameters(), lr=1e-2)
    kernel = nn.Parameter(theirs[0].weight.detach().flatten(1).clone())
    rest = [theirs[0].bias, theirs[2].weight, theirs[2].bias]
    matrix = torch.optim.Muon(
        [kernel], lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.Adam(rest, lr=1e-2)
    for step in range(3):
        for one in (mine, theirs):
            one.zero_grad()
            loss(one, draw(step)).backward()
        kernel.grad = theirs[0].weight.grad.flatten(1)
        muon.step()
        matrix.step()
        adam.step()
        with torch.no_grad():
            theirs[0].weight.copy_(kernel.view_as(theirs[0].weight))
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_it_learns():
    found = losses(steps=200)
    assert sum(found[-10:]) < 0.5 * sum(found[:10])


def test_a_training_goes_on_with_the_same_losses(tmp_path):
    whole = losses(steps=12)
    path = tmp_path / "a.checkpoint"
    plan = Plan(steps=12, lr=1e-2, precision="float32")

    def run():
        return fit(
            network(), draw, loss, plan, optimiser=Muon, checkpoint=path, every=5
        )

    first = run()
    begun = [next(first).loss for _ in range(7)]
    again = [s.loss for s in run()]
    assert begun == whole[:7]
    assert again == whole[5:]


def test_gradients_are_forgotten():
    one = network()
    muon = Muon(one.parameters())
    loss(one, draw(0)).backward()
    muon.zero_grad(set_to_none=False)
    assert not any(p.grad.any() for p in one.parameters())
    muon.zero_grad()
    assert all(p.grad is None for p in one.parameters())


@pytest.mark.parametrize("index", [0, 2])
def test_what_is_frozen_stays(index):
    one = network()
    one[index].requires_grad_(requires_grad=False)
    before = one[index].weight.clone()
    muon = Muon(one.parameters(), lr=1e-2)
    loss(one, draw(0)).backward()
    muon.step()
    assert torch.equal(one[index].weight, before)
