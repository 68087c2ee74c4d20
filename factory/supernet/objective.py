"""What a training step optimizes, for classification and for detection."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..datasets import Images
from .augment import augment_cls, augment_det, tensor_from_pixels
from .detection_loss import MANY, detection_distillation, detection_loss
from .network import Classifier, Detector, Widths, boxes_from_distances
from .recipe import Training


class Objective(Protocol):
    """Losses of one kind of supernet; the training loop knows nothing else of the task."""

    def batch(
        self, images: Images, index: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Augmented images (B, 3, H, W) and their targets."""
        ...

    def full_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of the full network; remembers its answers as the teacher of this step."""
        ...

    def narrow_loss(self, inputs: Tensor, targets: Tensor, widths: Widths) -> Tensor:
        """Loss of a narrower network, distillation from the full one included."""
        ...


class ClassificationObjective:
    """Cross entropy with label smoothing, and distillation at a temperature."""

    def __init__(self, network: Classifier, training: Training) -> None:
        self.network, self.training = network, training
        self.teacher: Tensor | None = None

    def batch(
        self, images: Images, index: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Augmented images (B, 3, H, W) and labels (B,)."""
        inputs = augment_cls(tensor_from_pixels(images.pixels[index]), rng)
        return inputs, torch.from_numpy(images.labels[index])

    def full_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of the full network."""
        logits = self.network(inputs).float()
        self.teacher = logits.detach()
        return F.cross_entropy(logits, targets, label_smoothing=self.training.label_smoothing)

    def narrow_loss(self, inputs: Tensor, targets: Tensor, widths: Widths) -> Tensor:
        """Half cross entropy, half divergence from the full network's answers."""
        assert self.teacher is not None
        logits, t = self.network(inputs, widths).float(), self.training.temperature
        own = F.cross_entropy(logits, targets, label_smoothing=self.training.label_smoothing)
        divergence = F.kl_div(
            F.log_softmax(logits / t, 1),
            F.log_softmax(self.teacher / t, 1),
            reduction="batchmean",
            log_target=True,
        )
        return 0.5 * own + 0.5 * self.training.distillation * t * t * divergence


class DetectionObjective:
    """Dual-assignment detection loss, and distillation of scores and boxes."""

    def __init__(self, network: Detector, training: Training) -> None:
        self.network, self.training = network, training
        self.centers, self.strides = network.anchors()
        self.teacher: tuple[Tensor, Tensor] | None = None

    def batch(
        self, images: Images, index: np.ndarray, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Augmented images (B, 3, S, S) and boxes (B, M, 5)."""
        inputs = tensor_from_pixels(images.pixels[index])
        return augment_det(inputs, [images.boxes[i] for i in index], rng)

    def _predict(self, maps: list[Tensor], *, many: bool) -> tuple[Tensor, Tensor]:
        logits, raw = self.network.predict(maps, many=many)
        centers, strides = self.centers.to(raw.device), self.strides.to(raw.device)
        return logits.float(), boxes_from_distances(raw.float(), centers, strides)

    def _loss(self, maps: list[Tensor], targets: Tensor, *, many: bool) -> Tensor:
        logits, boxes = self._predict(maps, many=many)
        centers, strides = self.centers.to(logits.device), self.strides.to(logits.device)
        top = MANY if many else 1
        return detection_loss(logits, boxes, targets, centers, strides, top=top).mean()

    def full_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One-to-one and one-to-many loss of the full network."""
        maps = self.network.embed(inputs)
        with torch.no_grad():
            self.teacher = self._predict(maps, many=False)
        return self._loss(maps, targets, many=True) + self._loss(maps, targets, many=False)

    def narrow_loss(self, inputs: Tensor, targets: Tensor, widths: Widths) -> Tensor:
        """Both losses of the narrower network and its distance from the full one."""
        assert self.teacher is not None
        maps = self.network.embed(inputs, widths)
        distance = detection_distillation(*self._predict(maps, many=False), *self.teacher)
        own = 0.5 * self._loss(maps, targets, many=True) + 0.5 * self._loss(
            maps, targets, many=False
        )
        return own + self.training.distillation * distance


def objective_for(network: Classifier | Detector, training: Training) -> Objective:
    """The objective that fits a supernet."""
    if isinstance(network, Detector):
        return DetectionObjective(network, training)
    return ClassificationObjective(network, training)
