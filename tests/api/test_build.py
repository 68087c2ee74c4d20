"""What `build` makes for a host and for a board."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_host import FakeHost
from toy_answers import frontier_ms

import nnfactory
from nnfactory import api
from nnfactory.exporters.bundle import check_artifact, read_manifest
from nnfactory.factory.assembler.footprint import Footprint
from nnfactory.factory.errors import (
    SpecError,
    VerificationError,
)
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.schema import Budget, LatencyTable
from nnfactory.factory.units import MIB

ROOT = Path(__file__).resolve().parents[2]
Tables = Callable[..., LatencyTable]
pytestmark = pytest.mark.usefixtures("folder")


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
