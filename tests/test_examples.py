"""The example app is short and needs nothing but numpy and ONNX Runtime."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from nnfactory import api
from nnfactory.exporters.golden import golden_image
from nnfactory.factory.library.library import ModuleLibrary

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "examples" / "app.py"
MAX_LINES = 30
FORBIDDEN = (
    "nnfactory torch onnx PIL click scipy rich networkx platformdirs safetensors tomli".split()
)

ABSENT = {"pillow", *FORBIDDEN} - {"PIL"}

# Runs an app as a script in an interpreter that cannot import what an app must not need.
_ISOLATED = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"an app has no {name}")
sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
""".replace("FORBIDDEN", repr(set(FORBIDDEN)))


@pytest.fixture
def artifact(toy_library: ModuleLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    place = tmp_path / "artifact"
    api.build(
        task=toy_library.kind, device="jetson", library=str(toy_library.folder), out_dir=place
    )
    return place


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    place = tmp_path / "photo.npy"
    np.save(place, golden_image())
    return place


def start(python: str | Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [str(python), *map(str, arguments)], cwd=cwd, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


def check_answer(finished: subprocess.CompletedProcess[str], library: ModuleLibrary) -> None:
    assert finished.returncode == 0, finished.stderr
    *answers, time = finished.stdout.splitlines()
    assert time.endswith("ms for the network")
    names = tuple(f"{name}: " for name in library.classes)
    assert all(line.startswith(names) for line in answers)
    if library.kind == "cls":
        assert len(answers) == 1


def test_app_is_short():
    assert len(APP.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_app_runs_with_numpy_and_onnxruntime_alone(
    artifact: Path, photo: Path, toy_library: ModuleLibrary, tmp_path: Path
):
    finished = start(sys.executable, "-c", _ISOLATED, APP, artifact, photo, cwd=tmp_path)
    check_answer(finished, toy_library)


def test_isolation_really_forbids_what_it_names(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text("import onnx\n")
    finished = start(sys.executable, "-c", _ISOLATED, script, cwd=tmp_path)
    assert "an app has no onnx" in finished.stderr


def test_runtime_of_an_artifact_runs_as_a_script_too(
    artifact: Path, photo: Path, toy_library: ModuleLibrary, tmp_path: Path
):
    script = artifact / "python" / "nnf_runtime.py"
    finished = start(sys.executable, "-c", _ISOLATED, script, "--selftest", cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.splitlines()[-1] == "PASS"


@pytest.mark.parametrize("arguments", [[], ["only-one"], ["one", "two", "three"]])
def test_app_says_how_it_is_used(arguments: list[str], tmp_path: Path):
    finished = start(sys.executable, APP, *arguments, cwd=tmp_path)
    assert finished.returncode == 1
    assert finished.stderr == "usage: app.py ARTIFACT IMAGE\n"


@pytest.mark.slow
def test_app_runs_in_a_fresh_environment(
    artifact: Path, photo: Path, toy_library: ModuleLibrary, tmp_path: Path
):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = ["numpy", "onnxruntime"]
    installed = start(python, "-m", "pip", "install", "--quiet", *packages, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    listed = start(python, "-m", "pip", "list", "--format=freeze", cwd=tmp_path).stdout
    assert not [line for line in listed.splitlines() if line.split("==")[0].lower() in ABSENT]
    check_answer(start(python, APP, artifact, photo, cwd=tmp_path), toy_library)
