"""The pipeline on one page: assemble, link, prove, measure, export; and the frontier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..factory.errors import BudgetError
from ..factory.schema import (
    Accuracy,
    Budget,
    BuildResult,
    Certificate,
    DeviceProfile,
    Estimate,
    FrontierPoint,
    Interval,
    MeasuredChoice,
    Measurement,
    Parity,
    Plan,
    Task,
)
from .keeping import ROUNDS, broken, check_file_size, excess_mib, measure_model
from .model_file import model_file
from .request import Report, Request, Stopwatch, open_request, silent

if TYPE_CHECKING:
    from ..exporters.contents import LibraryCard
    from ..factory.assembler.sizes import SizeOption
    from ..factory.library.library import ModuleLibrary
    from ..factory.linker import Linked


REACHABLE = "nnfactory plan shows what is reachable"
OWN_RECIPE = "trained by nnfactory's own recipe"


def build(
    *,
    task: str,
    device: str,
    budget: Budget | None = None,
    classes: Sequence[str] = (),
    library: str | None = None,
    input_size: int | None = None,
    examples: Path | None = None,
    allow_novel: bool = False,
    data: Path | None = None,
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
        classes: Names, first WordNet synonyms or WordNet ids, or superclasses such as "bird" for
            all classes of a kind; all classes by default.
        library: Name or folder of a module library; by default the first one for the task.
        input_size: Side of the input in pixels; by default the best of the library's sizes.
        examples: One folder per class of images of classes that the library does not know.
        allow_novel: Go on although such a class is unlike anything the library was trained on.
        data: Labelled images of the task's classes, in any format that ``modules check`` reads.
            Half of them choose among the best plans of every input size and their statistics, the
            others measure the accuracy of what was chosen; fewer than 80 only measure.
        out_dir: The artifact folder; by default ``./<task>-<device>-<plan id, 8 hex>``.
        overwrite: Replace whatever is at ``out_dir``.
        command: Command line that is recorded in the manifest.
        report: Called with (phase, done, total) while something takes long.

    Raises:
        NNFactoryError: See the tree in ``factory/errors.py`` for what and why.
    """
    budget = budget or Budget()
    watch = Stopwatch()
    request = open_request(
        task=task, device=device, classes=classes, library=library, input_size=input_size,
        examples=examples, allow_novel=allow_novel, data=data, watch=watch, report=report,
    )  # fmt: skip
    choice = _choose(request, budget, watch, report, out_dir, overwrite)
    with watch.phase("export"):
        artifact = _export(request, choice, budget, out_dir, overwrite, command)
    points: tuple[FrontierPoint, ...] = ()
    if budget.is_unlimited:
        from ..factory.assembler.sizes import frontier_any_size

        points = tuple(frontier_any_size(request.options, request.task, 5)[0])
    answer = choice.answer
    return BuildResult(
        plan=answer.plan, estimate=answer.estimate, certificate=answer.certificate,
        artifact=artifact, parity=choice.parity, measurement=choice.measurement,
        device=request.profile.name, seconds=watch.seconds, frontier=points,
        accuracy=answer.accuracy, chosen=answer.chosen,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A plan and its network, linked from ``source``; ``accuracy`` was measured on it.

    ``chosen`` says how labelled images chose it, where they did.
    """

    plan: Plan
    estimate: Estimate
    certificate: Certificate
    source: ModuleLibrary
    linked: Linked
    accuracy: tuple[Accuracy, ...]
    chosen: MeasuredChoice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """An answer that was proven and, where possible, measured."""

    answer: _Answer
    parity: tuple[Parity, ...]
    model: bytes
    measurement: Measurement | None


def _choose(
    request: Request, budget: Budget, watch: Stopwatch, report: Report, out_dir: Path | None,
    overwrite: bool,
) -> _Choice:  # fmt: skip
    """Assemble and link; on a device at hand, until the measurement keeps the budget.

    Raises:
        BudgetError: No plan keeps the budget, or none did when it was measured.
    """
    from ..exporters.bundle import check_place
    from ..factory.linker import prove

    profile, asked, measurement = request.profile, budget, None
    for number in range(ROUNDS):
        try:
            answer = _answer(request, asked, watch)
        except BudgetError as error:
            if measurement is None or asked is budget:
                raise
            # the limit that is too low is ours
            raise broken(measurement, budget, hint=REACHABLE) from error
        plan, source, linked = answer.plan, answer.source, answer.linked
        check_place(artifact_place(out_dir, plan, profile), plan.id, overwrite=overwrite)
        with watch.phase("link"):
            model = model_file(
                linked.network, plan, license=source.card["weights"]["license"],
                stride=max(source.head_strides, default=None),
            )  # fmt: skip
        check_file_size(model, budget)
        measurement = None
        if profile.name == "host":
            with watch.phase("measure"):
                report("measuring", number, ROUNDS)
                measurement = measure_model(model, profile, budget)
        excess = excess_mib(measurement, budget)
        if excess == 0 and (measurement is None or measurement.verdict != "FAIL"):
            with watch.phase("prove"):
                parity = prove(source, plan, linked)
            return _Choice(answer=answer, parity=parity, model=model, measurement=measurement)
        assert measurement is not None
        if excess:
            assert asked.memory_mib is not None
            if asked.memory_mib <= excess:
                break
            asked = replace(asked, memory_mib=asked.memory_mib - excess)
        if measurement.verdict == "FAIL" and number < ROUNDS - 1:
            options = _corrected(request.options, answer.estimate, measurement, budget)
            request = replace(request, options=options)
    assert measurement is not None
    raise broken(measurement, budget, hint=REACHABLE)


def _answer(request: Request, budget: Budget, watch: Stopwatch) -> _Answer:
    """The best plan, linked; by the labelled images of the request, where there are enough.

    Raises:
        BudgetError: No plan keeps the budget.
    """
    from ..factory.assembler.sizes import assemble_any_size, assemble_other_sizes
    from ..factory.linker import link

    options, task, images = request.options, request.task, request.images
    with watch.phase("plan"):
        answers = [assemble_any_size(options, task, budget)]
    chosen = None
    if images is None or not images.may_choose:
        plan, estimate, certificate = answers[0]
        with watch.phase("link"):
            source, accuracy = request.fitted(plan)
            linked = link(source, plan)
    else:
        with watch.phase("plan"):
            if budget.goal == "value":
                size = answers[0][0].input_size
                answers += assemble_other_sizes(options, task, budget, size)
        from ..factory.measured_choice import best_candidate

        with watch.phase("data"):
            fitted = [request.fitted(answer[0]) for answer in answers]
            number, candidate, chosen = best_candidate(
                [(answer[0], source) for answer, (source, _) in zip(answers, fitted, strict=True)],
                images,
            )
        plan, linked = candidate.plan, candidate.linked
        _, estimate, certificate = answers[number]
        source, accuracy = fitted[number]
    if images is not None:
        from ..factory.measured_choice import measured_accuracy

        with watch.phase("data"):
            accuracy = (*accuracy, measured_accuracy(linked, plan, images))
    return _Answer(
        plan=plan, estimate=estimate, certificate=certificate, source=source, linked=linked,
        accuracy=accuracy, chosen=chosen,
    )  # fmt: skip


def _corrected(
    options: list[SizeOption], estimate: Estimate, measurement: Measurement, budget: Budget
) -> list[SizeOption]:
    """All tables scaled to what was measured: what was off for one size mostly is for all."""
    from ..devices.latency_table import corrected

    assert estimate.latency_ms is not None
    ratio = max(1.002, measurement.percentile(budget.percentile) / estimate.latency_ms.value)
    return [replace(option, table=corrected(option.table, ratio)) for option in options]


def artifact_place(out_dir: Path | None, plan: Plan, profile: DeviceProfile) -> Path:
    """Where the artifact of a plan goes."""
    return out_dir or Path(f"{plan.task.kind}-{profile.name}-{plan.id[:8]}")


def _export(
    request: Request, choice: _Choice, budget: Budget, out_dir: Path | None, overwrite: bool,
    command: str,
) -> Any:  # fmt: skip
    """Write the artifact folder."""
    from ..exporters.bundle import write_artifact
    from ..exporters.contents import Contents, PartSource

    source, profile, answer = request.source, request.profile, choice.answer
    metric = source.card["metric"]
    place = artifact_place(out_dir, answer.plan, profile)
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
        name=f"{answer.plan.task.kind}-{profile.name}-{answer.plan.id[:8]}",
        network=choice.model,
        plan=answer.plan,
        estimate=answer.estimate,
        certificate=answer.certificate,
        parity=choice.parity,
        device=profile.name,
        budget=budget,
        card=library_card(source),
        accuracy=(*answer.accuracy, measured),
        chosen=answer.chosen,
        measurements=(choice.measurement,) if choice.measurement else (),
        command=command,
        sources=(
            PartSource(
                id=source.name, version=answer.plan.library_id,
                license=source.card["weights"]["license"], source=OWN_RECIPE,
                active=sum(answer.plan.counts.values()),
            ),
        ),
        made=f"put together from modules of the library '{source.name}' ({source.card['title']})",
    )  # fmt: skip
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
        source=OWN_RECIPE,
    )


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
    examples: Path | None = None,
    allow_novel: bool = False,
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
        examples: As in :func:`build`.
        allow_novel: As in :func:`build`.
        points: About how many plans to return, at least 2.
        report: As in :func:`build`.
    """
    from ..factory.assembler.sizes import frontier_any_size

    request = open_request(
        task=task, device=device, classes=classes, library=library, input_size=input_size,
        examples=examples, allow_novel=allow_novel, report=report,
    )  # fmt: skip
    rows, steps = frontier_any_size(request.options, request.task, points)
    return Frontier(
        device=request.profile.name,
        library=request.source.name,
        task=request.task,
        points=tuple(rows),
        is_measured=all(option.table.is_measured for option in request.options),
        steps=steps,
    )
