"""Rows of the library benchmarks: claims with the bars they are held against, and networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from equal_latency import Case, Outcome
from scipy.stats import t as student

from nnfactory.factory.schema import Interval

BARS = {
    ("full", "tiny200", "all classes"): 0.45, ("full", "tiny200", "10 classes"): 0.80,
    ("full", "fod31", "all classes"): 0.60,
    ("cutting", "", "0.5"): -0.005, ("cutting", "", "0.25"): -0.02,
    ("cutting", "tiny200", "10 classes at 0.25"): 0.78, ("conditioning", "", "0.25"): 0.015,
    ("against", "", "generated minus from scratch"): 0.0,
    ("against", "", "generated minus magnitude"): 0.0,
    ("against", "", "generated minus taylor"): 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One summary row.

    Attributes:
        part: Part of the benchmark.
        library: Name of the library.
        what: What is claimed.
        interval: The value and its interval.
        mparams: Parameters in millions, where there is one network.
        mmacs: Multiply-accumulates in millions, where there is one network.
        seconds: Mean CPU time of the method, where networks were made by one.
    """

    part: str
    library: str
    what: str
    interval: Interval
    mparams: float | None = None
    mmacs: float | None = None
    seconds: float | None = None

    def row(self) -> dict[str, object]:
        """As the CSV has it; ``bar`` is the least value that was asked for."""
        bar = BARS.get((self.part, self.library, self.what), BARS.get((self.part, "", self.what)))
        interval = self.interval
        return {
            "part": self.part, "library": self.library, "what": self.what,
            "value": round(interval.value, 4), "low": round(interval.low, 4),
            "high": round(interval.high, 4), "n": interval.n,
            "bar": "" if bar is None else bar,
            "reached": "" if bar is None else interval.value >= bar,
            "mparams": "" if self.mparams is None else round(self.mparams, 3),
            "mmacs": "" if self.mmacs is None else round(self.mmacs, 1),
            "seconds": "" if self.seconds is None else round(self.seconds, 1),
        }  # fmt: skip


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean over tasks with Student's 95 % interval; one task alone says nothing about others."""
    n = len(values)
    mean, half = float(np.mean(values)), math.inf
    if n > 1:
        half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Interval(low=mean - half, value=mean, high=mean + half, level=0.95, n=n)


def case_row(
    part: str, case: Case, number: int, method: str, share: float, result: Outcome,
    **more: object,
) -> dict[str, object]:  # fmt: skip
    """One network of one task."""
    return network_row(
        part=part, library=case.library.name, what=method, task=number,
        classes=len(case.classes), latency_share=share,
        latency_ms=round(result.latency_ms, 4), mparams=round(result.mparams, 4),
        mmacs=round(result.mmacs, 2), value=round(result.metric(), 4), images=result.images,
        **more,
    )  # fmt: skip


def network_row(**known: object) -> dict[str, object]:
    """One network; what is not known stays empty."""
    columns = (
        "part", "library", "what", "task", "classes", "latency_share", "latency_ms", "mparams",
        "mmacs", "value", "images", "steps", "setting", "seconds",
    )  # fmt: skip
    return {column: known.get(column, "") for column in columns}
