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
        per_class: Measured accuracy of each of the classes; None where no image shows it.
    """

    classes: tuple[int, ...]
    counts: tuple[int, ...]
    share: float
    strength: float
    accuracy: float
    n: int
    origin: str
    per_class: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPair:
    """One class of one measured network.

    Attributes:
        network: Which network; the classes of one are held out together.
        share: Value of the plan for this class alone, as a share of the full plan's, in [0, 1].
        strength: Measured accuracy of the full network on this class, in [0, 1].
        size: Number of classes of the network.
        accuracy: Measured accuracy of this class, in [0, 1].
    """

    network: int
    share: float
    strength: float
    size: int
    accuracy: float


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
    x = features(
        np.array([p.share for p in pairs]),
        logit(np.array([p.strength for p in pairs])),
        np.array([len(p.classes) for p in pairs], np.float64),
    )
    y = logit(np.array([p.accuracy for p in pairs]))
    return _fitted(x, y, np.arange(len(pairs)), seed)


def fit_class_accuracy(pairs: Sequence[ClassPair], *, seed: int = 0) -> dict[str, Any]:
    """The same for single classes: what a plan is worth to a class, and its interval.

    Args:
        pairs: Classes of at least 20 measured networks.
        seed: Of the folds, which hold out whole networks.
    """
    networks = np.array([p.network for p in pairs], np.int64)
    x = features(
        np.array([p.share for p in pairs]),
        logit(np.array([p.strength for p in pairs])),
        np.array([p.size for p in pairs], np.float64),
    )
    return _fitted(x, logit(np.array([p.accuracy for p in pairs])), networks, seed)


def _fitted(x: Array, y: Array, networks: Array, seed: int) -> dict[str, Any]:
    """Coefficients and half width of ``y`` on ``x``; rows of one network stay together."""
    names, which = np.unique(networks, return_inverse=True)
    if len(names) < 20:
        raise DataError(
            f"An accuracy estimate needs at least 20 measured networks, got {len(names)}."
        )
    fold = (np.random.default_rng(seed).permutation(len(names)) % 10)[which]
    residual = np.empty(len(y))
    for part in range(10):
        held = fold == part
        residual[held] = y[held] - x[held] @ _ridge(x[~held], y[~held])
    rank = min(len(y), math.ceil((len(y) + 1) * LEVEL))
    return {
        "coefficients": [float(c) for c in _ridge(x, y)],
        "half_width_logit": float(np.sort(np.abs(residual))[rank - 1]),
        "level": LEVEL,
        "n": len(y),
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
