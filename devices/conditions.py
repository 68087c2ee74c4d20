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

    The percentile of the samples decides. Other processes only ever make it longer, so a budget
    that is kept is kept; but when they took more than a tenth of the time, a budget that is not
    kept is inconclusive, and so is a measurement without a budget.
    """
    contention = measurement.conditions.get("contention")
    disturbed = isinstance(contention, float) and contention > MAX_CONTENTION
    note = f"; other processes had the processor {contention:.0%} of the time" if disturbed else ""
    if budget is None or budget.latency_ms is None:
        return ("INCONCLUSIVE" if disturbed else "PASS"), "no latency budget" + note
    reached = measurement.percentile(budget.percentile)
    text = f"p{budget.percentile} {reached:.3f} ms, budget {budget.latency_ms:g} ms"
    if reached <= budget.latency_ms:
        return "PASS", text
    return ("INCONCLUSIVE" if disturbed else "FAIL"), text + note
