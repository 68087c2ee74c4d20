"""Live buffers against lists written by hand, and against what ONNX Runtime allocates."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from nnfactory.devices.memory import allocated_activation_bytes
from nnfactory.factory.assembler.assemble import plan_from_counts
from nnfactory.factory.errors import DeviceError
from nnfactory.factory.graph.memory import Buffer, activation_bytes, live_buffers, peak_bytes
from nnfactory.factory.graph.network import Network, model_from_network, tensor_shapes
from nnfactory.factory.library.store import open_library
from nnfactory.factory.linker import link

SIDE = 4
WIDE = 4 * 16 * SIDE**2  # bytes of 16 channels


def network_of(
    *nodes: tuple[str, list[str], str], outputs: tuple[str, ...], channels: int = 16
) -> Network:
    """Nodes (operator, inputs, output) on the input "x" of three channels.

    Convolutions of "x" have ``channels``; all others keep them. Pools keep the shape.
    """
    weights = {
        "from_x": np.zeros((channels, 3, 1, 1), np.float32),
        "w": np.zeros((channels, channels, 1, 1), np.float32),
    }
    made = []
    for op, inputs, output in nodes:
        extra = {"Conv": ["from_x" if inputs == ["x"] else "w"]}.get(op, [])
        options = {"kernel_shape": [1, 1]} if "Pool" in op else {}
        made.append(helper.make_node(op, [*inputs, *extra], [output], name=output, **options))
    used = {name for node in made for name in node.input}
    network = Network(
        name="hand",
        nodes=tuple(made),
        weights={name: array for name, array in weights.items() if name in used},
        inputs={"x": (1, 3, SIDE, SIDE)},
        outputs=dict.fromkeys(outputs, (1, channels, SIDE, SIDE)),
    )
    model_from_network(network)
    return network


def live(network: Network) -> list[set[str]]:
    """Live buffers by name, blocked ones in capitals."""
    rows = live_buffers(network, tensor_shapes(network))
    return [{b.tensor.upper() if b.is_blocked else b.tensor for b in row} for row in rows]


def test_a_chain_holds_input_and_output_of_each_convolution():
    network = network_of(("Conv", ["x"], "a"), ("Conv", ["a"], "b"), outputs=())
    assert live(network) == [{"x", "A"}, {"A", "B"}]


def test_an_output_is_plain_and_lives_to_the_end():
    network = network_of(
        ("Conv", ["x"], "a"), ("Conv", ["a"], "b"), ("Conv", ["b"], "c"), outputs=("a", "c")
    )
    assert live(network) == [{"x", "A", "a"}, {"A", "a", "B"}, {"a", "B", "C", "c"}]


def test_an_elementwise_node_writes_over_an_input_that_nothing_reads_afterwards():
    network = network_of(
        ("Conv", ["x"], "a"), ("Relu", ["a"], "b"), ("Conv", ["b"], "c"), outputs=()
    )
    assert live(network) == [{"x", "A"}, {"A"}, {"A", "C"}]


def test_an_elementwise_node_takes_a_new_buffer_when_its_input_is_read_later():
    network = network_of(
        ("Conv", ["x"], "a"), ("Relu", ["a"], "b"), ("Add", ["a", "b"], "c"), outputs=()
    )
    assert live(network) == [{"x", "A"}, {"A", "B"}, {"A", "B"}]


def test_a_skip_connection_lives_until_its_addition():
    network = network_of(
        ("Conv", ["x"], "a"),
        ("Conv", ["a"], "b"),
        ("Relu", ["b"], "c"),
        ("Conv", ["c"], "d"),
        ("Add", ["a", "d"], "e"),
        ("Conv", ["e"], "f"),
        outputs=(),
    )
    assert live(network) == [
        {"x", "A"},
        {"A", "B"},
        {"A", "B"},
        {"A", "B", "D"},
        {"A", "D"},  # the sum takes the place of "a"
        {"A", "F"},
    ]


def test_a_pool_of_blocked_channels_keeps_them_blocked():
    network = network_of(
        ("Conv", ["x"], "a"), ("MaxPool", ["a"], "b"), ("Conv", ["b"], "c"), outputs=()
    )
    assert live(network) == [{"x", "A"}, {"A", "B"}, {"B", "C"}]


def test_a_pool_of_other_channels_works_on_copies():
    network = network_of(
        ("Conv", ["x"], "a"), ("MaxPool", ["a"], "b"), ("Conv", ["b"], "c"), outputs=(),
        channels=24,
    )  # fmt: skip
    assert live(network) == [{"x", "A", "a"}, {"a", "b"}, {"b", "B", "C"}]


@pytest.mark.parametrize("op", ["Conv", "MaxPool"])
def test_an_operator_that_reads_neighbors_never_works_in_place(op):
    network = network_of(("Conv", ["x"], "a"), (op, ["a"], "b"), outputs=())
    assert live(network)[1] == {"A", "B"}


def test_a_large_result_is_not_written_over_a_small_input():
    network = network_of(
        ("Conv", ["x"], "a"), ("GlobalAveragePool", ["a"], "s"), ("Mul", ["s", "a"], "m"),
        ("Add", ["m", "a"], "b"), ("Conv", ["b"], "c"), outputs=(),
    )  # fmt: skip
    assert live(network)[2] == {"A", "S", "M"}


def test_blocked_channels_are_filled_up():
    shapes = {"a": (1, 17, SIDE, SIDE), "x": (1, 3, SIDE, SIDE)}
    assert activation_bytes({Buffer("a", True)}, shapes) == 2 * WIDE
    assert activation_bytes({Buffer("a", False)}, shapes) == 17 * WIDE // 16
    assert activation_bytes({Buffer("a", True), Buffer("x", False)}, shapes) == 35 * WIDE // 16
    assert activation_bytes(set(), shapes) == 0


def test_the_peak_is_weights_and_the_largest_sum_of_live_buffers():
    network = network_of(("Conv", ["x"], "a"), ("Conv", ["a"], "b"), outputs=())
    weights = 4 * (16 * 3 + 16 * 16)
    assert peak_bytes(network, tensor_shapes(network)) == weights + 2 * WIDE


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
    assert len(live_buffers(network, shapes)) == len(network.nodes)


@pytest.mark.parametrize("share", [0.2, 1.0])
@pytest.mark.parametrize("name", ["tiny200", "fod31"])
def test_the_peak_is_what_onnx_runtime_allocates(name, share):
    library = open_library(name)
    size = library.input_sizes[-1]
    counts = {slot.name: max(1, round(share * slot.groups)) for slot in library.blocks}
    plan = plan_from_counts(library.at(size), library.task(), counts)
    network = link(library, plan).network
    weights = sum(array.nbytes for array in network.weights.values())
    expected = peak_bytes(network, tensor_shapes(network)) - weights
    found = allocated_activation_bytes(model_from_network(network).SerializeToString())
    assert 0.5 * expected < found < 1.06 * expected  # less where blocks have 8 channels, or 4


def test_a_network_of_one_layer_allocates_its_output():
    network = network_of(("Conv", ["x"], "a"), outputs=("a",))
    model = model_from_network(network).SerializeToString()
    assert allocated_activation_bytes(model) >= WIDE


def test_a_file_that_does_not_run_is_refused():
    with pytest.raises(DeviceError, match="did not say"):
        allocated_activation_bytes(b"no model")
