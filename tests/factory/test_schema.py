"""The checks of every noun, and what the nouns compute."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nnfactory.factory import schema
from nnfactory.factory.errors import SpecError

LATENCIES = st.floats(0.01, 1e4, allow_nan=False)


def measurement(samples: list[float], **changes: object) -> schema.Measurement:
    fields: dict = {"device": "toy", "runtime": "toy", "precision": "fp32", "threads": 1}
    return schema.Measurement(
        **(fields | {"samples_ms": tuple(samples), "verdict": "PASS"} | changes)
    )


def table(**changes: object) -> schema.LatencyTable:
    fields: dict = {
        "device": "toy",
        "library": "0" * 16,
        "input_size": 32,
        "runtime": "toy",
        "precision": "fp32",
        "threads": 1,
        "fixed_ns": 1_000_000,
        "slots": {"a": (0, 200_000, 500_000)},
        "tail": {90: 1.5},
        "error_low": 0.8,
        "error_high": 1.25,
        "level": 0.9,
        "n": 7,
        "is_measured": True,
    }
    return schema.LatencyTable(**(fields | changes))


def plan(**changes: object) -> schema.Plan:
    fields: dict = {
        "task": schema.Task(kind="cls", classes=("a", "b")),
        "library": "toy",
        "library_id": "0" * 16,
        "active": {"b": (0, 2), "a": ()},
        "input_size": 32,
    }
    return schema.Plan(**(fields | changes))


@pytest.mark.parametrize("name", ["latency_ms", "memory_mib", "mparams", "mmacs", "file_mib"])
@pytest.mark.parametrize("value", [0, 0.0, -1, -0.5, math.nan, math.inf, -math.inf])
def test_budget_refuses_limits_that_are_not_positive_and_finite(name, value):
    with pytest.raises(SpecError, match=rf"Budget\.{name} must be positive and finite, got"):
        schema.Budget(**{name: value})


@pytest.mark.parametrize("value", [-0.1, 1.0, 1, 2, math.nan, math.inf])
def test_budget_refuses_a_sparsity_outside_its_range(value):
    with pytest.raises(SpecError, match=r"Budget\.sparsity must be in \[0, 1\)"):
        schema.Budget(sparsity=value)


@pytest.mark.parametrize("name", ["min_accuracy", "min_class_accuracy"])
@pytest.mark.parametrize("value", [-0.1, 0, 1, 45, math.nan, math.inf])
def test_budget_refuses_an_accuracy_outside_its_range(name, value):
    with pytest.raises(SpecError, match=rf"Budget\.{name} must be between 0 and 1"):
        schema.Budget(**{name: value})


def test_the_goal_is_latency_where_an_accuracy_is_asked_for_and_no_latency():
    assert schema.Budget().goal == schema.Budget(mparams=1).goal == "value"
    assert schema.Budget(min_accuracy=0.5).goal == "latency"
    assert schema.Budget(min_class_accuracy=0.5, mparams=1).goal == "latency"
    assert schema.Budget(min_accuracy=0.5, latency_ms=1).goal == "value"


@pytest.mark.parametrize("value", [0, 1, 49, 99.5, 100, -50])
def test_budget_refuses_a_percentile_that_no_table_has(value):
    with pytest.raises(SpecError, match="50, 90, 95, 99"):
        schema.Budget(percentile=value)


def test_budget_is_unlimited_only_without_any_limit():
    assert schema.Budget().is_unlimited
    assert schema.Budget(percentile=99).is_unlimited
    for name in (
        "latency_ms", "memory_mib", "mparams", "mmacs", "file_mib", "sparsity", "min_accuracy",
        "min_class_accuracy",
    ):  # fmt: skip
        assert not schema.Budget(**{name: 0.1}).is_unlimited


def test_nouns_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        schema.Budget().latency_ms = 3.0  # type: ignore[misc]


@pytest.mark.parametrize("ends", [(2, 1, 3), (0, 4, 3), (math.nan, 1, 2), (0, math.nan, 2)])
def test_interval_refuses_ends_that_are_not_ordered(ends):
    low, value, high = ends
    with pytest.raises(SpecError, match="must be ordered"):
        schema.Interval(low=low, value=value, high=high)


@pytest.mark.parametrize("level", [0, 1, -0.5, 90, math.nan])
def test_interval_refuses_a_level_outside_its_range(level):
    with pytest.raises(SpecError, match=r"Interval\.level must be in \(0, 1\)"):
        schema.Interval(low=0, value=1, high=2, level=level)


def test_task_refuses_an_unknown_kind():
    with pytest.raises(SpecError, match="one of cls, det, got 'seg'"):
        schema.Task(kind="seg", classes=("a", "b"))


@pytest.mark.parametrize(("kind", "classes"), [("cls", ()), ("cls", ("a",)), ("det", ())])
def test_task_refuses_too_few_classes(kind, classes):
    with pytest.raises(SpecError, match="needs at least"):
        schema.Task(kind=kind, classes=classes)


def test_a_detector_may_know_one_class():
    assert schema.Task(kind="det", classes=("a",)).classes == ("a",)


def test_task_refuses_a_repeated_class():
    with pytest.raises(SpecError, match="must not repeat"):
        schema.Task(kind="det", classes=("a", "b", "a"))


@pytest.mark.parametrize("broken", [{"channel_multiple": 0}, {"precisions": ()}])
def test_device_profile_refuses_to_lack_what_every_device_has(broken):
    fields: dict = {
        "name": "toy",
        "title": "Toy",
        "runtime": "onnxruntime-cpu",
        "precisions": ("fp32",),
        "channel_multiple": 8,
        "max_opset": 17,
    }
    assert schema.DeviceProfile(**fields).memory_mib is None
    with pytest.raises(SpecError, match="'toy' lacks"):
        schema.DeviceProfile(**(fields | broken))


@pytest.mark.parametrize("broken", [{"fixed_ns": -1}, {"slots": {"a": (0, -1)}}])
def test_latency_table_refuses_negative_costs(broken):
    with pytest.raises(SpecError, match="must not be negative"):
        table(**broken)


@pytest.mark.parametrize(
    "broken", [{"error_low": 0}, {"error_low": 1.1}, {"error_high": 0.9}, {"error_low": math.nan}]
)
def test_latency_table_refuses_an_error_that_does_not_hold_one(broken):
    with pytest.raises(SpecError, match="error_low must be in"):
        table(**broken)


def test_latency_table_adds_fixed_part_and_slots_and_scales_to_the_percentile():
    median = table().predict({"a": 2})
    assert (median.low, median.value, median.high) == pytest.approx((1.2, 1.5, 1.875))
    assert (median.level, median.n) == (0.9, 7)
    assert table().predict({"a": 1}, percentile=90).value == pytest.approx(1.2 * 1.5)
    assert table().predict({"a": 0}).value == 1.0


@pytest.mark.parametrize("groups", [(1, 0), (0, 0), (-1, 2)])
def test_plan_refuses_modules_that_are_not_rising_indices(groups):
    with pytest.raises(SpecError, match="must be rising indices"):
        plan(active={"a": groups})


def test_plan_id_depends_on_every_decision_and_not_on_the_order_of_slots():
    first = plan()
    assert len(first.id) == 16
    assert first.id == plan(active={"a": (), "b": (0, 2)}).id
    assert first.id == plan(sparsity=0.5).id  # follows from the decisions
    others = [
        plan(active={"b": (0, 1), "a": ()}),
        plan(task=schema.Task(kind="cls", classes=("b", "a"))),
        plan(task=schema.Task(kind="det", classes=("a", "b"))),
        plan(library="other"),
        plan(library_id="1" * 16),
        plan(input_size=16),
        plan(normalization="sliced"),
        plan(precision="fp16"),
    ]
    assert len({first.id, *(other.id for other in others)}) == 1 + len(others)


def test_plan_counts_its_active_modules():
    assert plan().counts == {"b": 2, "a": 0}


@pytest.mark.parametrize("max_abs", [1e-3, math.nan, math.inf])
def test_parity_fails_above_the_tolerance_and_for_nan(max_abs):
    fields: dict = {"a": "x", "b": "y", "n": 1, "tolerance": 1e-4}
    assert not schema.Parity(max_abs=max_abs, **fields).passed
    assert schema.Parity(max_abs=1e-4, **fields).passed


@pytest.mark.parametrize("samples", [[], [1.0]])
def test_measurement_refuses_less_than_two_samples(samples):
    with pytest.raises(SpecError, match="at least two samples"):
        measurement(samples)


def test_measurement_refuses_an_unknown_verdict():
    with pytest.raises(SpecError, match="INCONCLUSIVE"):
        measurement([1.0, 2.0], verdict="OK")


@given(samples=st.lists(LATENCIES, min_size=2, max_size=60), q=st.floats(0, 100))
def test_percentiles_equal_those_of_numpy(samples, q):
    assert measurement(samples).percentile(q) == pytest.approx(np.percentile(samples, q))


@given(samples=st.lists(LATENCIES, min_size=2, max_size=200))
def test_median_interval_is_made_of_samples_around_the_median(samples):
    interval = measurement(samples).median_interval()
    assert interval.low <= np.median(samples) <= interval.high
    assert {interval.low, interval.high} <= set(samples)
    assert interval.n == len(samples)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [20, 21, 50, 101, 200, 1000])
def test_median_interval_has_the_coverage_it_claims(n, level):
    interval = measurement([float(i) for i in range(n)]).median_interval(level)
    # The true median lies between two order statistics when that many samples lie below it.
    below = stats.binom(n, 0.5)
    coverage = below.cdf(interval.high) - below.cdf(interval.low)
    assert level - 0.01 <= coverage <= level + 0.07
