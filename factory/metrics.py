"""Accuracy metrics and their intervals; numpy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .schema import Interval

Array = NDArray[np.floating]
_RECALLS = np.linspace(0, 1, 101)
_MOST = 100  # detections that count per image and class, by falling score
_Z = {0.9: 1.645, 0.95: 1.96}


@dataclass(frozen=True, slots=True)
class _ClassMatches:
    """Detections of one class over all images, by falling score, and the boxes to be found."""

    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    boxes: NDArray[np.int64]  # number of boxes per image


@dataclass(frozen=True, slots=True)
class Matches:
    """Detections matched to boxes at IoU 0.5, ready to be averaged over any sample of images."""

    images: int
    classes: tuple[_ClassMatches, ...]

    def ap50(self, weights: NDArray[np.int64] | None = None) -> float:
        """Mean average precision over the classes that occur, in [0, 1].

        Args:
            weights: How often each image counts; once by default.
        """
        values = [value for value in self.class_ap50(weights) if value is not None]
        return float(np.mean(values)) if values else 0.0

    def class_ap50(self, weights: NDArray[np.int64] | None = None) -> list[float | None]:
        """Average precision per class; None where no image holds the class."""
        return [_average_precision(row, weights) for row in self.classes]

    def interval(self, *, level: float = 0.95, resamples: int = 400, seed: int = 0) -> Interval:
        """AP50 with an interval of bootstrap standard errors over images.

        Percentiles of the draws would be biased: an image that is drawn twice repeats its hits,
        which raises the average precision of almost every draw above the value itself.
        """
        rng = np.random.default_rng(seed)
        ones = np.full(self.images, 1 / self.images)
        draws = [self.ap50(rng.multinomial(self.images, ones)) for _ in range(resamples)]
        value, half = self.ap50(), _Z[level] * float(np.std(draws))
        return Interval(
            low=max(0.0, value - half), value=value, high=min(1.0, value + half),
            level=level, n=self.images,
        )  # fmt: skip


def match_detections(detections: Sequence[Array], boxes: Sequence[Array], classes: int) -> Matches:
    """Match detections to boxes greedily by score, one detection per box, at IoU 0.5.

    Args:
        detections: Per image (N, 6), rows x1, y1, x2, y2, score, class; score 0 pads.
        boxes: Per image (M, 5), rows class, x1, y1, x2, y2.
        classes: Number of classes.

    Source:
        Lin et al., "Microsoft COCO", arXiv:1405.0312: the protocol of its evaluation at IoU 0.5,
        without crowd regions: 101 recall points, the best 100 detections of a class in an image,
        and of boxes that overlap equally the last one. Equal to faster-coco-eval, ties included.
    """
    rows: list[list[tuple[float, int, bool]]] = [[] for _ in range(classes)]
    totals = np.zeros((classes, len(boxes)), np.int64)
    for index, (found, real) in enumerate(zip(detections, boxes, strict=True)):
        for label in real[:, 0].astype(int):
            totals[label, index] += 1
        mine = found[found[:, 4] > 0]
        for label in np.unique(mine[:, 5]).astype(int):
            chosen = mine[mine[:, 5] == label]
            truth = real[real[:, 0] == label, 1:]
            for score, hit in _match(chosen, truth):
                rows[label].append((score, index, hit))
    sorted_rows = [sorted(row, key=lambda r: -r[0]) for row in rows]
    return Matches(
        images=len(boxes),
        classes=tuple(
            _ClassMatches(
                np.array([r[1] for r in row], np.int64), np.array([r[2] for r in row], bool), total
            )
            for row, total in zip(sorted_rows, totals, strict=True)
        ),
    )


def _match(found: Array, truth: Array) -> list[tuple[float, bool]]:
    """Score of every detection of one image and class, and whether it finds a free box."""
    order = found[np.argsort(-found[:, 4], kind="stable")][:_MOST]
    if not len(truth):
        return [(float(row[4]), False) for row in order]
    overlaps = _iou(order[:, :4], truth)
    free = np.ones(len(truth), bool)
    answers = []
    for row, overlap in zip(order, overlaps, strict=True):
        candidates = np.where(free, overlap, -1.0)
        best = len(truth) - 1 - int(candidates[::-1].argmax())  # the last of equals
        hit = bool(candidates[best] >= 0.5)
        free[best] &= not hit
        answers.append((float(row[4]), hit))
    return answers


def _iou(boxes: Array, others: Array) -> Array:
    """Intersection over union (N, M) of boxes (N, 4) and others (M, 4), xyxy.

    In float64: in float32, rounding decides about an overlap of exactly one half.
    """
    boxes, others = boxes.astype(np.float64), others.astype(np.float64)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    overlap = np.prod((high - low).clip(0), 2)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], 1)[:, None]
    union = areas + np.prod(others[:, 2:] - others[:, :2], 1)[None] - overlap
    return np.asarray(overlap / np.maximum(union, 1e-9))


def _average_precision(row: _ClassMatches, weights: NDArray[np.int64] | None) -> float | None:
    """Interpolated average precision of one class; None when no image holds it."""
    total = int(row.boxes.sum() if weights is None else row.boxes @ weights)
    if not total:
        return None
    times = np.ones(len(row.image), np.int64) if weights is None else weights[row.image]
    true = np.cumsum(row.hit * times)
    all_found = np.cumsum(times)
    precision = true / np.maximum(all_found, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(true / total, _RECALLS, side="left")
    padded = np.append(envelope, 0.0)
    return float(padded[np.minimum(at, len(envelope))].mean())


def proportion_interval(
    correct: int, n: int, *, level: float = 0.95, spread: float = 1.0
) -> Interval:
    """A share of ``n`` trials with the Wilson score interval.

    Args:
        correct: How many succeeded.
        n: How many there were.
        level: Nominal coverage, 0.9 or 0.95.
        spread: Standard error as a multiple of that of independent trials.
    """
    z, p = _Z[level] * spread, correct / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = max(0.0, min(p, center - half)), min(1.0, max(p, center + half))
    return Interval(low=low, value=p, high=high, level=level, n=n)
