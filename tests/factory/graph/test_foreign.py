"""Networks of others are read as they answer, whatever opset and style they are written in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.coupling import coupling
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.foreign import load_foreign


def constant(name: str, array: object, kind: type = np.float32) -> onnx.NodeProto:
    value = numpy_helper.from_array(np.asarray(array, kind), name)
    return helper.make_node("Constant", [], [name], value=value)


def written(
    folder: Path, opset: int, *, size: int | str = 8, kind: int = TensorProto.FLOAT
) -> Path:
    """A network as exporters write them: constants as nodes, an open batch, computed shapes."""
    rng = np.random.default_rng(0)
    nodes = [
        constant("kernel", rng.normal(size=(4, 3, 3, 3))),
        helper.make_node("Conv", ["images", "kernel"], ["a"], pads=[1] * 4),
        *(constant(name, rng.random(4) + 0.5) for name in ("scale", "bias", "mean", "variance")),
        helper.make_node("BatchNormalization", ["a", "scale", "bias", "mean", "variance"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("Dropout", ["d"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Shape", ["f"], ["shape"]),
        constant("zero", [0], np.int64),
        constant("one", [1], np.int64),
        constant("rest", [-1], np.int64),
        helper.make_node("Slice", ["shape", "zero", "one"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["flat"], axis=0),
        helper.make_node("Reshape", ["f", "flat"], ["g"]),
        constant("matrix", rng.normal(size=(4, 5))),
        helper.make_node("MatMul", ["g", "matrix"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "foreign",
        [helper.make_tensor_value_info("images", kind, ["N", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    path = folder / f"opset{opset}.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("opset", [11, 13, 15, 17, 18, 20])
def test_a_network_of_any_usual_opset_is_read_as_it_answers(tmp_path, opset):
    path = written(tmp_path, opset)
    network = load_foreign(path)
    assert network.inputs == {"images": (1, 3, 8, 8)}
    assert network.outputs == {"logits": (1, 5)}
    image = np.random.default_rng(1).random((1, 3, 8, 8), np.float32)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"images": image})
    np.testing.assert_allclose(
        run_network(network, {"images": image})["logits"], expected, rtol=1e-4, atol=1e-5
    )
    operators = [node.op_type for node in network.nodes]
    assert not {"Constant", "Identity", "Dropout", "Shape", "BatchNormalization"} & {*operators}
    found = coupling(network)
    assert not found.not_understood
    assert len(found.removable()) == 4


def small_file(
    folder: Path, nodes: list[onnx.NodeProto], opset: int, *, domain: str = "",
    shape: list[int] | None = None,
) -> Path:  # fmt: skip
    """Nodes from "x" (1, 4, 8, 8) to "y", whose shape is inferred unless it is given."""
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )  # fmt: skip
    opsets = [helper.make_opsetid(domain, opset)]
    opsets += [helper.make_opsetid(n.domain, 1) for n in nodes if n.domain]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    onnx.save(onnx.shape_inference.infer_shapes(model), folder / "small.onnx")
    return folder / "small.onnx"


SPELLINGS = {
    "split": (18, [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]),
    "pad of some axes": (18, [
        constant("pads", [1, 2, 0, 1], np.int64), constant("axes", [-1, 2], np.int64),
        helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"]),
    ]),
    "mean over named axes": (18, [
        constant("axes", [2, 3], np.int64), helper.make_node("ReduceMean", ["x", "axes"], ["y"]),
    ]),
    "mean that says its default": (18, [
        constant("axes", [2, 3], np.int64),
        helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0, noop_with_empty_axes=0),
    ]),
    "cast that says its default": (19, [
        helper.make_node("Cast", ["x"], ["a"], to=TensorProto.INT32, saturate=1),
        helper.make_node("Cast", ["a"], ["y"], to=TensorProto.FLOAT, saturate=1),
    ]),
    "old slice": (9, [helper.make_node("Slice", ["x"], ["y"], axes=[1], starts=[1], ends=[3])]),
    "old pad": (9, [helper.make_node("Pad", ["x"], ["y"], pads=[0, 1, 0, 0, 0, 0, 1, 0])]),
    "old squeeze": (11, [
        helper.make_node("GlobalAveragePool", ["x"], ["a"]),
        helper.make_node("Squeeze", ["a"], ["y"], axes=[2, 3]),
    ]),
    "scalar": (17, [
        constant("two", 2.0), helper.make_node("Mul", ["x", "two"], ["a"]),
        constant("zero", 0, np.int64), helper.make_node("Gather", ["a", "zero"], ["y"], axis=1),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_operators_of_older_and_newer_opsets_answer_as_before(tmp_path, name):
    opset, nodes = SPELLINGS[name]
    path = small_file(tmp_path, nodes, opset)
    network = load_foreign(path)
    image = np.random.default_rng(1).random((1, 4, 8, 8), np.float32)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": image})
    found = run_network(network, {"x": image})["y"]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert "Constant" not in {node.op_type for node in network.nodes}


def test_the_long_name_of_the_standard_domain_is_known(tmp_path):
    path = small_file(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], 17, domain="ai.onnx")
    assert load_foreign(path).outputs == {"y": (1, 4, 8, 8)}


def test_an_operator_of_a_runtime_is_named(tmp_path):
    node = helper.make_node("QuickGelu", ["x"], ["y"], domain="com.microsoft")
    with pytest.raises(DataError, match="QuickGelu of 'com.microsoft'"):
        load_foreign(small_file(tmp_path, [node], 17, shape=[1, 4, 8, 8]))


def test_an_open_size_is_asked_for(tmp_path):
    path = written(tmp_path, 17, size="S")
    with pytest.raises(DataError, match="leaves its height open") as caught:
        load_foreign(path)
    assert "--imgsz" in caught.value.hints[0]
    assert load_foreign(path, size=16).inputs == {"images": (1, 3, 16, 16)}


def test_a_size_that_the_file_does_not_leave_open_is_refused(tmp_path):
    path = written(tmp_path, 17, size=8)
    assert load_foreign(path, size=8).inputs == {"images": (1, 3, 8, 8)}
    with pytest.raises(DataError, match="reads images of 8x8 px and no others"):
        load_foreign(path, size=16)


def test_an_input_that_is_no_float32_is_refused(tmp_path):
    for kind in (TensorProto.DOUBLE, TensorProto.FLOAT16):
        with pytest.raises(DataError):
            load_foreign(written(tmp_path, 17, kind=kind))


def test_a_file_that_is_no_network_is_refused(tmp_path):
    path = tmp_path / "no.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(DataError, match="no valid ONNX model"):
        load_foreign(path)
