"""Classifiers side by side: branches, what they share, and how their answers become one."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.network import Array, Network
from nnfactory.factory.graph.postprocess import with_probabilities
from nnfactory.factory.graph.repeats import without_repeats
from nnfactory.factory.reuse.combination import (
    FEATURES,
    LOGITS,
    Calibration,
    branch_of,
    calibrate,
    combined,
)


def classifier(classes: int, *, side: int = 8, seed: int = 0, stem: int = 7) -> Network:
    """Stem, layer and head; the stem's weights depend on its own seed alone."""
    rng, first = np.random.default_rng(seed), np.random.default_rng(stem)
    weights = {
        "stem": first.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "layer": rng.normal(size=(5, 4, 3, 3)).astype(np.float32),
        "fc": rng.normal(size=(classes, 5)).astype(np.float32),
    }
    nodes = (
        helper.make_node("Conv", ["images", "stem"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "layer"], ["c"], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "fc"], ["logits"], transB=1),
    )
    return with_probabilities(
        Network(
            name="net", nodes=nodes, weights=weights, inputs={"images": (1, 3, side, side)},
            outputs={"logits": (1, classes)},
        )
    )  # fmt: skip


def plain(sizes: tuple[int, ...]) -> Calibration:
    """Nothing is scaled and the gate says nothing."""
    count = len(sizes)
    weight = np.zeros((count, sum(sizes)))
    return Calibration(
        scales=(1.0,) * count, shifts=(0.0,) * count, gate=0.0, weight=weight,
        bias=np.zeros(count), loss=0.0, gradient=0.0,
    )  # fmt: skip


def image(side: int = 8) -> Array:
    return np.random.default_rng(3).random((1, 3, side, side), dtype=np.float32)


def test_a_branch_gives_features_and_logits():
    network = classifier(3)
    branch = branch_of(network)
    found = run_network(branch, {"images": image()})
    assert found[FEATURES].shape == (1, 5)
    powers = np.exp(found[LOGITS])
    wanted = run_network(network, {"images": image()})["output0"]
    assert powers / powers.sum() == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(DataError, match="probabilities"):
        branch_of(branch)


def test_logits_stand_side_by_side_and_a_common_beginning_is_computed_once():
    branches = [branch_of(classifier(n, seed=n)) for n in (3, 2)]
    apart = combined(branches, plain((5, 5)))
    whole = without_repeats(apart)
    wanted = np.concatenate([run_network(b, {"images": image()})[LOGITS] for b in branches], 1)
    for network in (apart, whole):
        assert run_network(network, {"images": image()})[LOGITS] == pytest.approx(wanted, abs=1e-5)
    assert sum(node.op_type == "Conv" for node in apart.nodes) == 4
    assert sum(node.op_type == "Conv" for node in whole.nodes) == 3
    other = combined([branches[0], branch_of(classifier(2, seed=2, stem=8))], plain((5, 5)))
    assert sum(node.op_type == "Conv" for node in without_repeats(other).nodes) == 4


@pytest.mark.parametrize(("small", "op"), [(4, "AveragePool"), (6, "Resize")])
def test_every_branch_gets_the_image_in_its_own_size(small: int, op: str):
    branches = [branch_of(classifier(3)), branch_of(classifier(2, side=small, seed=1))]
    whole = without_repeats(combined(branches, plain((5, 5))))
    assert next(iter(whole.inputs.values())) == (1, 3, 8, 8)
    assert [node.op_type for node in whole.nodes].count(op) == 1
    flat = np.full((1, 3, 8, 8), 0.25, np.float32)
    found = run_network(whole, {"images": flat})[LOGITS][0, 3:]
    wanted = run_network(branches[1], {"images": flat[..., :small, :small]})[LOGITS][0]
    assert found == pytest.approx(wanted, abs=1e-5)


def test_combined_networks_can_be_combined_again():
    branches = [branch_of(classifier(n, seed=n)) for n in (3, 2)]
    whole = with_probabilities(without_repeats(combined(branches, plain((5, 5)))))
    again = combined([branch_of(whole), branch_of(classifier(4, seed=9))], plain((5, 5)))
    assert run_network(without_repeats(again), {"images": image()})[LOGITS].shape == (1, 9)


def overconfident(count: int = 120) -> tuple[list[Array], list[Array], Array]:
    """Two networks of two classes; each is sure of something on images of the other, too."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, count)
    features = [rng.normal(size=(count, 6)) for _ in range(2)]
    for m in range(2):
        features[m][labels // 2 == m, 0] += 4
    logits = []
    for m, sure in enumerate((3.0, 9.0)):
        rows = rng.normal(size=(count, 2)) * sure
        mine = labels // 2 == m
        rows[mine, labels[mine] % 2] += 2 * sure
        logits.append(rows)
    return features, logits, labels


def test_the_gate_knows_whose_image_it_is():
    features, logits, labels = overconfident()
    found = calibrate(features, logits, labels)
    raw = float((np.concatenate(logits, 1).argmax(1) == labels).mean())
    owner = np.array([0, 0, 1, 1])
    gate = np.concatenate(features, 1) @ found.weight.T + found.bias
    scores = np.concatenate(logits, 1) * np.array(found.scales)[owner]
    scores = scores + (found.gate * gate + np.array(found.shifts))[:, owner]
    assert float((scores.argmax(1) == labels).mean()) > raw + 0.1
    assert found.scales[1] < found.scales[0]
    assert found.gradient < 1e-3


def test_louder_logits_get_smaller_scales():
    features, logits, labels = overconfident(40)
    found = calibrate(features, logits, labels)
    assert found.gate > 0
    again = calibrate(features, [10 * rows for rows in logits], labels)
    assert again.scales[1] < found.scales[1]
