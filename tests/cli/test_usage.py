"""Wrong usage: exit code 2, nothing on stdout, nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from fake_host import FakeHost
from printed import is_empty

from nnfactory.factory.library.library import ModuleLibrary

pytestmark = pytest.mark.usefixtures("folder")
Run = Callable[..., Result]


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
    run: Run, toy_library: ModuleLibrary, host: FakeHost, folder: Path
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
