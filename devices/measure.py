"""Latency of a network on this machine, every sample kept."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..factory.errors import SpecError
from ..factory.schema import Budget, Measurement
from ..factory.units import NS_PER_MS
from .conditions import host_conditions, verdict_of
from .runners.onnxruntime import OnnxRuntimeRunner, runtime_name

WARMUP_SECONDS = 0.1
MEASURE_SECONDS = 1.0
MIN_RUNS, MAX_RUNS = 100, 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Timed runs.

    Attributes:
        wall_ms: Wall-clock time of every run, copies to and from the runtime included.
        cpu_ms: CPU time of the calling thread in the same runs.
    """

    wall_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]

    @property
    def contention(self) -> float:
        """Share of the wall-clock time in which another process had the processor, in [0, 1]."""
        wall, cpu = sum(self.wall_ms), sum(self.cpu_ms)
        return max(0.0, 1 - cpu / wall) if wall else 0.0


def time_runs(
    run: Callable[[], object],
    repeats: int,
    *,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    cpu_clock_ns: Callable[[], int] = time.thread_time_ns,
) -> Samples:
    """Time ``run``, keeping every sample.

    Args:
        run: One inference; returns only when it has finished.
        repeats: Timed runs; at least 2.
        clock_ns: Monotonic clock in nanoseconds; tests pass a fake one.
        cpu_clock_ns: CPU time of this thread in nanoseconds.

    Raises:
        SpecError: ``repeats`` is below 2.
    """
    if repeats < 2:
        raise SpecError(f"time_runs needs repeats >= 2 to report percentiles, got {repeats}.")
    wall, cpu = [], []
    for _ in range(repeats):
        cpu_start, start = cpu_clock_ns(), clock_ns()
        run()
        stop, cpu_stop = clock_ns(), cpu_clock_ns()
        wall.append((stop - start) / NS_PER_MS)
        cpu.append((cpu_stop - cpu_start) / NS_PER_MS)
    return Samples(wall_ms=tuple(wall), cpu_ms=tuple(cpu))


def warm_up(run: Callable[[], object], seconds: float = WARMUP_SECONDS) -> float:
    """Run untimed for a while so that caches and clocks settle; milliseconds of the last run."""
    end = time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        if now >= end:
            return (now - start) * 1e3


def measure_host(
    model: bytes, *, device: str, budget: Budget | None = None, threads: int = 1,
    seconds: float = MEASURE_SECONDS,
) -> Measurement:  # fmt: skip
    """Latency of one image in ONNX Runtime on this machine.

    The time covers the call as a caller sees it: input copied in, all nodes, output copied out.

    Args:
        model: Serialized ONNX.
        device: Name that goes into the measurement.
        budget: Limit that the verdict is about; without one the verdict tells of disturbance.
        threads: Threads that compute one operator.
        seconds: Time spent on timed runs, within 100 to 2,000 runs.
    """
    with OnnxRuntimeRunner(model, threads=threads) as runner:
        last_ms = warm_up(runner.run)
        repeats = int(np.clip(seconds * 1e3 / max(last_ms, 1e-3), MIN_RUNS, MAX_RUNS))
        samples = time_runs(runner.run, repeats)
    draft = Measurement(
        device=device,
        runtime=runtime_name(),
        precision="fp32",
        threads=threads,
        samples_ms=samples.wall_ms,
        verdict="PASS",
        rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        conditions=host_conditions(samples.contention if threads == 1 else None),
        versions={"onnxruntime": runtime_name().split()[1]},
    )
    verdict, reason = verdict_of(draft, budget)
    return replace(draft, verdict=verdict, reason=reason)


def measure_interleaved(
    runners: Sequence[OnnxRuntimeRunner],
    reference: OnnxRuntimeRunner,
    repeats: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[Samples, Samples]]:
    """Time many networks, each in turn with a reference network, run by run.

    A machine that slows down slows both, so that their ratio stays.

    Returns:
        Per network its samples and those of the reference beside it.
    """
    rows = []
    for number, runner in enumerate(runners):
        for each in (runner, reference):
            each.run()
            each.run()
        mine: list[Samples] = []
        beside: list[Samples] = []
        for _ in range(repeats):
            mine.append(time_runs(runner.run, 2))
            beside.append(time_runs(reference.run, 2))
        rows.append((_joined(mine), _joined(beside)))
        report(number + 1, len(runners))
    return rows


def _joined(parts: Sequence[Samples]) -> Samples:
    return Samples(
        wall_ms=tuple(ms for part in parts for ms in part.wall_ms),
        cpu_ms=tuple(ms for part in parts for ms in part.cpu_ms),
    )
