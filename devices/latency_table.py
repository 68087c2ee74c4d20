"""Latency tables: measured on this machine once and cached, or predicted for a board."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt
import platformdirs

from ..factory.assembler.footprint import narrowed_shapes
from ..factory.errors import DataError, SpecError, UsageError
from ..factory.graph.costs import op_costs
from ..factory.graph.cut import cut
from ..factory.graph.network import Network, model_from_network, tensor_shapes
from ..factory.graph.normalization import fold_norms
from ..factory.graph.postprocess import with_detections, with_probabilities
from ..factory.library.library import CLASSES, ModuleLibrary
from ..factory.sampling import sample_widths
from ..factory.schema import EnergyTable, LatencyTable
from ..factory.serialize import noun_from_table, table_from_noun
from .conditions import MAX_CONTENTION, cpu_name, host_conditions
from .kernels import KernelWork, fuse_kernels
from .measure import Samples, measure_interleaved, warm_up
from .predictor import EnergyRates, Predictor
from .runners.onnxruntime import OnnxRuntimeRunner, runtime_name

RESOLUTION_NS = 1000  # tables are kept to the microsecond; measurements are no better
NETWORKS, PROFILED = 36, 18
LEAST_FIXED = 0.1  # of what the profile says
TIMING_SECONDS = 30.0  # of the whole networks; slower machines get fewer repeats
LEVEL = 0.9
Report = Callable[[str, int, int], None]
Counts = Mapping[str, int]
Costs = npt.NDArray[np.float64]
Work = Mapping[str, Sequence[KernelWork]]  # per slot the kernels of 1, 2, .. active modules


def cache_folder() -> Path:
    """Where tables are kept: ``NNFACTORY_CACHE``, or the user's cache folder."""
    named = os.environ.get("NNFACTORY_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("nnfactory", appauthor=False))


def host_table(
    library: ModuleLibrary, *, threads: int = 1, report: Report = lambda phase, done, total: None
) -> LatencyTable:
    """The latency table of this machine: from the cache, or measured now.

    The cache is keyed by library, input size, processor, runtime version, precision and threads.

    Args:
        library: Whose modules are timed.
        threads: Threads that compute one operator.
        report: Called with (phase, done, total) while measuring.

    Raises:
        UsageError: The cache folder cannot be written.
    """
    key = [library.id, library.input_size, cpu_name(), runtime_name(), "fp32", threads]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    path = cache_folder() / "latency" / f"{library.name}-{library.input_size}px-{digest}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            cached = _read_table(path, library)
            if cached is not None:
                return cached
            report("table in the cache is damaged; measuring again", 0, 1)
        handle, beside = tempfile.mkstemp(dir=path.parent)
    except OSError as error:
        raise UsageError(
            f"The cache folder {path.parent} cannot be used: {error}.",
            hints=["set NNFACTORY_CACHE to a folder that can be written"],
        ) from error
    try:
        table = measure_table(library, threads=threads, report=report)
        contention = table.conditions.get("contention")
        disturbed = isinstance(contention, float) and contention > MAX_CONTENTION
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(table_from_noun(table), file)
        if not disturbed:  # a disturbed table serves this request, not the next ones
            Path(beside).replace(path)
    finally:
        Path(beside).unlink(missing_ok=True)
    return table


def _read_table(path: Path, library: ModuleLibrary) -> LatencyTable | None:
    """The table in a file, or None unless it is a whole one of this library."""
    try:
        table = noun_from_table(LatencyTable, json.loads(path.read_text(encoding="utf-8")))
    except (DataError, SpecError, ValueError):
        return None
    rows = {name: len(row) for name, row in table.slots.items()}
    expected = {slot.name: slot.groups + 1 for slot in library.slots}
    mine = (table.library, table.input_size) == (library.id, library.input_size)
    return table if mine and rows == expected else None


def network_of_counts(library: ModuleLibrary, counts: Counts) -> Network:
    """The linked network of these counts, with the statistics as trained: for timing alone."""
    active = {name: tuple(range(count)) for name, count in counts.items()}
    folded = fold_norms(cut(library.network, library.slots, active))
    if library.kind == "cls":
        return with_probabilities(folded)
    return with_detections(folded, library.head_strides, library.input_size)


def _bytes(library: ModuleLibrary, counts: Counts) -> bytes:
    return bytes(model_from_network(network_of_counts(library, counts)).SerializeToString())


def sample_counts(library: ModuleLibrary, n: int, seed: int = 0) -> list[dict[str, int]]:
    """Counts of random networks: the empty and the full one first, then random widths."""
    rng = np.random.default_rng(seed)
    full = [slot.groups for slot in library.blocks]
    empty = [slot.min_groups for slot in library.blocks]
    names = [slot.name for slot in library.blocks]
    rows = [tuple(empty), tuple(full)] + [sample_widths(full, empty, rng) for _ in range(n - 2)]
    total = len(library.classes)
    classes = [total if i % 3 == 1 else int(rng.integers(2, total + 1)) for i in range(n)]
    return [
        {**dict(zip(names, row, strict=True)), CLASSES: k}
        for row, k in zip(rows, classes, strict=True)
    ]


def measure_table(
    library: ModuleLibrary, *, threads: int = 1, report: Report = lambda phase, done, total: None
) -> LatencyTable:
    """Measure this machine's latency table.

    Node profiles of random networks give, per slot, the shape of cost against active modules
    (isotonic, so that no module has a negative cost). Whole networks, timed run by run in turn
    with a reference network, give the scale of every slot by least squares with scales that are
    not negative and are drawn towards 1. The interval is that of the whole networks held out.

    Args:
        library: Whose modules are timed.
        threads: Threads that compute one operator.
        report: Called with (phase, done, total).
    """
    counts = sample_counts(library, NETWORKS)
    shapes, fixed_ms = _profile_shapes(library, counts[:PROFILED], threads, report)
    measured = _measure_networks(library, counts, threads, report)
    fit = _fit(counts, np.array([m.median_ms for m in measured]), shapes, fixed_ms)
    ratios = _held_out_ratios(counts, np.array([m.median_ms for m in measured]), shapes, fixed_ms)
    low, high = _conformal(ratios)
    tails = {q: float(np.median([m.tail[q] for m in measured])) for q in (90, 95, 99)}
    return LatencyTable(
        device="host", library=library.id, input_size=library.input_size,
        runtime=runtime_name(), precision="fp32",
        threads=threads, fixed_ns=_millionths(fit.fixed_ms),
        slots={name: tuple(_millionths(ms) for ms in row) for name, row in fit.slots.items()},
        error_low=low, error_high=high, level=LEVEL, n=len(counts), is_measured=True,
        tail=tails, created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        conditions=host_conditions(float(np.median([m.contention for m in measured]))),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Timed:
    """One network's median, corrected for the drift of the machine, and its tail factors."""

    median_ms: float
    tail: dict[int, float]
    contention: float


@dataclass(frozen=True, slots=True)
class _Fit:
    fixed_ms: float
    slots: dict[str, tuple[float, ...]]

    def predict(self, counts: Counts) -> float:
        return self.fixed_ms + sum(self.slots[name][count] for name, count in counts.items())


def _profile_shapes(
    library: ModuleLibrary, counts: Sequence[Counts], threads: int, report: Report
) -> tuple[dict[str, tuple[float, ...]], float]:
    """Cost in milliseconds per slot and number of modules, and of everything else."""
    seen: dict[str, dict[int, list[float]]] = {slot.name: {} for slot in library.slots}
    rest = []
    for number, row in enumerate(counts):
        network = network_of_counts(library, row)
        model = model_from_network(network).SerializeToString()
        with OnnxRuntimeRunner(model, threads=threads, profile=True) as runner:
            for _ in range(15):
                runner.run()
            nodes = runner.node_ms()
        spent = _slot_times(library, network, nodes)
        for name, ms in spent.items():
            if name:
                seen[name].setdefault(row[name], []).append(ms)
        rest.append(spent.get("", 0.0))
        report("profiling nodes", number + 1, len(counts))
    shapes = {
        slot.name: _monotone(seen[slot.name], slot.groups, zero=slot.kind == "block")
        for slot in library.slots
    }
    return shapes, float(np.median(rest))


def _slot_times(
    library: ModuleLibrary, network: Network, nodes: Mapping[str, float]
) -> dict[str, float]:
    """Sum of node times per slot; "" is everything else.

    A fused node is named after the tensor it writes, with a suffix; the longest node or tensor
    name that it starts with tells where it belongs.
    """
    owner = {node: slot.name for slot in library.slots for node in slot.nodes}
    names = {}
    for node in network.nodes:
        for name in (node.name, *node.output):
            names[name] = owner.get(node.name, "")
    ordered = sorted(names, key=len, reverse=True)
    spent: dict[str, float] = {}
    for fused, ms in nodes.items():
        match = next((name for name in ordered if fused.startswith(name)), None)
        slot = names[match] if match is not None else ""
        spent[slot] = spent.get(slot, 0.0) + ms
    return spent


def _monotone(seen: Mapping[int, list[float]], groups: int, *, zero: bool) -> tuple[float, ...]:
    """Rising cost for 0, 1, .. groups through the medians, straight between them."""
    from scipy.optimize import isotonic_regression

    points = {count: float(np.median(values)) for count, values in seen.items() if count}
    known = sorted(points)
    fitted = isotonic_regression([points[count] for count in known]).x
    # Below the first known count the straight line through the two outer ones is extended, above
    # the last one the last slope.
    slope = (fitted[-1] - fitted[0]) / max(1, known[-1] - known[0])
    row = []
    for count in range(groups + 1):
        if count < known[0]:
            row.append(max(0.0, fitted[0] - slope * (known[0] - count)))
        elif count > known[-1]:
            row.append(fitted[-1] + slope * (count - known[-1]))
        else:
            row.append(float(np.interp(count, known, fitted)))
    if zero:
        row[0] = 0.0
    return tuple(row)


def _measure_networks(
    library: ModuleLibrary, counts: Sequence[Counts], threads: int, report: Report
) -> list[_Timed]:
    """Median of every network, timed in turn with the network in the middle of the range."""
    middle = {s.name: max(s.min_groups, s.groups // 2) for s in library.slots}
    runners = [OnnxRuntimeRunner(_bytes(library, row), threads=threads) for row in counts]
    with OnnxRuntimeRunner(_bytes(library, middle), threads=threads) as reference:
        pair_ms = 4 * warm_up(reference.run)  # two runs of a network and two of the reference
        repeats = int(np.clip(TIMING_SECONDS * 1e3 / (pair_ms * len(runners)), 4, 16))
        rows = measure_interleaved(
            runners, reference, repeats, lambda done, total: report("timing networks", done, total)
        )
    for runner in runners:
        runner.close()
    common = float(np.median([np.median(beside.wall_ms) for _, beside in rows]))
    return [_timed(mine, beside, common) for mine, beside in rows]


def _timed(mine: Samples, beside: Samples, common_ms: float) -> _Timed:
    median = float(np.median(mine.wall_ms))
    drift = float(np.median(beside.wall_ms)) / common_ms
    tail = {q: float(np.percentile(mine.wall_ms, q)) / median for q in (90, 95, 99)}
    return _Timed(median / drift, tail, mine.contention)


def _fit(
    counts: Sequence[Counts], target_ms: np.ndarray, shapes: Mapping[str, tuple[float, ...]],
    fixed_ms: float,
) -> _Fit:  # fmt: skip
    """Scale of every slot and of the fixed part, in relative least squares.

    The scales are not negative and drawn towards 1 as by a tenth of an observation each. That of
    the fixed part is a tenth at least: no network takes no time.
    """
    from scipy.optimize import nnls

    names = list(shapes)
    rows = [[fixed_ms, *(shapes[name][row[name]] for name in names)] for row in counts]
    matrix = np.array(rows) / target_ms[:, None]
    pull = 0.03 * np.eye(matrix.shape[1])
    augmented = np.vstack([matrix, pull])
    goal = np.concatenate([np.ones(len(counts)), 0.03 * np.ones(matrix.shape[1])])
    scale, _ = nnls(augmented, goal - LEAST_FIXED * augmented[:, 0])
    scale[0] += LEAST_FIXED
    slots = {
        name: tuple(float(factor * ms) for ms in shapes[name])
        for name, factor in zip(names, scale[1:], strict=True)
    }
    return _Fit(float(scale[0] * fixed_ms), slots)


def _held_out_ratios(
    counts: Sequence[Counts], target_ms: np.ndarray, shapes: Mapping[str, tuple[float, ...]],
    fixed_ms: float,
) -> np.ndarray:  # fmt: skip
    """Measured over predicted for every network, with scales fitted without it (six folds)."""
    fold = np.arange(len(counts)) % 6
    ratios = np.empty(len(counts))
    for part in range(6):
        kept = [row for row, f in zip(counts, fold, strict=True) if f != part]
        fit = _fit(kept, target_ms[fold != part], shapes, fixed_ms)
        for index in np.flatnonzero(fold == part).tolist():
            ratios[index] = target_ms[index] / fit.predict(counts[index])
    return ratios


def _conformal(ratios: np.ndarray) -> tuple[float, float]:
    """Lower and upper factor with a nominal coverage of 90 %, by the finite-sample rank."""
    ordered = np.sort(ratios)
    rank = min(len(ordered), math.ceil((len(ordered) + 1) * (1 + LEVEL) / 2))
    return min(1.0, float(ordered[-rank])), max(1.0, float(ordered[rank - 1]))


def _millionths(cost: float) -> int:
    return int(round(cost * 1e6 / RESOLUTION_NS)) * RESOLUTION_NS


def corrected(table: LatencyTable, ratio: float) -> LatencyTable:
    """The table with every cost multiplied by measured over predicted latency, rounded up."""

    def scaled(ns: int) -> int:
        return math.ceil(ns * ratio / RESOLUTION_NS) * RESOLUTION_NS

    return replace(
        table,
        fixed_ns=scaled(table.fixed_ns),
        slots={name: tuple(scaled(ns) for ns in row) for name, row in table.slots.items()},
    )


def predicted_table(
    library: ModuleLibrary, predictor: Predictor, device: str, runtime: str
) -> LatencyTable:
    """The latency table of a board that nobody measured this library on: an estimate.

    Every slot costs the sum of its kernels at each number of active modules; shapes are those of
    the whole network with the slot's own channels narrowed. Energies are estimated likewise, where
    the predictor knows about energy.

    Args:
        library: Whose modules are estimated.
        predictor: The board's coefficients.
        device: Name of the device.
        runtime: What runs the network there.
    """
    network = network_of_counts(library, {slot.name: slot.groups for slot in library.slots})
    shapes = tensor_shapes(network)
    work = {}
    for slot in library.slots:
        part = replace(network, nodes=tuple(n for n in network.nodes if n.name in slot.nodes))
        narrow = (
            narrowed_shapes(shapes, network, slot, count) for count in range(1, slot.groups + 1)
        )
        work[slot.name] = [KernelWork.of(fuse_kernels(op_costs(part, some))) for some in narrow]
    whole = KernelWork.of(fuse_kernels(op_costs(network, shapes)))
    fixed_ns, slots = _costs(work, whole, predictor.predict_work, predictor.call_ms)
    smallest = fixed_ns + sum(slots[s.name][s.min_groups] for s in library.slots)
    low, high = predictor.errors_at(smallest / 1e6)
    return LatencyTable(
        device=device, library=library.id, input_size=library.input_size,
        runtime=runtime, precision=predictor.precision,
        threads=0, fixed_ns=fixed_ns, slots=slots, error_low=low, error_high=high,
        level=predictor.level, n=predictor.n, is_measured=False,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        energy=None
        if predictor.energy is None
        else _energy_table(predictor.energy, library, work, whole),
    )  # fmt: skip


def _energy_table(
    rates: EnergyRates, library: ModuleLibrary, work: Work, whole: KernelWork
) -> EnergyTable:
    fixed_nj, slots = _costs(work, whole, rates.predict_work, rates.call_mj)
    smallest = fixed_nj + sum(slots[s.name][s.min_groups] for s in library.slots)
    low, high = rates.errors_at(smallest / 1e6)
    return EnergyTable(
        fixed_nj=fixed_nj, slots=slots, error_low=low, error_high=high, level=rates.level,
        n=rates.n,
    )  # fmt: skip


def _costs(
    work: Work, whole: KernelWork, predict: Callable[[KernelWork], Costs], call: float
) -> tuple[int, dict[str, tuple[int, ...]]]:
    """What is fixed, and the rows of a table: millionths of the unit of ``predict``.

    Args:
        work: Per slot the kernels of 1, 2, .. active modules.
        whole: The kernels of the whole network.
        predict: Cost of every kernel.
        call: Cost of a call.
    """
    rows = {}
    for name, counts in work.items():
        sums = [0.0, *(float(predict(kernels).sum()) for kernels in counts)]
        rows[name] = tuple(_millionths(cost) for cost in np.maximum.accumulate(sums))
    total = _millionths(float(predict(whole).sum()) + call)
    return total - sum(row[-1] for row in rows.values()), rows
