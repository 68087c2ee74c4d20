"""What is tried under a budget, what is proven of it, and what is said when there is nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nnfactory.factory.errors import BudgetError
from nnfactory.factory.reuse.choice import certificate_of, infeasible, limits_of, ways_within
from nnfactory.factory.reuse.search import Stages, best_ways
from nnfactory.factory.schema import Budget


def stages(seed: int = 0) -> Stages:
    """Three stages of four donors; going from one to another costs value."""
    rng = np.random.default_rng(seed)
    same = np.eye(4, dtype=bool)[None]
    return Stages(
        value=rng.random((3, 4)), joint_value=np.where(same, 0.0, -rng.random((2, 4, 4))),
        costs={"mparams": 1 + rng.random((3, 4)), "latency_ms": 1 + rng.random((3, 4))},
        joint_costs={name: np.where(same, 0.0, 0.2) * np.ones((2, 4, 4))
                     for name in ("mparams", "latency_ms")},
        donors=np.arange(4), is_allowed=np.ones((3, 4), bool),
    )  # fmt: skip


def test_limits_are_those_that_were_asked_for():
    assert limits_of(Budget(mparams=2.0, latency_ms=1.5)) == {"mparams": 2.0, "latency_ms": 1.5}
    assert limits_of(Budget()) == {}


@pytest.mark.parametrize("seed", range(5))
def test_the_best_ways_and_every_whole_donor_within_the_limits_are_tried(seed):
    pool = stages(seed)
    limits = {"mparams": 4.6}
    ways = ways_within(pool, limits)
    assert [way.value for way in ways] == sorted((way.value for way in ways), reverse=True)
    best = {way.blocks for way in best_ways(pool, limits, 20)}
    whole = {(donor,) * 3 for donor in range(4) if pool.way((donor,) * 3).costs["mparams"] <= 4.6}
    assert {way.blocks for way in ways} == best | whole


def test_one_donor_at_most_means_whole_donors():
    assert {way.blocks for way in ways_within(stages(), {}, most_donors=1)} == {
        (donor,) * 3 for donor in range(4)
    }


def test_the_certificate_bounds_what_was_chosen():
    pool = stages()
    (free,) = best_ways(pool, {}, 1)
    limits = {"mparams": free.costs["mparams"] - 1e-3, "latency_ms": 100.0}
    ways = ways_within(pool, limits)
    best = certificate_of(pool, limits, ways[0])
    assert (best.gap, best.objective, best.binding) == (0, best.bound, ("params",))
    other = certificate_of(pool, limits, ways[-1])
    assert other.bound == best.bound
    gap = (best.bound - ways[-1].value) / max(1, best.bound)
    assert other.gap == pytest.approx(gap)


def test_what_is_infeasible_names_the_least_and_how_to_ask_for_it():
    pool = stages()
    error = infeasible(pool, {"mparams": 0.5, "latency_ms": 50.0})
    assert isinstance(error, BudgetError)
    least = min(way.costs["mparams"] for way in best_ways(pool, {}, 64))
    assert error.details["reachable"] == {"params": pytest.approx(least)}
    assert list(error.hints) == [f"--params {least * 1.01:.4g}M"]
    assert ways_within(pool, {"mparams": least * 1.01})
    both = infeasible(pool, {"mparams": 0.5, "latency_ms": 0.5})
    assert "Loosening one of them is not enough; alone, the least is params" in str(both)
    fastest = min(way.costs["latency_ms"] for way in best_ways(pool, {}, 64))
    assert both.details["reachable"] == {
        "params": pytest.approx(least), "latency": pytest.approx(fastest)
    }  # fmt: skip


def test_a_whole_donor_costs_what_it_is_known_to_and_not_the_sum():
    pool = dataclasses.replace(stages(), whole={"latency_ms": np.array([9.0, 0.5, 9.0, 9.0])})
    assert pool.way((1, 1, 1)).costs["latency_ms"] == 0.5
    limits = {"latency_ms": 0.6}
    assert not best_ways(pool, limits, 1)
    assert [way.blocks for way in ways_within(pool, limits)] == [(1, 1, 1)]
    assert certificate_of(pool, limits, pool.way((1, 1, 1))).gap == 0
    error = infeasible(pool, {"latency_ms": 0.4})
    assert error.details["reachable"] == {"latency": 0.5}


def test_what_cannot_be_joined_is_not():
    pool = stages()
    barred = pool.joint_value.copy()
    barred[0] = np.where(np.eye(4, dtype=bool), 0.0, -np.inf)
    pool = dataclasses.replace(pool, joint_value=barred)
    ways = best_ways(pool, {}, 64)
    assert len(ways) == 16
    assert all(way.blocks[0] == way.blocks[1] for way in ways)
    assert infeasible(pool, {"mparams": 0.1}).details["reachable"]["params"] == pytest.approx(
        min(way.costs["mparams"] for way in ways)
    )
