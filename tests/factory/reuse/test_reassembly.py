"""Reassembled networks: costs, features and answers of what is really built."""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
import pretrained
import pytest
from reassembly import joined

from nnfactory.factory.datasets import Images
from nnfactory.factory.errors import DataError, VerificationError
from nnfactory.factory.graph.costs import op_costs, parameter_count
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.memory import peak_bytes
from nnfactory.factory.graph.network import tensor_shapes
from nnfactory.factory.reuse.donor import Donor
from nnfactory.factory.reuse.features import representations
from nnfactory.factory.reuse.head import fit_linear_head, sharpened
from nnfactory.factory.reuse.joint_partition import partition
from nnfactory.factory.reuse.pool import Pool, chains_of, places_of, pool_of
from nnfactory.factory.reuse.proof import prove
from nnfactory.factory.reuse.reassembly import (
    Reassembled,
    answering,
    answers,
    is_surely_better,
    reassembled,
    with_head_of,
)
from nnfactory.factory.reuse.search import best_ways
from nnfactory.factory.reuse.similarity import cka_matrix
from nnfactory.factory.units import MIB


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


def built(made: Made, *ways: tuple[int, ...]) -> list[Reassembled]:
    found = [made.pool.stages.way(blocks) for blocks in ways]
    return reassembled(made.pool, found, {32: made.images}, made.seen)


@pytest.mark.parametrize("donor", [0, 1])
def test_the_blocks_of_one_donor_are_the_donor(made, donor):
    pool, place = made.pool, made.pool.places[donor]
    found = answers(
        joined(pool, pool.stages.way((donor,) * 3)), place.donor, made.images.pixels[:3]
    )
    expected = representations(place.donor, [place.tensors[-1]], list(made.images.pixels[:3]))
    np.testing.assert_allclose(
        found, expected[place.tensors[-1]].reshape(3, 4, -1).mean(1), rtol=1e-3, atol=1e-4
    )


def test_costs_are_those_of_what_is_built(made):
    ways = best_ways(made.pool.stages, {}, 8)
    assert len({way.blocks for way in ways}) == 8
    for network in built(made, *(way.blocks for way in ways)):
        way = network.way
        whole = answering(network.network, made.pool.places[way.blocks[0]].donor)
        shapes = tensor_shapes(whole)
        macs = sum(row.macs for row in op_costs(whole, shapes))
        assert parameter_count(whole) / 1e6 == pytest.approx(way.costs["mparams"])
        assert macs / 1e6 == pytest.approx(way.costs["mmacs"])
        memory = peak_bytes(whole, shapes) / MIB
        is_mixed = len(set(way.blocks)) > 1
        assert memory <= way.costs["memory_mib"] * (1 + 1e-9)
        assert way.costs["memory_mib"] == pytest.approx(memory, rel=0.2 if is_mixed else 1e-9)


def test_values_are_what_blocks_add_to_the_accuracy(made):
    assert made.pool.stages.value.sum(0) == pytest.approx([0.5, 0.5], abs=0.1)  # from chance to all
    assert (made.pool.stages.joint_value <= 0).all()


def test_ways_that_begin_alike_are_what_each_is_by_itself(made):
    ways = [(0, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    together = built(made, *ways)
    assert [one.way.blocks for one in together] == ways
    image = {"images": made.pool.places[0].donor.tensor(made.images.pixels[0])}
    for blocks, one in zip(ways, together, strict=True):
        (alone,) = built(made, blocks)
        assert one.r2 == alone.r2
        assert [r2 is None for r2 in one.r2] == [a == b for a, b in itertools.pairwise(blocks)]
        for name, values in run_network(alone.network, image).items():
            np.testing.assert_array_equal(run_network(one.network, image)[name], values)


def test_images_that_nothing_was_fitted_to_judge(made):
    """They change nothing that is fitted, and the judgement is that of the network on them."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 128, (10, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(10) % 2
    pixels[:7][labels[:7] == 1] += 100  # the last three are noise to the network
    more = Images(
        pixels=np.concatenate([made.images.pixels, pixels]),
        labels=np.concatenate([made.images.labels, labels]), boxes=(),
    )  # fmt: skip
    way = made.pool.stages.way((0, 1, 1))
    (found,) = reassembled(made.pool, [way], {32: more}, made.seen)
    (alone,) = built(made, (0, 1, 1))
    assert alone.judged is None
    np.testing.assert_allclose(found.head.weight, alone.head.weight, rtol=1e-5)
    assert found.r2 == alone.r2
    donor = made.pool.places[0].donor
    right = answers(found.network, donor, list(pixels)).argmax(1) == labels
    assert found.judged == pytest.approx(right.mean())
    assert found.right.tolist() == right.tolist()


def test_a_classifier_is_as_sharp_as_it_is_right(made):
    """Where images judge, the one that is fitted to all of them has logits of that size."""
    (alone,), donor = built(made, (0, 0, 0)), made.pool.places[0].donor
    sharp = dataclasses.replace(alone, sharper=20.0)
    one, other = (with_head_of(each, donor, made.images) for each in (alone, sharp))
    pixels = list(made.images.pixels)
    plain, sharper = (answers(each.network, donor, pixels) for each in (one, other))
    np.testing.assert_allclose(sharper, 20 * plain, rtol=1e-4, atol=1e-4)
    labels = made.images.labels
    assert sharpened(plain, labels)[1] > 3  # fitted to -1 and 1, and nearly always right
    assert sharpened(sharper, labels)[1] < sharpened(plain, labels)[1]


@pytest.mark.parametrize(
    ("gained", "lost", "is_sure"), [(0, 0, False), (1, 0, False), (9, 0, True), (20, 14, False)]
)
def test_one_network_is_surely_better_if_chance_hardly_explains_it(made, gained, lost, is_sure):
    (found,) = built(made, (0, 1, 1))
    other = np.zeros(100, bool)
    other[:50] = True
    mine = other.copy()
    mine[50 : 50 + gained] = True
    mine[:lost] = False
    one, two = (dataclasses.replace(found, right=each) for each in (mine, other))
    assert is_surely_better(one, two) == is_sure
    assert not is_surely_better(two, one)


def test_the_whole_network_answers_as_its_parts_do(made):
    (found,) = built(made, (0, 1, 1))
    donor = made.pool.places[0].donor
    parities = prove(made.pool, found, answering(found.network, donor))
    assert [parity.passed for parity in parities] == [True, True]
    assert found.head.left_out > 0.9
    (other,) = built(made, (0, 0, 1))
    with pytest.raises(VerificationError, match="parts one after the other"):
        prove(made.pool, found, answering(other.network, donor))
    broken = dataclasses.replace(made.pool.blocks[1][1], weights=made.pool.blocks[1][1].weights)
    name = next(name for name, array in broken.weights.items() if array.ndim == 4)
    weights = {**broken.weights, name: broken.weights[name] * 1.01}
    blocks = [list(row) for row in made.pool.blocks]
    blocks[1][1] = dataclasses.replace(broken, weights=weights)
    pool = dataclasses.replace(made.pool, blocks=tuple(map(tuple, blocks)))
    with pytest.raises(VerificationError, match="donors at their cuts"):
        prove(pool, found, answering(found.network, donor))


def test_colors_and_normalization_are_part_of_the_network(made):
    place = made.pool.places[1]
    donor = dataclasses.replace(
        place.donor, colors="BGR", mean=(0.1, 0.5, 0.3), std=(0.2, 0.3, 0.9)
    )
    image = made.images.pixels[0]
    planes = image.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    (found,) = run_network(donor.entry(), {"images": planes}).values()
    np.testing.assert_allclose(found, donor.tensor(image), rtol=1e-5, atol=1e-6)


def test_stitches_that_are_fitted_in_a_row_come_nearer_to_the_receiver(made):
    """What reaches the last block is nearer to what its own donor makes there."""
    pool, blocks = made.pool, (0, 1, 0)
    last = pool.blocks[2][0]
    (wanted,) = last.inputs
    expected = made.seen[0][wanted]
    gaps = []
    for body in (joined(pool, pool.stages.way(blocks)), built(made, blocks)[0].network):
        stitched = next(
            node.output[0] for node in reversed(body.nodes) if node.name.endswith("/stitch")
        )
        donor = dataclasses.replace(
            pool.places[0].donor,
            network=dataclasses.replace(body, outputs={stitched: last.inputs[wanted]}),
        )
        found = representations(donor, [stitched], list(made.images.pixels))[stitched]
        gaps.append(float(((found - expected) ** 2).mean()))
    assert gaps[1] < gaps[0]


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
