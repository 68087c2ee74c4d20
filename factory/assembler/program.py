"""Exact choice under several budgets at once: integer programs, solved to proven optimality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import NNFactoryError
from ..graph.network import Array
from ..quiet import silenced

PATIENCE = 20  # answers that break a row before rows are drawn in
MARGIN = 1e-5  # of a limit, more than the solver's fractions of a choice can hide
SHARP = 1e4  # what limits are scaled to: the solver's tolerance of 1e-6 is then one in 10**10
Table = Mapping[str, Sequence[int]]  # slot -> number for 0, 1, .. active modules


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One linear budget: the sum over slots of ``table[slot][count]`` is at most ``limit``."""

    table: Table
    limit: int

    def excess(self, counts: Mapping[str, int]) -> int:
        """By how much a plan is above the limit; at most 0 if it keeps it."""
        return sum(self.table[s][k] for s, k in counts.items()) - self.limit

    def least(self, counts: Mapping[str, int]) -> int:
        """The least sum of any plan with these counts or more."""
        return sum(min(self.table[s][k:]) for s, k in counts.items())

    def drawn_in(self, share: float) -> Row:
        """The same with a limit that is lower by a share of it."""
        return replace(self, limit=self.limit - max(1, int(share * abs(self.limit))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A cost to keep small: ``(fixed + sum over slots of table[slot][count]) * scale``."""

    table: Table
    fixed: int
    scale: float

    def of(self, counts: Mapping[str, int]) -> float:
        """That of a plan."""
        return (self.fixed + sum(self.table[s][k] for s, k in counts.items())) * self.scale


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solution:
    """A plan and the proof that none is better.

    Attributes:
        counts: Active modules per slot.
        objective: Its value.
        bound: No plan has a greater value.
        multipliers: (rows,), what a unit of every budget is worth about there, if that was found.
    """

    counts: dict[str, int]
    objective: float
    bound: float
    multipliers: Array | None = None


def solve_program(
    objective: Table, least: Mapping[str, int], rows: Sequence[Row]
) -> Solution | None:
    """Maximize the sum of ``objective`` under all rows; None when no plan satisfies them.

    Solved by HiGHS with a gap of zero. Its tolerance is below the integers compared here, and the
    answer is checked in integer arithmetic all the same: a plan that breaks a row is forbidden,
    and the program solved again. Where many plans break a row by next to nothing, those that come
    nearer to it than a hundred-thousandth are given up.

    Args:
        objective: Integer value (or negative cost) per slot and count.
        least: Least number of active modules per slot.
        rows: The budgets.
    """
    if any(row.least(least) > row.limit for row in rows):
        return None
    choices = _Choices.of(objective, least)
    gain = choices.line(objective)
    unit = max(1.0, float(np.abs(gain).max())) / 1e6
    forbidden: list[dict[str, int]] = []
    while True:
        if len(forbidden) == PATIENCE:
            rows = [row.drawn_in(MARGIN) for row in rows]
        answer = _milp(-gain / unit, choices, rows, forbidden)
        if answer is None:
            return None
        counts, bound = answer
        if all(row.excess(counts) <= 0 for row in rows):
            break
        forbidden.append(counts)
    reached = float(sum(objective[s][k] for s, k in counts.items()))
    # Values are integers: a bound less than 1 above the plan proves that none has more.
    bound = -bound * unit
    return Solution(
        counts=counts, objective=reached, bound=reached if bound < reached + 1 else bound
    )


def minimize_greatest(
    ratios: Sequence[Ratio], least: Mapping[str, int], rows: Sequence[Row]
) -> dict[str, int] | None:
    """The plan whose greatest ratio is least, and of those the one of the least sum.

    Args:
        ratios: At least one; of the order of 1.
        least: Least number of active modules per slot.
        rows: Budgets that hold whatever the ratios are.

    Returns:
        Active modules per slot; None when no plan satisfies the rows.
    """
    choices = _Choices.of(ratios[0].table, least)
    lines = np.stack([choices.line(ratio.table) * ratio.scale for ratio in ratios])
    starts = np.array([ratio.fixed * ratio.scale for ratio in ratios])
    first = _milp(
        np.append(np.zeros(lines.shape[1]), 1.0), choices, rows,
        above=(np.column_stack((lines, -np.ones(len(lines)))), -starts),
    )  # fmt: skip
    if first is None:
        return None
    greatest = max(ratio.of(first[0]) for ratio in ratios)
    room = greatest * (1 + 1e-9) - starts
    second = _milp(lines.sum(0), choices, rows, above=(lines, room))
    found = [first[0], *([] if second is None else [second[0]])]
    return min(found, key=lambda c: (max(r.of(c) for r in ratios), sum(r.of(c) for r in ratios)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choices:
    """Which count each 0-1 variable stands for: exactly one of each slot is 1."""

    slots: tuple[tuple[str, int], ...]
    sizes: Array  # variables per slot
    allowed: Array  # (variables,)

    @classmethod
    def of(cls, table: Table, least: Mapping[str, int]) -> _Choices:
        slots = tuple((slot, count) for slot in table for count in range(len(table[slot])))
        sizes = np.array([len(row) for row in table.values()])
        allowed = np.array([float(count >= least[slot]) for slot, count in slots])
        return cls(slots=slots, sizes=sizes, allowed=allowed)

    def line(self, table: Table) -> Array:
        """A table as the coefficients of the variables."""
        return np.array([float(table[slot][count]) for slot, count in self.slots])

    def counts(self, solution: Array) -> dict[str, int]:
        """The chosen count of every slot."""
        return {s: k for (s, k), chosen in zip(self.slots, solution, strict=False) if chosen > 0.5}


def _milp(
    cost: Array,
    choices: _Choices,
    rows: Sequence[Row],
    forbidden: Sequence[Mapping[str, int]] = (),
    *,
    above: tuple[Array, Array] | None = None,
) -> tuple[dict[str, int], float] | None:
    """Minimize ``cost``; the variables beyond the choices, if any, are real and not negative.

    Args:
        cost: Of every variable.
        choices: What the variables mean.
        rows: Budgets.
        forbidden: Plans that must not be the answer.
        above: Coefficients (R, variables) and upper limits (R,) of further rows.

    Returns:
        The counts and the dual bound; None if it is infeasible.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, vstack

    blocks, more = len(choices.sizes), len(cost) - len(choices.slots)
    ends, ones = np.append(0, np.cumsum(choices.sizes)), np.ones(len(choices.slots))
    once = csr_array((ones, np.arange(len(ones)), ends), shape=(blocks, len(cost)))
    matrices: list[object] = [once]
    lower, upper = [np.ones(blocks)], [np.ones(blocks)]
    for row in rows:
        line = choices.line(row.table)
        scale = max(1, abs(row.limit), np.abs(line).max()) / SHARP
        matrices.append(np.append(line / scale, np.zeros(more))[None])
        lower.append(np.array([-np.inf]))
        upper.append(np.array([row.limit / scale]))
    for plan in forbidden:
        chosen = [float(plan[slot] == count) for slot, count in choices.slots]
        matrices.append(np.append(chosen, np.zeros(more))[None])
        lower.append(np.array([-np.inf]))
        upper.append(np.array([len(plan) - 1.0]))
    if above is not None:
        matrices.append(above[0])
        lower.append(np.full(len(above[1]), -np.inf))
        upper.append(above[1])
    with silenced():
        answer = milp(
            cost,
            constraints=LinearConstraint(
                vstack([csr_array(matrix) for matrix in matrices], format="csr"),
                np.concatenate(lower),
                np.concatenate(upper),
            ),
            bounds=Bounds(
                np.zeros(len(cost)), np.concatenate((choices.allowed, np.full(more, np.inf)))
            ),
            integrality=np.append(np.ones(len(choices.slots)), np.zeros(more)),
            options={"mip_rel_gap": 0.0},
        )
    if answer.status == 2:  # infeasible
        return None
    if answer.x is None:
        raise NNFactoryError(f"The integer program was not solved: {answer.message}")
    return choices.counts(answer.x), float(answer.mip_dual_bound)
