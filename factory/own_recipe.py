"""A training recipe for a user's own data, in the shape of a shipped one."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .datasets import Inventory
from .errors import DataError, SpecError

if TYPE_CHECKING:
    from .supernet.recipe import Architecture, Recipe

NOT_STATED = "not stated"
SHAPES = {"det": "fod31", "cls": "tiny200"}  # the shipped recipe whose shape is taken, per task
INPUT_SIZE = {"det": 256, "cls": 32}  # pixels, where nothing else is asked for
SIZES = (64, 1024)  # pixels, that a detector may have; a classifier may be half as large
STEPS = {"det": 6000, "cls": 9000}  # of training, where no number of epochs is asked for
MOST_EPOCHS = 300
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRequest:
    """What is asked for of a new recipe.

    Attributes:
        name: Name of the library: letters, digits, ".", "_" and "-".
        title: One line for people; "" says how many classes there are.
        license: Licence and conditions of the trained weights; "" is written as "not stated".
        input_size: Height and width of the network's input, in pixels; 0 is 256 (det) or 32 (cls).
        epochs: Passes over the training images; 0 is as many as make about 6000 (det) or 9000
            (cls) steps, and no more than 300.
    """

    name: str
    title: str = ""
    license: str = ""
    input_size: int = 0
    epochs: int = 0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SpecError(
                "RecipeRequest.name must be letters, digits, '.', '_' and '-', and begin with a "
                f"letter or digit, got {self.name!r}."
            )
        if self.epochs < 0:
            raise SpecError(f"RecipeRequest.epochs must be positive, got {self.epochs}.")


def recipe_from_inventory(inventory: Inventory, request: RecipeRequest) -> Recipe:
    """The recipe for a data folder: the shape of ``fod31`` (det) or ``tiny200`` (cls).

    Raises:
        SpecError: The input size does not fit the shape.
        DataError: There are too few classes or training images.
    """
    from .supernet.recipe import Recipe, load_recipe

    shape = load_recipe(SHAPES[inventory.kind])
    classes, images = inventory.classes, len(inventory.parts["train"])
    if inventory.kind == "cls" and len(classes) < 2:
        raise DataError(f"{inventory.folder} has one class; to tell classes apart needs two.")
    if images < 2:
        raise DataError(f"{inventory.folder} has {images} images for training: 2 are the least.")
    size = request.input_size or INPUT_SIZE[inventory.kind]
    batch = _batch(images, shape.training.batch)
    epochs = request.epochs or _epochs(images, batch, STEPS[inventory.kind])
    examples = "objects" if inventory.kind == "det" else "images"
    return Recipe(
        name=request.name,
        title=request.title or f"{examples.capitalize()} of {len(classes)} classes",
        architecture=replace(_resized(shape.architecture, size), classes=len(classes)),
        training=replace(shape.training, epochs=epochs, batch=batch),
        data=_data_table(inventory),
        weights_license=request.license or NOT_STATED,
    )


def recipe_text(recipe: Recipe) -> str:
    """The recipe as TOML, the form that ``modules train`` reads."""
    from .supernet.recipe import table_from_recipe
    from .toml_files import toml_text

    table: dict[str, Any] = table_from_recipe(recipe)
    head = {key: table[key] for key in ("name", "title", "weights_license")}
    return (
        f"{toml_text(head)}\n"
        "# Name, origin and license go into the library and into every artifact: state them here.\n"
        "# Labels are counted in the order of the classes; the split does not change when images\n"
        "# are added.\n"
        f"[data]\n{toml_text(table['data'])}\n"
        f"[architecture]\n{_one_per_line(toml_text(table['architecture']))}\n"
        f"[training]\n{toml_text(table['training'])}"
    )


def _one_per_line(text: str) -> str:
    """TOML with every inline table of a list on a line of its own."""
    return text.replace("[{", "[\n    {").replace("}, {", "},\n    {").replace("}]", "},\n]")


def _data_table(inventory: Inventory) -> dict[str, Any]:
    """``[data]`` of the recipe."""
    name = inventory.folder.resolve().name
    return {
        "folder": name, "name": name, "origin": NOT_STATED, "license": NOT_STATED,
        "format": inventory.format, "split": inventory.split, "classes": list(inventory.classes),
    }  # fmt: skip


def _batch(images: int, most: int) -> int:
    """Images per step: as in the shape, but at least four steps per epoch of a small set."""
    batch = most
    while batch > 2 and batch * 4 > images:
        batch //= 2
    return batch


def _epochs(images: int, batch: int, steps: int) -> int:
    """Epochs that make about so many steps."""
    return max(1, min(MOST_EPOCHS, round(steps / (images // batch))))


def _resized(shape: Architecture, size: int) -> Architecture:
    """The architecture for another input size, with two smaller sizes for training if they fit.

    A classifier's stem keeps the resolution of small images; of larger ones it takes every second
    or fourth pixel.
    """
    stride, kernel = shape.stem_stride, shape.stem_kernel
    if shape.kind == "cls":
        stride = 1 if size < 64 else 2 if size < 128 else 4
        kernel = 4 if stride == 4 else 3
    step = stride << len(shape.stages)
    least = SIZES[0] if shape.kind == "det" else SIZES[0] // 2
    if size % step or not least <= size <= SIZES[1]:
        near = min(SIZES[1], max(least, round(size / step) * step))
        raise SpecError(
            f"--imgsz {size}: the input of this network must be a multiple of {step} pixels in "
            f"{least}..{SIZES[1]}.",
            hints=[f"--imgsz {near}"],
        )
    smaller = {round(size * share / step) * step for share in (0.75, 0.5)}
    sizes = sorted({size, *(s for s in smaller if s >= 2 * step)}, reverse=True)
    return replace(
        shape, input_size=size, input_sizes=tuple(sizes), stem_stride=stride, stem_kernel=kernel
    )
