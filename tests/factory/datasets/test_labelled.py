"""Labelled images for measuring: the part that is for testing, at every size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnfactory.factory.datasets.labelled import read_labelled
from nnfactory.factory.errors import DataError, UsageError


def write(folder: Path, names: list[str], seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(folder / name)
    return folder


def parts(*splits: str) -> list[str]:
    return [f"{s}/{c}/{s}{c}{n}.png" for s in splits for c in ("cat", "dog") for n in range(2)]


@pytest.mark.parametrize(
    ("splits", "prefer", "expected"),
    [
        (("train", "val", "test"), None, "test"),
        (("train", "val"), None, "validation"),
        (("train", "val"), ("train",), "train"),
        (("train",), None, ""),
    ],
)
def test_the_preferred_part_is_read(tmp_path: Path, splits, prefer, expected):
    folder = write(tmp_path / "d", parts(*splits))
    found = read_labelled(
        folder, (8, 4), kind="cls", **({} if prefer is None else {"prefer": prefer})
    )
    assert found.split == expected
    assert found.classes == ("cat", "dog")
    assert {size: images.pixels.shape[1:] for size, images in found.images.items()} == {
        8: (8, 8, 3), 4: (4, 4, 3),
    }  # fmt: skip
    assert found.images[8].labels.tolist() == found.images[4].labels.tolist() == [0, 0, 1, 1]
    assert len(found.digests) == 4


def test_boxes_are_in_pixels_of_every_size(tmp_path: Path):
    folder = write(tmp_path / "d", ["images/a.png"])
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "classes.txt").write_text("bolt\n")
    found = read_labelled(folder, (16, 8), kind="det")
    large, small = (found.images[size].boxes[0] for size in (16, 8))
    np.testing.assert_allclose(large, [[0, 4, 5, 12, 11]])
    np.testing.assert_allclose(small[:, 1:], large[:, 1:] / 2)


def test_images_can_be_left_out_by_their_digest(tmp_path: Path):
    found = read_labelled(write(tmp_path / "d", parts("test")), (8,), kind="cls")
    rest = found.without({found.digests[0], found.digests[3], "unknown"})
    assert rest.digests == found.digests[1:3]
    np.testing.assert_array_equal(rest.images[8].pixels, found.images[8].pixels[1:3])
    assert rest.images[8].labels.tolist() == [0, 1]


def test_what_cannot_be_measured_on_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="There is no folder"):
        read_labelled(tmp_path / "nowhere", (8,), kind="cls")
    folder = write(tmp_path / "d", parts("test"))
    with pytest.raises(UsageError, match="data for 'cls', not for 'det'"):
        read_labelled(folder, (8,), kind="det")
    (folder / "test/cat/testcat0.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"test/cat/testcat0\.png") as caught:
        read_labelled(folder, (8,), kind="cls")
    assert "modules check" in caught.value.hints[0]
