"""Values of modules by regression on the losses of random networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import nnls

from nnfactory.factory.datasets import Images
from nnfactory.factory.graph.network import Array
from nnfactory.factory.sampling import sample_widths
from nnfactory.factory.supernet.importance import image_labels, image_losses, random_tasks
from nnfactory.factory.supernet.network import Classifier, Detector

BATCH = {"cls": 128, "det": 16}  # images per network
SMOOTH = 0.3  # of the difference of neighboring steps of a curve


@torch.no_grad()
def regressed_curves(
    network: Classifier | Detector, images: Images, classes: int, *, plans: int, seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Array, Array]:  # fmt: skip
    """Monotone curves of every block, additive over blocks, fitted to losses of random networks.

    What is fitted is the rise of the loss above that of the full network on the same images and
    tasks, which takes out how hard they are. A class differs from the others by a factor per block:
    single steps are too many for the few images of a class.

    Args:
        network: The supernet.
        images: Training images.
        classes: Number of classes K.
        plans: Random networks.
        seed: Of networks, images and tasks.
        report: Called with (done, total) networks.

    Returns:
        Shared curves (1, J) and those per class (K, J), for 0, 1, .. groups, block after block.
    """
    rng = np.random.default_rng(seed)
    network.eval()
    batch = BATCH["cls" if isinstance(network, Classifier) else "det"]
    widths, rises, labels = [], [], []
    for number in range(plans):
        chosen = images.subset(rng.choice(len(images), batch, replace=False))
        allowed = random_tasks(chosen, classes, rng)
        drawn = sample_widths(network.full, network.empty, rng)
        small, whole = (
            image_losses(network, chosen, w, None, allowed).numpy() for w in (drawn, network.full)
        )
        widths.append(drawn)
        rises.append(small - whole)
        labels.append(image_labels(chosen))
        report(number + 1, plans)
    absent = np.concatenate(
        [
            np.array([[j >= drawn[b] for j in range(most)] for drawn in widths], float)
            for b, most in enumerate(network.full)
        ],
        1,
    )  # (plans, sum of groups): which groups are missing
    steps = _shared_steps(absent, np.array([rise.mean() for rise in rises]), network.full)
    shared = _curves(steps[None], network.full)
    return shared, _per_class(steps, absent, rises, labels, network.full, classes)


def _shared_steps(absent: Array, rise: Array, full: tuple[int, ...]) -> Array:
    """What every group is worth, (sum of groups,), none less than nothing."""
    rows = []
    start = 0
    for most in full:
        for j in range(most - 1):
            row = np.zeros(absent.shape[1])
            row[start + j], row[start + j + 1] = SMOOTH, -SMOOTH
            rows.append(row)
        start += most
    design = np.concatenate((absent, np.stack(rows)))
    return np.asarray(nnls(design, np.concatenate((rise, np.zeros(len(rows)))))[0])


def _per_class(
    steps: Array, absent: Array, rises: list[Array], labels: list[list[list[int]]],
    full: tuple[int, ...], classes: int,
) -> Array:  # fmt: skip
    """Curves (K, J): the shared ones, each block times a factor of the class."""
    ends = np.cumsum(full)
    missing = np.stack(
        [(absent[:, e - m : e] * steps[e - m : e]).sum(1) for e, m in zip(ends, full, strict=True)],
        1,
    )  # (plans, blocks): what every plan lacks by the shared curves
    found = np.empty((classes, len(steps)))
    for label in range(classes):
        seen = [
            (missing[plan], float(np.mean(mine)))
            for plan, (rise, shown) in enumerate(zip(rises, labels, strict=True))
            if (mine := [r for r, ls in zip(rise, shown, strict=True) if label in ls])
        ]
        design, rise = (np.array(part) for part in zip(*seen, strict=True))
        hold = np.sqrt(len(seen) * (design**2).mean()) * np.eye(len(full))
        factors = nnls(np.concatenate((design, hold)), np.append(rise, hold.sum(1)))[0]
        found[label] = steps * np.repeat(factors, full)
    return _curves(found, full)


def _curves(steps: Array, full: tuple[int, ...]) -> Array:
    """(K, J) values of 0, 1, .. groups from what every group is worth."""
    parts, start = [], 0
    for most in full:
        part = steps[:, start : start + most]
        parts.append(np.concatenate((np.zeros((len(part), 1)), np.cumsum(part, 1)), 1))
        start += most
    return np.concatenate(parts, 1)
