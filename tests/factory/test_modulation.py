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
from nnfactory.factory.modulation import modulated, modulation_width


def vectors_for(library, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (len(library.classes), modulation_width(library.network))
    return (0.2 * rng.standard_normal(shape)).astype(np.float32)


def test_no_change_changes_nothing(toy_library):
    zeros = np.zeros_like(vectors_for(toy_library))
    same = modulated(toy_library.network, zeros, [0, 1])
    for name, array in toy_library.network.weights.items():
        np.testing.assert_array_equal(same.weights[name], array)


def test_scales_and_shifts_are_those_of_the_mean_vector(toy_library):
    vectors, classes = vectors_for(toy_library), [0, 2, 3]
    changed = modulated(toy_library.network, vectors, classes)
    mean, start = vectors[classes].mean(0), 0
    for node in norm_nodes(toy_library.network):
        gamma, beta = (toy_library.network.weights[name] for name in node.input[1:3])
        scale, shift = mean[start : start + len(gamma)], mean[start + len(gamma) :][: len(gamma)]
        np.testing.assert_allclose(changed.weights[node.input[1]], gamma * (1 + scale), atol=1e-6)
        np.testing.assert_allclose(changed.weights[node.input[2]], beta + shift, atol=1e-6)
        start += 2 * len(gamma)
    assert start == len(mean)


@pytest.mark.parametrize("normalization", ["sliced", "stored"])
def test_a_modulated_plan_links_is_proven_and_costs_nothing(toy_library, normalization: str):
    library = replace(toy_library, modulation=vectors_for(toy_library))
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
