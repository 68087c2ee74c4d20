"""The budgets as integer limits: what a plan reaches of each, and the most that is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import DataError, DeviceError
from ..library.library import CLASSES
from ..schema import Budget
from ..units import MIB, NJ_PER_MJ, NS_PER_MS
from .accuracy import least_shares
from .problem import Problem
from .program import Ratio, Row, Table

Counts = Mapping[str, int]
_ROUNDING = 0.01  # of a unit: 1.001 ms are 1,001,000 ns, whatever the float says


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of budget.

    Attributes:
        name: As certificates and errors call it.
        field: Of :class:`Budget`.
        flag: Of the command line.
        unit: As people write it.
        is_floor: Whether the asked value is a least one.
    """

    name: str
    field: str
    flag: str
    unit: str = ""
    is_floor: bool = False

    @property
    def is_value(self) -> bool:
        """Whether larger networks keep it better; of the others smaller ones do."""
        return self in (ACCURACY, CLASS_ACCURACY)


LATENCY = Kind(name="latency", field="latency_ms", flag="--latency", unit="ms")
PARAMS = Kind(name="params", field="mparams", flag="--params", unit="M")
MACS = Kind(name="macs", field="mmacs", flag="--macs", unit="M")
MEMORY = Kind(name="memory", field="memory_mib", flag="--memory", unit="MiB")
FILE = Kind(name="size", field="file_mib", flag="--size", unit="MiB")
ENERGY = Kind(name="energy", field="energy_mj", flag="--energy", unit="mJ")
SPARSITY = Kind(name="sparsity", field="sparsity", flag="--sparsity", is_floor=True)
ACCURACY = Kind(name="accuracy", field="min_accuracy", flag="--min-accuracy", is_floor=True)
CLASS_ACCURACY = Kind(
    name="class accuracy", field="min_class_accuracy", flag="--min-class-accuracy", is_floor=True
)
KINDS = (LATENCY, ENERGY, PARAMS, MACS, MEMORY, FILE, SPARSITY, ACCURACY, CLASS_ACCURACY)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Limit:
    """One budget that is set.

    Attributes:
        kind: Which.
        asked: The limit as it was asked for.
        rows: A plan keeps the budget if it keeps all of these.
        most: The limit in the integers of the rows, but of the whole network; 0 of an accuracy.
        reached: What a plan has of it, in the unit of ``asked``.
    """

    kind: Kind
    asked: float
    rows: tuple[Row, ...]
    most: int = 0
    reached: Callable[[Counts], float] = field(repr=False)

    def is_kept(self, counts: Counts) -> bool:
        """Whether a plan keeps the budget, in integers."""
        return all(row.excess(counts) <= 0 for row in self.rows)

    @property
    def ratios(self) -> list[Ratio]:
        """Cost over limit, row by row: above 1 where the budget is broken. Not of an accuracy."""
        return [
            Ratio(table=row.table, fixed=self.most - row.limit, scale=1 / max(1, self.most))
            for row in self.rows
        ]


def limits_of(problem: Problem, budget: Budget) -> list[Limit]:
    """Every budget that is set, over the block slots alone.

    Raises:
        DataError: The accuracy of single classes is limited and the library has no estimate of it.
        DeviceError: The energy is limited and nothing is known about it on the device.
    """
    return [
        limit_of(problem, kind, getattr(budget, kind.field), budget.percentile)
        for kind in KINDS
        if getattr(budget, kind.field) not in (None, 0.0)
    ]


def loosened(budget: Budget) -> Iterator[tuple[Kind, float, Budget]]:
    """Every budget that is set a little looser: its kind, the step and the whole budget with it.

    Upper limits rise by about a tenth, in 1, 2 or 5 of a decimal place; sparsity falls by 0.05 and
    accuracies by 0.01, or to half where that is less.
    """
    for kind in KINDS:
        asked = getattr(budget, kind.field)
        if asked in (None, 0.0):
            continue
        if kind.is_floor:
            step = -min(asked / 2, 0.05 if kind is SPARSITY else 0.01)
        else:
            decade = 10.0 ** math.floor(math.log10(asked / 10))
            step = decade * max(n for n in (1, 2, 5) if n * decade <= asked / 10 * (1 + 1e-9))
        yield kind, step, replace(budget, **{kind.field: asked + step})


def limit_of(problem: Problem, kind: Kind, asked: float, percentile: int = 50) -> Limit:
    """One budget, in the unit of its kind; the percentile is that of a latency."""
    if kind is LATENCY:
        return _latency(problem, asked, percentile)
    if kind is ENERGY:
        return _energy(problem, asked)
    if kind is MEMORY:
        return _memory(problem, asked)
    if kind is SPARSITY:
        return _sparsity(problem, asked)
    if kind is ACCURACY:
        return _accuracy(problem, asked)
    if kind is CLASS_ACCURACY:
        return _class_accuracy(problem, asked)
    return _counted(problem, asked, kind)


def _latency(problem: Problem, asked: float, percentile: int) -> Limit:
    most = int(asked * NS_PER_MS / problem.table.tail_factor(percentile) + _ROUNDING)
    fixed = problem.fixed_ns
    return Limit(
        kind=LATENCY, asked=asked, most=most,
        rows=(Row(table=problem.latency_costs, limit=most - fixed),),
        reached=lambda counts: problem.table.predict(
            problem.with_classes(counts), percentile=percentile
        ).value,
    )  # fmt: skip


def _energy(problem: Problem, asked: float) -> Limit:
    energy = problem.table.energy
    if energy is None:
        raise DeviceError(
            f"Nothing is known about energy on '{problem.table.device}'.",
            hints=["'nnfactory devices list' shows where it is", "limit the latency instead"],
        )
    most = int(asked * NJ_PER_MJ + _ROUNDING)
    fixed = energy.fixed_nj + energy.slots[CLASSES][len(problem.task.classes)]
    table = {slot: tuple(energy.slots[slot]) for slot in problem.values}
    return Limit(
        kind=ENERGY, asked=asked, most=most, rows=(Row(table=table, limit=most - fixed),),
        reached=lambda counts: energy.predict(problem.with_classes(counts)).value,
    )  # fmt: skip


def _counted(problem: Problem, asked: float, kind: Kind) -> Limit:
    """Parameters, multiply-adds or bytes of the file: sums over all slots."""
    size, classes = problem.size, problem.task.classes
    only = {CLASSES: len(classes)}
    tables, fixed, unit, reached = {
        PARAMS: (size.params, size.total_params(only), 1e6, size.total_params),
        MACS: (size.macs, size.total_macs(only), 1e6, size.total_macs),
        FILE: (
            size.file_bytes, size.total_file_bytes(only, classes), MIB,
            lambda counts: size.total_file_bytes(counts, classes),
        ),
    }[kind]  # fmt: skip
    table = {slot: tables[slot] for slot in problem.values}
    most = int(asked * unit + _ROUNDING)
    return Limit(
        kind=kind, asked=asked, most=most, rows=(Row(table=table, limit=most - fixed),),
        reached=lambda counts: reached(problem.with_classes(counts)) / unit,
    )  # fmt: skip


def _memory(problem: Problem, asked: float) -> Limit:
    """Weights plus the largest sum of live activations: a row for each block where it may be."""
    size = problem.size
    fixed = 4 * size.total_params({CLASSES: len(problem.task.classes)}) + size.table_bytes
    most = int(asked * MIB + _ROUNDING)
    weights: Table = {slot: tuple(4 * p for p in size.params[slot]) for slot in problem.values}
    rows = [Row(table=weights, limit=most - fixed - size.fixed_live_bytes)]
    for busy in problem.values:
        live = zip(weights[busy], size.live_bytes[busy], strict=True)
        table = {**weights, busy: tuple(w + b for w, b in live)}
        rows.append(Row(table=table, limit=most - fixed))
    return Limit(
        kind=MEMORY, asked=asked, most=most, rows=tuple(rows),
        reached=lambda counts: size.peak_mib(problem.with_classes(counts)),
    )  # fmt: skip


def _sparsity(problem: Problem, asked: float) -> Limit:
    sizes = problem.size.modules
    total = sum(sizes[s] * (len(problem.size.params[s]) - 1) for s in sizes)
    fixed = sizes[CLASSES] * len(problem.task.classes)
    table = {
        slot: tuple(count * sizes[slot] for count in range(len(row)))
        for slot, row in problem.values.items()
    }
    most = int((1 - asked) * total + 1e-6)
    return Limit(
        kind=SPARSITY, asked=asked, most=most, rows=(Row(table=table, limit=most - fixed),),
        reached=lambda counts: problem.size.sparsity(problem.with_classes(counts)),
    )  # fmt: skip


def _accuracy(problem: Problem, asked: float) -> Limit:
    return Limit(
        kind=ACCURACY, asked=asked, rows=(_at_least(problem.values, problem.least_value(asked)),),
        reached=lambda counts: problem.accuracy(counts).value,
    )  # fmt: skip


def _class_accuracy(problem: Problem, asked: float) -> Limit:
    """A row per class."""
    fit = problem.library.accuracy.get("class_fit")
    if fit is None:
        raise DataError(
            f"Library '{problem.library.name}' has no estimate for single classes of this task.",
            hints=["limit the mean over them with --min-accuracy"],
        )
    tables, strengths = problem.class_tables, problem.class_strengths
    whole = np.sum([table[:, -1] for table in tables.values()], 0)
    needs = least_shares(fit, asked, strengths, len(strengths), whole, doubt=problem.doubt)
    rows = [
        _at_least(
            {slot: tuple(table[number].tolist()) for slot, table in tables.items()}, int(need)
        )
        for number, need in enumerate(needs)
    ]

    def reached(counts: Counts) -> float:
        found = problem.least_class(counts)
        assert found is not None
        return found[1].value

    return Limit(kind=CLASS_ACCURACY, asked=asked, rows=tuple(rows), reached=reached)


def _at_least(table: Table, need: int) -> Row:
    """The row of plans that are worth ``need``."""
    negative = {slot: tuple(-value for value in row) for slot, row in table.items()}
    return Row(table=negative, limit=-need)
