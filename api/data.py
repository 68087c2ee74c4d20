"""A user's own data: the check of a folder, and a recipe that trains on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..factory.errors import UsageError
from .pipeline import Report, silent

if TYPE_CHECKING:
    from ..factory.datasets import Inventory


def check_data(
    data_dir: Path,
    *,
    task: str = "",
    format: str = "",
    input_size: int = 0,
    report: Report = silent,
) -> Inventory:
    """Read, check and split a folder of labelled images; nothing is written.

    Args:
        data_dir: The data.
        task: "cls" or "det"; by default what the format holds.
        format: "coco", "yolo", "voc", "imagefolder" or "pack"; by default it is recognised.
        input_size: Side of the network's input in pixels, to find boxes that are too small
            there; by default 256.
        report: Called with ("check", done, total) images.

    Raises:
        DataError: No format fits, the files are malformed, or no image can be used. Errors of
            single images and boxes are in the answer.
        UsageError: The format has no data for the task.
        MissingExtraError: There is a data.yaml and PyYAML is not installed.
    """
    from ..factory.datasets import take_inventory
    from ..factory.own_recipe import INPUT_SIZE

    return take_inventory(
        data_dir, format=format, kind=task, input_size=input_size or INPUT_SIZE["det"],
        report=report,
    )  # fmt: skip


def new_recipe(
    name: str,
    *,
    data_dir: Path,
    path: Path | None = None,
    task: str = "",
    format: str = "",
    title: str = "",
    license: str = "",
    input_size: int = 0,
    epochs: int = 0,
    overwrite: bool = False,
    report: Report = silent,
) -> Inventory:
    """Check a folder of labelled images and write a recipe that trains on it; what was found.

    The recipe is written whatever errors single images and boxes have: training refuses them.

    Args:
        name: Name of the library to be: letters, digits, ".", "_" and "-".
        data_dir: The data.
        path: The recipe's file; by default ``./<name>.toml``.
        task: As in :func:`check_data`.
        format: As in :func:`check_data`.
        title: One line for people; by default the number of classes.
        license: Licence and conditions of the trained weights; by default "not stated".
        input_size: Side of the network's input in pixels; by default 256 (det) or 32 (cls).
        epochs: Passes over the training images; by default as many as the shipped recipes take
            steps for, 300 at most.
        overwrite: Replace the file if it is there.
        report: Called with ("check", done, total) images.

    Raises:
        SpecError: The name or the input size is not allowed.
        UsageError: ``path`` is no ``.toml`` file or exists, or the format has no data for the
            task.
        DataError: As in :func:`check_data`, or there are too few classes or images.
    """
    from ..factory.own_recipe import RecipeRequest, recipe_from_inventory, recipe_text

    request = RecipeRequest(
        name=name, title=title, license=license, input_size=input_size, epochs=epochs
    )
    place = path or Path(f"{name}.toml")
    if place.suffix != ".toml":
        raise UsageError(f"A recipe is a .toml file, got {place}.", hints=[f"-o {place}.toml"])
    if place.exists() and not overwrite:
        raise UsageError(f"{place} exists already.", hints=["--overwrite replaces it"])
    inventory = check_data(
        data_dir, task=task, format=format, input_size=input_size, report=report
    )
    text = recipe_text(recipe_from_inventory(inventory, request))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
    return inventory
