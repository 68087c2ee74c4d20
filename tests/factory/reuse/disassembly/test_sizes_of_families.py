"""The exact choice of how much of every family stays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from small_inputs import by_table, pictures
from small_networks import NETS, residual

from nnfactory.factory.errors import BudgetError
from nnfactory.factory.graph.costs import op_costs
from nnfactory.factory.graph.network import tensor_shapes
from nnfactory.factory.reuse.disassembly.choice import choose
from nnfactory.factory.reuse.disassembly.component import plan_within, values_of
from nnfactory.factory.reuse.disassembly.costs import counted, sizes_of
from nnfactory.factory.reuse.disassembly.families import anatomy_of
from nnfactory.factory.reuse.disassembly.kinds import Classification

KIND = Classification()


@pytest.mark.parametrize("share", [0.35, 0.6])
@pytest.mark.parametrize("name", ["plain", "residual"])
def test_the_choice_is_the_best_of_all(name: str, share: float):
    found, rng = anatomy_of(NETS[name]()), np.random.default_rng(1)
    costs = counted(found)
    losses = {f.name: np.sort(rng.random(len(sizes_of(f))))[::-1] for f in found.families}
    limit = share * costs["mmacs"].whole
    best = np.inf
    for sizes in itertools.product(*(sizes_of(f) for f in found.families)):
        chosen = dict(zip((f.name for f in found.families), sizes, strict=True))
        if by_table(found, costs["mmacs"], chosen) <= limit + 1e-12:
            lost = sum(losses[f.name][sizes_of(f).index(chosen[f.name])] for f in found.families)
            best = min(best, lost)
    choice = choose(found, losses, costs, {"mmacs": limit})
    assert choice.loss == pytest.approx(best)
    assert choice.bound == pytest.approx(best)
    assert choice.costs["mmacs"] == pytest.approx(by_table(found, costs["mmacs"], choice.sizes))


def test_a_limit_that_cannot_be_kept_says_what_can():
    found = anatomy_of(residual())
    costs = counted(found)
    losses = {f.name: np.zeros(len(sizes_of(f))) for f in found.families}
    with pytest.raises(BudgetError) as error:
        choose(found, losses, costs, {"mmacs": 1e-6})
    least = error.value.details["reachable"]["mmacs"]
    assert choose(found, losses, costs, {"mmacs": least * 1.0001}).costs["mmacs"] == pytest.approx(
        least, rel=1e-3
    )
    with pytest.raises(BudgetError):
        choose(found, losses, costs, {"mmacs": least * 0.99})


def test_all_kinds_of_values_choose_within_the_limit():
    found = anatomy_of(residual())
    costs = counted(found)
    limit = {"mmacs": 0.6 * costs["mmacs"].whole}
    for values, losses in values_of(found, KIND, pictures(30)).items():
        plan = plan_within(found, values, losses, costs, limit)
        macs = sum(row.macs for row in op_costs(plan.network, tensor_shapes(plan.network))) / 1e6
        assert macs <= limit["mmacs"] * (1 + 1e-9)
        assert plan.choice.costs["mmacs"] == pytest.approx(macs)
