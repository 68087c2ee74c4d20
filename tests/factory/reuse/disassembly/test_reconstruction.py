"""What other channels cannot make up for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_inputs import images
from small_networks import plain

from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.network import tensor_shapes
from nnfactory.factory.reuse.disassembly import reconstruction
from nnfactory.factory.reuse.disassembly.families import anatomy_of


def test_what_is_lost_is_what_regression_cannot_explain(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reconstruction, "DAMPING", 1e-9)
    found, shown = anatomy_of(plain()), images(60)
    (losses,) = (reconstruction.losses_of(found, shown)[name] for name in ("c3",))
    network = found.network
    shapes = tensor_shapes(network)
    tapped = replace(network, outputs={"vector": shapes["vector"]})
    x = np.concatenate([run_network(tapped, {"images": i})["vector"] for i in shown]).astype(float)
    y = x @ network.weights["fc.w"].T.astype(float)
    x, y = x - x.mean(0), y - y.mean(0)
    for count in range(x.shape[1] + 1):
        kept = losses.order[:count]
        left = y - x[:, kept] @ np.linalg.lstsq(x[:, kept], y, rcond=None)[0] if count else y
        assert losses.lost[count] == pytest.approx((left**2).sum() / (y**2).sum(), abs=2e-4)
