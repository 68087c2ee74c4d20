"""A linked network as torch layers that can be trained and pruned, and back again."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from onnx import NodeProto
from torch import Tensor, nn
from torch.nn import functional as F

from nnfactory.factory.graph.network import Network, attribute
from nnfactory.factory.graph.normalization import fold_norms
from nnfactory.factory.graph.postprocess import with_detections, with_probabilities
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.supernet.network import (
    Classifier,
    Detector,
    supernet_from_architecture,
)
from nnfactory.factory.supernet.recipe import Architecture, recipe_from_table


def supernet_of(library: ModuleLibrary) -> Classifier | Detector:
    """The supernet that a library was published from, with the weights of the library."""
    recipe = recipe_from_table(library.card["training"]["recipe"])
    network = supernet_from_architecture(recipe.architecture)
    own = network.state_dict()
    taken = {
        name: torch.from_numpy(array.copy())
        for name, array in library.network.weights.items()
        if name in own
    }
    # the graph divides the kernel of the stem by what the supernet divides images by
    taken["stem.conv.weight"] *= torch.tensor(recipe.architecture.std).view(1, 3, 1, 1)
    network.load_state_dict(taken, strict=False)
    return network


class Trainable(nn.Module):
    """A cut network whose nodes run in their order, each convolution and so on a torch layer.

    The graph never changes, only the shapes of the weights do: whatever was trained and pruned
    goes back into the same nodes and is folded and answered as the linker does it.

    Attributes:
        architecture: That of the supernet, with the classes and the input size of this network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, source: Network, architecture: Architecture) -> None:
        """Take the weights of a network.

        Args:
            source: As :attr:`nnfactory.factory.linker.Linked.cut` is, from a supernet's graph.
            architecture: Of the supernet.
        """
        super().__init__()
        (shape,), outputs = source.inputs.values(), list(source.outputs.values())
        self.source = source
        self.architecture = replace(
            architecture, input_size=shape[2], input_sizes=(shape[2],), classes=outputs[0][1]
        )
        self.register_buffer("std", torch.tensor(architecture.std).view(1, 3, 1, 1))
        self.layers = nn.ModuleDict()
        for node in source.nodes:
            if node.op_type in _LAYERS:
                self.layers[_key(node)] = _layer(node, source)
            if node.op_type == "Sub":
                self.register_buffer("mean", torch.from_numpy(source.weights[node.input[1]].copy()))
                self.stem = next(n for n in source.nodes if node.output[0] in n.input)
        with torch.no_grad():  # the graph divides the kernel by what the supernet divides images by
            self._layer_of(self.stem).weight.mul_(self.std)

    @property
    def predictions(self) -> list[nn.Module]:
        """The layers whose outputs are the answer; their output channels are what they are."""
        return [self.layers[_key(n)] for n in self.source.nodes if n.output[0] in self._outputs]

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Class logits (B, K) of images (B, 3, H, W) in [0, 1]."""
        return self._run(images)["logits"]

    @torch.no_grad()
    def reset_(self, branches: Iterable[str]) -> None:
        """Fresh weights, as a new supernet has them.

        Args:
            branches: Tensors that end the branch of a block, whose scale begins at one half.
        """
        for layer in self.layers.values():
            layer.reset_parameters()  # type: ignore[operator]
        for node in self.source.nodes:
            if node.op_type == "BatchNormalization" and node.output[0] in set(branches):
                nn.init.constant_(self._layer_of(node).weight, 0.5)

    def network(self) -> Network:
        """The network with the present weights, folded and with its answer."""
        weights = dict(self.source.weights)
        for node in self.source.nodes:
            if node.op_type in _LAYERS:
                for name, value in zip(node.input[1:], _tensors(self._layer_of(node)), strict=True):
                    weights[name] = np.ascontiguousarray(value.detach().float().numpy()).copy()
        weights[self.stem.input[1]] /= self.std.numpy()
        return self._answering(fold_norms(replace(self.source, weights=weights)))

    @property
    def _outputs(self) -> set[str]:
        return set(self.source.outputs)

    def _answering(self, folded: Network) -> Network:
        return with_probabilities(folded)

    def _layer_of(self, node: NodeProto) -> nn.Conv2d:
        return cast(nn.Conv2d, self.layers[_key(node)])

    def _run(self, images: Tensor, *, until: frozenset[str] = frozenset()) -> dict[str, Tensor]:
        """All tensors, without the outputs in ``until``."""
        values = dict.fromkeys(self.source.inputs, images)
        for node in self.source.nodes:
            if node.output[0] not in until:
                inputs = [values[name] for name in node.input if name in values]
                values[node.output[0]] = self._computed(node, inputs)
        return values

    def _computed(self, node: NodeProto, inputs: list[Tensor]) -> Tensor:
        x = inputs[0]
        match node.op_type:
            case "Sub":
                return (x - self.mean) / self.std
            case "Relu":
                return torch.relu(x)
            case "Add":
                return x + inputs[1]
            case "AveragePool":
                return F.avg_pool2d(x, attribute(node, "kernel_shape"))
            case "GlobalAveragePool":
                return x.mean((2, 3), keepdim=True)
            case "Flatten":
                return x.flatten(1)
            case "Resize":
                return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return cast(Tensor, self.layers[_key(node)](x))


class TrainableDetector(Trainable):
    """The same for detection: with the one-to-many heads, which exist in training alone.

    A library has dropped them, so they begin as what the one-to-one heads are.
    """

    def __init__(self, source: Network, architecture: Architecture) -> None:
        super().__init__(source, architecture)
        self.heads = [
            next(node for node in source.nodes if f"{kind}{stride}" in node.output)
            for stride in architecture.head_strides
            for kind in ("classes", "boxes")
        ]
        self.many = nn.ModuleList(copy.deepcopy(self._layer_of(node)) for node in self.heads)

    @property
    def predictions(self) -> list[nn.Module]:
        """The layers of all heads."""
        return [*super().predictions, *self.many]

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Raw maps of all heads, the one-to-many ones included."""
        maps = self.embed(images)
        pairs = zip(self.heads, self.many, maps, strict=True)
        return [layer(m) for node, many, m in pairs for layer in (self._layer_of(node), many)]

    def embed(self, images: Tensor) -> list[Tensor]:
        """Features before the heads, per head stride those for the classes and for the boxes."""
        values = self._run(images, until=frozenset(self._outputs))
        return [values[node.input[0]] for node in self.heads]

    def predict(self, maps: Sequence[Tensor], *, many: bool = False) -> tuple[Tensor, Tensor]:
        """Class logits (B, A, K) and raw distances (B, A, 4) over all A positions."""
        layers = list(self.many) if many else [self._layer_of(node) for node in self.heads]
        flat = [layer(m).flatten(2) for layer, m in zip(layers, maps, strict=True)]
        return torch.cat(flat[0::2], 2).transpose(1, 2), torch.cat(flat[1::2], 2).transpose(1, 2)

    def anchors(self, size: int = 0) -> tuple[Tensor, Tensor]:
        """See :meth:`nnfactory.factory.supernet.network.Detector.anchors`."""
        return Detector.anchors(cast(Detector, self), size)

    @torch.no_grad()
    def reset_(self, branches: Iterable[str]) -> None:
        """Fresh weights, as a new supernet has them."""
        super().reset_(branches)
        for layers in ([self._layer_of(node) for node in self.heads], list(self.many)):
            for position, layer in enumerate(layers):
                conv = cast(nn.Conv2d, layer)
                nn.init.normal_(conv.weight, std=0.01)
                nn.init.constant_(cast(Tensor, conv.bias), 1.0 if position % 2 else -math.log(99.0))

    def _answering(self, folded: Network) -> Network:
        shape = self.architecture
        return with_detections(folded, shape.head_strides, shape.input_size)


def trainable(source: Network, architecture: Architecture) -> Trainable:
    """The network of a supernet of either kind, with its weights."""
    kind = Trainable if architecture.kind == "cls" else TrainableDetector
    layers = kind(source, architecture)
    return layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


_LAYERS = ("Conv", "BatchNormalization", "Gemm")


def _key(node: NodeProto) -> str:
    return node.name.strip("/").replace("/", "_").replace(".", "_")


def _layer(node: NodeProto, source: Network) -> nn.Module:
    """The torch layer of a node."""
    arrays = [source.weights[name] for name in node.input[1:]]
    out, inside = len(arrays[0]), arrays[0].shape[1:]
    layer: nn.Module
    if node.op_type == "Conv":
        layer = nn.Conv2d(
            inside[0], out, inside[1], attribute(node, "strides", [1, 1])[0],
            attribute(node, "pads", [0])[0], bias=len(arrays) > 1,
        )  # fmt: skip
    elif node.op_type == "Gemm":
        layer = nn.Linear(inside[0], out)
    else:
        layer = nn.BatchNorm2d(out, eps=attribute(node, "epsilon", 1e-5))
    with torch.no_grad():
        for value, array in zip(_tensors(layer), arrays, strict=True):
            value.copy_(torch.from_numpy(np.array(array)))
    return layer


def _tensors(layer: nn.Module) -> list[Tensor]:
    """Weights and statistics in the order of the inputs of the node."""
    names = ("weight", "bias", "running_mean", "running_var")
    found = [getattr(layer, name, None) for name in names]
    return [value for value in found if value is not None]
