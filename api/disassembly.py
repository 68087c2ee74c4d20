"""Disassembly on one page: what some classes need of a trained network, cut out and exported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..factory.errors import BudgetError
from ..factory.schema import (
    Budget,
    BuildResult,
    DeviceProfile,
    MeasuredChoice,
    Measurement,
    Parity,
)
from .component_choice import MORE
from .disassembly_request import Wish, check_classes, check_wish
from .disassembly_views import ClassView, Disassembly, FamilyView, ForgottenView, TaughtView
from .keeping import broken
from .pipeline import artifact_place
from .request import Report, Stopwatch, silent

if TYPE_CHECKING:
    from ..factory.reuse.donor import Donor
    from .component_case import Case, Found

FITTED = 1000  # images that layers are fitted to, and as many that judge, at most


def disassemble(
    model: str | Path | Donor, data: Path, *, classes: Sequence[str] = (),
    forget: Sequence[str] = (), device: str = "host", share: float | None = None,
    budget: Budget | None = None, thresholds: tuple[float, float] | str | None = None,
    reject: bool = False, keep_size: bool = False, finish: int = 0, images: int = FITTED,
    out_dir: Path | None = None, overwrite: bool = False, command: str = "",
    report: Report = silent,
) -> Disassembly:  # fmt: skip
    """Cut what some classes need out of a trained classifier or detector.

    An integer program chooses channels within the limits, by what contributes to the classes'
    outputs and by what the remaining ones cannot make up for; the layers that are left are fitted
    in closed form to what the whole network computes on images of the classes. Of several input
    sizes images choose.

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
        keep_size: Cut channels alone. By default smaller input sizes, of half the network's at
            least, are compared, too, where it can be run at them and no class is forgotten.
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
    from .component_case import open_case

    wish, watch = Wish(
        classes=tuple(classes), forget=tuple(forget), share=share, budget=budget or Budget(),
        thresholds=thresholds, reject=reject, keep_size=keep_size, epochs=finish,
    ), Stopwatch()  # fmt: skip
    check_wish(wish)
    profile = load_profile(device)
    if profile.name != "host":
        predictor_for(profile.name)  # raises before the work where nothing is known
    with watch.phase("open"):
        donor = open_donor(model) if isinstance(model, str | Path) else model
    check_classes(wish, donor)
    if wish.epochs:
        from ..factory.reuse.training.finish import check_trainable

        check_trainable([donor])
    if out_dir is not None:
        check_place(out_dir, "", overwrite=overwrite)  # which plan it will be is not known yet
    with watch.phase("data"):
        case = open_case(donor, data, wish.classes, images, reject=wish.reject, forget=wish.forget)
    made = _calibrated(_made(case, profile, wish, watch, report))
    return _written(case, made, profile, watch, out_dir, overwrite=overwrite, command=command)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Made:
    """A component before it is written."""

    found: Found
    measurement: Measurement | None
    whole_ms: float
    sizes: int
    budget: Budget
    parity: tuple[Parity, ...]
    taught: TaughtView | None = None


def _made(
    case: Case, profile: DeviceProfile, wish: Wish, watch: Stopwatch, report: Report
) -> _Made:
    """The component that is wished for, measured and proven.

    Raises:
        BudgetError: There is none.
    """
    from .component_choice import located, measured, with_latency
    from .component_sizes import kept

    with watch.phase("measure"):
        whole_ms, budget = with_latency(case, profile, wish.share, wish.budget)
    sides = _sides(case, wish)
    if wish.thresholds is None:
        try:
            found, measurement = kept(case, sides, profile, budget, watch, report)
        except BudgetError as error:
            error.hints = _with_shares(error, wish.share, whole_ms)
            raise
    else:
        pair = None if isinstance(wish.thresholds, str) else wish.thresholds
        with watch.phase("fit"):
            found = located(case, pair, report)
        with watch.phase("measure"):
            measurement = measured(found, profile, budget, report)
    with watch.phase("prove"):
        parity = found.prove()
    made = _Made(
        found=found, measurement=measurement, whole_ms=whole_ms, sizes=len(sides), budget=budget,
        parity=parity,
    )  # fmt: skip
    return _trained(made, profile, wish.epochs, watch, report) if wish.epochs else made


def _sides(case: Case, wish: Wish) -> list[int]:
    """Input sizes that are compared, the whole network's first; none where it is to stay."""
    from ..factory.reuse.disassembly.input_sizes import sides_of

    if wish.keep_size or wish.forget or wish.thresholds is not None:
        return []
    return sides_of(case.anatomy.network, case.donor.stride)


def _with_shares(error: BudgetError, share: float | None, whole_ms: float) -> tuple[str, ...]:
    """Hints that ask for a share where a share was asked for."""
    reachable = error.details.get("reachable", {})
    least = reachable.get("latency_ms") if isinstance(reachable, dict) else None
    if share is None or least is None:
        return error.hints
    wanted = MORE * least / whole_ms
    said = f"--share {math.ceil(100 * wanted) / 100:g}"
    if wanted > 0.99:
        said = "leave --share out: nothing is faster than the whole network"
    return tuple(said if hint.startswith("--latency") else hint for hint in error.hints)


def _trained(
    made: _Made, profile: DeviceProfile, epochs: int, watch: Stopwatch, report: Report
) -> _Made:
    """The component after training; measured and proven again.

    Raises:
        BudgetError: It kept the budget before, and not any more.
    """
    from ..factory.reuse.training.component_finish import taught
    from .component_choice import measured

    component, case = made.found.made, made.found.case
    with watch.phase("finish"):
        done = taught(
            component.network, case.anatomy.network, case.kind, case.learning, case.judged,
            epochs=epochs, report=report,
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
        measurement = measured(found, profile, made.budget, report)
        if measurement and measurement.verdict == "FAIL":
            measurement = measured(found, profile, made.budget, report)
    if measurement and measurement.verdict == "FAIL":
        raise broken(measurement, made.budget, hint="loosen it, or leave --finish out")
    return replace(
        made, found=found, measurement=measurement, parity=(*made.parity, done.parity), taught=view
    )


def _calibrated(made: _Made) -> _Made:
    """The component with probabilities that fit the images which judge; a detector as it is."""
    from ..factory.reuse.disassembly.calibration import calibrated

    component, case = made.found.made, made.found.case
    if case.donor.head is not None:
        return made
    network = calibrated(component.network, case.judging)
    return replace(made, found=replace(made.found, made=replace(component, network=network)))


def _written(
    case: Case, made: _Made, profile: DeviceProfile, watch: Stopwatch, out_dir: Path | None, *,
    overwrite: bool, command: str,
) -> Disassembly:  # fmt: skip
    """The artifact, and what is to be said of it."""
    from ..exporters.bundle import check_place
    from ..factory.reuse.rejection import NONE
    from .component_artifact import accuracies, certificate_of, plan_of, write_component
    from .model_file import estimate_of

    found = made.found
    epochs = made.taught.epochs if made.taught is not None and made.taught.is_kept else 0
    plan = plan_of(case, found, epochs)
    place = artifact_place(out_dir, plan, profile)
    check_place(place, plan.id, overwrite=overwrite)
    with watch.phase("accuracy"):
        measured, rows = accuracies(case, found)
        forgotten = tuple(
            ForgottenView(name=name, whole=whole, component=own, n=count)
            for name, whole, own, count in case.still_known(found.made.network)
        )
    model_bytes = found.model(plan)
    estimate = estimate_of(case.kind.answering(found.made.network), model_bytes, profile)
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
        whole_size=case.size, sizes=made.sizes,
        classes=tuple(ClassView(name=n, whole=w, component=c, n=k) for n, w, c, k in rows),
        forgotten=forgotten, taught=made.taught,
        has_others=case.donor.head is not None or NONE in plan.task.classes,
    )  # fmt: skip


def _families(case: Case, found: Found) -> tuple[FamilyView, ...]:
    from .component_case import own_name

    kept = found.made.plan.kept
    return tuple(
        FamilyView(name=own_name(f.name), channels=len(f.groups), kept=len(kept[f.name]))
        for f in case.anatomy.families
    )
