"""Images in two parts: what is measured on was never fitted to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnfactory.factory.errors import DataError, UnknownNameError, UsageError
from nnfactory.factory.reuse import own_images
from nnfactory.factory.reuse.own_images import balanced_order, read_two_parts


def write_images(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def rows(images) -> set[bytes]:
    return {image.tobytes() for image in images.pixels}


def test_a_quarter_is_held_out_where_nobody_divided(tmp_path):
    folder = write_images(tmp_path / "all", {"a": 40, "b": 40})
    found = read_two_parts(folder, [16, 8], (), most=1000)
    assert found.classes == ("a", "b")
    assert {size: len(images) for size, images in found.training.items()} == {16: 60, 8: 60}
    assert {size: len(images) for size, images in found.fitting.items()} == {16: 30, 8: 30}
    assert len(found.measuring[16]) == 20
    assert not rows(found.training[16]) & rows(found.measuring[16])
    np.testing.assert_array_equal(found.fitting[16].labels, found.fitting[8].labels)
    assert "nothing was fitted to" in found.name


def test_the_parts_of_the_folder_are_kept(tmp_path):
    write_images(tmp_path / "all" / "train", {"a": 12, "b": 12})
    write_images(tmp_path / "all" / "val", {"a": 6, "b": 6}, seed=1)
    found = read_two_parts(tmp_path / "all", [16], (), most=1000)
    assert (len(found.training[16]), len(found.measuring[16])) == (24, 12)
    assert not rows(found.fitting[16]) & rows(found.measuring[16])
    assert "validation part" in found.name


def test_classes_are_counted_within_the_task(tmp_path):
    folder = write_images(tmp_path / "all", {"a": 20, "b": 20, "c": 20})
    found = read_two_parts(folder, [16], ("c", "a"), most=20)
    assert found.classes == ("c", "a")
    assert len(found.fitting[16]) in (14, 15, 16)  # of the 30 there are, as many choose
    assert len(found.training[16]) > 20
    assert rows(found.fitting[16]) < rows(found.training[16])
    assert not rows(found.training[16]) & rows(found.measuring[16])
    assert set(found.fitting[16].labels) == {0, 1}
    again = read_two_parts(folder, [16], ("c", "a"), most=20)
    assert found.digest == again.digest
    assert found.digest != read_two_parts(folder, [16], ("a", "c"), most=20).digest


def test_what_is_too_little_is_refused(tmp_path):
    folder = write_images(tmp_path / "all", {"a": 40, "b": 3, "c": 40})
    with pytest.raises(DataError, match="images of 'b' to fit to"):
        read_two_parts(folder, [16], (), most=100)
    with pytest.raises(DataError, match="at least 2 classes"):
        read_two_parts(folder, [16], ("a",), most=100)
    with pytest.raises(UnknownNameError, match="No class named 'd'"):
        read_two_parts(folder, [16], ("a", "d"), most=100)
    with pytest.raises(UsageError, match="named more than once"):
        read_two_parts(folder, [16], ("a", "c", "a"), most=100)


def test_of_a_part_to_train_on_alone_a_quarter_is_held_out(tmp_path):
    write_images(tmp_path / "only" / "train", {"a": 12, "b": 12})
    found = read_two_parts(tmp_path / "only", [16], (), most=100)
    assert (len(found.training[16]), len(found.measuring[16])) == (18, 6)
    assert not rows(found.training[16]) & rows(found.measuring[16])


def test_few_classes_keep_all_their_images(tmp_path, monkeypatch):
    monkeypatch.setattr(own_images, "MOST", 30)
    folder = write_images(tmp_path / "all", dict.fromkeys("abcdef", 20))
    found = read_two_parts(folder, [16], ("a", "e"), most=100)
    assert len(found.training[16]) + len(found.measuring[16]) == 30


def test_every_beginning_has_as_many_of_each_class_as_can_be():
    labels = np.random.default_rng(0).integers(0, 5, 100)
    order = balanced_order(labels, 0)
    assert sorted(order) == list(range(100))
    for count in (5, 17, 40):
        counts = np.bincount(labels[order[:count]], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert list(order) != list(balanced_order(labels, 1))


def test_many_classes_have_four_images_each(tmp_path):
    folder = write_images(tmp_path / "all", {f"c{i}": 12 for i in range(12)})
    found = read_two_parts(folder, [16], (), most=16)
    assert np.bincount(found.fitting[16].labels).min() >= 4


def test_what_chooses_was_not_fitted_to(tmp_path):
    folder = write_images(tmp_path / "all", {"a": 60, "b": 40})
    found = read_two_parts(folder, [16], (), most=20)
    assert not set(found.fitted) & set(found.judging)
    count = len(found.fitted)
    both, labels = found.choosing[16], found.training[16].labels
    assert rows(both.subset(np.arange(count))) == rows(found.fitting[16])
    np.testing.assert_array_equal(both.labels[count:], labels[found.judging])
    for some in (found.fitted, found.judging):
        counts = np.bincount(labels[some])
        assert abs(int(counts[0]) - int(counts[1])) <= 1
