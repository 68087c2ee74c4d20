"""``modules import``: networks of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from . import options
from .output import console, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from ..api import DonorView


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
@click.option("--name", required=True, help="Under which it is known from now on.")
@click.option(
    "--labels", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with the name of every output, one a line, in order.",
)  # fmt: skip
@click.option("--mean", required=True, type=Triple(), help="Of pixels in [0, 1], per color.")
@click.option("--std", required=True, type=Triple(), help="The same; pixels are divided by it.")
@click.option("--colors", type=click.Choice(["RGB", "BGR"]), default="RGB", show_default=True)
@click.option("--license", "license_", default="", help="Of the weights, as SPDX names it.")
@click.option("--imgsz", type=click.IntRange(1), help="Input size, where the file leaves it open.")
@click.option("--overwrite", is_flag=True, help="Replace an imported network of that name.")
@options.json_option
def import_network(
    file: Path, name: str, labels: Path, mean: tuple[float, float, float],
    std: tuple[float, float, float], colors: str, license_: str, imgsz: int | None,
    overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Take in a pretrained network from an ONNX file, with what it needs to be told.

    How its images were normalized and what its outputs mean stands in no ONNX file, and a guess
    would be wrong without a sign of it, so both are asked for.

    \b
    nnfactory modules import r.onnx --name r --labels l.txt --mean 0.49,0.46,0.41 --std 0.2,0.2,0.2
    nnfactory modules import n.onnx --name n --labels l.txt --mean 0,0,0 --std 1,1,1 --colors BGR
    """
    from .. import api

    view = api.import_network(
        file, name=name, labels=labels, mean=mean, std=std, colors=colors, license=license_,
        input_size=imgsz, overwrite=overwrite,
    )  # fmt: skip
    if as_json:
        print_json(table_of(view))
        return
    _print_view(view)


def table_of(view: DonorView) -> dict[str, object]:
    """An imported network as JSON has it."""
    return {"kind": "imported"} | {key: getattr(view, key) for key in view.__dataclass_fields__}


def imported_table(views: Sequence[DonorView]) -> Table:
    """Imported networks, one a line."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("imported", "outputs", "input", "M params", "MMACs", "licence"):
        table.add_column(title)
    for view in views:
        table.add_row(
            escape(view.name), str(len(view.labels)), f"{view.input_size} px",
            f"{view.mparams:.3f}", f"{view.mmacs:.1f}", escape(view.license) or "not stated",
        )  # fmt: skip
    return table


def _print_view(view: DonorView) -> None:
    out = console()
    out.print(f"{view.name}: {view.folder}", markup=False)
    out.print(
        f"  {view.input_size} px, {len(view.labels)} outputs, {view.mparams:.3f} M parameters, "
        f"{view.mmacs:.1f} MMACs; licence: {view.license or 'not stated'}",
        markup=False,
    )
    out.print(f"  {view.removable} removable channel groups, {view.cut_points} cut points")
    for name, operator in view.not_understood.items():
        out.print(f"  not understood, so nothing around it is cut: {operator} {name}", markup=False)
