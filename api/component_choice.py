"""The component that is chosen: within limits that hold when it is measured, or by thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..factory.errors import BudgetError
from ..factory.schema import Budget, DeviceProfile, Measurement
from .component_artifact import Case, Found
from .keeping import ROUNDS, broken, excess_mib, measure_model
from .request import Report, Stopwatch

if TYPE_CHECKING:
    from ..factory.reuse.disassembly import component

SPARE = 0.98  # of a limit is asked for, where a second measurement differs
ASKED = {"latency_ms": SPARE}
LIMITS = ("latency_ms", "mparams", "mmacs", "memory_mib")
LOOKS = 8  # at plans, each corrected by what the last one cost
LOOKED_AT = ("latency_ms", "memory_mib")  # of whole networks: the tables are not exact


def with_latency(
    case: Case, profile: DeviceProfile, share: float | None, budget: Budget
) -> tuple[float | None, Budget]:
    """The latency of the whole network, and the budget with a share of it made milliseconds."""
    if share is None and budget.latency_ms is None:
        return None, budget
    if profile.name == "host":
        measured = measure_model(case.whole_model(), profile, Budget())
        whole_ms = measured.percentile(50)
    else:
        whole_ms = case.latency_on(profile)(case.anatomy.network)
    if share is None:
        return whole_ms, budget
    return whole_ms, replace(budget, latency_ms=share * whole_ms)


def kept(
    case: Case, profile: DeviceProfile, budget: Budget, watch: Stopwatch, report: Report
) -> tuple[Found, Measurement | None]:
    """The component that keeps the budget when it is measured.

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
        found = Found(made=best, kind=case.kind, candidates=len(made))
        with watch.phase("measure"):
            measurement = measured(case, found, profile, budget, report)
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
    return Found(made=case.made(plan, report), kind=case.kind, candidates=1)


def measured(
    case: Case, found: Found, profile: DeviceProfile, budget: Budget, report: Report
) -> Measurement | None:
    """What a component costs on this machine; None for any other device."""
    if profile.name != "host":
        return None
    report("measuring", 0, 1)
    return measure_model(found.model(case, None), profile, budget)


def _plans(
    case: Case, profile: DeviceProfile, budget: Budget, wrong: Mapping[str, float]
) -> list[component.Plan]:
    """A plan per kind of value, each within the limits as its whole network is looked at.

    Raises:
        BudgetError: There is none.
    """
    from ..factory.reuse.disassembly.component import plan_within

    limits = {key: value for key in LIMITS if (value := getattr(budget, key)) is not None}
    plans: list[component.Plan] = []
    last: dict[str, float] = {}
    for values, losses in case.values.items():
        aim = {key: limit * ASKED.get(key, 1.0) / wrong.get(key, 1.0)
               for key, limit in limits.items()}  # fmt: skip
        for _ in range(LOOKS):
            plan = plan_within(case.anatomy, values, losses, case.costs, aim)
            last = {key: wrong.get(key, 1.0) * case.looked_at(key, plan.network, profile)
                    for key in LOOKED_AT if key in limits}  # fmt: skip
            over = {key: cost for key, cost in last.items() if cost > limits[key]}
            if not over:
                break
            for key, cost in over.items():
                aim[key] *= SPARE * limits[key] / cost
        else:
            continue
        if all(plan.choice != other.choice for other in plans):
            plans.append(plan)
    if not plans:
        raise _unkept(limits, last, profile)
    return plans


def _unkept(
    limits: Mapping[str, float], last: Mapping[str, float], profile: DeviceProfile
) -> BudgetError:
    """What the last try was like, when whole networks kept no limit."""
    over = {key: cost for key, cost in last.items() if cost > limits[key]}
    names = {"latency_ms": ("latency", "ms"), "memory_mib": ("memory", "MiB")}
    words = [f"{names[key][0]} <= {limits[key]:g} {names[key][1]}" for key in over]
    took = [f"{cost:.4g} {names[key][1]}" for key, cost in over.items()]
    return BudgetError(
        f"No component kept {' and '.join(words)} on '{profile.name}': the last of {LOOKS} tries "
        f"had {' and '.join(took)}.",
        hints=[f"--{names[key][0]} {1.01 * cost:.4g}{names[key][1]}" for key, cost in over.items()],
    )
