"""The neutral form of a user's data: images with a class or boxes, whatever the format on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .problems import Problem

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation",
    "validation": "validation", "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One object in an image.

    Attributes:
        label: Position of its class in the list of classes.
        x1: Left edge in pixels, counted from the left edge of the upright image.
        y1: Upper edge in pixels, counted from the upper edge of the upright image.
        x2: Right edge in pixels; a box as wide as its image reaches from 0 to the width.
        y2: Lower edge in pixels.
    """

    label: int
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One image and what its annotation says.

    Attributes:
        name: Path of the image, relative to the data folder, with "/"; how problems name it.
        source: The image file, or its bytes where it comes out of a pack.
        width: Width of the upright image in pixels; 0 if the file cannot be opened.
        height: Height of the upright image in pixels; 0 if the file cannot be opened.
        label: Position of its class (cls), or None.
        boxes: Its objects (det), as annotated: unchecked, in the order of the annotation.
        split: "train", "validation" or "test" if the data says so, else "".
    """

    name: str
    source: Path | bytes
    width: int
    height: int
    label: int | None = None
    boxes: tuple[Box, ...] = ()
    split: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Everything that a reader found in a data folder.

    Attributes:
        format: Name of the format.
        kind: "cls" or "det".
        classes: Class names in label order.
        records: The images with an annotation, sorted by name.
        problems: What could not be read or made no sense.
        notes: What the reader decided, one sentence each.
    """

    format: str
    kind: str
    classes: tuple[str, ...]
    records: tuple[Record, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def split_from_name(name: str) -> str:
    """The split that a folder or file is named after, such as "valid" or "train2017"; or ""."""
    return _SPLIT_NAMES.get(name.casefold().rstrip("0123456789"), "")


def class_positions(
    found: Iterable[str], wanted: Sequence[str], where: object
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The list of classes and the position of each.

    Args:
        found: Class names of the data, in their order.
        wanted: The list to use instead, or empty; other classes are unknown then.
        where: File or folder, for the message.

    Raises:
        DataError: There is no class, or a name is empty or occurs twice.
    """
    names = tuple(wanted) or tuple(str(name).strip() for name in found)
    if not names:
        raise DataError(f"{where} names no classes.")
    if not all(names):
        raise DataError(f"{where} names a class without a name.")
    positions = {name: index for index, name in enumerate(names)}
    if len(positions) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where} names the class {twice!r} twice.")
    return names, positions
