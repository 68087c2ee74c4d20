"""Networks of others at smaller input sizes: which can be run, and which one is taken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper
from small_networks import CLASSES, plain, residual

from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.network import Network
from nnfactory.factory.reuse.disassembly.input_sizes import Look, at_side, nearest, sides_of


def fixed(network: Network) -> Network:
    """The same, but its row of features is spelled for maps of one size."""
    nodes = [node for node in network.nodes if node.op_type not in ("GlobalAveragePool", "Flatten")]
    last = nodes.pop()
    (entry,) = (name for node in nodes[-1:] for name in node.output)
    weights = {**network.weights, "to": np.array([1, 6 * 4 * 4], np.int64)}
    weights["fc.w"] = np.ones((CLASSES, 6 * 4 * 4), np.float32)
    nodes.append(helper.make_node("Reshape", [entry, "to"], ["vector"], name="reshape"))
    return replace(network, nodes=(*nodes, last), weights=weights)


@pytest.mark.parametrize("network", [plain(), residual()], ids=["plain", "residual"])
def test_a_network_that_averages_runs_at_any_size(network: Network):
    assert sides_of(network) == [8, 7, 6, 5, 4]
    image = np.random.default_rng(0).random((1, 3, 5, 5)).astype(np.float32)
    small = at_side(network, 5)
    (found,) = run_network(small, {"images": image}).values()
    assert found.shape == (1, CLASSES)
    assert small.weights is network.weights


def test_a_network_that_asks_for_its_size_runs_at_no_other():
    network = fixed(plain())
    assert sides_of(network) == [8, 7]  # a map of 4 x 4 either way


def test_a_row_of_classes_stays_one():
    network = plain()
    nodes = [node for node in network.nodes if node.op_type not in ("Flatten", "Gemm")]
    nodes[-1] = helper.make_node("Flatten", nodes[-1].input, ["logits"], name="flat")
    raw = replace(network, nodes=tuple(nodes), outputs={"logits": (1, 96)})
    with pytest.raises(DataError, match="other outputs"):
        at_side(raw, 6)


def test_a_window_larger_than_the_map_leaves_nothing():
    network = plain()
    nodes = [
        helper.make_node("AveragePool", node.input, node.output, kernel_shape=[4, 4], name="pool")
        if node.op_type == "GlobalAveragePool" else node
        for node in network.nodes
    ]  # fmt: skip
    whole = replace(network, nodes=tuple(nodes))
    assert sides_of(whole) == [8, 7]  # a map of 4 x 4 either way


LOOKS = [
    Look(side=side, divergence=0.1 * gone, keeps=side <= 12)
    for gone, side in enumerate((16, 15, 14, 13, 12, 11, 10, 9, 8))
]


@pytest.mark.parametrize(
    ("cut", "best", "tried"),
    [
        ({14: 0.9, 16: 0.9}, 12, [12, 14, 16]),  # sides at which something is cut
        ({14: 0.3, 16: 0.9}, 14, [12, 14, 16]),
        ({14: 0.5, 16: 0.2}, 16, [12, 14, 16]),
        ({14: 0.15, 16: None}, 14, [12, 14, 16]),
        ({14: None, 16: None}, 12, [12, 14, 16]),
    ],
)
def test_larger_images_are_tried_as_long_as_they_may_be_nearer(cut, best, tried):
    seen = []

    def found_at(look: Look) -> tuple[int, float] | None:
        seen.append(look.side)
        if look.keeps:
            return look.side, look.divergence
        return None if cut[look.side] is None else (look.side, cut[look.side])

    found = nearest(LOOKS, found_at, lambda pair: pair[1])
    assert found is not None
    assert (found[0], seen) == (best, tried)


def test_sizes_that_are_worse_before_the_cut_are_left_out():
    looks = [Look(side=16, divergence=0.3, keeps=False), Look(side=8, divergence=0.2, keeps=True)]
    seen = []
    nearest(looks, lambda look: seen.append(look.side) or look.divergence, lambda found: found)
    assert seen == [8]


def test_where_no_size_keeps_the_limits_the_smallest_is_cut_first():
    looks = [Look(side=side, divergence=0.0, keeps=False) for side in (16, 15, 14)]
    seen = []
    assert nearest(looks, lambda look: seen.append(look.side), lambda found: 0.0) is None
    assert seen == [14, 16]
