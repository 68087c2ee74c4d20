"""Classes by name, synonym and WordNet id; tasks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfactory.factory.errors import UnknownNameError, UsageError
from nnfactory.factory.graph.costs import op_costs
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.network import tensor_shapes
from nnfactory.factory.library.library import CLASSES
from nnfactory.factory.schema import Task


@pytest.mark.parametrize(
    "name",
    [
        "goldfish, Carassius auratus",
        "goldfish",
        "GoldFish",
        "  goldfish ",
        "n01443537",
        "N01443537",
        "GOLDFISH, CARASSIUS AURATUS",
    ],
)
def test_a_class_answers_to_its_name_first_synonym_and_wordnet_id_in_any_case(toy_cls, name):
    assert toy_cls.class_index(name) == 0
    assert toy_cls.task((name, "bullfrog")).classes == toy_cls.classes[0:3:2]


def test_every_class_answers_to_every_one_of_its_names(toy_cls):
    for index, (name, wnid) in enumerate(zip(toy_cls.classes, toy_cls.wordnet, strict=True)):
        assert toy_cls.class_index(name) == index
        assert toy_cls.class_index(name.split(",")[0]) == index
        assert toy_cls.class_index(wnid) == index


def test_a_misspelt_class_brings_the_nearest_one_and_the_listing(toy_cls, toy_det):
    with pytest.raises(UnknownNameError, match="No class in library 'toy-cls'") as caught:
        toy_cls.class_index("bulfrog")
    assert "Did you mean 'bullfrog'" in str(caught.value)
    assert "modules show toy-cls" in caught.value.hints[-1]
    with pytest.raises(UnknownNameError) as caught:
        toy_det.class_index("wrensh")
    assert "'Wrench'" in str(caught.value)


@pytest.mark.parametrize("name", ["", "Carassius auratus", "frog", "0"])
def test_a_name_that_no_class_has_is_refused(toy_cls, name):
    with pytest.raises(UnknownNameError):
        toy_cls.class_index(name)


@pytest.mark.parametrize(
    "names", [("goldfish", "goldfish"), ("goldfish", "n01443537"), ("Goldfish", "goldfish ")]
)
def test_a_class_named_twice_is_refused_even_under_two_names(toy_cls, names):
    with pytest.raises(UsageError, match="'goldfish, Carassius auratus' is named more than once"):
        toy_cls.task(names)


def test_a_task_without_names_holds_every_class(toy_library):
    task = toy_library.task()
    assert task == Task(kind=toy_library.kind, classes=toy_library.classes)
    assert toy_library.class_indices(task) == tuple(range(len(toy_library.classes)))


@given(data=st.data())
def test_a_task_holds_the_classes_in_the_order_of_the_library(toy_cls, data):
    chosen = data.draw(st.lists(st.sampled_from(toy_cls.classes), min_size=2, unique=True))
    task = toy_cls.task(tuple(chosen))
    assert set(task.classes) == set(chosen)
    index = toy_cls.class_indices(task)
    assert list(index) == sorted(index)
    assert tuple(toy_cls.classes[i] for i in index) == task.classes


def test_blocks_come_in_execution_order_and_classes_last(toy_library):
    assert toy_library.slots == (*toy_library.blocks, toy_library.class_slot)
    assert toy_library.class_slot.name == CLASSES
    assert toy_library.class_slot.groups == len(toy_library.classes)
    order = [node.name for node in toy_library.network.nodes]
    firsts = [order.index(slot.nodes[0]) for slot in toy_library.blocks]
    assert firsts == sorted(firsts)


def test_a_library_is_seen_at_its_largest_size_first(toy_library, toy_parts):
    assert toy_library.input_sizes == toy_parts.sides
    assert toy_library.input_size == max(toy_parts.sides)
    assert toy_library.at(toy_library.input_size) is toy_library
    small = toy_library.at(16)
    assert small is toy_library.at(16)  # what was computed for it is found again
    assert small.at(16) is small


def test_at_another_size_the_network_has_the_shapes_that_it_declares(toy_library):
    for size in toy_library.input_sizes:
        network = toy_library.at(size).network
        assert network.inputs == {"images": (1, 3, size, size)}
        shapes = tensor_shapes(network)
        assert {name: shapes[name] for name in network.outputs} == dict(network.outputs)
        image = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
        found = run_network(network, {"images": image})
        assert {name: array.shape for name, array in found.items()} == dict(network.outputs)


def test_multiply_adds_of_the_modules_are_those_of_their_operators_at_every_size(toy_library):
    for size in toy_library.input_sizes:
        view = toy_library.at(size)
        rows = op_costs(view.network, tensor_shapes(view.network))
        for slot in view.slots:
            counted = sum(row.macs for row in rows if row.name in slot.nodes)
            told = 1e6 * sum(module.mmacs for module in slot.modules)
            assert told == pytest.approx(counted, rel=1e-9), slot.name


def test_everything_but_measurements_shapes_and_work_is_the_same_at_every_size(toy_library):
    small = toy_library.at(16)
    assert (small.id, small.name, small.classes) == (
        toy_library.id, toy_library.name, toy_library.classes
    )  # fmt: skip
    assert small.network.weights is toy_library.network.weights
    assert small.sizes is toy_library.sizes
    for mine, other in zip(small.slots, toy_library.slots, strict=True):
        assert (mine.name, mine.groups, mine.nodes) == (other.name, other.groups, other.nodes)
        assert [m.owns for m in mine.modules] == [m.owns for m in other.modules]
    assert small.curves is toy_library.sizes[16].curves
    assert small.statistics is toy_library.sizes[16].statistics
    assert small.accuracy is toy_library.sizes[16].accuracy
    assert toy_library.curves is toy_library.sizes[32].curves


def test_there_and_back_again_nothing_has_changed(toy_library):
    again = toy_library.at(16).at(32)
    assert again.network.inputs == toy_library.network.inputs
    assert again.network.outputs == toy_library.network.outputs
    for mine, other in zip(again.slots, toy_library.slots, strict=True):
        assert [m.mmacs for m in mine.modules] == pytest.approx([m.mmacs for m in other.modules])


@pytest.mark.parametrize("size", [0, 8, 31, 64])
def test_a_size_that_was_not_trained_is_refused_with_those_that_were(toy_library, size):
    with pytest.raises(UsageError, match=f"has no input size {size}: .* 32, 16") as caught:
        toy_library.at(size)
    assert caught.value.hints == ("--imgsz 32",)
    with pytest.raises(UsageError):
        toy_library.at(16).at(size)
