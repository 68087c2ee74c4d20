"""Disassembly on one page: what some classes need of a trained network, cut out and exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..factory.errors import BudgetError, UsageError
from ..factory.schema import Budget, BuildResult, DeviceProfile, MeasuredChoice, Measurement
from .keeping import ROUNDS, broken, measure_model
from .pipeline import artifact_place
from .request import Report, Stopwatch, silent

if TYPE_CHECKING:
    from ..factory.reuse.disassembly import component
    from ..factory.reuse.donor import Donor
    from .component_artifact import Case, Found

FITTED = 1000  # images that layers are fitted to, and as many that judge, at most
SPARE = 0.98  # of a latency limit is asked for: a second measurement differs
LIMITS = ("latency_ms", "mparams", "mmacs")


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyView:
    """Inner channels of a network, and what is left of them.

    Attributes:
        name: The tensor that holds them.
        channels: How many there were.
        kept: How many there are; 0 where a whole branch is gone.
    """

    name: str
    channels: int
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassView:
    """A class of the component.

    Attributes:
        name: Its name.
        whole: Accuracy of the whole network on it, among the task's classes, in [0, 1].
        component: Of the component.
        n: Images.
    """

    name: str
    whole: float
    component: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disassembly:
    """What ``disassemble`` returns.

    Attributes:
        result: The component, as of a build; its accuracies are its own and the whole network's
            on the same images ("library").
        families: In execution order.
        classes: In order.
        values: What chose the channels.
        whole_ms: Latency of the whole network with the task's classes alone, measured on this
            machine or estimated for the device, if the latency was limited; else None.
    """

    result: BuildResult
    families: tuple[FamilyView, ...]
    classes: tuple[ClassView, ...]
    values: str
    whole_ms: float | None


def disassemble(
    model: str | Path | Donor, data: Path, *, classes: Sequence[str], device: str = "host",
    share: float | None = None, budget: Budget | None = None, images: int = FITTED,
    out_dir: Path | None = None, overwrite: bool = False, command: str = "",
    report: Report = silent,
) -> Disassembly:  # fmt: skip
    """Cut what some classes need out of a trained classifier, without training.

    An integer program chooses channels within the limits, by what contributes to the classes'
    logits and by what the remaining ones cannot make up for; the layers that are left are fitted
    in closed form to what the whole network computes on images of the classes.

    Args:
        model: Name or folder of an imported network, or the network itself.
        data: Labelled images in any format that ``modules check`` reads; folders are named as the
            network's labels.
        classes: Which of the labels, two at least.
        device: Name or alias of a device profile, or the path of one.
        share: Latency limit as a share of the whole network's on the device, in (0, 1).
        budget: Limits on latency (median), parameters and multiply-adds.
        images: How many images layers are fitted to, at most, and as many others judge.
        out_dir: The artifact folder; by default ``./cls-<device>-<plan id, 8 hex>``.
        overwrite: Replace whatever is at ``out_dir``.
        command: Command line that is recorded in the manifest.
        report: Called with (phase, done, total) while something takes long.

    Raises:
        NNFactoryError: See the tree in ``factory/errors.py`` for what and why.
    """
    from ..devices.predictor import predictor_for
    from ..devices.profile import load_profile
    from ..exporters.bundle import check_place
    from ..factory.reuse.store import open_donor
    from .component_artifact import accuracies, certificate_of, open_case, plan_of, write_component
    from .model_file import estimate_of

    budget, watch = budget or Budget(), Stopwatch()
    _check(classes, share, budget)
    profile = load_profile(device)
    if profile.name != "host":
        predictor_for(profile.name)  # raises before the work where nothing is known
    with watch.phase("open"):
        donor = open_donor(model) if isinstance(model, str | Path) else model
        donor.outputs_of(classes)
    if out_dir is not None:
        check_place(out_dir, "", overwrite=overwrite or (out_dir / "manifest.json").is_file())
    with watch.phase("data"):
        case = open_case(donor, data, classes, images)
    with watch.phase("measure"):
        whole_ms, budget = _with_latency(case, profile, share, budget)
    found, measurement = _kept(case, profile, budget, watch, report)
    plan = plan_of(case, found)
    place = artifact_place(out_dir, plan, profile)
    check_place(place, plan.id, overwrite=overwrite)
    with watch.phase("prove"):
        parity = found.prove(case)
    with watch.phase("accuracy"):
        measured, rows = accuracies(case, found)
    per_class = tuple(ClassView(name=n, whole=w, component=c, n=k) for n, w, c, k in rows)
    model_bytes = found.model(case, plan)
    estimate = estimate_of(found.answering, model_bytes, profile)
    certificate = certificate_of(found, budget)
    chosen = MeasuredChoice(
        candidates=found.candidates, images=len(case.judging), accuracy=found.made.accuracy
    )
    with watch.phase("export"):
        artifact = write_component(
            case, found, plan, model_bytes, estimate=estimate, certificate=certificate,
            parity=parity, accuracy=measured, chosen=chosen, measurement=measurement,
            profile=profile, budget=budget, place=place, overwrite=overwrite, command=command,
        )  # fmt: skip
    return Disassembly(
        result=BuildResult(
            plan=plan, estimate=estimate, certificate=certificate, artifact=artifact,
            parity=parity, measurement=measurement, device=profile.name, seconds=watch.seconds,
            accuracy=measured, chosen=chosen,
        ),
        families=_families(case, found), classes=per_class, values=found.made.plan.values,
        whole_ms=whole_ms,
    )  # fmt: skip


def _families(case: Case, found: Found) -> tuple[FamilyView, ...]:
    from .component_artifact import own_name

    kept = found.made.plan.kept
    return tuple(
        FamilyView(name=own_name(f.name), channels=len(f.groups), kept=len(kept[f.name]))
        for f in case.anatomy.families
    )


def _check(classes: Sequence[str], share: float | None, budget: Budget) -> None:
    """Raise if the request makes no sense."""
    if len(set(classes)) < 2:
        raise UsageError(
            "A component needs two classes at least: one alone is always right, whatever it sees.",
            hints=["name another class to tell it from"],
        )
    known = Budget(latency_ms=budget.latency_ms, mparams=budget.mparams, mmacs=budget.mmacs)
    if budget != known:
        raise UsageError("A component knows limits of median latency, parameters, multiply-adds.")
    if share is not None and not 0 < share < 1:
        raise UsageError(f"A share of the latency lies between 0 and 1, got {share:g}.")
    if share is not None and budget.latency_ms is not None:
        raise UsageError("Limit the latency in milliseconds or as a share, not both.")
    if share is None and budget == Budget():
        raise UsageError(
            "Say how small the component must be.",
            hints=["--share 0.5 for half of the latency", "--latency, --params or --macs"],
        )


def _with_latency(
    case: Case, profile: DeviceProfile, share: float | None, budget: Budget
) -> tuple[float | None, Budget]:
    """The latency of the whole network, and the budget with a share of it made milliseconds."""
    if share is None and budget.latency_ms is None:
        return None, budget
    if profile.name == "host":
        measured = measure_model(case.whole_model(), profile, Budget())
        whole_ms = measured.percentile(50)
    else:
        whole_ms = case.latency_on(profile)(case.anatomy.network)
    if share is None:
        return whole_ms, budget
    limited = Budget(latency_ms=share * whole_ms, mparams=budget.mparams, mmacs=budget.mmacs)
    return whole_ms, limited


def _kept(
    case: Case, profile: DeviceProfile, budget: Budget, watch: Stopwatch, report: Report
) -> tuple[Found, Measurement | None]:
    """The component that keeps the budget when it is measured.

    Raises:
        BudgetError: None does.
    """
    from .component_artifact import Found

    with watch.phase("values"):
        case.value(report)
    with watch.phase("costs"):
        case.count(profile if budget.latency_ms is not None else None, report)
    slower, measurement = 1.0, None
    for _ in range(ROUNDS):
        with watch.phase("choose"):
            plans = _plans(case, profile, budget, slower)
        with watch.phase("fit"):
            made = [case.made(plan, report) for plan in plans]
        best = min(made, key=lambda one: one.divergence)
        found = Found(made=best, candidates=len(made))
        if profile.name != "host":
            return found, None
        with watch.phase("measure"):
            report("measuring", 0, 1)
            measurement = measure_model(found.model(case, None), profile, budget)
        if measurement.verdict != "FAIL":
            return found, measurement
        assert budget.latency_ms is not None
        slower *= 1.01 * measurement.percentile(50) / budget.latency_ms
    assert measurement is not None
    raise broken(measurement, budget, hint="loosen it, or begin with a smaller network")


def _plans(
    case: Case, profile: DeviceProfile, budget: Budget, slower: float
) -> list[component.Plan]:
    """A plan per kind of value, each within the limits as its whole network is measured.

    Raises:
        BudgetError: There is none.
    """
    from ..factory.reuse.disassembly.component import plan_within

    limits = {key: value for key in LIMITS if (value := getattr(budget, key)) is not None}
    plans: list[component.Plan] = []
    reached = 0.0
    for values, losses in case.values.items():
        aim = dict(limits)
        if budget.latency_ms is not None:
            aim["latency_ms"] = SPARE * budget.latency_ms / slower
        for _ in range(ROUNDS):
            plan = plan_within(case.anatomy, values, losses, case.costs, aim)
            if budget.latency_ms is None:
                break
            reached = slower * case.latency_on(profile)(plan.network)
            if reached <= budget.latency_ms:
                break
            aim["latency_ms"] *= SPARE * budget.latency_ms / reached
        else:
            continue
        if all(plan.choice != other.choice for other in plans):
            plans.append(plan)
    if not plans:
        raise BudgetError(
            f"No component kept latency <= {budget.latency_ms:g} ms on '{profile.name}': the last "
            f"of {ROUNDS} tries took {reached:.4g} ms.",
            hints=[f"--latency {reached * 1.01:.4g}ms"],
        )
    return plans
