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
from dataclasses import dataclass, replace

import numpy as np

from ..graph.network import Array
from .program import SHARP, Row, Solution, Table

MOST_PLANS = 100_000  # listed at once
FEW_PLANS = 10_000  # the same with multipliers of a tighter program, before better ones are sought
FIRST_GAP = 2e-3  # of the bound: how far below it the floor is at first
WIDER = 1.6  # the next gap, in gaps
MULTIPLES = np.array([1.0, 0.85, 0.6, 1.2, 1.6, 0.0])  # of the relaxation's multipliers


class TooManyPlansError(Exception):
    """More plans come near the bound than are worth listing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hint:
    """What is known before a program is solved; it makes that faster.

    Attributes:
        tighter: The answer under the same rows with limits that are no looser: no better plan is
            worth less, and its multipliers spare the relaxation.
        bar: What a plan must be worth to be of interest; below it no plan need be found.
    """

    tighter: Solution | None = None
    bar: int | None = None

    @property
    def multipliers(self) -> Array | None:
        """Those of the tighter program, if it has any."""
        return self.tighter.multipliers if self.tighter else None

    def floor(self, otherwise: float) -> float:
        """Plans worth less are not the answer; ``otherwise`` is known without a hint."""
        known = [self.tighter.objective] if self.tighter else [otherwise]
        return max(known if self.bar is None else [*known, self.bar])


NO_HINT = Hint()


def best_plan(
    objective: Table, least: Mapping[str, int], rows: Sequence[Row], hint: Hint = NO_HINT
) -> Solution | None:
    """Maximize the sum of ``objective`` under all rows; None when no plan satisfies them.

    With a bar in the hint, also where no plan reaches it.

    Args:
        objective: Integer value (or negative cost) per slot and count.
        least: Least number of active modules per slot.
        rows: The budgets, at least one.
        hint: What is known already.

    Raises:
        TooManyPlansError: The bound is too far from what plans reach.
    """
    known = hint.multipliers
    program = _Program.of(objective, least, rows, known)
    if program is None:
        return None
    bound = float(program.bounds[0])
    lowest = hint.floor(float(sum(value.min() for value in program.values)))
    gap, most = FIRST_GAP * abs(bound) + 1, MOST_PLANS if known is None else FEW_PLANS
    while True:
        floor = max(bound - gap, lowest - 1)
        try:
            plans, worth = program.above(floor, most=most)
        except TooManyPlansError:
            if hint.tighter is None or known is None:
                raise
            unaided = replace(hint.tighter, multipliers=None)
            return best_plan(objective, least, rows, replace(hint, tighter=unaided))
        if len(plans):
            best = int(np.argmax(worth))
            counts = {s: int(k) + least[s] for s, k in zip(objective, plans[best], strict=True)}
            reached = float(worth[best])
            return Solution(
                counts=counts, objective=reached, bound=reached, multipliers=program.multiples[0]
            )
        if floor < lowest:
            return None
        gap *= WIDER


def binding(
    objective: Table, least: Mapping[str, int], groups: Sequence[Sequence[Row]], best: Solution
) -> list[bool]:
    """Of every group of rows, whether a plan without it is worth more than the best one with it.

    Args:
        objective: As for :func:`best_plan`.
        least: As there.
        groups: The rows of every budget.
        best: The best plan under all of them.

    Raises:
        TooManyPlansError: As there.
    """
    rows = [row for group in groups for row in group]
    reached = best.objective
    program = _Program.of(objective, least, rows, best.multipliers)
    assert program is not None, "a plan keeps all rows"
    group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    tight = {int(group) for group in group_of[program.multiples[0] > 0]}
    better, _ = program.above(reached, within=np.array([group in tight for group in group_of]))
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
        multiples: Of the multipliers of the relaxation, or of a tighter program's, these themselves
            first: (multiples, rows).
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
    def of(
        cls, objective: Table, least: Mapping[str, int], rows: Sequence[Row], known: Array | None
    ) -> _Program | None:
        """None where even fractions of choices keep no limits.

        The multipliers are those that are known, if they are of as many rows, as any bound; or the
        best ones.
        """
        slots = list(objective)
        values = [np.array(objective[s][least[s] :], np.int64) for s in slots]
        costs = [np.array([row.table[s][least[s] :] for row in rows], np.int64) for s in slots]
        limits = np.array([row.limit for row in rows], np.int64)
        is_known = known is not None and len(known) == len(rows)
        multipliers = known if is_known else _multipliers(values, costs, limits)
        if multipliers is None:
            return None
        multiples = MULTIPLES[:, None] * multipliers
        gains = [v - multiples @ c for v, c in zip(values, costs, strict=True)]
        return cls(
            values=values, costs=costs, limits=limits, multiples=multiples,
            bounds=sum(gain.max(1) for gain in gains) + multiples @ limits,
            losses=[gain.max(1, keepdims=True) - gain for gain in gains],
        )  # fmt: skip

    def above(
        self, floor: float, *, within: Array | None = None, most: int = MOST_PLANS
    ) -> tuple[Array, Array]:
        """Every plan worth more than a floor: positions of its choices (N, slots), and worth (N,).

        Args:
            floor: Of the value.
            within: Which rows count, (rows,); those that do not must have no multiplier.
            most: Plans, or parts of them, that are worth listing.

        Raises:
            TooManyPlansError: There are too many.
        """
        rows = slice(None) if within is None else within
        costs = [cost[rows] for cost in self.costs]
        plans = _plans(self.losses, costs, self.limits[rows], self.bounds - floor, most)
        worth = np.sum([value[plans[:, i]] for i, value in enumerate(self.values)], 0)
        return plans[worth > floor], worth[worth > floor]


def _multipliers(values: Sequence[Array], costs: Sequence[Array], limits: Array) -> Array | None:
    """Worth of a unit of every budget at the optimum of the relaxation; None if that is empty."""
    from scipy.optimize import linprog

    unit = max(1.0, max(float(np.abs(v).max()) for v in values)) / 1e3
    largest = np.max([np.abs(c).max(1) for c in costs], 0)
    scale = np.maximum(np.maximum(1, np.abs(limits)), largest) / SHARP
    once = np.repeat(np.eye(len(values)), [len(v) for v in values], axis=1)  # (slots, choices)
    answer = linprog(
        -np.concatenate(values) / unit,
        A_ub=np.concatenate(costs, 1) / scale[:, None], b_ub=limits / scale,
        A_eq=once, b_eq=np.ones(len(values)), bounds=(0, 1), method="highs",
        options={"presolve": False},  # it takes longer than the solution
    )  # fmt: skip
    if answer.status == 2:  # infeasible
        return None
    if answer.x is None:
        raise TooManyPlansError
    return np.asarray(np.maximum(0, -answer.ineqlin.marginals) * unit / scale)


def _plans(
    losses: Sequence[Array], costs: Sequence[Array], limits: Array, gaps: Array, most: int
) -> Array:
    """Positions (N, slots) of the choices of every plan within the limits that loses little.

    Args:
        losses: Per slot (multiples, choices), what a choice takes off every bound.
        costs: Per slot (rows, choices).
        limits: Of the rows.
        gaps: What a plan takes off every bound at most, (multiples,).
        most: Plans, or parts of them, that are worth listing.

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
        if len(before) > 4 * most:
            raise TooManyPlansError
        sums = spent[:, before] + cost[:, now]
        fits = (sums + rest[:, None] <= limits[:, None]).all(0)
        before, now, spent = before[fits], now[fits], sums[:, fits]
        if len(before) > most:
            raise TooManyPlansError
        lost = lost[:, before] + loss[:, now]
        chosen = chosen[before]
        chosen[:, slot] = near[slot][now]
    return chosen
