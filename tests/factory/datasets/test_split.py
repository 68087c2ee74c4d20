"""Splits: those of the data, or by hash: disjoint, repeatable, unmoved by growth."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfactory.factory.datasets import Box, Record, take_inventory
from nnfactory.factory.datasets.split import divide
from nnfactory.factory.errors import DataError

CLASSES = ("a", "b", "c")
SPLITS = ("train", "validation", "test")


def digests(n: int, start: int = 0) -> list[str]:
    return [hashlib.sha256(b"%d" % number).hexdigest() for number in range(start, start + n)]


def records(n: int, *, splits=("",), classes: int = 3) -> list[Record]:
    return [
        Record(
            name=f"{i}.png", source=b"", width=9, height=9, label=i % classes,
            split=splits[i % len(splits)],
        )
        for i in range(n)
    ]  # fmt: skip


def places(division) -> dict[int, str]:
    """Split of every image by its position."""
    return {int(i): split for split, index in division.parts.items() for i in index}


@given(n=st.integers(1, 200), classes=st.integers(1, 3))
def test_every_image_is_in_exactly_one_split(n, classes):
    division = divide(records(n, classes=classes), digests(n), CLASSES)
    joined = np.concatenate([division.parts[split] for split in SPLITS])
    assert sorted(joined) == list(range(n))


@given(n=st.integers(20, 100), more=st.integers(1, 100), salt=st.integers(0, 127))
def test_adding_images_moves_no_other(n, more, salt):
    policy = f"hash {salt}"
    few = divide(records(n), digests(n), CLASSES, policy)
    many = divide(records(n + more), digests(n + more), CLASSES, policy)
    after = places(many)
    assert all(after[image] == split for image, split in places(few).items())


def test_the_policy_that_was_chosen_gives_the_same_split_again():
    first = divide(records(200), digests(200), CLASSES)
    again = divide(records(200), digests(200), CLASSES, first.policy)
    assert again.policy == first.policy
    assert places(again) == places(first)


def test_names_and_order_do_not_matter():
    policy = "hash 5"
    forward = divide(records(90), digests(90), CLASSES, policy)
    backward = divide(records(90), digests(90)[::-1], CLASSES, policy)
    mirrored = {89 - image: split for image, split in places(backward).items()}
    assert mirrored == places(forward)


def test_the_shares_are_kept_in_every_class():
    division = divide(records(300), digests(300), CLASSES)
    for split, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
        index = division.parts[split]
        assert len(index) / 300 == pytest.approx(share, abs=0.02)
        counts = np.bincount(index % 3, minlength=3) / 100
        assert counts == pytest.approx([share] * 3, abs=0.05)


def test_a_rare_class_gets_examples_in_every_split_where_that_is_possible():
    shown = records(400, classes=2)
    rare = Box(label=2, x1=0, y1=0, x2=5, y2=5)
    common = Box(label=0, x1=0, y1=0, x2=5, y2=5)
    boxed = [
        Record(name=r.name, source=b"", width=9, height=9,
               boxes=(common, rare) if i < 6 else (common,))
        for i, r in enumerate(shown)
    ]  # fmt: skip
    division = divide(boxed, digests(400), ("a", "b", "c"))
    assert all(len(set(division.parts[split]) & set(range(6))) for split in SPLITS)


def test_the_splits_of_the_data_are_used_as_they_are():
    shown = records(30, splits=SPLITS)
    division = divide(shown, digests(30), CLASSES)
    assert division.policy == "given"
    assert all(shown[i].split == split for i, split in places(division).items())


@pytest.mark.parametrize("other", ["validation", "test"])
def test_the_other_of_two_splits_is_for_the_figure_and_choices_come_out_of_train(other):
    shown = records(300, splits=("train", "train", other))
    division = divide(shown, digests(300), CLASSES)
    assert division.policy.startswith("given + hash ")
    assert {shown[i].split for i in division.parts["test"]} == {other}
    assert len(division.parts["test"]) == 100
    assert {shown[i].split for i in division.parts["validation"]} == {"train"}
    assert len(division.parts["validation"]) == pytest.approx(30, abs=5)
    assert f"the data's {other} split is the test split" in division.text


@pytest.mark.parametrize("splits", [("train",), ("validation", "")])
def test_one_split_alone_is_none_and_that_is_said(splits):
    division = divide(records(40, splits=splits), digests(40), CLASSES)
    assert division.policy.startswith("hash")
    assert f"marks {splits[0]} images is not used" in division.text
    assert len(places(division)) == 40


def test_splits_without_training_images_are_refused():
    with pytest.raises(DataError, match="no images for training"):
        divide(records(40, splits=("validation", "test")), digests(40), CLASSES)


def test_images_without_a_split_beside_others_are_named_and_not_used():
    shown = records(90, splits=(*SPLITS, ""))
    division = divide(shown, digests(90), CLASSES)
    left = [found.file for found in division.problems if found.code == "no-split"]
    assert left == [record.name for record in shown if not record.split]
    assert len(places(division)) + len(left) == 90


@pytest.mark.parametrize("policy", ["random", "hash", "hash -1", "given+hash 3", "given hash 3"])
def test_a_policy_that_does_not_exist_is_refused(policy):
    with pytest.raises(DataError, match="'given', 'given"):
        divide(records(9), digests(9), CLASSES, policy)


@pytest.mark.parametrize(
    ("policy", "splits"),
    [("given", ("train", "test")), ("given", ("",)), ("given + hash 3", SPLITS),
     ("given + hash 3", ("validation", "test"))],
)  # fmt: skip
def test_a_policy_that_does_not_fit_the_data_is_refused(policy, splits):
    with pytest.raises(DataError, match="needs .* in the data") as caught:
        divide(records(12, splits=splits), digests(12), CLASSES, policy)
    assert "modules new" in caught.value.hints[0]


def test_a_split_without_images_is_an_error():
    division = divide(records(2), digests(2), CLASSES)
    assert "empty-split" in {found.code for found in division.problems}


@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "pack"])
def test_every_format_is_split_in_the_same_way(raw, tmp_path, name):
    shown = raw.pictures(40)
    found = take_inventory(raw.det[name](tmp_path / name, shown))
    split = {record.name.rsplit("/")[-1]: s for s, part in found.parts.items() for record in part}
    reference = take_inventory(raw.det["coco"](tmp_path / "reference", shown))
    assert found.split == reference.split
    assert split == {
        record.name.rsplit("/")[-1]: s for s, part in reference.parts.items() for record in part
    }
