"""The nouns: frozen dataclasses that check themselves. Standard library only."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import SpecError

KINDS = ("cls", "det")
PERCENTILES = (50, 90, 95, 99)
VERDICTS = ("PASS", "FAIL", "INCONCLUSIVE")
SUBJECTS = ("artifact", "library")


def _check_positive(owner: str, name: str, value: float | None) -> None:
    """Raise unless ``value`` is None or a positive finite number (NaN fails too)."""
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise SpecError(f"{owner}.{name} must be positive and finite, got {value!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A predicted value and where the true one lies.

    Attributes:
        low: Lower end.
        value: Best guess.
        high: Upper end.
        level: Nominal coverage, in (0, 1).
        n: Number of observations behind the interval.
    """

    low: float
    value: float
    high: float
    level: float = 0.9
    n: int = 0

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise SpecError(f"Interval must be ordered, got {self.low}, {self.value}, {self.high}.")
        if not 0 < self.level < 1:
            raise SpecError(f"Interval.level must be in (0, 1), got {self.level!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the network must do.

    Attributes:
        kind: "cls" (which class is in the image) or "det" (where is what).
        classes: Names of the classes, as the library spells them, without repetition. A
            classification needs two at least: the answer to a one-class question is known.
        examples: Digest of the example images of classes that the library does not know, or "".
    """

    kind: str
    classes: tuple[str, ...]
    examples: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SpecError(f"Task.kind must be one of {', '.join(KINDS)}, got {self.kind!r}.")
        least = 2 if self.kind == "cls" else 1
        if len(self.classes) < least:
            raise SpecError(
                f"A '{self.kind}' task needs at least {least} classes, got {len(self.classes)}."
            )
        if len(set(self.classes)) != len(self.classes):
            raise SpecError("Task.classes must not repeat a class.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits a plan must keep; ``None`` means "no limit".

    Attributes:
        latency_ms: Latency of one image at ``percentile``, in milliseconds.
        percentile: Which latency percentile is limited: 50, 90, 95 or 99.
        memory_mib: Peak of weights plus live activations, in MiB (2**20 bytes).
        mparams: Parameters of the network, in millions.
        mmacs: Multiply-adds of one image, in millions.
        file_mib: Size of the ONNX file, in MiB.
        energy_mj: Energy of one image on the device, in millijoules.
        sparsity: Least share of the module parameters that is left out, in [0, 1).
        min_accuracy: Least estimated accuracy on the task's classes, in (0, 1).
        min_class_accuracy: Least estimated accuracy on each of them, in (0, 1).
    """

    latency_ms: float | None = None
    percentile: int = 50
    memory_mib: float | None = None
    mparams: float | None = None
    mmacs: float | None = None
    file_mib: float | None = None
    energy_mj: float | None = None
    sparsity: float = 0.0
    min_accuracy: float | None = None
    min_class_accuracy: float | None = None

    def __post_init__(self) -> None:
        for name in ("latency_ms", "memory_mib", "mparams", "mmacs", "file_mib", "energy_mj"):
            _check_positive("Budget", name, getattr(self, name))
        for name in ("min_accuracy", "min_class_accuracy"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise SpecError(f"Budget.{name} must be between 0 and 1, got {value!r}.")
        if self.percentile not in PERCENTILES:
            raise SpecError(
                f"Budget.percentile must be one of {PERCENTILES}, got {self.percentile!r}."
            )
        if not 0 <= self.sparsity < 1:
            raise SpecError(f"Budget.sparsity must be in [0, 1), got {self.sparsity!r}.")

    @property
    def is_unlimited(self) -> bool:
        """Whether no limit is set."""
        limits = (
            self.latency_ms, self.memory_mib, self.mparams, self.mmacs, self.file_mib,
            self.energy_mj, self.min_accuracy, self.min_class_accuracy,
        )  # fmt: skip
        return not self.sparsity and all(limit is None for limit in limits)

    @property
    def goal(self) -> str:
        """What is optimized: "value", or "latency" if an accuracy is asked for and no latency."""
        is_floor_set = self.min_accuracy is not None or self.min_class_accuracy is not None
        return "latency" if is_floor_set and self.latency_ms is None else "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """One machine in one mode: facts with their provenance.

    Attributes:
        name: Such as "jetson-orin-nano".
        title: One line for people.
        aliases: Other names it answers to.
        runtime: "onnxruntime-cpu" or "tensorrt".
        precisions: Precisions its runtime executes, best first.
        memory_mib: Memory of the board, in MiB, or None when it is read at run time.
        power_mode: Power mode the facts hold for.
        channel_multiple: Channel counts that its kernels are built for.
        max_opset: Highest ONNX opset its runtime reads.
        facts: What else is known, as text or numbers.
        provenance: Where every fact comes from.
    """

    name: str
    title: str
    runtime: str
    precisions: tuple[str, ...]
    channel_multiple: int
    max_opset: int
    aliases: tuple[str, ...] = ()
    memory_mib: int | None = None
    power_mode: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    provenance: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.channel_multiple < 1 or not self.precisions:
            raise SpecError(
                f"Device profile {self.name!r} lacks a channel multiple or a precision."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedRange:
    """Part of an initializer that belongs to a module: ``[start, stop)`` along ``axis``."""

    tensor: str
    axis: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One pretrained piece: a channel group of a block, or one class of the heads.

    Attributes:
        slot: Name of the slot it belongs to.
        index: Position in the slot's rank order, best first.
        owns: What it owns in the library's graph.
        mparams: Parameters that disappear with it, in millions.
        mmacs: Multiply-accumulates that disappear with it, in millions.
    """

    slot: str
    index: int
    owns: tuple[OwnedRange, ...]
    mparams: float
    mmacs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One block of the supernet, or its heads, and the modules it may keep.

    Attributes:
        name: Such as "stage2.block1".
        kind: "block" or "classes".
        modules: In rank order.
        min_groups: Least number of active modules; 0 when the block can be skipped.
        nodes: Graph nodes that run for this slot.
        gated: Tensor whose channels the modules are, after the last hidden activation
            (blocks), and the tensors with one channel per class (classes).
        block_params: Parameters that disappear only when the whole block is skipped.
        stream: Tensor that replaces ``output`` when the block is skipped ("" if it cannot be).
        branch: Output of the branch before the addition; zero when skipped.
        output: Output of the block.
    """

    name: str
    kind: str
    modules: tuple[Module, ...]
    min_groups: int
    nodes: tuple[str, ...]
    gated: tuple[str, ...]
    block_params: int = 0
    stream: str = ""
    branch: str = ""
    output: str = ""

    @property
    def groups(self) -> int:
        """Number of modules."""
        return len(self.modules)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyTable:
    """Energy of a library's modules on one device, in integer nanojoules, as latencies are.

    Attributes:
        fixed_nj: Stem, stream, heads and the call itself.
        slots: Per slot name the energy of 0, 1, .. active modules.
        error_low: Low end of measured over predicted energy at ``level``.
        error_high: High end of it.
        level: Nominal coverage of the interval.
        n: Networks behind the error.
    """

    fixed_nj: int
    slots: Mapping[str, tuple[int, ...]]
    error_low: float
    error_high: float
    level: float
    n: int

    def __post_init__(self) -> None:
        if self.fixed_nj < 0 or any(e < 0 for row in self.slots.values() for e in row):
            raise SpecError("EnergyTable: energies must not be negative.")
        if not 0 < self.error_low <= 1 <= self.error_high:
            raise SpecError("EnergyTable: error_low must be in (0, 1] and error_high at least 1.")

    def predict(self, active: Mapping[str, int]) -> Interval:
        """Energy of one image in millijoules for a number of active modules per slot."""
        total = self.fixed_nj + sum(self.slots[name][count] for name, count in active.items())
        value = total / 1e6
        return Interval(
            low=value * self.error_low, value=value, high=value * self.error_high,
            level=self.level, n=self.n,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """Cost of a library's modules on one device, in integer nanoseconds.

    The latency of a plan is ``fixed_ns`` plus, for each slot, the entry at its number of active
    modules. It is the median; ``tail`` holds the factor from the median to other percentiles.

    Attributes:
        device: Name of the device.
        library: Identity of the library.
        input_size: Side of the network's input in pixels.
        runtime: Such as "onnxruntime-cpu 1.31.1".
        precision: Such as "fp32".
        threads: Threads of the runtime; 0 when that has no meaning.
        fixed_ns: Stem, stream, heads and the call itself.
        slots: Per slot name the cost for 0, 1, .. active modules.
        tail: Percentile to factor.
        error_low: Low end of measured over predicted latency at ``level``.
        error_high: High end of it.
        level: Nominal coverage of the interval.
        n: Networks behind the error.
        is_measured: Whether the network times were measured on this very device.
        created: ISO 8601 time.
        conditions: What the device was and did while measuring.
        energy: What the same modules cost in energy, or None where nothing is known.
    """

    device: str
    library: str
    input_size: int
    runtime: str
    precision: str
    threads: int
    fixed_ns: int
    slots: Mapping[str, tuple[int, ...]]
    error_low: float
    error_high: float
    level: float
    n: int
    is_measured: bool
    tail: Mapping[int, float] = field(default_factory=dict)
    created: str = ""
    conditions: Mapping[str, object] = field(default_factory=dict)
    energy: EnergyTable | None = None

    def __post_init__(self) -> None:
        if self.fixed_ns < 0 or any(c < 0 for costs in self.slots.values() for c in costs):
            raise SpecError("LatencyTable: costs must not be negative.")
        if not 0 < self.error_low <= 1 <= self.error_high:
            raise SpecError("LatencyTable: error_low must be in (0, 1] and error_high at least 1.")

    def tail_factor(self, percentile: int) -> float:
        """Factor from the median to another percentile.

        Raises:
            SpecError: The table does not know the percentile.
        """
        if percentile == 50:
            return 1.0
        if percentile not in self.tail:
            raise SpecError(
                f"Only the median of the latency on '{self.device}' is known, not p{percentile}.",
                hints=["--latency-percentile 50"],
            )
        return self.tail[percentile]

    def predict(self, active: Mapping[str, int], *, percentile: int = 50) -> Interval:
        """Latency in milliseconds for a number of active modules per slot.

        Raises:
            SpecError: The table does not know the percentile.
        """
        total = self.fixed_ns + sum(self.slots[name][count] for name, count in active.items())
        value = total * self.tail_factor(percentile) / 1e6
        return Interval(
            low=value * self.error_low,
            value=value,
            high=value * self.error_high,
            level=self.level,
            n=self.n,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every decision about one network.

    Attributes:
        task: What the network must do.
        library: Name of the module library.
        library_id: Identity of its contents (first 16 hex digits of a SHA-256).
        active: Per block slot the indices of the active modules, rising; () skips the block.
        input_size: Side of the input in pixels.
        normalization: "sliced", "stored" or "reestimated".
        is_modulated: Whether scales and shifts are those generated for the task's classes.
        statistics_of: Digest of the images that "reestimated" statistics come from, or "".
        precision: Precision of the weights, "fp32".
        sparsity: Share of the module parameters that is left out, in [0, 1).
    """

    task: Task
    library: str
    library_id: str
    active: Mapping[str, tuple[int, ...]]
    input_size: int
    normalization: str = "stored"
    is_modulated: bool = False
    statistics_of: str = ""
    precision: str = "fp32"
    sparsity: float = 0.0

    def __post_init__(self) -> None:
        for name, groups in self.active.items():
            if list(groups) != sorted(set(groups)) or any(g < 0 for g in groups):
                raise SpecError(f"Plan.active[{name!r}] must be rising indices, got {groups!r}.")

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of every decision."""
        decisions = [
            self.task.kind,
            self.task.classes,
            self.library,
            self.library_id,
            sorted(self.active.items()),
            self.input_size,
            self.normalization,
            self.is_modulated,
            self.precision,
            *(
                (name, digest)
                for name, digest in (
                    ("examples", self.task.examples),
                    ("statistics", self.statistics_of),
                )
                if digest
            ),
        ]
        return hashlib.sha256(json.dumps(decisions).encode()).hexdigest()[:16]

    @property
    def counts(self) -> dict[str, int]:
        """Number of active modules per block slot."""
        return {name: len(groups) for name, groups in self.active.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a plan costs and how well it does.

    Parameters and multiply-adds are exact; latency and accuracy are predictions with intervals.

    Attributes:
        latency_ms: Latency at the percentile of the budget, or None without a table.
        accuracy: Metric of the library on validation images of the task, in [0, 1], or None.
        mparams: Parameters, in millions.
        mmacs: Multiply-accumulates, in millions.
        memory_mib: Peak of weights and live activations, in MiB; for a detector of fewer than all
            classes an upper bound.
        file_mib: Size of the ONNX file, in MiB; an upper bound within a few KiB.
        energy_mj: Energy of one image, in millijoules, or None where nothing is known.
        least_class: The class of which the least accuracy is estimated, or "".
        least_class_accuracy: Its estimated accuracy, in [0, 1], or None.
        runtime: Runtime that the latency is for.
        precision: Precision that the latency is for.
    """

    latency_ms: Interval | None
    accuracy: Interval | None
    mparams: float
    mmacs: float
    memory_mib: float
    file_mib: float
    energy_mj: Interval | None = None
    least_class: str = ""
    least_class_accuracy: Interval | None = None
    runtime: str = ""
    precision: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What loosening one budget buys, found by solving again.

    Attributes:
        budget: Such as "latency".
        step: How much it was loosened, in ``unit``; negative where the budget is a least value.
        unit: "ms", "MiB", "M" or "".
        gain: Rise of the estimated accuracy, in [0, 1], or fall of the latency in milliseconds, by
            ``of``.
        of: "accuracy" or "latency".
    """

    budget: str
    step: float
    unit: str
    gain: float
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Why this plan: proof that none is better for these values and this latency table.

    Attributes:
        method: "dynamic programming", "bounded enumeration" or "integer program"; "thresholds"
            where nothing was optimised: then the gap is what they leave out; "nothing cut" where
            the limits allow all channels, perhaps of smaller images.
        objective: Value of the plan, or its latency in milliseconds, by ``goal``.
        bound: No plan within the budget has a greater value, or a smaller latency.
        gap: ``|bound - objective| / max(|bound|, 1)``; 0 is optimal.
        goal: "value" (most) or "latency" (least).
        binding: Budgets that keep a better plan out.
        more: What a little more of each binding budget buys, where it buys anything.
    """

    method: str
    objective: float
    bound: float
    gap: float
    goal: str = "value"
    binding: tuple[str, ...] = ()
    more: tuple[Gain, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name, element type and shape of an input or output."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Largest difference between two computations of the same outputs.

    Attributes:
        a: First computation.
        b: Second computation.
        n: Number of inputs.
        max_abs: Largest absolute difference.
        tolerance: Largest one allowed.
    """

    a: str
    b: str
    n: int
    max_abs: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance (NaN is not)."""
        return self.max_abs <= self.tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Exported files.

    Attributes:
        folder: Where they are.
        files: Relative path to SHA-256.
        inputs: Input tensors of the network.
        outputs: Output tensors.
        precision_requested: What was asked for.
        precision_achieved: What the file holds.
    """

    folder: str
    files: Mapping[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision_requested: str = "fp32"
    precision_achieved: str = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was observed on a device.

    Attributes:
        device: Name of the device.
        runtime: Name and version of the runtime.
        precision: Precision that ran.
        threads: Threads of the runtime.
        samples_ms: Every timed run, in order, in milliseconds.
        verdict: "PASS" or "FAIL" against the budget (PASS without one), or "INCONCLUSIVE".
        reason: Why, in words.
        rss_mib: Peak resident memory of the process, in MiB.
        memory_mib: Weights and what the runtime allocates for the activations of one run, in MiB;
            None where nobody asked.
        conditions: Clocks, load and contention while measuring.
        versions: Software versions.
    """

    device: str
    runtime: str
    precision: str
    threads: int
    samples_ms: tuple[float, ...]
    verdict: str
    reason: str = ""
    rss_mib: float = 0.0
    memory_mib: float | None = None
    conditions: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.samples_ms) < 2:
            raise SpecError("A measurement needs at least two samples.")
        if self.verdict not in VERDICTS:
            raise SpecError(f"Measurement.verdict must be one of {VERDICTS}, got {self.verdict!r}.")

    @property
    def n(self) -> int:
        """Number of timed runs."""
        return len(self.samples_ms)

    def percentile(self, q: float) -> float:
        """The q-th percentile in milliseconds, linear between order statistics, q in 0..100."""
        ordered = sorted(self.samples_ms)
        place = q / 100 * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    def median_interval(self, level: float = 0.95) -> Interval:
        """Interval of the median from order statistics; no distribution is assumed.

        The normal approximation of the binomial is used for the ranks, exact enough from some
        twenty samples on.
        """
        ordered, n = sorted(self.samples_ms), len(self.samples_ms)
        z = {0.9: 1.645, 0.95: 1.96, 0.99: 2.576}[level]
        half = z * math.sqrt(n) / 2
        low = max(0, math.floor(n / 2 - half))
        high = min(n - 1, math.ceil(n / 2 + half))
        return Interval(
            low=ordered[low], value=self.percentile(50), high=ordered[high], level=level, n=n
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """An accuracy that was measured.

    Attributes:
        subject: "artifact" for this very network, "library" for all modules of its library.
        dataset: Images it was measured on, with the split.
        metric: Such as "top-1 accuracy" or "AP50".
        interval: Value in [0, 1], its interval, and the number of images.
        sha256: Of the images, or "".
    """

    subject: str
    dataset: str
    metric: str
    interval: Interval
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.subject not in SUBJECTS:
            raise SpecError(f"Accuracy.subject must be one of {SUBJECTS}, got {self.subject!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredChoice:
    """How labelled images chose among plans.

    Attributes:
        candidates: Networks that were measured.
        images: Images that they were measured on.
        accuracy: Of the best one on these images, in [0, 1]; biased upwards, since it was chosen.
    """

    candidates: int
    images: int
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What ``build`` returns; the same facts are in the artifact's ``manifest.json``.

    Attributes:
        plan: Every decision.
        estimate: Predicted cost and quality.
        certificate: Why this plan.
        artifact: The files.
        parity: Proofs that linking and folding changed nothing.
        measurement: On the device, or None when it is not at hand.
        device: Name of the device.
        seconds: Time spent, by phase.
        frontier: Points of the frontier, when no budget was given.
        accuracy: Measured accuracies of this very network.
        chosen: How labelled images chose it, or None where the estimate did.
    """

    plan: Plan
    estimate: Estimate
    certificate: Certificate
    artifact: Artifact
    parity: tuple[Parity, ...]
    measurement: Measurement | None
    device: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    frontier: tuple[FrontierPoint, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    chosen: MeasuredChoice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPoint:
    """One plan that no other plan beats in both latency and value.

    Attributes:
        plan: The plan.
        value: Its value for the task, as a share of the full network's, in [0, 1].
        estimate: Its cost and quality.
        is_knee: Whether more latency begins to buy less accuracy here.
    """

    plan: Plan
    value: float
    estimate: Estimate
    is_knee: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStatus:
    """What the progress display shows after a step.

    Attributes:
        step: Finished steps, and ``steps`` in all.
        loss: Smoothed loss of the full network.
        metric: Latest validation metric of the full and of a half-width network, or None.
        seconds: Training time so far.
        phase: "training", or "teacher" while the recipe's teacher is fine-tuned.
    """

    step: int
    steps: int
    loss: float
    metric: tuple[float, float] | None
    seconds: float
    phase: str = "training"
