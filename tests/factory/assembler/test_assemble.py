"""Plans keep their budgets, are the best that do, and failures say what would work."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnfactory.factory.assembler.assemble import (
    assemble,
    frontier,
    plan_from_counts,
)
from nnfactory.factory.assembler.footprint import empty_counts, footprint, full_counts
from nnfactory.factory.assembler.problem import problem_for
from nnfactory.factory.assembler.values import SCALE, SOURCES, class_values, slot_values
from nnfactory.factory.errors import BudgetError, DataError
from nnfactory.factory.library.library import CLASSES, ModuleLibrary
from nnfactory.factory.schema import Budget, Estimate, LatencyTable, Plan
from nnfactory.factory.units import MIB, parse_quantity

ANY = st.sampled_from(["cls", "det"])
SHARES = st.floats(0, 1)
NAMES = {
    "latency_ms": "latency", "mparams": "params", "memory_mib": "memory", "sparsity": "sparsity",
    "mmacs": "macs", "file_mib": "size",
}  # fmt: skip
UPPER = tuple(NAMES)


class Toys(dict[str, tuple[ModuleLibrary, LatencyTable]]):
    """Library and table by kind."""

    def __repr__(self) -> str:  # half a megabyte otherwise
        return "toys"


@pytest.fixture(scope="session")
def toys(toy_cls, toy_det, toy_table) -> Toys:
    return Toys(cls=(toy_cls, toy_table(toy_cls)), det=(toy_det, toy_table(toy_det)))


def value_of(library: ModuleLibrary, plan: Plan) -> int:
    values = slot_values(library, plan.task)
    return sum(values[slot][count] for slot, count in plan.counts.items())


def extremes(library: ModuleLibrary, table: LatencyTable, *, percentile: int = 50):
    """Costs of the smallest and of the full network for all classes."""
    size, problem = footprint(library), problem_for(library, library.task(), table)
    for counts in (empty_counts(library), full_counts(library)):
        whole = {**counts, CLASSES: len(library.classes)}
        yield {
            "latency_ms": table.predict(whole, percentile=percentile).value,
            "mparams": size.total_params(whole) / 1e6,
            "memory_mib": size.peak_mib(whole),
            "mmacs": size.total_macs(whole) / 1e6,
            "file_mib": size.total_file_bytes(whole, library.classes) / MIB,
            "sparsity": size.sparsity(whole),
            "min_accuracy": problem.accuracy(counts).value,
            "min_class_accuracy": problem.least_class(counts)[1].value,
        }


def between(library: ModuleLibrary, table: LatencyTable, name: str, share: float) -> float:
    low, high = (row[name] for row in extremes(library, table))
    return low + share * (high - low)


def keeps(budget: Budget, plan: Plan, estimate: Estimate) -> bool:
    # The intervals and ratios are floats: a last digit may be lost between the two roundings.
    exact = 1 + 1e-12
    return (
        (budget.latency_ms is None or estimate.latency_ms.value <= budget.latency_ms * exact)
        and (budget.mparams is None or estimate.mparams <= budget.mparams * exact)
        and (budget.memory_mib is None or estimate.memory_mib <= budget.memory_mib)
        and (budget.mmacs is None or estimate.mmacs <= budget.mmacs * exact)
        and (budget.file_mib is None or estimate.file_mib <= budget.file_mib * exact)
        and plan.sparsity >= budget.sparsity - 1e-12
        and estimate.accuracy.value >= (budget.min_accuracy or 0)
        and estimate.least_class_accuracy.value >= (budget.min_class_accuracy or 0)
    )


def all_counts(library: ModuleLibrary):
    """Every number of active modules per block."""
    ranges = (range(slot.min_groups, slot.groups + 1) for slot in library.blocks)
    names = [slot.name for slot in library.blocks]
    for counts in itertools.product(*ranges):
        yield dict(zip(names, counts, strict=True))


def best_value(library: ModuleLibrary, table: LatencyTable, budget: Budget) -> int:
    """Greatest value of any plan within the budget, by trying all of them."""
    size, values = footprint(library), slot_values(library, library.task())
    best = -1
    for counts in all_counts(library):
        whole = {**counts, CLASSES: len(library.classes)}
        latency = table.predict(whole, percentile=budget.percentile).value
        if (
            (budget.latency_ms is None or latency <= budget.latency_ms)
            and (budget.mparams is None or size.total_params(whole) <= budget.mparams * 1e6 + 1e-6)
            and (budget.memory_mib is None or size.peak_mib(whole) <= budget.memory_mib)
            and (budget.mmacs is None or size.total_macs(whole) <= budget.mmacs * 1e6 + 1e-6)
            and (
                budget.file_mib is None
                or size.total_file_bytes(whole, library.classes) <= budget.file_mib * MIB + 1e-6
            )
            and size.sparsity(whole) >= budget.sparsity - 1e-12
        ):
            best = max(best, sum(values[s][k] for s, k in counts.items()))
    return best


@st.composite
def budgets(draw: st.DrawFn, library: ModuleLibrary, table: LatencyTable, limits: int) -> Budget:
    """A budget with some limits, each between the smallest and the full network's cost."""
    names = ["latency_ms", "mparams", "memory_mib", "sparsity", "mmacs", "file_mib"]
    chosen = draw(st.permutations(names))[:limits]
    return Budget(**{n: between(library, table, n, draw(SHARES)) for n in chosen})


@given(data=st.data(), kind=ANY, limits=st.integers(0, 6))
def test_a_plan_keeps_its_budget_and_its_certificate_is_tight(toys, data, kind, limits):
    library, table = toys[kind]
    budget = data.draw(budgets(library, table, limits))
    plan, estimate, certificate = assemble(library, library.task(), budget, table)
    assert keeps(budget, plan, estimate)
    assert certificate.gap == pytest.approx(0, abs=1e-12)
    assert certificate.bound >= certificate.objective
    assert certificate.objective == pytest.approx(value_of(library, plan) / SCALE)
    exact = limits <= 1 and budget.memory_mib is None
    assert certificate.method == ("dynamic programming" if exact else "bounded enumeration")


@given(data=st.data(), limits=st.integers(1, 6))
@settings(max_examples=12)
def test_no_plan_within_the_budget_is_worth_more(toys, data, limits):
    library, table = toys["cls"]
    budget = data.draw(budgets(library, table, limits))
    plan, _, _ = assemble(library, library.task(), budget, table)
    assert value_of(library, plan) == best_value(library, table, budget)


@given(data=st.data(), kind=ANY)
def test_one_budget_has_the_same_value_by_both_methods(toys, data, kind):
    library, table = toys[kind]
    name = data.draw(st.sampled_from(["latency_ms", "mparams", "sparsity", "mmacs", "file_mib"]))
    one = Budget(**{name: between(library, table, name, data.draw(SHARES))})
    loose = dataclasses.replace(one, memory_mib=1e6)
    first, _, by_table = assemble(library, library.task(), one, table)
    second, _, by_program = assemble(library, library.task(), loose, table)
    assert by_table.method != by_program.method
    assert value_of(library, first) == value_of(library, second)


@given(data=st.data(), kind=ANY, percentile=st.sampled_from([50, 90, 99]))
def test_a_looser_latency_never_gives_less_value(toys, data, kind, percentile):
    library, table = toys[kind]
    low, high = (row["latency_ms"] for row in extremes(library, table, percentile=percentile))
    tight, loose = sorted(
        low + share * (high - low) for share in data.draw(st.tuples(SHARES, SHARES))
    )
    found = []
    for limit in (tight, loose):
        budget = Budget(latency_ms=limit, percentile=percentile)
        plan, estimate, _ = assemble(library, library.task(), budget, table)
        assert keeps(budget, plan, estimate)
        found.append(value_of(library, plan))
    assert found[0] <= found[1]


@pytest.mark.parametrize("kind", ["cls", "det"])
def test_without_a_budget_the_plan_is_the_most_valuable_and_the_cheapest_among_equals(toys, kind):
    library, table = toys[kind]
    plan, estimate, certificate = assemble(library, library.task(), Budget(), table)
    values = slot_values(library, library.task())
    assert certificate.binding == ()
    assert value_of(library, plan) == sum(row[-1] for row in values.values())
    for slot, count in plan.counts.items():
        cheaper = [k for k in range(count) if values[slot][k] == values[slot][count]]
        assert not cheaper
    assert estimate.latency_ms is not None


def test_a_module_without_value_is_left_out_when_there_is_no_budget(toys):
    library, table = toys["cls"]
    importance = {name: array.copy() for name, array in library.importance.items()}
    for array in importance.values():
        array[:, 2:4] = 0  # the last two modules of the first block
    poorer = dataclasses.replace(library, importance=importance)
    plan, _, _ = assemble(poorer, library.task(), Budget(), table)
    assert plan.counts[library.blocks[0].name] == 2


@pytest.mark.parametrize("kind", ["cls", "det"])
@pytest.mark.parametrize("percentile", [50, 90, 95, 99])
@pytest.mark.parametrize("name", UPPER)
def test_the_tightest_reachable_value_is_reachable_and_a_tighter_one_is_not(
    toys, kind, percentile, name
):
    library, table = toys[kind]
    impossible = 0.999 if name == "sparsity" else 1e-6
    with pytest.raises(BudgetError) as caught:
        assemble(
            library,
            library.task(),
            Budget(**{name: impossible, "percentile": percentile}),
            table,
        )
    ((key, tightest),) = caught.value.details["tightest"].items()
    assert key == NAMES[name]
    budget = Budget(**{name: tightest, "percentile": percentile})
    plan, _, _ = assemble(library, library.task(), budget, table)
    assert plan.counts == empty_counts(library)
    tighter = 1 - 0.99 * (1 - tightest) if name == "sparsity" else 0.99 * tightest
    with pytest.raises(BudgetError):
        assemble(
            library, library.task(), Budget(**{name: tighter, "percentile": percentile}), table
        )


@pytest.mark.parametrize("name", UPPER)
@pytest.mark.parametrize("scale", [1, 977, 123_457, 40_000_003])
def test_the_hint_is_an_option_that_works(toys, name, scale):
    library, table = toys["cls"]
    slow = dataclasses.replace(table, fixed_ns=table.fixed_ns * scale + 4_321)
    impossible = 0.999 if name == "sparsity" else 1e-9
    with pytest.raises(BudgetError) as caught:
        assemble(library, library.task(), Budget(**{name: impossible}), slow)
    (hint,) = caught.value.hints
    flag, text = hint.split()
    unit = {
        "latency_ms": "milliseconds", "mparams": "millions of parameters",
        "mmacs": "millions of multiply-adds",
    }.get(name, "MiB")  # fmt: skip
    relaxed = float(text) if name == "sparsity" else parse_quantity(text, unit)
    tightest = next(iter(caught.value.details["tightest"].values()))
    assert relaxed == pytest.approx(tightest, rel=2e-3)
    assert flag == "--" + NAMES[name]
    assemble(library, library.task(), Budget(**{name: relaxed}), slow)


def test_an_impossible_budget_is_named_and_the_possible_one_is_not(toys):
    library, table = toys["det"]
    budget = Budget(latency_ms=1e-3, memory_mib=1e3)
    with pytest.raises(BudgetError, match="latency <= 0.001 ms: the smallest network") as caught:
        assemble(library, library.task(), budget, table)
    assert "memory" not in str(caught.value)
    assert len(caught.value.hints) == 1
    assert set(caught.value.details["tightest"]) == {"latency", "memory"}
    with pytest.raises(BudgetError, match=r"\], estimated"):
        assemble(library, library.task(), budget, dataclasses.replace(table, is_measured=False))


def test_two_impossible_budgets_are_both_named(toys):
    library, table = toys["cls"]
    with pytest.raises(BudgetError) as caught:
        assemble(library, library.task(), Budget(latency_ms=1e-3, sparsity=0.9999), table)
    assert "latency <= 0.001 ms" in str(caught.value)
    assert "sparsity >= 0.9999" in str(caught.value)
    (hint,) = caught.value.hints
    assert "--latency" in hint
    assert "--sparsity" in hint


@given(share=SHARES, kind=ANY)
def test_an_asked_sparsity_is_reached_and_told_in_the_plan(toys, share, kind):
    library, table = toys[kind]
    asked = between(library, table, "sparsity", share)
    plan, estimate, _ = assemble(library, library.task(), Budget(sparsity=asked), table)
    size = footprint(library)
    counts = {**plan.counts, CLASSES: len(library.classes)}
    kept = sum(size.modules[slot] * count for slot, count in counts.items())
    total = sum(size.modules[slot.name] * slot.groups for slot in library.slots)
    assert plan.sparsity == pytest.approx(1 - kept / total)
    assert plan.sparsity >= asked - 1e-12
    assert estimate.mparams == size.total_params(counts) / 1e6


def test_a_task_of_few_classes_is_sparser_faster_and_smaller(toys):
    library, table = toys["cls"]
    few = library.task(library.classes[:2])
    whole = assemble(library, library.task(), Budget(), table)
    part = assemble(library, few, Budget(), table)
    assert part[0].sparsity > whole[0].sparsity
    assert part[1].latency_ms.value < whole[1].latency_ms.value
    assert part[1].mparams < whole[1].mparams
    assert part[1].mmacs < whole[1].mmacs


@given(share=st.floats(0.05, 0.95), kind=ANY)
@settings(max_examples=10)
def test_a_binding_budget_is_named(toys, share, kind):
    library, table = toys[kind]
    best = value_of(library, assemble(library, library.task(), Budget(), table)[0])
    for name, key in (("latency_ms", "latency"), ("mparams", "params")):
        budget = Budget(**{name: between(library, table, name, share)})
        plan, _, certificate = assemble(library, library.task(), budget, table)
        assert certificate.binding == ((key,) if value_of(library, plan) < best else ())
        loose = dataclasses.replace(budget, memory_mib=1e6)
        assert "memory" not in assemble(library, library.task(), loose, table)[2].binding


def test_a_latency_table_of_another_library_is_refused(toys):
    library, table = toys["cls"]
    with pytest.raises(DataError, match="belongs to library"):
        assemble(library, library.task(), Budget(), dataclasses.replace(table, library="0" * 16))


@pytest.mark.parametrize("kind", ["cls", "det"])
def test_the_frontier_rises_in_both_and_holds_no_dominated_point(toys, kind):
    library, table = toys[kind]
    points = frontier(problem_for(library, library.task(), table))
    assert len(points) == len(problem_for(library, library.task(), table).fastest.cost)
    latencies = [point.estimate.latency_ms.value for point in points]
    values = [point.value for point in points]
    assert latencies == sorted(set(latencies))
    assert values == sorted(values)
    exact = [value_of(library, point.plan) for point in points]
    assert exact == sorted(set(exact))
    assert points[0].plan.counts == empty_counts(library)
    assert values[-1] == pytest.approx(1, abs=1e-6)


def test_the_frontier_of_a_small_library_equals_that_of_all_plans(toys):
    library, table = toys["cls"]
    values = slot_values(library, library.task())
    costs = {
        (
            sum(table.slots[s][k] for s, k in counts.items()),
            sum(values[s][k] for s, k in counts.items()),
        )
        for counts in all_counts(library)
    }
    front, best = [], -1
    for _, value in sorted(costs, key=lambda point: (point[0], -point[1])):
        if value > best:
            front.append(value)
            best = value
    points = frontier(problem_for(library, library.task(), table))
    assert [value_of(library, point.plan) for point in points] == front


@pytest.mark.parametrize("points", [1, 2, 5, 9])
def test_some_points_of_the_frontier_span_it(toys, points):
    library, table = toys["det"]
    every = frontier(problem_for(library, library.task(), table))
    some = frontier(problem_for(library, library.task(), table), points)
    assert 1 <= len(some) <= points
    assert {point.plan.id for point in some} <= {point.plan.id for point in every}
    assert some[0].plan == every[0].plan
    if points > 1:
        assert some[-1].plan == every[-1].plan


@given(data=st.data(), kind=ANY)
def test_values_rise_with_every_module_and_add_up_to_one(toys, data, kind):
    library, _ = toys[kind]
    chosen = data.draw(st.sets(st.sampled_from(library.classes), min_size=2))
    values = slot_values(library, library.task(tuple(chosen)))
    assert list(values) == [slot.name for slot in library.blocks]
    for slot in library.blocks:
        row = values[slot.name]
        assert len(row) == slot.groups + 1
        assert row[0] == 0
        assert list(row) == sorted(set(row))
    assert sum(row[-1] for row in values.values()) == pytest.approx(SCALE, rel=1e-6)


def test_the_value_of_a_task_is_the_mean_over_its_classes(toys):
    library, _ = toys["cls"]
    single = []
    for index in (1, 4):
        twice = dataclasses.replace(
            library, importance={n: a[[index] * 6] for n, a in library.importance.items()}
        )
        single.append(slot_values(twice, library.task()))
    both = slot_values(library, library.task((library.classes[1], library.classes[4])))
    for slot, row in both.items():
        mean = [(a + b) / 2 for a, b in zip(single[0][slot], single[1][slot], strict=True)]
        assert row == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("source", SOURCES)
def test_the_full_network_is_worth_one_to_every_class_from_any_source(toys, source):
    library, _ = toys["det"]
    values = class_values(library, source)
    sizes = [slot.groups + 1 for slot in library.blocks]
    assert values.shape == (len(library.classes), sum(sizes))
    blocks = np.split(values, np.cumsum(sizes)[:-1], axis=1)
    assert sum(block[:, -1] for block in blocks) == pytest.approx(1, abs=1e-5)
    for block in blocks:
        assert (block[:, 0] == 0).all()
        assert (np.diff(block, axis=1) >= 0).all()


def test_blended_values_are_the_mean_of_both_widths_and_shared_curves_are_equal_for_all(toys):
    library, _ = toys["cls"]
    mean = (class_values(library, "full") + class_values(library, "half")) / 2
    np.testing.assert_allclose(class_values(library, "blend"), mean, rtol=1e-6)
    shared = class_values(library, "shared curves")
    assert (shared == shared[0]).all()
    assert not (class_values(library, "curves") == shared).all()


def test_values_come_from_the_source_that_the_library_names(toys):
    library, _ = toys["cls"]
    found = set()
    for source in SOURCES:
        card = {**library.card, "values": {"source": source}}
        values = slot_values(dataclasses.replace(library, card=card), library.task())
        found.add(tuple(values["stage0.block0"]))
    assert len(found) == len(SOURCES)


def test_a_problem_knows_its_fixed_latency(toys):
    library, table = toys["cls"]
    task = library.task(library.classes[:3])
    problem = problem_for(library, task, table)
    assert problem.fixed_ns == table.fixed_ns + table.slots[CLASSES][3]
    assert problem.latency_costs == {s.name: table.slots[s.name] for s in library.blocks}


def test_a_plan_from_counts_keeps_the_first_modules_of_every_block(toys):
    library, _ = toys["cls"]
    counts = {**empty_counts(library), "stage1.block0": 3}
    plan = plan_from_counts(library, library.task(), counts)
    assert plan.active["stage1.block0"] == (0, 1, 2)
    assert plan.active["stage1.block1"] == ()
    assert (plan.library, plan.library_id) == (library.name, library.id)
    assert plan.normalization == library.normalization
