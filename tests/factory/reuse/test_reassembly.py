"""Reassembled networks: costs, features and answers of what is really built."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pretrained
import pytest

from nnfactory.factory.datasets import Images
from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.costs import parameter_count
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.reuse.donor import Donor
from nnfactory.factory.reuse.features import representations
from nnfactory.factory.reuse.head import fit_linear_head
from nnfactory.factory.reuse.partition import partition
from nnfactory.factory.reuse.pool import Pool, chains_of, places_of, pool_of
from nnfactory.factory.reuse.reassembly import assembled, features_of, with_head
from nnfactory.factory.reuse.search import Way, best_ways
from nnfactory.factory.reuse.similarity import cka_matrix


class Made(NamedTuple):
    pool: Pool
    images: Images
    seen: list


@pytest.fixture(scope="module")
def made(data_dir) -> Made:
    """Two donors in three blocks, on images of noise that hold two classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    pixels = rng.integers(0, 128, (24, 32, 32, 3), dtype=np.uint8)
    pixels[labels == 1] += 100
    places = []
    for name in ("resnet20", "resnet8"):
        one = pretrained.pretrained(data_dir, name)
        donor = Donor(name=name, network=one.network, mean=one.mean, std=one.std)
        places.append(places_of(donor))
    seen = [representations(place.donor, place.tensors, list(pixels)) for place in places]
    rows = [seen[0][places[0].tensors[0]]]
    rows += [
        mine[name] for place, mine in zip(places, seen, strict=True) for name in place.tensors[1:]
    ]
    found = partition(chains_of(places), cka_matrix(rows), 3)
    return Made(
        pool_of(places, found, seen, labels),
        Images(pixels=pixels, labels=labels, boxes=()),
        seen,
    )


def test_places_begin_with_the_image_and_end_with_the_features(made):
    place = made.pool.places[0]
    assert place.tensors[0] == "images"
    assert place.sizes[0] == 0
    assert (np.diff(place.sizes) > 0).all()
    classifier = 64 * 10 + 10
    assert place.sizes[-1] == parameter_count(place.donor.network) - classifier


@pytest.mark.parametrize("donor", [0, 1])
def test_the_blocks_of_one_donor_are_the_donor(made, donor):
    pool, place = made.pool, made.pool.places[donor]
    way = Way(blocks=(donor,) * 3, value=0.0, costs={})
    found = features_of(assembled(pool, way), place.donor, list(made.images.pixels[:3]))
    expected = representations(place.donor, [place.tensors[-1]], list(made.images.pixels[:3]))
    np.testing.assert_allclose(
        found, expected[place.tensors[-1]].reshape(3, 4, -1).mean(1), rtol=1e-3, atol=1e-4
    )


def test_costs_are_those_of_what_is_built(made):
    ways = best_ways(made.pool.stages, {}, 8)
    assert len({way.blocks for way in ways}) == 8
    for way in ways:
        for options in ((), (made.seen, list(made.images.pixels))):
            body = assembled(made.pool, way, *options)
            assert parameter_count(body) / 1e6 == pytest.approx(way.costs["mparams"])


def test_values_are_what_blocks_add_to_the_accuracy(made):
    assert made.pool.stages.value.sum(0) == pytest.approx([0.5, 0.5], abs=0.1)  # from chance to all
    assert (made.pool.stages.joint_value <= 0).all()


def test_the_whole_network_answers_as_its_features_and_classifier(made):
    way = Way(blocks=(0, 1, 1), value=0.0, costs={})
    found = with_head(made.pool, way, made.images)
    donor = made.pool.places[0].donor
    features = features_of(assembled(made.pool, way), donor, list(made.images.pixels))
    expected = features @ found.head.weight.T + found.head.bias
    for image, logits in zip(made.images.pixels[:3], expected, strict=False):
        answers = run_network(found.network, {"images": donor.tensor(image)})["logits"]
        np.testing.assert_allclose(answers[0], logits, rtol=1e-2, atol=1e-3)
    assert found.head.left_out > 0.9


def test_stitches_that_are_fitted_in_a_row_come_nearer_to_the_receiver(made):
    """What reaches the last block is nearer to what its own donor makes there."""
    way, pool, pixels = Way(blocks=(0, 1, 0), value=0.0, costs={}), made.pool, made.images.pixels
    last = pool.blocks[2][0]
    (wanted,) = last.inputs
    expected = made.seen[0][wanted]
    gaps = []
    for options in ((), (made.seen, list(pixels))):
        body = assembled(pool, way, *options)
        stitched = next(
            node.output[0] for node in reversed(body.nodes) if node.name.endswith("/stitch")
        )
        donor = dataclasses.replace(
            pool.places[0].donor,
            network=dataclasses.replace(body, outputs={stitched: last.inputs[wanted]}),
        )
        found = representations(donor, [stitched], list(pixels))[stitched]
        gaps.append(float(((found - expected) ** 2).mean()))
    assert gaps[1] < gaps[0]


def test_images_change_nothing_about_the_blocks_of_one_donor(made):
    way, pixels = Way(blocks=(0,) * 3, value=0.0, costs={}), list(made.images.pixels)
    plain, fitted = assembled(made.pool, way), assembled(made.pool, way, made.seen, pixels)
    assert plain.nodes == fitted.nodes


def test_leaving_out_is_what_fitting_without_each_image_says(rng):
    features, labels = rng.normal(size=(30, 6)), np.arange(30) % 3
    features[:, :3] += np.eye(3)[labels]
    head = fit_linear_head(features, labels, 3)
    fitted = (features @ head.weight.T + head.bias).argmax(1) == labels
    assert 0.33 < head.left_out <= fitted.mean()
    noise = fit_linear_head(rng.normal(size=(60, 40)), np.arange(60) % 2, 2)
    assert noise.left_out < 0.8


def test_a_detector_is_refused(data_dir):
    one = pretrained.pretrained(data_dir, "fastestdet")
    donor = Donor(name="d", network=one.network, mean=one.mean, std=one.std, colors="BGR")
    with pytest.raises(DataError, match="several outputs"):
        places_of(donor)
