"""How answers, progress and errors are printed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from ..factory.errors import NNFactoryError, UsageError
from ..factory.schema import Interval
from ..factory.serialize import table_from_noun

if TYPE_CHECKING:
    from rich.console import Console

EXIT_CODES = """Exit codes: 0 ok, 1 internal error, 2 usage, 3 no network keeps the budget,
4 verification failed, 5 device not at hand, 6 measurement inconclusive, 7 precision not given,
8 missing extra, 9 data problem, 130 interrupted."""
Report = Callable[[str, int, int], None]


class Group(click.Group):
    """A group whose commands turn our errors into a message and an exit code."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command; Ctrl-C exits with 130."""
        try:
            return super().invoke(context)
        except NNFactoryError as error:
            print_error(error, as_json=_wants_json(context))
            context.exit(error.exit_code)
        except click.UsageError as error:
            # An unknown option stops the parser before it comes to --json.
            if not (_wants_json(context) or "--json" in sys.argv):
                raise
            print_error(UsageError(error.format_message()), as_json=True)
            context.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            context.exit(130)


def _wants_json(context: click.Context) -> bool:
    """Whether the command that ran was given ``--json``."""
    return bool((context.find_root().obj or {}).get("json", False))


def print_error(error: NNFactoryError, *, as_json: bool) -> None:
    """What went wrong and what to do next: on stderr, or as JSON on stdout."""
    if as_json:
        table = {
            "code": error.exit_code, "message": str(error), "hints": list(error.hints),
            **error.details,
        }  # fmt: skip
        click.echo(json.dumps({"error": table}))
        return
    click.secho(f"error[NF{error.exit_code}]: ", fg="red", bold=True, nl=False, err=True)
    click.echo(str(error), err=True)
    for hint in error.hints:
        click.echo(f"  try: {hint}", err=True)


def print_json(answer: object) -> None:
    """An answer as JSON on stdout; nouns become tables."""
    click.echo(json.dumps(table_from_noun(answer), allow_nan=False))


def console() -> Console:
    """Where answers go; colors only on a terminal."""
    from rich.console import Console

    options = click.get_current_context().obj or {}
    plain = not sys.stdout.isatty()
    return Console(
        highlight=False, no_color=not options.get("color", True), soft_wrap=plain,
        width=160 if plain else None,
    )  # fmt: skip


@contextlib.contextmanager
def progress() -> Iterator[Report]:
    """A progress bar with the time left, on stderr; nothing when that is no terminal."""
    options = click.get_current_context().obj or {}
    if options.get("quiet") or not sys.stderr.isatty():
        yield lambda phase, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        tasks: dict[str, Any] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total)
            bar.update(tasks[phase], completed=done, total=total)

        yield report


def interval_text(interval: Interval | None, unit: str = "", digits: int = 3) -> str:
    """A value with its interval, such as "2.10 ms [1.90, 2.40]"."""
    if interval is None:
        return "-"
    space = f" {unit}" if unit else ""
    low, value, high = (f"{v:.{digits}f}" for v in (interval.low, interval.value, interval.high))
    return f"{value}{space} [{low}, {high}]"


def versions_text() -> str:
    """Version of nnfactory and of what it runs on, as far as installed."""
    from importlib import metadata

    from .. import __version__

    rows = [f"nnfactory {__version__}", f"python {sys.version.split()[0]}"]
    for name in ("onnx", "onnxruntime", "torch", "tensorrt", "tensorrt_rtx_cu13"):
        try:
            rows.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            rows.append(f"{name} not installed")
    return "\n".join(rows)
