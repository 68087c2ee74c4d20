"""Latency of cut networks as a sum over layers."""

from __future__ import annotations

import itertools
from math import ceil

import numpy as np
import pytest
from small_networks import NETS, Net, plain

from nnfactory.devices.parts import PartLatency
from nnfactory.factory.graph.costs import op_costs
from nnfactory.factory.graph.network import Network, tensor_shapes
from nnfactory.factory.reuse.disassembly.costs import counted, dependents, left_of, sizes_of
from nnfactory.factory.reuse.disassembly.families import Anatomy, anatomy_of, narrowed
from nnfactory.factory.reuse.disassembly.layer_latency import timed

BLOCK = 8  # channels that a device computes at once


def by_macs(network: Network) -> float:
    """A device that takes a microsecond per thousand multiply-adds of layers with weights."""
    rows = op_costs(network, tensor_shapes(network))
    layers = {node.name for node in network.nodes if node.op_type in ("Conv", "Gemm")}
    return 1e-3 * sum(row.macs for row in rows if row.name in layers)


def by_blocks(network: Network) -> float:
    """A device that computes channels in blocks, whether they are full or not."""
    shapes, total = tensor_shapes(network), 0
    for node in network.nodes:
        if node.op_type == "Conv":
            wide, deep = network.weights[node.input[1]].shape[:2]
            total += ceil(wide / BLOCK) * ceil(deep / BLOCK) * shapes[node.output[0]][2] ** 2
    return float(total)


def cut(found: Anatomy, sizes: dict[str, int]) -> Network:
    network, _ = narrowed(found, {name: range(size) for name, size in sizes.items()})
    return network


def drawn(found: Anatomy, rng: np.random.Generator) -> dict[str, int]:
    """Sizes of families, branches left in."""
    return {f.name: int(rng.choice([s for s in sizes_of(f) if s])) for f in found.families}


@pytest.mark.parametrize("name", NETS)
def test_where_layers_take_what_their_multiply_adds_do_tables_are_exact(name: str):
    found, rng = anatomy_of(NETS[name]()), np.random.default_rng(0)
    table = timed(found, by_macs, by_macs)
    for _ in range(5):
        sizes = drawn(found, rng)
        assert left_of(found, table, sizes) == pytest.approx(by_macs(cut(found, sizes)), rel=1e-6)


@pytest.mark.parametrize("name", ["residual", "bottleneck"])
def test_a_branch_takes_all_of_its_layers_with_it(name: str):
    """And what others would save in them is not saved once more."""
    found, rng = anatomy_of(NETS[name]()), np.random.default_rng(0)
    table = timed(found, by_macs, by_macs)
    branch = next(f for f in found.families if f.branch)
    for _ in range(5):
        sizes = drawn(found, rng) | {branch.name: 0}
        sizes |= {
            f.name: len(f.groups) for f in found.families if f.name in dependents(found, branch)
        }
        assert left_of(found, table, sizes) == pytest.approx(by_macs(cut(found, sizes)), rel=1e-6)


def test_the_steps_of_a_runtime_are_in_the_table():
    net = Net()
    x = net.relu(net.conv("images", "c1", 16))
    x = net.relu(net.conv(x, "c2", 32))
    found = anatomy_of(net.network(net.relu(net.conv(x, "c3", 16))))
    table = timed(found, by_blocks, by_blocks)
    for sizes in itertools.product(*(sizes_of(f) for f in found.families)):
        chosen = dict(zip((f.name for f in found.families), sizes, strict=True))
        assert left_of(found, table, chosen) == pytest.approx(by_blocks(cut(found, chosen)))


def test_what_is_no_layer_is_scaled_to_whole_networks():
    """Half of the time goes elsewhere, and as much of it is saved."""
    found = anatomy_of(plain())
    table = timed(found, lambda network: 2 * by_macs(network), by_macs)
    sizes = {f.name: len(f.groups) // 2 for f in found.families}
    assert table.whole == 2 * by_macs(found.network)
    assert left_of(found, table, sizes) == pytest.approx(2 * by_macs(cut(found, sizes)))


def test_families_that_are_joined_save_in_proportion():
    """Steps in front of a layer that reads several families would be counted once for each."""
    net = Net()
    x = net.relu(net.conv("images", "stem", 16))
    sides = [net.relu(net.conv(x, f"side{i}", 16, kernel=1)) for i in range(6)]
    x = net.relu(net.conv(net.add("Concat", sides, "joined", axis=1), "out", 16))
    found = anatomy_of(net.network(x))
    table = timed(found, by_blocks, by_blocks)
    whole = {f.name: 16 for f in found.families}
    narrow_sides = whole | {f"side{i}": 2 for i in range(6)}
    for sizes in (dict.fromkeys(whole, 10), narrow_sides):
        assert left_of(found, table, sizes) == pytest.approx(by_blocks(cut(found, sizes)), rel=0.1)


def test_every_width_is_measured_once():
    found, seen = anatomy_of(NETS["residual"]()), []

    def layer_ms(network: Network) -> float:
        (node,) = network.nodes
        seen.append((network.weights["w"].shape, *network.inputs.values()))
        return 1.0

    timed(found, lambda network: float(len(network.nodes)), layer_ms)
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("device", ["host", "jetson-orin-nano"])
def test_layers_can_be_measured_and_estimated(device: str):
    found = anatomy_of(NETS["depthwise"]())
    parts = PartLatency(device)
    table = timed(found, parts.of, parts.layer)
    assert table.whole > 0
    assert all(np.isfinite(rows).all() for rows in table.saved.values())
    assert counted(found)["mmacs"].saved.keys() == table.saved.keys()
