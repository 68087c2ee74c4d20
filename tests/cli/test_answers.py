"""What is printed, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from fake_host import FakeHost
from PIL import Image
from printed import error_of, is_empty

from nnfactory import api
from nnfactory.exporters.bundle import check_artifact
from nnfactory.exporters.golden import golden_image
from nnfactory.factory.library.library import ModuleLibrary

pytestmark = pytest.mark.usefixtures("folder")
Run = Callable[..., Result]


def test_json_of_every_command_parses(
    run: Run, build: Run, artifact: Path, photo: Path, toy_library: ModuleLibrary
):
    kind, library = toy_library.kind, toy_library.folder
    answers = {}
    for words in (
        ("plan", "--device", "host", "--task", kind, "--library", library),
        ("bench", artifact),
        ("verify", artifact),
        ("inspect", artifact),
        ("inspect", artifact / "model.onnx"),
        ("run", artifact, photo),
        ("devices", "list"),
        ("devices", "show", "jetson"),
        ("modules", "list"),
        ("modules", "show", library),
    ):
        finished = run(*words, "--json")
        assert finished.exit_code == 0, finished.output
        assert finished.stderr == ""
        answers[words[:2]] = json.loads(finished.stdout)
    assert answers["verify", artifact]["passed"] is True
    assert answers["bench", artifact]["p50_ms"] == 0.01
    assert answers["devices", "show"]["name"] == "jetson-orin-nano"
    for device in ("host", "jetson"):
        result = json.loads(build("--json", "-o", device, device=device).stdout)
        assert len(result["frontier"]) == 5
        assert len(result["plan"]["id"]) == 16
        assert (result["measurement"] is None) == (device == "jetson")


def test_a_network_of_someone_else_is_imported_and_listed(run: Run, build_cls: Run, folder: Path):
    assert build_cls("-o", "made").exit_code == 0
    model = folder / "made" / "model.onnx"
    outputs = json.loads(run("inspect", model, "--json").stdout)["outputs"]["output0"]
    (folder / "names.txt").write_text("\n".join(f"class {i}" for i in range(outputs[1])))
    words = ["modules", "import", model, "--name", "theirs", "--labels", "names.txt"]
    normalization = ["--mean", "0,0,0", "--std", "1,1,1"]
    missing = run(*words)
    assert missing.exit_code == 2
    assert "--mean" in missing.stderr
    wrong = run(*words, "--mean", "0.5", "--std", "1,1,1")
    assert wrong.exit_code == 2
    assert "three numbers" in wrong.stderr
    finished = run(*words, *normalization, "--license", "MIT")
    assert finished.exit_code == 0, finished.output
    assert "licence: MIT" in finished.stdout
    assert run(*words, *normalization).exit_code == 2  # the name is taken
    listed = json.loads(run("modules", "list", "--json").stdout)
    assert [card["name"] for card in listed if card["kind"] == "imported"] == ["theirs"]
    assert "theirs" in run("modules", "list").stdout


@pytest.mark.parametrize(
    "words",
    [
        ["build", "--device", "jetsno", "--task", "cls"],
        ["plan", "--device", "jetsno", "--task", "cls"],
        ["verify", "."],
        ["inspect", "."],
        ["bench", "."],
        ["devices", "show", "jetsno"],
        ["modules", "show", "no-such"],
    ],
)
def test_errors_are_json_too_when_asked_for(run: Run, words: list[str]):
    finished = run(*words, "--json")
    error = error_of(finished)
    assert error["code"] == finished.exit_code > 1
    assert error["message"].endswith((".", "?"))
    assert error["hints"]
    assert finished.stderr == ""


def test_build_prints_what_a_person_wants_to_know(
    build: Run, toy_library: ModuleLibrary, folder: Path
):
    finished = build()
    text = finished.stdout
    assert finished.exit_code == 0
    assert finished.stderr == ""
    (made,) = folder.iterdir()
    assert made.name in text
    for word in ("estimated p50", "accuracy", "M parameters", "sparsity", "optimal", "proof"):
        assert word in text
    assert f"next: nnfactory run {made.name} IMAGE" in text
    assert "measured" not in text.replace("nobody measured", "")


def test_measured_latency_is_never_called_estimated(build: Run):
    text = build("--latency", "10", device="host").stdout
    (line,) = [line for line in text.splitlines() if line.startswith("latency")]
    assert "measured p50 0.010 ms" in line
    assert "estimated" not in line
    assert "PASS" in text


def test_printed_commands_build_the_plans_of_the_frontier(
    build: Run, run: Run, folder: Path, host: FakeHost
):
    points = json.loads(build("--json", "-o", "best").stdout)["frontier"]
    printed = [
        line.split()[1:]
        for line in build("-o", "best").stdout.splitlines()
        if line.startswith("  nnfactory build")
    ]
    assert len(printed) == len(points) == 5
    for number, (words, point) in enumerate(zip(printed, points, strict=True)):
        finished = run(*words, "-o", str(number), "--json")
        assert finished.exit_code == 0, finished.output
        assert json.loads(finished.stdout)["plan"]["id"] == point["plan"]


def test_printed_commands_name_the_input_size_of_their_point(build: Run):
    points = json.loads(build("--json", "-o", "best", device="host").stdout)["frontier"]
    assert {point["input_size"] for point in points} == {16, 32}
    printed = build("-o", "best", device="host").stdout.splitlines()
    lines = [line for line in printed if line.startswith("  nnfactory build")]
    for line, point in zip(lines, points, strict=True):
        assert f" --imgsz {point['input_size']} --latency " in line
        assert line.count("--imgsz") == 1
        assert point["command"] == line.strip()


def test_asked_input_size_is_built_recorded_and_printed_again(build: Run, folder: Path):
    finished = build("--imgsz", "16", "-o", "made")
    assert finished.exit_code == 0
    assert " at 16 px; " in finished.stdout
    manifest = check_artifact(folder / "made")
    assert manifest["plan"]["input_size"] == 16
    assert " --imgsz 16" in manifest["provenance"]["command"]
    lines = [line for line in finished.stdout.splitlines() if line.startswith("  nnfactory build")]
    assert lines
    assert all(line.count("--imgsz 16 --latency") == 1 for line in lines)
    table = json.loads(build("--imgsz", "16", "-o", "made", "--json").stdout)
    assert table["plan"]["input_size"] == 16
    assert {point["input_size"] for point in table["frontier"]} == {16}


def test_budget_chooses_the_input_size(build: Run, folder: Path):
    points = json.loads(build("--json", "-o", "best", device="host").stdout)["frontier"]
    for number, size in ((0, 16), (-1, 32)):
        limit = f"{points[number]['latency_ms']['value'] + 5e-4:.3f}ms"
        finished = build("--latency", limit, "--overwrite", "-o", "made", device="host")
        assert finished.exit_code == 0
        assert f" at {size} px; " in finished.stdout
    assert "--imgsz" not in check_artifact(folder / "made")["provenance"]["command"]


def test_printed_commands_keep_the_classes(build_cls: Run):
    finished = build_cls("--classes", "goldfish,bullfrog", "--class", "tailed frog, bell toad")
    lines = [line for line in finished.stdout.splitlines() if line.startswith("  nnfactory build")]
    assert len(lines) == 5
    for line in lines:
        assert "--classes goldfish,bullfrog" in line
        assert "--class 'tailed frog, bell toad'" in line


def test_plan_prints_the_frontier_and_writes_nothing(
    run: Run, toy_library: ModuleLibrary, host: FakeHost, folder: Path
):
    words = ("--task", toy_library.kind, "--library", toy_library.folder, "--points", "4")
    finished = run("plan", "--device", "jetson", *words)
    assert finished.exit_code == 0
    assert "estimated" in finished.stdout
    assert "next: nnfactory build" in finished.stdout
    assert " 32 px " in finished.stdout
    finished = run("plan", "--device", "host", *words)
    for size in (16, 32):
        assert f" {size} px " in finished.stdout
    assert "measured table" in finished.stdout
    assert is_empty(folder)


def test_plan_of_one_input_size_shows_that_size_and_its_command(
    run: Run, toy_library: ModuleLibrary, host: FakeHost
):
    words = ("plan", "--device", "host", "--task", toy_library.kind, "--imgsz", "16",
             "--library", toy_library.folder)  # fmt: skip
    finished = run(*words)
    assert finished.exit_code == 0
    assert " 16 px " in finished.stdout
    assert "32 px" not in finished.stdout
    (command,) = [line for line in finished.stdout.splitlines() if line.startswith("next: ")]
    assert command.count("--imgsz 16 --latency") == 1
    points = json.loads(run(*words, "--json").stdout)["points"]
    assert {point["input_size"] for point in points} == {16}
    finished = run(*command.split()[2:], "-o", "made", "--json")
    assert finished.exit_code == 0, finished.output
    assert json.loads(finished.stdout)["plan"]["input_size"] == 16


def test_run_draws_a_picture_for_a_detector_and_prints_classes_for_a_classifier(
    run: Run, artifact: Path, photo: Path, folder: Path, toy_library: ModuleLibrary
):
    finished = run("run", artifact, photo, "--conf", "0")
    assert finished.exit_code == 0
    assert finished.stderr == ""
    drawn = folder / "photo-detections.png"
    if toy_library.kind == "cls":
        scores = [float(line.split()[0]) for line in finished.stdout.splitlines()[:5]]
        assert scores == sorted(scores, reverse=True)
        assert finished.stdout.splitlines()[0].split(maxsplit=1)[1] in toy_library.classes
        assert not drawn.exists()
    else:
        assert f"drawn: {drawn.name}" in finished.stdout
        with Image.open(drawn) as picture:
            assert picture.size == (320, 240)
            assert (np.array(picture) != golden_image()).any()


def test_run_saves_where_it_is_told(run: Run, artifact: Path, photo: Path, folder: Path):
    (folder / "pictures").mkdir()
    place = folder / "pictures" / "drawn.png"
    finished = run("run", artifact, photo, "--json", "--save", place)
    assert finished.exit_code == 0
    assert place.exists() == (api.inspect(artifact)["manifest"]["task"] == "detect")
    assert not (folder / "photo-detections.png").exists()


@pytest.mark.parametrize("name", ["nowhere/drawn.png", "drawn.not-a-format"])
def test_run_that_cannot_save_is_a_usage_error(
    run: Run, toy_det: ModuleLibrary, photo: Path, folder: Path, name: str
):
    api.build(task="det", device="jetson", library=str(toy_det.folder), out_dir=Path("made"))
    finished = run("run", "made", photo, "--save", folder / name)
    assert finished.exit_code == 2, finished.exception
    assert name in finished.stderr
    assert finished.stdout == ""
