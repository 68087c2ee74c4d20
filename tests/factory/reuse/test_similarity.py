"""Similarity against its definition and its laws."""

from __future__ import annotations

import numpy as np
import pytest

from nnfactory.factory.errors import DataError
from nnfactory.factory.reuse.similarity import cka_matrix, r2_matrix


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al., equation 5, term by term."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    total = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return float(total - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def test_cka_is_the_ratio_of_unbiased_estimates(rng):
    x = rng.normal(size=(30, 4))
    y = np.tanh(x @ rng.normal(size=(4, 7))) + 0.3 * rng.normal(size=(30, 7))
    gram = [(a - a.mean(0)) @ (a - a.mean(0)).T for a in (x, y)]
    expected = hsic(*gram) / np.sqrt(hsic(gram[0], gram[0]) * hsic(gram[1], gram[1]))
    assert cka_matrix([x, y])[0, 1] == pytest.approx(expected, abs=1e-5)


def test_rotation_scale_and_shift_change_nothing(rng):
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 3))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    found = cka_matrix([x, 3 * x @ rotation + 5, y])
    assert found[0, 1] == pytest.approx(1, abs=1e-5)
    assert found[0, 2] == pytest.approx(found[1, 2], abs=1e-5)
    np.testing.assert_allclose(found, found.T)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-6)


def test_what_is_unrelated_is_near_zero_even_with_more_features_than_rows(rng):
    found = [cka_matrix(list(rng.normal(size=(2, 40, 200))))[0, 1] for _ in range(20)]
    assert abs(np.mean(found)) < 0.03
    assert min(found) < 0  # unbiased: not pushed above zero


@pytest.mark.parametrize("scale", [1e-10, 1e8])
def test_the_size_of_activations_does_not_matter(rng, scale):
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 3))
    y[:, 0] += x[:, 0]
    assert cka_matrix([scale * x, y]) == pytest.approx(cka_matrix([x, y]), abs=1e-5)


def test_rows_must_be_the_same(rng):
    with pytest.raises(DataError, match="same rows"):
        cka_matrix([rng.normal(size=(20, 2)), rng.normal(size=(21, 2))])
    with pytest.raises(DataError, match="at least 8"):
        cka_matrix([rng.normal(size=(5, 2))] * 2)


def rows_of(rng, images: int, width: int) -> np.ndarray:
    return rng.normal(size=(4 * images, width))


def test_regression_explains_what_is_a_linear_map(rng):
    x = rows_of(rng, 50, 6)
    y = 5 * x @ rng.normal(size=(6, 6)) + 3
    noise = rows_of(rng, 50, 4)
    found = r2_matrix([x, y, noise, np.concatenate([x, noise], 1)])
    assert found[0, 1] > 0.95
    assert found[0, 2] == pytest.approx(0, abs=0.05)
    assert 0.7 < found[0, 3] < 0.9  # all of x is in the whole, six tenths of the whole are in x
    np.testing.assert_allclose(found, found.T)
    assert (np.diag(found) > 0.95).all()


def test_what_is_fitted_is_not_what_is_judged(rng):
    """As many features as rows explain everything that they are fitted to, and nothing else."""
    found = r2_matrix([rows_of(rng, 20, 100), rows_of(rng, 20, 100)])
    assert found[0, 1] < 0.05
    with pytest.raises(DataError, match="same images"):
        r2_matrix([rows_of(rng, 20, 3), rows_of(rng, 21, 3)])
