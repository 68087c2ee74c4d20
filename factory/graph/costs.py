"""What every operator of a graph costs: multiply-adds, parameters and traffic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from .network import Network, attribute


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCost:
    """One operator in execution order, at batch 1.

    Attributes:
        op: Lower-case kind: "conv", "linear", "relu", "add", "batch_norm", "avg_pool", ...
        name: Name of the node.
        macs: Multiply-adds of convolutions, linear layers and matrix products; else 0.
        in_elems: Elements of all data inputs.
        out_elems: Elements of all outputs.
        weight_elems: Elements of all constant inputs.
        groups: Convolution groups; 1 otherwise.
        c_in: Input channels of convolutions and linear layers, else 0.
        c_out: Output channels of convolutions and linear layers, else 0.
        kernel: Height of the kernel of convolutions and pools, else 0.
        inputs: Positions (in the same list) of the operators that produce the data inputs; -1 is
            an input of the network.
    """

    op: str
    name: str
    macs: int
    in_elems: int
    out_elems: int
    weight_elems: int
    groups: int = 1
    c_in: int = 0
    c_out: int = 0
    kernel: int = 0
    inputs: tuple[int, ...] = ()


_KINDS = {
    "Conv": "conv", "ConvTranspose": "conv_transpose", "Gemm": "linear", "MatMul": "matmul",
    "BatchNormalization": "batch_norm",
    "AveragePool": "avg_pool", "MaxPool": "max_pool", "GlobalAveragePool": "global_avg_pool",
    "Resize": "upsample_nearest", "Flatten": "reshape", "Reshape": "reshape",
    "Unsqueeze": "reshape", "Squeeze": "reshape", "Transpose": "permute",
}  # fmt: skip


def op_costs(network: Network, shapes: Mapping[str, tuple[int, ...]]) -> list[OpCost]:
    """Cost of every node, in execution order.

    Args:
        network: Any network.
        shapes: Shape of every tensor, as :func:`tensor_shapes` gives them; they may be those of
            a narrower network of the same nodes.
    """
    position = {name: i for i, node in enumerate(network.nodes) for name in node.output if name}
    rows = []
    for node in network.nodes:
        data = [name for name in node.input if name and name not in network.weights]
        constants = [name for name in node.input if name in network.weights]
        out = sum(math.prod(shapes[name]) for name in node.output if name)
        row = OpCost(
            op=_KINDS.get(node.op_type, node.op_type.lower()),
            name=node.name,
            macs=0,
            in_elems=sum(math.prod(shapes[name]) for name in set(data)),
            out_elems=out,
            weight_elems=sum(math.prod(shapes[name]) for name in constants),
            inputs=tuple(position.get(name, -1) for name in data),
        )
        rows.append(_with_arithmetic(row, node, shapes))
    return rows


def _with_arithmetic(row: OpCost, node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> OpCost:
    """Multiply-adds, channels and kernel of the nodes that have them."""
    if node.op_type == "Conv":
        kernel = shapes[node.input[1]]
        return replace(
            row, macs=row.out_elems * math.prod(kernel[1:]), groups=attribute(node, "group", 1),
            c_in=shapes[node.input[0]][1], c_out=kernel[0], kernel=kernel[2],
        )  # fmt: skip
    if node.op_type == "ConvTranspose":
        kernel = shapes[node.input[1]]
        return replace(
            row, macs=math.prod(shapes[node.input[0]]) * math.prod(kernel[1:]),
            groups=attribute(node, "group", 1), c_in=kernel[0], c_out=shapes[node.output[0]][1],
            kernel=kernel[2],
        )  # fmt: skip
    if node.op_type == "Gemm":
        features = shapes[node.input[0]][-1]
        return replace(
            row, macs=row.out_elems * features, c_in=features, c_out=shapes[node.output[0]][-1]
        )
    if node.op_type == "MatMul":
        features = shapes[node.input[0]][-1]
        return replace(row, macs=row.out_elems * features, c_in=features)
    if node.op_type in ("AveragePool", "MaxPool"):
        return replace(row, kernel=attribute(node, "kernel_shape")[0])
    return row


def parameter_count(network: Network) -> int:
    """Number of float32 weights; constants, whose names begin with a slash, are none."""
    return sum(
        array.size
        for name, array in network.weights.items()
        if array.dtype == np.float32 and not name.startswith("/")
    )
