"""From a trained supernet to a module library: everything the assembler and linker need."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..accuracy_measurement import (
    accuracy_value,
    hits,
    matches,
    measure_accuracy,
    task_images,
    tensor_from_pixels,
)
from ..assembler.accuracy import Pair, fit_accuracy
from ..assembler.assemble import assemble, plan_from_counts
from ..assembler.footprint import full_counts
from ..assembler.values import SOURCES, slot_values, value_share
from ..datasets import DataSet, Images
from ..graph.cut import mask
from ..graph.network import Array, Network
from ..graph.normalization import estimate_moments
from ..library.library import NORMALIZATIONS, ModuleLibrary, Statistics
from ..library.writer import write_library
from ..linker import link
from ..sampling import sample_widths
from ..schema import Budget, LatencyTable, Plan, Slot, Task
from .importance import measure_importance
from .network import Classifier, Detector
from .onnx_graph import network_from_weights
from .recipe import Recipe, table_from_recipe
from .value_curves import measure_curves

Report = Callable[[str, int, int], None]
PAIRS = 320
TASK_SIZES = {
    "cls": (2, 3, 5, 8, 10, 15, 20, 35, 50, 100, 200),
    "det": (1, 2, 3, 4, 6, 8, 12, 20, 31),
}
STATISTICS_PLANS = 96
IMAGE_FREE = ("sliced", "stored")
TOLERATED = 0.003  # a mode that needs no images wins within this accuracy


def publish(
    recipe: Recipe,
    network: Classifier | Detector,
    data: DataSet,
    folder: Path,
    *,
    compute: str,
    train_seconds: float,
    overwrite: bool = False,
    report: Report = lambda phase, done, total: None,
) -> None:
    """Measure a trained supernet and write the library.

    Choices (normalization, source of the values) are made on validation images; the test
    split is used once, for the figure in ``library.toml``.

    Args:
        recipe: What was trained.
        network: The trained supernet, on the CPU.
        data: The images it was trained on, with all splits.
        folder: Where the library goes.
        compute: What trained it, in words.
        train_seconds: How long.
        overwrite: Replace a library that is there.
        report: Called with (phase, done, total).
    """
    network.eval()
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    graph, slots = network_from_weights(recipe.architecture, weights)
    k, few = recipe.architecture.classes, 10
    importance = measure_importance(
        network, data.train, k, per_class=2 * few,
        report=lambda done, total: report("importance", done, total),
    )  # fmt: skip
    curves = measure_curves(
        network, data.train, k, per_class=few,
        report=lambda done, total: report("value curves", done, total),
    )  # fmt: skip
    draft = _draft(recipe, data, graph, slots, importance, curves, folder)
    draft, sources = _with_best_values(draft, data, report)
    statistics = measure_statistics(draft, data.train, report)
    draft = dataclasses.replace(draft, statistics=statistics)
    draft, modes = _with_best_normalization(draft, data, report)
    accuracy = _accuracy_table(draft, data, report)
    report("test split", 0, 1)
    metric = measure_accuracy(full_network(draft, data), data.test, len(draft.classes))
    card = {
        **draft.card,
        "metric": {
            "name": "top-1" if draft.kind == "cls" else "AP50", "split": "test",
            "value": round(metric.value, 4), "low": round(metric.low, 4),
            "high": round(metric.high, 4), "level": metric.level, "n": metric.n,
        },
        "normalization": {
            "mode": _winner(modes), "without_images": draft.normalization, "validation": modes,
        },
        "values": {"source": draft.card["values"]["source"], "validation": sources},
        "training": {
            "compute": compute, "hours": round(train_seconds / 3600, 2),
            "recipe": table_from_recipe(recipe),
        },
    }  # fmt: skip
    write_library(
        folder, card=card, network=graph, slots=slots, importance=importance,
        curves=curves,
        statistics=statistics, accuracy=accuracy, overwrite=overwrite,
    )  # fmt: skip


def _draft(
    recipe: Recipe,
    data: DataSet,
    graph: Network,
    slots: tuple[Slot, ...],
    importance: Mapping[str, Array],
    curves: Array,
    folder: Path,
) -> ModuleLibrary:
    """The library in memory, before anything was chosen on validation images."""
    shape = recipe.architecture
    card: dict[str, Any] = {
        "schema": 1,
        "name": recipe.name,
        "title": recipe.title,
        "kind": shape.kind,
        "classes": list(data.classes),
        "wordnet": list(data.wordnet),
        "input": {
            "size": shape.input_size, "color": "RGB", "range": [0.0, 1.0],
            "resize": "letterbox" if shape.kind == "det" else "center-crop",
            "head_strides": list(shape.head_strides),
        },
        "data": dict(recipe.data),
        "weights": {"license": recipe.weights_license},
        "values": {"source": "blend"},
    }  # fmt: skip
    return ModuleLibrary(
        name=recipe.name, id="draft", kind=shape.kind, card=card, classes=data.classes,
        wordnet=data.wordnet, input_size=shape.input_size, head_strides=shape.head_strides,
        normalization="reestimated", network=graph, slots=slots, importance=importance,
        curves=curves,
        statistics=None, accuracy={}, folder=folder,
    )  # fmt: skip


def measure_statistics(library: ModuleLibrary, images: Images, report: Report) -> Statistics:
    """Moments at every normalization of sampled plans, for linking without images.

    The first plan is the full one, a quarter of the others are random, and the rest are what the
    assembler chooses for random tasks at random budgets.

    Args:
        library: A draft with values.
        images: Training images.
        report: Called with ("statistics", done, total).
    """
    rng = np.random.default_rng(0)
    blocks = library.blocks
    full, empty = [s.groups for s in blocks], [s.min_groups for s in blocks]
    batch = 256 if library.kind == "cls" else 64
    counts, rows = [], []
    for number in range(STATISTICS_PLANS):
        if number == 0:
            widths = tuple(full)
        elif number % 4 == 0:
            widths = sample_widths(full, empty, rng)
        else:
            task = _random_task(library, rng)
            widths = tuple(optimized_plan(library, task, float(rng.random())).counts.values())
        active = {s.name: range(w) for s, w in zip(blocks, widths, strict=True)}
        chosen = rng.choice(len(images), min(batch, len(images)), replace=False)
        pixels = tensor_from_pixels(images.pixels[chosen])
        rows.append(estimate_moments(mask(library.network, library.slots, active), pixels))
        counts.append(widths)
        report("statistics", number + 1, STATISTICS_PLANS)
    return Statistics(
        counts=np.array(counts, np.int64),
        mean={node: np.stack([row[node][0] for row in rows]) for node in rows[0]},
        variance={node: np.stack([row[node][1] for row in rows]) for node in rows[0]},
    )


def proxy_table(library: ModuleLibrary) -> LatencyTable:
    """A device-free stand-in for latency: 10 ps per multiply-add and 20 us per block.

    Whatever is decided or measured on plans while publishing uses it, so that a library does not
    depend on the machine that published it.
    """
    slots = {
        slot.name: tuple(
            int(count * slot.modules[0].mmacs * 10_000) + (20_000 if count else 0)
            for count in range(slot.groups + 1)
        )
        for slot in library.slots
    }
    return LatencyTable(
        device="proxy", library=library.id, runtime="none", precision="fp32", threads=0,
        fixed_ns=100_000, slots=slots, error_low=0.5, error_high=2.0, level=0.9, n=0,
        is_measured=False,
    )  # fmt: skip


def optimized_plan(library: ModuleLibrary, task: Task, share: float) -> Plan:
    """The best plan at a share of the full network's proxy latency, in [0, 1]."""
    table = proxy_table(library)
    counts = {"classes": len(task.classes)}
    low = table.predict({**{s.name: s.min_groups for s in library.blocks}, **counts}).value
    high = table.predict({**full_counts(library), **counts}).value
    usable = replace_accuracy(library)
    return assemble(usable, task, Budget(latency_ms=low + share * (high - low) + 1e-6), table)[0]


def replace_accuracy(library: ModuleLibrary) -> ModuleLibrary:
    """The library with a neutral accuracy fit, where none was measured yet."""
    if library.accuracy:
        return library
    neutral = {
        "fit": {"coefficients": [0.0] * 6, "half_width_logit": 1.0, "level": 0.9, "n": 0},
        "per_class": [0.5] * len(library.classes),
    }
    return dataclasses.replace(library, accuracy=neutral)


def _random_task(library: ModuleLibrary, rng: np.random.Generator) -> Task:
    size = int(rng.choice(TASK_SIZES[library.kind]))
    size = min(size, len(library.classes))
    index = sorted(rng.choice(len(library.classes), size, replace=False))
    return Task(kind=library.kind, classes=tuple(library.classes[i] for i in index))


def full_network(library: ModuleLibrary, data: DataSet) -> Network:
    """The network with every module and every class."""
    plan = plan_from_counts(library, library.task(), full_counts(library))
    return _linked(library, plan, data.train)


def _linked(library: ModuleLibrary, plan: Plan, source: Images) -> Network:
    """The network of a plan.

    Normalization is re-estimated, where the plan says so, on images of all classes: measured,
    that is better than on the few images of the task.
    """
    pixels = None
    if plan.normalization == "reestimated":
        n = 256 if library.kind == "cls" else 64
        few = np.random.default_rng(0).choice(len(source), min(n, len(source)), replace=False)
        pixels = tensor_from_pixels(source.pixels[few])
    return link(library, plan, images=pixels).network


def _plan_accuracy(
    library: ModuleLibrary, plan: Plan, images: Images, source: Images
) -> tuple[float, int]:
    """Accuracy on a task's images and their number; ``source`` has training images."""
    classes = library.class_indices(plan.task)
    chosen = task_images(images, classes)
    return accuracy_value(_linked(library, plan, source), chosen, len(classes)), len(chosen)


def _trials(library: ModuleLibrary, seed: int) -> list[tuple[Task, float]]:
    """Tasks and budgets on which choices are made."""
    rng = np.random.default_rng(seed)
    return [
        (_random_task(library, rng), share) for share in (0.15, 0.3, 0.5, 0.75) for _ in range(4)
    ]


def _with_best_values(
    library: ModuleLibrary, data: DataSet, report: Report
) -> tuple[ModuleLibrary, dict[str, float]]:
    """Choose where values come from by the accuracy of optimized plans on validation images.

    Normalization is re-estimated here: its statistics are measured on plans of the chosen values.
    """
    trials = _trials(library, 1)
    means = {}
    for number, source in enumerate(SOURCES):
        card = {**library.card, "values": {"source": source}}
        candidate = dataclasses.replace(library, card=card)
        scores = []
        for done, (task, share) in enumerate(trials):
            plan = optimized_plan(candidate, task, share)
            scores.append(_plan_accuracy(candidate, plan, data.validation, data.train)[0])
            report("values", number * len(trials) + done + 1, len(SOURCES) * len(trials))
        means[source] = round(float(np.mean(scores)), 4)
    best = max(means, key=lambda source: means[source])
    return dataclasses.replace(library, card={**library.card, "values": {"source": best}}), means


def _with_best_normalization(
    library: ModuleLibrary, data: DataSet, report: Report
) -> tuple[ModuleLibrary, dict[str, float]]:
    """Measure every normalization by the accuracy of optimized plans.

    The library is used with the best one that needs no images.
    """
    trials = _trials(library, 2)
    means = {}
    for number, mode in enumerate(NORMALIZATIONS):
        scores = []
        for done, (task, share) in enumerate(trials):
            plan = replace(optimized_plan(library, task, share), normalization=mode)
            scores.append(_plan_accuracy(library, plan, data.validation, data.train)[0])
            report("normalization", number * len(trials) + done + 1, 3 * len(trials))
        means[mode] = round(float(np.mean(scores)), 4)
    free = max(IMAGE_FREE, key=lambda mode: means[mode])
    return dataclasses.replace(library, normalization=free), means


def _winner(means: Mapping[str, float]) -> str:
    """The best normalization; one that needs no images wins within 0.3 points."""
    free = max(IMAGE_FREE, key=lambda mode: means[mode])
    return free if means[free] >= means["reestimated"] - TOLERATED else "reestimated"


def _accuracy_table(library: ModuleLibrary, data: DataSet, report: Report) -> dict[str, Any]:
    """Measure pairs of plan and accuracy, half random and half optimized, and fit the estimate."""
    per_class = _per_class(library, data)
    rng = np.random.default_rng(3)
    blocks = library.blocks
    full, empty = [s.groups for s in blocks], [s.min_groups for s in blocks]
    pairs = []
    for number in range(PAIRS):
        task = _random_task(library, rng)
        if number % 2:
            plan = optimized_plan(library, task, float(rng.random()))
        else:
            widths = sample_widths(full, empty, rng)
            counts = {s.name: w for s, w in zip(blocks, widths, strict=True)}
            plan = plan_from_counts(library, task, counts)
        accuracy, n = _plan_accuracy(library, plan, data.validation, data.train)
        classes = library.class_indices(task)
        values = slot_values(library, task)
        pairs.append(
            Pair(
                classes=classes,
                counts=tuple(plan.counts.values()),
                share=value_share(values, plan.counts),
                strength=float(np.mean([per_class[c] for c in classes])),
                accuracy=round(accuracy, 4),
                n=n,
                origin="optimized" if number % 2 else "random",
            )
        )
        report("accuracy pairs", number + 1, PAIRS)
    return {
        "fit": fit_accuracy(pairs),
        "per_class": [round(value, 4) for value in per_class],
        "split": "validation",
        "pairs": [dataclasses.asdict(pair) for pair in pairs],
    }


def _per_class(library: ModuleLibrary, data: DataSet) -> list[float]:
    """Validation accuracy of the full network per class, among all classes."""
    network, images = full_network(library, data), data.validation
    if images.boxes:
        found = matches(network, images, len(library.classes)).class_ap50()
        known = [value for value in found if value is not None]
        return [float(np.mean(known)) if value is None else value for value in found]
    correct = hits(network, images)
    return [float(correct[images.labels == c].mean()) for c in range(len(library.classes))]
