"""Folding 1x1 convolutions: the same outputs, fewer nodes, never more work."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.network import Network
from nnfactory.factory.graph.pointwise import fold_pointwise


def chain(*, middle: int = 8, kernel: int = 1, pads: int = 0, bias: float = 1.0, group: int = 1):
    rng = np.random.default_rng(0)
    shapes = {"a": (middle, 6, 1, 1), "b": (10, middle // group, kernel, kernel)}
    weights = {f"{name}.w": rng.normal(size=shape) for name, shape in shapes.items()}
    weights |= {"a.b": bias * rng.normal(size=middle), "b.b": rng.normal(size=10)}
    nodes = (
        helper.make_node("Conv", ["x", "a.w", "a.b"], ["m"], kernel_shape=[1, 1]),
        helper.make_node(
            "Conv", ["m", "b.w", "b.b"], ["y"], kernel_shape=[kernel] * 2, pads=[pads] * 4,
            group=group,
        ),
        helper.make_node("Relu", ["y"], ["out"]),
    )  # fmt: skip
    side = 7 + 2 * pads - kernel + 1
    return Network(
        name="chain", nodes=nodes, inputs={"x": (1, 6, 7, 7)}, outputs={"out": (1, 10, side, side)},
        weights={name: array.astype(np.float32) for name, array in weights.items()},
    )  # fmt: skip


def outputs(network: Network) -> np.ndarray:
    image = np.random.default_rng(1).normal(size=(1, 6, 7, 7)).astype(np.float32)
    return run_network(network, {"x": image})["out"]


@pytest.mark.parametrize(
    "options", [{}, {"kernel": 3}, {"kernel": 3, "pads": 1, "bias": 0.0}], ids=str
)
def test_a_stitch_becomes_part_of_what_reads_it(options):
    network = chain(**options)
    folded = fold_pointwise(network)
    assert [node.op_type for node in folded.nodes] == ["Conv", "Relu"]
    assert set(folded.weights) == {"y/kernel", "y/bias"}
    assert outputs(folded) == pytest.approx(outputs(network), abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"kernel": 3, "pads": 1}, {"middle": 2}, {"group": 2}],
    ids=["zeros around it", "a narrow middle is less work", "groups"],
)
def test_where_it_is_not_exact_or_no_gain_it_stays(options):
    network = chain(**options)
    assert fold_pointwise(network).nodes == network.nodes


def test_what_two_layers_read_stays():
    network = chain()
    both = helper.make_node("Conv", ["m", "b.w", "b.b"], ["z"], kernel_shape=[1, 1])
    add = helper.make_node("Add", ["out.0", "z"], ["out"])
    relu = helper.make_node("Relu", ["y"], ["out.0"])
    network = Network(
        name="two", nodes=(*network.nodes[:2], both, relu, add), weights=network.weights,
        inputs=network.inputs, outputs=network.outputs,
    )  # fmt: skip
    assert fold_pointwise(network).nodes == network.nodes
