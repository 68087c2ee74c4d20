"""The pipeline on one page: assemble, link, prove, measure, export; and the frontier."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..factory.errors import BudgetError, DeviceError, UsageError, VerificationError
from ..factory.schema import (
    Budget,
    BuildResult,
    Certificate,
    DeviceProfile,
    Estimate,
    FrontierPoint,
    Interval,
    LatencyTable,
    Measurement,
    Parity,
    Plan,
    Task,
)
from ..factory.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..exporters.contents import LibraryCard
    from ..factory.assembler.sizes import SizeOption
    from ..factory.library.library import ModuleLibrary
    from ..factory.linker import Linked

ROUNDS = 3  # a measurement that breaks the budget corrects the table and assembly runs again
Report = Callable[[str, int, int], None]


def silent(phase: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(slots=True)
class _Stopwatch:
    """Seconds per phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def build(
    *,
    task: str,
    device: str,
    budget: Budget | None = None,
    classes: Sequence[str] = (),
    library: str | None = None,
    input_size: int | None = None,
    out_dir: Path | None = None,
    overwrite: bool = False,
    command: str = "",
    report: Report = silent,
) -> BuildResult:
    """Assemble, link, prove, measure and export one network.

    Args:
        task: "cls" or "det".
        device: Name or alias of a device profile, or the path of one.
        budget: Limits; none by default.
        classes: Names, first WordNet synonyms or WordNet ids; all classes by default.
        library: Name or folder of a module library; by default the first one for the task.
        input_size: Side of the input in pixels; by default the best of the library's sizes.
        out_dir: The artifact folder; by default ``./<task>-<device>-<plan id, 8 hex>``.
        overwrite: Replace whatever is at ``out_dir``.
        command: Command line that is recorded in the manifest.
        report: Called with (phase, done, total) while something takes long.

    Raises:
        NNFactoryError: See the tree in ``factory/errors.py`` for what and why.
    """
    budget = budget or Budget()
    watch = _Stopwatch()
    with watch.phase("open"):
        profile, source = _open(task, device, library)
        wanted = source.task(tuple(classes))
    with watch.phase("table"):
        options = size_options(source, profile, input_size, report=report)
    choice = _choose(options, wanted, budget, profile, watch, report, out_dir, overwrite)
    with watch.phase("export"):
        artifact = _export(source, choice, profile, budget, out_dir, overwrite, command)
    points: tuple[FrontierPoint, ...] = ()
    if budget.is_unlimited:
        from ..factory.assembler.sizes import frontier_any_size

        points = tuple(frontier_any_size(options, wanted, 5)[0])
    return BuildResult(
        plan=choice.plan, estimate=choice.estimate, certificate=choice.certificate,
        artifact=artifact, parity=choice.parity, measurement=choice.measurement,
        device=profile.name, seconds=watch.seconds, frontier=points,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Choice:
    """A plan that was linked, proven and, where possible, measured."""

    plan: Plan
    estimate: Estimate
    certificate: Certificate
    parity: tuple[Parity, ...]
    model: bytes
    measurement: Measurement | None


def _choose(
    options: list[SizeOption], task: Task, budget: Budget, profile: DeviceProfile,
    watch: _Stopwatch, report: Report, out_dir: Path | None, overwrite: bool,
) -> _Choice:  # fmt: skip
    """Assemble and link; on a device at hand, until the measurement keeps the budget.

    Raises:
        BudgetError: No plan keeps the budget, or none did when it was measured.
    """
    from ..exporters.bundle import check_place
    from ..factory.assembler.sizes import assemble_any_size
    from ..factory.linker import link, prove

    source = options[0].library
    for number in range(ROUNDS):
        with watch.phase("plan"):
            plan, estimate, certificate = assemble_any_size(options, task, budget)
        check_place(artifact_place(out_dir, plan, profile), plan.id, overwrite=overwrite)
        with watch.phase("link"):
            linked = link(source, plan)
            model = _model(source, plan, linked)
        _check_file_size(model, budget)
        measurement = None
        if profile.name == "host":
            with watch.phase("measure"):
                report("measuring", number, ROUNDS)
                measurement = _measure(model, profile, budget)
        if measurement is None or measurement.verdict != "FAIL":
            with watch.phase("prove"):
                parity = prove(source, plan, linked)
            return _Choice(plan, estimate, certificate, parity, model, measurement)
        if number < ROUNDS - 1:
            options = _corrected(options, estimate, measurement, budget)
    assert measurement is not None
    reached = measurement.percentile(budget.percentile)
    raise BudgetError(
        f"No network kept p{budget.percentile} <= {budget.latency_ms:g} ms on '{profile.name}' "
        f"when measured: the last of {ROUNDS} tries took {reached:.3f} ms.",
        hints=[f"--latency {reached * 1.05:.3g}ms", "nnfactory plan shows what is reachable"],
        details={"measured": {"latency": reached}},
    )


def _check_file_size(model: bytes, budget: Budget) -> None:
    """Raise if a file is larger than its estimate, which is an upper bound, let it be.

    Raises:
        VerificationError: It is.
    """
    if budget.file_mib is not None and len(model) > budget.file_mib * MIB:
        raise VerificationError(
            f"The file has {len(model) / MIB:.4g} MiB, more than the {budget.file_mib:g} MiB that "
            "it was estimated to keep."
        )


def _measure(model: bytes, profile: DeviceProfile, budget: Budget) -> Measurement:
    """Measure on this machine; once more when the first time was disturbed."""
    from ..devices.measure import measure_host

    measurement = measure_host(model, device=profile.name, budget=budget)
    if measurement.verdict == "INCONCLUSIVE":
        measurement = measure_host(model, device=profile.name, budget=budget)
    return measurement


def _corrected(
    options: list[SizeOption], estimate: Estimate, measurement: Measurement, budget: Budget
) -> list[SizeOption]:
    """All tables scaled to what was measured: what was off for one size mostly is for all."""
    from ..devices.latency_table import corrected

    assert estimate.latency_ms is not None
    ratio = max(1.002, measurement.percentile(budget.percentile) / estimate.latency_ms.value)
    return [replace(option, table=corrected(option.table, ratio)) for option in options]


def _model(source: ModuleLibrary, plan: Plan, linked: Linked) -> bytes:
    """The linked network as a file: metadata, opset, checker."""
    from .. import __version__
    from ..exporters.metadata import Imprint, apply_metadata_, network_metadata
    from ..exporters.onnx import bytes_from_network
    from ..factory.graph.network import model_from_network

    imprint = Imprint(
        plan_id=plan.id,
        library=plan.library,
        version=__version__,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        license=source.card["weights"]["license"],
    )
    size = (plan.input_size, plan.input_size)
    stride = max(source.head_strides, default=plan.input_size)
    model = model_from_network(linked.network)
    apply_metadata_(model, network_metadata(plan.task, size=size, stride=stride, imprint=imprint))
    return bytes_from_network(model)


def artifact_place(out_dir: Path | None, plan: Plan, profile: DeviceProfile) -> Path:
    """Where the artifact of a plan goes."""
    return out_dir or Path(f"{plan.task.kind}-{profile.name}-{plan.id[:8]}")


def _export(
    source: ModuleLibrary, choice: _Choice, profile: DeviceProfile, budget: Budget,
    out_dir: Path | None, overwrite: bool, command: str,
) -> Any:  # fmt: skip
    """Write the artifact folder."""
    from ..exporters.bundle import write_artifact
    from ..exporters.contents import Accuracy, Contents

    metric = source.card["metric"]
    place = artifact_place(out_dir, choice.plan, profile)
    measured = Accuracy(
        subject="library",
        dataset=f"{source.card['data']['name']}, {metric['split']} split, all classes",
        metric=metric["name"],
        interval=Interval(
            low=metric["low"], value=metric["value"], high=metric["high"], level=metric["level"],
            n=metric["n"],
        ),
    )  # fmt: skip
    contents = Contents(
        name=f"{choice.plan.task.kind}-{profile.name}-{choice.plan.id[:8]}",
        network=choice.model,
        plan=choice.plan,
        estimate=choice.estimate,
        certificate=choice.certificate,
        parity=choice.parity,
        device=profile.name,
        budget=budget,
        card=library_card(source),
        accuracy=(measured,),
        measurements=(choice.measurement,) if choice.measurement else (),
        command=command,
    )
    return write_artifact(place, contents, overwrite=overwrite)


def library_card(source: ModuleLibrary) -> LibraryCard:
    """What a reader of an artifact must know about its library."""
    from ..exporters.contents import LibraryCard

    data = source.card["data"]
    return LibraryCard(
        name=source.name,
        title=source.card["title"],
        license=source.card["weights"]["license"],
        data=(f"{data['name']} ({data['origin']})",),
        data_license=data["license"],
        source="trained by nnfactory's own recipe",
    )


def _open(task: str, device: str, library: str | None) -> tuple[DeviceProfile, ModuleLibrary]:
    """Device profile and library of a request.

    Raises:
        UsageError: The library is for another kind of task.
    """
    from ..devices.profile import load_profile
    from ..factory.library.store import default_library, open_library

    profile = load_profile(device)
    source = open_library(library) if library else default_library(task)
    if source.kind != task:
        raise UsageError(
            f"Library '{source.name}' is for '{source.kind}', not for '{task}'.",
            hints=["'nnfactory modules list' shows what every library is for"],
        )
    return profile, source


def size_options(
    source: ModuleLibrary, profile: DeviceProfile, input_size: int | None, *,
    report: Report = silent,
) -> list[SizeOption]:  # fmt: skip
    """The library at every input size, or at the one that is asked for, with latency tables.

    Raises:
        UsageError: The library has no such input size.
        DeviceError: See :func:`latency_table`.
    """
    from ..factory.assembler.sizes import SizeOption

    sizes = source.input_sizes if input_size is None else (input_size,)
    views = [source.at(size) for size in sizes]
    return [
        SizeOption(library=view, table=latency_table(view, profile, report=report))
        for view in views
    ]


def latency_table(
    source: ModuleLibrary, profile: DeviceProfile, *, report: Report = silent
) -> LatencyTable:
    """The measured table of this machine, or the predicted one of a board.

    Raises:
        DeviceError: There is neither for the device.
    """
    from ..devices.latency_table import host_table

    if profile.name == "host":
        return host_table(source, report=report)
    return _predicted_table(source, profile.name)


@lru_cache(maxsize=32)
def _predicted_table(source: ModuleLibrary, device: str) -> LatencyTable:
    from ..devices.latency_table import predicted_table
    from ..devices.predictor import list_predictors, load_predictor

    if device not in list_predictors():
        raise DeviceError(
            f"Nothing is known about latency on '{device}': no table and no predictor.",
            hints=["'nnfactory devices list' shows the devices with one"],
        )
    return predicted_table(source, load_predictor(device), device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """What ``plan`` returns.

    Attributes:
        device: Name of the device.
        library: Name of the library.
        task: The task.
        points: Plans by rising latency and estimated accuracy.
        is_measured: Whether the latencies come from a table measured on the device.
        steps: Number of plans on the frontiers of all input sizes, each by itself.
    """

    device: str
    library: str
    task: Task
    points: tuple[FrontierPoint, ...]
    is_measured: bool
    steps: int


def plan(
    *,
    task: str,
    device: str,
    classes: Sequence[str] = (),
    library: str | None = None,
    input_size: int | None = None,
    points: int = 12,
    report: Report = silent,
) -> Frontier:
    """What is reachable: the frontier of latency and value of a task on a device.

    Args:
        task: "cls" or "det".
        device: Name or alias of a device profile, or the path of one.
        classes: As in :func:`build`.
        library: As in :func:`build`.
        input_size: As in :func:`build`.
        points: About how many plans to return, at least 2.
        report: As in :func:`build`.
    """
    from ..factory.assembler.sizes import frontier_any_size

    profile, source = _open(task, device, library)
    wanted = source.task(tuple(classes))
    options = size_options(source, profile, input_size, report=report)
    rows, steps = frontier_any_size(options, wanted, points)
    return Frontier(
        device=profile.name,
        library=source.name,
        task=wanted,
        points=tuple(rows),
        is_measured=all(option.table.is_measured for option in options),
        steps=steps,
    )
