"""The input size: asked for, or chosen by the budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_host import FakeHost
from toy_answers import install

from nnfactory import api
from nnfactory.exporters.bundle import check_artifact
from nnfactory.factory.errors import (
    UsageError,
)
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.schema import Budget, LatencyTable

ROOT = Path(__file__).resolve().parents[2]
Tables = Callable[..., LatencyTable]
pytestmark = pytest.mark.usefixtures("folder")


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
