"""Which narrower and shallower networks a training step sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sample_widths(
    full: Sequence[int], empty: Sequence[int], rng: np.random.Generator
) -> tuple[int, ...]:
    """Active groups per slot of one random network.

    A common level in [0, 1] decides how large the network is, so that small and large ones are
    equally likely; every slot then deviates from it on its own. Slots are skipped with a
    probability that rises as the level falls.

    Args:
        full: Groups of every slot.
        empty: Least groups of every slot, 0 where it can be skipped.
        rng: Source of randomness.
    """
    level = rng.random()
    widths = []
    for most, least in zip(full, empty, strict=True):
        if least == 0 and rng.random() < 0.4 * (1 - level):
            widths.append(0)
            continue
        share = np.clip(level + rng.normal(0.0, 0.2), 0.0, 1.0)
        widths.append(int(max(1, least, round(share * most))))
    return tuple(widths)
