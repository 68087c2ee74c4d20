"""Labelled images on disk and their splits: training, validation, test."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import DataError

Array = NDArray[np.generic]
# What reading a damaged or foreign npz raises.
_UNREADABLE = (
    OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Decoded images with labels or boxes.

    Attributes:
        pixels: uint8 (N, H, W, 3), RGB.
        labels: Class per image, int64 (N,), of a classification set; else empty.
        boxes: Per image float32 (M, 5), rows class, x1, y1, x2, y2 in pixels (det); else empty.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    boxes: tuple[NDArray[np.float32], ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def subset(self, index: NDArray[np.int64]) -> Images:
        """The images at ``index``."""
        return Images(
            pixels=self.pixels[index],
            labels=self.labels[index] if len(self.labels) else self.labels,
            boxes=tuple(self.boxes[i] for i in index) if self.boxes else (),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A training, a validation and a test split, and the names of the classes.

    Attributes:
        classes: Class names in label order.
        wordnet: WordNet id per class, or empty.
    """

    classes: tuple[str, ...]
    wordnet: tuple[str, ...]
    train: Images
    validation: Images
    test: Images


def read_pack(path: Path) -> NDArray[np.uint8]:
    """Decode an image pack into uint8 (N, H, W, 3).

    Args:
        path: npz with ``jpeg`` (uint8, concatenated files) and ``offset`` (int64, N + 1).

    Raises:
        DataError: The file is missing or no image pack of equal image sizes.
    """
    try:
        with np.load(path, allow_pickle=False) as pack:
            jpeg, offset = pack["jpeg"], pack["offset"]
        images: NDArray[np.uint8] | None = None
        for i in range(len(offset) - 1):
            stream = io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes())
            image = np.asarray(Image.open(stream).convert("RGB"))
            if images is None:
                images = np.empty((len(offset) - 1, *image.shape), np.uint8)
            images[i] = image
    except _UNREADABLE as error:
        raise DataError(f"{path} is no image pack: {error}.") from error
    if images is None:
        raise DataError(f"{path} holds no images.")
    return images


def load_dataset(kind: str, folder: Path, *, splits: tuple[str, ...] = ()) -> DataSet:
    """Read a data folder: classification packs, or one pack with COCO annotations.

    Args:
        kind: "cls": ``train.npz`` and ``val.npz`` (with ``label``) and ``classes.json``;
            "det": ``images.npz`` and ``annotations.json`` with ``split`` per image.
        folder: Where the files are.
        splits: Splits to decode; the others stay empty; all by default.

    Raises:
        DataError: The folder holds no such data.
    """
    if not folder.is_dir():
        raise DataError(f"There is no data folder {folder}.", hints=["pass it as --data DIR"])
    wanted = splits or ("train", "validation", "test")
    return _load_cls(folder, wanted) if kind == "cls" else _load_det(folder, wanted)


def _load_cls(folder: Path, wanted: tuple[str, ...]) -> DataSet:
    """``train.npz``, every twentieth image of a class for validation; ``val.npz`` is test."""
    try:
        listed = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        with np.load(folder / "train.npz", allow_pickle=False) as pack:
            train_label = pack["label"].astype(np.int64)
        with np.load(folder / "val.npz", allow_pickle=False) as pack:
            test_label = pack["label"].astype(np.int64)
        classes = tuple(str(entry["name"]) for entry in listed)
        wordnet = tuple(str(entry["wnid"]) for entry in listed)
    except _UNREADABLE as error:
        raise DataError(f"{folder} holds no classification set: {error}.") from error
    largest = max(train_label.max(initial=0), test_label.max(initial=0))
    if largest >= len(classes):
        raise DataError(f"{folder} holds label {largest}, but names only {len(classes)} classes.")
    empty = Images(pixels=np.empty((0, 1, 1, 3), np.uint8), labels=np.empty(0, np.int64), boxes=())
    train = validation = test = empty
    if "train" in wanted or "validation" in wanted:
        whole = _labelled(folder / "train.npz", train_label)
        held = np.zeros(len(whole), bool)
        for label in np.unique(train_label):
            held[np.flatnonzero(train_label == label)[::20]] = True
        train = whole.subset(np.flatnonzero(~held))
        validation = whole.subset(np.flatnonzero(held))
    if "test" in wanted:
        test = _labelled(folder / "val.npz", test_label)
    return DataSet(
        classes=classes,
        wordnet=wordnet,
        train=train,
        validation=validation,
        test=test,
    )


def _labelled(path: Path, labels: NDArray[np.int64]) -> Images:
    """The images of a pack, with one label each."""
    pixels = read_pack(path)
    if len(pixels) != len(labels):
        raise DataError(f"{path} holds {len(pixels)} images, but {len(labels)} labels.")
    return Images(pixels=pixels, labels=labels, boxes=())


def _load_det(folder: Path, wanted: tuple[str, ...]) -> DataSet:
    """Splits as annotated; the last sixth of each class's training frames is validation.

    Frames come from videos, so one frame between the two parts is dropped, as the data set does
    between training and test.
    """
    try:
        notes = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
        position = {c["id"]: i for i, c in enumerate(notes["categories"])}
        rows: dict[int, list[list[float]]] = {image["id"]: [] for image in notes["images"]}
        for note in notes["annotations"]:
            x, y, w, h = note["bbox"]
            rows[note["image_id"]].append([position[note["category_id"]], x, y, x + w, y + h])
        split = np.array([image["split"] for image in notes["images"]])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{folder} holds no detection set: {error}.") from error
    pixels = read_pack(folder / "images.npz")
    if len(pixels) != len(split):
        raise DataError(
            f"{folder} holds {len(pixels)} images, but annotations of {len(split)} images."
        )
    boxes = tuple(
        np.array(rows[image["id"]], np.float32).reshape(-1, 5) for image in notes["images"]
    )
    whole = Images(pixels=pixels, labels=np.empty(0, np.int64), boxes=boxes)
    first = np.array([int(b[0, 0]) if len(b) else -1 for b in boxes])
    part = np.where(split == "test", "test", "train").astype("<U10")
    for label in np.unique(first):
        frames = np.flatnonzero((first == label) & (split == "train"))
        held = len(frames) // 6
        if held:
            part[frames[-held:]] = "validation"
            part[frames[-held - 1]] = "dropped"
    chosen = {
        name: whole.subset(np.flatnonzero((part == name) & (name in wanted)))
        for name in ("train", "validation", "test")
    }
    return DataSet(
        classes=tuple(c["name"] for c in notes["categories"]),
        wordnet=(),
        train=chosen["train"],
        validation=chosen["validation"],
        test=chosen["test"],
    )
