"""Learning how the modules are modulated for a task, on networks exactly as they are linked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..datasets import Images
from ..graph.network import Array
from ..graph.normalization import Moments, norm_nodes
from ..library.library import ModuleLibrary
from ..modulation import Modulation, modulation_width
from ..stored_moments import stored_moments
from .augment import mirrored, moved, random_views, resized, tensor_from_pixels
from .blocks import ConvNorm
from .detection_loss import detection_distillation, detection_loss
from .importance import image_labels
from .measurements import optimized_plan, random_task
from .network import Classifier, Detector, boxes_from_distances
from .objective import divergence
from .recipe import Conditioning

LARGEST_TASK = {"cls": 50, "det": 20}
TEMPERATURE = 2.0
OUTSIDE = -1e4  # logit of a class outside the task


@dataclass(frozen=True, slots=True)
class _Plan:
    """One network of the pool: how it is cut and what it normalizes with."""

    size: int
    widths: tuple[int, ...]
    moments: dict[str, Moments]
    features: Tensor


def learn_modulation(
    network: Classifier | Detector,
    library: ModuleLibrary,
    images: Images,
    conditioning: Conditioning,
    *,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Modulation:
    """What modulates the linked network of a task and a plan.

    The weights stay as they are. Every step draws a plan that the assembler chose for a share of
    the full network's proxy latency (small ones likelier, at one of the input sizes) and, for each
    of its images, a task of its own: half of them random, half of classes that the network finds
    similar. It normalizes with the very statistics that the linker stores, so what is learned is
    what is deployed; errors of those statistics are learned away, too. Images are shifted and
    mirrored, no more: with fixed statistics, learning on recolored images is learning to expect
    them. Labels and the full network, masked to the task, teach.

    Args:
        network: The trained supernet.
        library: A draft with values and statistics at all input sizes.
        images: Training images at the largest size.
        conditioning: Steps, batch and learning rate.
        seed: Of everything random.
        report: Called with (done, total) steps.

    """
    rng = np.random.default_rng([seed, 21])
    pool = _pool(library, conditioning.plans, rng)
    nearest = np.argsort(-_similarity(network), 1)
    width = modulation_width(library.network)
    vectors = _Vectors(len(library.classes), len(pool[0].features), width, conditioning.rank)
    optimizer = torch.optim.Adam(vectors.groups(conditioning.lr))
    lesson = _ClassLesson(network) if isinstance(network, Classifier) else _BoxLesson(network)
    affine = _Affine(network, library)
    network.eval().requires_grad_(False)
    for step in range(conditioning.steps):
        rate = 0.5 * (1 + math.cos(math.pi * step / conditioning.steps))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * (0.02 + 0.98 * rate)
        batch = images.subset(rng.integers(0, len(images), conditioning.batch))
        allowed = draw_tasks(image_labels(batch), nearest, LARGEST_TASK[library.kind], rng)
        plan = pool[int(rng.integers(len(pool)))]
        lesson.prepare(batch, torch.from_numpy(allowed), rng)
        with affine.of(plan.moments, vectors(torch.from_numpy(allowed), plan.features)):
            with torch.autocast("cpu", torch.bfloat16):
                loss = lesson.loss(plan.widths, plan.size)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        report(step + 1, conditioning.steps)
    network.requires_grad_(True)
    return vectors.modulation()


def draw_tasks(
    labels: Sequence[Sequence[int]], nearest: Array, largest: int, rng: np.random.Generator
) -> np.ndarray:
    """One task per image that holds a class of the image, (B, K) bool.

    Few classes are likelier than many. Half of the tasks are random, half are of similar classes.

    Args:
        labels: Classes in every image.
        nearest: (K, K) per class all classes, the most similar first.
        largest: Most classes.
        rng: Source of randomness.
    """
    k = len(nearest)
    allowed = np.zeros((len(labels), k), bool)
    most = min(largest, k)
    for row, mine in zip(allowed, labels, strict=True):
        size = round(math.exp(rng.uniform(math.log(min(2, k)), math.log(most + 0.49))))
        middle = int(rng.choice(mine)) if len(mine) else int(rng.integers(k))
        # of the closest classes some, not all
        pool = nearest[middle][: min(k, 2 * size)] if rng.random() < 0.5 else np.arange(k)
        row[rng.choice(pool, size, replace=False)] = True
        row[middle] = True
    return allowed


def _similarity(network: Classifier | Detector) -> Array:
    """Cosine of the classes' last weights (K, K)."""
    if isinstance(network, Classifier):
        rows = network.classes.weight.detach()
    else:
        layers = [cast(torch.nn.Conv2d, layer).weight.detach() for layer in network.classes]
        rows = torch.cat([layer.flatten(1) for layer in layers], 1)
    unit = F.normalize(rows - rows.mean(0), dim=1)
    return np.asarray((unit @ unit.T).numpy())


def _pool(library: ModuleLibrary, count: int, rng: np.random.Generator) -> list[_Plan]:
    """Plans as the assembler chooses them; half at the largest input size."""
    pool = []
    for number in range(count):
        others = library.input_sizes[1:] or library.input_sizes
        size = library.input_sizes[0] if number % 2 else others[number // 2 % len(others)]
        view = library.at(size)
        plan = optimized_plan(view, random_task(view, rng), float(0.03 + 0.97 * rng.random() ** 2))
        moments = stored_moments(view, plan.counts)
        features = torch.from_numpy(view.plan_features(plan.counts))
        pool.append(_Plan(size, tuple(plan.counts.values()), moments, features))
    return pool


class _Vectors(torch.nn.Module):
    """One vector per class, what all share plus a few directions, and one per plan feature.

    A free vector per class has more numbers than its images can tell: trained so, the noise cost
    2.5 points where this gains.
    """

    def __init__(self, classes: int, features: int, width: int, rank: int) -> None:
        super().__init__()
        self.widths = torch.nn.Parameter(torch.zeros(features, width))
        self.shared = torch.nn.Parameter(torch.zeros(width))
        self.directions = torch.nn.Parameter(torch.zeros(rank, width))
        self.weights = torch.nn.Parameter(
            torch.randn(classes, rank, generator=torch.Generator().manual_seed(0))
        )

    def forward(self, allowed: Tensor, features: Tensor) -> Tensor:
        """Modulation (B, D) of one task per image, (B, K) bool, and one plan, (F,)."""
        share = allowed.float() / allowed.sum(1, keepdim=True)
        task = share @ self.weights @ self.directions
        return self.shared + task + features @ self.widths

    def groups(self, lr: float) -> list[dict[str, object]]:
        """Parameter groups with their peak learning rates; the weights are of order one."""
        return [
            {"params": [self.shared, self.directions, self.widths], "lr": lr, "peak": lr},
            {"params": [self.weights], "lr": 20 * lr, "peak": 20 * lr},
        ]

    @torch.no_grad()
    def modulation(self) -> Modulation:
        """As the library keeps it."""
        classes = (self.shared + self.weights @ self.directions).numpy()
        return Modulation(classes=np.array(classes), widths=np.array(self.widths.numpy()))


class _Affine:
    """Sets what every normalization of the network uses, for the time of a ``with`` block."""

    def __init__(self, network: Classifier | Detector, library: ModuleLibrary) -> None:
        self._norms = [
            (
                node.name,
                cast(ConvNorm, network.get_submodule(node.input[1][: -len(".norm.weight")])),
            )
            for node in norm_nodes(library.network)
        ]
        self._set: tuple[dict[str, Moments], Tensor] | None = None

    def of(self, moments: dict[str, Moments], modulation: Tensor) -> _Affine:
        self._set = (moments, modulation)
        return self

    def __enter__(self) -> None:
        assert self._set is not None
        moments, modulation = self._set
        start = 0
        for name, module in self._norms:
            channels = module.norm.num_features
            part = modulation[:, start : start + 2 * channels]
            mean, variance = (torch.from_numpy(moment) for moment in moments[name])
            gamma = module.norm.weight * (1 + part[:, :channels])
            beta = module.norm.bias + part[:, channels:]
            module.fixed = (mean, variance, gamma, beta)
            start += 2 * channels

    def __exit__(self, *_: object) -> None:
        for _name, module in self._norms:
            module.fixed = None


class _ClassLesson:
    """A batch with one task per image, and the loss of a classifier on it."""

    def __init__(self, network: Classifier) -> None:
        self.network = network

    def prepare(self, images: Images, allowed: Tensor, rng: np.random.Generator) -> None:
        pixels = tensor_from_pixels(images.pixels)
        seen = moved(pixels, random_views(len(images), pixels.shape[2], rng))
        self.inputs = seen.contiguous(memory_format=torch.channels_last)
        self.allowed, self.targets = allowed, torch.from_numpy(images.labels)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            self.full = self.network(self.inputs).float().masked_fill(~allowed, OUTSIDE)

    def loss(self, widths: Sequence[int], size: int) -> Tensor:
        logits = self.network(resized(self.inputs, size), widths).float()
        logits = logits.masked_fill(~self.allowed, OUTSIDE)
        near = divergence(logits, self.full, TEMPERATURE)
        return 0.5 * F.cross_entropy(logits, self.targets) + 0.5 * near


class _BoxLesson:
    """A batch with one task per image, and the loss of a detector on it."""

    def __init__(self, network: Detector) -> None:
        self.network = network

    def prepare(self, images: Images, allowed: Tensor, rng: np.random.Generator) -> None:
        boxes = [
            rows[allowed[i].numpy()[rows[:, 0].astype(int)]] for i, rows in enumerate(images.boxes)
        ]
        inputs, self.targets = mirrored(tensor_from_pixels(images.pixels), boxes, rng)
        self.inputs = inputs.contiguous(memory_format=torch.channels_last)
        self.allowed = allowed
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            self.full = self._predict(None, self.inputs)

    def _predict(self, widths: Sequence[int] | None, inputs: Tensor) -> tuple[Tensor, Tensor]:
        logits, raw = self.network(inputs, widths)
        anchors = self.network.anchors(inputs.shape[2])
        masked = logits.float().masked_fill(~self.allowed[:, None], OUTSIDE)
        return masked, boxes_from_distances(raw.float(), *anchors)

    def loss(self, widths: Sequence[int], size: int) -> Tensor:
        largest = self.inputs.shape[2]
        logits, boxes = self._predict(widths, resized(self.inputs, size))
        scale = torch.tensor([1.0] + [size / largest] * 4)
        centers, strides = self.network.anchors(size)
        own = detection_loss(logits, boxes, self.targets * scale, centers, strides, top=1).mean()
        if size != largest:
            return own
        return own + detection_distillation(logits, boxes, *self.full)
