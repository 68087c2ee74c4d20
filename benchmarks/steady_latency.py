"""Latency of networks beside a reference that is timed in the same moments.

The speed of a shared machine wanders by a fifth within seconds. Networks that are compared at the
same latency are therefore timed in turns with one reference, and what counts is the ratio.
"""

from __future__ import annotations

import numpy as np

from nnfactory.devices.measure import time_runs, warm_up
from nnfactory.devices.runners.onnxruntime import OnnxRuntimeRunner
from nnfactory.factory.graph.network import Network, model_from_network

TURNS, RUNS = 15, 10  # and of slow networks fewer runs
TURN_MS = 40.0  # that a turn may take


class Beside:
    """A clock that knows a reference.

    Attributes:
        whole_ms: Median time of the processor for the reference in one thread, in milliseconds.
    """

    def __init__(self, whole: Network) -> None:
        self._whole = OnnxRuntimeRunner(model_from_network(whole).SerializeToString())
        warm_up(self._whole.run, 0.2)
        first = float(np.median(time_runs(self._whole.run, RUNS).cpu_ms))
        self._runs = max(2, min(RUNS, round(TURN_MS / first)))
        self.whole_ms = float(np.median(time_runs(self._whole.run, TURNS * self._runs).cpu_ms))

    def __call__(self, network: Network) -> float:
        """Milliseconds of a network, had it run when ``whole_ms`` was measured."""
        with OnnxRuntimeRunner(model_from_network(network).SerializeToString()) as runner:
            warm_up(runner.run, 0.05)
            ratios = []
            for _ in range(TURNS):
                own, whole = (
                    float(np.median(time_runs(run, self._runs).cpu_ms))
                    for run in (runner.run, self._whole.run)
                )
                ratios.append(own / whole)
        return float(np.median(ratios)) * self.whole_ms
