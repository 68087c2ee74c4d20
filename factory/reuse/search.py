"""The best ways through a row of stages under budgets, in order, each proven: best-first search."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..errors import DataError
from ..graph.network import Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stages:
    """What a way may go through: one of N blocks at each of K stages, and what joins them.

    Attributes:
        value: Of every block, (K, N).
        joint_value: Of going from a block to one of the next stage, (K - 1, N, N).
        costs: Per budget the cost of every block, (K, N), none negative.
        joint_costs: Per budget the cost of what joins two blocks, (K - 1, N, N).
        donors: To whom each block belongs, (N,).
        is_allowed: Which blocks may be used, (K, N).
    """

    value: Array
    joint_value: Array
    costs: Mapping[str, Array]
    joint_costs: Mapping[str, Array]
    donors: Array
    is_allowed: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One block per stage.

    Attributes:
        blocks: Position of the block at every stage.
        value: What it is worth.
        costs: By budget.
    """

    blocks: tuple[int, ...]
    value: float
    costs: Mapping[str, float]


@dataclass(order=True, slots=True)
class _Start:
    """The beginning of a way, in the order in which it is looked at."""

    promise: float
    number: int
    blocks: tuple[int, ...] = field(compare=False)
    value: float = field(compare=False)
    spent: tuple[float, ...] = field(compare=False)


def best_ways(
    stages: Stages, limits: Mapping[str, float], count: int, *, most_donors: int | None = None
) -> list[Way]:
    """The most valuable ways that keep all limits, best first.

    What a beginning promises is its value and that of the best end, budgets aside; ends are known
    by dynamic programming. So the first complete way that is taken from the queue is proven to be
    the best, the next one the second best. Beginnings whose cheapest end breaks a limit are left.

    Args:
        stages: What there is.
        limits: By budget; those that are not named have none.
        count: How many ways, fewer if there are no more.
        most_donors: How many donors may take part.

    Raises:
        DataError: A limit has no costs.
    """
    unknown = set(limits) - set(stages.costs)
    if unknown:
        raise DataError(f"Nothing is known about the cost in {sorted(unknown)[0]!r}.")
    names = list(stages.costs)
    last = len(stages.value) - 1
    best = _ends(np.where(stages.is_allowed, stages.value, -np.inf), stages.joint_value)
    least = [-_ends(-_barred(stages, name), -stages.joint_costs[name]) for name in names]
    room = [limits.get(name, np.inf) * (1 + 1e-12) for name in names]
    numbers = itertools.count()
    queue: list[_Start] = []

    def push(before: _Start | None, block: int) -> None:
        stage = 0 if before is None else len(before.blocks)
        blocks = (*(() if before is None else before.blocks), block)
        if most_donors is not None and len({int(stages.donors[b]) for b in blocks}) > most_donors:
            return
        value, spent = 0.0, [0.0] * len(names)
        if before is not None:
            link = (stage - 1, before.blocks[-1], block)
            value = before.value + float(stages.joint_value[link])
            joints = [float(stages.joint_costs[name][link]) for name in names]
            spent = [s + joint for s, joint in zip(before.spent, joints, strict=True)]
        promise = value + float(best[stage, block])
        ends = [float(rows[stage, block]) for rows in least]
        if not np.isfinite(promise) or any(
            s + end > limit for s, end, limit in zip(spent, ends, room, strict=True)
        ):
            return
        own = [float(stages.costs[name][stage, block]) for name in names]
        start = _Start(
            promise=-promise, number=next(numbers), blocks=blocks,
            value=value + float(stages.value[stage, block]),
            spent=tuple(s + mine for s, mine in zip(spent, own, strict=True)),
        )  # fmt: skip
        heapq.heappush(queue, start)

    for block in range(stages.value.shape[1]):
        push(None, block)
    found: list[Way] = []
    while queue and len(found) < count:
        start = heapq.heappop(queue)
        if len(start.blocks) > last:
            costs = dict(zip(names, start.spent, strict=True))
            found.append(Way(blocks=start.blocks, value=start.value, costs=costs))
            continue
        for block in range(stages.value.shape[1]):
            push(start, block)
    return found


def _barred(stages: Stages, name: str) -> Array:
    return np.where(stages.is_allowed, stages.costs[name], np.inf)


def _ends(own: Array, joint: Array) -> Array:
    """The greatest sum from each block to the end, its own included, (K, N)."""
    ends = own.copy()
    for stage in range(len(own) - 2, -1, -1):
        ends[stage] += (joint[stage] + ends[stage + 1][None]).max(1)
    return ends
