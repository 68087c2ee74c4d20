"""Budgets that nothing keeps, and the tightest ones that something does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_host import FakeHost

from nnfactory import api
from nnfactory.factory.assembler.assemble import assemble
from nnfactory.factory.errors import (
    BudgetError,
)
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.schema import Budget, LatencyTable

ROOT = Path(__file__).resolve().parents[2]
Tables = Callable[..., LatencyTable]
pytestmark = pytest.mark.usefixtures("folder")


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
