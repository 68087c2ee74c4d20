"""Disassembly on one page: what some classes need of a trained network, cut out and exported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..factory.errors import BudgetError, UsageError
from ..factory.schema import (
    Budget,
    BuildResult,
    DeviceProfile,
    MeasuredChoice,
    Measurement,
    Parity,
)
from .component_choice import MORE
from .keeping import broken
from .pipeline import artifact_place
from .request import Report, Stopwatch, need_torch, silent

if TYPE_CHECKING:
    from ..factory.reuse.donor import Donor
    from .component_artifact import Case, Found

FITTED = 1000  # images that layers are fitted to, and as many that judge, at most


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
        whole: Accuracy of the whole network on it, among the task's classes, or its average
            precision at IoU 0.5 (det), in [0, 1].
        component: Of the component.
        n: Images that show it.
    """

    name: str
    whole: float
    component: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgottenView:
    """A class that was to be forgotten.

    Attributes:
        name: Its name.
        whole: How well a linear layer on the whole network's last features tells its images from
            those of all other classes: the area under the ROC curve, 0.5 to 1.
        component: The same on the component's.
        n: Images of the class that this was measured on.
    """

    name: str
    whole: float
    component: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaughtView:
    """What training did.

    Attributes:
        epochs: Passes over the images.
        before: Divergence from the whole network on images that are left out, in nats.
        after: The same after training.
        is_kept: Whether the trained weights were taken: only if they are nearer.
    """

    epochs: int
    before: float
    after: float
    is_kept: bool


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
        forgotten: What is left of classes that were to be forgotten.
        taught: What training did, or None without it.
    """

    result: BuildResult
    families: tuple[FamilyView, ...]
    classes: tuple[ClassView, ...]
    values: str
    whole_ms: float | None
    forgotten: tuple[ForgottenView, ...] = ()
    taught: TaughtView | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is asked for, as in :func:`disassemble`."""

    classes: tuple[str, ...]
    forget: tuple[str, ...]
    share: float | None
    budget: Budget
    thresholds: tuple[float, float] | str | None
    reject: bool
    epochs: int


def disassemble(
    model: str | Path | Donor, data: Path, *, classes: Sequence[str] = (),
    forget: Sequence[str] = (), device: str = "host", share: float | None = None,
    budget: Budget | None = None, thresholds: tuple[float, float] | str | None = None,
    reject: bool = False, finish: int = 0, images: int = FITTED, out_dir: Path | None = None,
    overwrite: bool = False, command: str = "", report: Report = silent,
) -> Disassembly:  # fmt: skip
    """Cut what some classes need out of a trained classifier or detector.

    An integer program chooses channels within the limits, by what contributes to the classes'
    outputs and by what the remaining ones cannot make up for; the layers that are left are fitted
    in closed form to what the whole network computes on images of the classes.

    Args:
        model: Name or folder of an imported network, or the network itself.
        data: Labelled images in any format that ``modules check`` reads, named as the network's
            labels.
        classes: Which of the labels, two at least of a classifier without ``reject``; with
            ``forget`` all others of the images by default.
        forget: Labels that the component shall know nothing of: what serves them more than the
            others goes first. Classifiers only.
        device: Name or alias of a device profile, or the path of one.
        share: Latency limit as a share of the whole network's on the device, in (0, 1).
        budget: Limits on latency (median), parameters, multiply-adds and peak memory.
        thresholds: Instead of limits, what counts as relevant: alpha and beta, each in [0, 1], or
            "paper" for those of the paper's code.
        reject: Add a class "none of these", from the images of all other classes in ``data``.
            Classifiers only.
        finish: Passes over the images in which all weights are trained towards the whole network's
            answers; needs torch.
        images: How many images layers are fitted to, at most, and as many others judge.
        out_dir: The artifact folder; by default ``./<cls or det>-<device>-<plan id, 8 hex>``.
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
    from .component_artifact import open_case

    wish, watch = _Wish(
        classes=tuple(classes), forget=tuple(forget), share=share, budget=budget or Budget(),
        thresholds=thresholds, reject=reject, epochs=finish,
    ), Stopwatch()  # fmt: skip
    _check(wish)
    profile = load_profile(device)
    if profile.name != "host":
        predictor_for(profile.name)  # raises before the work where nothing is known
    with watch.phase("open"):
        donor = open_donor(model) if isinstance(model, str | Path) else model
        donor.outputs_of((*wish.classes, *wish.forget))
    _check_classes(wish, donor)
    if out_dir is not None:
        check_place(out_dir, "", overwrite=overwrite or (out_dir / "manifest.json").is_file())
    with watch.phase("data"):
        case = open_case(donor, data, wish.classes, images, reject=wish.reject, forget=wish.forget)
    made = _made(case, profile, wish, watch, report)
    return _written(case, made, profile, watch, out_dir, overwrite=overwrite, command=command)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Made:
    """A component before it is written."""

    found: Found
    measurement: Measurement | None
    whole_ms: float | None
    budget: Budget
    parity: tuple[Parity, ...]
    taught: TaughtView | None = None


def _made(
    case: Case, profile: DeviceProfile, wish: _Wish, watch: Stopwatch, report: Report
) -> _Made:
    """The component that is wished for, measured and proven.

    Raises:
        BudgetError: There is none.
    """
    from .component_choice import kept, located, measured, with_latency

    with watch.phase("measure"):
        whole_ms, budget = with_latency(case, profile, wish.share, wish.budget)
    if wish.thresholds is None:
        try:
            found, measurement = kept(case, profile, budget, watch, report)
        except BudgetError as error:
            error.hints = _with_shares(error, wish.share, whole_ms)
            raise
    else:
        pair = None if isinstance(wish.thresholds, str) else wish.thresholds
        with watch.phase("fit"):
            found = located(case, pair, report)
        with watch.phase("measure"):
            measurement = measured(case, found, profile, budget, report)
    with watch.phase("prove"):
        parity = found.prove(case)
    made = _Made(
        found=found, measurement=measurement, whole_ms=whole_ms, budget=budget, parity=parity
    )
    return _trained(case, made, profile, wish.epochs, watch, report) if wish.epochs else made


def _with_shares(
    error: BudgetError, share: float | None, whole_ms: float | None
) -> tuple[str, ...]:
    """Hints that ask for a share where a share was asked for."""
    reachable = error.details.get("reachable", {})
    least = reachable.get("latency_ms") if isinstance(reachable, dict) else None
    if share is None or whole_ms is None or least is None:
        return error.hints
    wanted = MORE * least / whole_ms
    said = f"--share {math.ceil(100 * wanted) / 100:g}"
    if wanted > 0.99:
        said = "leave --share out: nothing is faster than the whole network"
    return tuple(said if hint.startswith("--latency") else hint for hint in error.hints)


def _trained(
    case: Case, made: _Made, profile: DeviceProfile, epochs: int, watch: Stopwatch, report: Report
) -> _Made:
    """The component after training; measured and proven again.

    Raises:
        BudgetError: It kept the budget before, and not any more.
    """
    from ..factory.reuse.training.component_finish import taught
    from .component_choice import measured

    component, whole = made.found.made, case.anatomy.network
    with watch.phase("finish"):
        done = taught(
            component.network, whole, case.kind, case.learning, case.judging, epochs=epochs,
            report=report,
        )  # fmt: skip
    view = TaughtView(
        epochs=epochs, before=done.before.divergence, after=done.after.divergence,
        is_kept=done.parity is not None,
    )  # fmt: skip
    if done.parity is None:
        return replace(made, taught=view)
    better = replace(component, network=done.network, judged=done.after)
    found = replace(made.found, made=better)
    with watch.phase("measure"):  # the same graph: a first failure is noise
        measurement = measured(case, found, profile, made.budget, report)
        if measurement and measurement.verdict == "FAIL":
            measurement = measured(case, found, profile, made.budget, report)
    if measurement and measurement.verdict == "FAIL":
        raise broken(measurement, made.budget, hint="loosen it, or leave --finish out")
    return replace(
        made, found=found, measurement=measurement, parity=(*made.parity, done.parity), taught=view
    )


def _written(
    case: Case, made: _Made, profile: DeviceProfile, watch: Stopwatch, out_dir: Path | None, *,
    overwrite: bool, command: str,
) -> Disassembly:  # fmt: skip
    """The artifact, and what is to be said of it."""
    from ..exporters.bundle import check_place
    from .component_artifact import accuracies, certificate_of, plan_of, write_component
    from .model_file import estimate_of

    found = made.found
    is_taught = made.taught is not None and made.taught.is_kept
    plan = plan_of(case, found, made.taught.epochs if made.taught and is_taught else 0)
    place = artifact_place(out_dir, plan, profile)
    check_place(place, plan.id, overwrite=overwrite)
    with watch.phase("accuracy"):
        measured, rows = accuracies(case, found)
        forgotten = tuple(
            ForgottenView(name=name, whole=whole, component=own, n=count)
            for name, whole, own, count in case.still_known(found.made.network)
        )
    model_bytes = found.model(case, plan)
    estimate = estimate_of(found.answering, model_bytes, profile)
    certificate = certificate_of(found, made.budget)
    chosen = MeasuredChoice(
        candidates=found.candidates, images=len(case.judging),
        accuracy=found.made.judged.accuracy,
    )  # fmt: skip
    with watch.phase("export"):
        artifact = write_component(
            case, found, plan, model_bytes, estimate=estimate, certificate=certificate,
            parity=made.parity, accuracy=measured, chosen=chosen, measurement=made.measurement,
            profile=profile, budget=made.budget, place=place, overwrite=overwrite, command=command,
        )  # fmt: skip
    return Disassembly(
        result=BuildResult(
            plan=plan, estimate=estimate, certificate=certificate, artifact=artifact,
            parity=made.parity, measurement=made.measurement, device=profile.name,
            seconds=watch.seconds, accuracy=measured, chosen=chosen,
        ),
        families=_families(case, found), values=found.made.plan.values, whole_ms=made.whole_ms,
        classes=tuple(ClassView(name=n, whole=w, component=c, n=k) for n, w, c, k in rows),
        forgotten=forgotten, taught=made.taught,
    )  # fmt: skip


def _families(case: Case, found: Found) -> tuple[FamilyView, ...]:
    from .component_artifact import own_name

    kept = found.made.plan.kept
    return tuple(
        FamilyView(name=own_name(f.name), channels=len(f.groups), kept=len(kept[f.name]))
        for f in case.anatomy.families
    )


def _check(wish: _Wish) -> None:
    """Raise if the request makes no sense."""
    budget = wish.budget
    if twice := sorted(set(wish.classes) & set(wish.forget)):
        raise UsageError(f"Class {twice[0]!r} cannot be kept and forgotten.")
    known = Budget(
        latency_ms=budget.latency_ms, mparams=budget.mparams, mmacs=budget.mmacs,
        memory_mib=budget.memory_mib,
    )  # fmt: skip
    if budget != known:
        raise UsageError(
            "A component knows limits of median latency, parameters, multiply-adds and memory."
        )
    if wish.share is not None and not 0 < wish.share < 1:
        raise UsageError(f"A share of the latency lies between 0 and 1, got {wish.share:g}.")
    if wish.share is not None and budget.latency_ms is not None:
        raise UsageError("Limit the latency in milliseconds or as a share, not both.")
    _check_thresholds(wish)
    if wish.epochs < 0:
        raise UsageError(f"There are no {wish.epochs} passes over images.")
    if wish.epochs:
        need_torch("--finish")


def _check_classes(wish: _Wish, donor: Donor) -> None:
    """Raise unless there is something to tell apart: a detector also tells objects from nothing."""
    is_open = wish.reject or donor.head is not None
    if not wish.classes and not wish.forget:
        raise UsageError("Name the classes of the component, or those to forget.")
    if wish.classes and len(set(wish.classes)) < (1 if is_open else 2):
        raise UsageError(
            "A component needs two classes at least: one alone is always right, whatever it sees.",
            hints=["name another class to tell it from", "--reject tells it from everything else"],
        )


def _check_thresholds(wish: _Wish) -> None:
    is_limited = wish.share is not None or wish.budget != Budget()
    if wish.thresholds is None:
        if not is_limited and not wish.forget:
            raise UsageError(
                "Say how small the component must be.",
                hints=["--share 0.5 for half of the latency", "--latency, --params or --macs",
                       "--thresholds for whatever the paper's thresholds keep"],
            )  # fmt: skip
        return
    if is_limited or wish.forget:
        raise UsageError("Thresholds know no limits and forget nothing: ask for either.")
    pair = () if wish.thresholds == "paper" else wish.thresholds
    if isinstance(pair, str) or len(pair) not in (0, 2) or not all(0 <= x <= 1 for x in pair):
        raise UsageError(f"Thresholds are alpha and beta in [0, 1], got {wish.thresholds!r}.")
