"""Components of trained networks at input sizes of their own: what ``nnfactory disassemble`` does.

For ``disassembly.py`` and others that measure components: the search of the command, with latencies
that count the processor's time in one thread, and the largest size that keeps a limit uncut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click
import numpy as np

from nnfactory.api.component_case import Case
from nnfactory.api.request import silent
from nnfactory.factory.errors import BudgetError
from nnfactory.factory.graph.network import Network
from nnfactory.factory.reuse.disassembly.component import (
    Component,
    Plan,
    plan_within,
    smallest_plan,
    uncut,
    values_of,
)
from nnfactory.factory.reuse.disassembly.costs import Costs, counted, timed
from nnfactory.factory.reuse.disassembly.input_sizes import Look, at_side, nearest, sides_of
from nnfactory.factory.reuse.disassembly.reconstruction import Losses

ROUNDS = 8  # plans of a limit, each corrected by what the last one cost
USED, KEPT = 0.95, 1.01  # of a limit: enough, and still within it
REPEATS = 4  # of what decides: one figure of a network is off by 4 %, and the luckiest would win
Latency = Callable[[Network], float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sized:
    """A component and the case at its input size."""

    case: Case
    made: Component


def sized_components(
    case: Case, limit_ms: float, latency_ms: Latency
) -> tuple[Sized | None, Sized | None]:
    """The component that comes nearest to the whole network, and the largest uncut network.

    Args:
        case: The whole network at its own size.
        limit_ms: What either may take.
        latency_ms: Milliseconds of a network.
    """
    looks = []
    for side in sides_of(case.anatomy.network, case.donor.stride):
        network = at_side(case.anatomy.network, side)
        looks.append(
            Look(
                side=side, divergence=case.judged(network).divergence,
                keeps=steadily(latency_ms, network) <= limit_ms,
            )
        )  # fmt: skip

    def found_at(look: Look) -> Sized | None:
        there = case.at(look.side)
        return _uncut(there) if look.keeps else _cut(there, limit_ms, latency_ms)

    largest = next((_uncut(case.at(look.side)) for look in looks if look.keeps), None)
    return nearest(looks, found_at, lambda one: one.made.judged.divergence), largest


def _uncut(case: Case) -> Sized:
    return Sized(case=case, made=uncut(case.anatomy, case.judged))


def _cut(case: Case, limit_ms: float, latency_ms: Latency) -> Sized | None:
    costs = counted(case.anatomy)
    costs["latency_ms"] = timed(case.anatomy, latency_ms, costs["mmacs"])
    made = [
        case.made(plan, silent)
        for way, losses in values_of(case.anatomy, case.kind, case.fitting).items()
        if (plan := within(case, way, losses, costs, limit_ms, latency_ms)) is not None
    ]
    best = min(made, key=lambda one: one.judged.divergence, default=None)
    return None if best is None else Sized(case=case, made=best)


def steadily(latency_ms: Latency, network: Network) -> float:
    """Milliseconds of a network, the mean of several figures."""
    return float(np.mean([latency_ms(network) for _ in range(REPEATS)]))


def within(
    case: Case, way: str, losses: Mapping[str, Losses], costs: Mapping[str, Costs], limit: float,
    measured: Latency,
) -> Plan | None:  # fmt: skip
    """The plan by some values that uses a latency and keeps it when measured; None if none does.

    As the command does: what is asked of the table, which is not exact, is corrected by what the
    last plan cost, between what did and what did not do; at last the smallest plan is tried.
    """
    best, low, high, aim = None, 0.0, math.inf, limit  # aims that did and did not do
    for _ in range(ROUNDS):
        try:
            plan = plan_within(case.anatomy, way, losses, costs, {"latency_ms": aim})
        except BudgetError:
            break
        reached = steadily(measured, plan.network)
        if reached <= KEPT * limit:
            best, low = plan, aim
        else:
            high = aim
        if USED * limit <= reached <= KEPT * limit or high < KEPT * low:
            break
        aim *= 0.99 * limit / reached
        if not low < aim < high:
            aim = (low + min(high, 2 * low)) / 2
    if best is None:
        plan = smallest_plan(case.anatomy, way, losses, costs, "latency_ms")
        best = plan if steadily(measured, plan.network) <= KEPT * limit else None
    if best is None:
        click.echo(f"{way}: nothing keeps {limit:.3f} ms")
    return best
