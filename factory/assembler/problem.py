"""One choice to make: the library, the task and the device as integers, whatever the budget is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import DataError
from ..graph.network import Array
from ..library.library import CLASSES, ModuleLibrary
from ..schema import Estimate, Interval, LatencyTable, Task
from ..units import MIB
from . import knapsack
from .accuracy import estimate_accuracies, estimate_accuracy, least_shares
from .footprint import Footprint, empty_counts, footprint
from .strength import class_strengths, doubt_of, task_strength
from .values import SCALE, class_values, slot_values, value_share


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What everything is worth and what it costs.

    Attributes:
        library: Where the modules come from, at one input size.
        task: What they are for.
        table: Measured or predicted latency.
        values: Per block slot the value of 0, 1, .. modules.
        least: Per block slot the least number of modules.
        size: The device-independent costs.
    """

    library: ModuleLibrary
    task: Task
    table: LatencyTable
    values: Mapping[str, tuple[int, ...]]
    least: Mapping[str, int]
    size: Footprint

    @cached_property
    def latency_costs(self) -> dict[str, tuple[int, ...]]:
        """Per block slot the nanoseconds of 0, 1, .. modules."""
        return {slot: tuple(self.table.slots[slot]) for slot in self.values}

    @cached_property
    def fastest(self) -> knapsack.Table:
        """The most valuable plan of every latency: one table answers every latency budget."""
        return knapsack.solve(self.latency_costs, self.values, self.least)

    @property
    def fixed_ns(self) -> int:
        """Nanoseconds that no choice changes: the rest of the network with these classes."""
        return self.table.fixed_ns + self.table.slots[CLASSES][len(self.task.classes)]

    @property
    def whole_value(self) -> int:
        """Value of the full network, about 10**9."""
        return sum(row[-1] for row in self.values.values())

    @cached_property
    def strength(self) -> float:
        """Accuracy of the full network on the task's classes, in [0, 1]: where estimates start."""
        return task_strength(self.library, self.task)

    @cached_property
    def doubt(self) -> float:
        """How far the strengths may be overstated, in logits: see :func:`doubt_of`."""
        return doubt_of(self.library)

    @cached_property
    def class_tables(self) -> dict[str, Array]:
        """Per block slot the value of 0, 1, .. modules to each class, integers (K, groups + 1)."""
        rows = class_values(self.library, self.library.card["values"]["source"])
        whole = np.round(SCALE * rows[list(self.library.class_indices(self.task))]).astype(np.int64)
        ends = np.cumsum([slot.groups + 1 for slot in self.library.blocks])
        parts = np.split(whole, ends[:-1], axis=1)
        return {slot.name: part for slot, part in zip(self.library.blocks, parts, strict=True)}

    @cached_property
    def class_strengths(self) -> Array:
        """Accuracy of the full network on each class of the task, (K,)."""
        return class_strengths(self.library, self.library.class_indices(self.task))

    def with_classes(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Counts of all slots, the classes included."""
        return {**counts, CLASSES: len(self.task.classes)}

    def share(self, counts: Mapping[str, int]) -> float:
        """Value of a plan as a share of the full plan's, in [0, 1]."""
        return value_share(self.values, counts)

    def accuracy(self, counts: Mapping[str, int]) -> Interval:
        """Estimated accuracy of a plan."""
        fit, classes = self.library.accuracy["fit"], len(self.task.classes)
        return estimate_accuracy(fit, self.share(counts), self.strength, classes, self.doubt)

    def least_value(self, accuracy: float, *, slack: float = 0.0) -> int:
        """The least value of plans whose estimate is an accuracy, in (0, 1), or more.

        Args:
            accuracy: In (0, 1).
            slack: How far below it the answer may be, as a share of the full plan's value.
        """
        fit, size = self.library.accuracy["fit"], len(self.task.classes)
        strength, whole = np.array([self.strength]), np.array([self.whole_value])
        found = least_shares(fit, accuracy, strength, size, whole, doubt=self.doubt, slack=slack)
        return int(found[0])

    def least_class(self, counts: Mapping[str, int]) -> tuple[str, Interval] | None:
        """The class of the least estimated accuracy; None where there is no such estimate."""
        fit = self.library.accuracy.get("class_fit")
        if fit is None:
            return None
        whole = sum(table[:, -1] for table in self.class_tables.values())
        value = sum(table[:, counts[slot]] for slot, table in self.class_tables.items())
        shares = value / np.maximum(1, whole)
        classes = len(self.task.classes)
        rows = estimate_accuracies(fit, shares, self.class_strengths, classes, self.doubt)
        least = int(rows[1].argmin())
        low, middle, high = (float(end) for end in rows[:, least])
        interval = Interval(low=low, value=middle, high=high, level=fit["level"], n=fit["n"])
        return self.task.classes[least], interval


def problem_for(library: ModuleLibrary, task: Task, table: LatencyTable) -> Problem:
    """Gather values and costs.

    Raises:
        DataError: The latency table belongs to another library or input size.
    """
    if table.library != library.id:
        raise DataError(
            f"The latency table of '{table.device}' belongs to library {table.library}, "
            f"not to '{library.name}' {library.id}."
        )
    if table.input_size != library.input_size:
        raise DataError(
            f"The latency table of '{table.device}' is for inputs of {table.input_size} px, "
            f"not of {library.input_size} px."
        )
    return Problem(
        library=library,
        task=task,
        table=table,
        values=slot_values(library, task),
        least=empty_counts(library),
        size=footprint(library),
    )


def estimate(problem: Problem, counts: Mapping[str, int], percentile: int) -> Estimate:
    """Predicted latency and accuracy, exact parameters and multiply-adds, memory and file size.

    For fewer than all classes of a detector the memory is an upper bound: see :func:`footprint`.
    """
    whole = problem.with_classes(counts)
    name, least = problem.least_class(counts) or ("", None)
    energy = problem.table.energy
    return Estimate(
        latency_ms=problem.table.predict(whole, percentile=percentile),
        accuracy=problem.accuracy(counts),
        mparams=problem.size.total_params(whole) / 1e6,
        mmacs=problem.size.total_macs(whole) / 1e6,
        memory_mib=problem.size.peak_mib(whole),
        file_mib=problem.size.total_file_bytes(whole, problem.task.classes) / MIB,
        energy_mj=energy.predict(whole) if energy else None,
        least_class=name,
        least_class_accuracy=least,
        runtime=problem.table.runtime,
        precision=problem.table.precision,
    )
