"""Plans that keep limits when whole networks are looked at."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from small_inputs import pictures
from small_networks import residual

from nnfactory.factory.graph.costs import op_costs, parameter_count
from nnfactory.factory.graph.network import Network, tensor_shapes
from nnfactory.factory.reuse.disassembly.component import Plan, component_of, values_of
from nnfactory.factory.reuse.disassembly.costs import counted
from nnfactory.factory.reuse.disassembly.families import Anatomy, anatomy_of
from nnfactory.factory.reuse.disassembly.kinds import Classification, Judgement
from nnfactory.factory.reuse.disassembly.search import Search

KIND = Classification()


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return anatomy_of(residual())


@pytest.fixture(scope="module")
def values(anatomy: Anatomy):
    return values_of(anatomy, KIND, pictures(30))


def mmacs(network: Network) -> float:
    return sum(row.macs for row in op_costs(network, tensor_shapes(network))) / 1e6


def search_of(
    anatomy: Anatomy, share: float, latency_ms: Callable[[Network], float] = mmacs
) -> Search:
    """A device whose table says that a multiply-add takes a nanosecond."""
    costs = counted(anatomy)
    return Search(
        anatomy=anatomy, costs={"latency_ms": costs["mmacs"]},
        limits={"latency_ms": share * mmacs(anatomy.network)},
        look=lambda network: {"latency_ms": latency_ms(network)},
    )  # fmt: skip


@pytest.mark.parametrize("wrong", [0.7, 1.4])
def test_tables_that_are_wrong_are_corrected(anatomy: Anatomy, values, wrong: float):
    search = search_of(anatomy, 0.6, lambda network: wrong * mmacs(network))
    (limit,) = search.limits.values()
    plan = search.plan("both", values["both"])
    right = search_of(anatomy, 0.6).plan("both", values["both"])
    assert plan is not None
    assert right is not None
    cost = wrong * mmacs(plan.network)
    assert 0.8 * limit <= cost <= limit, "sizes of small families are far apart"
    assert (plan.choice.loss > right.choice.loss) == (wrong > 1)


def test_what_keeps_a_limit_in_a_lucky_moment_alone_is_not_taken(anatomy: Anatomy, values):
    seen: dict[int, int] = {}

    def unsteady(network: Network) -> float:
        """Twice as fast at first as it is."""
        count = sum(weight.size for weight in network.weights.values())
        seen[count] = seen.get(count, 0) + 1
        return mmacs(network) * (0.5 if seen[count] == 1 else 1.5)

    search = search_of(anatomy, 0.6, unsteady)
    (limit,) = search.limits.values()
    plan = search.plan("both", values["both"])
    assert plan is not None
    assert mmacs(plan.network) <= limit, "the mean of both looks keeps it"


def test_the_nearest_of_all_values_is_taken(anatomy: Anatomy, values):
    made: list[Plan] = []

    def judged(plan: Plan):
        made.append(plan)
        far = len(made) != 2
        return component_of(
            anatomy, plan, pictures(30), lambda _: Judgement(divergence=far, accuracy=0.5)
        )

    found = search_of(anatomy, 0.5).nearest(values, judged)
    assert found is not None
    assert found.candidates == len(made) >= 2
    assert found.component.plan is made[1]


def test_where_nothing_keeps_the_limit_nothing_is_made(anatomy: Anatomy, values):
    search = search_of(anatomy, 1e-3)
    assert search.nearest(values, lambda plan: pytest.fail("nothing is to be made")) is None


def test_the_smallest_plan_is_tried_where_tables_see_none(anatomy: Anatomy, values):
    """A device that is ten times as fast as its table says."""
    search = search_of(anatomy, 0.05, lambda network: 0.1 * mmacs(network))
    plan = search.plan("both", values["both"])
    assert plan is not None
    (limit,) = search.limits.values()
    assert 0.1 * mmacs(plan.network) <= limit


def test_a_limit_that_is_counted_is_not_tightened_by_a_latency_that_was_wrong(
    anatomy: Anatomy, values
):
    costs = counted(anatomy)
    search = Search(
        anatomy=anatomy, costs={**costs, "latency_ms": costs["mmacs"]},
        limits={"mparams": 0.6 * costs["mparams"].whole, "latency_ms": costs["mmacs"].whole},
        look=lambda network: {
            "mparams": parameter_count(network) / 1e6, "latency_ms": 1.5 * mmacs(network),
        },
    )  # fmt: skip
    alone = Search(
        anatomy=anatomy, costs=costs, limits={"mparams": search.limits["mparams"]}, look=search.look
    )
    found, free = (each.plan("both", values["both"]) for each in (search, alone))
    assert found is not None
    assert free is not None
    assert found.choice.sizes == free.choice.sizes, (
        "the latency is kept, and parameters are used as before"
    )
