"""From the raw maps of a foreign detector to the 100 best boxes.

Boxes overlap that mean the same object, and these networks were trained to be followed by greedy
non-maximum suppression. It is done here with plain operators of fixed shapes, which every runtime
has: the best boxes are compared pair by pair, and what a better box overlaps is struck out, round
by round, only by what was not struck out itself.

Source:
    Decoding as in the projects FastestDet and Yolo-FastestV2 (dog-qiuqiu). Rounds of suppression:
    Zheng et al., "Enhancing Geometric Factors in Model Learning and Inference for Object Detection
    and Instance Segmentation", arXiv:2005.03572 (cluster NMS): the greedy result once nothing
    changes any more, which takes as many rounds as boxes overlap in a row; eight rounds here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..graph.appender import Appender
from ..graph.network import Array, Network
from ..graph.postprocess import DETECTIONS, OUTPUT
from .detection_head import DetectionHead, HeadMap

CANDIDATES = 200  # boxes that are compared with each other
OVERLAP = 0.45  # intersection over union above which a box means the same object
ROUNDS = 8  # an even number: where it is too small, a box too many is left
OBJECT_POWER, CLASS_POWER = 0.6, 0.4  # of FastestDet's score
SCORES = "scores"


def with_scores(network: Network, head: DetectionHead, classes: int) -> Network:
    """Raw maps made scores in [0, 1]: output "scores" (1, K, A) over all positions and anchors.

    Args:
        network: With the outputs that ``head`` names; class maps of more than ``classes`` channels
            end with what is none of them.
        head: Of the network.
        classes: K.
    """
    graph = Appender()
    scores = _scores(graph, head, network, classes, output=SCORES)
    count = sum(_cells(network, one) for one in head.maps)
    return _appended(network, graph, {scores: (1, classes, count)})


def with_suppressed_boxes(network: Network, head: DetectionHead, classes: int) -> Network:
    """Append decoding and suppression: ``output0`` (1, 100, 6), best first.

    A row is x1, y1, x2, y2 in input pixels, score, class; a row that is left over is all zero.

    Args:
        network: As in :func:`with_scores`.
        head: Of the network.
        classes: How many.
    """
    graph, (size,) = Appender(), {shape[2] for shape in network.inputs.values()}
    count = sum(_cells(network, one) for one in head.maps)
    kept, least = min(CANDIDATES, count), min(DETECTIONS, count)
    scores = _scores(graph, head, network, classes)
    every = [_boxes(graph, head.format, one, network, size) for one in head.maps]
    boxes = every[0] if len(every) == 1 else graph.add("Concat", every, axis=2)  # (1, 4, A)
    best = graph.add("ReduceMax", [scores], axes=[1], keepdims=0)  # (1, A)
    label = graph.add("ArgMax", [scores], axis=1, keepdims=0)
    top, index = graph.add2("TopK", [best, graph.int64([kept])], axis=1)  # (1, k)
    rows = graph.add("Reshape", [index, graph.int64([kept])])
    sides = graph.add("Gather", [boxes, rows], axis=2)  # (1, 4, k)
    chosen = graph.add("Cast", [graph.add("GatherElements", [label, index], axis=1)], to=1)
    left = unsuppressed(graph, sides, chosen, kept, size)  # (1, k)
    top = graph.add("Mul", [top, left])
    sides = graph.add("Clip", [sides, graph.float32(0.0), graph.float32(float(size))])
    last, order = graph.add2("TopK", [top, graph.int64([least])], axis=1)
    order = graph.add("Reshape", [order, graph.int64([least])])
    parts = [
        graph.add("Gather", [graph.add("Transpose", [sides], perm=[0, 2, 1]), order], axis=1),
        graph.add("Unsqueeze", [last, graph.int64([2])]),
        graph.add("Unsqueeze", [graph.add("Gather", [chosen, order], axis=1), graph.int64([2])]),
    ]
    table = graph.add("Concat", parts, axis=2)
    used = graph.add("Cast", [graph.add("Greater", [parts[1], graph.float32(0.0)])], to=1)
    missing = np.zeros((1, DETECTIONS - least, 6), np.float32)
    if least == DETECTIONS:
        graph.add("Mul", [table, used], output=OUTPUT)
    else:
        table = graph.add("Mul", [table, used])
        graph.add("Concat", [table, graph.float32(missing)], axis=1, output=OUTPUT)
    return _appended(network, graph, {OUTPUT: (1, DETECTIONS, 6)})


def _appended(network: Network, graph: Appender, outputs: dict[str, tuple[int, ...]]) -> Network:
    return replace(
        network, nodes=(*network.nodes, *graph.nodes),
        weights={**network.weights, **graph.weights}, outputs=outputs,
    )  # fmt: skip


def _cells(network: Network, one: HeadMap) -> int:
    """Positions times anchors."""
    _, anchors, height, width = network.outputs[one.objectness]
    return anchors * height * width


def _scores(
    graph: Appender, head: DetectionHead, network: Network, classes: int, output: str = ""
) -> str:
    """Per class (1, K, A)."""
    parts = []
    for one in head.maps:
        channels = network.outputs[one.classes][1]
        shown = graph.add("Softmax", [graph.flat(one.classes, channels)], axis=1)
        if channels > classes:
            shown = graph.add("Slice", [shown, *map(graph.int64, ([0], [classes], [1]))])
        real = graph.add("Sigmoid", [one.objectness])
        if head.format == "fastestdet":
            real = graph.add("Pow", [real, graph.float32(OBJECT_POWER)])
            shown = graph.add("Pow", [shown, graph.float32(CLASS_POWER)])
        anchors = network.outputs[one.objectness][1]
        shown = graph.add("Unsqueeze", [shown, graph.int64([2])])  # (1, K, 1, H * W)
        real = graph.add("Reshape", [real, graph.int64([1, 1, anchors, -1])])
        product = graph.add("Mul", [shown, real])
        parts.append(graph.add("Reshape", [product, graph.int64([1, classes, -1])]))
    return graph.add("Concat", parts, axis=2, **({"output": output} if output else {}))


def _boxes(graph: Appender, format: str, one: HeadMap, network: Network, size: int) -> str:
    """Corners in pixels (1, 4, A) of the boxes of a map."""
    _, _, height, width = network.outputs[one.boxes]
    anchors = max(1, len(one.anchors))
    raw = graph.add("Reshape", [one.boxes, graph.int64([anchors, 4, height * width])])
    at, extent = (
        graph.add("Slice", [raw, *map(graph.int64, ([start], [start + 2], [1]))])
        for start in (0, 2)
    )  # (A, 2, H * W)
    y, x = np.divmod(np.arange(height * width), width)
    grid = np.stack([x, y])[None]
    if format == "fastestdet":
        across = np.array([size / width, size / height])[None, :, None]
        moved = graph.add("Add", [graph.add("Tanh", [at]), graph.float32(grid)])
        middle = graph.add("Mul", [moved, graph.float32(across)])
        spread = graph.add("Mul", [graph.add("Sigmoid", [extent]), graph.float32(float(size))])
    else:
        shift = graph.add("Mul", [graph.add("Sigmoid", [at]), graph.float32(2.0 * one.stride)])
        middle = graph.add("Add", [shift, graph.float32((grid - 0.5) * one.stride)])
        twice = graph.add("Mul", [graph.add("Sigmoid", [extent]), graph.float32(2.0)])
        square = graph.add("Mul", [twice, twice])
        spread = graph.add("Mul", [square, graph.float32(np.array(one.anchors)[:, :, None])])
    half = graph.add("Mul", [spread, graph.float32(0.5)])
    corners = graph.add(
        "Concat", [graph.add("Sub", [middle, half]), graph.add("Add", [middle, half])], axis=1
    )  # (A, 4, H * W)
    turned = graph.add("Transpose", [corners], perm=[1, 0, 2])
    return graph.add("Reshape", [turned, graph.int64([1, 4, -1])])


def unsuppressed(graph: Appender, sides: str, labels: str, count: int, size: int) -> str:
    """1 for every box that no better one of its class overlaps, else 0: (1, k).

    Args:
        graph: What grows.
        sides: Corners (1, 4, k), best first.
        labels: Classes (1, k), as numbers.
        count: k.
        size: Of the image; boxes of other classes are moved away by more than that.
    """
    away = graph.add("Mul", [labels, graph.float32(4.0 * size)])
    apart = graph.add("Add", [sides, graph.add("Unsqueeze", [away, graph.int64([1])])])
    low, high = (
        graph.add("Slice", [apart, *map(graph.int64, ([start], [start + 2], [1]))])
        for start in (0, 2)
    )  # (1, 2, k)
    here, there = graph.int64([2]), graph.int64([3])
    lows = [graph.add("Unsqueeze", [low, axis]) for axis in (there, here)]
    highs = [graph.add("Unsqueeze", [high, axis]) for axis in (there, here)]
    extent = graph.add("Sub", [graph.add("Min", highs), graph.add("Max", lows)])
    shared = graph.add("Relu", [extent])
    overlap = graph.add("ReduceProd", [shared], axes=[1], keepdims=0)  # (1, k, k)
    area = graph.add("ReduceProd", [graph.add("Sub", [high, low])], axes=[1], keepdims=0)  # (1, k)
    one, two = (graph.add("Unsqueeze", [area, graph.int64([axis])]) for axis in (2, 1))
    union = graph.add("Sub", [graph.add("Add", [one, two]), overlap])
    wide = graph.add("Greater", [overlap, graph.add("Mul", [union, graph.float32(OVERLAP)])])
    strikes = graph.add(
        "Mul", [graph.add("Cast", [wide], to=1), graph.float32(_better(count))]
    )  # (1, k, k): row i strikes out column j
    left = graph.float32(np.ones((1, 1, count)))
    for _ in range(ROUNDS):
        struck = graph.add("MatMul", [left, strikes])
        left = graph.add("Cast", [graph.add("Less", [struck, graph.float32(0.5)])], to=1)
    return graph.add("Reshape", [left, graph.int64([1, count])])


def _better(count: int) -> Array:
    """1 where the row's box is better than the column's."""
    return np.triu(np.ones((count, count), np.float32), 1)
