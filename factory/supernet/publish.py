"""From a trained supernet to a module library: everything the assembler and linker need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..accuracy_measurement import images_at, measure_accuracy
from ..datasets import DataSet
from ..graph.network import Array, Network
from ..library.library import ModuleLibrary
from ..library.writer import write_library
from ..schema import Slot
from . import measurements as measure
from .importance import measure_importance
from .measurements import Report
from .network import Classifier, Detector
from .onnx_graph import network_from_weights
from .recipe import Recipe, table_from_recipe
from .value_curves import measure_curves

FEW = 10  # training images of every class behind the value curves


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
    importance = measure_importance(
        network, data.train, shape.classes, per_class=2 * FEW,
        report=lambda done, total: report("importance", done, total),
    )  # fmt: skip
    draft = _draft(recipe, data, graph, slots, importance, folder)
    draft, sources = measure.with_best_values(
        _with_curves(draft, network, data, report), data, report
    )
    draft = measure.with_size_data(
        draft, statistics=measure.measure_statistics(draft, data.train, report)
    )
    draft, modes = measure.with_best_normalization(draft, data, report)
    for size in shape.input_sizes:
        draft = _measured_at(draft.at(size), network, data, report).at(shape.input_size)
    report("test split", 0, 1)
    whole = measure.full_network(draft, data.train)
    metric = measure_accuracy(whole, data.test, len(draft.classes))
    card = {
        **draft.card,
        "metric": {
            "name": "top-1" if draft.kind == "cls" else "AP50", "split": "test",
            "value": round(metric.value, 4), "low": round(metric.low, 4),
            "high": round(metric.high, 4), "level": metric.level, "n": metric.n,
        },
        "normalization": {
            "mode": measure.best_normalization(modes), "without_images": draft.normalization,
            "validation": modes,
        },
        "values": {"source": draft.card["values"]["source"], "validation": sources},
        "training": {
            "compute": compute, "hours": round(train_seconds / 3600, 2),
            "recipe": table_from_recipe(recipe),
        },
    }  # fmt: skip
    write_library(
        folder, card=card, network=graph, slots=slots, importance=importance, sizes=draft.sizes,
        overwrite=overwrite,
    )  # fmt: skip


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
        sizes={size: measure.empty_size_data() for size in shape.input_sizes}, folder=folder,
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
    """The library with curves, statistics and accuracy at its input size."""
    local = _data_at(data, library.input_size)
    if not library.curves.size:
        library = _with_curves(library, network, local, report)
    if library.statistics is None:
        statistics = measure.measure_statistics(library, local.train, report)
        library = measure.with_size_data(library, statistics=statistics)
    largest = library.input_size == max(library.sizes)
    pairs = measure.PAIRS if largest else measure.PAIRS // 2
    return measure.with_size_data(
        library, accuracy=measure.accuracy_table(library, local, pairs, report)
    )
