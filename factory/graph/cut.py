"""Cutting channel groups and blocks out of a network, or zeroing them in place.

``cut`` and ``mask`` read different parts of the module table (which ranges of which initializers,
against which tensors), so that their agreement proves something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto, helper

from ..errors import DataError
from ..schema import Slot
from .network import Array, Network, attribute, renamed_inputs, without_dead_nodes

Active = Mapping[str, Sequence[int]]  # slot name -> indices of the active modules


def cut(network: Network, slots: Sequence[Slot], active: Active) -> Network:
    """Remove every module that is not active; a block without active modules disappears.

    Pre: the slots describe ``network``. Post: dense, and equal to :func:`mask` on the kept outputs.

    Args:
        network: The whole library network.
        slots: Its slots, blocks and classes.
        active: Active module indices of every slot; slots that are not named stay whole.

    Raises:
        DataError: The table of modules does not fit the network.
    """
    kept: dict[tuple[str, int], list[tuple[int, int]]] = {}
    bypass: dict[str, str] = {}
    outputs = dict(network.outputs)
    for slot in slots:
        groups = active.get(slot.name, range(slot.groups))
        if not len(groups):
            if slot.output:
                bypass[slot.output] = slot.stream
            continue
        if len(groups) == slot.groups and list(groups) == list(range(slot.groups)):
            continue
        for group in groups:
            for owned in slot.modules[group].owns:
                kept.setdefault((owned.tensor, owned.axis), []).append((owned.start, owned.stop))
        if slot.kind == "classes":
            outputs |= {
                name: (network.outputs[name][0], len(groups), *network.outputs[name][2:])
                for name in slot.gated
            }
    weights = dict(network.weights)
    for (tensor, axis), ranges in kept.items():
        weights[tensor] = _take(tensor, weights.get(tensor), axis, ranges)
    nodes = tuple(_regrouped(_bypassed(node, bypass), network, weights) for node in network.nodes)
    return without_dead_nodes(replace(network, nodes=nodes, weights=weights, outputs=outputs))


def _regrouped(node: NodeProto, network: Network, weights: Mapping[str, Array]) -> NodeProto:
    """A depthwise convolution with as many groups as it has channels left."""
    if node.op_type != "Conv" or attribute(node, "group", 1) == 1:
        return node
    kernel = weights[node.input[1]]
    if len(kernel) == len(network.weights[node.input[1]]) or kernel.shape[1] != 1:
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    next(item for item in copy.attribute if item.name == "group").i = len(kernel)
    return copy


def _take(name: str, array: Array | None, axis: int, ranges: list[tuple[int, int]]) -> Array:
    """The parts of an array along one axis, in the order given."""
    size = 0 if array is None or axis >= array.ndim else array.shape[axis]
    if array is None or not all(0 <= start < stop <= size for start, stop in ranges):
        raise DataError(f"The table of modules does not fit the network: no such part of {name!r}.")
    index = np.concatenate([np.arange(start, stop) for start, stop in ranges])
    return np.take(array, index, axis=axis)


def _bypassed(node: NodeProto, bypass: dict[str, str]) -> NodeProto:
    """The node reading the stream instead of a skipped block, also through several of them."""
    names = {}
    for name in node.input:
        source = name
        while source in bypass:
            source = bypass[source]
        if source != name:
            names[name] = source
    return renamed_inputs(node, names)


def mask(network: Network, slots: Sequence[Slot], active: Active) -> Network:
    """The whole network with the channels of every inactive module multiplied by zero.

    A skipped block has its branch multiplied by zero, since a normalization after zeros is not
    zero. Dropped classes stay in the outputs.
    """
    factors: dict[str, Array] = {}
    for slot in slots:
        if slot.kind != "block" or slot.name not in active:
            continue
        groups = active[slot.name]
        if not len(groups):
            factors[slot.branch] = np.zeros((1, 1, 1, 1), np.float32)
            continue
        keep = np.zeros(slot.groups, np.float32)
        keep[list(groups)] = 1.0
        factors[slot.gated[0]] = keep[None, :, None]  # one factor per group
    nodes: list[NodeProto] = []
    weights = dict(network.weights)
    for node in network.nodes:
        gated = [name for name in node.output if name in factors]
        if not gated:
            nodes.append(node)
            continue
        (name,) = gated
        raw = f"{name}.unmasked"
        original = NodeProto()
        original.CopyFrom(node)
        original.output[list(node.output).index(name)] = raw
        weights[f"{name}.mask"] = _channel_mask(network, name, factors[name], slots)
        gate = helper.make_node("Mul", [raw, f"{name}.mask"], [name], name=f"{name}.gate")
        nodes += [original, gate]
    return replace(network, nodes=tuple(nodes), weights=weights)


def _channel_mask(network: Network, name: str, factor: Array, slots: Sequence[Slot]) -> Array:
    """Factors per channel, (1, C, 1, 1), from factors per group."""
    if factor.ndim == 4:
        return factor
    slot = next(slot for slot in slots if name in slot.gated)
    reader = next(node for node in network.nodes if node.op_type == "Conv" and name in node.input)
    channels = network.weights[reader.input[1]].shape[1]
    return np.repeat(factor.reshape(-1), channels // slot.groups).reshape(1, -1, 1, 1)
