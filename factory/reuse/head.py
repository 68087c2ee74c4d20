"""A linear classifier in closed form, its strength chosen by what leaving images out says."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from onnx import helper

from ..graph.network import Array, Network
from .threads import small_matrices

STRENGTHS = np.logspace(-4, 2, 13)  # as shares of the mean variance of a feature
SHARPER = np.logspace(0, 2, 17)  # factors on logits that were fitted to -1 and 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearHead:
    """Weights of classes.

    Attributes:
        weight: (K, C).
        bias: (K,).
        left_out: Share of the images that is classified correctly without having been fitted to.
    """

    weight: Array
    bias: Array
    left_out: float


def fit_linear_head(features: Array, labels: Array, classes: int) -> LinearHead:
    """Ridge regression to one-of-K targets; every image is left out once to choose the strength.

    Args:
        features: (N, C).
        labels: (N,).
        classes: Number of classes K.

    Source:
        Golub, Heath and Wahba, "Generalized Cross-Validation as a Method for Choosing a Good Ridge
        Parameter" (1979): what is left out, from the diagonal of the hat matrix.
    """
    with small_matrices():
        return _fitted(features, labels, classes)


def _fitted(features: Array, labels: Array, classes: int) -> LinearHead:
    center = features.mean(0)
    x = np.asarray(features - center, np.float64)
    targets = 2.0 * np.eye(classes)[labels] - 1
    mean = targets.mean(0)
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    turned = left.T @ (targets - mean)
    scale = float((singular**2).sum()) / x.shape[1]
    best, found = -1.0, STRENGTHS[0]
    for strength in STRENGTHS:
        kept = singular**2 / (singular**2 + strength * scale + 1e-300)
        fitted = left @ (kept[:, None] * turned)
        leverage = (left**2 @ kept) + 1 / len(x)
        without = targets - (targets - mean - fitted) / (1 - leverage).clip(1e-6)[:, None]
        accuracy = float((without.argmax(1) == labels).mean())
        if accuracy > best:
            best, found = accuracy, strength
    slope = right.T @ ((singular / (singular**2 + found * scale + 1e-300))[:, None] * turned)
    return LinearHead(
        weight=slope.T.astype(np.float32), bias=(mean - center @ slope).astype(np.float32),
        left_out=best,
    )  # fmt: skip


def sharpened(logits: Array, labels: Array, factors: Array = SHARPER) -> tuple[Array, float]:
    """Probabilities of a classifier fitted to -1 and 1, whose logits are far too close together.

    Args:
        logits: (N, K).
        labels: (N,).
        factors: That are tried.

    Returns:
        Probabilities (N, K), and the factor on the logits that makes the labels likeliest.
    """
    best, found, factor = -np.inf, logits, 1.0
    for tried in factors:
        scaled = logits * tried
        scaled = scaled - scaled.max(1, keepdims=True)
        logs = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
        likely = float(logs[np.arange(len(labels)), labels].mean())
        if likely > best:
            best, found, factor = likely, np.exp(logs), float(tried)
    return np.asarray(found), factor


def scaled(head: LinearHead, factor: float) -> LinearHead:
    """The same classifier with its logits multiplied."""
    return replace(
        head, weight=head.weight * np.float32(factor), bias=head.bias * np.float32(factor)
    )


def empty_head(features: int, classes: int) -> LinearHead:
    """A classifier of zeros, for what one costs."""
    return LinearHead(
        weight=np.zeros((classes, features), np.float32), bias=np.zeros(classes, np.float32),
        left_out=0.0,
    )  # fmt: skip


def head_network(head: LinearHead, before: tuple[int, ...]) -> Network:
    """The head as a network: the mean over space where there is any, then the linear layer.

    Args:
        head: The weights.
        before: Shape (1, C, H, W) or (1, C) of what comes in.
    """
    nodes, source = [], "input"
    if len(before) == 4:
        nodes.append(helper.make_node("GlobalAveragePool", [source], ["mean"], name="mean"))
        nodes.append(helper.make_node("Flatten", ["mean"], ["vector"], name="vector", axis=1))
        source = "vector"
    nodes.append(
        helper.make_node("Gemm", [source, "weight", "bias"], ["logits"], name="classes", transB=1)
    )
    return Network(
        name="head", nodes=tuple(nodes), weights={"weight": head.weight, "bias": head.bias},
        inputs={"input": before}, outputs={"logits": (1, len(head.bias))},
    )  # fmt: skip
