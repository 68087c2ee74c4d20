"""Timing with a fake clock, and the verdict about a measurement."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from nnfactory.devices import measure
from nnfactory.devices.conditions import MAX_CONTENTION, host_conditions, verdict_of
from nnfactory.devices.measure import (
    Samples,
    measure_host,
    measure_interleaved,
    time_runs,
    warm_up,
)
from nnfactory.factory.errors import DataError, SpecError
from nnfactory.factory.schema import Budget, Measurement
from nnfactory.factory.units import NS_PER_MS


class FakeMachine:
    """Each run takes the next of the wall times, and a share of it on the processor."""

    def __init__(self, wall_ms: list[float], *, cpu_share: float = 1.0) -> None:
        self.left = list(wall_ms)
        self.cpu_share = cpu_share
        self.wall_ns = self.cpu_ns = 0
        self.runs = 0

    def run(self) -> None:
        ns = int(self.left.pop(0) * NS_PER_MS)
        self.wall_ns += ns
        self.cpu_ns += int(ns * self.cpu_share)
        self.runs += 1

    def time(self, repeats: int) -> Samples:
        return time_runs(
            self.run, repeats, clock_ns=lambda: self.wall_ns, cpu_clock_ns=lambda: self.cpu_ns
        )


def tiny_model() -> bytes:
    """One convolution on an 8x8 image."""
    weight: np.ndarray = np.ones((2, 3, 3, 3), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "w"], ["output0"], name="conv")],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 2, 6, 6])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def measured(
    samples_ms: tuple[float, ...] = (1.0, 2.0, 3.0), contention: float | None = 0.0
) -> Measurement:
    return Measurement(
        device="host", runtime="onnxruntime-cpu 1", precision="fp32", threads=1,
        samples_ms=samples_ms, verdict="PASS", conditions={"contention": contention},
    )  # fmt: skip


def test_time_runs_keeps_every_sample_in_order():
    samples = FakeMachine([3.0, 1.0, 2.0]).time(3)
    assert samples.wall_ms == (3.0, 1.0, 2.0)
    assert samples.cpu_ms == (3.0, 1.0, 2.0)


def test_time_runs_runs_exactly_as_often_as_asked():
    machine = FakeMachine([1.0] * 10)
    machine.time(7)
    assert machine.runs == 7


@pytest.mark.parametrize("repeats", [1, 0, -3])
def test_time_runs_refuses_fewer_than_two_runs(repeats: int):
    machine = FakeMachine([])
    with pytest.raises(SpecError, match="repeats >= 2"):
        machine.time(repeats)
    assert machine.runs == 0


@given(st.floats(0, 1), st.lists(st.integers(1, 1000), min_size=2, max_size=20))
def test_contention_is_the_share_of_time_that_others_had_the_processor(
    share: float, wall_ms: list[int]
):
    samples = FakeMachine([float(ms) for ms in wall_ms], cpu_share=share).time(len(wall_ms))
    assert samples.contention == pytest.approx(1 - share, abs=1e-6)


def test_contention_is_never_negative_when_the_cpu_clock_is_coarse():
    assert Samples(wall_ms=(1.0, 1.0), cpu_ms=(1.5, 1.5)).contention == 0
    assert Samples(wall_ms=(0.0, 0.0), cpu_ms=(0.0, 0.0)).contention == 0


def test_warm_up_runs_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    runs: list[float] = []

    def run() -> None:
        now[0] += 0.25 if not runs else 0.125
        runs.append(now[0])

    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert warm_up(run, 0.5) == 125.0  # the last run, in milliseconds
    assert runs == [0.25, 0.375, 0.5]


def test_interleaved_networks_each_get_their_reference():
    class Counted:
        def __init__(self) -> None:
            self.runs = 0

        def run(self) -> None:
            self.runs += 1

    runners, reference, seen = [Counted(), Counted(), Counted()], Counted(), []
    rows = measure_interleaved(runners, reference, 4, lambda *row: seen.append(row))  # type: ignore[arg-type]
    assert [len(mine.wall_ms) for mine, _ in rows] == [8, 8, 8]
    assert [len(beside.cpu_ms) for _, beside in rows] == [8, 8, 8]
    assert [runner.runs for runner in runners] == [2 + 8] * 3  # two untimed runs each
    assert reference.runs == 3 * 10
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_measure_host_gives_that_many_samples_and_says_what_ran(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "WARMUP_SECONDS", 0.0)
    monkeypatch.setattr(measure, "MIN_RUNS", 12)
    monkeypatch.setattr(measure, "MAX_RUNS", 12)
    measurement = measure_host(tiny_model(), device="host", seconds=0.01)
    assert measurement.n == len(measurement.samples_ms) == 12
    assert all(sample > 0 for sample in measurement.samples_ms)
    assert (measurement.device, measurement.precision, measurement.threads) == ("host", "fp32", 1)
    assert measurement.runtime == f"onnxruntime-cpu {measurement.versions['onnxruntime']}"
    assert measurement.rss_mib > 1
    assert {"cpu", "cores", "load_1min", "contention"} <= set(measurement.conditions)


def test_measure_host_keeps_to_the_bounds_on_the_number_of_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "warm_up", lambda run: 1e-9)
    monkeypatch.setattr(measure, "MAX_RUNS", 150)
    assert measure_host(tiny_model(), device="host", seconds=10.0).n == 150
    monkeypatch.setattr(measure, "warm_up", lambda run: 1e6)
    assert measure_host(tiny_model(), device="host", seconds=0.1).n == measure.MIN_RUNS


def test_contention_of_several_threads_is_unknown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "warm_up", lambda run: 1e6)
    measurement = measure_host(tiny_model(), device="host", threads=2)
    assert measurement.threads == 2
    assert measurement.conditions["contention"] is None
    assert measurement.verdict == "PASS"


def test_measure_host_judges_the_budget(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "warm_up", lambda run: 1e6)
    monkeypatch.setattr(
        measure, "time_runs", lambda run, n: Samples(wall_ms=(5.0,) * n, cpu_ms=(5.0,) * n)
    )
    for limit, verdict in ((6.0, "PASS"), (4.0, "FAIL")):
        measurement = measure_host(tiny_model(), device="host", budget=Budget(latency_ms=limit))
        assert measurement.verdict == verdict
        assert measurement.reason == f"p50 5.000 ms, budget {limit:g} ms"
    monkeypatch.setattr(
        measure, "time_runs", lambda run, n: Samples(wall_ms=(5.0,) * n, cpu_ms=(3.0,) * n)
    )
    assert measure_host(tiny_model(), device="host").verdict == "INCONCLUSIVE"


def test_measure_host_refuses_what_is_no_network():
    with pytest.raises(DataError, match="cannot open the network"):
        measure_host(b"no network", device="host")


def test_verdict_compares_the_percentile_of_the_budget():
    samples = tuple(float(i) for i in range(1, 101))  # p50 50.5, p90 90.1
    measurement = measured(samples)
    assert verdict_of(measurement, Budget(latency_ms=50.5))[0] == "PASS"
    assert verdict_of(measurement, Budget(latency_ms=50.4))[0] == "FAIL"
    verdict, reason = verdict_of(measurement, Budget(latency_ms=60.0, percentile=90))
    assert (verdict, reason) == ("FAIL", "p90 90.100 ms, budget 60 ms")


@pytest.mark.parametrize("budget", [None, Budget(), Budget(mparams=0.1, percentile=99)])
def test_verdict_without_a_latency_budget_passes(budget: Budget | None):
    assert verdict_of(measured(), budget) == ("PASS", "no latency budget")


def test_budget_that_is_kept_under_disturbance_is_kept():
    disturbed = measured(contention=MAX_CONTENTION + 0.2)
    assert verdict_of(disturbed, Budget(latency_ms=1e6))[0] == "PASS"


@pytest.mark.parametrize("budget", [None, Budget(latency_ms=0.001)])
def test_disturbed_measurement_is_inconclusive_unless_the_budget_is_kept(budget: Budget | None):
    disturbed = measured(contention=MAX_CONTENTION + 0.2)
    verdict, reason = verdict_of(disturbed, budget)
    assert verdict == "INCONCLUSIVE"
    assert "30%" in reason


@pytest.mark.parametrize("contention", [None, 0.0, MAX_CONTENTION])
def test_undisturbed_or_unknown_contention_is_judged(contention: float | None):
    assert verdict_of(measured(contention=contention), Budget(latency_ms=2.0))[0] == "PASS"


def test_measurement_refuses_a_verdict_that_does_not_exist():
    with pytest.raises(SpecError, match="INCONCLUSIVE"):
        replace(measured(), verdict="maybe")


def test_host_conditions_are_json_values():
    conditions = host_conditions(0.123456)
    assert conditions["contention"] == 0.1235
    assert conditions["cpu"]
    assert isinstance(conditions["cores"], int)
    assert host_conditions(None)["contention"] is None
