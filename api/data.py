"""A user's own data: the check of a folder, and a recipe that trains on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..factory.errors import UsageError
from .request import Report, silent

if TYPE_CHECKING:
    from ..factory.datasets import Inventory, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class DataView:
    """What ``modules check`` and ``modules new`` print.

    Attributes:
        folder: The data folder.
        format: Name of its format.
        task: "cls" or "det".
        classes: Class names in label order.
        images: Images that can be used per split: "train", "validation" and "test".
        examples: Per split the images (cls) or boxes (det) of every class, in label order.
        split: The split policy, as a recipe keeps it.
        split_text: The same for people.
        notes: What was decided while reading, one sentence each.
        problems: Everything that was found, errors first.
    """

    folder: str
    format: str
    task: str
    classes: tuple[str, ...]
    images: Mapping[str, int]
    examples: Mapping[str, tuple[int, ...]]
    split: str
    split_text: str
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make an image, a box or the data as a whole unusable."""
        return tuple(found for found in self.problems if found.severity == "error")


def check_data(
    data_dir: Path,
    *,
    task: str = "",
    format: str = "",
    input_size: int = 0,
    report: Report = silent,
) -> DataView:
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
    return _view(_inventory(data_dir, task, format, input_size, report))


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
) -> DataView:
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
    inventory = _inventory(data_dir, task, format, input_size, report)
    text = recipe_text(recipe_from_inventory(inventory, request))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
    return _view(inventory)


def _inventory(
    data_dir: Path, task: str, format: str, input_size: int, report: Report
) -> Inventory:
    from ..factory.datasets import take_inventory
    from ..factory.own_recipe import INPUT_SIZE

    return take_inventory(
        data_dir, format=format, kind=task, input_size=input_size or INPUT_SIZE["det"],
        report=report,
    )  # fmt: skip


def _view(inventory: Inventory) -> DataView:
    return DataView(
        folder=str(inventory.folder), format=inventory.format, task=inventory.kind,
        classes=inventory.classes,
        images={split: len(records) for split, records in inventory.parts.items()},
        examples={split: inventory.counts(split) for split in inventory.parts},
        split=inventory.split, split_text=inventory.split_text, notes=inventory.notes,
        problems=tuple(sorted(inventory.problems, key=lambda p: (p.severity, p.code))),
    )  # fmt: skip
