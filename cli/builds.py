"""``build`` and ``plan``."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..factory.errors import InconclusiveError
from ..factory.schema import (
    PERCENTILES,
    Budget,
    BuildResult,
    FrontierPoint,
    Measurement,
)
from ..factory.units import count_text, four_digits
from . import options
from .build_facts import Fact, build_facts
from .frontier_plot import frontier_text
from .output import console, interval_text, print_json, progress

if TYPE_CHECKING:
    from ..api import Frontier


@click.command(short_help="Assemble, prove, measure and export one network.")
@options.device_option
@options.task_option
@options.class_options
@options.example_options
@options.data_option
@click.option("--latency", type=options.MILLISECONDS, help="Latency limit: 5, 5ms or 0.005s.")
@click.option(
    "--latency-percentile",
    "percentile",
    type=click.Choice([str(p) for p in PERCENTILES]),
    default="50",
    show_default=True,
    help="Percentile that --latency limits.",
)
@click.option(
    "--energy", type=options.MILLIJOULES, help="Energy limit per image: 5, 5mJ or 0.005J."
)
@click.option("--params", type=options.MPARAMS, help="Parameter limit: 0.5, 0.5M or 500k.")
@click.option("--macs", type=options.MMACS, help="Multiply-add limit: 100, 100M or 0.1G.")
@click.option("--memory", type=options.MEBIBYTES, help="Peak memory limit: 4, 4MiB or 4MB.")
@click.option("--size", "file_size", type=options.MEBIBYTES, help="Limit of the ONNX file's size.")
@click.option(
    "--sparsity",
    type=options.SparsityType(),
    default=0.0,
    show_default=True,
    help="Least share of the module parameters that is left out.",
)
@click.option(
    "--min-accuracy",
    type=options.AccuracyType(),
    help="Least estimated accuracy: 0.6 or 60%. Without --latency the fastest such network is "
    "built.",
)
@click.option(
    "--min-class-accuracy",
    type=options.AccuracyType(),
    help="Least estimated accuracy on every single class.",
)
@options.library_option
@options.size_option
@click.option(
    "-o",
    "--out",
    "out_dir",
    type=options.PATH,
    help="The artifact folder [default: ./<task>-<device>-<plan id>].",
)
@click.option("--overwrite", is_flag=True, help="Replace whatever is at --out.")
@options.json_option
def build(
    device: str, task: str, classes: options.Classes, examples: Path | None, allow_novel: bool,
    data: Path | None, latency: float | None, percentile: str, energy: float | None,
    params: float | None,
    macs: float | None, memory: float | None, file_size: float | None, sparsity: float,
    min_accuracy: float | None, min_class_accuracy: float | None, library: str | None,
    input_size: int | None, out_dir: Path | None, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Assemble, link, prove, measure and export one network.

    \b
    nnfactory build --device jetson --task det
    nnfactory build --device host --task cls --classes goldfish,jellyfish --latency 0.4ms
    """
    from .. import api

    budget = Budget(
        latency_ms=latency, percentile=int(percentile), energy_mj=energy, mparams=params,
        mmacs=macs, memory_mib=memory, file_mib=file_size, sparsity=sparsity,
        min_accuracy=min_accuracy, min_class_accuracy=min_class_accuracy,
    )  # fmt: skip
    words = request_words(device, task, classes, library, input_size, examples, allow_novel)
    words += [] if data is None else ["--data", str(data)]
    with progress() as report:
        result = api.build(
            task=task, device=device, budget=budget, library=library, input_size=input_size,
            classes=classes.names, examples=examples, allow_novel=allow_novel, data=data,
            out_dir=out_dir, overwrite=overwrite,
            command=shlex.join(words + budget_words(budget)), report=report,
        )  # fmt: skip
    table = result_table(result, words)
    if not as_json:
        _print_result(result, budget, words)
    raise_if_inconclusive(result, budget, table)
    if as_json:
        print_json(table)


def raise_if_inconclusive(result: BuildResult, budget: Budget, table: Mapping[str, object]) -> None:
    """Raise if the latency has a budget and could not be judged; the artifact is there.

    Raises:
        InconclusiveError: It could not; its details hold the table.
    """
    measured = result.measurement
    if measured and measured.verdict == "INCONCLUSIVE" and budget.latency_ms:
        raise InconclusiveError(
            f"{result.artifact.folder} is written, but its latency could not be judged: "
            f"{measured.reason}.",
            hints=[f"nnfactory bench {result.artifact.folder} when the machine is idle"],
            details={"result": table},
        )


def result_table(result: BuildResult, words: list[str]) -> dict[str, object]:
    """A build as JSON values; the samples of the measurement stay in the artifact."""
    from ..factory.serialize import table_from_noun

    table = dict(table_from_noun(result))
    table["plan"]["id"] = result.plan.id
    table["frontier"] = [
        {**_point_table(point), "command": point_command(words, point)} for point in result.frontier
    ]
    if result.measurement:
        table["measurement"] = measurement_table(result.measurement)
    return table


def measurement_table(measurement: Measurement) -> dict[str, object]:
    """A measurement as JSON values, with percentiles instead of samples."""
    from ..factory.serialize import table_from_noun

    table = dict(table_from_noun(measurement))
    del table["samples_ms"]
    return {
        **table,
        "n": measurement.n,
        **{f"p{q}_ms": measurement.percentile(q) for q in (50, 90, 99)},
        "interval": table_from_noun(measurement.median_interval()),
    }


def _print_result(result: BuildResult, budget: Budget, words: list[str]) -> None:
    """What was built, as a person reads it."""
    out = console()
    print_facts(result, build_facts(result, budget))
    if result.frontier:
        out.print("\nNo budget was given, so this is the most valuable network. Others:")
        _print_points(result.frontier, measured=result.measurement is not None)
        for point in result.frontier:
            out.print(f"  {point_command(words, point)}", markup=False)
    print_next(result)


def print_facts(result: BuildResult, facts: Iterable[Fact]) -> None:
    """The artifact's folder, and a line per fact."""
    from rich.table import Table
    from rich.text import Text

    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    for title, text in facts:
        rows.add_row(title, Text(text))  # no markup: names of classes and folders may hold brackets
    out = console()
    out.print(_short(result.artifact.folder), style="bold green", markup=False)
    out.print(rows)


def print_next(result: BuildResult) -> None:
    """What to do with the artifact."""
    place = shlex.quote(_short(result.artifact.folder))
    console().print(f"\nnext: nnfactory run {place} IMAGE", markup=False)


def _short(folder: str) -> str:
    """The folder relative to the current one, where that is shorter."""
    try:
        return str(Path(folder).relative_to(Path.cwd()))
    except ValueError:
        return folder


def request_words(
    device: str, task: str, classes: options.Classes, library: str | None,
    input_size: int | None, examples: Path | None, allow_novel: bool,
) -> list[str]:  # fmt: skip
    """The words of a command that asks for the same task on the same device."""
    words = ["nnfactory", "build", "--device", device, "--task", task, *classes.words]
    words += [] if examples is None else ["--examples", str(examples)]
    words += ["--allow-novel"] * allow_novel
    words += [] if library is None else ["--library", library]
    return words + ([] if input_size is None else ["--imgsz", str(input_size)])


def budget_words(budget: Budget) -> list[str]:
    """The options that ask for a budget."""
    words = []
    if budget.latency_ms is not None:
        words += ["--latency", f"{budget.latency_ms:g}ms"]
        words += ["--latency-percentile", str(budget.percentile)] * (budget.percentile != 50)
    words += [] if budget.energy_mj is None else ["--energy", f"{budget.energy_mj:g}mJ"]
    words += [] if budget.mparams is None else ["--params", f"{budget.mparams:g}M"]
    words += [] if budget.mmacs is None else ["--macs", f"{budget.mmacs:g}M"]
    words += [] if budget.memory_mib is None else ["--memory", f"{budget.memory_mib:g}MiB"]
    words += [] if budget.file_mib is None else ["--size", f"{budget.file_mib:g}MiB"]
    words += ["--sparsity", f"{budget.sparsity:g}"] if budget.sparsity else []
    for flag, least in (
        ("--min-accuracy", budget.min_accuracy),
        ("--min-class-accuracy", budget.min_class_accuracy),
    ):
        words += [] if least is None else [flag, f"{least:g}"]
    return words


def point_command(words: list[str], point: FrontierPoint) -> str:
    """The command that builds a point of the frontier."""
    assert point.estimate.latency_ms is not None
    limit = four_digits(point.estimate.latency_ms.value, upwards=True)
    size = [] if "--imgsz" in words else ["--imgsz", str(point.plan.input_size)]
    return shlex.join([*words, *size, "--latency", f"{limit}ms"])


def _print_points(points: tuple[FrontierPoint, ...], *, measured: bool) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    kind = "from a measured table" if measured else "estimated"
    for title in (f"latency ms, {kind}", "input", "accuracy, estimated", "M params", "MMACs",
                  "memory MiB", "sparsity", ""):  # fmt: skip
        table.add_column(title, justify="right", overflow="fold")
    for point in points:
        estimate = point.estimate
        table.add_row(
            interval_text(estimate.latency_ms), f"{point.plan.input_size} px",
            interval_text(estimate.accuracy, digits=2), f"{estimate.mparams:.3f}",
            f"{estimate.mmacs:.1f}", f"{estimate.memory_mib:.2f}", f"{point.plan.sparsity:.2f}",
            "knee" if point.is_knee else "",
        )  # fmt: skip
    console().print(table)


def _point_table(point: FrontierPoint) -> dict[str, object]:
    from ..factory.serialize import table_from_noun

    return {
        "plan": point.plan.id,
        "input_size": point.plan.input_size,
        "value": point.value,
        "is_knee": point.is_knee,
        "sparsity": point.plan.sparsity,
        "active": point.plan.counts,
        **table_from_noun(point.estimate),
    }


@click.command(short_help="Show what is reachable: the frontier of a task on a device.")
@click.option(
    "--device", "devices", required=True, multiple=True, metavar="NAME",
    help="Device profile, e.g. jetson or host; repeat it to compare devices.",
)  # fmt: skip
@options.task_option
@options.class_options
@options.example_options
@options.library_option
@options.size_option
@click.option(
    "--points", type=click.IntRange(2, 1000), default=12, show_default=True, help="Rows to show."
)
@click.option(
    "--plot", "picture", type=options.PATH, metavar="FILE", help="Draw it as FILE, .png or .svg."
)
@options.json_option
def plan(
    devices: tuple[str, ...], task: str, classes: options.Classes, examples: Path | None,
    allow_novel: bool, library: str | None, input_size: int | None, points: int,
    picture: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Show what is reachable: the frontier of latency and accuracy. Builds nothing.

    \b
    nnfactory plan --device jetson --task det
    nnfactory plan --device host --device jetson --task cls --plot frontier.svg
    """
    from .. import api

    if picture is not None:
        api.check_picture(picture)
    with progress() as report:
        answers = [
            api.plan(
                task=task,
                device=device,
                library=library,
                input_size=input_size,
                points=points,
                report=report,
                classes=classes.names,
                examples=examples,
                allow_novel=allow_novel,
            )  # fmt: skip
            for device in devices
        ]
    if picture is not None:
        api.draw_frontiers(answers, picture)
    if as_json:
        tables = [_frontier_table(answer) for answer in answers]
        print_json(tables[0] if len(tables) == 1 else {"frontiers": tables})
        return
    for device, answer in zip(devices, answers, strict=True):
        words = request_words(device, task, classes, library, input_size, examples, allow_novel)
        _print_frontier(answer, words)
    console().print(frontier_text([(answer.device, answer.points) for answer in answers]))
    if picture is not None:
        console().print(f"\n{picture}")


def _frontier_table(answer: Frontier) -> dict[str, object]:
    return {
        "device": answer.device, "library": answer.library, "task": answer.task,
        "is_measured": answer.is_measured, "steps": answer.steps,
        "points": [_point_table(point) for point in answer.points],
    }  # fmt: skip


def _print_frontier(answer: Frontier, words: list[str]) -> None:
    out, classes = console(), count_text(len(answer.task.classes), "class")
    out.print(
        f"[bold]{classes} of {answer.library} on {answer.device}[/]: "
        f"{len(answer.points)} plans of rising latency and estimated accuracy, from the frontiers "
        f"of all input sizes ({answer.steps} plans)"
    )
    _print_points(answer.points, measured=answer.is_measured)
    knees = [point for point in answer.points if point.is_knee]
    chosen = knees[0] if knees else answer.points[len(answer.points) // 2]
    out.print(f"\nnext: {point_command(words, chosen)}\n", markup=False)
