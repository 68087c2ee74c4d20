"""What every operator does to channels: a rule each, false where the node is not understood."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from onnx import NodeProto

from .channels import Ints, Tracer
from .network import attribute

PASSING = (
    "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish",
    "Tanh", "Softplus", "Softsign", "Mish", "Gelu", "Erf", "Exp", "Log", "Sqrt", "Neg", "Abs",
    "Reciprocal", "Identity", "Dropout", "AveragePool", "MaxPool", "LpPool", "GlobalAveragePool",
    "GlobalMaxPool",
)  # fmt: skip
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu")
REDUCING = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2")
PER_CHANNEL = ("BatchNormalization", "InstanceNormalization")


def _conv(tracer: Tracer, node: NodeProto) -> bool:
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


def _conv_transpose(tracer: Tracer, node: NodeProto) -> bool:
    source, kernel = tracer.channels.get(node.input[0]), node.input[1]
    if not tracer.is_weight(kernel) or attribute(node, "group", 1) != 1 or source is None:
        return False
    result = tracer.fresh(node.output[0])
    tracer.own(kernel, 0, source)
    tracer.own(kernel, 1, result)
    return _with_bias(tracer, node, 2, result)


def _with_bias(tracer: Tracer, node: NodeProto, position: int, channels: Ints) -> bool:
    if position < len(node.input) and node.input[position]:
        if tracer.is_weight(node.input[position]):
            tracer.own(node.input[position], 0, channels)
        else:
            reason = f"the bias of '{node.name}' is computed"
            tracer.fix(channels, reason)
            tracer.fix(tracer.seen(node.input[position]), reason)
    return True


def _linear(tracer: Tracer, node: NodeProto) -> bool:
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


def _per_channel(tracer: Tracer, node: NodeProto) -> bool:
    source = tracer.channels.get(node.input[0])
    if source is None or not all(tracer.is_weight(name) for name in node.input[1:]):
        return False
    for name in node.input[1:]:
        tracer.own(name, 0, source)
    tracer.channels[node.output[0]] = source
    return True


def _passing(tracer: Tracer, node: NodeProto) -> bool:
    source = tracer.channels.get(node.input[0])
    if source is None or tracer.shapes[node.output[0]][1:2] != (len(source),):
        return False
    tracer.channels[node.output[0]] = source
    return True


def _reducing(tracer: Tracer, node: NodeProto) -> bool:
    axes = attribute(node, "axes")
    if axes is None and (found := tracer.constant(node, 1)) is not None:
        axes = found.tolist()
    rank = len(tracer.shapes[node.input[0]])
    if not axes or any(axis % rank < 2 for axis in axes):
        return False
    return _passing(tracer, node)


def _resize(tracer: Tracer, node: NodeProto) -> bool:
    before, after = (tracer.shapes[name] for name in (node.input[0], node.output[0]))
    has_sizes = len(node.input) > 3 and bool(node.input[3])
    if has_sizes and tracer.constant(node, 3) is None:
        return False
    return before[:2] == after[:2] and _passing(tracer, node)


def _binary(tracer: Tracer, node: NodeProto) -> bool:
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


def _concat(tracer: Tracer, node: NodeProto) -> bool:
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


def _split(tracer: Tracer, node: NodeProto) -> bool:
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


def _slice(tracer: Tracer, node: NodeProto) -> bool:
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


def _pad(tracer: Tracer, node: NodeProto) -> bool:
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


def _reshape(tracer: Tracer, node: NodeProto) -> bool:
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


def _transpose(tracer: Tracer, node: NodeProto) -> bool:
    """The middle step of a channel shuffle."""
    found = tracer.folded.get(node.input[0])
    if found is None or list(attribute(node, "perm", [])) != [0, 2, 1, 3, 4]:
        return False
    tracer.folded[node.output[0]] = (found[0], found[1].T)
    return True


def _flatten(tracer: Tracer, node: NodeProto) -> bool:
    source = tracer.channels.get(node.input[0])
    if source is None or attribute(node, "axis", 1) != 1:
        return False
    width = tracer.shapes[node.output[0]][1]
    tracer.channels[node.output[0]] = np.repeat(source, width // len(source))
    return True


def _squeeze(tracer: Tracer, node: NodeProto) -> bool:
    """Axes of space that come or go."""
    axes = tracer.constant(node, 1)
    rank = max(len(tracer.shapes[name]) for name in (node.input[0], node.output[0]))
    if axes is None or any(axis % rank < 2 for axis in axes.tolist()):
        return False
    return _passing(tracer, node)


Rule = Callable[[Tracer, NodeProto], bool]
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(PASSING, _passing), **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys(REDUCING, _reducing), **dict.fromkeys(PER_CHANNEL, _per_channel),
    "Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _linear, "MatMul": _linear,
    "Concat": _concat, "Split": _split, "Slice": _slice, "Pad": _pad, "Resize": _resize,
    "Upsample": _resize, "Reshape": _reshape, "Transpose": _transpose, "Flatten": _flatten,
    "Squeeze": _squeeze, "Unsqueeze": _squeeze,
}  # fmt: skip
OF_SEVERAL_OUTPUTS = ("Split",)  # their rules know more outputs than one
OF_FOLDED = ("Reshape", "Transpose")  # and these, channels that are spread over two axes
