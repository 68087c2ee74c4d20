"""Fits the estimate of the accuracy, and its interval, to measured networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..graph.network import Array
from .accuracy import GROUPS, causes, features, group_of, logit, predicted

LEVEL = 0.9  # of the networks that an interval holds
CONFIDENCE = 0.9  # that it does, whatever pairs happened to be measured
LEAST_NETWORKS, LEAST_IN_GROUP = 20, 22  # of fewer not even the largest residual is sure enough
RIDGE = 1e-3  # of the number of rows


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
        network: Which network of its input size: 0, 1, ..; those of one number belong to one task
            at all sizes, and their classes are held out together.
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


def fit_accuracy(pairs: Sequence[Sequence[Pair]], *, seed: int = 0) -> list[dict[str, Any]]:
    """Fit the estimate and its interval at every input size.

    Ridge regression of the logit. Sizes differ in the slope of the value's share alone, so that
    their estimates compare. How much is left to chance depends on the number of classes and on how
    much is cut, so residuals are divided by a spread that depends on both; the interval is a
    quantile of those of ten-fold cross-validation (CV+ without the per-fold shift), at every size
    for few, some and many classes (of all networks, where a part has too few). It is the quantile
    that covers 90 % of networks with a confidence of 90 %, whatever pairs happened to be measured;
    that of split conformal prediction covers so many on average, and fewer about every second time.
    Both are exact for residuals that nothing was fitted to, and nearly so for these.

    Args:
        pairs: Of every size at least 20 measured networks, chosen as those are that will be
            estimated. Those in the same place belong to one task, and are held out together.
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
    tasks = np.concatenate([np.arange(len(rows)) for rows in pairs])
    return _fitted(every, sizes, _parts(pairs), tasks, seed)


def fit_class_accuracy(
    pairs: Sequence[Sequence[ClassPair]], *, seed: int = 0
) -> list[dict[str, Any]]:
    """The same for single classes: what a plan is worth to a class, and its interval.

    Classes of one network are off together, so the confidence counts networks.

    Args:
        pairs: Of every input size the classes of at least 20 measured networks.
        seed: Of the folds.
    """
    every = [pair for rows in pairs for pair in rows]
    sizes = np.array([pair.size for pair in every], np.float64)
    tasks = np.array([pair.network for pair in every], np.int64)
    return _fitted(every, sizes, _parts(pairs), tasks, seed)


def _parts(pairs: Sequence[Sequence[object]]) -> Array:
    """Which input size each pair belongs to, (N,)."""
    return np.repeat(np.arange(len(pairs)), [len(rows) for rows in pairs])


def _fitted(
    pairs: Sequence[Pair] | Sequence[ClassPair], sizes: Array, parts: Array, tasks: Array, seed: int
) -> list[dict[str, Any]]:
    """The fits of all parts; pairs of one task stay together.

    Args:
        pairs: Of all parts, (N,).
        sizes: Number of classes of each, (N,).
        parts: 0, 1, .. (N,).
        tasks: 0, 1, .. (N,); a network is a task of a part.
        seed: Of the folds.
    """
    every = range(int(parts.max(initial=0)) + 1)
    fewest = min(len(np.unique(tasks[parts == part])) for part in every)
    if fewest < LEAST_NETWORKS:
        text = f"An accuracy estimate needs at least {LEAST_NETWORKS} measured networks, got "
        raise DataError(f"{text}{fewest}.")
    strengths = logit(np.array([pair.strength for pair in pairs]))
    x = features(np.array([pair.share for pair in pairs]), strengths, sizes)
    y = logit(np.array([pair.accuracy for pair in pairs]))
    fold = (np.random.default_rng(seed).permutation(tasks.max() + 1) % 10)[tasks]
    residual = np.empty(len(y))
    for held in (fold == number for number in range(10)):
        rows = _coefficients(x[~held], y[~held], parts[~held])
        for part, row in enumerate(rows):
            mine = held & (parts == part)
            residual[mine] = np.abs(y[mine] - predicted(row, x[mine]))
    found = []
    for part, row in zip(every, _coefficients(x, y, parts), strict=True):
        mine = parts == part
        interval = _interval(x[mine], residual[mine], tasks[mine])
        found.append({"coefficients": [float(c) for c in row], **interval})
    return found


def _coefficients(x: Array, y: Array, parts: Array) -> Array:
    """Per part the coefficients of the regressors (parts, 7); only that of the deficit differs."""
    count = int(parts.max()) + 1
    own = x[:, 4:5] * (parts[:, None] == np.arange(count))
    found = _ridge(np.concatenate((x[:, :4], x[:, 5:], own), 1), y)
    return np.stack([np.concatenate((found[:4], [slope], found[4:6])) for slope in found[6:]])


def _interval(x: Array, residual: Array, networks: Array) -> dict[str, Any]:
    """What half of an interval is made from: the spread and the quantiles of its multiples."""
    spread = _spread(causes(x), np.log(residual + 0.05))
    scores, group = residual / np.exp(causes(x) @ spread), group_of(np.exp(x[:, 2]))
    every, quantiles = np.full(len(scores), True), []
    for mine in (group == g for g in range(len(GROUPS) + 1)):
        some = mine if len(np.unique(networks[mine])) >= LEAST_IN_GROUP else every
        quantiles.append(_quantile(scores[some], len(np.unique(networks[some]))))
    return {
        "spread": [float(c) for c in spread], "quantiles": quantiles, "level": LEVEL,
        "n": len(scores),
    }  # fmt: skip


def _spread(x: Array, y: Array) -> Array:
    """Coefficients (4,) of the logarithm of the residual; never less of it for more deficit."""
    from scipy.optimize import lsq_linear  # slow to import, and only needed to fit

    weak = np.sqrt(RIDGE * len(x)) * np.eye(4)[1:]
    rows, targets = np.concatenate((x, weak)), np.concatenate((y, np.zeros(3)))
    least = [-np.inf, -np.inf, 0.0, 0.0]
    return np.asarray(lsq_linear(rows, targets, bounds=(least, np.inf)).x)


def _quantile(scores: Array, networks: int) -> float:
    """The smallest score that covers the level with confidence, or the largest one.

    The coverage of the k-th smallest of n independent scores has a beta distribution of k and
    n + 1 - k; where scores of one network depend on each other, n is the number of networks.
    """
    from scipy.special import betainc

    rank = np.arange(1, networks + 1)
    sure = betainc(rank, networks + 1 - rank, LEVEL) <= 1 - CONFIDENCE
    first = rank[sure][0] if sure.any() else networks
    return float(np.sort(scores)[math.ceil(first / networks * len(scores)) - 1])


def _ridge(x: Array, y: Array) -> Array:
    gram = x.T @ x + RIDGE * len(x) * np.diag([0.0] + [1.0] * (x.shape[1] - 1))
    return np.asarray(np.linalg.solve(gram, x.T @ y))
