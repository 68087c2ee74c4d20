"""What can be cut out of a network, and that cutting is zeroing."""

from __future__ import annotations

from dataclasses import replace

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from small_inputs import images, logits, pictures
from small_networks import (
    NETS,
    SIDE,
    Net,
    broadcast,
    depthwise,
    inception,
    plain,
    residual,
    split,
    two_branches,
)

from nnfactory.factory.errors import DataError
from nnfactory.factory.reuse.disassembly.component import Plan, values_of
from nnfactory.factory.reuse.disassembly.families import Anatomy, anatomy_of, narrowed
from nnfactory.factory.reuse.disassembly.kinds import Classification
from nnfactory.factory.reuse.disassembly.proof import prove_cut

KIND = Classification()


def names(anatomy: Anatomy) -> list[str]:
    return [family.name for family in anatomy.families]


def test_families_are_inner_channels_and_streams_stay():
    assert names(anatomy_of(plain())) == ["c1", "c2", "c3"]
    found = anatomy_of(residual())
    assert names(found) == ["a1", "b1"]
    assert [family.branch for family in found.families] == ["asum", "bsum"]
    assert names(anatomy_of(inception())) == ["stem", "one", "two1", "two2", "last"]
    assert names(anatomy_of(depthwise())) == ["up"]
    assert not any(family.branch for family in anatomy_of(inception()).families)


def test_channels_that_go_in_groups_alone_are_no_family():
    """A grouped convolution mixes two channels at a time: one of them cannot go by itself."""
    net = Net()
    x = net.relu(net.conv("images", "stem", 8))
    x = net.relu(net.conv(net.relu(net.conv(x, "up", 8)), "grouped", 8, group=4))
    found = anatomy_of(net.network(net.relu(net.conv(x, "last", 8))))
    assert "up" not in names(found)
    assert "last" in names(found)


def test_parts_of_one_output_are_families_of_their_own():
    for first in (4, 5):
        found = anatomy_of(split(first=first))
        assert names(found)[:2] == ["c1", "c1#2"]
        values = values_of(found, KIND, pictures(30))
        for losses in values.values():
            counts = [len(losses[name].order) for name in ("c1", "c1#2")]
            assert counts == [first, 10 - first]


def test_one_side_of_a_sum_stays():
    found = anatomy_of(two_branches())
    assert [family.branch for family in found.families if family.name != "stem"] == ["sum", ""]
    assert anatomy_of(broadcast()).families[-1].branch == ""


def test_layers_that_share_a_bias_can_be_cut():
    network = plain()
    zeros = {"zeros": np.zeros(8, np.float32)}
    nodes = []
    for node in network.nodes:
        copy = type(node)()
        copy.CopyFrom(node)
        if node.output[0] in ("c1", "c2"):
            copy.input[2] = "zeros"
        nodes.append(copy)
    shared = replace(network, nodes=tuple(nodes), weights={**network.weights, **zeros})
    found = anatomy_of(shared)
    assert names(found) == ["c1", "c2", "c3"]
    assert logits(found.network, images(2)) == pytest.approx(logits(shared, images(2)))


def test_a_network_without_inner_channels_is_refused():
    net = Net()
    x = net.conv("images", "a", 3)
    with pytest.raises(DataError, match="inner"):
        anatomy_of(net.network(net.add("Add", [x, "images"], "sum")))


@hypothesis.given(st.sampled_from(sorted(NETS)), st.integers(0, 10**6))
def test_cutting_is_zeroing(name: str, seed: int):
    found, rng = anatomy_of(NETS[name](seed)), np.random.default_rng(seed)
    kept = {}
    for family in found.families:
        least = 0 if family.branch else 1
        count = rng.integers(least, len(family.groups) + 1)
        kept[family.name] = np.sort(rng.permutation(len(family.groups))[:count])
    network, channels = narrowed(found, kept)
    plan = Plan(values="", kept=kept, network=network, channels=channels, choice=None)
    assert prove_cut(found, plan, SIDE).max_abs < 1e-5


def test_a_family_that_is_no_branch_keeps_a_channel():
    with pytest.raises(DataError, match="c2"):
        narrowed(anatomy_of(plain()), {"c2": []})
