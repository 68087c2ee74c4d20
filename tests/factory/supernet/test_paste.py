"""Pasted objects: what is pasted lies under its box, and hides no other object."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nnfactory.factory.supernet.paste import pasted  # noqa: E402

SIDE = 96


def pictures(n: int, rng: np.random.Generator) -> tuple[torch.Tensor, list[np.ndarray]]:
    """Grey pictures, each with one white rectangle; its class is its number."""
    images = torch.full((n, 3, SIDE, SIDE), 0.25)
    rows = []
    for label, image in enumerate(images):
        width, height = rng.integers(10, 24, 2)
        x, y = rng.integers(10, SIDE - 40, 2)
        image[:, y : y + height, x : x + width] = 1.0
        rows.append(np.array([[label, x, y, x + width, y + height]], np.float32))
    return images, rows


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Shared area as a share of the smaller box."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    areas = [np.prod(box[2:] - box[:2]) for box in (one, other)]
    return np.prod((high - low).clip(0)) / min(areas)


@pytest.mark.parametrize("seed", range(8))
def test_pasted_objects_lie_under_their_boxes(seed):
    rng = np.random.default_rng(seed)
    images, boxes = pictures(8, rng)
    result, rows = pasted(images, boxes, 1.0, rng)
    assert result.shape == images.shape
    assert 0 <= result.min() <= result.max() <= 1
    assert sum(map(len, rows)) > 12
    for image, mine, before in zip(result, rows, boxes, strict=True):
        assert np.array_equal(mine[:1], before)
        assert len(mine) <= 4
        assert mine[:, 1:].min() >= 0
        assert mine[:, 1:].max() <= SIDE
        shown = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        for number, (_, *box) in enumerate(mine):
            x1, y1, x2, y2 = np.rint(box).astype(int)
            inside = image[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].mean()
            assert inside > 0.7  # of 1 on 0.25
            shown[max(0, y1 - 1) : y2 + 1, max(0, x1 - 1) : x2 + 1] = True
            for other in mine[:number]:
                assert overlap(np.array(box), other[1:]) <= 0.1 + 1e-6
        assert image[:, ~shown].max() < 0.8


def test_the_margin_takes_on_the_tone_of_the_place():
    """A rectangle from a grey picture in a dark one leaves no grey frame."""
    rng = np.random.default_rng(0)
    images, boxes = pictures(40, rng)
    images[20:] = 0.0
    boxes[20:] = [np.empty((0, 5), np.float32)] * 20
    result, rows = pasted(images, boxes, 1.0, rng)
    assert sum(map(len, rows[20:])) > 8
    for image, mine in zip(result[20:], rows[20:], strict=True):
        away = torch.ones(SIDE, SIDE, dtype=torch.bool)
        for _, *box in mine:
            x1, y1, x2, y2 = np.rint(box).astype(int)
            away[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = False
        assert image[:, away].max() < 0.2


def test_the_share_of_images_is_kept_and_small_objects_are_left_alone(rng):
    images, boxes = pictures(64, rng)
    result, rows = pasted(images, boxes, 0.25, rng)
    changed = (result != images).flatten(1).any(1).numpy()
    assert 6 <= changed.sum() <= 26
    assert [len(mine) > 1 for mine in rows] == list(changed)
    same, rows = pasted(images, boxes, 0.0, rng)
    assert torch.equal(same, images)
    assert all(np.array_equal(a, b) for a, b in zip(rows, boxes, strict=True))
    dots = [np.array([[0, 5, 5, 9, 30]], np.float32)] * 64
    assert all(len(mine) == 1 for mine in pasted(images, dots, 1.0, rng)[1])
