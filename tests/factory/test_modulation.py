"""Modulation: the mean of class vectors on every scale and shift, folded at no cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnfactory.factory.assembler.assemble import plan_from_counts
from nnfactory.factory.assembler.footprint import full_counts
from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.costs import parameter_count
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.normalization import norm_nodes
from nnfactory.factory.linker import link, prove
from nnfactory.factory.modulation import Modulation, modulated, modulation_width


def modulation_for(library, seed: int = 0) -> Modulation:
    rng = np.random.default_rng(seed)
    width = modulation_width(library.network)
    rows = (len(library.classes), 2 * len(library.blocks) + 1)
    classes, widths = ((0.2 * rng.standard_normal((n, width))).astype(np.float32) for n in rows)
    return Modulation(classes=classes, widths=widths)


def test_no_change_changes_nothing(toy_library):
    some = modulation_for(toy_library)
    none = Modulation(classes=0 * some.classes, widths=0 * some.widths)
    features = toy_library.plan_features({slot.name: 1 for slot in toy_library.blocks})
    same = modulated(toy_library.network, none, [0, 1], features)
    for name, array in toy_library.network.weights.items():
        np.testing.assert_array_equal(same.weights[name], array)


def test_scales_and_shifts_are_those_of_the_task_and_the_plan(toy_library):
    modulation, classes = modulation_for(toy_library), [0, 2, 3]
    counts = {slot.name: number for number, slot in enumerate(toy_library.blocks)}
    features = toy_library.at(16).plan_features(counts)
    assert features[-1] == 0.5
    assert features[len(counts)] == 1
    assert features[0] == 1
    changed = modulated(toy_library.network, modulation, classes, features)
    vector = modulation.classes[classes].mean(0) + features @ modulation.widths
    start = 0
    for node in norm_nodes(toy_library.network):
        gamma, beta = (toy_library.network.weights[name] for name in node.input[1:3])
        scale, shift = (
            vector[start : start + len(gamma)],
            vector[start + len(gamma) :][: len(gamma)],
        )
        np.testing.assert_allclose(changed.weights[node.input[1]], gamma * (1 + scale), atol=1e-5)
        np.testing.assert_allclose(changed.weights[node.input[2]], beta + shift, atol=1e-5)
        start += 2 * len(gamma)
    assert start == len(vector)


def test_the_full_plan_has_no_features(toy_library):
    assert not toy_library.plan_features(full_counts(toy_library)).any()


@pytest.mark.parametrize("normalization", ["sliced", "stored"])
def test_a_modulated_plan_links_is_proven_and_costs_nothing(toy_library, normalization: str):
    library = replace(toy_library, modulation=modulation_for(toy_library))
    counts = {name: max(1, count // 2) for name, count in full_counts(library).items()}
    plan = plan_from_counts(library, library.task(library.classes[:2]), counts)
    assert plan.is_modulated
    plan = replace(plan, normalization=normalization)
    plain = replace(plan, is_modulated=False)
    assert plan.id != plain.id
    linked, other = link(library, plan), link(library, plain)
    assert all(parity.passed for parity in prove(library, plan, linked))
    assert parameter_count(linked.network) == parameter_count(other.network)
    image = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    answers = [run_network(network.cut, {"images": image}) for network in (linked, other)]
    gaps = [np.abs(answers[0][name] - answers[1][name]).max() for name in answers[0]]
    assert max(gaps) > 1e-4


def test_a_library_without_modulation_refuses_a_modulated_plan(toy_library):
    plan = plan_from_counts(toy_library, toy_library.task(), full_counts(toy_library))
    with pytest.raises(DataError, match="has no modulation"):
        link(toy_library, replace(plan, is_modulated=True))
