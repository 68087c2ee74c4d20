"""Budgets of every kind against all plans of a small library: the best, or why there is none."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnfactory.factory.assembler.assemble import assemble
from nnfactory.factory.assembler.footprint import full_counts
from nnfactory.factory.assembler.limits import KINDS, limits_of, loosened
from nnfactory.factory.assembler.problem import problem_for
from nnfactory.factory.assembler.sizes import SizeOption, assemble_any_size
from nnfactory.factory.errors import BudgetError, DataError, DeviceError
from nnfactory.factory.schema import Budget
from nnfactory.factory.units import MIB

FIELDS = {kind.name: kind.field for kind in KINDS}
UPPER = ("latency", "energy", "params", "macs", "memory", "size")
FLOORS = ("sparsity", "accuracy", "class accuracy")
SHARES = st.floats(0, 1)


class Every:
    """All plans of a library for a task, and what each has of every budget.

    Attributes:
        counts: Of every plan.
        has: By budget, an array over the plans.
        value: Integer values.
    """

    def __init__(self, library, table, task) -> None:
        self.library, self.table, self.task = library, table, task
        problem = problem_for(library, task, table)
        size, names = problem.size, [slot.name for slot in library.blocks]
        ranges = (range(slot.min_groups, slot.groups + 1) for slot in library.blocks)
        self.counts = [dict(zip(names, c, strict=True)) for c in itertools.product(*ranges)]
        whole = [problem.with_classes(c) for c in self.counts]
        self.has = {
            "latency": np.array([table.predict(c).value for c in whole]),
            "energy": np.array([table.energy.predict(c).value for c in whole]),
            "params": np.array([size.total_params(c) / 1e6 for c in whole]),
            "macs": np.array([size.total_macs(c) / 1e6 for c in whole]),
            "memory": np.array([size.peak_mib(c) for c in whole]),
            "size": np.array([size.total_file_bytes(c, task.classes) / MIB for c in whole]),
            "sparsity": np.array([size.sparsity(c) for c in whole]),
            "accuracy": np.array([problem.accuracy(c).value for c in self.counts]),
            "class accuracy": np.array([problem.least_class(c)[1].value for c in self.counts]),
        }
        self.value = np.array(
            [sum(problem.values[s][k] for s, k in c.items()) for c in self.counts]
        )

    def __repr__(self) -> str:  # a failing property shows its arguments
        return "all plans"

    def keeps(self, budget: Budget, *, without: str = "") -> np.ndarray:
        """Which plans keep a budget, to rounding."""
        kept = np.ones(len(self.counts), bool)
        for name, field in FIELDS.items():
            asked = getattr(budget, field)
            if name != without and asked:
                floor = name in FLOORS
                kept &= self.has[name] >= asked - 1e-9 if floor else (
                    self.has[name] <= asked * (1 + 1e-9)
                )  # fmt: skip
        return kept

    def at(self, name: str, share: float) -> float:
        """The value of a budget that this share of the plans is below."""
        return float(np.quantile(self.has[name], share, method="nearest"))

    def answer(self, budget: Budget):
        return assemble(self.library, self.task, budget, self.table)


@pytest.fixture(scope="session")
def every(toy_cls, toy_table) -> Every:
    return Every(toy_cls, toy_table(toy_cls), toy_cls.task(toy_cls.classes[:4]))


@st.composite
def wishes(draw: st.DrawFn, every: Every, names: tuple[str, ...]) -> Budget:
    """One to four budgets of those names, each at what some plan has."""
    chosen = draw(st.permutations(names))[: draw(st.integers(1, min(4, len(names))))]
    return Budget(**{FIELDS[name]: every.at(name, draw(SHARES)) for name in chosen})


@given(data=st.data())
@settings(max_examples=60)
def test_the_best_plan_within_any_budgets_is_found_or_there_is_none(every, data):
    budget = data.draw(wishes(every, UPPER + FLOORS))
    kept = every.keeps(budget)
    if not kept.any():
        with pytest.raises(BudgetError):
            every.answer(budget)
        return
    plan, estimate, certificate = every.answer(budget)
    mine = every.counts.index(dict(plan.counts))
    assert kept[mine]
    assert certificate.gap == pytest.approx(0, abs=1e-9)
    assert certificate.goal == budget.goal
    if budget.goal == "latency":
        fastest = every.has["latency"][kept].min()
        assert estimate.latency_ms.value == pytest.approx(fastest)
        assert certificate.objective == pytest.approx(fastest)
    else:
        assert every.value[mine] == every.value[kept].max()


@given(data=st.data())
@settings(max_examples=40)
def test_binding_budgets_are_those_without_which_a_better_plan_is_allowed(every, data):
    budget = data.draw(wishes(every, UPPER + FLOORS))
    kept = every.keeps(budget)
    if not kept.any():
        return
    merit = -every.has["latency"] if budget.goal == "latency" else every.value
    expected = [
        name
        for name, field in FIELDS.items()
        if getattr(budget, field)
        and merit[every.keeps(budget, without=name)].max() > merit[kept].max()
    ]
    assert list(every.answer(budget)[2].binding) == expected


@given(data=st.data())
@settings(max_examples=20)
def test_of_an_impossible_budget_the_tightest_values_and_the_smallest_relaxation_are_told(
    every, data
):
    budget = data.draw(wishes(every, UPPER + FLOORS))
    if data.draw(st.booleans()):  # surely too much of something
        name = data.draw(st.sampled_from(UPPER + FLOORS))
        best = every.has[name].max() if name in FLOORS else every.has[name].min()
        wrong = 1 - (1 - best) * 0.7 if name in FLOORS else best * 0.7
        budget = dataclasses.replace(budget, **{FIELDS[name]: float(wrong)})
    if every.keeps(budget).any():
        return
    with pytest.raises(BudgetError) as caught:
        every.answer(budget)
    tightest, relaxed = (caught.value.details[key] for key in ("tightest", "relaxed"))
    asked = [name for name, field in FIELDS.items() if getattr(budget, field)]
    assert set(tightest) == set(asked)
    for name in asked:
        others = every.keeps(budget, without=name)
        has = every.has[name][others] if others.any() else every.has[name]
        expected = has.max() if name in FLOORS else has.min()
        assert tightest[name] == pytest.approx(expected, rel=1e-7)
    assert relaxed
    works = dataclasses.replace(budget, **{FIELDS[n]: v for n, v in relaxed.items()})
    every.answer(_rounded(works))
    tighter = {
        n: (v / 0.99 if n in FLOORS and n != "sparsity" else 1 - 0.99 * (1 - v))
        if n in FLOORS
        else 0.99 * v
        for n, v in relaxed.items()
    }
    with pytest.raises(BudgetError):
        every.answer(dataclasses.replace(budget, **{FIELDS[n]: v for n, v in tighter.items()}))
    assert len(caught.value.hints) == 1
    assert caught.value.hints[0].count("--") == len(relaxed)


def _rounded(budget: Budget) -> Budget:
    """Looser by less than a float can be trusted to hold."""
    changes = {}
    for name, field in FIELDS.items():
        asked = getattr(budget, field)
        if asked:
            changes[field] = asked * (1 - 1e-9) if name in FLOORS else asked * (1 + 1e-9)
    return dataclasses.replace(budget, **changes)


def test_an_accuracy_alone_gives_the_fastest_network_that_has_it(every):
    floor = every.at("accuracy", 0.5)
    plan, estimate, certificate = every.answer(Budget(min_accuracy=floor))
    assert (certificate.goal, certificate.method) == ("latency", "dynamic programming")
    assert estimate.accuracy.value >= floor
    kept = every.has["accuracy"] >= floor
    assert estimate.latency_ms.value == pytest.approx(every.has["latency"][kept].min())
    assert certificate.binding == ("accuracy",)
    within = Budget(min_accuracy=floor, latency_ms=every.has["latency"].max())
    best = every.answer(within)
    assert best[2].goal == "value"
    assert best[1].accuracy.value == pytest.approx(every.has["accuracy"].max())


def test_budgets_that_exclude_each_other_are_named_with_what_each_allows(every):
    middle = every.at("latency", 0.3)
    possible = every.has["accuracy"][every.has["latency"] <= middle].max()
    asked = float((possible + every.has["accuracy"].max()) / 2)
    budget = Budget(latency_ms=middle, min_accuracy=asked, mparams=10)
    with pytest.raises(BudgetError) as caught:
        every.answer(budget)
    text = str(caught.value)
    assert f"latency <= {middle:g} ms: with accuracy >= {asked:g} it is at least" in text
    assert (
        f"accuracy >= {asked:g}: with latency <= {middle:g} ms it is at most {possible:.4g}" in text
    )
    assert "params" not in text
    assert set(caught.value.details["relaxed"]) == {"latency"}


def test_an_accuracy_that_the_whole_library_has_not_is_told(every):
    with pytest.raises(BudgetError, match=r"accuracy >= 0\.999: the whole network has") as caught:
        every.answer(Budget(min_accuracy=0.999))
    best = every.has["accuracy"].max()
    assert caught.value.details["relaxed"] == {"accuracy": pytest.approx(best)}
    (hint,) = caught.value.hints
    flag, value = hint.split()
    assert flag == "--min-accuracy"
    assert best - 1e-3 < float(value) <= best
    every.answer(Budget(min_accuracy=float(value)))


def test_a_library_without_estimates_of_classes_says_so(toy_parts, toy_cls, toy_table):
    poor = {key: value for key, value in toy_cls.accuracy.items() if key != "class_fit"}
    library = toy_parts.with_size_data(toy_cls, accuracy=poor)
    with pytest.raises(DataError, match="no estimate for single classes"):
        assemble(library, library.task(), Budget(min_class_accuracy=0.2), toy_table(library))
    estimate = assemble(library, library.task(), Budget(), toy_table(library))[1]
    assert (estimate.least_class, estimate.least_class_accuracy) == ("", None)


def test_the_limits_and_what_plans_reach_are_the_same_quantity(every):
    """What a plan reaches is allowed as a limit, and a hair less is not."""
    problem = problem_for(every.library, every.task, every.table)
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(every.counts), 12):
        counts = every.counts[position]
        for name, field in FIELDS.items():
            has = float(every.has[name][position])
            if has <= 0 or (name in FLOORS and not 0 < has < 1):
                continue
            slack = -1e-9 if name in FLOORS else 1e-9
            (limit,) = limits_of(problem, Budget(**{field: has * (1 + slack)}))
            assert limit.is_kept(counts)
            assert limit.reached(counts) == pytest.approx(has)
            (tight,) = limits_of(problem, Budget(**{field: has * (1 - 1e4 * slack)}))
            assert not tight.is_kept(counts)


def test_energy_is_limited_only_where_it_is_known(toy_cls, toy_table):
    table, task = toy_table(toy_cls), toy_cls.task()
    _, known, _ = assemble(toy_cls, task, Budget(), table)
    assert known.energy_mj == table.energy.predict(
        {slot.name: slot.groups for slot in toy_cls.slots}
    )
    assert known.energy_mj.low < known.energy_mj.value < known.energy_mj.high
    blind = dataclasses.replace(table, energy=None)
    assert assemble(toy_cls, task, Budget(), blind)[1].energy_mj is None
    with pytest.raises(DeviceError, match="Nothing is known about energy on 'toy-device'"):
        assemble(toy_cls, task, Budget(energy_mj=1.0), blind)


# What a little more buys


@pytest.mark.parametrize(
    ("budget", "step"),
    [
        (Budget(latency_ms=2.75), 0.2), (Budget(latency_ms=10), 1), (Budget(mparams=0.7), 0.05),
        (Budget(memory_mib=1), 0.1), (Budget(mmacs=4990), 200), (Budget(sparsity=0.5), -0.05),
        (Budget(sparsity=0.02), -0.01), (Budget(min_accuracy=0.6), -0.01),
    ],
)  # fmt: skip
def test_a_budget_is_loosened_by_a_round_step(budget, step):
    ((kind, found, looser),) = loosened(budget)
    assert found == pytest.approx(step)
    assert getattr(looser, kind.field) == pytest.approx(getattr(budget, kind.field) + step)


@given(data=st.data())
@settings(max_examples=15)
def test_gains_are_what_the_looser_budget_gives(toy_cls, toy_table, every, data):
    names = data.draw(st.permutations(UPPER))[:2]
    budget = Budget(**{FIELDS[name]: every.at(name, data.draw(SHARES)) for name in names})
    options = [
        SizeOption(library=view, table=toy_table(view))
        for view in (toy_cls.at(size) for size in toy_cls.input_sizes)
    ]
    try:
        _, estimate, certificate = assemble_any_size(options, every.task, budget)
    except BudgetError:
        return
    gains = {gain.budget: gain for gain in certificate.more}
    for kind, step, looser in loosened(budget):
        if kind.name not in certificate.binding:
            continue
        more = assemble_any_size(options, every.task, looser)[1]
        rise = more.accuracy.value - estimate.accuracy.value
        if rise > 5e-4:
            gain = gains.pop(kind.name)
            assert (gain.step, gain.of, gain.unit) == (step, "accuracy", kind.unit)
            assert gain.gain == pytest.approx(rise)
    assert not gains


def test_less_accuracy_saves_time(toy_cls, toy_table, every):
    option = SizeOption(library=toy_cls, table=toy_table(toy_cls))
    budget = Budget(min_accuracy=every.at("accuracy", 0.9))
    _, estimate, certificate = assemble_any_size([option], every.task, budget)
    (gain,) = certificate.more
    assert (gain.budget, gain.of) == ("accuracy", "latency")
    looser = Budget(min_accuracy=budget.min_accuracy - 0.01)
    faster = assemble_any_size([option], every.task, looser)[1]
    assert gain.gain == pytest.approx(estimate.latency_ms.value - faster.latency_ms.value)


def test_over_all_sizes_the_tightest_value_is_the_best_of_any(toy_cls, toy_table, every):
    options = [
        SizeOption(library=view, table=toy_table(view))
        for view in (toy_cls.at(size) for size in toy_cls.input_sizes)
    ]
    budget = Budget(latency_ms=1e-4, min_accuracy=0.999)
    with pytest.raises(BudgetError) as caught:
        assemble_any_size(options, every.task, budget)
    reached = []
    for option in options:
        problem = problem_for(option.library, every.task, option.table)
        reached.append(problem.accuracy(full_counts(option.library)).value)
    assert caught.value.details["tightest"]["accuracy"] == pytest.approx(max(reached))
    works = {FIELDS[n]: v for n, v in caught.value.details["relaxed"].items()}
    assert set(works) == {"latency_ms", "min_accuracy"}
    assemble_any_size(options, every.task, _rounded(Budget(**works)))
