"""Records decoded into arrays of the network's input size; large ones lie on disk."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import DataError
from .check import Report
from .files import UNREADABLE_IMAGE, content
from .fitting import boxes_letterboxed, center_cropped, letterboxed
from .images import DataSet, Images, no_images
from .inventory import Inventory
from .problems import Problem
from .records import SPLITS, Record

MEMORY_BYTES = 4_000_000_000  # of all decoded splits; above it they are kept on disk
_VERSION = 1  # of the decoding; another one must not find old files
_FITS = {"cls": center_cropped, "det": letterboxed}


def decoded_bytes(inventory: Inventory, input_size: int, splits: Sequence[str] = SPLITS) -> int:
    """Bytes that the pixels of the splits take once they are decoded."""
    return sum(len(inventory.parts[split]) for split in splits) * input_size * input_size * 3


def decode(
    inventory: Inventory,
    *,
    input_size: int,
    splits: Sequence[str] = SPLITS,
    left_out: tuple[Problem, ...] = (),
    cache_dir: Path | None = None,
    memory_bytes: int = MEMORY_BYTES,
    report: Report = lambda phase, done, total: None,
) -> DataSet:
    """The splits of an inventory as arrays: letterboxed (det) or cropped to the middle (cls).

    Args:
        inventory: What to decode.
        input_size: Height and width of the network's input, in pixels.
        splits: Splits to decode; the others stay empty.
        left_out: Recorded in the data set.
        cache_dir: Where pixels go that take more than ``memory_bytes`` in all, one file per
            split; they are found again there.
        memory_bytes: See above.
        report: Called with ("decode", done, total) images.

    Raises:
        DataError: A file changed since it was checked, the cache cannot be written, or pixels
            take too much memory and there is no cache.
    """
    needed = decoded_bytes(inventory, input_size, splits)
    if needed <= memory_bytes:
        cache_dir = None
    elif cache_dir is None:
        raise DataError(
            f"The images take {needed / 1e9:.1f} GB decoded, more than {memory_bytes / 1e9:.1f} GB."
        )
    parts = dict.fromkeys(SPLITS, no_images())
    for split in splits:
        place = cache_dir and _cache_file(cache_dir, inventory, split, input_size)
        parts[split] = _decode_split(inventory, split, input_size, place, report)
    return DataSet(
        classes=inventory.classes, wordnet=(), train=parts["train"],
        validation=parts["validation"], test=parts["test"], left_out=left_out,
    )  # fmt: skip


def _decode_split(
    inventory: Inventory, split: str, side: int, place: Path | None, report: Report
) -> Images:
    records = inventory.parts[split]
    if not records:
        return no_images()

    def fill(pixels: NDArray[np.uint8]) -> None:
        for number, record in enumerate(records):
            pixels[number] = _FITS[inventory.kind](_pixels(record), side)
            report(f"decode {split}", number + 1, len(records))

    shape = (len(records), side, side, 3)
    if place is None:
        pixels = np.empty(shape, np.uint8)
        fill(pixels)
    else:
        pixels = _on_disk(place, shape, fill)
    return _images(pixels, records, inventory.kind, side)


def decode_records(records: Sequence[Record], kind: str, sides: Sequence[int]) -> dict[int, Images]:
    """Images at several sizes, each file decoded once.

    Args:
        records: Checked.
        kind: "cls" or "det".
        sides: Heights and widths in pixels.

    Raises:
        DataError: A file changed since it was checked.
    """
    pixels = {side: np.empty((len(records), side, side, 3), np.uint8) for side in sides}
    for number, record in enumerate(records):
        image = _pixels(record)
        for side in sides:
            pixels[side][number] = _FITS[kind](image, side)
    return {side: _images(pixels[side], records, kind, side) for side in sides}


def _images(pixels: NDArray[np.uint8], records: Sequence[Record], kind: str, side: int) -> Images:
    if kind == "cls":
        labels = np.array([record.label for record in records], np.int64)
        return Images(pixels=pixels, labels=labels, boxes=())
    boxes = tuple(boxes_letterboxed(r.boxes, r.width, r.height, side) for r in records)
    return Images(pixels=pixels, labels=np.empty(0, np.int64), boxes=boxes)


def _pixels(record: Record) -> NDArray[np.uint8]:
    """An image (H, W, 3), upright, RGB."""
    try:
        with Image.open(io.BytesIO(content(record.source))) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UNREADABLE_IMAGE as error:
        raise DataError(f"{record.name} cannot be decoded any more: {error}.") from error
    if pixels.shape[:2] != (record.height, record.width):
        raise DataError(f"{record.name} changed its size while it was read.")
    return pixels


def _cache_file(cache_dir: Path, inventory: Inventory, split: str, side: int) -> Path:
    """A name that follows from what is in the file."""
    made_of = [str(_VERSION), inventory.kind, str(side), *inventory.digests[split]]
    digest = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
    return cache_dir / "images" / f"{inventory.folder.resolve().name}-{split}-{side}-{digest}.npy"


def _on_disk(
    place: Path, shape: tuple[int, ...], fill: Callable[[NDArray[np.uint8]], None]
) -> NDArray[np.uint8]:
    """The array in a file, which is written first if it is not there; changes stay in memory."""
    try:
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            beside = place.with_suffix(".partial")
            written = np.lib.format.open_memmap(beside, mode="w+", dtype=np.uint8, shape=shape)
            fill(written)
            written.flush()
            beside.replace(place)
        mapped = np.load(place, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"The decoded images cannot be kept in {place}: {error}.",
            hints=["set NNFACTORY_CACHE to a folder with enough space"],
        ) from error
    if mapped.shape != shape or mapped.dtype != np.uint8:
        raise DataError(f"{place} is damaged.", hints=["delete it"])
    return np.asarray(mapped)
