"""Live tensors against lists written by hand."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from nnfactory.factory.graph.memory import activation_bytes, live_tensors, peak_bytes
from nnfactory.factory.graph.network import Network, tensor_shapes


def network_of(*nodes: tuple[str, list[str], str], outputs: tuple[str, ...]) -> Network:
    """Nodes (operator, inputs, output) on the input "x" (1, 2, 4, 4); convolutions keep shapes."""
    weights = {"w": np.zeros((2, 2, 1, 1), np.float32)}
    made = [
        helper.make_node(op, [*inputs, *(["w"] if op == "Conv" else [])], [output], name=output)
        for op, inputs, output in nodes
    ]
    shape = (1, 2, 4, 4)
    return Network(
        name="hand",
        nodes=tuple(made),
        weights=weights,
        inputs={"x": shape},
        outputs=dict.fromkeys(outputs, shape),
    )


def test_a_chain_holds_input_and_output_of_each_convolution():
    network = network_of(("Conv", ["x"], "a"), ("Conv", ["a"], "b"), outputs=("b",))
    assert live_tensors(network) == [{"x", "a"}, {"a", "b"}]


def test_an_elementwise_node_writes_over_an_input_that_nothing_reads_afterwards():
    network = network_of(
        ("Conv", ["x"], "a"), ("Relu", ["a"], "b"), ("Conv", ["b"], "c"), outputs=("c",)
    )
    assert live_tensors(network) == [{"x", "a"}, {"a"}, {"a", "c"}]


def test_an_elementwise_node_takes_a_new_buffer_when_its_input_is_read_later():
    network = network_of(
        ("Conv", ["x"], "a"), ("Relu", ["a"], "b"), ("Add", ["a", "b"], "c"), outputs=("c",)
    )
    assert live_tensors(network) == [{"x", "a"}, {"a", "b"}, {"a", "b"}]


def test_a_skip_connection_lives_until_its_addition():
    network = network_of(
        ("Conv", ["x"], "a"),
        ("Conv", ["a"], "b"),
        ("Relu", ["b"], "c"),
        ("Conv", ["c"], "d"),
        ("Add", ["a", "d"], "e"),
        ("Conv", ["e"], "f"),
        outputs=("f",),
    )
    assert live_tensors(network) == [
        {"x", "a"},
        {"a", "b"},
        {"a", "b"},
        {"a", "b", "d"},
        {"a", "d"},  # the sum takes the place of "a"
        {"a", "f"},
    ]


def test_an_output_lives_to_the_end():
    network = network_of(
        ("Conv", ["x"], "a"), ("Conv", ["a"], "b"), ("Conv", ["b"], "c"), outputs=("a", "c")
    )
    assert live_tensors(network) == [{"x", "a"}, {"a", "b"}, {"a", "b", "c"}]


def test_an_input_that_is_read_late_lives_until_then():
    network = network_of(
        ("Conv", ["x"], "a"), ("Conv", ["a"], "b"), ("Add", ["b", "x"], "c"), outputs=("c",)
    )
    assert live_tensors(network) == [{"x", "a"}, {"x", "a", "b"}, {"x", "b"}]


def test_the_peak_is_weights_and_the_largest_sum_of_live_tensors():
    network = network_of(
        ("Conv", ["x"], "a"), ("Conv", ["a"], "b"), ("Add", ["b", "x"], "c"), outputs=("c",)
    )
    tensor = 4 * 2 * 4 * 4
    shapes = tensor_shapes(network)
    assert activation_bytes({"x", "a"}, shapes) == 2 * tensor
    assert activation_bytes(set(), shapes) == 0
    assert peak_bytes(network, shapes) == 4 * 2 * 2 + 3 * tensor


def test_the_peak_is_never_below_weights_input_and_output_of_any_node(toy_library):
    network = toy_library.network
    shapes = tensor_shapes(network)
    weights = sum(array.nbytes for array in network.weights.values())
    largest = max(
        sum(4 * np.prod(shapes[n]) for n in {*node.input, *node.output} if n in shapes)
        for node in network.nodes
        if node.op_type == "GlobalAveragePool" or node.op_type == "AveragePool"
    )
    assert peak_bytes(network, shapes) >= weights + largest
    assert len(live_tensors(network)) == len(network.nodes)


@pytest.mark.parametrize("op", ["Conv", "MaxPool"])
def test_an_operator_that_reads_neighbors_never_works_in_place(op):
    network = network_of((op, ["x"], "a"), outputs=("a",))
    assert live_tensors(network) == [{"x", "a"}]
