"""Taking networks apart: contributions, families, values, costs, choice, compensation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from small_networks import (
    CLASSES,
    NETS,
    SIDE,
    Net,
    broadcast,
    depthwise,
    inception,
    plain,
    residual,
    split,
    two_branches,
)

from nnfactory.factory.datasets import Images
from nnfactory.factory.errors import BudgetError, DataError
from nnfactory.factory.graph.costs import op_costs, parameter_count
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.memory import peak_bytes
from nnfactory.factory.graph.network import Array, Network, tensor_shapes
from nnfactory.factory.reuse.disassembly import compensation, reconstruction
from nnfactory.factory.reuse.disassembly.calibration import calibrated
from nnfactory.factory.reuse.disassembly.choice import choose
from nnfactory.factory.reuse.disassembly.component import Plan, plan_within, values_of
from nnfactory.factory.reuse.disassembly.contributions import contributions
from nnfactory.factory.reuse.disassembly.costs import counted, left_of, sizes_of, timed
from nnfactory.factory.reuse.disassembly.families import Anatomy, anatomy_of, narrowed
from nnfactory.factory.reuse.disassembly.forgetting import (
    SELECTIVE,
    losses_of_forgetting,
    readout,
)
from nnfactory.factory.reuse.disassembly.kinds import Classification, tensors_of
from nnfactory.factory.reuse.disassembly.layer_inputs import positions
from nnfactory.factory.reuse.disassembly.memory_costs import memory_costs
from nnfactory.factory.reuse.disassembly.proof import prove_cut
from nnfactory.factory.reuse.disassembly.relevance import flows, located, losses_by_flow
from nnfactory.factory.reuse.donor import Donor
from nnfactory.factory.reuse.rejection import rejecting_network
from nnfactory.factory.units import MIB

KIND = Classification()


def pictures(count: int) -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    return Images(pixels=pixels, labels=np.arange(count) % CLASSES, boxes=())


def images(count: int, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.random((1, 3, SIDE, SIDE), dtype=np.float32) for _ in range(count)]


def names(anatomy: Anatomy) -> list[str]:
    return [family.name for family in anatomy.families]


def halved(anatomy: Anatomy) -> dict[str, list[int]]:
    return {f.name: list(range(0, len(f.groups), 2)) for f in anatomy.families}


def logits(network: Network, inputs: Sequence[Array]) -> Array:
    return np.concatenate([run_network(network, {"images": x})["logits"] for x in inputs])


def test_families_are_inner_channels_and_streams_stay():
    assert names(anatomy_of(plain())) == ["c1", "c2", "c3"]
    found = anatomy_of(residual())
    assert names(found) == ["a1", "b1"]
    assert [family.branch for family in found.families] == ["asum", "bsum"]
    assert names(anatomy_of(inception())) == ["stem", "one", "two1", "two2", "last"]
    assert names(anatomy_of(depthwise())) == ["up"]
    assert not any(family.branch for family in anatomy_of(inception()).families)


def test_parts_of_one_output_are_families_of_their_own():
    for first in (4, 5):
        found = anatomy_of(split(first=first))
        assert names(found)[:2] == ["c1", "c1#2"]
        values = values_of(found, KIND, pictures(30))
        for losses in values.values():
            counts = [len(losses[name].order) for name in ("c1", "c1#2")]
            assert counts == [first, 10 - first]


def test_one_side_of_a_sum_stays():
    found = anatomy_of(two_branches())
    assert [family.branch for family in found.families if family.name != "stem"] == ["sum", ""]
    assert anatomy_of(broadcast()).families[-1].branch == ""


def test_positions_lie_all_over_large_maps():
    with pytest.raises(ValueError, match="12544"):
        positions((8, 112, 112), np.random.default_rng(0).random(4096), 16)
    places = positions((8, 112, 112), np.random.default_rng(0).random(112 * 112), 200)
    assert places.max() // 112 > 100


def test_layers_that_share_a_bias_can_be_cut():
    network = plain()
    zeros = {"zeros": np.zeros(8, np.float32)}
    nodes = []
    for node in network.nodes:
        copy = type(node)()
        copy.CopyFrom(node)
        if node.output[0] in ("c1", "c2"):
            copy.input[2] = "zeros"
        nodes.append(copy)
    shared = replace(network, nodes=tuple(nodes), weights={**network.weights, **zeros})
    found = anatomy_of(shared)
    assert names(found) == ["c1", "c2", "c3"]
    assert logits(found.network, images(2)) == pytest.approx(logits(shared, images(2)))


def test_a_network_without_inner_channels_is_refused():
    net = Net()
    x = net.conv("images", "a", 3)
    with pytest.raises(DataError, match="inner"):
        anatomy_of(net.network(net.add("Add", [x, "images"], "sum")))


@hypothesis.given(st.sampled_from(sorted(NETS)), st.integers(0, 10**6))
def test_cutting_is_zeroing(name: str, seed: int):
    found, rng = anatomy_of(NETS[name](seed)), np.random.default_rng(seed)
    kept = {}
    for family in found.families:
        least = 0 if family.branch else 1
        count = rng.integers(least, len(family.groups) + 1)
        kept[family.name] = np.sort(rng.permutation(len(family.groups))[:count])
    network, channels = narrowed(found, kept)
    plan = Plan(values="", kept=kept, network=network, channels=channels, choice=None)
    assert prove_cut(found, plan, SIDE).max_abs < 1e-5


def test_a_family_that_is_no_branch_keeps_a_channel():
    with pytest.raises(DataError, match="c2"):
        narrowed(anatomy_of(plain()), {"c2": []})


@pytest.mark.parametrize("name", NETS)
def test_contributions_equal_their_definition(name: str):
    found = anatomy_of(NETS[name]())
    shown = images(3)
    table = contributions(found, [shown[:2], shown[2:]]).layers
    shapes = tensor_shapes(found.network)
    for node in found.network.nodes:
        if node.name not in table:
            continue
        source = node.input[0]
        weight = found.network.weights[node.input[1]]
        total = np.zeros((2, *weight.shape[:2]))
        for row, mine in enumerate((shown[:2], shown[2:])):
            for image in mine:
                x = image
                if source != "images":
                    tapped = replace(found.network, outputs={source: shapes[source]})
                    x = run_network(tapped, {"images": image})[source]
                total[row] += np.maximum(partial_sums(node, weight, x), 0) / len(mine)
        assert np.abs(table[node.name] - total).max() <= 1e-6 * max(1, np.abs(total).max())


def partial_sums(node, weight: Array, x: Array) -> Array:
    """The definition: what each input alone makes of each output, summed over space."""
    sums = np.zeros(weight.shape[:2])
    for p in range(weight.shape[1]):
        alone = np.zeros_like(x)
        alone[:, p] = x[:, p]
        if node.op_type == "Gemm":
            sums[:, p] = (alone @ weight.T)[0]
            continue
        conv = type(node)()
        conv.CopyFrom(node)
        conv.input[:] = ["x", "w"]
        net = Network(
            name="one", nodes=(conv,), weights={"w": weight.astype(np.float32)},
            inputs={"x": alone.shape}, outputs={node.output[0]: shape_of(node, weight, alone)},
        )  # fmt: skip
        out = run_network(net, {"x": alone})[node.output[0]]
        sums[:, p] = out[0].astype(np.float64).sum((1, 2))
    return sums


def shape_of(node, weight: Array, x: Array) -> tuple[int, ...]:
    weights = {node.input[1]: weight, node.input[2]: weight[:, 0, 0, 0]}
    net = Network(
        name="one", nodes=(node,), weights=weights,
        inputs={node.input[0]: x.shape}, outputs={node.output[0]: (1, 1, 1, 1)},
    )  # fmt: skip
    light = replace(net, outputs={})
    return tensor_shapes(light)[node.output[0]]


@pytest.mark.parametrize("name", ["plain", "inception"])
def test_all_of_a_logit_flows_through_every_cut_of_a_network(name: str):
    network = NETS[name]()
    for weight in network.weights.values():
        weight[:] = np.abs(weight)  # an output without positive parts has nothing to pass on
    found = anatomy_of(network)
    table = contributions(found, [images(2)] * CLASSES)
    flow = flows(found, table, KIND.ends(found.network))
    cuts = {"plain": [["c1"], ["c2"], ["c3"]], "inception": [["stem"], ["one", "two2"], ["last"]]}
    for cut in cuts[name]:
        assert sum(flow[family].sum(1) for family in cut) == pytest.approx(np.ones(CLASSES))


def test_channels_that_are_used_twice_carry_no_more_than_there_is():
    """Side by side with what a depthwise layer makes of them, as in spatial pyramids."""
    net = Net()
    x = net.relu(net.conv("images", "stem", 6))
    y = net.relu(net.conv(x, "each", 6, group=6))
    net.add("Concat", [x, y], "both", axis=1)
    network = net.network(net.relu(net.conv("both", "last", 8, 1)))
    for weight in network.weights.values():
        weight[:] = np.abs(weight)
    found = anatomy_of(network)
    flow = flows(found, contributions(found, [images(2)] * CLASSES), KIND.ends(found.network))
    assert flow["stem"].sum(1) == pytest.approx(np.ones(CLASSES))


def test_a_residual_block_carries_its_part_of_the_sum():
    found = anatomy_of(residual())
    table = contributions(found, [images(2)] * CLASSES)
    flow = flows(found, table, KIND.ends(found.network))
    assert all(0 < part < 1 for part in flow["b1"].sum(1))
    losses = losses_by_flow(flow)["b1"]
    assert losses.lost[0] == pytest.approx(flow["b1"].mean(0).sum())
    assert losses.lost[-1] == pytest.approx(0)
    assert (np.diff(losses.lost) <= 1e-12).all()


def test_thresholds_keep_what_makes_the_logit():
    """Logit 0 reads channel 1 alone, which channel 0 of the layer before makes alone."""
    network = plain()
    for name, pairs in (("fc.w", [(0, 1)]), ("c3.w", [(1, 0)]), ("c2.w", [(0, 2)])):
        weight = network.weights[name]
        weight[:] = -np.abs(weight)
        for q, p in pairs:
            weight[q, p] = np.abs(weight[q, p]) + 1
    found = anatomy_of(network)
    table = contributions(found, [images(4)])
    kept = located(found, table, KIND.ends(found.network)[:1])
    assert {name: rows.tolist() for name, rows in kept.items()} == {"c1": [2], "c2": [0], "c3": [1]}


def test_what_is_lost_is_what_regression_cannot_explain(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reconstruction, "DAMPING", 1e-9)
    found, shown = anatomy_of(plain()), images(60)
    (losses,) = (reconstruction.losses_of(found, shown)[name] for name in ("c3",))
    network = found.network
    shapes = tensor_shapes(network)
    tapped = replace(network, outputs={"vector": shapes["vector"]})
    x = np.concatenate([run_network(tapped, {"images": i})["vector"] for i in shown]).astype(float)
    y = x @ network.weights["fc.w"].T.astype(float)
    x, y = x - x.mean(0), y - y.mean(0)
    for count in range(x.shape[1] + 1):
        kept = losses.order[:count]
        left = y - x[:, kept] @ np.linalg.lstsq(x[:, kept], y, rcond=None)[0] if count else y
        assert losses.lost[count] == pytest.approx((left**2).sum() / (y**2).sum(), abs=2e-4)


@pytest.mark.parametrize("name", NETS)
def test_tables_count_what_networks_have(name: str):
    found, rng = anatomy_of(NETS[name]()), np.random.default_rng(0)
    tables = counted(found)
    for _ in range(5):
        sizes = {f.name: int(rng.choice(sizes_of(f))) for f in found.families}
        if found.families[0].branch:
            sizes[found.families[0].name] = 0
        network, _ = narrowed(found, {name: range(size) for name, size in sizes.items()})
        macs = sum(row.macs for row in op_costs(network, tensor_shapes(network))) / 1e6
        assert by_table(found, tables["mmacs"], sizes) == pytest.approx(macs)
        params = parameter_count(network) / 1e6
        assert by_table(found, tables["mparams"], sizes) == pytest.approx(params)


def by_table(found: Anatomy, costs, sizes: Mapping[str, int]) -> float:
    """Cost of sizes."""
    gone = {f.name: 1 - sizes[f.name] / len(f.groups) for f in found.families}
    saved = sum(costs.saved[f.name][sizes_of(f).index(sizes[f.name])] for f in found.families)
    twice = sum(value * gone[a] * gone[b] for (a, b), value in costs.overlaps.items())
    return costs.whole - saved + twice


@pytest.mark.parametrize("share", [0.35, 0.6])
@pytest.mark.parametrize("name", ["plain", "residual"])
def test_the_choice_is_the_best_of_all(name: str, share: float):
    found, rng = anatomy_of(NETS[name]()), np.random.default_rng(1)
    costs = counted(found)
    losses = {f.name: np.sort(rng.random(len(sizes_of(f))))[::-1] for f in found.families}
    limit = share * costs["mmacs"].whole
    best = np.inf
    for sizes in itertools.product(*(sizes_of(f) for f in found.families)):
        chosen = dict(zip(names(found), sizes, strict=True))
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


def test_latency_of_families_adds_up_where_the_device_counts_multiply_adds():
    """A device that takes a microsecond per thousand: the measured table is the counted one."""
    found = anatomy_of(plain())
    macs = counted(found)["mmacs"]

    def latency(network: Network) -> float:
        return 1e-3 * sum(row.macs for row in op_costs(network, tensor_shapes(network)))

    table = timed(found, latency, macs)
    for family in found.families:
        assert table.saved[family.name] == pytest.approx(1e3 * macs.saved[family.name], rel=1e-6)
    for pair, value in table.overlaps.items():
        assert value == pytest.approx(1e3 * macs.overlaps[pair], rel=0.2)


def test_channels_that_others_repeat_are_made_up_for():
    """Every channel of the family is there twice: half of them can go without a trace."""
    network = residual()
    for name in ("a1", "b1"):
        network.weights[f"{name}.w"][4:] = network.weights[f"{name}.w"][:4]
        network.weights[f"{name}.b"][4:] = network.weights[f"{name}.b"][:4]
    found, shown = anatomy_of(network), images(40)
    kept = {"a1": [0, 1, 2, 3], "b1": [0, 5, 2, 7]}
    narrow, channels = narrowed(found, kept)
    made = compensation.compensated(network, narrow, channels, shown, strength=1e-6)
    whole, fresh = logits(network, images(5, 1)), images(5, 1)
    assert np.abs(logits(narrow, fresh) - whole).max() > 0.05
    assert np.abs(logits(made, fresh) - whole).max() < 1e-3


@pytest.mark.parametrize("name", NETS)
def test_compensation_comes_nearer_to_the_whole_network(name: str):
    found, fresh = anatomy_of(NETS[name]()), images(20, 1)
    narrow, channels = narrowed(found, halved(found))
    made = compensation.compensated(found.network, narrow, channels, images(60))
    whole = logits(found.network, fresh)
    before, after = (np.abs(logits(n, fresh) - whole).mean() for n in (narrow, made))
    assert after < 0.6 * before


def test_no_more_images_than_memory_holds(monkeypatch: pytest.MonkeyPatch):
    found = anatomy_of(plain())
    narrow, channels = narrowed(found, halved(found))
    assert compensation.most_images(found.network, narrow) > 10**4
    monkeypatch.setattr(compensation, "MEMORY", 0)
    some = compensation.compensated(found.network, narrow, channels, images(60))
    first = compensation.compensated(found.network, narrow, channels, images(60)[:32])
    assert logits(some, images(3)) == pytest.approx(logits(first, images(3)))


def test_a_branch_that_is_gone_is_made_up_for_by_what_follows():
    found, fresh = anatomy_of(residual()), images(20, 1)
    narrow, channels = narrowed(found, {"a1": []})
    assert len(narrow.nodes) < len(found.network.nodes) - 3
    made = compensation.compensated(found.network, narrow, channels, images(60))
    whole = logits(found.network, fresh)
    before, after = (np.abs(logits(n, fresh) - whole).mean() for n in (narrow, made))
    assert after < 0.6 * before


def test_all_kinds_of_values_choose_within_the_limit():
    found = anatomy_of(residual())
    costs = counted(found)
    limit = {"mmacs": 0.6 * costs["mmacs"].whole}
    for values, losses in values_of(found, KIND, pictures(30)).items():
        plan = plan_within(found, values, losses, costs, limit)
        macs = sum(row.macs for row in op_costs(plan.network, tensor_shapes(plan.network))) / 1e6
        assert macs <= limit["mmacs"] * (1 + 1e-9)
        assert plan.choice.costs["mmacs"] == pytest.approx(macs)


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


def wide() -> Network:
    net = Net()
    x = net.relu(net.conv("images", "c1", 128))
    x = net.relu(net.conv(x, "c2", 128))
    return net.network(net.relu(net.conv(x, "c3", 16)))


def test_what_all_families_save_together_is_divided_among_them():
    """A runtime that works on blocks of eight channels: one family of four saves nothing alone."""

    def latency_ms(network: Network) -> float:
        makers = {"c1": 3, "c2": 0, "c3": 0}
        total = 0.0
        for node in network.nodes:
            if node.op_type == "Conv":
                width, inside = network.weights[node.input[1]].shape[:2]
                blocks = -(-width // 8) * -(-inside // 8)
                total += blocks + makers.get(node.output[0], 0)
        return total

    found = anatomy_of(plain())
    table = timed(found, latency_ms, counted(found)["mmacs"])
    for share in (0.25, 0.5, 0.75):
        sizes = {f.name: max(1, round(share * len(f.groups))) for f in found.families}
        network, _ = narrowed(found, {name: range(size) for name, size in sizes.items()})
        assert left_of(found, table, sizes) == pytest.approx(latency_ms(network), abs=0.35)


def test_what_is_better_forgotten_goes_first():
    kept = {"f": np.array([[0.5, 0.1, 0.3], [0.5, 0.1, 0.3]])}
    losses = losses_of_forgetting(kept, {"f": np.array([[0.1, 0.6, 0.3]])})["f"]
    assert losses.order.tolist() == [0, 2, 1]
    assert losses.lost[-1] == pytest.approx(0)
    assert losses.lost[2] == pytest.approx(0.1 - 0.6 / SELECTIVE)  # it is better gone
    assert losses.lost[2] < 0


def test_what_a_linear_layer_still_finds():
    network = plain()
    shows = np.arange(80) % 2 == 1
    bright = [image * np.float32(1 + y) for image, y in zip(images(80), shows, strict=True)]
    assert readout(network, (bright[:40], shows[:40]), (bright[40:], shows[40:])) > 0.9
    alike = images(80)
    assert 0.2 < readout(network, (alike[:40], shows[:40]), (alike[40:], shows[40:])) < 0.8


def test_a_rejecting_row_stands_for_all_other_classes():
    """Where there is only one other class it is that one's row."""
    network = plain()
    donor = Donor(
        name="plain", network=network, mean=(0.0,) * 3, std=(1.0,) * 3,
        labels=tuple(f"class {i}" for i in range(CLASSES)),
    )  # fmt: skip
    shown = images(60)
    rejecting = rejecting_network(donor, [2, 0], shown)
    for image in images(4, 3):
        (wanted,) = run_network(network, {"images": image}).values()
        (found,) = run_network(rejecting, {"images": image}).values()
        assert found[0, :2] == pytest.approx(wanted[0, [2, 0]], abs=1e-4)
        assert found[0, 2] == pytest.approx(wanted[0, 1], abs=0.02)
    with pytest.raises(DataError, match="no class besides"):
        rejecting_network(donor, range(CLASSES), shown)


def test_a_component_is_taught_by_the_whole_network_alone():
    pytest.importorskip("torch")
    from nnfactory.factory.reuse.training.component_finish import taught

    found = anatomy_of(residual())
    shown, fresh = pictures(64), pictures(40)
    wrong = replace(shown, labels=np.zeros(64, np.int64))  # labels are not looked at
    network, _ = narrowed(found, halved(found))
    judged = partial(KIND.judged, KIND.answers(found.network, fresh), images=fresh)
    done = taught(network, found.network, KIND, wrong, judged, epochs=30)
    assert done.parity.passed
    assert done.after.divergence < done.before.divergence
    assert judged(done.network).divergence == pytest.approx(done.after.divergence)
    nothing = taught(found.network, found.network, KIND, shown, judged, epochs=1)
    assert nothing.network is found.network  # nothing is nearer to it than itself


def test_a_component_that_is_too_sure_becomes_less_so():
    """Where labels have nothing to do with images, probabilities become even; answers stay."""
    network, shown = plain(), pictures(60)
    sure = {name: 20 * network.weights[name] for name in ("fc.w", "fc.b")}
    network = replace(network, weights={**network.weights, **sure})
    found = calibrated(network, shown)
    before, after = (logits(each, tensors_of(shown)) for each in (network, found))
    assert (before.argmax(1) == after.argmax(1)).all()
    assert np.abs(after).max() <= 0.11 * np.abs(before).max()
    right = replace(shown, labels=before.argmax(1))  # always right: as sure as factors reach
    surer = logits(calibrated(network, right), tensors_of(shown))
    assert np.abs(surer).max() >= np.abs(before).max()
