"""The exact choice under several budgets equals trying everything, by either solver."""

from __future__ import annotations

import ctypes
import itertools
import sys

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from nnfactory.factory.assembler.enumeration import Hint, TooManyPlansError, best_plan, binding
from nnfactory.factory.assembler.knapsack import solve
from nnfactory.factory.assembler.program import Row, Solution, solve_program

SOLVERS = pytest.mark.parametrize("solver", [solve_program, best_plan])


@st.composite
def tables(draw: st.DrawFn, names, groups, largest: int):
    """A rising number per slot and count."""
    return {
        name: tuple(
            itertools.accumulate(
                draw(st.lists(st.integers(0, largest), min_size=n, max_size=n)), initial=0
            )
        )
        for name, n in zip(names, groups, strict=True)
    }


@st.composite
def programs(draw: st.DrawFn, rows: int, largest: int = 20):
    """Objective, least counts and rows whose limits are costs of real plans, or near them."""
    groups = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    names = [f"slot{index}" for index in range(len(groups))]
    objective = draw(tables(names, groups, largest))
    least = {name: draw(st.integers(0, 1)) for name in names}
    made = []
    for _ in range(rows):
        table = draw(tables(names, groups, largest))
        counts = {n: draw(st.integers(0, g)) for n, g in zip(names, groups, strict=True)}
        limit = sum(table[n][k] for n, k in counts.items()) + draw(st.integers(-2, 2))
        made.append(Row(table=table, limit=limit))
    return objective, least, made


def best_of_all(objective, least, rows) -> int | None:
    """Greatest objective of any plan that keeps every row."""
    reachable = []
    for counts in itertools.product(*(range(least[s], len(objective[s])) for s in objective)):
        chosen = dict(zip(objective, counts, strict=True))
        if all(sum(row.table[s][k] for s, k in chosen.items()) <= row.limit for row in rows):
            reachable.append(sum(objective[s][k] for s, k in chosen.items()))
    return max(reachable, default=None)


def check(solver, objective, least, rows) -> None:
    solution = solver(objective, least, rows)
    best = best_of_all(objective, least, rows)
    if best is None:
        assert solution is None
        return
    assert solution is not None
    assert solution.objective == best
    assert solution.bound == pytest.approx(best, rel=1e-6, abs=1e-6)
    assert solution.bound >= solution.objective
    assert sum(objective[s][k] for s, k in solution.counts.items()) == best
    assert set(solution.counts) == set(objective)
    assert all(solution.counts[s] >= least[s] for s in objective)
    for row in rows:
        assert sum(row.table[s][k] for s, k in solution.counts.items()) <= row.limit


@SOLVERS
@given(program=programs(rows=2))
@settings(max_examples=60)
def test_two_budgets_give_the_best_of_all_plans(solver, program):
    check(solver, *program)


@SOLVERS
@given(program=programs(rows=3))
@settings(max_examples=40)
def test_three_budgets_give_the_best_of_all_plans(solver, program):
    check(solver, *program)


@SOLVERS
@given(program=programs(rows=2, largest=10**9))
@settings(max_examples=60)
def test_numbers_of_any_size_are_compared_exactly(solver, program):
    check(solver, *program)


@SOLVERS
@given(program=programs(rows=1))
@settings(max_examples=40)
def test_one_budget_gives_the_value_of_the_knapsack(solver, program):
    objective, least, (row,) = program
    table = solve(row.table, objective, least)
    position = table.best(row.limit)
    solution = solver(objective, least, [row])
    assert (solution is None) == (position is None)
    if solution is not None:
        assert solution.objective == table.value[position]


@given(seed=st.integers(0, 1000), rows=st.integers(1, 6))
@settings(max_examples=30)
def test_both_solvers_agree_on_programs_of_the_size_of_a_library(seed, rows):
    rng = np.random.default_rng(seed)
    names = [f"slot{index}" for index in range(8)]

    def table(largest: int) -> dict[str, tuple[int, ...]]:
        steps = {name: np.sort(rng.integers(0, largest, 16))[::-1] for name in names}
        return {name: (0, *np.cumsum(row).tolist()) for name, row in steps.items()}

    objective, least = table(10**8), dict.fromkeys(names, 0)
    made = [table(10**6) for _ in range(rows)]
    limits = [int(rng.uniform(0.2, 0.8) * sum(row[-1] for row in one.values())) for one in made]
    program = [Row(table=one, limit=limit) for one, limit in zip(made, limits, strict=True)]
    one, other = solve_program(objective, least, program), best_plan(objective, least, program)
    assert one is not None
    assert other is not None
    assert one.objective == other.objective == other.bound


@given(program=programs(rows=3), less=st.lists(st.integers(0, 4), min_size=3, max_size=3))
@settings(max_examples=100)
def test_the_answer_to_a_tighter_program_is_a_hint_that_changes_nothing(program, less):
    objective, least, rows = program
    tight = [Row(table=r.table, limit=r.limit - n) for r, n in zip(rows, less, strict=True)]
    tighter = best_plan(objective, least, tight)
    expected = best_of_all(objective, least, rows)
    found = best_plan(objective, least, rows, Hint(tighter=tighter))
    assert (found.objective if found else None) == expected
    if expected is not None:
        assert best_plan(objective, least, rows, Hint(tighter=tighter, bar=expected)) is not None
        assert best_plan(objective, least, rows, Hint(tighter=tighter, bar=expected + 1)) is None


@SOLVERS
def test_large_costs_beside_a_limit_of_next_to_nothing_are_compared_exactly(solver):
    """Losses and gains of 10**11 that add up to a limit of 3."""
    table = {"a": (0, 10**11, 2 * 10**11), "b": (0, 3 - 10**11, -2 * 10**11)}
    objective = {"a": (0, 5, 9), "b": (7, 4, 0)}
    rows = [Row(table=table, limit=3)]
    solution = solver(objective, {"a": 0, "b": 0}, rows)
    assert solution is not None
    assert solution.objective == best_of_all(objective, {"a": 0, "b": 0}, rows) == 9


def test_too_many_plans_near_the_bound_are_given_up():
    names = [f"slot{index}" for index in range(20)]
    table = dict.fromkeys(names, (0, 2, 4, 6))  # all plans of a cost are worth the same
    with pytest.raises(TooManyPlansError):
        best_plan(table, dict.fromkeys(names, 0), [Row(table=table, limit=61)])


def test_without_budgets_the_most_valuable_plan_is_chosen():
    solution = solve_program({"a": (0, 3, 5), "b": (0, 4)}, {"a": 0, "b": 0}, [])
    assert solution is not None
    assert solution.counts == {"a": 2, "b": 1}
    assert solution.objective == solution.bound == 9


@SOLVERS
def test_a_least_count_is_kept_even_where_it_is_worth_nothing(solver):
    rows = [Row(table={"a": (0, 5), "b": (0, 5)}, limit=5)]
    solution = solver({"a": (0, 0), "b": (0, 9)}, {"a": 1, "b": 0}, rows)
    assert solution is not None
    assert solution.counts == {"a": 1, "b": 0}


@SOLVERS
def test_a_limit_below_zero_is_infeasible(solver):
    rows = [Row(table={"a": (0, 5)}, limit=-1)]
    assert solver({"a": (0, 1)}, {"a": 0}, rows) is None


def test_what_the_solver_writes_to_stdout_is_not_seen(capfd, monkeypatch: pytest.MonkeyPatch):
    """It would stand before the JSON of an answer."""
    found = scipy.optimize.milp

    def noisy(*arguments, **options):
        ctypes.CDLL(None).printf(b"a note from below\n")
        return found(*arguments, **options)

    monkeypatch.setattr(scipy.optimize, "milp", noisy)
    sys.stdout.write("before\n")
    assert solve_program({"a": (0, 1)}, {"a": 0}, []) is not None
    sys.stdout.write("after\n")
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == "before\nafter\n"


def test_a_row_that_every_plan_breaks_by_next_to_nothing_is_infeasible_at_once():
    """The solver takes each plan for feasible, so none may be left to be tried."""
    groups = {f"block{n}": 12 for n in range(6)}
    values = {
        slot: tuple(10**9 * k // 12 for k in range(most + 1)) for slot, most in groups.items()
    }
    best = -sum(row[-1] for row in values.values())
    row = Row(table={s: tuple(-v for v in r) for s, r in values.items()}, limit=best - 1)
    assert solve_program(values, dict.fromkeys(groups, 0), [row]) is None


def test_two_rows_in_conflict_by_next_to_nothing_are_infeasible_soon():
    groups = {f"block{n}": 12 for n in range(6)}
    rng = np.random.default_rng(0)
    costs = {
        slot: tuple(int(c) for c in np.cumsum(rng.integers(10**6, 10**8, most + 1)))
        for slot, most in groups.items()
    }
    target = sum(row[6] for row in costs.values())
    rows = [
        Row(table=costs, limit=target - 1),
        Row(table={s: tuple(-c for c in r) for s, r in costs.items()}, limit=-target),
    ]
    assert solve_program(costs, dict.fromkeys(groups, 0), rows) is None


@given(program=programs(rows=4), cuts=st.lists(st.integers(1, 3), max_size=3, unique=True))
@settings(max_examples=150)
def test_budgets_bind_without_which_there_is_a_better_plan(program, cuts):
    objective, least, rows = program
    reached = best_of_all(objective, least, rows)
    if reached is None:
        return
    ends = [0, *sorted(cuts), len(rows)]
    groups = [rows[a:b] for a, b in itertools.pairwise(ends)]
    without = [[row for other in groups if other is not group for row in other] for group in groups]
    expected = [best_of_all(objective, least, rest) > reached for rest in without]
    best = Solution(counts={}, objective=reached, bound=reached)
    assert binding(objective, least, groups, best) == expected
