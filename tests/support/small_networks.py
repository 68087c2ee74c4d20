"""Small networks of random weights: plain, residual, inception, dense and others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import helper

from nnfactory.factory.graph.network import Network
from nnfactory.factory.graph.normalization import norms_as_convolutions

SIDE, CLASSES = 8, 3


class Net:
    """A network of random weights, layer by layer."""

    def __init__(self, seed: int = 0) -> None:
        self.rng, self.nodes, self.weights = np.random.default_rng(seed), [], {}
        self.width = {"images": 3}

    def conv(self, x: str, out: str, width: int, kernel: int = 3, **attributes) -> str:
        groups = attributes.get("group", 1)
        shape = (width, self.width[x] // groups, kernel, kernel)
        scale = (shape[1] * kernel * kernel) ** -0.5
        self.weights[f"{out}.w"] = (scale * self.rng.normal(size=shape)).astype(np.float32)
        self.weights[f"{out}.b"] = (0.1 * self.rng.normal(size=width)).astype(np.float32)
        self.add("Conv", [x, f"{out}.w", f"{out}.b"], out, pads=[kernel // 2] * 4, **attributes)
        self.width[out] = width
        return out

    def add(self, op: str, inputs: Sequence[str], out: str, **attributes) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        widths = [self.width[name] for name in inputs if name in self.width]
        self.width[out] = sum(widths) if op == "Concat" else widths[0]
        return out

    def norm(self, x: str, out: str) -> str:
        for part, low in (("scale", 0.5), ("shift", -0.5), ("mean", -0.5), ("variance", 0.5)):
            drawn = self.rng.uniform(low, low + 1, self.width[x])
            self.weights[f"{out}.{part}"] = drawn.astype(np.float32)
        parts = [f"{out}.{part}" for part in ("scale", "shift", "mean", "variance")]
        return self.add("BatchNormalization", [x, *parts], out)

    def relu(self, x: str) -> str:
        return self.add("Relu", [x], f"{x}.r")

    def network(self, x: str) -> Network:
        self.add("GlobalAveragePool", [x], "mean")
        self.add("Flatten", ["mean"], "vector")
        shape = (CLASSES, self.width[x])
        self.weights["fc.w"] = self.rng.normal(size=shape).astype(np.float32)
        self.weights["fc.b"] = self.rng.normal(size=CLASSES).astype(np.float32)
        self.nodes.append(
            helper.make_node("Gemm", ["vector", "fc.w", "fc.b"], ["logits"], transB=1)
        )
        return Network(
            name="net", nodes=tuple(self.nodes), weights=self.weights,
            inputs={"images": (1, 3, SIDE, SIDE)}, outputs={"logits": (1, CLASSES)},
        )  # fmt: skip


def plain(seed: int = 0) -> Network:
    net = Net(seed)
    x = net.relu(net.conv("images", "c1", 8))
    x = net.relu(net.conv(x, "c2", 8, strides=[2, 2]))
    return net.network(net.relu(net.conv(x, "c3", 6)))


def residual(seed: int = 0) -> Network:
    net = Net(seed)
    x = net.relu(net.conv("images", "stem", 6))
    for block in "ab":
        y = net.relu(net.conv(x, f"{block}1", 8))
        x = net.relu(net.add("Add", [net.conv(y, f"{block}2", 6), x], f"{block}sum"))
    return net.network(x)


def bottleneck(seed: int = 0) -> Network:
    """A branch of three layers beside a projection, and a stem that both read."""
    net = Net(seed)
    x = net.relu(net.conv("images", "stem", 8))
    y = net.relu(net.conv(x, "inner1", 6, kernel=1))
    y = net.relu(net.conv(y, "inner2", 6))
    y = net.conv(y, "inner3", 8, kernel=1)
    return net.network(net.relu(net.add("Add", [y, net.conv(x, "side", 8, kernel=1)], "sum")))


def inception(seed: int = 0) -> Network:
    net = Net(seed)
    x = net.relu(net.conv("images", "stem", 6))
    one = net.relu(net.conv(x, "one", 4, 1))
    two = net.relu(net.conv(net.relu(net.conv(x, "two1", 4, 1)), "two2", 6))
    x = net.add("Concat", [one, two], "cat", axis=1)
    return net.network(net.relu(net.conv(x, "last", 5, 1)))


def depthwise(seed: int = 0) -> Network:
    net = Net(seed)
    x = net.relu(net.conv("images", "stem", 6))
    y = net.relu(net.conv(x, "up", 8, 1))
    y = net.relu(net.conv(y, "dw", 8, group=8))
    return net.network(net.add("Add", [net.conv(y, "down", 6, 1), x], "sum"))


def split(seed: int = 0, first: int = 4) -> Network:
    """One layer's output in two parts with readers of their own."""
    net = Net(seed)
    x = net.relu(net.conv("images", "c1", 10))
    net.weights["sizes"] = np.array([first, 10 - first], np.int64)
    net.nodes.append(helper.make_node("Split", [x, "sizes"], ["p", "q"], axis=1))
    net.width |= {"p": first, "q": 10 - first}
    one, two = net.relu(net.conv("p", "one", 4, 1)), net.relu(net.conv("q", "two", 4))
    return net.network(net.add("Concat", [one, two], "cat", axis=1))


def two_branches(seed: int = 0) -> Network:
    """A sum of which both sides end in a layer that reads a family of its own."""
    net = Net(seed)
    x = net.relu(net.conv("images", "stem", 6))
    sides = [net.conv(net.relu(net.conv(x, f"{s}1", 8)), f"{s}2", 6) for s in "ab"]
    return net.network(net.relu(net.add("Add", sides, "sum")))


def broadcast(seed: int = 0) -> Network:
    """A layer's output with what is one number a channel added to it."""
    net = Net(seed)
    x = net.relu(net.conv("images", "stem", 6))
    y = net.conv(net.relu(net.conv(x, "a1", 8)), "a2", 6)
    return net.network(net.add("Add", [y, net.add("GlobalAveragePool", [x], "level")], "sum"))


def dense(seed: int = 0) -> Network:
    """Every layer reads what all before it made, normalized and rectified first."""
    net = Net(seed)
    x = net.conv("images", "stem", 6)
    for block in "ab":
        y = net.conv(net.relu(net.norm(x, f"{block}0")), f"{block}1", 8, 1)
        y = net.conv(net.relu(net.norm(y, f"{block}n")), f"{block}2", 4)
        x = net.add("Concat", [x, y], f"{block}cat", axis=1)
    return norms_as_convolutions(net.network(net.relu(net.norm(x, "last"))))


def preactivated(seed: int = 0) -> Network:
    """Residual blocks that normalize and rectify before they convolve."""
    net = Net(seed)
    x = net.conv("images", "stem", 6)
    for block in "ab":
        y = net.conv(net.relu(net.norm(x, f"{block}0")), f"{block}1", 8)
        y = net.conv(net.relu(net.norm(y, f"{block}n")), f"{block}2", 6)
        x = net.add("Add", [x, y], f"{block}sum")
    return norms_as_convolutions(net.network(net.relu(net.norm(x, "last"))))


NETS = {
    "split": split,
    "two branches": two_branches,
    "broadcast": broadcast,
    "plain": plain,
    "residual": residual,
    "bottleneck": bottleneck,
    "inception": inception,
    "depthwise": depthwise,
    "dense": dense,
    "preactivated": preactivated,
}
