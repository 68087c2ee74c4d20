"""Estimated accuracy of a plan for a task, with an interval from measured pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..graph.network import Array
from ..schema import Interval

LEVEL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One measured network.

    Attributes:
        classes: Indices of the task's classes.
        counts: Active modules per block, in slot order.
        share: Value of the plan for the task, as a share of the full plan's, in [0, 1].
        strength: Mean measured accuracy of the full network on the task's classes, in [0, 1].
        accuracy: Measured accuracy, in [0, 1].
        n: Images behind it.
        origin: "random" or "optimized".
    """

    classes: tuple[int, ...]
    counts: tuple[int, ...]
    share: float
    strength: float
    accuracy: float
    n: int
    origin: str


def features(share: Array, strength: Array, size: Array) -> Array:
    """Regressors (N, 6) of the logit of the accuracy.

    Args:
        share: Value shares (N,).
        strength: Logit of the full network's mean accuracy on the classes, (N,).
        size: Number of classes (N,).
    """
    deficit = 1 - share
    log_size = np.log(size)
    return np.stack(
        (np.ones_like(share), strength, log_size, deficit, deficit**2, deficit * log_size), 1
    )


def logit(p: Array | float) -> Array:
    """Log odds, of probabilities held away from 0 and 1."""
    clipped = np.clip(np.asarray(p, np.float64), 0.005, 0.995)
    return np.asarray(np.log(clipped / (1 - clipped)))


def fit_accuracy(pairs: Sequence[Pair], *, seed: int = 0) -> dict[str, Any]:
    """Fit the estimate and its interval.

    Ridge regression of the logit; the interval is the 90 % quantile of the absolute residuals of
    ten-fold cross-validation (CV+ without the per-fold shift), by the finite-sample rule of split
    conformal prediction.

    Args:
        pairs: Measured networks, at least 20.
        seed: Of the folds.

    Source:
        Barber et al., "Predictive inference with the jackknife+", arXiv:1905.02928, simplified.
    """
    if len(pairs) < 20:
        raise DataError(f"An accuracy estimate needs at least 20 measured pairs, got {len(pairs)}.")
    x = features(
        np.array([p.share for p in pairs]),
        logit(np.array([p.strength for p in pairs])),
        np.array([len(p.classes) for p in pairs], np.float64),
    )
    y = logit(np.array([p.accuracy for p in pairs]))
    fold = np.random.default_rng(seed).permutation(len(pairs)) % 10
    residual = np.empty(len(pairs))
    for part in range(10):
        held = fold == part
        residual[held] = y[held] - x[held] @ _ridge(x[~held], y[~held])
    rank = min(len(pairs), math.ceil((len(pairs) + 1) * LEVEL))
    return {
        "coefficients": [float(c) for c in _ridge(x, y)],
        "half_width_logit": float(np.sort(np.abs(residual))[rank - 1]),
        "level": LEVEL,
        "n": len(pairs),
    }


def _ridge(x: Array, y: Array, strength: float = 1e-3) -> Array:
    gram = x.T @ x + strength * len(x) * np.diag([0.0] + [1.0] * (x.shape[1] - 1))
    return np.asarray(np.linalg.solve(gram, x.T @ y))


def estimate_accuracy(fit: Mapping[str, Any], share: float, strength: float, size: int) -> Interval:
    """Estimated accuracy of a plan.

    Args:
        fit: What :func:`fit_accuracy` gave.
        share: Value share of the plan, in [0, 1].
        strength: Mean accuracy of the full network on the task's classes, in [0, 1].
        size: Number of classes.
    """
    x = features(np.array([share]), logit(strength)[None], np.array([float(size)]))[0]
    center = float(x @ np.array(fit["coefficients"]))
    half = float(fit["half_width_logit"])
    low, value, high = (1 / (1 + math.exp(-z)) for z in (center - half, center, center + half))
    return Interval(low=low, value=value, high=high, level=fit["level"], n=fit["n"])
