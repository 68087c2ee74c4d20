"""What the first k groups of every block are worth to every class, by leaving out the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..datasets import Images
from ..graph.network import Array
from .importance import balanced_index, image_labels, image_losses, random_tasks
from .network import Classifier, Detector

BATCH = 64
CONTEXTS = (0.5, 0.25)  # widths of the other blocks, as shares


@torch.no_grad()
def measure_curves(
    network: Classifier | Detector,
    images: Images,
    classes: int,
    *,
    per_class: int,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Array:
    """Fall of the loss of every class when a block grows from its least to k groups.

    The other blocks run at half, then at a quarter of their width; the curves of both are
    averaged. Losses are those of :func:`image_losses`, on the same images and tasks throughout,
    so differences are paired. Between the measured widths a curve is straight; it never falls.

    Args:
        network: A trained supernet.
        images: Training images.
        classes: Number of classes K.
        per_class: Images per class.
        seed: Of the choice of images and tasks.
        report: Called with (done, total) evaluations.

    Returns:
        float32 (K, sum of (groups + 1)), block after block, for 0, 1, .. groups.
    """
    rng = np.random.default_rng(seed)
    chosen = images.subset(balanced_index(images, classes, per_class, rng))
    allowed = random_tasks(chosen, classes, rng)
    members = _membership(chosen, classes)
    levels = [_levels(most, least) for most, least in zip(network.full, network.empty, strict=True)]
    total = len(CONTEXTS) * sum(map(len, levels))
    done, curves = 0, []
    for share in CONTEXTS:
        context = [max(1, round(share * most)) for most in network.full]
        parts = []
        for block, counts in enumerate(levels):
            losses = []
            for count in counts:
                widths = tuple(context[:block] + [count] + context[block + 1 :])
                losses.append(members @ _losses(network, chosen, widths, allowed))
                done += 1
                report(done, total)
            parts.append(_curve(np.stack(losses, 1), counts, network.full[block]))
        curves.append(np.concatenate(parts, 1))
    return np.asarray(np.mean(curves, 0), np.float32)


def _membership(images: Images, classes: int) -> Array:
    """(K, B) weights that average over the images of each class."""
    members = np.zeros((classes, len(images)))
    for index, labels in enumerate(image_labels(images)):
        members[labels, index] = 1.0
    return np.asarray(members / np.maximum(members.sum(1, keepdims=True), 1))


def _levels(most: int, least: int) -> list[int]:
    """The widths at which a block is measured: dense where it is narrow."""
    return sorted({least, 1, 2, most // 4, most // 2, 3 * most // 4, most} - {0} | {least})


def _losses(
    network: Classifier | Detector, images: Images, widths: Sequence[int], allowed: torch.Tensor
) -> Array:
    """Loss of every image (B,)."""
    network.eval()
    parts = [
        image_losses(
            network, images.subset(np.arange(start, min(start + BATCH, len(images)))),
            tuple(widths), None, allowed[start : start + BATCH],
        ).numpy()
        for start in range(0, len(images), BATCH)
    ]  # fmt: skip
    return np.concatenate(parts)


def _curve(losses: Array, counts: list[int], most: int) -> Array:
    """(K, most + 1) value for 0, 1, .. groups from losses (K, widths)."""
    gains = np.maximum.accumulate(losses[:, :1] - losses, axis=1)
    return np.stack([np.interp(np.arange(most + 1), counts, row) for row in gains])
