"""Every other exit code: what failed, and what to do next."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from fake_host import FakeHost
from printed import error_of, is_empty

from nnfactory import api
from nnfactory.exporters.bundle import check_artifact
from nnfactory.factory.library.library import ModuleLibrary

pytestmark = pytest.mark.usefixtures("folder")
Run = Callable[..., Result]


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_damaged_artifact_is_4(run: Run, artifact: Path, json_flag: list[str]):
    (artifact / "labels.txt").write_text("changed\n")
    finished = run("verify", artifact, *json_flag)
    assert finished.exit_code == 4
    assert "labels.txt" in finished.stdout + finished.stderr
    if json_flag:
        assert error_of(finished)["file"] == "labels.txt"
    else:
        assert finished.stdout == ""


def test_bench_on_a_board_is_5_and_says_how(run: Run, artifact: Path):
    finished = run("bench", artifact, "--device", "jetson")
    assert finished.exit_code == 5
    assert finished.stdout == ""
    for word in ("scp", "build_engine.py", "trtexec"):
        assert word in finished.stderr


def test_inconclusive_measurement_of_a_budget_is_6_but_the_artifact_is_there(
    build: Run, host: FakeHost, folder: Path
):
    host.answers = [(11.0, 0.5)]
    finished = build("--latency", "10ms", "-o", "made", device="host")
    assert finished.exit_code == 6
    assert "nnfactory bench" in finished.stderr
    assert check_artifact(folder / "made")["measured"][0]["verdict"] == "INCONCLUSIVE"
    finished = build("--latency", "10ms", "-o", "made", "--json", device="host")
    assert finished.exit_code == 6
    assert finished.stderr == ""
    assert error_of(finished)["result"]["measurement"]["verdict"] == "INCONCLUSIVE"


def test_inconclusive_measurement_without_a_latency_budget_is_no_error(build: Run, host: FakeHost):
    host.answers = [(0.01, 0.5)]
    assert build("-o", "made", device="host").exit_code == 0


@pytest.mark.parametrize("verb", ["train", "publish"])
def test_missing_torch_is_8_with_the_command_that_installs_it(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, verb: str
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "torch" else found(name, *rest),
    )
    target = "tiny200" if verb == "train" else folder
    finished = run("modules", verb, target, "--data", folder)
    assert finished.exit_code == 8
    assert 'pip install "nnfactory[train]"' in finished.stderr
    assert finished.stdout == ""
    assert is_empty(folder)


@pytest.mark.parametrize("verb", ["verify", "inspect", "bench", "run"])
def test_folder_that_is_no_artifact_is_9(run: Run, folder: Path, photo: Path, verb: str):
    finished = run(verb, folder, *([photo] if verb == "run" else []))
    assert finished.exit_code == 9
    assert finished.stdout == ""
    assert "no artifact" in finished.stderr


@pytest.mark.parametrize("verb", ["verify", "inspect", "bench", "run"])
def test_path_that_does_not_exist_is_a_usage_error(run: Run, photo: Path, verb: str):
    finished = run(verb, "nowhere", *([photo] if verb == "run" else []))
    assert finished.exit_code == 2
    assert "nowhere" in finished.stderr


@pytest.mark.parametrize("verb", ["inspect", "bench", "verify"])
def test_file_that_is_no_network_is_9(run: Run, folder: Path, verb: str):
    (folder / "model.onnx").write_bytes(b"nothing of the kind")
    finished = run(verb, folder / "model.onnx")
    assert finished.exit_code == 9
    assert finished.stderr.startswith("error[NF9]: ")


def test_network_of_someone_else_cannot_be_run(run: Run, toy_cls: ModuleLibrary, photo: Path):
    finished = run("run", toy_cls.folder / "supernet.onnx", photo)
    assert finished.exit_code == 9
    assert "metadata" in finished.stderr


def test_broken_image_is_9(run: Run, artifact: Path, photo: Path, folder: Path):
    broken = folder / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    finished = run("run", artifact, broken)
    assert finished.exit_code == 9
    assert "broken.jpg" in finished.stderr
    photo.write_bytes(photo.read_bytes()[:5000])  # the header is fine, the rest is not there
    assert run("run", artifact, photo, "--json").exit_code == 9
    assert {path.name for path in folder.iterdir()} == {"made", "broken.jpg"}


@pytest.mark.parametrize("damage", ["changed", "missing", "malformed"])
def test_malformed_library_is_9(
    build_cls: Run, toy_cls: ModuleLibrary, folder: Path, tmp_path: Path, damage: str
):
    library = tmp_path / "library"
    shutil.copytree(toy_cls.folder, library)
    if damage == "changed":
        (library / "modules.json").write_text("{}")
    elif damage == "missing":
        (library / "supernet.onnx").unlink()
    else:
        (library / "library.toml").write_text("kind = ")
    finished = build_cls("--library", library)
    assert finished.exit_code == 9
    assert finished.stderr.startswith("error[NF9]: ")
    assert is_empty(folder)


@pytest.mark.parametrize(
    "words", [["modules", "show", "broken"], ["plan", "--device", "jetson", "--task", "cls"]]
)
def test_malformed_library_of_the_user_is_named(
    run: Run, toy_cls: ModuleLibrary, words: list[str], folder: Path
):
    place = Path(os.environ["XDG_DATA_HOME"]) / "nnfactory" / "libraries" / "broken"
    shutil.copytree(toy_cls.folder, place)
    (place / "modules.json").write_text("{}")
    finished = run(*words, *(["--library", "broken"] if words[0] == "plan" else []))
    assert finished.exit_code == 9
    assert "broken" in finished.stderr


def test_interruption_is_130(build_cls: Run, folder: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(**options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "build", interrupt)
    finished = build_cls()
    assert finished.exit_code == 130
    assert finished.stdout == ""
    assert finished.stderr.strip() == "interrupted"
    assert is_empty(folder)


def test_signal_of_ctrl_c_is_130(folder: Path):
    code = (
        "import os, signal, sys\n"
        "from nnfactory import api, cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # in background it is ignored
        "api.devices = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "cli.main()"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, "devices", "list"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 130
    assert (finished.stdout, finished.stderr.strip()) == ("", "interrupted")


def test_interrupted_training_says_how_to_go_on(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    saved = Path("runs/tiny200/checkpoint.safetensors")

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "train", interrupt)
    finished = run("modules", "train", "tiny200", "--data", folder)
    assert finished.exit_code == 130
    assert "--resume" not in finished.stderr  # nothing was saved yet
    saved.parent.mkdir(parents=True)
    saved.write_bytes(b"")
    finished = run("modules", "train", "tiny200", "--data", folder)
    assert finished.exit_code == 130
    assert "--resume" in finished.stderr


def test_damaged_library_does_not_hide_the_others(run: Run, toy_cls: ModuleLibrary):
    place = Path(os.environ["XDG_DATA_HOME"]) / "nnfactory" / "libraries"
    for name in ("broken", "whole"):
        shutil.copytree(toy_cls.folder, place / name)
    (place / "broken" / "modules.json").write_text("{}")
    finished = run("modules", "list")
    assert finished.exit_code == 0
    assert "damaged" in finished.stdout
    assert "whole" in finished.stdout
