"""COCO's average precisions against sums by hand; tests/factory/test_metrics.py has AP50."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from nnfactory.factory.errors import DataError, MissingExtraError
from nnfactory.factory.supernet.coco import coco_scores

OVERLAPS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


@pytest.fixture
def _library():
    pytest.importorskip("faster_coco_eval")


def precision_by_hand(hits: list[bool], total: int) -> float:
    """Mean over 101 recalls of the best precision at that recall or a higher one."""
    found = np.cumsum(hits)
    points = [(found[i] / total, found[i] / (i + 1)) for i in range(len(hits))]
    best = [
        max((p for recall, p in points if recall >= at - 1e-12), default=0.0)
        for at in np.linspace(0, 1, 101)
    ]
    return float(np.mean(best))


@pytest.mark.usefixtures("_library")
def test_every_overlap_from_50_to_95_has_the_same_weight(rng):
    """One detection per box, of a known overlap: it counts at all overlaps up to that one."""
    images, per_image = 8, 3
    kept = rng.uniform(0.4, 1.0, images * per_image)  # share of the box that the detection covers
    scores = rng.permutation(np.linspace(0.1, 0.9, len(kept)))
    boxes, detections = [], []
    for image in range(images):
        left = 100.0 * np.arange(per_image)
        real = np.column_stack(
            (np.zeros(per_image), left, np.zeros(per_image), left + 50, [50] * 3)
        )
        mine = slice(image * per_image, (image + 1) * per_image)
        found = np.column_stack((real[:, 1:], scores[mine], np.zeros(per_image)))
        found[:, 3] *= kept[mine]
        boxes.append(real)
        detections.append(np.concatenate((found, np.zeros((2, 6)))))
    order = np.argsort(-scores)
    expected = [precision_by_hand(list(kept[order] >= at), len(kept)) for at in OVERLAPS]
    answer = coco_scores(detections, boxes, 1)
    assert answer.ap50 == pytest.approx(expected[0], abs=1e-9)
    assert answer.ap50_95 == pytest.approx(np.mean(expected), abs=1e-9)
    assert expected[0] > answer.ap50_95 + 0.1
    assert answer.n == images


@pytest.mark.usefixtures("_library")
def test_classes_have_figures_of_their_own_and_those_without_a_box_have_none():
    boxes = [
        np.array([[0.0, 0, 0, 10, 10], [2, 20, 20, 30, 30]]),
        np.array([[2.0, 0, 0, 10, 10], [3, 20, 20, 30, 30]]),
    ]
    detections = [
        np.array([[0.0, 0, 10, 10, 0.9, 0], [20, 20, 30, 30, 0.8, 1]]),
        np.array([[0.0, 0, 10, 7.2, 0.9, 2]]),  # overlaps by 0.72: found at 5 of 10 overlaps
    ]
    answer = coco_scores(detections, boxes, 4)
    half = 51 / 101  # one of two boxes: the recalls 0, 0.01, .. 0.5
    assert answer.class_ap50 == (1.0, None, pytest.approx(half), 0.0)
    assert answer.class_ap50_95 == (1.0, None, pytest.approx(half / 2), 0.0)
    assert answer.ap50 == pytest.approx((1 + half + 0) / 3)
    assert answer.ap50_95 == pytest.approx((1 + half / 2 + 0) / 3)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("rows", [np.zeros((0, 6)), np.zeros((100, 6))])
def test_no_detection_at_all_gives_zero(rows):
    answer = coco_scores([rows], [np.array([[1.0, 0, 0, 10, 10]])], 2)
    assert (answer.ap50, answer.ap50_95) == (0.0, 0.0)
    assert answer.class_ap50 == answer.class_ap50_95 == (None, 0.0)


@pytest.mark.usefixtures("_library")
def test_the_evaluation_prints_nothing_and_leaves_its_arguments_alone(capfd):
    boxes = [np.array([[0.0, 0, 0, 10, 10]], np.float32)]
    detections = [np.array([[0.0, 0, 10, 9, 0.9, 0]], np.float32)]
    before = boxes[0].copy(), detections[0].copy()
    coco_scores(detections, boxes, 1)
    assert capfd.readouterr() == ("", "")
    np.testing.assert_array_equal(boxes[0], before[0])
    np.testing.assert_array_equal(detections[0], before[1])


@pytest.mark.usefixtures("_library")
def test_images_without_a_box_or_without_their_detections_are_refused():
    with pytest.raises(DataError, match="no box"):
        coco_scores([np.zeros((0, 6))], [np.zeros((0, 5))], 3)
    with pytest.raises(DataError, match="detections of 1 images, but 2"):
        coco_scores([np.zeros((0, 6))], [np.array([[0.0, 0, 0, 1, 1]])] * 2, 1)


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingExtraError, match="'train'") as caught:
        coco_scores([np.zeros((0, 6))], [np.array([[0.0, 0, 0, 1, 1]])], 1)
    assert caught.value.hints == ('pip install "nnfactory[train]"',)
