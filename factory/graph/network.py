"""A network in memory: nodes, weights as arrays, inputs and outputs; to and from ONNX."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from ..errors import DataError

Array = NDArray[Any]
OPSET = 17
IR_VERSION = 8
_SMALL = 4096  # elements; larger weights carry no information about shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """An ONNX graph whose weights are arrays, so that passes are functions of values.

    Nodes are shared between networks and must never be changed in place.

    Attributes:
        name: Name of the graph.
        nodes: In execution order.
        weights: Initializers by name.
        inputs: Name and shape of every input; float32.
        outputs: Name and shape of every output; float32.
    """

    name: str
    nodes: tuple[NodeProto, ...]
    weights: dict[str, Array]
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]


def network_from_model(model: onnx.ModelProto) -> Network:
    """Read a model; inputs and outputs must have static float32 shapes.

    Raises:
        DataError: A shape is dynamic or a weight is stored outside the file.
    """
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise DataError(f"Weight {tensor.name!r} of {graph.name!r} is stored outside the file.")
    try:
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    except (ValueError, TypeError, onnx.checker.ValidationError) as error:
        raise DataError(f"A weight of {graph.name!r} cannot be read: {error}.") from error
    inputs = [value for value in graph.input if value.name not in weights]
    return Network(
        name=graph.name,
        nodes=tuple(graph.node),
        weights=weights,
        inputs={value.name: _static_shape(value) for value in inputs},
        outputs={value.name: _static_shape(value) for value in graph.output},
    )


def load_network(path: Path) -> Network:
    """Read and check an ONNX file.

    Raises:
        DataError: The file is missing or no valid ONNX model.
    """
    return network_from_model(load_model(path))


def load_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file and run the checker.

    Raises:
        DataError: The file is missing or no valid ONNX model.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(model)
    except (OSError, DecodeError, onnx.checker.ValidationError, ValueError, TypeError) as error:
        raise DataError(f"{path} is no valid ONNX model: {str(error).strip()}.") from error
    return model


def model_from_network(
    network: Network, *, opset: int = OPSET, ir_version: int = IR_VERSION
) -> onnx.ModelProto:
    """The network as ONNX, with opset and IR version stated."""
    graph = helper.make_graph(
        network.nodes,
        network.name,
        [_value(name, shape) for name, shape in network.inputs.items()],
        [_value(name, shape) for name, shape in network.outputs.items()],
        [numpy_helper.from_array(np.asarray(a, order="C"), n) for n, a in network.weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir_version
    model.producer_name = "nnfactory"
    return model


def _value(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    shape = tuple(d.dim_value for d in dims)
    kind = value.type.tensor_type.elem_type
    if kind != TensorProto.FLOAT or not all(shape):
        found = TensorProto.DataType.Name(kind).lower()
        raise DataError(f"{value.name!r} must be float32 of a static shape, got {found} {shape}.")
    return shape


def without_large_weights(network: Network) -> tuple[Network, dict[str, Array]]:
    """The network with its large float32 weights as further inputs, and these weights."""
    large = {
        name: array
        for name, array in network.weights.items()
        if array.size > _SMALL and array.dtype == np.float32
    }
    small = {name: array for name, array in network.weights.items() if name not in large}
    inputs = network.inputs | {name: array.shape for name, array in large.items()}
    return replace(network, weights=small, inputs=inputs), large


def tensor_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, by ONNX shape inference on the graph without its large weights.

    Raises:
        DataError: The shapes do not fit together.
    """
    light, _ = without_large_weights(network)
    try:
        inferred = onnx.shape_inference.infer_shapes(
            model_from_network(light), strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as error:
        raise DataError(f"Shapes of {network.name!r} do not fit: {error}.") from error
    shapes = {name: array.shape for name, array in network.weights.items()}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    return shapes


def without_dead_nodes(network: Network) -> Network:
    """The network without nodes and weights that no output depends on."""
    alive, kept = set(network.outputs), []
    for node in reversed(network.nodes):  # in execution order: readers are seen before makers
        if alive.intersection(node.output):
            alive.update(names_read(node))
            kept.append(node)
    nodes = tuple(reversed(kept))
    used = {name for node in nodes for name in names_read(node)}
    weights = {name: array for name, array in network.weights.items() if name in used}
    return replace(network, nodes=nodes, weights=weights)


def names_read(node: NodeProto) -> list[str]:
    """The inputs of a node and what its subgraphs (If, Loop, Scan) take from outside."""
    names = [name for name in node.input if name]
    for item in node.attribute:
        if item.type not in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            continue
        for graph in (item.g, *item.graphs):
            made = {value.name for value in graph.input} | {t.name for t in graph.initializer}
            made |= {name for inner in graph.node for name in inner.output}
            read = [name for inner in graph.node for name in names_read(inner)]
            read += [value.name for value in graph.output]
            names += [name for name in read if name not in made]
    return names


def renamed_inputs(node: NodeProto, names: dict[str, str]) -> NodeProto:
    """A copy of the node reading ``names[x]`` instead of ``x``; the node itself if none is read."""
    if not any(name in names for name in node.input):
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    for position, name in enumerate(node.input):
        copy.input[position] = names.get(name, name)
    return copy


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute, or ``default``."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default
