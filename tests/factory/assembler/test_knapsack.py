"""The exact choice under one budget equals trying everything."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nnfactory.factory.assembler.knapsack import solve


@st.composite
def problems(draw: st.DrawFn):
    """Costs, values and least counts of up to four slots; costs may be anything, values rise."""
    costs, values, least = {}, {}, {}
    for index in range(draw(st.integers(1, 4))):
        groups = draw(st.integers(1, 4))
        name = f"slot{index}"
        costs[name] = tuple(
            draw(st.lists(st.integers(0, 30), min_size=groups + 1, max_size=groups + 1))
        )
        steps = draw(st.lists(st.integers(0, 20), min_size=groups, max_size=groups))
        values[name] = tuple(itertools.accumulate(steps, initial=0))
        least[name] = draw(st.integers(0, 1))
    return costs, values, least


def all_plans(costs, values, least):
    """Counts, cost and value of every plan."""
    for counts in itertools.product(*(range(least[s], len(costs[s])) for s in costs)):
        chosen = dict(zip(costs, counts, strict=True))
        yield (
            chosen,
            sum(costs[s][k] for s, k in chosen.items()),
            sum(values[s][k] for s, k in chosen.items()),
        )


@given(problem=problems(), limit=st.integers(-5, 130))
def test_the_best_plan_equals_the_best_of_all_plans(problem, limit):
    costs, values, least = problem
    table = solve(costs, values, least)
    reachable = [value for _, cost, value in all_plans(*problem) if cost <= limit]
    position = table.best(limit)
    if not reachable:
        assert position is None
        return
    counts = table.counts(position)
    assert table.value[position] == max(reachable)
    assert sum(values[s][k] for s, k in counts.items()) == max(reachable)
    assert sum(costs[s][k] for s, k in counts.items()) == table.cost[position] <= limit
    assert all(counts[s] >= least[s] for s in counts)


@given(problem=problems())
def test_without_a_limit_the_plan_is_the_most_valuable_and_the_cheapest_among_equals(problem):
    costs, values, least = problem
    table = solve(costs, values, least)
    position = table.best(None)
    plans = list(all_plans(*problem))
    greatest = max(value for _, _, value in plans)
    cheapest = min(cost for _, cost, value in plans if value == greatest)
    assert (table.value[position], table.cost[position]) == (greatest, cheapest)


@given(problem=problems())
def test_the_table_holds_exactly_the_plans_that_no_other_plan_dominates(problem):
    table = solve(*problem)
    points = {(cost, value) for _, cost, value in all_plans(*problem)}
    front = {
        (cost, value)
        for cost, value in points
        if not any((c <= cost and v >= value) and (c, v) != (cost, value) for c, v in points)
    }
    assert set(zip(table.cost.tolist(), table.value.tolist(), strict=True)) == front
    assert (np.diff(table.cost) > 0).all()
    assert (np.diff(table.value) > 0).all()


@given(problem=problems())
def test_the_counts_of_every_point_add_up_to_it(problem):
    costs, values, least = problem
    table = solve(costs, values, least)
    for position in range(len(table.cost)):
        counts = table.counts(position)
        assert sum(costs[s][k] for s, k in counts.items()) == table.cost[position]
        assert sum(values[s][k] for s, k in counts.items()) == table.value[position]


@given(problem=problems(), limit=st.integers(0, 60), more=st.integers(0, 60))
def test_a_looser_budget_never_gives_less_value(problem, limit, more):
    table = solve(*problem)
    tight, loose = table.best(limit), table.best(limit + more)
    if tight is not None:
        assert loose is not None
        assert table.value[loose] >= table.value[tight]
