"""``combine``: several classifiers as one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from ..factory.schema import Budget
from ..factory.serialize import table_from_noun
from . import options
from .build_facts import Fact, cost_facts, proof_facts, size_text
from .builds import print_facts, print_next, result_table
from .output import console, interval_text, print_json, progress

if TYPE_CHECKING:
    from ..api import Combination


@click.command(short_help="Join classifiers of different classes into one.")
@click.argument("artifacts", nargs=-1, required=True, type=options.PATH)
@click.option(
    "--data", required=True, type=options.PATH, metavar="DIR",
    help="Labelled images of all classes: a folder per class, or any format that 'modules check' "
    "reads.",
)  # fmt: skip
@click.option(
    "--images", type=click.IntRange(4, 200), default=20, show_default=True,
    help="Images of every class to fit to, at most.",
)  # fmt: skip
@click.option("-o", "--out", "out_dir", type=options.PATH, help="The artifact folder.")
@click.option("--overwrite", is_flag=True, help="Replace whatever is at --out.")
@options.json_option
def combine(
    artifacts: tuple[Path, ...], data: Path, images: int, out_dir: Path | None, overwrite: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Join classifiers of different classes into one network, without training.

    ARTIFACTS are folders that build, reassemble or disassemble wrote. They become parallel
    branches; what these have in common is computed once.

    \b
    nnfactory combine animals vehicles --data photos
    nnfactory combine cls-host-1a2b3c4d other --data photos --images 10 -o both --json
    """
    from .. import api

    words = ["nnfactory", "combine", *map(str, artifacts), "--data", str(data)]
    words += ["--images", str(images)]
    with progress() as report:
        made = api.combine(
            artifacts, data, images=images, out_dir=out_dir, overwrite=overwrite,
            command=shlex.join(words), report=report,
        )  # fmt: skip
    if as_json:
        print_json(
            result_table(made.result, words)
            | {
                "branches": [table_from_noun(view) for view in made.branches],
                "nodes": made.nodes,
                "shared": made.shared,
            }  # fmt: skip
        )
        return
    print_facts(made.result, _facts(made))
    _print_branches(made)


def _facts(made: Combination) -> Iterator[Fact]:
    """Everything about a network that was combined."""
    result = made.result
    yield (
        "network",
        f"{len(result.plan.task.classes)} classes at {result.plan.input_size} px in "
        f"{len(made.branches)} branches; {made.nodes} operators, {made.shared} shared",
    )
    yield from cost_facts(result, Budget())
    for accuracy in result.accuracy:
        value = interval_text(accuracy.interval)
        yield "accuracy", f"measured {accuracy.metric} {value} on {accuracy.dataset}"
    yield "size", size_text(result.estimate)
    yield from proof_facts(result)


def _print_branches(made: Combination) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("branch", overflow="fold")
    for title in ("classes", "px", "alone, own classes", "images"):
        table.add_column(title, justify="right")
    for view in made.branches:
        table.add_row(
            escape(view.name), str(len(view.classes)), str(view.input_size), f"{view.alone:.1%}",
            str(view.n),
        )  # fmt: skip
    console().print()
    console().print(table)
    print_next(made.result)
