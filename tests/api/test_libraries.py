"""Plans, devices and libraries as they are listed and shown."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_host import FakeHost
from toy_answers import install

from nnfactory import api
from nnfactory.factory.errors import (
    MissingExtraError,
)
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.library.store import library_folders
from nnfactory.factory.schema import LatencyTable

ROOT = Path(__file__).resolve().parents[2]
Tables = Callable[..., LatencyTable]
pytestmark = pytest.mark.usefixtures("folder")


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
