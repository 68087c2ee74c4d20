"""Foreign detectors: what their raw maps mean, some of their classes, and taking them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from onnx import helper

from nnfactory.factory.datasets import Images
from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.appender import Appender
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.network import Array, Network
from nnfactory.factory.reuse.detection_head import DetectionHead, HeadMap, head_from_table
from nnfactory.factory.reuse.detector import detector_network
from nnfactory.factory.reuse.detector_answer import (
    OVERLAP,
    unsuppressed,
    with_scores,
    with_suppressed_boxes,
)
from nnfactory.factory.reuse.disassembly.component import component_of, plan_within, values_of
from nnfactory.factory.reuse.disassembly.costs import counted
from nnfactory.factory.reuse.disassembly.families import anatomy_of
from nnfactory.factory.reuse.disassembly.input_sizes import at_side, sides_of
from nnfactory.factory.reuse.disassembly.kinds import Detection, tensors_of
from nnfactory.factory.reuse.disassembly.proof import prove_cut
from nnfactory.factory.reuse.donor import Donor

SIDE, LABELS = 64, 6
ANCHORS = {16: ((10.0, 12.0), (20.0, 30.0)), 32: ((40.0, 30.0), (50.0, 60.0))}
HEADS = {
    "fastestdet": DetectionHead(
        format="fastestdet", maps=(HeadMap(stride=16, objectness="o", boxes="b", classes="c"),)
    ),
    "yolo-fastestv2": DetectionHead(
        format="yolo-fastestv2",
        maps=tuple(
            HeadMap(stride=s, objectness=f"o{s}", boxes=f"b{s}", classes=f"c{s}", anchors=rows)
            for s, rows in ANCHORS.items()
        ),
    ),
}


def detector(name: str, seed: int = 0) -> Donor:
    """A network of random weights with the maps of a format; class layers of yolo are shared."""
    rng, head = np.random.default_rng(seed), HEADS[name]
    nodes, weights = [], {}

    def conv(x: str, out: str, inside: int, width: int, kernel: int, stride: int = 1) -> str:
        layer = out.rstrip("0123456789") if name == "yolo-fastestv2" and kernel == 1 else out
        scale = (inside * kernel * kernel) ** -0.5
        if f"{layer}.w" not in weights:
            shape = (width, inside, kernel, kernel)
            weights[f"{layer}.w"] = (2 * scale * rng.normal(size=shape)).astype(np.float32)
            weights[f"{layer}.b"] = (0.3 * rng.normal(size=width)).astype(np.float32)
        nodes.append(
            helper.make_node(
                "Conv", [x, f"{layer}.w", f"{layer}.b"], [out], strides=[stride] * 2,
                pads=[kernel // 2] * 4, kernel_shape=[kernel] * 2,
            )
        )  # fmt: skip
        return out

    def relu(x: str) -> str:
        nodes.append(helper.make_node("Relu", [x], [f"{x}.r"]))
        return f"{x}.r"

    x = relu(conv("images", "stem", 3, 8, 3, 4))
    x = relu(conv(relu(conv(x, "down", 8, 16, 3, 2)), "more", 16, 16, 3, 2))
    outputs = {}
    for one in head.maps:
        if one.stride == 32:
            x = relu(conv(x, "last", 16, 16, 3, 2))
        anchors, side = max(1, len(one.anchors)), SIDE // one.stride
        for out, width in (
            (one.objectness, anchors), (one.boxes, 4 * anchors), (one.classes, LABELS)
        ):  # fmt: skip
            conv(x, out, 16, width, 1)
            outputs[out] = (1, width, side, side)
    network = Network(
        name=name, nodes=tuple(nodes), weights=weights, inputs={"images": (1, 3, SIDE, SIDE)},
        outputs=outputs,
    )  # fmt: skip
    return Donor(
        name=name, network=network, mean=(0.4,) * 3, std=(0.2,) * 3, colors="BGR",
        labels=tuple(f"class {i}" for i in range(LABELS)), head=head,
    )  # fmt: skip


def images(count: int, seed: int = 1) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.random((1, 3, SIDE, SIDE), dtype=np.float32) for _ in range(count)]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def softmax(x: Array) -> Array:
    e = np.exp(x.astype(np.float64) - x.max(0))
    return e / e.sum(0)


def decoded(head: DetectionHead, raw: Mapping[str, Array], classes: int) -> tuple[Array, Array]:
    """Boxes (A, 4) and scores (A, K), place by place."""
    boxes, scores = [], []
    for one in head.maps:
        obj, reg, cls = (raw[n][0] for n in (one.objectness, one.boxes, one.classes))
        anchors, height, width = obj.shape
        for a in range(anchors):
            for y in range(height):
                for x in range(width):
                    r = reg.reshape(anchors, 4, height, width)[a, :, y, x].astype(np.float64)
                    p, real = softmax(cls[:, y, x])[:classes], sigmoid(obj[a, y, x])
                    if head.format == "fastestdet":
                        cx = (np.tanh(r[0]) + x) / width * SIDE
                        cy = (np.tanh(r[1]) + y) / height * SIDE
                        w, h = sigmoid(r[2]) * SIDE, sigmoid(r[3]) * SIDE
                        scores.append(real**0.6 * p**0.4)
                    else:
                        cx, cy = (
                            (2 * sigmoid(r[i]) - 0.5 + (x, y)[i]) * one.stride for i in (0, 1)
                        )
                        w, h = ((2 * sigmoid(r[i + 2])) ** 2 * one.anchors[a][i] for i in (0, 1))
                        scores.append(real * p)
                    boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    return np.array(boxes), np.array(scores)


def suppressed(boxes: Array, scores: Array) -> Array:
    """Rows x1, y1, x2, y2, score, class that greedy suppression keeps, best first."""
    labels, best = scores.argmax(1), scores.max(1)
    kept: list[int] = []
    for i in np.argsort(-best, kind="stable"):

        def overlaps(j: int, i: int = i) -> bool:
            low, high = (f(boxes[i, k : k + 2], boxes[j, k : k + 2])
                         for f, k in ((np.maximum, 0), (np.minimum, 2)))  # fmt: skip
            inside = np.prod(np.maximum(high - low, 0))
            areas = sum(np.prod(boxes[n, 2:] - boxes[n, :2]) for n in (i, j))
            return labels[i] == labels[j] and inside > OVERLAP * (areas - inside)

        if not any(overlaps(j) for j in kept):
            kept.append(i)
    rows = [[*np.clip(boxes[i], 0, SIDE), best[i], labels[i]] for i in kept[:100]]
    return np.array(rows)


@pytest.mark.parametrize("name", list(HEADS))
def test_boxes_are_decoded_and_suppressed_as_the_projects_do(name: str):
    for seed in range(4):
        network = detector(name, seed).network
        (image,) = images(1, seed)
        raw = run_network(network, {"images": image})
        found = run_network(with_suppressed_boxes(network, HEADS[name], LABELS), {"images": image})
        rows = found["output0"][0]
        expected = suppressed(*decoded(HEADS[name], raw, LABELS))
        kept = rows[rows[:, 4] > 0]
        assert kept == pytest.approx(expected, abs=1e-3)
        assert not rows[len(kept) :].any()


@pytest.mark.parametrize("count", [5, 7, 9])
def test_chains_of_boxes_are_suppressed_greedily(count: int):
    """Each box overlaps the next one alone: every second one stays."""
    starts = np.arange(count, dtype=float)
    boxes = np.stack([starts, 0 * starts, starts + 3, 0 * starts + 4], 1)  # overlaps 0.5 and 0.2
    graph = Appender()
    left = unsuppressed(graph, "sides", "labels", count, SIDE)
    whole = Network(
        name="suppression", nodes=tuple(graph.nodes), weights=graph.weights,
        inputs={"sides": (1, 4, count), "labels": (1, count)}, outputs={left: (1, count)},
    )  # fmt: skip
    given = {
        "sides": boxes.T[None].astype(np.float32), "labels": np.zeros((1, count), np.float32)
    }  # fmt: skip
    assert run_network(whole, given)[left][0].tolist() == [float(i % 2 == 0) for i in range(count)]


@pytest.mark.parametrize("name", list(HEADS))
def test_scores_are_those_of_all_places(name: str):
    network = detector(name).network
    (image,) = images(1)
    raw = run_network(network, {"images": image})
    found = run_network(with_scores(network, HEADS[name], LABELS), {"images": image})["scores"][0]
    _, scores = decoded(HEADS[name], raw, LABELS)
    assert np.sort(found, 1) == pytest.approx(np.sort(scores.T, 1), abs=1e-5)


@pytest.mark.parametrize("name", list(HEADS))
def test_some_classes_and_one_for_all_others(name: str):
    """Where only one other class is left, the row of all others is that one's."""
    donor, kept = detector(name), [4, 1, 0, 2, 3]
    network = detector_network(donor, kept, images(40))
    whole = detector_network(donor, range(LABELS), [])
    for image in images(3, 7):
        raw = run_network(donor.network, {"images": donor.tensor(_pixels(image))})
        same = run_network(whole, {"images": _planes(image)})
        found = run_network(network, {"images": _planes(image)})
        for one in donor.head.maps:
            for out in (one.objectness, one.boxes, one.classes):
                assert same[out] == pytest.approx(raw[out], abs=1e-4)
            assert found[one.classes][0, :5] == pytest.approx(raw[one.classes][0, kept], abs=1e-4)
            wanted = raw[one.classes][0, 5]
            assert np.abs(found[one.classes][0, 5] - wanted).mean() < 0.05 * wanted.std()


def _pixels(image: Array) -> Array:
    return np.rint(image[0].transpose(1, 2, 0) * 255).astype(np.uint8)


def _planes(image: Array) -> Array:
    return (_pixels(image).transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)


@pytest.mark.parametrize("name", list(HEADS))
def test_a_detector_is_taken_apart(name: str):
    rng = np.random.default_rng(0)
    boxes = tuple(np.array([[i % 2, 4, 4, 40, 40]], np.float32) for i in range(20))
    shown = Images(
        pixels=rng.integers(0, 256, (20, SIDE, SIDE, 3), dtype=np.uint8), labels=np.empty(0, int),
        boxes=boxes,
    )  # fmt: skip
    kind = Detection(HEADS[name], 2)
    anatomy = anatomy_of(detector_network(detector(name), [0, 3], tensors_of(shown)))
    assert [sum(row.sum() for row in ends.values()) for ends in kind.ends(anatomy.network)] == (
        pytest.approx([1, 1])
    )
    assert [len(mine) for mine in kind.shown(anatomy.network, shown, 8)] == [8, 8]
    judged = partial(kind.judged, kind.answers(anatomy.network, shown), images=shown)
    costs = counted(anatomy)
    for way, losses in values_of(anatomy, kind, shown).items():
        plan = plan_within(anatomy, way, losses, costs, {"mmacs": 0.8 * costs["mmacs"].whole})
        assert prove_cut(anatomy, plan, SIDE).passed
        made = component_of(anatomy, plan, shown, judged)
        unfitted = judged(plan.network)
        assert 0 < made.judged.divergence < unfitted.divergence
    nothing = judged(anatomy.network)
    assert nothing.divergence == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", list(HEADS))
def test_maps_of_a_detector_become_smaller_and_scores_stay_comparable(name: str):
    rng = np.random.default_rng(0)
    shown = [
        Images(
            pixels=rng.integers(0, 256, (3, side, side, 3), dtype=np.uint8),
            labels=np.empty(0, int), boxes=(np.empty((0, 5), np.float32),) * 3,
        )
        for side in (SIDE, SIDE // 2)
    ]  # fmt: skip
    network = detector_network(detector(name), [0, 3], tensors_of(shown[0]))
    kind, stride = Detection(HEADS[name], 2), max(one.stride for one in HEADS[name].maps)
    assert sides_of(network, stride) == list(range(SIDE, SIDE // 2 - 1, -stride))
    small = at_side(network, SIDE // 2)
    for out, (_, channels, height, width) in network.outputs.items():
        assert small.outputs[out] == (1, channels, height // 2, width // 2)
    whole = kind.answers(network, shown[0])
    assert whole.shape == kind.answers(small, shown[1]).shape
    assert kind.judged(whole, small, shown[1]).divergence > 0
    assert kind.judged(whole, network, shown[0]).divergence == pytest.approx(0, abs=1e-9)


def test_a_head_is_what_its_table_says():
    for head in HEADS.values():
        assert head_from_table(head.table()) == head
    table = HEADS["yolo-fastestv2"].table()
    one = table["maps"][0]
    for wrong in (
        {"format": "ssd", "maps": table["maps"]},
        {"format": "fastestdet", "maps": table["maps"]},
        {"format": "yolo-fastestv2", "maps": []},
        {"maps": table["maps"]},
        {**table, "maps": [{**one, "stride": 0}]},
        {**table, "maps": [{**one, "anchors": [[1, -2]]}]},
        {**table, "maps": [{**one, "color": "red"}]},
        {**table, "maps": [{k: v for k, v in one.items() if k != "classes"}]},
    ):
        with pytest.raises(DataError):
            head_from_table(wrong)


def test_a_head_must_fit_the_network():
    donor = detector("fastestdet")
    with pytest.raises(DataError, match=r"must be \(1, 7, 4, 4\)"):
        replace(donor, labels=(*donor.labels, "more"))
    with pytest.raises(DataError, match="every raw output|names the outputs"):
        replace(donor, head=HEADS["yolo-fastestv2"])
    with pytest.raises(DataError, match="1x1 convolution"):
        detector_network(_wrapped(donor), [0, 1], images(2))
    with pytest.raises(DataError, match="no detector"):
        detector_network(replace(donor, head=None, labels=()), [0, 1], [])
    with pytest.raises(DataError, match="no row of classes") as caught:
        replace(donor, head=None)
    assert "[head]" in caught.value.hints[0]


def _wrapped(donor: Donor) -> Donor:
    """A detector whose classes come out of something else than a convolution."""
    network = donor.network
    made = next(node for node in network.nodes if node.output[0] == "c")
    rest = [node for node in network.nodes if node is not made]
    conv = helper.make_node("Conv", list(made.input), ["raw"], kernel_shape=[1, 1])
    nodes = (*rest, conv, helper.make_node("Relu", ["raw"], ["c"]))
    return replace(donor, network=replace(network, nodes=nodes))
