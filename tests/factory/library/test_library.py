"""Classes by name, synonym and WordNet id; tasks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfactory.factory.errors import UnknownNameError, UsageError
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
    assert "Did you mean 'bullfrog'?" in str(caught.value)
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
