"""Example images of new classes: one folder per class, checked, decoded at every size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnfactory.factory.datasets.examples import LEAST, read_examples
from nnfactory.factory.datasets.fitting import center_cropped
from nnfactory.factory.errors import DataError


def write(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_every_image_is_cropped_at_every_size_and_labelled_by_its_folder(tmp_path: Path):
    folder = write(tmp_path / "e", {"dog": 6, "cat": 5})
    found = read_examples(folder, (16, 8))
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [0] * 5 + [1] * 6
    assert {size: pixels.shape for size, pixels in found.pixels.items()} == {
        16: (11, 16, 16, 3), 8: (11, 8, 8, 3),
    }  # fmt: skip
    third = np.asarray(Image.open(folder / "cat" / "2.png"))
    for size, pixels in found.pixels.items():
        np.testing.assert_array_equal(pixels[2], center_cropped(third, size))


def test_the_digest_belongs_to_classes_and_contents_and_not_to_file_names(tmp_path: Path):
    folder = write(tmp_path / "a", {"cat": 5, "dog": 5})
    digest = read_examples(folder, (8,)).digest
    (folder / "cat" / "0.png").rename(folder / "cat" / "renamed.png")
    assert read_examples(folder, (16,)).digest == digest
    assert read_examples(write(tmp_path / "b", {"cat": 5, "dog": 5}, seed=1), (8,)).digest != digest
    (folder / "dog").rename(folder / "wolf")
    assert read_examples(folder, (8,)).digest != digest


def test_of_folders_of_splits_the_training_part_is_taken(tmp_path: Path):
    write(tmp_path / "e" / "train", {"cat": 5, "dog": 5})
    write(tmp_path / "e" / "val", {"cat": 3, "dog": 2}, seed=1)
    found = read_examples(tmp_path / "e", (8,))
    assert np.bincount(found.labels).tolist() == [5, 5]


@pytest.mark.parametrize("counts", [{"cat": LEAST}, {"cat": LEAST, "dog": LEAST - 1}])
def test_too_few_are_refused_with_their_numbers(tmp_path: Path, counts: dict[str, int]):
    folder = write(tmp_path / "e", counts)
    with pytest.raises(DataError, match=r"at least two classes with 5 images each; .*5 of 'cat'"):
        read_examples(folder, (8,))


def test_names_that_differ_in_case_alone_are_refused(tmp_path: Path):
    folder = write(tmp_path / "e", {"Cat": 5, "cat": 5, "dog": 5})
    with pytest.raises(DataError, match="'Cat' and 'cat' differ in case alone"):
        read_examples(folder, (8,))


def test_copies_of_an_image_count_once(tmp_path: Path):
    folder = write(tmp_path / "e", {"cat": 5, "dog": 6})
    for number in range(4):
        copy = (folder / "dog" / "0.png").read_bytes()
        (folder / "dog" / f"copy{number}.png").write_bytes(copy)
    assert np.bincount(read_examples(folder, (8,)).labels).tolist() == [5, 6]
    for path in (folder / "cat").iterdir():
        path.write_bytes((folder / "cat" / "1.png").read_bytes())
    with pytest.raises(DataError, match="holds 1 of 'cat'"):
        read_examples(folder, (8,))


def test_spaces_around_a_name_are_no_part_of_it(tmp_path: Path):
    folder = write(tmp_path / "e", {" cat ": 5, "dog": 5})
    assert read_examples(folder, (8,)).classes == ("cat", "dog")


def test_a_broken_image_is_named(tmp_path: Path):
    folder = write(tmp_path / "e", {"cat": 5, "dog": 6})
    (folder / "dog" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dog/3\.png") as caught:
        read_examples(folder, (8,))
    assert "nnfactory modules check" in caught.value.hints[0]


def test_a_folder_must_be_there(tmp_path: Path):
    with pytest.raises(DataError, match="There is no folder"):
        read_examples(tmp_path / "nowhere", (8,))
