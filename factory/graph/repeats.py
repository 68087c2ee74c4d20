"""Nodes that compute the same twice, merged into one."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from onnx import NodeProto

from .network import Array, Network, renamed_inputs, without_dead_nodes


def without_repeats(network: Network) -> Network:
    """The network in which nodes with equal operators, attributes, inputs and weights are one.

    So networks that begin alike share their beginning once they read the same image. Nodes that
    make an output stay.
    """
    digests = {name: _digest(array) for name, array in network.weights.items()}
    stands_for: dict[str, str] = {}
    known: dict[tuple[object, ...], NodeProto] = {}
    nodes = []
    for original in network.nodes:
        node = renamed_inputs(original, stands_for)
        attributes = sorted(item.SerializeToString(deterministic=True) for item in node.attribute)
        inputs = tuple(digests.get(name, name) for name in node.input)
        key = (node.op_type, node.domain, inputs, tuple(attributes), len(node.output))
        first = known.setdefault(key, node)
        if first is node or set(node.output) & set(network.outputs):
            nodes.append(node)
        else:
            stands_for |= dict(zip(node.output, first.output, strict=True))
    return without_dead_nodes(replace(network, nodes=tuple(nodes)))


def _digest(array: Array) -> str:
    said = repr((array.dtype.str, array.shape)).encode()
    return "sha256:" + hashlib.sha256(said + array.tobytes()).hexdigest()
