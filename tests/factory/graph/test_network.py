"""Networks in memory: reading, refusing, shapes, dead nodes."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.network import (
    Network,
    attribute,
    load_network,
    model_from_network,
    network_from_model,
    renamed_inputs,
    tensor_shapes,
    without_dead_nodes,
)


def small_model(shape=(1, 3, 4, 4), dtype=TensorProto.FLOAT) -> onnx.ModelProto:
    """One convolution and a ReLU."""
    kernel = np.ones((2, 3, 1, 1), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["h"], name="conv", kernel_shape=[1, 1]),
            helper.make_node("Relu", ["h"], ["y"], name="relu"),
        ],
        "small",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, (1, 2, 4, 4))],
        [numpy_helper.from_array(kernel, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_network_survives_the_way_through_onnx(toy_library):
    network = toy_library.network
    again = network_from_model(model_from_network(network))
    assert (again.name, again.inputs, again.outputs) == (
        network.name,
        network.inputs,
        network.outputs,
    )
    assert again.nodes == network.nodes
    assert again.weights.keys() == network.weights.keys()
    for name, array in network.weights.items():
        np.testing.assert_array_equal(again.weights[name], array)


def test_written_models_state_opset_17_and_ir_8(toy_library):
    model = model_from_network(toy_library.network)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]


@pytest.mark.parametrize(
    "shape", [("batch", 3, 4, 4), (1, 3, None, None), (1, 3, "h", "w"), (0, 3, 4, 4)]
)
def test_a_dynamic_shape_is_refused(shape):
    with pytest.raises(DataError, match="'x' must be float32 of a static shape"):
        network_from_model(small_model(shape))


def test_an_input_of_another_type_is_refused():
    with pytest.raises(DataError, match="must be float32"):
        network_from_model(small_model(dtype=TensorProto.FLOAT16))


def test_weights_outside_the_file_are_refused(tmp_path, monkeypatch):
    model = small_model()
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    with pytest.raises(DataError, match=r"w\.bin"):
        load_network(tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)  # where the name of the other file would lead somewhere
    with pytest.raises(DataError, match="outside the file"):
        load_network(tmp_path / "m.onnx")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="no valid ONNX model"):
        load_network(tmp_path / "none.onnx")


def test_files_that_are_no_model_are_refused(tmp_path):
    path = tmp_path / "m.onnx"
    whole = small_model().SerializeToString()
    rng = np.random.default_rng(0)
    for content in (b"", b"not a model", b"\x00" * 64, whole[:-7], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="no valid ONNX model"):
            load_network(path)
    for _ in range(50):  # any damage is refused or gives a network, but nothing else
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(DataError):
            assert isinstance(load_network(path), Network)


def test_a_weight_of_the_wrong_size_is_refused():
    model = small_model()
    model.graph.initializer[0].raw_data = b"\x00" * 5
    with pytest.raises(DataError, match="cannot be read"):
        network_from_model(model)


def test_shapes_are_inferred_for_every_tensor(toy_library):
    network = toy_library.network
    shapes = tensor_shapes(network)
    for node in network.nodes:
        for name in (*node.input, *node.output):
            assert not name or all(size > 0 for size in shapes[name])
    assert shapes.items() >= network.inputs.items() | network.outputs.items()
    for name, array in network.weights.items():
        assert shapes[name] == array.shape


def test_shapes_that_do_not_fit_are_refused():
    network = network_from_model(small_model())
    other = Network(
        name="wrong",
        nodes=(*network.nodes[:1], helper.make_node("Add", ["h", "b"], ["y"], name="add")),
        weights={**network.weights, "b": np.zeros((1, 2, 3, 3), np.float32)},
        inputs=network.inputs,
        outputs=network.outputs,
    )
    with pytest.raises(DataError, match="do not fit"):
        tensor_shapes(other)


def test_dead_nodes_and_their_weights_disappear_and_live_ones_stay():
    network = network_from_model(small_model())
    extended = Network(
        name="extended",
        nodes=(
            *network.nodes,
            helper.make_node("Mul", ["h", "dead"], ["z"], name="dead1"),
            helper.make_node("Relu", ["z"], ["zz"], name="dead2"),
        ),
        weights={**network.weights, "dead": np.ones(1, np.float32), "never": np.ones(1)},
        inputs=network.inputs,
        outputs=network.outputs,
    )
    alive = without_dead_nodes(extended)
    assert [node.name for node in alive.nodes] == ["conv", "relu"]
    assert set(alive.weights) == {"w"}
    assert alive.outputs == network.outputs
    assert without_dead_nodes(alive) == alive


def test_renaming_inputs_copies_the_node_and_leaves_the_original():
    node = helper.make_node("Add", ["a", "b"], ["c"], name="add")
    renamed = renamed_inputs(node, {"a": "x"})
    assert list(renamed.input) == ["x", "b"]
    assert list(node.input) == ["a", "b"]
    assert renamed_inputs(node, {"q": "x"}) is node


def test_an_attribute_has_a_default():
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=4)
    assert attribute(node, "group", 1) == 4
    assert attribute(node, "strides", [1, 1]) == [1, 1]
    assert attribute(node, "pads") is None
