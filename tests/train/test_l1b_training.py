"""Laws of L1B training: the simulation knows its truth, and the recipes learn."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from judge import l1b_psnr
from torch import nn

import s2sr_xr
from s2sr_xr.errors import GridError, MissingBandError, ModelError
from s2sr_xr.models.networks.csr import CSR
from s2sr_xr.models.networks.rec import REC
from s2sr_xr.models.networks.registration import warp
from s2sr_xr.train.data import l1b_simulation
from s2sr_xr.train.data.l1b_simulation import (
    GREEN,
    Sensor,
    blurred,
    inside,
    true_flow,
    views,
)
from s2sr_xr.train.plan import Plan
from s2sr_xr.train.recipes import csr, rec

CLEAR = Sensor(noise=0.0)
SHORT = Plan(steps=30, lr=2e-3, precision="float32")


def smooth(side=200, seed=0):
    """Return an image whose finest detail is wider than two pixels of the detector."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(4, side // 10, side // 10, generator=generator)
    return nn.functional.interpolate(
        0.3 * image[None], size=(side, side), mode="bicubic", align_corners=True
    )[0]


def seen(sensor=CLEAR, *, side=48, batch=3, image=None, **options):
    grounds = blurred([smooth() if image is None else image], sensor)
    options = {"seed": 0, "step": 0} | options
    return views(grounds, sensor, side=side, batch=batch, **options)


# The simulation


@pytest.mark.parametrize("phase", [0.0, 0.5])
@pytest.mark.parametrize(("a", "b"), [((0, 0), (1, 0)), ((0, 3), (1, 3))])
def test_the_true_flow_brings_one_view_onto_the_other(phase, a, b):
    made = seen(replace(CLEAR, phase=phase))
    flow = true_flow(made.maps[:, *a], made.maps[:, *b], 48)
    moved = warp(made.counts[:, *b, None], flow)
    here = made.counts[:, *a, None]
    valid = inside(flow, 3)
    apart = (made.counts[:, *b, None] - here).abs()[valid].mean()
    # What is left is the interpolation of `warp`, up to 0.05 pixels beside.
    assert (moved - here).abs()[valid].mean() < 0.03 * apart


def test_flows_are_those_of_the_homographies():
    angle = 0.01
    turn = torch.tensor(
        [
            [np.cos(angle), -np.sin(angle), 2.0],
            [np.sin(angle), np.cos(angle), -3.0],
            [0, 0, 1],
        ]
    )[None].double()
    eye = torch.eye(3).double()[None]
    flow = true_flow(eye, torch.linalg.inv(turn), 20)[0]
    assert flow[:, 0, 0].tolist() == pytest.approx([2, -3])
    there = [10 * np.cos(angle) - 5 * np.sin(angle) + 2]
    there += [10 * np.sin(angle) + 5 * np.cos(angle) - 3]
    assert (flow[:, 5, 10] + torch.tensor([10, 5])).tolist() == pytest.approx(there)
    assert true_flow(turn, turn, 20).abs().max() < 1e-9


def test_shifts_fill_the_range_and_stay_within():
    made = seen(batch=64, side=16)
    flows = torch.stack(
        [
            true_flow(made.maps[:, 0, i], made.maps[:, 1, j], 16)
            for i in range(4)
            for j in range(4)
        ]
    )
    assert CLEAR.farthest == 10
    assert 6 < flows.abs().max() <= 10
    green = true_flow(made.maps[:, 0, GREEN], made.maps[:, 0, 0], 16)
    assert 1 < green.abs().max() <= CLEAR.parallax + 2 * CLEAR.bend


@pytest.mark.parametrize("phase", [0.0, 0.5])
def test_the_truth_is_green_on_a_grid_twice_as_fine(phase):
    made = seen(replace(CLEAR, phase=phase), truth=True)
    line = 2 * torch.arange(48.0) + phase
    places = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    found = l1b_simulation.sample(
        made.truth[:, 0, GREEN, None], places.expand(3, -1, -1, -1)
    )
    green = made.counts[:, 0, GREEN, None]
    error = (found - green).abs()[..., 3:-3, 3:-3].mean()
    # On a fine pixel, or half-way between: that is interpolated.
    assert error < (1e-5 if phase == 0 else 1e-2) * green.std()


def test_a_batch_is_a_function_of_seed_and_step():
    first, again = seen(step=3), seen(step=3, truth=True)
    assert torch.equal(first.counts, again.counts)
    assert torch.equal(first.maps, again.maps)
    assert first.truth.numel() == 0
    for other in (seen(step=4), seen(step=3, seed=1)):
        assert not torch.equal(first.counts, other.counts)


def test_noise_and_light_are_as_said():
    flat = torch.full((4, 200, 200), 0.1)
    flat[:, ::50] = 0.4  # something to see
    clean = Sensor(noise=0.0, dimmest=0.5, brightest=0.5)
    noisy = replace(clean, noise=0.001)
    a, b = seen(clean, image=flat), seen(noisy, image=flat)
    difference = b.counts - a.counts
    assert difference.std() == pytest.approx(0.001 * l1b_simulation.FULL, rel=0.02)
    assert a.counts.min() == pytest.approx(40 + 0.5 * 350, abs=20)


@pytest.mark.parametrize(
    ("image", "options", "said"),
    [
        (None, {"side": 96}, r"needs 220 x 220 fine pixels; the largest of 1 .* 200"),
        (torch.full((4, 200, 200), 0.1), {}, r"found 0 of 3 patches .* 3 times"),
        (torch.full((4, 200, 200), torch.nan), {}, r"600 draws found 0 of 3"),
        (torch.rand(3, 200, 200), {}, r"B02, B03, B04, B08: shape .* \(3, 200, 200\)"),
    ],
)
def test_images_that_hold_no_patch_are_refused(image, options, said):
    with pytest.raises(GridError, match=said):
        seen(Sensor(), image=image, **options)
    with pytest.raises(GridError, match="the largest of 0 images has 0"):
        views([], CLEAR, side=16, batch=1, seed=0, step=0)


def test_missing_pixels_are_in_no_patch():
    image = smooth()
    image[2, :, 120:] = torch.nan
    made = seen(image=image, side=16, batch=8)
    assert torch.isfinite(made.counts).all()


def test_shifts_that_csr_cannot_find_are_refused():
    with pytest.raises(GridError, match=r"may lie 16 pixels apart, CSR .* up to 10"):
        Sensor(apart=6)


# Flows in a row


def affine(matrix, shift, side=32):
    line = torch.arange(float(side))
    xy = torch.stack(torch.meshgrid(line, line, indexing="xy"))
    flow = torch.einsum("ij,jhw->ihw", torch.tensor(matrix), xy)
    return (flow + torch.tensor(shift)[:, None, None])[None]


def test_flows_are_composed_not_added():
    a, b = [[0.02, 0.1], [-0.1, 0.0]], [[0.0, -0.05], [0.08, 0.03]]
    s, t = [1.0, -2.0], [0.5, 1.5]
    first, second = affine(a, s), affine(b, t)
    # p -> p + A p + s =: q -> q + B q + t
    one = torch.eye(2) + torch.tensor(a)
    two = torch.eye(2) + torch.tensor(b)
    whole = affine(
        (two @ one - torch.eye(2)).tolist(),
        (two @ torch.tensor(s) + torch.tensor(t)).tolist(),
    )
    found = csr.compose(first, second)
    within = inside(first).expand_as(found)
    torch.testing.assert_close(found[within], whole[within], rtol=0, atol=1e-4)
    assert (first + second - whole)[within].abs().max() > 0.1


def test_true_flows_compose():
    made = seen()
    maps = made.maps
    first = true_flow(maps[:, 0, 0], maps[:, 1, 3], 48)
    second = true_flow(maps[:, 1, 3], maps[:, 1, 0], 48)
    direct = true_flow(maps[:, 0, 0], maps[:, 1, 0], 48)
    within = inside(first).expand_as(first)
    error = (csr.compose(first, second) - direct).abs()[within]
    assert error.max() < 0.01


class Oracle(nn.Module):
    """A CSR that knows the truth: a band of a pair is known by its pixels."""

    def __init__(self, batch, bias=0.0):
        super().__init__()
        self.seen = csr.standardised(batch).flatten(0, 2)
        self.maps, self.bias = batch.maps.flatten(0, 2), bias

    def forward(self, pairs):
        found = []
        for pair in pairs:
            at = [
                int((self.seen - image).abs().sum((-2, -1)).argmin()) for image in pair
            ]
            here, there = self.maps[at[0], None], self.maps[at[1], None]
            found.append(true_flow(here, there, pair.shape[-1]))
        return torch.cat(found) + self.bias


def test_losses_of_csr_are_least_at_the_truth():
    made = seen(batch=4)
    for loss in (csr.anchor_loss, csr.flow_loss):
        found = []
        for bias in (0.0, 0.5):
            torch.manual_seed(0)
            found.append(float(loss(Oracle(made, bias), made)))
        assert found[0] < 0.1 * found[1], loss
    assert csr.flow_errors(Oracle(made), made).max() < 1e-5
    errors = csr.flow_errors(Oracle(made, 0.25), made)
    torch.testing.assert_close(errors, torch.full((4, 4), 0.25))


# The recipes


def tiny_csr():
    torch.manual_seed(0)
    return CSR(width=8, scales=2)


@pytest.mark.parametrize("task", ["anchor", "supervised"])
def test_csr_learns(task):
    sensor = Sensor(apart=0.5, parallax=0.5, bend=0.1)
    recipe = csr.Recipe(task=task, plan=SHORT, sensor=sensor, side=32, batch=4)
    found = [s.loss for s in csr.train(recipe, tiny_csr(), [smooth()])]
    assert sum(found[-8:]) < 0.9 * sum(found[:8])


def tiny_rec(bands=4):
    torch.manual_seed(0)
    network = REC(bands=bands, features=8, groups=1, blocks=1, reduction=4)
    return rec.as_interpolation(network)


@pytest.mark.parametrize("phase", [0.0, 0.5])
def test_rec_begins_as_interpolation(phase):
    network = rec.as_interpolation(tiny_rec(), phase=phase).eval()
    line = torch.arange(12.0)
    ramp = (100 * line + 10 * line[:, None]).expand(1, 4, 12, 12)
    with torch.no_grad():
        made = network(ramp)[0, 2, 4:-4, 4:-4]
    fine = (torch.arange(24.0) - phase)[4:-4] / 2
    expected = 100 * fine + 10 * fine[:, None]
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=0.01)


@pytest.mark.parametrize(
    ("task", "bands"),
    [
        ("self", l1b_simulation.BANDS),
        ("supervised", l1b_simulation.BANDS),
        ("supervised", ("B03",)),
    ],
)
def test_rec_learns(task, bands):
    sensor = Sensor(apart=0.5, parallax=0.5, bend=0.0, phase=0.5)
    recipe = rec.Recipe(
        task=task, plan=SHORT, sensor=sensor, bands=bands, side=16, batch=2
    )
    made = seen(sensor, side=32, truth=True)
    network = tiny_rec(len(bands))
    before = l1b_psnr(network.eval(), made, recipe)
    # Nothing to learn from a CSR that finds no shift, but all of it runs.
    options = {"csr": CSR(width=2, scales=1).eval()} if task == "self" else {}
    *_, last = rec.train(recipe, network, [smooth()], **options)
    after = l1b_psnr(last.network, made, recipe)
    assert set(after) == set(bands)
    if task == "supervised":
        assert after["B03"] > before["B03"]
    assert np.isfinite(list(after.values())).all()


@pytest.mark.parametrize("phase", [0.0, 0.5])
def test_the_self_loss_is_least_at_the_truth(phase):
    """With true flows, the fine image explains the other view, and no other does."""
    sensor = Sensor(noise=0.0, phase=phase)
    made = seen(sensor, batch=2, truth=True)
    recipe = rec.Recipe(sensor=sensor)
    flows = [
        true_flow(made.maps[:, 1, i], made.maps[:, 0, GREEN], 48) for i in range(4)
    ]

    class Flows(nn.Module):
        def forward(self, pairs):
            return torch.stack(flows, dim=1).flatten(0, 1)

    class Known(nn.Module):
        def __init__(self, image):
            super().__init__()
            self.image = image

        def forward(self, counts):
            return self.image

    fine = made.truth[:, 0]
    found = [
        float(rec.self_loss(Known(image), made, recipe, Flows()))
        for image in (fine, fine.roll(1, -1), fine.roll(1, -2), fine.flip(1))
    ]
    assert found[0] < 0.08 * min(found[1:])
    soft = replace(recipe, blur=1.0)
    assert float(rec.self_loss(Known(fine), made, soft, Flows())) > 2 * found[0]


@pytest.mark.parametrize(
    ("recipe", "error", "said"),
    [
        (lambda: csr.Recipe(task="x"), ModelError, "anchor or supervised; got 'x'"),
        (lambda: rec.Recipe(task="x"), ModelError, "self or supervised; got 'x'"),
        (lambda: rec.Recipe(bands=("B02",)), MissingBandError, "B03 among them; got"),
        (lambda: rec.Recipe(bands=("B08", "B03")), MissingBandError, "in this order"),
        (
            lambda: rec.train(rec.Recipe(), tiny_rec(), [smooth()]),
            ModelError,
            "give csr=, such as",
        ),
        (
            lambda: csr.train(csr.Recipe(), tiny_csr(), []),
            GridError,
            "largest of 0 images",
        ),
    ],
)
def test_recipes_that_cannot_work_are_refused(recipe, error, said):
    with pytest.raises(error, match=said):
        next(recipe())


def test_a_training_goes_on_from_its_checkpoint(tmp_path):
    plan = replace(SHORT, steps=4)
    recipe = csr.Recipe(plan=plan, side=32, batch=2)
    options = {"checkpoint": tmp_path / "a.ckpt"}
    whole = [s.loss for s in csr.train(recipe, tiny_csr(), [smooth()], **options)]
    other = replace(recipe, batch=3)
    with pytest.raises(ModelError, match="batch was 2, and is 3"):
        next(csr.train(other, tiny_csr(), [smooth()], **options))
    again = csr.train(recipe, tiny_csr(), [smooth()], **options)
    assert next(again).loss == whole[-1]


@pytest.mark.parametrize("recipe", [csr, rec])
def test_real_overlaps_are_drawn_by_a_function(recipe):
    """They have no truth: only what needs none can learn from them."""
    empty = torch.empty(0)

    def draw(step):
        return l1b_simulation.Views(seen(side=16, step=step).counts, empty, empty)

    plan = replace(SHORT, steps=2)
    flows = CSR(width=2, scales=1)
    if recipe is csr:
        steps = csr.train(csr.Recipe(plan=plan), flows, draw)
    else:
        steps = rec.train(rec.Recipe(plan=plan), tiny_rec(), draw, csr=flows.eval())
    assert [s.step for s in steps] == [0, 1]


def scene(path, seed):
    """Write a scene as `benchmarks/quality.py` reads it."""
    path.parent.mkdir(exist_ok=True)
    counts = (10_000 * smooth(170, seed)).clamp_min(1).numpy().astype("u2")
    meta = json.dumps({"level": "L1C", "dn_offset": 0})
    bands = np.array(l1b_simulation.BANDS)
    np.savez(path, im10=counts.transpose(1, 2, 0), bands10=bands, meta=meta)


def test_the_program_trains_and_ships(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    program = runpy.run_path(
        str(Path(__file__).parents[2] / "benchmarks/make_weights.py")
    )
    scene(tmp_path / "l1c_native/hvn2_iceland.npz", 0)
    scene(tmp_path / "l1c_native/hvn2_coastalA.npz", 1)
    same = ["rec-s", "--real", str(tmp_path), "--out", str(tmp_path)]
    small = ["steps = 2", "batch = 1", "side = 16"]
    program["main"]([*same, "--simulated", "0", "--set", *small])
    card = json.loads((tmp_path / "rec-s.json").read_text())
    assert card["learnt_from"] == ["L1C:hvn2_iceland"]
    assert set(card["figures"]["scenes"]) == {"L1C:hvn2_coastalA"}
    assert card["recipe"]["stages"][0]["steps"] == 2
    assert set(card["compared"]["green"]) == {"task", "steps", "B03"}
    path = tmp_path / "rec-s.safetensors"
    assert s2sr_xr.get_spec(path).sha256 == card["sha256"]
    assert s2sr_xr.get_spec(path).levels == ("L1B",)
    network = s2sr_xr.load_model(path)
    assert network(torch.full((1, 4, 8, 8), 400.0)).shape == (1, 4, 16, 16)


@pytest.fixture
def tables(tmp_path, monkeypatch):
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    scene(tmp_path / "l1c_native/hvn2_iceland.npz", 0)
    scene(tmp_path / "l1c_native/hvn2_coastalA.npz", 1)
    same = ["--real", str(tmp_path), "--out", str(tmp_path), "--simulated", "0"]

    def run(name, *options):
        program = runpy.run_path(str(folder / f"{name}.py"))
        return program["main"]([*map(str, options), *same])

    return run


TOY = ("--steps", 1, "--batch", 1, "--side", 16, "--crops", 1)


def test_the_tables_of_networks_are_made(tables, tmp_path):
    rows = tables("l1b_tables", "bands", *TOY)
    names = [row["bands"] for row in rows]
    assert names == ["", "B03", "B02B03", "B02B03B04", "B02B03B04B08"]
    for row in rows[1:]:
        # Bands of these scenes lie beside green, which one step does not mend.
        assert row["B03 aligned"] > 30
        assert ("B08 aligned" in row) == row["bands"].endswith("B08")
    given = tmp_path / "supervised-B02B03B04B08-1-0.safetensors"
    before = set(tmp_path.glob("*.safetensors"))
    both = tables("l1b_tables", "supervision", *TOY, "--given", given)
    assert both[1]["B03"] == rows[-1]["B03"]
    (new,) = set(tmp_path.glob("*.safetensors")) - before
    assert new.name == "self-B02B03B04B08-1-0.safetensors"


def test_the_table_of_flows_is_made(tables):
    rows = tables("l1b_tables", "flows")
    assert [row["from"] for row in rows] == 2 * list(l1b_simulation.BANDS)
    still, found = rows[1], rows[5]
    assert found["B03"] < 0.2 * still["B03"]


def test_the_experiment_of_alias_is_made_and_drawn(tables, tmp_path):
    path = tmp_path / "alias.png"
    rows = tables("l1b_alias", *TOY, "--features", 8, "--figure", path)
    regimes = {row["regime"]: row for row in rows}
    assert list(regimes) == ["none", "alias", "alias+shift", "alias+known"]
    assert regimes["none"]["green bicubic"] < regimes["alias"]["green bicubic"]
    assert path.read_bytes().startswith(b"\x89PNG")


def test_interpolation_knows_the_shifts(monkeypatch):
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    program = runpy.run_path(str(folder / "l1b_alias.py"))
    options = {"side": 32, "batch": 2, "seed": 0, "step": 0}

    def error(seen):
        apart = program["bicubic"](seen) - seen.views.truth[:, 0]
        return apart[..., 8:-8, 8:-8].std((-2, -1))

    for regime in program["REGIMES"]:
        seen = program["sampled"]([smooth()], regime, **options)
        moved = seen.shifts.abs().amax((-2, -1)) > 0.1
        assert moved.tolist() == [regime.startswith("alias+")] * 2
        # Those that need not be found are those of every patch.
        alike = torch.equal(seen.shifts[0], seen.shifts[1])
        assert alike == (regime != "alias+shift")
        if regime.startswith("alias+"):
            unknown = error(seen._replace(shifts=0 * seen.shifts))
            assert error(seen)[:, 1] == pytest.approx(unknown[:, 1], rel=1e-4)
            assert (error(seen).mean(1) < 0.5 * unknown.mean(1)).all()
