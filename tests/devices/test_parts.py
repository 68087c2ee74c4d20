"""Latency of parts: sums are what a board's estimate of the whole is, and measured here."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from nnfactory.devices.parts import RUNS, PartLatency, _more_runs
from nnfactory.devices.predictor import predictor_for
from nnfactory.factory.errors import DeviceError
from nnfactory.factory.graph.costs import op_costs
from nnfactory.factory.graph.network import Network, tensor_shapes
from nnfactory.factory.graph.segments import chained


def conv(channels: int, side: int) -> Network:
    rng = np.random.default_rng(channels)
    weights = {"w": rng.normal(size=(channels, channels, 3, 3)).astype(np.float32)}
    nodes = (
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    )
    shape = (1, channels, side, side)
    return Network(
        name="part", nodes=nodes, weights=weights, inputs={"x": shape}, outputs={"y": shape}
    )


def test_estimates_of_parts_add_up_to_that_of_the_whole():
    latency = PartLatency("jetson-orin-nano")
    parts = [conv(16, 32), conv(16, 32), conv(16, 32)]
    whole = chained("whole", parts)
    expected = predictor_for("jetson-orin-nano").predict_ms(op_costs(whole, tensor_shapes(whole)))
    assert latency.call_ms + sum(map(latency.of, parts)) == pytest.approx(expected.value)


def test_on_this_machine_a_larger_part_takes_longer():
    latency = PartLatency("host")
    assert 0 < latency.call_ms < 1
    assert latency.of(conv(64, 64)) > latency.of(conv(8, 8)) >= 0


def test_a_board_that_nothing_is_known_about_is_refused():
    with pytest.raises(DeviceError, match="Nothing is known about latency"):
        PartLatency("abacus")


def test_layers_that_others_are_compared_with_are_measured_and_estimated():
    for device in ("host", "jetson-orin-nano"):
        parts = PartLatency(device)
        assert parts.layer(conv(64, 32)) > parts.layer(conv(8, 4)), device


@pytest.mark.parametrize("most", [RUNS, 300])
def test_runs_that_are_added_can_be_timed(most: int):
    """One run alone cannot."""
    added = {_more_runs(ms, most) for ms in np.geomspace(1e-4, 10, 2000)}
    assert 0 in added
    assert 1 not in added
    assert min(added) == 0
    assert max(added) == most - RUNS
