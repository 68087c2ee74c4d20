"""The best plan within a budget, with its certificate; and the whole frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..library.library import CLASSES, ModuleLibrary
from ..schema import Budget, Certificate, Estimate, FrontierPoint, LatencyTable, Plan, Task
from ..units import NS_PER_MS
from . import knapsack
from .enumeration import NO_HINT, Hint, TooManyPlansError, best_plan, binding
from .footprint import footprint
from .infeasible import infeasible
from .limits import ACCURACY, Limit, limits_of
from .problem import Problem, estimate, problem_for
from .program import Row, Solution, Table, solve_program
from .values import SCALE

MOST_BLOCKS = 40  # of a dynamic program: its table grows with the square of the blocks


def assemble(
    library: ModuleLibrary, task: Task, budget: Budget, table: LatencyTable
) -> tuple[Plan, Estimate, Certificate]:
    """Choose the modules: optimal for the library's values and this latency table.

    The plan is the most valuable one within the budget; where an accuracy is asked for and no
    latency, it is the fastest one. One linear budget is answered by dynamic programming, several by
    bounded enumeration or an integer program; all of them exactly.

    Raises:
        BudgetError: No plan keeps the budget; the message has the tightest reachable values, and
            the smallest relaxation that works.
        DataError: See :func:`problem_for` and :func:`limits_of`.
    """
    problem = problem_for(library, task, table)
    choice = solve(problem, budget)
    if choice is None:
        raise infeasible([problem], budget)
    plan = plan_from_counts(library, task, choice.counts)
    found = estimate(problem, choice.counts, budget.percentile)
    return plan, found, certify(problem, budget, choice)


def solve(
    problem: Problem, budget: Budget, tighter: Choice | None = None, bar: int | None = None
) -> Choice | None:
    """The best plan within a budget; None if there is none.

    Args:
        problem: Library, task and latency.
        budget: Limits.
        tighter: The answer to the same limits, none of them looser, which makes this one faster.
        bar: What a plan must be worth to be of interest; below it the answer may be None.
    """
    hint = Hint(tighter=tighter, bar=bar)
    return _best(problem, limits_of(problem, budget), budget.goal, hint)


def frontier(problem: Problem, points: int | None = None) -> list[FrontierPoint]:
    """Plans that no other plan beats in latency and value, by rising latency.

    Args:
        problem: Library, task and latency.
        points: Return about this many, evenly spaced in latency; None returns all of them.
    """
    return [frontier_point(problem, counts) for counts in frontier_counts(problem, points)]


def frontier_counts(problem: Problem, points: int | None = None) -> list[dict[str, int]]:
    """Active modules per block of the same plans."""
    solved = problem.fastest
    positions = list(range(len(solved.cost)))
    if points is not None:
        low, high = int(solved.cost[0]), int(solved.cost[-1])
        steps = [low + (high - low) * i // max(1, points - 1) for i in range(points)]
        positions = sorted({p for step in steps if (p := solved.best(step)) is not None})
    return [solved.counts(position) for position in positions]


def frontier_point(problem: Problem, counts: Mapping[str, int]) -> FrontierPoint:
    """A plan with its value and what it is estimated to cost and reach."""
    return FrontierPoint(
        plan=plan_from_counts(problem.library, problem.task, counts),
        value=problem.share(counts),
        estimate=estimate(problem, counts, 50),
    )


def plan_from_counts(library: ModuleLibrary, task: Task, counts: Mapping[str, int]) -> Plan:
    """The plan that keeps the first ``counts[slot]`` modules of every block."""
    return Plan(
        task=task,
        library=library.name,
        library_id=library.id,
        active={slot: tuple(range(count)) for slot, count in counts.items()},
        input_size=library.input_size,
        normalization=library.normalization,
        is_modulated=library.modulation is not None,
        sparsity=footprint(library).sparsity({**counts, CLASSES: len(task.classes)}),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice(Solution):
    """A plan of most value, or of least nanoseconds (the objective is minus them), by the goal.

    Attributes:
        method: "dynamic programming", "bounded enumeration" or "integer program".
    """

    method: str


def _best(
    problem: Problem, limits: Sequence[Limit], goal: str, hint: Hint = NO_HINT
) -> Choice | None:
    """The best plan within the limits; None if there is none."""
    rows = [row for limit in limits for row in limit.rows]
    if goal == "latency":
        return _fastest(problem, limits, rows, hint)
    is_large = len(problem.values) > MOST_BLOCKS
    if is_large or len(rows) > 1 or any(limit.kind.is_value for limit in limits):
        return _by_program(problem.values, problem, rows, hint)
    solved = problem.fastest
    if rows and rows[0].table is not problem.latency_costs:
        solved = knapsack.solve(rows[0].table, problem.values, problem.least)
    position = solved.best(rows[0].limit if rows else None)
    if position is None:
        return None
    value = float(solved.value[position])
    return _by_table(solved.counts(position), value)


def _fastest(
    problem: Problem, limits: Sequence[Limit], rows: Sequence[Row], hint: Hint
) -> Choice | None:
    """The plan of least latency within the limits."""
    is_large = len(problem.values) > MOST_BLOCKS
    if is_large or len(rows) > 1 or not all(limit.kind.is_value for limit in limits):
        return _by_program(_objective(problem, "latency"), problem, rows, hint)
    solved = problem.fastest
    if rows and limits[0].kind is not ACCURACY:
        values = {slot: tuple(-cost for cost in row) for slot, row in rows[0].table.items()}
        solved = knapsack.solve(problem.latency_costs, values, problem.least)
    position = solved.first(-rows[0].limit) if rows else 0
    if position is None:
        return None
    return _by_table(solved.counts(position), -float(solved.cost[position]))


def _by_table(counts: dict[str, int], objective: float) -> Choice:
    return Choice(counts=counts, objective=objective, bound=objective, method="dynamic programming")


def _by_program(
    objective: Table, problem: Problem, rows: Sequence[Row], hint: Hint
) -> Choice | None:
    """The best plan within rows: by enumeration, or by the solver where too many plans are near."""
    found, method = None, "integer program"
    try:
        if not rows or len(objective) > MOST_BLOCKS:
            raise TooManyPlansError
        found, method = best_plan(objective, problem.least, rows, hint), "bounded enumeration"
    except TooManyPlansError:
        found = solve_program(objective, problem.least, rows)
    if found is None:
        return None
    return Choice(
        counts=found.counts, objective=found.objective, bound=found.bound,
        multipliers=found.multipliers, method=method,
    )  # fmt: skip


def certify(problem: Problem, budget: Budget, choice: Choice) -> Certificate:
    """The proof of a choice, and which limits keep a better plan out."""
    limits, goal = limits_of(problem, budget), budget.goal
    names = [limit.kind.name for limit in _binding(problem, limits, goal, choice)]
    objective, bound = choice.objective / SCALE, choice.bound / SCALE
    if goal == "latency":
        objective, bound = (
            (problem.fixed_ns - gain) / NS_PER_MS for gain in (choice.objective, choice.bound)
        )
    return Certificate(
        method=choice.method, objective=objective, bound=bound, goal=goal, binding=tuple(names),
        gap=abs(bound - objective) / max(abs(bound), 1),
    )  # fmt: skip


def _binding(problem: Problem, limits: Sequence[Limit], goal: str, choice: Choice) -> list[Limit]:
    """The limits without which there is a better plan."""
    if choice.method == "bounded enumeration":
        try:
            groups = [limit.rows for limit in limits]
            binds = binding(_objective(problem, goal), problem.least, groups, choice)
        except TooManyPlansError:
            pass
        else:
            return [limit for limit, is_binding in zip(limits, binds, strict=True) if is_binding]
    found = []
    for limit in limits:
        without = _best(problem, [other for other in limits if other is not limit], goal)
        if without is not None and without.objective > choice.objective + 0.5:
            found.append(limit)
    return found


def _objective(problem: Problem, goal: str) -> Table:
    """What is to be large: the value, or minus the nanoseconds."""
    if goal == "latency":
        return {slot: tuple(-ns for ns in row) for slot, row in problem.latency_costs.items()}
    return problem.values
