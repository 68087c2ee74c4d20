"""Estimated accuracy of a plan for a task, with an interval from measured pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..graph.network import Array
from ..schema import Interval

LEVEL = 0.9  # of the networks that an interval holds
CONFIDENCE = 0.9  # that it does, whatever pairs happened to be measured
LEAST_NETWORKS, LEAST_IN_GROUP = 20, 22  # of fewer scores not even the largest is sure enough
GROUPS = (3, 12)  # few classes are up to the first, some up to the second


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One measured network.

    Attributes:
        classes: Indices of the task's classes.
        counts: Active modules per block, in slot order.
        share: Value of the plan for the task, as a share of the full plan's, in [0, 1].
        strength: Accuracy of the full network on the task's classes, in [0, 1], as
            :func:`task_strength` gives it.
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
        network: Which network of its input size; the classes of one are held out together.
        share: Value of the plan for this class alone, as a share of the full plan's, in [0, 1].
        strength: Accuracy of the full network on this class, in [0, 1], as
            :func:`class_strengths` gives it.
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


def fit_accuracy(pairs: Sequence[Sequence[Pair]], *, seed: int = 0) -> list[dict[str, Any]]:
    """Fit the estimate and its interval at every input size.

    Ridge regression of the logit. Sizes differ in the slope of the value's share alone, so that
    their estimates compare. How much is left to chance depends on the number of classes and on how
    much is cut, so residuals are divided by a spread that depends on both; the interval is a
    quantile of those of ten-fold cross-validation (CV+ without the per-fold shift), at every size
    for few, some and many classes (of all networks, where a part has too few). It is the quantile
    that covers 90 % of networks with a confidence of 90 %, whatever pairs happened to be measured;
    that of split conformal prediction covers so many on average, and fewer about every second time.

    Args:
        pairs: Of every size at least 20 measured networks, chosen as those are that will be
            estimated.
        seed: Of the folds.

    Returns:
        One fit a size.

    Source:
        Barber et al., "Predictive inference with the jackknife+", arXiv:1905.02928, simplified;
        Lei et al., "Distribution-free predictive inference for regression", arXiv:1604.04173, for
        the spread; Vovk, "Conditional validity of inductive conformal predictors",
        arXiv:1209.2673, proposition 2b, for the confidence.
    """
    every = [pair for rows in pairs for pair in rows]
    sizes = np.array([len(pair.classes) for pair in every], np.float64)
    return _fitted(every, sizes, _parts(pairs), np.arange(len(every)), seed)


def fit_class_accuracy(
    pairs: Sequence[Sequence[ClassPair]], *, seed: int = 0
) -> list[dict[str, Any]]:
    """The same for single classes: what a plan is worth to a class, and its interval.

    Args:
        pairs: Of every input size the classes of at least 20 measured networks.
        seed: Of the folds, which hold out whole networks.
    """
    every = [pair for rows in pairs for pair in rows]
    sizes, parts = np.array([pair.size for pair in every], np.float64), _parts(pairs)
    names = np.stack((parts, [pair.network for pair in every]), 1)
    networks = np.unique(names, axis=0, return_inverse=True)[1].ravel()
    return _fitted(every, sizes, parts, networks, seed)


def _parts(pairs: Sequence[Sequence[object]]) -> Array:
    """Which input size each pair belongs to, (N,)."""
    return np.repeat(np.arange(len(pairs)), [len(rows) for rows in pairs])


def _fitted(
    pairs: Sequence[Pair] | Sequence[ClassPair], sizes: Array, parts: Array, networks: Array,
    seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """The fits of all parts; pairs of one network stay together.

    Args:
        pairs: Of all parts, (N,).
        sizes: Number of classes of each, (N,).
        parts: 0, 1, .. (N,).
        networks: 0, 1, .. (N,); each is of one part.
        seed: Of the folds.
    """
    fewest = min(
        len(np.unique(networks[parts == part])) for part in range(parts.max(initial=0) + 1)
    )
    if fewest < LEAST_NETWORKS:
        text = f"An accuracy estimate needs at least {LEAST_NETWORKS} measured networks, got "
        raise DataError(f"{text}{fewest}.")
    strengths = logit(np.array([pair.strength for pair in pairs]))
    x = features(np.array([pair.share for pair in pairs]), strengths, sizes)
    y = logit(np.array([pair.accuracy for pair in pairs]))
    fold = (np.random.default_rng(seed).permutation(networks.max() + 1) % 10)[networks]
    residual = np.empty(len(y))
    for held in (fold == number for number in range(10)):
        rows = _coefficients(x[~held], y[~held], parts[~held])
        for part, row in enumerate(rows):
            mine = held & (parts == part)
            residual[mine] = np.abs(y[mine] - _predicted(row, x[mine]))
    return [
        {"coefficients": [float(c) for c in row]}
        | _interval(x[parts == part], residual[parts == part])
        for part, row in enumerate(_coefficients(x, y, parts))
    ]


def _coefficients(x: Array, y: Array, parts: Array) -> Array:
    """Per part the coefficients of the regressors (parts, 7); only that of the deficit differs."""
    count = int(parts.max()) + 1
    own = x[:, 4:5] * (parts[:, None] == np.arange(count))
    found = _ridge(np.concatenate((x[:, :4], x[:, 5:], own), 1), y)
    return np.stack([np.concatenate((found[:4], [slope], found[4:6])) for slope in found[6:]])


def _interval(x: Array, residual: Array) -> dict[str, Any]:
    """What half of an interval is made from: the spread and the quantiles of its multiples."""
    spread = _ridge(_causes(x), np.log(residual + 0.05))
    scores, group = residual / np.exp(_causes(x) @ spread), _group(np.exp(x[:, 2]))
    groups = [scores[group == g] for g in range(len(GROUPS) + 1)]
    return {
        "spread": [float(c) for c in spread],
        "quantiles": [_quantile(g if len(g) >= LEAST_IN_GROUP else scores) for g in groups],
        "level": LEVEL,
        "n": len(scores),
    }


def _causes(x: Array) -> Array:
    """Of the regressors (N, 7) those of the spread (N, 4): 1, log size, deficit and its square."""
    return x[:, [0, 2, 4, 5]]


def _group(size: Array) -> Array:
    """0, 1 or 2 for few, some or many classes."""
    return np.searchsorted(np.array(GROUPS) + 0.5, size)


def _quantile(scores: Array) -> float:
    """The smallest score that covers the level with confidence, or the largest one.

    The coverage of the k-th smallest of n scores has a beta distribution of k and n + 1 - k.
    """
    from scipy.special import betainc  # slow to import, and only needed to fit

    rank = np.arange(1, len(scores) + 1)
    sure = betainc(rank, len(scores) + 1 - rank, LEVEL) <= 1 - CONFIDENCE
    first = int(sure.argmax()) if sure.any() else -1
    return float(np.sort(scores)[first])


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


def half_widths(fit: Mapping[str, Any], shares: Array, size: int) -> Array:
    """Half of the intervals of estimates for so many classes, in logits, from value shares (N,)."""
    x = features(shares, np.zeros_like(shares), np.full(len(shares), float(size)))
    quantile = fit["quantiles"][int(_group(np.array([size]))[0])]
    return np.asarray(quantile * np.exp(_causes(x) @ np.array(fit["spread"])))


def _ridge(x: Array, y: Array, strength: float = 1e-3) -> Array:
    gram = x.T @ x + strength * len(x) * np.diag([0.0] + [1.0] * (x.shape[1] - 1))
    return np.asarray(np.linalg.solve(gram, x.T @ y))


def estimate_accuracy(
    fit: Mapping[str, Any], share: float, strength: float, size: int, doubt: float = 0.0
) -> Interval:
    """Estimated accuracy of a plan.

    Args:
        fit: What :func:`fit_accuracy` gave.
        share: Value share of the plan, in [0, 1].
        strength: Mean accuracy of the full network on the task's classes, in [0, 1].
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
    center = _predicted(np.array(fit["coefficients"]), x)
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
