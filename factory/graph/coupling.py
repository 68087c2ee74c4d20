"""Which channels of a network must be removed together, by following them through every operator.

A channel is followed from the convolution that makes it to those that read it. Additions tie the
channels of their inputs, depthwise convolutions those of input and output, grouped ones whole
groups. What an operator that is not understood touches cannot be removed, and the reason is kept;
nothing is guessed.

Source:
    The dependency graph of Fang et al., "DepGraph: Towards Any Structural Pruning",
    arXiv:2301.12900, here per channel instead of per layer, so that concatenations, slices,
    shuffles and channel padding need no index arithmetic afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx
import numpy as np
from onnx import NodeProto

from .channel_rules import OF_FOLDED, OF_SEVERAL_OUTPUTS, RULES
from .channels import Ints, Tracer, WeightAxis
from .network import Network, names_read, tensor_shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupling:
    """The channel groups of a network: what must be removed together.

    Attributes:
        channels: Per tensor the group of each of its channels (C,); tensors whose channels were
            lost from sight are not in it.
        weights: Per weight and axis the group of each position (C,).
        shuffles: Per tensor that only reorders another one: that one, and where its channels
            come from.
        groups: Number of groups.
        fixed: Why a group cannot be removed, by group.
        not_understood: Names of the nodes that were not, with their operators.
    """

    channels: Mapping[str, Ints]
    weights: Mapping[WeightAxis, Ints]
    shuffles: Mapping[str, tuple[str, Ints]]
    groups: int
    fixed: Mapping[int, str]
    not_understood: Mapping[str, str]

    def removable(self) -> list[int]:
        """Groups that may be removed."""
        return [group for group in range(self.groups) if group not in self.fixed]

    def families(self) -> list[tuple[int, ...]]:
        """Removable groups that are parts of the same weights, such as a residual stream."""
        keys: dict[int, list[WeightAxis]] = {}
        for key, groups in self.weights.items():
            for group in set(groups.tolist()) - self.fixed.keys():
                keys.setdefault(group, []).append(key)
        families: dict[tuple[WeightAxis, ...], list[int]] = {}
        for group in sorted(keys):
            families.setdefault(tuple(sorted(keys[group])), []).append(group)
        return [tuple(groups) for groups in families.values()]


def coupling(network: Network) -> Coupling:
    """Follow all channels of a network.

    Args:
        network: Of images (B, C, H, W), channels first, or of vectors (B, F).
    """
    shapes = tensor_shapes(network)
    tracer = Tracer(network, shapes)
    for name, shape in network.inputs.items():
        if len(shape) > 1:
            tracer.fix(tracer.fresh(name), f"'{name}' is an input")
    for position, node in enumerate(network.nodes):
        _follow(tracer, position, node)
    for name in network.outputs:
        tracer.fix(tracer.seen(name), f"'{name}' is an output")
    tracer.fix_shared_weights()
    return _result(tracer)


def _follow(tracer: Tracer, position: int, node: NodeProto) -> None:
    """One operator; what it does not understand is fixed on both of its sides."""
    tracer.position = position
    rule = RULES.get(node.op_type)
    fits = (node.op_type in OF_SEVERAL_OUTPUTS or not any(node.output[1:])) and (
        node.op_type in OF_FOLDED or not any(name in tracer.folded for name in node.input)
    )
    if rule is not None and fits and rule(tracer, node):
        return
    name = node.name or next(filter(None, node.output), node.op_type)
    if all(tracer.is_known(source) for source in names_read(node)):  # else it follows another one
        tracer.not_understood[name] = node.op_type
    for source in names_read(node):
        tracer.fix(tracer.seen(source), f"{node.op_type} '{name}' is not understood")


def _result(tracer: Tracer) -> Coupling:
    """Groups from the ties."""
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(tracer.count))
    for one, other in tracer.ties:
        graph.add_edges_from(zip(one.tolist(), other.tolist(), strict=True))
    group = np.empty(tracer.count, np.int64)
    number = -1
    for number, members in enumerate(nx.connected_components(graph)):
        group[list(members)] = number
    fixed: dict[int, str] = {}
    for channels, reason in tracer.fixes:
        for one in group[channels].tolist():
            fixed.setdefault(one, reason)
    return Coupling(
        channels={name: group[channels] for name, channels in tracer.channels.items()},
        weights={key: group[channels] for key, channels in tracer.weights.items()},
        shuffles=tracer.shuffles,
        groups=number + 1,
        fixed=fixed,
        not_understood=tracer.not_understood,
    )
