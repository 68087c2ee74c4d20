"""A public pretrained network as teacher: fine-tuned once, its answers kept for fixed views."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..datasets import Images
from ..errors import DataError
from .augment import Views, augment_cls, moved, random_views, tensor_from_pixels
from .distributed import Group
from .recipe import Teaching

BATCH = 128
ANSWERS = "teacher.npz"
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class TeacherAnswers:
    """What the teacher says to fixed views of every training image.

    Fixed views cost one pass of the teacher per view instead of one per step.

    Attributes:
        views: One :class:`Views` over all N images per view.
        logits: float16 (V, N, K).

    Source:
        Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition",
        arXiv:2112.01528; here views are shifts and mirrorings and all K logits are kept.
    """

    views: tuple[Views, ...]
    logits: NDArray[np.float16]

    def draw(
        self, index: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Views, NDArray[np.float16]]:
        """A random view of each image at ``index`` (B,), and the answers to it (B, K)."""
        which = rng.integers(0, len(self.views), len(index))
        parts = np.stack(
            [
                np.stack([getattr(v, name)[index] for v in self.views])
                for name in ("dy", "dx", "flip")
            ]
        )  # (3, V, B)
        dy, dx, flip = parts[:, which, np.arange(len(index))]
        return Views(dy, dx, flip.astype(bool)), self.logits[which, index]


def teacher_answers(
    teaching: Teaching,
    folder: Path,
    images: Images,
    classes: int,
    run_dir: Path,
    *,
    seed: int,
    start: nn.Module | None = None,
    group: Group | None = None,
    report: Report = lambda done, total: None,
) -> TeacherAnswers:
    """Fine-tune the teacher and let it answer; what ``run_dir`` holds already is read.

    With ``teaching.own`` the answers are a weighted mean of its log probabilities and those of the
    network that the training starts from (born-again networks, Furlanello et al.,
    arXiv:1805.04770).

    Args:
        teaching: Which network, and how it is fine-tuned.
        folder: Where its files lie.
        images: Training images with labels.
        classes: Number of classes K.
        run_dir: Keeps ``teacher.npz``.
        seed: Of the views, the order and the augmentation.
        start: The network that the training starts from; None where it has begun.
        group: The processes that share the work; the first writes the file.
        report: Called with (done, total) batches.

    Raises:
        DataError: The files are missing or no such network, or the first answers are gone.
    """
    views = tuple(
        random_views(len(images), images.pixels.shape[1], np.random.default_rng([seed, 7, v]))
        for v in range(teaching.views)
    )
    path = run_dir / ANSWERS
    origin = json.dumps([dataclasses.asdict(teaching), seed])
    if path.exists():
        return TeacherAnswers(views, _kept(path, origin, (len(views), len(images), classes)))
    if len(images) < BATCH:
        raise DataError(f"A teacher needs at least {BATCH} training images, got {len(images)}.")
    if teaching.own and start is None:
        raise DataError(f"{path} is gone, and the weights that the training started from with it.")
    group = group or Group()
    network = _fine_tuned(teaching, folder, images, classes, seed, group, report)
    logits = np.empty((teaching.views, len(images), classes), np.float16)
    for number, view in enumerate(views):
        found = torch.zeros(len(images), classes)
        for rows in _batches(len(images))[group.rank :: group.size]:
            seen = moved(tensor_from_pixels(images.pixels[rows]), view[rows])
            with torch.no_grad():
                said = _answered(network, _enlarged(seen, teaching.size))
                if teaching.own and start is not None:
                    said = _together(said, start(seen), teaching.own)
                found[rows] = said
        group.add_up_(found)
        logits[number] = found.numpy()
    if group.is_first:
        run_dir.mkdir(parents=True, exist_ok=True)
        beside = run_dir / "teacher.partial.npz"
        np.savez(beside, logits=logits, origin=np.array(origin))
        beside.replace(path)
    group.wait()
    return TeacherAnswers(views, logits)


def _answered(network: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, K), computed in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        return cast(Tensor, network(images)).float()


def _together(logits: Tensor, own: Tensor, share: float) -> Tensor:
    """Mean of log probabilities (B, K), the second with ``share``."""
    return (1 - share) * F.log_softmax(logits, 1) + share * F.log_softmax(own, 1)


def _kept(path: Path, origin: str, shape: tuple[int, int, int]) -> NDArray[np.float16]:
    """Answers of an earlier start of the same run."""
    try:
        with np.load(path, allow_pickle=False) as file:
            logits, kept = file["logits"], str(file["origin"])
    except (OSError, KeyError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}.", hints=["delete it"]) from error
    if logits.shape != shape or kept != origin:
        raise DataError(f"{path} belongs to another teacher or other data.", hints=["delete it"])
    return cast(NDArray[np.float16], logits)


def _batches(count: int) -> list[NDArray[np.int64]]:
    return [np.arange(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def _enlarged(images: Tensor, size: int) -> Tensor:
    larger = F.interpolate(images, (size, size), mode="bilinear", align_corners=False)
    return larger.contiguous(memory_format=torch.channels_last)


def _fine_tuned(
    teaching: Teaching, folder: Path, images: Images, classes: int, seed: int, group: Group,
    report: Report,
) -> QuantizedNetwork:  # fmt: skip
    """The network with a new head after ``epochs`` of AdamW with a cosine schedule."""
    rng = np.random.default_rng([seed, 8])
    torch.manual_seed(seed)
    network = QuantizedNetwork(folder / teaching.network, classes)

    def batch(index: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        pixels = tensor_from_pixels(images.pixels[index])
        seen = augment_cls(pixels, random_views(len(index), pixels.shape[2], rng), rng)
        return _enlarged(seen, teaching.size)

    network.add_normalization(batch(rng.permutation(len(images))[:256], rng))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(network, teaching.lr)
    per_epoch = len(images) // BATCH
    steps = per_epoch * teaching.epochs
    network.train()
    for step in range(steps):
        epoch, position = divmod(step, per_epoch)
        order = np.random.default_rng([seed, 9, epoch]).permutation(len(images))
        index = order[position * BATCH : (position + 1) * BATCH][group.rank :: group.size]
        rate = min(1.0, (step + 1) / 300) * (
            0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps))
        )
        for part in optimizer.param_groups:
            part["lr"] = teaching.lr * rate * part["factor"]
        seen = batch(index, np.random.default_rng([seed, 10, step, group.rank]))
        logits = _answered(network, seen)
        targets = torch.from_numpy(images.labels[index])
        loss = F.cross_entropy(logits, targets, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        group.average_gradients(network)
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        report(step + 1, steps)
    group.average_buffers_(network)
    return network.eval()


def _optimizer(network: QuantizedNetwork, lr: float) -> torch.optim.Optimizer:
    body = [p for n, p in network.named_parameters() if not n.startswith("head.")]
    groups = [
        {"params": [p for p in body if p.ndim > 1], "weight_decay": 0.05, "factor": 1.0},
        {"params": [p for p in body if p.ndim <= 1], "weight_decay": 0.0, "factor": 1.0},
        {"params": network.head.parameters(), "weight_decay": 0.05, "factor": 3.0},
    ]
    return torch.optim.AdamW(groups, lr=lr)


class _Convolution(nn.Module):
    """Convolution with TensorFlow's padding; its folded normalization can be added again."""

    def __init__(self, weight: Tensor, bias: Tensor, op: dict[str, Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_buffer("bias", bias)
        self.stride, self.groups, self.activation = op["stride"], op["groups"], op["activation"]
        self.same = op["padding"] == "SAME"
        self.norm: nn.BatchNorm2d | None = None

    def convolve(self, x: Tensor) -> Tensor:
        """Without bias and activation."""
        kernel, side = self.weight.shape[2], x.shape[2]
        if self.same and kernel > 1:
            room = max(0, (-(-side // self.stride) - 1) * self.stride + kernel - side)
            x = F.pad(x, (room // 2, room - room // 2) * 2)
        return F.conv2d(x, self.weight, None, self.stride, 0, 1, self.groups)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolve(x)
        bias = cast(Tensor, self.bias)
        y = y + bias[:, None, None] if self.norm is None else self.norm(y)
        return F.relu6(y) if self.activation == "relu6" else y

    @torch.no_grad()
    def add_normalization(self, x: Tensor) -> Tensor:
        """Normalize so that the function on ``x`` stays the same; returns the result."""
        y = self.convolve(x)
        norm = nn.BatchNorm2d(len(self.weight))
        mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3))
        cast(Tensor, norm.running_mean).copy_(mean)
        cast(Tensor, norm.running_var).copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean + cast(Tensor, self.bias))
        self.norm = norm.eval()
        return cast(Tensor, self(x))


class QuantizedNetwork(nn.Module):
    """A classifier from 8-bit weights and a list of operators, with a new head.

    Args:
        path: ``<path>.graph.json`` lists the operators (convolutions, additions, an average pool)
            and ``<path>.safetensors`` holds their weights with scale and zero point.
        classes: Number of classes of the new head.

    Raises:
        DataError: The files are missing or hold something else.
    """

    def __init__(self, path: Path, classes: int) -> None:
        super().__init__()
        try:
            graph = json.loads(Path(f"{path}.graph.json").read_text(encoding="utf-8"))
            weights = load_file(f"{path}.safetensors")
            self.first, self.ops = graph["input"], self._body(graph["ops"])
            self.layers = nn.ModuleDict(
                {str(i): _read(op, weights) for i, op in enumerate(self.ops) if "layer" in op}
            )
            last = max(int(name) for name in self.layers)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(f"{path} is no 8-bit network: {error!r}.") from error
        features = len(cast(_Convolution, self.layers[str(last)]).weight)
        self.head = nn.Linear(features, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @staticmethod
    def _body(ops: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The operators before the pool: the old head goes."""
        end = [i for i, op in enumerate(ops) if "POOL" in op["op"]]
        if not end:
            raise ValueError("no pool")
        return ops[: end[0]]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W) in [0, 1]."""
        return cast(Tensor, self.head(self._features(images, normalize=False).mean((2, 3))))

    def add_normalization(self, images: Tensor) -> None:
        """Give every convolution a batch normalization that does nothing yet on ``images``."""
        self._features(images, normalize=True)

    def _features(self, images: Tensor, *, normalize: bool) -> Tensor:
        values, result = {self.first: images * 2 - 1}, images
        for index, op in enumerate(self.ops):
            inputs = [values[i] for i in op["inputs"]]
            if "layer" in op:
                layer = cast(_Convolution, self.layers[str(index)])
                result = layer.add_normalization(inputs[0]) if normalize else layer(inputs[0])
            elif op["op"] == "ADD":
                result = inputs[0] + inputs[1]
            else:
                raise DataError(f"Operator {op['op']!r} of a teacher is not known.")
            values[op["outputs"][0]] = result
        return result


def _read(op: dict[str, Any], weights: dict[str, NDArray[Any]]) -> _Convolution:
    """Weights as numbers: (q - zero point) * scale."""
    name = op["layer"]
    zero, scale = weights[f"{name}.weight_zero_point"], weights[f"{name}.weight_scale"]
    weight = (weights[f"{name}.weight_q"].astype(np.float32) - zero) * scale
    bias = weights[f"{name}.bias_q"].astype(np.float32) * weights[f"{name}.bias_scale"]
    return _Convolution(
        torch.from_numpy(weight.astype(np.float32)), torch.from_numpy(bias.astype(np.float32)), op
    )
