"""Nodes with names of their own, and layers with weights of their own."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from onnx import NodeProto

from .network import Network

LAYERS = ("Conv", "Gemm")
WEIGHT, BIAS = 1, 2  # places among a layer's inputs


def named_by_output(node: NodeProto) -> NodeProto:
    """A copy of a node that is called by the first tensor that it writes."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = f"node/{node.output[0]}"
    return copy


def with_own_weights(network: Network, *, first: int = WEIGHT) -> Network:
    """The network in which no two layers share weights: each has a copy, called after its output.

    Heads on several feature maps do share them, and exporters merge equal biases, such as zeros.

    Args:
        network: Any.
        first: The place among a layer's inputs from which on it has its own: :data:`BIAS` leaves
            what is shared on purpose.
    """
    layers = [node for node in network.nodes if node.op_type in LAYERS]
    uses = Counter(name for node in layers for name in node.input[first:])
    weights, nodes = dict(network.weights), []
    for node in network.nodes:
        shared = [
            place
            for place, name in enumerate(node.input)
            if place >= first and uses[name] > 1 and name in network.weights
        ]
        if node.op_type not in LAYERS or not shared:
            nodes.append(node)
            continue
        copy = NodeProto()
        copy.CopyFrom(node)
        for place in shared:
            copy.input[place] = f"{node.input[place]}@{node.output[0]}"
            weights[copy.input[place]] = network.weights[node.input[place]]
        nodes.append(copy)
    read = {name for node in nodes for name in node.input}
    return replace(
        network, nodes=tuple(nodes), weights={n: a for n, a in weights.items() if n in read}
    )
