"""How much of a logit comes through a channel, and what thresholds make of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_inputs import images
from small_networks import CLASSES, NETS, Net, plain, residual

from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.network import Array, Network, tensor_shapes
from nnfactory.factory.reuse.disassembly.contributions import contributions
from nnfactory.factory.reuse.disassembly.families import anatomy_of
from nnfactory.factory.reuse.disassembly.kinds import Classification
from nnfactory.factory.reuse.disassembly.relevance import flows, located, losses_by_flow

KIND = Classification()


@pytest.mark.parametrize("name", NETS)
def test_contributions_equal_their_definition(name: str):
    found = anatomy_of(NETS[name]())
    shown = images(3)
    table = contributions(found, [shown[:2], shown[2:]]).layers
    shapes = tensor_shapes(found.network)
    for node in found.network.nodes:
        if node.name not in table:
            continue
        source = node.input[0]
        weight = found.network.weights[node.input[1]]
        total = np.zeros((2, *weight.shape[:2]))
        for row, mine in enumerate((shown[:2], shown[2:])):
            for image in mine:
                x = image
                if source != "images":
                    tapped = replace(found.network, outputs={source: shapes[source]})
                    x = run_network(tapped, {"images": image})[source]
                total[row] += np.maximum(partial_sums(node, weight, x), 0) / len(mine)
        assert np.abs(table[node.name] - total).max() <= 1e-6 * max(1, np.abs(total).max())


def partial_sums(node, weight: Array, x: Array) -> Array:
    """The definition: what each input alone makes of each output, summed over space."""
    sums = np.zeros(weight.shape[:2])
    for p in range(weight.shape[1]):
        alone = np.zeros_like(x)
        alone[:, p] = x[:, p]
        if node.op_type == "Gemm":
            sums[:, p] = (alone @ weight.T)[0]
            continue
        conv = type(node)()
        conv.CopyFrom(node)
        conv.input[:] = ["x", "w"]
        net = Network(
            name="one", nodes=(conv,), weights={"w": weight.astype(np.float32)},
            inputs={"x": alone.shape}, outputs={node.output[0]: shape_of(node, weight, alone)},
        )  # fmt: skip
        out = run_network(net, {"x": alone})[node.output[0]]
        sums[:, p] = out[0].astype(np.float64).sum((1, 2))
    return sums


def shape_of(node, weight: Array, x: Array) -> tuple[int, ...]:
    weights = {node.input[1]: weight, node.input[2]: weight[:, 0, 0, 0]}
    net = Network(
        name="one", nodes=(node,), weights=weights,
        inputs={node.input[0]: x.shape}, outputs={node.output[0]: (1, 1, 1, 1)},
    )  # fmt: skip
    light = replace(net, outputs={})
    return tensor_shapes(light)[node.output[0]]


@pytest.mark.parametrize("name", ["plain", "inception"])
def test_all_of_a_logit_flows_through_every_cut_of_a_network(name: str):
    network = NETS[name]()
    for weight in network.weights.values():
        weight[:] = np.abs(weight)  # an output without positive parts has nothing to pass on
    found = anatomy_of(network)
    table = contributions(found, [images(2)] * CLASSES)
    flow = flows(found, table, KIND.ends(found.network))
    cuts = {"plain": [["c1"], ["c2"], ["c3"]], "inception": [["stem"], ["one", "two2"], ["last"]]}
    for cut in cuts[name]:
        assert sum(flow[family].sum(1) for family in cut) == pytest.approx(np.ones(CLASSES))


def test_channels_that_are_used_twice_carry_no_more_than_there_is():
    """Side by side with what a depthwise layer makes of them, as in spatial pyramids."""
    net = Net()
    x = net.relu(net.conv("images", "stem", 6))
    y = net.relu(net.conv(x, "each", 6, group=6))
    net.add("Concat", [x, y], "both", axis=1)
    network = net.network(net.relu(net.conv("both", "last", 8, 1)))
    for weight in network.weights.values():
        weight[:] = np.abs(weight)
    found = anatomy_of(network)
    flow = flows(found, contributions(found, [images(2)] * CLASSES), KIND.ends(found.network))
    assert flow["stem"].sum(1) == pytest.approx(np.ones(CLASSES))


def test_a_residual_block_carries_its_part_of_the_sum():
    found = anatomy_of(residual())
    table = contributions(found, [images(2)] * CLASSES)
    flow = flows(found, table, KIND.ends(found.network))
    assert all(0 < part < 1 for part in flow["b1"].sum(1))
    losses = losses_by_flow(flow)["b1"]
    assert losses.lost[0] == pytest.approx(flow["b1"].mean(0).sum())
    assert losses.lost[-1] == pytest.approx(0)
    assert (np.diff(losses.lost) <= 1e-12).all()


def test_thresholds_keep_what_makes_the_logit():
    """Logit 0 reads channel 1 alone, which channel 0 of the layer before makes alone."""
    network = plain()
    for name, pairs in (("fc.w", [(0, 1)]), ("c3.w", [(1, 0)]), ("c2.w", [(0, 2)])):
        weight = network.weights[name]
        weight[:] = -np.abs(weight)
        for q, p in pairs:
            weight[q, p] = np.abs(weight[q, p]) + 1
    found = anatomy_of(network)
    table = contributions(found, [images(4)])
    kept = located(found, table, KIND.ends(found.network)[:1])
    assert {name: rows.tolist() for name, rows in kept.items()} == {"c1": [2], "c2": [0], "c3": [1]}
