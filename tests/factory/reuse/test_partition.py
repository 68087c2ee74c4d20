"""Partitions against all partitions of small networks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnfactory.factory.errors import DataError, SpecError
from nnfactory.factory.reuse import joint_partition
from nnfactory.factory.reuse.joint_partition import partition
from nnfactory.factory.reuse.partition import (
    Chain,
    alternated,
    best_cuts,
    least_slack,
    medoids,
    objective,
)


def pool(seed: int, networks: int, longest: int = 6) -> tuple[list[Chain], np.ndarray]:
    """Chains with random sizes and a random similarity of all their places."""
    rng = np.random.default_rng(seed)
    chains, start = [], 0
    for number in range(networks):
        length = int(rng.integers(3, longest + 1))
        sizes = np.append(0, np.cumsum(rng.integers(5, 10, length)))
        chains.append(
            Chain(name=f"n{number}", rows=np.arange(start, start + length + 1), sizes=sizes)
        )
        start += length + 1
    features = rng.normal(size=(start, 3))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return chains, features @ features.T


def every_cut(chain: Chain, blocks: int, slack: float) -> list[tuple[int, ...]]:
    last = len(chain.rows) - 1
    limit = (1 + slack) * chain.sizes[-1] / blocks
    found = []
    for inner in itertools.combinations(range(1, last), blocks - 1):
        cuts = (0, *inner, last)
        if all(chain.sizes[b] - chain.sizes[a] <= limit for a, b in itertools.pairwise(cuts)):
            found.append(cuts)
    return found


@given(seed=st.integers(0, 500), blocks=st.integers(1, 4), slack=st.sampled_from([0.4, 1.0, 9.0]))
def test_the_cuts_of_one_network_are_the_best_of_all(seed, blocks, slack):
    (chain,), _ = pool(seed, 1, 9)
    gains = np.random.default_rng(seed).normal(size=(blocks, 2, len(chain.rows)))
    every = every_cut(chain, blocks, slack)
    if not every:
        with pytest.raises(DataError, match="cannot be divided"):
            best_cuts(chain, gains, slack)
        return

    def gain(cuts: tuple[int, ...]) -> float:
        return sum(gains[k, 0, cuts[k]] + gains[k, 1, cuts[k + 1]] for k in range(blocks))

    found = best_cuts(chain, gains, slack)
    assert found in every
    assert gain(found) == pytest.approx(max(gain(cuts) for cuts in every))


@given(seed=st.integers(0, 60), blocks=st.integers(1, 3), slack=st.sampled_from([0.4, 9.0]))
@settings(max_examples=25)
def test_a_partition_of_small_networks_is_the_best_of_all(seed, blocks, slack):
    chains, similarity = pool(seed, 3, 5)
    own = [max(slack, least_slack(chain, blocks)) + 1e-12 for chain in chains]
    every = itertools.product(
        *(every_cut(chain, blocks, mine) for chain, mine in zip(chains, own, strict=True))
    )
    best = max(
        objective(chains, similarity, cuts, medoids(chains, similarity, cuts)) for cuts in every
    )
    found = partition(chains, similarity, blocks, slack=slack)
    assert found.objective == pytest.approx(best)
    assert found.bound == pytest.approx(best)
    assert found.objective == pytest.approx(
        objective(chains, similarity, found.cuts, found.anchors)
    )
    turns = alternated(chains, similarity, blocks, slack=slack, restarts=5)
    assert turns.objective <= best + 1e-9
    assert turns.anchors == medoids(chains, similarity, turns.cuts)


def test_what_is_known_when_time_is_over_is_returned_with_its_bound(monkeypatch):
    chains, similarity = pool(1, 4, 9)
    best = partition(chains, similarity, 3, slack=9.0)
    monkeypatch.setattr(joint_partition._Program, "solve", lambda self, seconds: (None, 99.0))
    found = partition(chains, similarity, 3, slack=9.0)
    assert found.bound == 99.0
    assert found.objective <= best.objective + 1e-9


def test_equal_networks_are_cut_alike_and_are_their_own_anchors():
    (chain,), similarity = pool(3, 1, 6)
    found = partition([chain, chain], similarity, 2, slack=9.0)
    assert found.cuts[0] == found.cuts[1]
    assert found.objective == pytest.approx(8)  # two networks, two blocks, in and out


def test_the_size_of_blocks_is_kept():
    chains, similarity = pool(0, 3, 9)
    found = partition(chains, similarity, 2, slack=0.3)
    for chain, cuts in zip(chains, found.cuts, strict=True):
        assert np.diff(chain.sizes[list(cuts)]).max() <= 1.3 * chain.sizes[-1] / 2


def test_too_many_blocks_are_refused():
    chains, similarity = pool(0, 2, 3)
    with pytest.raises(DataError, match="cannot be divided into 8 blocks: it has 2 cut points"):
        partition(chains, similarity, 8)


def test_nothing_is_refused():
    chains, similarity = pool(0, 2, 3)
    for nothing in ({"chains": []}, {"blocks": 0}):
        options = {"chains": chains, "similarity": similarity, "blocks": 2, **nothing}
        with pytest.raises(SpecError, match="at least one of each"):
            partition(**options)
    with pytest.raises(SpecError, match="at least one of each"):
        alternated(chains, similarity, 2, restarts=0)


@given(seed=st.integers(0, 200), blocks=st.integers(1, 4))
def test_the_least_slack_is_that_of_the_most_even_partition(seed, blocks):
    (chain,), _ = pool(seed, 1, 8)
    if len(chain.rows) - 1 < blocks:
        return
    largest = min(np.diff(chain.sizes[list(cuts)]).max() for cuts in every_cut(chain, blocks, 9.0))
    assert least_slack(chain, blocks) == pytest.approx(largest * blocks / chain.sizes[-1] - 1)


def test_a_network_that_cannot_be_even_is_as_even_as_it_can():
    chain = Chain(name="uneven", rows=np.arange(4), sizes=np.array([0, 1, 2, 10]))
    found = partition([chain], np.eye(4), 2, slack=0.1)
    assert found.cuts[0][1] in (1, 2)
