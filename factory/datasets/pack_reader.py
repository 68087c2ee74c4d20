"""Image packs (npz) as records, so that they are checked, split and resized as raw files are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .coco import parse_coco, records_from_table
from .files import upright_size
from .packs import UNREADABLE, pack_files
from .problems import Problem, problem
from .records import Listing, Record, class_positions, split_from_name

_CLS_PACKS = ("train", "val", "test")


def is_det_pack(folder: Path) -> bool:
    """Whether a folder holds a pack with COCO annotations."""
    return (folder / "images.npz").is_file() and (folder / "annotations.json").is_file()


def is_cls_pack(folder: Path) -> bool:
    """Whether a folder holds packs with labels."""
    return (folder / "train.npz").is_file() and (folder / "classes.json").is_file()


def read_packs(folder: Path, classes: Sequence[str] = ()) -> Listing:
    """The images of ``images.npz`` with ``annotations.json``, or of packs with labels.

    Args:
        folder: Holds ``images.npz`` and ``annotations.json``, where the n-th image of the list is
            the n-th of the pack; or ``train.npz``, ``val.npz``, ``test.npz`` (those that there
            are) with ``label``, and ``classes.json``.
        classes: The list of classes to use; by default all that are named.

    Raises:
        DataError: A file is missing or malformed, or images and annotations do not fit together.
    """
    return _det_pack(folder, classes) if is_det_pack(folder) else _cls_packs(folder, classes)


def _det_pack(folder: Path, classes: Sequence[str]) -> Listing:
    table = parse_coco(folder / "annotations.json", folder)
    files = pack_files(folder / "images.npz")
    if len(files) != len(table.images):
        raise DataError(
            f"{folder} holds {len(files)} images, but annotations of {len(table.images)} images."
        )
    names, positions = class_positions(table.categories.values(), classes, table.name)

    def locate(entry: Mapping[str, Any], index: int) -> tuple[str, Path | bytes] | Problem:
        return str(entry.get("file_name") or f"images.npz/{index}"), files[index]

    records, problems = records_from_table(table, positions, locate)
    if len({record.name for record in records}) != len(records):
        raise DataError(f"{table.name} lists a file name twice.")
    return Listing(
        format="pack", kind="det", classes=names, problems=tuple(problems),
        records=tuple(sorted(records, key=lambda record: record.name)),
    )  # fmt: skip


def _cls_packs(folder: Path, classes: Sequence[str]) -> Listing:
    try:
        listed = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        in_order = [str(entry["name"]).strip() for entry in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no packs with labels: {error!r}.") from error
    names, positions = class_positions(in_order, classes, "classes.json")
    records: list[Record] = []
    problems: list[Problem] = []
    for pack in _CLS_PACKS:
        path = folder / f"{pack}.npz"
        if path.is_file():
            found, wrong = _labelled(path, pack, in_order, positions)
            records += found
            problems += wrong
    return Listing(
        format="pack", kind="cls", classes=names, records=tuple(records), problems=tuple(problems)
    )


def _labelled(
    path: Path, pack: str, in_order: Sequence[str], positions: Mapping[str, int]
) -> tuple[list[Record], list[Problem]]:
    """The images of one pack with labels."""
    files = pack_files(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels = arrays["label"].astype(np.int64).tolist()
    except UNREADABLE as error:
        raise DataError(f"{path} holds no labels: {error}.") from error
    if len(labels) != len(files):
        raise DataError(f"{path} holds {len(files)} images, but {len(labels)} labels.")
    records, problems = [], []
    for index, (file, label) in enumerate(zip(files, labels, strict=True)):
        name = f"{path.name}/{index:06d}"
        known = 0 <= label < len(in_order) and in_order[label] in positions
        if not known:
            problems.append(problem("unknown-label", name, f"label {label}"))
            continue
        width, height = upright_size(file)
        records.append(
            Record(
                name=name,
                source=file,
                width=width,
                height=height,
                label=positions[in_order[label]],
                split=split_from_name(pack),
            )  # fmt: skip
        )
    return records, problems
