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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from .network import Network, attribute, names_read, tensor_shapes

Ints = NDArray[np.int64]
WeightAxis = tuple[str, int]

PASSING = (
    "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish",
    "Tanh", "Softplus", "Softsign", "Mish", "Gelu", "Erf", "Exp", "Log", "Sqrt", "Neg", "Abs",
    "Reciprocal", "Identity", "Dropout", "AveragePool", "MaxPool", "LpPool", "GlobalAveragePool",
    "GlobalMaxPool",
)  # fmt: skip
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu")
REDUCING = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2")
PER_CHANNEL = ("BatchNormalization", "InstanceNormalization")


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
    tracer = _Tracer(network, shapes)
    for name, shape in network.inputs.items():
        if len(shape) > 1:
            tracer.fix(tracer.fresh(name), f"'{name}' is an input")
    for position, node in enumerate(network.nodes):
        tracer.follow(position, node)
    for name in network.outputs:
        tracer.fix(tracer.seen(name), f"'{name}' is an output")
    tracer.fix_shared_weights()
    return tracer.result()


@dataclass
class _Tracer:
    """Channels as numbers; which are one is known when all operators have been seen."""

    network: Network
    shapes: Mapping[str, tuple[int, ...]]
    position: int = 0  # of the node that is followed
    channels: dict[str, Ints] = field(default_factory=dict)
    weights: dict[WeightAxis, Ints] = field(default_factory=dict)
    owners: dict[WeightAxis, set[int]] = field(default_factory=dict)
    folded: dict[str, tuple[str, Ints]] = field(default_factory=dict)
    shuffles: dict[str, tuple[str, Ints]] = field(default_factory=dict)
    ties: list[tuple[Ints, Ints]] = field(default_factory=list)
    fixes: list[tuple[Ints, str]] = field(default_factory=list)
    not_understood: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def follow(self, position: int, node: NodeProto) -> None:
        """One operator; what it does not understand is fixed on both of its sides."""
        self.position = position
        rule = _RULES.get(node.op_type)
        is_single = node.op_type == "Split" or not any(node.output[1:])
        unfolds = node.op_type in ("Reshape", "Transpose")
        is_plain = unfolds or not any(name in self.folded for name in node.input)
        if rule is not None and is_single and is_plain and rule(self, node):
            return
        name = node.name or next(filter(None, node.output), node.op_type)
        if all(self.is_known(source) for source in names_read(node)):  # else it follows another one
            self.not_understood[name] = node.op_type
        for source in names_read(node):
            self.fix(self.seen(source), f"{node.op_type} '{name}' is not understood")

    def is_known(self, name: str) -> bool:
        """Whether an input is constant or its channels are in sight."""
        return not name or self.is_weight(name) or self.seen(name) is not None

    def seen(self, name: str) -> Ints | None:
        """The channels of a tensor, also where they are folded."""
        return self.channels.get(self.folded[name][0] if name in self.folded else name)

    def new(self, count: int) -> Ints:
        """Channels that were not there before."""
        self.count += count
        return np.arange(self.count - count, self.count)

    def fresh(self, tensor: str) -> Ints:
        """New channels for a tensor."""
        self.channels[tensor] = self.new(self.shapes[tensor][1])
        return self.channels[tensor]

    def tie(self, one: Ints, other: Ints) -> None:
        """Both are the same channels."""
        self.ties.append((one, other))

    def own(self, weight: str, axis: int, channels: Ints) -> None:
        """The positions of a weight along an axis go with channels; shared weights tie them."""
        self.owners.setdefault((weight, axis), set()).add(self.position)
        known = self.weights.setdefault((weight, axis), channels)
        if known is not channels:
            self.tie(known, channels)

    def fix(self, channels: Ints | None, reason: str) -> None:
        """Channels that cannot be removed."""
        if channels is not None:
            self.fixes.append((channels, reason))

    def fix_shared_weights(self) -> None:
        """Weights that something reads without saying which axis goes with which channels."""
        readers: dict[str, set[int]] = {}
        for position, node in enumerate(self.network.nodes):
            for name in names_read(node):
                readers.setdefault(name, set()).add(position)
        for (weight, axis), channels in self.weights.items():
            if readers[weight] - self.owners[weight, axis] or weight in self.network.outputs:
                self.fix(channels, f"weight '{weight}' is read in another way, too")

    def is_weight(self, name: str) -> bool:
        """Whether a tensor is constant."""
        return name in self.network.weights

    def constant(self, node: NodeProto, position: int) -> NDArray[np.generic] | None:
        """The value of a constant input; None if it is missing or not constant."""
        if position >= len(node.input) or not node.input[position]:
            return None
        return self.network.weights.get(node.input[position])

    def result(self) -> Coupling:
        """Groups from the ties."""
        graph: nx.Graph[int] = nx.Graph()
        graph.add_nodes_from(range(self.count))
        for one, other in self.ties:
            graph.add_edges_from(zip(one.tolist(), other.tolist(), strict=True))
        group = np.empty(self.count, np.int64)
        number = -1
        for number, members in enumerate(nx.connected_components(graph)):
            group[list(members)] = number
        fixed: dict[int, str] = {}
        for channels, reason in self.fixes:
            for one in group[channels].tolist():
                fixed.setdefault(one, reason)
        return Coupling(
            channels={name: group[channels] for name, channels in self.channels.items()},
            weights={key: group[channels] for key, channels in self.weights.items()},
            shuffles=self.shuffles,
            groups=number + 1,
            fixed=fixed,
            not_understood=self.not_understood,
        )


def _conv(tracer: _Tracer, node: NodeProto) -> bool:
    source, kernel = tracer.channels.get(node.input[0]), node.input[1]
    if not tracer.is_weight(kernel):
        return False
    out, (width, per_group) = node.output[0], tracer.shapes[kernel][:2]
    groups = attribute(node, "group", 1)
    if groups == 1:
        result = tracer.fresh(out)
        if source is not None:
            tracer.own(kernel, 1, source)
    elif source is None:
        return False
    elif per_group == 1:  # depthwise: every channel makes width / groups others
        result = np.repeat(source, width // groups)
        tracer.channels[out] = result
    else:  # a group of the convolution goes as a whole
        result = tracer.fresh(out)
        for inside, outside in zip(
            source.reshape(groups, -1), result.reshape(groups, -1), strict=True
        ):
            whole = np.concatenate((inside, outside))
            tracer.tie(whole[:-1], whole[1:])
    tracer.own(kernel, 0, result)
    return _with_bias(tracer, node, 2, result)


def _conv_transpose(tracer: _Tracer, node: NodeProto) -> bool:
    source, kernel = tracer.channels.get(node.input[0]), node.input[1]
    if not tracer.is_weight(kernel) or attribute(node, "group", 1) != 1 or source is None:
        return False
    result = tracer.fresh(node.output[0])
    tracer.own(kernel, 0, source)
    tracer.own(kernel, 1, result)
    return _with_bias(tracer, node, 2, result)


def _with_bias(tracer: _Tracer, node: NodeProto, position: int, channels: Ints) -> bool:
    if position < len(node.input) and node.input[position]:
        if tracer.is_weight(node.input[position]):
            tracer.own(node.input[position], 0, channels)
        else:
            reason = f"the bias of '{node.name}' is computed"
            tracer.fix(channels, reason)
            tracer.fix(tracer.seen(node.input[position]), reason)
    return True


def _linear(tracer: _Tracer, node: NodeProto) -> bool:
    """Gemm and MatMul of vectors (B, F) with a constant matrix."""
    source, matrix = tracer.channels.get(node.input[0]), node.input[1]
    if not tracer.is_weight(matrix) or len(tracer.shapes[matrix]) != 2:
        return False
    if len(tracer.shapes[node.input[0]]) != 2 or attribute(node, "transA", 0):
        return False
    rows = 1 if attribute(node, "transB", 0) else 0  # the axis that is summed over
    result = tracer.fresh(node.output[0])
    if source is not None:
        tracer.own(matrix, rows, source)
    tracer.own(matrix, 1 - rows, result)
    if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
        bias = node.input[2]
        if not tracer.is_weight(bias):
            reason = f"the bias of '{node.name}' is computed"
            tracer.fix(result, reason)
            tracer.fix(tracer.seen(bias), reason)
        elif tracer.shapes[bias] and tracer.shapes[bias][-1] == len(result):
            tracer.own(bias, len(tracer.shapes[bias]) - 1, result)
    return True


def _per_channel(tracer: _Tracer, node: NodeProto) -> bool:
    source = tracer.channels.get(node.input[0])
    if source is None or not all(tracer.is_weight(name) for name in node.input[1:]):
        return False
    for name in node.input[1:]:
        tracer.own(name, 0, source)
    tracer.channels[node.output[0]] = source
    return True


def _passing(tracer: _Tracer, node: NodeProto) -> bool:
    source = tracer.channels.get(node.input[0])
    if source is None or tracer.shapes[node.output[0]][1:2] != (len(source),):
        return False
    tracer.channels[node.output[0]] = source
    return True


def _reducing(tracer: _Tracer, node: NodeProto) -> bool:
    axes = attribute(node, "axes")
    if axes is None and (found := tracer.constant(node, 1)) is not None:
        axes = found.tolist()
    rank = len(tracer.shapes[node.input[0]])
    if not axes or any(axis % rank < 2 for axis in axes):
        return False
    return _passing(tracer, node)


def _resize(tracer: _Tracer, node: NodeProto) -> bool:
    before, after = (tracer.shapes[name] for name in (node.input[0], node.output[0]))
    has_sizes = len(node.input) > 3 and bool(node.input[3])
    if has_sizes and tracer.constant(node, 3) is None:
        return False
    return before[:2] == after[:2] and _passing(tracer, node)


def _binary(tracer: _Tracer, node: NodeProto) -> bool:
    known = [name for name in node.input if not tracer.is_weight(name)]
    if any(name not in tracer.channels for name in known):
        return False
    out = tracer.shapes[node.output[0]]
    if not known or len(out) < 2:
        return False
    rank, width = len(out), out[1]
    full = [name for name in known if len(tracer.channels[name]) == width]
    if not full or any(len(tracer.shapes[name]) != rank for name in known):
        return False
    result = tracer.channels[full[0]]
    for name in full[1:]:
        tracer.tie(result, tracer.channels[name])
    for name in set(known) - set(full):  # one channel beside all of them
        tracer.fix(tracer.channels[name], f"'{node.name}' needs it for all channels")
    for name in node.input:
        if tracer.is_weight(name):
            axis = len(tracer.shapes[name]) - rank + 1
            if axis >= 0 and tracer.shapes[name][axis] == width and width > 1:
                tracer.own(name, axis, result)
    tracer.channels[node.output[0]] = result
    return True


def _concat(tracer: _Tracer, node: NodeProto) -> bool:
    if any(name not in tracer.channels for name in node.input):
        return False
    parts = [tracer.channels[name] for name in node.input]
    axis = attribute(node, "axis") % len(tracer.shapes[node.output[0]])
    if axis == 0:
        return False
    if axis > 1:
        for part in parts[1:]:
            tracer.tie(parts[0], part)
    tracer.channels[node.output[0]] = np.concatenate(parts) if axis == 1 else parts[0]
    return True


def _split(tracer: _Tracer, node: NodeProto) -> bool:
    source = tracer.channels.get(node.input[0])
    axis = attribute(node, "axis", 0) % len(tracer.shapes[node.input[0]])
    if source is None or axis == 0:
        return False
    start = 0
    for name in node.output:
        width = tracer.shapes[name][1]
        tracer.channels[name] = source[start : start + width] if axis == 1 else source
        start += width
    return True


def _slice(tracer: _Tracer, node: NodeProto) -> bool:
    source = tracer.channels.get(node.input[0])
    starts, ends, axes, steps = (tracer.constant(node, position) for position in (1, 2, 3, 4))
    if source is None or starts is None or ends is None:
        return False
    rank = len(tracer.shapes[node.input[0]])
    named = list(range(len(starts))) if axes is None else [int(a) % rank for a in axes.tolist()]
    strides = [1] * len(named) if steps is None else steps.tolist()
    for axis, start, end, step in zip(named, starts.tolist(), ends.tolist(), strides, strict=True):
        if axis == 0 or step < 0 or (axis == 1 and len(named) > 1):
            return False
        if axis == 1:
            source = source[start:end:step]
    tracer.channels[node.output[0]] = source
    return len(source) == tracer.shapes[node.output[0]][1]


def _pad(tracer: _Tracer, node: NodeProto) -> bool:
    source, pads = tracer.channels.get(node.input[0]), tracer.constant(node, 1)
    if source is None or pads is None or len(node.input) > 3:
        return False
    rank = len(tracer.shapes[node.input[0]])
    before, after = int(pads[1]), int(pads[rank + 1])
    is_constant = attribute(node, "mode", b"constant") == b"constant"
    if (before or after) and not is_constant or min(before, after) < 0 or pads[0] or pads[rank]:
        return False
    tracer.channels[node.output[0]] = np.concatenate(
        (tracer.new(before), source, tracer.new(after))
    )
    return True


def _reshape(tracer: _Tracer, node: NodeProto) -> bool:
    """Flattening, folding of space, and the first and the last step of a channel shuffle."""
    name, out = node.input[0], node.output[0]
    before, after = tracer.shapes[name], tracer.shapes[out]
    if name in tracer.folded:
        origin, order = tracer.folded[name]
        if after != tracer.shapes[origin]:
            return False
        tracer.shuffles[out] = (origin, order.reshape(-1))
        tracer.channels[out] = tracer.channels[origin][order.reshape(-1)]
        return True
    source = tracer.channels.get(name)
    if source is None or before[0] != after[0]:
        return False
    if len(after) == 5 and len(before) == 4 and after[3:] == before[2:]:
        tracer.folded[out] = (name, np.arange(before[1]).reshape(after[1:3]))
        return True
    if len(after) == 2 and len(before) > 2:
        tracer.channels[out] = np.repeat(source, after[1] // before[1])
        return True
    if len(after) >= 2 and after[1] == before[1]:
        tracer.channels[out] = source
        return True
    return False


def _transpose(tracer: _Tracer, node: NodeProto) -> bool:
    """The middle step of a channel shuffle."""
    found = tracer.folded.get(node.input[0])
    if found is None or list(attribute(node, "perm", [])) != [0, 2, 1, 3, 4]:
        return False
    tracer.folded[node.output[0]] = (found[0], found[1].T)
    return True


def _flatten(tracer: _Tracer, node: NodeProto) -> bool:
    source = tracer.channels.get(node.input[0])
    if source is None or attribute(node, "axis", 1) != 1:
        return False
    width = tracer.shapes[node.output[0]][1]
    tracer.channels[node.output[0]] = np.repeat(source, width // len(source))
    return True


def _squeeze(tracer: _Tracer, node: NodeProto) -> bool:
    """Axes of space that come or go."""
    axes = tracer.constant(node, 1)
    rank = max(len(tracer.shapes[name]) for name in (node.input[0], node.output[0]))
    if axes is None or any(axis % rank < 2 for axis in axes.tolist()):
        return False
    return _passing(tracer, node)


_Rule = Callable[[_Tracer, NodeProto], bool]
_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(PASSING, _passing), **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys(REDUCING, _reducing), **dict.fromkeys(PER_CHANNEL, _per_channel),
    "Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _linear, "MatMul": _linear,
    "Concat": _concat, "Split": _split, "Slice": _slice, "Pad": _pad, "Resize": _resize,
    "Upsample": _resize, "Reshape": _reshape, "Transpose": _transpose, "Flatten": _flatten,
    "Squeeze": _squeeze, "Unsqueeze": _squeeze,
}  # fmt: skip
