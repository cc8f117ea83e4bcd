"""Laws of training: what was stopped goes on as if it had not been."""

import csv
import json
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from s2sr_xr.errors import GridError, ModelError, StoreError
from s2sr_xr.models.published import published
from s2sr_xr.train.data.pairs import Pair
from s2sr_xr.train.loop import fit
from s2sr_xr.train.plan import DivergedError, Plan, Step
from s2sr_xr.train.recipes import dsen2

PLAN = Plan(steps=8, lr=1e-2, precision="float32")


@dataclass(frozen=True, slots=True)
class Batch:
    image: torch.Tensor
    name: str


def network(width=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.ReLU(), nn.BatchNorm2d(width), nn.Conv2d(width, 1, 1)
    )


def draw(step):
    generator = torch.Generator().manual_seed(step)
    return Batch(torch.rand(2, 1, 8, 8, generator=generator), f"batch {step}")


def loss(net, batch):
    made = net(batch.image + 0.1 * torch.rand_like(batch.image))
    assert made.dtype == torch.float32
    return (made - batch.image[..., 1:-1, 1:-1]).abs().mean()


def losses(steps):
    return [step.loss for step in steps]


def begun(steps):
    """Make a step, and another: the checkpoint of the first is then there."""
    return [next(steps), next(steps)]


@contextmanager
def full_disk(size):
    """No file grows beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_network_learns(precision):
    plan = replace(PLAN, steps=60, precision=precision)
    found = list(fit(network(), draw, loss, plan))
    assert [s.step for s in found] == list(range(60))
    assert sum(losses(found[-10:])) < 0.5 * sum(losses(found[:10]))


class Named(NamedTuple):
    image: torch.Tensor
    name: str


@pytest.mark.parametrize(
    "made",
    [
        lambda b: Named(b.image, b.name),
        lambda b: (b.image, b.name),
        lambda b: {"image": b.image, "name": b.name},
    ],
)
def test_batches_of_any_make_are_learnt_from(made):
    def unpacked(net, batch):
        assert type(batch) is type(made(draw(0)))
        parts = batch.values() if isinstance(batch, dict) else batch
        return loss(net, Batch(*parts))

    expected = losses(fit(network(), draw, loss, PLAN))
    found = fit(network(), lambda step: made(draw(step)), unpacked, PLAN)
    assert losses(found) == expected


def test_it_learns_as_plain_torch_does():
    plan = Plan(steps=5, lr=1e-2, warm=0, floor=1, clip=1e9, ema=0, precision="float32")
    mine, theirs = network(), network()
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-2)

    def plain(net, image):
        return net(image).square().mean()

    for step in fit(mine, lambda step: draw(step).image, plain, plan):
        expected = plain(theirs, draw(step.step).image)
        adam.zero_grad()
        expected.backward()
        adam.step()
        assert step.loss == pytest.approx(expected.item(), rel=1e-5)


def test_what_is_kept_is_a_mean():
    plan = Plan(steps=3, lr=1e-2, warm=0, floor=1, ema=0.5, precision="float32")
    net = network()
    expected = net[0].weight.detach().clone()
    for step in fit(net, draw, loss, plan):
        keep = min(0.5, (step.step + 1) / (step.step + 10))
        expected = keep * expected + (1 - keep) * net[0].weight.detach()
        torch.testing.assert_close(step.network[0].weight, expected)
    assert not step.network.training
    assert net.training


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_resume_gives_the_same_losses(tmp_path, stop):
    whole = list(fit(network(), draw, loss, PLAN))
    path, log = tmp_path / "a.ckpt", tmp_path / "a.csv"
    options = {"checkpoint": path, "log": log}
    first = fit(network(), draw, loss, PLAN, every=2, **options)
    before = losses(next(first) for _ in range(stop))
    torch.manual_seed(99)  # what others draw in between is no matter
    again = list(fit(network(), draw, loss, PLAN, **options))
    done = stop // 2 * 2
    assert before[:done] + losses(again) == losses(whole)
    for ours, theirs in zip(
        again[-1].network.parameters(), whole[-1].network.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    with log.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == list(range(PLAN.steps))
    assert [float(r["loss"]) for r in rows] == losses(whole)
    assert {p.name for p in tmp_path.iterdir()} == {"a.ckpt", "a.csv"}


def test_a_finished_training_gives_its_last_step(tmp_path):
    path = tmp_path / "a.ckpt"
    *_, last = fit(network(), draw, loss, PLAN, checkpoint=path)
    (again,) = fit(network(), None, None, PLAN, checkpoint=path)
    assert isinstance(again, Step)
    assert (again.step, again.loss) == (last.step, last.loss)
    assert torch.equal(again.network[0].weight, last.network[0].weight)


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = {tests!r}
from test_loop import PLAN, draw, fit, loss, network

folder = Path({folder!r})
for step in fit(network(), draw, loss, PLAN, checkpoint=folder / "a.ckpt",
                every=3, log=folder / "a.csv"):
    print(step.step, step.loss.hex(), flush=True)
    if step.step == 4:
        sys.stdin.read()
"""


def test_kill_minus_nine_is_survived(tmp_path):
    code = CHILD.format(
        tests=[str(p) for p in Path(__file__).parents[:2]], folder=str(tmp_path)
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    seen = [child.stdout.readline().split() for _ in range(5)]
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert [int(n) for n, _ in seen] == list(range(5))
    again = list(fit(network(), draw, loss, PLAN, checkpoint=tmp_path / "a.ckpt"))
    assert again[0].step == 3
    before = [float.fromhex(text) for _, text in seen[:3]]
    assert before + losses(again) == losses(fit(network(), draw, loss, PLAN))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"plan": replace(PLAN, lr=2e-2)}, r"lr was 0.01, and is 0.02 here"),
        (
            {"network": network(4)},
            r"0.weight was \[3, 1, 3, 3\], and is \[4, 1, 3, 3\]",
        ),
        ({"facts": {"side": 9}}, "side was 8, and is 9 here"),
        ({"facts": {}}, "side was 8, and is absent here"),
        ({"optimiser": torch.optim.SGD}, "optimiser was Adam, and is SGD here"),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, change, said):
    path = tmp_path / "a.ckpt"
    same = {"network": network(), "plan": PLAN, "facts": {"side": 8}}
    begun(fit(draw=draw, loss=loss, checkpoint=path, every=1, **same))
    with pytest.raises(ModelError, match=f"a.ckpt is of another recipe: .*{said}"):
        next(fit(draw=draw, loss=loss, checkpoint=path, **same | change))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut", b"{}"])
def test_what_is_no_checkpoint_is_refused(tmp_path, data):
    (tmp_path / "a.ckpt").write_bytes(data)
    with pytest.raises(ModelError, match=r"a\.ckpt is not a whole checkpoint"):
        next(fit(network(), draw, loss, PLAN, checkpoint=tmp_path / "a.ckpt"))


def poisoned(step):
    batch = draw(step)
    return replace(batch, image=batch.image / (step != 3))


@pytest.mark.parametrize(
    ("draws", "losing", "said"),
    [
        (poisoned, loss, "The loss is (nan|inf) at step 3"),
        (
            draw,
            lambda n, b: (loss(n, b) * float(b.name != "batch 3")).sqrt(),
            "The gradient is (nan|inf) at step 3",
        ),
    ],
)
def test_what_is_not_finite_stops_and_is_kept(tmp_path, draws, losing, said):
    path = tmp_path / "a.ckpt"
    steps = fit(network(), draws, losing, PLAN, checkpoint=path, every=1)
    with pytest.raises(DivergedError, match=f"{said}.*a.batch.pt") as caught:
        list(steps)
    assert isinstance(caught.value, FloatingPointError)
    kept = torch.load(tmp_path / "a.batch.pt", weights_only=True)
    assert kept["name"] == "batch 3"
    assert torch.equal(kept["image"], draws(3).image)
    assert torch.load(path, weights_only=True)["next"] == 3
    with pytest.raises(DivergedError, match=r"at step 3\. Give checkpoint="):
        list(fit(network(), draws, losing, PLAN))
    none = tmp_path / "b.ckpt"
    with pytest.raises(DivergedError, match=r"Its batch is in b\.batch\.pt\.$"):
        list(fit(network(), draws, losing, PLAN, checkpoint=none))


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "a.ckpt"
    steps = fit(network(), draw, loss, PLAN, checkpoint=path, every=2)
    losses(next(steps) for _ in range(3))
    whole = path.read_bytes()
    next(steps)
    said = r"after 4 steps cannot.*The one before it is whole: make room"
    with full_disk(len(whole) // 2), pytest.raises(StoreError, match=said):
        next(steps)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]
    again = fit(network(), draw, loss, PLAN, checkpoint=path)
    assert losses(again) == losses(fit(network(), draw, loss, PLAN))[2:]


def test_a_full_disk_at_the_first_checkpoint_leaves_none_and_says_so(tmp_path):
    steps = fit(network(), draw, loss, PLAN, checkpoint=tmp_path / "a.ckpt", every=1)
    next(steps)
    said = "after 1 steps cannot.*There is none before it: make room and begin again"
    with full_disk(100), pytest.raises(StoreError, match=said):
        next(steps)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_log(tmp_path):
    options = {"checkpoint": tmp_path / "a.ckpt", "log": tmp_path / "a.csv"}
    steps = fit(network(), draw, loss, PLAN, every=6, **options)
    losses(next(steps) for _ in range(7))
    before = options["log"].read_bytes()
    again = fit(network(), draw, loss, PLAN, every=6, **options)
    with (
        full_disk(len(before) // 2),
        pytest.raises(StoreError, match=r"log a\.csv cannot be begun.*make room"),
    ):
        next(again)
    assert options["log"].read_bytes() == before
    again = fit(network(), draw, loss, PLAN, every=6, **options)
    next(again)
    size = options["log"].stat().st_size
    with (
        full_disk(size + 5),
        pytest.raises(StoreError, match=r"Step 7 cannot be written to the log a\.csv"),
    ):
        next(again)
    list(fit(network(), draw, loss, PLAN, **options))
    with options["log"].open() as file:
        assert [int(r["step"]) for r in csv.DictReader(file)] == list(range(8))


def test_a_step_is_in_the_log_before_it_is_in_the_checkpoint(tmp_path):
    path, log = tmp_path / "a.ckpt", tmp_path / "a.csv"
    steps = fit(network(), draw, loss, PLAN, checkpoint=path, every=1, log=log)
    begun(steps)
    log.unlink()
    log.mkdir()  # no row can be written
    with pytest.raises(StoreError, match="Step 2 cannot be written"):
        next(steps)
    assert torch.load(path, weights_only=True)["next"] == 2


def test_what_is_done_with_a_step_is_done_before_its_checkpoint(tmp_path):
    path = tmp_path / "a.ckpt"
    for step in fit(network(), draw, loss, PLAN, checkpoint=path, every=1):
        done = torch.load(path, weights_only=True)["next"] if path.exists() else 0
        assert done == step.step


@pytest.mark.parametrize("option", ["checkpoint", "log"])
def test_a_place_that_cannot_be_written_is_said_before_the_first_step(tmp_path, option):
    place = {option: tmp_path / "nowhere" / "a.file"}
    with pytest.raises(StoreError, match=r"no folder .*nowhere for a\.file: make it"):
        next(fit(network(), None, None, PLAN, **place))
    with pytest.raises(StoreError, match="is not a file: name another"):
        next(fit(network(), None, None, PLAN, **{option: tmp_path}))


def test_what_a_kill_left_of_a_checkpoint_is_removed(tmp_path):
    path, log = tmp_path / "a.ckpt", tmp_path / "a.csv"
    left = [".a.ckpt.0123abcd.part", ".a.csv.00000000.part"]
    others = [
        ".b.ckpt.0123abcd.part",
        ".a.ckpt.0123abc.part",
        ".a.ckpt.0123ABCD.part",
        ".axckpt.0123abcd.part",
        "a.ckpt.0123abcd.part",
    ]
    for name in (*left, *others):
        (tmp_path / name).touch()
    (tmp_path / ".a.ckpt.00000000.part").mkdir()
    (tmp_path / ".a.ckpt.11111111.part").symlink_to(tmp_path / others[0])
    next(fit(network(), draw, loss, PLAN, checkpoint=path, log=log))
    kept = {*others, ".a.ckpt.00000000.part", ".a.ckpt.11111111.part", "a.csv"}
    assert {p.name for p in tmp_path.iterdir()} == kept


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "steps is 1 or more; got 0"),
        ({"lr": 0.0}, "lr is above 0; got 0.0"),
        ({"warm": 1.0}, "warm is a share, below 1; got 1.0"),
        ({"seed": -1}, "seed is 0 or more; got -1"),
        ({"precision": "fp16"}, "precision is bf16 or float32; got 'fp16'"),
    ],
)
def test_strange_plans_are_refused(change, said):
    with pytest.raises(ModelError, match=said):
        replace(PLAN, **change)


def test_the_recipe_is_readable_in_the_file(tmp_path):
    path = tmp_path / "a.ckpt"
    begun(fit(network(), draw, loss, PLAN, checkpoint=path, every=1, facts={"a": 1}))
    recipe = json.loads(torch.load(path, weights_only=True)["recipe"])
    assert recipe["plan"]["steps"] == 8
    assert recipe["facts"] == {"a": 1}


def test_the_dsen2_recipe_goes_on_from_its_checkpoint(tmp_path):
    spec = next(s for s, _ in published() if s.name == "dsen2-s-20m")
    generator = torch.Generator().manual_seed(0)
    sizes = ((4, 48), (6, 24), (6, 48))
    *images, target = (torch.rand(c, n, n, generator=generator) for c, n in sizes)
    pairs = [Pair("a", tuple(images), target)]
    recipe = dsen2.Recipe(
        spec=spec, features=8, blocks=1, steps=5, batch=2, side=12, lr=1e-2
    )
    whole = [loss for _, loss, _ in dsen2.fit(recipe, pairs)]
    path = tmp_path / "a.ckpt"
    *_, last = dsen2.fit(recipe, pairs, checkpoint=path)
    again = list(dsen2.fit(recipe, pairs, checkpoint=path))
    assert [step for step, *_ in again] == [4]
    assert again[0][1] == last[1] == whole[-1]
    with pytest.raises(ModelError, match="side was 12, and is 10 here"):
        next(dsen2.fit(replace(recipe, side=10), pairs, checkpoint=path))
    with pytest.raises(GridError, match="No scene has 12 x 12 cells"):
        next(dsen2.fit(recipe, []))
