"""Readers: all formats give the same records, and the format is recognised or asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnfactory.cli import own_data
from nnfactory.factory.datasets import FORMATS
from nnfactory.factory.datasets.files import content
from nnfactory.factory.datasets.formats import format_of
from nnfactory.factory.datasets.records import split_from_name
from nnfactory.factory.errors import DataError, MissingExtraError, UnknownNameError

SPLITS = ("train", "train", "validation", "test")


def plain(listing, classes) -> list[tuple]:
    """What the formats must agree on; classes by name, because each orders them in its own way."""
    rows = []
    for record in listing.records:
        boxes = sorted(
            (listing.classes[b.label], *(round(v, 6) for v in (b.x1, b.y1, b.x2, b.y2)))
            for b in record.boxes
        )
        name = Path(record.name).name
        label = None if record.label is None else listing.classes[record.label]
        rows.append((name, record.width, record.height, label, boxes, record.split))
    assert set(listing.classes) == set(classes)
    return sorted(rows)


def expected(shown, classes, *, kind: str) -> list[tuple]:
    rows = []
    for item in shown:
        boxes = sorted((classes[row[0]], *map(float, row[1:])) for row in item.boxes)
        known = (None, boxes) if kind == "det" else (classes[item.label], [])
        rows.append((item.name, item.width, item.height, *known, item.split))
    return sorted(rows)


@pytest.mark.parametrize("splits", [("",), SPLITS], ids=["one", "split"])
@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "pack"])
def test_every_format_of_boxes_gives_the_records_that_were_written(raw, tmp_path, name, splits):
    shown = raw.pictures(12, splits=splits)
    listing = format_of(raw.det[name](tmp_path, shown)).read(tmp_path, ())
    assert (listing.format, listing.kind) == (name, "det")
    assert listing.problems == ()
    assert plain(listing, raw.classes) == expected(shown, raw.classes, kind="det")
    assert {content(record.source) for record in listing.records} == {p.content for p in shown}


@pytest.mark.parametrize("name", ["imagefolder", "pack"])
def test_every_format_of_classes_gives_the_records_that_were_written(raw, tmp_path, name):
    shown = raw.pictures(12, splits=SPLITS)
    listing = format_of(raw.cls[name](tmp_path, shown)).read(tmp_path, ())
    assert (listing.format, listing.kind, listing.problems) == (name, "cls", ())
    found, wanted = plain(listing, raw.classes), expected(shown, raw.classes, kind="cls")
    if name == "pack":  # the names of the files are not in a pack
        found, wanted = (sorted(row[1:] for row in rows) for rows in (found, wanted))
    assert found == wanted


def test_real_annotations_are_the_same_in_every_format(raw, tmp_path, data_dir):
    """BCCD: 292 images with halves of pixels in their boxes."""
    folder = data_dir / "bccd"
    table = json.loads((folder / "annotations.json").read_text())
    with np.load(folder / "images.npz") as pack:
        joined, offset = pack["jpeg"].tobytes(), pack["offset"]
    boxes: dict[int, list[tuple]] = {}
    for note in table["annotations"]:
        x, y, w, h = note["bbox"]
        boxes.setdefault(note["image_id"], []).append((note["category_id"], x, y, x + w, y + h))
    classes = [entry["name"] for entry in table["categories"]]
    shown = [
        raw.Picture(
            entry["file_name"], joined[offset[i] : offset[i + 1]], entry["width"],
            entry["height"], boxes[entry["id"]], 0, split_from_name(entry["split"]),
        )
        for i, entry in enumerate(table["images"])
    ]  # fmt: skip
    wanted = expected(shown, classes, kind="det")
    assert len(wanted) == 292
    for name in raw.det:
        place = raw.det[name](tmp_path / name, shown, classes)
        listing = format_of(place).read(place, ())
        assert listing.problems == ()
        assert plain(listing, classes) == wanted, name


@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "pack"])
def test_a_stated_list_of_classes_fixes_the_labels_and_other_boxes_are_unknown(raw, tmp_path, name):
    shown = [raw.picture(0, boxes=[(0, 1, 2, 20, 22), (2, 5, 5, 25, 20)])]
    listing = FORMATS[name].read(raw.det[name](tmp_path, shown), ("washer", "nut"))
    assert listing.classes == ("washer", "nut")
    assert [box.label for record in listing.records for box in record.boxes] == [0]
    assert [found.code for found in listing.problems] == ["unknown-class"]


def test_a_stated_list_of_classes_leaves_other_class_folders_out(raw, tmp_path):
    raw.cls["imagefolder"](tmp_path, raw.pictures(6))
    listing = FORMATS["imagefolder"].read(tmp_path, ("washer", "nut"))
    assert [record.label for record in listing.records] == [1, 1, 0, 0]
    assert [found.code for found in listing.problems] == ["unknown-label"] * 2


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("Training", "train"), ("train2017", "train"), ("val", "validation"),
     ("valid", "validation"), ("dev", "validation"), ("TEST", "test"), ("trainers", ""),
     ("images", ""), ("", "")],
)  # fmt: skip
def test_folders_are_splits_by_their_usual_names(name, split):
    assert split_from_name(name) == split


# Recognising


def test_a_folder_without_data_is_told_what_every_format_needs(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match="no labelled images") as caught:
        format_of(tmp_path)
    text = "\n".join(caught.value.hints)
    assert all(form.needs in text for form in FORMATS.values())


def test_a_folder_in_two_formats_names_both_and_the_option_that_decides(raw, tmp_path):
    shown = raw.pictures(4)
    raw.det["voc"](tmp_path, shown)
    raw.write(tmp_path / "boxes.json", json.dumps(raw.coco_table(shown, raw.classes)))
    with pytest.raises(DataError, match="coco and voc") as caught:
        format_of(tmp_path)
    assert "--format coco|voc" in caught.value.hints[0]
    assert format_of(tmp_path, "voc").name == "voc"


def test_an_unknown_format_is_corrected(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'coco'"):
        format_of(tmp_path, "coko")


def test_a_folder_that_is_not_there_names_the_option(tmp_path):
    with pytest.raises(DataError, match="There is no data folder") as caught:
        format_of(tmp_path / "nowhere")
    assert "--data" in caught.value.hints[0]


def test_the_command_offers_the_formats_that_there_are():
    assert tuple(FORMATS) == own_data.FORMATS


# COCO


def test_coco_takes_the_image_in_the_folder_of_its_split(raw, tmp_path):
    shown = [raw.picture(0, split="train"), raw.picture(1, split="validation")]
    shown[0].name = shown[1].name = "000.png"
    listing = FORMATS["coco"].read(raw.det["coco"](tmp_path, shown), ())
    assert [(r.name, r.split) for r in listing.records] == [
        ("train2017/000.png", "train"),
        ("val2017/000.png", "validation"),
    ]
    assert listing.records[0].source.read_bytes() == shown[0].content


def test_coco_beside_the_images_of_each_split_is_read(raw, tmp_path):
    for split, item in (("train", raw.picture(0)), ("valid", raw.picture(1))):
        raw.write(tmp_path / split / item.name, item.content)
        table = json.dumps(raw.coco_table([item], raw.classes))
        raw.write(tmp_path / split / "_annotations.coco.json", table)
    listing = format_of(tmp_path).read(tmp_path, ())
    assert [record.split for record in listing.records] == ["train", "validation"]


def test_coco_never_reads_outside_of_the_folder(raw, tmp_path):
    item = raw.picture(0)
    raw.write(tmp_path / "secret.png", item.content)
    inside = raw.det["coco"](tmp_path / "data", [raw.picture(1)])
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        item.name = name
        raw.write(
            inside / "annotations" / "instances.json",
            json.dumps(raw.coco_table([item], raw.classes)),
        )
        listing = FORMATS["coco"].read(inside, ())
        assert listing.records == ()
        assert [found.code for found in listing.problems][0] == "missing-image"


def test_coco_refuses_an_image_in_two_files(raw, tmp_path):
    shown = raw.pictures(3)
    raw.det["coco"](tmp_path, shown)
    raw.write(tmp_path / "more.json", json.dumps(raw.coco_table(shown, raw.classes)))
    with pytest.raises(DataError, match="annotated twice"):
        FORMATS["coco"].read(tmp_path, ())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t["categories"].append(t["categories"][0]), "category twice"),
        (lambda t: t["images"].append(t["images"][0]), "image id twice"),
        (lambda t: t["annotations"].append({"bbox": [1, 2, 3, 4]}), "no COCO file"),
        (lambda t: t["images"][0].update(split="fold1"), "'fold1'"),
        (lambda t: t.update(images=3), "no COCO file"),
    ],
)
def test_malformed_coco_files_are_refused(raw, tmp_path, change, text):
    raw.det["coco"](tmp_path, raw.pictures(2))
    path = tmp_path / "annotations" / "instances.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))
    with pytest.raises(DataError, match=text):
        FORMATS["coco"].read(tmp_path, ())


# YOLO


def test_yolo_with_names_in_a_text_file_needs_no_yaml(raw, tmp_path, monkeypatch):
    shown = raw.pictures(4)
    raw.det["yolo"](tmp_path, shown)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("bolt\nnut\nwasher\n")
    listing = format_of(tmp_path).read(tmp_path, ())
    assert plain(listing, raw.classes) == expected(shown, raw.classes, kind="det")


def test_yolo_without_the_yaml_package_names_the_extra(raw, tmp_path, monkeypatch):
    raw.det["yolo"](tmp_path, raw.pictures(2))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="data.yaml"):
        FORMATS["yolo"].read(tmp_path, ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {0: a, 2: b}", "0, 1, 2"),
        ("names: 3", "list or a mapping"),
        ("nc: 3\nnames: [a, b]", "'nc' is 3"),
        ("names: [a, a]", "twice"),
        ("names: ['']", "without a name"),
        ("names: []", "no classes"),
        ("- names", "must be a table"),
        ("names: [", "no yaml"),
        ("names: !!python/object/apply:os.getcwd []", "no yaml"),
    ],
)
def test_malformed_names_are_refused(raw, tmp_path, text, message):
    raw.det["yolo"](tmp_path, raw.pictures(2))
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        FORMATS["yolo"].read(tmp_path, ())


def test_yolo_names_may_be_a_mapping(raw, tmp_path):
    raw.det["yolo"](tmp_path, raw.pictures(2))
    (tmp_path / "data.yaml").write_text("names:\n  0: bolt\n  1: nut\n  2: washer\n")
    assert FORMATS["yolo"].read(tmp_path, ()).classes == raw.classes


def test_yolo_splits_may_be_folders_or_lists_in_the_yaml(raw, tmp_path):
    shown = raw.pictures(4)
    for item, part in zip(shown, "aabb", strict=True):
        raw.write(tmp_path / "images" / part / item.name, item.content)
        raw.write(tmp_path / "labels" / part / f"{Path(item.name).stem}.txt", "0 0.5 0.5 0.2 0.2")
    raw.write(tmp_path / "held.txt", f"./images/b/{shown[3].name}\n")
    text = "path: ../anywhere\ntrain: images/a\nval: held.txt\ntest: images/none\n"
    raw.write(tmp_path / "data.yaml", text + "names: [bolt]\n")
    listing = FORMATS["yolo"].read(tmp_path, ())
    assert [record.split for record in listing.records] == ["train", "train", "", "validation"]


def test_a_yolo_polygon_stands_for_the_box_around_it(raw, tmp_path):
    raw.det["yolo"](tmp_path, [raw.picture(0, boxes=[])])
    (tmp_path / "labels" / "p0000.txt").write_text("1 0.1 0.5 0.4 0.2 0.3 0.9")
    (record,) = FORMATS["yolo"].read(tmp_path, ()).records
    (box,) = record.boxes
    w, h = record.width, record.height
    assert (box.x1, box.y1, box.x2, box.y2) == pytest.approx((0.1 * w, 0.2 * h, 0.4 * w, 0.9 * h))


def test_an_empty_yolo_file_is_an_image_without_objects(raw, tmp_path):
    raw.det["yolo"](tmp_path, [raw.picture(0, boxes=[])])
    listing = FORMATS["yolo"].read(tmp_path, ())
    assert [record.boxes for record in listing.records] == [()]
    assert listing.problems == ()


# Pascal VOC


def test_voc_corners_are_counted_from_0_where_a_box_starts_there(raw, tmp_path):
    raw.det["voc"](tmp_path, [raw.picture(0, boxes=[(0, -1, 4, 20, 20), (1, 6, 7, 30, 28)])])
    listing = FORMATS["voc"].read(tmp_path, ())
    (record,) = listing.records
    assert [(b.x1, b.y1, b.x2, b.y2) for b in record.boxes] == [(0, 5, 20, 20), (7, 8, 30, 28)]
    assert "from 0" in listing.notes[0]


def test_voc_refuses_a_document_type_so_that_no_entity_can_grow(raw, tmp_path):
    raw.det["voc"](tmp_path, raw.pictures(2))
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    path = tmp_path / "Annotations" / "p0000.xml"
    for encoding in ("utf-8", "utf-16"):
        text = f'<?xml version="1.0" encoding="{encoding}"?>{bomb}<annotation>&b;</annotation>'
        path.write_bytes(text.encode(encoding))
        listing = FORMATS["voc"].read(tmp_path, ())
        (found,) = listing.problems
        assert (found.code, found.file) == ("bad-annotation", "Annotations/p0000.xml")
        assert "document type" in found.message


# Folders of classes


def test_class_folders_beside_split_folders_are_refused(raw, tmp_path):
    raw.cls["imagefolder"](tmp_path, raw.pictures(8, splits=("train", "")))
    with pytest.raises(DataError, match="beside folders of classes"):
        format_of(tmp_path)


def test_links_to_folders_are_followed_once_and_hidden_files_are_not_read(raw, tmp_path):
    raw.cls["imagefolder"](tmp_path / "far", raw.pictures(6))
    near = tmp_path / "near"
    near.mkdir()
    for name in raw.classes:
        (near / name).symlink_to(tmp_path / "far" / name)
    (near / raw.classes[0] / "loop").symlink_to(near)
    raw.write(near / "bolt" / "._p.png", b"")
    raw.write(near / ".hidden" / "p.png", b"")
    listing = format_of(near).read(near, ())
    assert len(listing.records) == 6
    assert listing.problems == ()


# Packs


def test_a_pack_that_does_not_fit_its_annotations_is_refused(raw, tmp_path):
    raw.det["pack"](tmp_path, raw.pictures(3))
    table = raw.coco_table(raw.pictures(2), raw.classes)
    (tmp_path / "annotations.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match="3 images, but annotations of 2"):
        FORMATS["pack"].read(tmp_path, ())


def test_packs_without_labels_or_with_too_few_are_refused(raw, tmp_path):
    raw.cls["pack"](tmp_path, raw.pictures(3))
    with np.load(tmp_path / "train.npz") as pack:
        arrays = dict(pack)
    np.savez(tmp_path / "train.npz", **{**arrays, "label": np.zeros(2, np.int64)})
    with pytest.raises(DataError, match="3 images, but 2 labels"):
        FORMATS["pack"].read(tmp_path, ())
    del arrays["label"]
    np.savez(tmp_path / "train.npz", **arrays)
    with pytest.raises(DataError, match="holds no labels"):
        FORMATS["pack"].read(tmp_path, ())
    (tmp_path / "classes.json").write_text('["a"]')
    with pytest.raises(DataError, match="no packs with labels"):
        FORMATS["pack"].read(tmp_path, ())
    np.savez(tmp_path / "train.npz", jpeg=np.empty(0, np.uint8))
    (tmp_path / "classes.json").write_text('[{"name": "a"}]')
    with pytest.raises(DataError, match="no image pack"):
        FORMATS["pack"].read(tmp_path, ())
