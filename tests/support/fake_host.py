"""This machine with made-up latencies: what measures it is replaced."""

from __future__ import annotations

from nnfactory.devices.conditions import verdict_of
from nnfactory.factory.schema import Budget, Measurement


class FakeHost:
    """This machine with a synthetic latency table and measurements from a list.

    Attributes:
        answers: Samples in milliseconds and contention of the next measurements; the last one
            is repeated.
        sizes: Bytes of every network that was measured.
    """

    def __init__(self) -> None:
        self.answers: list[tuple[float, float]] = [(0.01, 0.0)]
        self.sizes: list[int] = []

    def measure(
        self, model: bytes, *, device: str, budget: Budget | None = None, threads: int = 1,
        seconds: float = 1.0,
    ) -> Measurement:  # fmt: skip
        self.sizes.append(len(model))
        sample, contention = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        draft: dict = {
            "device": device, "runtime": "fake 1.0", "precision": "fp32", "threads": threads,
            "samples_ms": (sample,) * 20, "conditions": {"contention": contention},
        }  # fmt: skip
        verdict, reason = verdict_of(Measurement(**draft, verdict="PASS"), budget)
        return Measurement(**draft, verdict=verdict, reason=reason)
