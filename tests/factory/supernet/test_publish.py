"""Publishing a tiny trained supernet: what comes out opens, links and is proven."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnfactory.factory.accuracy_measurement import ClassAccuracies, tensor_from_pixels
from nnfactory.factory.assembler.assemble import assemble
from nnfactory.factory.datasets import DataSet, Images
from nnfactory.factory.features import features, full_network
from nnfactory.factory.graph.normalization import estimate_moments, norm_nodes
from nnfactory.factory.library.library import NORMALIZATIONS, ModuleLibrary
from nnfactory.factory.library.store import open_library
from nnfactory.factory.linker import link, prove
from nnfactory.factory.schema import Budget

pytest.importorskip("torch")

from nnfactory.factory.supernet import measurements  # noqa: E402
from nnfactory.factory.supernet import publish as publishing  # noqa: E402


def noise(kind: str, side: int, classes: int, n: int, seed: int) -> Images:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return Images(
        pixels=rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8),
        labels=labels if kind == "cls" else np.empty(0, np.int64),
        boxes=tuple(np.array([[c, 4, 4, 20, 20]], np.float32) for c in labels)
        if kind == "det"
        else (),
    )


def assert_progress_was_reported(phases: dict[str, tuple[int, int]], sides: tuple[int, ...]):
    at_every_size = {
        f"{phase} at {size} px"
        for phase in ("curves", "statistics", "accuracy pairs")
        for size in sides
    }
    chosen = {"values", "plain or training", "normalization"}
    assert {"importance", *chosen, *at_every_size} <= set(phases)
    assert all(done == total for phase, (done, total) in phases.items() if phase != "test split")


def assert_every_size_was_measured(library: ModuleLibrary, sides: tuple[int, ...]):
    tasks = [[p["classes"] for p in library.at(size).accuracy["pairs"]] for size in sides]
    assert tasks[0] == tasks[1]  # they are held out together
    modules = sum(slot.groups + 1 for slot in library.blocks)
    for size, pairs in zip(sides, (56, 56), strict=True):
        view = library.at(size)
        assert view.statistics is not None
        assert view.statistics.counts.shape == (6, len(library.blocks))
        assert view.curves.shape == (len(library.classes), modules)
        assert len(view.accuracy["pairs"]) == pairs
        for pair in view.accuracy["pairs"]:
            assert len(pair["per_class"]) == len(pair["classes"])
            if library.kind == "cls":  # the classes have as many images each
                assert np.mean(pair["per_class"]) == pytest.approx(pair["accuracy"], abs=2e-3)
        built = [pair for pair in view.accuracy["pairs"] if pair["origin"] == "optimized"]
        assert len(built) == view.accuracy["fit"]["n"] == 3 * pairs // 4
        assert view.accuracy["class_fit"]["n"] == sum(
            value is not None for pair in built for value in pair["per_class"]
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cls", "det"])
def test_a_published_library_opens_links_and_is_proven(
    toy_parts, toy_table, kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(measurements, "PAIRS", 56)
    monkeypatch.setattr(measurements, "STATISTICS_PLANS", 6)
    classes = toy_parts.classes[kind]
    parts = [noise(kind, toy_parts.side, len(classes), 24, seed) for seed in range(3)]
    data = DataSet(
        classes=classes,
        wordnet=toy_parts.wordnet if kind == "cls" else (),
        train=parts[0],
        validation=parts[1],
        test=parts[2],
    )
    recipe = toy_parts.recipe(kind)
    network = toy_parts.supernet(kind)
    phases: dict[str, tuple[int, int]] = {}
    folder = tmp_path / recipe.name
    publishing.publish(
        recipe,
        network,
        data,
        folder,
        compute="none",
        train_seconds=3600,
        report=lambda phase, done, total: phases.update({phase: (done, total)}),
    )
    assert_progress_was_reported(phases, toy_parts.sides)
    library = open_library(folder)
    assert (library.name, library.kind, library.classes) == (recipe.name, kind, classes)
    assert library.input_sizes == toy_parts.sides
    assert_every_size_was_measured(library, toy_parts.sides)
    assert set(library.card["normalization"]["validation"]) == set(NORMALIZATIONS)
    assert library.card["statistics"]["kind"] in ("training", "plain")
    metric = library.card["metric"]
    assert metric["low"] <= metric["value"] <= metric["high"]
    assert metric["n"] == 24
    assert library.card["training"]["hours"] == 1.0
    if kind == "cls":
        seen, _ = features(full_network(library), data.train.pixels)
        mean = np.stack([seen[data.train.labels == c].mean(0) for c in range(len(classes))])
        np.testing.assert_allclose(library.prototypes.mean, mean, rtol=2e-3, atol=2e-3)
    else:
        assert library.prototypes is None

    for size in library.input_sizes:
        view = library.at(size)
        plan, estimate, _ = assemble(view, view.task(classes[:2]), Budget(), toy_table(view))
        assert estimate.accuracy is not None
        images = np.random.default_rng(0).random((4, 3, size, size), dtype=np.float32)
        linked = link(library, plan, images=images)
        assert all(parity.passed for parity in prove(library, plan, linked))


def test_the_stand_in_for_latency_rises_with_every_module(toy_library):
    for size in toy_library.input_sizes:
        view = toy_library.at(size)
        table = measurements.proxy_table(view)
        assert not table.is_measured
        assert table.input_size == size
        for slot in view.slots:
            row = table.slots[slot.name]
            assert len(row) == slot.groups + 1
            assert list(row) == sorted(row)
            assert row[0] == 0 < row[1]


def test_recalibration_gives_the_full_network_the_moments_of_plain_images(toy_library):
    """Where every batch is the whole set, they are the moments of one pass over it."""
    images = noise(toy_library.kind, 32, len(toy_library.classes), 24, seed=5)
    found = measurements.recalibrated(toy_library.network, images)
    whole = estimate_moments(toy_library.network, tensor_from_pixels(images.pixels))
    for node in norm_nodes(found):
        mean, variance = whole[node.name]
        np.testing.assert_allclose(found.weights[node.input[3]], mean, atol=1e-5)
        np.testing.assert_allclose(found.weights[node.input[4]], variance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("accuracies", "kind"),
    [
        ({"training": [0.5, 0.6], "plain": [0.6, 0.7]}, "plain"),  # better by the same every time
        ({"training": [0.5, 0.6], "plain": [0.9, 0.3]}, "training"),  # better within the interval
        ({"training": [0.6, 0.7], "plain": [0.5, 0.6]}, "training"),
    ],
)
def test_other_statistics_are_taken_where_they_are_surely_better(
    toy_library, monkeypatch: pytest.MonkeyPatch, accuracies, kind
):
    images = noise(toy_library.kind, 32, len(toy_library.classes), 24, seed=5)
    asked = {"training": 0, "plain": 0}

    def accuracy(library, plan, images, source):
        name = "training" if library.network is toy_library.network else "plain"
        asked[name] += 1
        return ClassAccuracies(accuracies[name][asked[name] % 2], (), 24)

    monkeypatch.setattr(measurements, "plan_accuracy", accuracy)
    data = DataSet(
        classes=toy_library.classes, wordnet=(), train=images, validation=images, test=images
    )
    chosen, figures = measurements.with_best_statistics(toy_library, data, lambda *words: None)
    assert (chosen.network is toy_library.network) == (kind == "training")
    assert figures["kind"] == kind
    figures = figures["validation"]
    assert asked["training"] == asked["plain"] == 48
    means = {name: np.mean(values) for name, values in accuracies.items()}
    assert figures["difference"] == pytest.approx(means["plain"] - means["training"], abs=1e-4)
    assert figures["half_interval"] >= 0


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_share_of_the_stand_in_latency_is_kept(toy_library, share):
    for size in toy_library.input_sizes:
        view = toy_library.at(size)
        plan = measurements.optimized_plan(view, view.task(), share)
        assert plan.input_size == size
        if share == 0:
            assert plan.counts == {slot.name: slot.min_groups for slot in view.blocks}
        if share == 1:
            assert plan.counts == {slot.name: slot.groups for slot in view.blocks}


def test_measurements_are_replaced_at_the_size_that_is_seen(toy_library):
    small = toy_library.at(16)
    changed = measurements.with_size_data(small, accuracy={})
    assert not changed.accuracy
    assert changed.curves is small.curves
    assert changed.at(32).accuracy == toy_library.accuracy
    neutral = measurements.with_neutral_accuracy(changed)
    assert neutral.accuracy["per_class"] == [0.5] * len(toy_library.classes)
    assert measurements.with_neutral_accuracy(small) is small
