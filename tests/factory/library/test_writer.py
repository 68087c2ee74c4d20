"""Writing libraries: whole or not at all, and nothing is replaced unasked."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfactory.factory.errors import UsageError
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.library.store import open_library
from nnfactory.factory.library.writer import toml_text, write_library

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=6)
PLAIN = (
    st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)
)
TABLES = st.recursive(
    st.dictionaries(KEYS, PLAIN | st.lists(PLAIN, max_size=3), max_size=3),
    lambda inner: st.dictionaries(KEYS, inner | PLAIN | st.lists(inner, max_size=2), max_size=3),
    max_leaves=6,
)


def parts(library: ModuleLibrary) -> dict:
    card = {key: value for key, value in library.card.items() if key != "files"}
    return {
        "card": card,
        "network": library.network,
        "slots": library.slots,
        "importance": library.importance,
        "sizes": library.sizes,
        "modulation": library.modulation,
        "prototypes": library.prototypes,
    }


def test_what_is_written_again_is_equal(toy_library, tmp_path: Path):
    write_library(tmp_path / "again", **parts(toy_library))
    again = open_library(tmp_path / "again")
    assert again.slots == toy_library.slots
    assert again.network.nodes == toy_library.network.nodes
    for name, array in toy_library.importance.items():
        np.testing.assert_array_equal(again.importance[name], array)
    if toy_library.prototypes is None:
        assert again.prototypes is None
    else:
        np.testing.assert_array_equal(again.prototypes.mean, toy_library.prototypes.mean)
        np.testing.assert_array_equal(again.prototypes.spread, toy_library.prototypes.spread)
    assert again.input_sizes == toy_library.input_sizes
    for size, data in toy_library.sizes.items():
        found = again.sizes[size]
        assert found.accuracy == data.accuracy
        np.testing.assert_array_equal(found.curves, data.curves)
        np.testing.assert_array_equal(found.statistics.counts, data.statistics.counts)
        for node, mean in data.statistics.mean.items():
            np.testing.assert_array_equal(found.statistics.mean[node], mean)
            np.testing.assert_allclose(
                found.statistics.variance[node], data.statistics.variance[node], rtol=2e-3
            )


def test_something_that_is_there_is_replaced_only_when_asked(toy_cls, tmp_path: Path):
    place = tmp_path / "library"
    write_library(place, **parts(toy_cls))
    (place / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists already") as caught:
        write_library(place, **parts(toy_cls))
    assert "--overwrite" in caught.value.hints[0]
    assert (place / "mine.txt").read_text() == "mine"
    write_library(place, **parts(toy_cls), overwrite=True)
    assert not (place / "mine.txt").exists()
    assert open_library(place).classes == toy_cls.classes
    assert [path.name for path in tmp_path.iterdir()] == ["library"]


def test_a_folder_that_is_no_library_is_never_replaced(toy_cls, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="no module library"):
        write_library(tmp_path, **parts(toy_cls), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failure_leaves_no_trace_and_keeps_what_was_there(toy_cls, tmp_path: Path):
    place = tmp_path / "library"
    write_library(place, **parts(toy_cls))
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    broken = dataclasses.replace(toy_cls.network, nodes=toy_cls.network.nodes[1:])
    with pytest.raises(Exception):  # noqa: B017, PT011  # whatever the checker raises
        write_library(place, **{**parts(toy_cls), "network": broken}, overwrite=True)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["library"]


@given(table=TABLES)
def test_toml_survives(table):
    assert tomllib.loads(toml_text(table)) == table


def test_toml_leaves_out_what_is_none():
    assert tomllib.loads(toml_text({"a": None, "b": {"c": None, "d": 1}})) == {"b": {"d": 1}}
