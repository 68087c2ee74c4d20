"""The user's own images choose among plans and measure what was chosen, never both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from nnfactory.factory.accuracy_measurement import class_accuracies, tensor_from_pixels
from nnfactory.factory.assembler.assemble import plan_from_counts
from nnfactory.factory.datasets import Images
from nnfactory.factory.datasets.labelled import Labelled
from nnfactory.factory.errors import DataError
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.linker import link
from nnfactory.factory.measured_choice import (
    LEAST_EACH,
    STATISTICS,
    best_candidate,
    measured_accuracy,
    own_images,
)

EACH = 50


@pytest.fixture
def labelled(toy_cls: ModuleLibrary, toy_parts) -> Labelled:
    """Images of three classes as a user spells them: by id, by a synonym, and an unknown one."""
    images = {size: toy_parts.images(3, EACH, side=size) for size in toy_cls.input_sizes}
    return Labelled(
        folder=Path("pond"),
        classes=("n01641577", "goldfish", "teapot"),  # bullfrog, goldfish, nothing
        split="test",
        images=images,
        digests=tuple(map(str, range(3 * EACH))),
    )


@pytest.fixture
def task(toy_cls: ModuleLibrary):
    return toy_cls.task(("goldfish", "bullfrog"))


def test_halves_are_disjoint_and_hold_the_tasks_classes(toy_cls, task, labelled):
    found = own_images(toy_cls, task, labelled)
    assert found.may_choose
    for size, whole in labelled.images.items():
        halves = [found.choosing[size], found.measuring[size]]
        assert [len(half) for half in halves] == [EACH, EACH]
        rows = [row.tobytes() for half in halves for row in half.pixels]
        assert len(set(rows)) == 2 * EACH
        assert set(rows) == {row.tobytes() for row in whole.pixels[whole.labels < 2]}
        label_of = dict(zip(map(bytes, whole.pixels), whole.labels, strict=True))
        for half in halves:
            for row, label in zip(half.pixels, half.labels, strict=True):
                mine = task.classes[label].split(",")[0]
                assert mine == ("bullfrog", "goldfish")[label_of[bytes(row)]]


def test_the_division_is_the_same_at_every_size(toy_cls, task, labelled):
    found = own_images(toy_cls, task, labelled)
    large, small = (found.measuring[size].labels for size in toy_cls.input_sizes)
    np.testing.assert_array_equal(large, small)


def test_few_images_only_measure(toy_cls, task, labelled):
    kept = set(labelled.digests[: LEAST_EACH // 2]) | set(labelled.digests[EACH : EACH + 30])
    few = labelled.without(set(labelled.digests) - kept)
    found = own_images(toy_cls, task, few)
    assert not found.may_choose
    assert all(len(images) == LEAST_EACH // 2 + 30 for images in found.measuring.values())


def test_images_of_other_classes_cannot_measure(toy_cls, labelled):
    task = toy_cls.task(("boa constrictor", "American alligator"))
    with pytest.raises(DataError, match="holds no image of the task's classes") as caught:
        own_images(toy_cls, task, labelled)
    assert "modules show toy-cls" in caught.value.hints[0]


def test_a_class_that_was_asked_for_and_is_not_shown_is_named(toy_cls, labelled):
    task = toy_cls.task(("goldfish", "bullfrog", "boa constrictor"))
    with pytest.raises(
        DataError, match="shows 2 of 3 classes; there is no image of 'boa"
    ) as caught:
        own_images(toy_cls, task, labelled)
    assert "'teapot'" in caught.value.hints[0]
    everything = own_images(toy_cls, toy_cls.task(), labelled)
    assert everything.name == "pond, test part, 2 of 6 classes"


def test_every_class_is_among_the_first_images_of_the_choosing_half(toy_cls, task, labelled):
    """Normalization is re-estimated on those."""
    chosen = own_images(toy_cls, task, labelled).choosing[32]
    assert set(chosen.labels[:12].tolist()) == {0, 1}


def test_plans_with_statistics_of_other_images_are_other_plans(toy_cls, task):
    plan = plan_from_counts(toy_cls, task, {slot.name: 1 for slot in toy_cls.blocks})
    tried = [
        dataclasses.replace(plan, normalization="reestimated", statistics_of=digest).id
        for digest in ("", "0123", "4567")
    ]
    assert len({plan.id, *tried}) == 4


def test_the_plan_that_answers_best_on_the_choosing_half_is_taken(toy_cls, task, labelled):
    images = own_images(toy_cls, task, labelled)
    plans = [
        (plan_from_counts(toy_cls.at(size), task, dict.fromkeys(names, count)), toy_cls)
        for size in toy_cls.input_sizes
        for count in (1, 3)
        for names in ([slot.name for slot in toy_cls.blocks],)
    ]
    values = {}
    for number, (plan, library) in enumerate(plans):
        chosen = images.choosing[plan.input_size]
        for normalization in ("stored", "reestimated"):
            some = tensor_from_pixels(chosen.pixels[: STATISTICS["cls"]])
            tried = dataclasses.replace(plan, normalization=normalization)
            network = link(library, tried, images=some).network
            value = class_accuracies(network, chosen, len(task.classes)).value
            values[number, normalization] = value
    number, best, how = best_candidate(plans, images)
    assert best.accuracy == max(values.values())
    assert (how.candidates, how.images, how.accuracy) == (len(values), EACH, best.accuracy)
    assert len(set(values.values())) > 2
    first = next(key for key, value in values.items() if value == best.accuracy)
    assert (number, best.plan.normalization) == first
    accuracy = measured_accuracy(best.linked, best.plan, images)
    measured = class_accuracies(
        best.linked.network, images.measuring[best.plan.input_size], len(task.classes)
    )
    assert accuracy.interval.value == pytest.approx(measured.value)
    assert accuracy.interval.n == EACH
    assert accuracy.dataset == "pond, test part, 50 images that took no part in the choice"


def test_detections_are_measured_by_ap50(toy_det: ModuleLibrary, rng):
    pixels = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    boxes = tuple(np.array([[number % 2, 4, 4, 20, 24]], np.float32) for number in range(6))
    found = Labelled(
        folder=Path("bench"), classes=("Nut", "Cog"), split="", digests=tuple("abcdef"),
        images={32: Images(pixels=pixels, labels=np.empty(0, np.int64), boxes=boxes)},
    )  # fmt: skip
    task = toy_det.task(("Nut",))
    images = own_images(toy_det, task, found)
    assert [rows[:, 0].tolist() for rows in images.measuring[32].boxes] == [[0.0]] * 3
    plan = plan_from_counts(toy_det, task, {slot.name: 1 for slot in toy_det.blocks})
    accuracy = measured_accuracy(link(toy_det, plan), plan, images)
    assert (accuracy.metric, accuracy.interval.n) == ("AP50", 3)
    assert accuracy.dataset == "bench, 3 images"
