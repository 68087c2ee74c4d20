"""Exact choice under several budgets: every plan that can beat a floor is listed.

For multipliers L >= 0 of the budgets, no plan is worth more than the sum over slots of its choices'
value - L * cost, plus L * limits. What a choice is below the best one of its slot is what it takes
off that bound, so a plan worth more than a floor takes off less than the bound is above it. The
linear relaxation has the multipliers whose bound is least; multiples of them bound the plans that
spend more, or less, than it does, and none at all bounds by the value alone. Plans that no bound
rules out are listed slot by slot, for a floor that sinks until one of them is worth more: no other
can be better then.

Source:
    Bounds and reductions by reduced cost as for the multiple-choice knapsack problem, Kellerer,
    Pferschy, Pisinger, "Knapsack Problems" (2004), chapter 11; here with several budgets and
    several bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..graph.network import Array
from .program import SHARP, Row, Solution, Table

MOST_PLANS = 100_000  # listed at once
FIRST_GAP = 2e-3  # of the bound: how far below it the floor is at first
WIDER = 1.6  # the next gap, in gaps
MULTIPLES = np.array([1.0, 0.85, 0.6, 1.2, 1.6, 0.0])  # of the relaxation's multipliers


class TooManyPlansError(Exception):
    """More plans come near the bound than are worth listing."""


def best_plan(objective: Table, least: Mapping[str, int], rows: Sequence[Row]) -> Solution | None:
    """Maximize the sum of ``objective`` under all rows; None when no plan satisfies them.

    Args:
        objective: Integer value (or negative cost) per slot and count.
        least: Least number of active modules per slot.
        rows: The budgets, at least one.

    Raises:
        TooManyPlansError: The bound is too far from what plans reach.
    """
    program = _Program.of(objective, least, rows)
    if program is None:
        return None
    lowest = float(sum(value.min() for value in program.values))
    gap = FIRST_GAP * abs(program.bounds[0]) + 1
    while True:
        floor = float(program.bounds[0]) - gap
        plans, worth = program.above(floor)
        if len(plans):
            best = int(np.argmax(worth))
            counts = {s: int(k) + least[s] for s, k in zip(objective, plans[best], strict=True)}
            reached = float(worth[best])
            return Solution(counts=counts, objective=reached, bound=reached)
        if floor < lowest:
            return None
        gap *= WIDER


def binding(
    objective: Table, least: Mapping[str, int], groups: Sequence[Sequence[Row]], reached: float
) -> list[bool]:
    """Of every group of rows, whether a plan without it is worth more than the best one with it.

    Args:
        objective: As for :func:`best_plan`.
        least: As there.
        groups: The rows of every budget.
        reached: What the best plan under all of them is worth.

    Raises:
        TooManyPlansError: As there.
    """
    rows = [row for group in groups for row in group]
    program = _Program.of(objective, least, rows)
    assert program is not None, "a plan keeps all rows"
    group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    tight = {int(group) for group in group_of[program.multiples[0] > 0]}
    better, _ = program.above(reached, np.array([group in tight for group in group_of]))
    spent = np.sum([cost[:, better[:, i]] for i, cost in enumerate(program.costs)], 0)
    broken = spent > program.limits[:, None]  # (rows, N)
    by_group = np.array([broken[group_of == group].any(0) for group in range(len(groups))])
    found = list((by_group & (by_group.sum(0) == 1)).any(1))
    for group in tight:
        without = [row for row, own in zip(rows, group_of, strict=True) if own != group]
        most = sum(float(value.max()) for value in program.values)
        if without:
            answer = best_plan(objective, least, without)
            assert answer is not None, "a plan keeps all rows"
            most = answer.objective
        found[group] = most > reached
    return [bool(each) for each in found]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Program:
    """Values, costs and bounds of every choice.

    Attributes:
        values: Per slot (choices,).
        costs: Per slot (rows, choices).
        limits: (rows,).
        multiples: Of the multipliers of the relaxation, these themselves first: (multiples, rows).
        bounds: What no plan is worth more than, (multiples,).
        losses: Per slot (multiples, choices), what a choice takes off every bound.
    """

    values: Sequence[Array]
    costs: Sequence[Array]
    limits: Array
    multiples: Array
    bounds: Array
    losses: Sequence[Array]

    @classmethod
    def of(cls, objective: Table, least: Mapping[str, int], rows: Sequence[Row]) -> _Program | None:
        """None where even fractions of choices keep no limits."""
        slots = list(objective)
        values = [np.array(objective[s][least[s] :], np.int64) for s in slots]
        costs = [np.array([row.table[s][least[s] :] for row in rows], np.int64) for s in slots]
        limits = np.array([row.limit for row in rows], np.int64)
        multipliers = _multipliers(values, costs, limits)
        if multipliers is None:
            return None
        multiples = MULTIPLES[:, None] * multipliers
        gains = [v - multiples @ c for v, c in zip(values, costs, strict=True)]
        return cls(
            values=values, costs=costs, limits=limits, multiples=multiples,
            bounds=sum(gain.max(1) for gain in gains) + multiples @ limits,
            losses=[gain.max(1, keepdims=True) - gain for gain in gains],
        )  # fmt: skip

    def above(self, floor: float, within: Array | None = None) -> tuple[Array, Array]:
        """Every plan worth more than a floor: positions of its choices (N, slots), and worth (N,).

        Args:
            floor: Of the value.
            within: Which rows count, (rows,); those that do not must have no multiplier.

        Raises:
            TooManyPlansError: There are too many.
        """
        rows = slice(None) if within is None else within
        costs = [cost[rows] for cost in self.costs]
        plans = _plans(self.losses, costs, self.limits[rows], self.bounds - floor)
        worth = np.sum([value[plans[:, i]] for i, value in enumerate(self.values)], 0)
        return plans[worth > floor], worth[worth > floor]


def _multipliers(values: Sequence[Array], costs: Sequence[Array], limits: Array) -> Array | None:
    """Worth of a unit of every budget at the optimum of the relaxation; None if that is empty."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    unit = max(1.0, max(float(np.abs(v).max()) for v in values)) / 1e3
    largest = np.max([np.abs(c).max(1) for c in costs], 0)
    scale = np.maximum(np.maximum(1, np.abs(limits)), largest) / SHARP
    sizes = [len(v) for v in values]
    once = csr_array(
        (np.ones(sum(sizes)), np.arange(sum(sizes)), np.append(0, np.cumsum(sizes))),
        shape=(len(sizes), sum(sizes)),
    )
    answer = linprog(
        -np.concatenate(values) / unit,
        A_ub=np.concatenate(costs, 1) / scale[:, None], b_ub=limits / scale,
        A_eq=once, b_eq=np.ones(len(sizes)), bounds=(0, 1), method="highs",
        options={"presolve": False},  # it takes longer than the solution
    )  # fmt: skip
    if answer.status == 2:  # infeasible
        return None
    if answer.x is None:
        raise TooManyPlansError
    return np.asarray(np.maximum(0, -answer.ineqlin.marginals) * unit / scale)


def _plans(losses: Sequence[Array], costs: Sequence[Array], limits: Array, gaps: Array) -> Array:
    """Positions (N, slots) of the choices of every plan within the limits that loses little.

    Args:
        losses: Per slot (multiples, choices), what a choice takes off every bound.
        costs: Per slot (rows, choices).
        limits: Of the rows.
        gaps: What a plan takes off every bound at most, (multiples,).

    Raises:
        TooManyPlansError: There are more than are worth listing.
    """
    near = [np.flatnonzero((loss < gaps[:, None]).all(0)) for loss in losses]
    rest = np.array([c.min(1) for c in costs]).sum(0)  # the least that open slots cost
    lost, spent = np.zeros((len(gaps), 1)), np.zeros((len(limits), 1), np.int64)
    chosen = np.zeros((1, len(losses)), np.int64)
    for slot in sorted(range(len(losses)), key=lambda i: len(near[i])):
        rest = rest - costs[slot].min(1)
        loss, cost = losses[slot][:, near[slot]], costs[slot][:, near[slot]]
        is_near = np.ones((lost.shape[1], loss.shape[1]), bool)
        for mine, its, gap in zip(lost, loss, gaps, strict=True):
            is_near &= mine[:, None] + its < gap
        before, now = np.nonzero(is_near)
        if len(before) > 4 * MOST_PLANS:
            raise TooManyPlansError
        sums = spent[:, before] + cost[:, now]
        fits = (sums + rest[:, None] <= limits[:, None]).all(0)
        before, now, spent = before[fits], now[fits], sums[:, fits]
        if len(before) > MOST_PLANS:
            raise TooManyPlansError
        lost = lost[:, before] + loss[:, now]
        chosen = chosen[before]
        chosen[:, slot] = near[slot][now]
    return chosen
