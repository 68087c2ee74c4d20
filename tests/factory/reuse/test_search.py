"""The ways that are found against all ways."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnfactory.factory.errors import DataError
from nnfactory.factory.reuse.search import Stages, best_ways, least_cost


def random_stages(seed: int, stages: int, blocks: int) -> Stages:
    rng = np.random.default_rng(seed)
    return Stages(
        value=rng.normal(size=(stages, blocks)),
        joint_value=-rng.random((stages - 1, blocks, blocks)),
        costs={name: rng.random((stages, blocks)) for name in ("params", "macs")},
        joint_costs={
            name: 0.2 * rng.random((stages - 1, blocks, blocks)) for name in ("params", "macs")
        },
        donors=rng.integers(0, 3, blocks),
        is_allowed=rng.random((stages, blocks)) < 0.9,
        peaks={"macs": rng.random((stages, blocks))} if seed % 2 else {},
        joint_peaks={"macs": rng.random((stages - 1, blocks, blocks))} if seed % 2 else {},
    )  # fmt: skip


def every_way(stages: Stages):
    count, blocks = stages.value.shape
    for way in itertools.product(range(blocks), repeat=count):
        if not all(stages.is_allowed[k, b] for k, b in enumerate(way)):
            continue
        links = list(enumerate(itertools.pairwise(way)))
        value = sum(stages.value[k, b] for k, b in enumerate(way))
        value += sum(stages.joint_value[k, a, b] for k, (a, b) in links)
        costs = {
            name: sum(stages.costs[name][k, b] for k, b in enumerate(way))
            + sum(stages.joint_costs[name][k, a, b] for k, (a, b) in links)
            for name in stages.costs
        }
        for name, rows in stages.peaks.items():
            own = [rows[k, b] for k, b in enumerate(way)]
            costs[name] += max([*own, *(stages.joint_peaks[name][k, a, b] for k, (a, b) in links)])
        yield way, value, costs


@given(
    seed=st.integers(0, 300), count=st.integers(1, 4), blocks=st.integers(1, 4),
    share=st.sampled_from([0.3, 0.6, 2.0]), most=st.sampled_from([None, 1, 2]),
)  # fmt: skip
@settings(max_examples=80)
def test_the_best_ways_are_those_of_all(seed, count, blocks, share, most):
    stages = random_stages(seed, count, blocks)
    limits = {"params": share * count, "macs": share * count}
    kept = [
        (value, way)
        for way, value, costs in every_way(stages)
        if all(costs[name] <= limit for name, limit in limits.items())
        and (most is None or len({int(stages.donors[b]) for b in way}) <= most)
    ]
    expected = sorted(kept, reverse=True)[:5]
    found = best_ways(stages, limits, 5, most_donors=most)
    assert [way.blocks for way in found] == [way for _, way in expected]
    assert [way.value for way in found] == pytest.approx([value for value, _ in expected])
    for way in found:
        assert all(way.costs[name] <= limit + 1e-9 for name, limit in limits.items())


@given(seed=st.integers(0, 100), share=st.sampled_from([0.3, 0.6]))
@settings(max_examples=40)
def test_the_least_cost_is_that_of_the_cheapest_way_within_the_other_limits(seed, share):
    stages = random_stages(seed, 3, 3)
    for name, other in (("params", "macs"), ("macs", "params")):
        limits = {name: 0.01, other: 3 * share}
        kept = [costs[name] for _, _, costs in every_way(stages) if costs[other] <= 3 * share]
        found = least_cost(stages, name, limits)
        assert found == (pytest.approx(min(kept)) if kept else None)


def test_many_stages_are_no_trouble():
    stages = random_stages(0, 12, 8)
    (way,) = best_ways(stages, {}, 1)
    assert len(way.blocks) == 12


def test_a_limit_without_costs_is_refused():
    with pytest.raises(DataError, match="'joules'"):
        best_ways(random_stages(0, 2, 2), {"joules": 1.0}, 1)
