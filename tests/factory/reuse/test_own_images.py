"""Images in two parts: what is measured on was never fitted to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnfactory.factory.errors import DataError, UnknownNameError, UsageError
from nnfactory.factory.reuse import own_images
from nnfactory.factory.reuse.own_images import (
    balanced_order,
    classes_besides,
    read_others,
    read_two_parts,
)


def write_images(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def write_boxes(folder: Path, shown: list[tuple[int, ...]]) -> None:
    """Images with a box for each of the classes "often" and "seldom" that they show."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for number, labels in enumerate(shown):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        lines = [f"{label} 0.5 0.5 0.4 0.4" for label in labels]
        (folder / "labels" / f"{number}.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text("names: [often, seldom]\n")


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
    with pytest.raises(UsageError, match="2 classes or more must be named, got a"):
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


def test_all_other_classes_become_one_of_which_none_is_missing(tmp_path):
    names = "abcdefg"
    folder = write_images(tmp_path / "all", dict.fromkeys(names, 40))
    mine = read_two_parts(folder, [16], ("a", "b"), most=1000)
    others = classes_besides(folder, ("a", "b", "g"))  # g is neither
    found = mine.with_others(read_others(folder, [16], others, most=1000), "rest")
    assert found.classes == ("a", "b", "rest")
    parts = {
        "fitted": found.training[16].subset(found.fitted),
        "judging": found.training[16].subset(found.judging),
        "measured": found.measuring[16],
    }
    counts = [np.bincount(images.labels, minlength=3) for images in parts.values()]
    assert all(row[2] == (row[0] + row[1]) // 2 for row in counts)
    alone = {name: read_two_parts(folder, [16], [name], most=1000, least=1) for name in names}
    for images in parts.values():
        rest = rows(images.subset(np.flatnonzero(images.labels == 2)))
        shown = [
            len(rest & (rows(alone[name].training[16]) | rows(alone[name].measuring[16])))
            for name in names
        ]
        assert shown[:2] == [0, 0]
        assert shown[6] == 0
        assert max(shown[2:6]) - min(shown[2:6]) <= 1
    fitted, judging, measured = map(rows, parts.values())
    assert not fitted & judging
    assert not (fitted | judging) & measured
    assert len(found.training[16]) == len(mine.training[16]) + counts[0][2] + counts[1][2]


def test_others_may_be_one_class_or_few_images_of_many(tmp_path):
    folder = write_images(tmp_path / "all", {"a": 20, "b": 20, "c": 20, "d": 3})
    found = read_others(folder, [16], ["c", "d"], most=1000)
    assert set(found.training[16].labels) == {0, 1}
    assert read_others(folder, [16], ["c"], most=1000).classes == ("c",)
    with pytest.raises(DataError, match="image"):
        read_others(folder, [16], ["d"], most=1000)
    with pytest.raises(DataError, match="0 classes besides"):
        classes_besides(folder, "abcd")


def test_images_with_boxes_are_divided_by_their_rarest_class(tmp_path):
    """A class that few images show is in all parts."""
    write_boxes(tmp_path, [(0, 1) if number % 4 == 0 else (0,) for number in range(80)])
    found = read_two_parts(tmp_path, [16], ("often", "seldom"), most=1000, kind="det")
    for images in (
        found.training[16].subset(found.fitted), found.training[16].subset(found.judging),
        found.measuring[16],
    ):  # fmt: skip
        assert 3 <= images.shown(2)[1] <= 9
    assert found.mixed(16).shown(2)[1] == found.training[16].subset(found.fitted).shown(2)[1]


def test_of_many_images_with_boxes_those_of_the_task_are_read(tmp_path, monkeypatch):
    """A class that few images of a large folder show is not lost among the others."""
    monkeypatch.setattr(own_images, "MOST", 40)
    write_boxes(tmp_path, [(1,) if number % 6 == 0 else (0,) for number in range(200)])
    found = read_two_parts(tmp_path, [16], ["seldom"], most=1000, kind="det", least=1)
    assert len(found.training[16]) + len(found.measuring[16]) == 34
