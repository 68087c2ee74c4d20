"""What leaving channels out saves: counted, and in memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from small_inputs import by_table
from small_networks import NETS, Net

from nnfactory.factory.errors import BudgetError
from nnfactory.factory.graph.costs import op_costs, parameter_count
from nnfactory.factory.graph.memory import peak_bytes
from nnfactory.factory.graph.network import Network, tensor_shapes
from nnfactory.factory.reuse.disassembly.choice import choose
from nnfactory.factory.reuse.disassembly.costs import counted, dependents, left_of, sizes_of
from nnfactory.factory.reuse.disassembly.families import anatomy_of, narrowed
from nnfactory.factory.reuse.disassembly.memory_costs import memory_costs
from nnfactory.factory.units import MIB


def wide() -> Network:
    net = Net()
    x = net.relu(net.conv("images", "c1", 128))
    x = net.relu(net.conv(x, "c2", 128))
    return net.network(net.relu(net.conv(x, "c3", 16)))


@pytest.mark.parametrize("name", NETS)
def test_tables_count_what_networks_have(name: str):
    found, rng = anatomy_of(NETS[name]()), np.random.default_rng(0)
    tables = counted(found)
    for _ in range(5):
        sizes = {f.name: int(rng.choice(sizes_of(f))) for f in found.families}
        branch = next((f for f in found.families if f.branch), None)
        if branch is not None:
            sizes[branch.name] = 0
            whole = {f.name: len(f.groups) for f in found.families}
            sizes |= {name: whole[name] for name in dependents(found, branch)}
        network, _ = narrowed(found, {name: range(size) for name, size in sizes.items()})
        macs = sum(row.macs for row in op_costs(network, tensor_shapes(network))) / 1e6
        assert by_table(found, tables["mmacs"], sizes) == pytest.approx(macs)
        params = parameter_count(network) / 1e6
        assert by_table(found, tables["mparams"], sizes) == pytest.approx(params)


def test_memory_is_limited_at_every_moment():
    """Channels come in blocks of 16: where all sizes are multiples of it the tables are exact."""
    found = anatomy_of(wide())
    tables = memory_costs(found, found.network, counted(found)["mparams"])
    shapes = tensor_shapes(found.network)
    assert max(each.whole for each in tables.values()) == pytest.approx(
        peak_bytes(found.network, shapes) / MIB
    )
    for sizes in itertools.product((32, 64, 96, 128), repeat=2):
        kept = dict(zip(("c1", "c2", "c3"), (*sizes, 16), strict=True))
        network, _ = narrowed(found, {name: range(size) for name, size in kept.items()})
        peak = peak_bytes(network, tensor_shapes(network)) / MIB
        assert max(left_of(found, each, kept) for each in tables.values()) == pytest.approx(peak)
    losses = {f.name: np.linspace(1, 0, len(sizes_of(f))) for f in found.families}
    limit = 0.6 * max(each.whole for each in tables.values())
    choice = choose(found, losses, tables, {"memory_mib": limit})
    assert max(left_of(found, each, choice.sizes) for each in tables.values()) <= limit
    best = min(
        sum(losses[f.name][place] for f, place in zip(found.families, places, strict=True))
        for places in itertools.product(*(range(len(sizes_of(f))) for f in found.families))
        if max(
            left_of(found, each, {f.name: sizes_of(f)[i] for f, i in
                                  zip(found.families, places, strict=True)})
            for each in tables.values()
        ) <= limit
    )  # fmt: skip
    assert choice.loss == pytest.approx(best)
    with pytest.raises(BudgetError, match="memory"):
        choose(found, losses, tables, {"memory_mib": 0.001})
