"""How alike representations of the same images are: linear CKA, or what one explains of another.

Representations are matrices (N, D): one row per image and position, the same rows in both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from ..graph.network import Array
from .features import CELLS
from .threads import small_matrices

LEAST_ROWS = 8
STRENGTH = 1e-3  # of the ridge, as a share of the mean variance of a feature


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
    rows = {len(x) for x in representations}
    if len(rows) != 1 or min(rows) < LEAST_ROWS:
        raise DataError(
            f"Similarity needs the same rows of all, at least {LEAST_ROWS}; got {sorted(rows)}."
        )
    with small_matrices():
        centered = np.empty((len(representations), rows.pop() ** 2), np.float32)
        for row, x in zip(centered, representations, strict=True):
            row[:] = _u_centered(x).ravel()
        return np.asarray(centered @ centered.T, np.float64)


def r2_matrix(representations: Sequence[Array]) -> Array:
    """What linear regression explains of one representation by another, (M, M), in [0, 1].

    The mean of both directions, on images that nothing was fitted to, 0 where it is worse than the
    mean. Unlike CKA it sees what a stitch could make of a representation, whatever its directions
    of great variance are.

    Args:
        representations: M matrices (N, D) with the same N; several rows of an image follow each
            other, as :func:`.features.representations` gives them.

    Raises:
        DataError: There are fewer than 8 images, or the numbers of rows differ.
    """
    rows = {len(x) for x in representations}
    if len(rows) != 1 or min(rows) < LEAST_ROWS * CELLS:
        raise DataError(
            f"Similarity needs the same images of all, at least {LEAST_ROWS}; got rows "
            f"{sorted(rows)}."
        )
    held = np.arange(rows.pop()) // CELLS % 5 == 4
    with small_matrices():
        parts = [_standardized(x, held) for x in representations]
        ends = np.cumsum([x.shape[1] for x in parts])
        every = np.concatenate(parts, 1)
        total = np.add.reduceat((every[held] ** 2).sum(0), np.r_[0, ends[:-1]])
        found = np.empty((len(parts), len(parts)))
        for row, x in zip(found, parts, strict=True):
            gram = x[~held].T @ x[~held]
            gram[np.diag_indices_from(gram)] += STRENGTH * np.trace(gram) / len(gram) + 1e-9
            solved = np.linalg.solve(gram, x[~held].T @ every[~held])
            left = ((every[held] - x[held] @ solved) ** 2).sum(0)
            row[:] = 1 - np.add.reduceat(left, np.r_[0, ends[:-1]]) / np.maximum(total, 1e-12)
    return np.asarray((found.clip(0, 1) + found.clip(0, 1).T) / 2)


def _standardized(x: Array, held: Array) -> Array:
    """Rows less the mean of those that are fitted to, of a mean variance of 1 there."""
    x = np.asarray(x, np.float64) - np.asarray(x[~held], np.float64).mean(0)
    return np.asarray(x / max(float(np.sqrt((x[~held] ** 2).mean())), 1e-30))


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
