"""Elastic layers: a residual block that runs with any prefix of its channel groups."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .recipe import padding_of


class ConvNorm(nn.Module):
    """Convolution without bias, then batch normalization; either side can be narrowed.

    A narrowed call normalizes with the statistics of its own batch and leaves the running
    statistics alone: those belong to the full network.

    Attributes:
        fixed: Mean and variance (c_out,), scale and shift (B, c_out) of linked networks, that
            narrowed calls use instead; None while the supernet is trained.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        padding = padding_of(kernel, stride)
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(c_out)
        self.fixed: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def forward(
        self, x: Tensor, *, c_in: int | None = None, c_out: int | None = None, own: bool = True
    ) -> Tensor:
        """Map (B, c_in, H, W) to (B, c_out, H / stride, W / stride).

        Args:
            x: Input with ``c_in`` channels.
            c_in: Leading input channels in use; all by default.
            c_out: Leading output channels in use; all by default.
            own: Whether this call speaks for the full network and may use and update the
                running statistics.
        """
        weight = self.conv.weight[:c_out, :c_in]
        y = F.conv2d(x, weight, None, self.conv.stride, self.conv.padding)
        if own:
            return cast(Tensor, self.norm(y))
        if self.fixed is not None:
            mean, variance, scale, shift = (part[..., :c_out] for part in self.fixed)
            unit = F.batch_norm(y, mean, variance, training=False)
            return unit * scale[:, :, None, None] + shift[:, :, None, None]
        return F.batch_norm(
            y, None, None, self.norm.weight[:c_out], self.norm.bias[:c_out], training=True
        )


class ElasticBlock(nn.Module):
    """Residual block with a gated hidden width: 3x3 convolution, ReLU, 1x1 convolution, add.

    The stream (input, shortcut, output) is never narrowed, so a block with fewer groups fits
    every neighbour. Without active groups only the shortcut runs: nothing at all where the block
    keeps resolution and channels, else an average pool and a 1x1 convolution.
    """

    def __init__(self, c_in: int, c_out: int, hidden: int, group: int, stride: int) -> None:
        super().__init__()
        self.group = group
        self.groups = hidden // group
        self.expand = ConvNorm(c_in, hidden, 3, stride)
        self.project = ConvNorm(hidden, c_out, 1)
        identity = stride == 1 and c_in == c_out
        self.shortcut = None if identity else ConvNorm(c_in, c_out, 1)
        self.stride = stride
        nn.init.constant_(self.project.norm.weight, 0.5)

    def forward(
        self, x: Tensor, width: int, *, own: bool = True, gate: Tensor | None = None
    ) -> Tensor:
        """Run with the first ``width`` groups; 0 skips the block.

        Args:
            x: (B, c_in, H, W).
            width: Active groups, in 0..groups.
            own: See :class:`ConvNorm`.
            gate: Factors of the active groups, (B, width), for importance; None means 1.
        """
        base = x if self.shortcut is None else self.shortcut(self._pool(x), own=own)
        if width == 0:
            return cast(Tensor, base)
        hidden = width * self.group
        h = torch.relu(self.expand(x, c_out=hidden, own=own))  # (B, hidden, H', W')
        if gate is not None:
            h = h * gate.repeat_interleave(self.group, 1)[:, :, None, None]
        return cast(Tensor, base + self.project(h, c_in=hidden, own=own))

    def _pool(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.stride == 2 else x
