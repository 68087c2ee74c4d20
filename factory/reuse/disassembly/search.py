"""Plans that keep limits when whole networks are looked at: tables of costs are not exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ...errors import BudgetError
from ...graph.network import Network
from .component import Component, Plan, plan_within, smallest_plan
from .costs import Costs
from .families import Anatomy
from .reconstruction import Losses

PLANS = 8  # that are looked at, each corrected by what the last one cost
ENOUGH, NEAR = 0.95, 1.02  # of a limit is used; limits that are as good as equal
SPARE = 0.98  # of a limit is aimed at, where a second look differs
ASKED = {"latency_ms": SPARE}
EXACT = ("mparams", "mmacs")  # kinds whose tables say what a look does
Values = Mapping[str, Mapping[str, Losses]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nearest:
    """A component, and of how many it came nearest to the whole network."""

    component: Component
    candidates: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Search:
    """Whole networks against limits.

    Attributes:
        anatomy: The network that is cut.
        costs: The tables, by kind.
        limits: By kind.
        look: What a network costs, by kind, of what is limited.
    """

    anatomy: Anatomy
    costs: Mapping[str, Costs]
    limits: Mapping[str, float]
    look: Callable[[Network], Mapping[str, float]]

    def nearest(self, values: Values, made: Callable[[Plan], Component]) -> Nearest | None:
        """The component that comes nearest to the whole network, of a plan per kind of value.

        Args:
            values: Per kind of value what families lose.
            made: A plan as a network, judged.

        Returns:
            None where no plan keeps the limits.
        """
        plans: list[Plan] = []
        for name, losses in values.items():
            plan = self.plan(name, losses)
            if plan is not None and all(plan.choice != other.choice for other in plans):
                plans.append(plan)
        if not plans:
            return None
        best = min(map(made, plans), key=lambda one: one.judged.divergence)
        return Nearest(component=best, candidates=len(plans))

    def plan(self, values: str, losses: Mapping[str, Losses]) -> Plan | None:
        """The plan by some values that keeps the limits; None where none was found.

        What the tables are asked for is corrected by what the last plan cost, between what did and
        what did not do; at last the smallest plan is tried.

        Args:
            values: What the losses are.
            losses: Per family.
        """
        best, low, high, factor = None, 0.0, math.inf, 1.0  # factors that did and did not do
        for _ in range(PLANS):
            aims = {
                kind: limit if kind in EXACT else factor * ASKED.get(kind, 1.0) * limit
                for kind, limit in self.limits.items()
            }
            try:
                plan = plan_within(self.anatomy, values, losses, self.costs, aims)
            except BudgetError:  # by the tables
                break
            used = self._used(plan)
            if used <= 1:
                best, low = plan, factor
            else:
                high = factor
            if not self.limits or ENOUGH <= used <= 1 or high < NEAR * low:
                break
            factor *= SPARE / used
            if not low < factor < high:
                factor = (low + min(high, 2 * low)) / 2
        return best or self._smallest(values, losses)

    def _smallest(self, values: str, losses: Mapping[str, Losses]) -> Plan | None:
        for kind in self.limits:
            plan = smallest_plan(self.anatomy, values, losses, self.costs, kind)
            if self._used(plan) <= 1:
                return plan
        return None

    def _used(self, plan: Plan) -> float:
        """The greatest share of a limit that a plan costs; what keeps all is looked at twice."""
        first = self._shares(plan)
        if max(first, default=0.0) > 1:
            return max(first)
        return max(np.mean([first, self._shares(plan)], axis=0), default=0.0)

    def _shares(self, plan: Plan) -> list[float]:
        cost = self.look(plan.network)
        return [cost[kind] / limit / (1 + 1e-9) for kind, limit in self.limits.items()]
