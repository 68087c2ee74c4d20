"""The component of an input size: within limits that hold when measured, or by thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..factory.errors import BudgetError
from ..factory.reuse.disassembly.cost_names import NAMES, words
from ..factory.schema import Budget, DeviceProfile, Measurement
from ..factory.units import four_digits
from .component_case import Case, Found
from .keeping import ROUNDS, broken, excess_mib, measure_model
from .request import Report, Stopwatch

if TYPE_CHECKING:
    from ..factory.reuse.disassembly import component

SPARE = 0.98  # of a limit is asked for, where a second measurement differs
ASKED = {"latency_ms": SPARE}
LIMITS = ("latency_ms", "mparams", "mmacs", "memory_mib")
LOOKS = 8  # at plans, each corrected by what the last one cost
ENOUGH, NEAR = 0.95, 1.02  # of a limit is used; limits that are as good as equal
MORE = 1.03  # of the least that was seen is what a hint asks for


def with_latency(
    case: Case, profile: DeviceProfile, share: float | None, budget: Budget
) -> tuple[float, Budget]:
    """The latency of the whole network, and the budget with a share of it made milliseconds."""
    if profile.name == "host":
        measured = measure_model(case.model(case.anatomy.network), profile, Budget())
        whole_ms = measured.percentile(50)
    else:
        whole_ms = case.latency_on(profile)(case.anatomy.network)
    if share is None:
        return whole_ms, budget
    return whole_ms, replace(budget, latency_ms=share * whole_ms)


def kept_at(
    case: Case, profile: DeviceProfile, budget: Budget, watch: Stopwatch, report: Report
) -> tuple[Found, Measurement | None]:
    """The component of the case's input size that keeps the budget when it is measured.

    Raises:
        BudgetError: None does.
    """
    with watch.phase("values"):
        case.value(report)
    with watch.phase("costs"):
        case.count(profile, budget, report)
    wrong: dict[str, float] = {}  # by how much more than it seems a network costs when measured
    for _ in range(ROUNDS):
        with watch.phase("choose"):
            plans = _plans(case, profile, budget, wrong)
        with watch.phase("fit"):
            made = [case.made(plan, report) for plan in plans]
        best = min(made, key=lambda one: one.judged.divergence)
        found = Found(case=case, made=best, candidates=len(made))
        with watch.phase("measure"):
            measurement = measured(found, profile, budget, report)
        if measurement is None:
            return found, None
        excess = excess_mib(measurement, budget)
        if measurement.verdict != "FAIL" and not excess:
            return found, measurement
        if measurement.verdict == "FAIL" and budget.latency_ms is not None:
            factor = 1.01 * measurement.percentile(50) / budget.latency_ms
            wrong["latency_ms"] = wrong.get("latency_ms", 1.0) * factor
        if excess and budget.memory_mib is not None:
            factor = 1.01 * (budget.memory_mib + excess) / budget.memory_mib
            wrong["memory_mib"] = wrong.get("memory_mib", 1.0) * factor
    assert measurement is not None
    raise broken(measurement, budget, hint="loosen it, or begin with a smaller network")


def located(case: Case, thresholds: tuple[float, float] | None, report: Report) -> Found:
    """The component that thresholds keep, without a limit.

    Args:
        case: Network and images.
        thresholds: alpha and beta of all layers; None for those of the paper's code.
        report: Called with (phase, done, total).
    """
    from ..factory.reuse.disassembly.component import plan_by_thresholds
    from ..factory.reuse.disassembly.relevance import Thresholds

    chosen = Thresholds()
    if thresholds is not None:
        alpha, beta = thresholds
        chosen = Thresholds(conv_alpha=alpha, conv_beta=beta, linear_alpha=alpha, linear_beta=beta)
    plan = plan_by_thresholds(case.anatomy, case.kind, case.fitting, chosen, report=report)
    return Found(case=case, made=case.made(plan, report), candidates=1)


def measured(
    found: Found, profile: DeviceProfile, budget: Budget, report: Report
) -> Measurement | None:
    """What a component costs on this machine; None for any other device."""
    if profile.name != "host":
        return None
    report("measuring", 0, 1)
    return measure_model(found.case.model(found.made.network), profile, budget)


def limits_of(budget: Budget) -> dict[str, float]:
    """What a budget limits, by kind of cost."""
    return {key: value for key in LIMITS if (value := getattr(budget, key)) is not None}


def _plans(
    case: Case, profile: DeviceProfile, budget: Budget, wrong: Mapping[str, float]
) -> list[component.Plan]:
    """A plan per kind of value, each within the limits as its whole network is looked at.

    Raises:
        BudgetError: There is none; the hints say what is reachable.
    """
    look = _Look(case=case, profile=profile, limits=limits_of(budget), wrong=wrong)
    plans: list[component.Plan] = []
    for values in case.values:
        plan = look.plan(values)
        if plan is not None and all(plan.choice != other.choice for other in plans):
            plans.append(plan)
    if not plans:
        raise look.error()
    return plans


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Look:
    """Whole networks against limits: the tables that plans are chosen by are not exact.

    Attributes:
        case: Network, values and tables.
        profile: The device.
        limits: By kind of cost.
        wrong: By how much more than it seems a network costs when measured, by kind.
    """

    case: Case
    profile: DeviceProfile
    limits: Mapping[str, float]
    wrong: Mapping[str, float]

    def plan(self, values: str) -> component.Plan | None:
        """The plan by some values that keeps the limits; None where none was found."""
        from ..factory.reuse.disassembly.component import plan_within

        case, losses = self.case, self.case.values[values]
        best, low, high, factor = None, 0.0, math.inf, 1.0  # factors that did and did not do
        for _ in range(LOOKS):
            aim = {key: factor * limit * ASKED.get(key, 1.0) / self.wrong.get(key, 1.0)
                   for key, limit in self.limits.items()}  # fmt: skip
            try:
                plan = plan_within(case.anatomy, values, losses, case.costs, aim)
            except BudgetError:  # by the tables, which are not exact
                break
            used = self.used(plan)
            if used <= 1:
                best, low = plan, factor
            else:
                high = factor
            if not self.limits or ENOUGH <= used <= 1 or high < NEAR * low:
                break
            factor *= SPARE / used
            if not low < factor < high:
                factor = (low + min(high, 2 * low)) / 2
        return best or self._smallest(values)

    def used(self, plan: component.Plan) -> float:
        """The greatest share of a limit that a plan costs."""
        shares = [self.cost(key, plan) / limit for key, limit in self.limits.items()]
        return max(shares, default=0.0) / (1 + 1e-9)

    def cost(self, key: str, plan: component.Plan) -> float:
        """What a plan costs: measured, estimated or counted."""
        cost = self.case.looked_at(key, plan.network, self.profile)
        return self.wrong.get(key, 1.0) * cost

    def _smallest(self, values: str) -> component.Plan | None:
        for key in self.limits:
            plan = self.case.smallest(values, key)
            if self.used(plan) <= 1:
                return plan
        return None

    def error(self) -> BudgetError:
        """That nothing keeps the limits, and what would be reachable of each alone."""
        values = next(iter(self.case.values))
        least = {key: self._least(key, self.case.smallest(values, key)) for key in self.limits}
        asked = " and ".join(f"{words(key, limit, '<= ')}" for key, limit in self.limits.items())
        reachable = ", ".join(words(key, cost, "") for key, cost in least.items())
        hints = [
            f"--{NAMES[key][0]} {four_digits(MORE * cost, upwards=True)}{NAMES[key][1]}"
            for key, cost in least.items()
            if cost > self.limits[key]
        ]
        return BudgetError(
            f"No component of '{self.case.donor.name}' keeps {asked} on '{self.profile.name}'; "
            f"each by itself, the least is {reachable}.",
            hints=hints or ["loosen one of them, or begin with a smaller network"],
            details={"reachable": least},
        )

    def _least(self, key: str, plan: component.Plan) -> float:
        """What a plan costs; memory as it is measured, where it is."""
        cost = self.case.looked_at(key, plan.network, self.profile)
        if key != "memory_mib" or self.profile.name != "host":
            return self.wrong.get(key, 1.0) * cost
        from ..devices.memory import allocated_mib

        return max(cost, allocated_mib(self.case.model(plan.network)))
