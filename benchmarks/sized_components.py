"""Components of trained networks at input sizes of their own: what ``nnfactory disassemble`` does.

For ``disassembly.py`` and others that measure components: the search of the command, with latencies
that count the processor's time in one thread, and the largest size that keeps a limit uncut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from nnfactory.api.component_case import Case
from nnfactory.api.request import silent
from nnfactory.devices.parts import PartLatency
from nnfactory.factory.graph.network import Network
from nnfactory.factory.reuse.disassembly.component import (
    Component,
    Plan,
    uncut,
    values_of,
)
from nnfactory.factory.reuse.disassembly.costs import Costs, counted
from nnfactory.factory.reuse.disassembly.families import narrowed
from nnfactory.factory.reuse.disassembly.input_sizes import Look, at_side, nearest, sides_of
from nnfactory.factory.reuse.disassembly.layer_latency import timed
from nnfactory.factory.reuse.disassembly.reconstruction import Losses
from nnfactory.factory.reuse.disassembly.search import Search, Values

KEPT = 1.01  # of a limit is still within it
REPEATS = 4  # of what decides: one figure of a network is off by 4 %, and the luckiest would win
FINE = 64  # shares of families that uniform width is sought among
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
    values = values_of(case.anatomy, case.kind, case.fitting)
    best = cut(case, search_of(case, tables(case, latency_ms), limit_ms, latency_ms), values)
    return None if best is None else Sized(case=case, made=best)


def tables(case: Case, latency_ms: Latency) -> dict[str, Costs]:
    """What leaving channels out saves, latency as it is measured here."""
    latency = timed(
        case.anatomy, lambda network: steadily(latency_ms, network), PartLatency("host").layer
    )
    return {**counted(case.anatomy), "latency_ms": latency}


def search_of(
    case: Case, costs: Mapping[str, Costs], limit_ms: float, latency_ms: Latency
) -> Search:
    """Plans within a latency that is measured."""
    return Search(
        anatomy=case.anatomy, costs=costs, limits={"latency_ms": KEPT * limit_ms},
        look=lambda network: {"latency_ms": steadily(latency_ms, network)},
    )  # fmt: skip


def cut(case: Case, search: Search, values: Values) -> Component | None:
    """The component that comes nearest to the whole network within the limits of a search."""
    best = search.nearest(values, lambda plan: case.made(plan, silent))
    return None if best is None else best.component


def steadily(latency_ms: Latency, network: Network) -> float:
    """Milliseconds of a network, the mean of several figures."""
    return float(np.mean([latency_ms(network) for _ in range(REPEATS)]))


def uniform_plan(
    case: Case, losses: Mapping[str, Losses], limit_ms: float, latency_ms: Latency
) -> Plan | None:
    """The largest share of every family that keeps the latency when measured; None if none does.

    Args:
        case: The network.
        losses: What orders the channels within families.
        limit_ms: What it may take.
        latency_ms: Milliseconds of a network.
    """
    best, few, many = None, 0, FINE  # shares, of FINE, that do and that do not
    while many - few > 1:
        share = (few + many) // 2
        kept = {
            family.name: np.sort(
                losses[family.name].order[: max(1, round(len(family.groups) * share / FINE))]
            )
            for family in case.anatomy.families
        }
        network, channels = narrowed(case.anatomy, kept)
        if steadily(latency_ms, network) <= KEPT * limit_ms:
            few = share
            best = Plan(values="both", kept=kept, network=network, channels=channels, choice=None)
        else:
            many = share
    return best
