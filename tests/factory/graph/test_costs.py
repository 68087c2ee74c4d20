"""Costs of operators against numbers counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from nnfactory.factory.graph.costs import op_costs, parameter_count
from nnfactory.factory.graph.network import Network, tensor_shapes


@pytest.fixture
def network() -> Network:
    """Strided grouped convolution, addition with itself, average pool, flatten, linear."""
    nodes = (
        helper.make_node(
            "Conv", ["x", "kernel", "bias"], ["a"], name="conv", kernel_shape=[3, 3],
            strides=[2, 2], pads=[1, 1, 1, 1], group=2,
        ),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Add", ["b", "b"], ["c"], name="double"),
        helper.make_node(
            "AveragePool", ["c"], ["d"], name="pool", kernel_shape=[2, 2], strides=[2, 2]
        ),
        helper.make_node("Flatten", ["d"], ["e"], name="flatten", axis=1),
        helper.make_node("Gemm", ["e", "matrix", "offset"], ["y"], name="linear", transB=1),
    )  # fmt: skip
    weights = {
        "kernel": np.zeros((6, 2, 3, 3), np.float32),
        "bias": np.zeros(6, np.float32),
        "matrix": np.zeros((5, 24), np.float32),
        "offset": np.zeros(5, np.float32),
    }
    return Network(
        name="hand",
        nodes=nodes,
        weights=weights,
        inputs={"x": (1, 4, 8, 8)},
        outputs={"y": (1, 5)},
    )


def test_multiply_adds_equal_those_counted_by_hand(network):
    rows = {row.name: row for row in op_costs(network, tensor_shapes(network))}
    # 6 x 4 x 4 outputs, each from 2 channels of a group and 9 taps; 5 outputs from 24 features.
    assert rows["conv"].macs == 6 * 4 * 4 * 2 * 9
    assert rows["linear"].macs == 5 * 24
    assert [row.macs for name, row in rows.items() if name not in ("conv", "linear")] == [0] * 4


def test_traffic_channels_and_sources_equal_those_counted_by_hand(network):
    conv, relu, double, pool, flatten, linear = op_costs(network, tensor_shapes(network))
    assert (conv.op, conv.groups, conv.c_in, conv.c_out, conv.kernel) == ("conv", 2, 4, 6, 3)
    assert (conv.in_elems, conv.out_elems, conv.weight_elems) == (256, 96, 6 * 2 * 9 + 6)
    assert conv.inputs == (-1,)
    assert (relu.op, relu.in_elems, relu.out_elems, relu.inputs) == ("relu", 96, 96, (0,))
    assert (double.in_elems, double.inputs) == (96, (1, 1))  # one tensor, read once
    assert (pool.op, pool.kernel, pool.out_elems) == ("avg_pool", 2, 24)
    assert (flatten.op, flatten.out_elems) == ("reshape", 24)
    assert (linear.op, linear.c_in, linear.c_out, linear.weight_elems) == ("linear", 24, 5, 125)


def test_parameters_are_all_trained_weights(network):
    assert parameter_count(network) == 6 * 2 * 9 + 6 + 5 * 24 + 5


def test_constants_of_the_answer_and_whole_numbers_are_no_parameters(network):
    weights = {
        **network.weights,
        "/answer/anchors": np.zeros((7, 4), np.float32),
        "shape": np.zeros(3, np.int64),
    }
    extended = Network(
        name="x", nodes=network.nodes, weights=weights, inputs=network.inputs,
        outputs=network.outputs,
    )  # fmt: skip
    assert parameter_count(extended) == parameter_count(network)


def test_a_bias_with_one_element_is_a_parameter(network):
    weights = {**network.weights, "boxes.bias": np.zeros(1, np.float32)}
    extended = Network(
        name="x", nodes=network.nodes, weights=weights, inputs=network.inputs,
        outputs=network.outputs,
    )  # fmt: skip
    assert parameter_count(extended) == parameter_count(network) + 1
