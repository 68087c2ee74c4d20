"""Estimates for a device without a latency table: a roofline over its kernels, and energies."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..factory.errors import DataError, DeviceError, SpecError, UnknownNameError
from ..factory.graph.costs import OpCost
from ..factory.schema import Interval
from ..factory.serialize import noun_from_table, table_from_noun
from .kernels import Kernel, KernelWork, fuse_kernels

PREDICTORS = Path(__file__).resolve().parent / "predictors"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyRates:
    """Coefficients of the energy estimate: arithmetic and memory traffic add up.

    Attributes:
        nj_per_mac: Energy of a multiply-add, in nanojoules.
        nj_per_elem: Energy of reading or writing an element, in nanojoules.
        kernel_mj: Energy of one kernel, whatever its size, in millijoules.
        call_mj: Energy of one call of the network, in millijoules.
        error_low: Low end of measured over predicted energy at ``level``, in (0, 1].
        error_high: High end of it, at least 1.
        level: Nominal coverage of the interval, in (0, 1).
        n: Networks behind the interval.
        least_mj: Least energy among them, in millijoules.
        widening: Factor by which both ends move away from the estimate for every halving below
            ``least_mj``, at least 1.
    """

    nj_per_mac: float
    nj_per_elem: float
    kernel_mj: float
    call_mj: float
    error_low: float
    error_high: float
    level: float
    n: int
    least_mj: float
    widening: float

    def __post_init__(self) -> None:
        for name in ("nj_per_mac", "nj_per_elem", "kernel_mj", "call_mj"):
            number = getattr(self, name)
            if not (number >= 0 and math.isfinite(number)):
                raise SpecError(f"EnergyRates.{name} must be at least 0, got {number!r}.")
        if not 0 < self.error_low <= 1 <= self.error_high < math.inf:
            raise SpecError("EnergyRates: error_low must be in (0, 1] and error_high at least 1.")
        if not (1 <= self.widening < math.inf and 0 < self.least_mj < math.inf):
            raise SpecError("EnergyRates: widening must be at least 1 and least_mj positive.")

    def errors_at(self, energy_mj: float) -> tuple[float, float]:
        """Ends of measured over predicted energy for an estimate; see :class:`Predictor`."""
        return _widened(self.error_low, self.error_high, self.widening, self.least_mj / energy_mj)

    def predict_work(self, work: KernelWork) -> npt.NDArray[np.float64]:
        """Estimated energy of every kernel, in millijoules, (N,); without ``call_mj``."""
        nj = work.macs * self.nj_per_mac + work.traffic_elems * self.nj_per_elem
        return np.asarray(nj / 1e6 + self.kernel_mj, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """Coefficients of the latency estimate for one device.

    A kernel takes the longer of its arithmetic and its memory traffic, plus a fixed cost; a call
    of the network takes the sum over its kernels plus another fixed cost.

    Attributes:
        device: Name of the device profile it is for.
        precision: Precision of weights and activations, such as "fp16".
        bytes_per_elem: Bytes of one element at this precision.
        dense_gmacs: Rate of convolutions and linear layers, in GMAC/s (10**9 multiply-adds a
            second).
        depthwise_gmacs: Rate of depthwise and other grouped convolutions, in GMAC/s.
        bandwidth_gbs: Rate of reading and writing tensors, in GB/s (10**9 bytes a second).
        kernel_ms: Cost of one kernel, whatever its size, in milliseconds.
        call_ms: Cost of one call of the network, in milliseconds.
        error_low: Low end of measured over predicted latency at ``level``, in (0, 1].
        error_high: High end of it, at least 1.
        level: Nominal coverage of the interval, in (0, 1).
        n: Networks behind the interval, each predicted with its family left out.
        n_families: Architecture families among them.
        shortest_ms: Shortest latency among them, in milliseconds.
        widening: Factor by which both ends move away from the estimate for every halving below
            ``shortest_ms``, at least 1.
        domain: What the coefficients hold for, in words.
        speeds: Speed of every board it was fitted on, relative to the device: factor on all
            rates, divisor of all costs.
        sources: Where the measurements come from, with licences.
        energy: The energy estimate, or None where nobody measured energy.

    Source:
        Roofline of Williams, Waterman and Patterson, "Roofline: an insightful visual performance
        model for multicore architectures" (Communications of the ACM 52(4), 2009). The costs per
        kernel and per call are additions, and the rates are fitted, not peaks from a data sheet.
    """

    device: str
    precision: str
    bytes_per_elem: int
    dense_gmacs: float
    depthwise_gmacs: float
    bandwidth_gbs: float
    kernel_ms: float
    call_ms: float
    error_low: float
    error_high: float
    level: float
    n: int
    n_families: int
    shortest_ms: float
    widening: float
    domain: str = ""
    speeds: Mapping[str, float] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    energy: EnergyRates | None = None

    def __post_init__(self) -> None:
        positive = ("bytes_per_elem", "dense_gmacs", "depthwise_gmacs", "bandwidth_gbs",
                    "shortest_ms")  # fmt: skip
        for name in positive:
            number = getattr(self, name)
            if not (number > 0 and math.isfinite(number)):
                raise SpecError(f"Predictor.{name} must be positive and finite, got {number!r}.")
        for name in ("kernel_ms", "call_ms"):
            number = getattr(self, name)
            if not (number >= 0 and math.isfinite(number)):
                raise SpecError(f"Predictor.{name} must be at least 0, got {number!r}.")
        if not 0 < self.error_low <= 1 <= self.error_high < math.inf:
            raise SpecError("Predictor: error_low must be in (0, 1] and error_high at least 1.")
        if not (1 <= self.widening < math.inf and 0 < self.level < 1):
            raise SpecError("Predictor: widening must be at least 1 and level in (0, 1).")

    def predict_kernels(self, kernels: Sequence[Kernel]) -> npt.NDArray[np.float64]:
        """Estimated time of every kernel, in milliseconds, (N,).

        Without ``call_ms``, which belongs to no kernel.
        """
        return self.predict_work(KernelWork.of(kernels))

    def predict_work(self, work: KernelWork) -> npt.NDArray[np.float64]:
        """The same for the bare numbers of the kernels, for callers that predict many times."""
        rate_gmacs = np.where(work.is_grouped, self.depthwise_gmacs, self.dense_gmacs)
        compute_ms = work.macs / rate_gmacs / 1e6
        memory_ms = work.traffic_elems * self.bytes_per_elem / self.bandwidth_gbs / 1e6
        return np.asarray(np.maximum(compute_ms, memory_ms) + self.kernel_ms, dtype=np.float64)

    def predict_ms(self, ops: Sequence[OpCost]) -> Interval:
        """Estimated latency of one call at batch 1, in milliseconds; copies of tensors excluded.

        Args:
            ops: Operators in execution order, before fusion.
        """
        value = float(self.predict_kernels(fuse_kernels(ops)).sum()) + self.call_ms
        low, high = self.errors_at(value)
        return Interval(low=value * low, value=value, high=value * high, level=self.level, n=self.n)

    def errors_at(self, latency_ms: float) -> tuple[float, float]:
        """Ends of measured over predicted latency for an estimate of ``latency_ms``.

        The measured ends down to ``shortest_ms``; below, where nothing was measured, they move
        apart by ``widening`` per halving. An estimate of 0 has no finite interval and is refused.

        Raises:
            SpecError: ``latency_ms`` is not positive.
        """
        if not latency_ms > 0:
            raise SpecError(f"latency_ms must be positive, got {latency_ms!r}.")
        below = self.shortest_ms / latency_ms
        return _widened(self.error_low, self.error_high, self.widening, below)

    def on_board(self, board: str) -> Predictor:
        """The same predictor at the speed of one of the boards it was fitted on.

        Raises:
            UnknownNameError: ``board`` is not among ``speeds``.
        """
        if board not in self.speeds:
            raise UnknownNameError.with_suggestion(
                "board", board, self.speeds, listing="nnfactory devices list"
            )
        speed = self.speeds[board]
        return dataclasses.replace(
            self,
            dense_gmacs=self.dense_gmacs * speed,
            depthwise_gmacs=self.depthwise_gmacs * speed,
            bandwidth_gbs=self.bandwidth_gbs * speed,
            kernel_ms=self.kernel_ms / speed,
            call_ms=self.call_ms / speed,
            shortest_ms=self.shortest_ms / speed,
            speeds={name: other / speed for name, other in self.speeds.items()},
        )


def _widened(low: float, high: float, widening: float, below: float) -> tuple[float, float]:
    """Ends that move apart for every halving below what was measured, ``below`` times smaller."""
    factor = widening ** max(0.0, math.log2(below))
    return low / factor, high * factor


def list_predictors() -> list[str]:
    """Names of the devices that a latency can be estimated for."""
    return sorted(path.stem for path in PREDICTORS.glob("*.json"))


def load_predictor(device: str) -> Predictor:
    """The shipped predictor of a device.

    Raises:
        UnknownNameError: There is none for that device.
        DataError: The file is malformed.
    """
    if device not in list_predictors():
        raise UnknownNameError.with_suggestion(
            "latency predictor", device, list_predictors(), listing="nnfactory devices list"
        )
    return read_predictor(PREDICTORS / f"{device}.json")


def predictor_for(device: str) -> Predictor:
    """The predictor of a board.

    Raises:
        DeviceError: There is none.
    """
    if device not in list_predictors():
        raise DeviceError(
            f"Nothing is known about latency on '{device}': no table and no predictor.",
            hints=["'nnfactory devices list' shows the devices with one"],
        )
    return load_predictor(device)


def read_predictor(path: Path) -> Predictor:
    """The predictor in a file that :func:`write_predictor` wrote.

    Raises:
        DataError: The file is missing or malformed.
    """
    try:
        return noun_from_table(Predictor, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, DataError) as error:  # SpecError is a ValueError
        raise DataError(f"{path} is no valid latency predictor: {error}") from error


def write_predictor(predictor: Predictor, path: Path) -> None:
    """Write a predictor as JSON."""
    text = json.dumps(table_from_noun(predictor), indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
