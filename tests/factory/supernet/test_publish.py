"""Publishing a tiny trained supernet: what comes out opens, links and is proven."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnfactory.factory.assembler.assemble import assemble
from nnfactory.factory.datasets import DataSet, Images
from nnfactory.factory.library.library import NORMALIZATIONS
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cls", "det"])
def test_a_published_library_opens_links_and_is_proven(
    toy_parts, toy_table, kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(measurements, "PAIRS", 20)
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
    assert {"importance", "statistics", "values", "normalization"} <= set(phases)
    library = open_library(folder)
    assert (library.name, library.kind, library.classes) == (recipe.name, kind, classes)
    assert library.statistics is not None
    assert library.statistics.counts.shape == (6, len(library.blocks))
    assert len(library.accuracy["pairs"]) == 20
    assert set(library.card["normalization"]["validation"]) == set(NORMALIZATIONS)
    metric = library.card["metric"]
    assert metric["low"] <= metric["value"] <= metric["high"]
    assert metric["n"] == 24
    assert library.card["training"]["hours"] == 1.0

    table = toy_table(library)
    plan, estimate, _ = assemble(library, library.task(classes[:2]), Budget(), table)
    assert estimate.accuracy is not None
    images = np.random.default_rng(0).random((4, 3, 32, 32), dtype=np.float32)
    linked = link(library, plan, images=images)
    assert all(parity.passed for parity in prove(library, plan, linked))


def test_the_stand_in_for_latency_rises_with_every_module(toy_library):
    table = measurements.proxy_table(toy_library)
    assert not table.is_measured
    for slot in toy_library.slots:
        row = table.slots[slot.name]
        assert len(row) == slot.groups + 1
        assert list(row) == sorted(row)
        assert row[0] == 0 < row[1]


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_share_of_the_stand_in_latency_is_kept(toy_library, share):
    plan = measurements.optimized_plan(toy_library, toy_library.task(), share)
    counts = plan.counts
    if share == 0:
        assert counts == {slot.name: slot.min_groups for slot in toy_library.blocks}
    if share == 1:
        assert counts == {slot.name: slot.groups for slot in toy_library.blocks}
