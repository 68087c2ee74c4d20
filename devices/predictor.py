"""The latency estimate for a device without a latency table: a roofline over fused kernels."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..factory.errors import DataError, SpecError, UnknownNameError
from ..factory.graph.costs import OpCost
from ..factory.schema import Interval
from ..factory.serialize import noun_from_table, table_from_noun

PREDICTORS = Path(__file__).resolve().parent / "predictors"

_FREE = frozenset("reshape flatten squeeze unsqueeze identity dropout cast constant shape".split())
_ACTIVATIONS = frozenset(
    "relu relu6 prelu leaky_relu clip elu selu tanh sigmoid hardsigmoid hard_sigmoid silu swish "
    "hardswish hard_swish mish gelu erf softplus".split()
)
_POINTWISE = _ACTIVATIONS | frozenset("batch_norm add sub mul div sqrt pow min max".split())
_GATES = frozenset(("sigmoid", "hardsigmoid", "hard_sigmoid"))
_POOLS = frozenset("max_pool avg_pool global_avg_pool global_max_pool mean sum reduce_mean".split())
_COPIES = frozenset(
    "concat split slice permute transpose pad expand upsample_nearest upsample_bilinear resize "
    "gather tile".split()
)
_GROUPED = frozenset(("depthwise", "grouped"))
_KINDS_THAT_FOLD = frozenset(("conv", "grouped", "depthwise", "linear", "elementwise"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One launch on the device: an operator and what is folded into it, at batch 1.

    Attributes:
        kind: "conv", "grouped", "depthwise", "linear", "pool", "elementwise", "copy" or "other".
        name: Name of its first operator.
        ops: Names of all its operators, in execution order.
        macs: Multiply-adds.
        in_elems: Elements it reads, without weights; those of a folded addition included.
        out_elems: Elements it writes.
        weight_elems: Elements of its constants.
    """

    kind: str
    name: str
    ops: tuple[str, ...]
    macs: int
    in_elems: int
    out_elems: int
    weight_elems: int

    @property
    def traffic_elems(self) -> int:
        """Elements read and written."""
        return self.in_elems + self.out_elems + self.weight_elems


def fuse_kernels(ops: Sequence[OpCost]) -> list[Kernel]:
    """The kernels that TensorRT would run, estimated without building an engine.

    Reshapes are free. Batch normalization, activations and element-wise arithmetic join the kernel
    that produces their operand, if it is a convolution, a linear layer or itself element-wise, if
    nothing else reads that operand, and if the shape stays. Of two candidates (a residual addition
    of two branches) the later one takes it and reads the other. ``x * sigmoid(x)``, as ONNX writes
    SiLU, counts as one activation.

    Args:
        ops: Operators in execution order.

    Returns:
        One kernel each, in the order of their first operators.
    """
    gates = _gates(ops)
    producers = _producers(ops, gates)
    readers = [0] * len(ops)
    for position, sources in enumerate(producers):
        if position not in gates and ops[position].op not in _FREE:
            for source in sources:
                readers[source] += source >= 0
    kernels: list[Kernel] = []
    owner: dict[int, int] = {}  # operator whose output leaves a kernel -> that kernel
    for position, op in enumerate(ops):
        if position in gates:
            continue
        if op.op in _FREE:
            _rename(kernels, owner, producers[position], op.name)
            continue
        names = tuple(ops[g].name for g, user in gates.items() if user == position) + (op.name,)
        host = _host(op, producers[position], readers, ops, kernels, owner)
        if host is None:
            owner[position] = len(kernels)
            kernels.append(_kernel_from_op(op, names))
        else:
            index = owner.pop(host)
            owner[position] = index
            kernels[index] = _folded(kernels[index], op, names, len(producers[position]))
    return kernels


def _gates(ops: Sequence[OpCost]) -> dict[int, int]:
    """Sigmoids that only scale their own input, each with the product it belongs to."""
    users: dict[int, list[int]] = {}
    for position, op in enumerate(ops):
        for source in op.inputs:
            users.setdefault(source, []).append(position)
    found = {}
    for position, op in enumerate(ops):
        if op.op in _GATES and len(users.get(position, ())) == 1:
            product = users[position][0]
            if ops[product].op == "mul" and set(ops[product].inputs) == {position, *op.inputs}:
                found[position] = product
    return found


def _producers(ops: Sequence[OpCost], gates: dict[int, int]) -> list[tuple[int, ...]]:
    """Producers of every operator's inputs, seen through free operators and gates; each once."""
    origin: list[int] = []
    resolved: list[tuple[int, ...]] = []
    for position, op in enumerate(ops):
        sources = tuple(dict.fromkeys(origin[i] if i >= 0 else -1 for i in op.inputs))
        resolved.append(sources)
        passes = op.op in _FREE or position in gates
        origin.append((sources[0] if sources else -1) if passes else position)
    return resolved


def _host(
    op: OpCost,
    sources: Sequence[int],
    readers: Sequence[int],
    ops: Sequence[OpCost],
    kernels: Sequence[Kernel],
    owner: dict[int, int],
) -> int | None:
    """The operator whose kernel can take ``op`` at its end, or None."""
    if op.op not in _POINTWISE:
        return None
    able = [
        source
        for source in sources
        if source >= 0
        and readers[source] == 1
        and kernels[owner[source]].kind in _KINDS_THAT_FOLD
        and ops[source].out_elems == op.out_elems
    ]
    matrix = [s for s in able if kernels[owner[s]].kind != "elementwise"]
    return max(matrix or able, default=None)


def _kernel_from_op(op: OpCost, names: tuple[str, ...]) -> Kernel:
    return Kernel(
        kind=_kind(op),
        name=names[0],
        ops=names,
        macs=op.macs,
        in_elems=op.in_elems,
        out_elems=op.out_elems,
        weight_elems=op.weight_elems,
    )


def _kind(op: OpCost) -> str:
    if op.op in ("conv", "conv_transpose"):
        if op.groups == 1:
            return "conv"
        return "depthwise" if op.groups == op.c_in else "grouped"
    if op.op in ("linear", "matmul", "gemm"):
        return "linear"
    if op.op in _POOLS:
        return "pool"
    if op.op in _POINTWISE:
        return "elementwise"
    return "copy" if op.op in _COPIES else "other"


def _folded(kernel: Kernel, op: OpCost, names: tuple[str, ...], n_sources: int) -> Kernel:
    """``kernel`` with ``op`` at its end: other operands are read, constants of ``op`` are kept."""
    others = max(0, op.in_elems - kernel.out_elems) if n_sources > 1 else 0
    return dataclasses.replace(
        kernel,
        ops=kernel.ops + names,
        macs=kernel.macs + op.macs,
        in_elems=kernel.in_elems + others,
        weight_elems=kernel.weight_elems + op.weight_elems,
    )


def _rename(
    kernels: list[Kernel], owner: dict[int, int], sources: Sequence[int], name: str
) -> None:
    """Add a free operator to the kernel that produces its operand."""
    for source in sources[:1]:
        if source in owner:
            kernel = kernels[owner[source]]
            kernels[owner[source]] = dataclasses.replace(kernel, ops=(*kernel.ops, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelWork:
    """What the estimate depends on, one entry a kernel, (N,).

    Attributes:
        macs: Multiply-adds.
        traffic_elems: Elements read and written.
        is_grouped: Whether it is a depthwise or other grouped convolution.
    """

    macs: npt.NDArray[np.float64]
    traffic_elems: npt.NDArray[np.float64]
    is_grouped: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, kernels: Sequence[Kernel]) -> KernelWork:
        """The work of ``kernels``, in their order."""
        return cls(
            macs=np.array([kernel.macs for kernel in kernels], dtype=np.float64),
            traffic_elems=np.array([k.traffic_elems for k in kernels], dtype=np.float64),
            is_grouped=np.array([k.kind in _GROUPED for k in kernels], dtype=np.bool_),
        )


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
