"""Small labelled pictures, and the same pictures written in every format that is read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from xml.sax.saxutils import escape

import numpy as np
import pytest
from PIL import Image

CLASSES = ("bolt", "nut", "washer")
YOLO_SPLITS = {"train": "train", "validation": "valid", "test": "test"}
COCO_SPLITS = {"train": "train", "validation": "val", "test": "test"}


@dataclass
class Picture:
    """One image and what is in it.

    Attributes:
        name: File name.
        content: The bytes of the file.
        width: In pixels.
        height: In pixels.
        boxes: Rows label, x1, y1, x2, y2 in pixels.
        label: Its class, where each image has one.
        split: "train", "validation", "test" or "".
    """

    name: str
    content: bytes
    width: int
    height: int
    boxes: list[tuple] = field(default_factory=list)
    label: int = 0
    split: str = ""


def png(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def picture(number: int, *, split: str = "", boxes: Sequence[tuple] | None = None) -> Picture:
    """A picture that no other number gives, with one to three boxes."""
    rng = np.random.default_rng([3, number])
    width, height = int(rng.integers(40, 90)), int(rng.integers(30, 70))
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if boxes is None:
        boxes = []
        for label in rng.permutation(len(CLASSES))[: rng.integers(1, 4)]:
            x1, y1 = int(rng.integers(0, width - 12)), int(rng.integers(0, height - 12))
            x2, y2 = int(rng.integers(x1 + 10, width)), int(rng.integers(y1 + 10, height))
            boxes.append((int(label), x1, y1, x2, y2))
    name = f"p{number:04d}.png"
    label = number % len(CLASSES)
    return Picture(name, png(pixels), width, height, list(boxes), label, split)


def pictures(n: int, *, splits: Sequence[str] = ("",), start: int = 0) -> list[Picture]:
    """``n`` pictures; the splits take turns."""
    return [picture(start + i, split=splits[i % len(splits)]) for i in range(n)]


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def coco_table(shown: Sequence[Picture], classes: Sequence[str], *, splits: bool = False) -> dict:
    images, notes = [], []
    for index, item in enumerate(shown):
        entry = {"id": 10 + index, "file_name": item.name, "width": item.width}
        entry["height"] = item.height
        if splits and item.split:
            entry["split"] = COCO_SPLITS[item.split]
        images.append(entry)
        for label, x1, y1, x2, y2 in item.boxes:
            box = [x1, y1, x2 - x1, y2 - y1]
            notes.append({"image_id": 10 + index, "category_id": 7 * label + 1, "bbox": box})
    named = [{"id": 7 * label + 1, "name": name} for label, name in enumerate(classes)]
    return {"images": images, "annotations": notes, "categories": named}


def write_coco(folder: Path, shown: Sequence[Picture], classes: Sequence[str] = CLASSES) -> Path:
    """A file per split in annotations/, images below train2017/ and so on; or one of each."""
    for split in {item.split for item in shown}:
        mine = [item for item in shown if item.split == split]
        named = COCO_SPLITS.get(split, "")
        file = f"instances_{named}2017.json" if named else "instances.json"
        write(folder / "annotations" / file, json.dumps(coco_table(mine, classes)))
        for item in mine:
            place = f"{named}2017" if named else "images"
            write(folder / place / item.name, item.content)
    return folder


def write_yolo(folder: Path, shown: Sequence[Picture], classes: Sequence[str] = CLASSES) -> Path:
    """train/images and train/labels and so on, or images and labels; data.yaml."""
    for item in shown:
        base = folder / YOLO_SPLITS.get(item.split, "")
        write(base / "images" / item.name, item.content)
        lines = []
        for label, x1, y1, x2, y2 in item.boxes:
            w, h = item.width, item.height
            row = ((x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h)
            lines.append(f"{label} " + " ".join(map(repr, row)))
        write(base / "labels" / Path(item.name).with_suffix(".txt").name, "\n".join(lines))
    write(folder / "data.yaml", f"nc: {len(classes)}\nnames: {json.dumps(list(classes))}\n")
    return folder


def voc_xml(item: Picture, classes: Sequence[str]) -> str:
    objects = "".join(
        f"<object><name>{escape(classes[label])}</name><bndbox><xmin>{x1 + 1}</xmin>"
        f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for label, x1, y1, x2, y2 in item.boxes
    )
    return (
        f"<annotation><filename>{item.name}</filename><size><width>{item.width}</width>"
        f"<height>{item.height}</height><depth>3</depth></size>{objects}</annotation>"
    )


def write_voc(folder: Path, shown: Sequence[Picture], classes: Sequence[str] = CLASSES) -> Path:
    """Corners counted from 1; ImageSets/Main if there are splits."""
    lists: dict[str, list[str]] = {}
    for item in shown:
        stem = Path(item.name).stem
        write(folder / "JPEGImages" / item.name, item.content)
        write(folder / "Annotations" / f"{stem}.xml", voc_xml(item, classes))
        if item.split:
            lists.setdefault(COCO_SPLITS[item.split], []).append(stem)
    for split, stems in lists.items():
        write(folder / "ImageSets" / "Main" / f"{split}.txt", "\n".join(stems) + "\n")
    return folder


def write_image_folder(
    folder: Path, shown: Sequence[Picture], classes: Sequence[str] = CLASSES
) -> Path:
    """A folder per class, below train/ and so on if there are splits."""
    for item in shown:
        place = folder / YOLO_SPLITS.get(item.split, "") / classes[item.label] / item.name
        write(place, item.content)
    return folder


def _npz(path: Path, shown: Sequence[Picture], **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    offset = np.cumsum([0, *(len(item.content) for item in shown)]).astype(np.int64)
    joined = np.frombuffer(b"".join(item.content for item in shown), np.uint8)
    np.savez(path, jpeg=joined, offset=offset, **arrays)


def write_det_pack(
    folder: Path, shown: Sequence[Picture], classes: Sequence[str] = CLASSES
) -> Path:
    """images.npz and annotations.json."""
    _npz(folder / "images.npz", shown)
    write(folder / "annotations.json", json.dumps(coco_table(shown, classes, splits=True)))
    return folder


def write_cls_packs(
    folder: Path, shown: Sequence[Picture], classes: Sequence[str] = CLASSES
) -> Path:
    """train.npz, val.npz and test.npz, as far as there are such splits; classes.json."""
    for split in {item.split or "train" for item in shown}:
        mine = [item for item in shown if (item.split or "train") == split]
        labels = np.array([item.label for item in mine])
        _npz(folder / f"{COCO_SPLITS[split]}.npz", mine, label=labels)
    write(folder / "classes.json", json.dumps([{"name": name} for name in classes]))
    return folder


DET: dict[str, Callable[..., Path]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "voc": write_voc,
    "pack": write_det_pack,
}
CLS: dict[str, Callable[..., Path]] = {"imagefolder": write_image_folder, "pack": write_cls_packs}


@pytest.fixture(scope="session")
def raw() -> SimpleNamespace:
    """The functions that make pictures and write them in each format."""
    return SimpleNamespace(
        classes=CLASSES,
        coco_table=coco_table,
        cls=CLS,
        det=DET,
        picture=picture,
        pictures=pictures,
        png=png,
        Picture=Picture,
        voc_xml=voc_xml,
        write=write,
    )
