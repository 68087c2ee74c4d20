"""Components of trained networks at input sizes of their own: what ``nnfactory disassemble`` does.

For ``disassembly.py`` and others that measure components: the search of the command, with latencies
that count the processor's time in one thread, and the largest size that keeps a limit uncut.
"""

from __future__ import annotations

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
    uncut,
    values_of,
)
from nnfactory.factory.reuse.disassembly.costs import Costs, counted, timed
from nnfactory.factory.reuse.disassembly.input_sizes import Look, at_side, nearest, sides_of
from nnfactory.factory.reuse.disassembly.reconstruction import Losses

ROUNDS = 8  # plans of a limit, each corrected by what the last one cost
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
    """The plan by some values that keeps a latency when it is measured; None if there is none."""
    aim = limit
    for _ in range(ROUNDS):
        try:
            plan = plan_within(case.anatomy, way, losses, costs, {"latency_ms": aim})
        except BudgetError as error:
            click.echo(f"{way}: {error}")
            return None
        reached = steadily(measured, plan.network)
        if reached <= 1.01 * limit:
            return plan
        aim *= 0.99 * limit / reached
    click.echo(f"{way}: {reached:.3f} ms at last instead of {limit:.3f}")
    return None
