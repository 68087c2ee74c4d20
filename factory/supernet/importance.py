"""How much every channel group contributes to every class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..datasets import Images
from ..graph.network import Array
from .augment import padded_boxes, tensor_from_pixels
from .detection_loss import detection_loss
from .network import Classifier, Detector, boxes_from_distances

BATCH = 32
LARGEST_TASK = 20


def measure_importance(
    network: Classifier | Detector,
    images: Images,
    classes: int,
    *,
    per_class: int,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Array]:
    """First-order importance of every block module for every class: E|g * dL_c/dg| at g = 1.

    L_c is the loss of an image of class c with the logits masked to a random task of 2 to 20
    classes that contains c. At half width only the first half of the groups runs; the others keep
    their importance at full width, scaled so that both agree on the first half.

    Args:
        network: A trained supernet.
        images: Training images.
        classes: Number of classes K.
        per_class: Images per class.
        seed: Of the choice of images and tasks.
        report: Called with (done, total) batches.

    Returns:
        "full" and "half": float32 (K, M) over all block modules, slot after slot.
    """
    rng = np.random.default_rng(seed)
    index = balanced_index(images, classes, per_class, rng)
    half = tuple(
        max(least, (most + 1) // 2) or 1
        for most, least in zip(network.full, network.empty, strict=True)
    )
    total = 2 * -(-len(index) // BATCH)
    results = {}
    for position, (name, widths) in enumerate((("full", None), ("half", half))):
        sums = np.zeros((classes, sum(network.full)))
        counts = np.zeros(classes)
        for number, start in enumerate(range(0, len(index), BATCH)):
            chosen = images.subset(index[start : start + BATCH])
            gradients = _gate_gradients(network, chosen, widths, classes, rng)
            for row, labels in zip(gradients, image_labels(chosen), strict=True):
                for label in labels:
                    sums[label] += row
                    counts[label] += 1
            report(position * total // 2 + number + 1, total)
        results[name] = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    results["half"] = _filled(results["full"], results["half"], network.full, half)
    return results


def balanced_index(
    images: Images, classes: int, per_class: int, rng: np.random.Generator
) -> np.ndarray:
    """Up to ``per_class`` images of every class, shuffled."""
    by_class: list[list[int]] = [[] for _ in range(classes)]
    for i, labels in enumerate(image_labels(images)):
        for label in labels[:1]:
            by_class[label].append(i)
    chosen = [rng.permutation(rows)[:per_class] for rows in by_class if rows]
    return rng.permutation(np.concatenate(chosen)).astype(np.int64)


def image_labels(images: Images) -> list[list[int]]:
    """Classes in every image."""
    if images.boxes:
        return [sorted({int(label) for label in rows[:, 0]}) for rows in images.boxes]
    return [[int(label)] for label in images.labels]


def _gate_gradients(
    network: Classifier | Detector,
    images: Images,
    widths: tuple[int, ...] | None,
    classes: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """|dL/dg| per image and block module, (B, M); zero for modules that do not run."""
    network.eval()
    running = network.full if widths is None else widths
    gates = [torch.ones(len(images), width, requires_grad=True) for width in running]
    loss = image_losses(network, images, widths, gates, random_tasks(images, classes, rng))
    gradients = torch.autograd.grad(loss.sum(), gates)
    padded = [
        F.pad(gradient.abs(), (0, most - gradient.shape[1]))
        for gradient, most in zip(gradients, network.full, strict=True)
    ]
    return np.asarray(torch.cat(padded, 1).numpy())


def image_losses(
    network: Classifier | Detector,
    images: Images,
    widths: tuple[int, ...] | None,
    gates: list[Tensor] | None,
    allowed: Tensor,
) -> Tensor:
    """Loss of every image (B,) with the logits masked to its task.

    Args:
        network: The supernet, in evaluation mode.
        images: Images with labels or boxes.
        widths: Active groups per block; None is the full network.
        gates: Factors of the groups (B, width) per block, or None.
        allowed: Which classes count for each image, (B, K) bool.
    """
    inputs = tensor_from_pixels(images.pixels)
    if isinstance(network, Classifier):
        return _class_loss(network, inputs, images, widths, gates, allowed)
    return _box_loss(network, inputs, images, widths, gates, allowed)


def random_tasks(images: Images, classes: int, rng: np.random.Generator) -> Tensor:
    """One random task per image that contains the image's classes, (B, K) bool."""
    allowed = np.zeros((len(images), classes), bool)
    for row, labels in zip(allowed, image_labels(images), strict=True):
        size = int(rng.integers(min(2, classes), min(LARGEST_TASK, classes) + 1))
        row[rng.choice(classes, size, replace=False)] = True
        row[labels] = True
    return torch.from_numpy(allowed)


def _class_loss(
    network: Classifier, inputs: Tensor, images: Images, widths: tuple[int, ...] | None,
    gates: list[Tensor] | None, allowed: Tensor,
) -> Tensor:  # fmt: skip
    logits = network(inputs, widths, gates)
    masked = logits.masked_fill(~allowed, -1e4)
    return F.cross_entropy(masked, torch.from_numpy(images.labels), reduction="none")


def _box_loss(
    network: Detector, inputs: Tensor, images: Images, widths: tuple[int, ...] | None,
    gates: list[Tensor] | None, allowed: Tensor,
) -> Tensor:  # fmt: skip
    logits, raw = network(inputs, widths, gates)
    centers, strides = network.anchors(inputs.shape[2])
    targets = padded_boxes(images.boxes)
    masked = logits.masked_fill(~allowed[:, None], -1e4)
    boxes_xyxy = boxes_from_distances(raw, centers, strides)
    return detection_loss(masked, boxes_xyxy, torch.from_numpy(targets), centers, strides, top=1)


def _filled(full: Array, half: Array, groups: tuple[int, ...], widths: tuple[int, ...]) -> Array:
    """Half-width importance with the modules that did not run taken from the full width."""
    result, start = half.copy(), 0
    for most, width in zip(groups, widths, strict=True):
        ran, rest = slice(start, start + width), slice(start + width, start + most)
        known = full[:, ran].sum(1, keepdims=True)
        result[:, rest] = (
            full[:, rest] * half[:, ran].sum(1, keepdims=True) / np.maximum(known, 1e-30)
        )
        start += most
    return result
