"""Weights in half precision: what is rounded, what is stored, and that it comes back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.half import SUFFIX, halved, rounded, widened
from nnfactory.factory.graph.network import model_from_network, network_from_model

NAME = "stages.0.0.expand.conv.weight"


def test_a_halved_network_is_valid_smaller_and_comes_back_rounded(toy_library):
    network = toy_library.network
    small = halved(network)
    model = model_from_network(small)
    onnx.checker.check_model(model, full_check=True)
    assert model.ByteSize() < 0.75 * model_from_network(network).ByteSize()
    assert small.weights[NAME + SUFFIX].dtype == np.float16
    back, wanted = widened(network_from_model(model)), rounded(network)
    assert [node.name for node in back.nodes] == [node.name for node in network.nodes]
    assert set(back.weights) == set(network.weights)
    for name, array in wanted.weights.items():
        assert back.weights[name].dtype == array.dtype
        np.testing.assert_array_equal(back.weights[name], array)


def test_a_halved_network_answers_like_the_rounded_one(toy_library, rng):
    side = toy_library.input_size
    images = {"images": rng.random((1, 3, side, side), dtype=np.float32)}
    one, other = (run_network(n, images) for n in (
        halved(toy_library.network), rounded(toy_library.network)
    ))  # fmt: skip
    for name, array in other.items():
        np.testing.assert_allclose(one[name], array, atol=1e-5)


def test_only_large_kernels_within_the_range_are_rounded(toy_library, rng):
    kernel = rng.standard_normal(toy_library.network.weights[NAME].shape).astype(np.float32)
    network = replace(toy_library.network, weights={**toy_library.network.weights, NAME: kernel})
    found = rounded(network).weights
    assert 0 < np.abs(found[NAME] - kernel).max() <= np.abs(kernel).max() * 2**-11
    np.testing.assert_array_equal(rounded(rounded(network)).weights[NAME], found[NAME])
    vectors = [name for name, array in network.weights.items() if array.ndim == 1]
    assert vectors
    for name in vectors:
        assert found[name] is network.weights[name]
    kernel[0, 0, 0, 0] = 1e6
    assert rounded(network).weights[NAME] is kernel
    assert NAME in halved(network).weights
