"""The kernels that a device launches for a network: operators, and what is folded into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..factory.graph.costs import OpCost

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
