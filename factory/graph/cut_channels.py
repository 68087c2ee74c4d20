"""Removing channel groups from any network, or zeroing them in place.

``mask_channels`` is what ``cut_channels`` is held against: both must answer alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from ..errors import DataError
from .coupling import Coupling
from .network import Array, Network, attribute, renamed_inputs, without_dead_nodes

MIXING = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # they read all channels of their input
Kept = Mapping[str, NDArray[np.bool_]]


def cut_channels(network: Network, found: Coupling, removed: Iterable[int]) -> Network:
    """Remove channel groups. Dense, and equal to :func:`mask_channels`.

    Args:
        network: The whole network.
        found: Its channel groups.
        removed: Groups to remove.

    Raises:
        DataError: A group cannot be removed, or nothing would be left of a tensor.
    """
    gone = _gone(found, removed)
    kept = {name: ~gone[groups] for name, groups in found.channels.items()}
    for name, mine in kept.items():
        if not mine.any():
            raise DataError(f"No channel of '{name}' would be left.")
    weights = dict(network.weights)
    for (name, axis), groups in found.weights.items():
        if gone[groups].any():
            weights[name] = np.compress(~gone[groups], weights[name], axis=axis)
    nodes: list[NodeProto] = []
    for node in network.nodes:
        changes = any(name in kept and not kept[name].all() for name in (*node.input, *node.output))
        nodes.append(_narrowed(node, found, kept, weights) if changes else node)
    return without_dead_nodes(replace(network, nodes=tuple(nodes), weights=weights))


def mask_channels(network: Network, found: Coupling, removed: Iterable[int]) -> Network:
    """The whole network with the channels of some groups zeroed wherever they are read together."""
    gone = _gone(found, removed)
    weights, nodes = dict(network.weights), []
    for node in network.nodes:
        source = node.input[0] if node.input else ""
        groups = found.channels.get(source)
        is_mixing = node.op_type in MIXING and attribute(node, "group", 1) == 1
        if not is_mixing or groups is None or not gone[groups].any():
            nodes.append(node)
            continue
        masked = f"{source}.masked"
        if f"{source}.mask" not in weights:
            rank = weights[node.input[1]].ndim
            shape = (1, -1, *[1] * (rank - 2))
            weights[f"{source}.mask"] = (~gone[groups]).astype(np.float32).reshape(shape)
            name = f"{source}.gate"
            nodes.append(helper.make_node("Mul", [source, f"{source}.mask"], [masked], name=name))
        nodes.append(renamed_inputs(node, {source: masked}))
    return replace(network, nodes=tuple(nodes), weights=weights)


def _gone(found: Coupling, removed: Iterable[int]) -> NDArray[np.bool_]:
    gone = np.zeros(found.groups, bool)
    for group in removed:
        if not 0 <= group < found.groups:
            raise DataError(f"There are {found.groups} channel groups, got {group}.")
        if group in found.fixed:
            raise DataError(f"Channel group {group} cannot be removed: {found.fixed[group]}.")
        gone[group] = True
    return gone


def _narrowed(node: NodeProto, found: Coupling, kept: Kept, weights: dict[str, Array]) -> NodeProto:
    """The node on fewer channels, where its attributes or constants count them."""
    out = node.output[0]
    if out in found.shuffles:
        origin, order = found.shuffles[out]
        place = np.cumsum(kept[origin]) - 1
        return _gathered(node, origin, place[order[kept[origin][order]]], weights)
    if node.op_type == "Conv" and attribute(node, "group", 1) > 1:
        return _narrowed_conv(node, kept)
    if node.op_type == "Slice":
        return _narrowed_slice(node, kept, weights)
    if node.op_type == "Split":
        return _narrowed_split(node, kept, weights)
    if node.op_type == "Pad":
        return _narrowed_pad(node, kept, weights)
    if node.op_type == "Reshape" and out in kept:
        return _narrowed_reshape(node, kept, weights)
    return node


def _narrowed_conv(node: NodeProto, kept: Kept) -> NodeProto:
    """Groups that lost all of their channels are gone; others lost none."""
    groups = attribute(node, "group", 1)
    per_group = kept[node.input[0]].reshape(groups, -1)
    return _with_attribute(node, "group", int(per_group.any(1).sum()))


def _narrowed_slice(node: NodeProto, kept: Kept, weights: dict[str, Array]) -> NodeProto:
    """Of channels a Gather, whose places need no regular distance; of space as it was."""
    axes = weights[node.input[3]].tolist() if len(node.input) > 3 else None
    named = list(range(len(weights[node.input[1]]))) if axes is None else axes
    if 1 not in named:
        return node
    if len(named) > 1:
        raise DataError(f"'{node.name}' slices channels and space at once: not cut yet.")
    start, end = (int(weights[node.input[position]][0]) for position in (1, 2))
    step = int(weights[node.input[4]][0]) if len(node.input) > 4 else 1
    source = kept[node.input[0]]
    places = np.arange(len(source))[start:end:step]
    after = np.cumsum(source) - 1
    return _gathered(node, node.input[0], after[places[source[places]]], weights)


def _gathered(node: NodeProto, source: str, places: Array, weights: dict[str, Array]) -> NodeProto:
    name = f"{node.output[0]}.channels"
    weights[name] = places.astype(np.int64)
    return helper.make_node("Gather", [source, name], [node.output[0]], name=node.name, axis=1)


def _narrowed_split(node: NodeProto, kept: Kept, weights: dict[str, Array]) -> NodeProto:
    if attribute(node, "axis", 0) != 1:
        return node
    name = f"{node.output[0]}.sizes"
    weights[name] = np.array([kept[out].sum() for out in node.output], np.int64)
    return helper.make_node(
        "Split", [node.input[0], name], list(node.output), name=node.name, axis=1
    )


def _narrowed_pad(node: NodeProto, kept: Kept, weights: dict[str, Array]) -> NodeProto:
    """Channels of padding that are kept, before and after those of the input."""
    pads = weights[node.input[1]].copy()
    rank, mine = len(pads) // 2, kept[node.output[0]]
    before, after = int(pads[1]), int(pads[rank + 1])
    pads[1], pads[rank + 1] = mine[:before].sum(), mine[len(mine) - after :].sum()
    weights[f"{node.output[0]}.pads"] = pads
    return renamed_inputs(node, {node.input[1]: f"{node.output[0]}.pads"})


def _narrowed_reshape(node: NodeProto, kept: Kept, weights: dict[str, Array]) -> NodeProto:
    shape = np.array(weights[node.input[1]], np.int64)
    shape[1] = kept[node.output[0]].sum()
    weights[f"{node.output[0]}.shape"] = shape
    return renamed_inputs(node, {node.input[1]: f"{node.output[0]}.shape"})


def _with_attribute(node: NodeProto, name: str, value: int) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    for item in copy.attribute:
        if item.name == name:
            item.i = value
    return copy
