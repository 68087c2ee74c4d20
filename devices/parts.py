"""Latency of parts of networks, each by itself, so that sums of them can be compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import helper

from ..factory.graph.costs import op_costs
from ..factory.graph.network import Network, model_from_network, tensor_shapes
from .kernels import fuse_kernels
from .measure import time_runs, warm_up
from .predictor import predictor_for
from .runners.onnxruntime import OnnxRuntimeRunner

RUNS, WARMUP_SECONDS = 30, 0.02
MOST_RUNS, SHORT_MS = 300, 3.0  # of layers alone, of which many take microseconds


class PartLatency:
    """What parts cost on one device: measured on this machine, else estimated.

    Attributes:
        call_ms: What a call costs whatever is computed, in milliseconds.
    """

    def __init__(self, device: str) -> None:
        """Open a device.

        Raises:
            DeviceError: Nothing is known about latency there.
        """
        self._predictor = None if device == "host" else predictor_for(device)
        self.call_ms = self._predictor.call_ms if self._predictor else _median_ms(_nothing())

    def of(self, network: Network) -> float:
        """Milliseconds of a part, the call left out; at least 0."""
        if self._predictor is None:
            return max(0.0, _median_ms(network) - self.call_ms)
        kernels = fuse_kernels(op_costs(network, tensor_shapes(network)))
        return float(self._predictor.predict_kernels(kernels).sum())

    def layer(self, network: Network) -> float:
        """Milliseconds of a layer that others are compared with, the call left out.

        What is faster than the call seems to be may be below 0: differences are what counts.
        """
        if self._predictor is None:
            return _median_ms(network, MOST_RUNS) - self.call_ms
        return self.of(network)


def _median_ms(network: Network, most: int = RUNS) -> float:
    """Of some runs; of more, up to most, where they are short."""
    model = model_from_network(replace(network, name="part")).SerializeToString()
    with OnnxRuntimeRunner(model) as runner:
        warm_up(runner.run, WARMUP_SECONDS)
        found = list(time_runs(runner.run, RUNS).cpu_ms)  # others may be at work
        more = _more_runs(float(np.median(found)), most)
        if more:
            found += time_runs(runner.run, more).cpu_ms
        return float(np.median(found))


def _more_runs(ms: float, most: int) -> int:
    """How many runs of some milliseconds fit into a short time: none, or two at least."""
    more = min(most, round(SHORT_MS / max(ms, 1e-3))) - RUNS
    return more if more >= 2 else 0  # fewer cannot be timed


def _nothing() -> Network:
    """A network that does nothing to speak of."""
    node = helper.make_node("Relu", ["input"], ["output"], name="nothing")
    shape = (1, 1, 1, 1)
    return Network(
        name="nothing", nodes=(node,), weights={}, inputs={"input": shape},
        outputs={"output": shape},
    )  # fmt: skip
