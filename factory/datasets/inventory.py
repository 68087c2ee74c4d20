"""A data folder read, checked and split; nothing is decoded for keeps yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError, UsageError
from .check import Report, check_listing
from .formats import format_of
from .problems import Problem, counts_text, errors_of, left_out_text, problem
from .records import SPLITS, Listing, Record
from .split import class_counts, divide


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What can be used of a data folder, by split, and everything that was found.

    Attributes:
        folder: The data folder.
        format: Name of its format.
        kind: "cls" or "det".
        classes: Class names in label order.
        parts: Records of "train", "validation" and "test"; what errors concern is not in them.
        digests: SHA-256 of the image bytes of every record, by split.
        split: The split policy, as a recipe keeps it.
        split_text: The same for people.
        problems: Everything that was found, errors and warnings.
        notes: What was decided while reading, one sentence each.
    """

    folder: Path
    format: str
    kind: str
    classes: tuple[str, ...]
    parts: Mapping[str, tuple[Record, ...]]
    digests: Mapping[str, tuple[str, ...]]
    split: str
    split_text: str
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The errors among the problems."""
        return errors_of(self.problems)

    def counts(self, split: str) -> tuple[int, ...]:
        """Images (cls) or boxes (det) of every class in a split."""
        return class_counts(self.parts[split], len(self.classes))


def take_inventory(
    folder: Path,
    *,
    format: str = "",
    kind: str = "",
    classes: Sequence[str] = (),
    split: str = "",
    input_size: int = 0,
    report: Report = lambda phase, done, total: None,
) -> Inventory:
    """Read, check and split a data folder.

    Args:
        folder: The data.
        format: Name of its format; "" recognises it.
        kind: "cls" or "det"; "" takes what the format holds.
        classes: The list of classes to use, in label order; by default those of the data that
            have an example.
        split: The split policy; "" chooses one, see :func:`divide`.
        input_size: Side of the network's input in pixels, to find boxes that are too small there.
        report: Called with ("check", done, total) images.

    Raises:
        DataError: The format cannot be recognised, the files are malformed, or no image is left.
        UsageError: The format has no data of that kind.
    """
    listing = format_of(folder, format).read(folder, classes)
    if kind and kind != listing.kind:
        what = "boxes" if listing.kind == "det" else "one class per image"
        raise UsageError(
            f"{folder} holds {listing.format} data with {what}: its task is {listing.kind!r}, not "
            f"{kind!r}.",
            hints=[f"--task {listing.kind}"],
        )
    if not classes:
        listing = without_unused_classes(listing)
    checked = check_listing(listing, input_size=input_size, report=report)
    if not checked.records:
        raise DataError(
            f"{folder} holds no image that can be used: {counts_text(checked.problems) or 'none'}.",
            details={"problems": [found.message for found in checked.problems[:20]]},
        )
    division = divide(checked.records, checked.digests, listing.classes, split)
    return Inventory(
        folder=folder, format=listing.format, kind=listing.kind, classes=listing.classes,
        parts={s: tuple(checked.records[i] for i in division.parts[s]) for s in SPLITS},
        digests={s: tuple(checked.digests[i] for i in division.parts[s]) for s in SPLITS},
        split=division.policy, split_text=division.text,
        problems=(*checked.problems, *division.problems), notes=listing.notes,
    )  # fmt: skip


def without_unused_classes(listing: Listing) -> Listing:
    """The listing with the classes alone that have an example, and a warning for the others."""
    counts = class_counts(listing.records, len(listing.classes))
    kept = [label for label, count in enumerate(counts) if count]
    if len(kept) == len(counts):
        return listing
    position = {label: index for index, label in enumerate(kept)}

    def moved(record: Record) -> Record:
        label = None if record.label is None else position[record.label]
        boxes = tuple(replace(box, label=position[box.label]) for box in record.boxes)
        return replace(record, label=label, boxes=boxes)

    unused = [
        problem("unused-class", "", f"{name!r} has no example")
        for name, count in zip(listing.classes, counts, strict=True)
        if not count
    ]
    return replace(
        listing,
        classes=tuple(listing.classes[label] for label in kept),
        records=tuple(map(moved, listing.records)),
        problems=(*listing.problems, *unused),
    )


def refuse_errors(inventory: Inventory, *, skip_broken: bool) -> tuple[Problem, ...]:
    """The errors of what is left out.

    Args:
        inventory: What was found.
        skip_broken: Whether images and boxes with errors may be left out.

    Raises:
        DataError: There are errors and ``skip_broken`` is false, or errors that concern the data
            as a whole.
    """
    errors = inventory.errors
    whole = [found for found in errors if found.scope == "data"]
    if whole:
        listed = "; ".join(f"{found.code}: {found.message}" for found in whole[:5])
        raise DataError(f"{inventory.folder} cannot be trained on: {listed}.")
    if errors and not skip_broken:
        raise DataError(
            f"{inventory.folder} has errors that are not skipped: {counts_text(errors)}.",
            hints=[
                f"nnfactory modules check {inventory.folder} lists them",
                f"--skip-broken leaves {left_out_text(errors)} out",
            ],
        )
    return errors
