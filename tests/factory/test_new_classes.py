"""New classes from a few images: the layer fitted in closed form, the scope, the library."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nnfactory.factory.assembler.accuracy import logit
from nnfactory.factory.assembler.assemble import assemble, plan_from_counts
from nnfactory.factory.assembler.footprint import full_counts
from nnfactory.factory.assembler.strength import doubt_of, size_effect, task_strength
from nnfactory.factory.assembler.values import class_values
from nnfactory.factory.datasets.examples import Examples
from nnfactory.factory.errors import DataError, UsageError
from nnfactory.factory.features import class_layer, features, full_network, with_class_layer
from nnfactory.factory.graph.costs import parameter_count
from nnfactory.factory.graph.network import model_from_network
from nnfactory.factory.library.library import ModuleLibrary, Prototypes
from nnfactory.factory.linker import link, prove
from nnfactory.factory.new_classes import (
    RIDGE,
    check_scope,
    fit_head,
    fitted_to_plan,
    library_of_examples,
    novelty,
    task_of_examples,
)
from nnfactory.factory.schema import Budget, Task

EACH = 6


@pytest.fixture
def examples(toy_cls: ModuleLibrary, toy_parts) -> Examples:
    """Three classes of colored noise, at both sizes of the toy library."""
    images = {size: toy_parts.images(3, EACH, side=size) for size in toy_cls.input_sizes}
    return Examples(
        classes=("amber", "blue", "coral"),
        labels=next(iter(images.values())).labels,
        pixels={size: some.pixels for size, some in images.items()},
        digest="0123456789abcdef",
    )


@pytest.fixture
def made(toy_cls: ModuleLibrary, examples: Examples) -> ModuleLibrary:
    return library_of_examples(toy_cls, examples, allow_novel=True)


def blobs(rng: np.random.Generator, each: int = 8, width: int = 12):
    """Features of four classes that overlap a little."""
    labels = np.repeat(np.arange(4), each)
    centers = rng.normal(0, 1.0, (4, width))
    return centers[labels] + rng.normal(0, 1.2, (len(labels), width)), labels


def ridge(x, targets, strength):
    """Ridge regression with a free constant, as one linear system."""
    wide = np.hstack([x, np.ones((len(x), 1))])
    penalty = strength * np.diag([1.0] * x.shape[1] + [0.0])
    return np.linalg.solve(wide.T @ wide + penalty, wide.T @ targets)


def test_the_layer_is_ridge_regression_and_is_judged_on_what_it_did_not_see(rng):
    seen, labels = blobs(rng)
    spread = rng.uniform(0.5, 2.0, seen.shape[1])
    head = fit_head(seen, labels, 4, spread)
    x = (seen - seen.mean(0)) / spread
    strength = RIDGE * (x**2).sum() / len(x)
    targets = 2.0 * np.eye(4)[labels] - 1
    whole = ridge(x, targets, strength)
    found = seen @ head.weight.T + head.bias
    expected = np.hstack([x, np.ones((len(x), 1))]) @ whole
    scale = np.ptp(found) / np.ptp(expected)
    np.testing.assert_allclose(found, scale * expected, rtol=1e-6, atol=1e-8)
    correct, each = 0, len(x) // 4
    for turn in range(each):  # one of every class is left out together
        out = np.arange(4) * each + turn
        kept = ~np.isin(np.arange(len(x)), out)
        without = ridge(x[kept], targets[kept], strength)
        answers = (np.hstack([x[out], np.ones((4, 1))]) @ without).argmax(1)
        correct += int((answers == labels[out]).sum())
    assert 0.3 < correct / len(x) < 1  # neither trivial nor hopeless
    assert head.left_out.value == pytest.approx(correct / len(x))
    assert head.left_out.n == len(x)


def test_what_is_left_out_is_no_worse_than_chance_on_noise(rng):
    """Leaving out a single example would say which class is one short, and be wrong always."""
    found = []
    for _ in range(60):
        labels = np.repeat(np.arange(2), 5)
        head = fit_head(rng.normal(0, 1, (10, 30)), labels, 2, np.ones(30))
        found.append(head.left_out.value)
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)


def test_classes_of_unequal_size_are_left_out_in_turn(rng):
    labels = np.repeat(np.arange(3), [5, 9, 7])
    centers = rng.normal(0, 3, (3, 10))
    head = fit_head(centers[labels] + rng.normal(0, 1, (21, 10)), labels, 3, np.ones(10))
    assert head.left_out.n == 21
    assert head.left_out.value > 0.9


def test_features_belong_to_the_layer_of_the_classes(toy_cls: ModuleLibrary, examples: Examples):
    network = full_network(toy_cls)
    seen, logits = features(network, examples.pixels[32])
    layer = class_layer(network)
    weight, bias = (network.weights[name] for name in layer.input[1:])
    np.testing.assert_allclose(seen @ weight.T + bias, logits, rtol=1e-4, atol=1e-5)
    changed = with_class_layer(network, weight[:2] * 2, bias[:2])
    _, fewer = features(changed, examples.pixels[32])
    np.testing.assert_allclose(
        fewer, 2 * (logits[:, :2] - bias[:2]) + bias[:2], rtol=1e-4, atol=1e-5
    )


def test_a_detector_has_no_layer_of_classes(toy_det: ModuleLibrary):
    with pytest.raises(DataError, match="does not end in one fully connected layer"):
        class_layer(toy_det.network)


def test_new_classes_are_worth_a_mixture_of_the_trained_ones(made, toy_cls, examples):
    assert made.classes == examples.classes
    assert made.input_sizes == toy_cls.input_sizes
    for size in made.input_sizes:
        new, old = class_values(made.at(size), "blend"), class_values(toy_cls.at(size), "blend")
        assert new.shape == (3, old.shape[1])
        assert (new <= old.max(0) + 1e-6).all()
        assert (new >= old.min(0) - 1e-6).all()


def test_the_full_network_is_estimated_at_its_left_out_accuracy(made, examples, toy_table):
    task = task_of_examples(made, examples)
    plan = plan_from_counts(made, task, full_counts(made))
    _, left_out = fitted_to_plan(made, plan, examples)
    _, estimate, _ = assemble(made, task, Budget(), toy_table(made))
    assert estimate.accuracy.value == pytest.approx(np.clip(left_out.value, 0.005, 0.995))
    assert estimate.accuracy.low < left_out.low
    assert estimate.least_class_accuracy is None


def test_a_smaller_input_costs_what_it_costs_the_trained_classes(made, toy_cls, toy_table):
    task = Task(kind="cls", classes=made.classes)
    whole = [
        assemble(made.at(size), task, Budget(), toy_table(made.at(size)))[1].accuracy.value
        for size in made.input_sizes
    ]
    falls = logit(whole[1]) - logit(whole[0])
    small = toy_cls.at(16)
    assert falls == pytest.approx(size_effect(small) - doubt_of(small), abs=1e-6)


def test_of_unequal_numbers_of_examples_the_estimate_is_what_is_reported(toy_cls, examples):
    few = np.r_[:EACH, EACH : EACH + 2, 2 * EACH : 2 * EACH + 2]  # mostly of the first class
    some = dataclasses.replace(
        examples, labels=np.random.default_rng(0).permutation(examples.labels[few]),
        pixels={size: pixels[few] for size, pixels in examples.pixels.items()},
    )  # fmt: skip
    made = library_of_examples(toy_cls, some, allow_novel=True)
    task = task_of_examples(made, some)
    _, left_out = fitted_to_plan(made, plan_from_counts(made, task, full_counts(made)), some)
    assert 0.1 < left_out.value < 0.9
    assert task_strength(made, task) == pytest.approx(left_out.value)


def test_a_plan_is_linked_with_its_own_layer_and_proven(made, examples, toy_table):
    task = task_of_examples(made, examples)
    plan, estimate, _ = assemble(made, task, Budget(sparsity=0.5), toy_table(made))
    fitted, left_out = fitted_to_plan(made, plan, examples)
    linked = link(fitted, plan)
    assert all(parity.passed for parity in prove(fitted, plan, linked))
    seen, logits = features(linked.folded, examples.pixels[plan.input_size])
    assert (logits.argmax(1) == examples.labels).mean() >= left_out.value
    assert left_out.value > 0.9  # colors are easily told apart
    assert round(estimate.mparams * 1e6) == parameter_count(linked.network)
    assert len(model_from_network(linked.network).SerializeToString()) <= estimate.file_mib * 2**20
    other = link(made, plan)
    assert not np.allclose(features(other.folded, examples.pixels[plan.input_size])[1], logits)


def test_plans_of_other_examples_are_other_plans(made, examples):
    counts = {slot.name: 1 for slot in made.blocks}
    task = task_of_examples(made, examples)
    assert task.examples == examples.digest
    first, second, plain = (
        plan_from_counts(made, dataclasses.replace(task, examples=digest), counts).id
        for digest in (examples.digest, "fedcba9876543210", "")
    )
    assert len({first, second, plain}) == 3


def test_a_class_unlike_all_trained_ones_is_out_of_scope(toy_cls: ModuleLibrary, rng):
    width, each = 10, 8
    centers = rng.normal(0, 1, (6, width))
    library = dataclasses.replace(
        toy_cls, prototypes=Prototypes(mean=centers, spread=np.full(width, 0.5))
    )
    near = centers[[1, 2]] + 0.2
    far = np.stack([centers[3], centers[4] + 9.0])

    def seen(means):
        return np.repeat(means, each, 0) + rng.normal(0, 0.5, (2 * each, width))

    labels = np.repeat([0, 1], each)
    examples = Examples(classes=("a", "b"), labels=labels, pixels={}, digest="")
    check_scope(library, seen(near), examples)
    with pytest.raises(DataError, match=r"trained on nothing like: b \(1\d\.\d\d\)") as caught:
        check_scope(library, seen(far), examples)
    assert list(caught.value.details["novel"]) == ["b"]
    assert "--allow-novel" in caught.value.hints[0]
    with pytest.raises(DataError, match="holds no prototypes"):
        check_scope(dataclasses.replace(toy_cls, prototypes=None), seen(near), examples)


def test_novelty_does_not_shrink_with_more_images(rng):
    """A mean of few images strays from its class; that is not counted."""
    prototypes = Prototypes(mean=np.zeros((1, 40)), spread=np.ones(40))
    at = np.full(40, 0.6)
    few = np.mean([novelty(prototypes, at + rng.normal(0, 1, (5, 40))) for _ in range(200)])
    many = novelty(prototypes, at + rng.normal(0, 1, (2000, 40)))
    assert few == pytest.approx(0.6, abs=0.06)
    assert many == pytest.approx(0.6, abs=0.03)


def test_only_a_classifier_with_enough_classes_takes_examples(toy_cls, toy_det, examples):
    with pytest.raises(UsageError, match="detects; examples are for classification"):
        library_of_examples(toy_det, examples)
    small = dataclasses.replace(toy_cls, classes=toy_cls.classes[:2])
    with pytest.raises(UsageError, match="has room for 2 classes, the examples have 3"):
        library_of_examples(small, examples)
