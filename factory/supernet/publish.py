"""From a trained supernet to a module library: everything the assembler and linker need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..accuracy_measurement import hits, images_at, measure_accuracy, run_on_images
from ..datasets import DataSet, Images
from ..features import full_network, measure_prototypes
from ..graph.half import rounded
from ..graph.network import Array, Network
from ..library.library import ModuleLibrary, Prototypes
from ..library.writer import write_library
from ..schema import Slot
from . import measurements as measure
from .coco import coco_scores
from .conditioning import learn_modulation
from .importance import balanced_index, image_labels, measure_importance
from .measurements import Report
from .network import Classifier, Detector
from .onnx_graph import network_from_weights
from .recipe import Recipe, table_from_recipe
from .value_curves import measure_curves

FEW = 10  # training images of every class behind the value curves
PROTOTYPE_IMAGES = 50  # of every class


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
    """Measure a trained supernet at all its input sizes and write the library.

    Choices (normalization, source of the values) are made on validation images at the largest
    size; the test split is used once, for the figure in ``library.toml``.

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
    shape = recipe.architecture
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    graph, slots = network_from_weights(shape, weights)
    graph = rounded(graph)  # as it will be stored, so that this is what is measured
    importance = measure_importance(
        network, data.train, shape.classes, per_class=2 * FEW,
        report=lambda done, total: report("importance", done, total),
    )  # fmt: skip
    draft = _draft(recipe, data, graph, slots, importance, folder)
    draft, sources = measure.with_best_values(
        _with_curves(draft, network, data, report), data, report
    )
    local = {size: _data_at(data, size) for size in shape.input_sizes}
    for size in shape.input_sizes:
        draft = _measured_at(draft.at(size), network, local[size], report).at(shape.input_size)
    draft, statistics = measure.with_best_statistics(draft, data, report)
    draft, modes = measure.with_best_normalization(draft, data, report)
    draft, gains = _with_modulation(draft, network, data, recipe, report)
    draft = measure.with_accuracy(draft, local, measure.PAIRS, report)
    prototypes = _prototypes(draft, data)
    report("test split", 0, 1)
    card = {
        **draft.card,
        **_test_figures(draft, data),
        "normalization": {
            "mode": measure.best_normalization(modes), "without_images": draft.normalization,
            "validation": modes,
        },
        "statistics": statistics,
        "values": {"source": draft.card["values"]["source"], "validation": sources},
        "modulation": {"used": draft.modulation is not None, "validation": gains},
        "training": {
            "compute": compute, "hours": round(train_seconds / 3600, 2),
            "recipe": table_from_recipe(recipe),
        },
    }  # fmt: skip
    write_library(
        folder, card=card, network=draft.network, slots=slots, importance=importance,
        sizes=draft.sizes, modulation=draft.modulation, prototypes=prototypes, overwrite=overwrite,
    )  # fmt: skip


def _prototypes(library: ModuleLibrary, data: DataSet) -> Prototypes | None:
    """Where the classes of a classifier lie in its features, by some training images of each."""
    if library.kind != "cls":
        return None
    classes, rng = len(library.classes), np.random.default_rng(0)
    some = data.train.subset(balanced_index(data.train, classes, PROTOTYPE_IMAGES, rng))
    return measure_prototypes(full_network(library), some, classes)


def _test_figures(library: ModuleLibrary, data: DataSet) -> dict[str, Any]:
    """Metric of the whole network on test images, in all and per class; used once."""
    whole, test, k = measure.full_network(library, data.train), data.test, len(library.classes)
    metric = measure_accuracy(whole, test, k)
    figure: dict[str, Any] = {
        "name": "top-1" if library.kind == "cls" else "AP50", "split": "test",
        "value": round(metric.value, 4), "low": round(metric.low, 4),
        "high": round(metric.high, 4), "level": metric.level, "n": metric.n,
    }  # fmt: skip
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    counts = {name: _class_counts(images, k) for name, images in splits.items()}
    rows: list[dict[str, Any]] = [
        {"name": name, "n": counts["test"][c], **{s: counts[s][c] for s in splits}}
        for c, name in enumerate(library.classes)
    ]
    if library.kind == "det":
        scores = coco_scores(run_on_images(whole, test.pixels), test.boxes, k)
        figure["ap50_95"] = round(scores.ap50_95, 4)
        for row, ap50, ap in zip(rows, scores.class_ap50, scores.class_ap50_95, strict=True):
            row |= {} if ap50 is None else {"metric": round(ap50, 4)}
            row |= {} if ap is None else {"ap50_95": round(ap, 4)}
    else:
        correct = hits(whole, test)
        for c, row in enumerate(rows):
            if row["n"]:
                row["metric"] = round(float(correct[test.labels == c].mean()), 4)
    images = {name: len(images) for name, images in splits.items()}
    return {"metric": figure, "per_class": rows, "data": {**library.card["data"], "images": images}}


def _class_counts(images: Images, classes: int) -> list[int]:
    """Images that show each class."""
    found = np.zeros(classes, int)
    for labels in image_labels(images):
        found[labels] += 1
    return [int(count) for count in found]


def _draft(
    recipe: Recipe,
    data: DataSet,
    graph: Network,
    slots: tuple[Slot, ...],
    importance: Mapping[str, Array],
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
            "size": shape.input_size, "sizes": list(shape.input_sizes), "color": "RGB",
            "range": [0.0, 1.0],
            "resize": "letterbox" if shape.kind == "det" else "center-crop",
            "head_strides": list(shape.head_strides),
        },
        "data": dict(recipe.data),
        "weights": {"license": recipe.weights_license},
        "values": {"source": "curves"},
    }  # fmt: skip
    return ModuleLibrary(
        name=recipe.name, id="draft", kind=shape.kind, card=card, classes=data.classes,
        wordnet=data.wordnet, input_size=shape.input_size, head_strides=shape.head_strides,
        normalization="stored", network=graph, slots=slots, importance=importance,
        sizes={size: measure.empty_size_data() for size in shape.input_sizes}, modulation=None,
        folder=folder,
    )  # fmt: skip


def _data_at(data: DataSet, size: int) -> DataSet:
    """Training and validation images at an input size."""
    return replace(
        data, train=images_at(data.train, size), validation=images_at(data.validation, size)
    )


def _with_curves(
    library: ModuleLibrary, network: Classifier | Detector, data: DataSet, report: Report
) -> ModuleLibrary:
    curves = measure_curves(
        network, data.train, len(library.classes), per_class=FEW,
        report=lambda done, total: report(f"curves at {library.input_size} px", done, total),
    )  # fmt: skip
    return measure.with_size_data(library, curves=curves)


def _measured_at(
    library: ModuleLibrary, network: Classifier | Detector, data: DataSet, report: Report
) -> ModuleLibrary:
    """The library with curves and statistics at its input size."""
    if not library.curves.size:
        library = _with_curves(library, network, data, report)
    statistics = measure.measure_statistics(library, data.train, report)
    return measure.with_size_data(library, statistics=statistics)


def _with_modulation(
    library: ModuleLibrary,
    network: Classifier | Detector,
    data: DataSet,
    recipe: Recipe,
    report: Report,
) -> tuple[ModuleLibrary, dict[str, float]]:
    """Learn the modulation and keep it if it surely helps on validation images."""
    if not recipe.conditioning.steps:
        return library, {}
    vectors = learn_modulation(
        network, library, data.train, recipe.conditioning, seed=recipe.training.seed,
        report=lambda done, total: report("modulation", done, total),
    )  # fmt: skip
    modulated = replace(library, modulation=vectors)
    helps, gains = measure.is_surely_better(
        modulated, library, data, ("modulated", "unmodulated"), report
    )
    return (modulated if helps else library), gains
