"""All average precisions of the COCO evaluation, with faster-coco-eval (extra 'train')."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError, MissingExtraError
from ..metrics import Array

_MOST = 100  # detections that count per image and class
_EVERY_AREA = [0.0, 1e10]  # square pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoScores:
    """Average precisions on one set of images, in [0, 1].

    Attributes:
        ap50: Mean over the classes that occur, at IoU 0.5; that of :class:`Matches`.
        ap50_95: Mean over the classes that occur and over IoU 0.50, 0.55, .. 0.95.
        class_ap50: Per class, at IoU 0.5; None where no image holds the class.
        class_ap50_95: Per class, mean over IoU 0.50, 0.55, .. 0.95; None likewise.
        n: Number of images.
    """

    ap50: float
    ap50_95: float
    class_ap50: tuple[float | None, ...]
    class_ap50_95: tuple[float | None, ...]
    n: int


def coco_scores(detections: Sequence[Array], boxes: Sequence[Array], classes: int) -> CocoScores:
    """Average precision at IoU 0.5 and over IoU 0.50 to 0.95, of all classes and of each.

    Args:
        detections: Per image (N, 6), rows x1, y1, x2, y2, score, class; score 0 pads.
        boxes: Per image (M, 5), rows class, x1, y1, x2, y2.
        classes: Number of classes.

    Raises:
        MissingExtraError: faster-coco-eval is not installed.
        DataError: There is no box to find, or not one list of detections per image.

    Source:
        Lin et al., "Microsoft COCO", arXiv:1405.0312: boxes of every area, no crowd regions,
        101 recall points, the best 100 detections of a class in an image.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("train", purpose="AP50:95") from error
    if len(detections) != len(boxes):
        raise DataError(
            f"There are detections of {len(detections)} images, but {len(boxes)} images."
        )
    if not any(len(rows) for rows in boxes):
        raise DataError("There is no box in these images to measure the average precision on.")
    truth = COCO(_table_from_boxes(boxes, classes))
    found = truth.loadRes(_rows_from_detections(detections))
    evaluation = COCOeval_faster(truth, found, "bbox")
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [_EVERY_AREA], ["all"]
    evaluation.params.maxDets = [_MOST]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]  # (10 overlaps, 101 recalls, K)
    per_class = precision.mean(1)  # (10, K), -1 where no image holds the class
    known = per_class[:, per_class[0] >= 0]
    return CocoScores(
        ap50=float(known[0].mean()),
        ap50_95=float(known.mean()),
        class_ap50=_or_none(per_class[0]),
        class_ap50_95=_or_none(per_class.mean(0)),
        n=len(boxes),
    )


def _table_from_boxes(boxes: Sequence[Array], classes: int) -> dict[str, list[dict[str, Any]]]:
    """COCO annotations; their numbers start at 1, for 0 means "not found" to the evaluation."""
    rows = [(image, row) for image, real in enumerate(boxes) for row in real]
    return {
        "images": [{"id": image} for image in range(len(boxes))],
        "categories": [{"id": label, "name": str(label)} for label in range(classes)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": int(row[0]), "iscrowd": 0}
            | _place(row[1:])
            for number, (image, row) in enumerate(rows, start=1)
        ],
    }


def _rows_from_detections(detections: Sequence[Array]) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": int(row[5]), "score": float(row[4])} | _place(row[:4])
        for image, rows in enumerate(detections)
        for row in rows
        if row[4] > 0
    ]


def _place(box_xyxy: Array) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}


def _or_none(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(value) if value >= 0 else None for value in values)
