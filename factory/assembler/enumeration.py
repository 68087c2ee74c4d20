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
    slots = list(objective)
    values = [np.array(objective[s][least[s] :], np.int64) for s in slots]
    costs = [np.array([row.table[s][least[s] :] for row in rows], np.int64) for s in slots]
    limits = np.array([row.limit for row in rows], np.int64)
    multipliers = _multipliers(values, costs, limits)
    if multipliers is None:
        return None
    every = MULTIPLES[:, None] * multipliers
    gains = [v - every @ c for v, c in zip(values, costs, strict=True)]  # (multiples, choices)
    bounds = sum(gain.max(1) for gain in gains) + every @ limits
    losses = [gain.max(1, keepdims=True) - gain for gain in gains]
    lowest = float(sum(v.min() for v in values))
    gap = FIRST_GAP * abs(bounds[0]) + 1
    while True:
        floor = bounds[0] - gap
        plans = _plans(losses, costs, limits, bounds - floor)  # (N, slots)
        worth = np.sum([v[plans[:, i]] for i, v in enumerate(values)], 0)
        if len(plans) and worth.max() > floor:
            best = int(np.argmax(worth))
            counts = {s: int(k) + least[s] for s, k in zip(slots, plans[best], strict=True)}
            reached = float(worth[best])
            return Solution(counts=counts, objective=reached, bound=reached)
        if floor < lowest:
            return None
        gap *= WIDER


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
