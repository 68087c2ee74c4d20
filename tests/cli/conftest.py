"""Commands run on toy libraries, on a machine with made-up latencies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from fake_host import FakeHost

from nnfactory.exporters.golden import golden_image, png_from_pixels
from nnfactory.factory.library.library import ModuleLibrary

Run = Callable[..., Result]


@pytest.fixture
def build(run: Run, toy_library: ModuleLibrary, host: FakeHost) -> Run:
    """Run ``nnfactory build`` for each of the toy libraries."""

    def invoke(*words: object, device: str = "jetson") -> Result:
        library = toy_library.folder
        return run(
            "build", "--device", device, "--task", toy_library.kind, "--library", library, *words
        )

    return invoke


@pytest.fixture
def build_cls(run: Run, toy_cls: ModuleLibrary, host: FakeHost) -> Run:
    """Run ``nnfactory build`` for the toy classifier."""

    def invoke(*words: object, device: str = "jetson") -> Result:
        return run(
            "build", "--device", device, "--task", "cls", "--library", toy_cls.folder, *words
        )

    return invoke


@pytest.fixture
def artifact(build: Run, folder: Path) -> Path:
    assert build("-o", "made").exit_code == 0
    return folder / "made"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    place = tmp_path / "photo.png"
    place.write_bytes(png_from_pixels(golden_image()))
    return place
