"""Where artifacts go."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from printed import is_empty

from nnfactory.exporters.bundle import check_artifact
from nnfactory.factory.library.library import ModuleLibrary

pytestmark = pytest.mark.usefixtures("folder")
Run = Callable[..., Result]


def test_default_folder_is_named_after_task_device_and_plan(
    build: Run, folder: Path, toy_library: ModuleLibrary
):
    plan = json.loads(build("--json").stdout)["plan"]["id"]
    assert [path.name for path in folder.iterdir()] == [
        f"{toy_library.kind}-jetson-orin-nano-{plan[:8]}"
    ]


def test_building_twice_works_and_changes_nothing_else(build: Run, folder: Path):
    assert build().exit_code == 0
    (made,) = folder.iterdir()
    assert build().exit_code == 0
    assert list(folder.iterdir()) == [made]
    check_artifact(made)


@pytest.mark.parametrize("device", ["jetson", "host"])
def test_foreign_folder_is_refused_without_overwrite(build: Run, folder: Path, device: str):
    place = folder / "mine"
    place.mkdir()
    (place / "notes.txt").write_text("keep")
    finished = build("-o", "mine", device=device)
    assert finished.exit_code == 2
    assert "--overwrite" in finished.stderr
    assert [path.name for path in place.iterdir()] == ["notes.txt"]
    assert build("-o", "mine", "--overwrite", device=device).exit_code == 0
    check_artifact(place)


def test_current_folder_is_never_replaced(build: Run, folder: Path):
    finished = build("-o", ".", "--overwrite")
    assert finished.exit_code == 2
    assert is_empty(folder)


def test_command_is_recorded_in_the_manifest(build: Run, folder: Path):
    build("-o", "made")
    command = check_artifact(folder / "made")["provenance"]["command"]
    assert command.startswith("nnfactory build --device jetson --task ")
