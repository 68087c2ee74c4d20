"""Nodes that are added behind a network, such as those that make an answer of raw outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, helper

from .network import Array


class Appender:
    """Collects nodes, and constants, with generated names.

    Attributes:
        nodes: In order.
        weights: By name.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, Array] = {}

    def add(self, op: str, inputs: list[str], *, output: str = "", **attributes: Any) -> str:
        """Add a node; the tensor that it writes."""
        name = f"/answer/{op.lower()}{len(self.nodes)}"
        node = helper.make_node(op, inputs, [output or name], name=name, **attributes)
        self.nodes.append(node)
        return str(node.output[0])

    def add2(self, op: str, inputs: list[str], **attributes: Any) -> tuple[str, str]:
        """Add a node that writes values and their positions."""
        name = self.add(op, inputs, **attributes)
        self.nodes[-1].output.append(f"{name}.index")
        return name, f"{name}.index"

    def flat(self, name: str, channels: int) -> str:
        """(1, channels, H * W) of a map."""
        return self.add("Reshape", [name, self.int64([1, channels, -1])])

    def int64(self, values: list[int]) -> str:
        """A constant list of whole numbers."""
        return self._constant(np.array(values, np.int64))

    def float32(self, value: object) -> str:
        """A constant number or array."""
        return self._constant(np.asarray(value, np.float32))

    def _constant(self, array: Array) -> str:
        name = f"/answer/constant{len(self.weights)}"
        self.weights[name] = array
        return name
