"""Augmentation of training batches in memory."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[np.float32]

MAX_BOXES = 8  # boxes kept per training image


def tensor_from_pixels(pixels: NDArray[np.uint8]) -> Tensor:
    """Float images (B, 3, H, W) in [0, 1] from uint8 (B, H, W, 3)."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255.0


def augment_cls(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Random shift by up to an eighth of the side (border reflected), flip, sharpness and gain."""
    b, _, h, w = images.shape
    pad = h // 8
    padded = F.pad(images, (pad,) * 4, mode="reflect")
    dy = torch.from_numpy(rng.integers(0, 2 * pad + 1, b))
    dx = torch.from_numpy(rng.integers(0, 2 * pad + 1, b))
    flip = torch.from_numpy(rng.random(b) < 0.5)
    rows = dy[:, None] + torch.arange(h)
    columns = torch.where(flip[:, None], torch.arange(w).flip(0), torch.arange(w)) + dx[:, None]
    moved = padded[torch.arange(b)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    moved = moved.permute(0, 3, 1, 2)
    gain = torch.from_numpy(rng.uniform(0.8, 1.2, (b, 1, 1, 1)).astype(np.float32))
    return (_sharpened(moved, rng) * gain).clamp(0, 1)


def _sharpened(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Images blurred or sharpened at random.

    How an image was made small decides how sharp it is, and every app does that in its own way:
    without this, sharpening by half costs a small network eight points.
    """
    amount = torch.from_numpy(rng.uniform(-0.4, 1.2, (len(images), 1, 1, 1)).astype(np.float32))
    smooth = F.avg_pool2d(F.pad(images, (1,) * 4, mode="reflect"), 3, 1)
    return images + amount * (images - smooth)


def augment_det(
    images: Tensor, boxes: list[Array], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Random zoom, shift, flips, quarter turns, and colour; boxes follow.

    Args:
        images: (B, 3, S, S) in [0, 1].
        boxes: Per image (M, 5), rows class, x1, y1, x2, y2 in pixels.
        rng: Source of randomness.

    Returns:
        Images of the same shape, and boxes (B, MAX_BOXES, 5) padded with class -1. A box with
        less than 40 % of its area left in the picture is dropped.
    """
    b, _, side, _ = images.shape
    matrices = np.empty((b, 2, 3), np.float32)
    targets = np.full((b, MAX_BOXES, 5), -1, np.float32)
    for i in range(b):
        zoom = np.exp(rng.uniform(np.log(0.65), np.log(1.7)))
        room = abs(1 - 1 / zoom) + 0.1
        shift = rng.uniform(-room, room, 2)
        linear = _quarter_turn(int(rng.integers(4)), bool(rng.random() < 0.5)) / zoom
        matrices[i, :, :2], matrices[i, :, 2] = linear, shift
        targets[i] = _move_boxes(boxes[i], linear, shift, side)
    grid = F.affine_grid(torch.from_numpy(matrices), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gain = torch.from_numpy(rng.uniform(0.7, 1.3, (b, 1, 1, 1)).astype(np.float32))
    tint = torch.from_numpy(rng.uniform(0.9, 1.1, (b, 3, 1, 1)).astype(np.float32))
    middle = moved.mean((1, 2, 3), keepdim=True)
    contrast = torch.from_numpy(rng.uniform(0.7, 1.3, (b, 1, 1, 1)).astype(np.float32))
    colored = ((moved - middle) * contrast + middle) * gain * tint
    return colored.clamp(0, 1), torch.from_numpy(targets)


def _quarter_turn(turns: int, flip: bool) -> NDArray[np.float32]:
    turn = np.array([[0, -1], [1, 0]], np.float32)
    linear = np.linalg.matrix_power(turn, turns)
    return linear * np.array([[-1.0], [1.0]], np.float32) if flip else linear


def _move_boxes(
    boxes: Array, linear: NDArray[np.float32], shift: NDArray[np.float64], side: int
) -> NDArray[np.float32]:
    """Boxes after the picture was resampled at ``linear @ p + shift`` (p in [-1, 1])."""
    target = np.full((MAX_BOXES, 5), -1, np.float32)
    if not len(boxes):
        return target
    corners = boxes[:, 1:].reshape(-1, 2, 2) * (2 / side) - 1  # (M, 2 corners, xy)
    moved = (corners - shift) @ np.linalg.inv(linear).T
    low, high = moved.min(1), moved.max(1)
    kept_low, kept_high = low.clip(-1, 1), high.clip(-1, 1)
    area = np.prod(high - low, 1)
    inside = np.prod(kept_high - kept_low, 1) >= 0.4 * area
    rows = np.concatenate((boxes[:, :1], (kept_low + 1) * side / 2, (kept_high + 1) * side / 2), 1)
    rows = rows[inside][:MAX_BOXES]
    target[: len(rows)] = rows
    return target
