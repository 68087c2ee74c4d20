"""Imported classifiers as slots: the same network, and modules whose removal is what it says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pretrained
import pytest
from onnx import helper

from nnfactory.factory.datasets import Images
from nnfactory.factory.errors import DataError, VerificationError
from nnfactory.factory.graph.costs import op_costs, parameter_count
from nnfactory.factory.graph.cut import cut, mask
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.foreign import load_foreign
from nnfactory.factory.graph.network import model_from_network, tensor_shapes
from nnfactory.factory.graph.segments import chained
from nnfactory.factory.reuse import donor_library, donor_slots
from nnfactory.factory.reuse.donor import Donor
from nnfactory.factory.reuse.donor_library import curves_of
from nnfactory.factory.reuse.donor_slots import library_network, slots_of
from nnfactory.factory.reuse.own_images import TwoParts

NAMES = ("resnet8", "resnet20", "mobilenet-v1-0.25", "mobilenet-v2")


def imported(data_dir: Path, folder: Path, name: str) -> Donor:
    one = pretrained.pretrained(data_dir, name)
    onnx.save(model_from_network(one.network), folder / "x.onnx")
    return Donor(
        name=name, network=load_foreign(folder / "x.onnx"), mean=one.mean, std=one.std,
        colors=one.colors,
    )  # fmt: skip


def pictures(size: int, count: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((1, 3, size, size), dtype=np.float32) for _ in range(count)]


@pytest.mark.parametrize("name", NAMES)
def test_the_library_network_answers_as_the_donor_does(data_dir, tmp_path, name):
    donor = imported(data_dir, tmp_path, name)
    outputs = [3, 0, 7]
    network = library_network(donor, outputs)
    ordered, slots = slots_of(network, pictures(donor.input_size))
    pixels = np.rint(pictures(donor.input_size)[0][0].transpose(1, 2, 0) * 255).astype(np.uint8)
    (expected,) = run_network(donor.network, {donor.input_name: donor.tensor(pixels)}).values()
    planes = pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    expected = expected.reshape(1, -1)[:, outputs]
    if name.startswith("mobilenet"):  # it ends in a softmax or not: only the order is compared
        expected = expected - expected.mean()
    for one in (network, ordered):
        (found,) = run_network(one, {"images": planes}).values()
        if name.startswith("mobilenet"):
            found = found - found.mean()
        np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max() + 1e-3)
    assert slots[-1].kind == "classes"
    assert slots[-1].groups == 3


@pytest.mark.parametrize("name", NAMES)
def test_cutting_modules_is_zeroing_them_and_costs_add_up(data_dir, tmp_path, name):
    donor = imported(data_dir, tmp_path, name)
    network, slots = slots_of(library_network(donor, range(5)), pictures(donor.input_size))
    rng = np.random.default_rng(1)
    counts = {s.name: int(rng.integers(1, s.groups + 1)) for s in slots if s.kind == "block"}
    active = {name: range(count) for name, count in counts.items()}
    part = cut(network, slots, {**active, "classes": (0, 3)})
    image = pictures(donor.input_size)[1]
    (zeroed,) = run_network(mask(network, slots, active), {"images": image}).values()
    (found,) = run_network(part, {"images": image}).values()
    np.testing.assert_allclose(found, zeroed[:, [0, 3]], atol=1e-4 * max(1, np.abs(zeroed).max()))
    left = [
        (s.groups - counts.get(s.name, 2), s.modules[0]) for s in slots
    ]  # of the classes two of five stay
    macs = sum(row.macs for row in op_costs(network, tensor_shapes(network)))
    lost = sum(n * module.mmacs for n, module in left) * 1e6
    assert sum(r.macs for r in op_costs(part, tensor_shapes(part))) == pytest.approx(macs - lost)
    gone = sum(n * module.mparams for n, module in left) * 1e6
    assert parameter_count(part) == pytest.approx(parameter_count(network) - gone)


def test_channels_stand_in_the_order_of_what_they_contribute(data_dir, tmp_path):
    donor = imported(data_dir, tmp_path, "resnet8")
    network, slots = slots_of(library_network(donor, range(10)), pictures(32, 4))
    shapes = tensor_shapes(network)
    for slot in slots[:-1]:
        tapped = dataclasses.replace(network, outputs={slot.gated[0]: shapes[slot.gated[0]]})
        (made,) = run_network(tapped, {"images": pictures(32, 1)[0]}).values()
        squares = sum(
            (run_network(tapped, {"images": image})[slot.gated[0]][0].astype(float) ** 2).mean(
                (1, 2)
            )
            for image in pictures(32, 4)
        )
        reader = next(
            node for node in network.nodes
            if node.op_type == "Conv" and node.input[0] == slot.gated[0]
        )  # fmt: skip
        norms = np.sqrt((network.weights[reader.input[1]] ** 2).sum((0, 2, 3)))
        scores = np.sqrt(squares) * norms
        assert (np.diff(scores) <= 1e-3 * scores.max()).all()


def test_curves_rise_to_what_the_whole_gains(data_dir, tmp_path):
    donor = imported(data_dir, tmp_path, "resnet8")
    tensors = pictures(32, 12)
    labels = np.arange(12) % 3
    network, slots = slots_of(library_network(donor, range(3)), tensors)
    curves = curves_of(network, slots, tensors, labels)
    assert curves.shape == (3, sum(s.groups + 1 for s in slots[:-1]))
    start = 0
    for slot in slots[:-1]:
        part = curves[:, start : start + slot.groups + 1]
        assert (part[:, 0] == 0).all()
        assert (np.diff(part, axis=1) >= 0).all()
        start += slot.groups + 1


def test_a_network_that_ends_otherwise_is_refused(data_dir, tmp_path):
    donor = imported(data_dir, tmp_path, "resnet8")
    network = donor.network
    pool = next(node for node in network.nodes if node.op_type == "GlobalAveragePool")
    shape = tensor_shapes(network)[pool.output[0]]
    headless = dataclasses.replace(
        network, nodes=network.nodes[: network.nodes.index(pool) + 1],
        outputs={pool.output[0]: shape},
    )  # fmt: skip
    with pytest.raises(DataError, match="does not end in a linear layer"):
        library_network(dataclasses.replace(donor, network=headless), [0, 1])


@pytest.mark.parametrize("shape", [(10,), (1, 10), (1,)])
def test_the_linear_layer_may_be_scaled_and_its_bias_of_any_shape(data_dir, tmp_path, shape):
    donor = imported(data_dir, tmp_path, "resnet8")
    network = donor.network
    last = next(node for node in network.nodes if node.op_type == "Gemm")
    node = helper.make_node(
        "Gemm", list(last.input), list(last.output), transB=1, alpha=3.0, beta=0.5, name="last"
    )
    weights = dict(network.weights)
    if shape != (1,):
        weights[last.input[2]] = np.arange(10, dtype=np.float32).reshape(shape)
    else:
        weights[last.input[2]] = np.float32([2.0])
    if len(weights[last.input[1]]) != 10:
        weights[last.input[1]] = np.ascontiguousarray(weights[last.input[1]].T)
    scaled = dataclasses.replace(network, nodes=(*network.nodes[:-1], node), weights=weights)
    donor = dataclasses.replace(donor, network=scaled)
    found = library_network(donor, [4, 1])  # checked against the donor inside
    assert found.outputs[last.output[0]] == (1, 2)


def test_a_library_that_would_answer_otherwise_is_refused(data_dir, tmp_path, monkeypatch):
    donor = imported(data_dir, tmp_path, "resnet8")

    def wrong(name, parts):
        whole = chained(name, parts)
        weights = {key: 2 * array for key, array in whole.weights.items()}
        return dataclasses.replace(whole, weights=weights)

    monkeypatch.setattr(donor_slots, "chained", wrong)
    with pytest.raises((VerificationError, DataError)):
        library_network(donor, [0, 1])


def test_every_class_is_in_both_halves():
    labels = np.repeat(np.arange(4), 6)
    pixels = np.arange(24, dtype=np.uint8).reshape(24, 1, 1, 1) * np.ones((1, 4, 4, 3), np.uint8)
    some = Images(pixels=pixels, labels=labels, boxes=())
    parts = TwoParts(
        name="", classes=tuple("abcd"), training={4: some}, measuring={4: some},
        fitted=np.arange(24), judging=np.arange(0), digest="",
    )  # fmt: skip
    data = donor_library._parts(parts, 4)
    assert np.bincount(data.train.labels).tolist() == [3] * 4
    assert np.bincount(data.validation.labels).tolist() == [3] * 4
    assert not {p.tobytes() for p in data.train.pixels} & {
        p.tobytes() for p in data.validation.pixels
    }
