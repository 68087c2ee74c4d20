"""Stitches against maps that are known."""

from __future__ import annotations

import numpy as np
import pytest

from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.reuse.features import one_of_each
from nnfactory.factory.reuse.similarity import cka_matrix
from nnfactory.factory.reuse.stitch import Stitch, fit_stitch, stitch_network


def test_a_map_that_is_there_is_found(rng):
    x, matrix = rng.normal(size=(300, 4)), rng.normal(size=(6, 4))
    y = x @ matrix.T + 3
    found = fit_stitch(x, y, strength=1e-9)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-4)
    np.testing.assert_allclose(found.bias, 3, atol=1e-4)
    assert found.r2 > 0.9999


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_the_size_of_activations_does_not_matter(rng, scale):
    x, y = rng.normal(size=(300, 4)), rng.normal(size=(300, 6))
    y[:, :4] += x
    assert fit_stitch(scale * x, y).r2 == pytest.approx(fit_stitch(x, y).r2, abs=1e-6)


def test_what_is_not_there_is_not_explained(rng):
    found = fit_stitch(rng.normal(size=(300, 4)), rng.normal(size=(300, 6)))
    assert found.r2 < 0.05


@pytest.mark.parametrize(
    ("before", "after"),
    [((1, 3, 4, 4), (1, 2, 4, 4)), ((1, 3, 8, 8), (1, 2, 4, 4)), ((1, 3, 4, 4), (1, 2, 8, 8)),
     ((1, 3, 7, 7), (1, 2, 5, 5))],
)  # fmt: skip
def test_the_network_maps_every_position(rng, before, after):
    stitch = Stitch(
        matrix=rng.normal(size=(2, 3)).astype(np.float32), bias=np.ones(2, np.float32), r2=1
    )
    image = rng.normal(size=before).astype(np.float32)
    found = run_network(stitch_network(stitch, before, after), {"input": image})["output"]
    assert found.shape == after
    if before[2] % after[2] == 0:
        step = before[2] // after[2]
        small = image.reshape(1, 3, after[2], step, after[3], step).mean((3, 5))
    else:
        near = np.arange(after[2]) * before[2] // after[2]
        small = image[:, :, near][:, :, :, near]
    expected = np.einsum("dc,bchw->bdhw", stitch.matrix, small) + 1
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_stitch_that_does_not_fit_is_refused():
    stitch = Stitch(matrix=np.zeros((2, 3), np.float32), bias=np.zeros(2, np.float32), r2=0)
    with pytest.raises(DataError, match="does not lead from"):
        stitch_network(stitch, (1, 4, 8, 8), (1, 2, 8, 8))


def test_rows_of_one_image_do_not_judge_each_other():
    """A vector has the same row four times; what fits them must not count as foresight."""
    rng = np.random.default_rng(0)
    source, target = (np.repeat(rng.normal(size=(256, 192)), 4, 0) for _ in range(2))
    assert fit_stitch(source, target).r2 < 0
    rows = [one_of_each(source), one_of_each(target)]
    assert abs(cka_matrix(rows)[0, 1]) < 0.1
