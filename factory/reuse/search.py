"""The best ways through a row of stages under budgets, in order, each proven: best-first search."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import DataError
from ..graph.network import Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stages:
    """What a way may go through: one of N blocks at each of K stages, and what joins them.

    Attributes:
        value: Of every block, (K, N).
        joint_value: Of going from a block to one of the next stage, (K - 1, N, N); minus infinity
            where that is impossible.
        costs: Per budget the cost of every block, (K, N), none negative.
        joint_costs: Per budget the cost of what joins two blocks, (K - 1, N, N).
        donors: To whom each block belongs, (N,).
        is_allowed: Which blocks may be used, (K, N).
        peaks: Of budgets that limit the sum of the costs and the greatest of these, the latter
            for every block, (K, N), none negative: memory is weights and the activations that
            exist at the same time.
        joint_peaks: The same for what joins two blocks, (K - 1, N, N).
        whole: Per budget what a whole donor costs, (N,), where that is less than the sum says.
    """

    value: Array
    joint_value: Array
    costs: Mapping[str, Array]
    joint_costs: Mapping[str, Array]
    donors: Array
    is_allowed: Array
    peaks: Mapping[str, Array] = field(default_factory=dict)
    joint_peaks: Mapping[str, Array] = field(default_factory=dict)
    whole: Mapping[str, Array] = field(default_factory=dict)

    def way(self, blocks: Sequence[int]) -> Way:
        """A way through these blocks, one a stage."""
        own = list(enumerate(blocks))
        joints = [(k, one, other) for k, (one, other) in enumerate(itertools.pairwise(blocks))]

        def of(rows: Array, joint_rows: Array) -> list[float]:
            return [float(rows[at]) for at in own] + [float(joint_rows[at]) for at in joints]

        costs = {name: sum(of(rows, self.joint_costs[name])) for name, rows in self.costs.items()}
        for name, rows in self.peaks.items():
            costs[name] += max(of(rows, self.joint_peaks[name]))
        if len(set(blocks)) == 1:
            costs |= {name: float(rows[blocks[0]]) for name, rows in self.whole.items()}
        value = sum(of(self.value, self.joint_value))
        return Way(blocks=tuple(blocks), value=value, costs=costs)


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
    peak: tuple[float, ...] = field(compare=False)


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
        peak = [float(stages.peaks[n][stage, block]) if n in stages.peaks else 0.0 for n in names]
        if before is not None:
            link = (stage - 1, before.blocks[-1], block)
            value = before.value + float(stages.joint_value[link])
            joints = [float(stages.joint_costs[name][link]) for name in names]
            spent = [s + joint for s, joint in zip(before.spent, joints, strict=True)]
            tops = [float(stages.joint_peaks[n][link]) if n in stages.peaks else 0.0 for n in names]
            peak = [max(three) for three in zip(peak, before.peak, tops, strict=True)]
        promise = value + float(best[stage, block])
        ends = [float(rows[stage, block]) for rows in least]
        if not np.isfinite(promise) or any(
            s + end + top > limit
            for s, end, top, limit in zip(spent, ends, peak, room, strict=True)
        ):
            return
        own = [float(stages.costs[name][stage, block]) for name in names]
        start = _Start(
            promise=-promise, number=next(numbers), blocks=blocks,
            value=value + float(stages.value[stage, block]),
            spent=tuple(s + mine for s, mine in zip(spent, own, strict=True)), peak=tuple(peak),
        )  # fmt: skip
        heapq.heappush(queue, start)

    for block in range(stages.value.shape[1]):
        push(None, block)
    found: list[Way] = []
    while queue and len(found) < count:
        start = heapq.heappop(queue)
        if len(start.blocks) > last:
            found.append(stages.way(start.blocks))
            continue
        for block in range(stages.value.shape[1]):
            push(start, block)
    return found


def least_cost(
    stages: Stages, name: str, limits: Mapping[str, float], *, most_donors: int | None = None
) -> float | None:
    """The least that a way within the other limits costs; None where there is none.

    Args:
        stages: What there is.
        name: The budget; a limit of its own does not count.
        limits: As in :func:`best_ways`.
        most_donors: As in :func:`best_ways`.
    """
    joints = np.where(np.isfinite(stages.joint_value), -stages.joint_costs[name], -np.inf)
    cheap = replace(stages, value=-stages.costs[name], joint_value=joints)
    least: float | None = None
    while True:  # where there are peaks the least sum may not be the least cost
        room = np.inf if least is None else least * (1 - 1e-9)
        found = best_ways(cheap, {**limits, name: room}, 1, most_donors=most_donors)
        if not found:
            return least
        least = found[0].costs[name]
        if name not in stages.peaks:
            return least


def _barred(stages: Stages, name: str) -> Array:
    return np.where(stages.is_allowed, stages.costs[name], np.inf)


def _ends(own: Array, joint: Array) -> Array:
    """The greatest sum from each block to the end, its own included, (K, N)."""
    ends = own.copy()
    for stage in range(len(own) - 2, -1, -1):
        ends[stage] += (joint[stage] + ends[stage + 1][None]).max(1)
    return ends
