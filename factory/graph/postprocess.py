"""From raw outputs to the answer of an artifact: probabilities, or the 100 best boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import helper

from .appender import Appender
from .network import Array, Network

OUTPUT = "output0"
DETECTIONS = 100
PEAK_WINDOW = 5  # positions; chosen on validation images of fod31 among 1, 3, 5, 7 and 9
NO_PEAK = -1e4  # its sigmoid is 0 in FP32 and FP16


def with_probabilities(network: Network) -> Network:
    """Append a softmax: ``output0`` (1, N) sums to one."""
    ((logits, shape),) = network.outputs.items()
    node = helper.make_node("Softmax", [logits], [OUTPUT], name="/answer/softmax", axis=1)
    return replace(network, nodes=(*network.nodes, node), outputs={OUTPUT: shape})


def with_detections(network: Network, strides: Sequence[int], input_size: int) -> Network:
    """Append decoding and TopK: ``output0`` (1, 100, 6), best first.

    A row is x1, y1, x2, y2 in input pixels, score, class. Only local peaks count: a position
    whose best score is the greatest among the 5x5 around it on its map; a row that is
    left over is all zero. There is no NonMaxSuppression.

    Args:
        network: With outputs ``classes{stride}`` (1, N, H, W) and ``boxes{stride}`` (1, 4, H, W),
            the raw distances to left, top, right, bottom in units of the stride.
        strides: Of the feature maps that detect.
        input_size: Side of the input in pixels.
    """
    classes = network.outputs[f"classes{strides[0]}"][1]
    anchors, scales = _anchor_tables(strides, input_size)
    positions = len(anchors)
    kept = min(DETECTIONS, positions)
    graph = Appender()
    for stride in strides:
        _peaks(graph, f"classes{stride}", f"peaks{stride}")
    graph.weights["/answer/anchors"], graph.weights["/answer/scales"] = anchors, scales
    logits, raw, best = (
        graph.add("Concat", [graph.flat(f"{name}{s}", channels) for s in strides], axis=2)
        for name, channels in (("classes", classes), ("boxes", 4), ("peaks", 1))
    )  # (1, N, A), (1, 4, A), (1, 1, A)
    best = graph.add("Reshape", [best, graph.int64([1, -1])])  # (1, A)
    label = graph.add("ArgMax", [logits], axis=1, keepdims=0)  # (1, A)
    top, index = graph.add2("TopK", [best, graph.int64([kept])], axis=1)  # (1, k)
    rows = graph.add("Reshape", [index, graph.int64([kept])])
    sides = graph.add("Softplus", [graph.add("Gather", [raw, rows], axis=2)])  # (1, 4, k)
    sides = graph.add("Transpose", [sides], perm=[0, 2, 1])  # (1, k, 4)
    reach = graph.add("Mul", [sides, graph.add("Gather", ["/answer/scales", rows], axis=0)])
    boxes = graph.add("Add", [reach, graph.add("Gather", ["/answer/anchors", rows], axis=0)])
    boxes = graph.add("Clip", [boxes, graph.float32(0.0), graph.float32(float(input_size))])
    score = graph.add("Unsqueeze", [graph.add("Sigmoid", [top]), graph.int64([2])])
    chosen = graph.add("Cast", [graph.add("GatherElements", [label, index], axis=1)], to=1)
    chosen = graph.add("Unsqueeze", [chosen, graph.int64([2])])
    is_used = graph.add("Greater", [top, graph.float32(NO_PEAK / 2)])
    used = graph.add("Unsqueeze", [graph.add("Cast", [is_used], to=1), graph.int64([2])])
    rows_of_all = graph.add("Concat", [boxes, score, chosen], axis=2)  # (1, k, 6)
    parts = graph.add("Mul", [rows_of_all, used])
    missing = np.zeros((1, DETECTIONS - kept, 6), np.float32)
    if kept < DETECTIONS:
        graph.weights["/answer/padding"] = missing
        graph.add("Concat", [parts, "/answer/padding"], axis=1, output=OUTPUT)
    else:
        graph.nodes[-1].output[0] = OUTPUT
    return replace(
        network,
        nodes=(*network.nodes, *graph.nodes),
        weights={**network.weights, **graph.weights},
        outputs={OUTPUT: (1, DETECTIONS, 6)},
    )


def _anchor_tables(strides: Sequence[int], input_size: int) -> tuple[Array, Array]:
    """Centre twice, and signed stride, of every position: (A, 4) each."""
    anchors, scales = [], []
    for stride in strides:
        axis = (np.arange(input_size // stride) + 0.5) * stride
        y, x = np.meshgrid(axis, axis, indexing="ij")
        anchors.append(np.stack((x, y, x, y), -1).reshape(-1, 4))
        scales.append(np.tile([-stride, -stride, stride, stride], (axis.size**2, 1)))
    return np.concatenate(anchors).astype(np.float32), np.concatenate(scales).astype(np.float32)


def _peaks(graph: Appender, logits: str, output: str) -> None:
    """Best logit of every position (1, 1, H, W), far below zero where a neighbor is better."""
    best = graph.add("ReduceMax", [logits], axes=[1], keepdims=1)
    around = graph.add(
        "MaxPool", [best], kernel_shape=[PEAK_WINDOW] * 2, pads=[PEAK_WINDOW // 2] * 4,
        strides=[1, 1],
    )  # fmt: skip
    is_peak = graph.add("GreaterOrEqual", [best, around])
    graph.add("Where", [is_peak, best, graph.float32(NO_PEAK)], output=output)
