"""Conversions between units, and quantities as people write them."""

from __future__ import annotations

import math
import re
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from .errors import SpecError

MIB = 2**20
NS_PER_MS = 1_000_000
NJ_PER_MJ = 1_000_000

_UNITS = {
    "milliseconds": {"": 1.0, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3},
    "millions of parameters": {"": 1.0, "k": 1e-3, "m": 1.0, "g": 1e3, "b": 1e3},
    "millions of multiply-adds": {"": 1.0, "k": 1e-3, "m": 1.0, "g": 1e3},
    "millijoules": {"": 1.0, "mj": 1.0, "uj": 1e-3, "µj": 1e-3, "j": 1e3},
    "MiB": {"": 1.0, "kb": 1e3 / MIB, "mb": 1e6 / MIB, "gb": 1e9 / MIB,
            "kib": 1 / 1024, "mib": 1.0, "gib": 1024.0},
}  # fmt: skip
_NUMBER = re.compile(
    r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|[-+]?inf)\s*([a-zµμ]*)\s*", re.I
)


def count_text(number: int, noun: str) -> str:
    """A number with its noun, such as "1 class" or "2 classes"."""
    plural = "es" if noun.endswith(("s", "x")) else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


def parse_quantity(text: str, unit: str) -> float:
    """A quantity in ``unit`` from text such as "5", "5ms", "2M" or "0.5 GiB".

    Args:
        text: A number, then optionally a unit.
        unit: "milliseconds", "millions of parameters", "millions of multiply-adds", "millijoules"
            or "MiB": the unit of a bare number.

    Raises:
        SpecError: No such number or unit, or not positive and finite.
    """
    match = _NUMBER.fullmatch(text)
    factors = _UNITS[unit]
    written = match.group(2).lower().replace("μ", "µ") if match else ""  # the letter, the sign
    if match is None or written not in factors:
        known = ", ".join(name for name in factors if name)
        raise SpecError(f"{text!r} is no quantity in {unit}: write a number, or one with {known}.")
    value = float(match.group(1)) * factors[written]
    if not (value > 0 and math.isfinite(value)):
        raise SpecError(f"A quantity in {unit} must be positive and finite, got {text!r}.")
    return value


def four_digits(value: float, *, upwards: bool) -> str:
    """A positive value in four digits, never below it (or never above it)."""
    exact = Decimal(repr(value))
    step = Decimal(1).scaleb(exact.adjusted() - 3)
    units = (exact / step).to_integral_value(ROUND_CEILING if upwards else ROUND_FLOOR)
    return f"{(units * step).normalize():f}"
