"""Labelled images for a reassembly: some to fit and choose with, others to measure on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..accuracy_measurement import task_images
from ..datasets import Images
from ..datasets.labelled import Labelled, read_labelled
from ..errors import DataError, UnknownNameError, UsageError
from ..graph.network import Array

HELD_OUT = 4  # every how many-th image of a class, of images that nobody divided
LEAST_EACH = 4  # images of every class to fit to, and to choose on
MOST = 2000  # images that are read of a part
MANY = 100  # images of a class, of which each is held out by itself


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TwoParts:
    """Images of the task's classes by input size, labels counted within the task.

    Attributes:
        name: Of the images that are measured on, for people.
        classes: Names in label order.
        training: What is fitted to and chosen on.
        measuring: None of these.
        fitted: Positions among the former of those that stitches are fitted to.
        judging: Positions of others, that networks are chosen on.
        digest: SHA-256 of the images of ``training``.
    """

    name: str
    classes: tuple[str, ...]
    training: Mapping[int, Images]
    measuring: Mapping[int, Images]
    fitted: Array
    judging: Array
    digest: str

    @property
    def fitting(self) -> dict[int, Images]:
        """What stitches are fitted to."""
        return self._some(self.fitted)

    @property
    def choosing(self) -> dict[int, Images]:
        """The same, and after them those that networks are chosen on."""
        return self._some(np.concatenate([self.fitted, self.judging]))

    def _some(self, positions: Array) -> dict[int, Images]:
        return {size: images.subset(positions) for size, images in self.training.items()}


def read_two_parts(
    folder: Path, sizes: Sequence[int], classes: Sequence[str], *, most: int, seed: int = 0
) -> TwoParts:
    """Read labelled images in two parts: as the folder divides them, else a quarter is held out.

    Args:
        folder: In any format of classification data.
        sizes: Input sizes in pixels.
        classes: Names of some of the folder's classes; () for all.
        most: Images to fit stitches to, at most, and as many to choose on; four of every class at
            least.
        seed: Of the division.

    Raises:
        DataError: A class has too few images, or see :func:`read_labelled`.
        UnknownNameError: The folder has no class of a name.
    """
    first = read_labelled(folder, sizes, kind="cls", prefer=("train",), classes=classes, most=MOST)
    wanted = _positions(first, classes)
    second = None
    if first.split:
        second = read_labelled(folder, sizes, kind="cls", classes=classes, most=MOST)
        second = second.without(first.digests)
    if second is not None and len(second.digests):
        held, training = _of_classes(second, wanted), _of_classes(first, wanted)
        name = f"{second.folder.resolve().name}, {second.split or 'other'} part"
    else:
        labels = next(iter(first.images.values())).labels
        is_held = held_out(labels, first.digests)
        others = frozenset(first.digests[i] for i in np.flatnonzero(is_held))
        chosen = frozenset(first.digests) - others
        training = _of_classes(first.without(others), wanted)
        held = _of_classes(first.without(chosen), wanted)
        name = f"{first.folder.resolve().name}, {1 / HELD_OUT:.0%} that nothing was fitted to"
    names = tuple(first.classes[i] for i in wanted)
    labels = next(iter(training.values())).labels
    kept = balanced_order(labels, seed)[: 2 * max(most, LEAST_EACH * len(wanted))]
    is_fitted = turns(labels, seed)[kept] % 2 == 0
    fitted, judging = np.sort(kept[is_fitted]), np.sort(kept[~is_fitted])
    _check_counts(folder, names, labels[fitted], labels[judging], next(iter(held.values())))
    every = next(iter(training.values()))
    return TwoParts(
        name=name, classes=names, training=training, measuring=held, fitted=fitted,
        judging=judging,
        digest=hashlib.sha256(every.pixels.tobytes() + every.labels.tobytes()).hexdigest(),
    )  # fmt: skip


def held_out(labels: Array, digests: Sequence[str]) -> Array:
    """Which images of nobody's division are measured on: about a quarter of each class.

    It depends on the image alone where a class has many, and on those of its class where it has
    few, never on which other classes are read: what one network was fitted to is not what another
    one, combined with it, is measured on.

    Args:
        labels: (N,).
        digests: SHA-256 of every image, in hex.
    """
    numbers = np.array([int(digest[:12], 16) for digest in digests])
    held = numbers % HELD_OUT == HELD_OUT - 1
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        if len(mine) < MANY:
            ranks = np.argsort(np.argsort(numbers[mine], kind="stable"))
            held[mine] = ranks % HELD_OUT == HELD_OUT - 1
    return np.asarray(held)


def turns(labels: Array, seed: int) -> Array:
    """How many images of the same class come before each one in a random order, (N,)."""
    order = np.random.default_rng(seed).permutation(len(labels))
    found = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        found[mine] = np.arange(len(mine))
    return found


def balanced_order(labels: Array, seed: int) -> Array:
    """A random order of images of which every beginning has as many of each class as can be.

    Args:
        labels: (N,).
        seed: Of the order.
    """
    return np.argsort(turns(labels, seed), kind="stable")


def _positions(found: Labelled, classes: Sequence[str]) -> tuple[int, ...]:
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    if twice:
        raise UsageError(f"Class {twice[0]!r} is named more than once.")
    listing = f"{found.folder} has {', '.join(found.classes)}"
    for name in classes:
        if name not in found.classes:
            raise UnknownNameError.with_suggestion("class", name, found.classes, listing=listing)
    return tuple(found.classes.index(name) for name in classes) or tuple(range(len(found.classes)))


def _of_classes(found: Labelled, wanted: Sequence[int]) -> dict[int, Images]:
    """The images of the classes at every size."""
    return {size: task_images(images, wanted) for size, images in found.images.items()}


def _check_counts(
    folder: Path, names: Sequence[str], fitted: Array, judging: Array, held: Images
) -> None:
    if len(names) < 2:
        raise DataError(f"{folder} must show at least 2 classes, it shows {len(names)}.")
    counts = np.minimum(*(np.bincount(some, minlength=len(names)) for some in (fitted, judging)))
    if counts.min() < LEAST_EACH:
        raise DataError(
            f"{folder} has {counts.min()} images of '{names[int(counts.argmin())]}' to fit to and "
            f"as many to choose on; {LEAST_EACH} each are needed.",
            hints=["add images of it, or leave the class out"],
        )
    if not len(held):
        raise DataError(f"{folder} has no image to measure on that nothing was fitted to.")
