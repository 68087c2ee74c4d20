"""Measured accuracy of a linked network on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .datasets import Images
from .datasets.fitting import center_cropped, letterboxed
from .errors import DataError
from .graph.evaluate import open_model
from .graph.network import Array, Network, model_from_network
from .graph.postprocess import OUTPUT
from .metrics import Matches, match_detections, proportion_interval
from .schema import Interval


def task_images(images: Images, classes: Sequence[int]) -> Images:
    """The images that hold at least one of the classes, with labels counted within the task.

    Boxes of other classes are dropped. So is every image that holds none of the task's classes:
    a figure on these images says nothing about false alarms elsewhere.
    """
    position = {label: index for index, label in enumerate(classes)}
    if len(images.labels):
        index = np.flatnonzero(np.isin(images.labels, list(position)))
        chosen = images.subset(index)
        labels = np.array([position[int(label)] for label in chosen.labels], np.int64)
        return Images(pixels=chosen.pixels, labels=labels, boxes=())
    index = np.flatnonzero([np.isin(rows[:, 0], list(position)).any() for rows in images.boxes])
    chosen = images.subset(index)
    boxes = []
    for rows in chosen.boxes:
        mine = rows[np.isin(rows[:, 0], list(position))].copy()
        mine[:, 0] = [position[int(label)] for label in mine[:, 0]]
        boxes.append(mine)
    return Images(pixels=chosen.pixels, labels=chosen.labels, boxes=tuple(boxes))


def images_at(images: Images, size: int) -> Images:
    """Square images made ``size`` x ``size`` exactly as the runtime of an artifact would."""
    side = images.pixels.shape[1]
    if side == size:
        return images
    fit = letterboxed if images.boxes else center_cropped
    pixels = np.empty((len(images), size, size, 3), np.uint8)
    for row, image in zip(pixels, images.pixels, strict=True):
        row[:] = fit(image, size)
    scale = np.array([1.0] + [size / side] * 4, np.float32)
    return Images(
        pixels=pixels, labels=images.labels, boxes=tuple(rows * scale for rows in images.boxes)
    )


def tensor_from_pixels(pixels: Array) -> Array:
    """Float images (B, 3, H, W) in [0, 1] from uint8 (B, H, W, 3)."""
    scaled = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(scaled)


def run_on_images(network: Network, pixels: Array) -> list[Array]:
    """``output0`` of a linked network for every image, without its batch axis.

    Args:
        network: Linked, with batch 1.
        pixels: uint8 (B, S, S, 3), already of the network's input size.
    """
    run = open_model(model_from_network(network))
    (name,) = network.inputs
    return [run({name: tensor_from_pixels(image[None])})[OUTPUT][0] for image in pixels]


@dataclass(frozen=True, slots=True)
class ClassAccuracies:
    """Accuracy of a network.

    Attributes:
        value: On all images, in [0, 1].
        per_class: Of every class, in [0, 1]; None where no image shows it.
        n: Number of images.
    """

    value: float
    per_class: tuple[float | None, ...]
    n: int


def hits(network: Network, images: Images) -> Array:
    """Whether each image is classified correctly, bool (B,)."""
    answers = np.array([scores.argmax() for scores in run_on_images(network, images.pixels)])
    return np.asarray(answers == images.labels)


def matches(network: Network, images: Images, classes: int) -> Matches:
    """Detections of every image matched to its boxes."""
    return match_detections(run_on_images(network, images.pixels), images.boxes, classes)


def measure_accuracy(network: Network, images: Images, classes: int) -> Interval:
    """Top-1 accuracy or AP50 with its 95 % interval, and the number of images.

    Args:
        network: Linked for a task of ``classes`` classes.
        images: Of the task, as :func:`task_images` gives them.
        classes: Number of classes of the task.

    Raises:
        DataError: There are no images.
    """
    _need_images(images)
    if images.boxes:
        return matches(network, images, classes).interval()
    correct = hits(network, images)
    return proportion_interval(int(correct.sum()), len(correct))


def class_accuracies(network: Network, images: Images, classes: int) -> ClassAccuracies:
    """Top-1 accuracy or AP50, in all and per class.

    Raises:
        DataError: There are no images.
    """
    _need_images(images)
    if images.boxes:
        found = matches(network, images, classes)
        return ClassAccuracies(found.ap50(), tuple(found.class_ap50()), len(images))
    correct = hits(network, images)
    of_class = (correct[images.labels == c] for c in range(classes))
    per_class = tuple(float(row.mean()) if len(row) else None for row in of_class)
    return ClassAccuracies(float(correct.mean()), per_class, len(images))


def _need_images(images: Images) -> None:
    if not len(images):
        raise DataError("There is no image of these classes to measure the accuracy on.")
