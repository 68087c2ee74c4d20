"""Image packs (npz) of the shipped recipes: decoding, and their own splits."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from .images import DataSet, Images, no_images

# What reading a damaged or foreign npz raises.
UNREADABLE = (
    OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error
)  # fmt: skip


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
    except UNREADABLE as error:
        raise DataError(f"{path} is no image pack: {error}.") from error
    if images is None:
        raise DataError(f"{path} holds no images.")
    return images


def load_cls_packs(folder: Path, wanted: tuple[str, ...]) -> DataSet:
    """``train.npz``, every twentieth image of a class for validation; ``val.npz`` is test.

    Args:
        folder: Holds both, with ``label``, and ``classes.json``.
        wanted: Splits to decode; the others stay empty.

    Raises:
        DataError: The folder holds no such data.
    """
    try:
        listed = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        with np.load(folder / "train.npz", allow_pickle=False) as pack:
            train_label = pack["label"].astype(np.int64)
        with np.load(folder / "val.npz", allow_pickle=False) as pack:
            test_label = pack["label"].astype(np.int64)
        classes = tuple(str(entry["name"]) for entry in listed)
        wordnet = tuple(str(entry["wnid"]) for entry in listed)
    except UNREADABLE as error:
        raise DataError(f"{folder} holds no classification set: {error}.") from error
    largest = max(train_label.max(initial=0), test_label.max(initial=0))
    if largest >= len(classes):
        raise DataError(f"{folder} holds label {largest}, but names only {len(classes)} classes.")
    train = validation = test = no_images()
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


def load_det_pack(folder: Path, wanted: tuple[str, ...]) -> DataSet:
    """Splits as annotated; the last sixth of each class's training frames is validation.

    Frames come from videos, so one frame between the two parts is dropped, as the data set does
    between training and test.

    Args:
        folder: Holds ``images.npz`` and ``annotations.json`` with ``split`` per image.
        wanted: Splits to keep; the others stay empty.

    Raises:
        DataError: The folder holds no such data.
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


def pack_files(path: Path) -> list[bytes]:
    """The files in an image pack, undecoded.

    Args:
        path: npz as for :func:`read_pack`.

    Raises:
        DataError: The file is missing or no image pack.
    """
    try:
        with np.load(path, allow_pickle=False) as pack:
            content, offset = pack["jpeg"].tobytes(), pack["offset"].tolist()
        return [content[a:b] for a, b in zip(offset, offset[1:], strict=False)]
    except UNREADABLE as error:
        raise DataError(f"{path} is no image pack: {error}.") from error
