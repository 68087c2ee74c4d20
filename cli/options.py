"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from ..factory.errors import SpecError
from ..factory.units import parse_quantity

Command = TypeVar("Command", bound=Callable[..., Any])


class Quantity(click.ParamType[float]):
    """A number with an optional unit."""

    def __init__(self, unit: str, metavar: str) -> None:
        self.unit, self.name = unit, metavar

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        """The quantity in the option's unit."""
        if isinstance(value, float):
            return value
        try:
            return parse_quantity(str(value), self.unit)
        except SpecError as error:
            self.fail(str(error), param, context)


class SparsityType(click.ParamType[float]):
    """A share in [0, 1)."""

    name = "SHARE"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        """The share; NaN is refused too."""
        try:
            share = float(value)
        except ValueError:
            self.fail(f"{value!r} is no number.", param, context)
        if not 0 <= share < 1:
            self.fail(f"must be in [0, 1), got {value}.", param, context)
        return share


class AccuracyType(click.ParamType[float]):
    """An accuracy between 0 and 1, or in percent."""

    name = "SHARE"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        """The accuracy as a share."""
        text = str(value).strip()
        try:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            self.fail(f"{value!r} is no number.", param, context)
        if not 0 < share < 1:
            self.fail(f"must be between 0 and 1, or in percent, got {value}.", param, context)
        return share


MILLISECONDS = Quantity("milliseconds", "MS")
MPARAMS = Quantity("millions of parameters", "MILLIONS")
MMACS = Quantity("millions of multiply-adds", "MILLIONS")
MILLIJOULES = Quantity("millijoules", "MILLIJOULES")
MEBIBYTES = Quantity("MiB", "MIB")


def _remember_json(context: click.Context, param: click.Parameter, value: bool) -> bool:
    """Tell the error printer that this call wants JSON."""
    context.find_root().obj["json"] = value
    return value


json_option = click.option(
    "--json", "as_json", is_flag=True, is_eager=True, callback=_remember_json,
    help="The answer as JSON, errors too.",
)  # fmt: skip
device_option = click.option(
    "--device", required=True, metavar="NAME", help="Device profile, e.g. jetson or host."
)
task_option = click.option(
    "--task", required=True, type=click.Choice(["cls", "det"]), help="Classify or detect."
)
library_option = click.option(
    "--library", metavar="NAME|DIR", help="Module library; by default the first for the task."
)
size_option = click.option(
    "--imgsz", "input_size", type=click.IntRange(1), metavar="PIXELS",
    help="Input size; by default the best of the library's sizes within the budget.",
)  # fmt: skip
PATH = click.Path(path_type=Path)


data_option = click.option(
    "--data", type=PATH, metavar="DIR",
    help="Labelled images of these classes, as 'modules check' reads them: half choose among the "
    "best plans, half measure the accuracy.",
)  # fmt: skip


def example_options(command: Command) -> Command:
    """``--examples DIR`` and ``--allow-novel``."""
    for option in (
        click.option(
            "--allow-novel", is_flag=True,
            help="Go on although the examples are unlike anything the library was trained on.",
        ),
        click.option(
            "--examples", type=PATH, metavar="DIR",
            help="Images of new classes, one folder per class with 5 images or more, instead of "
            "classes of the library (cls).",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a request.

    Attributes:
        names: As they were written; none means all.
        words: The options that ask for them.
    """

    names: tuple[str, ...]
    words: tuple[str, ...]


def class_options(command: Command) -> Command:
    """``--classes a,b``, repeatable ``--class NAME``, ``--class-file FILE``: all as ``classes``."""

    @click.option(
        "--classes", metavar="A,B,..",
        help="Classes by name, first WordNet synonym or WordNet id, or a superclass such as bird; "
        "all by default.",
    )  # fmt: skip
    @click.option(
        "--class", "more_classes", multiple=True, metavar="NAME",
        help="One class; repeat it. For names that hold a comma.",
    )  # fmt: skip
    @click.option(
        "--class-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A file with a class per line; lines that start with # are skipped.",
    )  # fmt: skip
    @functools.wraps(command)
    def with_classes(
        *arguments: Any, classes: str | None, more_classes: tuple[str, ...],
        class_file: Path | None, **others: Any,
    ) -> Any:  # fmt: skip
        return command(*arguments, classes=classes_of(classes, more_classes, class_file), **others)

    return cast(Command, with_classes)


def names_in(listed: str) -> list[str]:
    """Names with commas between them, without the spaces around them.

    Raises:
        click.BadParameter: One is empty.
    """
    names = [name.strip() for name in listed.split(",")]
    if not all(names):
        raise click.BadParameter(f"a name of {listed!r} is empty.")
    return names


def classes_of(listed: str | None, more: tuple[str, ...], file: Path | None) -> Classes:
    """What all three options name together.

    Raises:
        click.BadParameter: An empty name, or a file that names none.
    """
    words = [] if listed is None else ["--classes", listed]
    names = [] if listed is None else names_in(listed)
    for name in more:
        words += ["--class", name]
        names.append(name.strip())
    if any(not name for name in names):
        raise click.BadParameter("a class name is empty.", param_hint="--classes")
    if file is not None:
        words += ["--class-file", str(file)]
        names += _names_in(file)
    return Classes(tuple(names), tuple(words))


def _names_in(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{file} is no text file.", param_hint="--class-file") from error
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise click.BadParameter(f"{file} names no class.", param_hint="--class-file")
    return names
