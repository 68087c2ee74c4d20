"""The whole pipeline on toy libraries, on the CPU: plan, build, measure, verify, inspect, load."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnfactory
from nnfactory import api
from nnfactory.devices import latency_table, measure, memory
from nnfactory.devices.conditions import verdict_of
from nnfactory.exporters.bundle import check_artifact, read_manifest
from nnfactory.factory.assembler.assemble import assemble
from nnfactory.factory.assembler.footprint import Footprint
from nnfactory.factory.errors import (
    BudgetError,
    DataError,
    DeviceError,
    MissingExtraError,
    SpecError,
    UnknownNameError,
    UsageError,
    VerificationError,
)
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.library.store import library_folders
from nnfactory.factory.schema import Budget, LatencyTable, Measurement
from nnfactory.factory.units import MIB

ROOT = Path(__file__).resolve().parents[1]
Tables = Callable[..., LatencyTable]
pytestmark = pytest.mark.usefixtures("folder")


class FakeHost:
    """This machine with a synthetic latency table and measurements from a list.

    Attributes:
        answers: Samples in milliseconds and contention of the next measurements; the last one
            is repeated.
        sizes: Bytes of every network that was measured.
    """

    def __init__(self) -> None:
        self.answers: list[tuple[float, float]] = [(0.01, 0.0)]
        self.sizes: list[int] = []

    def measure(
        self, model: bytes, *, device: str, budget: Budget | None = None, threads: int = 1,
        seconds: float = 1.0,
    ) -> Measurement:  # fmt: skip
        self.sizes.append(len(model))
        sample, contention = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        draft: dict = {
            "device": device, "runtime": "fake 1.0", "precision": "fp32", "threads": threads,
            "samples_ms": (sample,) * 20, "conditions": {"contention": contention},
        }  # fmt: skip
        verdict, reason = verdict_of(Measurement(**draft, verdict="PASS"), budget)
        return Measurement(**draft, verdict=verdict, reason=reason)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, toy_table: Tables) -> FakeHost:
    fake = FakeHost()
    monkeypatch.setattr(
        latency_table,
        "measure_table",
        lambda library, *, threads=1, report=None: toy_table(library, device="host"),
    )
    monkeypatch.setattr(measure, "measure_host", fake.measure)
    return fake


def frontier_ms(library: ModuleLibrary, device: str = "host") -> list[float]:
    """Estimated latencies on the frontier, rising."""
    answer = api.plan(task=library.kind, device=device, library=str(library.folder), points=8)
    return [p.estimate.latency_ms.value for p in answer.points if p.estimate.latency_ms]


# Building


def test_build_for_the_host_measures_and_writes_an_artifact(
    toy_library: ModuleLibrary, host: FakeHost, folder: Path
):
    result = nnfactory.build(
        task=toy_library.kind, device="host", library=str(toy_library.folder), out_dir=Path("a")
    )
    assert result.device == "host"
    assert result.measurement is not None
    assert result.measurement.verdict == "PASS"
    assert Path(result.artifact.folder) == folder / "a"
    assert all(parity.passed for parity in result.parity)
    assert result.certificate.gap == 0
    manifest = check_artifact(folder / "a")
    assert manifest["plan"]["id"] == result.plan.id
    assert manifest["measured"][0]["n"] == 20
    assert manifest["accuracy"][0]["subject"] == "library"
    assert len(host.sizes) == 1


def test_build_for_a_board_estimates_and_measures_nothing(
    toy_library: ModuleLibrary, host: FakeHost
):
    result = api.build(task=toy_library.kind, device="jetson", library=str(toy_library.folder))
    assert result.device == "jetson-orin-nano"
    assert result.measurement is None
    assert host.sizes == []
    manifest = read_manifest(Path(result.artifact.folder))
    assert manifest["measured"] == []
    assert manifest["estimated"][0]["device"] == "jetson-orin-nano"
    interval = result.estimate.latency_ms
    assert interval is not None
    assert interval.low < interval.value < interval.high


def test_alias_and_name_of_a_device_build_the_same_plan(toy_cls: ModuleLibrary, host: FakeHost):
    ids = {
        api.build(
            task="cls", device=device, library=str(toy_cls.folder), out_dir=Path(device)
        ).plan.id
        for device in ("jetson", "orin-nano", "jetson-orin-nano")
    }
    assert len(ids) == 1


def test_build_without_a_budget_shows_five_points_of_the_frontier(
    toy_library: ModuleLibrary, host: FakeHost
):
    result = api.build(task=toy_library.kind, device="host", library=str(toy_library.folder))
    assert len(result.frontier) == 5
    latencies = [p.estimate.latency_ms.value for p in result.frontier if p.estimate.latency_ms]
    accuracies = [p.estimate.accuracy.value for p in result.frontier if p.estimate.accuracy]
    assert latencies == sorted(set(latencies))
    assert accuracies == sorted(set(accuracies))
    assert {point.plan.input_size for point in result.frontier} == set(toy_library.input_sizes)
    assert result.frontier[-1].plan.id == result.plan.id  # the most accurate one was built
    assert result.frontier[-1].value == 1.0


def test_build_with_a_budget_shows_no_frontier(toy_cls: ModuleLibrary, host: FakeHost):
    result = api.build(
        task="cls", device="host", library=str(toy_cls.folder), budget=Budget(sparsity=0.3)
    )
    assert result.frontier == ()
    assert result.plan.sparsity >= 0.3


def test_every_budget_is_kept(toy_library: ModuleLibrary, host: FakeHost):
    limit_ms = frontier_ms(toy_library)[5]
    whole = api.build(
        task=toy_library.kind, device="host", library=str(toy_library.folder), out_dir=Path("all")
    ).estimate
    budget = Budget(
        latency_ms=limit_ms, mparams=0.9 * whole.mparams, memory_mib=0.98 * whole.memory_mib,
        mmacs=0.95 * whole.mmacs, file_mib=0.9 * whole.file_mib, sparsity=0.2, min_accuracy=0.01,
        min_class_accuracy=0.01,
    )  # fmt: skip
    result = api.build(
        task=toy_library.kind, device="host", library=str(toy_library.folder), budget=budget
    )
    estimate = result.estimate
    assert estimate.latency_ms is not None
    assert estimate.latency_ms.value <= limit_ms
    assert estimate.mparams <= 0.9 * whole.mparams
    assert estimate.memory_mib <= 0.98 * whole.memory_mib
    assert estimate.mmacs <= 0.95 * whole.mmacs
    assert estimate.file_mib <= 0.9 * whole.file_mib
    size = (Path(result.artifact.folder) / "model.onnx").stat().st_size
    assert size <= estimate.file_mib * MIB <= size + 4096
    assert result.plan.sparsity >= 0.2
    assert result.certificate.method == "bounded enumeration"
    assert result.certificate.binding


def test_a_file_above_its_limit_is_never_exported(
    toy_cls: ModuleLibrary, host: FakeHost, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """The estimate of the size is an upper bound; should it ever fail, nothing is written."""
    monkeypatch.setattr(
        Footprint, "total_file_bytes", lambda self, counts, classes: sum(counts.values())
    )
    with pytest.raises(VerificationError, match=r"more than the 0\.001 MiB"):
        api.build(
            task="cls", device="jetson", library=str(toy_cls.folder), budget=Budget(file_mib=1e-3)
        )
    assert list(folder.iterdir()) == []


def test_default_place_is_task_device_and_plan(
    toy_cls: ModuleLibrary, host: FakeHost, folder: Path
):
    result = api.build(task="cls", device="cpu", library=str(toy_cls.folder))
    assert [path.name for path in folder.iterdir()] == [f"cls-host-{result.plan.id[:8]}"]


def test_classes_are_found_by_name_first_synonym_and_wordnet_id(
    toy_cls: ModuleLibrary, host: FakeHost
):
    result = api.build(
        task="cls", device="jetson", library=str(toy_cls.folder),
        classes=("n01641577", "Goldfish", "tailed frog, bell toad"),
    )  # fmt: skip
    wanted = tuple(toy_cls.classes[index] for index in (0, 2, 3))  # in the library's order
    assert result.plan.task.classes == wanted
    folder = Path(result.artifact.folder)
    assert (folder / "labels.txt").read_text().splitlines() == list(wanted)
    assert result.artifact.outputs[0].shape == (1, 3)


def test_one_class_is_enough_to_detect_but_not_to_classify(
    toy_cls: ModuleLibrary, toy_det: ModuleLibrary, host: FakeHost, folder: Path
):
    result = api.build(task="det", device="host", library=str(toy_det.folder), classes=["nut"])
    assert result.plan.task.classes == ("Nut",)
    with pytest.raises(SpecError, match="at least 2 classes"):
        api.build(task="cls", device="host", library=str(toy_cls.folder), classes=["goldfish"])
    assert len(list(folder.iterdir())) == 1


def test_fewer_classes_make_a_smaller_network(toy_cls: ModuleLibrary, host: FakeHost):
    sizes = [
        api.build(
            task="cls", device="host", library=str(toy_cls.folder),
            classes=[name.split(",")[0] for name in toy_cls.classes[:count]],
        ).estimate.mparams
        for count in (2, 4, 6)
    ]  # fmt: skip
    assert sizes == sorted(set(sizes))


# The bounded loop: measure, correct the table, assemble again


def test_failed_measurement_corrects_the_table_and_assembles_again(
    toy_cls: ModuleLibrary, host: FakeHost
):
    limit = frontier_ms(toy_cls)[-2]
    host.answers = [(1.15 * limit, 0.0), (0.9 * limit, 0.0)]
    library = str(toy_cls.folder)
    result = api.build(task="cls", device="host", library=library, budget=Budget(latency_ms=limit))
    assert len(host.sizes) == 2
    assert host.sizes[1] < host.sizes[0]
    assert result.measurement is not None
    assert result.measurement.verdict == "PASS"
    assert result.estimate.latency_ms is not None
    assert result.estimate.latency_ms.value <= limit  # by the corrected table
    first, _, _ = assemble(
        toy_cls, toy_cls.task(), Budget(latency_ms=limit), latency_table.host_table(toy_cls)
    )
    assert sum(result.plan.counts.values()) < sum(first.counts.values())


def test_correction_is_not_written_into_the_cache(toy_cls: ModuleLibrary, host: FakeHost):
    before = latency_table.host_table(toy_cls)
    limit = frontier_ms(toy_cls)[-2]
    host.answers = [(1.15 * limit, 0.0), (0.9 * limit, 0.0)]
    api.build(
        task="cls", device="host", library=str(toy_cls.folder), budget=Budget(latency_ms=limit)
    )
    assert latency_table.host_table(toy_cls) == before


def test_build_gives_up_after_three_rounds(toy_cls: ModuleLibrary, host: FakeHost, folder: Path):
    limit = frontier_ms(toy_cls)[-2]
    host.answers = [(1.02 * limit, 0.0)]
    with pytest.raises(BudgetError, match="when measured") as caught:
        api.build(
            task="cls", device="host", library=str(toy_cls.folder), budget=Budget(latency_ms=limit)
        )
    assert len(host.sizes) == 3
    assert caught.value.details["measured"] == {"latency": pytest.approx(1.02 * limit)}
    assert any(hint.startswith("--latency ") for hint in caught.value.hints)
    assert list(folder.iterdir()) == []


def test_memory_that_was_allocated_above_the_budget_assembles_again(
    toy_cls: ModuleLibrary, host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    library = str(toy_cls.folder)
    whole = api.build(task="cls", device="host", library=library).estimate.memory_mib
    found = iter([1.05 * whole, 0.9 * whole])
    monkeypatch.setattr(memory, "allocated_mib", lambda model: next(found))
    budget = Budget(memory_mib=whole)
    result = api.build(
        task="cls", device="host", library=library, budget=budget, out_dir=Path("small")
    )
    assert result.estimate.memory_mib <= 0.95 * whole
    assert result.measurement is not None
    assert result.measurement.memory_mib == 0.9 * whole
    manifest = json.loads((Path("small") / "manifest.json").read_text())
    assert manifest["measured"][0]["memory_mib"] == 0.9 * whole


def test_build_gives_up_memory_after_three_rounds(
    toy_cls: ModuleLibrary, host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    library = str(toy_cls.folder)
    whole = api.build(task="cls", device="host", library=library).estimate.memory_mib
    monkeypatch.setattr(memory, "allocated_mib", lambda model: 1.02 * whole)
    with pytest.raises(BudgetError, match="No network kept memory") as caught:
        api.build(
            task="cls", device="host", library=library, budget=Budget(memory_mib=whole),
            out_dir=Path("small"),
        )  # fmt: skip
    assert caught.value.details["measured"] == {"memory": 1.02 * whole}
    assert caught.value.hints[0].startswith("--memory ")
    assert not Path("small").exists()


@pytest.mark.parametrize("ratio", [1.02, 3.0])
def test_advice_on_memory_is_about_what_was_asked_for(
    toy_cls: ModuleLibrary, host: FakeHost, monkeypatch: pytest.MonkeyPatch, ratio: float
):
    """The smallest network fits by the estimate and not when measured."""
    library = str(toy_cls.folder)
    points = api.plan(task="cls", device="host", library=library, points=8).points
    least = min(point.estimate.memory_mib for point in points)
    monkeypatch.setattr(memory, "allocated_mib", lambda model: ratio * least)
    with pytest.raises(BudgetError, match=f"No network kept memory <= {least:g} MiB") as caught:
        api.build(task="cls", device="host", library=library, budget=Budget(memory_mib=least))
    assert caught.value.hints[0] == f"--memory {ratio * least * 1.01:.4g}MiB"


def test_build_gives_up_early_when_the_corrected_table_allows_nothing(
    toy_cls: ModuleLibrary, host: FakeHost, folder: Path
):
    limit = frontier_ms(toy_cls)[3]
    host.answers = [(20 * limit, 0.0)]
    with pytest.raises(BudgetError, match="the smallest network has"):
        api.build(
            task="cls", device="host", library=str(toy_cls.folder), budget=Budget(latency_ms=limit),
            input_size=16,
        )  # fmt: skip
    assert len(host.sizes) == 1
    assert list(folder.iterdir()) == []


def test_failed_measurement_corrects_the_tables_of_all_input_sizes(
    toy_cls: ModuleLibrary, host: FakeHost
):
    limit = frontier_ms(toy_cls)[-2]
    host.answers = [(20 * limit, 0.0)]
    with pytest.raises(BudgetError, match="the smallest network has"):
        api.build(
            task="cls", device="host", library=str(toy_cls.folder), budget=Budget(latency_ms=limit)
        )
    assert len(host.sizes) == 1


def test_disturbed_measurement_is_repeated_once(toy_cls: ModuleLibrary, host: FakeHost):
    host.answers = [(50.0, 0.5), (0.01, 0.0)]
    result = api.build(
        task="cls", device="host", library=str(toy_cls.folder), budget=Budget(latency_ms=1.0)
    )
    assert len(host.sizes) == 2
    assert result.measurement is not None
    assert result.measurement.verdict == "PASS"


def test_measurement_disturbed_twice_stays_inconclusive(toy_cls: ModuleLibrary, host: FakeHost):
    host.answers = [(50.0, 0.5)]
    result = api.build(
        task="cls", device="host", library=str(toy_cls.folder), budget=Budget(latency_ms=1.0)
    )
    assert len(host.sizes) == 2
    assert result.measurement is not None
    assert result.measurement.verdict == "INCONCLUSIVE"
    manifest = check_artifact(Path(result.artifact.folder))
    assert manifest["measured"][0]["verdict"] == "INCONCLUSIVE"


def test_budget_on_a_percentile_is_judged_at_that_percentile(
    toy_cls: ModuleLibrary, host: FakeHost
):
    limit = frontier_ms(toy_cls)[-1]
    budget = Budget(latency_ms=limit, percentile=99)
    result = api.build(task="cls", device="host", library=str(toy_cls.folder), budget=budget)
    assert result.measurement is not None
    assert result.measurement.reason.startswith("p99 ")
    assert result.estimate.latency_ms is not None
    assert result.estimate.latency_ms.value <= limit
    assert sum(result.plan.counts.values()) < sum(slot.groups for slot in toy_cls.blocks)


# Infeasible budgets


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        (Budget(latency_ms=0.001), "latency"),
        (Budget(mparams=1e-6), "params"),
        (Budget(memory_mib=1e-4), "memory"),
        (Budget(sparsity=0.9999), "sparsity"),
    ],
)
def test_infeasible_budget_names_the_tightest_value_that_works(
    toy_library: ModuleLibrary, host: FakeHost, folder: Path, budget: Budget, name: str
):
    build: dict[str, Any] = {
        "task": toy_library.kind, "device": "jetson", "library": str(toy_library.folder)
    }  # fmt: skip
    with pytest.raises(BudgetError) as caught:
        api.build(**build, budget=budget)
    assert list(folder.iterdir()) == []
    assert set(caught.value.details["tightest"]) == {name}  # type: ignore[call-overload]
    (hint,) = caught.value.hints
    flag, value = hint.split()
    assert flag == f"--{name}"
    field = {"latency": "latency_ms", "params": "mparams", "memory": "memory_mib"}.get(name, name)
    number = float(value.removesuffix("MiB").removesuffix("ms").removesuffix("M"))
    limit: dict[str, Any] = {field: number}
    assert api.build(**build, budget=Budget(**limit)).plan


def test_limit_equal_to_the_estimate_of_a_plan_allows_it(
    toy_library: ModuleLibrary, toy_table: Tables
):
    """Of 1.001 ms, as a person writes it, no nanosecond may be lost in floating point."""
    task = toy_library.task()
    least = {slot.name: slot.min_groups for slot in toy_library.blocks}
    for limit_us in range(1001, 1041):
        rows = {s.name: tuple(1000 * i for i in range(s.groups + 1)) for s in toy_library.slots}
        rest = sum(rows[n][k] for n, k in {**least, "classes": len(task.classes)}.items())
        for percentile, tail in ((50, {}), (90, {90: 1.0})):
            table = toy_table(toy_library, slots=rows, fixed_ns=limit_us * 1000 - rest, tail=tail)
            budget = Budget(latency_ms=limit_us / 1000, percentile=percentile)
            plan, _, _ = assemble(toy_library, task, budget, table)
            assert plan.counts == least


def test_every_point_of_the_frontier_is_reached_by_its_own_latency(
    toy_library: ModuleLibrary, host: FakeHost
):
    library: dict[str, Any] = {"task": toy_library.kind, "library": str(toy_library.folder)}
    for device in ("host", "jetson"):
        for point in api.plan(device=device, points=20, **library).points:
            assert point.estimate.latency_ms is not None
            budget = Budget(latency_ms=point.estimate.latency_ms.value)
            (option,) = api.request.size_options(
                toy_library, api.device(device), point.plan.input_size
            )
            plan, _, certificate = assemble(
                option.library, toy_library.task(), budget, option.table
            )
            assert plan.id == point.plan.id
            assert certificate.objective == pytest.approx(point.value)


# Input sizes


def test_build_at_an_asked_size_writes_a_network_of_that_size(
    toy_library: ModuleLibrary, host: FakeHost, folder: Path
):
    install(toy_library)
    build: dict[str, Any] = {
        "task": toy_library.kind, "device": "host", "library": str(toy_library.folder)
    }  # fmt: skip
    result = api.build(**build, input_size=16, out_dir=Path("small"))
    assert result.plan.input_size == 16
    assert {point.plan.input_size for point in result.frontier} == {16}
    manifest = check_artifact(folder / "small")
    assert manifest["plan"]["input_size"] == 16
    assert manifest["inputs"][0]["shape"] == [1, 3, 16, 16]
    facts = api.inspect(folder / "small")
    assert facts["inputs"] == {"images": [1, 3, 16, 16]}
    assert facts["parameters"] == round(result.estimate.mparams * 1e6)
    assert facts["macs"] == round(result.estimate.mmacs * 1e6)
    assert facts["peak_memory_bytes"] == round(result.estimate.memory_mib * 2**20)
    large = api.build(**build, input_size=32, out_dir=Path("large"))
    assert large.plan.active == result.plan.active
    assert large.plan.id != result.plan.id
    assert large.estimate.mmacs > 3 * result.estimate.mmacs
    assert large.estimate.mparams == result.estimate.mparams


def test_artifact_of_a_smaller_size_is_verified_and_answers(
    toy_library: ModuleLibrary, host: FakeHost, folder: Path
):
    install(toy_library)
    api.build(
        task=toy_library.kind, device="host", library=str(toy_library.folder), input_size=16,
        budget=Budget(sparsity=0.3), out_dir=Path("small"),
    )  # fmt: skip
    checks = api.verify(folder / "small")
    assert [check.name for check in checks if check.passed is not True] == []
    assert checks[-1].text.startswith("linked again")
    image: np.ndarray = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    results = api.load(folder / "small", threads=1)(image)
    if toy_library.kind == "det":
        assert results.boxes is not None
        assert (results.boxes.xyxy <= [64, 48, 64, 48]).all()  # in pixels of the image


@pytest.mark.parametrize("size", [15, 64, 640])
def test_size_that_the_library_was_not_trained_at_is_refused(
    toy_cls: ModuleLibrary, host: FakeHost, folder: Path, size: int
):
    for verb in (api.build, api.plan):
        with pytest.raises(UsageError, match=f"no input size {size}: .* 32, 16") as caught:
            verb(task="cls", device="host", library=str(toy_cls.folder), input_size=size)
        assert caught.value.hints == ("--imgsz 32",)
    assert list(folder.iterdir()) == []
    assert host.sizes == []


def test_tight_budgets_take_a_smaller_input_and_loose_ones_the_largest(
    toy_library: ModuleLibrary, host: FakeHost
):
    points = api.plan(task=toy_library.kind, device="host", library=str(toy_library.folder)).points
    for point in (points[0], points[-1]):
        assert point.estimate.latency_ms is not None
        result = api.build(
            task=toy_library.kind, device="host", library=str(toy_library.folder),
            budget=Budget(latency_ms=point.estimate.latency_ms.value),
        )  # fmt: skip
        assert result.plan.id == point.plan.id
    assert points[0].plan.input_size == 16
    assert points[-1].plan.input_size == 32


@pytest.mark.parametrize("device", ["host", "jetson"])
def test_plan_at_an_asked_size_shows_that_size_alone(
    toy_library: ModuleLibrary, host: FakeHost, device: str
):
    library = str(toy_library.folder)
    both = api.plan(task=toy_library.kind, device=device, library=library, points=30)
    steps = []
    for size in toy_library.input_sizes:
        one = api.plan(
            task=toy_library.kind, device=device, library=library, input_size=size, points=30
        )
        assert {point.plan.input_size for point in one.points} == {size}
        steps.append(one.steps)
    assert both.steps == sum(steps)


# Wrong requests


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"device": "jetsno"}, UnknownNameError, "jetsno"),
        ({"classes": ["goldfisch", "bullfrog"]}, UnknownNameError, "goldfisch"),
        ({"classes": ["goldfish", "n01443537"]}, UsageError, "more than once"),
        ({"library": "no-such-library"}, UnknownNameError, "no-such-library"),
        ({"task": "det"}, UsageError, "is for 'cls', not for 'det'"),
    ],
)
def test_wrong_request_is_refused_before_anything_is_written(
    toy_cls: ModuleLibrary, host: FakeHost, folder: Path, change: dict, error: type, text: str
):
    request = {"task": "cls", "device": "host", "library": str(toy_cls.folder), **change}
    with pytest.raises(error, match=text):
        api.build(**request)
    assert list(folder.iterdir()) == []


def test_misspelt_names_come_with_the_nearest_ones(toy_cls: ModuleLibrary):
    with pytest.raises(UnknownNameError) as caught:
        api.build(task="cls", device="jetsno", library=str(toy_cls.folder))
    assert "'jetson'" in str(caught.value)
    with pytest.raises(UnknownNameError) as caught:
        api.build(task="cls", device="host", library=str(toy_cls.folder), classes=["bulfrog"])
    assert "'bullfrog'" in str(caught.value)


def test_board_without_a_predictor_is_a_device_error(toy_cls: ModuleLibrary, folder: Path):
    profile = folder.parent / "mine.toml"
    profile.write_text(
        'name = "my-board"\ntitle = "A board"\nruntime = "tensorrt"\nprecisions = ["fp16"]\n'
        "channel_multiple = 8\nmax_opset = 17\n"
    )
    with pytest.raises(DeviceError, match="my-board"):
        api.build(task="cls", device=str(profile), library=str(toy_cls.folder))


# Places


def test_same_plan_replaces_its_artifact_and_another_plan_does_not(
    toy_cls: ModuleLibrary, host: FakeHost, folder: Path
):
    build: dict[str, Any] = {
        "task": "cls", "device": "host", "library": str(toy_cls.folder), "out_dir": Path("a")
    }  # fmt: skip
    first = api.build(**build)
    second = api.build(**build, command="again")
    assert first.plan.id == second.plan.id
    assert read_manifest(folder / "a")["provenance"]["command"] == "again"
    with pytest.raises(UsageError, match="holds another artifact"):
        api.build(**build, budget=Budget(sparsity=0.4))
    assert read_manifest(folder / "a")["plan"]["id"] == first.plan.id
    third = api.build(**build, budget=Budget(sparsity=0.4), overwrite=True)
    assert check_artifact(folder / "a")["plan"]["id"] == third.plan.id != first.plan.id
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_folder_that_is_no_artifact_is_refused_before_measuring(
    toy_cls: ModuleLibrary, host: FakeHost, folder: Path
):
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UsageError, match="no artifact"):
        api.build(task="cls", device="host", library=str(toy_cls.folder), out_dir=Path("mine"))
    assert host.sizes == []
    assert [path.name for path in (folder / "mine").iterdir()] == ["notes.txt"]


# What is done with an artifact


@pytest.fixture
def artifact(toy_library: ModuleLibrary, host: FakeHost) -> Path:
    result = api.build(task=toy_library.kind, device="host", library=str(toy_library.folder))
    return Path(result.artifact.folder)


def test_verify_passes_on_a_fresh_artifact(artifact: Path):
    checks = api.verify(artifact)
    assert [check.name for check in checks if check.passed is False] == []
    names = {check.name for check in checks}
    assert {"files", "network", "preprocess", "output", "answer", "library"} <= names
    assert checks[-1].text == "not installed here; not compared"


def install(library: ModuleLibrary) -> Path:
    place = Path(os.environ["XDG_DATA_HOME"]) / "nnfactory" / "libraries" / library.name
    shutil.copytree(library.folder, place)
    return place


def test_verify_links_the_plan_again_where_its_library_is_installed(
    artifact: Path, toy_library: ModuleLibrary
):
    install(toy_library)
    check = api.verify(artifact)[-1]
    assert (check.name, check.passed) == ("library", True)
    assert check.text.startswith("linked again")


def test_verify_does_not_compare_with_another_version_of_the_library(
    artifact: Path, toy_library: ModuleLibrary
):
    card = install(toy_library) / "library.toml"
    card.write_text("# a later version\n" + card.read_text())
    check = api.verify(artifact)[-1]
    assert check.passed is None
    assert "another version" in check.text


def test_verify_with_few_classes_links_again(toy_det: ModuleLibrary, host: FakeHost):
    install(toy_det)
    result = api.build(task="det", device="host", classes=["Nut", "Bolt"])
    check = api.verify(Path(result.artifact.folder))[-1]
    assert check.passed
    assert check.text.startswith("linked again")


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "golden/output.npy", "manifest.json"])
def test_verify_names_the_file_that_was_changed(artifact: Path, name: str):
    content = (artifact / name).read_bytes()
    (artifact / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(VerificationError, match=name.replace(".", r"\.")):
        api.verify(artifact)


def test_inspected_numbers_are_those_of_the_estimate(toy_library: ModuleLibrary, host: FakeHost):
    for number, sparsity in enumerate((0.0, 0.5)):
        result = api.build(
            task=toy_library.kind, device="host", library=str(toy_library.folder),
            budget=Budget(sparsity=sparsity), out_dir=Path(str(number)),
        )  # fmt: skip
        facts = api.inspect(Path(str(number)))
        assert facts["parameters"] == round(result.estimate.mparams * 1e6)
        assert facts["macs"] == round(result.estimate.mmacs * 1e6)
        # The estimate counts the tensors of the classes at full size.
        assert facts["peak_memory_bytes"] <= result.estimate.memory_mib * 2**20 + 1
        assert facts["peak_memory_bytes"] >= 0.8 * result.estimate.memory_mib * 2**20
        assert facts["inputs"] == {"images": [1, 3, toy_library.input_size, toy_library.input_size]}
        assert facts["manifest"]["plan"]["id"] == result.plan.id
        assert json.loads(json.dumps(facts)) == facts


def test_inspect_of_a_single_file_has_no_manifest(artifact: Path):
    facts = api.inspect(artifact / "model.onnx")
    assert facts["manifest"] is None
    assert facts == {**api.inspect(artifact), "manifest": None}


def test_load_gives_a_runtime_that_answers(artifact: Path, toy_library: ModuleLibrary):
    runtime = nnfactory.load(artifact, threads=1)
    image: np.ndarray = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    results = runtime(image)
    assert list(results.names.values()) == list(toy_library.classes)
    if toy_library.kind == "cls":
        assert results.probs is not None
        assert results.probs.data.sum() == pytest.approx(1, abs=1e-4)
    else:
        assert results.boxes is not None
        assert results.boxes.xyxy.shape == (len(results.boxes), 4)
    assert set(results.speed) == {"preprocess", "inference", "postprocess"}


@pytest.mark.parametrize("verb", [api.verify, api.inspect, api.load, api.bench])
def test_folder_without_an_artifact_is_a_data_error(verb: Callable[[Path], object], folder: Path):
    with pytest.raises(DataError, match="no artifact"):
        verb(folder)


@pytest.mark.parametrize("verb", [api.inspect, api.load, api.bench])
def test_file_that_is_no_network_is_a_data_error(verb: Callable[[Path], object], folder: Path):
    (folder / "model.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="no valid ONNX model"):
        verb(folder / "model.onnx")


def test_onnx_file_of_someone_else_can_be_inspected_but_not_loaded(
    toy_cls: ModuleLibrary, folder: Path
):
    file = toy_cls.folder / "supernet.onnx"
    assert api.inspect(file)["metadata"] == {}
    with pytest.raises(DataError, match="metadata"):
        api.load(file)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\nbroken"])
def test_broken_image_is_a_data_error(artifact: Path, folder: Path, content: bytes):
    (folder / "photo.png").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as an image"):
        api.run(artifact, folder / "photo.png")


def test_truncated_image_is_a_data_error(artifact: Path, folder: Path):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photo.jpg")
    (folder / "photo.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:700])
    with pytest.raises(DataError, match="cannot be read as an image"):
        api.run(artifact, folder / "photo.jpg")


def test_bench_for_a_board_says_how_to_measure_there(artifact: Path):
    with pytest.raises(DeviceError, match="not at hand") as caught:
        api.bench(artifact, device="jetson")
    assert any("scp" in hint for hint in caught.value.hints)
    assert any("build_engine.py" in hint for hint in caught.value.hints)


def test_bench_measures_an_artifact_and_a_file(artifact: Path, host: FakeHost):
    host.sizes.clear()
    assert api.bench(artifact, threads=2).threads == 2
    assert api.bench(artifact / "model.onnx").n == 20
    assert host.sizes[0] == host.sizes[1] == (artifact / "model.onnx").stat().st_size


# Plans, devices, libraries


def test_plan_gives_the_frontier_and_builds_nothing(
    toy_library: ModuleLibrary, host: FakeHost, folder: Path
):
    answer = api.plan(
        task=toy_library.kind, device="host", library=str(toy_library.folder), points=6
    )
    assert (answer.device, answer.library) == ("host", toy_library.name)
    assert answer.is_measured
    assert 2 <= len(answer.points) <= 6 <= answer.steps
    assert answer.points[-1].value == 1.0
    assert list(folder.iterdir()) == []
    assert not api.plan(
        task=toy_library.kind, device="jetson", library=str(toy_library.folder)
    ).is_measured


def test_installed_libraries_are_listed_and_the_first_of_a_kind_is_the_default(
    toy_det: ModuleLibrary, host: FakeHost
):
    install(toy_det)
    assert toy_det.name in api.modules()
    shipped = [name for name in library_folders() if name != toy_det.name]
    if not shipped:
        assert api.plan(task="det", device="host").library == toy_det.name


def test_view_of_a_library_has_its_smallest_and_its_full_network(
    toy_library: ModuleLibrary, host: FakeHost
):
    view = api.module_library(str(toy_library.folder))
    assert view.empty.mparams < view.full.mparams
    assert 0 < view.empty_share < 1
    assert [slot["name"] for slot in view.slots] == [slot.name for slot in toy_library.slots]
    assert view.is_measured
    assert not api.module_library(str(toy_library.folder), device="jetson").is_measured


def test_training_without_torch_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "torch" else found(name, *rest),
    )
    for verb in (
        lambda: api.train("tiny200", data_dir=folder, run_dir=folder / "run"),
        lambda: api.publish(folder, data_dir=folder),
    ):
        with pytest.raises(MissingExtraError, match="'train'") as caught:
            verb()
        assert caught.value.hints == ('pip install "nnfactory[train]"',)
    assert list(folder.iterdir()) == []


# What is not imported

_WITHOUT_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "tensorrt", "tensorrt_rtx"}:
            raise ImportError(f"{name} must not be imported")
sys.meta_path.insert(0, NoTorch())
import nnfactory
from pathlib import Path
kind, library, out = sys.argv[1:]
nnfactory.build(task=kind, device="jetson", library=library, out_dir=Path(out))
nnfactory.verify(Path(out))
loaded = {name.partition(".")[0] for name in sys.modules} & {"torch", "tensorrt", "tensorrt_rtx"}
sys.exit(f"imported {loaded}" if loaded else 0)
"""


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_building_and_verifying_never_import_torch(toy_library: ModuleLibrary, folder: Path):
    finished = run_python(
        _WITHOUT_TORCH, toy_library.kind, str(toy_library.folder), str(folder / "a")
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""


SHIPPED: Sequence[str] = tuple(library_folders())


@pytest.mark.skipif(not SHIPPED, reason="no module library is shipped yet")
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_library_builds_without_torch(name: str, folder: Path):
    kind = api.modules()[name].kind
    finished = run_python(_WITHOUT_TORCH, kind, name, str(folder / "a"))
    assert finished.returncode == 0, finished.stderr


@pytest.mark.skipif(not SHIPPED, reason="no module library is shipped yet")
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_library_builds_for_a_board_within_half_of_its_range(name: str):
    kind = api.modules()[name].kind
    points = api.plan(task=kind, device="jetson", library=name, points=9).points
    middle = points[len(points) // 2].estimate.latency_ms
    assert middle is not None
    result = api.build(
        task=kind, device="jetson", library=name, budget=Budget(latency_ms=middle.value)
    )
    assert result.estimate.latency_ms is not None
    assert result.estimate.latency_ms.value <= middle.value
    assert result.estimate.accuracy is not None
    assert all(check.passed is True for check in api.verify(Path(result.artifact.folder)))
