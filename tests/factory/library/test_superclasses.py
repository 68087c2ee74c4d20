"""Superclasses: what a name stands for in a library."""

from __future__ import annotations

import pytest

from nnfactory.factory.errors import UnknownNameError, UsageError
from nnfactory.factory.library.store import SHIPPED, open_library
from nnfactory.factory.library.superclasses import FILE, superclasses
from nnfactory.factory.toml_files import tomllib


@pytest.fixture(scope="module")
def tiny200():
    return open_library(SHIPPED / "tiny200")


def test_every_id_and_name_of_the_table_is_known(tiny200):
    table = tomllib.loads(FILE.read_text(encoding="utf-8"))["of"]
    for name, kinds in table.items():
        assert len(kinds) == len(set(kinds)), name
        for kind in kinds:
            assert kind in table or kind in tiny200.wordnet, (name, kind)


def test_a_superclass_holds_those_below_it():
    wordnet = ("n02123045", "n02129165", "n02480495", "n01855672", "n02123394")
    found = superclasses(wordnet)
    assert found["cat"] == (0, 4)
    assert found["feline"] == (0, 1, 4)
    assert found["mammal"] == (0, 1, 2, 4)
    assert found["animal"] == (0, 1, 2, 3, 4)
    assert "bird" not in found  # a single one needs no name
    assert superclasses(()) == {}


def test_a_task_may_name_superclasses(tiny200):
    task = tiny200.task(("Bird", "goldfish"))
    assert [name.split(",")[0] for name in task.classes] == [
        "goldfish", "goose", "black stork", "king penguin", "albatross",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="more than once"):
        tiny200.task(("bird", "goose"))
    with pytest.raises(UnknownNameError, match="Did you mean 'vehicle'"):
        tiny200.task(("vehicel", "goose"))


def test_a_class_counts_more_than_a_superclass_of_its_name(tiny200):
    names = {name.split(",")[0].casefold() for name in tiny200.classes}
    assert not names & set(tiny200.superclasses)
