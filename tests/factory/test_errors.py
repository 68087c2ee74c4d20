"""Exit codes and suggestions."""

from __future__ import annotations

import pytest

from nnfactory.factory import errors

EXIT_CODES = {
    errors.NNFactoryError: 1,
    errors.UsageError: 2,
    errors.SpecError: 2,
    errors.UnknownNameError: 2,
    errors.BudgetError: 3,
    errors.VerificationError: 4,
    errors.DeviceError: 5,
    errors.InconclusiveError: 6,
    errors.PrecisionError: 7,
    errors.MissingExtraError: 8,
    errors.DataError: 9,
    errors.ShapeError: 9,
}


def all_errors() -> set[type]:
    return {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.NNFactoryError)
    }


def test_the_exit_code_of_every_error_is_pinned():
    assert {error: error.exit_code for error in all_errors()} == EXIT_CODES


def test_every_error_is_in_the_tree_at_the_top_of_the_file():
    assert errors.__doc__ is not None
    for error in all_errors():
        assert error.__name__ in errors.__doc__


@pytest.mark.parametrize("error", [errors.SpecError, errors.UnknownNameError, errors.ShapeError])
def test_a_fault_of_the_caller_is_a_value_error_too(error):
    assert issubclass(error, ValueError)


def test_an_error_carries_its_message_hints_and_details():
    error = errors.BudgetError("No.", hints=["try this"], details={"tightest": {"latency": 2.0}})
    assert str(error) == "No."
    assert error.hints == ("try this",)
    assert error.details == {"tightest": {"latency": 2.0}}
    assert errors.DataError("No.").hints == ()
    assert errors.DataError("No.").details == {}


def test_an_unknown_name_brings_the_nearest_known_ones_and_the_listing():
    known = ["jetson-orin-nano", "jetson-orin-nx", "host", "Wrench"]
    error = errors.UnknownNameError.with_suggestion(
        "device profile", "jetson-orin", known, listing="nnfactory devices list"
    )
    assert str(error).startswith("No device profile named 'jetson-orin'. Did you mean '")
    assert "'jetson-orin-nano'" in str(error)
    assert "'jetson-orin-nx'" in str(error)
    assert error.hints == ("nnfactory devices list",)


def test_a_suggestion_ignores_case_and_keeps_the_spelling_that_is_right():
    error = errors.UnknownNameError.with_suggestion("class", "WRENHC", ["Wrench"], listing="x")
    assert str(error).endswith("Did you mean 'Wrench'?")


def test_a_name_like_no_other_brings_only_the_listing():
    error = errors.UnknownNameError.with_suggestion("class", "qqq", ["Wrench"], listing="x")
    assert str(error) == "No class named 'qqq'."
    assert error.hints == ("x",)


def test_a_missing_extra_says_how_to_install_it():
    error = errors.MissingExtraError.of("train", purpose="Training")
    assert "Training needs the extra 'train'" in str(error)
    assert error.hints == ('pip install "nnfactory[train]"',)
