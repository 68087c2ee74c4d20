"""ONNX Runtime at work, never timed: answers for parity, statistics and accuracy; folding."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from ..errors import DataError
from .network import Array, Network, model_from_network, without_large_weights

Run = Callable[[Mapping[str, Array]], dict[str, Array]]
_REFUSALS = (
    ort_errors.Fail, ort_errors.InvalidArgument, ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf, ort_errors.NotImplemented, ort_errors.RuntimeException,
)  # fmt: skip


def open_model(model: onnx.ModelProto, *, threads: int = 1) -> Run:
    """A function from inputs to outputs by name, on the CPU provider.

    Args:
        model: The network.
        threads: Threads that compute one operator.

    Raises:
        DataError: ONNX Runtime refuses the network, here or when the function is called.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return _opened(model, options)


def open_at_once(network: Network) -> Run:
    """The same for a network that is asked a few times: neither copied nor rewritten for speed.

    Raises:
        DataError: As for :func:`open_model`.
    """
    light, weights = without_large_weights(network)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    run = _opened(model_from_network(light), options)
    return lambda inputs: run({**inputs, **weights})


def _opened(model: onnx.ModelProto, options: ort.SessionOptions) -> Run:
    options.log_severity_level = 4  # errors are raised
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except _REFUSALS as error:
        raise DataError(f"ONNX Runtime refuses {model.graph.name!r}: {error}") from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))
        except _REFUSALS as error:
            raise DataError(f"ONNX Runtime cannot run {model.graph.name!r}: {error}") from error

    return run


def run_network(network: Network, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name for one set of inputs."""
    return open_model(model_from_network(network))(inputs)


def folded_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model after ONNX Runtime's basic optimizations, which leave standard operators.

    Raises:
        DataError: ONNX Runtime refuses the network.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(place)
        try:
            ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except _REFUSALS as error:
            raise DataError(f"ONNX Runtime refuses {model.graph.name!r}: {error}") from error
        folded = onnx.load(place)
    used = {node.domain for node in folded.graph.node} | {""}
    kept = [entry for entry in folded.opset_import if entry.domain in used]
    del folded.opset_import[:]
    folded.opset_import.extend(kept)
    return folded
