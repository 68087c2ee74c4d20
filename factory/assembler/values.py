"""What a module contributes to a task: importance measured per class when publishing."""

from __future__ import annotations

import numpy as np

from ..graph.network import Array
from ..library.library import ModuleLibrary
from ..schema import Task

SCALE = 10**9  # the value of the full network; values are integers so that equal means equal
WIDTHS = ("full", "half", "blend")


def class_shares(library: ModuleLibrary, width: str) -> Array:
    """(K, M) share of every block module in the importance of each class; rows sum to 1.

    Args:
        library: Holds the importance at full and half width.
        width: "full", "half", or "blend", the mean of both.
    """
    shares = {
        name: array / np.maximum(array.sum(1, keepdims=True), 1e-30)
        for name, array in library.importance.items()
    }
    if width == "blend":
        return np.asarray((shares["full"] + shares["half"]) / 2)
    return np.asarray(shares[width])


def slot_values(library: ModuleLibrary, task: Task) -> dict[str, tuple[int, ...]]:
    """Per block slot the value of its first 0, 1, .. modules, as integers; the full plan is 10**9.

    A task's value is the mean over its classes: values are class-additive. Modules are taken in
    the library's rank order, the order in which the supernet was trained to be narrowed.

    Source:
        First-order Taylor importance of Molchanov et al., "Importance Estimation for Neural
        Network Pruning", arXiv:1906.10771, on gates of channel groups and per class.
    """
    width = library.card["values"]["width"]
    shares = class_shares(library, width)[list(library.class_indices(task))].mean(0)
    values: dict[str, tuple[int, ...]] = {}
    start = 0
    for slot in library.blocks:
        part = shares[start : start + slot.groups]
        sums = np.concatenate(([0.0], np.cumsum(part)))
        values[slot.name] = tuple(int(round(SCALE * value)) for value in sums)
        start += slot.groups
    return values
