"""``modules import``, ``similarity`` and ``partition``: networks of others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from ..factory.errors import NNFactoryError
from . import options
from .output import console, print_json, progress

if TYPE_CHECKING:
    from rich.table import Table

    from ..api import DonorView, Likeness


class Triple(click.ParamType[tuple[float, ...]]):
    """Three numbers with commas between them."""

    name = "R,G,B"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[float, ...]:
        """The numbers."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != 3:
            self.fail(f"{value!r} must be three numbers such as 0.485,0.456,0.406.", param, context)
        return numbers


@click.command("import", short_help="Take in a pretrained network from an ONNX file.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="Under which it is known from now on.")
@click.option(
    "--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with the name of every output, one a line, in order.",
)  # fmt: skip
@click.option("--mean", type=Triple(), help="Of pixels in [0, 1], per color.")
@click.option("--std", type=Triple(), help="The same; pixels are divided by it.")
@click.option("--colors", type=click.Choice(["RGB", "BGR"]), help="Their order.  [default: RGB]")
@click.option("--license", help="Of the weights, as SPDX names it.")
@click.option(
    "--imgsz", "input_size", type=click.IntRange(1), help="Input size, if the file leaves it open."
)
@click.option(
    "--card", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A TOML file with the same, by these names; options count more.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an imported network of that name.")
@options.json_option
def import_network(
    file: Path, card: Path | None, overwrite: bool, as_json: bool, **said: Any
) -> None:
    """Take in a pretrained network from an ONNX file, with what it needs to be told.

    How its images were normalized and what its outputs mean stands in no ONNX file, and a guess
    would be wrong without a sign of it, so both are asked for.

    \b
    nnfactory modules import r.onnx --name r --labels l.txt --mean 0.49,0.46,0.41 --std 0.2,0.2,0.2
    nnfactory modules import n.onnx --card n.toml --name other
    """
    from .. import api

    known = {} if card is None else api.read_import_card(card)
    known |= {key: value for key, value in said.items() if value is not None}
    missing = [f"--{key}" for key in ("name", "labels", "mean", "std") if key not in known]
    if missing:
        raise click.UsageError(
            f"Missing {', '.join(missing)}: what no ONNX file says and nobody should guess."
        )
    view = api.import_network(file, overwrite=overwrite, **known)
    if as_json:
        print_json(table_of(view.name, view))
        return
    _print_view(view)


_data = click.option(
    "--data", required=True, type=options.PATH, metavar="DIR",
    help="Labelled images, in any format that 'modules check' reads.",
)  # fmt: skip
_images = click.option(
    "--images", type=click.IntRange(8, 512), default=256, show_default=True,
    help="Looked at, at most.",
)  # fmt: skip


_measure = click.option(
    "--measure", type=click.Choice(["cka", "r2"]), default="cka", show_default=True,
    help="Linear CKA, or what regression explains of one by the other on other images.",
)  # fmt: skip


@click.command(short_help="How alike imported networks are, as a heat map.")
@click.argument("pool", metavar="A,B,..")
@_data
@_images
@_measure
@click.option("--plot", type=options.PATH, metavar="FILE", help="A picture: .png or .svg.")
@options.json_option
def similarity(
    pool: str, data: Path, images: int, measure: str, plot: Path | None, as_json: bool
) -> None:
    """How alike imported networks are wherever they can be taken apart.

    \b
    nnfactory modules similarity r18,mobilenet --data photos --plot similarity.png
    nnfactory modules similarity r18,mobilenet,net --data photos --images 512 --json
    """
    from .. import api

    if plot is not None:
        api.check_picture(plot)
    with progress() as report:
        likeness = api.similarity(
            options.names_in(pool), data, images=images, measure=measure, report=report
        )
    if plot is not None:
        api.draw_similarity(likeness, plot)
    if as_json:
        print_json({key: getattr(likeness, key) for key in likeness.__dataclass_fields__})
        return
    _print_similarity(likeness)
    if plot is not None:
        console().print(f"drawn: {plot}", markup=False)


def _print_similarity(likeness: Likeness) -> None:
    """Per two networks how well the places of one are met in the other, in the mean."""
    from rich.table import Table

    from .. import api

    table = Table(box=None, pad_edge=False)
    for title in ("network", "places", *(f"best in {name}" for name in likeness.networks)):
        table.add_column(title)
    start = 0
    for name, places in zip(likeness.networks, likeness.places, strict=True):
        cells = []
        column = 0
        for other, others in zip(likeness.networks, likeness.places, strict=True):
            rows = likeness.values[start + 1 : start + len(places)]
            best = [max(row[column + 1 : column + len(others)]) for row in rows]
            column += len(others)
            cells.append("" if other == name else f"{sum(best) / len(best):.2f}")
        table.add_row(escape(name), str(len(places) - 1), *cells)
        start += len(places)
    console().print(table)
    console().print(
        f"mean over the places of a network of the greatest {api.MEASURES[likeness.measure]} in "
        f"another one, "
        f"{likeness.images} images"
    )


@click.command(short_help="Take imported networks apart into blocks that correspond.")
@click.argument("pool", metavar="A,B,..")
@_data
@_images
@_measure
@click.option("--blocks", type=click.IntRange(1), default=4, show_default=True)
@options.json_option
def partition(pool: str, data: Path, images: int, measure: str, blocks: int, as_json: bool) -> None:
    """Take imported networks apart into blocks that correspond in what goes in and comes out.

    \b
    nnfactory modules partition r18,mobilenet --data photos
    nnfactory modules partition r18,mobilenet,net --data photos --blocks 3 --json
    """
    from .. import api

    with progress() as report:
        names = options.names_in(pool)
        view = api.partition(
            names, data, images=images, blocks=blocks, measure=measure, report=report
        )
    if as_json:
        print_json({key: getattr(view, key) for key in view.__dataclass_fields__})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("network", *(f"block {k + 1}" for k in range(blocks))):
        table.add_column(title)
    for name, borders, shares in zip(view.networks, view.borders, view.shares, strict=True):
        cells = [f"to {escape(b)}, {s:.0%}" for b, s in zip(borders[1:], shares, strict=True)]
        table.add_row(escape(name), *cells)
    table.add_row("anchor", *map(escape, view.anchors))
    console().print(table)
    is_proven = view.bound <= view.objective + 1e-6
    console().print(
        f"ends of the blocks and shares of the parameters; similarity to the anchors "
        f"{view.objective:.2f} of {2 * blocks * len(view.networks)}, "
        f"{'the greatest there is' if is_proven else f'at most {view.bound:.2f} exist'}; "
        f"{view.images} images"
    )


def table_of(name: str, view: DonorView | NNFactoryError) -> dict[str, object]:
    """An imported network as JSON has it; of a damaged one the error."""
    if isinstance(view, NNFactoryError):
        return {"kind": "imported", "name": name, "error": str(view)}
    return {"kind": "imported"} | {key: getattr(view, key) for key in view.__dataclass_fields__}


def imported_table(views: Mapping[str, DonorView | NNFactoryError]) -> Table:
    """Imported networks, one a line."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("imported", "outputs", "input", "M params", "MMACs", "licence"):
        table.add_column(title)
    for name, view in views.items():
        if isinstance(view, NNFactoryError):
            table.add_row(escape(name), "", "", "", "damaged", escape(str(view)))
            continue
        table.add_row(
            escape(view.name), str(len(view.labels)), f"{view.input_size} px",
            f"{view.mparams:.3f}", f"{view.mmacs:.1f}", escape(view.license) or "not stated",
        )  # fmt: skip
    return table


def _print_view(view: DonorView) -> None:
    out = console()
    out.print(f"{view.name}: {view.folder}", markup=False)
    out.print(
        f"  {view.input_size} px {view.colors}, {len(view.labels)} outputs, "
        f"{view.mparams:.3f} M parameters, {view.mmacs:.1f} MMACs; "
        f"licence: {view.license or 'not stated'}",
        markup=False,
    )
    out.print(f"  {view.removable} removable channel groups, {view.cut_points} cut points")
    for name, operator in view.not_understood.items():
        out.print(f"  not understood, so nothing around it is cut: {operator} {name}", markup=False)
