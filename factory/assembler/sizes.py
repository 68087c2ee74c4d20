"""The input size as one more choice: every size is solved exactly, the best estimate wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import BudgetError
from ..library.library import ModuleLibrary
from ..schema import Budget, Certificate, Estimate, FrontierPoint, LatencyTable, Plan, Task
from .assemble import assemble, frontier, frontier_size

PER_SIZE = 100  # plans of every size that are compared with those of the others


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SizeOption:
    """One input size that a plan may have.

    Attributes:
        library: The library at that size.
        table: Latency of its modules at that size.
    """

    library: ModuleLibrary
    table: LatencyTable


def assemble_any_size(
    options: Sequence[SizeOption], task: Task, budget: Budget
) -> tuple[Plan, Estimate, Certificate]:
    """The plan of greatest estimated accuracy over all sizes.

    Within a size the plan is optimal for the library's values; values of different sizes do not
    compare, estimates of accuracy do. Of equal estimates the larger input wins.

    Args:
        options: At least one; larger inputs first.
        task: What the network must do.
        budget: Limits.

    Raises:
        BudgetError: No plan of any size keeps the budget; the message is about the last size.
    """
    found: list[tuple[Plan, Estimate, Certificate]] = []
    error: BudgetError | None = None
    for option in options:
        try:
            found.append(assemble(option.library, task, budget, option.table))
        except BudgetError as failed:
            error = failed
    if not found:
        assert error is not None
        raise error
    return max(found, key=lambda answer: _accuracy(answer[1]))


def frontier_any_size(
    options: Sequence[SizeOption], task: Task, points: int
) -> tuple[list[FrontierPoint], int]:
    """Plans over all sizes by rising latency and estimated accuracy.

    Of every size about a hundred plans, evenly spaced in latency, are compared with those of the
    others.

    Args:
        options: At least one.
        task: What the network must do.
        points: Return about this many, evenly spaced in latency.

    Returns:
        The points, and how many plans the frontiers of the sizes hold, each by itself.
    """
    every = [
        point
        for option in options
        for point in frontier(option.library, task, option.table, max(points, PER_SIZE))
    ]
    every.sort(key=lambda point: (_latency(point), -_accuracy(point.estimate)))
    kept: list[FrontierPoint] = []
    for point in every:
        if not kept or _accuracy(point.estimate) > _accuracy(kept[-1].estimate):
            kept.append(point)
    steps = sum(frontier_size(option.library, task, option.table) for option in options)
    return _spread(kept, points), steps


def _spread(rows: list[FrontierPoint], points: int) -> list[FrontierPoint]:
    """About ``points`` of the rows, evenly spaced in latency, the first and the last included."""
    low, high = _latency(rows[0]), _latency(rows[-1])
    chosen, position = [], 0
    for number in range(points):
        limit = low + (high - low) * number / max(1, points - 1)
        while position + 1 < len(rows) and _latency(rows[position + 1]) <= limit:
            position += 1
        chosen.append(position)
    chosen[-1] = len(rows) - 1
    return [rows[position] for position in sorted(set(chosen))]


def _latency(point: FrontierPoint) -> float:
    assert point.estimate.latency_ms is not None
    return point.estimate.latency_ms.value


def _accuracy(estimate: Estimate) -> float:
    assert estimate.accuracy is not None
    return estimate.accuracy.value
