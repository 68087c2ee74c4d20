"""How far one network is behind another on the same images, with an interval."""

from __future__ import annotations

import numpy as np

from nnfactory.factory.graph.network import Array

DRAWS = 2000


def behind(reference: Array, right: Array) -> dict[str, float]:
    """Columns "behind", "low" and "high": the mean gap and its 95 % interval, by bootstrap.

    Args:
        reference: Whether the reference is right, per image.
        right: The same of the other network.
    """
    gap = reference.astype(float) - right
    drawn = np.random.default_rng(0).integers(0, len(gap), (DRAWS, len(gap)))
    low, high = np.quantile(gap[drawn].mean(1), [0.025, 0.975])
    found = {"behind": float(gap.mean()), "low": float(low), "high": float(high)}
    return {name: round(value, 4) for name, value in found.items()}
