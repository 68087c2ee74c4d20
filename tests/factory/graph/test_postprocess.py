"""The answer appended to raw outputs, against numpy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.network import Network, model_from_network
from nnfactory.factory.graph.postprocess import OUTPUT, with_detections, with_probabilities


def raw_network(outputs: dict[str, tuple[int, ...]]) -> Network:
    """A network whose inputs are its raw outputs, through one node each."""
    from onnx import helper

    nodes = [
        helper.make_node("Identity", [f"{name}.in"], [name], name=name + "/id") for name in outputs
    ]
    return Network(
        name="raw",
        nodes=tuple(nodes),
        weights={},
        inputs={f"{name}.in": shape for name, shape in outputs.items()},
        outputs=outputs,
    )


def decode(
    maps: dict[str, np.ndarray], strides: tuple[int, ...], size: int, kept: int
) -> np.ndarray:
    """Rows x1, y1, x2, y2, score, class of the best local peaks, one position at a time."""
    rows = []
    for stride in strides:
        logits, raw = maps[f"classes{stride}"][0], maps[f"boxes{stride}"][0]
        best = logits.max(0)
        for y in range(size // stride):
            for x in range(size // stride):
                if best[y, x] < best[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].max():
                    continue
                left, top, right, bottom = np.logaddexp(0, raw[:, y, x].astype(np.float64))
                cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
                box = (cx - left * stride, cy - top * stride, cx + right * stride,
                       cy + bottom * stride)  # fmt: skip
                label = int(logits[:, y, x].argmax())
                score = 1 / (1 + np.exp(-np.float64(logits[label, y, x])))
                rows.append((*np.clip(box, 0, size), score, label))
    return np.array(sorted(rows, key=lambda row: -row[4])[:kept])


@pytest.mark.parametrize(
    ("strides", "size", "classes"), [((4, 8), 64, 3), ((8, 16), 64, 1), ((16,), 96, 5)]
)
def test_detections_equal_a_decoding_in_plain_numpy(strides, size, classes, rng):
    outputs = {}
    for stride in strides:
        side = size // stride
        outputs[f"classes{stride}"] = (1, classes, side, side)
        outputs[f"boxes{stride}"] = (1, 4, side, side)
    answer = with_detections(raw_network(outputs), strides, size)
    onnx.checker.check_model(model_from_network(answer), full_check=True)
    maps = {name: rng.normal(0, 2, shape).astype(np.float32) for name, shape in outputs.items()}
    found = run_network(answer, {f"{name}.in": array for name, array in maps.items()})[OUTPUT]
    assert found.shape == (1, 100, 6)
    expected = decode(maps, strides, size, 100)
    kept = len(expected)
    assert kept > 1
    np.testing.assert_allclose(found[0, :kept], expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found[0, kept:], 0)
    assert (np.diff(found[0, :, 4]) <= 0).all()


def test_probabilities_are_the_softmax_of_the_logits(rng):
    answer = with_probabilities(raw_network({"logits": (1, 7)}))
    logits = rng.normal(0, 3, (1, 7)).astype(np.float32)
    found = run_network(answer, {"logits.in": logits})[OUTPUT]
    np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)
    assert found.sum() == pytest.approx(1, abs=1e-6)
    assert list(answer.outputs) == [OUTPUT]
