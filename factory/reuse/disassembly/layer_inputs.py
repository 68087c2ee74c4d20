"""What a layer sees at single positions, as rows of a linear regression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx import NodeProto

from ...graph.network import Array, attribute


def positions(shape: Sequence[int], drawn: Array, most: int) -> Array:
    """Which positions of an output are looked at.

    Args:
        shape: Of the output, (Q, H, W) or (Q,).
        drawn: Random numbers, at least H * W of them.
        most: Positions.

    Returns:
        Rising numbers below H * W.
    """
    count = int(np.prod(shape[1:]))
    if len(drawn) < count:
        raise ValueError(f"{count} positions need as many random numbers, got {len(drawn)}.")
    return np.sort(np.argsort(drawn[:count])[:most])


def rows_at(node: NodeProto, kernel: Sequence[int], x: Array, places: Array, width: int) -> Array:
    """Inputs of a Conv or Gemm at positions of its output, (R, C * kH * kW).

    Args:
        node: The layer.
        kernel: (kH, kW) of a convolution.
        x: Its input (C, H, W) or (C,).
        places: Positions of the output, as numbers.
        width: Of the output.
    """
    if node.op_type == "Gemm":
        return x[None]
    steps, gaps = (list(attribute(node, key, [1, 1])) for key in ("strides", "dilations"))
    top, left, bottom, right = padding(node, x.shape[1:], kernel)
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    span = tuple((k - 1) * gap + 1 for k, gap in zip(kernel, gaps, strict=True))
    windows = sliding_window_view(padded, span, (1, 2))[:, :: steps[0], :: steps[1]]
    down, along = np.divmod(places, width)
    found = windows[..., :: gaps[0], :: gaps[1]][:, down, along]
    return np.asarray(found.transpose(1, 0, 2, 3).reshape(len(places), -1))


def padding(
    node: NodeProto, size: Sequence[int], kernel: Sequence[int]
) -> tuple[int, int, int, int]:
    """Zeros around the input of a convolution: top, left, bottom, right.

    Args:
        node: The convolution.
        size: (H, W) of its input.
        kernel: (kH, kW).
    """
    mode = attribute(node, "auto_pad", b"NOTSET").decode()
    if mode == "VALID":
        return 0, 0, 0, 0
    if mode == "NOTSET":
        top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
        return top, left, bottom, right
    steps, gaps = (attribute(node, key, [1, 1]) for key in ("strides", "dilations"))
    before, after = [], []
    for length, k, step, gap in zip(size, kernel, steps, gaps, strict=True):
        need = max(0, (-(-length // step) - 1) * step + (k - 1) * gap + 1 - length)
        less, more = need // 2, need - need // 2
        before.append(less if mode == "SAME_UPPER" else more)
        after.append(more if mode == "SAME_UPPER" else less)
    return before[0], before[1], after[0], after[1]
