"""Which channels stay: the least loss within limits, proven by an integer program.

Every family keeps one of some sizes. What two families that meet in a layer save is not the sum of
what each saves; the overlap, which depends on both choices, is made linear by a transport of one
choice to the other, which is exact where choices are whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from ...errors import BudgetError
from ...graph.network import Array
from ...quiet import silenced
from .cost_names import NAMES, words
from .costs import Costs, dependents, left_of, sizes_of
from .families import Anatomy

SECONDS = 20.0  # for the solver


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How many channels of every family stay.

    Attributes:
        sizes: Per family.
        loss: Sum of what families lose.
        bound: No choice loses less.
        costs: Per kind of cost what is left of it, by the tables.
    """

    sizes: Mapping[str, int]
    loss: float
    bound: float
    costs: Mapping[str, float]


def choose(
    anatomy: Anatomy, losses: Mapping[str, Array], costs: Mapping[str, Costs],
    limits: Mapping[str, float],
) -> Choice:  # fmt: skip
    """The sizes that lose least within limits.

    Args:
        anatomy: The network.
        losses: Per family what is lost at each of its :func:`sizes_of`.
        costs: By kind.
        limits: By kind, in the units of the costs.

    Raises:
        BudgetError: No choice keeps the limits; the hints say what is reachable.
    """
    program = _Program(anatomy, losses)
    for kind, limit in limits.items():
        for each in of_kind(costs, kind):
            program.limit(each, limit)
    solved = program.solve(program.objective)
    if solved is None:
        least = {
            kind: max(each.whole - program.most_saved(each) for each in of_kind(costs, kind))
            for kind in limits
        }
        asked = " and ".join(words(kind, value, "<= ") for kind, value in limits.items())
        listed = ", ".join(words(kind, value, "") for kind, value in least.items())
        raise BudgetError(
            f"No component of '{anatomy.network.name}' keeps {asked}; the least is {listed}.",
            hints=[f"--{NAMES[kind][0]} {1.01 * value:.4g}{NAMES[kind][1]}"
                   for kind, value in least.items() if value > limits[kind]]
            or ["loosen one of them, or begin with a smaller network"],
            details={"reachable": least},
        )  # fmt: skip
    x, bound = solved
    sizes = program.sizes(x)
    return Choice(
        sizes=sizes, loss=float(program.objective @ x), bound=bound,
        costs={kind: left_of(anatomy, each, sizes) for kind, each in costs.items()},
    )  # fmt: skip


def smallest(anatomy: Anatomy, losses: Mapping[str, Array], costs: Mapping[str, Costs],
             kind: str) -> Choice:  # fmt: skip
    """The sizes that save most of a cost, whatever they lose.

    Args:
        anatomy: The network.
        losses: As in :func:`choose`.
        costs: By kind.
        kind: Of the cost.
    """
    program = _Program(anatomy, losses)
    first = max(of_kind(costs, kind), key=lambda each: each.whole)
    solved = program.solve(-program.row(first))
    assert solved is not None  # without limits every choice is one
    sizes = program.sizes(solved[0])
    return Choice(
        sizes=sizes, loss=float(program.objective @ solved[0]),
        bound=float(sum(rows.min() for rows in losses.values())),
        costs={name: left_of(anatomy, each, sizes) for name, each in costs.items()},
    )  # fmt: skip


def of_kind(costs: Mapping[str, Costs], kind: str) -> list[Costs]:
    """The costs of a kind: one, or several "kind@0", "kind@1" .. of which the greatest counts."""
    return [each for name, each in costs.items() if name.split("@")[0] == kind]


class _Program:
    """Variables: a share of 0 or 1 per family and size; then one per pair of sizes that overlap."""

    def __init__(self, anatomy: Anatomy, losses: Mapping[str, Array]) -> None:
        self._sizes = {family.name: sizes_of(family) for family in anatomy.families}
        self._starts: dict[str, int] = {}
        self._rows: list[tuple[dict[int, float], float, float]] = []
        start = 0
        for name, sizes in self._sizes.items():
            self._starts[name] = start
            self._rows.append((dict.fromkeys(range(start, start + len(sizes)), 1.0), 1, 1))
            start += len(sizes)
        self._binary, self._count = start, start
        self._pairs: dict[tuple[str, str], int] = {}
        self._loss = np.concatenate([losses[name] for name in self._sizes])
        for family in anatomy.families:
            for other in dependents(anatomy, family) if family.branch else []:
                whole = self._starts[other] + len(self._sizes[other]) - 1
                self._rows.append(({whole: 1.0, self._starts[family.name]: -1.0}, 0, np.inf))

    @property
    def objective(self) -> Array:
        """Loss per variable."""
        return np.concatenate([self._loss, np.zeros(self._count - self._binary)])

    def limit(self, costs: Costs, limit: float) -> None:
        """Keep a cost within a limit."""
        row, unit = self.row(costs), max(costs.whole, 1e-12)  # the solver likes numbers around 1
        terms = {int(i): float(row[i]) / unit for i in np.flatnonzero(row)}
        self._rows.append((terms, (costs.whole - limit) / unit, np.inf))

    def row(self, costs: Costs) -> Array:
        """What each variable saves."""
        overlaps = {pair: both for pair, both in costs.overlaps.items() if both.any()}
        for pair in overlaps:
            if pair not in self._pairs:
                self._add_pair(pair)
        row = np.zeros(self._count)
        for name, start in self._starts.items():
            row[start : start + len(self._sizes[name])] = costs.saved[name]
        for pair, both in overlaps.items():
            start = self._pairs[pair]
            row[start : start + both.size] -= both.reshape(-1)
        return row

    def _add_pair(self, pair: tuple[str, str]) -> None:
        """A variable per pair of sizes, whose sums are the choices of either."""
        start, (one, other) = self._count, pair
        rows, columns = len(self._sizes[one]), len(self._sizes[other])
        number = start + np.arange(rows * columns).reshape(rows, columns)
        for r in range(rows):
            terms = dict.fromkeys(number[r].tolist(), 1.0) | {self._starts[one] + r: -1.0}
            self._rows.append((terms, 0, 0))
        for c in range(columns):
            terms = dict.fromkeys(number[:, c].tolist(), 1.0) | {self._starts[other] + c: -1.0}
            self._rows.append((terms, 0, 0))
        self._pairs[pair] = start
        self._count += rows * columns

    def solve(self, objective: Array) -> tuple[Array, float] | None:
        """The best point, and a bound of its objective; None if there is none."""
        objective = np.pad(objective, (0, self._count - len(objective)))
        at = [(r, c, v) for r, (terms, _, _) in enumerate(self._rows) for c, v in terms.items()]
        rows, columns, values = zip(*at, strict=True)
        matrix = coo_array((values, (rows, columns)), shape=(len(self._rows), self._count))
        with silenced():
            found = milp(
                objective, integrality=np.arange(self._count) < self._binary, bounds=Bounds(0, 1),
                constraints=LinearConstraint(
                    matrix.tocsr(), [row[1] for row in self._rows], [row[2] for row in self._rows]
                ),
                options={"time_limit": SECONDS, "mip_rel_gap": 1e-6},
            )  # fmt: skip
        return None if found.x is None else (found.x, float(found.mip_dual_bound))

    def most_saved(self, costs: Costs) -> float:
        """The most that can be saved of a cost, whatever it loses."""
        row = self.row(costs)
        kept, self._rows = self._rows, [row for row in self._rows if row[2] != np.inf or not row[1]]
        solved = self.solve(-row)
        self._rows = kept
        return 0.0 if solved is None else float(row @ solved[0])

    def sizes(self, x: Array) -> dict[str, int]:
        """The size that was chosen of each family."""
        return {
            name: sizes[int(x[start : start + len(sizes)].argmax())]
            for (name, start), sizes in zip(self._starts.items(), self._sizes.values(), strict=True)
        }
