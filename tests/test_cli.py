"""Every command: exit codes, what goes to stdout and stderr, and what is written."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from nnfactory import __version__, api
from nnfactory.cli import cli
from nnfactory.devices import latency_table, measure
from nnfactory.devices.conditions import verdict_of
from nnfactory.exporters.bundle import check_artifact
from nnfactory.exporters.golden import golden_image, png_from_pixels
from nnfactory.factory import errors
from nnfactory.factory.errors import NNFactoryError
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.schema import Budget, LatencyTable, Measurement

pytestmark = pytest.mark.usefixtures("folder")
Run = Callable[..., Result]

EXIT_CODES = {
    "NNFactoryError": 1, "UsageError": 2, "SpecError": 2, "UnknownNameError": 2, "BudgetError": 3,
    "VerificationError": 4, "DeviceError": 5, "InconclusiveError": 6, "PrecisionError": 7,
    "MissingExtraError": 8, "DataError": 9, "ShapeError": 9,
}  # fmt: skip


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch, toy_table: Callable[..., LatencyTable]) -> list[float]:
    """This machine has a synthetic table; what it measures is [milliseconds, contention]."""
    found = [0.01, 0.0]

    def measured(
        model: bytes, *, device: str, budget: Budget | None = None, threads: int = 1,
        seconds: float = 1.0,
    ) -> Measurement:  # fmt: skip
        draft: dict = {
            "device": device, "runtime": "fake 1.0", "precision": "fp32", "threads": threads,
            "samples_ms": (found[0],) * 20, "conditions": {"contention": found[1]},
        }  # fmt: skip
        verdict, reason = verdict_of(Measurement(**draft, verdict="PASS"), budget)
        return Measurement(**draft, verdict=verdict, reason=reason)

    monkeypatch.setattr(
        latency_table,
        "measure_table",
        lambda library, *, threads=1, report=None: toy_table(library, device="host"),
    )
    monkeypatch.setattr(measure, "measure_host", measured)
    return found


@pytest.fixture
def build(run: Run, toy_library: ModuleLibrary, samples: list[float]) -> Run:
    """Run ``nnfactory build`` for each of the toy libraries."""

    def invoke(*words: object, device: str = "jetson") -> Result:
        library = toy_library.folder
        return run(
            "build", "--device", device, "--task", toy_library.kind, "--library", library, *words
        )

    return invoke


@pytest.fixture
def build_cls(run: Run, toy_cls: ModuleLibrary, samples: list[float]) -> Run:
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


def commands(group: click.Group = cli, *above: str) -> Iterator[tuple[str, ...]]:
    """Words of every command, groups included."""
    yield above
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)
        else:
            yield (*above, name)


def error_of(finished: Result) -> dict[str, Any]:
    return json.loads(finished.stdout)["error"]


def is_empty(folder: Path) -> bool:
    return list(folder.iterdir()) == []


# Help and versions


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_help_of_every_command_exits_0_and_shows_two_examples(run: Run, words: tuple[str, ...]):
    for flag in ("--help", "-h"):
        finished = run(*words, flag)
        assert finished.exit_code == 0
        assert finished.stderr == ""
        is_group = words in [(), ("devices",), ("modules",)]
        start = " ".join(("nnfactory", *words))
        examples = [line for line in finished.stdout.splitlines() if line.strip().startswith(start)]
        assert len(examples) == 2 or (is_group and words)
        assert "Usage: nnfactory" in finished.stdout


def test_help_lists_the_exit_codes(run: Run):
    text = " ".join(run("--help").stdout.split())
    for entry in (
        "0 ok", "1 internal", "2 usage", "3 no network", "4 verification", "5 device",
        "6 measurement inconclusive", "7 precision", "8 missing extra", "9 data", "130 interrupted",
    ):  # fmt: skip
        assert entry in text


def test_exit_code_of_every_error_is_the_documented_one():
    found = {
        name: thing.exit_code
        for name, thing in vars(errors).items()
        if isinstance(thing, type) and issubclass(thing, NNFactoryError)
    }
    assert found == EXIT_CODES


def test_version_prints_versions_of_what_it_runs_on(run: Run):
    finished = run("--version")
    assert finished.exit_code == 0
    lines = finished.stdout.splitlines()
    assert lines[0] == f"nnfactory {__version__}"
    names = [line.split()[0] for line in lines]
    assert {"python", "onnx", "onnxruntime", "torch", "tensorrt"} <= set(names)


def test_no_command_at_all_shows_the_help(run: Run):
    finished = run()
    assert "Usage: nnfactory" in finished.stdout + finished.stderr


# Usage: exit code 2, nothing on stdout, nothing written


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--no-such-flag"], "--no-such-flag"),
        (["--latencyy", "5"], "--latency"),
        (["--latency", "0"], "positive"),
        (["--latency", "-1"], "positive"),
        (["--latency", "nan"], "positive"),
        (["--latency", "inf"], "finite"),
        (["--latency", "5 lightyears"], "ms"),
        (["--latency", ""], "quantity"),
        (["--params", "0"], "positive"),
        (["--params", "nan"], "positive"),
        (["--memory", "-4MiB"], "positive"),
        (["--macs", "0"], "positive"),
        (["--macs", "5 lightyears"], "k, m, g"),
        (["--size", "-4MiB"], "positive"),
        (["--min-accuracy", "1"], "between 0 and 1"),
        (["--min-accuracy", "0%"], "between 0 and 1"),
        (["--min-accuracy", "nan"], "between 0 and 1"),
        (["--min-class-accuracy", "most"], "number"),
        (["--sparsity", "1"], "[0, 1)"),
        (["--sparsity", "-0.1"], "[0, 1)"),
        (["--sparsity", "nan"], "[0, 1)"),
        (["--sparsity", "half"], "number"),
        (["--latency-percentile", "97"], "90"),
        (["--classes", "goldfish,,bullfrog"], "empty"),
        (["--classes", ""], "empty"),
        (["--class", " "], "empty"),
        (["--classes", "goldfish"], "at least 2"),
        (["--classes", "bulfrog,goldfish"], "'bullfrog'"),
        (["--classes", "goldfish,n01443537"], "more than once"),
        (["--device", "jetsno"], "'jetson'"),
        (["--device", "no-such.toml"], "no-such.toml"),
        (["--task", "seg"], "cls"),
        (["--library", "no-such"], "modules list"),
        (["--imgsz", "0"], "x>=1"),
        (["--imgsz", "large"], "integer"),
        (["--imgsz", "24"], "it was trained at 32, 16"),
        (["surplus"], "surplus"),
    ],
)
def test_wrong_usage_says_what_is_right(build_cls: Run, folder: Path, words: list[str], text: str):
    finished = build_cls("-o", "made", *words)
    code = 9 if words[-1].endswith(".toml") else 2  # a file that is not there is a data problem
    assert finished.exit_code == code, finished.output
    assert finished.stdout == ""
    assert text in finished.stderr
    assert is_empty(folder)


def test_missing_device_and_task_are_named(run: Run):
    assert "--device" in run("build", "--task", "cls").stderr
    assert "--task" in run("plan", "--device", "host").stderr


def test_task_of_another_kind_than_the_library_is_refused(build_cls: Run, folder: Path):
    finished = build_cls("--task", "det")
    assert finished.exit_code == 2
    assert "is for 'cls'" in finished.stderr
    assert is_empty(folder)


def test_frontiers_of_several_devices_are_shown_and_drawn_together(
    run: Run, toy_library: ModuleLibrary, samples: list[float], folder: Path
):
    pytest.importorskip("matplotlib")
    words = (
        "plan", "--device", "jetson", "--device", "host", "--task", toy_library.kind, "--library",
        toy_library.folder,
    )  # fmt: skip
    finished = run(*words, "--plot", "both.svg")
    assert finished.exit_code == 0, finished.output
    assert "on jetson-orin-nano" in finished.stdout
    assert "on host" in finished.stdout
    assert finished.stdout.count("next: nnfactory build --device") == 2
    assert finished.stdout.rstrip().endswith("both.svg")
    assert "<svg" in (folder / "both.svg").read_text()
    answer = json.loads(run(*words, "--json").stdout)
    first, second = answer["frontiers"]
    assert (first["device"], second["device"]) == ("jetson-orin-nano", "host")
    (alone,) = [json.loads(run(*words[:3], *words[5:], "--json").stdout)]
    assert alone == first
    finished = run(*words, "--plot", "both.jpg")
    assert finished.exit_code == 2
    assert ".png or .svg" in finished.stderr
    assert not (folder / "both.jpg").exists()


def test_errors_say_their_code_and_what_to_do_next(build_cls: Run):
    finished = build_cls("--device", "jetsno")
    first, *hints = finished.stderr.splitlines()
    assert first.startswith("error[NF2]: ")
    assert hints
    assert all(hint.startswith("  try: ") for hint in hints)


def test_misspelt_command_is_a_usage_error(run: Run):
    finished = run("buid")
    assert finished.exit_code == 2
    assert "buid" in finished.stderr


# Infeasible: exit code 3


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--latency", "1us"], "latency"),
        (["--params", "0.2k"], "params"),
        (["--memory", "1kB"], "memory"),
        (["--sparsity", "0.9999"], "sparsity"),
        (["--macs", "1k"], "macs"),
        (["--size", "1kB"], "size"),
    ],
)
def test_infeasible_budget_prints_the_tightest_value(
    build: Run, folder: Path, words: list[str], name: str
):
    finished = build("-o", "made", *words)
    assert finished.exit_code == 3
    assert finished.stdout == ""
    assert finished.stderr.startswith("error[NF3]: ")
    assert "the smallest network has" in finished.stderr
    (hint,) = re.findall(rf"try: --{name} (\S+)", finished.stderr)
    error = error_of(build("-o", "made", *words, "--json"))
    assert error["code"] == 3
    assert set(error["tightest"]) == {name}
    assert error["tightest"][name] == pytest.approx(float(re.sub("[A-Za-z]+$", "", hint)), rel=1e-3)
    assert is_empty(folder)
    assert build("-o", "made", f"--{name}", hint).exit_code == 0  # the hint works


@pytest.mark.parametrize("flag", ["--min-accuracy", "--min-class-accuracy"])
def test_an_accuracy_that_no_network_has_prints_the_most(build: Run, folder: Path, flag: str):
    finished = build("-o", "made", flag, "99.9%")
    assert finished.exit_code == 3
    assert "accuracy >= 0.999: the whole network has" in finished.stderr
    (hint,) = re.findall(rf"try: {flag} (\S+)", finished.stderr)
    error = error_of(build("-o", "made", flag, "0.999", "--json"))
    (name,) = error["tightest"]
    assert error["relaxed"] == error["tightest"] == {name: pytest.approx(float(hint), rel=1e-3)}
    assert is_empty(folder)
    assert build("-o", "made", flag, hint).exit_code == 0


def test_with_an_accuracy_alone_the_fastest_network_is_built(build: Run, folder: Path):
    every = json.loads(build("-o", "all", "--json").stdout)
    # A hundredth less is what a faster network has.
    wanted = every["frontier"][1]["accuracy"]["value"] + 0.0099
    finished = build("-o", "made", "--min-accuracy", f"{wanted:.4f}")
    assert finished.exit_code == 0, finished.output
    assert "fastest for the library's values" in finished.stdout
    assert "0.01 less accuracy saves" in " ".join(finished.stdout.split())
    answer = json.loads(build("-o", "made", "--min-accuracy", f"{wanted:.4f}", "--json").stdout)
    assert answer["certificate"]["goal"] == "latency"
    assert answer["certificate"]["binding"] == ["accuracy"]
    assert answer["estimate"]["accuracy"]["value"] >= round(wanted, 4)
    assert answer["estimate"]["latency_ms"]["value"] < every["estimate"]["latency_ms"]["value"]
    manifest = json.loads((folder / "made" / "manifest.json").read_text())
    assert manifest["budgets"]["asked"]["min_accuracy"] == round(wanted, 4)
    assert manifest["assembly"]["goal"] == "latency"
    (gain,) = manifest["assembly"]["more"]
    assert (gain["budget"], gain["step"], gain["of"]) == ("accuracy", -0.01, "latency")


def test_what_a_little_more_buys_is_printed(build: Run):
    every = json.loads(build("-o", "all", "--json").stdout)
    limit = 0.5 * every["estimate"]["mparams"]
    finished = build("-o", "made", "--params", f"{limit}M")
    text = " ".join(finished.stdout.split())
    assert re.search(r"more 0\.\d+ M more params buys \+\d+\.\d points of accuracy", text), text


def test_several_infeasible_budgets_are_all_named(build: Run):
    finished = build("--latency", "1us", "--params", "0.2k", "--json")
    assert finished.exit_code == 3
    assert set(error_of(finished)["tightest"]) == {"latency", "params"}


def test_budget_that_fails_when_measured_is_infeasible(
    build: Run, samples: list[float], folder: Path
):
    samples[0] = 50.0
    finished = build("--latency", "10ms", device="host")
    assert finished.exit_code == 3
    assert is_empty(folder)


# Other exit codes


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
    build: Run, samples: list[float], folder: Path
):
    samples[:] = [11.0, 0.5]
    finished = build("--latency", "10ms", "-o", "made", device="host")
    assert finished.exit_code == 6
    assert "nnfactory bench" in finished.stderr
    assert check_artifact(folder / "made")["measured"][0]["verdict"] == "INCONCLUSIVE"
    finished = build("--latency", "10ms", "-o", "made", "--json", device="host")
    assert finished.exit_code == 6
    assert finished.stderr == ""
    assert error_of(finished)["result"]["measurement"]["verdict"] == "INCONCLUSIVE"


def test_inconclusive_measurement_without_a_latency_budget_is_no_error(
    build: Run, samples: list[float]
):
    samples[1] = 0.5
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


# Budgets as people write them


def test_latency_in_any_unit_gives_the_same_plan(build_cls: Run, folder: Path):
    def plan_of(limit: str) -> str:
        finished = build_cls("--latency", limit, "--json", "--overwrite", "-o", "made")
        assert finished.exit_code == 0, finished.output
        return json.loads(finished.stdout)["plan"]["id"]

    middle = json.loads(build_cls("--json").stdout)["frontier"][2]["latency_ms"]["value"]
    for ms in (5.0, round(middle + 0.0004, 4)):
        texts = (f"{ms:g}", f"{ms:g}ms", f"{ms / 1000:.7f}s", f"{1000 * ms:.1f}us", f"{ms:g} MS")
        assert len({plan_of(text) for text in texts}) == 1


def test_sizes_in_any_unit_give_the_same_plan(build_cls: Run):
    plans = set()
    for words in (("--params", "9k"), ("--params", "0.009"), ("--params", "0.009M")):
        plans.add(json.loads(build_cls(*words, "--json", "-o", "p").stdout)["plan"]["id"])
    assert len(plans) == 1
    plans = set()
    for words in (("--memory", "1"), ("--memory", "1MiB"), ("--memory", "1024KiB")):
        plans.add(json.loads(build_cls(*words, "--json", "-o", "m").stdout)["plan"]["id"])
    assert len(plans) == 1


def test_classes_are_read_from_a_file_as_well(build_cls: Run, folder: Path):
    (folder / "frogs.txt").write_text(
        "\ufeff# frogs and what eats them\n\nbullfrog, Rana catesbeiana\n  tailed frog \n", "utf-8"
    )
    finished = build_cls("--class-file", "frogs.txt", "--class", "goldfish", "-o", "a", "--json")
    answer = json.loads(finished.stdout)
    assert [name.split(",")[0] for name in answer["plan"]["task"]["classes"]] == [
        "goldfish", "bullfrog", "tailed frog",
    ]  # fmt: skip
    assert "--class-file frogs.txt" in answer["frontier"][0]["command"]
    text = json.loads((folder / "a" / "manifest.json").read_text())["provenance"]["command"]
    assert "--class-file frogs.txt" in text


@pytest.mark.parametrize(
    ("content", "text"), [(b"# none\n", "names no class"), (b"\xff", "no text")]
)
def test_a_file_without_classes_is_refused(build_cls: Run, folder: Path, content: bytes, text: str):
    (folder / "frogs.txt").write_bytes(content)
    finished = build_cls("--class-file", "frogs.txt")
    assert finished.exit_code == 2
    assert text in finished.stderr
    assert build_cls("--class-file", "gone.txt").exit_code == 2


def test_class_names_with_a_comma_have_an_option_of_their_own(build_cls: Run):
    whole = ("--class", "goldfish, Carassius auratus", "--class", "tailed frog, bell toad")
    plans = {
        json.loads(build_cls(*words, "--json").stdout)["plan"]["id"]
        for words in (
            whole,
            ("--classes", "tailed frog,goldfish"),
            ("--classes", "n01443537", "--class", "Tailed Frog"),
        )
    }
    assert len(plans) == 1


# Answers


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


def test_a_network_of_someone_else_is_imported_and_listed(run: Run, artifact: Path, folder: Path):
    model = artifact / "model.onnx"
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
    build: Run, run: Run, folder: Path, samples: list[float]
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
    run: Run, toy_library: ModuleLibrary, samples: list[float], folder: Path
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
    run: Run, toy_library: ModuleLibrary, samples: list[float]
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


# Where artifacts go


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


# stdout, stderr and colors, in real processes

_FEW = (
    "from nnfactory.devices import latency_table\n"
    "from nnfactory import cli\n"
    "latency_table.NETWORKS, latency_table.PROFILED = 8, 4\n"
    "cli.main()"
)


def run_on_terminal(
    *words: object, stdout: bool, stderr: bool, **environment: str
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process for which either may be a terminal."""
    pairs = [pty.openpty() if is_terminal else os.pipe() for is_terminal in (stdout, stderr)]
    variables = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "CI", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", _FEW, *map(str, words)], stdin=subprocess.DEVNULL,
        stdout=pairs[0][1], stderr=pairs[1][1],
        env={**variables, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
    )  # fmt: skip
    for _, written in pairs:
        os.close(written)
    texts = ["", ""]
    import threading

    def read(number: int) -> None:
        chunks = []
        try:
            while chunk := os.read(pairs[number][0], 65536):
                chunks.append(chunk)
        except OSError:  # the other end of a terminal is closed
            pass
        texts[number] = b"".join(chunks).decode()

    threads = [threading.Thread(target=read, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    code = process.wait()
    for reader, _ in pairs:
        os.close(reader)
    return code, texts[0], texts[1]


COLOR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38;)[\d;]*m")


def test_progress_goes_to_stderr_and_the_answer_to_stdout(toy_cls: ModuleLibrary, folder: Path):
    words = ("plan", "--device", "host", "--task", "cls", "--library", toy_cls.folder, "--json")
    code, stdout, stderr = run_on_terminal(*words, stdout=False, stderr=True)
    assert code == 0
    assert json.loads(stdout)["is_measured"] is True
    assert "timing networks" in stderr
    assert is_empty(folder)


def test_progress_is_silent_when_stderr_is_no_terminal(toy_cls: ModuleLibrary):
    words = ("plan", "--device", "host", "--task", "cls", "--library", toy_cls.folder, "--json")
    code, stdout, stderr = run_on_terminal(*words, stdout=False, stderr=False)
    assert code == 0
    assert json.loads(stdout)["points"]
    assert stderr == ""


def test_terminal_gets_colors_unless_they_are_switched_off():
    for words, variables in (
        (("devices", "show", "jetsno"), {"NO_COLOR": "1"}),
        (("--no-color", "devices", "show", "jetsno"), {}),
    ):
        code, _, stderr = run_on_terminal(*words, stdout=True, stderr=True, **variables)
        assert code == 2
        assert "error[NF2]" in stderr
        assert not COLOR.search(stderr)
    code, _, stderr = run_on_terminal("devices", "show", "jetsno", stdout=True, stderr=True)
    assert COLOR.search(stderr)


def test_answers_that_are_piped_have_no_escapes():
    code, stdout, _ = run_on_terminal("devices", "list", stdout=False, stderr=True)
    assert code == 0
    assert "\x1b" not in stdout


def test_python_dash_m_is_the_same_command():
    finished = subprocess.run(
        [sys.executable, "-m", "nnfactory", "devices", "list", "--json"], capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0
    assert {"host", "jetson-orin-nano"} <= {row["name"] for row in json.loads(finished.stdout)}


@pytest.mark.parametrize("words", [("--latency", "nan"), ("--task", "seg")])
def test_usage_errors_are_json_too(run: Run, words: tuple[str, ...]):
    finished = run("build", "--json", "--device", "jetson", "--task", "cls", *words)
    assert finished.exit_code == 2
    assert error_of(finished)["code"] == 2
