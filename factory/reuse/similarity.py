"""How alike two representations of the same images are: linear CKA and held-out regression.

Representations are matrices (N, D): one row per image and position, the same rows in both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from ..graph.network import Array

LEAST_ROWS = 8


def cka_matrix(representations: Sequence[Array]) -> Array:
    """Linear CKA of every pair of representations, (M, M), at most 1.

    The independence criterion is estimated without bias, so that representations that have nothing
    in common come out near 0 and not above it, also where there are more features than rows;
    single values can be slightly negative.

    Args:
        representations: M matrices (N, D) with the same N.

    Raises:
        DataError: There are fewer than 8 rows, or their numbers differ.

    Source:
        Kornblith et al., "Similarity of Neural Network Representations Revisited",
        arXiv:1905.00414, with the estimator of Song et al., "Feature Selection via Dependence
        Maximization" (JMLR 2012), equation 5, written as the inner product of U-centered Gram
        matrices (Székely and Rizzo, "Partial distance correlation", 2014).
    """
    _check_rows(representations)
    centered = np.stack([_u_centered(x).ravel() for x in representations])
    return np.asarray(centered @ centered.T, np.float64)


def _check_rows(representations: Sequence[Array]) -> None:
    rows = {len(x) for x in representations}
    if len(rows) != 1 or min(rows) < LEAST_ROWS:
        raise DataError(
            f"Similarity needs the same rows of all, at least {LEAST_ROWS}; got {sorted(rows)}."
        )


def _u_centered(x: Array) -> Array:
    """The Gram matrix (N, N) of rows, U-centered and of length 1; zeros where all rows are equal.

    Its rows and columns sum to zero, and its diagonal is zero.
    """
    x = np.asarray(x, np.float64)
    x = x - x.mean(0)
    x = x / max(float(np.abs(x).max()), 1e-300)
    gram, n = x @ x.T, len(x)
    np.fill_diagonal(gram, 0.0)
    sums = gram.sum(1)
    gram -= sums[:, None] / (n - 2)
    gram -= sums[None] / (n - 2)
    gram += sums.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(gram, 0.0)
    length = float(np.linalg.norm(gram))
    return np.asarray(gram / length if length > 1e-12 else 0 * gram, np.float32)


def held_out_r2(source: Array, target: Array, *, strength: float = 1e-3, seed: int = 0) -> float:
    """How much of a representation a linear map of another one explains, at most 1.

    The map is fitted by ridge regression on one half of the rows and judged on the other; 0 is what
    the mean of the first half explains, and less than nothing is possible.

    Args:
        source: (N, C).
        target: (N, D).
        strength: Of the ridge, as a share of the mean variance of the source.
        seed: Of the division.

    Raises:
        DataError: There are fewer than 8 rows, or their numbers differ.
    """
    _check_rows([source, target])
    order = np.random.default_rng(seed).permutation(len(source))
    fit, held = order[: len(order) // 2], order[len(order) // 2 :]
    x, y = np.asarray(source, np.float64), np.asarray(target, np.float64)
    x_mean, y_mean = x[fit].mean(0), y[fit].mean(0)
    design, wanted = x[fit] - x_mean, y[fit] - y_mean
    gram = design.T @ design
    gram[np.diag_indices_from(gram)] += strength * np.trace(gram) / len(gram) + 1e-300
    matrix = np.linalg.solve(gram, design.T @ wanted)
    left = y[held] - y_mean - (x[held] - x_mean) @ matrix
    return float(1 - (left**2).sum() / max(((y[held] - y_mean) ** 2).sum(), 1e-30))
