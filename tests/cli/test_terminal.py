"""stdout, stderr and colors, in real processes."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from printed import error_of, is_empty

from nnfactory.factory.library.library import ModuleLibrary

pytestmark = pytest.mark.usefixtures("folder")
Run = Callable[..., Result]


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
    assert code == 0, stderr
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
