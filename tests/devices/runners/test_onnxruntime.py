"""Networks in ONNX Runtime: opened, run, profiled, and refused where they cannot be timed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnfactory.devices.runners.onnxruntime import OnnxRuntimeRunner, runtime_name
from nnfactory.factory.errors import DataError, DeviceError


def model_of(shape: Sequence[int | str] = (1, 3, 16, 16)) -> bytes:
    """Convolution, activation, mean; the activation is fused on the CPU."""
    rng = np.random.default_rng(0)
    weight: np.ndarray = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "w"], ["conv_out"], name="conv"),
            helper.make_node("Relu", ["conv_out"], ["relu_out"], name="relu"),
            helper.make_node("GlobalAveragePool", ["relu_out"], ["output0"], name="pool"),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [shape[0], 4, 1, 1])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def test_runner_opens_and_runs_a_network():
    with OnnxRuntimeRunner(model_of()) as runner:
        for _ in range(3):
            runner.run()


def test_node_profile_has_a_positive_time_for_every_node_that_ran():
    with OnnxRuntimeRunner(model_of(), profile=True) as runner:
        for _ in range(5):
            runner.run()
        nodes = runner.node_ms()
    assert nodes
    assert all(ms >= 0 for ms in nodes.values())
    # A fused node is named after one of the nodes or tensors that went into it; ONNX Runtime may
    # add nodes that change the memory layout.
    assert any(name.startswith(("conv", "relu")) for name in nodes)
    assert any(name.startswith(("pool", "output0")) for name in nodes)


def test_profile_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with OnnxRuntimeRunner(model_of(), profile=True) as runner:
        runner.run()
        runner.node_ms()
    assert list(tmp_path.iterdir()) == []


def test_profiled_runner_that_is_closed_without_reading_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with OnnxRuntimeRunner(model_of(), profile=True) as runner:
        runner.run()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", [b"", b"not a network", model_of()[:-40]])
def test_malformed_model_is_a_data_error(model: bytes):
    with pytest.raises(DataError, match="cannot open the network"):
        OnnxRuntimeRunner(model)


@pytest.mark.parametrize("shape", [("batch", 3, 16, 16), (1, 3, "height", "width")])
def test_dynamic_input_is_a_data_error(shape: tuple[int | str, ...]):
    with pytest.raises(DataError, match="'images' must have a static shape"):
        OnnxRuntimeRunner(model_of(shape))


def test_missing_cpu_provider_is_a_device_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["SomeProvider"])
    with pytest.raises(DeviceError, match="CPUExecutionProvider"):
        OnnxRuntimeRunner(model_of())


def test_runtime_name_states_the_version():
    assert runtime_name() == f"onnxruntime-cpu {onnxruntime.__version__}"
