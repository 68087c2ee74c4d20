"""The supernets: an elastic classifier and an elastic anchor-free detector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import ConvNorm, ElasticBlock
from .recipe import Architecture

Widths = Sequence[int]  # active groups per slot, in the order of ``Supernet.slots``
Gates = Sequence[Tensor | None]
BINS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # distances in strides


class Supernet(nn.Module):
    """What both supernets share: the stem, the stages and the list of elastic blocks.

    Attributes:
        slots: Name and block of every slot in execution order.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.register_buffer("mean", torch.tensor(architecture.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(architecture.std).view(1, 3, 1, 1))
        self.stem = ConvNorm(
            3, architecture.stem_channels, architecture.stem_kernel, architecture.stem_stride
        )
        self.stages = nn.ModuleList()
        c_in = architecture.stem_channels
        for stage in architecture.stages:
            blocks = nn.ModuleList()
            for index in range(stage.blocks):
                stride = 2 if index == 0 else 1
                blocks.append(ElasticBlock(c_in, stage.channels, stage.hidden, stage.group, stride))
                c_in = stage.channels
            self.stages.append(blocks)

    @property
    def slots(self) -> list[tuple[str, ElasticBlock]]:
        """Name and block of every slot, in execution order."""
        return [
            (f"stage{s}.block{b}", cast(ElasticBlock, block))
            for s, blocks in enumerate(self.stages)
            for b, block in enumerate(cast(nn.ModuleList, blocks))
        ]

    @property
    def full(self) -> tuple[int, ...]:
        """Widths of the full network."""
        return tuple(block.groups for _, block in self.slots)

    @property
    def empty(self) -> tuple[int, ...]:
        """Widths of the smallest network: shortcuts alone."""
        return (0,) * len(self.slots)

    def features(self, x: Tensor, widths: Widths, own: bool, gates: Gates | None) -> list[Tensor]:
        """Stream after every stage, for images in [0, 1] of shape (B, 3, H, W)."""
        x = torch.relu(self.stem((x - self.mean) / self.std, own=own))
        outputs, position = [], 0
        for blocks in self.stages:
            for block in cast(nn.ModuleList, blocks):
                gate = None if gates is None else gates[position]
                x = block(x, widths[position], own=own, gate=gate)
                position += 1
            outputs.append(x)
        return outputs


class Classifier(Supernet):
    """Elastic classifier: stages, ReLU, global average, linear."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.classes = nn.Linear(architecture.stages[-1].channels, architecture.classes)

    def forward(
        self, x: Tensor, widths: Widths | None = None, gates: Gates | None = None
    ) -> Tensor:
        """Class logits (B, K) of images (B, 3, H, W) in [0, 1]; ``None`` is the full network."""
        own = widths is None
        embedding = self.embed(x, self.full if widths is None else widths, own, gates)
        return cast(Tensor, self.classes(embedding))

    def embed(self, x: Tensor, widths: Widths, own: bool, gates: Gates | None = None) -> Tensor:
        """Penultimate feature (B, D)."""
        return torch.relu(self.features(x, widths, own, gates)[-1]).mean((2, 3))


class Detector(Supernet):
    """Elastic anchor-free detector with a top-down pyramid and one-to-one heads.

    Every position of a head predicts class logits and the distances (left, top, right, bottom)
    to its box, in units of the stride, before a softplus. A second pair of 1x1 layers, trained
    one-to-many on the same features, is dropped after training; its distances are distributions
    over :data:`BINS`, which teach the features more than a number does and need not be decoded in
    what is shipped.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        neck, strides = architecture.neck_channels, architecture.head_strides
        self.levels = [architecture.strides.index(stride) for stride in strides]
        used = range(min(self.levels), len(architecture.stages))
        self.laterals = nn.ModuleDict(
            {str(level): ConvNorm(architecture.stages[level].channels, neck, 1) for level in used}
        )
        self.class_heads = self._head_blocks()
        self.box_heads = self._head_blocks()
        self.classes = self._layers(architecture.classes, bias=-math.log(99.0))
        self.boxes = self._layers(4, bias=1.0)
        self.classes_many = self._layers(architecture.classes, bias=-math.log(99.0))
        self.boxes_many = self._layers(4 * len(BINS), bias=0.0)

    def _head_blocks(self) -> nn.ModuleList:
        shape = self.architecture
        return nn.ModuleList(
            ElasticBlock(
                shape.neck_channels, shape.neck_channels, shape.head_hidden, shape.head_group, 1
            )
            for _ in shape.head_strides
        )

    def _layers(self, channels: int, *, bias: float) -> nn.ModuleList:
        layers = nn.ModuleList(
            nn.Conv2d(self.architecture.neck_channels, channels, 1)
            for _ in self.architecture.head_strides
        )
        for layer in layers:
            conv = cast(nn.Conv2d, layer)
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.constant_(cast(Tensor, conv.bias), bias)
        return layers

    @property
    def slots(self) -> list[tuple[str, ElasticBlock]]:
        """Backbone slots, then two slots per head stride: before the classes and the boxes."""
        slots = super().slots
        for index, stride in enumerate(self.architecture.head_strides):
            for kind, blocks in (("classes", self.class_heads), ("boxes", self.box_heads)):
                slots.append((f"head{stride}.{kind}", cast(ElasticBlock, blocks[index])))
        return slots

    def forward(
        self, x: Tensor, widths: Widths | None = None, gates: Gates | None = None
    ) -> tuple[Tensor, Tensor]:
        """Class logits (B, A, K) and raw distances (B, A, 4) over all A positions."""
        return self.predict(self.embed(x, widths, gates))

    def embed(
        self, x: Tensor, widths: Widths | None = None, gates: Gates | None = None
    ) -> list[Tensor]:
        """Features before the heads, two (B, neck, H, W) per head stride: classes and boxes."""
        own = widths is None
        widths = self.full if widths is None else widths
        maps = self.features(x, widths, own, gates)
        pyramid: dict[int, Tensor] = {}
        above: Tensor | None = None
        for level in range(len(maps) - 1, min(self.levels) - 1, -1):
            here = self.laterals[str(level)](maps[level], own=own)
            if above is not None:
                here = here + F.interpolate(above, scale_factor=2.0, mode="nearest")
            pyramid[level] = above = here
        outputs: list[Tensor] = []
        position = len(widths) - 2 * len(self.levels)
        for index, level in enumerate(self.levels):
            for blocks in (self.class_heads, self.box_heads):
                gate = None if gates is None else gates[position]
                block = cast(ElasticBlock, blocks[index])
                head = block(pyramid[level], widths[position], own=own, gate=gate)
                outputs.append(torch.relu(head))
                position += 1
        return outputs

    def predict(self, maps: Sequence[Tensor], *, many: bool = False) -> tuple[Tensor, Tensor]:
        """Predictions of the one-to-one heads, or of the one-to-many ones.

        Returns:
            Class logits (B, A, K), and raw distances (B, A, 4); of the one-to-many heads logits of
            their distributions (B, A, 4 x bins).
        """
        classes = self.classes_many if many else self.classes
        boxes = self.boxes_many if many else self.boxes
        logits = [layer(m).flatten(2) for layer, m in zip(classes, maps[0::2], strict=True)]
        sides = [layer(m).flatten(2) for layer, m in zip(boxes, maps[1::2], strict=True)]
        return torch.cat(logits, 2).transpose(1, 2), torch.cat(sides, 2).transpose(1, 2)

    def anchors(self, size: int = 0) -> tuple[Tensor, Tensor]:
        """Centre (A, 2) in pixels and stride (A,) of every position, in output order.

        Args:
            size: Side of the input in pixels; 0 is the largest one.
        """
        centers, strides = [], []
        for stride in self.architecture.head_strides:
            side = (size or self.architecture.input_size) // stride
            axis = (torch.arange(side) + 0.5) * stride
            y, x = torch.meshgrid(axis, axis, indexing="ij")
            centers.append(torch.stack((x.flatten(), y.flatten()), 1))
            strides.append(torch.full((side * side,), float(stride)))
        return torch.cat(centers), torch.cat(strides)


def distances_from_bins(raw: Tensor) -> Tensor:
    """Expected distances (B, A, 4), in strides, from logits over bins (B, A, 4 x bins).

    Source:
        Li et al., "Generalized Focal Loss", arXiv:2006.04388, equation 4; their bins are even.
    """
    shares = torch.softmax(raw.reshape(*raw.shape[:-1], 4, len(BINS)), -1)
    return shares @ torch.tensor(BINS, dtype=raw.dtype, device=raw.device)


def boxes_around(distances: Tensor, centers: Tensor, strides: Tensor) -> Tensor:
    """Boxes xyxy in pixels (B, A, 4) from distances to their sides in strides (B, A, 4)."""
    distances = distances * strides[:, None]
    return torch.cat((centers - distances[..., :2], centers + distances[..., 2:]), -1)


def boxes_from_distances(raw: Tensor, centers: Tensor, strides: Tensor) -> Tensor:
    """Boxes xyxy in pixels (B, A, 4) from raw distances (B, A, 4)."""
    return boxes_around(F.softplus(raw), centers, strides)


def supernet_from_architecture(architecture: Architecture) -> Classifier | Detector:
    """The untrained supernet of an architecture."""
    return Classifier(architecture) if architecture.kind == "cls" else Detector(architecture)
