"""Finishing a component: every weight is trained towards what the whole network answers.

Source:
    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531. No
    label is used: the whole network, with the classes of the task alone, is the teacher, and
    images that nothing was fitted to decide whether the result is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...datasets import Images
from ...errors import VerificationError
from ...graph.evaluate import run_network
from ...graph.network import Array, Network
from ...linker import TOLERANCE, proof_inputs
from ...schema import Parity
from ...supernet.augment import augment_cls, random_views, tensor_from_pixels
from ..disassembly.kinds import Classification, Detection, Judgement, Kind
from .steps import scaled_steps
from .torch_graph import TorchGraph

BATCH = 64
STEPS = 8  # of a pass, at least, where there are few images
AT_ONCE = 64 * 96 * 96  # pixels of images whose activations are held
RATE, CLIP = 1e-3, 1.0
TEMPERATURE = 2.0
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Taught:
    """A component after training, or as it was where that was nearer to the whole network.

    Attributes:
        network: From images in [0, 1] to raw outputs.
        before: On images that are left out, before training.
        after: After it.
        parity: What was trained, in torch, against the network, in ONNX Runtime; None where the
            result of training was not taken.
    """

    network: Network
    before: Judgement
    after: Judgement
    parity: Parity | None


def taught(
    network: Network, teacher: Network, kind: Kind, learning: Images,
    judged: Callable[[Network], Judgement], *, epochs: int, seed: int = 0,
    report: Report = lambda phase, done, total: None,
) -> Taught:  # fmt: skip
    """Train a component with the whole network as its teacher.

    Args:
        network: The component: raw outputs of images in [0, 1].
        teacher: The whole network with the same outputs.
        kind: What the outputs mean.
        learning: Images at the network's size; labels are not used.
        judged: What other images say of a network.
        epochs: Passes over the images.
        seed: Of order and views.
        report: Called with ("finishing", steps done, steps in all).

    Raises:
        DataError: Torch cannot compute an operator of the network.
        VerificationError: Torch and ONNX Runtime differ afterwards.
    """
    before = judged(network)
    graph, whole = TorchGraph(network), TorchGraph(teacher)
    train_(
        graph, lambda _, seen: whole.outputs(seen), kind, learning, epochs=epochs, seed=seed,
        report=report,
    )  # fmt: skip
    trained = graph.trained()
    after = judged(trained)
    is_better = after.divergence < before.divergence
    return Taught(
        network=trained if is_better else network, before=before, after=after,
        parity=_parity(graph, trained) if is_better else None,
    )  # fmt: skip


def train_(
    graph: TorchGraph, answers: Callable[[Array, Tensor], dict[str, Tensor]], kind: Kind,
    images: Images, *, epochs: int, seed: int = 0,
    report: Report = lambda phase, done, total: None,
) -> None:  # fmt: skip
    """Train a network, in place, towards answers.

    Args:
        graph: What is trained.
        answers: Raw outputs that are wanted, from positions of images and the views of them.
        kind: What the outputs mean.
        images: As in :func:`taught`, as all that follow.
        epochs: As there.
        seed: As there.
        report: As there.
    """
    side = images.pixels.shape[1]
    batch = max(1, min(BATCH, -(-len(images) // STEPS), round(AT_ONCE / side**2)))
    steps = epochs * max(1, len(images) // batch)
    optimizer = torch.optim.Adam(scaled_steps(graph.parameter_list), lr=RATE)
    rng = np.random.default_rng(seed)
    order = np.empty(0, np.int64)
    for step in range(steps):
        rate = RATE * min(1.0, 20 * step / steps + 0.05) * 0.5 * (1 + np.cos(np.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        if len(order) < batch:
            order = rng.permutation(len(images))
        mine, order = order[:batch], order[batch:]
        pixels = tensor_from_pixels(images.pixels[mine])
        seen = augment_cls(pixels, random_views(len(mine), side, rng), rng)
        with torch.no_grad():
            wanted = answers(mine, seen)
        optimizer.zero_grad()
        loss = _loss(kind, graph.outputs(seen), wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(graph.parameter_list, CLIP)
        optimizer.step()
        report("finishing", step + 1, steps)


def _loss(kind: Kind, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    if isinstance(kind, Detection):
        return _map_loss(kind, found, wanted)
    assert isinstance(kind, Classification)
    ((mine,), (whole,)) = found.values(), wanted.values()
    return _softened(mine, whole).mean()


def _map_loss(kind: Detection, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    """Objectness everywhere; classes and boxes where the teacher sees objects."""
    total = torch.zeros(())
    for one in kind.head.maps:
        real = torch.sigmoid(wanted[one.objectness])  # (B, A, H, W)
        total = total + F.binary_cross_entropy_with_logits(
            found[one.objectness], real, reduction="sum"
        ) / len(real)
        most = real.amax(1)
        shown = _softened(found[one.classes], wanted[one.classes])
        total = total + (most * shown).sum() / len(real)
        apart = (found[one.boxes] - wanted[one.boxes]).abs()
        each = apart.reshape(len(real), real.shape[1], 4, *real.shape[2:]).sum(2)
        total = total + (real * each).sum() / len(real)
    return total


def _softened(found: Tensor, wanted: Tensor) -> Tensor:
    """Divergence of softened probabilities over axis 1."""
    mine = F.log_softmax(found / TEMPERATURE, 1)
    whole = F.log_softmax(wanted / TEMPERATURE, 1)
    return TEMPERATURE**2 * (whole.exp() * (whole - mine)).sum(1)


def _parity(graph: TorchGraph, network: Network) -> Parity:
    ((entry, shape),) = network.inputs.items()
    images, worst = proof_inputs(shape[2]), 0.0
    for image in images:
        with torch.no_grad():
            wanted = graph.outputs(torch.from_numpy(image.copy()))
        found = run_network(network, {entry: image})
        for name, values in wanted.items():
            scale = max(1.0, float(values.abs().max()))
            worst = max(worst, float(np.abs(found[name] - values.numpy()).max()) / scale)
    parity = Parity(a="trained", b="exported", n=len(images), max_abs=worst, tolerance=TOLERANCE)
    if not parity.passed:
        raise VerificationError(f"Torch and ONNX Runtime differ by {worst:.2e} after training.")
    return parity
