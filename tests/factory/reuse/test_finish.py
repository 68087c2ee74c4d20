"""Training what was reassembled: who teaches whom, and that it helps or changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from nnfactory.factory.datasets import Images
from nnfactory.factory.errors import VerificationError
from nnfactory.factory.graph.network import Network
from nnfactory.factory.reuse.donor import Donor
from nnfactory.factory.reuse.head import empty_head, fit_linear_head, head_network
from nnfactory.factory.reuse.reassembly import Reassembled, answering, answers
from nnfactory.factory.reuse.search import Way

torch = pytest.importorskip("torch")
from nnfactory.factory.reuse.training import finish as training  # noqa: E402

SIDE, CLASSES = 8, 3
JUDGING = np.arange(7, 400, 8)


def donor(seed: int = 0) -> Donor:
    """One convolution with an activation."""
    weights = {
        "w": np.random.default_rng(seed).normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "b": np.zeros(8, np.float32),
    }
    nodes = (
        helper.make_node("Conv", ["image", "w", "b"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
    )
    network = Network(
        name="body", nodes=nodes, weights=weights, inputs={"image": (1, 3, SIDE, SIDE)},
        outputs={"r": (1, 8, SIDE, SIDE)},
    )  # fmt: skip
    return Donor(name=f"d{seed}", network=network, mean=(0.5,) * 3, std=(0.25,) * 3)


def images(count: int = 96) -> Images:
    """Each class has one brighter color."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count)
    pixels = rng.integers(0, 200, (count, SIDE, SIDE, 3)).astype(np.uint8)
    pixels[np.arange(count), :, :, labels] += 12
    return Images(pixels=pixels, labels=labels.astype(np.int64), boxes=())


def made_of(one: Donor, some: Images | None = None) -> Reassembled:
    shape = (1, 8, SIDE, SIDE)
    head = empty_head(8, CLASSES)
    if some is not None:
        features = answers(one.network, one, list(some.pixels))
        head = fit_linear_head(features, some.labels, CLASSES)
    parts = (one.network, head_network(head, shape))
    way = Way(blocks=(0,), value=0.0, costs={})
    return Reassembled(way=way, parts=parts, head=head, right=np.zeros(0, bool), sharper=1.0, r2=())


def test_sharpened_probabilities_make_the_labels_likeliest():
    labels = np.arange(30) % 3
    logits = 0.1 * np.eye(3)[labels] + np.random.default_rng(0).normal(0, 0.03, (30, 3))
    found, factor = training.sharpened(logits, labels)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    assert factor > 10
    plain = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    of = np.arange(30), labels
    assert np.log(found[of]).mean() > np.log(plain[of]).mean()


def test_the_teacher_is_the_donor_that_is_surest_of_the_right_class():
    some = images(3)
    labels = some.labels
    student = np.full((3, CLASSES), 0.1)
    student[np.arange(3), labels] = [0.8, 0.4, 0.2]
    first, second = student.copy(), student.copy()
    first[np.arange(3), labels], second[np.arange(3), labels] = [0.7, 0.6, 0.3], [0.5, 0.5, 0.9]
    learned = training.lessons(some, student, [first, second])
    assert learned.is_taught.tolist() == [False, True, True]
    np.testing.assert_allclose(learned.teacher[1], first[1], rtol=1e-6)
    np.testing.assert_allclose(learned.teacher[2], second[2], rtol=1e-6)


def test_training_makes_it_better_and_only_trains_what_is_new_first(monkeypatch):
    one, some = donor(), images(400)
    made = made_of(one, some.subset(np.arange(30)))
    done = training.finished(made, one, [(made, one)], {SIDE: some}, JUDGING, epochs=6)
    assert (done.left_out, done.trained_on) == (50, 350)
    assert done.after > done.before
    training.prove_trained(done.network, one, answering(done.network, one))
    for name in made.network.weights:
        assert not np.array_equal(done.network.weights[name], made.network.weights[name])
    monkeypatch.setattr(training, "NEW_SHARE", 0.999)
    frozen = training.finished(made, one, [(made, one)], {SIDE: some}, JUDGING, epochs=2)
    for name in set(made.network.weights) - made.new_weights:
        np.testing.assert_array_equal(frozen.network.weights[name], made.network.weights[name])


def test_what_training_makes_worse_stays_as_it_was(monkeypatch):
    one, some = donor(), images(400)
    made = made_of(one, some)
    monkeypatch.setattr(training, "RATE", 30.0)
    done = training.finished(made, one, [(made, one)], {SIDE: some}, JUDGING, epochs=1)
    assert done.after <= done.before
    assert done.network.weights.keys() == made.network.weights.keys()
    for name, array in made.network.weights.items():
        np.testing.assert_array_equal(done.network.weights[name], array)


def test_colors_are_turned_as_the_donor_wants_them():
    one = donor()
    turned = Donor(
        name="bgr", network=one.network, mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.1), colors="BGR"
    )
    some = images(2)
    found = training.normalized(training.tensor_from_pixels(some.pixels), turned)
    for image, row in zip(some.pixels, found, strict=True):
        np.testing.assert_allclose(row, turned.tensor(image)[0], rtol=1e-4, atol=1e-5)


def test_a_network_that_torch_reads_otherwise_is_not_exported(monkeypatch):
    one = donor()
    made = made_of(one, images())
    whole = answering(made.network, one)
    training.prove_trained(made.network, one, whole)
    real = training.TorchGraph

    class Other(real):  # type: ignore[misc, valid-type]
        def forward(self, x):
            return super().forward(x) * 1.5

    monkeypatch.setattr(training, "TorchGraph", Other)
    with pytest.raises(VerificationError, match="differ by"):
        training.prove_trained(made.network, one, whole)


def test_a_batch_in_parts_is_the_batch(monkeypatch):
    one, some = donor(), images(64)
    made = made_of(one, some)
    learned = training.Lessons(
        images=some, teacher=np.full((64, CLASSES), 1 / CLASSES, np.float32),
        is_taught=np.ones(64, bool),
    )  # fmt: skip
    monkeypatch.setattr(training, "augment_cls", lambda seen, views, rng: seen)
    found = []
    for pixels in (64 * SIDE**2, 10 * SIDE**2):
        monkeypatch.setattr(training, "AT_ONCE", pixels)
        found.append(training.finish(made.network, one, learned, epochs=1, new=made.new_weights))
    for name, array in found[0].weights.items():
        np.testing.assert_allclose(found[1].weights[name], array, rtol=1e-3, atol=1e-5)
