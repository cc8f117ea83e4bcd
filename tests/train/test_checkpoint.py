"""Laws of choosing a checkpoint: the lowest score is kept, whatever stops it."""

import json
import resource
from dataclasses import replace

import pytest
import torch

import s2sr_xr
from s2sr_xr.errors import StoreError
from s2sr_xr.models.header import read_header
from s2sr_xr.models.published import published
from s2sr_xr.train.checkpoint import Best, keep_best
from s2sr_xr.train.loop import fit
from s2sr_xr.train.plan import Plan, Step

SPEC, BUILD = next((s, b) for s, b in published() if s.name == "csr-s")
SCORES = [5.0, 3.0, 4.0, 2.0, float("nan"), 2.5, 6.0]


def steps(first=0):
    """Networks that say their step."""
    network = BUILD()
    for step in range(first, len(SCORES)):
        with torch.no_grad():
            for weight in network.parameters():
                weight.fill_(step)
        yield Step(step, 0.0, network)


def judge(network):
    return SCORES[int(next(network.parameters()).flatten()[0])]


def best(folder):
    facts = replace(SPEC, name="mine", sha256=None)
    return Best(folder / "mine.best.safetensors", facts, SPEC.name)


def kept(best):
    """Return the step of the weights in the file, which can be used as they are."""
    return int(next(s2sr_xr.load_model(best.path).parameters()).flatten()[0])


@pytest.mark.parametrize(("every", "expected"), [(1, 3), (2, 2), (4, 0), (5, 5)])
def test_the_lowest_score_is_kept_and_the_last_step_judged(tmp_path, every, expected):
    one = best(tmp_path)
    assert len([*keep_best(steps(), judge, one, every=every, last=6)]) == 7
    assert kept(one) == one.step == expected
    judged = sorted({*range(0, 7, every), 6})
    notes = read_header(one.path).notes
    assert [int(k) for k in json.loads(notes["scores"])] == judged
    assert notes["step"] == str(expected)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_training_that_goes_on_keeps_what_an_unbroken_one_does(tmp_path, stop):
    first = keep_best(steps(), judge, best(tmp_path), every=1, last=6)
    for _ in range(stop + 1):
        next(first)
    # The checkpoint was older than the last score.
    again = best(tmp_path)
    list(keep_best(steps(stop - 1), judge, again, every=1, last=6))
    assert kept(again) == again.step == 3
    assert [again.scores[k] for k in (0, 1, 2, 3, 5, 6)] == [5, 3, 4, 2, 2.5, 6]


def test_a_step_that_was_stopped_while_it_was_judged_is_judged_again(tmp_path):
    """Here each step is scored, and every second has a checkpoint."""
    plan = Plan(steps=6, lr=1e-2, precision="float32")

    def loss(network, _):
        return sum(w.square().sum() for w in network.parameters())

    def judged(name, judge):
        options = {"checkpoint": tmp_path / f"{name}.ckpt", "every": 2}
        (tmp_path / name).mkdir(exist_ok=True)
        one = best(tmp_path / name)
        made = fit(BUILD(), lambda _: None, loss, plan, **options)
        list(keep_best(made, judge, one, every=1, last=5))
        return one.scores

    def weight(network):
        return float(next(network.parameters()).square().sum())

    stop = 4  # the score of step 3, after which a checkpoint lies

    def stopped(network):
        nonlocal stop
        stop -= 1
        if not stop:
            raise KeyboardInterrupt
        return weight(network)

    torch.manual_seed(0)
    whole = judged("whole", weight)
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        judged("stopped", stopped)
    assert judged("stopped", weight) == whole
    assert sorted(whole) == [*range(6)]


def test_a_full_disk_leaves_the_best_so_far(tmp_path):
    one = best(tmp_path)
    going = keep_best(steps(), judge, one, every=1, last=6)
    next(going), next(going)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (one.path.stat().st_size // 2, hard))
    try:
        said = r"cannot be written to .* best before step 2 is whole: make room"
        with pytest.raises(StoreError, match=said):
            next(going)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert kept(one) == 1
    assert list(tmp_path.iterdir()) == [one.path]
