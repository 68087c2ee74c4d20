"""What a module contributes to a task: measured per class when publishing, added over classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..graph.network import Array
from ..library.library import ModuleLibrary
from ..schema import Task

SCALE = 10**9  # about the value of the full network; integers, so that equal means equal
SOURCES = ("full", "half", "blend", "curves", "shared curves")


def class_values(library: ModuleLibrary, source: str) -> Array:
    """(K, sum of (groups + 1)) value of the first 0, 1, .. groups of every block for each class.

    Blocks stand one after the other; every row is scaled so that the full network is worth 1.

    Args:
        library: Holds the measurements.
        source: "full" or "half": sums of first-order importance, measured at full or half
            width; "blend": the mean of both; "curves": fall of the loss of each class when
            a block grows; "shared curves": the same averaged over all classes.

    Source:
        The importance is the first-order Taylor term of Molchanov et al., "Importance Estimation
        for Neural Network Pruning", arXiv:1906.10771, on gates of channel groups and per class.
    """
    if source in ("curves", "shared curves"):
        curves = library.curves
        if source == "shared curves":
            curves = np.broadcast_to(curves.mean(0), curves.shape)
        return _scaled(curves, library)
    if source == "blend":
        return (class_values(library, "full") + class_values(library, "half")) / 2
    importance, parts, start = library.importance[source], [], 0
    for slot in library.blocks:
        part = importance[:, start : start + slot.groups]
        parts.append(np.concatenate((np.zeros((len(part), 1)), np.cumsum(part, 1)), 1))
        start += slot.groups
    return _scaled(np.concatenate(parts, 1), library)


def _scaled(values: Array, library: ModuleLibrary) -> Array:
    ends = np.cumsum([slot.groups + 1 for slot in library.blocks]) - 1
    total = values[:, ends].sum(1, keepdims=True)
    return np.asarray(values / np.maximum(total, 1e-30))


def slot_values(library: ModuleLibrary, task: Task) -> dict[str, tuple[int, ...]]:
    """Per block slot the value of its first 0, 1, .. modules, as integers adding up to 10**9.

    A task's value is the mean over its classes: values are class-additive. Modules are taken in
    the library's rank order, the order in which the supernet was trained to be narrowed.
    """
    rows = class_values(library, library.card["values"]["source"])
    mean = rows[list(library.class_indices(task))].mean(0)
    values: dict[str, tuple[int, ...]] = {}
    start = 0
    for slot in library.blocks:
        part = mean[start : start + slot.groups + 1]
        values[slot.name] = tuple(int(round(SCALE * float(value))) for value in part)
        start += slot.groups + 1
    return values


def class_shares(
    library: ModuleLibrary, classes: Sequence[int], counts: Mapping[str, int]
) -> Array:
    """Value of a plan to each of the classes, as a share of the full plan's, (len(classes),)."""
    rows = class_values(library, library.card["values"]["source"])[list(classes)]
    shares, start = np.zeros(len(rows)), 0
    for slot in library.blocks:
        shares += rows[:, start + counts[slot.name]]
        start += slot.groups + 1
    return shares


def value_share(values: Mapping[str, Sequence[int]], counts: Mapping[str, int]) -> float:
    """Value of a plan as a share of the full plan's, in [0, 1]."""
    whole = sum(row[-1] for row in values.values())
    return sum(values[slot][count] for slot, count in counts.items()) / max(1, whole)
