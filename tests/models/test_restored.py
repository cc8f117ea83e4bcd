"""The models that are given the sensor keep what their facts promise."""

from __future__ import annotations

import pytest
import torch

from s2sr_xr.models import weights_file
from s2sr_xr.models.header import read_header
from s2sr_xr.models.receptive_field import measure_margin
from s2sr_xr.models.restored import restored, through_the_sensor

MODELS = {s.name: (s, build) for s, build in (*through_the_sensor(), *restored())}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_looks_as_far_as_its_facts_say(name):
    spec, build = MODELS[name]
    assert measure_margin(build(), spec) == spec.margin


@pytest.mark.parametrize("name", MODELS)
def test_a_model_makes_the_ground_that_its_facts_say(name):
    spec, build = MODELS[name]
    side = 2 + 2 * spec.margin
    images = [
        torch.rand(1, len(g.names), side * g.per_cell, side * g.per_cell)
        for g in spec.inputs
    ]
    with torch.inference_mode():
        made = build()(*images)
    excess = made.shape[-1] - 2 * spec.output.per_cell
    assert made.shape[1] == len(spec.output.names)
    assert excess >= 0
    assert excess % 2 == 0
    assert torch.isfinite(made).all()


def test_the_shipped_weights_are_those_of_the_card():
    spec, build = MODELS["restored-20m"]
    card, path = weights_file.card_of(spec.name), weights_file.shipped(spec.name)
    assert card is not None
    assert path is not None
    network = weights_file.load_state(build(), path, card["sha256"])
    assert 0 < float(network.stages.share.min()) <= float(network.stages.share.max())
    header = read_header(path)
    assert (header.kind, header.spec.margin) == (spec.name, spec.margin)
