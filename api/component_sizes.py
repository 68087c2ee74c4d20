"""The component that is chosen among input sizes: each is cut as far as the limits ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..factory.errors import BudgetError
from ..factory.schema import Budget, DeviceProfile, Measurement
from .component_case import Case, Found
from .component_choice import kept_at, limits_of, measured
from .keeping import excess_mib
from .request import Report, Stopwatch

if TYPE_CHECKING:
    from ..factory.reuse.disassembly.input_sizes import Look

_Kept = tuple[Found, Measurement | None]


def kept(
    case: Case, sides: Sequence[int], profile: DeviceProfile, budget: Budget, watch: Stopwatch,
    report: Report,
) -> _Kept:  # fmt: skip
    """The component that keeps the budget when it is measured, at the best of some input sizes.

    Args:
        case: The whole network, at its own size.
        sides: Input sizes, that of the case first, then falling; none where it is to stay. Where
            parameters alone are limited, which no size saves, the first one is taken.
        profile: The device.
        budget: The limits.
        watch: Of the phases.
        report: Called with (phase, done, total).

    Raises:
        BudgetError: None keeps it; what is said is about the smallest size.
    """
    from ..factory.reuse.disassembly.input_sizes import nearest

    if len(sides) < 2 or set(limits_of(budget)) <= {"mparams"}:
        return kept_at(case, profile, budget, watch, report)
    with watch.phase("sizes"):
        looks = [_look(case, side, profile, budget) for side in sides]
    candidates, errors = 0, list[BudgetError]()

    def found_at(look: Look) -> _Kept | None:
        nonlocal candidates
        there = case.at(look.side)
        try:
            found = _uncut(there, profile, budget, watch, report) if look.keeps else None
            found = found or kept_at(there, profile, budget, watch, report)
        except BudgetError as error:
            errors.append(error)
            return None
        candidates += found[0].candidates
        return found

    best = nearest(looks, found_at, lambda found: found[0].made.judged.divergence)
    if best is None:
        raise errors[0]
    return replace(best[0], candidates=candidates), best[1]


def _look(case: Case, side: int, profile: DeviceProfile, budget: Budget) -> Look:
    from ..factory.reuse.disassembly.input_sizes import Look, at_side
    from ..factory.reuse.disassembly.search import SPARE

    network = at_side(case.anatomy.network, side)
    costs = {key: case.looked_at(key, network, profile) for key in limits_of(budget)}
    return Look(
        side=side, divergence=case.judged(network).divergence,
        keeps=all(cost <= SPARE * getattr(budget, key) for key, cost in costs.items()
                  if key != "mparams"),
    )  # fmt: skip


def _uncut(
    case: Case, profile: DeviceProfile, budget: Budget, watch: Stopwatch, report: Report
) -> _Kept | None:
    """Everything that the network has, where the size alone keeps the budget when measured."""
    from ..factory.reuse.disassembly.component import uncut

    whole = case.anatomy.network
    if budget.mparams is not None and case.looked_at("mparams", whole, profile) > budget.mparams:
        return None
    found = Found(case=case, made=uncut(case.anatomy, case.judged), candidates=1)
    with watch.phase("measure"):
        measurement = measured(found, profile, budget, report)
    is_broken = measurement is not None and (
        measurement.verdict == "FAIL" or bool(excess_mib(measurement, budget))
    )
    return None if is_broken else (found, measurement)
