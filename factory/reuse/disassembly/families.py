"""What can be cut out of a network: families of inner channels, and the branches they make.

A family is made by one layer and read by others, such as the channels between the two convolutions
of a residual block, or the output of a plain convolution. Streams that several layers add to are
never cut: removing a channel there removes it from every block, which is what makes thresholds on
residual networks collapse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from ...errors import DataError
from ...graph.coupling import Coupling, coupling
from ...graph.cut_channels import cut_channels
from ...graph.network import (
    Array,
    Network,
    attribute,
    renamed_inputs,
    tensor_shapes,
    without_dead_nodes,
)
from ...graph.own_weights import BIAS, named_by_output, with_own_weights

LEAST = 2  # channels; a family of fewer has nothing to choose


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Family:
    """Channels that one layer makes.

    Attributes:
        name: Unique: the tensor that its layer writes; with "#2" and so on where the channels of
            one tensor are several families.
        tensor: That tensor.
        maker: That layer's name.
        readers: Names of the layers that mix the channels with others.
        groups: The channel groups, (C,): positions in this order.
        branch: The sum that the family is all of one side of, or "": then it may go as a whole.
    """

    name: str
    tensor: str
    maker: str
    readers: tuple[str, ...]
    groups: tuple[int, ...]
    branch: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Anatomy:
    """A network and what can be cut out of it.

    Attributes:
        network: Its nodes have names, and none twice.
        found: Its channel groups.
        families: In execution order.
    """

    network: Network
    found: Coupling
    families: tuple[Family, ...]

    def node(self, name: str) -> NodeProto:
        """A node by name."""
        return next(node for node in self.network.nodes if node.name == name)


def anatomy_of(network: Network) -> Anatomy:
    """Find the families of a network.

    Args:
        network: Of images; its nodes are given names of their own.

    Raises:
        DataError: Nothing can be cut out of it.
    """
    network = replace(network, nodes=tuple(map(named_by_output, network.nodes)))
    network = with_own_weights(network, first=BIAS)
    found, shapes = coupling(network), tensor_shapes(network)
    families = []
    for groups in found.families():
        family = _family(network, found, shapes, groups)
        if family is not None:
            families.append(family)
    if not families:
        reasons = Counter(found.fixed.values()).most_common(1)
        why = f" (of most channels: {reasons[0][0]})" if reasons else ""
        raise DataError(
            f"Nothing can be cut out of '{network.name}': it has no inner channels{why}."
        )
    order = {node.name: place for place, node in enumerate(network.nodes)}
    families.sort(key=lambda family: (order[family.maker], family.groups))
    return Anatomy(network=network, found=found, families=tuple(_told_apart(families)))


def _told_apart(families: Sequence[Family]) -> list[Family]:
    """Families with names of their own, of which no two may take away both sides of a sum."""
    seen: dict[str, int] = {}
    branches: set[str] = set()
    told = []
    for family in families:
        count = seen[family.tensor] = seen.get(family.tensor, 0) + 1
        name = family.tensor if count == 1 else f"{family.tensor}#{count}"
        branch = "" if family.branch in branches else family.branch
        branches.add(branch)
        told.append(replace(family, name=name, branch=branch))
    return told


def mixes(node: NodeProto) -> bool:
    """Whether a layer makes each output of all inputs."""
    if node.op_type == "Gemm":
        return not attribute(node, "transA", 0)
    return node.op_type == "Conv" and attribute(node, "group", 1) == 1


def input_axis(node: NodeProto) -> int:
    """The axis of a mixing layer's weight that goes over its inputs."""
    return 1 if node.op_type == "Conv" or attribute(node, "transB", 0) else 0


def _family(
    network: Network, found: Coupling, shapes: Mapping[str, tuple[int, ...]], groups: Sequence[int]
) -> Family | None:
    """Channels of one maker; None for streams and for what only a layer that is not known reads."""
    wanted = set(groups)
    makers, readers = [], []
    for node in network.nodes:
        if not {*node.input[1:]} & network.weights.keys():
            continue
        reads = writes = False
        if mixes(node) and node.input[1] in network.weights:
            axis = input_axis(node)
            reads = bool(wanted & set(found.weights.get((node.input[1], axis), _NONE).tolist()))
            writes = bool(
                wanted & set(found.weights.get((node.input[1], 1 - axis), _NONE).tolist())
            )
        makers += [node] if writes else []
        readers += [node] if reads else []
    if len(makers) != 1 or not readers or len(groups) < LEAST:
        return None
    (maker,) = makers
    made = found.channels.get(maker.output[0])
    if made is None or not wanted <= set(made.tolist()):
        return None
    if len(set(made.tolist())) < len(made):  # channels that go in groups alone
        return None
    return Family(
        name=maker.output[0], tensor=maker.output[0], maker=maker.name,
        readers=tuple(node.name for node in readers),
        groups=tuple(int(g) for g in made if int(g) in wanted),
        branch=_branch(network, found, shapes, wanted, readers),
    )  # fmt: skip


_NONE = np.zeros(0, np.int64)


def _branch(
    network: Network,
    found: Coupling,
    shapes: Mapping[str, tuple[int, ...]],
    wanted: set[int],
    readers: Sequence[NodeProto],
) -> str:
    """The sum of which the only reader of the whole family makes one side, and nothing else."""
    if len(readers) != 1:
        return ""
    (reader,) = readers
    if not set(found.weights[reader.input[1], input_axis(reader)].tolist()) <= wanted:
        return ""
    after = [node for node in network.nodes if reader.output[0] in node.input]
    if len(after) != 1 or after[0].op_type != "Add" or reader.output[0] in network.outputs:
        return ""
    (other,) = set(after[0].input) - {reader.output[0]} or {""}
    out = after[0].output[0]
    if not other or other in network.weights or shapes[other] != shapes[out]:
        return ""
    return str(out)


def narrowed(
    anatomy: Anatomy, kept: Mapping[str, Sequence[int] | Array]
) -> tuple[Network, dict[str, Array]]:
    """The network with some channels of its families; a family of none goes with its branch.

    Args:
        anatomy: The whole network.
        kept: Per family's name the positions that stay; families that are not named stay whole.

    Returns:
        The narrow network, and per tensor that lost channels the positions of those that stay.

    Raises:
        DataError: A family that is no branch would lose everything.
    """
    gone: set[str] = set()
    for family in anatomy.families:
        if len(kept.get(family.name, family.groups)) == 0:
            if not family.branch:
                raise DataError(f"No channel of '{family.name}' would be left.")
            gone.add(family.name)
    network = _without_branches(anatomy, gone)
    removed = {
        group
        for family in anatomy.families
        if family.name not in gone
        for position, group in enumerate(family.groups)
        if position not in set(kept.get(family.name, range(len(family.groups))))
    }
    alive = {name for node in network.nodes for name in (*node.input, *node.output)}
    found = replace(
        anatomy.found,
        channels={n: g for n, g in anatomy.found.channels.items() if n in alive},
        weights={key: g for key, g in anatomy.found.weights.items() if key[0] in network.weights},
        shuffles={n: s for n, s in anatomy.found.shuffles.items() if n in alive},
    )
    channels = {}
    for name, groups in found.channels.items():
        stay = [group not in removed for group in groups.tolist()]
        if not all(stay):
            channels[name] = np.flatnonzero(stay)
    return cut_channels(network, found, removed), channels


def _without_branches(anatomy: Anatomy, gone: set[str]) -> Network:
    """The network in which the sums of some families are their other sides."""
    network = anatomy.network
    stands_for: dict[str, str] = {}
    dropped = {family.branch for family in anatomy.families if family.name in gone}
    if not dropped:
        return network
    dead = {anatomy.node(f.readers[0]).output[0] for f in anatomy.families if f.name in gone}
    nodes: list[NodeProto] = []
    rectified: set[str] = set()
    for node in network.nodes:
        node = renamed_inputs(node, stands_for)
        (out,) = node.output[:1]
        if out in dropped:
            (other,) = [name for name in node.input if name not in dead]
            stands_for[out] = other
        elif node.op_type == "Relu" and node.input[0] in rectified and out not in network.outputs:
            stands_for[out] = node.input[0]
        else:
            rectified |= {out} if node.op_type == "Relu" else set()
            nodes.append(node)
    return without_dead_nodes(replace(network, nodes=tuple(nodes)))
