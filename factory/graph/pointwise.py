"""1x1 convolutions that become part of the convolution behind them, where that is exact."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from onnx import NodeProto, helper

from .network import Array, Network, attribute, names_read, tensor_shapes, without_dead_nodes


def fold_pointwise(network: Network) -> Network:
    """Fold every 1x1 convolution into the convolution that alone reads it, if that saves work.

    What is read must be all that the second one sees: where it pads with zeros, the bias of the
    first one would be missing there, so that it must be zero.
    """
    done = 0
    while done < len(network.nodes):
        folded = _folded(network, done)
        network, done = (network, done + 1) if folded is None else (folded, done)
    return network


def _folded(network: Network, place: int) -> Network | None:
    """The network without the convolution at a place; None where it must stay."""
    first = network.nodes[place]
    uses = Counter(name for node in network.nodes for name in names_read(node))
    out = first.output[0]
    if not _is_pointwise(network, first) or uses[out] != 1 or out in network.outputs:
        return None
    second = next(node for node in network.nodes if out in node.input)
    weight, bias = _kernel(network, first)
    if not _is_plain(network, second) or second.input[0] != out:
        return None
    if _pads(second) and bias.any():
        return None
    kernel, shift = _kernel(network, second)
    merged = np.einsum("qmij,mc->qcij", kernel.astype(np.float64), weight[:, :, 0, 0])
    shapes = tensor_shapes(network)
    before, after = (int(np.prod(shapes[name][2:])) for name in (out, second.output[0]))
    if merged.size * after > weight.size * before + kernel.size * after:
        return None
    moved = shift + np.einsum("qmij,m->q", kernel.astype(np.float64), bias)
    names = [f"{second.output[0]}/{part}" for part in ("kernel", "bias")]
    node = helper.make_node("Conv", [first.input[0], *names], list(second.output), name=second.name)
    node.attribute.extend(second.attribute)
    weights = {
        **network.weights, names[0]: merged.astype(np.float32), names[1]: moved.astype(np.float32)
    }  # fmt: skip
    nodes = [node if one is second else one for one in network.nodes if one is not first]
    return without_dead_nodes(replace(network, nodes=tuple(nodes), weights=weights))


def _is_plain(network: Network, node: NodeProto) -> bool:
    """Whether a node is a convolution of all channels whose weights are known."""
    return (
        node.op_type == "Conv"
        and attribute(node, "group", 1) == 1
        and all(name in network.weights for name in node.input[1:])
    )


def _is_pointwise(network: Network, node: NodeProto) -> bool:
    if not _is_plain(network, node) or network.weights[node.input[1]].shape[2:] != (1, 1):
        return False
    return not _pads(node) and all(step == 1 for step in attribute(node, "strides", [1, 1]))


def _pads(node: NodeProto) -> bool:
    """Whether a convolution may see zeros around its input."""
    mode = attribute(node, "auto_pad", b"NOTSET").decode()
    if mode == "NOTSET":
        return any(attribute(node, "pads", [0]))
    return bool(mode != "VALID" and attribute(node, "kernel_shape", [3, 3]) != [1, 1])


def _kernel(network: Network, node: NodeProto) -> tuple[Array, Array]:
    """Weight (Q, C, k, k) and bias (Q,)."""
    weight = network.weights[node.input[1]]
    if len(node.input) > 2:
        return weight, network.weights[node.input[2]]
    return weight, np.zeros(len(weight), np.float32)
