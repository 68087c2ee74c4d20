"""Wrong requests are refused before anything is written; so are wrong places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_host import FakeHost

from nnfactory import api
from nnfactory.exporters.bundle import check_artifact, read_manifest
from nnfactory.factory.errors import (
    DeviceError,
    UnknownNameError,
    UsageError,
)
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.schema import Budget, LatencyTable

ROOT = Path(__file__).resolve().parents[2]
Tables = Callable[..., LatencyTable]
pytestmark = pytest.mark.usefixtures("folder")


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
