"""Data folders: what is read, what is refused, and that splits share no image."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnfactory.factory import accuracy_measurement
from nnfactory.factory.datasets import Images, load_dataset, read_pack
from nnfactory.factory.errors import DataError


def pack(path: Path, colors: list[int], *, side: int = 8, **arrays: np.ndarray) -> None:
    """An image pack with one plain picture per color, so that every image can be told apart."""
    files = []
    for color in colors:
        stream = io.BytesIO()
        pixels = np.full((side, side, 3), color, np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG", quality=100)
        files.append(np.frombuffer(stream.getvalue(), np.uint8))
    offset = np.concatenate(([0], np.cumsum([len(file) for file in files]))).astype(np.int64)
    jpeg = np.concatenate([np.empty(0, np.uint8), *files])
    np.savez(path, jpeg=jpeg, offset=offset, **arrays)


@pytest.fixture
def cls_folder(tmp_path: Path) -> Path:
    """Two classes, 30 training images each, and 4 test images."""
    labels = np.arange(60) % 2
    pack(tmp_path / "train.npz", list(range(60)), label=labels)
    pack(tmp_path / "val.npz", [200, 201, 202, 203], label=np.array([0, 1, 0, 1]))
    classes = [{"name": "a", "wnid": "n1"}, {"name": "b", "wnid": "n2"}]
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    return tmp_path


@pytest.fixture
def det_folder(tmp_path: Path) -> Path:
    """Two classes of 14 frames each, the last two of each for the test."""
    pack(tmp_path / "images.npz", list(range(28)))
    notes = {
        "categories": [{"id": 5, "name": "a"}, {"id": 9, "name": "b"}],
        "images": [{"id": 100 + i, "split": "test" if i % 14 > 11 else "train"} for i in range(28)],
        "annotations": [
            {"image_id": 100 + i, "category_id": 5 if i < 14 else 9, "bbox": [1, 2, 3, 4]}
            for i in range(28)
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(notes))
    return tmp_path


def colors(images: Images) -> set[int]:
    return {int(picture.mean().round()) for picture in images.pixels}


def test_a_pack_decodes_to_the_pictures_that_went_in(tmp_path):
    pack(tmp_path / "p.npz", [0, 100, 255])
    pixels = read_pack(tmp_path / "p.npz")
    assert pixels.shape == (3, 8, 8, 3)
    assert pixels.dtype == np.uint8
    assert [int(p.mean().round()) for p in pixels] == [0, 100, 255]


def test_classification_splits_share_no_image_and_hold_every_class(cls_folder):
    data = load_dataset("cls", cls_folder)
    assert data.classes == ("a", "b")
    assert data.wordnet == ("n1", "n2")
    assert (len(data.train), len(data.validation), len(data.test)) == (56, 4, 4)
    assert not colors(data.train) & colors(data.validation)
    assert not (colors(data.train) | colors(data.validation)) & colors(data.test)
    assert set(data.validation.labels) == {0, 1}
    for images in (data.train, data.validation):
        parity = [int(p.mean().round()) % 2 for p in images.pixels]
        assert parity == list(images.labels)


def test_detection_splits_share_no_image_and_neighbors_are_dropped(det_folder):
    data = load_dataset("det", det_folder)
    assert data.classes == ("a", "b")
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 4, 4)
    assert colors(data.validation) == {10, 11, 24, 25}
    assert colors(data.test) == {12, 13, 26, 27}
    assert not colors(data.train) & {9, 10, 11, 23, 24, 25}  # the one before is too alike
    assert data.test.boxes[0].tolist() == [[0, 1, 2, 4, 6]]
    assert data.test.boxes[-1][0, 0] == 1


@pytest.mark.parametrize("kind", ["cls", "det"])
def test_only_the_wanted_splits_are_decoded(kind, request):
    folder = request.getfixturevalue(f"{kind}_folder")
    data = load_dataset(kind, folder, splits=("test",))
    assert (len(data.train), len(data.validation), len(data.test)) == (0, 0, 4)


@pytest.mark.parametrize("kind", ["cls", "det"])
def test_a_missing_folder_is_named_with_the_option_that_sets_it(kind, tmp_path):
    with pytest.raises(DataError, match="There is no data folder") as caught:
        load_dataset(kind, tmp_path / "nowhere")
    assert "--data" in caught.value.hints[0]


@pytest.mark.parametrize("kind", ["cls", "det"])
def test_an_empty_folder_holds_no_data(kind, tmp_path):
    with pytest.raises(DataError, match="holds no"):
        load_dataset(kind, tmp_path)


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04 cut short", b"\x93NUMPY"])
def test_a_file_that_is_no_pack_is_refused(tmp_path, content):
    (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(DataError, match="no image pack"):
        read_pack(tmp_path / "p.npz")


def test_a_damaged_pack_is_refused(tmp_path):
    pack(tmp_path / "p.npz", [1, 2, 3])
    whole = (tmp_path / "p.npz").read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 23)):
        (tmp_path / "p.npz").write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_pack(tmp_path / "p.npz")


def test_a_single_array_is_no_pack(tmp_path):
    with (tmp_path / "p.npz").open("wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(DataError, match="no image pack"):
        read_pack(tmp_path / "p.npz")


def test_a_pack_of_objects_is_refused_and_not_executed(tmp_path):
    np.savez(tmp_path / "p.npz", jpeg=np.array([{}], object), offset=np.array([0, 1]))
    with pytest.raises(DataError, match="no image pack"):
        read_pack(tmp_path / "p.npz")


def test_a_pack_without_images_or_with_different_sizes_is_refused(tmp_path):
    np.savez(tmp_path / "none.npz", jpeg=np.empty(0, np.uint8), offset=np.array([0]))
    with pytest.raises(DataError, match="holds no images"):
        read_pack(tmp_path / "none.npz")
    pack(tmp_path / "a.npz", [1])
    pack(tmp_path / "b.npz", [1], side=16)
    parts = [np.load(tmp_path / name)["jpeg"] for name in ("a.npz", "b.npz")]
    offset = np.array([0, len(parts[0]), len(parts[0]) + len(parts[1])])
    np.savez(tmp_path / "mixed.npz", jpeg=np.concatenate(parts), offset=offset)
    with pytest.raises(DataError, match="no image pack"):
        read_pack(tmp_path / "mixed.npz")


def test_labels_that_do_not_fit_the_images_are_refused(cls_folder):
    pack(cls_folder / "train.npz", list(range(60)), label=np.zeros(59, np.int64))
    with pytest.raises(DataError, match="labels"):
        load_dataset("cls", cls_folder)


def test_annotations_that_do_not_fit_the_images_are_refused(det_folder):
    pack(det_folder / "images.npz", list(range(27)))
    with pytest.raises(DataError, match="images"):
        load_dataset("det", det_folder)


def test_a_label_without_a_name_is_refused(cls_folder):
    (cls_folder / "classes.json").write_text('[{"name": "a", "wnid": "n1"}]')
    with pytest.raises(DataError, match="label 1, but names only 1"):
        load_dataset("cls", cls_folder)


@pytest.mark.parametrize("notes", ["[]", "{}", "not json", '{"categories": 3}'])
def test_malformed_annotations_are_refused(det_folder, notes):
    (det_folder / "annotations.json").write_text(notes)
    with pytest.raises(DataError, match="no detection set"):
        load_dataset("det", det_folder)


@pytest.mark.parametrize("listed", ["3", "not json", '["a"]', '[{"name": "a"}]'])
def test_malformed_class_lists_are_refused(cls_folder, listed):
    (cls_folder / "classes.json").write_text(listed)
    with pytest.raises(DataError, match="no classification set"):
        load_dataset("cls", cls_folder)


def test_task_images_keep_only_images_of_the_task_and_count_labels_within_it(cls_folder):
    data = load_dataset("cls", cls_folder)
    chosen = accuracy_measurement.task_images(data.train, [1])
    assert set(chosen.labels) == {0}
    assert all(color % 2 for color in colors(chosen))
    swapped = accuracy_measurement.task_images(data.test, [1, 0])
    assert swapped.labels.tolist() == [1, 0, 1, 0]


def test_task_images_drop_boxes_of_other_classes(det_folder):
    boxes = (
        np.array([[0, 0, 0, 1, 1], [2, 0, 0, 2, 2]], np.float32),
        np.array([[1, 0, 0, 1, 1]], np.float32),
        np.empty((0, 5), np.float32),
    )
    pixels = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 4, 4, 3), np.uint8)
    images = Images(pixels=pixels, labels=np.empty(0, np.int64), boxes=boxes)
    chosen = accuracy_measurement.task_images(images, [2])
    assert colors(chosen) == {0}
    assert chosen.boxes[0].tolist() == [[0, 0, 0, 2, 2]]
    assert boxes[0][1, 0] == 2  # the caller's boxes are left alone
    assert len(accuracy_measurement.task_images(images, [3])) == 0


def test_tensors_are_scaled_and_channels_first():
    pixels = np.zeros((1, 2, 3, 3), np.uint8)
    pixels[0, 1, 2] = (255, 51, 0)
    tensor = accuracy_measurement.tensor_from_pixels(pixels)
    assert tensor.shape == (1, 3, 2, 3)
    assert tensor[0, :, 1, 2] == pytest.approx([1.0, 0.2, 0.0])
    assert tensor.flags.c_contiguous
