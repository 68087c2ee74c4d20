"""Which narrower, shallower and smaller-sighted networks a training step sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sample_widths(
    full: Sequence[int], empty: Sequence[int], rng: np.random.Generator
) -> tuple[int, ...]:
    """Active groups per slot of one random network.

    A common level in [0, 1] decides how large the network is; small ones, which are asked for most,
    are likelier. Every slot then deviates from it on its own. Slots are skipped with a
    probability that rises as the level falls.

    Args:
        full: Groups of every slot.
        empty: Least groups of every slot, 0 where it can be skipped.
        rng: Source of randomness.
    """
    level = rng.random() ** 1.5
    widths = []
    for most, least in zip(full, empty, strict=True):
        if least == 0 and rng.random() < 0.4 * (1 - level):
            widths.append(0)
            continue
        share = np.clip(level + rng.normal(0.0, 0.2), 0.0, 1.0)
        widths.append(int(max(1, least, round(share * most))))
    return tuple(widths)


def sample_size(sizes: Sequence[int], rng: np.random.Generator) -> int:
    """An input size: the largest one half of the time, else one of the others."""
    largest = max(sizes)
    others = [size for size in sizes if size != largest]
    if not others or rng.random() < 0.5:
        return largest
    return int(rng.choice(others))
