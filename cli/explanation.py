"""``modules explain``: which channels of an imported classifier decide for a class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from . import options
from .output import console, print_json, progress

if TYPE_CHECKING:
    from ..api import Explanation

SHOWN = 6  # classes in the table


@click.command(short_help="Which channels of a network decide for a class.")
@click.argument("name", metavar="NAME")
@click.option(
    "--data", required=True, type=options.PATH, metavar="DIR",
    help="Labelled images of some of its classes, folders named as its labels.",
)  # fmt: skip
@click.option("--classes", metavar="A,B,..", help="Some classes of --data; all by default.")
@click.option("--plot", type=options.PATH, metavar="FILE", help="A picture: .png or .svg.")
@options.json_option
def explain(name: str, data: Path, classes: str | None, plot: Path | None, as_json: bool) -> None:
    """Follow the logits of classes back through an imported classifier, layer by layer.

    \b
    nnfactory modules explain r18 --data photos --plot routes.png
    nnfactory modules explain r18 --data photos --classes tench,church --json
    """
    from .. import api

    if plot is not None:
        api.check_picture(plot)
    wanted = [] if classes is None else options.names_in(classes)
    with progress() as report:
        found = api.explain(name, data, classes=wanted, report=report)
    if plot is not None:
        api.draw_routes(found, plot)
    if as_json:
        table = {key: getattr(found, key) for key in ("network", "classes", "images")}
        families = [
            {key: getattr(family, key) for key in family.__dataclass_fields__}
            for family in found.families
        ]
        print_json(table | {"families": families})
        return
    _print(found)
    if plot is not None:
        console().print(f"drawn: {plot}", markup=False)


def _print(found: Explanation) -> None:
    """Per family how few channels decide for each class, and how alike the classes' ways are."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("channels of", overflow="fold")
    shown = found.classes[:SHOWN]
    for title in ("all", "logits", "alike", *(name.split(",")[0] for name in shown)):
        table.add_column(escape(title), justify="right")
    for family in found.families:
        through = sum(map(sum, family.flow)) / len(family.flow)
        table.add_row(
            escape(family.name), str(len(family.flow[0])), f"{through:.1%}",
            f"{family.overlap:.2f}", *(str(count) for count in family.carriers[: len(shown)]),
        )  # fmt: skip
    console().print(table)
    more = len(found.classes) - len(shown)
    console().print(
        "logits: mean share that flows through them; alike: mean cosine of the classes' flows; per "
        "class how many channels carry 80 % of it"
        + (f" ({more} more classes with --json)" if more else "")
        + f"; the {max(found.images)} images of a class that the network is surest of"
    )
