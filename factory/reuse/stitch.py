"""Stitches: what joins blocks of different networks, fitted in closed form.

Source:
    Lenc and Vedaldi, "Understanding image representations by measuring their equivariance and
    equivalence", arXiv:1411.5908, who train such layers; here least squares towards what the
    receiving network made of the same images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper

from ..errors import DataError
from ..graph.network import Array, Network
from .features import CELLS
from .regression import ridge
from .threads import small_matrices

STRENGTH = 1e-3  # of the ridge, as a share of the mean variance of a channel


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stitch:
    """An affine map of channels.

    Attributes:
        matrix: (D, C).
        bias: (D,).
        r2: How much of the target it explains on rows it was not fitted to, at most 1.
    """

    matrix: Array
    bias: Array
    r2: float


def fit_stitch(source: Array, target: Array, *, strength: float = STRENGTH) -> Stitch:
    """The affine map from rows (N, C) to rows (N, D) of least squares, with a small ridge.

    Every fifth image is held out to judge it; then it is fitted to all. Rows are those of
    :func:`representations`, several of an image one after the other.
    """
    held = np.arange(len(source)) // CELLS % 5 == 4
    with small_matrices():
        matrix, bias = ridge(source[~held], target[~held], strength)
        left = target[held] - source[held] @ matrix.T - bias
        spread = ((target[held] - target[~held].mean(0)) ** 2).sum()
        matrix, bias = ridge(source, target, strength)
    return Stitch(
        matrix=matrix.astype(np.float32), bias=bias.astype(np.float32),
        r2=float(1 - (left**2).sum() / max(spread, 1e-30)),
    )  # fmt: skip


def stitch_network(stitch: Stitch, before: tuple[int, ...], after: tuple[int, ...]) -> Network:
    """A stitch as a network: a change of resolution where there is one, then a 1x1 convolution.

    Args:
        stitch: The map.
        before: Shape (1, C, H, W) of what comes in.
        after: Shape (1, D, h, w) of what goes out.

    Raises:
        DataError: The shapes are no images, or do not fit the map.
    """
    if len(before) != 4 or len(after) != 4 or stitch.matrix.shape != (after[1], before[1]):
        raise DataError(f"A stitch {stitch.matrix.shape} does not lead from {before} to {after}.")
    nodes: list[NodeProto] = []
    weights = {"matrix": stitch.matrix[:, :, None, None], "bias": stitch.bias}
    source = "input"
    if before[2:] != after[2:]:
        nodes.append(_resized(source, before, after, weights))
        source = "resized"
    nodes.append(helper.make_node("Conv", [source, "matrix", "bias"], ["output"], name="stitch"))
    return Network(
        name="stitch", nodes=tuple(nodes), weights=weights, inputs={"input": before},
        outputs={"output": after},
    )  # fmt: skip


def _resized(
    source: str, before: tuple[int, ...], after: tuple[int, ...], weights: dict[str, Array]
) -> NodeProto:
    """Mean over windows where the sides are multiples; the nearest position otherwise."""
    steps = [before[axis] // after[axis] for axis in (2, 3)]
    if all(steps) and [step * after[i + 2] for i, step in enumerate(steps)] == list(before[2:]):
        return helper.make_node(
            "AveragePool", [source], ["resized"], name="resize", kernel_shape=steps, strides=steps
        )
    weights["sizes"] = np.array([1, before[1], *after[2:]], np.int64)
    return helper.make_node(
        "Resize", [source, "", "", "sizes"], ["resized"], name="resize", mode="nearest",
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
