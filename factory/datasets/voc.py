"""Pascal VOC: an xml file per image in Annotations, the images in JPEGImages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ..errors import DataError
from .files import ImageFiles, image_files, size_problem, upright_size
from .problems import Problem, problem
from .records import Box, Listing, Record, class_positions, split_from_name

_LISTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class _Object:
    """One object as written: its class and xmin, ymin, xmax, ymax."""

    name: str
    corners: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class _Note:
    """One xml file: the image it names, the size it states, its objects, what is wrong in it."""

    path: Path
    file_name: str
    stated: tuple[int | None, int | None]
    objects: tuple[_Object, ...]
    wrong: tuple[str, ...]


def annotation_files(folder: Path) -> list[Path]:
    """The annotation files of a folder."""
    found = sorted((folder / "Annotations").glob("*.xml"))
    return [path for path in found if not path.name.startswith(".")]


def read_voc(folder: Path, classes: Sequence[str] = ()) -> Listing:
    """The images and boxes of a Pascal VOC data set.

    Corners are pixels counted from 1, both ends included, as in the VOC development kit; where
    some box starts at 0 they are taken as edges counted from 0, and a note says so. Splits are
    the lists ``ImageSets/Main/train.txt``, ``val.txt`` and ``test.txt``, if they are there.

    Args:
        folder: Holds ``Annotations``, ``JPEGImages`` and perhaps ``ImageSets/Main``.
        classes: The list of classes to use; by default every name that occurs, sorted.

    Raises:
        DataError: There are no annotation files, or no object in any.
    """
    paths = annotation_files(folder)
    if not paths:
        raise DataError(f"{folder} holds no xml file in Annotations.")
    problems: list[Problem] = []
    notes = []
    for path in paths:
        note = _parse(path)
        if isinstance(note, Problem):
            problems.append(note)
        else:
            notes.append(note)
    occurring = sorted({thing.name for note in notes for thing in note.objects})
    names, positions = class_positions(occurring, classes, folder)
    start = 0 if _starts_at_zero(notes) else 1
    files, splits = image_files(folder), _splits(folder)
    records: dict[str, Record] = {}
    for note in notes:
        record, wrong = _record(note, files, positions, splits, start)
        problems += wrong
        if record is not None:
            records[record.name] = record
    stems = {path.stem for path in paths}
    problems += [
        problem("no-annotation", name, "there is no xml file of its name")
        for name in files.paths
        if name not in records and PurePosixPath(name).stem not in stems
    ]
    counting = f"corners are counted from {start}" + ("" if start else ": some box starts at 0")
    return Listing(
        format="voc", kind="det", classes=names, notes=(counting,),
        records=tuple(records[name] for name in sorted(records)), problems=tuple(problems),
    )  # fmt: skip


def element_from_xml(content: bytes) -> Element:
    """The root of an xml document that declares no document type.

    Entities are declared in a document type alone, so without one no document can grow while it
    is read or reach for other files. Annotations never need one.

    Raises:
        ValueError: It is malformed or declares a document type.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type, which is refused")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise ValueError(f"it is no xml: {error}") from error
    return builder.close()


def _parse(path: Path) -> _Note | Problem:
    """One annotation file, or what is wrong with it."""
    name = f"Annotations/{path.name}"
    try:
        root = element_from_xml(path.read_bytes())
    except (OSError, ValueError) as error:
        return problem("bad-annotation", name, str(error))
    objects, wrong = [], []
    for number, thing in enumerate(root.findall("object"), 1):
        found = _object(thing)
        if isinstance(found, str):
            wrong.append(f"object {number}: {found}")
        else:
            objects.append(found)
    stated = (_whole(root.findtext("size/width")), _whole(root.findtext("size/height")))
    file_name = (root.findtext("filename") or "").strip()
    return _Note(path, file_name, stated, tuple(objects), tuple(wrong))


def _object(thing: Element) -> _Object | str:
    """An object, or what is wrong with it."""
    name = (thing.findtext("name") or "").strip()
    if not name:
        return "has no name"
    texts = [thing.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError:
        return f"bndbox must hold xmin, ymin, xmax and ymax, got {texts}"
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return f"bndbox must be finite, got {texts}"
    return _Object(name, (x1, y1, x2, y2))


def _whole(text: str | None) -> int | None:
    """A whole number, or None."""
    return int(text) if text and text.strip().isdecimal() else None


def _starts_at_zero(notes: Sequence[_Note]) -> bool:
    """Whether some box with area starts at 0, which counting from 1 does not know."""
    return any(
        min(x1, y1) == 0 and x2 > x1 and y2 > y1
        for note in notes
        for x1, y1, x2, y2 in (thing.corners for thing in note.objects)
    )


def _splits(folder: Path) -> dict[str, str]:
    """Split per image name without suffix."""
    splits: dict[str, str] = {}
    for listed in _LISTS:
        path = folder / "ImageSets" / "Main" / f"{listed}.txt"
        if path.is_file():
            for line in path.read_text(encoding="utf-8-sig").splitlines():
                if line.split():
                    splits.setdefault(line.split()[0], split_from_name(listed))
    return splits


def _record(
    note: _Note,
    files: ImageFiles,
    positions: Mapping[str, int],
    splits: Mapping[str, str],
    start: int,
) -> tuple[Record | None, list[Problem]]:
    """The image of an annotation file, if it can be used, and what is wrong with it."""
    name = _image_of(note, files)
    if name is None:
        wanted = note.file_name or note.path.stem
        return None, [problem("missing-image", f"Annotations/{note.path.name}", f"of {wanted!r}")]
    width, height = upright_size(files.paths[name])
    found = size_problem(name, note.stated, (width, height))
    if found:
        return None, [found]
    problems = [problem("bad-box", name, message) for message in note.wrong]
    boxes = []
    for thing in note.objects:
        if thing.name not in positions:
            message = f"{thing.name!r} is not in the list of classes"
            problems.append(problem("unknown-class", name, message))
            continue
        x1, y1, x2, y2 = thing.corners
        # Tools that write edges write xmin = xmax where there is no area: it must stay empty.
        shift = start if x2 > x1 and y2 > y1 else 0
        label = positions[thing.name]
        boxes.append(Box(label=label, x1=x1 - shift, y1=y1 - shift, x2=x2, y2=y2))
    record = Record(
        name=name, source=files.paths[name], width=width, height=height, boxes=tuple(boxes),
        split=splits.get(note.path.stem, ""),
    )  # fmt: skip
    return record, problems


def _image_of(note: _Note, files: ImageFiles) -> str | None:
    """The image of an annotation: of the same name without suffix, else the one it names."""
    found = list(files.by_stem.get(note.path.stem, ()))
    if not found and note.file_name:
        found = files.matching(note.file_name)
    return found[0] if len(found) == 1 else None
