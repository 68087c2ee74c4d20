"""Measure, correct the table, assemble again: a bounded loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_host import FakeHost
from toy_answers import frontier_ms

from nnfactory import api
from nnfactory.devices import latency_table, memory
from nnfactory.exporters.bundle import check_artifact
from nnfactory.factory.assembler.assemble import assemble
from nnfactory.factory.errors import (
    BudgetError,
)
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.schema import Budget, LatencyTable

ROOT = Path(__file__).resolve().parents[2]
Tables = Callable[..., LatencyTable]
pytestmark = pytest.mark.usefixtures("folder")


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
