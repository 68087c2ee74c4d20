"""An ONNX network as a torch module whose weights can be trained and put back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from onnx import helper
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import DataError
from ...graph.network import Array, Network

Inputs = Sequence[Tensor | None]
Attributes = Mapping[str, Any]
Op = Callable[[Inputs, Attributes], Tensor | tuple[Tensor, ...]]
LAYERS = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1), "PRelu": (1,),
          "BatchNormalization": (1, 2)}  # fmt: skip


class TorchGraph(nn.Module):
    """A network that torch computes; its layers' weights are parameters, all else is constant.

    Normalization keeps its statistics.
    """

    def __init__(self, network: Network) -> None:
        """Read a network.

        Raises:
            DataError: It holds an operator that is not known here.
        """
        super().__init__()
        unknown = sorted({node.op_type for node in network.nodes} - set(OPS))
        if unknown:
            raise DataError(f"'{network.name}' cannot be trained: {unknown[0]} is not known.")
        self.network = network
        self.trainable = _weights_of_layers(network)
        self.parameter_list = nn.ParameterList(
            nn.Parameter(torch.from_numpy(network.weights[name].copy())) for name in self.trainable
        )
        self.constants = {
            name: torch.from_numpy(array.copy())
            for name, array in network.weights.items()
            if name not in set(self.trainable)
        }
        self.attributes = [
            {item.name: helper.get_attribute_value(item) for item in node.attribute}
            for node in network.nodes
        ]

    def forward(self, images: Tensor) -> Tensor:
        """The only output (B, K) for images (B, 3, S, S), prepared as the network wants them."""
        (found,) = self.outputs(images).values()
        return found

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """All outputs by name."""
        (entry,) = self.network.inputs
        values: dict[str, Tensor] = {**self.constants, entry: images}
        values |= dict(zip(self.trainable, self.parameter_list, strict=True))
        for node, attributes in zip(self.network.nodes, self.attributes, strict=True):
            made = OPS[node.op_type]([values.get(n) if n else None for n in node.input], attributes)
            several = made if isinstance(made, tuple) else (made,)
            values |= {n: v for n, v in zip(node.output, several, strict=False) if n}
        return {name: values[name] for name in self.network.outputs}

    def trained(self) -> Network:
        """The network with the weights as they are now."""
        weights: dict[str, Array] = dict(self.network.weights)
        for name, parameter in zip(self.trainable, self.parameter_list, strict=True):
            weights[name] = parameter.detach().numpy().copy()
        return replace(self.network, weights=weights)


def _weights_of_layers(network: Network) -> list[str]:
    found = {
        node.input[position]: None
        for node in network.nodes
        for position in LAYERS.get(node.op_type, ())
        if position < len(node.input) and node.input[position] in network.weights
    }
    return list(found)


def _pads(x: Tensor, attributes: Attributes, kernel: Sequence[int]) -> list[int]:
    """Padding (left, right, top, bottom) as torch wants it."""
    mode = attributes.get("auto_pad", b"NOTSET").decode()
    if mode in ("NOTSET", "VALID"):
        top, left, bottom, right = attributes.get("pads", [0] * 4) if mode == "NOTSET" else [0] * 4
        return [left, right, top, bottom]
    strides = attributes.get("strides", [1, 1])
    dilations = attributes.get("dilations", [1, 1])
    pads: list[int] = []
    for axis in (1, 0):  # width first
        size, step = x.shape[2 + axis], strides[axis]
        wanted = (-(-size // step) - 1) * step + (kernel[axis] - 1) * dilations[axis] + 1
        total = max(0, wanted - size)
        small, large = total // 2, total - total // 2
        pads += [small, large] if mode == "SAME_UPPER" else [large, small]
    return pads


def _conv(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    assert x is not None
    assert weight is not None
    pads = _pads(x, attributes, weight.shape[2:])
    options = {
        "stride": attributes.get("strides", [1, 1]), "groups": attributes.get("group", 1),
        "dilation": attributes.get("dilations", [1, 1]),
    }  # fmt: skip
    if pads[0] == pads[1] and pads[2] == pads[3]:
        return F.conv2d(x, weight, bias, padding=(pads[2], pads[0]), **options)
    return F.conv2d(F.pad(x, pads), weight, bias, **options)


def _max_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, kernel = _first(inputs), attributes["kernel_shape"]
    padded = F.pad(x, _pads(x, attributes, kernel), value=float("-inf"))
    strides = attributes.get("strides", [1, 1])
    return F.max_pool2d(padded, kernel, strides, ceil_mode=_is_up(attributes))


def _average_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, kernel = _first(inputs), attributes["kernel_shape"]
    pads, strides = _pads(x, attributes, kernel), attributes.get("strides", [1, 1])
    up = _is_up(attributes)
    pooled = F.avg_pool2d(F.pad(x, pads), kernel, strides, ceil_mode=up)
    if any(pads) and not attributes.get("count_include_pad", 0):
        ones = F.pad(torch.ones_like(x[:1, :1]), pads)
        pooled = pooled / F.avg_pool2d(ones, kernel, strides, ceil_mode=up)
    return pooled


def _is_up(attributes: Attributes) -> bool:
    """Whether a pool rounds its sides up.

    Raises:
        DataError: They are dilated, which torch's are not.
    """
    if any(step != 1 for step in attributes.get("dilations", [])):
        raise DataError("A dilated pool cannot be trained.")
    return bool(attributes.get("ceil_mode", 0))


def _gemm(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, weight = _first(inputs), inputs[1]
    assert weight is not None
    left = x.T if attributes.get("transA", 0) else x
    right = weight.T if attributes.get("transB", 0) else weight
    product = torch.mul(left @ right, attributes.get("alpha", 1.0))
    bias = inputs[2] if len(inputs) > 2 else None
    return product if bias is None else product + torch.mul(bias, attributes.get("beta", 1.0))


def _batch_norm(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, scale, bias, mean, var = inputs
    assert x is not None
    return F.batch_norm(x, mean, var, scale, bias, eps=attributes.get("epsilon", 1e-5))


def _clip(inputs: Inputs, attributes: Attributes) -> Tensor:
    low, high = (*inputs[1:], None, None)[:2]
    return torch.clamp(
        _first(inputs), None if low is None else float(low), None if high is None else float(high)
    )


def _reshape(inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _first(inputs)
    shape = [x.shape[i] if size == 0 else size for i, size in enumerate(_ints(inputs[1]))]
    return x.reshape([len(x), *shape[1:]])  # files say one image, training has batches


def _flatten(inputs: Inputs, attributes: Attributes) -> Tensor:
    return _first(inputs).flatten(attributes.get("axis", 1))


def _pad(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, sides = _first(inputs), _ints(inputs[1])
    rank, value = x.ndim, inputs[2] if len(inputs) > 2 else None
    pairs = [side for axis in reversed(range(rank)) for side in (sides[axis], sides[axis + rank])]
    mode = attributes.get("mode", b"constant").decode()
    if mode != "constant":
        raise DataError(f"Padding by {mode!r} cannot be trained.")
    return F.pad(x, pairs, value=0.0 if value is None else float(value))


def _resize(inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _first(inputs)
    if attributes.get("mode", b"nearest") != b"nearest":
        raise DataError("Resizing that is not to the nearest position cannot be trained.")
    sizes = inputs[3] if len(inputs) > 3 else None
    if sizes is not None:
        return F.interpolate(x, size=_ints(sizes)[2:], mode="nearest")
    assert inputs[2] is not None
    return F.interpolate(x, scale_factor=inputs[2].tolist()[2:], mode="nearest")


def _slice(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, starts, stops = _first(inputs), _ints(inputs[1]), _ints(inputs[2])
    axes = _ints(inputs[3]) if len(inputs) > 3 else list(range(len(starts)))
    steps = _ints(inputs[4]) if len(inputs) > 4 else [1] * len(starts)
    index: list[slice] = [slice(None)] * x.ndim
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        if step < 1:
            raise DataError("A slice that runs backwards cannot be trained.")
        index[axis] = slice(start, stop, step)
    return x[tuple(index)]


def _split(inputs: Inputs, attributes: Attributes) -> tuple[Tensor, ...]:
    x, axis = _first(inputs), attributes.get("axis", 0)
    if len(inputs) > 1:
        return tuple(torch.split(x, _ints(inputs[1]), axis))
    raise DataError("A split without sizes cannot be trained.")


def _gather(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, index = _first(inputs), inputs[1]
    assert index is not None
    if index.ndim != 1:
        raise DataError("Gathering by other than a list of positions cannot be trained.")
    return torch.index_select(x, attributes.get("axis", 0), index)


def _mean(inputs: Inputs, attributes: Attributes) -> Tensor:
    return _first(inputs).mean(list(attributes["axes"]), bool(attributes.get("keepdims", 1)))


def _first(inputs: Inputs) -> Tensor:
    assert inputs[0] is not None
    return inputs[0]


def _ints(tensor: Tensor | None) -> list[int]:
    assert tensor is not None
    return [int(value) for value in tensor.tolist()]


def _plain(function: Callable[..., Tensor]) -> Op:
    """An operator without attributes."""
    return lambda inputs, attributes: function(*inputs)


OPS: Mapping[str, Op] = {
    "Add": _plain(torch.add), "Sub": _plain(torch.sub), "Mul": _plain(torch.mul),
    "Div": _plain(torch.div), "MatMul": _plain(torch.matmul), "Relu": _plain(torch.relu),
    "Sigmoid": _plain(torch.sigmoid), "Tanh": _plain(torch.tanh), "HardSwish": _plain(F.hardswish),
    "Identity": _plain(lambda x: x),
    "PRelu": _plain(lambda x, slope: torch.where(x < 0, slope * x, x)),
    "GlobalAveragePool": _plain(lambda x: x.mean((2, 3), keepdim=True)),
    "Softmax": lambda inputs, a: torch.softmax(_first(inputs), a.get("axis", -1)),
    "HardSigmoid": lambda inputs, a: torch.clamp(
        a.get("alpha", 0.2) * _first(inputs) + a.get("beta", 0.5), 0, 1
    ),
    "LeakyRelu": lambda inputs, a: F.leaky_relu(_first(inputs), a.get("alpha", 0.01)),
    "Concat": lambda inputs, a: torch.cat([x for x in inputs if x is not None], a["axis"]),
    "Transpose": lambda inputs, a: _first(inputs).permute(a["perm"]),
    "Squeeze": lambda inputs, a: _first(inputs).squeeze(_ints(inputs[1])),
    "Conv": _conv, "MaxPool": _max_pool, "AveragePool": _average_pool, "Gemm": _gemm,
    "BatchNormalization": _batch_norm, "Clip": _clip, "Reshape": _reshape, "Flatten": _flatten,
    "Gather": _gather, "Pad": _pad, "Resize": _resize, "Slice": _slice, "Split": _split,
    "ReduceMean": _mean,
}  # fmt: skip
