"""Augmentation of training batches in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[np.float32]


def tensor_from_pixels(pixels: NDArray[np.uint8]) -> Tensor:
    """Float images (B, 3, H, W) in [0, 1] from uint8 (B, H, W, 3)."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255.0


@dataclass(frozen=True, slots=True)
class Views:
    """How each image of a batch is shifted and mirrored.

    Attributes:
        dy: Rows of the window's upper edge, (B,), in 0..2 pad.
        dx: Columns of its left edge, (B,).
        flip: Whether it is mirrored, (B,).
    """

    dy: NDArray[np.int64]
    dx: NDArray[np.int64]
    flip: NDArray[np.bool_]

    def __getitem__(self, index: NDArray[np.int64]) -> Views:
        return Views(self.dy[index], self.dx[index], self.flip[index])


def random_views(count: int, side: int, rng: np.random.Generator) -> Views:
    """Shifts of up to an eighth of the side, half of them mirrored."""
    room = 2 * (side // 8) + 1
    return Views(
        rng.integers(0, room, count), rng.integers(0, room, count), rng.random(count) < 0.5
    )


def moved(images: Tensor, views: Views) -> Tensor:
    """Images (B, 3, S, S) seen through their views; the border is reflected."""
    b, _, h, w = images.shape
    padded = F.pad(images, (h // 8,) * 4, mode="reflect")
    flip = torch.from_numpy(views.flip)
    rows = torch.from_numpy(views.dy)[:, None] + torch.arange(h)
    columns = torch.where(flip[:, None], torch.arange(w).flip(0), torch.arange(w))
    columns = columns + torch.from_numpy(views.dx)[:, None]
    seen = padded[torch.arange(b)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return seen.permute(0, 3, 1, 2)


def augment_cls(images: Tensor, views: Views, rng: np.random.Generator) -> Tensor:
    """The views of images (B, 3, S, S) in [0, 1], with random sharpness and gain."""
    gain = torch.from_numpy(rng.uniform(0.8, 1.2, (len(images), 1, 1, 1)).astype(np.float32))
    return (_sharpened(moved(images, views), rng) * gain).clamp(0, 1)


def _sharpened(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Images blurred or sharpened at random.

    How an image was made small decides how sharp it is, and every app does that in its own way:
    without this, sharpening by half costs a small network eight points.
    """
    amount = torch.from_numpy(rng.uniform(-0.4, 1.2, (len(images), 1, 1, 1)).astype(np.float32))
    smooth = F.avg_pool2d(F.pad(images, (1,) * 4, mode="reflect"), 3, 1)
    return images + amount * (images - smooth)


def resized(images: Tensor, size: int) -> Tensor:
    """Images (B, 3, S, S) made (B, 3, size, size), antialiased."""
    if images.shape[2] == size:
        return images
    smaller = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return smaller.contiguous(memory_format=torch.channels_last)


def augment_det(
    images: Tensor, boxes: list[Array], rng: np.random.Generator, *, mosaic: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Random zoom, shift, flips, quarter turns, mosaics and colour; boxes follow.

    Args:
        images: (B, 3, S, S) in [0, 1].
        boxes: Per image (M, 5), rows class, x1, y1, x2, y2 in pixels.
        rng: Source of randomness.
        mosaic: Share of the results that show four images, each around one of its boxes.

    Returns:
        Images of the same shape, and boxes (B, M, 5) padded with class -1. A box with
        less than 40 % of its area left in the picture is dropped.
    """
    b, _, side, _ = images.shape
    canvas = torch.empty_like(images)
    rows: list[list[Array]] = [[] for _ in range(b)]
    in_four = rng.random(b) < mosaic
    half = side // 2
    parts = [(np.flatnonzero(~in_four), 0, 0, side)] + [
        (np.flatnonzero(in_four), x, y, half) for x in (0, half) for y in (0, half)
    ]
    for places, x, y, extent in parts:
        if not len(places):
            continue
        sources = places if extent == side else rng.integers(0, b, len(places))
        views = [
            _random_view(rng) if extent == side else _view_of_box(boxes[i], side, rng)
            for i in sources
        ]
        matrices = np.stack([np.column_stack(view) for view in views]).astype(np.float32)
        shape = [len(places), 3, extent, extent]
        grid = F.affine_grid(torch.from_numpy(matrices), shape, align_corners=False)
        canvas[places, :, y : y + extent, x : x + extent] = F.grid_sample(
            images[sources], grid, padding_mode="reflection", align_corners=False
        )
        for place, source, view in zip(places, sources, views, strict=True):
            kept = _move_boxes(boxes[source], *view, side, extent)
            rows[place].append(kept + np.array([0, x, y, x, y], np.float32))
    return _recolored(canvas, rng), torch.from_numpy(
        padded_boxes([np.concatenate(parts) for parts in rows])
    )


def mirrored(
    images: Tensor, boxes: Sequence[Array], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Half of the images mirrored left to right, and boxes (B, M, 5) padded with class -1."""
    side = images.shape[3]
    flip = rng.random(len(images)) < 0.5
    turned = torch.where(torch.from_numpy(flip)[:, None, None, None], images.flip(3), images)
    rows = []
    for mine, is_flipped in zip(boxes, flip, strict=True):
        rows.append(mine.copy())
        if is_flipped:
            rows[-1][:, [1, 3]] = side - mine[:, [3, 1]]
    return turned, torch.from_numpy(padded_boxes(rows))


def _recolored(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Random contrast, brightness and tint per image."""
    b = len(images)
    gain = torch.from_numpy(rng.uniform(0.7, 1.3, (b, 1, 1, 1)).astype(np.float32))
    tint = torch.from_numpy(rng.uniform(0.9, 1.1, (b, 3, 1, 1)).astype(np.float32))
    middle = images.mean((1, 2, 3), keepdim=True)
    contrast = torch.from_numpy(rng.uniform(0.7, 1.3, (b, 1, 1, 1)).astype(np.float32))
    return (((images - middle) * contrast + middle) * gain * tint).clamp(0, 1)


def padded_boxes(boxes: Sequence[Array]) -> NDArray[np.float32]:
    """Boxes of every image in one array (B, M, 5), padded with class -1; M is at least 1."""
    most = max([1, *(len(rows) for rows in boxes)])
    targets = np.full((len(boxes), most, 5), -1, np.float32)
    for target, rows in zip(targets, boxes, strict=True):
        target[: len(rows)] = rows
    return targets


# A view samples its source at ``linear @ p + shift``, p and the result in [-1, 1].
View = tuple[NDArray[np.float64], NDArray[np.float64]]


def _random_view(rng: np.random.Generator) -> View:
    zoom = np.exp(rng.uniform(np.log(0.65), np.log(1.7)))
    room = abs(1 - 1 / zoom) + 0.1
    shift = rng.uniform(-room, room, 2)
    return _quarter_turn(int(rng.integers(4)), bool(rng.random() < 0.5)) / zoom, shift


def _view_of_box(boxes: Array, side: int, rng: np.random.Generator) -> View:
    """A view for a quarter of a mosaic that holds one of the boxes, if there is any."""
    extent = np.exp(rng.uniform(np.log(0.35), 0.0))  # half the side of what is seen
    middle = rng.uniform(-0.5, 0.5, 2)
    if len(boxes):
        corners = boxes[rng.integers(len(boxes)), 1:].reshape(2, 2) * (2 / side) - 1
        reach = (corners[1] - corners[0]) / 2
        extent = float(np.clip(1.1 * reach.max(), extent, 1.0))
        room = np.maximum(extent - reach, 0.0)
        middle = corners.mean(0) + rng.uniform(-1, 1, 2) * room
    middle = np.clip(middle, extent - 1, 1 - extent)  # inside the source: no mirrored objects
    turn = _quarter_turn(int(rng.integers(4)), bool(rng.random() < 0.5))
    return turn * extent, middle


def _quarter_turn(turns: int, flip: bool) -> NDArray[np.float64]:
    linear = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), turns)
    return linear * np.array([[-1.0], [1.0]]) if flip else linear


def _move_boxes(
    boxes: Array,
    linear: NDArray[np.float64],
    shift: NDArray[np.float64],
    side: int,
    extent: int,
) -> NDArray[np.float32]:
    """Boxes (M', 5) in pixels of a view of ``extent`` pixels of a source of ``side``."""
    if not len(boxes):
        return np.empty((0, 5), np.float32)
    corners = boxes[:, 1:].reshape(-1, 2, 2) * (2 / side) - 1  # (M, 2 corners, xy)
    moved = (corners - shift) @ np.linalg.inv(linear).T
    low, high = moved.min(1), moved.max(1)
    kept_low, kept_high = low.clip(-1, 1), high.clip(-1, 1)
    inside = np.prod(kept_high - kept_low, 1) >= 0.4 * np.prod(high - low, 1)
    pixels = (np.concatenate((kept_low, kept_high), 1) + 1) * extent / 2
    rows = np.concatenate((boxes[:, :1], pixels), 1)[inside]
    return np.asarray(rows, np.float32)
