"""Exact choice under several budgets at once: an integer program, solved to proven optimality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import NNFactoryError

Table = Mapping[str, Sequence[int]]  # slot -> number for 0, 1, .. active modules


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One linear budget: the sum over slots of ``table[slot][count]`` is at most ``limit``."""

    table: Table
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A plan and the proof that none is better.

    Attributes:
        counts: Active modules per slot.
        objective: Its value.
        bound: No plan has a greater value.
    """

    counts: dict[str, int]
    objective: float
    bound: float


def solve_program(
    objective: Table, least: Mapping[str, int], rows: Sequence[Row]
) -> Solution | None:
    """Maximize the sum of ``objective`` under all rows; None when no plan satisfies them.

    Solved by HiGHS with a gap of zero. Its tolerances are far below the integers compared here;
    the answer is checked in integer arithmetic all the same.

    Args:
        objective: Integer value (or negative cost) per slot and count.
        least: Least number of active modules per slot.
        rows: The budgets.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    slots = [(slot, count) for slot in objective for count in range(len(objective[slot]))]
    names = list(objective)
    once = np.array([[float(slot == name) for slot, _ in slots] for name in names])
    matrices, upper = [once], [np.ones(len(names))]
    lower = [np.ones(len(names))]
    for row in rows:
        scale = max(1, abs(row.limit))
        matrices.append(np.array([[row.table[s][k] / scale for s, k in slots]]))
        upper.append(np.array([row.limit / scale]))
        lower.append(np.array([-np.inf]))
    gain = np.array([float(objective[s][k]) for s, k in slots])
    unit = max(1.0, float(np.abs(gain).max())) / 1e6
    allowed = np.array([float(k >= least[s]) for s, k in slots])
    answer = milp(
        -gain / unit,
        constraints=LinearConstraint(
            np.vstack(matrices), np.concatenate(lower), np.concatenate(upper)
        ),
        bounds=Bounds(np.zeros(len(slots)), allowed),
        integrality=np.ones(len(slots)),
        options={"mip_rel_gap": 0.0},
    )
    if answer.status == 2:  # infeasible
        return None
    if answer.x is None:
        raise NNFactoryError(f"The integer program was not solved: {answer.message}")
    counts = {s: k for (s, k), chosen in zip(slots, answer.x, strict=True) if chosen > 0.5}
    for row in rows:
        if sum(row.table[s][k] for s, k in counts.items()) > row.limit:
            tighter = [Row(table=r.table, limit=r.limit - (r is row)) for r in rows]
            return solve_program(objective, least, tighter)
    reached = float(sum(objective[s][k] for s, k in counts.items()))
    return Solution(
        counts=counts, objective=reached, bound=max(reached, -answer.mip_dual_bound * unit)
    )
