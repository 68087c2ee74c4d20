"""Peak memory of a network: which buffers exist at the same time.

They are those of ONNX Runtime's CPU provider in the hungriest of its layouts: convolutions work on
images whose channels are blocked by 16, other operators on plain ones, and a tensor that both of
them read exists twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from onnx import NodeProto

from .network import Network

BYTES = 4  # of a float32
BLOCK = 16  # channels
Shapes = Mapping[str, tuple[int, ...]]
_ELEMENTWISE = ("Relu", "BatchNormalization", "Sigmoid", "Softplus", "Clip", "Add", "Mul", "Sub")
_IN_PLACE = (*_ELEMENTWISE, "Reshape", "Flatten", "Unsqueeze", "Squeeze", "Softmax")
_EITHER = ("AveragePool", "MaxPool", "GlobalAveragePool", "Resize", "Concat")


class Buffer(NamedTuple):
    """Memory that holds a tensor.

    Attributes:
        tensor: Its name; the first one's where others are written over it.
        is_blocked: Whether its channels are filled up to a multiple of 16.
    """

    tensor: str
    is_blocked: bool


def live_buffers(network: Network, shapes: Shapes) -> list[set[Buffer]]:
    """Per node, the buffers that exist while it runs.

    Elementwise nodes write over an input that nothing reads afterwards, as runtimes do.

    Args:
        network: With its nodes in the order in which they run.
        shapes: Of its tensors.
    """
    blocked = _layouts(network, shapes)
    uses = _uses(network, shapes, blocked)
    homes = {name: Buffer(name, False) for name in network.inputs}
    spans = {home: (0, max(uses.get(home, [0]))) for home in homes.values()}
    for position, node in enumerate(network.nodes):
        data = [homes[name] for name in node.input if name in homes]
        for name in filter(None, node.output):
            mine = Buffer(name, blocked[name])
            dying = [home for home in data if spans[home][1] == position]
            homes[name] = _written_over(node, mine, dying, shapes) or mine
            start, end = spans.get(homes[name], (position, position))
            copy = Buffer(name, not mine.is_blocked)
            if copy in uses:  # made at once of a blocked tensor, of a plain one when it is read
                made = position if mine.is_blocked else min(uses[copy])
                spans[copy], end = (made, max(uses[copy])), max(end, made)
            spans[homes[name]] = (start, max([end, *uses.get(mine, [])]))
    live: list[set[Buffer]] = [set() for _ in network.nodes]
    for buffer, (start, end) in spans.items():
        for buffers in live[start : end + 1]:
            buffers.add(buffer)
    return live


def _layouts(network: Network, shapes: Shapes) -> dict[str, bool]:
    """Whether each tensor comes out of its node blocked."""
    blocked = dict.fromkeys(network.inputs, False)
    for node in network.nodes:
        inputs = [name for name in node.input if name in blocked]
        for name in filter(None, node.output):
            follows = node.op_type in _ELEMENTWISE or (
                node.op_type in _EITHER and not any(_channels(n, shapes) % BLOCK for n in inputs)
            )
            blocked[name] = node.op_type == "Conv" or (
                follows and bool(inputs) and all(blocked[n] for n in inputs)
            )
    return blocked


def _uses(network: Network, shapes: Shapes, blocked: Mapping[str, bool]) -> dict[Buffer, list[int]]:
    """Where every tensor is read, by the layout that its reader wants; outputs are plain."""
    uses: dict[Buffer, list[int]] = {}
    for position, node in enumerate(network.nodes):
        wants = blocked.get(next(filter(None, node.output), ""), False)
        for name in node.input:
            if name in blocked:  # a convolution reads the three colors as they are
                is_image = not blocked[name] and _channels(name, shapes) < BLOCK
                uses.setdefault(Buffer(name, wants and not is_image), []).append(position)
    for name in network.outputs:
        uses.setdefault(Buffer(name, False), []).append(len(network.nodes))
    return uses


def _channels(name: str, shapes: Shapes) -> int:
    return shapes[name][1] if len(shapes[name]) > 1 else 1


def _written_over(
    node: NodeProto, mine: Buffer, dying: Sequence[Buffer], shapes: Shapes
) -> Buffer | None:
    """The buffer that a node may write its output over: one of the same layout and size."""
    if node.op_type not in _IN_PLACE:
        return None
    wanted = activation_bytes({mine}, shapes)
    return next(
        (
            home
            for home in dying
            if home.is_blocked == mine.is_blocked and activation_bytes({home}, shapes) == wanted
        ),
        None,
    )


def activation_bytes(live: set[Buffer], shapes: Shapes) -> int:
    """Bytes of buffers that exist at the same time."""
    return sum(_bytes(shapes[buffer.tensor], buffer.is_blocked) for buffer in live)


def _bytes(shape: tuple[int, ...], is_blocked: bool) -> int:
    if is_blocked:
        shape = (shape[0], -(-shape[1] // BLOCK) * BLOCK, *shape[2:])
    return BYTES * math.prod(shape)


def peak_bytes(network: Network, shapes: Shapes) -> int:
    """Weights plus the largest sum of live activations, in bytes."""
    weights = sum(array.nbytes for array in network.weights.values())
    rows = live_buffers(network, shapes)
    return weights + max((activation_bytes(live, shapes) for live in rows), default=0)
