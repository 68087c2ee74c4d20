"""Importance of modules against finite differences."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from nnfactory.factory.datasets import Images

torch = pytest.importorskip("torch")

from nnfactory.factory.supernet.importance import measure_importance  # noqa: E402


def noise(side: int, labels: list[int], boxes: tuple = ()) -> Images:
    rng = np.random.default_rng(2)
    n = len(labels) or len(boxes)
    return Images(
        pixels=rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8),
        labels=np.array(labels, np.int64),
        boxes=boxes,
    )


@torch.no_grad()
def differences(network, image: np.ndarray, label: int) -> np.ndarray:
    """|dL/dg| of every block module at g = 1, by central differences in double precision."""
    double = copy.deepcopy(network).double().eval()
    x = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
    found, step = [], 1e-5

    def loss(gates: list[torch.Tensor]) -> float:
        logits = double(x, None, gates)[0]
        return float(torch.logsumexp(logits, 0) - logits[label])

    for slot, groups in enumerate(network.full):
        for group in range(groups):
            ends = []
            for sign in (1, -1):
                gates = [torch.ones(1, width, dtype=torch.float64) for width in network.full]
                gates[slot][0, group] += sign * step
                ends.append(loss(gates))
            found.append(abs(ends[0] - ends[1]) / (2 * step))
    return np.array(found)


@pytest.mark.parametrize("label", [0, 1])
def test_importance_equals_the_difference_that_a_gate_makes(toy_parts, label):
    network = toy_parts.supernet("cls", classes=2)
    images = noise(toy_parts.side, [label])
    expected = differences(network, images.pixels[0], label)
    compared = 0
    for seed in range(4):  # a task of the one class alone has no loss: skip such draws
        full = measure_importance(network, images, 2, per_class=1, seed=seed)["full"]
        np.testing.assert_array_equal(full[1 - label], 0)
        if full[label].any():
            np.testing.assert_allclose(full[label], expected, rtol=1e-3, atol=1e-6)
            compared += 1
    assert compared


@pytest.mark.parametrize("kind", ["cls", "det"])
def test_importance_is_finite_reproducible_and_complete(toy_parts, kind, rng):
    network = toy_parts.supernet(kind)
    classes = len(toy_parts.classes[kind])
    if kind == "cls":
        images = noise(toy_parts.side, [i % classes for i in range(3 * classes)])
    else:
        rows = [np.array([[i % classes, 4, 4, 20, 24]], np.float32) for i in range(3 * classes)]
        images = noise(toy_parts.side, [], tuple(rows))
    seen: list[tuple[int, int]] = []
    first, second = (
        measure_importance(
            network, images, classes, per_class=2, report=lambda *status: seen.append(status)
        )
        for _ in range(2)
    )
    assert seen[-1][0] == seen[-1][1]
    for name in ("full", "half"):
        assert first[name].shape == (classes, sum(network.full))
        assert np.isfinite(first[name]).all()
        assert (first[name] >= 0).all()
        assert (first[name].sum(1) > 0).all()
        np.testing.assert_array_equal(first[name], second[name])


def test_modules_that_do_not_run_at_half_width_keep_their_share_at_full_width(toy_parts):
    network = toy_parts.supernet("cls")
    images = noise(toy_parts.side, [i % 6 for i in range(18)])
    found = measure_importance(network, images, 6, per_class=3)
    full, half = found["full"], found["half"]
    start = 0
    for groups in network.full:
        ran, rest = slice(start, start + groups // 2), slice(start + groups // 2, start + groups)
        scale = half[:, ran].sum(1) / full[:, ran].sum(1)
        np.testing.assert_allclose(half[:, rest], full[:, rest] * scale[:, None], rtol=1e-3)
        start += groups
