"""Statistics of plans that were never sampled."""

import dataclasses

import numpy as np
import pytest

from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.normalization import norm_nodes
from nnfactory.factory.library.library import Statistics
from nnfactory.factory.stored_moments import stored_moments, upstream_blocks


def random_counts(library, rng):
    return {s.name: int(rng.integers(s.min_groups, s.groups + 1)) for s in library.blocks}


def with_statistics(toy_parts, library, samples, mean_of, std_of):
    """The library with moments that are known functions of the shares."""
    names = [slot.name for slot in library.blocks]
    groups = np.array([slot.groups for slot in library.blocks])
    counts = np.array([[row[name] for name in names] for row in samples])
    upstream = upstream_blocks(library.network, library.blocks)
    mean, variance = {}, {}
    for node, blocks in upstream.items():
        channels = library.statistics.mean[node].shape[1]
        shares = (counts / groups)[:, list(blocks)]
        mean[node] = np.repeat(mean_of(shares)[:, None], channels, 1)
        variance[node] = np.repeat(std_of(shares)[:, None] ** 2, channels, 1)
    weights = dict(library.network.weights)
    for node in norm_nodes(library.network):  # the full plan, in agreement with the function
        ones = np.ones((1, len(upstream[node.name])))
        weights[node.input[3]] = np.full_like(weights[node.input[3]], mean_of(ones)[0])
        weights[node.input[4]] = np.full_like(weights[node.input[4]], std_of(ones)[0] ** 2)
    network = dataclasses.replace(library.network, weights=weights)
    statistics = Statistics(counts=counts, mean=mean, variance=variance)
    library = toy_parts.with_size_data(library, statistics=statistics)
    return dataclasses.replace(library, network=network)


def test_full_plan_gets_the_statistics_it_was_trained_with(toy_library):
    weights = toy_library.network.weights
    found = stored_moments(toy_library, {slot.name: slot.groups for slot in toy_library.blocks})
    nodes = norm_nodes(toy_library.network)
    assert set(found) == {node.name for node in nodes}
    for node in nodes:
        mean, variance = found[node.name]
        np.testing.assert_allclose(mean, weights[node.input[3]], atol=1e-5)
        np.testing.assert_allclose(variance, weights[node.input[4]], rtol=1e-4)


def test_a_smaller_size_keeps_its_own_statistics(toy_library):
    """Its full plan sees other activations than that of the largest size, which was trained."""
    small, full = toy_library.at(16), {slot.name: slot.groups for slot in toy_library.blocks}
    assert tuple(full.values()) == tuple(small.statistics.counts[0])  # the first sampled plan
    found, trained = stored_moments(small, full), stored_moments(toy_library, full)
    nearer = 0
    for node in norm_nodes(toy_library.network):
        own = small.statistics.mean[node.name][0]
        distances = (
            np.abs(found[node.name][0] - other).mean() for other in (own, trained[node.name][0])
        )
        nearer += np.less(*distances)
    assert nearer > len(found) / 2


def test_variances_are_positive_for_any_plan(toy_library, rng):
    for _ in range(20):
        for mean, variance in stored_moments(toy_library, random_counts(toy_library, rng)).values():
            assert np.isfinite(mean).all()
            assert (variance > 0).all()


def test_moments_that_depend_smoothly_on_the_plan_are_found(toy_parts, toy_library, rng):
    ends = [
        {slot.name: count(slot) for slot in toy_library.blocks}
        for count in (lambda slot: slot.groups, lambda slot: slot.min_groups)
    ]
    samples = ends + [random_counts(toy_library, rng) for _ in range(150)]
    library = with_statistics(
        toy_parts, toy_library, samples, lambda x: 1 + x.sum(1), lambda x: np.exp(0.3 * x.sum(1))
    )
    groups = {slot.name: slot.groups for slot in library.blocks}
    upstream = upstream_blocks(library.network, library.blocks)
    names = list(groups)

    def total_of(counts, node):
        return sum(counts[names[b]] / groups[names[b]] for b in upstream[node])

    own = {node: slot.name for slot in library.blocks for node in slot.nodes}
    for _ in range(10):
        counts = random_counts(library, rng)
        for node, (mean, variance) in stored_moments(library, counts).items():
            # Nothing is seen inside a block that is skipped, nothing predicted beyond what is seen.
            seen = [total_of(row, node) for row in samples if row.get(own.get(node), 1)]
            total = np.clip(total_of(counts, node), min(seen), max(seen))
            assert mean == pytest.approx(1 + total, abs=0.25)
            assert np.sqrt(variance) == pytest.approx(np.exp(0.3 * total), rel=0.1)


def test_a_later_block_does_not_change_earlier_moments(toy_library):
    full = {slot.name: slot.groups for slot in toy_library.blocks}
    last = toy_library.blocks[-1]
    fewer = full | {last.name: last.min_groups}
    upstream = upstream_blocks(toy_library.network, toy_library.blocks)
    before, after = stored_moments(toy_library, full), stored_moments(toy_library, fewer)
    position = len(toy_library.blocks) - 1
    untouched = [node for node, blocks in upstream.items() if position not in blocks]
    assert untouched
    for node in untouched:
        np.testing.assert_array_equal(before[node][0], after[node][0])


def test_every_input_size_has_moments_of_its_own(toy_library, rng):
    counts = random_counts(toy_library, rng)
    large, small = (
        stored_moments(toy_library.at(size), counts) for size in toy_library.input_sizes
    )
    assert large.keys() == small.keys()
    assert any(not np.array_equal(large[node][0], small[node][0]) for node in large)


def test_the_first_normalization_depends_on_no_block_and_a_projection_on_its_own(toy_cls):
    upstream = upstream_blocks(toy_cls.network, toy_cls.blocks)
    assert upstream["/stem/norm"] == ()
    assert upstream["/stage0/block0/expand/norm"] == ()
    assert upstream["/stage0/block0/project/norm"] == (0,)


def test_a_library_without_statistics_is_refused(toy_parts, toy_cls):
    bare = toy_parts.with_size_data(toy_cls, statistics=None)
    with pytest.raises(DataError, match="holds no statistics"):
        stored_moments(bare, {slot.name: 1 for slot in toy_cls.blocks})
