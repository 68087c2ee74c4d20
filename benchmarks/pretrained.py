"""Public pretrained networks of the data folder, built as ONNX from their weights.

The graphs follow the notes beside the weights. Inputs are images that are already normalized with
the ``mean`` and ``std`` of a :class:`Pretrained`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, helper
from safetensors.numpy import load_file

from nnfactory.factory.graph.network import Array, Network

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


@dataclass(frozen=True)
class Pretrained:
    """A network and what its input must be.

    Attributes:
        network: Raw outputs: logits, or the maps of a detector.
        mean: Per color, of pixels in [0, 1].
        std: The same.
        colors: "RGB" or "BGR".
        licence: Of the weights.
    """

    network: Network
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    colors: str = "RGB"


@dataclass
class _Graph:
    """A graph that grows by layers named as in the weights."""

    state: Mapping[str, Array]
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)

    def add(self, op: str, inputs: Sequence[str], name: str, **options: Any) -> str:
        name = name or f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}:0"], name=name, **options))
        return f"{name}:0"

    def weight(self, name: str, array: Array) -> str:
        self.weights[name] = np.asarray(array)
        return name

    def conv(
        self, x: str, name: str, *, stride: int = 1, pad: int | None = None, groups: int = 1,
        kernel: Array | None = None, bias: Array | None = None, same: bool = False,
        call: str = "",
    ) -> str:  # fmt: skip
        """A convolution; ``call`` names further uses of the same weights."""
        kernel = self.state[f"{name}.weight"] if kernel is None else kernel
        if bias is None:
            bias = self.state.get(f"{name}.bias")
        inputs = [x, self.weight(f"{name}.weight", kernel.astype(np.float32))]
        if bias is not None:
            inputs.append(self.weight(f"{name}.bias", bias.astype(np.float32)))
        side = kernel.shape[2] // 2 if pad is None else pad
        padding: dict[str, Any] = {"auto_pad": "SAME_UPPER"} if same else {"pads": [side] * 4}
        return self.add(
            "Conv", inputs, name + call, strides=[stride] * 2, group=groups,
            kernel_shape=list(kernel.shape[2:]), **padding,
        )  # fmt: skip

    def norm(self, x: str, name: str, *, eps: float = 1e-5) -> str:
        scale = self.state[f"{name}.weight"].astype(np.float32)
        rows = {
            "weight": scale, "bias": self.state[f"{name}.bias"],
            "running_mean": self.state.get(f"{name}.running_mean", np.zeros_like(scale)),
            "running_var": self.state.get(f"{name}.running_var", np.ones_like(scale)),
        }  # fmt: skip
        inputs = [self.weight(f"{name}.{key}", a.astype(np.float32)) for key, a in rows.items()]
        return self.add("BatchNormalization", [x, *inputs], name, epsilon=eps)

    def relu(self, x: str) -> str:
        return self.add("Relu", [x], "")

    def plus(self, x: str, y: str) -> str:
        return self.add("Add", [x, y], "")

    def strided(self, x: str, axes: Sequence[int], starts: Sequence[int]) -> str:
        """Every second element along axes."""
        number = len(self.nodes)
        constants = [
            self.weight(f"slice{number}.{key}", np.array(rows, np.int64))
            for key, rows in (
                ("starts", starts), ("ends", [2**31 - 1] * len(axes)), ("axes", axes),
                ("steps", [2] * len(axes)),
            )
        ]  # fmt: skip
        return self.add("Slice", [x, *constants], "")

    def max_pool(self, x: str) -> str:
        return self.add("MaxPool", [x], "", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)

    def classifier(self, x: str, name: str, matrix: Array | None = None) -> str:
        """Average over space, then a linear layer."""
        x = self.add("Flatten", [self.add("GlobalAveragePool", [x], "")], "", axis=1)
        matrix = self.state[f"{name}.weight"] if matrix is None else matrix
        inputs = [
            self.weight(f"{name}.weight", matrix.astype(np.float32)),
            self.weight(f"{name}.bias", self.state[f"{name}.bias"].astype(np.float32)),
        ]
        return self.add("Gemm", [x, *inputs], name, transB=1)

    def network(
        self, name: str, size: int, outputs: Mapping[str, str], shapes: Sequence[tuple[int, ...]]
    ) -> Network:
        """The graph so far; ``outputs`` maps names to tensors."""
        nodes = list(self.nodes)
        for out, tensor in outputs.items():
            nodes.append(helper.make_node("Identity", [tensor], [out], name=f"{out}.is"))
        return Network(
            name=name, nodes=tuple(nodes), weights=dict(self.weights),
            inputs={"images": (1, 3, size, size)},
            outputs=dict(zip(outputs, shapes, strict=True)),
        )  # fmt: skip


def cifar_resnet(folder: Path, depth: int) -> Pretrained:
    """ResNet-20, 32, 44 or 56 for CIFAR-10."""
    graph = _Graph(load_file(folder / f"cifar10_resnet{depth}.safetensors"))
    x = graph.relu(graph.norm(graph.conv("images", "conv1"), "bn1"))
    width = 16
    for stage in (1, 2, 3):
        for block in range((depth - 2) // 6):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = graph.conv(x, f"{name}.conv1", stride=stride)
            y = graph.conv(graph.relu(graph.norm(y, f"{name}.bn1")), f"{name}.conv2")
            y = graph.norm(y, f"{name}.bn2")
            if stride == 2:
                x = graph.strided(x, [2, 3], [0, 0])
                pads = graph.weight(
                    f"{name}.pads", np.array([0, width // 2, 0, 0, 0, width // 2, 0, 0], np.int64)
                )
                x = graph.add("Pad", [x, pads], "")
                width *= 2
            x = graph.relu(graph.plus(y, x))
    logits = graph.classifier(x, "linear")
    network = graph.network(f"resnet{depth}", 32, {"logits": logits}, [(1, 10)])
    return Pretrained(network, MEAN, STD, "BSD-2-Clause")


def resnet8(folder: Path) -> Pretrained:
    """ResNet-8 of MLPerf Tiny, for pixels of 0 to 255."""
    graph = _Graph(load_file(folder / "cifar10_resnet8_mlperftiny.safetensors"))

    def step(x: str, conv: int, norm: int, stride: int = 1) -> str:
        y = graph.conv(x, f"conv2d_{conv}" if conv else "conv2d", stride=stride, same=True)
        name = f"batch_normalization_{norm}" if norm else "batch_normalization"
        return graph.norm(y, name, eps=1e-3)

    x = graph.relu(step("images", 0, 0))
    x = graph.relu(graph.plus(x, step(graph.relu(step(x, 1, 1)), 2, 2)))
    for first, norm, shortcut in ((3, 3, 5), (6, 5, 8)):
        y = step(graph.relu(step(x, first, norm, 2)), first + 1, norm + 1)
        x = graph.conv(x, f"conv2d_{shortcut}", stride=2, same=True)
        x = graph.relu(graph.plus(x, y))
    logits = graph.classifier(x, "dense")
    network = graph.network("resnet8", 32, {"logits": logits}, [(1, 10)])
    return Pretrained(network, (0.0,) * 3, (1 / 255,) * 3, "Apache-2.0")


def mobilenet(folder: Path, name: str) -> Pretrained:
    """MobileNetV1 or V2 for ImageNet, quantized weights made real; 1000 logits."""
    graph = _Graph(load_file(folder / f"{name}.safetensors"))
    table = json.loads((folder / f"{name}.graph.json").read_text())
    size = table["input_quant"]["shape"][1]
    tensors = {table["input"]: "images"}
    for op in table["ops"]:
        inputs = [tensors[i] for i in op["inputs"] if i in tensors]
        if "layer" in op:
            kernel, bias = _dequantized(graph.state, op["layer"])
            if op["layer"].startswith("Logits"):
                kernel, bias = kernel[1:], bias[1:]  # without the background
            y = graph.conv(
                inputs[0], op["layer"], stride=op["stride"], groups=op["groups"], kernel=kernel,
                bias=bias, same=True,
            )  # fmt: skip
            if op["activation"] == "relu6":
                low, high = (graph.weight(f"/{n}", np.array(n, np.float32)) for n in (0, 6))
                y = graph.add("Clip", [y, low, high], "")
        elif op["op"] == "ADD":
            y = graph.plus(*inputs)
        elif op["op"] == "AVERAGE_POOL_2D":
            y = graph.add("GlobalAveragePool", inputs, "")
        elif op["op"] == "RESHAPE":
            logits = graph.add("Flatten", inputs, "", axis=1)
            break
        tensors[op["outputs"][0]] = y
    network = graph.network(name, size, {"logits": logits}, [(1, 1000)])
    return Pretrained(network, (128 / 255,) * 3, (128 / 255,) * 3, "Apache-2.0")


def _dequantized(state: Mapping[str, Array], layer: str) -> tuple[Array, Array]:
    quantized = state[f"{layer}.weight_q"].astype(np.float32)
    zero = state[f"{layer}.weight_zero_point"].astype(np.float32)
    kernel = (quantized - zero) * state[f"{layer}.weight_scale"]
    bias = state[f"{layer}.bias_q"].astype(np.float32) * state[f"{layer}.bias_scale"]
    return kernel, bias


def imagenet_resnet(folder: Path, depth: int, *, size: int = 192) -> Pretrained:
    """ResNet-18 or 50 for ImageNet, from product-quantized weights."""
    name = f"imagenet_resnet{depth}_pq"
    state = load_file(folder / f"{name}.safetensors")
    layers = json.loads((folder / f"{name}.layers.json").read_text())
    graph = _Graph(state)

    def conv(x: str, layer: str, stride: int = 1) -> str:
        kernel = state.get(f"{layer}.weight")
        if kernel is None:
            kernel = _decoded(state, layers, layer)
        return graph.conv(x, layer, stride=stride, kernel=kernel)

    x = graph.relu(graph.norm(conv("images", "conv1", 2), "bn1"))
    x = graph.max_pool(x)
    for stage, blocks in enumerate({18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth], 1):
        for block in range(blocks):
            layer, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            strides = (stride, 1) if depth == 18 else (1, stride, 1)
            y = x
            for position, step in enumerate(strides, 1):
                y = graph.norm(conv(y, f"{layer}.conv{position}", step), f"{layer}.bn{position}")
                y = graph.relu(y) if position < len(strides) else y
            if f"{layer}.downsample.1.weight" in state:
                x = conv(x, f"{layer}.downsample.0", stride)
                x = graph.norm(x, f"{layer}.downsample.1")
            x = graph.relu(graph.plus(y, x))
    matrix = _decoded(state, layers, "fc")
    logits = graph.classifier(x, "fc", matrix)
    network = graph.network(name, size, {"logits": logits}, [(1, 1000)])
    return Pretrained(network, MEAN, STD, "CC-BY-NC-4.0")


def _decoded(state: Mapping[str, Array], layers: Mapping[str, str], layer: str) -> Array:
    """Weights from centroids and assignments: (out, in, k, k) or (out, in)."""
    options = dict(part.split("=") for part in layers[layer].split(","))
    columns = state[f"{layer}.centroids"].astype(np.float32)[state[f"{layer}.assignments"]]
    blocks = int(options["n_blocks"])
    matrix = np.concatenate(np.split(columns.T, blocks, axis=1), axis=0)  # (in * k * k, out)
    if options["is_conv"] == "0":
        return np.asarray(matrix.T)
    k = int(options["k"])
    return np.asarray(matrix.T.reshape(matrix.shape[1], -1, k, k))


def _shufflenet(graph: _Graph) -> dict[str, str]:
    """The backbone of both COCO detectors: the outputs of its stages."""
    prefix = "backbone."
    x = graph.conv("images", f"{prefix}first_conv.0", stride=2)
    x = graph.max_pool(graph.relu(graph.norm(x, f"{prefix}first_conv.1")))
    outputs = {}
    for stage, blocks in (("stage2", 4), ("stage3", 8), ("stage4", 4)):
        for block in range(blocks):
            name = f"{prefix}{stage}.{block}"
            if block:
                kept, x = graph.strided(x, [1], [0]), graph.strided(x, [1], [1])
            else:
                y = _depthwise(graph, x, f"{name}.branch_proj.0", stride=2)
                y = graph.conv(graph.norm(y, f"{name}.branch_proj.1"), f"{name}.branch_proj.2")
                kept = graph.relu(graph.norm(y, f"{name}.branch_proj.3"))
            y = graph.conv(x, f"{name}.branch_main.0")
            y = graph.relu(graph.norm(y, f"{name}.branch_main.1"))
            y = _depthwise(graph, y, f"{name}.branch_main.3", stride=1 if block else 2)
            y = graph.conv(graph.norm(y, f"{name}.branch_main.4"), f"{name}.branch_main.5")
            y = graph.relu(graph.norm(y, f"{name}.branch_main.6"))
            x = graph.add("Concat", [kept, y], "", axis=1)
        outputs[stage] = x
    return outputs


def _depthwise(graph: _Graph, x: str, name: str, *, stride: int = 1, call: str = "") -> str:
    groups = graph.state[f"{name}.weight"].shape[0]
    return graph.conv(x, name, stride=stride, groups=groups, call=call)


def _doubled(graph: _Graph, x: str) -> str:
    """Nearest-neighbor upsampling by two."""
    scales = graph.weight(f"/scales{len(graph.nodes)}", np.array([1, 1, 2, 2], np.float32))
    return graph.add(
        "Resize", [x, "", scales], "", mode="nearest",
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip


def fastestdet(folder: Path, *, size: int = 352) -> Pretrained:
    """FastestDet for COCO: maps of objectness, boxes and class logits at stride 16."""
    graph = _Graph(load_file(folder / "coco_fastestdet.safetensors"))
    stages = _shufflenet(graph)
    small = graph.add(
        "AveragePool", [stages["stage2"]], "", kernel_shape=[3, 3], strides=[2, 2],
        pads=[1] * 4, count_include_pad=1,
    )  # fmt: skip
    large = _doubled(graph, stages["stage4"])
    x = graph.add("Concat", [small, stages["stage3"], large], "", axis=1)
    x = graph.conv(x, "SPP.Conv1x1.conv1x1.0")
    x = graph.relu(graph.norm(x, "SPP.Conv1x1.conv1x1.1"))
    parts = []
    for branch in (1, 2, 3):
        y = x
        for step in range(branch):
            y = _depthwise(graph, y, f"SPP.S{branch}.{3 * step}")
            y = graph.relu(graph.norm(y, f"SPP.S{branch}.{3 * step + 1}"))
        parts.append(y)
    y = graph.conv(graph.add("Concat", parts, "", axis=1), "SPP.output.0")
    x = graph.relu(graph.plus(x, graph.norm(y, "SPP.output.1")))
    x = graph.conv(x, "detect_head.conv1x1.conv1x1.0")
    x = graph.relu(graph.norm(x, "detect_head.conv1x1.conv1x1.1"))
    outputs = {}
    for head in ("obj", "reg", "cls"):
        name = f"detect_head.{head}_layers.conv5x5"
        y = graph.relu(graph.norm(_depthwise(graph, x, f"{name}.0"), f"{name}.1"))
        outputs[head] = graph.norm(graph.conv(y, f"{name}.3"), f"{name}.4")
    side = size // 16
    shapes = [(1, width, side, side) for width in (1, 4, 80)]
    network = graph.network("fastestdet", size, outputs, shapes)
    return Pretrained(network, (0.0,) * 3, (1.0,) * 3, "BSD-3-Clause", "BGR")


def yolo_fastestv2(folder: Path, *, size: int = 352) -> Pretrained:
    """Yolo-FastestV2 for COCO: maps of boxes, objectness and class logits at strides 16 and 32."""
    graph = _Graph(load_file(folder / "coco_yolo_fastestv2.safetensors"))
    stages = _shufflenet(graph)
    small = graph.conv(stages["stage4"], "fpn.conv1x1_3.0")
    small = graph.relu(graph.norm(small, "fpn.conv1x1_3.1"))
    large = graph.add("Concat", [_doubled(graph, stages["stage4"]), stages["stage3"]], "", axis=1)
    large = graph.relu(graph.norm(graph.conv(large, "fpn.conv1x1_2.0"), "fpn.conv1x1_2.1"))
    outputs, shapes = {}, []
    for level, x, side in ((2, large, size // 16), (3, small, size // 32)):
        heads = {}
        for head in ("cls", "reg"):
            name, y = f"fpn.{head}_head_{level}.block", x
            for first in (0, 5):
                y = _depthwise(graph, y, f"{name}.{first}")
                y = graph.relu(graph.norm(y, f"{name}.{first + 1}"))
                y = graph.norm(graph.conv(y, f"{name}.{first + 3}"), f"{name}.{first + 4}")
            heads[head] = y
        for out, head, width in (("reg", "reg", 12), ("obj", "cls", 3), ("cls", "cls", 80)):
            layer = f"output_{out}_layers"
            outputs[f"{out}{level}"] = graph.conv(heads[head], layer, call=f".{level}")
            shapes.append((1, width, side, side))
    network = graph.network("yolo-fastestv2", size, outputs, shapes)
    return Pretrained(network, (0.0,) * 3, (1.0,) * 3, "none stated", "BGR")


_V1, _V2 = "imagenet_mobilenet_v1", "imagenet_mobilenet_v2"
MAKERS: Mapping[str, Callable[[Path], Pretrained]] = {
    "resnet8": resnet8,
    **{f"resnet{d}": partial(cifar_resnet, depth=d) for d in (20, 32, 44, 56)},
    "mobilenet-v1-0.25": lambda folder: mobilenet(folder, f"{_V1}_0.25_128_u8"),
    "mobilenet-v1-0.5": lambda folder: mobilenet(folder, f"{_V1}_0.5_160_u8"),
    "mobilenet-v1-0.75": lambda folder: mobilenet(folder, f"{_V1}_0.75_192_u8"),
    "mobilenet-v2": lambda folder: mobilenet(folder, f"{_V2}_1.0_224_u8"),
    "imagenet-resnet18": lambda folder: imagenet_resnet(folder, 18),
    "imagenet-resnet50": lambda folder: imagenet_resnet(folder, 50),
    "fastestdet": fastestdet,
    "yolo-fastestv2": yolo_fastestv2,
}  # fmt: skip


@cache
def pretrained(data_dir: Path, name: str) -> Pretrained:
    """A network by name, see ``MAKERS``."""
    return MAKERS[name](data_dir / "pretrained")
