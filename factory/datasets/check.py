"""The check of every image and box: what can be used, and what is wrong with the rest."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from .files import UNREADABLE_IMAGE, content, oriented_size
from .problems import Problem, problem
from .records import SPLITS, Box, Listing, Record

EDGE_PIXELS = 1.0  # a box that reaches out by no more is a matter of rounding
LEAST_SIDE = 4.0  # pixels in the network's input
_DEEP = ("I", "F")  # Pillow's modes of more than 8 bits begin so; "I;16" is one
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What of a listing can be used.

    Attributes:
        records: Images without an error, with the boxes without an error, clipped to the image.
        digests: SHA-256 of the bytes of each, in hexadecimal.
        problems: Of the listing and of the check.
    """

    records: tuple[Record, ...]
    digests: tuple[str, ...]
    problems: tuple[Problem, ...]


def check_listing(
    listing: Listing,
    *,
    input_size: int = 0,
    report: Report = lambda phase, done, total: None,
) -> Checked:
    """Decode every image once and look at every box.

    Args:
        listing: What a reader found.
        input_size: Side of the network's input in pixels, to find boxes that are too small there;
            0 looks for none.
        report: Called with ("check", done, total) images.
    """
    problems = [*listing.problems, *_similar(listing.classes)]
    records, digests = [], []
    for number, record in enumerate(listing.records, 1):
        opened = _open(record)
        report("check", number, len(listing.records))
        if isinstance(opened, Problem):
            problems.append(opened)
            continue
        digest, width, height = opened
        boxes, wrong = _usable(replace(record, width=width, height=height), input_size)
        problems += wrong
        records.append(replace(record, width=width, height=height, boxes=boxes))
        digests.append(digest)
    dropped, wrong = _copies(records, digests)
    kept = [index for index in range(len(records)) if index not in dropped]
    return Checked(
        records=tuple(records[index] for index in kept),
        digests=tuple(digests[index] for index in kept),
        problems=(*problems, *wrong),
    )


def _open(record: Record) -> tuple[str, int, int] | Problem:
    """SHA-256, width and height of an image that can be decoded, or what is wrong with it."""
    try:
        source = content(record.source)
        with Image.open(io.BytesIO(source)) as image:
            image.load()
            mode, (width, height) = image.mode, oriented_size(image)
    except UNREADABLE_IMAGE as error:
        reason = str(error).split(" <_io.")[0]  # Pillow names the stream, which says nothing
        return problem("broken-image", record.name, reason or type(error).__name__)
    if mode.startswith(_DEEP):
        return problem("deep-image", record.name, f"mode {mode}: store it with 8 bits per channel")
    return hashlib.sha256(source).hexdigest(), width, height


def _usable(record: Record, input_size: int) -> tuple[tuple[Box, ...], list[Problem]]:
    """The boxes that can be used, clipped to the image, and what is wrong with boxes."""
    boxes, problems = [], []
    for number, box in enumerate(record.boxes, 1):
        clipped, found = _clipped(box, record)
        side = _least_side(clipped, record, input_size) if clipped else LEAST_SIDE
        if not found and side < LEAST_SIDE:
            message = f"{_extent(box)} pixels are {side:.3g} in an input of {input_size}"
            found = ("small-box", message)
        if found:
            code, message = found
            problems.append(problem(code, record.name, f"box {number}: {message}"))
        if clipped:
            boxes.append(clipped)
    return tuple(boxes), problems


def _clipped(box: Box, record: Record) -> tuple[Box | None, tuple[str, str] | None]:
    """The part of a box inside its image, if that can be used; code and message of a problem."""
    if not (box.x2 > box.x1 and box.y2 > box.y1):
        return None, ("empty-box", f"{_extent(box)} pixels")
    inside = replace(
        box, x1=max(box.x1, 0.0), y1=max(box.y1, 0.0), x2=min(box.x2, float(record.width)),
        y2=min(box.y2, float(record.height)),
    )  # fmt: skip
    out = max(
        inside.x1 - box.x1, inside.y1 - box.y1, box.x2 - inside.x2, box.y2 - inside.y2
    )  # fmt: skip
    if out <= 0:
        return inside, None
    share = _share(inside, box)
    where = f"reaches {out:.1f} pixels out of {record.width}x{record.height}"
    if share < 0.5:
        return None, ("outside-box", f"{where}, {share:.0%} of it is inside")
    rounding = " (rounding)" if out <= EDGE_PIXELS else ""
    return inside, ("clipped-box", f"{where}{rounding}")


def _share(inside: Box, box: Box) -> float:
    """Area of ``inside`` over that of ``box``, in [0, 1]."""
    width, height = max(inside.x2 - inside.x1, 0.0), max(inside.y2 - inside.y1, 0.0)
    return width * height / ((box.x2 - box.x1) * (box.y2 - box.y1))


def _least_side(box: Box, record: Record, input_size: int) -> float:
    """The shorter side of a box in the network's input, in pixels; ``LEAST_SIDE`` if unknown."""
    if not input_size:
        return LEAST_SIDE
    gain = input_size / max(record.width, record.height)
    return min(box.x2 - box.x1, box.y2 - box.y1) * gain


def _extent(box: Box) -> str:
    """Width and height of a box, such as "12x0.5"."""
    return f"{box.x2 - box.x1:g}x{box.y2 - box.y1:g}"


def _copies(records: Sequence[Record], digests: Sequence[str]) -> tuple[set[int], list[Problem]]:
    """The records that cannot be used because of others of the same bytes, and the findings."""
    groups: dict[str, list[int]] = {}
    for index, digest in enumerate(digests):
        groups.setdefault(digest, []).append(index)
    dropped: set[int] = set()
    problems: list[Problem] = []
    for group in groups.values():
        if len(group) > 1:
            left, found = _copies_of_one([(index, records[index]) for index in group])
            dropped |= left
            problems += found
    return dropped, problems


def _copies_of_one(group: Sequence[tuple[int, Record]]) -> tuple[set[int], list[Problem]]:
    """The same for the copies of one file.

    Of copies in several splits, the one in the latest stays: what a figure is measured on must
    not have been trained on.
    """
    if len({_annotation(record) for _, record in group}) > 1:
        names = ", ".join(record.name for _, record in group[:4])
        found = [
            problem(
                "unequal-copies", record.name, f"the same file with another annotation: {names}"
            )
            for _, record in group
        ]
        return {index for index, _ in group}, found
    latest = max((record.split for _, record in group), key=_rank)
    kept = next(record.name for _, record in group if record.split == latest)
    dropped, problems = set(), []
    for index, record in group:
        if record.split != latest:
            dropped.add(index)
            message = f"{record.split or 'no split'}; the same file as {kept} in {latest}"
            problems.append(problem("leaked-copy", record.name, message))
        elif record.name != kept:
            problems.append(problem("copy", record.name, f"the same file as {kept}"))
    return dropped, problems


def _rank(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else -1


def _annotation(record: Record) -> object:
    """What an annotation says, whatever the order of its boxes."""
    rows = sorted((box.label, box.x1, box.y1, box.x2, box.y2) for box in record.boxes)
    return record.label, tuple(rows)


def _similar(classes: Iterable[str]) -> list[Problem]:
    """Class names that differ in case or spaces alone: mostly one class, written in two ways."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        plain = "".join(letter for letter in name.casefold() if letter.isalnum())
        groups.setdefault(plain or name, []).append(name)
    return [
        problem("similar-classes", "", " and ".join(map(repr, names)))
        for names in groups.values()
        if len(names) > 1
    ]
