"""Anyone's ONNX file as an ordinary network: static shapes, constants as weights, one opset.

What does not depend on the image is computed, identities and dropout go, and normalization is
folded into convolutions where that is exact: ONNX Runtime's basic optimizations, which leave
standard operators alone. Opsets are converted by onnx's own converter.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
from onnx import helper, version_converter

from ..errors import DataError
from .evaluate import folded_model
from .network import OPSET, Network, load_model, network_from_model


def load_foreign(path: Path, *, size: int | None = None) -> Network:
    """Read a network that nnfactory did not make.

    Args:
        path: An ONNX file.
        size: Height and width of the input, where the file leaves them open.

    Raises:
        DataError: The file is no valid model, an input stays open, is not float32 or no image, or
            an operator has no equal in opset 17.
    """
    model = load_model(path)
    _close_shapes_(model, size)
    network = network_from_model(_converted(folded_model(model), path))
    return _without_identities(network)


def _close_shapes_(model: onnx.ModelProto, size: int | None) -> None:
    """Batch 1 and the given size wherever inputs are open; outputs follow by inference."""
    names = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in names:
            continue
        for position, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value > 0:
                continue
            if position == 0:
                dim.dim_value = 1
            elif size is not None and position >= 2:
                dim.dim_value = size
            else:
                axis = ("batch", "channels", "height", "width")[min(position, 3)]
                raise DataError(
                    f"Input {value.name!r} leaves its {axis} open.",
                    hints=["say which size it is used with: --imgsz PIXELS"],
                )
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _converted(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model in our opset, with the shapes of its outputs."""
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    if opset != OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except (RuntimeError, version_converter.ConvertError) as error:
            raise DataError(
                f"{path} has opset {opset}, and not all of it can be said in opset {OPSET}: "
                f"{str(error).strip()}",
                hints=[f"export it again with opset {OPSET}"],
            ) from error
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise DataError(f"Shapes of {path} do not fit: {error}.") from error


def _without_identities(network: Network) -> Network:
    """The network without Identity nodes, but for those that make an output of another tensor."""
    stands_for: dict[str, str] = {}
    nodes = []
    for node in network.nodes:
        inputs = [stands_for.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.output[0] not in network.outputs:
            stands_for[node.output[0]] = inputs[0]
            continue
        copy = helper.make_node("Identity", [], [])
        copy.CopyFrom(node)
        copy.input[:] = inputs
        nodes.append(copy)
    return replace(network, nodes=tuple(nodes))
