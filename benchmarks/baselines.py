"""Plans that an engineer would try first: uniform width, weight magnitude, random modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from equal_latency import Case, plain_plan

from nnfactory.factory.assembler.knapsack import Table, solve
from nnfactory.factory.assembler.problem import estimate, problem_for
from nnfactory.factory.library.library import CLASSES
from nnfactory.factory.schema import Plan


def uniform_width(case: Case, limit_ms: float) -> Plan:
    """The largest share of every block that fits, at the size where it is estimated best."""
    shares = [
        {s.name: max(1, round(share * s.groups)) for s in case.library.blocks}
        for share in np.linspace(0, 1, 81)
    ]
    best, found = -1.0, plain_plan(case, {name: range(n) for name, n in shares[0].items()})
    for option in case.options:
        problem = problem_for(option.library, case.task, option.table)
        for counts in shares:
            costs = estimate(problem, counts, 50)
            assert costs.latency_ms is not None
            assert costs.accuracy is not None
            if costs.latency_ms.value <= limit_ms and costs.accuracy.value > best:
                active = {name: range(n) for name, n in counts.items()}
                found = plain_plan(case, active, option.library.input_size)
                best = costs.accuracy.value
    return found


def magnitude(case: Case, limit_ms: float) -> Plan:
    """The exact choice with normalized weight norms as values (LAMP-like, arXiv:2010.07611)."""
    values, order = {}, {}
    for slot in case.library.blocks:
        norms = np.zeros(slot.groups)
        for module in slot.modules:
            for owned in module.owns:
                weight = case.library.network.weights[owned.tensor]
                if weight.ndim == 4:
                    part = np.take(weight, np.arange(owned.start, owned.stop), axis=owned.axis)
                    norms[module.index] += float((part.astype(np.float64) ** 2).sum())
        ranked = np.argsort(-norms)
        order[slot.name] = ranked
        rest = np.cumsum(norms[ranked][::-1])[::-1]
        scores = norms[ranked] / rest  # share of the mass that is left, best first
        scores = np.sort(scores)[::-1]
        values[slot.name] = [0, *np.cumsum(np.round(scores * 1e9)).astype(int).tolist()]
    counts = exact_counts(case, values, limit_ms)
    return plain_plan(case, {name: order[name][:count].tolist() for name, count in counts.items()})


def exact_counts(
    case: Case, values: Mapping[str, Sequence[int]], limit_ms: float
) -> dict[str, int]:
    """The most valuable choice within a latency at the largest input size."""
    solved, limit = latency_knapsack(case, values, limit_ms)
    return solved.counts(solved.best(limit) or 0)


def latency_knapsack(
    case: Case, values: Mapping[str, Sequence[int]], limit_ms: float
) -> tuple[Table, int]:
    """Every choice that none beats in value and latency, and the limit in the table's integers."""
    costs = {s.name: case.table.slots[s.name] for s in case.library.blocks}
    least = {s.name: s.min_groups for s in case.library.blocks}
    fixed = case.table.fixed_ns + case.table.slots[CLASSES][len(case.classes)]
    return solve(costs, values, least), int(limit_ms * 1e6) - fixed


def random_modules(case: Case, limit_ms: float, seed: int) -> Plan:
    """Random modules, added in random order while the table says that they fit."""
    rng = np.random.default_rng(seed)
    active: dict[str, list[int]] = {
        s.name: [int(rng.integers(s.groups))] if s.min_groups else [] for s in case.library.blocks
    }
    modules = [(s.name, g) for s in case.library.blocks for g in range(s.groups)]
    for position in rng.permutation(len(modules)):
        name, group = modules[position]
        if group in active[name]:
            continue
        active[name].append(group)
        if case.table_ms({n: len(groups) for n, groups in active.items()}) > limit_ms:
            active[name].remove(group)
    return plain_plan(case, active)
