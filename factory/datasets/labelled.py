"""A folder of labelled images, checked and decoded at several sizes; nothing is divided."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import DataError, UsageError
from .check import check_listing
from .decode import decode_records
from .formats import format_of
from .images import Images
from .problems import counts_text, errors_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """Labelled images of one folder.

    Attributes:
        folder: Where they lie.
        classes: Class names in label order.
        split: The part of the folder that was read; "" for everything.
        images: By input size.
        digests: SHA-256 of the bytes of every image.
    """

    folder: Path
    classes: tuple[str, ...]
    split: str
    images: Mapping[int, Images]
    digests: tuple[str, ...]

    def without(self, digests: Collection[str]) -> Labelled:
        """The images whose bytes have none of these digests."""
        kept = np.array([d not in digests for d in self.digests], bool)
        index = np.flatnonzero(kept).astype(np.int64)
        return replace(
            self,
            images={size: images.subset(index) for size, images in self.images.items()},
            digests=tuple(self.digests[i] for i in index),
        )


def read_labelled(
    folder: Path, sizes: Sequence[int], *, kind: str, format: str = "",
    prefer: Sequence[str] = ("test", "validation"), classes: Sequence[str] = (),
    most: int | None = None,
) -> Labelled:  # fmt: skip
    """Read one part of a folder: the first of ``prefer`` that it has, else everything.

    Of equal files the first counts alone: a copy is no further observation.

    Args:
        folder: In any of the formats.
        sizes: Input sizes in pixels.
        kind: "cls" or "det".
        format: Name of the format; "" recognises it.
        prefer: "train", "validation" or "test"; by default what is for testing.
        classes: Names of the classes whose images are read; () for all.
        most: Images that are read at most, drawn at random, always the same ones.

    Raises:
        DataError: There is no such folder, its format cannot be recognised, or it has errors.
        UsageError: It holds the other kind of labels.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.", hints=["it is to hold labelled images"])
    listing = format_of(folder, format).read(folder, ())
    if listing.kind != kind:
        raise UsageError(
            f"{folder} holds {listing.format} data for {listing.kind!r}, not for {kind!r}."
        )
    checked = check_listing(listing)
    errors = errors_of(checked.problems)
    if errors:
        first = f"{errors[0].file}: {errors[0].message}"
        raise DataError(
            f"{folder} has errors: {counts_text(errors)}; the first: {first}.",
            hints=[f"nnfactory modules check {folder} lists them"],
        )
    parts = {record.split for record in checked.records}
    split = next((part for part in prefer if part in parts), "")
    named = {i for i, name in enumerate(listing.classes) if not classes or name in classes}
    first_of: dict[str, int] = {}
    for index, record in enumerate(checked.records):
        shown = {record.label, *(box.label for box in record.boxes)}
        is_named = not classes or shown & named
        if is_named and (not split or record.split == split):
            first_of.setdefault(checked.digests[index], index)
    kept = list(first_of.values())
    if most is not None and most < len(kept):
        drawn = np.random.default_rng(0).choice(len(kept), most, replace=False)
        kept = [kept[i] for i in sorted(drawn)]
    records = [checked.records[index] for index in kept]
    return Labelled(
        folder=folder, classes=listing.classes, split=split,
        images=decode_records(records, kind, sizes),
        digests=tuple(checked.digests[index] for index in kept),
    )  # fmt: skip
