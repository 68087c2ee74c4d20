"""Random changes of light, color and sharpness that leave labels and boxes as they are.

After RandAugment (Cubuk et al., arXiv:1909.13719): each image gets a few of the changes, drawn
without replacement, here each with a strength of its own up to the full one instead of one that is
tuned. Its geometric changes are left out: boxes could not follow a shear, and views already move.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Change = Callable[[Tensor, Tensor, np.random.Generator], Tensor]


def altered(images: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Every image with ``count`` of the changes.

    Args:
        images: (B, 3, H, W) in [0, 1].
        count: Changes per image, from 0 to the number of :data:`CHANGES`.
        rng: Source of randomness.
    """
    if not count:
        return images
    drawn = np.argsort(rng.random((len(images), len(CHANGES))), 1)[:, :count]
    result = images.clone()
    for number, change in enumerate(CHANGES):
        chosen = np.flatnonzero((drawn == number).any(1))
        if len(chosen):
            strength = rng.uniform(-1, 1, (len(chosen), 1, 1, 1)).astype(np.float32)
            part = change(result[chosen], torch.from_numpy(strength), rng)
            result[chosen] = part.clamp(0, 1)
    return result


# Each takes images (B, 3, H, W) and strengths (B, 1, 1, 1) in [-1, 1].


def _brightness(images: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    return images + 0.3 * strength


def _contrast(images: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    middle = images.mean((1, 2, 3), keepdim=True)
    return middle + (images - middle) * (1 + 0.6 * strength)


def _gamma(images: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    return images.clamp(1e-4, 1) ** torch.exp(0.7 * strength)


def _saturation(images: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    """Down to grey, up to twice the color."""
    grey = _grey(images)
    return grey + (images - grey) * (1 + strength)


def _hue(images: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    """Colors turned around the grey axis, by up to an eighth of the circle."""
    angle = strength.reshape(-1) * (np.pi / 4)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    axis = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / 3**0.5
    turn = (  # Rodrigues' formula
        cosine[:, None, None] * torch.eye(3)
        + sine[:, None, None] * cross
        + (1 - cosine)[:, None, None] * axis
    )
    return torch.einsum("bij,bjhw->bihw", turn, images)


def _tint(images: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    """A gain per channel, as under a lamp of another color."""
    gains = rng.uniform(-0.15, 0.15, (len(images), 3, 1, 1)).astype(np.float32)
    return images * (1 + torch.from_numpy(gains) * strength.abs())


def _shade(images: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    """Light that falls off from one side to the other."""
    height, width = images.shape[2:]
    angle = rng.uniform(0, 2 * np.pi, (len(images), 1, 1)).astype(np.float32)
    rows = torch.linspace(-1, 1, height)[:, None] * torch.from_numpy(np.sin(angle))
    columns = torch.linspace(-1, 1, width) * torch.from_numpy(np.cos(angle))
    return images * (1 + 0.4 * strength * (rows + columns)[:, None])


def _sharpness(images: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    """Blurred, or sharpened."""
    smooth = F.avg_pool2d(F.pad(images, (1,) * 4, mode="reflect"), 3, 1)
    return images + (0.2 + strength) * (images - smooth)


def _defocus(images: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    """As if taken with half as many pixels a side, in part."""
    small = F.avg_pool2d(images, 2, ceil_mode=True)
    coarse = F.interpolate(small, images.shape[2:], mode="bilinear")
    return torch.lerp(images, coarse, strength.abs())


def _noise(images: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    grain = rng.standard_normal(tuple(images.shape), dtype=np.float32)
    return images + 0.08 * strength.abs() * torch.from_numpy(grain)


def _grey(images: Tensor) -> Tensor:
    """Luma of ITU-R BT.601, (B, 1, H, W)."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


CHANGES: tuple[Change, ...] = (
    _brightness, _contrast, _gamma, _saturation, _hue, _tint, _shade, _sharpness, _defocus, _noise,
)  # fmt: skip
