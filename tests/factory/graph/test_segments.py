"""Networks that are taken apart and put together again answer as before."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pretrained
import pytest

from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.cut_points import cut_points
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.network import model_from_network
from nnfactory.factory.graph.segments import chained, segment

NAMES = ("resnet8", "resnet20", "mobilenet-v2", "imagenet-resnet18")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("every", [1, 3])
def test_the_parts_of_a_network_in_a_row_are_the_network(data_dir, name, every):
    network = pretrained.pretrained(data_dir, name).network
    (image_name,), (out,) = network.inputs, network.outputs
    inner = [point.tensor for point in cut_points(network)][::every]
    places = [image_name, *inner, out]
    parts = [segment(network, a, b) for a, b in itertools.pairwise(places)]
    whole = chained("whole", parts)
    onnx.checker.check_model(model_from_network(whole), full_check=True)
    shape = network.inputs[image_name]
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found, expected = (run_network(n, {image_name: image})[out] for n in (whole, network))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert sum(len(part.nodes) for part in parts) == len(network.nodes)


def test_parts_of_two_networks_fit_where_their_shapes_do(data_dir):
    one, other = (pretrained.pretrained(data_dir, f"resnet{depth}").network for depth in (20, 32))
    middle = [p.tensor for p in cut_points(one) if p.shape == (1, 32, 16, 16)][-1]
    begin = [p.tensor for p in cut_points(other) if p.shape == (1, 32, 16, 16)][0]
    mixed = chained("mixed", [segment(one, "images", middle), segment(other, begin, "logits")])
    image = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    assert run_network(mixed, {"images": image})["logits"].shape == (1, 10)
    with pytest.raises(DataError, match="what comes before gives"):
        chained("wrong", [segment(one, "images", middle), segment(other, "images", "logits")])


def test_what_is_no_cut_point_is_refused(data_dir):
    network = pretrained.pretrained(data_dir, "resnet20").network
    points = [point.tensor for point in cut_points(network)]
    inside = next(  # the first convolution of a residual branch
        node.output[0]
        for node in network.nodes
        if node.op_type == "Conv" and node.name == "layer1.0.conv1"
    )
    with pytest.raises(DataError, match="is no cut point"):
        segment(network, inside, "logits")
    with pytest.raises(DataError, match="does not depend on"):
        segment(network, points[-1], points[0])
    with pytest.raises(DataError, match="has no tensor"):
        segment(network, "nothing", "logits")
