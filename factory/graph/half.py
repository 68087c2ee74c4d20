"""Large weights kept in half precision, half as large, with casts that make them whole again.

Eleven bits of precision are two more than what training in bfloat16 sees. Vectors (biases,
normalization) stay as they are: they are small, and variances may lie below what float16 holds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import NodeProto, TensorProto, helper

from .network import Array, Network, attribute

SUFFIX = ".half"  # of the name of a weight in half precision
_LARGE = 1024  # elements
_GREATEST = float(np.finfo(np.float16).max)


def rounded(network: Network) -> Network:
    """The network with large weights rounded to values of half precision, still float32."""
    weights = {
        name: array.astype(np.float16).astype(np.float32) if _is_large(array) else array
        for name, array in network.weights.items()
    }
    return replace(network, weights=weights)


def halved(network: Network) -> Network:
    """The network with large weights in half precision and a Cast node for each of them."""
    casts: list[NodeProto] = []
    weights: dict[str, Array] = {}
    for name, array in network.weights.items():
        if not _is_large(array):
            weights[name] = array
            continue
        stored = name + SUFFIX
        weights[stored] = array.astype(np.float16)
        casts.append(
            helper.make_node("Cast", [stored], [name], name=f"/{name}/cast", to=TensorProto.FLOAT)
        )
    return replace(network, nodes=(*casts, *network.nodes), weights=weights)


def widened(network: Network) -> Network:
    """What :func:`halved` was given, rounded: every cast of a weight to float32 is done."""
    nodes, weights = [], dict(network.weights)
    for node in network.nodes:
        is_cast = node.op_type == "Cast" and attribute(node, "to") == TensorProto.FLOAT
        if is_cast and node.input[0] in network.weights:
            weights[node.output[0]] = weights.pop(node.input[0]).astype(np.float32)
        else:
            nodes.append(node)
    return replace(network, nodes=tuple(nodes), weights=weights)


def _is_large(array: Array) -> bool:
    return (
        array.dtype == np.float32
        and array.ndim > 1
        and array.size > _LARGE
        and bool((np.abs(array) <= _GREATEST).all())
    )
