"""How accurate the full network is on classes at an input size: what estimates start from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..graph.network import Array
from ..library.library import ModuleLibrary
from ..schema import Task
from .accuracy import logit

STEP = 0.1  # logits, at most 2.5 points of accuracy: what more pixels are worth at least
LEAST_CLASSES, STANDARD_ERRORS = 6, 2.0  # sure: about 95 % one-sided, by Student's t


def task_strength(library: ModuleLibrary, task: Task) -> float:
    """Accuracy of the full network on a task's classes at the library's input size, in [0, 1].

    It is measured on validation images at the largest size. A smaller one moves the logits of all
    tasks alike, by what it does to the mean over all classes: that estimates better than what it
    seems to do to the few classes of a task (decision 9).
    """
    mine = _measured(library, max(library.sizes))[list(library.class_indices(task))]
    return float(moved(np.array([mine.mean()]), size_effect(library))[0])


def class_strengths(library: ModuleLibrary, classes: Sequence[int]) -> Array:
    """The same for single classes, by their positions: (K,)."""
    return moved(_measured(library, max(library.sizes))[list(classes)], size_effect(library))


def moved(accuracies: Array, by: float) -> Array:
    """Accuracies (N,) whose logits are moved; exactly the same ones where nothing is."""
    return np.asarray(1 / (1 + np.exp(-logit(accuracies) - by))) if by else accuracies


def size_effect(library: ModuleLibrary) -> float:
    """Logit of the full network's accuracy at the library's size, less that at the largest one."""
    mine, largest = (_measured(library, s) for s in (library.input_size, max(library.sizes)))
    return float(logit(mine.mean()) - logit(largest.mean()))


def doubt_of(library: ModuleLibrary) -> float:
    """How much better than believed the full network seemed at the library's size, in logits.

    The same network seeing less is not believed to be better: from any larger size to a smaller one
    its accuracy falls as was measured and by a step at least, unless it surely rises. Differences
    by class, not by image, say what is sure, because images of a class can be alike (frames of one
    video).

    Returns:
        At least 0; 0 at the largest size.
    """
    larger: list[tuple[Array, float, float]] = []  # accuracies, their logit, what is believed
    for size in library.input_sizes:
        mine = _measured(library, size)
        seems = float(logit(mine.mean()))
        most = [
            believed + min(seems - seemed, -STEP)
            for other, seemed, believed in larger
            if not is_surely_above(mine - other)
        ]
        larger.append((mine, seems, min([seems, *most])))
        if size == library.input_size:
            break
    _, seems, believed = larger[-1]
    return seems - believed


def is_surely_above(differences: Array) -> bool:
    """Whether the mean of paired differences (N,) is above 0 by two standard errors."""
    count = len(differences)
    if count < LEAST_CLASSES:
        return False
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    return float(differences.mean()) > STANDARD_ERRORS * error


def _measured(library: ModuleLibrary, size: int) -> Array:
    """Accuracy of the full network on each class at an input size (K,)."""
    return np.array(library.sizes[size].accuracy["per_class"], np.float64)
