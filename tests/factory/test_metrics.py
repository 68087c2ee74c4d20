"""Metrics against independent computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nnfactory.factory.metrics import match_detections, proportion_interval

SIDE = 100.0


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, 4) boxes xyxy of 5 to 60 pixels inside the picture."""
    low = rng.uniform(0, SIDE - 60, (n, 2))
    return np.concatenate((low, low + rng.uniform(5, 60, (n, 2))), 1)


def random_case(
    rng: np.random.Generator, images: int, classes: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Detections, half of them near a box, and boxes."""
    detections, boxes = [], []
    for _ in range(images):
        truth = random_boxes(rng, int(rng.integers(0, 6)))
        labels = rng.integers(0, classes, len(truth))
        boxes.append(np.concatenate((labels[:, None], truth), 1))
        near = np.repeat(truth, 2, 0) + rng.normal(0, 4, (2 * len(truth), 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        found = np.concatenate((near, random_boxes(rng, int(rng.integers(0, 8)))))
        guessed = np.concatenate(
            (np.repeat(labels, 2), rng.integers(0, classes, len(found) - len(near)))
        )
        rows = np.concatenate(
            (found, rng.uniform(0.01, 1, (len(found), 1)), guessed[:, None]), 1
        ).reshape(-1, 6)
        padding = np.zeros((3, 6))
        detections.append(np.concatenate((rows, padding)))
    return detections, boxes


def assert_equals_the_coco_evaluation(
    detections: list[np.ndarray], boxes: list[np.ndarray], classes: int
) -> None:
    pytest.importorskip("faster_coco_eval")
    from nnfactory.factory.supernet.coco import coco_scores

    ours, theirs = (
        match_detections(detections, boxes, classes),
        coco_scores(detections, boxes, classes),
    )
    assert ours.ap50() == pytest.approx(theirs.ap50, abs=1e-6)
    for own, value in zip(ours.class_ap50(), theirs.class_ap50, strict=True):
        assert own == (None if value is None else pytest.approx(value, abs=1e-6))


@pytest.mark.parametrize("seed", range(6))
def test_ap50_equals_the_coco_evaluation(seed):
    detections, boxes = random_case(np.random.default_rng(seed), images=12, classes=3)
    assert 0.05 < match_detections(detections, boxes, 3).ap50() < 0.95
    assert_equals_the_coco_evaluation(detections, boxes, 3)


GRID_BOX = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 3), st.integers(1, 3))


@given(
    images=st.lists(
        st.tuples(
            st.lists(st.tuples(GRID_BOX, st.integers(0, 1)), max_size=5),
            st.lists(st.tuples(GRID_BOX, st.integers(0, 1), st.integers(1, 4)), max_size=8),
        ),
        min_size=1,
        max_size=4,
    ),
    pitch=st.sampled_from([1.0, 0.1, 10 / 3, 17.3]),
)
def test_ap50_equals_the_coco_evaluation_where_scores_and_overlaps_tie(images, pitch):
    """Boxes on a grid: many overlaps are equal, and many are one half but for rounding."""

    def place(box: tuple[int, ...]) -> list[float]:
        x, y, width, height = box
        return [pitch * x, pitch * y, pitch * (x + width), pitch * (y + height)]

    boxes = [
        np.array([[label, *place(box)] for box, label in real], np.float32).reshape(-1, 5)
        for real, _ in images
    ]
    detections = [
        np.array([[*place(box), score / 4, label] for box, label, score in found], np.float32)
        for _, found in images
    ]
    assume(any(len(rows) for rows in boxes))
    assert_equals_the_coco_evaluation([rows.reshape(-1, 6) for rows in detections], boxes, 2)


def test_of_boxes_that_overlap_equally_the_last_is_found():
    boxes = [np.array([[0.0, 0, 0, 8, 10], [0, 4, 0, 12, 10]])]
    between, first, last = (
        [x, 0, x + 8, 10, score, 0] for x, score in ((2.0, 0.9), (0.0, 0.8), (4.0, 0.8))
    )
    one_free, none_free = [np.array([between, first])], [np.array([between, last])]
    assert match_detections(one_free, boxes, 1).ap50() == 1.0
    assert match_detections(none_free, boxes, 1).ap50() == pytest.approx(51 / 101)
    assert_equals_the_coco_evaluation(none_free, boxes, 1)


def test_the_best_hundred_detections_of_a_class_in_an_image_count():
    boxes = [np.array([[0.0, 0, 0, 10, 10], [1, 0, 0, 10, 10]])]
    wrong = [[50.0, 50, 60, 60, 0.9, 0]] * 99
    right, other = [0.0, 0, 10, 10, 0.5, 0], [0.0, 0, 10, 10, 0.1, 1]
    last = [np.array([*wrong, right, other])]
    too_late = [np.array([*wrong, wrong[0], right, other])]
    assert match_detections(last, boxes, 2).class_ap50() == [pytest.approx(1 / 100), 1.0]
    assert match_detections(too_late, boxes, 2).class_ap50() == [0.0, 1.0]
    assert_equals_the_coco_evaluation(too_late, boxes, 2)


def test_an_overlap_of_half_counts_for_boxes_of_any_size_in_single_precision(rng):
    for side in rng.uniform(1, 300, 200).astype(np.float32):
        boxes = [np.array([[0, 0, 0, side, side]], np.float32)]
        half = np.array([[0, 0, side, side / 2, 0.9, 0]], np.float32)
        assert match_detections([half], boxes, 1).ap50() == 1.0


def test_perfect_detections_have_an_ap50_of_one_and_none_have_zero(rng):
    boxes = [np.column_stack((np.arange(3) % 2, random_boxes(rng, 3))) for _ in range(4)]
    perfect = [np.column_stack((rows[:, 1:], np.full(3, 0.9), rows[:, 0])) for rows in boxes]
    assert match_detections(perfect, boxes, 2).ap50() == 1.0
    assert match_detections([np.zeros((100, 6))] * 4, boxes, 2).ap50() == 0.0
    assert match_detections([np.zeros((0, 6))] * 4, boxes, 2).ap50() == 0.0


def test_a_second_detection_of_a_box_is_a_false_alarm():
    boxes = [np.array([[0.0, 0, 0, 10, 10], [0.0, 50, 50, 60, 60]])]
    rows = [[0, 0, 10, 10, 0.9, 0], [0, 0, 10, 10, 0.8, 0], [50, 50, 60, 60, 0.7, 0]]
    found = match_detections([np.array(rows, float)], boxes, 1)
    # Precision 1 up to recall 1/2 (51 of 101 points), then 2/3.
    assert found.ap50() == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_an_overlap_of_half_counts_and_less_does_not():
    boxes = [np.array([[0.0, 0, 0, 10, 10]])]
    half = np.array([[0.0, 0, 10, 5, 0.9, 0]])
    less = np.array([[0.0, 0, 10, 4.9, 0.9, 0]])
    assert match_detections([half], boxes, 1).ap50() == 1.0
    assert match_detections([less], boxes, 1).ap50() == 0.0


def test_a_class_without_boxes_has_no_precision_and_does_not_lower_the_mean():
    boxes = [np.array([[1.0, 0, 0, 10, 10]])]
    rows = np.array([[0.0, 0, 10, 10, 0.9, 1], [0, 0, 10, 10, 0.9, 0]])
    found = match_detections([rows], boxes, 3)
    assert found.class_ap50() == [None, 1.0, None]
    assert found.ap50() == 1.0


def test_weights_count_an_image_as_if_it_were_there_that_often(rng):
    detections, boxes = random_case(rng, images=6, classes=2)
    weights = np.array([2, 0, 1, 3, 1, 0])
    repeated = [i for i, times in enumerate(weights) for _ in range(times)]
    expected = match_detections([detections[i] for i in repeated], [boxes[i] for i in repeated], 2)
    weighted = match_detections(detections, boxes, 2).ap50(weights)
    assert weighted == pytest.approx(expected.ap50(), abs=0.02)  # ties are ordered otherwise


def test_the_bootstrap_interval_is_ordered_reproducible_and_narrows_with_more_images(rng):
    few = match_detections(*random_case(rng, images=10, classes=2), 2)
    many = match_detections(*random_case(rng, images=90, classes=2), 2)
    interval = few.interval(resamples=60)
    assert interval == few.interval(resamples=60)
    assert 0 <= interval.low <= interval.value == few.ap50() <= interval.high <= 1
    assert interval.n == 10
    narrower = many.interval(resamples=60)
    assert narrower.high - narrower.low < interval.high - interval.low
    inner = few.interval(level=0.9, resamples=60)
    assert interval.low <= inner.low <= inner.high <= interval.high


def test_the_interval_lies_around_the_value_with_few_images_of_many_classes(rng):
    interval = match_detections(*random_case(rng, images=60, classes=12), 12).interval()
    assert interval.low < interval.value < interval.high


@given(n=st.integers(1, 5000), share=st.floats(0, 1), level=st.sampled_from([0.9, 0.95]))
def test_the_wilson_interval_solves_its_defining_equation(n, share, level):
    correct = round(share * n)
    interval = proportion_interval(correct, n, level=level)
    z = {0.9: 1.644853626951, 0.95: 1.959963984540}[level]
    # Its ends are the roots of (p - x)**2 = z**2 * x * (1 - x) / n.
    p = correct / n
    low, high = sorted(np.roots([1 + z * z / n, -(2 * p + z * z / n), p * p]).real)
    assert interval.value == p
    assert interval.low == pytest.approx(low, abs=2e-4)
    assert interval.high == pytest.approx(high, abs=2e-4)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert not math.isnan(interval.low)
