"""Peak memory of a network: which tensors live at the same time."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .network import Network

BYTES = 4  # of a float32
_IN_PLACE = ("Relu", "BatchNormalization", "Sigmoid", "Softplus", "Clip", "Add", "Mul", "Sub",
             "Reshape", "Flatten", "Unsqueeze", "Squeeze", "Softmax")  # fmt: skip


def live_tensors(network: Network) -> list[set[str]]:
    """Per node, the tensors that hold a buffer of their own while it runs.

    Elementwise nodes write over an input that nothing reads afterwards, as runtimes do; the
    buffer then keeps the name of its first owner.
    """
    last_use: dict[str, int] = {name: len(network.nodes) for name in network.outputs}
    for position, node in enumerate(network.nodes):
        for name in node.input:
            last_use[name] = max(last_use.get(name, 0), position)
    owner = {name: name for name in network.inputs}
    free_at: dict[str, int] = {name: last_use.get(name, 0) for name in network.inputs}
    rows = []
    for position, node in enumerate(network.nodes):
        data = [name for name in node.input if name in owner]
        reused = None
        if node.op_type in _IN_PLACE:
            reused = next((n for n in data if free_at[owner[n]] == position), None)
        for name in node.output:
            owner[name] = owner[reused] if reused is not None else name
            free_at[owner[name]] = max(free_at.get(owner[name], 0), last_use.get(name, position))
        rows.append({name for name, end in free_at.items() if end >= position})
        free_at = {name: end for name, end in free_at.items() if end > position}
    return rows


def activation_bytes(live: set[str], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes of a set of live tensors."""
    return sum(BYTES * math.prod(shapes[name]) for name in live)


def peak_bytes(network: Network, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Weights plus the largest sum of live activations, in bytes."""
    weights = sum(array.nbytes for array in network.weights.values())
    return weights + max(activation_bytes(live, shapes) for live in live_tensors(network))
