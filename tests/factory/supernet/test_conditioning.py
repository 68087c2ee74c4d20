"""Learning the modulation: tasks hold their images' classes, and the loss of the deployed falls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nnfactory.factory.accuracy_measurement import tensor_from_pixels  # noqa: E402
from nnfactory.factory.assembler.assemble import plan_from_counts  # noqa: E402
from nnfactory.factory.datasets import Images  # noqa: E402
from nnfactory.factory.graph.evaluate import run_network  # noqa: E402
from nnfactory.factory.linker import link  # noqa: E402
from nnfactory.factory.modulation import Modulation, modulation_width  # noqa: E402
from nnfactory.factory.stored_moments import stored_moments  # noqa: E402
from nnfactory.factory.supernet import conditioning  # noqa: E402
from nnfactory.factory.supernet.recipe import Conditioning  # noqa: E402


def images_of(kind: str, classes: int, n: int = 24) -> Images:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    return Images(
        pixels=rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8),
        labels=labels if kind == "cls" else np.empty(0, np.int64),
        boxes=tuple(np.array([[c, 4, 4, 20, 20]], np.float32) for c in labels)
        if kind == "det"
        else (),
    )


def test_tasks_hold_the_classes_of_their_image_and_are_no_larger_than_allowed():
    rng = np.random.default_rng(0)
    nearest = np.argsort(rng.random((30, 30)), 1)
    labels = [[i % 30] for i in range(200)] + [[3, 4], []]
    allowed = conditioning.draw_tasks(labels, nearest, 10, rng)
    sizes = allowed.sum(1)
    assert sizes.min() >= 1
    assert sizes.max() <= 11
    assert len(set(sizes.tolist())) > 3
    for row, mine in zip(allowed, labels, strict=True):
        assert not mine or row[mine].any()


def linked_logits(library, plan, pixels: np.ndarray) -> np.ndarray:
    network = link(library, plan).cut
    rows = [run_network(network, {"images": image[None]})["logits"] for image in pixels]
    return np.concatenate(rows)


def test_what_is_learned_on_is_what_is_linked(toy_cls, toy_parts):
    """The narrowed torch network with stored moments and a modulation equals the linked one."""
    network = toy_parts.supernet("cls").eval()
    rng = np.random.default_rng(1)
    width = modulation_width(toy_cls.network)
    rows = (len(toy_cls.classes), 2 * len(toy_cls.blocks) + 1)
    classes, widths = ((0.1 * rng.standard_normal((n, width))).astype(np.float32) for n in rows)
    library = replace(toy_cls, modulation=Modulation(classes=classes, widths=widths))
    counts = {slot.name: max(1, slot.groups // 2) for slot in library.blocks}
    plan = plan_from_counts(library, library.task(library.classes[:3]), counts)
    pixels = tensor_from_pixels(images_of("cls", 6, 4).pixels)
    affine = conditioning._Affine(network, library)
    vector = classes[:3].mean(0) + library.plan_features(plan.counts) @ widths
    every = torch.from_numpy(vector).expand(len(pixels), -1)
    with affine.of(stored_moments(library, plan.counts), every), torch.no_grad():
        found = network(torch.from_numpy(pixels), tuple(plan.counts.values()))[:, :3].numpy()
    np.testing.assert_allclose(found, linked_logits(library, plan, pixels), atol=1e-4)


@pytest.mark.parametrize("kind", ["cls", "det"])
def test_the_loss_of_deployed_networks_falls(toy_cls, toy_det, toy_parts, kind, monkeypatch):
    library = toy_cls if kind == "cls" else toy_det
    losses: list[float] = []
    lesson = conditioning._ClassLesson if kind == "cls" else conditioning._BoxLesson
    original = lesson.loss

    def watched(self, widths, size):
        loss = original(self, widths, size)
        losses.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(lesson, "loss", watched)
    ends = []
    for lr in (1e-9, 1e-2):  # the same draws, without and with learning
        losses.clear()
        found = conditioning.learn_modulation(
            toy_parts.supernet(kind), library, images_of(kind, len(library.classes)),
            Conditioning(steps=60, batch=24, lr=lr, rank=2, plans=4),
        )  # fmt: skip
        ends.append(np.mean(losses[-15:]))
    width = modulation_width(library.network)
    assert found.classes.shape == (len(library.classes), width)
    assert found.widths.shape == (2 * len(library.blocks) + 1, width)
    assert ends[1] < ends[0]
