"""Which networks and input sizes a training step sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfactory.factory.sampling import sample_size, sample_widths


@given(
    slots=st.lists(
        st.integers(1, 12).flatmap(lambda most: st.tuples(st.just(most), st.integers(0, most))),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_widths_lie_between_the_least_and_the_most(slots, seed):
    full, empty = zip(*slots, strict=True)
    widths = sample_widths(full, empty, np.random.default_rng(seed))
    assert len(widths) == len(full)
    assert all(low <= width <= most for low, width, most in zip(empty, widths, full, strict=True))
    assert widths == sample_widths(full, empty, np.random.default_rng(seed))


def test_small_networks_are_likelier_and_only_they_skip_many_blocks(rng):
    full, empty = (8,) * 10, (0,) * 10
    rows = np.array([sample_widths(full, empty, rng) for _ in range(3000)])
    shares = rows.mean(1) / 8
    assert 0.3 < shares.mean() < 0.45
    skipped = (rows == 0).mean(1)
    assert skipped[shares < 0.2].mean() > 0.25
    assert skipped[shares > 0.8].mean() < 0.05


def test_half_of_the_steps_see_the_largest_size_and_the_others_share_the_rest(rng):
    found = np.array([sample_size((128, 256, 192), rng) for _ in range(6000)])
    assert set(found.tolist()) == {128, 192, 256}
    assert (found == 256).mean() == pytest.approx(0.5, abs=0.03)
    for size in (128, 192):
        assert (found == size).mean() == pytest.approx(0.25, abs=0.03)


def test_a_single_size_is_always_taken_and_its_type_is_an_int(rng):
    assert {sample_size((96,), rng) for _ in range(20)} == {96}
    assert all(type(sample_size((96, 64), rng)) is int for _ in range(20))
