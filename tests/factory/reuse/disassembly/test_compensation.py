"""Layers that are fitted to what the whole network computes."""

from __future__ import annotations

import numpy as np
import pytest
from small_inputs import halved, images, logits
from small_networks import NETS, plain, residual

from nnfactory.factory.reuse.disassembly import compensation
from nnfactory.factory.reuse.disassembly.families import anatomy_of, narrowed
from nnfactory.factory.reuse.disassembly.layer_inputs import positions


def test_positions_lie_all_over_large_maps():
    with pytest.raises(ValueError, match="12544"):
        positions((8, 112, 112), np.random.default_rng(0).random(4096), 16)
    places = positions((8, 112, 112), np.random.default_rng(0).random(112 * 112), 200)
    assert places.max() // 112 > 100


def test_channels_that_others_repeat_are_made_up_for():
    """Every channel of the family is there twice: half of them can go without a trace."""
    network = residual()
    for name in ("a1", "b1"):
        network.weights[f"{name}.w"][4:] = network.weights[f"{name}.w"][:4]
        network.weights[f"{name}.b"][4:] = network.weights[f"{name}.b"][:4]
    found, shown = anatomy_of(network), images(40)
    kept = {"a1": [0, 1, 2, 3], "b1": [0, 5, 2, 7]}
    narrow, channels = narrowed(found, kept)
    made = compensation.compensated(network, narrow, channels, shown, strength=1e-6)
    whole, fresh = logits(network, images(5, 1)), images(5, 1)
    assert np.abs(logits(narrow, fresh) - whole).max() > 0.05
    assert np.abs(logits(made, fresh) - whole).max() < 1e-3


@pytest.mark.parametrize("name", NETS)
def test_compensation_comes_nearer_to_the_whole_network(name: str):
    found, fresh = anatomy_of(NETS[name]()), images(20, 1)
    narrow, channels = narrowed(found, halved(found))
    made = compensation.compensated(found.network, narrow, channels, images(60))
    whole = logits(found.network, fresh)
    before, after = (np.abs(logits(n, fresh) - whole).mean() for n in (narrow, made))
    assert after < 0.6 * before


def test_no_more_images_than_memory_holds(monkeypatch: pytest.MonkeyPatch):
    found = anatomy_of(plain())
    narrow, channels = narrowed(found, halved(found))
    assert compensation.most_images(found.network, narrow) > 10**4
    monkeypatch.setattr(compensation, "MEMORY", 0)
    some = compensation.compensated(found.network, narrow, channels, images(60))
    first = compensation.compensated(found.network, narrow, channels, images(60)[:32])
    assert logits(some, images(3)) == pytest.approx(logits(first, images(3)))


def test_a_branch_that_is_gone_is_made_up_for_by_what_follows():
    found, fresh = anatomy_of(residual()), images(20, 1)
    narrow, channels = narrowed(found, {"a1": []})
    assert len(narrow.nodes) < len(found.network.nodes) - 3
    made = compensation.compensated(found.network, narrow, channels, images(60))
    whole = logits(found.network, fresh)
    before, after = (np.abs(logits(n, fresh) - whole).mean() for n in (narrow, made))
    assert after < 0.6 * before
