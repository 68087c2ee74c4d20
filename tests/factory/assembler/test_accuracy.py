"""The estimate of accuracy: sane in its inputs, and its interval covers what it claims."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfactory.factory.assembler.accuracy import (
    estimate_accuracy,
    half_widths,
    least_shares,
    logit,
)
from nnfactory.factory.assembler.accuracy_fit import ClassPair, fit_accuracy, fit_class_accuracy
from nnfactory.factory.assembler.values import class_shares, slot_values, value_share
from nnfactory.factory.errors import DataError


@pytest.fixture(scope="session")
def fit(toy_parts) -> dict:
    return fit_accuracy([toy_parts.pairs(300, 1, 20)])[0]


def test_the_interval_covers_about_nine_in_ten_fresh_networks(toy_parts, fit):
    fresh = toy_parts.pairs(3000, 2, 20)
    covered = []
    for pair in fresh:
        interval = estimate_accuracy(fit, pair.share, pair.strength, len(pair.classes))
        covered.append(interval.low <= pair.accuracy <= interval.high)
    assert 0.88 <= np.mean(covered) <= 0.96


def width(fit: dict, size: int, share: float = 1.0) -> float:
    """Half of the interval of an estimate, in logits."""
    return float(half_widths(fit, np.array([share]), size)[0])


def test_nine_in_ten_fits_cover_nine_in_ten_networks(toy_parts):
    """Not only on average over fits: a quantile without a margin would fail for about every second.

    The accuracies are known without an error, so that the residuals alone decide.
    """
    held = []
    for seed in range(60):
        pairs = toy_parts.pairs(120, seed, 20)
        fit = fit_accuracy([pairs], seed=seed)[0]
        covered = []
        for pair in toy_parts.pairs(400, 1000 + seed, 20):
            interval = estimate_accuracy(fit, pair.share, pair.strength, len(pair.classes))
            covered.append(interval.low <= pair.accuracy <= interval.high)
        held.append(np.mean(covered))
    assert np.mean(np.array(held) >= 0.9) >= 0.85
    assert np.mean(held) <= 0.96


def test_of_many_pairs_the_interval_is_not_wider_than_the_noise_asks_for(toy_parts):
    fit = fit_accuracy([toy_parts.pairs(1500, 1, 20)])[0]
    for size in range(2, 21):
        for share in (1.0, 0.6, 0.2):
            assert width(fit, size, share) == pytest.approx(1.645 * 0.25, rel=0.3)


def test_the_interval_is_wider_where_much_is_cut_if_that_is_less_certain(toy_parts):
    rng = np.random.default_rng(3)
    noisy = [
        dataclasses.replace(
            pair,
            accuracy=float(
                1 / (1 + np.exp(-logit(pair.accuracy) - rng.normal(0, 2 * (1 - pair.share))))
            ),
        )
        for pair in toy_parts.pairs(1500, 7, 20)
    ]
    fit = fit_accuracy([noisy])[0]
    assert width(fit, 8, 0.25) > 1.5 * width(fit, 8, 1.0)


def test_the_interval_is_never_narrower_where_more_is_cut(toy_parts):
    rng, calmer = np.random.default_rng(1), []  # here it is less certain where less is cut
    for pair in toy_parts.pairs(300, 7, 20):
        odds = logit(pair.strength) - 2 * (1 - pair.share) + rng.normal(0, pair.share**2)
        calmer.append(dataclasses.replace(pair, accuracy=float(1 / (1 + np.exp(-odds)))))
    fit = fit_accuracy([calmer])[0]
    widths = half_widths(fit, np.linspace(1, 0, 21), 8)
    assert (np.diff(widths) >= 0).all()


def test_what_the_strength_may_be_off_by_is_added(fit):
    wider = half_widths({**fit, "unknown": 0.3}, np.array([1.0, 0.5]), 8)
    np.testing.assert_allclose(wider, np.hypot(half_widths(fit, np.array([1.0, 0.5]), 8), 0.3))


def test_the_interval_of_few_classes_is_wider_where_they_are_less_certain(toy_parts):
    rng = np.random.default_rng(4)

    def noisy(seed: int) -> list:
        return [
            dataclasses.replace(
                pair,
                accuracy=float(
                    1 / (1 + np.exp(-logit(pair.accuracy) - rng.normal(0, 2 / len(pair.classes))))
                ),
            )
            for pair in toy_parts.pairs(1500, seed, 20)
        ]

    fit = fit_accuracy([noisy(5)])[0]
    assert width(fit, 2) > 2 * width(fit, 18)
    for few in (True, False):
        covered = []
        for pair in noisy(6):
            if (len(pair.classes) <= 3) == few:
                found = estimate_accuracy(fit, pair.share, pair.strength, len(pair.classes))
                covered.append(found.low <= pair.accuracy <= found.high)
        assert 0.84 <= np.mean(covered) <= 0.97


def test_the_estimate_finds_the_law_behind_the_pairs(toy_parts, fit):
    for share, strength, size in ((1.0, 0.7, 2), (0.5, 0.6, 10), (0.8, 0.5, 5)):
        odds = logit(strength) - 2.0 * (1 - share) - 0.3 * np.log(size)
        expected = 1 / (1 + np.exp(-float(odds)))
        value = estimate_accuracy(fit, share, strength, size).value
        assert value == pytest.approx(expected, abs=0.06)  # the ridge draws to the middle


@given(
    share=st.floats(0.2, 1), strength=st.floats(0.4, 0.8), size=st.integers(2, 20),
)  # fmt: skip
def test_an_estimate_is_a_probability_with_an_ordered_interval(fit, share, strength, size):
    interval = estimate_accuracy(fit, share, strength, size)
    assert 0 < interval.low < interval.value < interval.high < 1
    assert (interval.level, interval.n) == (0.9, 300)


@given(
    shares=st.tuples(st.floats(0.2, 1), st.floats(0.2, 1)),
    strength=st.floats(0.4, 0.8),
    size=st.integers(2, 20),
)
def test_more_value_and_easier_classes_are_estimated_higher(fit, shares, strength, size):
    less, more = sorted(shares)
    if more - less > 0.05:
        worse, better = (estimate_accuracy(fit, s, strength, size).value for s in (less, more))
        assert worse < better
    harder = estimate_accuracy(fit, more, strength - 0.1, size).value
    assert harder < estimate_accuracy(fit, more, strength, size).value
    if size > 4:
        fewer = estimate_accuracy(fit, more, strength, size // 2).value
        assert fewer > estimate_accuracy(fit, more, strength, size).value


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_certain_failure_and_success_stay_finite(fit, strength):
    interval = estimate_accuracy(fit, 1.0, strength, 2)
    assert np.isfinite([interval.low, interval.value, interval.high]).all()
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()


def test_the_fit_depends_on_the_pairs_alone(toy_parts, fit):
    assert fit_accuracy([toy_parts.pairs(300, 1, 20)])[0] == fit


def test_pairs_with_the_same_accuracy_give_a_narrow_interval(toy_parts):
    same = [dataclasses.replace(pair, accuracy=0.6) for pair in toy_parts.pairs(40, 3, 5)]
    fit = fit_accuracy([same])[0]
    interval = estimate_accuracy(fit, 0.7, 0.6, 3)
    assert interval.value == pytest.approx(0.6, abs=0.01)
    assert interval.high - interval.low < 0.02


def test_too_few_pairs_are_refused(toy_parts):
    with pytest.raises(DataError, match="at least 20 measured networks, got 19"):
        fit_accuracy([toy_parts.pairs(19, 1, 5)])[0]
    assert fit_accuracy([toy_parts.pairs(20, 1, 5)])[0]["n"] == 20


# Several input sizes


def test_sizes_share_all_but_the_slope_of_the_value(toy_parts):
    first = toy_parts.pairs(400, 1, 20)
    second = [
        dataclasses.replace(
            pair,
            accuracy=float(1 / (1 + np.exp(-logit(pair.accuracy) - 1.5 * (1 - pair.share)))),
        )
        for pair in toy_parts.pairs(400, 2, 20)
    ]
    one, other = fit_accuracy([first, second])
    shared = [0, 1, 2, 3, 5, 6]
    assert [one["coefficients"][i] for i in shared] == [other["coefficients"][i] for i in shared]
    steeper = other["coefficients"][4] - one["coefficients"][4]
    assert steeper == pytest.approx(1.5, abs=0.15)
    whole = [estimate_accuracy(fit, 1.0, 0.6, 8).value for fit in (one, other)]
    assert whole[0] == whole[1]
    assert (one["n"], other["n"]) == (400, 400)


def test_the_interval_is_that_of_its_own_size(toy_parts):
    rng = np.random.default_rng(9)
    noisy = [
        dataclasses.replace(
            pair, accuracy=float(1 / (1 + np.exp(-logit(pair.accuracy) - rng.normal(0, 1))))
        )
        for pair in toy_parts.pairs(400, 2, 20)
    ]
    calm, rough = fit_accuracy([toy_parts.pairs(400, 1, 20), noisy])
    assert width(rough, 8) > 2 * width(calm, 8)


# Single classes


def class_pairs(networks: int, seed: int, spread: float = 0.0) -> list[ClassPair]:
    """Classes of networks that are each better or worse as a whole, by ``spread`` in logits."""
    rng = np.random.default_rng(seed)
    rows = []
    for network in range(networks):
        size, shift = int(rng.integers(2, 12)), rng.normal(0, spread) if spread else 0.0
        for _ in range(size):
            share, strength = rng.uniform(0.2, 1), rng.uniform(0.3, 0.9)
            odds = logit(strength) - 2.0 * (1 - share) + rng.normal(0, 0.3) + shift
            accuracy = float(1 / (1 + np.exp(-odds)))
            rows.append(
                ClassPair(
                    network=network, share=share, strength=strength, size=size, accuracy=accuracy
                )
            )
    return rows


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_the_interval_of_a_class_covers_about_nine_in_ten_of_fresh_ones(spread):
    fit = fit_class_accuracy([class_pairs(150, 1, spread)])[0]
    covered = []
    for pair in class_pairs(500, 2, spread):
        interval = estimate_accuracy(fit, pair.share, pair.strength, pair.size)
        covered.append(interval.low <= pair.accuracy <= interval.high)
    assert 0.88 <= np.mean(covered) <= 0.98


def test_the_confidence_of_a_class_counts_networks():
    """A copy of every class says nothing new."""
    rows = class_pairs(60, 1, 0.5)
    twice = [row for row in rows for _ in range(2)]
    once, again = (fit_class_accuracy([some])[0]["quantiles"] for some in (rows, twice))
    assert again == pytest.approx(once, rel=0.02)


def test_classes_of_one_network_are_held_out_together():
    """Were they not, forty copies of every class would predict each other without a residual."""
    rng = np.random.default_rng(0)
    rows = [
        ClassPair(network=n, share=s, strength=t, size=5, accuracy=float(a))
        for n in range(24)
        for s, t, a in [rng.uniform(0.2, 0.8, 3)]
        for _ in range(40)
    ]
    whole = fit_class_accuracy([rows])[0]
    apart = [dataclasses.replace(row, network=i) for i, row in enumerate(rows)]
    assert width(whole, 5) > width(fit_class_accuracy([apart])[0], 5)
    with pytest.raises(DataError, match="at least 20 measured networks, got 19"):
        fit_class_accuracy([rows, [row for row in rows if row.network < 19]])


def test_the_share_of_a_task_is_the_mean_over_its_classes(toy_library):
    task, counts = toy_library.task(), {s.name: s.groups // 2 for s in toy_library.blocks}
    shares = class_shares(toy_library, range(len(task.classes)), counts)
    assert shares.shape == (len(task.classes),)
    assert np.ptp(shares) > 0
    expected = value_share(slot_values(toy_library, task), counts)
    assert shares.mean() == pytest.approx(expected, abs=1e-6)
    full = {s.name: s.groups for s in toy_library.blocks}
    np.testing.assert_allclose(class_shares(toy_library, [2, 0], full), 1, atol=1e-9)
    np.testing.assert_allclose(class_shares(toy_library, [2, 0], counts), shares[[2, 0]])


def test_few_networks_of_every_number_of_classes_share_one_quantile(toy_parts):
    pairs = toy_parts.pairs(400, 8, 20)
    few = [p for p in pairs if len(p.classes) <= 3][:7]
    some = [p for p in pairs if 3 < len(p.classes) <= 12][:7]
    many = [p for p in pairs if len(p.classes) > 12][:7]
    fit = fit_accuracy([[*few, *some, *many]])[0]
    assert len(set(fit["quantiles"])) == 1
    assert np.isfinite(width(fit, 2))


@given(accuracy=st.floats(0.05, 0.95), size=st.integers(2, 20))
def test_the_least_share_is_the_first_of_which_the_accuracy_is_estimated(fit, accuracy, size):
    strengths, steps = np.array([0.3, 0.5, 0.8]), np.array([1000, 37, 10**9])
    for strength, step, found in zip(
        strengths, steps, least_shares(fit, accuracy, strengths, size, steps), strict=True
    ):

        def estimated(number: int, strength=strength, step=step) -> float:
            return estimate_accuracy(fit, number / step, strength, size).value

        assert 0 <= found <= step + 1
        assert found > step or estimated(found) >= accuracy
        assert found == 0 or estimated(found - 1) < accuracy
