"""The input size as a choice: against trying every plan of every size."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnfactory.factory.assembler import sizes
from nnfactory.factory.assembler.accuracy import estimate_accuracy
from nnfactory.factory.assembler.assemble import assemble
from nnfactory.factory.assembler.footprint import empty_counts, footprint, full_counts
from nnfactory.factory.assembler.problem import problem_for
from nnfactory.factory.assembler.sizes import SizeOption, assemble_any_size, frontier_any_size
from nnfactory.factory.assembler.strength import task_strength
from nnfactory.factory.assembler.values import slot_values, value_share
from nnfactory.factory.errors import BudgetError, DataError
from nnfactory.factory.library.library import CLASSES
from nnfactory.factory.schema import Budget, Task

ANY = st.sampled_from(["cls", "det"])
SHARES = st.floats(0, 1)


@pytest.fixture(scope="session")
def options(toy_cls, toy_det, toy_table) -> dict[str, list[SizeOption]]:
    """Both sizes of each toy library, the larger one first."""
    return {
        library.kind: [
            SizeOption(library=view, table=toy_table(view))
            for view in (library.at(size) for size in library.input_sizes)
        ]
        for library in (toy_cls, toy_det)
    }


def latency_of(option: SizeOption, task: Task, counts: dict[str, int]) -> float:
    return option.table.predict({**counts, CLASSES: len(task.classes)}).value


def accuracy_of(option: SizeOption, task: Task, counts: dict[str, int]) -> float:
    share = value_share(slot_values(option.library, task), counts)
    strength = task_strength(option.library, task)
    fit = option.library.accuracy["fit"]
    return estimate_accuracy(fit, share, strength, len(task.classes)).value


def all_plans(option: SizeOption, task: Task):
    """Latency, value and counts of every plan of one size."""
    values = slot_values(option.library, task)
    ranges = (range(slot.min_groups, slot.groups + 1) for slot in option.library.blocks)
    names = [slot.name for slot in option.library.blocks]
    for numbers in itertools.product(*ranges):
        counts = dict(zip(names, numbers, strict=True))
        yield (
            latency_of(option, task, counts),
            sum(values[slot][count] for slot, count in counts.items()),
            counts,
        )


def between(options: list[SizeOption], task: Task, share: float) -> float:
    """A latency between that of the smallest network of any size and the largest one."""
    low = min(latency_of(option, task, empty_counts(option.library)) for option in options)
    high = max(latency_of(option, task, full_counts(option.library)) for option in options)
    return low + share * (high - low)


@given(data=st.data(), share=SHARES, sparsity=st.sampled_from([0.0, 0.4]))
@settings(max_examples=10)
def test_the_plan_is_that_of_the_size_whose_best_plan_is_most_accurate(
    options, data, share, sparsity
):
    mine = options["cls"]
    chosen = data.draw(st.sets(st.sampled_from(mine[0].library.classes), min_size=2))
    task = mine[0].library.task(tuple(sorted(chosen)))
    limit = between(mine, task, share)
    best = {}
    for option in mine:
        size = footprint(option.library)
        allowed = [
            (value, latency, counts)
            for latency, value, counts in all_plans(option, task)
            if latency <= limit
            and size.sparsity({**counts, CLASSES: len(task.classes)}) >= sparsity - 1e-12
        ]
        if allowed:
            value = max(row[0] for row in allowed)
            counts = next(row[2] for row in allowed if row[0] == value)
            best[option.table.input_size] = (accuracy_of(option, task, counts), value)
    plan, estimate, certificate = assemble_any_size(
        mine, task, Budget(latency_ms=limit, sparsity=sparsity)
    )
    accuracy, value = max(best.values())
    assert estimate.accuracy.value == pytest.approx(accuracy, abs=1e-9)
    assert best[plan.input_size] == pytest.approx((accuracy, value))
    assert certificate.objective == pytest.approx(value / 1e9)
    assert estimate.latency_ms.value <= limit * (1 + 1e-12)


@pytest.mark.parametrize("kind", ["cls", "det"])
def test_little_time_takes_the_small_input_and_much_time_the_large_one(options, kind):
    mine = options[kind]
    task = mine[0].library.task()
    found = [
        assemble_any_size(mine, task, Budget(latency_ms=between(mine, task, share)))[0].input_size
        for share in (0.0, 0.05, 1.0)
    ]
    assert found[0] == 16
    assert found[-1] == 32
    assert assemble_any_size(mine, task, Budget())[0].input_size == 32


@given(share=SHARES, kind=ANY)
def test_with_one_size_the_plan_is_that_of_the_assembler(options, share, kind):
    for option in options[kind]:
        task = option.library.task()
        budget = Budget(latency_ms=between([option], task, share))
        plan, estimate, certificate = assemble_any_size([option], task, budget)
        alone = assemble(option.library, task, budget, option.table)
        assert (plan, estimate, dataclasses.replace(certificate, more=())) == alone


@given(shares=st.tuples(SHARES, SHARES), kind=ANY)
def test_a_looser_budget_and_more_sizes_never_give_less_accuracy(options, shares, kind):
    mine = options[kind]
    task = mine[0].library.task()
    found = []
    for share in sorted(shares):
        budget = Budget(latency_ms=between(mine, task, share))
        found.append(assemble_any_size(mine, task, budget)[1].accuracy.value)
        assert found[-1] >= assemble_any_size(mine[1:], task, budget)[1].accuracy.value
    assert found[0] <= found[1] + 1e-12


@pytest.mark.parametrize("kind", ["cls", "det"])
def test_a_budget_that_no_size_keeps_is_told_with_what_the_smallest_input_reaches(options, kind):
    mine = options[kind]
    task = mine[0].library.task()
    with pytest.raises(BudgetError, match="the smallest network has") as caught:
        assemble_any_size(mine, task, Budget(latency_ms=1e-3))
    tightest = caught.value.details["tightest"]["latency"]
    least = [latency_of(option, task, empty_counts(option.library)) for option in mine]
    assert tightest == pytest.approx(min(least))
    assert assemble_any_size(mine, task, Budget(latency_ms=tightest))[0].input_size == 16


def test_a_table_of_another_size_is_refused(options):
    large, small = options["cls"]
    task = large.library.task()
    for library, table in ((large.library, small.table), (small.library, large.table)):
        mixed = SizeOption(library=library, table=table)
        text = f"inputs of {table.input_size} px, not of {library.input_size} px"
        with pytest.raises(DataError, match=text):
            assemble_any_size([mixed], task, Budget())
        with pytest.raises(DataError, match=text):
            frontier_any_size([mixed], task, 5)


def test_the_whole_frontier_equals_that_of_all_plans_of_all_sizes(options):
    mine = options["cls"]
    task = mine[0].library.task(mine[0].library.classes[:3])
    every = []
    for option in mine:
        best = -1  # of the plans of one size, those that none beats in latency and value
        rows = sorted(all_plans(option, task), key=lambda row: (row[0], -row[1]))
        for latency, value, counts in rows:
            if value > best:
                best = value
                every.append((latency, -accuracy_of(option, task, counts), option, counts))
    expected, best_accuracy = [], -1.0
    for latency, minus, option, counts in sorted(every, key=lambda row: row[:2]):
        if -minus > best_accuracy:
            best_accuracy = -minus
            expected.append((option.table.input_size, counts, latency))
    points, steps = frontier_any_size(mine, task, 300_000)
    assert [(p.plan.input_size, p.plan.counts) for p in points] == [row[:2] for row in expected]
    assert [p.estimate.latency_ms.value for p in points] == pytest.approx(
        [row[2] for row in expected]
    )
    assert {p.plan.input_size for p in points} == {16, 32}
    assert steps == len(every)
    problems = [problem_for(option.library, task, option.table) for option in mine]
    assert steps == sum(len(problem.fastest.cost) for problem in problems)


@pytest.mark.parametrize("kind", ["cls", "det"])
@pytest.mark.parametrize("points", [1, 2, 5, 40])
def test_a_frontier_rises_in_latency_and_accuracy_and_spans_both_sizes(options, kind, points):
    mine = options[kind]
    task = mine[0].library.task()
    some, _ = frontier_any_size(mine, task, points)
    assert 1 <= len(some) <= points
    assert some[-1].plan == assemble_any_size(mine, task, Budget())[0]
    if points > 1:
        assert some[0].plan.input_size == 16
        assert some[0].plan.counts == empty_counts(mine[0].library)
    latencies = [point.estimate.latency_ms.value for point in some]
    accuracies = [point.estimate.accuracy.value for point in some]
    assert latencies == sorted(set(latencies))
    assert accuracies == sorted(set(accuracies))


@pytest.mark.parametrize("kind", ["cls", "det"])
def test_every_point_is_what_is_built_within_its_latency_at_its_size(options, kind):
    mine = options[kind]
    task = mine[0].library.task()
    for point in frontier_any_size(mine, task, 12)[0]:
        same = [option for option in mine if option.table.input_size == point.plan.input_size]
        budget = Budget(latency_ms=point.estimate.latency_ms.value)
        assert assemble_any_size(same, task, budget)[0] == point.plan


def test_a_smaller_input_that_saves_no_time_is_on_no_frontier(options):
    large, small = options["cls"]
    task = large.library.task()
    slow = dataclasses.replace(large.table, input_size=16)
    both = [large, SizeOption(library=small.library, table=slow)]
    points, _ = frontier_any_size(both, task, 50)
    assert {point.plan.input_size for point in points} == {32}
    latencies = [point.estimate.latency_ms.value for point in points]
    assert latencies == sorted(set(latencies))


def test_many_plans_of_every_size_are_compared(options, monkeypatch: pytest.MonkeyPatch):
    """Few points are asked for, but they are chosen among many."""
    mine = options["cls"]
    task = mine[0].library.task()
    asked = []
    found = sizes.frontier_counts
    monkeypatch.setattr(
        sizes, "frontier_counts", lambda *rest: asked.append(rest[-1]) or found(*rest)
    )
    frontier_any_size(mine, task, 2)
    assert asked == [sizes.PER_SIZE] * 2
