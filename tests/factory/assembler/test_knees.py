"""Knees of curves whose knees are known."""

from __future__ import annotations

import numpy as np
import pytest

from nnfactory.factory.assembler.knees import knees


def test_two_straight_lines_have_one_knee_where_they_meet():
    x = np.linspace(0, 10, 21)
    y = np.minimum(x, 2.0) + 0.01 * np.maximum(x - 2, 0)
    assert knees(x, y) == [4]
    assert knees(1000 * x + 5, 3 * y - 7) == [4]  # whatever the units


def test_a_curve_of_diminishing_returns_bends_where_its_slope_is_that_of_the_diagonal():
    x = np.linspace(0, 1, 1001)
    (found,) = knees(x, 1 - np.exp(-6 * x))
    whole = 1 - np.exp(-6)
    assert x[found] == pytest.approx(np.log(6 / whole) / 6, abs=2e-3)


def test_steps_have_a_knee_each():
    x = np.arange(30.0)
    y = np.repeat([0.0, 6.0, 9.0], 10) + 0.001 * x
    assert knees(x, y) == [10, 20]


@pytest.mark.parametrize(
    "y", [[0, 1, 2, 3, 4], [0, 1, 4, 9, 16], [1, 1, 1, 1, 1], [0.0, 0.26, 0.5, 0.75, 1.0]]
)
def test_straight_hollow_and_flat_curves_have_none(y):
    assert knees(range(5), y) == []


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_points_have_none(n):
    assert knees(range(n), [0.0, 1.0][:n]) == []
