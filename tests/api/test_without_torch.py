"""What is not imported: building needs no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nnfactory import api
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.library.store import library_folders
from nnfactory.factory.schema import Budget, LatencyTable

ROOT = Path(__file__).resolve().parents[2]
Tables = Callable[..., LatencyTable]
pytestmark = pytest.mark.usefixtures("folder")


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
