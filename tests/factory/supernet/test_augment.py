"""Augmented pictures: what is painted in the source lies under its box in the result."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nnfactory.factory.supernet.augment import (  # noqa: E402
    Views,
    augment_cls,
    augment_det,
    moved,
    padded_boxes,
    random_views,
    resized,
    tensor_from_pixels,
)

SIDE, HALF = 64, 32


def painted(n: int, rng: np.random.Generator, *, boxes: int = 1) -> tuple[torch.Tensor, list]:
    """Black pictures with one solid rectangle per box; its channel, R, G or B, is its class."""
    images = torch.zeros(n, 3, SIDE, SIDE)
    rows = []
    for image in images:
        mine = []
        for _ in range(boxes):
            label = int(rng.integers(3))
            width, height = rng.integers(8, 24, 2)
            x = int(rng.integers(4, SIDE - 4 - width))
            y = int(rng.integers(4, SIDE - 4 - height))
            image[label, y : y + height, x : x + width] = 1.0
            mine.append([label, x, y, x + width, y + height])
        rows.append(np.array(mine, np.float32).reshape(-1, 5))
    return images, rows


def painted_extent(channel: torch.Tensor) -> list[float]:
    """Columns and rows (x1, y1, x2, y2) of what is brighter than the middle of its range."""
    bright = channel > (channel.min() + channel.max()) / 2
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("seed", range(6))
def test_boxes_of_a_mosaic_enclose_the_same_pixels_as_in_their_sources(seed):
    rng = np.random.default_rng(seed)
    images, boxes = painted(12, rng)
    result, targets = augment_det(images, boxes, rng, mosaic=1.0)
    assert result.shape == images.shape
    assert targets.shape == (12, 4, 5)  # four sources of one box each
    for image, rows in zip(result, targets.numpy(), strict=True):
        corners = set()
        for label, *box in rows:
            x, y = (HALF * int((box[i] + box[i + 2]) / 2 >= HALF) for i in (0, 1))
            corners.add((x, y))
            assert x <= box[0] < box[2] <= x + HALF
            assert y <= box[1] < box[3] <= y + HALF
            quarter = image[int(label), y : y + HALF, x : x + HALF]
            found = np.add(painted_extent(quarter), [x, y, x, y])
            np.testing.assert_allclose(found, box, atol=2)
        assert len(corners) == 4


@pytest.mark.parametrize("seed", range(6))
def test_boxes_of_a_single_view_hold_what_was_painted(seed):
    rng = np.random.default_rng(seed)
    images, boxes = painted(12, rng)
    result, targets = augment_det(images, boxes, rng)
    compared = 0
    for image, rows in zip(result, targets.numpy(), strict=True):
        for label, *box in rows:
            if label < 0:
                continue
            x1, y1, x2, y2 = np.round(box).astype(int)
            channel = image[int(label)]
            middle = (channel.min() + channel.max()) / 2
            assert (channel[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2] > middle).all()
            around = [
                channel[y1:y2, x1 - 3 : x1 - 2] if x1 >= 3 else None,
                channel[y1:y2, x2 + 2 : x2 + 3] if x2 <= SIDE - 3 else None,
                channel[y1 - 3 : y1 - 2, x1:x2] if y1 >= 3 else None,
                channel[y2 + 2 : y2 + 3, x1:x2] if y2 <= SIDE - 3 else None,
            ]
            assert all((strip < middle).all() for strip in around if strip is not None)
            compared += 1
    assert compared >= 6


@pytest.mark.parametrize("mosaic", [0.0, 0.5, 1.0])
def test_boxes_stay_inside_the_picture_and_padding_has_no_class(mosaic):
    rng = np.random.default_rng(3)
    images, boxes = painted(32, rng, boxes=5)
    boxes[0] = boxes[0][:0]  # a picture of the background
    result, targets = augment_det(images, boxes, rng, mosaic=mosaic)
    assert (result >= 0).all()
    assert (result <= 1).all()
    assert targets.shape[1] <= (20 if mosaic else 5)  # four sources, or one
    real = targets[targets[..., 0] >= 0].numpy()
    assert len(real) > 32
    assert ((real[:, 1:] >= 0) & (real[:, 1:] <= SIDE)).all()
    assert (real[:, 3:] > real[:, 1:3]).all()
    assert (targets[targets[..., 0] < 0] == -1).all()


def test_pictures_without_boxes_stay_without(rng):
    images, _ = painted(4, rng)
    for mosaic in (0.0, 1.0):
        _, targets = augment_det(images, [np.empty((0, 5), np.float32)] * 4, rng, mosaic=mosaic)
        assert targets.shape == (4, 1, 5)
        assert (targets == -1).all()


def test_every_quarter_of_a_mosaic_shows_one_of_the_boxes_of_its_source(rng):
    images, boxes = painted(40, rng, boxes=3)
    _, targets = augment_det(images, boxes, rng, mosaic=1.0)
    for rows in targets.numpy():
        real = rows[rows[:, 0] >= 0]
        middles = (real[:, 1:3] + real[:, 3:]) / 2 >= HALF
        assert len(np.unique(middles, axis=0)) == 4


def test_a_mosaic_never_mirrors_an_object_at_its_border(rng):
    """A quarter lies inside its source: nothing bright is there but what its box holds."""
    images, boxes = painted(16, rng)
    result, targets = augment_det(images, boxes, rng, mosaic=1.0)
    for image, rows in zip(result, targets.numpy(), strict=True):
        for label, *box in rows:
            x, y = (HALF * int((box[i] + box[i + 2]) / 2 >= HALF) for i in (0, 1))
            quarter = image[int(label), y : y + HALF, x : x + HALF]
            bright = (quarter > (quarter.min() + quarter.max()) / 2).numpy()
            area = (box[2] - box[0]) * (box[3] - box[1])
            assert bright.sum() == pytest.approx(area, rel=0.35, abs=12)


def test_augmentation_is_a_function_of_its_seed(rng):
    images, boxes = painted(8, rng)
    first, second, other = (
        augment_det(images, boxes, np.random.default_rng(seed), mosaic=0.5) for seed in (1, 1, 2)
    )
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_boxes_are_padded_to_the_longest_row_and_to_one_at_least():
    rows = [np.full((n, 5), n, np.float32) for n in (2, 0, 3)]
    padded = padded_boxes(rows)
    assert padded.shape == (3, 3, 5)
    assert padded[..., 0].tolist() == [[2, 2, -1], [-1, -1, -1], [3, 3, 3]]
    assert padded_boxes([rows[1]] * 2).shape == (2, 1, 5)


def test_a_view_is_a_window_of_the_reflected_picture_and_its_mirror_image(rng):
    images = torch.from_numpy(rng.random((6, 3, 32, 32), dtype=np.float32))
    views = random_views(6, 32, rng)
    for picture, found, dy, dx, flip in zip(
        images.numpy(), moved(images, views).numpy(), views.dy, views.dx, views.flip, strict=True
    ):
        wide = np.pad(picture, ((0, 0), (4, 4), (4, 4)), mode="reflect")
        window = wide[:, dy : dy + 32, dx : dx + 32]
        np.testing.assert_array_equal(found, window[:, :, ::-1] if flip else window)


def test_views_shift_by_an_eighth_at_most_and_mirror_half(rng):
    views = random_views(2000, 64, rng)
    for shift in (views.dy, views.dx):
        assert (shift.min(), shift.max()) == (0, 16)
        assert shift.mean() == pytest.approx(8, abs=0.5)
    assert views.flip.mean() == pytest.approx(0.5, abs=0.05)
    few = views[np.array([3, 5])]
    assert few.dy.tolist() == [views.dy[3], views.dy[5]]
    assert few.flip.tolist() == [views.flip[3], views.flip[5]]


def test_a_classified_picture_keeps_its_view_and_its_range(rng):
    images = torch.from_numpy(rng.random((5, 3, 32, 32), dtype=np.float32))
    views = Views(np.full(5, 4), np.full(5, 4), np.zeros(5, bool))
    gray = torch.full_like(images, 0.5)
    result = augment_cls(images, views, np.random.default_rng(0))
    assert result.shape == images.shape
    assert (result >= 0).all()
    assert (result <= 1).all()
    flat = augment_cls(gray, views, np.random.default_rng(0))  # no edge to blur or sharpen
    assert (flat.amax((1, 2, 3)) - flat.amin((1, 2, 3))).max() < 1e-6
    assert ((flat >= 0.4) & (flat <= 0.6)).all()


def test_a_smaller_picture_averages_what_it_leaves_out():
    fine = torch.zeros(1, 3, 32, 32)
    fine[..., ::2] = 1.0
    coarse = resized(fine, 16)
    assert coarse.shape == (1, 3, 16, 16)
    np.testing.assert_allclose(coarse[..., 1:-1].numpy(), 0.5, atol=1e-6)
    assert resized(fine, 32) is fine


def test_pixels_become_numbers_between_zero_and_one():
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    pixels[0, 0, 1] = [255, 51, 0]
    tensor = tensor_from_pixels(pixels)
    assert tensor.shape == (1, 3, 2, 2)
    np.testing.assert_allclose(tensor[0, :, 0, 1], [1, 0.2, 0])
