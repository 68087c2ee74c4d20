"""Why no plan keeps a budget: what is reachable, and the smallest relaxation that works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import BudgetError
from ..schema import Budget
from ..units import four_digits
from .footprint import full_counts
from .limits import CLASS_ACCURACY, LATENCY, Counts, Limit, limit_of, limits_of
from .problem import Problem
from .program import Row, minimize_greatest, solve_program


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conflict:
    """Why one input size has no plan.

    Attributes:
        problem: At that size.
        limits: All of its budgets.
        core: Those that no plan keeps together, and of which none can be left out.
        tightest: By name, the tightest value that a plan reaches which keeps the other budgets (or,
            where none keeps them, that any plan reaches).
        relaxed: By name, the budgets of the smallest relaxation, and how loose they must be.
        effort: How far it is from what was asked: by how much least accuracies come down, then the
            factor by which upper limits rise.
    """

    problem: Problem
    limits: Sequence[Limit]
    core: Sequence[Limit]
    tightest: Mapping[str, float]
    relaxed: Mapping[str, float]
    effort: tuple[float, float]


def infeasible(problems: Sequence[Problem], budget: Budget) -> BudgetError:
    """The error that names the budgets in conflict and what would work instead.

    The smallest relaxation is this: least accuracies above what the whole library reaches come
    down to that; then all other limits are loosened by the same factor, as little as possible, and
    those that the plan found keeps all the same stay as they are.

    Args:
        problems: At every input size that may be used.
        budget: That no plan keeps.

    Returns:
        Its ``details`` are the tightest reachable value of every budget ("tightest") and the
        budgets to change ("relaxed"), by name.
    """
    conflicts = [_conflict(problem, budget) for problem in problems]
    nearest = min(conflicts, key=lambda conflict: conflict.effort)
    tightest = {
        limit.kind.name: (max if limit.kind.is_floor else min)(
            conflict.tightest[limit.kind.name] for conflict in conflicts
        )
        for limit in nearest.limits
    }
    library, task = nearest.problem.library, nearest.problem.task
    lines = [_line(nearest, limit, budget) for limit in nearest.core]
    flags = [
        f"{limit.kind.flag} "
        f"{four_digits(nearest.relaxed[limit.kind.name], upwards=not limit.kind.is_floor)}"
        f"{limit.kind.unit}"
        for limit in nearest.limits
        if limit.kind.name in nearest.relaxed
    ]
    return BudgetError(
        f"No network of library '{library.name}' for {len(task.classes)} classes keeps the budget "
        f"on '{nearest.problem.table.device}'. {'; '.join(lines)}.",
        hints=[" ".join(flags)],
        details={"tightest": tightest, "relaxed": dict(nearest.relaxed)},
    )


def _conflict(problem: Problem, budget: Budget) -> _Conflict:
    limits = limits_of(problem, budget)
    tightest = {}
    for limit in limits:
        others = [other for other in limits if other is not limit]
        found = _tightest(problem, limit, others) or _tightest(problem, limit, [])
        assert found is not None
        tightest[limit.kind.name] = limit.reached(found)
    relaxed, effort = _relaxed(problem, limits, budget)
    return _Conflict(
        problem=problem, limits=limits, core=_core(problem, limits), tightest=tightest,
        relaxed=relaxed, effort=effort,
    )  # fmt: skip


def _core(problem: Problem, limits: Sequence[Limit]) -> list[Limit]:
    """The limits that no plan keeps even alone; if there is none, a smallest set in conflict."""
    alone = [limit for limit in limits if not _is_feasible(problem, [limit])]
    if alone:
        return alone
    kept = list(limits)
    for limit in limits:
        fewer = [other for other in kept if other is not limit]
        if not _is_feasible(problem, fewer):
            kept = fewer
    return kept


def _rows(limits: Sequence[Limit]) -> list[Row]:
    return [row for limit in limits for row in limit.rows]


def _is_feasible(problem: Problem, limits: Sequence[Limit]) -> bool:
    return solve_program(problem.values, problem.least, _rows(limits)) is not None


def _tightest(problem: Problem, limit: Limit, others: Sequence[Limit]) -> Counts | None:
    """A plan that reaches the tightest value of a budget and keeps the others."""
    hard = _rows(others)
    if limit.kind is CLASS_ACCURACY:
        return _best_for_all(problem, limit, hard)
    if len(limit.rows) > 1:
        return minimize_greatest(limit.ratios, problem.least, hard)
    gains = {slot: tuple(-cost for cost in row) for slot, row in limit.rows[0].table.items()}
    found = solve_program(gains, problem.least, hard)
    return None if found is None else found.counts


def _best_for_all(problem: Problem, limit: Limit, hard: Sequence[Row]) -> Counts | None:
    """The plan whose least accuracy of a class is greatest, by bisection.

    Every plan found reaches more than was asked for, so few steps are needed, and at the end
    nothing reaches a billionth more.
    """
    found = solve_program(problem.values, problem.least, hard)
    if found is None:
        return None
    best: Counts = found.counts
    low, high = limit.reached(best), limit.reached(full_counts(problem.library))
    while high - low > 1e-9:
        middle = (low + high) / 2
        more = limit_of(problem, CLASS_ACCURACY, middle)
        found = solve_program(problem.values, problem.least, [*hard, *more.rows])
        if found is None:
            high = middle
        else:
            best, low = found.counts, max(middle, limit.reached(found.counts))
    return best


def _relaxed(
    problem: Problem, limits: Sequence[Limit], budget: Budget
) -> tuple[dict[str, float], tuple[float, float]]:
    """The smallest relaxation and its effort; see :func:`infeasible`."""
    full = full_counts(problem.library)
    relaxed: dict[str, float] = {}
    hard: list[Row] = []
    lowered = 0.0
    for limit in limits:
        if not limit.kind.is_value:
            continue
        if limit.is_kept(full):
            hard += limit.rows
            continue
        relaxed[limit.kind.name] = limit.reached(full)
        lowered += limit.asked - limit.reached(full)
        lower = limit_of(problem, limit.kind, limit.reached(full), budget.percentile)
        hard += lower.rows
    others = [limit for limit in limits if not limit.kind.is_value]
    if not others:
        return relaxed, (lowered, 1.0)
    ratios = [ratio for limit in others for ratio in limit.ratios]
    counts = minimize_greatest(ratios, problem.least, hard)
    assert counts is not None, "the whole library keeps every relaxed accuracy"
    relaxed |= {
        limit.kind.name: limit.reached(counts) for limit in others if not limit.is_kept(counts)
    }
    return relaxed, (lowered, max(ratio.of(counts) for ratio in ratios))


def _line(conflict: _Conflict, limit: Limit, budget: Budget) -> str:
    """One budget of the core, in words."""
    kind, best = limit.kind, conflict.tightest[limit.kind.name]
    text = _asked(limit)
    if len(conflict.core) > 1 and _is_feasible(conflict.problem, [limit]):
        others = " and ".join(_asked(other) for other in conflict.core if other is not limit)
        word = "most" if kind.is_floor else "least"
        return f"{text}: with {others} it is at {word} {best:.4g} {kind.unit}".rstrip()
    who = "whole" if kind.is_value else "smallest"
    text += f": the {who} network has {best:.4g} {kind.unit}".rstrip()
    if kind is LATENCY:
        counts = conflict.problem.with_classes(conflict.problem.least)
        latency = conflict.problem.table.predict(counts, percentile=budget.percentile)
        kind_of = "by the measured table" if conflict.problem.table.is_measured else "estimated"
        text += f" [{latency.low:.4g}, {latency.high:.4g}], {kind_of}"
    return text + (", estimated" if kind.is_value else "")


def _asked(limit: Limit) -> str:
    sign = ">=" if limit.kind.is_floor else "<="
    return f"{limit.kind.name} {sign} {limit.asked:g} {limit.kind.unit}".rstrip()
