"""Images and boxes in the network's input: what the runtime in an artifact does, for training.

The runtime is copied into artifacts and may need nothing of ours, and ``factory`` may not import
it either, so the arithmetic is here once more; a test holds both equal, pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .records import Box

PAD_VALUE = 114  # the grey around a letterboxed image

Pixels = NDArray[np.uint8]
Levels = Pixels | NDArray[np.float32]  # between the two passes of a resize, not yet rounded


def letterboxed(image: Pixels, side: int) -> Pixels:
    """The whole image, centered on a grey square; bilinear without antialiasing.

    Args:
        image: (H, W, 3).
        side: Height and width of the square, in pixels.

    Returns:
        (side, side, 3).
    """
    height, width, top, left, _ = _letterbox(image.shape[0], image.shape[1], side)
    canvas = np.full((side, side, 3), PAD_VALUE, np.uint8)
    canvas[top : top + height, left : left + width] = _resized(image, height, width, False)
    return canvas


def center_cropped(image: Pixels, side: int) -> Pixels:
    """The middle of the image: its shorter side fits the square; bilinear and antialiased.

    Args:
        image: (H, W, 3).
        side: Height and width of the square, in pixels.

    Returns:
        (side, side, 3).
    """
    rows, columns = image.shape[:2]
    height, width = max(side, rows * side // columns), max(side, columns * side // rows)
    top, left = round((height - side) / 2), round((width - side) / 2)
    return _resized(image, height, width, True)[top : top + side, left : left + side]


def boxes_letterboxed(
    boxes: Sequence[Box], width: int, height: int, side: int
) -> NDArray[np.float32]:
    """Boxes in a letterboxed image.

    Args:
        boxes: In pixels of the image, inside it.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        side: Side of the square in pixels.

    Returns:
        (M, 5), rows class, x1, y1, x2, y2 in pixels of the square.
    """
    _, _, top, left, gain = _letterbox(height, width, side)
    rows = np.array([(b.label, b.x1, b.y1, b.x2, b.y2) for b in boxes], np.float64).reshape(-1, 5)
    rows[:, 1:] = rows[:, 1:] * gain + (left, top, left, top)
    rows[:, 1:] = rows[:, 1:].clip(0, side)
    return rows.astype(np.float32)


def _letterbox(height: int, width: int, side: int) -> tuple[int, int, int, int, float]:
    """Height, width, top and left in the square, and the gain from image to square pixels."""
    gain = min(side / height, side / width)
    new_height, new_width = max(1, round(height * gain)), max(1, round(width * gain))
    # Odd paddings: the smaller half goes first, as the YOLO family rounds them.
    top, left = round((side - new_height) / 2 - 0.1), round((side - new_width) / 2 - 0.1)
    return new_height, new_width, top, left, gain


def _resized(image: Pixels, height: int, width: int, antialias: bool) -> Pixels:
    """Bilinear resize of (H, W, 3) to (height, width, 3), rounded to whole levels."""
    pixels: Levels = image
    if height != image.shape[0]:
        pixels = _resized_rows(pixels, height, antialias)
    if width != image.shape[1]:
        pixels = _resized_rows(pixels.swapaxes(0, 1), width, antialias).swapaxes(0, 1)
    return np.rint(pixels.astype(np.float32)).clip(0, 255).astype(np.uint8)


def _resized_rows(pixels: Levels, target: int, antialias: bool) -> NDArray[np.float32]:
    """Resize the first axis with a triangle filter, tap by tap."""
    taps, weights = _filter(len(pixels), target, antialias)
    resized = np.zeros((target, *pixels.shape[1:]), np.float32)
    for tap in range(taps.shape[1]):
        weight = weights[:, tap]
        if weight.any():
            resized += pixels[taps[:, tap]] * weight[:, None, None]
    return resized


@lru_cache(maxsize=64)
def _filter(
    source: int, target: int, antialias: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Source rows (target, taps) of every row and their weights; pixel centers at half integers."""
    step = source / target
    support = max(step, 1.0) if antialias else 1.0
    centers = (np.arange(target) + 0.5) * step
    first = np.floor(centers - support).astype(np.int64)
    taps = first[:, None] + np.arange(math.ceil(2 * support) + 1)  # (target, taps)
    weights = np.maximum(0.0, 1.0 - np.abs(taps + 0.5 - centers[:, None]) / support)
    weights *= (taps >= 0) & (taps < source)
    weights /= weights.sum(1, keepdims=True)
    return taps.clip(0, source - 1), weights.astype(np.float32)
