"""``modules list``, ``show``, ``check``, ``new``, ``train``, ``publish`` and ``import``."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..factory.errors import NNFactoryError
from ..factory.schema import TrainingStatus
from . import foreign, options, own_data
from .explanation import explain
from .output import Group, console, interval_text, print_json, progress

if TYPE_CHECKING:
    from ..api import LibraryView


skip_broken_option = click.option(
    "--skip-broken", is_flag=True, help="Leave out images and boxes with errors; list them."
)


@click.group(cls=Group)
def modules() -> None:
    """Libraries of pretrained modules."""


@modules.command("list")
@options.json_option
def list_modules(as_json: bool) -> None:
    """List every installed module library and every imported network.

    \b
    nnfactory modules list
    nnfactory modules list --json
    """
    from rich.table import Table

    from .. import api

    libraries, imported = api.modules(), api.imported()
    if as_json:
        cards: list[object] = [
            {"name": name, "error": str(library)}
            if isinstance(library, NNFactoryError)
            else library.card
            for name, library in libraries.items()
        ]
        print_json([*cards, *(foreign.table_of(*item) for item in imported.items())])
        return
    table = Table(box=None, pad_edge=False)
    for title in ("name", "task", "classes", "input", "test metric, all modules", "title"):
        table.add_column(title)
    for name, library in libraries.items():
        if isinstance(library, NNFactoryError):
            table.add_row(name, "", "", "", "damaged", str(library))
            continue
        table.add_row(
            name, library.kind, str(len(library.classes)),
            f"{', '.join(map(str, library.input_sizes))} px", _metric(library.card),
            library.card["title"],
        )  # fmt: skip
    console().print(table)
    if imported:
        console().print()
        console().print(foreign.imported_table(imported))


def _metric(card: Any) -> str:
    metric = card["metric"]
    return (
        f"{metric['name']} {metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}] "
        f"(n={metric['n']})"
    )


@modules.command("show")
@click.argument("name")
@click.option("--device", default="host", show_default=True, metavar="NAME")
@options.json_option
def show_modules(name: str, device: str, as_json: bool) -> None:
    """Show a library: its modules, its accuracy, its smallest and its full network.

    \b
    nnfactory modules show fod31
    nnfactory modules show tiny200 --device jetson --json
    """
    from .. import api

    with progress() as report:
        view = api.module_library(name, device=device, report=report)
    if as_json:
        print_json({name: getattr(view, name) for name in view.__dataclass_fields__})
        return
    _print_library(view)


def _choice(chosen: str, figures: dict[str, float]) -> str:
    """What was chosen, and the validation accuracy of everything there was to choose from."""
    if not figures:
        return chosen
    reached = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
    return f"{chosen} (validation accuracy: {reached})"


def _print_library(view: LibraryView) -> None:
    from rich.table import Table

    out, card = console(), view.card
    out.print(f"[bold]{card['name']}[/]  {card['title']}")
    rows = {
        "metric": f"{_metric(card)}, {card['metric']['split']} split, all modules and classes",
        "input": f"{' or '.join(map(str, card['input']['sizes']))} px, RGB",
        "data": f"{card['data']['name']}; licence: {card['data']['license']}",
        "weights": card["weights"]["license"],
        "training": f"{card['training']['compute']}, {card['training']['hours']} h",
        "normalization": _choice(
            card["normalization"]["without_images"], card["normalization"]["validation"]
        ),
        "values": _choice(card["values"]["source"], card["values"]["validation"]),
    }  # fmt: skip
    for key, value in rows.items():
        out.print(f"  {key}: {value}", markup=False)
    table = Table(box=None, pad_edge=False)
    for title in ("slot", "modules", "k params each", "MMACs each", "can be skipped"):
        table.add_column(title, justify="left" if title == "slot" else "right")
    for slot in view.slots:
        table.add_row(
            slot["name"], str(slot["groups"]), f"{slot['mparams'] * 1e3:.1f}",
            f"{slot['mmacs']:.2f}", "yes" if slot["skippable"] else "no",
        )  # fmt: skip
    out.print(table)
    kind = "from a measured table" if view.is_measured else "estimated"
    for name, estimate in (("smallest", view.empty), ("full", view.full)):
        out.print(
            f"  {name} network, all classes: {interval_text(estimate.latency_ms, 'ms')} on "
            f"{view.device} ({kind}), {estimate.mparams:.3f} M parameters, "
            f"{estimate.mmacs:.1f} MMACs"
        )
    out.print(f"  the smallest network costs {view.empty_share:.1%} of the full latency ({kind})")
    names = [name.split(",")[0] for name in card["classes"]]
    out.print("  classes: " + ", ".join(names), markup=False)
    if view.superclasses:
        kinds = (f"{name} ({count})" for name, count in view.superclasses.items())
        out.print("  superclasses: " + ", ".join(kinds), markup=False)


modules.add_command(own_data.check_data)
modules.add_command(own_data.new_recipe)
for command in (foreign.import_network, foreign.similarity, foreign.partition, explain):
    modules.add_command(command)


@modules.command("train")
@click.argument("recipe")
@click.option("--data", "data_dir", type=options.PATH, required=True, help="Data folder.")
@click.option(
    "--run", "run_dir", type=options.PATH, help="Checkpoints and log [default: ./runs/<recipe>]."
)
@click.option("--resume", is_flag=True, help="Continue the run.")
@click.option(
    "--init",
    metavar="LIBRARY",
    help="Start from a published library [default: that of the recipe, if any].",
)
@click.option("--compute", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@skip_broken_option
def train_modules(
    recipe: str, data_dir: Path, run_dir: Path | None, resume: bool, init: str | None,
    compute: str, skip_broken: bool,
) -> None:  # fmt: skip
    """Train the supernet of a RECIPE (a shipped one by name, or a TOML file).

    \b
    nnfactory modules train tiny200 --data data/
    nnfactory modules train my.toml --data data/ --init fod31 --compute cuda
    torchrun --nproc-per-node 2 --no-python nnfactory modules train tiny200 --data data/
    """
    from .. import api

    folder = run_dir or Path("runs") / Path(recipe).stem
    try:
        with _training_progress() as report:
            api.train(
                recipe, data_dir=data_dir, run_dir=folder, resume=resume, init=init,
                compute=compute, skip_broken=skip_broken, report=report,
                note=_note,
            )  # fmt: skip
    except KeyboardInterrupt:
        if (folder / "checkpoint.safetensors").is_file():
            click.echo(f"checkpoint saved in {folder}; --resume continues it", err=True)
        raise
    if not _is_first_process():
        return
    click.echo(str(folder))
    skip = " --skip-broken" if skip_broken else ""
    click.echo(f"next: nnfactory modules publish {folder} --data {data_dir}{skip}", err=True)


def _note(text: str) -> None:
    if _is_first_process():
        click.echo(text, err=True)


def _is_first_process() -> bool:
    """Whether this is the only process of a training, or the first one under torchrun."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def _training_progress() -> Iterator[Callable[[TrainingStatus], None]]:
    """A bar with loss, metrics and time left; a line a minute where stderr is no terminal.

    Of the processes that torchrun started, the first one speaks.
    """
    if not _is_first_process():
        yield lambda status: None
        return
    if not sys.stderr.isatty():
        last = [0.0]

        def line(status: TrainingStatus) -> None:
            if time.monotonic() - last[0] > 60 or status.step == status.steps:
                last[0] = time.monotonic()
                click.echo(f"step {status.step}/{status.steps}  {_status_text(status)}", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn(),
        TextColumn("{task.description}"), console=Console(stderr=True),
    )  # fmt: skip
    with bar:
        task = bar.add_task("reading images", total=None)

        def update(status: TrainingStatus) -> None:
            bar.update(
                task, completed=status.step, total=status.steps, description=_status_text(status)
            )

        yield update


def _status_text(status: TrainingStatus) -> str:
    metric = ""
    if status.metric:
        metric = f"  validation {status.metric[0]:.3f} full, {status.metric[1]:.3f} half width"
    if status.phase == "teacher":
        return "fine-tuning the teacher"
    return f"loss {status.loss:.3f}{metric}"


@modules.command("publish")
@click.argument("run_or_import", metavar="RUN|NAME")
@click.option(
    "--data", "data_dir", type=options.PATH, required=True,
    help="Data folder of the run; or labelled images of an imported network's classes.",
)  # fmt: skip
@click.option("-o", "--out", "out_dir", type=options.PATH, help="Library folder [default: yours].")
@click.option("--compute", default="", metavar="TEXT", help="What trained it, for library.toml.")
@click.option("--overwrite", is_flag=True, help="Replace a library that is there.")
@skip_broken_option
def publish_modules(
    run_or_import: str, data_dir: Path, out_dir: Path | None, compute: str, overwrite: bool,
    skip_broken: bool,
) -> None:  # fmt: skip
    """Measure a trained supernet, or an imported network, and write it as a module library.

    \b
    nnfactory modules publish runs/fod31 --data data/ --out fod31 --compute "2 CPU cores"
    nnfactory modules publish r18 --data photos
    """
    from .. import api

    is_run = Path(run_or_import).is_dir() and run_or_import not in api.imported()
    if not is_run and (compute or skip_broken):
        raise click.UsageError("--compute and --skip-broken are for training runs.")
    with progress() as report:
        if is_run:
            folder = api.publish(
                Path(run_or_import), data_dir=data_dir, out_dir=out_dir, compute=compute,
                overwrite=overwrite, skip_broken=skip_broken, report=report,
            )  # fmt: skip
        else:
            folder = api.publish_import(
                run_or_import, data_dir, out_dir=out_dir, overwrite=overwrite, report=report
            )
    click.echo(str(folder))
