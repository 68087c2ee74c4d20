"""Knees of a rising curve: where more of the one begins to buy less of the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def knees(x: Sequence[float], y: Sequence[float], *, drop: float = 0.03) -> list[int]:
    """Positions of the knees of a curve, from left to right.

    Both axes are scaled to [0, 1]. A knee is the highest point above the diagonal of a stretch that
    ends where the height has fallen by ``drop``, and begins where it rises from there again.

    Args:
        x: Strictly rising.
        y: Rising.
        drop: Larger is stricter, in (0, 1).

    Source:
        After Satopaa et al., "Finding a 'Kneedle' in a Haystack", 2011: without the smoothing,
        and with a fixed threshold instead of mean steps, so that finer curves have no more knees.
    """
    if len(x) < 3 or y[-1] == y[0]:
        return []
    along = (np.asarray(x) - x[0]) / (x[-1] - x[0])
    height = (np.asarray(y) - y[0]) / (y[-1] - y[0]) - along
    found, top, bottom, is_rising = [], 0, 0, True
    for position in range(1, len(height)):
        if is_rising and height[position] > height[top]:
            top = position
        elif is_rising and height[position] <= height[top] - drop:
            found.append(top)
            bottom, is_rising = position, False
        elif not is_rising and height[position] < height[bottom]:
            bottom = position
        elif not is_rising and height[position] > height[bottom] + drop:
            top, is_rising = position, True
    return [top for top in found if top > 0]
