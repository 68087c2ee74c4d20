"""Decoding: the pixels of the runtime in an artifact, boxes that follow, and arrays on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nnfactory.exporters.metadata import preprocess_spec
from nnfactory.exporters.runtime import nnf_runtime
from nnfactory.factory.datasets import Box, load_dataset, source_from_recipe, take_inventory
from nnfactory.factory.datasets.decode import decode, decoded_bytes
from nnfactory.factory.datasets.fitting import boxes_letterboxed, center_cropped, letterboxed
from nnfactory.factory.errors import DataError

sides = st.integers(1, 90)


@settings(max_examples=40)
@given(height=sides, width=sides, side=st.sampled_from([16, 32, 64]), seed=st.integers(0, 99))
def test_fitted_images_are_those_of_the_runtime(height, width, side, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for kind, fit in (("det", letterboxed), ("cls", center_cropped)):
        tensor = nnf_runtime.preprocess(image, preprocess_spec(kind, (side, side)))
        wanted = np.rint(tensor[0].transpose(1, 2, 0) * 255).astype(np.uint8)
        assert np.array_equal(fit(image, side), wanted), kind


@given(
    height=st.integers(20, 900), width=st.integers(20, 900), side=st.sampled_from([64, 256]),
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)  # fmt: skip
def test_boxes_go_where_the_runtime_brings_them_back_from(height, width, side, corners):
    (x1, x2), (y1, y2) = sorted(corners[:2]), sorted(corners[2:])
    box = Box(label=1, x1=x1 * width, y1=y1 * height, x2=x2 * width, y2=y2 * height)
    (row,) = boxes_letterboxed([box], width, height, side)
    assert row[0] == 1
    assert (row[1:] >= 0).all()
    assert (row[1:] <= side).all()
    answer = np.array([[*row[1:], 0.9, row[0]]], np.float32)
    spec = preprocess_spec("det", (side, side))
    back = nnf_runtime.boxes_in_image(answer, (height, width), spec, 0.5)[0, :4]
    slack = 1.01 * max(height, width) / side  # the canvas is whole pixels
    assert np.abs(back - (box.x1, box.y1, box.x2, box.y2)).max() <= slack


def test_no_boxes_are_no_rows():
    assert boxes_letterboxed([], 30, 20, 64).shape == (0, 5)


@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "pack"])
def test_decoded_splits_have_the_pixels_and_boxes_of_their_images(raw, tmp_path, name):
    shown = {item.name: item for item in raw.pictures(40)}
    inventory = take_inventory(raw.det[name](tmp_path, list(shown.values())))
    data = decode(inventory, input_size=32)
    assert data.classes == inventory.classes
    assert (data.wordnet, data.left_out) == ((), ())
    for split in ("train", "validation", "test"):
        images, records = getattr(data, split), inventory.parts[split]
        assert images.pixels.shape == (len(records), 32, 32, 3)
        assert len(images.boxes) == len(records)
        for pixels, boxes, record in zip(images.pixels, images.boxes, records, strict=True):
            item = shown[Path(record.name).name]
            assert boxes.shape == (len(item.boxes), 5)
            middle = pixels[12:20, 12:20].astype(float).mean()
            assert 80 < middle < 175  # noise, not padding of one level
            wanted = boxes_letterboxed(record.boxes, item.width, item.height, 32)
            assert np.array_equal(boxes, wanted)


def test_decoded_classes_have_labels_and_no_boxes(raw, tmp_path):
    inventory = take_inventory(raw.cls["imagefolder"](tmp_path, raw.pictures(40)))
    data = decode(inventory, input_size=16, splits=("train",))
    assert data.train.pixels.shape[1:] == (16, 16, 3)
    assert data.train.labels.tolist() == [record.label for record in inventory.parts["train"]]
    assert data.train.boxes == ()
    assert len(data.validation) == len(data.test) == 0


def test_a_turned_photo_is_decoded_upright(raw, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    shown = raw.pictures(30)
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255
    plain = raw.Picture("plain.png", raw.png(pixels), 32, 32, [(0, 0, 0, 32, 16)])
    turned = raw.Picture("turned.png", raw.png(pixels[::-1], exif=exif), 32, 32, plain.boxes)
    inventory = take_inventory(raw.det["coco"](tmp_path, [*shown, plain, turned]), split="hash 0")
    data = decode(inventory, input_size=32)
    found = [
        images.pixels[i]
        for split, images in (("train", data.train), ("validation", data.validation),
                              ("test", data.test))
        for i, record in enumerate(inventory.parts[split])
        if Path(record.name).name in ("plain.png", "turned.png")
    ]  # fmt: skip
    assert len(found) == 2
    assert all(np.array_equal(image, pixels) for image in found)


# On disk


def test_many_images_are_kept_on_disk_and_found_again(raw, tmp_path, monkeypatch):
    inventory = take_inventory(raw.det["yolo"](tmp_path / "data", raw.pictures(40)))
    needed = decoded_bytes(inventory, 32)
    assert needed == 40 * 32 * 32 * 3
    in_memory = decode(inventory, input_size=32, memory_bytes=needed)
    cache = tmp_path / "cache"
    options = {"input_size": 32, "cache_dir": cache, "memory_bytes": needed - 1}
    on_disk = decode(inventory, **options)
    files = sorted(path.name for path in (cache / "images").iterdir())
    assert len(files) == 3
    assert all(name.endswith(".npy") for name in files)
    for split in ("train", "validation", "test"):
        pixels = getattr(on_disk, split).pixels
        assert isinstance(pixels.base, np.memmap)
        assert pixels.flags.writeable  # torch warns of arrays that are not
        assert np.array_equal(pixels, getattr(in_memory, split).pixels)
    monkeypatch.setattr("nnfactory.factory.datasets.decode._pixels", None)  # decodes nothing now
    again = decode(inventory, **options)
    assert np.array_equal(again.train.pixels, in_memory.train.pixels)


def test_pixels_on_disk_are_not_changed_by_writing_into_them(raw, tmp_path):
    inventory = take_inventory(raw.det["yolo"](tmp_path / "data", raw.pictures(30)))
    options = {"input_size": 16, "cache_dir": tmp_path / "cache", "memory_bytes": 0}
    first = decode(inventory, **options).train.pixels
    before = first.copy()
    first[:] = 0
    assert np.array_equal(decode(inventory, **options).train.pixels, before)


def test_a_damaged_or_impossible_cache_is_an_error(raw, tmp_path):
    inventory = take_inventory(raw.det["yolo"](tmp_path / "data", raw.pictures(30)))
    options = {"input_size": 16, "memory_bytes": 0}
    with pytest.raises(DataError, match="GB decoded"):
        decode(inventory, **options)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be kept") as caught:
        decode(inventory, cache_dir=tmp_path / "file", **options)
    assert "NNFACTORY_CACHE" in caught.value.hints[0]
    decode(inventory, cache_dir=tmp_path / "cache", **options)
    for path in (tmp_path / "cache" / "images").iterdir():
        np.save(path, np.zeros(3, np.uint8))
    with pytest.raises(DataError, match="damaged"):
        decode(inventory, cache_dir=tmp_path / "cache", **options)


def test_an_image_that_changes_after_the_check_is_an_error(raw, tmp_path):
    inventory = take_inventory(raw.det["yolo"](tmp_path, raw.pictures(30)))
    path = inventory.parts["train"][0].source
    path.write_bytes(raw.png(np.zeros((5, 5, 3), np.uint8)))
    with pytest.raises(DataError, match="changed its size"):
        decode(inventory, input_size=16)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be decoded any more"):
        decode(inventory, input_size=16)


# From a recipe


def table(inventory, **changes) -> dict:
    return {
        "folder": "x", "format": inventory.format, "split": inventory.split,
        "classes": list(inventory.classes), **changes,
    }  # fmt: skip


def test_a_recipe_reads_its_data_as_it_was_checked(raw, tmp_path):
    inventory = take_inventory(raw.det["voc"](tmp_path, raw.pictures(40)))
    source = source_from_recipe(table(inventory), classes=3, input_size=32)
    data = load_dataset("det", tmp_path, splits=("train", "validation"), source=source)
    wanted = decode(inventory, input_size=32)
    assert np.array_equal(data.train.pixels, wanted.train.pixels)
    assert len(data.validation) == len(wanted.validation)
    assert len(data.test) == 0


def test_a_recipe_without_a_format_reads_packs_as_they_are():
    assert source_from_recipe({"folder": "x"}, classes=3, input_size=32) is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"classes": "bolt"}, "list of class names"), ({"classes": [1, 2, 3]}, "list of class names"),
     ({"split": 3}, "split policy"), ({"classes": ["bolt"]}, "lists 1 classes")],
)  # fmt: skip
def test_a_recipe_that_says_too_little_is_refused(raw, tmp_path, changes, text):
    inventory = take_inventory(raw.det["voc"](tmp_path, raw.pictures(30)))
    with pytest.raises(DataError, match=text):
        source_from_recipe(table(inventory, **changes), classes=3, input_size=32)


def test_errors_stop_loading_unless_they_are_skipped(raw, tmp_path):
    shown = raw.pictures(40)
    shown[3].content = b"no image"
    inventory = take_inventory(raw.det["voc"](tmp_path, shown))
    options = {"classes": 3, "input_size": 32}
    with pytest.raises(DataError, match="1 broken-image"):
        load_dataset("det", tmp_path, source=source_from_recipe(table(inventory), **options))
    source = source_from_recipe(table(inventory), **options, skip_broken=True)
    data = load_dataset("det", tmp_path, source=source)
    assert [found.code for found in data.left_out] == ["broken-image"]
    assert len(data.train) + len(data.validation) + len(data.test) == 39
