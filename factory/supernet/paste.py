"""Objects of other images pasted onto images: then what lies behind an object says nothing of it.

Copy-paste augmentation (Ghiasi et al., arXiv:2012.07177) cuts objects out along their masks. Boxes
have none: here a margin of what surrounds the object comes along, fades out, and takes on the tone
of the place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[np.float32]

MOST = 3  # objects that an image gets
LEAST_PIXELS, LARGEST = 6, 0.6  # of an object's sides; its longest one as a share of the image
MARGIN = (0.05, 0.25)  # of the longest side, all around
ZOOM = (0.6, 1.5)
COVERED = 0.1  # of the smaller one of an object and what is pasted, where they overlap
TRIES = 5  # to find a free place


def pasted(
    images: Tensor, boxes: Sequence[Array], share: float, rng: np.random.Generator
) -> tuple[Tensor, list[Array]]:
    """Images with up to three more objects each, and their boxes.

    Args:
        images: (B, 3, S, S) in [0, 1].
        boxes: Per image (M, 5), rows class, x1, y1, x2, y2 in pixels.
        share: Of the images that get any, in [0, 1].
        rng: Source of randomness.
    """
    result, rows = images.clone(), [np.asarray(mine, np.float32) for mine in boxes]
    for target in np.flatnonzero(rng.random(len(images)) < share):
        for _ in range(int(rng.integers(1, MOST + 1))):
            source = int(rng.integers(len(images)))
            if not len(boxes[source]):
                continue
            box = boxes[source][rng.integers(len(boxes[source]))]
            patch = _patch(images[source], box, rng)
            corner = None if patch is None else _free_place(rows[target], patch, images, rng)
            if patch is None or corner is None:
                continue
            _blend_(result[target], patch, corner, tone=float(rng.uniform(0.5, 1)))
            new = np.array([[box[0], *(patch.inner + [*corner, *corner])]], np.float32)
            rows[target] = np.concatenate([rows[target], new])
    return result, rows


@dataclass(frozen=True, slots=True, eq=False)
class _Patch:
    """An object with its margin.

    Attributes:
        pixels: (3, H, W).
        inner: Box of the object in it, (4,).
    """

    pixels: Tensor
    inner: NDArray[np.float64]


def _patch(image: Tensor, box: Array, rng: np.random.Generator) -> _Patch | None:
    """An object at another size, mirrored and turned at random; None where it is too small."""
    side = image.shape[2]
    reach = box[3:] - box[1:3]
    if reach.min() < LEAST_PIXELS:
        return None
    margin = rng.uniform(*MARGIN) * reach.max()
    low = np.maximum(0, np.floor(box[1:3] - margin)).astype(int)
    high = np.minimum(side, np.ceil(box[3:] + margin)).astype(int)
    zoom = np.exp(rng.uniform(*np.log(ZOOM)))
    zoom = min(zoom, LARGEST * side / (high - low).max())
    width, height = np.maximum(LEAST_PIXELS, np.rint(zoom * (high - low)).astype(int))
    cut = image[None, :, low[1] : high[1], low[0] : high[0]]
    pixels = F.interpolate(cut, (height, width), mode="bilinear", antialias=True)[0]
    scale = np.array([width, height]) / (high - low)
    x, y = (np.stack([box[1:3], box[3:]], 1).astype(np.float64) - low[:, None]) * scale[:, None]
    if rng.random() < 0.5:
        pixels, x = pixels.flip(2), width - x[::-1]
    if rng.random() < 0.5:
        pixels, y = pixels.flip(1), height - y[::-1]
    if rng.random() < 0.5:
        pixels, x, y = pixels.transpose(1, 2), y, x
    return _Patch(pixels, np.array([x[0], y[0], x[1], y[1]]))


def _free_place(
    rows: Array, patch: _Patch, images: Tensor, rng: np.random.Generator
) -> tuple[int, int] | None:
    """A corner (x, y) where the object hides no other one; None where none was found."""
    height, width = patch.pixels.shape[1:]
    for _ in range(TRIES):
        x = int(rng.integers(images.shape[3] - width + 1))
        y = int(rng.integers(images.shape[2] - height + 1))
        shared = np.minimum(rows[:, 3:], [x + width, y + height]) - np.maximum(rows[:, 1:3], [x, y])
        least = np.minimum(np.prod(rows[:, 3:] - rows[:, 1:3], 1), width * height)
        covered = np.prod(shared.clip(0), 1) / np.maximum(1, least)
        if not (covered > COVERED).any():
            return x, y
    return None


def _blend_(image: Tensor, patch: _Patch, corner: tuple[int, int], *, tone: float) -> None:
    """Paste a patch, faded towards its border, with a share of the tone of its new place."""
    (x, y), (height, width) = corner, patch.pixels.shape[1:]
    place = image[:, y : y + height, x : x + width]
    pixels = patch.pixels
    border = torch.cat([pixels[:, 0], pixels[:, -1], pixels[..., 0], pixels[..., -1]], 1).mean(1)
    toned = pixels + tone * (place.mean((1, 2)) - border)[:, None, None]
    x1, y1, x2, y2 = patch.inner
    alpha = _ramp(height, y1, y2)[:, None] * _ramp(width, x1, x2)
    place.copy_(torch.lerp(place, toned.clamp(0, 1), alpha))


def _ramp(size: int, low: float, high: float) -> Tensor:
    """1 between two places, falling to 0 at both ends, (size,)."""
    middle = torch.arange(size) + 0.5
    rising, falling = middle / max(low, 1.0), (size - middle) / max(size - high, 1.0)
    return torch.minimum(rising, falling).clamp(0, 1)
