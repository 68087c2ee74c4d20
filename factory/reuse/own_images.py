"""Labelled images of someone's own: some to fit and choose with, others to measure on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..accuracy_measurement import images_at, task_images
from ..datasets import Images
from ..datasets.formats import format_of
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

    def mixed(self, size: int) -> Images:
        """What stitches are fitted to, in an order of which every beginning is balanced."""
        mine = self.training[size].subset(self.fitted)
        return mine.subset(balanced_order(_labels(mine), 0))

    def at(self, size: int) -> TwoParts:
        """The same images with those of one more input size, made of the largest there are."""
        if size in self.training:
            return self
        most = max(self.training)
        return replace(
            self,
            training={**self.training, size: images_at(self.training[most], size)},
            measuring={**self.measuring, size: images_at(self.measuring[most], size)},
        )

    def with_others(self, others: TwoParts, name: str) -> TwoParts:
        """These images, and those of other classes as one more class.

        Of the others no more are taken for a part than there are of a class on average, and as
        many of each of them as can be.

        Args:
            others: At the same sizes, of other classes.
            name: Of the class that they become.
        """
        first = next(iter(self.training.values())), next(iter(self.measuring.values()))
        theirs = next(iter(others.training.values())), next(iter(others.measuring.values()))
        each = len(self.classes)
        fitted, judging = (
            rows[balanced_order(theirs[0].labels[rows], 0)][: max(LEAST_EACH, len(mine) // each)]
            for rows, mine in ((others.fitted, self.fitted), (others.judging, self.judging))
        )
        taken = np.concatenate([fitted, judging])
        measured = balanced_order(theirs[1].labels, 0)[: max(1, len(first[1]) // each)]
        start = len(first[0])
        return replace(
            self,
            classes=(*self.classes, name),
            training={
                size: _joined(images, others.training[size].subset(taken), each)
                for size, images in self.training.items()
            },
            measuring={
                size: _joined(images, others.measuring[size].subset(measured), each)
                for size, images in self.measuring.items()
            },
            fitted=np.concatenate([self.fitted, start + np.arange(len(fitted))]),
            judging=np.concatenate([self.judging, start + len(fitted) + np.arange(len(judging))]),
            digest=hashlib.sha256((self.digest + others.digest).encode()).hexdigest(),
        )

    def _some(self, positions: Array) -> dict[int, Images]:
        return {size: images.subset(positions) for size, images in self.training.items()}


def _joined(images: Images, others: Images, label: int) -> Images:
    return Images(
        pixels=np.concatenate([images.pixels, others.pixels]),
        labels=np.concatenate([images.labels, np.full(len(others), label, np.int64)]),
        boxes=(),
    )


def read_two_parts(
    folder: Path, sizes: Sequence[int], classes: Sequence[str], *, most: int, kind: str = "cls",
    least: int = 2, seed: int = 0,
) -> TwoParts:  # fmt: skip
    """Read labelled images in two parts: as the folder divides them, else a quarter is held out.

    Args:
        folder: In any format of data.
        sizes: Input sizes in pixels.
        classes: Names of some of the folder's classes; () for all.
        most: Images to fit stitches to, at most, and as many to choose on; four of every class at
            least.
        kind: "cls", or "det": of images with boxes of several classes the rarest one counts.
        least: Classes that must be named, if any are.
        seed: Of the division.

    Raises:
        DataError: A class has too few images, or see :func:`read_labelled`.
        UsageError: Fewer classes are named.
        UnknownNameError: The folder has no class of a name.
    """
    _check_enough(classes, least)
    made = _two_parts(folder, sizes, classes, most=most, kind=kind, seed=seed)
    every = next(iter(made.training.values()))
    _check_counts(folder, made.classes, (every.subset(made.fitted), every.subset(made.judging)))
    return made


def read_others(
    folder: Path, sizes: Sequence[int], classes: Sequence[str], *, most: int
) -> TwoParts:
    """Images of several classes that count as one, see :func:`read_two_parts`.

    Raises:
        DataError: There are too few of them.
    """
    made = _two_parts(folder, sizes, classes, most=most, kind="cls", seed=0)
    if min(len(made.fitted), len(made.judging)) < LEAST_EACH:
        raise DataError(
            f"{folder} has {len(made.fitted) + len(made.judging)} images of other classes to fit "
            f"to and to choose on; {2 * LEAST_EACH} are needed.",
            hints=["add images that show other things"],
        )
    return made


def _two_parts(
    folder: Path, sizes: Sequence[int], classes: Sequence[str], *, most: int, kind: str, seed: int
) -> TwoParts:
    first = read_labelled(folder, sizes, kind=kind, prefer=("train",), classes=classes, most=MOST)
    wanted = _positions(first, classes)
    second = None
    if first.split:
        second = read_labelled(folder, sizes, kind=kind, classes=classes, most=MOST)
        second = second.without(first.digests)
    if second is not None and len(second.digests):
        held, training = _of_classes(second, wanted), _of_classes(first, wanted)
        name = f"{second.folder.resolve().name}, {second.split or 'other'} part"
    else:
        labels = _labels(next(iter(first.images.values())))
        is_held = held_out(labels, first.digests)
        others = frozenset(first.digests[i] for i in np.flatnonzero(is_held))
        chosen = frozenset(first.digests) - others
        training = _of_classes(first.without(others), wanted)
        held = _of_classes(first.without(chosen), wanted)
        name = f"{first.folder.resolve().name}, {1 / HELD_OUT:.0%} that nothing was fitted to"
    names = tuple(first.classes[i] for i in wanted)
    every = next(iter(training.values()))
    labels = _labels(every)
    kept = balanced_order(labels, seed)[: 2 * max(most, LEAST_EACH * len(wanted))]
    is_fitted = turns(labels, seed)[kept] % 2 == 0
    fitted, judging = np.sort(kept[is_fitted]), np.sort(kept[~is_fitted])
    if not len(next(iter(held.values()))):
        raise DataError(f"{folder} has no image to measure on that nothing was fitted to.")
    return TwoParts(
        name=name, classes=names, training=training, measuring=held, fitted=fitted,
        judging=judging,
        digest=hashlib.sha256(every.pixels.tobytes() + labels.tobytes()).hexdigest(),
    )  # fmt: skip


def _labels(images: Images) -> Array:
    """One class per image, (N,): of several that it shows the one that the fewest images show."""
    if len(images.labels):
        return images.labels
    shown = [np.unique(rows[:, 0]).astype(np.int64) for rows in images.boxes]
    counts = np.bincount(np.concatenate([*shown, np.zeros(0, np.int64)]))
    nothing = len(counts)
    return np.array([row[counts[row].argmin()] if len(row) else nothing for row in shown])


def classes_besides(folder: Path, classes: Sequence[str], *, least: int = 1) -> list[str]:
    """All classes of a folder but some.

    Raises:
        DataError: There are fewer others than ``least``.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.", hints=["it is to hold labelled images"])
    every = format_of(folder, "").read(folder, ()).classes
    others = [name for name in every if name not in set(classes)]
    if len(others) < least:
        raise DataError(
            f"{folder} shows {len(others)} classes besides {', '.join(classes)}; {least} at least "
            "must be there.",
            hints=["add folders of images that show other things"],
        )
    return others


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


def _check_enough(classes: Sequence[str], least: int) -> None:
    if classes and len(classes) < least:
        raise UsageError(
            f"{least} classes or more must be named, got {', '.join(classes)}: a network of one "
            "class would always be right."
        )


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


def _check_counts(folder: Path, names: Sequence[str], parts: Sequence[Images]) -> None:
    counts = np.min([images.shown(len(names)) for images in parts], 0)
    if counts.min() < LEAST_EACH:
        raise DataError(
            f"{folder} has {counts.min()} images of '{names[int(counts.argmin())]}' to fit to and "
            f"as many to choose on; {LEAST_EACH} each are needed.",
            hints=["add images of it, or leave the class out"],
        )
