"""Exact choice under one budget: dynamic programming over non-dominated (cost, value) pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Layer:
    """Choice at one slot and position in the layer before, for each kept pair."""

    count: Ints
    parent: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Every non-dominated plan of one cost: the answer to every budget at once.

    Attributes:
        slots: Slot names in order.
        cost: Rising costs (P,), integers.
        value: Rising values (P,), integers; ``value[i]`` is the greatest for ``cost[i]``.
    """

    slots: tuple[str, ...]
    cost: Ints
    value: Ints
    layers: tuple[_Layer, ...]

    def best(self, limit: int | None) -> int | None:
        """Position of the most valuable plan with a cost of at most ``limit``; None if none fits.

        Without a limit it is the most valuable plan, the cheapest among equals.
        """
        if limit is None:
            return len(self.cost) - 1
        position = int(np.searchsorted(self.cost, limit, side="right")) - 1
        return None if position < 0 else position

    def first(self, value: int) -> int | None:
        """Position of the cheapest plan worth at least ``value``; None if none is."""
        position = int(np.searchsorted(self.value, value))
        return None if position == len(self.value) else position

    def counts(self, position: int) -> dict[str, int]:
        """Number of active modules per slot of the plan at ``position``."""
        chosen: list[int] = []
        for layer in reversed(self.layers):
            chosen.append(int(layer.count[position]))
            position = int(layer.parent[position])
        return dict(zip(self.slots, reversed(chosen), strict=True))


def solve(
    costs: Mapping[str, Sequence[int]],
    values: Mapping[str, Sequence[int]],
    least: Mapping[str, int],
) -> Table:
    """All non-dominated sums of one (cost, value) pair per slot. Exact: all numbers are integers.

    Args:
        costs: Per slot the cost of 0, 1, .. active modules.
        values: Per slot the value of 0, 1, .. active modules.
        least: Per slot the least number of active modules.
    """
    cost, value = np.zeros(1, np.int64), np.zeros(1, np.int64)
    layers = []
    for slot, slot_costs in costs.items():
        counts = np.arange(least[slot], len(slot_costs))
        option_cost = np.asarray(slot_costs, np.int64)[counts]
        option_value = np.asarray(values[slot], np.int64)[counts]
        total_cost = (cost[:, None] + option_cost).ravel()
        total_value = (value[:, None] + option_value).ravel()
        kept = _non_dominated(total_cost, total_value)
        cost, value = total_cost[kept], total_value[kept]
        layers.append(_Layer(counts[kept % len(counts)], kept // len(counts)))
    return Table(slots=tuple(costs), cost=cost, value=value, layers=tuple(layers))


def _non_dominated(cost: Ints, value: Ints) -> Ints:
    """Positions of the pairs that no other pair beats, by rising cost."""
    order = np.lexsort((-value, cost))
    best_before = np.maximum.accumulate(value[order])
    better = np.concatenate(([True], value[order][1:] > best_before[:-1]))
    return order[better]
