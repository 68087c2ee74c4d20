"""What is asked of a network's outputs: classes of images, or boxes in them.

All that tells classifiers from detectors when they are taken apart: which outputs speak for a
class, which images show it, how near a component comes to the whole network, and its answer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...accuracy_measurement import matches, tensor_from_pixels
from ...datasets import Images
from ...graph.evaluate import open_model
from ...graph.network import Array, Network, model_from_network
from ...graph.postprocess import with_probabilities
from ..detection_head import DetectionHead, HeadMap
from ..detector_answer import SCORES, with_scores, with_suppressed_boxes

Ends = Mapping[str, Array]
FACTORS = np.logspace(-1, 1, 41)  # on logits
REGIONS = 8  # along a side, in which detections are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What images that nothing was fitted to say of a component.

    Attributes:
        divergence: How far its probabilities are from the whole network's, in nats, see
            :meth:`Kind.judged`.
        accuracy: Top-1 accuracy or AP50, in [0, 1].
    """

    divergence: float
    accuracy: float


class Kind(Protocol):
    """A kind of task."""

    @property
    def name(self) -> str:
        """The kind of task: "cls" or "det"."""

    def ends(self, network: Network) -> list[Ends]:
        """Per class the share that every channel of the outputs has in it, by output."""

    def shown(self, network: Network, images: Images, each: int) -> list[list[Array]]:
        """Per class tensors of some images that show it."""

    def answers(self, network: Network, images: Images) -> Array:
        """What a network says of images at its input size, as far as it is compared."""

    def judged(self, wanted: Array, network: Network, images: Images) -> Judgement:
        """How near a network comes to the answers of the whole one, which may see larger images."""

    def answering(self, network: Network) -> Network:
        """The network with the answer of an artifact."""


@dataclass(frozen=True, slots=True)
class Classification:
    """Which of some classes an image shows: one output of logits."""

    name: str = "cls"

    def ends(self, network: Network) -> list[Ends]:
        """A class is its logit."""
        ((out, shape),) = network.outputs.items()
        return [{out: row} for row in np.eye(shape[1])]

    def shown(self, network: Network, images: Images, each: int) -> list[list[Array]]:
        """The images of each class that the network is most certain of."""
        tensors = tensors_of(images)
        logits = logits_of(network, tensors)
        chosen = []
        for label in range(logits.shape[1]):
            mine = np.flatnonzero(images.labels == label)
            order = mine[np.argsort(-logits[mine, label], kind="stable")]
            chosen.append([tensors[i] for i in order[:each]])
        return chosen

    def answers(self, network: Network, images: Images) -> Array:
        """Logits (N, K)."""
        return logits_of(network, tensors_of(images))

    def judged(self, wanted: Array, network: Network, images: Images) -> Judgement:
        """By the mean Kullback-Leibler divergence of its probabilities, scaled to fit best.

        Components are scaled in the end, and some are far too sure before: smaller images and
        narrow layers make them so, each in its own measure.
        """
        found = self.answers(network, images)
        return Judgement(
            divergence=min(divergence(wanted, factor * found) for factor in FACTORS),
            accuracy=float((found.argmax(1) == images.labels).mean()),
        )

    def answering(self, network: Network) -> Network:
        """Probabilities."""
        return with_probabilities(network)


@dataclass(frozen=True, slots=True)
class Detection:
    """Where objects of some classes are: raw maps.

    Attributes:
        head: What they are.
        classes: How many classes are asked for.
    """

    head: DetectionHead
    classes: int
    name: str = "det"

    def ends(self, network: Network) -> list[Ends]:
        """A class is its channel of the class maps, as much objectness, and as much of boxes."""
        found: list[Ends] = []
        for label in range(self.classes):
            ends: dict[str, Array] = {}
            for one in self.head.maps:
                for name in (one.objectness, one.boxes):
                    channels = network.outputs[name][1]
                    ends[name] = np.full(channels, 1 / channels)
                ends[one.classes] = (np.arange(network.outputs[one.classes][1]) == label) * 1.0
            share = 1 / len(ends)
            found.append({name: share * row for name, row in ends.items()})
        return found

    def shown(self, network: Network, images: Images, each: int) -> list[list[Array]]:
        """Images with boxes of the class."""
        chosen = []
        for label in range(self.classes):
            mine = [i for i, rows in enumerate(images.boxes) if (rows[:, 0] == label).any()]
            chosen.append(tensors_of(images.subset(np.array(mine[:each], np.int64))))
        return chosen

    def answers(self, network: Network, images: Images) -> Array:
        """The greatest score of each class in every region of an image, (N, K, R, R)."""
        scored = with_scores(network, self.head, self.classes)
        scores = _outputs(scored, tensors_of(images), SCORES)  # (N, K, A)
        places = np.concatenate([_regions(network, one) for one in self.head.maps])
        found = np.zeros((*scores.shape[:2], REGIONS**2), scores.dtype)
        for region in np.unique(places):
            found[:, :, region] = scores[:, :, places == region].max(2)
        return found.reshape(*scores.shape[:2], REGIONS, REGIONS)

    def judged(self, wanted: Array, network: Network, images: Images) -> Judgement:
        """By the divergence of every region's scores, summed over an image, averaged over images.

        Regions are as many whatever the size of the maps, so networks of other input sizes compare.
        """
        found = self.answers(network, images)
        distance = _binary_divergence(wanted, found).reshape(len(images), -1).sum(1).mean()
        accuracy = matches(self.answering(network), images, self.classes).ap50()
        return Judgement(divergence=float(distance), accuracy=accuracy)

    def answering(self, network: Network) -> Network:
        """The 100 best boxes."""
        return with_suppressed_boxes(network, self.head, self.classes)


def _regions(network: Network, one: HeadMap) -> Array:
    """The region of the image that each score of a map lies in, (A * H * W,)."""
    _, anchors, height, width = network.outputs[one.objectness]
    down, along = (
        (np.arange(count) + 0.5) / count * REGIONS // 1 for count in (height, width)
    )  # by the middle of each cell
    grid = (down[:, None] * REGIONS + along).astype(np.int64).reshape(-1)
    return np.tile(grid, anchors)


def tensors_of(images: Images) -> list[Array]:
    """Images as networks read them, (1, 3, S, S) in [0, 1]."""
    return [tensor_from_pixels(image[None]) for image in images.pixels]


def logits_of(network: Network, images: Sequence[Array]) -> Array:
    """Logits (N, K) of tensors, computed on all cores."""
    (out,) = network.outputs
    return _outputs(network, images, out)


def divergence(wanted: Array, found: Array) -> float:
    """Mean Kullback-Leibler divergence of probabilities, from logits (N, K), in nats."""
    p, q = (_log_probabilities(logits) for logits in (wanted, found))
    return float((np.exp(p) * (p - q)).sum(1).mean())


def _outputs(network: Network, images: Sequence[Array], out: str) -> Array:
    run, (entry,) = open_model(model_from_network(network)), network.inputs
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        return np.concatenate(list(workers.map(lambda image: run({entry: image})[out], images)))


def _log_probabilities(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def _binary_divergence(wanted: Array, found: Array) -> Array:
    """Kullback-Leibler divergence of probabilities that something is there, one by one."""
    p, q = (np.clip(part.astype(np.float64), 1e-6, 1 - 1e-6) for part in (wanted, found))
    return np.asarray(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
