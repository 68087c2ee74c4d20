"""Cut points against networks whose only ways are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.cut_points import cut_points
from nnfactory.factory.graph.network import Network


def network_of(*nodes: tuple[str, list[str], str], outputs: tuple[str, ...]) -> Network:
    """Convolutions and additions of three channels on the input "x" (1, 3, 4, 4)."""
    made = [
        helper.make_node(op, [*inputs, *(["w"] if op == "Conv" else [])], [out], name=out)
        for op, inputs, out in nodes
    ]
    shape = (1, 3, 4, 4)
    return Network(
        name="hand", nodes=tuple(made), weights={"w": np.zeros((3, 3, 1, 1), np.float32)},
        inputs={"x": shape}, outputs=dict.fromkeys(outputs, shape),
    )  # fmt: skip


def names(network: Network) -> list[str]:
    return [point.tensor for point in cut_points(network)]


def test_every_tensor_of_a_chain_is_one():
    network = network_of(
        ("Conv", ["x"], "a"), ("Relu", ["a"], "b"), ("Conv", ["b"], "c"), ("Conv", ["c"], "d"),
        outputs=("d",),
    )  # fmt: skip
    assert names(network) == ["a", "b", "c"]
    points = cut_points(network)
    assert [point.shape for point in points] == [(1, 3, 4, 4)] * 3
    assert [point.node for point in points] == [0, 1, 2]
    assert [point.depth for point in points] == pytest.approx([1 / 3, 1 / 3, 2 / 3])


def test_nothing_inside_a_branch_is_one():
    network = network_of(
        ("Conv", ["x"], "a"), ("Conv", ["a"], "b"), ("Add", ["a", "b"], "c"), ("Conv", ["c"], "d"),
        outputs=("d",),
    )  # fmt: skip
    assert names(network) == ["a", "c"]


def test_a_skip_connection_from_the_input_leaves_none_before_its_end():
    network = network_of(
        ("Conv", ["x"], "a"), ("Add", ["a", "x"], "b"), ("Conv", ["b"], "c"), outputs=("c",)
    )
    assert names(network) == ["b"]


def test_of_several_outputs_what_is_before_they_part_counts():
    network = network_of(
        ("Conv", ["x"], "a"), ("Conv", ["a"], "b"), ("Conv", ["b"], "c"), ("Conv", ["b"], "d"),
        outputs=("c", "d"),
    )  # fmt: skip
    assert names(network) == ["a", "b"]


def test_several_inputs_are_refused():
    network = network_of(("Conv", ["x"], "a"), outputs=("a",))
    with pytest.raises(DataError, match="2 inputs"):
        cut_points(replace(network, inputs={**network.inputs, "y": (1, 3, 4, 4)}))
