"""What a network that is given the sensor learns from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s2sr_xr.errors import GridError
from s2sr_xr.models.networks.explained import Explained
from s2sr_xr.models.networks.unrolled import Stages
from s2sr_xr.train.data.sensor_pairs import Drawn, Sensors, Truth, moved, relative
from s2sr_xr.train.loop import fit
from s2sr_xr.train.plan import Plan

SENSORS = Sensors(widths=((0.75, 1.0), (0.9, 1.4)), groups=(4, 2))
EXPLAINED = Explained(2, groups=(4, 2))


def truth(name: str, side: int = 64, *, hole: bool = False) -> Truth:
    rng = np.random.default_rng(len(name))
    fine, target = (
        torch.from_numpy(0.2 + 0.05 * rng.random((n, side, side), np.float32))
        for n in (4, 6)
    )
    if hole:
        target[:, :2, :2] = torch.nan
    return Truth(name=name, fine=fine, target=target)


def drawn(**options) -> Drawn:
    scenes = [truth("A"), truth("BB", 72, hole=True)]
    return Drawn(scenes, SENSORS, EXPLAINED, batch=3, side=20, **options)


def test_whole_pixels_are_moved_exactly():
    x = torch.rand(2, 12, 10, dtype=torch.float64)
    shifts = torch.tensor([[1.0, 0.0], [-2.0, 3.0]])
    made = moved(x, shifts)
    torch.testing.assert_close(made[0, 1:], x[0, :-1])
    torch.testing.assert_close(made[1, :-2, 3:], x[1, 2:, :-3])


def test_a_wave_is_moved_by_a_part_of_a_pixel():
    at = torch.arange(60, dtype=torch.float64) + 0.5
    # A wave of the mirrored image: its crest lies at the edge.
    wave = torch.cos(np.pi * 9 * at / 60).expand(1, 60, 60)
    made = moved(wave, torch.tensor([[0.0, 0.3]]))
    want = torch.cos(np.pi * 9 * (at - 0.3) / 60).expand(1, 60, 60)
    inner = np.s_[:, :, 10:-10]
    assert (made - want)[inner].abs().max() < 0.03
    assert (wave - want)[inner].abs().max() > 0.1


def test_a_batch_is_a_function_of_its_step():
    first, again, other = drawn()(5), drawn()(5), drawn()(6)
    assert torch.equal(first.fine, again.fine)
    assert torch.equal(first.told.made, again.told.made)
    assert not torch.equal(first.fine, other.fine)
    assert first.target.isfinite().all()
    assert first.target.shape == (3, 6, 40, 40)
    assert first.told.gain.shape == first.told.coarse.shape == (3, 6, 20, 20)


def test_sensors_change_after_some_steps():
    draws = drawn(every=10)
    widths = {draws.seen(0, time).width[0, 0].item() for time in range(4)}
    assert len(widths) == 4
    assert all(0.6 < w < 1.2 for w in widths)


def test_scenes_smaller_than_a_patch_are_refused():
    with pytest.raises(GridError, match=r"A have fewer than 40 coarse pixels"):
        Drawn([truth("A")], SENSORS, EXPLAINED, side=40)


def test_a_network_learns_from_it():
    torch.manual_seed(0)
    network = Stages(((4, 1), (6, 2)), 8, (1,), "same")
    draws = drawn()
    steps = fit(network, lambda _: draws(0), relative, Plan(steps=30, lr=5e-3))
    losses = [step.loss for step in steps]
    assert losses[-1] < losses[0]
