"""What can be wrong with a user's data: one table of all kinds, and the noun for one finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..units import count_text

# Per code its severity, what an error makes unusable, and what it means. The guide
# docs/guides/own-data.md lists the same codes; a test compares them.
CODES: dict[str, tuple[str, str, str]] = {
    "broken-image": ("error", "image", "the file cannot be decoded"),
    "deep-image": ("error", "image", "more than 8 bits per channel, which apps would clip"),
    "missing-image": ("error", "image", "an annotation names a file that is not there"),
    "size-differs": ("error", "image", "the annotation was made for another image size"),
    "unequal-copies": ("error", "image", "the same file is annotated in different ways"),
    "leaked-copy": ("error", "image", "the same file is in a later split too"),
    "bad-annotation": ("error", "image", "the annotation of an image cannot be read"),
    "bad-box": ("error", "box", "the entry of one box cannot be read"),
    "unknown-class": ("error", "box", "a box of a class that is not in the list of classes"),
    "unknown-label": ("error", "image", "an image of a class that is not in the list of classes"),
    "empty-box": ("error", "box", "a box without area"),
    "outside-box": ("error", "box", "less than half of the box lies in its image"),
    "absent-class": ("error", "data", "a class without example for training or validation"),
    "empty-split": ("error", "data", "a split without images"),
    "clipped-box": ("warning", "box", "a box reaches out of its image and is clipped"),
    "small-box": ("warning", "box", "a box is under 4 pixels wide or high in the network's input"),
    "crowd": ("warning", "box", "a region of many objects, marked iscrowd, is not used"),
    "no-annotation": ("warning", "image", "no annotation names the image; it is not used"),
    "no-split": ("warning", "image", "other images have a split, this one has none; not used"),
    "copy": ("warning", "image", "the same file twice in one split; both are used"),
    "few-examples": ("warning", "data", "a class with few examples for training"),
    "untested-class": ("warning", "data", "a class without example in the test split"),
    "unused-class": ("warning", "data", "a listed class without any example; not used"),
    "similar-classes": ("warning", "data", "class names that differ in case or spaces alone"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One finding about a data folder.

    Attributes:
        code: Kind of the finding, a key of ``CODES``.
        severity: "error": what ``scope`` says cannot be used; or "warning".
        scope: "image", "box" or "data": one image, one box, or the data as a whole.
        file: Image or annotation file, relative to the data folder; "" for the data as a whole.
        message: What was found there.
    """

    code: str
    severity: str
    scope: str
    file: str
    message: str


def problem(code: str, file: str, message: str) -> Problem:
    """A finding of a kind of ``CODES``."""
    severity, scope, _ = CODES[code]
    return Problem(code=code, severity=severity, scope=scope, file=file, message=message)


def errors_of(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The errors among the findings."""
    return tuple(found for found in problems if found.severity == "error")


def counts_text(problems: Iterable[Problem]) -> str:
    """How often every code occurs, such as "2 empty-box, 1 broken-image"."""
    counts = Counter(found.code for found in problems)
    return ", ".join(f"{count} {code}" for code, count in counts.most_common())


def left_out_lines(problems: Iterable[Problem]) -> str:
    """One line per error: code, file and message, separated by tabs."""
    rows = [(found.code, found.file, found.message) for found in errors_of(problems)]
    return "".join("\t".join(row).replace("\n", " ") + "\n" for row in rows)


def left_out_text(problems: Iterable[Problem]) -> str:
    """How many images and boxes the errors leave out, such as "1 image and 2 boxes"."""
    errors = errors_of(problems)
    images = len({found.file for found in errors if found.scope == "image"})
    boxes = sum(found.scope == "box" for found in errors)
    parts = [(images, "image"), (boxes, "box")]
    return " and ".join(count_text(count, noun) for count, noun in parts if count) or "nothing"
