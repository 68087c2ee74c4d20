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
LEAST_NETWORKS, LEAST_IN_GROUP = 20, 10
GROUPS = (3, 12)  # few classes are up to the first, some up to the second


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


def fit_accuracy(pairs: Sequence[Pair], *, seed: int = 0) -> dict[str, Any]:
    """Fit the estimate and its interval.

    Ridge regression of the logit. Few classes leave more to chance, so residuals are divided by a
    spread that depends on their number; the interval is the 90 % quantile of those of ten-fold
    cross-validation (CV+ without the per-fold shift), by the finite-sample rule of split conformal
    prediction, for few, some and many classes each (of all networks, where a part has too few).

    Args:
        pairs: Measured networks, at least 20, chosen as those are that will be estimated.
        seed: Of the folds.

    Source:
        Barber et al., "Predictive inference with the jackknife+", arXiv:1905.02928, simplified;
        Lei et al., "Distribution-free predictive inference for regression", arXiv:1604.04173, for
        the spread.
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
    """The fit of ``y`` on ``x``; rows of one network stay together."""
    names, which = np.unique(networks, return_inverse=True)
    if len(names) < LEAST_NETWORKS:
        text = f"An accuracy estimate needs at least {LEAST_NETWORKS} measured networks, got "
        raise DataError(f"{text}{len(names)}.")
    fold = (np.random.default_rng(seed).permutation(len(names)) % 10)[which]
    residual = np.empty(len(y))
    for part in range(10):
        held = fold == part
        residual[held] = np.abs(y[held] - _predicted(_ridge(x[~held], y[~held]), x[held]))
    log_size = x[:, 2]
    line = np.stack((np.ones_like(log_size), log_size), 1)
    spread = _ridge(line, np.log(residual + 0.05))
    scores, group = residual / np.exp(line @ spread), _group(np.exp(log_size))
    parts = [scores[group == g] for g in range(len(GROUPS) + 1)]
    quantiles = [_quantile(part if len(part) >= LEAST_IN_GROUP else scores) for part in parts]
    return {
        "coefficients": [float(c) for c in _ridge(x, y)],
        "spread": [float(c) for c in spread],
        "quantiles": quantiles,
        "level": LEVEL,
        "n": len(y),
    }


def _group(size: Array) -> Array:
    """0, 1 or 2 for few, some or many classes."""
    return np.searchsorted(np.array(GROUPS) + 0.5, size)


def _quantile(scores: Array) -> float:
    """The smallest score that covers the level."""
    rank = min(len(scores), math.ceil((len(scores) + 1) * LEVEL))
    return float(np.sort(scores)[rank - 1])


def _predicted(coefficients: Array, x: Array) -> Array:
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


def half_width(fit: Mapping[str, Any], size: int) -> float:
    """Half of the interval of an estimate for so many classes, in logits."""
    constant, slope = fit["spread"]
    quantile = fit["quantiles"][int(_group(np.array([size]))[0])]
    return float(quantile * math.exp(constant + slope * math.log(size)))


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
    low, value, high = estimate_accuracies(fit, np.array([share]), np.array([strength]), size)[:, 0]
    return Interval(
        low=float(low), value=float(value), high=float(high), level=fit["level"], n=fit["n"]
    )


def estimate_accuracies(
    fit: Mapping[str, Any], shares: Array, strengths: Array, size: int
) -> Array:
    """The same for several shares (N,) and strengths (N,): rows low, value, high, (3, N)."""
    x = features(shares, logit(strengths), np.full(len(shares), float(size)))
    center = _predicted(np.array(fit["coefficients"]), x)
    half = half_width(fit, size)
    return np.asarray(1 / (1 + np.exp(-np.stack((center - half, center, center + half)))))


def least_shares(
    fit: Mapping[str, Any], accuracy: float, strengths: Array, size: int, steps: Array,
    *, slack: float = 0.0,
) -> Array:  # fmt: skip
    """The least share of the value, in steps, of which the accuracy is estimated.

    Args:
        fit: What :func:`fit_accuracy` or :func:`fit_class_accuracy` gave.
        accuracy: The least estimate, in (0, 1).
        strengths: As in :func:`estimate_accuracies`, (N,).
        size: Number of classes.
        steps: Steps of the share from 0 to 1, integers (N,).
        slack: How far below it the answer may be, as a share.

    Returns:
        Integers (N,) from 0 to ``steps``; ``steps + 1`` where the full value is not enough.
    """

    def is_enough(step: Array) -> Array:
        found = estimate_accuracies(fit, step / steps, strengths, size)[1]
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
