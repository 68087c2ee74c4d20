"""What kinds of cost are called on the command line, and their units."""

from __future__ import annotations

NAMES = {
    "latency_ms": ("latency", "ms"),
    "mparams": ("params", "M"),
    "mmacs": ("macs", "M"),
    "memory_mib": ("memory", "MiB"),
}


def words(kind: str, value: float, sign: str) -> str:
    """A cost for people, such as "latency <= 2 ms".

    Args:
        kind: One of :data:`NAMES`.
        value: In its unit.
        sign: What stands between both, such as "<= ", or "".
    """
    name, unit = NAMES[kind]
    return f"{name} {sign}{value:.4g} {unit}"
