"""Latency tables: measured and cached, corrected, and predicted for a board."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nnfactory.devices import latency_table
from nnfactory.devices.kernels import KernelWork, fuse_kernels
from nnfactory.devices.latency_table import (
    RESOLUTION_NS,
    cache_folder,
    corrected,
    host_table,
    measure_table,
    network_of_counts,
    predicted_table,
    sample_counts,
)
from nnfactory.devices.predictor import load_predictor
from nnfactory.factory.errors import UsageError
from nnfactory.factory.graph.costs import op_costs
from nnfactory.factory.graph.network import tensor_shapes
from nnfactory.factory.library.library import CLASSES, ModuleLibrary
from nnfactory.factory.schema import LatencyTable

NETWORKS, PROFILED = 8, 4
BOARD = "jetson-orin-nano"
Tables = Callable[..., LatencyTable]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNFACTORY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def few_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_table, "NETWORKS", NETWORKS)
    monkeypatch.setattr(latency_table, "PROFILED", PROFILED)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, toy_table: Tables) -> list[str]:
    """Measuring a table is replaced by a synthetic one and counted."""
    calls: list[str] = []

    def measure(library: ModuleLibrary, *, threads: int = 1, report: object = None) -> LatencyTable:
        calls.append(f"{library.name} at {library.input_size}, {threads}")
        return toy_table(library, device="host", threads=threads)

    monkeypatch.setattr(latency_table, "measure_table", measure)
    return calls


def full_counts(library: ModuleLibrary) -> dict[str, int]:
    return {slot.name: slot.groups for slot in library.slots}


# Measured


@pytest.mark.usefixtures("few_networks")
def test_measured_table_is_complete_and_monotone(toy_library: ModuleLibrary):
    phases = []
    table = measure_table(toy_library, report=lambda *row: phases.append(row))
    assert (table.device, table.library, table.precision) == ("host", toy_library.id, "fp32")
    assert table.input_size == toy_library.input_size
    assert table.is_measured
    assert table.n == NETWORKS
    assert table.fixed_ns > 0
    assert set(table.slots) == {slot.name for slot in toy_library.slots}
    for slot in toy_library.slots:
        row = table.slots[slot.name]
        assert len(row) == slot.groups + 1
        assert list(row) == sorted(row)
        assert all(ns % RESOLUTION_NS == 0 for ns in row)
    for slot in toy_library.blocks:
        assert table.slots[slot.name][0] == 0  # a block without modules is skipped
    assert ("profiling nodes", PROFILED, PROFILED) in phases
    assert ("timing networks", NETWORKS, NETWORKS) in phases


@pytest.mark.usefixtures("few_networks")
def test_measured_table_states_its_error_tail_and_conditions(toy_cls: ModuleLibrary):
    table = measure_table(toy_cls.at(16))
    assert table.input_size == 16
    assert 0 < table.error_low <= 1 <= table.error_high
    assert table.level == latency_table.LEVEL
    assert set(table.tail) == {90, 95, 99}
    assert 1 <= table.tail[90] <= table.tail[95] <= table.tail[99]
    assert table.created
    assert table.runtime.startswith("onnxruntime-cpu ")
    assert {"cpu", "contention", "load_1min"} <= set(table.conditions)
    interval = table.predict(full_counts(toy_cls))
    assert 0 < interval.low <= interval.value <= interval.high


def test_sampled_networks_hold_the_smallest_and_the_full_one(toy_library: ModuleLibrary):
    rows = sample_counts(toy_library, 12, seed=3)
    least = {slot.name: slot.min_groups for slot in toy_library.blocks}
    full = {slot.name: slot.groups for slot in toy_library.blocks}
    without = [{name: k for name, k in row.items() if name != CLASSES} for row in rows]
    assert without[:2] == [least, full]
    for row in without:
        assert all(least[name] <= count <= full[name] for name, count in row.items())
    assert all(2 <= row[CLASSES] <= len(toy_library.classes) for row in rows)
    assert rows == sample_counts(toy_library, 12, seed=3)
    assert rows != sample_counts(toy_library, 12, seed=4)


# The cache


def test_second_call_reads_the_cache_and_measures_nothing(
    toy_cls: ModuleLibrary, counted: list[str]
):
    first = host_table(toy_cls)
    assert counted == ["toy-cls at 32, 1"]
    assert host_table(toy_cls) == first
    assert counted == ["toy-cls at 32, 1"]
    (file,) = (cache_folder() / "latency").iterdir()  # and nothing half written beside it
    assert file.suffix == ".json"
    assert json.loads(file.read_text())["library"] == toy_cls.id


def test_cache_is_keyed_by_library_size_threads_processor_and_runtime(
    toy_cls: ModuleLibrary, toy_det: ModuleLibrary, counted: list[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    host_table(toy_cls)
    host_table(toy_det)
    host_table(toy_cls, threads=2)
    assert host_table(toy_cls.at(16)).input_size == 16
    assert host_table(toy_cls).input_size == 32
    monkeypatch.setattr(latency_table, "cpu_name", lambda: "Another Processor")
    host_table(toy_cls)
    monkeypatch.setattr(latency_table, "runtime_name", lambda: "onnxruntime-cpu 99.0")
    host_table(toy_cls)
    assert counted == [
        "toy-cls at 32, 1", "toy-det at 32, 1", "toy-cls at 32, 2", "toy-cls at 16, 1",
        "toy-cls at 32, 1", "toy-cls at 32, 1",
    ]  # fmt: skip
    assert len(list((cache_folder() / "latency").iterdir())) == 6


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "null",
        '{"device": "host"}',
        "\N{SNOWMAN}",
    ],
)
def test_damaged_cache_is_measured_again(toy_cls: ModuleLibrary, counted: list[str], damage: str):
    table = host_table(toy_cls)
    (file,) = (cache_folder() / "latency").iterdir()
    file.write_text(damage, encoding="utf-8")
    phases = []
    assert host_table(toy_cls, report=lambda *row: phases.append(row)) == table
    assert len(counted) == 2
    assert "damaged" in phases[0][0]
    assert host_table(toy_cls) == table
    assert len(counted) == 2  # the damaged file was replaced


def test_cached_table_with_bytes_that_are_no_text_is_measured_again(
    toy_cls: ModuleLibrary, counted: list[str]
):
    host_table(toy_cls)
    (file,) = (cache_folder() / "latency").iterdir()
    file.write_bytes(b"\xff\xfe\x00")
    host_table(toy_cls)
    assert len(counted) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"fixed_ns": -1},
        {"slots": {}},
        {"slots": {"stage0.block0": [0]}},
        {"library": "0" * 16},
        {"input_size": 16},
    ],
)
def test_cached_table_that_does_not_fit_the_library_is_measured_again(
    toy_cls: ModuleLibrary, counted: list[str], change: dict[str, object]
):
    table = host_table(toy_cls)
    (file,) = (cache_folder() / "latency").iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | change), encoding="utf-8")
    assert host_table(toy_cls) == table
    assert len(counted) == 2


def test_unusable_cache_folder_is_a_usage_error_before_anything_is_measured(
    toy_cls: ModuleLibrary, counted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("NNFACTORY_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="cannot be used") as caught:
        host_table(toy_cls)
    assert "NNFACTORY_CACHE" in caught.value.hints[0]
    assert counted == []


def test_interrupted_measurement_leaves_nothing_in_the_cache(
    toy_cls: ModuleLibrary, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*arguments: object, **options: object) -> LatencyTable:
        raise KeyboardInterrupt

    monkeypatch.setattr(latency_table, "measure_table", interrupt)
    with pytest.raises(KeyboardInterrupt):
        host_table(toy_cls)
    assert list((cache_folder() / "latency").iterdir()) == []


def test_cache_folder_is_that_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("NNFACTORY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder().name == "nnfactory"


# Corrected


@pytest.mark.parametrize("ratio", [1.002, 1.3, 7.0])
def test_correction_scales_every_cost_and_rounds_up(
    toy_cls: ModuleLibrary, toy_table: Tables, ratio: float
):
    table = toy_table(toy_cls)
    larger = corrected(table, ratio)
    pairs = [(table.fixed_ns, larger.fixed_ns)]
    for name, row in table.slots.items():
        pairs += zip(row, larger.slots[name], strict=True)
    for before, after in pairs:
        assert before * ratio - 1 <= after < before * ratio + RESOLUTION_NS
        assert after > before or before == 0
    assert (larger.tail, larger.library, larger.n) == (table.tail, table.library, table.n)


def test_corrected_prediction_is_at_least_what_was_measured(
    toy_cls: ModuleLibrary, toy_table: Tables
):
    table = toy_table(toy_cls)
    predicted = table.predict(full_counts(toy_cls)).value
    measured = 1.234 * predicted
    assert corrected(table, measured / predicted).predict(full_counts(toy_cls)).value >= measured


# Predicted


def predicted(library: ModuleLibrary) -> LatencyTable:
    return predicted_table(library, load_predictor(BOARD), BOARD, "tensorrt")


def test_predicted_table_says_that_nobody_measured_it(toy_library: ModuleLibrary):
    table = predicted(toy_library)
    assert not table.is_measured
    assert (table.device, table.library, table.threads) == (BOARD, toy_library.id, 0)
    assert table.input_size == toy_library.input_size
    assert 0 < table.error_low < 1 < table.error_high
    assert not table.tail


def test_predicted_rows_rise_and_skipped_blocks_cost_nothing(toy_library: ModuleLibrary):
    table = predicted(toy_library)
    for slot in toy_library.slots:
        row = table.slots[slot.name]
        assert len(row) == slot.groups + 1
        assert row[0] == 0
        assert list(row) == sorted(row)
        assert row[-1] > 0


def test_predicted_sum_of_the_full_network_is_the_predictors(toy_library: ModuleLibrary):
    for size in toy_library.input_sizes:
        view = toy_library.at(size)
        table, counts = predicted(view), full_counts(view)
        network = network_of_counts(view, counts)
        whole = load_predictor(BOARD).predict_ms(op_costs(network, tensor_shapes(network)))
        assert table.fixed_ns > 0
        assert table.predict(counts).value == pytest.approx(whole.value, abs=RESOLUTION_NS / 1e6)


def test_predicted_latency_of_narrower_networks_is_near_the_predictors(
    toy_library: ModuleLibrary,
):
    """The table adds up slots; a cut network also has fewer kernels to fuse with."""
    table, predictor = predicted(toy_library), load_predictor(BOARD)
    for counts in sample_counts(toy_library, 6, seed=1):
        network = network_of_counts(toy_library, counts)
        whole = predictor.predict_ms(op_costs(network, tensor_shapes(network)))
        assert table.predict(counts).value == pytest.approx(whole.value, rel=0.15)


def test_predicted_narrower_network_is_never_slower(toy_library: ModuleLibrary):
    table = predicted(toy_library)
    for counts in sample_counts(toy_library, 10, seed=2):
        slower = table.predict(counts).value
        for name, count in counts.items():
            if count > 1:
                assert table.predict({**counts, name: count - 1}).value <= slower


@pytest.mark.parametrize("size", ["largest", "smallest"])
def test_predicted_energy_is_that_of_the_kernels(toy_library: ModuleLibrary, size: str):
    pick = {"largest": max, "smallest": min}[size]
    library = toy_library.at(pick(toy_library.input_sizes))
    predictor = load_predictor("raspberrypi5")
    table = predicted_table(library, predictor, "raspberrypi5", "onnxruntime-cpu")
    assert table.runtime == "onnxruntime-cpu"
    full = {slot.name: slot.groups for slot in library.slots}
    network = network_of_counts(library, full)
    work = KernelWork.of(fuse_kernels(op_costs(network, tensor_shapes(network))))
    rates = predictor.energy
    nj = work.macs * rates.nj_per_mac + work.traffic_elems * rates.nj_per_elem
    expected = nj.sum() / 1e6 + len(work.macs) * rates.kernel_mj + rates.call_mj
    found = table.energy.predict(full)
    assert found.value == pytest.approx(expected, abs=1e-3)
    smallest = table.energy.predict({slot.name: slot.min_groups for slot in library.slots}).value
    low, high = rates.errors_at(smallest)  # far below what was measured
    assert low < rates.error_low < rates.error_high < high
    assert (found.low, found.high) == pytest.approx((found.value * low, found.value * high))
    assert rates.errors_at(2 * rates.least_mj) == (rates.error_low, rates.error_high)
    for row in table.energy.slots.values():
        assert list(row) == sorted(row)
        assert row[0] == 0
    assert load_predictor(BOARD).energy is None
    assert predicted(library).energy is None


def test_a_network_without_modules_takes_time_whatever_was_measured():
    counts = [{"a": count} for count in range(5)]
    target = np.array([0.1, 0.5, 1.5, 2.5, 3.5])  # as if all but the modules saved time
    shapes = {"a": (0.0, 1.0, 2.0, 3.0, 4.0)}
    assert latency_table._fit(counts[1:], target[1:], shapes, 0.5).predict({"a": 0}) > 0
    assert np.isfinite(latency_table._held_out_ratios(counts, target, shapes, 0.5)).all()
