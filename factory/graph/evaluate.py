"""Running a network in ONNX Runtime for parity, statistics and accuracy; never timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
import onnxruntime as ort

from .network import Array, Network, model_from_network

Run = Callable[[Mapping[str, Array]], dict[str, Array]]


def open_model(model: onnx.ModelProto, *, threads: int = 1) -> Run:
    """A function from inputs to outputs by name, on the CPU provider."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run


def run_network(network: Network, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name for one set of inputs."""
    return open_model(model_from_network(network))(inputs)
