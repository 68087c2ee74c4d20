"""Value curves of blocks: rising, complete, reproducible."""

from __future__ import annotations

import numpy as np
import pytest

from nnfactory.factory.datasets import Images

pytest.importorskip("torch")

from nnfactory.factory.supernet.value_curves import measure_curves  # noqa: E402


@pytest.mark.parametrize("kind", ["cls", "det"])
def test_curves_start_at_zero_never_fall_and_have_a_step_for_every_group(toy_parts, kind, rng):
    network = toy_parts.supernet(kind)
    classes = len(toy_parts.classes[kind])
    labels = np.arange(3 * classes) % classes
    images = Images(
        pixels=rng.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8),
        labels=labels if kind == "cls" else np.empty(0, np.int64),
        boxes=tuple(np.array([[c, 4, 4, 20, 20]], np.float32) for c in labels)
        if kind == "det"
        else (),
    )
    seen: list[tuple[int, int]] = []
    first, second = (
        measure_curves(
            network, images, classes, per_class=2, report=lambda *status: seen.append(status)
        )
        for _ in range(2)
    )
    assert seen[-1][0] == seen[-1][1]
    np.testing.assert_array_equal(first, second)
    sizes = [groups + 1 for groups in network.full]
    assert first.shape == (classes, sum(sizes))
    assert np.isfinite(first).all()
    for block in np.split(first, np.cumsum(sizes)[:-1], axis=1):
        np.testing.assert_array_equal(block[:, 0], 0)
        assert (np.diff(block, axis=1) >= 0).all()
