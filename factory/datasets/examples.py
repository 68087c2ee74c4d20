"""A few example images of new classes: one folder per class, checked and decoded at all sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .check import check_listing
from .decode import upright_pixels
from .fitting import center_cropped
from .image_folder import read_image_folder
from .problems import counts_text, errors_of

LEAST = 5  # images of a class


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examples:
    """Images of classes that a library does not know.

    Attributes:
        classes: Names, those of the folders, sorted.
        labels: Class of every image, int64 (N,).
        pixels: By input size uint8 (N, S, S, 3), RGB, cropped to the middle.
        digest: First 16 hex digits of a SHA-256 of the names and the files.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    pixels: Mapping[int, NDArray[np.uint8]]
    digest: str


def read_examples(folder: Path, sizes: Sequence[int]) -> Examples:
    """Read one folder of images per class; folders of splits are put together.

    Args:
        folder: Holds the class folders.
        sizes: Input sizes in pixels.

    Raises:
        DataError: There is no such folder, an image is broken, or there are fewer than two
            classes or five images of a class.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.", hints=["one folder of images per class"])
    listing = read_image_folder(folder)
    checked = check_listing(listing)
    errors = errors_of(checked.problems)
    if errors:
        raise DataError(
            f"{folder} has errors: {counts_text(errors)}; the first: {errors[0].file}: "
            f"{errors[0].message}.",
            hints=[f"nnfactory modules check {folder} lists them"],
        )
    labels = np.array([record.label for record in checked.records], np.int64)
    counts = np.bincount(labels, minlength=len(listing.classes))
    if len(listing.classes) < 2 or counts.min() < LEAST:
        listed = ", ".join(f"{n} of {c!r}" for c, n in zip(listing.classes, counts, strict=True))
        raise DataError(
            f"Examples need at least two classes with {LEAST} images each; {folder} holds {listed}."
        )
    pixels = {size: np.empty((len(labels), size, size, 3), np.uint8) for size in sizes}
    for number, record in enumerate(checked.records):
        image = upright_pixels(record)
        for size in sizes:
            pixels[size][number] = center_cropped(image, size)
    made_of = [f"{listing.classes[label]}\0{digest}" for label, digest in zip(
        labels, checked.digests, strict=True)]  # fmt: skip
    digest = hashlib.sha256("\n".join(sorted(made_of)).encode()).hexdigest()[:16]
    return Examples(classes=listing.classes, labels=labels, pixels=pixels, digest=digest)
