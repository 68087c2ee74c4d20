"""Ridge regression with a free mean: what stitches and added rows of a classifier are fitted by."""

from __future__ import annotations

import numpy as np

from ..graph.network import Array


def ridge(source: Array, target: Array, strength: float) -> tuple[Array, Array]:
    """The affine map of least squares: a matrix (D, C) and a bias (D,).

    Args:
        source: Rows (N, C).
        target: Rows (N, D).
        strength: Of the ridge towards zero, as a share of the mean variance of a column.
    """
    x, y = np.asarray(source, np.float64), np.asarray(target, np.float64)
    x_mean, y_mean = x.mean(0), y.mean(0)
    gram = (x - x_mean).T @ (x - x_mean)
    gram[np.diag_indices_from(gram)] += strength * np.trace(gram) / len(gram) + 1e-300
    matrix = np.linalg.solve(gram, (x - x_mean).T @ (y - y_mean)).T
    return matrix, y_mean - matrix @ x_mean
