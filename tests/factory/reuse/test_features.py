"""Representations: the right tensors, means over the right cells, rows that belong together."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pretrained
import pytest

from nnfactory.factory.errors import SpecError
from nnfactory.factory.graph.cut_points import cut_points
from nnfactory.factory.reuse import features
from nnfactory.factory.reuse.donor import Donor
from nnfactory.factory.reuse.features import (
    cached_representations,
    cell_means,
    drawn_cells,
    representations,
)
from nnfactory.factory.reuse.similarity import cka_matrix


@pytest.fixture(scope="module")
def donors(data_dir) -> list[Donor]:
    rows = []
    for name in ("resnet20", "resnet32", "resnet8"):
        one = pretrained.pretrained(data_dir, name)
        rows.append(Donor(name=name, network=one.network, mean=one.mean, std=one.std))
    return rows


def test_cells_cover_a_fine_tensor_evenly(rng):
    tensor = rng.normal(size=(3, 8, 8))
    rows = cell_means(tensor, np.arange(16))
    expected = tensor.reshape(3, 4, 2, 4, 2).mean((2, 4)).reshape(3, 16).T
    np.testing.assert_allclose(rows, expected)


def test_a_coarse_tensor_gives_the_position_in_the_middle_of_the_cell(rng):
    tensor = rng.normal(size=(3, 2, 2))
    rows = cell_means(tensor, np.array([0, 3, 12, 15, 5]))
    expected = [tensor[:, 0, 0], tensor[:, 0, 1], tensor[:, 1, 0], tensor[:, 1, 1], tensor[:, 0, 0]]
    np.testing.assert_allclose(rows, expected)


def test_a_vector_is_the_same_in_every_cell(rng):
    vector = rng.normal(size=5)
    np.testing.assert_array_equal(cell_means(vector, np.array([1, 7])), [vector, vector])


def test_no_cell_is_drawn_twice():
    cells = drawn_cells(50, 0)
    assert cells.shape == (50, 4)
    assert all(len(set(row)) == 4 for row in cells.tolist())
    np.testing.assert_array_equal(cells, drawn_cells(50, 0))


def test_representations_of_alike_networks_are_alike(donors, rng):
    pixels = rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    rows = []
    for donor in donors[:2]:
        points = [point.tensor for point in cut_points(donor.network)]
        found = representations(donor, [points[0], points[-1]], pixels)
        assert found[points[0]].shape[0] == 24 * 4
        rows += list(found.values())
    similarity = cka_matrix(rows)
    assert similarity[0, 2] > similarity[0, 3]  # first layers with each other, not with the last


def test_what_is_known_of_earlier_times_is_read_and_makes_room(donors, rng, tmp_path: Path):
    donor, images = donors[2], rng.integers(0, 256, (3, 4, 32, 32, 3), dtype=np.uint8)
    tensors = [cut_points(donor.network)[-1].tensor]

    def files() -> list[Path]:
        return sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime)

    found = []
    for number, pixels in enumerate(images[:2]):
        found.append(cached_representations(donor, tensors, list(pixels), tmp_path))
        os.utime(files()[-1], (number, number))
    first, second = files()
    again = cached_representations(donor, tensors, list(images[0]), tmp_path)
    np.testing.assert_array_equal(again[tensors[0]], found[0][tensors[0]])
    assert files() == [second, first]  # the first one was used last
    most = 2 * first.stat().st_size
    cached_representations(donor, tensors, list(images[2]), tmp_path, most)
    assert second not in files()
    assert first in files()
    assert len(files()) == 2


def test_a_cache_that_cannot_be_written_to_is_read(
    donors, rng, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise PermissionError

    donor, pixels = donors[2], list(rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))
    tensors = [cut_points(donor.network)[-1].tensor]
    first = cached_representations(donor, tensors, pixels, tmp_path)
    monkeypatch.setattr(features.os, "utime", refuse)
    monkeypatch.setattr(features, "representations", refuse)
    again = cached_representations(donor, tensors, pixels, tmp_path)
    np.testing.assert_array_equal(again[tensors[0]], first[tensors[0]])


def test_images_are_prepared_as_the_network_wants_them(donors):
    pixels = np.full((40, 50, 3), (255, 0, 51), np.uint8)
    donor = donors[0]
    found = donor.tensor(pixels)
    assert found.shape == (1, 3, 32, 32)
    expected = (np.array([1, 0, 0.2]) - donor.mean) / donor.std
    np.testing.assert_allclose(found[0, :, 5, 5], expected, atol=1e-5)
    turned = Donor(
        name="x", network=donor.network, mean=donor.mean, std=donor.std, colors="BGR"
    ).tensor(pixels)
    np.testing.assert_allclose(turned[0, 0, 0, 0], (0.2 - donor.mean[0]) / donor.std[0], atol=1e-5)


def test_what_is_no_donor_is_refused(donors):
    network = donors[0].network
    with pytest.raises(SpecError, match="RGB"):
        Donor(name="x", network=network, mean=(0, 0, 0), std=(1, 1, 1), colors="HSV")
    with pytest.raises(SpecError, match=r"three in \(0, 1\]"):
        Donor(name="x", network=network, mean=(0, 0, 0), std=(1, 1, 0))
