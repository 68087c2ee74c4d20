"""What the machine was and did while measuring, and what can be concluded from it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from ..factory.schema import Budget, Measurement

MAX_CONTENTION = 0.1  # share of the time in which another process had the processor


def cpu_name() -> str:
    """Model of the processor as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def host_conditions(contention: float | None) -> dict[str, object]:
    """Processor, load and contention of this machine, as JSON values.

    Args:
        contention: Share of the measured time in which another process had the processor, or
            None where several threads make it unknown.
    """
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.machine()}",
        "load_1min": round(os.getloadavg()[0], 2),
        "contention": None if contention is None else round(contention, 4),
    }


def verdict_of(measurement: Measurement, budget: Budget | None) -> tuple[str, str]:
    """PASS, FAIL or INCONCLUSIVE against the latency budget, and why in words.

    A measurement is inconclusive when other processes took more than a tenth of its time. Without
    that, the percentile of the samples decides.
    """
    contention = measurement.conditions.get("contention")
    if isinstance(contention, float) and contention > MAX_CONTENTION:
        return "INCONCLUSIVE", f"other processes had the processor {contention:.0%} of the time"
    if budget is None or budget.latency_ms is None:
        return "PASS", "no latency budget"
    reached = measurement.percentile(budget.percentile)
    text = f"p{budget.percentile} {reached:.3f} ms, budget {budget.latency_ms:g} ms"
    return ("PASS" if reached <= budget.latency_ms else "FAIL"), text
