"""Estimated accuracy of a plan for a task, with an interval; ``accuracy_fit.py`` fits it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..graph.network import Array
from ..schema import Interval

GROUPS = (3, 12)  # few classes are up to the first, some up to the second


def features(share: Array, strength: Array, size: Array) -> Array:
    """Regressors (N, 7) of the logit of the accuracy.

    Args:
        share: Value shares (N,).
        strength: Logit of the full network's mean accuracy on the classes, (N,).
        size: Number of classes (N,).
    """
    deficit, log_size = 1 - share, np.log(size)
    return np.stack(
        (
            np.ones_like(share), strength, log_size, log_size**2, deficit, deficit**2,
            deficit * log_size,
        ),
        1,
    )  # fmt: skip


def logit(p: Array | float) -> Array:
    """Log odds, of probabilities held away from 0 and 1."""
    clipped = np.clip(np.asarray(p, np.float64), 0.005, 0.995)
    return np.asarray(np.log(clipped / (1 - clipped)))


def causes(x: Array) -> Array:
    """Of the regressors (N, 7) those of the spread (N, 4): 1, log size, deficit and its square."""
    return x[:, [0, 2, 4, 5]]


def group_of(size: Array) -> Array:
    """0, 1 or 2 for few, some or many classes."""
    return np.searchsorted(np.array(GROUPS) + 0.5, size)


def predicted(coefficients: Array, x: Array) -> Array:
    """Logit of the accuracy from regressors (N, 7); never more for less value.

    Where the fitted parabola rises with the deficit, it is held at its greatest value so far.
    """
    bend, log_size = float(coefficients[5]), x[:, 2]
    slope = coefficients[4] + coefficients[6] * log_size  # at no deficit
    deficit = x[:, 4]
    if bend:
        vertex = (-slope / (2 * bend)).clip(0, 1)
        deficit = np.minimum(deficit, vertex) if bend > 0 else np.maximum(deficit, vertex)
    else:
        deficit = np.where(slope > 0, 0, deficit)
    fixed = x[:, :4] @ coefficients[:4]
    return np.asarray(fixed + slope * deficit + bend * deficit**2)


def half_widths(fit: Mapping[str, Any], shares: Array, size: int) -> Array:
    """Half of the intervals of estimates for so many classes, in logits, from value shares (N,).

    What the strength itself may be off by, ``"unknown"`` where a fit says so, is added.
    """
    x = features(shares, np.zeros_like(shares), np.full(len(shares), float(size)))
    quantile = fit["quantiles"][int(group_of(np.array([size]))[0])]
    own = quantile * np.exp(causes(x) @ np.array(fit["spread"]))
    return np.asarray(np.hypot(own, fit.get("unknown", 0.0)))


def estimate_accuracy(
    fit: Mapping[str, Any], share: float, strength: float, size: int, doubt: float = 0.0
) -> Interval:
    """Estimated accuracy of a plan.

    Args:
        fit: What :func:`fit_accuracy` gave.
        share: Value share of the plan, in [0, 1].
        strength: Accuracy of the full network on the task's classes, in [0, 1], as
            :func:`task_strength` gives it.
        size: Number of classes.
        doubt: How far the strength may be overstated, in logits: the estimate and the lower end of
            its interval are lowered by what that means, the upper end stays.
    """
    rows = estimate_accuracies(fit, np.array([share]), np.array([strength]), size, doubt)
    low, value, high = rows[:, 0]
    return Interval(
        low=float(low), value=float(value), high=float(high), level=fit["level"], n=fit["n"]
    )


def estimate_accuracies(
    fit: Mapping[str, Any], shares: Array, strengths: Array, size: int, doubt: float = 0.0
) -> Array:
    """The same for several shares (N,) and strengths (N,): rows low, value, high, (3, N)."""
    x = features(shares, logit(strengths), np.full(len(shares), float(size)))
    center = predicted(np.array(fit["coefficients"]), x)
    half = half_widths(fit, shares, size)
    lowered = center - max(0.0, fit["coefficients"][1]) * doubt
    return np.asarray(1 / (1 + np.exp(-np.stack((lowered - half, lowered, center + half)))))


def least_shares(
    fit: Mapping[str, Any], accuracy: float, strengths: Array, size: int, steps: Array,
    *, doubt: float = 0.0, slack: float = 0.0,
) -> Array:  # fmt: skip
    """The least share of the value, in steps, of which the accuracy is estimated.

    Args:
        fit: What :func:`fit_accuracy` or :func:`fit_class_accuracy` gave.
        accuracy: The least estimate, in (0, 1).
        strengths: As in :func:`estimate_accuracies`, (N,).
        size: Number of classes.
        steps: Steps of the share from 0 to 1, integers (N,).
        doubt: As there.
        slack: How far below it the answer may be, as a share.

    Returns:
        Integers (N,) from 0 to ``steps``; ``steps + 1`` where the full value is not enough.
    """

    def is_enough(step: Array) -> Array:
        found = estimate_accuracies(fit, step / steps, strengths, size, doubt)[1]
        return np.asarray(found >= accuracy)

    low, high = np.full(len(steps), -1), np.asarray(steps, np.int64) + 1
    high = np.where(is_enough(steps), steps, high)
    low = np.where(high > steps, steps, low)  # is_enough(high) holds or none does, of low it fails
    while (high - low > 1 + slack * steps).any():
        middle = (low + high) // 2
        enough = is_enough(middle.clip(0))
        open_ = high - low > 1
        low, high = np.where(open_ & ~enough, middle, low), np.where(open_ & enough, middle, high)
    return low + 1
