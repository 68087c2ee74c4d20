"""Networks at an equal measured latency: cases, methods, and what they answer on test images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import click
import numpy as np

from nnfactory.devices.latency_table import host_table, network_of_counts
from nnfactory.devices.measure import measure_interleaved
from nnfactory.devices.runners.onnxruntime import OnnxRuntimeRunner
from nnfactory.factory.accuracy_measurement import (
    hits,
    images_at,
    matches,
    task_images,
    tensor_from_pixels,
)
from nnfactory.factory.assembler.footprint import footprint, full_counts
from nnfactory.factory.assembler.sizes import SizeOption, assemble_any_size
from nnfactory.factory.datasets import DataSet, Images, load_dataset
from nnfactory.factory.errors import BudgetError
from nnfactory.factory.graph.network import Array, Network, model_from_network
from nnfactory.factory.library.library import CLASSES, ModuleLibrary
from nnfactory.factory.library.store import library_folders, open_library
from nnfactory.factory.linker import link
from nnfactory.factory.metrics import Matches
from nnfactory.factory.schema import Budget, LatencyTable, Plan, Task

Make = Callable[[float], Plan]
REPEATS = 40


@dataclass(frozen=True, eq=False)
class Case:
    """One task of one library, with the test images that belong to it.

    Attributes:
        library: At its largest input size.
        task: Its classes.
        options: The library and its measured table at every input size.
        test: Test images of the task at the largest size.
        calibration: Training images of all classes at the largest size, for re-estimation.
    """

    library: ModuleLibrary
    task: Task
    options: tuple[SizeOption, ...]
    test: Images
    calibration: Images

    @property
    def classes(self) -> tuple[int, ...]:
        """Positions of the task's classes."""
        return self.library.class_indices(self.task)

    @property
    def table(self) -> LatencyTable:
        """The latency table at the largest input size."""
        return self.options[0].table

    def table_ms(self, counts: Mapping[str, int]) -> float:
        """Latency of a plan at the largest input size, by the table."""
        return self.table.predict({**counts, CLASSES: len(self.classes)}).value


@dataclass(frozen=True)
class Outcome:
    """One network: what it costs, and what it answers on every test image."""

    latency_ms: float
    mparams: float
    mmacs: float
    answers: Matches | Array

    @property
    def images(self) -> int:
        """Number of test images."""
        return self.answers.images if isinstance(self.answers, Matches) else len(self.answers)

    def metric(self, weights: Array | None = None) -> float:
        """Top-1 accuracy or AP50 over a sample of the images."""
        if isinstance(self.answers, Matches):
            return self.answers.ap50(weights)
        return float(np.average(self.answers, weights=weights))


def libraries_with_data(
    names: Sequence[str], data_dir: Path, splits: tuple[str, ...] = ("train", "validation", "test")
) -> Iterator[tuple[ModuleLibrary, DataSet]]:
    """Libraries, all installed ones unless named, with the images they were trained on."""
    for name in names or tuple(library_folders()):
        library = open_library(name)
        folder = data_dir / library.card["training"]["recipe"]["data"]["folder"]
        yield library, load_dataset(library.kind, folder, splits=splits)


def size_options(library: ModuleLibrary) -> tuple[SizeOption, ...]:
    """The library at every input size with the table of this machine."""
    views = [library.at(size) for size in library.input_sizes]
    return tuple(SizeOption(library=view, table=host_table(view)) for view in views)


def case_of(
    library: ModuleLibrary, data: DataSet, classes: Sequence[int], rng: np.random.Generator
) -> Case:
    """A case of these classes."""
    index = sorted(int(c) for c in classes)
    task = Task(kind=library.kind, classes=tuple(library.classes[i] for i in index))
    few = rng.choice(len(data.train), 256, replace=False)
    return Case(
        library, task, size_options(library), task_images(data.test, index),
        data.train.subset(few),
    )  # fmt: skip


def class_rows(library: ModuleLibrary) -> Array:
    """What the last layer looks for in every class, centered and of length 1, (K, C)."""
    names = [n for n in library.network.weights if n.startswith("classes") and "weight" in n]
    parts = [library.network.weights[n].reshape(len(library.classes), -1) for n in names]
    rows = np.concatenate(parts, 1).astype(np.float64)
    rows -= rows.mean(0)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def full_active(library: ModuleLibrary) -> dict[str, tuple[int, ...]]:
    """Every module of every block."""
    return {name: tuple(range(count)) for name, count in full_counts(library).items()}


def plain_plan(
    case: Case, active: Mapping[str, Sequence[int]], input_size: int | None = None
) -> Plan:
    """A plan of these modules, at the largest size unless told, without modulation."""
    return Plan(
        task=case.task, library=case.library.name, library_id=case.library.id,
        active={name: tuple(sorted(groups)) for name, groups in active.items()},
        input_size=input_size or case.library.input_size, normalization=case.library.normalization,
    )  # fmt: skip


def chosen(case: Case, limit_ms: float) -> Plan:
    """What nnfactory chooses."""
    return assemble_any_size(case.options, case.task, Budget(latency_ms=limit_ms))[0]


def at_latency(case: Case, make: Make, target_ms: float, mode: str = "own") -> tuple[Plan, float]:
    """The plan whose measured latency comes nearest to the target without passing 2 % above.

    Args:
        case: The task.
        make: A plan for a limit of the table.
        target_ms: Wanted latency.
        mode: "own" or "reestimated" normalization.

    Returns:
        The plan and its measured latency in milliseconds.
    """
    limit, best = target_ms, None
    for _ in range(4):
        try:
            plan = make(limit)
        except BudgetError as error:
            raise click.ClickException(f"No network at {target_ms:.3f} ms: {error}") from error
        measured = measure(case, linked(case, plan, mode))
        if measured <= 1.02 * target_ms and (best is None or measured > best[1]):
            best = (plan, measured)
        if 0.98 * target_ms <= measured <= 1.02 * target_ms:
            break
        limit *= target_ms / measured
    return best or (plan, measured)


def linked(case: Case, plan: Plan, mode: str = "own") -> Network:
    """The network of a plan, with its own or with re-estimated normalization."""
    if mode == "reestimated":
        plan = replace(plan, normalization=mode)
    pixels = images_at(case.calibration, plan.input_size).pixels
    return link(case.library, plan, images=tensor_from_pixels(pixels)).network


def measure(case: Case, network: Network) -> float:
    """Median in milliseconds; the full network beside it corrects for the machine's drift."""
    model = model_from_network(network).SerializeToString()
    counts = {**full_counts(case.library), CLASSES: len(case.classes)}
    whole = model_from_network(network_of_counts(case.library, counts)).SerializeToString()
    with OnnxRuntimeRunner(model) as runner, OnnxRuntimeRunner(whole) as reference:
        ((mine, beside),) = measure_interleaved([runner], reference, REPEATS)
    ratio = float(np.median(mine.wall_ms)) / float(np.median(beside.wall_ms))
    return ratio * _full_ms(case, float(np.median(beside.wall_ms)))


_FULL_MS: dict[tuple[str, int], float] = {}


def _full_ms(case: Case, now_ms: float) -> float:
    """Latency of the full network of a task size: what was measured the first time."""
    return _FULL_MS.setdefault((case.library.name, len(case.classes)), now_ms)


def outcome(case: Case, plan: Plan, mode: str = "own", latency_ms: float | None = None) -> Outcome:
    """Cost and answers of a plan's network on the test images of the task."""
    network = linked(case, plan, mode)
    view = case.library.at(plan.input_size)
    counts = {**plan.counts, CLASSES: len(case.classes)}
    size = footprint(view)
    return Outcome(
        measure(case, network) if latency_ms is None else latency_ms,
        size.total_params(counts) / 1e6, size.total_macs(counts) / 1e6, answers(case, network),
    )  # fmt: skip


def answers(case: Case, network: Network) -> Matches | Array:
    """What a network answers on the test images of the task, at its input size."""
    (shape,) = network.inputs.values()
    test = _resized(case, shape[2])
    if test.boxes:
        return matches(network, test, len(case.classes))
    return hits(network, test).astype(float)


@lru_cache(maxsize=4)
def _resized(case: Case, size: int) -> Images:
    return images_at(case.test, size)
