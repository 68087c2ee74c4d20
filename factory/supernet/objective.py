"""What a training step optimizes, for classification and for detection."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..datasets import Images
from .alter import altered
from .augment import augment_cls, augment_det, random_views, resized, tensor_from_pixels
from .detection_loss import MANY, detection_distillation, detection_loss
from .network import (
    Classifier,
    Detector,
    Widths,
    boxes_around,
    boxes_from_distances,
    distances_from_bins,
)
from .paste import pasted
from .recipe import Training
from .teacher import TeacherAnswers

PLAIN_END = 0.15  # last share of the training without mosaics


class Objective(Protocol):
    """Losses of one kind of supernet; the training loop knows nothing else of the task."""

    def batch(
        self, images: Images, index: np.ndarray, rng: np.random.Generator, done: float
    ) -> tuple[Tensor, Tensor]:
        """Augmented images (B, 3, H, W) and their targets, at a share of the training done."""
        ...

    def full_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of the full network; remembers its answers as the teacher of this step."""
        ...

    def narrow_loss(self, inputs: Tensor, targets: Tensor, widths: Widths, size: int) -> Tensor:
        """Loss of a narrower network at an input size, distillation from the full one included."""
        ...


class ClassificationObjective:
    """Cross entropy with label smoothing, and distillation at a temperature.

    Where a teacher of another family has answered beforehand, half of the loss of every network,
    the full one included, is the distance from its answers.
    """

    def __init__(
        self, network: Classifier, training: Training, answers: TeacherAnswers | None = None
    ) -> None:
        self.network, self.training, self.answers = network, training, answers
        self.full_logits: Tensor | None = None
        self.soft: Tensor | None = None

    def batch(
        self, images: Images, index: np.ndarray, rng: np.random.Generator, done: float
    ) -> tuple[Tensor, Tensor]:
        """Augmented images (B, 3, H, W) and labels (B,)."""
        pixels = tensor_from_pixels(images.pixels[index])
        if self.answers is None:
            views = random_views(len(index), pixels.shape[2], rng)
        else:
            views, logits = self.answers.draw(index, rng)
            self.soft = torch.from_numpy(logits).float()
        inputs = altered(augment_cls(pixels, views, rng), self.training.alterations, rng)
        return inputs, torch.from_numpy(images.labels[index])

    def full_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Distance of the full network from labels and teacher."""
        logits = self.network(inputs).float()
        self.full_logits = logits.detach()
        return self._taught_loss(logits, targets)

    def narrow_loss(self, inputs: Tensor, targets: Tensor, widths: Widths, size: int) -> Tensor:
        """Half the loss of the full network, half divergence from its answers."""
        assert self.full_logits is not None
        logits = self.network(resized(inputs, size), widths).float()
        own = self._taught_loss(logits, targets)
        near = divergence(logits, self.full_logits, self.training.temperature)
        return 0.5 * own + 0.5 * self.training.distillation * near

    def _taught_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        labels = F.cross_entropy(logits, targets, label_smoothing=self.training.label_smoothing)
        if self.soft is None:
            return labels
        soft = self.soft.to(logits.device)
        return 0.5 * labels + 0.5 * divergence(logits, soft, self.training.temperature)


def divergence(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence from the teacher's answers, times the squared temperature."""
    near = F.kl_div(
        F.log_softmax(logits / temperature, 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * near


class DetectionObjective:
    """Dual-assignment detection loss, and distillation of scores and boxes."""

    def __init__(self, network: Detector, training: Training) -> None:
        self.network, self.training = network, training
        self.anchors = {size: network.anchors(size) for size in network.architecture.input_sizes}
        self.teacher: tuple[Tensor, Tensor] | None = None

    def batch(
        self, images: Images, index: np.ndarray, rng: np.random.Generator, done: float
    ) -> tuple[Tensor, Tensor]:
        """Augmented images (B, 3, S, S) and boxes (B, M, 5)."""
        inputs = tensor_from_pixels(images.pixels[index])
        mosaic = self.training.mosaic if done < 1 - PLAIN_END else 0.0
        boxes = [images.boxes[i] for i in index]
        if self.training.paste:
            inputs, boxes = pasted(inputs, boxes, self.training.paste, rng)
        inputs, targets = augment_det(inputs, boxes, rng, mosaic=mosaic)
        return altered(inputs, self.training.alterations, rng), targets

    def _predict(self, maps: list[Tensor], size: int) -> tuple[Tensor, Tensor]:
        logits, raw = self.network.predict(maps)
        return logits.float(), boxes_from_distances(raw.float(), *self._anchors(size, raw))

    def _anchors(self, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
        centers, strides = self.anchors[size]
        return centers.to(like.device), strides.to(like.device)

    def _loss(self, maps: list[Tensor], targets: Tensor, size: int) -> Tensor:
        logits, boxes = self._predict(maps, size)
        anchors = self._anchors(size, logits)
        return detection_loss(logits, boxes, targets, *anchors, top=1).mean()

    def _loss_of_many(self, maps: list[Tensor], targets: Tensor, size: int) -> Tensor:
        logits, raw = (found.float() for found in self.network.predict(maps, many=True))
        anchors = self._anchors(size, logits)
        boxes = boxes_around(distances_from_bins(raw), *anchors)
        return detection_loss(logits, boxes, targets, *anchors, top=MANY, sides=raw).mean()

    def full_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One-to-one and one-to-many loss of the full network."""
        size = self.network.architecture.input_size
        maps = self.network.embed(inputs)
        with torch.no_grad():
            self.teacher = self._predict(maps, size)
        return self._loss_of_many(maps, targets, size) + self._loss(maps, targets, size)

    def narrow_loss(self, inputs: Tensor, targets: Tensor, widths: Widths, size: int) -> Tensor:
        """Both losses of the narrower network and its distance from the full one.

        At a smaller input size the positions are others, and the labels alone teach.
        """
        assert self.teacher is not None
        largest = self.network.architecture.input_size
        scale = torch.tensor([1.0] + [size / largest] * 4, device=targets.device)
        targets = torch.where(targets[..., :1] < 0, targets, targets * scale)
        maps = self.network.embed(resized(inputs, size), widths)
        many, one = self._loss_of_many(maps, targets, size), self._loss(maps, targets, size)
        own = 0.5 * many + 0.5 * one
        if size != largest:
            return own
        distance = detection_distillation(*self._predict(maps, size), *self.teacher)
        return own + self.training.distillation * distance


def objective_for(
    network: Classifier | Detector, training: Training, answers: TeacherAnswers | None
) -> Objective:
    """The objective that fits a supernet."""
    if isinstance(network, Detector):
        return DetectionObjective(network, training)
    return ClassificationObjective(network, training, answers)
