"""Changes of light, color and sharpness: how many, how strong, and what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nnfactory.factory.errors import DataError  # noqa: E402
from nnfactory.factory.supernet import alter  # noqa: E402
from nnfactory.factory.supernet.alter import CHANGES, altered  # noqa: E402
from nnfactory.factory.supernet.recipe import MOST_ALTERATIONS  # noqa: E402


def photos(n: int, seed: int = 0) -> torch.Tensor:
    """Smooth colored pictures, neither black nor white anywhere, of strong contrast."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0.1, 0.9, (n, 3, 6, 6)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, (24, 24), mode="bilinear")


def strengths(n: int, value: float) -> torch.Tensor:
    return torch.full((n, 1, 1, 1), value)


def test_a_recipe_may_ask_for_every_change(toy_parts):
    assert len(CHANGES) == MOST_ALTERATIONS
    assert toy_parts.recipe("det", alterations=MOST_ALTERATIONS).training.alterations
    for wrong in (-1, MOST_ALTERATIONS + 1):
        with pytest.raises(DataError, match="alterations must be from 0 to 10"):
            toy_parts.recipe("det", alterations=wrong)


def test_no_change_leaves_the_images_as_they_are(rng):
    images = photos(3)
    assert altered(images, 0, rng) is images


@pytest.mark.parametrize("count", [1, 2, 4, len(CHANGES)])
def test_every_image_gets_so_many_different_changes(rng, monkeypatch, count):
    seen: list[list[int]] = []

    def counting(number: int):
        def change(images, strength, rng):
            assert strength.shape == (len(images), 1, 1, 1)
            assert strength.abs().max() <= 1
            seen.append([number, *images[:, 0, 0, 0].tolist()])
            return images

        return change

    monkeypatch.setattr(alter, "CHANGES", tuple(counting(n) for n in range(len(CHANGES))))
    images = torch.arange(50.0).view(50, 1, 1, 1).expand(50, 3, 4, 4) / 64
    altered(images, count, rng)
    per_image = {
        value: [row[0] for row in seen if value in row[1:]] for value in images[:, 0, 0, 0].tolist()
    }
    assert {len(numbers) for numbers in per_image.values()} == {count}
    assert {len(set(numbers)) for numbers in per_image.values()} == {count}
    if count < len(CHANGES):
        assert len({tuple(numbers) for numbers in per_image.values()}) > 5


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_visible_stays_in_place_and_alters_nothing_else(change, rng, monkeypatch):
    monkeypatch.setattr(alter, "CHANGES", (change,))
    images = photos(40)
    kept = images.clone()
    result = altered(images, 1, rng)
    assert torch.equal(images, kept)
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert 0 <= result.min() <= result.max() <= 1
    assert (result - images).abs().amax((1, 2, 3)).median() > 0.005
    grey, before = alter._grey(result), alter._grey(images)
    for one, other in zip(grey, before, strict=True):  # what was where it was
        assert np.corrcoef(one.flatten(), other.flatten())[0, 1] > 0.4


def test_the_same_seed_gives_the_same_images():
    one, other = (altered(photos(8), 3, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, altered(photos(8), 3, np.random.default_rng(6)))


def test_without_saturation_all_channels_are_equal_and_luma_stays(rng):
    images = photos(4)
    result = alter._saturation(images, strengths(4, -1.0), rng)
    torch.testing.assert_close(result[:, :1].expand(-1, 3, -1, -1), result)
    torch.testing.assert_close(alter._grey(result), alter._grey(images))


def test_turned_hues_keep_grey_and_length(rng):
    grey = photos(4)[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(alter._hue(grey, strengths(4, 0.9), rng), grey)
    images = photos(4)
    turned = alter._hue(images, strengths(4, 1.0), rng)
    torch.testing.assert_close(turned.norm(dim=1), images.norm(dim=1))
    torch.testing.assert_close(turned.mean(1), images.mean(1))
    back = alter._hue(turned, strengths(4, -1.0), rng)
    torch.testing.assert_close(back, images, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_no_strength_is_no_change(change, rng):
    images = photos(4)
    result = change(images, strengths(4, 0.0), rng)
    slack = 0.05 if change is alter._sharpness else 1e-5  # which begins at a little sharper
    torch.testing.assert_close(result, images, atol=slack, rtol=0)
