"""The input size as one more choice: every size is solved exactly, the best estimate wins."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..library.library import ModuleLibrary
from ..schema import Budget, Certificate, Estimate, FrontierPoint, Gain, LatencyTable, Plan, Task
from .assemble import (
    Choice,
    certify,
    frontier_counts,
    frontier_point,
    plan_from_counts,
    solve,
)
from .infeasible import infeasible
from .knees import knees
from .limits import loosened
from .problem import Problem, estimate, problem_for

PER_SIZE = 100  # plans of every size that are compared with those of the others
SLACK = 1e-3  # of the value: how near a bar below which nothing is of interest must be
LEAST_GAIN = 5e-4  # of accuracy, or as a share of the latency


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SizeOption:
    """One input size that a plan may have.

    Attributes:
        library: The library at that size.
        table: Latency of its modules at that size.
    """

    library: ModuleLibrary
    table: LatencyTable


def assemble_any_size(
    options: Sequence[SizeOption], task: Task, budget: Budget
) -> tuple[Plan, Estimate, Certificate]:
    """The plan of greatest estimated accuracy over all sizes; or of least latency, by the goal.

    Within a size the plan is optimal for the library's values; values of different sizes do not
    compare, estimates of accuracy do.

    Args:
        options: At least one; larger inputs first.
        task: What the network must do.
        budget: Limits.

    Returns:
        The plan, its estimate, and the certificate with what a little more of each binding budget
        buys.

    Raises:
        BudgetError: No plan of any size keeps the budget.
    """
    problems = [problem_for(option.library, task, option.table) for option in options]
    choices = [solve(problem, budget) for problem in problems]
    best = _best(problems, choices, budget)
    if best is None:
        raise infeasible(problems, budget)
    problem, choice = best
    certificate = certify(problem, budget, choice)
    more = _gains(problems, choices, budget, certificate.binding)
    plan = plan_from_counts(problem.library, task, choice.counts)
    estimated = estimate(problem, choice.counts, budget.percentile)
    return plan, estimated, replace(certificate, more=more)


def assemble_other_sizes(
    options: Sequence[SizeOption], task: Task, budget: Budget, size: int
) -> list[tuple[Plan, Estimate, Certificate]]:
    """The answers at all sizes but one, by falling estimate; none where nothing keeps the budget.

    Args:
        options: As for :func:`assemble_any_size`.
        task: What the network must do.
        budget: Limits.
        size: The size that is left out.
    """
    answers = []
    for option in options:
        if option.library.input_size == size:
            continue
        problem = problem_for(option.library, task, option.table)
        choice = solve(problem, budget)
        if choice is not None:
            plan = plan_from_counts(problem.library, task, choice.counts)
            estimated = estimate(problem, choice.counts, budget.percentile)
            answer = plan, estimated, certify(problem, budget, choice)
            answers.append((_merit(problem, choice, budget), answer))
    return [answer for _, answer in sorted(answers, key=lambda pair: -pair[0])]


def _best(
    problems: Sequence[Problem], choices: Sequence[Choice | None], budget: Budget
) -> tuple[Problem, Choice] | None:
    """The best of the choices, one or none of every size; None if no size has one."""
    found = [(p, choice) for p, choice in zip(problems, choices, strict=True) if choice is not None]
    return max(found, key=lambda pair: _merit(pair[0], pair[1], budget), default=None)


def _merit(problem: Problem, choice: Choice, budget: Budget) -> float:
    """What is to be large: estimated accuracy, or minus the latency in milliseconds."""
    if budget.goal == "latency":
        counts = problem.with_classes(choice.counts)
        return -problem.table.predict(counts, percentile=budget.percentile).value
    return problem.accuracy(choice.counts).value


def _gains(
    problems: Sequence[Problem], choices: Sequence[Choice | None], budget: Budget,
    binding: Sequence[str],
) -> tuple[Gain, ...]:  # fmt: skip
    """What loosening each binding budget alone buys, where it buys anything.

    Args:
        problems: One of every size.
        choices: Their answers to the budget.
        budget: Limits.
        binding: Names of those of them that bind.
    """
    known = list(zip(problems, choices, strict=True))
    merits = [_merit(p, c, budget) if c is not None else -math.inf for p, c in known]
    known = [known[i] for i in np.argsort(merits)[::-1]]  # a high bar for the others
    now = max(merits)
    found, of = [], "latency" if budget.goal == "latency" else "accuracy"
    for kind, step, looser in loosened(budget):
        if kind.name not in binding:
            continue
        best = now
        for problem, choice in known:
            bar = problem.least_value(best, slack=SLACK) if of == "accuracy" else None
            other = solve(problem, looser, choice, bar)
            if other is not None:
                best = max(best, _merit(problem, other, budget))
        if best - now > LEAST_GAIN * (abs(now) if of == "latency" else 1):
            found.append(Gain(budget=kind.name, step=step, unit=kind.unit, gain=best - now, of=of))
    return tuple(found)


def frontier_any_size(
    options: Sequence[SizeOption], task: Task, points: int
) -> tuple[list[FrontierPoint], int]:
    """Plans over all sizes by rising latency and estimated accuracy.

    Of every size about a hundred plans, evenly spaced in latency, are compared with those of the
    others.

    Args:
        options: At least one.
        task: What the network must do.
        points: Return at most this many, evenly spaced in latency but for knees.

    Returns:
        The points, and how many plans the frontiers of the sizes hold, each by itself.
    """
    problems = [problem_for(option.library, task, option.table) for option in options]
    most = max(points, PER_SIZE)
    every = [_Point.of(p, counts) for p in problems for counts in frontier_counts(p, most)]
    every.sort(key=lambda point: (point.latency_ms, -point.accuracy))
    kept: list[_Point] = []
    for point in every:
        if not kept or point.accuracy > kept[-1].accuracy:
            kept.append(point)
    latencies = [point.latency_ms for point in kept]
    bends = knees(latencies, [point.accuracy for point in kept])
    found = [
        replace(frontier_point(kept[i].problem, kept[i].counts), is_knee=i in bends)
        for i in _spread(latencies, bends, points)
    ]
    return found, sum(len(problem.fastest.cost) for problem in problems)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Point:
    """A plan of some size: active modules per block, median latency and estimated accuracy."""

    problem: Problem
    counts: dict[str, int]
    latency_ms: float
    accuracy: float

    @classmethod
    def of(cls, problem: Problem, counts: dict[str, int]) -> _Point:
        """The plan with its estimates."""
        return cls(
            problem=problem, counts=counts, accuracy=problem.accuracy(counts).value,
            latency_ms=problem.table.predict(problem.with_classes(counts)).value,
        )  # fmt: skip


def _spread(latencies: Sequence[float], bends: Collection[int], points: int) -> list[int]:
    """Positions of at most ``points``, evenly spaced in latency: both ends, knees if they fit."""
    low, high = latencies[0], latencies[-1]
    chosen, position = [], 0
    for number in range(points):
        limit = low + (high - low) * number / max(1, points - 1)
        while position + 1 < len(latencies) and latencies[position + 1] <= limit:
            position += 1
        chosen.append(position)
    chosen[-1] = len(latencies) - 1
    inner = range(1, len(chosen) - 1)
    for bend in sorted(bends):
        if inner:  # in place of the nearest
            chosen[min(inner, key=lambda i: abs(chosen[i] - bend))] = bend
    return sorted(set(chosen))
