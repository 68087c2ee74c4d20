"""Help, versions, and the exit codes that are documented."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click
import pytest
from click.testing import Result

from nnfactory import __version__
from nnfactory.cli import cli
from nnfactory.factory import errors
from nnfactory.factory.errors import NNFactoryError

pytestmark = pytest.mark.usefixtures("folder")
Run = Callable[..., Result]


EXIT_CODES = {
    "NNFactoryError": 1, "UsageError": 2, "SpecError": 2, "UnknownNameError": 2, "BudgetError": 3,
    "VerificationError": 4, "DeviceError": 5, "InconclusiveError": 6, "PrecisionError": 7,
    "MissingExtraError": 8, "DataError": 9, "ShapeError": 9,
}  # fmt: skip


def commands(group: click.Group = cli, *above: str) -> Iterator[tuple[str, ...]]:
    """Words of every command, groups included."""
    yield above
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)
        else:
            yield (*above, name)


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
