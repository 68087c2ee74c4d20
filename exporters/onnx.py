"""The last check of a network before it is written: the contract that every loader relies on."""

from __future__ import annotations

import onnx

from ..factory.errors import DataError, ShapeError
from ..factory.schema import TensorSpec

MAX_OPSET = 17
MAX_IR = 8
DETECTIONS = 6  # columns of a detection: x1, y1, x2, y2, score, class


def bytes_from_network(network: onnx.ModelProto) -> bytes:
    """Serialize a network that keeps the contract.

    Raises:
        DataError: The checker refuses it, or it needs newer runtimes than promised.
        ShapeError: Its input or output is not the agreed one.
    """
    opsets = {entry.domain: entry.version for entry in network.opset_import}
    if set(opsets) - {"", "ai.onnx"} or max(opsets.values()) > MAX_OPSET:
        raise DataError(f"The network must use ONNX opset {MAX_OPSET} at most, got {opsets}.")
    if network.ir_version > MAX_IR:
        raise DataError(f"The network must use IR {MAX_IR} at most, got {network.ir_version}.")
    _check_tensors(*tensors_of(network))
    content = bytes(network.SerializeToString())
    try:
        onnx.checker.check_model(content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise DataError(f"The ONNX checker refuses the network: {error}.") from error
    return content


def tensors_of(network: onnx.ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a network; a dynamic dimension is 0."""
    weights = {tensor.name for tensor in network.graph.initializer}
    inputs = tuple(_spec(value) for value in network.graph.input if value.name not in weights)
    return inputs, tuple(_spec(value) for value in network.graph.output)


def precision_of(network: onnx.ModelProto) -> str:
    """Either "fp32", "fp16" or "mixed", from the types of the weights."""
    names = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}
    found = {names.get(tensor.data_type) for tensor in network.graph.initializer} - {None}
    return (found.pop() or "mixed") if len(found) == 1 else "mixed" if found else "fp32"


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    return TensorSpec(
        name=value.name,
        dtype=str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)),
        shape=tuple(dimension.dim_value for dimension in tensor.shape.dim),
    )


def _check_tensors(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Raise unless there is one ``images`` (1, 3, H, W) and one static ``output0``."""
    for specs, name, ranks in ((inputs, "images", (4,)), (outputs, "output0", (2, 3))):
        found = [(spec.name, spec.dtype, spec.shape) for spec in specs]
        if (
            [spec.name for spec in specs] != [name]
            or specs[0].dtype != "float32"
            or len(specs[0].shape) not in ranks
            or specs[0].shape[0] != 1
            or 0 in specs[0].shape
        ):
            raise ShapeError(f"The network needs one static float32 tensor '{name}', got {found}.")
    if inputs[0].shape[1] != 3:
        raise ShapeError(f"'images' must be (1, 3, H, W), got {inputs[0].shape}.")
    if len(outputs[0].shape) == 3 and outputs[0].shape[2] != DETECTIONS:
        raise ShapeError(f"'output0' must be (1, K, 6) or (1, N), got {outputs[0].shape}.")
