"""The component of an input size: within limits that hold when measured, or by thresholds."""

from __future__ import annotations

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
    from ..factory.graph.network import Network
    from ..factory.reuse.disassembly.component import Plan

LIMITS = ("latency_ms", "mparams", "mmacs", "memory_mib")
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
    from ..factory.reuse.disassembly.search import Search

    with watch.phase("values"):
        case.value(report)
    with watch.phase("costs"):
        case.count(profile, budget, report)
    wrong: dict[str, float] = {}  # by how much more than it seems a network costs when measured
    seen = _Seen(case=case, profile=profile, limits=limits_of(budget))
    for _ in range(ROUNDS):
        limits = {key: limit / wrong.get(key, 1.0) for key, limit in seen.limits.items()}
        search = Search(anatomy=case.anatomy, costs=case.costs, limits=limits, look=seen.costs)
        with watch.phase("cut"):
            best = search.nearest(case.values, lambda plan: case.made(plan, report))
        if best is None:
            raise seen.error(wrong)
        found = Found(case=case, made=best.component, candidates=best.candidates)
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seen:
    """What whole networks are seen to cost, of what is limited.

    Attributes:
        case: Network, values and tables.
        profile: The device.
        limits: By kind of cost.
    """

    case: Case
    profile: DeviceProfile
    limits: Mapping[str, float]

    def costs(self, network: Network) -> dict[str, float]:
        """Of a network, by kind: measured, estimated or counted."""
        return {key: self.case.looked_at(key, network, self.profile) for key in self.limits}

    def error(self, wrong: Mapping[str, float]) -> BudgetError:
        """That nothing keeps the limits, and what would be reachable of each alone.

        Args:
            wrong: By how much more than it seems a network costs when measured, by kind.
        """
        values = next(iter(self.case.values))
        least = {
            key: self._least(key, self.case.smallest(values, key), wrong.get(key, 1.0))
            for key in self.limits
        }
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

    def _least(self, key: str, plan: Plan, wrong: float) -> float:
        """What a plan costs; memory as it is measured, where it is."""
        cost = self.case.looked_at(key, plan.network, self.profile)
        if key != "memory_mib" or self.profile.name != "host":
            return wrong * cost
        from ..devices.memory import allocated_mib

        return max(cost, allocated_mib(self.case.model(plan.network)))
