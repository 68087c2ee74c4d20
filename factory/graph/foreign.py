"""Anyone's ONNX file as an ordinary network: static shapes, constants as weights, one opset.

What does not depend on the image is computed, identities and dropout go, and normalization is
folded into convolutions where that is exact: ONNX Runtime's basic optimizations, which leave
standard operators alone. Other normalization of feature maps becomes a depthwise convolution.
Opsets are converted by onnx's own converter.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from ..errors import DataError
from .evaluate import folded_model
from .network import (
    OPSET,
    Array,
    Network,
    load_model,
    names_read,
    network_from_model,
    renamed_inputs,
)
from .normalization import norms_as_convolutions

_REDUCING = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")
_NEWER: dict[str, dict[str, int | None]] = {  # attributes and their defaults; None for any value
    "Split": {"num_outputs": None}, "Cast": {"saturate": 1},
    **{op: {"noop_with_empty_axes": 0} for op in _REDUCING},
}  # fmt: skip
_HELD = "held"  # domain of nodes that the converter must not see


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
    _name_domains_(model, path)
    _close_shapes_(model, size)
    folded = folded_model(_converted(folded_model(model), path))  # converting leaves constants
    network = network_from_model(_with_shapes(folded, path))
    _check_size(network, path, size)
    if not network.nodes or not network.inputs:
        raise DataError(f"{path} computes nothing from an image.")
    return _renamed_weights(norms_as_convolutions(_without_identities(network)))


def _check_size(network: Network, path: Path, size: int | None) -> None:
    """Raise where a file says another size than was asked for."""
    sides = {side for shape in network.inputs.values() for side in shape[2:]}
    if size is not None and sides and sides != {size}:
        said = "x".join(map(str, next(iter(network.inputs.values()))[2:]))
        raise DataError(
            f"{path} reads images of {said} px and no others.",
            hints=["leave --imgsz out: it is for files that leave the size open"],
        )


def _name_domains_(model: onnx.ModelProto, path: Path) -> None:
    """The standard domain by its short name; no other one is read."""
    for place in (*model.opset_import, *model.graph.node):
        if place.domain == "ai.onnx":
            place.domain = ""
    for node in model.graph.node:
        if node.domain:
            raise DataError(
                f"{path} uses {node.op_type} of {node.domain!r}, which is not standard ONNX."
            )


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
                    hints=["say which size it is used with: --imgsz PIXELS"]
                    if position >= 2
                    else ["export it again with static shapes, images as (N, 3, H, W)"],
                )
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _converted(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model in our opset."""
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    if opset == OPSET:
        return model
    if opset >= 18:
        _spell_as_before_18_(model)
    try:
        converted = version_converter.convert_version(model, OPSET)
    except (RuntimeError, version_converter.ConvertError) as error:
        raise DataError(
            f"{path} has opset {opset}, and onnx cannot say all of it in opset {OPSET}.",
            hints=[f"export it again with opset {OPSET}"],
        ) from error
    for node in converted.graph.node:
        if node.domain == _HELD:
            node.domain = ""
    for entry in list(converted.opset_import):
        if entry.domain == _HELD:
            converted.opset_import.remove(entry)
    return converted


def _spell_as_before_18_(model: onnx.ModelProto) -> None:
    """Attributes that opset 17 has not are left out where they say what it does anyway.

    Split and Pad are spelled as opset 17 has them, and kept from the converter, which knows no way
    back.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.input)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for number, node in enumerate(model.graph.node):
        _leave_out_newer_(node)
        if node.op_type not in ("Split", "Pad"):
            continue
        if node.op_type == "Pad" and len(node.input) > 3 and node.input[3]:
            pads, axes = (constants.get(node.input[position]) for position in (1, 3))
            rank = ranks.get(node.input[0])
            if pads is None or axes is None or rank is None:
                continue
            name = f"pads{number}.of.all.axes"
            whole = _pads_of_all_axes(
                numpy_helper.to_array(pads), numpy_helper.to_array(axes), rank
            )
            model.graph.initializer.append(numpy_helper.from_array(whole, name))
            node.input[1] = name
            del node.input[3:]
        node.domain = _HELD
    model.opset_import.append(helper.make_opsetid(_HELD, 1))


def _leave_out_newer_(node: onnx.NodeProto) -> None:
    """Drop the attributes of a node that say what its older self does anyway."""
    newer = _NEWER.get(node.op_type, {})
    kept = [
        item for item in node.attribute
        if item.name not in newer or newer[item.name] not in (None, item.i)
    ]  # fmt: skip
    del node.attribute[:]
    node.attribute.extend(kept)


def _pads_of_all_axes(pads: Array, axes: Array, rank: int) -> Array:
    """Pads (2 * rank,) from those of some axes."""
    whole = np.zeros((2, rank), np.int64)
    whole[:, [int(axis) % rank for axis in axes]] = pads.reshape(2, -1)
    return np.asarray(whole.reshape(-1))


def _with_shapes(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model with the shapes of its outputs."""
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise DataError(f"Shapes of {path} do not fit: {error}.") from error


def _renamed_weights(network: Network) -> Network:
    """The network whose weights of layers do not begin with a slash, as our constants do."""
    layers = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "PRelu")
    names = {
        name: name.lstrip("/")
        for node in network.nodes
        if node.op_type in layers
        for name in node.input
        if name.startswith("/") and name in network.weights
    }
    free = {new for new in names.values() if new and new not in network.weights}
    names = {old: new for old, new in names.items() if new in free}
    return replace(
        network,
        nodes=tuple(renamed_inputs(node, names) for node in network.nodes),
        weights={names.get(name, name): array for name, array in network.weights.items()},
    )


def _without_identities(network: Network) -> Network:
    """The network without Identity nodes, but for those that make an output of another tensor."""
    captured = {name for node in network.nodes for name in {*names_read(node)} - {*node.input}}
    stands_for: dict[str, str] = {}
    nodes = []
    for node in network.nodes:
        inputs = [stands_for.get(name, name) for name in node.input]
        kept = captured | set(network.outputs)
        if node.op_type == "Identity" and node.output[0] not in kept:
            stands_for[node.output[0]] = inputs[0]
            continue
        copy = helper.make_node("Identity", [], [])
        copy.CopyFrom(node)
        copy.input[:] = inputs
        nodes.append(copy)
    return replace(network, nodes=tuple(nodes))
