"""Statistics of batch normalization: replaced, re-estimated, folded."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.network import Network
from nnfactory.factory.graph.normalization import (
    estimate_moments,
    fold_norms,
    norm_nodes,
    norms_as_convolutions,
    with_moments,
)


def conv_norm_relu(rng: np.random.Generator, *, bias: bool = False) -> Network:
    """1x1 convolution, normalization, ReLU, 1x1 convolution, normalization."""
    parts = ("scale", "shift", "mean", "variance")
    first = ["x", "w1", "b1"] if bias else ["x", "w1"]
    nodes = (
        helper.make_node("Conv", first, ["a"], name="conv1", kernel_shape=[1, 1]),
        helper.make_node(
            "BatchNormalization", ["a", *(f"n1.{p}" for p in parts)], ["b"], name="norm1",
            epsilon=1e-3,
        ),
        helper.make_node("Relu", ["b"], ["c"], name="relu"),
        helper.make_node("Conv", ["c", "w2"], ["d"], name="conv2", kernel_shape=[1, 1]),
        helper.make_node(
            "BatchNormalization", ["d", *(f"n2.{p}" for p in parts)], ["y"], name="norm2"
        ),
    )  # fmt: skip
    weights = {
        "w1": rng.normal(size=(4, 3, 1, 1)),
        "w2": rng.normal(size=(2, 4, 1, 1)),
        **({"b1": rng.normal(size=4)} if bias else {}),
    }
    for norm, channels in (("n1", 4), ("n2", 2)):
        weights[f"{norm}.scale"] = rng.uniform(0.5, 2, channels)
        weights[f"{norm}.shift"] = rng.normal(size=channels)
        weights[f"{norm}.mean"] = rng.normal(size=channels)
        weights[f"{norm}.variance"] = rng.uniform(0.5, 2, channels)
    return Network(
        name="hand",
        nodes=nodes,
        weights={name: array.astype(np.float32) for name, array in weights.items()},
        inputs={"x": (1, 3, 5, 5)},
        outputs={"y": (1, 2, 5, 5)},
    )


def convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.einsum("bihw,oi->bohw", x.astype(np.float64), kernel[:, :, 0, 0].astype(np.float64))


def test_estimated_moments_equal_those_of_numpy_layer_by_layer(rng):
    network = conv_norm_relu(rng)
    images = rng.random((6, 3, 5, 5), dtype=np.float32)
    moments = estimate_moments(network, images)
    assert set(moments) == {"norm1", "norm2"}
    w = network.weights
    first = convolve(images, w["w1"])
    mean, variance = first.mean((0, 2, 3)), first.var((0, 2, 3))
    np.testing.assert_allclose(moments["norm1"][0], mean, atol=1e-5)
    np.testing.assert_allclose(moments["norm1"][1], variance, rtol=1e-4)
    # The second layer sees what the first one gives with the moments of this batch.
    normed = (first - mean[:, None, None]) / np.sqrt(variance + 1e-3)[:, None, None]
    normed = normed * w["n1.scale"][:, None, None] + w["n1.shift"][:, None, None]
    second = convolve(normed.clip(0), w["w2"])
    np.testing.assert_allclose(moments["norm2"][0], second.mean((0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(moments["norm2"][1], second.var((0, 2, 3)), rtol=1e-3)


def test_estimating_again_with_the_estimated_moments_in_place_changes_nothing(toy_library, rng):
    size = toy_library.input_size
    images = rng.random((3, 3, size, size), dtype=np.float32)
    moments = estimate_moments(toy_library.network, images)
    again = estimate_moments(with_moments(toy_library.network, moments), images)
    for node, (mean, variance) in moments.items():
        np.testing.assert_array_equal(again[node][0], mean)
        np.testing.assert_array_equal(again[node][1], variance)


def test_replaced_moments_are_used_and_the_old_network_keeps_its_own(rng):
    network = conv_norm_relu(rng)
    images = rng.random((1, 3, 5, 5), dtype=np.float32)
    before = run_network(network, {"x": images})["y"]
    changed = with_moments(network, {"norm2": (np.full(2, 9.0), np.full(2, 4.0))})
    after = run_network(changed, {"x": images})["y"]
    w = network.weights
    raw = (before - w["n2.shift"][:, None, None]) / w["n2.scale"][:, None, None]
    raw = raw * np.sqrt(w["n2.variance"] + 1e-5)[:, None, None] + w["n2.mean"][:, None, None]
    expected = (raw - 9) / np.sqrt(4 + 1e-5) * w["n2.scale"][:, None, None]
    np.testing.assert_allclose(after, expected + w["n2.shift"][:, None, None], atol=1e-4)
    np.testing.assert_array_equal(run_network(network, {"x": images})["y"], before)


def test_moments_of_another_width_are_refused(rng):
    with pytest.raises(DataError, match=r"'norm1' have shape \(3,\), the network has \(4,\)"):
        with_moments(conv_norm_relu(rng), {"norm1": (np.zeros(3), np.ones(3))})


def test_folding_removes_every_normalization_and_keeps_the_outputs(toy_library, rng):
    network = toy_library.network
    folded = fold_norms(network)
    assert norm_nodes(network)
    assert not norm_nodes(folded)
    ((name, shape),) = network.inputs.items()
    image = rng.random(shape, dtype=np.float32)
    before, after = run_network(network, {name: image}), run_network(folded, {name: image})
    for output, values in before.items():
        np.testing.assert_allclose(after[output], values, atol=1e-4)


def test_folding_uses_the_epsilon_of_each_node(rng):
    network = conv_norm_relu(rng)
    network.weights["n1.variance"][:] = 1e-3  # as small as the epsilon
    image = rng.random((1, 3, 5, 5), dtype=np.float32)
    before = run_network(network, {"x": image})["y"]
    np.testing.assert_allclose(run_network(fold_norms(network), {"x": image})["y"], before, 1e-4)


def test_a_normalization_that_cannot_be_folded_is_refused(rng):
    with pytest.raises(DataError, match="'norm1' does not follow a convolution without bias"):
        fold_norms(conv_norm_relu(rng, bias=True))
    network = conv_norm_relu(rng)
    alone = Network(
        name="x", nodes=network.nodes[1:2], weights=network.weights,
        inputs={"a": (1, 4, 5, 5)}, outputs={"b": (1, 4, 5, 5)},
    )  # fmt: skip
    with pytest.raises(DataError, match="'norm1' does not follow a convolution"):
        fold_norms(alone)


def test_normalization_of_sums_becomes_a_convolution(rng):
    """Of a sum, which nothing can be folded into; that of vectors stays."""
    parts = ("scale", "shift", "mean", "variance")
    rows = {
        f"{norm}.{part}": rng.uniform(0.5, 2, 3).astype(np.float32)
        for norm in ("n1", "n2") for part in parts
    }  # fmt: skip
    nodes = (
        helper.make_node("Add", ["x", "x"], ["sum"]),
        helper.make_node(
            "BatchNormalization", ["sum", *(f"n1.{p}" for p in parts)], ["a"], epsilon=1e-2
        ),
        helper.make_node("GlobalAveragePool", ["a"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["vector"]),
        helper.make_node("BatchNormalization", ["vector", *(f"n2.{p}" for p in parts)], ["y"]),
    )
    network = Network(
        name="sums", nodes=nodes, weights=rows, inputs={"x": (1, 3, 5, 5)}, outputs={"y": (1, 3)}
    )
    found = norms_as_convolutions(network)
    assert [node.op_type for node in found.nodes] == [
        "Add", "Conv", "GlobalAveragePool", "Flatten", "BatchNormalization"
    ]  # fmt: skip
    x = rng.random((1, 3, 5, 5), dtype=np.float32)
    expected = run_network(network, {"x": x})["y"]
    np.testing.assert_allclose(run_network(found, {"x": x})["y"], expected, rtol=1e-5)
    assert not any(name.startswith("n1.") for name in found.weights)
