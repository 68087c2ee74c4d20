"""Exact choice under several budgets: every plan whose bound beats the best one is looked at.

For multipliers L >= 0 of the budgets, no plan is worth more than the sum over slots of its choices'
value - L * cost, plus L * limits; the linear relaxation has the multipliers for which the greatest
such sum is least. What a choice is below the best one of its slot is what it takes off that bound.
So a plan that beats one that is known takes off less than the bound is above it, and of such plans
there are few: they are listed slot by slot, and the best one that keeps all budgets is the answer.

Source:
    Bounds and reductions by reduced cost as for the multiple-choice knapsack problem, Kellerer,
    Pferschy, Pisinger, "Knapsack Problems" (2004), chapter 11; here with several budgets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..graph.network import Array
from .program import SHARP, Row, Solution, Table

MOST_PLANS = 100_000  # listed at once
FIRST_GAP = 2e-4  # of the bound: how much listed plans take off it at first
WIDER = 2.5  # the next gap, in gaps


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
    gains = [v - multipliers @ c for v, c in zip(values, costs, strict=True)]
    bound = float(sum(gain.max() for gain in gains) + multipliers @ limits)
    losses = [gain.max() - gain for gain in gains]
    most = float(sum(loss.max() for loss in losses))
    gap = FIRST_GAP * abs(bound) + 1
    while True:
        plans = _plans(losses, costs, limits, gap)  # (N, slots)
        wider = WIDER * gap
        if len(plans):
            worth = np.sum([v[plans[:, i]] for i, v in enumerate(values)], 0)
            best = int(np.argmax(worth))
            reached = int(worth[best])
            if bound - reached < gap:
                counts = {s: int(k) + least[s] for s, k in zip(slots, plans[best], strict=True)}
                return Solution(counts=counts, objective=float(reached), bound=float(reached))
            wider = min(wider, bound - reached + 1)
        elif gap > most:
            return None
        gap = wider


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
    )  # fmt: skip
    if answer.status == 2:  # infeasible
        return None
    if answer.x is None:
        raise TooManyPlansError
    return np.asarray(np.maximum(0, -answer.ineqlin.marginals) * unit / scale)


def _plans(losses: Sequence[Array], costs: Sequence[Array], limits: Array, gap: float) -> Array:
    """Positions (N, slots) of the choices of every plan within the limits that loses < ``gap``.

    Raises:
        TooManyPlansError: There are more than are worth listing.
    """
    order = sorted(range(len(losses)), key=lambda i: int((losses[i] < gap).sum()))
    rest = np.array([c.min(1) for c in costs]).sum(0)  # the least that open slots cost
    lost, spent = np.zeros(1), np.zeros((len(limits), 1), np.int64)
    chosen = np.zeros((1, len(losses)), np.int64)
    for slot in order:
        rest = rest - costs[slot].min(1)
        near = np.flatnonzero(losses[slot] < gap)
        total = lost[:, None] + losses[slot][near]
        before, now = np.nonzero(total < gap)
        if len(before) > 4 * MOST_PLANS:
            raise TooManyPlansError
        cost = spent[:, before] + costs[slot][:, near[now]]
        fits = (cost + rest[:, None] <= limits[:, None]).all(0)
        before, now, spent = before[fits], now[fits], cost[:, fits]
        if len(before) > MOST_PLANS:
            raise TooManyPlansError
        lost = total[before, now]
        chosen = chosen[before]
        chosen[:, slot] = near[now]
    return chosen
