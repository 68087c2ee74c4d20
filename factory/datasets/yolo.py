"""YOLO: a text file per image with class and box as fractions, and the names in data.yaml."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError, MissingExtraError
from .files import ImageFiles, image_files, upright_size
from .problems import Problem, problem
from .records import Box, Listing, Record, class_positions, split_from_name

_NAME_FILES = ("classes.txt", "labels/classes.txt", "obj.names")
_YAML_SPLITS = ("train", "val", "valid", "test")


def label_files(folder: Path) -> dict[str, Path]:
    """The label files by their name without ".txt": all below a folder named "labels"."""
    found = {}
    for place in sorted({*folder.glob("labels"), *folder.glob("*/labels")}):
        for path in sorted(place.rglob("*.txt")):
            if path.name != "classes.txt" and not path.name.startswith("."):
                found[path.relative_to(folder).with_suffix("").as_posix()] = path
    return found


def names_file(folder: Path) -> Path | None:
    """The file with the class names: data.yaml, another yaml file with names, or classes.txt."""
    texts = [folder / name for name in _NAME_FILES]
    yamls = [
        path
        for path in sorted({*folder.glob("*.yaml"), *folder.glob("*.yml")})
        if "names" in path.read_text(encoding="utf-8", errors="replace")
    ]
    preferred = [path for path in yamls if path.stem in ("data", "dataset")]
    return next(iter([*preferred, *yamls, *(path for path in texts if path.is_file())]), None)


def read_yolo(folder: Path, classes: Sequence[str] = ()) -> Listing:
    """The images and boxes of a YOLO data set.

    The labels of ``…/images/x.jpg`` are in ``…/labels/x.txt``, one box per line: class, center x,
    center y, width and height as fractions of the image; a polygon stands for the box around it.
    An empty file is an image without objects. The split is what data.yaml says of a folder or a
    list of files, else the folder's name.

    Args:
        folder: Holds images, labels and the class names.
        classes: The list of classes to use; by default all names in their order.

    Raises:
        DataError: There are no class names or no labels, or data.yaml is malformed.
        MissingExtraError: There is a data.yaml and PyYAML is not installed.
    """
    listed = names_file(folder)
    labels, files = label_files(folder), image_files(folder)
    if listed is None or not labels:
        raise DataError(f"{folder} holds no YOLO labels with class names.")
    table = _yaml_table(listed) if listed.suffix != ".txt" and listed.suffix != ".names" else None
    in_order = _names_from_text(listed) if table is None else _names_from_yaml(table, listed)
    names, positions = class_positions(in_order, classes, listed.name)
    splits = {} if table is None else _yaml_splits(table, folder, files)
    records: list[Record] = []
    problems: list[Problem] = []
    for name, path in files.paths.items():
        label = labels.get(_label_name(name))
        if label is None:
            problems.append(problem("no-annotation", name, "there is no label file"))
            continue
        width, height = upright_size(path)
        boxes, wrong = _boxes(label, name, (width, height), in_order, positions)
        problems += wrong
        if any(found.scope == "image" for found in wrong):
            continue
        split = splits.get(name) or _folder_split(name)
        records.append(
            Record(name=name, source=path, width=width, height=height, boxes=boxes, split=split)
        )
    used = set(map(_label_name, files.paths))
    problems += [
        problem("missing-image", f"{name}.txt", "there is no image of its name")
        for name in labels
        if name not in used
    ]
    return Listing(
        format="yolo", kind="det", classes=names, records=tuple(records), problems=tuple(problems)
    )


def _label_name(image: str) -> str:
    """The name that an image's label file has, without ".txt"; "" if there is no images folder."""
    parts = list(PurePosixPath(image).with_suffix("").parts)
    if "images" not in parts[:-1]:
        return ""
    last = len(parts) - 2 - parts[-2::-1].index("images")
    return "/".join([*parts[:last], "labels", *parts[last + 1 :]])


def _folder_split(image: str) -> str:
    """The split that a folder above an image is named after, or ""."""
    return next(filter(None, map(split_from_name, image.split("/")[:-1])), "")


def _boxes(
    path: Path,
    image: str,
    extent: tuple[int, int],
    in_order: Sequence[str],
    positions: Mapping[str, int],
) -> tuple[tuple[Box, ...], list[Problem]]:
    """The boxes of a label file in pixels of an image of ``extent`` (width, height)."""
    boxes, problems = [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        return (), [problem("bad-annotation", image, f"{path.name}: {error}")]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = _box(line.split(), extent, in_order, positions)
        if isinstance(found, Box):
            boxes.append(found)
        else:
            code, message = found
            problems.append(problem(code, image, f"line {number} of {path.name}: {message}"))
    return tuple(boxes), problems


def _box(
    words: list[str],
    extent: tuple[int, int],
    in_order: Sequence[str],
    positions: Mapping[str, int],
) -> Box | tuple[str, str]:
    """The box of a line, or the code and the message of what is wrong with it."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return "bad-box", f"{' '.join(words)!r} are not all numbers"
    is_polygon = len(values) >= 7 and len(values) % 2 == 1
    if not all(map(math.isfinite, values)) or (len(values) != 5 and not is_polygon):
        return "bad-box", f"must be a class and 4 numbers, got {' '.join(words)[:60]!r}"
    if values[0] not in range(len(in_order)):
        return "unknown-class", f"class {words[0]}, but there are {len(in_order)} names"
    name = str(in_order[int(values[0])]).strip()
    if name not in positions:
        return "unknown-class", f"{name!r} is not in the list of classes"
    width, height = extent
    if is_polygon:
        x1, x2 = min(values[1::2]), max(values[1::2])
        y1, y2 = min(values[2::2]), max(values[2::2])
    else:
        x, y, w, h = values[1:]
        x1, y1, x2, y2 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return Box(label=positions[name], x1=x1 * width, y1=y1 * height, x2=x2 * width, y2=y2 * height)


def _names_from_text(path: Path) -> list[str]:
    """One class name per line."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _yaml_table(path: Path) -> dict[str, Any]:
    """The contents of a yaml file."""
    if importlib.util.find_spec("yaml") is None:
        raise MissingExtraError.of("train", purpose=f"Reading {path.name}")
    yaml = importlib.import_module("yaml")
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path.name} is no yaml file: {error}.") from error
    if not isinstance(table, dict):
        raise DataError(f"{path.name} must be a table with 'names', got {type(table).__name__}.")
    return table


def _names_from_yaml(table: Mapping[str, Any], path: Path) -> list[str]:
    """The class names in label order, from a list or from a mapping of label to name."""
    names = table.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(f"{path.name}: the keys of 'names' must be 0, 1, 2, …")
        names = [names[label] for label in range(len(names))]
    if not isinstance(names, list):
        raise DataError(f"{path.name}: 'names' must be a list or a mapping of class names.")
    if table.get("nc", len(names)) != len(names):
        raise DataError(f"{path.name}: 'nc' is {table['nc']!r}, but there are {len(names)} names.")
    return [str(name) for name in names]


def _yaml_splits(table: Mapping[str, Any], folder: Path, files: ImageFiles) -> dict[str, str]:
    """Split per image, where data.yaml names folders or lists of files that are there."""
    roots = [folder / str(table.get("path") or "."), folder]
    splits: dict[str, str] = {}
    for key in _YAML_SPLITS:
        written = table.get(key) or []
        for entry in [written] if isinstance(written, str) else written:
            for name in _images_of(str(entry), roots, folder, files):
                splits.setdefault(name, split_from_name(key))
    return splits


def _images_of(entry: str, roots: list[Path], folder: Path, files: ImageFiles) -> Iterator[str]:
    """The images in the folder, or in the list of files, that an entry of data.yaml names."""
    place = next((root / entry for root in roots if (root / entry).exists()), None)
    if place is None:
        return
    if place.is_file() and place.suffix == ".txt":
        for line in place.read_text(encoding="utf-8-sig").split():
            yield from files.matching(line)
        return
    inside = place.resolve()
    for name in files.paths:
        if (folder.resolve() / name).is_relative_to(inside):
            yield name
