"""Removing channel groups from any network, or zeroing them in place.

``mask_channels`` is what ``cut_channels`` is held against: both must answer alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from ..errors import DataError
from .coupling import Coupling
from .network import (
    Array,
    Network,
    attribute,
    renamed_inputs,
    tensor_shapes,
    without_dead_nodes,
)

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
    narrower = _Narrower(found, kept, tensor_shapes(network), weights)
    nodes: list[NodeProto] = []
    for node in network.nodes:
        changes = any(name in kept and not kept[name].all() for name in (*node.input, *node.output))
        nodes.append(narrower.node(node) if changes else node)
    return without_dead_nodes(replace(network, nodes=tuple(nodes), weights=weights))


def mask_channels(network: Network, found: Coupling, removed: Iterable[int]) -> Network:
    """The whole network with the channels of some groups zeroed wherever they are read together."""
    gone = _gone(found, removed)
    weights, nodes = dict(network.weights), []
    masked: dict[str, str] = {}
    for node in network.nodes:
        source = node.input[0] if node.input else ""
        groups = found.channels.get(source)
        is_mixing = node.op_type in MIXING and attribute(node, "group", 1) == 1
        if not is_mixing or groups is None or not gone[groups].any():
            nodes.append(node)
            continue
        if source not in masked:
            shape = (1, -1, *[1] * (weights[node.input[1]].ndim - 2))
            mask = _added(
                weights, f"{source}.mask", (~gone[groups]).astype(np.float32).reshape(shape)
            )
            masked[source] = f"{mask}ed"
            nodes.append(
                helper.make_node("Mul", [source, mask], [masked[source]], name=f"{mask}.gate")
            )
        nodes.append(renamed_inputs(node, {source: masked[source]}))
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


def _added(weights: dict[str, Array], name: str, array: Array) -> str:
    """Add a constant; the name that it got, which is no other one's."""
    while name in weights:
        name += "_"
    weights[name] = array
    return name


@dataclass(frozen=True, eq=False)
class _Narrower:
    """Nodes on fewer channels, where their attributes or constants count them.

    Attributes:
        found: The channel groups.
        kept: Per tensor which channels stay.
        shapes: Of all tensors, before.
        weights: Constants, to which new ones are added.
    """

    found: Coupling
    kept: Kept
    shapes: Mapping[str, tuple[int, ...]]
    weights: dict[str, Array]

    def node(self, node: NodeProto) -> NodeProto:
        """The node on the channels that stay; itself if it does not count them."""
        out = node.output[0]
        if out in self.found.shuffles:
            origin, order = self.found.shuffles[out]
            place = np.cumsum(self.kept[origin]) - 1
            return self._gathered(node, origin, place[order[self.kept[origin][order]]])
        if node.op_type == "Conv" and attribute(node, "group", 1) > 1:
            return self._conv(node)
        rules = {
            "Slice": self._slice, "Split": self._split, "Pad": self._pad, "Reshape": self._reshape,
            "Resize": self._resize,
        }  # fmt: skip
        rule = rules.get(node.op_type)
        return node if rule is None or out not in self.kept else rule(node)

    def _constant(self, node: NodeProto, position: int) -> Array | None:
        if position >= len(node.input):
            return None
        return self.weights.get(node.input[position])

    def _with_constant(self, node: NodeProto, position: int, array: Array) -> NodeProto:
        name = _added(self.weights, f"{node.output[0]}.{position}", array)
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[position] = name
        return copy

    def _gathered(self, node: NodeProto, source: str, places: Array) -> NodeProto:
        name = _added(self.weights, f"{node.output[0]}.channels", places.astype(np.int64))
        return helper.make_node("Gather", [source, name], [node.output[0]], name=node.name, axis=1)

    def _conv(self, node: NodeProto) -> NodeProto:
        """Groups that lost all of their channels are gone; others lost none."""
        per_group = self.kept[node.input[0]].reshape(attribute(node, "group", 1), -1)
        copy = NodeProto()
        copy.CopyFrom(node)
        for item in copy.attribute:
            if item.name == "group":
                item.i = int(per_group.any(1).sum())
        return copy

    def _slice(self, node: NodeProto) -> NodeProto:
        """Of channels a Gather, whose places need no regular distance; of space as it was."""
        starts, ends, axes, steps = (self._constant(node, position) for position in (1, 2, 3, 4))
        assert starts is not None
        assert ends is not None
        rank = len(self.shapes[node.input[0]])
        named = list(range(len(starts))) if axes is None else [int(a) % rank for a in axes]
        if 1 not in named:
            return node
        step = 1 if steps is None else int(steps[0])
        source = self.kept[node.input[0]]
        places = np.arange(len(source))[int(starts[0]) : int(ends[0]) : step]
        after = np.cumsum(source) - 1
        return self._gathered(node, node.input[0], after[places[source[places]]])

    def _split(self, node: NodeProto) -> NodeProto:
        if attribute(node, "axis", 0) % len(self.shapes[node.input[0]]) != 1:
            return node
        sizes = np.array([self.kept[out].sum() for out in node.output], np.int64)
        name = _added(self.weights, f"{node.output[0]}.sizes", sizes)
        return helper.make_node(
            "Split", [node.input[0], name], list(node.output), name=node.name, axis=1
        )

    def _pad(self, node: NodeProto) -> NodeProto:
        """Channels of padding that are kept, before and after those of the input."""
        pads = self.weights[node.input[1]].copy()
        rank, mine = len(pads) // 2, self.kept[node.output[0]]
        before, after = int(pads[1]), int(pads[rank + 1])
        pads[1], pads[rank + 1] = mine[:before].sum(), mine[len(mine) - after :].sum()
        return self._with_constant(node, 1, pads)

    def _reshape(self, node: NodeProto) -> NodeProto:
        shape = np.array(self.weights[node.input[1]], np.int64)
        shape[1] = self.kept[node.output[0]].sum()
        return self._with_constant(node, 1, shape)

    def _resize(self, node: NodeProto) -> NodeProto:
        sizes = self._constant(node, 3)
        if sizes is None:
            return node
        sizes = np.array(sizes, np.int64)
        sizes[1] = self.kept[node.output[0]].sum()
        return self._with_constant(node, 3, sizes)
