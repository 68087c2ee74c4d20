"""A few example images of new classes: one folder per class, checked and decoded at all sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .labelled import read_labelled

LEAST = 5  # images of a class


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examples:
    """Images of classes that a library does not know.

    Attributes:
        classes: Names, those of the folders, sorted.
        labels: Class of every image, int64 (N,).
        pixels: By input size uint8 (N, S, S, 3), RGB, cropped to the middle.
        digest: First 16 hex digits of a SHA-256 of the names and the files.
        files: SHA-256 of every file.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    pixels: Mapping[int, NDArray[np.uint8]]
    digest: str
    files: frozenset[str] = frozenset()


def read_examples(folder: Path, sizes: Sequence[int]) -> Examples:
    """Read one folder of images per class; of folders of splits the training part.

    Args:
        folder: Holds the class folders.
        sizes: Input sizes in pixels.

    Raises:
        DataError: There is no such folder, an image is broken, or there are fewer than two
            classes or five images of a class.
    """
    found = read_labelled(folder, sizes, kind="cls", format="imagefolder", prefer=("train",))
    labels = next(iter(found.images.values())).labels
    counts = np.bincount(labels, minlength=len(found.classes))
    if len(found.classes) < 2 or counts.min() < LEAST:
        listed = ", ".join(f"{n} of {c!r}" for c, n in zip(found.classes, counts, strict=True))
        raise DataError(
            f"Examples need at least two classes with {LEAST} images each; {folder} holds {listed}."
        )
    _check_names(found.classes)
    made_of = [
        f"{found.classes[label]}\0{digest}"
        for label, digest in zip(labels, found.digests, strict=True)
    ]
    digest = hashlib.sha256("\n".join(sorted(made_of)).encode()).hexdigest()[:16]
    pixels = {size: images.pixels for size, images in found.images.items()}
    return Examples(
        classes=found.classes, labels=labels, pixels=pixels, digest=digest,
        files=frozenset(found.digests),
    )  # fmt: skip


def _check_names(names: Sequence[str]) -> None:
    """Raise where two names differ in case alone, or one cannot be written down.

    Raises:
        DataError: See above.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not name.isprintable():
            raise DataError(f"The class folder {ascii(name)} has a name that cannot be printed.")
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"The classes {other!r} and {name!r} differ in case alone.",
                hints=["rename one of the folders"],
            )
