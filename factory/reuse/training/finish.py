"""Finishing a reassembled network: stitches and classifier are trained, then everything.

Source:
    Kullback-Leibler divergence from the teacher that is better on a sample than the student was
    follows Roth et al., "Fantastic Gains and Where to Find Them" (arXiv:2310.17653), where samples
    are divided by which of two networks is more certain of the right class. Here the teachers are
    all donors, and the division is made once, on images as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...datasets import Images
from ...errors import DataError, VerificationError
from ...graph.evaluate import open_model
from ...graph.network import Array, Network, model_from_network
from ...linker import TOLERANCE, proof_inputs
from ...schema import Parity
from ...supernet.augment import augment_cls, random_views, tensor_from_pixels
from ..donor import Donor
from ..head import sharpened
from ..reassembly import Reassembled, answers, with_head_of
from .steps import scaled_steps
from .torch_graph import OPS, TorchGraph

BATCH = 64
AT_ONCE = 64 * 96 * 96  # pixels of images whose activations are held
NEW_SHARE = 0.25  # of the steps in which only what is new is trained
RATE, OLD_RATE = 2e-3, 5e-4  # of Adam; for weights that donors trained, at their best
CLIP = 1.0
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lessons:
    """What is learned from.

    Attributes:
        images: Labelled, at the network's input size.
        teacher: Class probabilities (N, K) of the donor that is best on each image.
        is_taught: (N,), whether that one was more certain of the right class than the network.
    """

    images: Images
    teacher: Array
    is_taught: Array


def lessons(images: Images, student: Array, donors: list[Array]) -> Lessons:
    """Divide images by who is better on them.

    Args:
        images: Labelled.
        student: Probabilities (N, K) of the network.
        donors: Probabilities (N, K) of every donor.
    """
    every = np.stack([student, *donors])  # (D + 1, N, K)
    of_label = every[:, np.arange(len(images.labels)), images.labels]
    best = of_label.argmax(0)
    teacher = every[best, np.arange(len(best))]
    return Lessons(images=images, teacher=teacher.astype(np.float32), is_taught=best > 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finished:
    """A network after training, or as it was where that was no worse on images left out.

    Attributes:
        network: From images as its first donor wants them to logits.
        before: Accuracy on the images left out before training, in [0, 1].
        after: After it.
        left_out: Number of these images.
        trained_on: Number of the others.
    """

    network: Network
    before: float
    after: float
    left_out: int
    trained_on: int


def finished(
    made: Reassembled, donor: Donor, whole: Sequence[tuple[Reassembled, Donor]],
    images: Mapping[int, Images], judging: Array, *, epochs: int, seed: int = 0,
    report: Report = lambda phase, done, total: None,
) -> Finished:  # fmt: skip
    """Train a network with its pool's donors as teachers; images that are left out judge it.

    Args:
        made: The network.
        donor: Whose first block it begins with.
        whole: Every donor with a classifier of the same classes.
        images: By input size, the same ones.
        judging: Positions of those that judge, (J,); stitches must not be fitted to them.
        epochs: Passes over them.
        seed: Of order and views.
        report: Called with ("finishing", steps done, steps in all).
    """
    mine, original = images[donor.input_size], made.network
    others = np.setdiff1d(np.arange(len(mine)), judging)
    learning, left_out = mine.subset(others), mine.subset(judging)

    def probabilities(one: Reassembled, of: Donor) -> tuple[Array, float]:
        pixels = images[of.input_size].subset(others).pixels
        return sharpened(answers(one.network, of, list(pixels)), learning.labels)

    def accuracy(network: Network) -> float:
        found = answers(network, donor, list(left_out.pixels))
        return float((found.argmax(1) == left_out.labels).mean())

    made = with_head_of(made, donor, learning)
    student, factor = probabilities(made, donor)
    learned = lessons(learning, student, [probabilities(*one)[0] for one in whole])
    network = finish(
        made.network, donor, learned, epochs=epochs, factor=factor, new=made.new_weights,
        seed=seed, report=report,
    )  # fmt: skip
    before, after = accuracy(made.network), accuracy(network)
    return Finished(
        network=network if after > before else original, before=before, after=after,
        left_out=len(left_out), trained_on=len(learning),
    )  # fmt: skip


def finish(
    network: Network, donor: Donor, learned: Lessons, *, epochs: int, factor: float = 1.0,
    new: Collection[str], seed: int = 0, report: Report = lambda phase, done, total: None,
) -> Network:  # fmt: skip
    """Train a network for a few passes over images.

    Args:
        network: From images as the donor wants them to logits.
        donor: Whose first block it begins with.
        learned: Images and teachers.
        epochs: Passes over the images; in the first quarter only what is new is trained.
        factor: On the logits before training, as :func:`sharpened` gives it.
        new: Names of the weights of stitches and classifier.
        seed: Of order and views.
        report: Called with ("finishing", steps done, steps in all).

    Returns:
        The same network with other weights.
    """
    graph = TorchGraph(_scaled(network, factor))
    pairs = list(zip(graph.trainable, graph.parameter_list, strict=True))
    fresh = [parameter for name, parameter in pairs if name in new]
    old = [parameter for name, parameter in pairs if name not in new]
    count = len(learned.images)
    batch_size = min(BATCH, count)
    steps = epochs * (count // batch_size)
    fresh_steps, old_steps = scaled_steps(fresh), scaled_steps(old)
    optimizer = torch.optim.Adam([*fresh_steps, *old_steps])
    rng = np.random.default_rng(seed)
    order = np.empty(0, np.int64)
    for step in range(steps):
        for rate, groups in zip(_rates(step / steps), (fresh_steps, old_steps), strict=True):
            for group in groups:
                group["lr"] = rate * group["scale"]
        for parameter in old:
            parameter.requires_grad_(step >= NEW_SHARE * steps)
        if len(order) < batch_size:
            order = rng.permutation(count)
        batch, order = order[:batch_size], order[batch_size:]
        optimizer.zero_grad()
        for part in np.array_split(batch, _parts(donor, len(batch))):
            loss = _loss(graph, donor, learned, part, rng) * (len(part) / len(batch))
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(graph.parameter_list, CLIP)
        optimizer.step()
        report("finishing", step + 1, steps)
    return graph.trained()


def prove_trained(network: Network, donor: Donor, exported: Network) -> Parity:
    """What was trained, in torch, against what is exported, in ONNX Runtime, on four images.

    Args:
        network: From images as the donor wants them to logits.
        donor: Whose first block it begins with.
        exported: What :func:`answering` made of it.

    Raises:
        VerificationError: Probabilities differ by more than the tolerance of 1e-4.
    """
    images = torch.from_numpy(proof_inputs(donor.input_size)[:, 0].copy())
    with torch.no_grad():
        trained = torch.softmax(TorchGraph(network)(normalized(images, donor)), 1).numpy()
    run, (entry,) = open_model(model_from_network(exported)), exported.inputs
    found = [next(iter(run({entry: image[None].numpy()}).values())) for image in images]
    worst = float(np.abs(trained - np.concatenate(found)).max())
    parity = Parity(a="trained", b="exported", n=len(images), max_abs=worst, tolerance=TOLERANCE)
    if not parity.passed:
        raise VerificationError(f"Torch and ONNX Runtime differ by {worst:.2e} after training.")
    return parity


def check_trainable(donors: Sequence[Donor]) -> None:
    """Raise unless torch can compute all operators of some networks.

    Raises:
        DataError: It cannot; names the network and the operator.
    """
    for donor in donors:
        unknown = sorted({node.op_type for node in donor.network.nodes} - set(OPS))
        if unknown:
            raise DataError(f"'{donor.name}' cannot be trained: {unknown[0]} is not known.")


def _parts(donor: Donor, count: int) -> int:
    """Into how many parts a batch is divided, whose gradients add up, so that it fits in memory."""
    return min(count, max(1, round(count * donor.input_size**2 / AT_ONCE)))


def _rates(done: float) -> tuple[float, float]:
    """Learning rates of what is new and of the rest: both warm up and fall as a cosine does."""
    fall = 0.5 * (1 + np.cos(np.pi * done))
    late = max(0.0, (done - NEW_SHARE) / (1 - NEW_SHARE))
    return RATE * min(1.0, done / 0.05 + 0.1) * fall, OLD_RATE * min(1.0, late / 0.05) * fall


def _loss(
    graph: TorchGraph, donor: Donor, learned: Lessons, batch: Array, rng: np.random.Generator
) -> Tensor:
    """Cross-entropy, and the divergence from the teacher where there is one."""
    images = learned.images.subset(batch)
    views = random_views(len(batch), images.pixels.shape[1], rng)
    seen = augment_cls(tensor_from_pixels(images.pixels), views, rng)
    logs = F.log_softmax(graph(normalized(seen, donor)), 1)
    own = F.nll_loss(logs, torch.from_numpy(images.labels))
    teacher = torch.from_numpy(learned.teacher[batch])
    taught = torch.from_numpy(learned.is_taught[batch]).float()
    divergence = F.kl_div(logs, teacher, reduction="none").sum(1)
    return own + (taught * divergence).mean()


def normalized(images: Tensor, donor: Donor) -> Tensor:
    """Images (B, 3, S, S), RGB in [0, 1], as a donor wants them."""
    planes = images.flip(1) if donor.colors == "BGR" else images
    mean, std = (torch.tensor(row)[:, None, None] for row in (donor.mean, donor.std))
    return (planes - mean) / std


def _scaled(network: Network, factor: float) -> Network:
    """The network with its logits multiplied."""
    last = network.nodes[-1]
    weights = {name: network.weights[name] * np.float32(factor) for name in last.input[1:]}
    return replace(network, weights={**network.weights, **weights})
