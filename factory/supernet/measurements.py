"""What publishing measures on a supernet: statistics, choices on validation images, accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..accuracy_measurement import (
    ClassAccuracies,
    class_accuracies,
    task_images,
    tensor_from_pixels,
)
from ..assembler.accuracy_fit import ClassPair, Pair, fit_accuracy, fit_class_accuracy
from ..assembler.assemble import assemble, plan_from_counts
from ..assembler.footprint import full_counts
from ..assembler.strength import class_strengths, task_strength
from ..assembler.values import SOURCES, class_shares, slot_values, value_share
from ..datasets import DataSet, Images
from ..graph.cut import mask
from ..graph.network import Network
from ..graph.normalization import estimate_moments, with_moments
from ..library.library import NORMALIZATIONS, ModuleLibrary, SizeData, Statistics
from ..linker import link
from ..sampling import sample_widths
from ..schema import Budget, LatencyTable, Plan, Task

Report = Callable[[str, int, int], None]
PAIRS = 320  # of every input size
RANDOM_EVERY = 4  # pairs; the others are of optimized plans
STATISTICS_PLANS = 96
RECALIBRATION_BATCHES = 32
CHOICE_SEEDS = (5, 6, 7)  # of the trials of a change
TASK_SIZES = {
    "cls": (2, 3, 5, 8, 10, 15, 20, 35, 50, 100, 200),
    "det": (1, 2, 3, 4, 6, 8, 12, 20, 31),
}
NEUTRAL = {
    "coefficients": [0.0] * 7,
    "spread": [0.0] * 4,
    "quantiles": [1.0] * 3,
    "level": 0.9,
    "n": 0,
}  # a fit before anything was measured
IMAGE_FREE = ("sliced", "stored")
TOLERATED = 0.003  # a mode that needs no images wins within this accuracy


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
        device="proxy", library=library.id, input_size=library.input_size, runtime="none",
        precision="fp32", threads=0, fixed_ns=100_000, slots=slots, error_low=0.5,
        error_high=2.0, level=0.9, n=0, is_measured=False,
    )  # fmt: skip


def optimized_plan(library: ModuleLibrary, task: Task, share: float) -> Plan:
    """The best plan at a share of the full network's proxy latency, in [0, 1]."""
    table = proxy_table(library)
    counts = {"classes": len(task.classes)}
    low = table.predict({**{s.name: s.min_groups for s in library.blocks}, **counts}).value
    high = table.predict({**full_counts(library), **counts}).value
    usable = with_neutral_accuracy(library)
    return assemble(usable, task, Budget(latency_ms=low + share * (high - low) + 1e-6), table)[0]


def with_size_data(library: ModuleLibrary, **changes: Any) -> ModuleLibrary:
    """The library with other measurements at its input size; see :class:`SizeData`."""
    size = library.input_size
    return replace(library, sizes={**library.sizes, size: replace(library.sizes[size], **changes)})


def with_neutral_accuracy(library: ModuleLibrary) -> ModuleLibrary:
    """The library with a neutral accuracy fit at the sizes where none was measured yet."""
    if all(data.accuracy for data in library.sizes.values()):
        return library
    neutral = {"fit": NEUTRAL, "per_class": [0.5] * len(library.classes)}
    sizes = {
        size: data if data.accuracy else replace(data, accuracy=neutral)
        for size, data in library.sizes.items()
    }
    return replace(library, sizes=sizes)


def random_task(library: ModuleLibrary, rng: np.random.Generator) -> Task:
    """Classes drawn at random; how many, too."""
    size = min(int(rng.choice(TASK_SIZES[library.kind])), len(library.classes))
    index = sorted(rng.choice(len(library.classes), size, replace=False))
    return Task(kind=library.kind, classes=tuple(library.classes[i] for i in index))


def recalibrated(network: Network, images: Images) -> Network:
    """The whole network with its statistics taken anew, on training images as they are.

    What was averaged while training belongs to augmented images: recolored, zoomed, in fours.

    Args:
        network: The supernet, normalization unfolded.
        images: Training images of its input size.
    """
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(RECALIBRATION_BATCHES):
        chosen = rng.choice(len(images), min(64, len(images)), replace=False)
        rows.append(estimate_moments(network, tensor_from_pixels(images.pixels[chosen])))
    found = {}
    for node in rows[0]:
        mean, variance = (np.stack([row[node][part] for row in rows]) for part in (0, 1))
        found[node] = (mean.mean(0), variance.mean(0) + mean.var(0))
    return with_moments(network, found)


def is_surely_better(
    candidate: ModuleLibrary, library: ModuleLibrary, data: DataSet, names: tuple[str, str],
    report: Report,
) -> tuple[bool, dict[str, float]]:  # fmt: skip
    """Whether a change to a library helps by more than chance, on validation images.

    Args:
        candidate: With the change.
        library: Without it.
        data: Images at the library's input size.
        names: Of both, for the report and the figures.
        report: Called with ("first or second", done, total).

    Returns:
        Whether the mean paired difference over tasks and budgets is above its 95 % interval, and
        the mean accuracy of both, the difference and half of the interval.
    """
    trials = [trial for seed in CHOICE_SEEDS for trial in _trials(library, seed)]
    scores: dict[str, list[float]] = {name: [] for name in names}
    for done, (task, share) in enumerate(trials):
        for name, one in zip(names, (candidate, library), strict=True):
            plan = replace(optimized_plan(one, task, share), normalization="stored")
            scores[name].append(plan_accuracy(one, plan, data.validation, data.train).value)
        report(" or ".join(names), done + 1, len(trials))
    gaps = np.subtract(scores[names[0]], scores[names[1]])
    half = 1.96 * float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
    figures = {name: round(float(np.mean(values)), 4) for name, values in scores.items()}
    figures |= {"difference": round(float(gaps.mean()), 4), "half_interval": round(half, 4)}
    return bool(gaps.mean() > half), figures


def with_best_statistics(
    library: ModuleLibrary, data: DataSet, report: Report
) -> tuple[ModuleLibrary, dict[str, Any]]:
    """Choose the statistics of the full network, which those of all plans are tied to.

    Those of the training stay unless those of plain images are surely better.

    Returns:
        The library; the kind that was chosen, and the figures.
    """
    plain = replace(library, network=recalibrated(library.network, data.train))
    helps, figures = is_surely_better(plain, library, data, ("plain", "training"), report)
    return (plain if helps else library), {
        "kind": "plain" if helps else "training", "validation": figures
    }  # fmt: skip


def measure_statistics(library: ModuleLibrary, images: Images, report: Report) -> Statistics:
    """Moments at every normalization of sampled plans, for linking without images.

    The first plan is the full one, a quarter of the others are random, and the rest are what the
    assembler chooses for random tasks at random budgets.

    Args:
        library: A draft with values.
        images: Training images of its input size.
        report: Called with ("statistics at .. px", done, total).
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
            task = random_task(library, rng)
            widths = tuple(optimized_plan(library, task, float(rng.random())).counts.values())
        active = {s.name: range(w) for s, w in zip(blocks, widths, strict=True)}
        chosen = rng.choice(len(images), min(batch, len(images)), replace=False)
        pixels = tensor_from_pixels(images.pixels[chosen])
        rows.append(estimate_moments(mask(library.network, library.slots, active), pixels))
        counts.append(widths)
        report(f"statistics at {library.input_size} px", number + 1, STATISTICS_PLANS)
    return Statistics(
        counts=np.array(counts, np.int64),
        mean={node: np.stack([row[node][0] for row in rows]) for node in rows[0]},
        variance={node: np.stack([row[node][1] for row in rows]) for node in rows[0]},
    )


def linked_network(library: ModuleLibrary, plan: Plan, source: Images) -> Network:
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


def full_network(library: ModuleLibrary, source: Images) -> Network:
    """The network with every module and every class, as it was trained."""
    plan = plan_from_counts(library, library.task(), full_counts(library))
    plan = replace(plan, is_modulated=False)
    return linked_network(library, plan, source)


def plan_accuracy(
    library: ModuleLibrary, plan: Plan, images: Images, source: Images
) -> ClassAccuracies:
    """Accuracy on a task's images; ``source`` has training images."""
    classes = library.class_indices(plan.task)
    chosen = task_images(images, classes)
    network = linked_network(library, plan, source)
    return class_accuracies(network, chosen, len(classes))


def _trials(library: ModuleLibrary, seed: int) -> list[tuple[Task, float]]:
    """Tasks and budgets on which choices are made."""
    rng = np.random.default_rng(seed)
    return [
        (random_task(library, rng), share) for share in (0.15, 0.3, 0.5, 0.75) for _ in range(4)
    ]


def with_best_values(
    library: ModuleLibrary, data: DataSet, report: Report
) -> tuple[ModuleLibrary, dict[str, float]]:
    """Choose where values come from by the accuracy of optimized plans on validation images.

    Normalization is re-estimated here: its statistics are measured on plans of the chosen values.
    """
    trials = _trials(library, 1)
    means = {}
    for number, source in enumerate(SOURCES):
        card = {**library.card, "values": {"source": source}}
        candidate = replace(library, card=card, normalization="reestimated")
        scores = []
        for done, (task, share) in enumerate(trials):
            plan = optimized_plan(candidate, task, share)
            scores.append(plan_accuracy(candidate, plan, data.validation, data.train).value)
            report("values", number * len(trials) + done + 1, len(SOURCES) * len(trials))
        means[source] = round(float(np.mean(scores)), 4)
    best = max(means, key=lambda source: means[source])
    return replace(library, card={**library.card, "values": {"source": best}}), means


def with_best_normalization(
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
            scores.append(plan_accuracy(library, plan, data.validation, data.train).value)
            report("normalization", number * len(trials) + done + 1, 3 * len(trials))
        means[mode] = round(float(np.mean(scores)), 4)
    free = max(IMAGE_FREE, key=lambda mode: means[mode])
    return replace(library, normalization=free), means


def best_normalization(means: Mapping[str, float]) -> str:
    """The best normalization; one that needs no images wins within 0.3 points."""
    free = max(IMAGE_FREE, key=lambda mode: means[mode])
    return free if means[free] >= means["reestimated"] - TOLERATED else "reestimated"


def with_accuracy(
    library: ModuleLibrary, data: Mapping[int, DataSet], wanted: int, report: Report,
    latency_share: Callable[[float], float] = float,
) -> ModuleLibrary:  # fmt: skip
    """The library with measured pairs of plan and accuracy, and the estimate fitted to them.

    A quarter of the plans are random, the others optimized. The estimate is fitted on the optimized
    ones, since those are what is built; plans of the same value that were drawn at random are more
    accurate, for more of their blocks run.

    Args:
        library: A draft with values and statistics, at its largest input size.
        data: Images of every input size.
        wanted: How many pairs of each, at least 27.
        report: Called with ("accuracy pairs at .. px", done, total).
        latency_share: Of the full network's latency, that of an optimized plan, from a number
            drawn evenly in [0, 1).
    """
    largest = library.input_size
    for size in library.input_sizes:
        view = library.at(size)
        whole = {"per_class": _full_accuracies(view, data[size]), "fit": NEUTRAL}
        library = with_size_data(view, accuracy=whole)
    views = [library.at(size) for size in library.input_sizes]
    pairs = [_pairs(view, data[view.input_size], wanted, report, latency_share) for view in views]
    built = [[pair for pair in rows if pair.origin == "optimized"] for rows in pairs]
    fits = fit_accuracy(built)
    class_fits = fit_class_accuracy(
        [_class_pairs(view, rows) for view, rows in zip(views, built, strict=True)]
    )
    for view, rows, fit, class_fit in zip(views, pairs, fits, class_fits, strict=True):
        table = {
            "fit": fit, "class_fit": class_fit, "split": "validation",
            "per_class": [round(value, 4) for value in view.accuracy["per_class"]],
            "pairs": [dataclasses.asdict(pair) for pair in rows],
        }  # fmt: skip
        library = with_size_data(library.at(view.input_size), accuracy=table)
    return library.at(largest)


def _pairs(
    library: ModuleLibrary, data: DataSet, wanted: int, report: Report,
    latency_share: Callable[[float], float],
) -> list[Pair]:  # fmt: skip
    """Measured plans at the library's input size: for the same tasks, in order, at every size."""
    rng = np.random.default_rng(3)
    blocks = library.blocks
    full, empty = [s.groups for s in blocks], [s.min_groups for s in blocks]
    pairs = []
    for number in range(wanted):
        task = random_task(library, rng)
        is_optimized = number % RANDOM_EVERY > 0
        if is_optimized:
            plan = optimized_plan(library, task, latency_share(float(rng.random())))
        else:
            widths = sample_widths(full, empty, rng)
            counts = {s.name: w for s, w in zip(blocks, widths, strict=True)}
            plan = plan_from_counts(library, task, counts)
        measured = plan_accuracy(library, plan, data.validation, data.train)
        pairs.append(
            Pair(
                classes=library.class_indices(task),
                counts=tuple(plan.counts.values()),
                share=value_share(slot_values(library, task), plan.counts),
                strength=task_strength(library, task),
                accuracy=round(measured.value, 4),
                per_class=tuple(None if a is None else round(a, 3) for a in measured.per_class),
                n=measured.n,
                origin="optimized" if is_optimized else "random",
            )
        )
        report(f"accuracy pairs at {library.input_size} px", number + 1, wanted)
    return pairs


def _class_pairs(library: ModuleLibrary, pairs: Sequence[Pair]) -> list[ClassPair]:
    """Every class of every measured network that an image shows."""
    rows = []
    for network, pair in enumerate(pairs):
        counts = {s.name: count for s, count in zip(library.blocks, pair.counts, strict=True)}
        shares = class_shares(library, pair.classes, counts)
        strengths = class_strengths(library, pair.classes)
        for share, strength, accuracy in zip(shares, strengths, pair.per_class, strict=True):
            if accuracy is not None:
                rows.append(
                    ClassPair(
                        network=network, share=float(share), strength=float(strength),
                        size=len(pair.classes), accuracy=accuracy,
                    )
                )  # fmt: skip
    return rows


def _full_accuracies(library: ModuleLibrary, data: DataSet) -> list[float]:
    """Validation accuracy of the full network per class, among all classes.

    A class that no validation image shows counts as the mean of the others.
    """
    network = full_network(library, data.train)
    found = class_accuracies(network, data.validation, len(library.classes)).per_class
    known = [value for value in found if value is not None]
    return [float(np.mean(known)) if value is None else value for value in found]


def empty_size_data() -> SizeData:
    """Nothing measured yet."""
    return SizeData(curves=np.empty((0, 0), np.float32), statistics=None, accuracy={})
