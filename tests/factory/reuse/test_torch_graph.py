"""Networks in torch answer as ONNX Runtime does, in batches, and go back as they are."""

from __future__ import annotations

import numpy as np
import pretrained
import pytest
from onnx import helper

from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.network import Network

torch = pytest.importorskip("torch")
from nnfactory.factory.reuse.training.torch_graph import TorchGraph  # noqa: E402

CLASSIFIERS = ("resnet8", "resnet20", "mobilenet-v1-0.25", "mobilenet-v2", "imagenet-resnet18")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_torch_computes_what_onnx_runtime_does(data_dir, name):
    network = pretrained.pretrained(data_dir, name).network
    ((entry, shape),) = network.inputs.items()
    images = np.random.default_rng(0).normal(size=(2, *shape[1:])).astype(np.float32)
    with torch.no_grad():
        found = TorchGraph(network)(torch.from_numpy(images)).numpy()
    for image, row in zip(images, found, strict=True):
        (expected,) = run_network(network, {entry: image[None]}).values()
        np.testing.assert_allclose(row, expected[0], rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_weights_that_were_trained_go_back(data_dir):
    network = pretrained.pretrained(data_dir, "resnet8").network
    graph = TorchGraph(network)
    same = graph.trained()
    for name, array in network.weights.items():
        np.testing.assert_array_equal(same.weights[name], array)
    images = torch.randn(4, *next(iter(network.inputs.values()))[1:])
    graph(images).sum().backward()
    with torch.no_grad():
        for parameter in graph.parameter_list:
            parameter -= 1e-3 * parameter.grad
    trained = graph.trained()
    changed = [
        name
        for name, array in network.weights.items()
        if not np.array_equal(trained.weights[name], array)
    ]
    assert set(changed) <= set(graph.trainable)
    assert len(changed) > len(graph.trainable) // 2
    (entry,) = network.inputs
    (found,) = run_network(trained, {entry: images[:1].numpy()}).values()
    with torch.no_grad():
        np.testing.assert_allclose(graph(images)[0], found[0], rtol=1e-3, atol=1e-3)


def single(op: str, inputs: list[str], weights: dict[str, np.ndarray], out, **options) -> Network:
    node = helper.make_node(op, ["x", *inputs], ["y"], name="n", **options)
    return Network(
        name="one", nodes=(node,), weights=weights, inputs={"x": (1, 4, 6, 7)}, outputs={"y": out}
    )


ONES = [
    single("AveragePool", [], {}, (1, 4, 6, 7), kernel_shape=[3, 3], pads=[1] * 4),
    single("AveragePool", [], {}, (1, 4, 3, 4), kernel_shape=[3, 3], strides=[2, 2],
           auto_pad="SAME_UPPER"),
    single("MaxPool", [], {}, (1, 4, 3, 4), kernel_shape=[3, 3], strides=[2, 2],
           auto_pad="SAME_LOWER"),
    single("Pad", ["/p"], {"/p": np.array([0, 0, 1, 0, 0, 2, 0, 1], np.int64)}, (1, 6, 7, 8)),
    single("MaxPool", [], {}, (1, 4, 3, 4), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    single("Slice", ["/a", "/b", "/c"],
           {"/a": np.array([1], np.int64), "/b": np.array([9], np.int64),
            "/c": np.array([1], np.int64)}, (1, 3, 6, 7)),
    single("Resize", ["", "", "/s"], {"/s": np.array([1, 4, 12, 14], np.int64)}, (1, 4, 12, 14),
           mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    single("HardSigmoid", [], {}, (1, 4, 6, 7), alpha=0.3),
    single("LeakyRelu", [], {}, (1, 4, 6, 7), alpha=0.3),
    single("HardSwish", [], {}, (1, 4, 6, 7)),
    single("ReduceMean", [], {}, (1, 4, 1, 1), axes=[2, 3]),
    single("Transpose", [], {}, (1, 6, 4, 7), perm=[0, 2, 1, 3]),
    single("Softmax", [], {}, (1, 4, 6, 7), axis=1),
    single("BatchNormalization", ["a", "b", "c", "d"],
           {name: np.abs(np.arange(4) - 1.5).astype(np.float32) for name in "abcd"}, (1, 4, 6, 7)),
]  # fmt: skip


@pytest.mark.parametrize("network", ONES, ids=lambda network: network.nodes[0].op_type)
def test_every_operator_is_that_of_onnx(network):
    image = np.random.default_rng(0).normal(size=(1, 4, 6, 7)).astype(np.float32)
    (expected,) = run_network(network, {"x": image}).values()
    with torch.no_grad():
        found = TorchGraph(network)(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_operator_that_is_not_known_is_named():
    with pytest.raises(DataError, match="Erf is not known"):
        TorchGraph(single("Erf", [], {}, (1, 4, 6, 7)))
