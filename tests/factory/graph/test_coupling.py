"""Channel groups: cut out of any network they leave one that equals the zeroed original."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import onnx
import pretrained
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, helper

from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.coupling import Coupling, coupling
from nnfactory.factory.graph.cut_channels import cut_channels, mask_channels
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.network import (
    Network,
    model_from_network,
    renamed_inputs,
    tensor_shapes,
    without_dead_nodes,
)

SIDE = 8


@dataclass
class Graph:
    """A network that grows at random; the last tensor is (1, C, SIDE, SIDE)."""

    seed: int
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=lambda: {"images": 3})

    def add(self, op: str, inputs: list[str], width: int, **options: object) -> str:
        out = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], name=out, **options))
        self.widths[out] = width
        return out

    def weight(self, array: object, kind: type = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array, kind)
        return name

    def noise(self, *shape: int) -> str:
        rng = np.random.default_rng([self.seed, len(self.weights)])
        return self.weight(rng.normal(0, 0.5, shape))

    def conv(self, x: str, width: int, *, kernel: int = 1, groups: int = 1) -> str:
        weights = [self.noise(width, self.widths[x] // groups, kernel, kernel), self.noise(width)]
        pads = [kernel // 2] * 4
        return self.add("Conv", [x, *weights], width, pads=pads, group=groups)

    def network(self, x: str) -> Network:
        pool = self.add(
            "AveragePool", [x], self.widths[x], kernel_shape=[2, 2], strides=[2, 2]
        )  # fmt: skip
        flat = self.add("Flatten", [pool], 0, axis=1)
        features = self.widths[x] * (SIDE // 2) ** 2
        out = self.add("Gemm", [flat, self.noise(features, 5), self.noise(5)], 5)
        return Network(
            name="random", nodes=tuple(self.nodes), weights=self.weights,
            inputs={"images": (1, 3, SIDE, SIDE)}, outputs={out: (1, 5)},
        )  # fmt: skip


def plain(g: Graph, x: str, n: int) -> str:
    return g.add("Relu", [g.conv(x, 4 + n, kernel=3)], 4 + n)


def normalized(g: Graph, x: str, n: int) -> str:
    width = g.widths[x]
    rows = [g.noise(width), g.noise(width), g.noise(width), g.weight(np.full(width, 1.5))]
    return g.add("HardSwish", [g.add("BatchNormalization", [x, *rows], width)], width)


def residual(g: Graph, x: str, n: int) -> str:
    y = g.conv(g.add("Relu", [g.conv(x, 3 + n)], 3 + n), g.widths[x], kernel=3)
    return g.add("Add", [x, y], g.widths[x])


def depthwise(g: Graph, x: str, n: int) -> str:
    return g.conv(x, g.widths[x] * (1 + n % 2), kernel=3, groups=g.widths[x])


def grouped(g: Graph, x: str, n: int) -> str:
    return g.conv(g.conv(x, 8), 4 * (1 + n), kernel=3, groups=4)


def concatenated(g: Graph, x: str, n: int) -> str:
    y = g.conv(x, 2 + n)
    return g.add("Concat", [y, x, y], g.widths[x] + 2 * (2 + n), axis=1)


def squeeze_excite(g: Graph, x: str, n: int) -> str:
    pooled = g.add("GlobalAveragePool", [x], g.widths[x])
    y = g.add("Relu", [g.conv(pooled, 2 + n)], 2 + n)
    y = g.add("Sigmoid", [g.conv(y, g.widths[x])], g.widths[x])
    return g.add("Mul", [x, y], g.widths[x])


def shuffled(g: Graph, x: str, n: int) -> str:
    groups, x = 2 + n % 2, g.conv(x, 12)
    folded = g.weight([1, groups, 12 // groups, SIDE, SIDE], np.int64)
    back = g.weight([1, 12, SIDE, SIDE], np.int64)
    y = g.add("Reshape", [x, folded], 0)
    y = g.add("Transpose", [y], 0, perm=[0, 2, 1, 3, 4])
    return g.add("Reshape", [y, back], 12)


def split(g: Graph, x: str, n: int) -> str:
    x = g.conv(x, 5 + n)
    sizes = g.weight([2, 3 + n], np.int64)
    left, right = f"left{len(g.nodes)}", f"right{len(g.nodes)}"
    g.nodes.append(helper.make_node("Split", [x, sizes], [left, right], name=left, axis=1))
    g.widths |= {left: 2, right: 3 + n}
    return g.add("Concat", [g.conv(right, 3), left], 5, axis=1)


def sliced(g: Graph, x: str, n: int) -> str:
    rows = [g.weight([v], np.int64) for v in (n % 2, 2**31 - 1, 1, 2)]
    width = len(range(g.widths[x])[n % 2 :: 2])
    return g.add("Slice", [x, *rows], width) if width else x


def split_evenly(g: Graph, x: str, n: int) -> str:
    """Without sizes, counted from the last axis."""
    x = g.conv(x, 6)
    left, right = f"left{len(g.nodes)}", f"right{len(g.nodes)}"
    g.nodes.append(helper.make_node("Split", [x], [left, right], name=left, axis=-3))
    g.widths |= {left: 3, right: 3}
    return g.add("Mul", [left, g.add("Sigmoid", [right], 3)], 3)


def sliced_from_the_end(g: Graph, x: str, n: int) -> str:
    rows = [g.weight([v], np.int64) for v in (-3, 2**31 - 1, -3)]
    return g.add("Slice", [g.conv(x, 5), *rows], 3)


def resized(g: Graph, x: str, n: int) -> str:
    """To sizes, which name the channels, and back by scales."""
    x = g.conv(x, 4 + n)
    sizes = g.weight([1, 4 + n, 2 * SIDE, 2 * SIDE], np.int64)
    scales = g.weight([1, 1, 0.5, 0.5])
    y = g.add("Resize", [x, "", "", sizes], 4 + n, mode="nearest")
    return g.add("Resize", [y, "", scales], 4 + n, mode="nearest")


def padded(g: Graph, x: str, n: int) -> str:
    pads = g.weight([0, 1, 0, 0, 0, n, 0, 0], np.int64)
    wide = g.widths[x] + 1 + n
    return g.add("Add", [g.add("Pad", [x, pads], wide), g.conv(x, wide)], wide)


def scaled(g: Graph, x: str, n: int) -> str:
    """Constants per channel, for all channels, and a parameter per channel."""
    width = g.widths[x]
    y = g.add("Mul", [x, g.noise(1, width, 1, 1)], width)
    y = g.add("Sub", [y, g.weight(0.1)], width)
    return g.add("PRelu", [y, g.noise(width, 1, 1)], width)


def attended(g: Graph, x: str, n: int) -> str:
    """One map over space for all channels."""
    return g.add("Mul", [x, g.add("Sigmoid", [g.conv(x, 1)], 1)], g.widths[x])


def opaque(g: Graph, x: str, n: int) -> str:
    """An operator over channels that nobody follows."""
    return g.add("Softmax", [x], g.widths[x], axis=1)


LAYERS = (
    plain, normalized, residual, depthwise, grouped, concatenated, squeeze_excite, shuffled, split,
    split_evenly, sliced, sliced_from_the_end, resized, padded, scaled, attended, opaque,
)  # fmt: skip


@st.composite
def random_networks(draw: st.DrawFn) -> Network:
    graph = Graph(draw(st.integers(0, 1000)))
    x = graph.conv("images", 6, kernel=3)
    for layer in draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=6)):
        if graph.widths[x] < 48:
            x = layer(graph, x, draw(st.integers(0, 3)))
    return graph.network(x)


def drawn_groups(found: Coupling, share: float, seed: int) -> set[int]:
    """Removable groups at random, but of no tensor all of them."""
    rng = np.random.default_rng(seed)
    removed = {group for group in found.removable() if rng.random() < share}
    for groups in found.channels.values():
        if removed.issuperset(groups.tolist()):
            removed.discard(int(groups[0]))
    return removed


def check_cut(network: Network, share: float, seed: int) -> None:
    found = coupling(network)
    removed = drawn_groups(found, share, seed)
    small = cut_channels(network, found, removed)
    onnx.checker.check_model(model_from_network(small), full_check=True)
    ((name, shape),) = network.inputs.items()
    image = np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)
    answers = run_network(small, {name: image})
    expected = run_network(mask_channels(network, found, removed), {name: image})
    for out, values in expected.items():
        tolerance = 1e-4 * np.abs(values).max() + 1e-5
        np.testing.assert_allclose(answers[out], values, rtol=1e-3, atol=tolerance)
    shapes = tensor_shapes(small)
    for tensor, groups in found.channels.items():
        if tensor in shapes:
            assert shapes[tensor][1] == len(groups) - np.isin(groups, list(removed)).sum()


@given(network=random_networks(), share=st.sampled_from([0.1, 0.3, 0.6]), seed=st.integers(0, 99))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_a_cut_random_network_equals_the_zeroed_one(network, share, seed):
    check_cut(network, share, seed)


@pytest.mark.parametrize("name", pretrained.MAKERS)
@pytest.mark.parametrize("share", [0.1, 0.4])
def test_a_cut_pretrained_network_equals_the_zeroed_one(data_dir, name, share):
    check_cut(pretrained.pretrained(data_dir, name).network, share, 1)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_but_the_opaque_one_is_understood(layer):
    graph = Graph(0)
    found = coupling(graph.network(layer(graph, graph.conv("images", 6), 1)))
    assert set(found.not_understood.values()) == ({"Softmax"} if layer is opaque else set())
    assert found.removable() or layer is opaque


def test_a_residual_stream_is_one_family():
    graph = Graph(0)
    x = graph.conv("images", 6)
    for _ in range(3):
        x = residual(graph, x, 1)
    found = coupling(graph.network(x))
    sizes = sorted(len(family) for family in found.families())
    assert sizes == [4, 4, 4, 6]  # three hidden layers and the stream


def test_what_an_unknown_operator_touches_is_fixed_and_it_is_named():
    graph = Graph(0)
    x = graph.conv("images", 6)
    found = coupling(graph.network(opaque(graph, x, 0)))
    (name,) = found.not_understood
    assert all(name in found.fixed[int(group)] for group in found.channels[x])
    with pytest.raises(DataError, match=f"Softmax '{name}' is not understood"):
        cut_channels(graph.network(x), found, [int(found.channels[x][0])])


def test_inputs_and_outputs_are_fixed():
    graph = Graph(0)
    network = graph.network(graph.conv("images", 6))
    found = coupling(network)
    (out,) = network.outputs
    for name, reason in (("images", "'images' is an input"), (out, f"'{out}' is an output")):
        assert {found.fixed[int(group)] for group in found.channels[name]} == {reason}


def test_something_must_be_left_of_every_tensor():
    graph = Graph(0)
    network = graph.network(graph.conv("images", 6))
    found = coupling(network)
    with pytest.raises(DataError, match="would be left"):
        cut_channels(network, found, found.removable())
    with pytest.raises(DataError, match="channel groups, got 999"):
        cut_channels(network, found, [999])


def test_a_weight_that_is_read_in_two_ways_stays():
    """A bias that is also added along another axis must not lose a channel."""
    graph = Graph(0)
    x = graph.conv("images", SIDE)
    bias = graph.nodes[-1].input[2]
    x = graph.add("Add", [x, bias], SIDE)  # along the last axis
    found = coupling(graph.network(x))
    assert not found.removable()
    assert any("read in another way" in reason for reason in found.fixed.values())


def test_a_computed_bias_fixes_both_sides():
    graph = Graph(0)
    pooled = graph.add("GlobalAveragePool", [graph.conv("images", 5)], 5)
    shape = graph.weight([5], np.int64)
    bias = graph.add("Reshape", [pooled, shape], 5)
    y = graph.conv("images", 5)
    kernel = graph.nodes[-1].input[1]
    graph.nodes[-1] = helper.make_node("Conv", ["images", kernel, bias], [y], name=y)
    found = coupling(graph.network(y))
    assert not found.removable()


def test_a_pool_whose_positions_are_used_is_not_understood():
    graph = Graph(0)
    x = graph.conv("images", 6)
    graph.nodes.append(
        helper.make_node("MaxPool", [x], ["pooled", "places"], name="pool", kernel_shape=[1, 1])
    )
    graph.widths |= {"pooled": 6, "places": 6}
    cast = graph.add("Cast", ["places"], 6, to=1)
    found = coupling(graph.network(graph.add("Add", ["pooled", cast], 6)))
    assert found.not_understood["pool"] == "MaxPool"
    assert not set(found.channels[x].tolist()) & set(found.removable())


def test_what_subgraphs_read_is_fixed_and_alive():
    graph = Graph(0)
    x = graph.conv("images", 6)
    branches = [
        helper.make_graph(
            [helper.make_node(op, [x], ["out"], name=op)], op, [],
            [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, (1, 6, SIDE, SIDE))],
        )
        for op in ("Relu", "Neg")
    ]  # fmt: skip
    condition = graph.weight(np.array(True), bool)
    y = graph.add("If", [condition], 6, then_branch=branches[0], else_branch=branches[1])
    network = graph.network(y)
    found = coupling(network)
    assert not found.removable()
    assert {node.op_type for node in without_dead_nodes(network).nodes} >= {"Conv", "If"}


def test_constants_of_ones_own_are_not_written_over():
    graph = Graph(0)
    x = sliced(graph, graph.conv("images", 6), 0)
    network = graph.network(x)
    out = next(node.output[0] for node in network.nodes if node.op_type == "Slice")
    taken = f"{out}.channels"
    name = next(name for name, array in network.weights.items() if array.ndim == 4)
    nodes = tuple(renamed_inputs(node, {name: taken}) for node in network.nodes)
    weights = {taken if key == name else key: array for key, array in network.weights.items()}
    check_cut(dataclasses.replace(network, nodes=nodes, weights=weights), 0.3, 1)
