"""Quantities as people write them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfactory.factory.errors import SpecError
from nnfactory.factory.units import count_text, parse_quantity

MS, PARAMS, MIB = "milliseconds", "millions of parameters", "MiB"


@pytest.mark.parametrize(
    "text", ["5", "5ms", "5 ms", " 5MS ", "0.005s", "5000us", "5e3µs", "5e3μs", "5."]
)
def test_one_latency_can_be_written_in_many_ways(text):
    assert parse_quantity(text, MS) == pytest.approx(5.0, rel=1e-12)


@pytest.mark.parametrize("text", ["2", "2M", "2m", "2000k", "0.002G", "0.002B", "2e0", "+2"])
def test_one_number_of_parameters_can_be_written_in_many_ways(text):
    assert parse_quantity(text, PARAMS) == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("3", 3),
        ("3MiB", 3),
        ("3072KiB", 3),
        ("0.5 GiB", 512),
        ("1MB", 1e6 / 2**20),
        ("1kB", 1e3 / 2**20),
        ("1GB", 1e9 / 2**20),
    ],
)
def test_memory_tells_decimal_from_binary_units(text, mib):
    assert parse_quantity(text, MIB) == pytest.approx(mib, rel=1e-12)


@pytest.mark.parametrize("text", ["", "ms", "five", "5 min", "5 m s", "5,0", "1_0", "0x5", "5ms5"])
def test_text_that_is_no_quantity_brings_the_known_units(text):
    with pytest.raises(SpecError, match="write a number, or one with ms, us, µs, s"):
        parse_quantity(text, MS)


@pytest.mark.parametrize("text", ["0", "-3", "0ms", "nan", "inf", "-inf", "1e999", "-5 ms"])
def test_quantities_that_are_not_positive_and_finite_are_refused(text):
    with pytest.raises(SpecError, match="must be positive and finite"):
        parse_quantity(text, MS)


@given(st.floats(1e-6, 1e6, allow_nan=False))
def test_a_bare_number_is_read_exactly(value):
    for unit in (MS, PARAMS, MIB):
        assert parse_quantity(repr(value), unit) == value


def test_nouns_follow_their_number():
    assert count_text(1, "class") == "1 class"
    assert count_text(2, "class") == "2 classes"
    assert count_text(0, "box") == "0 boxes"
    assert count_text(3, "image") == "3 images"


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(SpecError):
        assert parse_quantity(text, MS) > 0
