"""The trained supernet as an ONNX network and a table of modules; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from ..graph.network import Array, Network
from ..schema import Module, OwnedRange, Slot
from .recipe import Architecture, padding_of

INPUT = "images"
EPSILON = 1e-5


def network_from_weights(
    architecture: Architecture, weights: Mapping[str, Array]
) -> tuple[Network, tuple[Slot, ...]]:
    """Write the supernet as a network with unfolded normalization, and list its modules.

    Args:
        architecture: Shape of the supernet.
        weights: Its parameters and buffers by state-dict name.

    Returns:
        The network, input ``images`` (1, 3, S, S) RGB in [0, 1], raw outputs ``logits`` (1, K), or
        ``classes{stride}`` (1, K, H, W) and ``boxes{stride}`` (1, 4, H, W); and its slots in
        execution order, the classes last.
    """
    builder = _Builder(architecture, weights)
    return builder.build()


class _Builder:
    """Adds nodes in execution order, and remembers what every slot owns."""

    def __init__(self, architecture: Architecture, weights: Mapping[str, Array]) -> None:
        self.architecture, self.source = architecture, weights
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.slots: list[Slot] = []
        self.outputs: dict[str, tuple[int, ...]] = {}

    def build(self) -> tuple[Network, tuple[Slot, ...]]:
        size = self.architecture.input_size
        maps = self._backbone(size)
        if self.architecture.kind == "cls":
            self._classifier(maps[-1])
        else:
            self._detector(maps, size)
        network = Network(
            name=f"supernet-{self.architecture.kind}",
            nodes=tuple(self.nodes),
            weights=self.weights,
            inputs={INPUT: (1, 3, size, size)},
            outputs=self.outputs,
        )
        return network, tuple(self.slots)

    def _backbone(self, size: int) -> list[str]:
        """Stem and stages; returns the stream after every stage."""
        shape = self.architecture
        self.weights["/stem/mean"] = np.array(shape.mean, np.float32).reshape(1, 3, 1, 1)
        centered = self._node("Sub", "/stem/center", [INPUT, "/stem/mean"])
        stream = self._conv_norm("/stem", "stem", centered, stride=shape.stem_stride)
        # Dividing by the standard deviation commutes with zero padding, so the kernel takes it.
        kernel = self.weights["stem.conv.weight"]
        std = np.array(shape.std, np.float32).reshape(1, 3, 1, 1)
        self.weights["stem.conv.weight"] = kernel / std
        stream = self._node("Relu", "/stem/relu", [stream])
        side, maps = size // shape.stem_stride, []
        for s, stage in enumerate(shape.stages):
            for b in range(stage.blocks):
                stride = 2 if b == 0 else 1
                side //= stride
                prefix = f"stages.{s}.{b}"
                stream = self._block(
                    f"stage{s}.block{b}", prefix, stream, stride, stage.group, side
                )
            maps.append(stream)
        return maps

    def _classifier(self, stream: str) -> None:
        active = self._node("Relu", "/head/relu", [stream])
        pooled = self._node("GlobalAveragePool", "/head/pool", [active])
        embedding = self._node("Flatten", "/head/flatten", [pooled], axis=1)
        self._copy("classes.weight", "classes.bias")
        inputs = [embedding, "classes.weight", "classes.bias"]
        self._node("Gemm", "/head/classes", inputs, output="logits", transB=1)
        self.outputs["logits"] = (1, self.architecture.classes)
        self._class_slot(["classes"], ["/head/classes"], ["logits"], area=1)

    def _detector(self, maps: list[str], size: int) -> None:
        shape = self.architecture
        levels = [shape.strides.index(stride) for stride in shape.head_strides]
        pyramid: dict[int, str] = {}
        above = ""
        self.weights["/neck/scales"] = np.array([1, 1, 2, 2], np.float32)
        for level in range(len(maps) - 1, min(levels) - 1, -1):
            name = f"/neck/stride{shape.strides[level]}"
            here = self._conv_norm(name, f"laterals.{level}", maps[level])
            if above:
                larger = self._node(
                    "Resize", f"{name}/upsample", [above, "", "/neck/scales"],
                    mode="nearest", coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor",
                )  # fmt: skip
                here = self._node("Add", f"{name}/add", [here, larger])
            pyramid[level] = above = here
        nodes, gated, prefixes, area = [], [], [], 0
        for index, (stride, level) in enumerate(zip(shape.head_strides, levels, strict=True)):
            side = size // stride
            for kind, blocks, channels in (
                ("classes", "class_heads", shape.classes), ("boxes", "box_heads", 4)
            ):  # fmt: skip
                features = self._block(
                    f"head{stride}.{kind}", f"{blocks}.{index}", pyramid[level], 1,
                    shape.head_group, side,
                )  # fmt: skip
                features = self._node("Relu", f"/head{stride}/{kind}/active", [features])
                prefix, output = f"{kind}.{index}", f"{kind}{stride}"
                self._copy(f"{prefix}.weight", f"{prefix}.bias")
                inputs = [features, f"{prefix}.weight", f"{prefix}.bias"]
                self._node(
                    "Conv", f"/head{stride}/{kind}/predict", inputs, output=output,
                    kernel_shape=[1, 1],
                )  # fmt: skip
                self.outputs[output] = (1, channels, side, side)
            nodes.append(f"/head{stride}/classes/predict")
            gated.append(f"classes{stride}")
            prefixes.append(f"classes.{index}")
            area += side * side
        self._class_slot(prefixes, nodes, gated, area=area)

    def _block(
        self, slot: str, prefix: str, stream: str, stride: int, group: int, side: int
    ) -> str:
        """One residual block; returns its output tensor and records its slot."""
        name = "/" + slot.replace(".", "/")
        expand, project = f"{prefix}.expand.conv.weight", f"{prefix}.project.conv.weight"
        identity = f"{prefix}.shortcut.conv.weight" not in self.source
        base = stream if identity else self._shortcut(name, prefix, stream, stride)
        first = len(self.nodes)
        normed = self._conv_norm(f"{name}/expand", f"{prefix}.expand", stream, stride=stride)
        hidden = self._node("Relu", f"{name}/relu", [normed])
        branch = self._conv_norm(f"{name}/project", f"{prefix}.project", hidden)
        output = self._node("Add", f"{name}/add", [base, branch])
        channels, c_in = self.weights[expand].shape[:2]
        c_out = self.weights[project].shape[0]
        size = group * (9 * c_in + c_out)
        modules = tuple(
            Module(
                slot=slot,
                index=index,
                owns=tuple(
                    OwnedRange(
                        tensor=tensor, axis=axis, start=index * group, stop=(index + 1) * group
                    )
                    for tensor, axis in (
                        (expand, 0),
                        *((f"{prefix}.expand.norm.{part}", 0) for part in _NORM_PARTS),
                        (project, 1),
                    )
                ),
                mparams=(size + group) / 1e6,
                mmacs=size * side * side / 1e6,
            )
            for index in range(channels // group)
        )
        self.slots.append(
            Slot(
                name=slot, kind="block", modules=modules, min_groups=0,
                nodes=tuple(node.name for node in self.nodes[first:]), gated=(hidden, normed),
                block_params=c_out, stream=base, branch=branch,
                output=output,
            )
        )  # fmt: skip
        return output

    def _shortcut(self, name: str, prefix: str, stream: str, stride: int) -> str:
        if stride == 2:
            stream = self._node(
                "AveragePool", f"{name}/pool", [stream], kernel_shape=[2, 2], strides=[2, 2]
            )
        return self._conv_norm(f"{name}/shortcut", f"{prefix}.shortcut", stream)

    def _class_slot(
        self, prefixes: list[str], nodes: list[str], gated: list[str], *, area: int
    ) -> None:
        """The classes as a slot: one module per class over all heads."""
        features = self.weights[f"{prefixes[0]}.weight"].shape[1]
        modules = tuple(
            Module(
                slot="classes",
                index=index,
                owns=tuple(
                    OwnedRange(tensor=f"{prefix}.{part}", axis=0, start=index, stop=index + 1)
                    for prefix in prefixes
                    for part in ("weight", "bias")
                ),
                mparams=len(prefixes) * (features + 1) / 1e6,
                mmacs=features * area / 1e6,
            )
            for index in range(self.architecture.classes)
        )
        self.slots.append(
            Slot(
                name="classes", kind="classes", modules=modules, min_groups=1,
                nodes=tuple(nodes), gated=tuple(gated),
            )
        )  # fmt: skip

    def _conv_norm(self, name: str, prefix: str, source: str, stride: int = 1) -> str:
        self._copy(f"{prefix}.conv.weight", *(f"{prefix}.norm.{part}" for part in _NORM_PARTS))
        kernel = self.weights[f"{prefix}.conv.weight"].shape[2]
        conv = self._node(
            "Conv", f"{name}/conv", [source, f"{prefix}.conv.weight"],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride], pads=[padding_of(kernel, stride)] * 4,
        )  # fmt: skip
        inputs = [conv, *(f"{prefix}.norm.{part}" for part in _NORM_PARTS)]
        return self._node("BatchNormalization", f"{name}/norm", inputs, epsilon=EPSILON)

    def _copy(self, *names: str) -> None:
        for name in names:
            self.weights[name] = np.asarray(self.source[name], np.float32)

    def _node(
        self, op: str, name: str, inputs: list[str], *, output: str = "", **attributes: Any
    ) -> str:
        node = helper.make_node(op, inputs, [output or f"{name}:0"], name=name, **attributes)
        self.nodes.append(node)
        return str(node.output[0])


_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")
