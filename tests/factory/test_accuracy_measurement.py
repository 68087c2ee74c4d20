"""Images at another input size."""

from __future__ import annotations

import numpy as np
import pytest

from nnfactory.exporters.metadata import preprocess_spec
from nnfactory.exporters.runtime import nnf_runtime
from nnfactory.factory.accuracy_measurement import images_at
from nnfactory.factory.datasets import Images


def rectangle(kind: str) -> Images:
    """Two black pictures of 64 px with a white rectangle."""
    pixels = np.zeros((2, 64, 64, 3), np.uint8)
    pixels[:, 16:48, 8:24] = 255
    boxes = (np.array([[3, 8, 16, 24, 48]], np.float32), np.empty((0, 5), np.float32))
    return Images(
        pixels=pixels,
        labels=np.array([1, 4]) if kind == "cls" else np.empty(0, np.int64),
        boxes=boxes if kind == "det" else (),
    )


@pytest.mark.parametrize("size", [48, 32, 16])
def test_boxes_shrink_with_their_picture(size):
    images = rectangle("det")
    small = images_at(images, size)
    assert small.pixels.shape == (2, size, size, 3)
    assert small.pixels.dtype == np.uint8
    label, *box = small.boxes[0][0]
    assert label == 3
    rows, columns = np.nonzero(small.pixels[0, :, :, 0] > 127)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(box, found, atol=0.5)
    assert small.boxes[1].shape == (0, 5)
    assert images.boxes[0].tolist() == [[3, 8, 16, 24, 48]]


@pytest.mark.parametrize("kind", ["cls", "det"])
@pytest.mark.parametrize("size", [48, 33, 16])
def test_pixels_are_those_that_an_artifact_sees(rng, kind, size):
    images = rectangle(kind)
    pixels = rng.integers(0, 256, images.pixels.shape, np.uint8)
    small = images_at(Images(pixels=pixels, labels=images.labels, boxes=images.boxes), size)
    assert small.labels is images.labels
    spec = preprocess_spec(kind, (size, size))
    for row, image in zip(small.pixels, pixels, strict=True):
        tensor = nnf_runtime.preprocess(image, spec)
        np.testing.assert_array_equal(row, np.rint(tensor[0].transpose(1, 2, 0) * 255))


def test_images_of_that_size_are_left_as_they_are():
    images = rectangle("det")
    assert images_at(images, 64) is images
