"""``modules check`` and ``modules new``: a user's own data."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..factory.errors import DataError
from ..factory.serialize import table_from_noun
from ..factory.units import count_text
from . import options
from .output import console, print_json, progress

if TYPE_CHECKING:
    from ..api import DataView

FORMATS = ("coco", "yolo", "voc", "imagefolder", "pack")
SHOWN = 5  # files per kind of problem; --all shows every one

_task = click.option(
    "--task", type=click.Choice(["cls", "det"]), help="Classify or detect [default: as the data]."
)
_format = click.option(
    "--format", "format_name", type=click.Choice(FORMATS), help="[default: recognised]"
)
_imgsz = click.option(
    "--imgsz", type=click.IntRange(min=1), metavar="N",
    help="Side of the network's input, pixels [default: 256 det, 32 cls].",
)  # fmt: skip
_all = click.option("--all", "show_all", is_flag=True, help="Every problem, not five of a kind.")


@click.command("check")
@click.argument("data_dir", metavar="DIR", type=options.PATH)
@_task
@_format
@_imgsz
@_all
@options.json_option
def check_data(
    data_dir: Path, task: str | None, format_name: str | None, imgsz: int | None, show_all: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Check a folder of labelled images: what can be used, and what is wrong.

    Exits with 9 if there are errors: images or boxes that cannot be used.

    \b
    nnfactory modules check data/bccd
    nnfactory modules check photos --format imagefolder --json
    """
    from .. import api

    with progress() as report:
        view = api.check_data(
            data_dir, task=task or "", format=format_name or "", input_size=imgsz or 0,
            report=report,
        )  # fmt: skip
    if not as_json:
        print_view(view, show_all=show_all)
    elif not view.errors:
        print_json(view)
    if view.errors:
        raise DataError(
            f"{data_dir} has {count_text(len(view.errors), 'error')}.",
            hints=_advice(view),
            details=table_from_noun(view),
        )


@click.command("new")
@click.argument("name")
@click.option("--data", "data_dir", type=options.PATH, required=True, help="Data folder.")
@_task
@_format
@_imgsz
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="[default: by size]")
@click.option("--title", default="", metavar="TEXT", help="One line for people.")
@click.option(
    "--license", "license_text", metavar="TEXT",
    help='Licence and conditions of the trained weights [default: "not stated"].',
)  # fmt: skip
@click.option("-o", "--out", "path", type=options.PATH, help="Recipe [default: ./NAME.toml].")
@click.option("--overwrite", is_flag=True, help="Replace the recipe if it is there.")
@_all
@options.json_option
def new_recipe(
    name: str, data_dir: Path, task: str | None, format_name: str | None, imgsz: int | None,
    epochs: int | None, title: str, license_text: str | None, path: Path | None, overwrite: bool,
    show_all: bool, as_json: bool,
) -> None:  # fmt: skip
    """Check a folder of labelled images and write a training recipe for it.

    \b
    nnfactory modules new bccd --data data/bccd --license MIT
    nnfactory modules new pets --data photos --task cls --imgsz 64 -o recipes/pets.toml
    """
    from .. import api

    place = path or Path(f"{name}.toml")
    with progress() as report:
        view = api.new_recipe(
            name, data_dir=data_dir, path=place, task=task or "", format=format_name or "",
            title=title, license=license_text or "", input_size=imgsz or 0, epochs=epochs or 0,
            overwrite=overwrite, report=report,
        )  # fmt: skip
    if as_json:
        print_json({"recipe": str(place), **_table(view)})
    else:
        print_view(view, show_all=show_all)
        click.echo(str(place))
    if not license_text:
        click.echo(f"no --license: {place} says 'not stated'; state it before publishing", err=True)
    for line in _advice(view):
        click.echo(f"  {line}", err=True)
    skip = " --skip-broken" if any(found.scope != "data" for found in view.errors) else ""
    click.echo(f"next: nnfactory modules train {place} --data {data_dir}{skip}", err=True)


def print_view(view: DataView, *, show_all: bool) -> None:
    """Problems first, then images and examples per split."""
    from rich.table import Table

    out = console()
    out.print(
        f"{view.folder}: {view.format}, {view.task}, {sum(view.images.values())} images that can "
        f"be used, {len(view.classes)} classes", markup=False,
    )  # fmt: skip
    for line in (f"  split: {view.split_text}", *(f"  {note}" for note in view.notes)):
        out.print(line, markup=False)
    for line in problem_lines(view, show_all=show_all):
        out.print(line, markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("boxes of" if view.task == "det" else "images of")
    for split in view.images:
        table.add_column(split, justify="right")
    for label, name in enumerate(view.classes):
        table.add_row(name, *(str(counts[label]) for counts in view.examples.values()))
    table.add_row("all images" if view.task == "cls" else "images", *map(str, view.images.values()))
    out.print(table)


def problem_lines(view: DataView, *, show_all: bool) -> list[str]:
    """Problems by kind, errors first; of every kind the first few."""
    lines = []
    for (severity, code), group in groupby(view.problems, lambda p: (p.severity, p.code)):
        found = [f"  {p.file}: {p.message}" if p.file else f"  {p.message}" for p in group]
        shown = found if show_all else found[:SHOWN]
        lines += [f"{severity}: {len(found)} {code}", *shown]
        if len(found) > len(shown):
            lines.append(f"  and {len(found) - len(shown)} more; --all shows them")
    return lines


def _table(view: DataView) -> dict[str, object]:
    """The view as a table, for ``--json``."""
    return {name: getattr(view, name) for name in view.__dataclass_fields__}


def _advice(view: DataView) -> list[str]:
    """What to do about errors."""
    scopes = {found.scope for found in view.errors}
    advice = []
    if scopes - {"data"}:
        advice.append("correct the files, or train with --skip-broken, which leaves them out")
    if "data" in scopes:
        advice.append("add images, or take classes out of the recipe: --skip-broken cannot help")
    return advice
