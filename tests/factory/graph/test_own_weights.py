"""Layers that shared weights and do not any more compute what they did."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.network import Network
from nnfactory.factory.graph.own_weights import BIAS, WEIGHT, named_by_output, with_own_weights


def two_heads() -> Network:
    rng = np.random.default_rng(0)
    nodes = tuple(
        helper.make_node("Conv", [x, "w", "b"], [out], kernel_shape=[1, 1])
        for x, out in (("x", "y"), ("y.r", "z"))
    )
    relu = helper.make_node("Relu", ["y"], ["y.r"])
    return Network(
        name="heads", nodes=(nodes[0], relu, nodes[1]), inputs={"x": (1, 4, 5, 5)},
        outputs={"y": (1, 4, 5, 5), "z": (1, 4, 5, 5)},
        weights={
            "w": rng.normal(size=(4, 4, 1, 1)).astype(np.float32),
            "b": rng.normal(size=4).astype(np.float32),
        },
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "names"),
    [(WEIGHT, {"w@y", "b@y", "w@z", "b@z"}), (BIAS, {"w", "b@y", "b@z"})],
)
def test_each_layer_has_its_own(first: int, names: set[str]):
    network = two_heads()
    apart = with_own_weights(network, first=first)
    assert set(apart.weights) == names
    image = {"x": np.random.default_rng(1).normal(size=(1, 4, 5, 5)).astype(np.float32)}
    wanted, found = run_network(network, image), run_network(apart, image)
    assert all(np.array_equal(found[name], values) for name, values in wanted.items())
    assert with_own_weights(apart, first=first).weights.keys() == apart.weights.keys()


def test_nodes_are_called_by_what_they_write():
    node = two_heads().nodes[0]
    assert named_by_output(node).name == "node/y"
    assert node.name == ""
