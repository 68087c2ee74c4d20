"""What estimates start from: a smaller input is believed to be better only where that is sure."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfactory.factory.assembler.accuracy import estimate_accuracy, logit
from nnfactory.factory.assembler.assemble import assemble
from nnfactory.factory.assembler.footprint import full_counts
from nnfactory.factory.assembler.problem import problem_for
from nnfactory.factory.assembler.sizes import SizeOption, assemble_any_size, frontier_any_size
from nnfactory.factory.assembler.strength import (
    STEP,
    class_strengths,
    doubt_of,
    is_surely_above,
    size_effect,
    task_strength,
)
from nnfactory.factory.errors import BudgetError
from nnfactory.factory.schema import Budget

LARGE = [0.5, 0.6, 0.7, 0.5, 0.6, 0.7]
BY_CHANCE, SURELY = [0.9, 0.5, 0.9, 0.4, 0.7, 0.7], [0.6, 0.71, 0.79, 0.6, 0.7, 0.81]
SIX = st.lists(st.floats(0.05, 0.95), min_size=6, max_size=6)


@pytest.fixture(scope="module")
def library_of(toy_parts, toy_cls):
    """A function that gives the toy library with these accuracies per class, from large to small.

    The full network is estimated at its strength, by all sizes alike.
    """
    fit = {**toy_cls.accuracy["fit"], "coefficients": [0.0, 1.0, 0.0, 0.0, -2.0, -1.0, 0.0]}

    def made(large: list[float], small: list[float]):
        library = toy_cls
        for size, per_class in zip(library.input_sizes, (large, small), strict=True):
            accuracy = {**library.at(size).accuracy, "per_class": per_class, "fit": fit}
            library = toy_parts.with_size_data(library.at(size), accuracy=accuracy)
        return library.at(max(library.sizes))

    return made


@given(large=SIX, small=SIX)
def test_a_smaller_input_moves_all_tasks_alike(library_of, large, small):
    library = library_of(large, small)
    effect = float(logit(np.mean(small)) - logit(np.mean(large)))
    view = library.at(16)
    assert size_effect(library) == 0
    assert size_effect(view) == pytest.approx(effect)
    for names in (library.classes, library.classes[:2], library.classes[4:]):
        task = library.task(names)
        classes = list(library.class_indices(task))
        whole = task_strength(library, task)
        assert whole == np.mean(np.array(large)[classes])
        moved = 1 / (1 + np.exp(-logit(whole) - effect))
        assert task_strength(view, task) == pytest.approx(moved)
        single = 1 / (1 + np.exp(-logit(np.array(large)[classes]) - effect))
        np.testing.assert_allclose(class_strengths(view, classes), single)


def test_what_seems_better_by_chance_counts_a_step_below(library_of):
    library = library_of(LARGE, BY_CHANCE)
    small = library.at(16)
    assert doubt_of(library) == 0
    assert doubt_of(small) == pytest.approx(size_effect(small) + STEP)
    alike = library_of(LARGE, LARGE).at(16)
    assert (size_effect(alike), doubt_of(alike)) == (0, pytest.approx(STEP))


def test_what_is_surely_better_is_believed(library_of):
    small = library_of(LARGE, SURELY).at(16)
    assert size_effect(small) > 0
    assert doubt_of(small) == 0


@given(large=SIX, small=SIX)
def test_it_falls_as_measured_or_by_a_step_unless_it_surely_rises(library_of, large, small):
    view = library_of(large, small).at(16)
    rise = size_effect(view)
    believed = rise - doubt_of(view)
    sure = is_surely_above(np.subtract(small, large))
    assert believed == pytest.approx(rise if sure else min(rise, -STEP))


def with_three_sizes(library_of, large: list[float], middle: list[float], small: list[float]):
    """The library at 8 px, with what was measured at 32, 16 and 8."""
    library = library_of(large, middle)
    data = library.sizes[16]
    least = dataclasses.replace(data, accuracy={**data.accuracy, "per_class": small})
    return dataclasses.replace(library, sizes={**library.sizes, 8: least}, input_size=8)


def test_a_size_is_held_against_every_larger_one(library_of):
    """What recovers surely from a dip is not better than what came before the dip."""
    dipped = [value - 0.1 for value in LARGE]
    library = with_three_sizes(library_of, LARGE, dipped, BY_CHANCE)
    assert is_surely_above(np.subtract(BY_CHANCE, dipped))
    assert not is_surely_above(np.subtract(BY_CHANCE, LARGE))
    assert size_effect(library) - doubt_of(library) == pytest.approx(-STEP)
    risen = [value + 0.05 for value in SURELY]
    assert doubt_of(with_three_sizes(library_of, LARGE, SURELY, risen)) == 0


def test_every_size_is_a_step_below_the_last(library_of):
    library = with_three_sizes(library_of, LARGE, BY_CHANCE, BY_CHANCE)
    assert size_effect(library) - doubt_of(library) == pytest.approx(-2 * STEP)


@pytest.mark.parametrize(
    ("differences", "sure"),
    [
        ([0.1, 0.12, 0.09, 0.1, 0.11], False),  # too few
        ([0.1, 0.12, 0.09, 0.1, 0.11, 0.1], True),
        ([0.5, -0.3, 0.4, -0.2, 0.3, 0.0], False),
        ([-0.1, -0.12, -0.09, -0.1, -0.11, -0.1], False),
        ([0.0] * 8, False),
    ],
)
def test_sure_is_two_standard_errors_of_at_least_six(differences, sure):
    assert is_surely_above(np.array(differences)) is sure


def test_doubt_lowers_the_estimate_and_keeps_the_upper_end(library_of, toy_table):
    small = library_of(LARGE, BY_CHANCE).at(16)
    problem = problem_for(small, small.task(), toy_table(small))
    counts = {slot.name: slot.groups for slot in small.blocks}
    mine = problem.accuracy(counts)
    plain = estimate_accuracy(small.accuracy["fit"], 1.0, problem.strength, 6)
    assert mine.high == plain.high
    assert logit(mine.value) == pytest.approx(logit(plain.value) - problem.doubt)
    assert logit(mine.low) == pytest.approx(logit(plain.low) - problem.doubt)
    assert problem.least_value(mine.value) == pytest.approx(problem.whole_value, rel=1e-6)


def test_doubt_counts_as_much_as_the_strength_does(library_of):
    fit = library_of(LARGE, BY_CHANCE).accuracy["fit"]
    half = {**fit, "coefficients": [0.0, 0.5, *fit["coefficients"][2:]]}
    plain, doubted = (estimate_accuracy(half, 1.0, 0.6, 6, doubt) for doubt in (0.0, 0.4))
    assert logit(doubted.value) == pytest.approx(logit(plain.value) - 0.2)


def test_single_classes_are_doubted_too(library_of, toy_table):
    library = library_of(LARGE, BY_CHANCE)
    small, counts = library.at(16), {slot.name: slot.groups for slot in library.blocks}
    problem = problem_for(small, small.task(), toy_table(small))
    found = problem.least_class(counts)
    assert found is not None
    fit, number = small.accuracy["class_fit"], small.classes.index(found[0])
    plain = estimate_accuracy(fit, 1.0, float(problem.class_strengths[number]), 6)
    shift = fit["coefficients"][1] * problem.doubt
    assert logit(found[1].value) == pytest.approx(logit(plain.value) - shift)


def test_a_least_accuracy_per_class_is_kept_with_its_doubt(library_of, toy_table):
    small = library_of(LARGE, BY_CHANCE).at(16)
    task, table = small.task(), toy_table(small)
    whole = problem_for(small, task, table).least_class(full_counts(small))
    assert whole is not None
    asked = whole[1].value - 0.02
    _, estimate, certificate = assemble(small, task, Budget(min_class_accuracy=asked), table)
    assert asked <= estimate.least_class_accuracy.value < whole[1].value
    with pytest.raises(BudgetError):
        assemble(small, task, Budget(min_class_accuracy=whole[1].value + 0.01), table)


def test_without_a_limit_the_large_input_is_built_and_ends_the_frontier(library_of, toy_table):
    library = library_of(LARGE, BY_CHANCE)
    views = [library.at(size) for size in library.input_sizes]
    options = [SizeOption(library=view, table=toy_table(view)) for view in views]
    plan, estimate, _ = assemble_any_size(options, library.task(), Budget())
    assert plan.input_size == 32
    points, _ = frontier_any_size(options, library.task(), 20)
    assert (points[-1].plan, points[-1].estimate.accuracy) == (plan, estimate.accuracy)
    only_small = assemble_any_size(options[1:], library.task(), Budget())[1]
    assert only_small.accuracy.value < estimate.accuracy.value
