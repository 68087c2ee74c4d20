"""The most valuable plan within a budget, with its certificate; and the whole frontier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import BudgetError, DataError
from ..library.library import CLASSES, ModuleLibrary
from ..schema import Budget, Certificate, Estimate, FrontierPoint, LatencyTable, Plan, Task
from ..units import MIB, NS_PER_MS, four_digits
from . import knapsack
from .accuracy import estimate_accuracy
from .footprint import Footprint, empty_counts, footprint
from .program import Row, solve_program
from .values import SCALE, slot_values, value_share

LATENCY, PARAMS, MEMORY, SPARSITY = "latency", "params", "memory", "sparsity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One choice to make: what everything is worth and what it costs.

    Attributes:
        library: Where the modules come from.
        task: What they are for.
        table: Measured or predicted latency.
        values: Per block slot the value of 0, 1, .. modules.
        least: Per block slot the least number of modules.
        size: The device-independent costs.
    """

    library: ModuleLibrary
    task: Task
    table: LatencyTable
    values: Mapping[str, tuple[int, ...]]
    least: Mapping[str, int]
    size: Footprint

    @property
    def latency_costs(self) -> dict[str, tuple[int, ...]]:
        """Per block slot the nanoseconds of 0, 1, .. modules."""
        return {slot: tuple(self.table.slots[slot]) for slot in self.values}

    @property
    def fixed_ns(self) -> int:
        """Nanoseconds that no choice changes: the rest of the network with these classes."""
        return self.table.fixed_ns + self.table.slots[CLASSES][len(self.task.classes)]

    @property
    def module_costs(self) -> dict[str, tuple[int, ...]]:
        """Per block slot the parameters owned by 0, 1, .. modules, for sparsity."""
        return {
            slot: tuple(count * self.size.modules[slot] for count in range(len(row)))
            for slot, row in self.values.items()
        }


def problem_for(library: ModuleLibrary, task: Task, table: LatencyTable) -> Problem:
    """Gather values and costs.

    Raises:
        DataError: The latency table belongs to another library or input size.
    """
    if table.library != library.id:
        raise DataError(
            f"The latency table of '{table.device}' belongs to library {table.library}, "
            f"not to '{library.name}' {library.id}."
        )
    if table.input_size != library.input_size:
        raise DataError(
            f"The latency table of '{table.device}' is for inputs of {table.input_size} px, "
            f"not of {library.input_size} px."
        )
    return Problem(
        library=library,
        task=task,
        table=table,
        values=slot_values(library, task),
        least=empty_counts(library),
        size=footprint(library),
    )


def assemble(
    library: ModuleLibrary, task: Task, budget: Budget, table: LatencyTable
) -> tuple[Plan, Estimate, Certificate]:
    """Choose the modules: optimal for the library's values and this latency table.

    One budget is answered by dynamic programming, several by an integer program; both exactly.

    Raises:
        BudgetError: No plan keeps the budget; the message has the tightest reachable values.
    """
    problem = problem_for(library, task, table)
    limits = _limits(problem, budget)
    if len(limits) <= 1 and MEMORY not in limits:
        counts, certificate = _by_knapsack(problem, limits, budget)
    else:
        counts, certificate = _by_program(problem, limits, budget)
    plan = plan_from_counts(library, task, counts)
    return plan, estimate(problem, counts, budget.percentile), certificate


def frontier(
    library: ModuleLibrary, task: Task, table: LatencyTable, points: int | None = None
) -> list[FrontierPoint]:
    """Plans that no other plan beats in latency and value, by rising latency.

    Args:
        library: Where the modules come from.
        task: What they are for.
        table: Latency of the modules.
        points: Return about this many, evenly spaced in latency; None returns all of them.
    """
    problem = problem_for(library, task, table)
    solved = knapsack.solve(problem.latency_costs, problem.values, problem.least)
    positions = list(range(len(solved.cost)))
    if points is not None:
        low, high = int(solved.cost[0]), int(solved.cost[-1])
        steps = [low + (high - low) * i // max(1, points - 1) for i in range(points)]
        positions = sorted({p for step in steps if (p := solved.best(step)) is not None})
    rows = []
    for position in positions:
        counts = solved.counts(position)
        rows.append(
            FrontierPoint(
                plan=plan_from_counts(library, task, counts),
                value=_share(problem, counts),
                estimate=estimate(problem, counts, 50),
            )
        )
    return rows


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


def estimate(problem: Problem, counts: Mapping[str, int], percentile: int) -> Estimate:
    """Predicted latency and accuracy, exact parameters and multiply-adds, and peak memory.

    For fewer than all classes of a detector the memory is an upper bound: see :func:`footprint`.
    """
    whole = {**counts, CLASSES: len(problem.task.classes)}
    return Estimate(
        latency_ms=problem.table.predict(whole, percentile=percentile),
        accuracy=estimate_accuracy(
            problem.library.accuracy["fit"],
            _share(problem, counts),
            task_strength(problem.library, problem.task),
            len(problem.task.classes),
        ),
        mparams=problem.size.total_params(whole) / 1e6,
        mmacs=problem.size.total_macs(whole) / 1e6,
        memory_mib=problem.size.peak_mib(whole),
        runtime=problem.table.runtime,
        precision=problem.table.precision,
    )


def task_strength(library: ModuleLibrary, task: Task) -> float:
    """Mean validation accuracy of the full network on the task's classes, in [0, 1]."""
    per_class = library.accuracy["per_class"]
    index = library.class_indices(task)
    return float(sum(per_class[i] for i in index) / len(index))


def _share(problem: Problem, counts: Mapping[str, int]) -> float:
    return value_share(problem.values, counts)


def _limits(problem: Problem, budget: Budget) -> dict[str, int]:
    """Integer limit of every budget that is set, over the block slots alone."""
    limits = {}
    classes = {CLASSES: len(problem.task.classes)}
    if budget.latency_ms is not None:
        tail = problem.table.tail_factor(budget.percentile)
        # A hundredth of a nanosecond makes up for rounding: 1.001 ms are 1,001,000 ns.
        limits[LATENCY] = int(budget.latency_ms * NS_PER_MS / tail + 0.01) - problem.fixed_ns
    if budget.mparams is not None:
        fixed = problem.size.total_params(classes)
        limits[PARAMS] = int(budget.mparams * 1e6 + 0.01) - fixed  # rounding, as above
    if budget.sparsity:
        sizes = problem.size.modules
        total = sum(sizes[s] * (len(problem.size.params[s]) - 1) for s in sizes)
        kept = sizes[CLASSES] * len(problem.task.classes)
        limits[SPARSITY] = int((1 - budget.sparsity) * total + 1e-6) - kept
    if budget.memory_mib is not None:
        fixed = 4 * problem.size.total_params(classes) + problem.size.table_bytes
        limits[MEMORY] = int(budget.memory_mib * MIB) - fixed
    return limits


def _costs(problem: Problem, name: str) -> Mapping[str, tuple[int, ...]]:
    """Additive cost table of a budget (not of memory)."""
    if name == LATENCY:
        return problem.latency_costs
    if name == PARAMS:
        return {slot: problem.size.params[slot] for slot in problem.values}
    return problem.module_costs


def _rows(problem: Problem, limits: Mapping[str, int]) -> list[Row]:
    """The budgets as linear rows; memory is one row per block, since it is a maximum."""
    rows = [
        Row(table=_costs(problem, name), limit=limit)
        for name, limit in limits.items()
        if name != MEMORY
    ]
    if MEMORY in limits:
        weights = {slot: tuple(4 * p for p in problem.size.params[slot]) for slot in problem.values}
        rows.append(Row(table=weights, limit=limits[MEMORY] - problem.size.fixed_live_bytes))
        for busy in problem.values:
            live = problem.size.live_bytes[busy]
            table = {
                **weights,
                busy: tuple(w + b for w, b in zip(weights[busy], live, strict=True)),
            }
            rows.append(Row(table=table, limit=limits[MEMORY]))
    return rows


def _by_knapsack(
    problem: Problem, limits: Mapping[str, int], budget: Budget
) -> tuple[dict[str, int], Certificate]:
    """Dynamic programming over the one budget, or over latency when there is none."""
    name = next(iter(limits), LATENCY)
    solved = knapsack.solve(_costs(problem, name), problem.values, problem.least)
    position = solved.best(limits.get(name))
    if position is None:
        raise _infeasible(problem, limits, budget)
    objective = int(solved.value[position]) / SCALE
    binding = (name,) if position < len(solved.value) - 1 else ()
    certificate = Certificate(
        method="dynamic programming", objective=objective, bound=objective, gap=0.0, binding=binding
    )
    return solved.counts(position), certificate


def _by_program(
    problem: Problem, limits: Mapping[str, int], budget: Budget
) -> tuple[dict[str, int], Certificate]:
    """Integer program over all budgets."""
    solution = solve_program(problem.values, problem.least, _rows(problem, limits))
    if solution is None:
        raise _infeasible(problem, limits, budget)
    binding = []
    for name in limits:
        others = {other: limit for other, limit in limits.items() if other != name}
        without = solve_program(problem.values, problem.least, _rows(problem, others))
        if without is not None and without.objective > solution.objective + 0.5:
            binding.append(name)
    certificate = Certificate(
        method="integer program",
        objective=solution.objective / SCALE,
        bound=solution.bound / SCALE,
        gap=(solution.bound - solution.objective) / max(abs(solution.bound), SCALE),
        binding=tuple(binding),
    )
    return solution.counts, certificate


def _infeasible(problem: Problem, limits: Mapping[str, int], budget: Budget) -> BudgetError:
    """The error that names the tightest reachable value of every budget that was set.

    Every cost rises with the number of modules, so the smallest network has the least of each
    at once, and the budgets it breaks are the ones that no network keeps.
    """
    counts = {**problem.least, CLASSES: len(problem.task.classes)}
    reachable = {
        LATENCY: problem.table.predict(counts, percentile=budget.percentile).value,
        PARAMS: problem.size.total_params(counts) / 1e6,
        SPARSITY: problem.size.sparsity(counts),
        MEMORY: problem.size.peak_mib(counts),
    }
    asked = {
        LATENCY: (budget.latency_ms, "--latency", "ms"),
        PARAMS: (budget.mparams, "--params", "M"),
        SPARSITY: (budget.sparsity, "--sparsity", ""),
        MEMORY: (budget.memory_mib, "--memory", "MiB"),
    }
    latency = problem.table.predict(counts, percentile=budget.percentile)
    broken, relaxed = [], []
    for name in limits:
        limit, flag, unit = asked[name]
        best = reachable[name]
        assert limit is not None
        if (name == SPARSITY and best < limit) or (name != SPARSITY and best > limit):
            note = f" [{latency.low:.4g}, {latency.high:.4g}], estimated" if name == LATENCY else ""
            broken.append(
                f"{name} {'>=' if name == SPARSITY else '<='} {limit:g} {unit}".rstrip()
                + f": the smallest network has {best:.4g} {unit}".rstrip()
                + note
            )
            relaxed.append(f"{flag} {four_digits(best, upwards=name != SPARSITY)}{unit}")
    message = (
        f"No network of library '{problem.library.name}' for {len(problem.task.classes)} classes "
        f"keeps the budget on '{problem.table.device}'"
    )
    return BudgetError(
        f"{message}. " + "; ".join(broken) + ".",
        hints=[" ".join(relaxed)],
        details={"tightest": {name: reachable[name] for name in limits}},
    )


def frontier_size(library: ModuleLibrary, task: Task, table: LatencyTable) -> int:
    """Number of plans on the whole frontier."""
    problem = problem_for(library, task, table)
    return len(knapsack.solve(problem.latency_costs, problem.values, problem.least).cost)
