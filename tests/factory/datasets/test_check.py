"""The check: every kind of problem is found, named and counted, and nothing else is touched."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnfactory.factory.datasets import FORMATS, refuse_errors, take_inventory
from nnfactory.factory.datasets.check import check_listing
from nnfactory.factory.datasets.problems import (
    CODES,
    counts_text,
    left_out_lines,
    left_out_text,
    problem,
)
from nnfactory.factory.errors import DataError, UsageError

ROOT = Path(__file__).resolve().parents[3]
SPLITS = ("train", "validation", "test")


def checked(folder: Path, name: str, **options):
    return check_listing(FORMATS[name].read(folder, ()), **options)


def codes(found) -> list[str]:
    return [one.code for one in found.problems]


@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "pack"])
def test_sound_data_has_no_problem_and_loses_nothing(raw, tmp_path, name):
    shown = raw.pictures(8)
    found = checked(raw.det[name](tmp_path, shown), name)
    assert found.problems == ()
    assert len(set(found.digests)) == 8
    boxes = [len(record.boxes) for record in found.records]
    assert boxes == [len(item.boxes) for item in shown]


# Images


@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "imagefolder"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_an_image_that_cannot_be_decoded_is_an_error(raw, tmp_path, name, damage):
    shown = raw.pictures(3)
    whole = shown[1].content
    shown[1].content = {"cut": whole[: len(whole) // 2], "text": b"no image", "empty": b""}[damage]
    found = checked(({**raw.det, **raw.cls})[name](tmp_path, shown), name)
    (one,) = found.problems
    assert (one.code, one.severity, one.scope) == ("broken-image", "error", "image")
    assert one.file.endswith(shown[1].name)
    assert len(found.records) == 2
    assert "_io" not in one.message


def test_an_image_with_sixteen_bits_is_an_error(raw, tmp_path):
    shown = raw.pictures(2)
    stream = io.BytesIO()
    Image.fromarray(np.full((30, 40), 4000, np.uint16)).save(stream, "PNG")
    shown[0].content, shown[0].width, shown[0].height = stream.getvalue(), 40, 30
    shown[0].boxes = []
    found = checked(raw.det["coco"](tmp_path, shown), "coco")
    assert codes(found) == ["deep-image"]
    assert len(found.records) == 1


def test_images_and_annotations_without_each_other_are_found_in_every_format(raw, tmp_path):
    shown = raw.pictures(4)
    for name in ("coco", "yolo", "voc"):
        folder = raw.det[name](tmp_path / name, shown)
        (image,) = folder.rglob("p0001.png")
        image.rename(image.with_name("new.png"))
        found = checked(folder, name)
        assert sorted(codes(found)) == ["missing-image", "no-annotation"], name
        assert {one.severity for one in found.problems} == {"error", "warning"}
        by_code = {one.code: one for one in found.problems}
        assert by_code["no-annotation"].file.endswith("new.png")
        text = by_code["missing-image"].file + by_code["missing-image"].message
        assert "p0001" in text
        assert len(found.records) == 3


def test_an_image_in_no_class_folder_is_a_warning(raw, tmp_path):
    raw.cls["imagefolder"](tmp_path, raw.pictures(3))
    raw.write(tmp_path / "alone.png", raw.picture(9).content)
    found = checked(tmp_path, "imagefolder")
    assert [(one.code, one.file) for one in found.problems] == [("no-annotation", "alone.png")]


@pytest.mark.parametrize("name", ["coco", "voc", "pack"])
def test_an_annotation_for_another_size_is_an_error(raw, tmp_path, name):
    shown = raw.pictures(3)
    shown[0].width *= 2
    found = checked(raw.det[name](tmp_path, shown), name)
    assert codes(found) == ["size-differs"]
    assert "pixels, the file has" in found.problems[0].message
    assert len(found.records) == 2


def test_a_turned_photo_is_upright_and_the_message_says_so(raw, tmp_path):
    shown = raw.pictures(2)
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.asarray(Image.open(io.BytesIO(shown[0].content)))
    shown[0].content = raw.png(pixels, exif=exif)
    found = checked(raw.det["coco"](tmp_path / "a", shown), "coco")
    assert "EXIF" in found.problems[0].message
    shown[0].width, shown[0].height, shown[0].boxes = shown[0].height, shown[0].width, []
    found = checked(raw.det["coco"](tmp_path / "b", shown), "coco")
    assert found.problems == ()
    sizes = (found.records[0].width, found.records[0].height)
    assert sizes == (shown[0].width, shown[0].height)


# Boxes


@pytest.mark.parametrize(
    ("box", "code", "kept"),
    [
        ((0, 5, 5, 5, 20), "empty-box", False),
        ((0, 20, 5, 10, 20), "empty-box", False),
        ((0, -30, 5, 12, 20), "outside-box", False),
        ((0, 500, 5, 520, 20), "outside-box", False),
        ((0, -0.6, 5, 20, 20), "clipped-box", True),
        ((0, -8, 5, 20, 20), "clipped-box", True),
    ],
)
@pytest.mark.parametrize("name", ["coco", "pack"])
def test_boxes_that_are_empty_or_outside_are_named(raw, tmp_path, name, box, code, kept):
    shown = [raw.picture(0, boxes=[(1, 2, 2, 25, 25), box])]
    found = checked(raw.det[name](tmp_path, shown), name)
    (one,) = found.problems
    assert (one.code, one.severity) == (code, "warning" if kept else "error")
    assert one.message.startswith("box 2: ")
    (record,) = found.records
    assert len(record.boxes) == 1 + kept
    for inside in record.boxes:
        assert 0 <= inside.x1 < inside.x2 <= record.width
        assert 0 <= inside.y1 < inside.y2 <= record.height


def test_how_far_a_box_reaches_out_is_said_and_a_pixel_is_called_rounding(raw, tmp_path):
    shown = [raw.picture(0, boxes=[(0, -0.6, 5, 20, 20), (0, -8, 5, 20, 20)])]
    found = checked(raw.det["coco"](tmp_path, shown), "coco")
    first, second = (one.message for one in found.problems)
    assert "reaches 0.6 pixels out" in first
    assert "rounding" in first
    assert "reaches 8.0 pixels out" in second
    assert "rounding" not in second


def test_a_voc_box_without_area_stays_empty(raw, tmp_path):
    raw.det["voc"](
        tmp_path, [raw.picture(0, boxes=[(0, 9, 4, 20, 20), (1, 9, 9, 10, 20)])]
    )  # xmin = xmax = 10
    assert codes(checked(tmp_path, "voc")) == ["empty-box"]


@pytest.mark.parametrize(
    ("line", "code"),
    [("7 0.5 0.5 0.2 0.2", "unknown-class"), ("0.5 0.5 0.5 0.2 0.2", "unknown-class"),
     ("0 0.5 0.5 0.2", "bad-box"), ("0 0.5 0.5 0.2 0.2 0.9", "bad-box"),
     ("0 nan 0.5 0.2 0.2", "bad-box"), ("bolt 0.5 0.5 0.2 0.2", "bad-box")],
)  # fmt: skip
def test_a_yolo_line_that_makes_no_sense_is_named_with_its_number(raw, tmp_path, line, code):
    raw.det["yolo"](tmp_path, [raw.picture(0, boxes=[(0, 2, 2, 25, 25)])])
    path = tmp_path / "labels" / "p0000.txt"
    path.write_text(path.read_text() + f"\n\n{line}\n")
    found = checked(tmp_path, "yolo")
    (one,) = found.problems
    assert (one.code, one.file, one.scope) == (code, "images/p0000.png", "box")
    assert one.message.startswith("line 3 of p0000.txt")
    assert len(found.records[0].boxes) == 1


def test_a_yolo_file_that_is_no_text_takes_its_image_out(raw, tmp_path):
    raw.det["yolo"](tmp_path, raw.pictures(2))
    (tmp_path / "labels" / "p0000.txt").write_bytes(b"\xff\xfe\x00")
    found = checked(tmp_path, "yolo")
    assert codes(found) == ["bad-annotation"]
    assert len(found.records) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"category_id": 99}, "unknown-class"),
        ({"bbox": [1, 2, 3]}, "bad-box"),
        ({"bbox": "large"}, "bad-box"),
        ({"bbox": [1, 2, 3, float("nan")]}, "bad-box"),
        ({"image_id": 99}, "missing-image"),
        ({"iscrowd": 1}, "crowd"),
    ],
)
def test_a_coco_annotation_that_makes_no_sense_is_named_with_its_id(raw, tmp_path, change, code):
    shown = [raw.picture(0, boxes=[(0, 2, 2, 25, 25)])]
    raw.det["coco"](tmp_path, shown)
    path = tmp_path / "annotations" / "instances.json"
    table = json.loads(path.read_text())
    table["annotations"].append({**table["annotations"][0], "id": 41, **change})
    path.write_text(json.dumps(table))
    found = checked(tmp_path, "coco")
    assert codes(found) == [code]
    assert "annotation 41" in found.problems[0].message
    assert len(found.records[0].boxes) == 1


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("<name>bolt</name>", "", "bad-box"),
        ("<xmin>", "<xmin>x", "bad-box"),
        ("<xmin>3</xmin>", "", "bad-box"),
        ("</annotation>", "", "bad-annotation"),
    ],
)
def test_a_voc_file_that_makes_no_sense_is_named(raw, tmp_path, old, new, code):
    raw.det["voc"](tmp_path, [raw.picture(0, boxes=[(0, 2, 2, 25, 25)]), raw.picture(1)])
    path = tmp_path / "Annotations" / "p0000.xml"
    path.write_text(path.read_text().replace(old, new))
    found = checked(tmp_path, "voc")
    assert codes(found) == [code]
    assert "p0000" in found.problems[0].file


def test_boxes_that_are_too_small_for_the_network_are_counted_and_used(raw, tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (400, 800, 3), dtype=np.uint8)
    item = raw.Picture("wide.png", raw.png(pixels), 800, 400, [(0, 0, 0, 10, 100)])
    raw.det["coco"](tmp_path, [item])
    assert codes(checked(tmp_path, "coco", input_size=320)) == []
    found = checked(tmp_path, "coco", input_size=256)
    assert codes(found) == ["small-box"]
    assert "10x100 pixels are 3.2 in an input of 256" in found.problems[0].message
    assert len(found.records[0].boxes) == 1


# Copies


def renamed(item, name: str, *, split: str = "", boxes=None):
    return type(item)(name, item.content, item.width, item.height, boxes or item.boxes,
                      item.label, split)  # fmt: skip


def test_copies_in_one_split_are_a_warning_and_both_are_used(raw, tmp_path):
    first = raw.picture(0)
    folder = raw.det["yolo"](tmp_path, [first, renamed(first, "z.png"), raw.picture(1)])
    found = checked(folder, "yolo")
    assert [(one.code, one.file) for one in found.problems] == [("copy", "images/z.png")]
    assert len(found.records) == 3


def test_a_copy_of_a_test_image_may_not_be_trained_on(raw, tmp_path):
    first = raw.picture(0, split="train")
    shown = [first, renamed(first, "z.png", split="test"), raw.picture(1, split="train")]
    found = checked(raw.det["voc"](tmp_path, shown), "voc")
    (one,) = found.problems
    assert (one.code, one.severity, one.file) == ("leaked-copy", "error", "JPEGImages/p0000.png")
    assert [record.split for record in found.records] == ["train", "test"]


def test_copies_with_unequal_annotations_cannot_be_used(raw, tmp_path):
    first = raw.picture(0)
    shown = [first, renamed(first, "z.png", boxes=[(2, 0, 0, 12, 12)]), raw.picture(1)]
    found = checked(raw.det["coco"](tmp_path, shown), "coco")
    assert codes(found) == ["unequal-copies"] * 2
    assert len(found.records) == 1
    second = raw.picture(3)
    twice = [second, renamed(second, "z.png")]
    twice[1].label = 1
    folder = raw.cls["imagefolder"](tmp_path / "cls", [*twice, *raw.pictures(3, start=10)])
    assert codes(checked(folder, "imagefolder")) == ["unequal-copies"] * 2


# Classes


def test_class_names_that_differ_in_case_alone_are_a_warning(raw, tmp_path):
    names = ("Red cell", "red-cell", "washer")
    found = checked(raw.det["coco"](tmp_path, raw.pictures(3), names), "coco")
    assert codes(found) == ["similar-classes"]
    assert "'Red cell' and 'red-cell'" in found.problems[0].message


def test_few_or_no_examples_of_a_class_are_said(raw, tmp_path):
    shown = raw.pictures(60, splits=SPLITS)
    for item in shown:
        item.boxes = [(0, 1, 1, 20, 20)]
    shown[0].boxes.append((1, 1, 1, 20, 20))
    shown[1].boxes.append((1, 1, 1, 20, 20))
    found = take_inventory(raw.det["coco"](tmp_path / "a", shown))
    assert found.classes == ("bolt", "nut")
    assert {one.code: one.severity for one in found.problems} == {
        "unused-class": "warning", "untested-class": "warning",
    }  # fmt: skip
    shown[1].boxes.pop()
    found = take_inventory(raw.det["coco"](tmp_path / "b", shown))
    assert {one.code for one in found.errors} == {"absent-class"}
    with pytest.raises(DataError, match="'nut': 1 for training, 0 for validation"):
        refuse_errors(found, skip_broken=True)
    shown[1].boxes.append((1, 1, 1, 20, 20))
    shown[2].boxes.append((1, 1, 1, 20, 20))
    found = take_inventory(raw.det["coco"](tmp_path / "c", shown))
    assert {one.code for one in found.problems} == {"unused-class", "few-examples"}


def test_a_class_without_example_is_not_used_and_the_labels_close_the_gap(raw, tmp_path):
    shown = [raw.picture(i, boxes=[(2, 1, 1, 20, 20)]) for i in range(4)]
    found = take_inventory(raw.det["coco"](tmp_path, shown))
    assert found.classes == ("washer",)
    labels = {box.label for part in found.parts.values() for r in part for box in r.boxes}
    assert labels == {0}


# Refusing


def test_errors_are_refused_unless_they_are_skipped(raw, tmp_path):
    shown = raw.pictures(40)
    shown[0].content = b"no image"
    shown[1].boxes.append((0, 5, 5, 5, 9))
    found = take_inventory(raw.det["coco"](tmp_path, shown))
    with pytest.raises(
        DataError, match="errors that are not skipped: 1 broken-image, 1 empty-box"
    ) as caught:
        refuse_errors(found, skip_broken=False)
    hints = " ".join(caught.value.hints)
    assert "modules check" in hints
    assert "--skip-broken leaves 1 image and 1 box out" in hints
    left_out = refuse_errors(found, skip_broken=True)
    assert {one.code for one in left_out} == {"broken-image", "empty-box"}
    assert sum(map(len, found.parts.values())) == 39


def test_the_wrong_task_is_refused_with_the_right_one(raw, tmp_path):
    raw.det["voc"](tmp_path, raw.pictures(3))
    with pytest.raises(UsageError, match="its task is 'det'") as caught:
        take_inventory(tmp_path, kind="cls")
    assert caught.value.hints == ("--task det",)


def test_data_without_any_usable_image_is_refused(raw, tmp_path):
    shown = raw.pictures(2)
    for item in shown:
        item.content = b""
    with pytest.raises(DataError, match="no image that can be used: 2 broken-image"):
        take_inventory(raw.det["yolo"](tmp_path, shown))


def test_problems_are_counted_and_listed():
    found = [
        problem("empty-box", "a.png", "box 1: 0x4"), problem("empty-box", "a.png", "box 2: 0x4"),
        problem("broken-image", "b.png", "cut\nshort"), problem("copy", "c.png", "as d.png"),
    ]  # fmt: skip
    assert counts_text(found) == "2 empty-box, 1 broken-image, 1 copy"
    assert left_out_text(found) == "1 image and 2 boxes"
    assert left_out_text([]) == "nothing"
    assert left_out_lines(found).splitlines()[2] == "broken-image\tb.png\tcut short"
    assert len(left_out_lines(found).splitlines()) == 3


def test_the_guide_explains_every_kind_of_problem():
    guide = (ROOT / "docs" / "guides" / "own-data.md").read_text(encoding="utf-8")
    tables = guide[guide.index("| error |") : guide.index("## Recipe")].split("| warning |")
    for table, severity in zip(tables, ("error", "warning"), strict=True):
        rows = re.findall(r"^\| `([a-z-]+)`", table, flags=re.M)
        assert sorted(rows) == sorted(code for code in CODES if CODES[code][0] == severity)
