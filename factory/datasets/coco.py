"""COCO: one or more json files with images, annotations and categories, and a folder of images."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from .files import ImageFiles, image_files, size_problem, upright_size
from .problems import Problem, problem
from .records import Box, Listing, Record, class_positions, split_from_name

_KEYS = ("images", "annotations", "categories")
# Where the image of an entry is: its name and its file, or what is wrong with the entry.
Locate = Callable[[Mapping[str, Any], int], "tuple[str, Path | bytes] | Problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoTable:
    """One parsed annotation file.

    Attributes:
        name: Its path relative to the data folder, with "/".
        images: Its images, as written.
        annotations: Its annotations, as written.
        categories: Class name by category id.
        split: The split that the file or its folder is named after, or "".
    """

    name: str
    images: Sequence[Mapping[str, Any]]
    annotations: Sequence[Mapping[str, Any]]
    categories: Mapping[int, str]
    split: str


def coco_files(folder: Path) -> list[Path]:
    """The annotation files at the top of a folder and one level below, without parsing them."""
    keys = [f'"{key}"'.encode() for key in _KEYS]
    found = []
    for path in sorted({*folder.glob("*.json"), *folder.glob("*/*.json")}):
        content = path.read_bytes()
        if all(key in content for key in keys):
            found.append(path)
    return found


def read_coco(folder: Path, classes: Sequence[str] = ()) -> Listing:
    """The images and boxes of a COCO data set.

    A file's split is that of its name ("instances_train2017.json") or folder
    ("valid/_annotations.coco.json"); a ``split`` at an image goes first.

    Args:
        folder: Holds the annotation files, at the top or one level below, and the images.
        classes: The list of classes to use; by default the categories in their order.

    Raises:
        DataError: There is no annotation file, one is malformed, or two annotate the same image.
    """
    files = image_files(folder)
    tables = [parse_coco(path, folder) for path in coco_files(folder)]
    if not tables:
        raise DataError(f"{folder} holds no COCO annotation file.")
    listed = dict.fromkeys(name for table in tables for name in table.categories.values())
    names, positions = class_positions(listed, classes, folder)
    records: dict[str, Record] = {}
    problems: list[Problem] = []
    for table in tables:
        found, wrong = records_from_table(table, positions, _locator(files, table))
        for record in found:
            if record.name in records:
                raise DataError(
                    f"{record.name} is annotated twice, the second time in {table.name}.",
                    hints=["keep one annotation per image, and one file of boxes per split"],
                )
            records[record.name] = record
        problems += wrong
    named = {*records, *(found.file for found in problems)}
    problems += [
        problem("no-annotation", name, "no annotation file lists this image")
        for name in files.paths
        if name not in named
    ]
    return Listing(
        format="coco", kind="det", classes=names,
        records=tuple(records[name] for name in sorted(records)), problems=tuple(problems),
    )  # fmt: skip


def parse_coco(path: Path, folder: Path) -> CocoTable:
    """Read one annotation file.

    Args:
        path: The file.
        folder: The data folder, for the name.

    Raises:
        DataError: It is no COCO file.
    """
    name = path.relative_to(folder).as_posix()
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        images, notes, categories = (list(table[key]) for key in _KEYS)
        by_id = {entry["id"]: str(entry["name"]).strip() for entry in categories}
        ids = {entry["id"] for entry in images}
        for note in notes:
            _ = note["image_id"], note["category_id"], note["bbox"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{name} is no COCO file of boxes: {error!r}.") from error
    if len(by_id) != len(categories) or len(set(by_id.values())) != len(categories):
        raise DataError(f"{name} lists a category twice.")
    if len(ids) != len(images):
        raise DataError(f"{name} lists an image id twice.")
    return CocoTable(
        name=name, images=images, annotations=notes, categories=by_id, split=_split_of(path, folder)
    )


def records_from_table(
    table: CocoTable, positions: Mapping[str, int], locate: Locate
) -> tuple[list[Record], list[Problem]]:
    """The images of one annotation file, and what is wrong with it.

    Args:
        table: The parsed file.
        positions: Position of every class by its name.
        locate: Finds the image of an entry.
    """
    records = []
    boxes, problems = _boxes(table, positions)
    for index, entry in enumerate(table.images):
        place = locate(entry, index)
        if isinstance(place, Problem):
            problems.append(place)
            continue
        name, source = place
        width, height = upright_size(source)
        stated = (entry.get("width"), entry.get("height"))
        found = size_problem(name, stated, (width, height))
        if found:
            problems.append(found)
            continue
        records.append(
            Record(
                name=name,
                source=source,
                width=width,
                height=height,
                boxes=tuple(boxes[entry["id"]]),
                split=_entry_split(entry, table),
            )  # fmt: skip
        )
    return records, problems


def _split_of(path: Path, folder: Path) -> str:
    """The split that a file is named after, or else its folder."""
    words = [word for word in re.split(r"[^a-z0-9]+", path.stem.casefold()) if word]
    places = [path.parent.name] if path.parent != folder else []
    return next(filter(None, map(split_from_name, [*words, *places])), "")


def _entry_split(entry: Mapping[str, Any], table: CocoTable) -> str:
    """The split of an image: its own field, or that of the file."""
    written = str(entry.get("split") or "")
    if not written:
        return table.split
    split = split_from_name(written)
    if not split:
        raise DataError(
            f"{table.name} gives an image the split {written!r}: it must be 'train', 'val' or "
            "'test'."
        )
    return split


def _locator(files: ImageFiles, table: CocoTable) -> Locate:
    """Finds images among the files; of several it takes those near the annotation file."""
    path = Path(table.name)
    near = (*path.parts[:-1], *re.split(r"[^A-Za-z0-9]+", path.stem), table.split)

    def locate(entry: Mapping[str, Any], index: int) -> tuple[str, Path | bytes] | Problem:
        wanted = str(entry.get("file_name", ""))
        found = files.matching(wanted, near=near) if wanted else []
        if len(found) == 1:
            return found[0], files.paths[found[0]]
        if not found:
            return problem("missing-image", wanted or f"image {entry['id']}", f"in {table.name}")
        return problem("missing-image", wanted, f"in {table.name}: may be {' or '.join(found)}")

    return locate


def _boxes(
    table: CocoTable, positions: Mapping[str, int]
) -> tuple[dict[int, list[Box]], list[Problem]]:
    """Boxes by image id, and what is wrong with the others."""
    files = {entry["id"]: str(entry.get("file_name", entry["id"])) for entry in table.images}
    boxes: dict[int, list[Box]] = {key: [] for key in files}
    problems = []
    for index, note in enumerate(table.annotations):
        where = f"annotation {note.get('id', index)}"
        file = files.get(note["image_id"])
        if file is None:
            message = f"{where} is of image id {note['image_id']!r}, which is not listed"
            problems.append(problem("missing-image", table.name, message))
            continue
        found = _box(note, table.categories, positions)
        if isinstance(found, Box):
            boxes[note["image_id"]].append(found)
        else:
            code, message = found
            problems.append(problem(code, file, f"{where}: {message}"))
    return boxes, problems


def _box(
    note: Mapping[str, Any], categories: Mapping[int, str], positions: Mapping[str, int]
) -> Box | tuple[str, str]:
    """The box of an annotation, or the code and the message of what is wrong with it."""
    name = categories.get(note["category_id"])
    if name is None:
        return "unknown-class", f"category id {note['category_id']!r} is not listed"
    if name not in positions:
        return "unknown-class", f"{name!r} is not in the list of classes"
    if note.get("iscrowd"):
        return "crowd", f"a crowd of {name!r}"
    try:
        x, y, width, height = (float(value) for value in note["bbox"])
    except (TypeError, ValueError):
        return "bad-box", f"bbox must be [x, y, width, height], got {note['bbox']!r}"
    if not all(map(math.isfinite, (x, y, width, height))):
        return "bad-box", f"bbox must be finite, got {note['bbox']!r}"
    return Box(label=positions[name], x1=x, y1=y, x2=x + width, y2=y + height)
