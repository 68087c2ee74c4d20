"""Which image is for training, for choices and for the published figure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .problems import Problem, problem
from .records import SPLITS, Record

SHARES = (0.70, 0.15, 0.15)  # of training, validation and test
SALTS = 128  # tried to find the best stratified split
FEW = 20  # examples for training
_POLICY = re.compile(r"given|(given \+ )?hash (\d+)")
_MASK = (1 << 64) - 1

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """The split of a data set.

    Attributes:
        parts: Positions of the images of "train", "validation" and "test".
        policy: How it came about, as a recipe keeps it: "given", "given + hash N" or "hash N".
        text: The same for people.
        problems: Images without a split, and splits and classes without examples.
    """

    parts: Mapping[str, Index]
    policy: str
    text: str
    problems: tuple[Problem, ...]


def divide(
    records: Sequence[Record], digests: Sequence[str], classes: Sequence[str], policy: str = ""
) -> Division:
    """Split images as the data says, or else by the hash of their bytes.

    With three given splits they are used ("given"). With "train" and one other, the other is the
    test split, and validation images are taken from "train" by hash ("given + hash N"). Else all
    images are split 70/15/15 by hash ("hash N").

    The place of an image follows from its bytes and N alone: names do not matter, copies stay
    together, and adding images moves no other. N is the one of 128 numbers whose split is best
    stratified by class; a recipe keeps it.

    Args:
        records: The images.
        digests: SHA-256 of the bytes of each, in hexadecimal.
        classes: Class names in label order.
        policy: What to do; "" decides and searches N.

    Raises:
        DataError: ``policy`` is none of these, or the data has not the splits for it.
    """
    marked = {record.split for record in records} - {""}
    given = marked if len(marked) > 1 else set()  # one split alone divides nothing
    policy = policy or _choice(given, records, digests, len(classes))
    match = _POLICY.fullmatch(policy)
    if match is None:
        raise DataError(f"A split policy is 'given', 'given + hash N' or 'hash N', got {policy!r}.")
    salt = int(match[2] or 0)
    if policy == "given":
        _need(given == set(SPLITS), given, policy, "train, val and test")
        parts, text = _given(records, {split: split for split in SPLITS}), "as the data says"
    elif match[1]:
        parts, text = _given_and_hashed(records, digests, given, salt, policy)
    else:
        parts = _hashed(digests, np.arange(len(records)), SHARES, salt)
        text = f"70/15/15 by the hash of the image bytes (number {salt})"
        if marked:
            text += f"; that the data marks {' and '.join(sorted(marked))} images is not used"
    unplaced = [] if policy.startswith("hash") else _without_split(records)
    problems = (*unplaced, *_scarce(records, classes, parts))
    return Division(parts=parts, policy=policy, text=text, problems=problems)


def class_counts(records: Sequence[Record], classes: int) -> tuple[int, ...]:
    """Images (cls) or boxes (det) of every class."""
    _, labels = _examples(records)
    return tuple(np.bincount(labels, minlength=classes).tolist())


def _choice(given: set[str], records: Sequence[Record], digests: Sequence[str], k: int) -> str:
    """The policy for data that comes with the splits ``given``."""
    if given == set(SPLITS):
        return "given"
    if "train" in given:
        mine = [index for index, record in enumerate(records) if record.split == "train"]
        salt = _best_salt(records, digests, np.array(mine, np.int64), _without_test(), k)
        return f"given + hash {salt}"
    if given:
        raise DataError(
            f"The data has the splits {' and '.join(sorted(given))}, but no images for training.",
            hints=["name the folder, file or list of the training images 'train'"],
        )
    everything = np.arange(len(records))
    return f"hash {_best_salt(records, digests, everything, SHARES, k)}"


def _without_test() -> tuple[float, float, float]:
    """Shares where the test split is given."""
    return 1 - SHARES[1], SHARES[1], 0.0


def _need(fits: bool, given: set[str], policy: str, needed: str) -> None:
    """Raise unless the splits of the data fit the policy."""
    if not fits:
        found = ", ".join(sorted(given)) or "none"
        raise DataError(
            f"The split policy {policy!r} needs {needed} in the data; it has {found}.",
            hints=["'nnfactory modules new' chooses a policy for the data as it is"],
        )


def _given(records: Sequence[Record], roles: Mapping[str, str]) -> dict[str, Index]:
    """Positions by split, where ``roles`` says what a given split is used as."""
    parts: dict[str, list[int]] = {split: [] for split in SPLITS}
    for index, record in enumerate(records):
        if record.split in roles:
            parts[roles[record.split]].append(index)
    return {split: np.array(index, np.int64) for split, index in parts.items()}


def _given_and_hashed(
    records: Sequence[Record], digests: Sequence[str], given: set[str], salt: int, policy: str
) -> tuple[dict[str, Index], str]:
    """The other given split is the test split; validation comes out of "train"."""
    held = sorted(given - {"train"})
    fits = "train" in given and len(held) == 1
    _need(fits, given, policy, "train and one other split")
    parts = _given(records, {"train": "train", held[0]: "test"})
    parts |= _hashed(digests, parts["train"], _without_test(), salt, splits=SPLITS[:2])
    text = (
        f"the data's {held[0]} split is the test split, and {SHARES[1]:.0%} of its train split are "
        f"for validation, by the hash of the image bytes (number {salt})"
    )
    return parts, text


def _hashed(
    digests: Sequence[str],
    index: Index,
    shares: tuple[float, float, float],
    salt: int,
    *,
    splits: Sequence[str] = SPLITS,
) -> dict[str, Index]:
    """The images at ``index`` by split."""
    drawn = _drawn(_seeds(digests, index), shares, salt)
    return {split: index[drawn == number] for number, split in enumerate(splits)}


def _seeds(digests: Sequence[str], index: Index) -> NDArray[np.uint64]:
    """The first 64 bits of the digests at ``index``."""
    return np.array([int(digests[i][:16], 16) for i in index], np.uint64)


def _drawn(seeds: NDArray[np.uint64], shares: tuple[float, float, float], salt: int) -> Index:
    """Number of the split of every image."""
    drawn = np.searchsorted(np.cumsum(shares)[:2], _uniform(seeds, salt), side="right")
    return drawn.astype(np.int64)


def _uniform(seeds: NDArray[np.uint64], salt: int) -> NDArray[np.float64]:
    """A number in [0, 1) per image that follows from its seed and ``salt``: SplitMix64."""
    step = np.uint64((salt + 1) * 0x9E3779B97F4A7C15 & _MASK)
    z = seeds + step
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2.0**53


def _best_salt(
    records: Sequence[Record],
    digests: Sequence[str],
    index: Index,
    shares: tuple[float, float, float],
    k: int,
) -> int:
    """The number whose split is best stratified: least chi-square over images and classes."""
    if not len(index):
        return 0
    images, labels = _examples([records[i] for i in index])
    totals = np.bincount(labels, minlength=k)  # (K,)
    expected = np.outer(shares, [*totals, len(index)])  # (3, K + 1)
    seeds, scores = _seeds(digests, index), []
    for salt in range(SALTS):
        drawn = _drawn(seeds, shares, salt)
        counts = np.bincount(drawn[images] * k + labels, minlength=3 * k).reshape(3, k)
        found = np.column_stack((counts, np.bincount(drawn, minlength=3)))  # (3, K + 1)
        absent = ((found == 0) & (expected > 0)).sum()
        scores.append(((found - expected) ** 2 / (expected + 1)).sum() + 1e6 * absent)
    return int(np.argmin(scores))


def _examples(records: Sequence[Record]) -> tuple[Index, Index]:
    """Image and class of every example: of every labelled image and of every box."""
    pairs = [(index, label) for index, record in enumerate(records) for label in _labels(record)]
    flat = np.array(pairs, np.int64).reshape(-1, 2)
    return flat[:, 0], flat[:, 1]


def _labels(record: Record) -> list[int]:
    """The class of a labelled image, or the class of every box."""
    return [box.label for box in record.boxes] if record.label is None else [record.label]


def _without_split(records: Sequence[Record]) -> list[Problem]:
    return [
        problem("no-split", record.name, "it is in none of the splits of the data")
        for record in records
        if not record.split
    ]


def _scarce(
    records: Sequence[Record], classes: Sequence[str], parts: Mapping[str, Index]
) -> list[Problem]:
    """Splits without images, and classes with too few examples."""
    problems = [
        problem("empty-split", "", f"no image for {split}")
        for split in SPLITS
        if not len(parts[split])
    ]
    counts = {
        split: class_counts([records[i] for i in parts[split]], len(classes)) for split in SPLITS
    }
    for label, name in enumerate(classes):
        train, validation, test = (counts[split][label] for split in SPLITS)
        found = f"{name!r}: {train} for training, {validation} for validation, {test} for test"
        if not (train and validation):
            advice = "add examples, or take the class out of 'classes' in the recipe"
            problems.append(problem("absent-class", "", f"{found}; {advice}"))
        elif not test:
            problems.append(problem("untested-class", "", found))
        elif train < FEW:
            problems.append(problem("few-examples", "", found))
    return problems
