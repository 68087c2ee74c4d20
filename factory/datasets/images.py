"""Decoded images and their splits: what training, publishing and measuring work on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .problems import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Decoded images with labels or boxes.

    Attributes:
        pixels: uint8 (N, H, W, 3), RGB.
        labels: Class per image, int64 (N,), of a classification set; else empty.
        boxes: Per image float32 (M, 5), rows class, x1, y1, x2, y2 in pixels (det); else empty.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    boxes: tuple[NDArray[np.float32], ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def subset(self, index: NDArray[np.int64]) -> Images:
        """The images at ``index``."""
        return Images(
            pixels=self.pixels[index],
            labels=self.labels[index] if len(self.labels) else self.labels,
            boxes=tuple(self.boxes[i] for i in index) if self.boxes else (),
        )

    def shown(self, classes: int) -> NDArray[np.int64]:
        """How many images show each of ``classes`` classes, (classes,)."""
        if len(self.labels):
            return np.bincount(self.labels, minlength=classes)
        rows = [np.unique(boxes[:, 0]).astype(np.int64) for boxes in self.boxes]
        return np.bincount(np.concatenate([*rows, np.zeros(0, np.int64)]), minlength=classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A training, a validation and a test split, and the names of the classes.

    Attributes:
        classes: Class names in label order.
        wordnet: WordNet id per class, or empty.
        train: Images that weights are trained on.
        validation: Images that choices are made on.
        test: Images of the published figure.
        left_out: Errors of the images and boxes that are in no split because of them.
    """

    classes: tuple[str, ...]
    wordnet: tuple[str, ...]
    train: Images
    validation: Images
    test: Images
    left_out: tuple[Problem, ...] = ()


def no_images() -> Images:
    """An empty split."""
    return Images(pixels=np.empty((0, 1, 1, 3), np.uint8), labels=np.empty(0, np.int64), boxes=())
