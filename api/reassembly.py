"""Reassembly on one page: donors taken apart, the best ways built and measured, one exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..factory.errors import BudgetError
from ..factory.schema import Budget, BuildResult, MeasuredChoice
from .foreign import BLOCKS, IMAGES
from .keeping import ROUNDS, broken, check_limits, excess_mib, measure_model
from .pipeline import artifact_place
from .request import Report, Stopwatch, need_torch, silent

if TYPE_CHECKING:
    from ..factory.graph.network import Network
    from ..factory.reuse.reassembly import Reassembled
    from ..factory.reuse.search import Way
    from ..factory.schema import Artifact, DeviceProfile, Estimate, Measurement
    from .reassembly_artifact import FinishView, Proven
    from .reassembly_pool import OpenedPool


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockView:
    """One block of a reassembled network.

    Attributes:
        donor: Whose block it is.
        start: Tensor of the donor that it reads.
        stop: Tensor of the donor that it makes.
        mparams: Parameters, in millions.
        stitch_r2: How much the stitch before it explains of what it was made for, at most 1; None
            where there is no stitch.
    """

    donor: str
    start: str
    stop: str
    mparams: float
    stitch_r2: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateView:
    """A network that was built to compare it.

    Attributes:
        donors: Whose block each is.
        value: What the search says it is worth.
        judged: Accuracy on images that neither its stitches nor its classifier were fitted to,
            in [0, 1].
        mparams: Parameters, in millions.
        mmacs: Multiply-adds, in millions.
    """

    donors: tuple[str, ...]
    value: float
    judged: float
    mparams: float
    mmacs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reassembly:
    """What ``reassemble`` returns.

    Attributes:
        result: The network, as of a build; its plan has a slot per block and a module per donor.
        blocks: Of the network, in order.
        candidates: What it was chosen from, best first.
        donors: Names of the pool.
        finish: What training did, or None without it.
    """

    result: BuildResult
    blocks: tuple[BlockView, ...]
    candidates: tuple[CandidateView, ...]
    donors: tuple[str, ...]
    finish: FinishView | None = None


def reassemble(
    pool: Sequence[str | Path], data: Path, *, device: str = "host", budget: Budget | None = None,
    classes: Sequence[str] = (), blocks: int = BLOCKS, most_donors: int | None = None,
    licenses: Sequence[str] = (), images: int = IMAGES, epochs: int = 0,
    out_dir: Path | None = None, overwrite: bool = False, command: str = "",
    report: Report = silent,
) -> Reassembly:  # fmt: skip
    """Build a classifier from blocks of imported networks, without a gradient step by default.

    Networks are divided into blocks that correspond. The 20 best ways through them within the
    budget, and every whole network that keeps it, get stitches by least squares and a classifier
    in closed form; the one that is right most often on other images is proven, measured and
    exported, a mixed one only where it is surely better than the best whole one.

    Args:
        pool: Names or folders of imported networks.
        data: Labelled images: one folder per class, or any format that ``modules check`` reads.
            Accuracy is measured on the part for testing, else on a quarter that is held out; at
            most 2,000 images of either are read.
        device: Name or alias of a device profile, or the path of one.
        budget: Limits on latency (median), memory, parameters and multiply-adds.
        classes: Names of some of the folder's classes; all by default.
        blocks: How many blocks each network is divided into.
        most_donors: How many networks may take part.
        licenses: Only networks whose license is one of these; any by default.
        images: How many images stitches are fitted to, at most, and as many others networks are
            chosen on; the classifier of the one that was chosen is fitted to all.
        epochs: Passes over the images in which stitches, classifier and then everything are
            trained, with the donors as teachers; needs the extra "train".
        out_dir: The artifact folder; by default ``./cls-<device>-<plan id, 8 hex>``.
        overwrite: Replace whatever is at ``out_dir``.
        command: Command line that is recorded in the manifest.
        report: Called with (phase, done, total) while something takes long.

    Raises:
        NNFactoryError: See the tree in ``factory/errors.py`` for what and why.
    """
    from ..devices.predictor import predictor_for
    from ..devices.profile import load_profile
    from .reassembly_artifact import write_reassembly
    from .reassembly_pool import open_pool

    budget, watch = budget or Budget(), Stopwatch()
    check_limits(budget, "A reassembly")
    if epochs:
        need_torch("Training")
    profile = load_profile(device)
    if profile.name != "host":
        predictor_for(profile.name)  # raises before the work where nothing is known
    opened = open_pool(
        pool, data, latency_of=None if budget.latency_ms is None else profile.name,
        classes=classes, blocks=blocks, licenses=licenses, images=images, watch=watch,
        report=report,
    )  # fmt: skip
    wish = _Wish(
        profile=profile, budget=budget, most_donors=most_donors, epochs=epochs, out_dir=out_dir,
        overwrite=overwrite,
    )  # fmt: skip
    proven, ranked = _proven(opened, wish, watch, report)
    asked = {"donors": most_donors, "licenses": list(licenses)}
    further_limits = {name: limit for name, limit in asked.items() if limit}
    with watch.phase("export"):
        artifact = write_reassembly(
            opened, proven, profile=profile, budget=budget, out_dir=out_dir, overwrite=overwrite,
            command=command, further_limits=further_limits,
        )  # fmt: skip
    return _answer(opened, proven, ranked, artifact, profile, watch)


def _proven(
    opened: OpenedPool, wish: _Wish, watch: Stopwatch, report: Report
) -> tuple[Proven, Sequence[Reassembled]]:
    """The network that was chosen, trained where that is asked for, and what it was chosen among.

    Raises:
        NNFactoryError: None keeps the budget, or what is asked for cannot be trained.
    """
    if wish.epochs:
        from ..factory.reuse.training.finish import check_trainable

        check_trainable([place.donor for place in opened.pool.places])
    proven, ranked = _prove_one(opened, wish, watch, report)
    if wish.epochs:
        with watch.phase("finish"):
            proven = _trained(opened, proven, wish, report)
    return proven, ranked


def _answer(
    opened: OpenedPool, proven: Proven, ranked: Sequence[Reassembled], artifact: Artifact,
    profile: DeviceProfile, watch: Stopwatch,
) -> Reassembly:  # fmt: skip
    return Reassembly(
        result=BuildResult(
            plan=proven.plan, estimate=proven.estimate, certificate=proven.certificate,
            artifact=artifact, parity=proven.parity, measurement=proven.measurement,
            device=profile.name, seconds=watch.seconds, accuracy=proven.accuracy,
            chosen=proven.chosen,
        ),
        blocks=_blocks(opened, proven.made),
        candidates=tuple(_candidate(opened, made) for made in ranked),
        donors=opened.names,
        finish=proven.finish,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is asked for, besides pool and images; see :func:`reassemble`."""

    profile: DeviceProfile
    budget: Budget
    most_donors: int | None
    epochs: int
    out_dir: Path | None
    overwrite: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tried:
    """A network that was built to see whether it keeps the budget."""

    ranked: list[Reassembled]
    proven: Proven
    network: Network
    excess_mib: float
    slow_ms: float | None


def _prove_one(
    opened: OpenedPool, wish: _Wish, watch: Stopwatch, report: Report
) -> tuple[Proven, list[Reassembled]]:
    """Search and build, until the whole network keeps the budget; all that was built, best first.

    Blocks are measured one by one, so their sum may be less than what the whole takes: then costs
    are scaled to that, and the search is made again.

    Raises:
        BudgetError: No network keeps the budget, or none did when it was measured.
    """
    from ..factory.reuse.choice import infeasible, limits_of, ways_within
    from ..factory.reuse.proof import prove
    from .reassembly_artifact import accuracy_of

    stages, budget, most_donors = opened.pool.stages, wish.budget, wish.most_donors
    slower, spare_mib, failure = 1.0, 0.0, None
    for _ in range(ROUNDS):
        limits = limits_of(budget)
        if budget.latency_ms is not None:
            limits["latency_ms"] = budget.latency_ms / slower
        if budget.memory_mib is not None:
            limits["memory_mib"] = budget.memory_mib - spare_mib
        with watch.phase("search"):
            ways = ways_within(stages, limits, most_donors=most_donors)
            if not ways:
                raise failure or infeasible(stages, limits, most_donors=most_donors)
        tried = _tried(opened, ways, limits, wish, watch, report)
        proven = tried.proven
        if not tried.excess_mib and tried.slow_ms is None:
            with watch.phase("prove"):
                parity = prove(opened.pool, proven.made, tried.network)
                accuracy = (accuracy_of(opened, proven.plan, tried.network),)
            return replace(proven, parity=parity, accuracy=accuracy), tried.ranked
        failure = _failure(proven.estimate, proven.measurement, budget)
        spare_mib += tried.excess_mib
        if tried.slow_ms is not None:
            slower = max(slower * 1.002, tried.slow_ms / proven.made.way.costs["latency_ms"])
    assert failure is not None
    raise failure


def _tried(
    opened: OpenedPool, ways: Sequence[Way], limits: Mapping[str, float], wish: _Wish,
    watch: Stopwatch, report: Report,
) -> _Tried:  # fmt: skip
    """The best of some ways as a network; measured, where the device is at hand."""
    from ..exporters.bundle import check_place
    from ..factory.reuse.choice import certificate_of
    from ..factory.reuse.reassembly import answering, with_head_of
    from .model_file import estimate_of
    from .reassembly_artifact import Proven, model_of, plan_of

    with watch.phase("build"):
        ranked = _ranked(opened, ways, report)
        donor = opened.donor(ranked[0].way.blocks)
        made = with_head_of(ranked[0], donor, opened.images.training[donor.input_size])
    profile, plan = wish.profile, plan_of(opened, made, wish.epochs)
    place = artifact_place(wish.out_dir, plan, profile)
    check_place(place, plan.id, overwrite=wish.overwrite)
    network = answering(made.network, donor)
    model = model_of(opened, plan, network)
    estimate, measurement = estimate_of(network, model, profile), None
    if profile.name == "host":
        with watch.phase("measure"):
            report("measuring", 0, 1)
            measurement = measure_model(model, profile, wish.budget)
    proven = Proven(
        made=made, plan=plan, model=model, estimate=estimate, measurement=measurement,
        certificate=certificate_of(
            opened.pool.stages, limits, made.way, most_donors=wish.most_donors
        ),
        chosen=MeasuredChoice(
            candidates=len(ranked), images=len(opened.images.judging), accuracy=_judged(made)
        ),
    )  # fmt: skip
    return _Tried(
        ranked=ranked, proven=proven, network=network,
        excess_mib=excess_mib(measurement, wish.budget),
        slow_ms=_slow_ms(estimate, measurement, wish.budget),
    )  # fmt: skip


def _trained(opened: OpenedPool, proven: Proven, wish: _Wish, report: Report) -> Proven:
    """The network after training; measured and proven again.

    Raises:
        BudgetError: It kept the budget before, and not any more.
    """
    from ..factory.reuse.reassembly import answering, reassembled, with_head_of
    from ..factory.reuse.training.finish import finished, prove_trained
    from .reassembly_artifact import FinishView, accuracy_of, model_of

    donor, training = opened.donor(proven.made.way.blocks), opened.images.training
    stages, whole = opened.pool.stages, []
    ways = [stages.way((i,) * len(stages.value)) for i in range(len(opened.names))]
    for one in reassembled(opened.pool, ways, opened.images.fitting, opened.seen):
        teacher = opened.donor(one.way.blocks)
        whole.append((with_head_of(one, teacher, training[teacher.input_size]), teacher))
    done = finished(
        proven.made, donor, whole, training, opened.images.judging, epochs=wish.epochs,
        report=report,
    )  # fmt: skip
    view = FinishView(
        epochs=wish.epochs, images=done.trained_on, left_out=done.left_out, before=done.before,
        after=done.after, is_kept=done.after > done.before,
    )  # fmt: skip
    if not view.is_kept:
        return replace(proven, finish=view)
    network = answering(done.network, donor)
    model = model_of(opened, proven.plan, network)
    parity = prove_trained(done.network, donor, network)  # what was proven before is another one
    measurement = None
    for _ in range(ROUNDS if proven.measurement else 0):  # the same graph: a failure is noise
        measurement = measure_model(model, wish.profile, wish.budget)
        if measurement.verdict != "FAIL":
            break
    if measurement and measurement.verdict == "FAIL":
        raise _failure(proven.estimate, measurement, wish.budget)
    return replace(
        proven, model=model, measurement=measurement, finish=view, parity=(parity,),
        accuracy=(accuracy_of(opened, proven.plan, network),),
    )  # fmt: skip


def _slow_ms(estimate: Estimate, measurement: Measurement | None, budget: Budget) -> float | None:
    """The latency of the whole network, if it breaks the budget."""
    if measurement is not None:
        return measurement.percentile(50) if measurement.verdict == "FAIL" else None
    if estimate.latency_ms is None or budget.latency_ms is None:
        return None
    return estimate.latency_ms.value if estimate.latency_ms.value > budget.latency_ms else None


def _failure(estimate: Estimate, measurement: Measurement | None, budget: Budget) -> BudgetError:
    """What the last try was like."""
    if measurement is not None:
        return broken(measurement, budget, hint="loosen it, or name a smaller network, too")
    assert estimate.latency_ms is not None
    return BudgetError(
        f"No network kept latency <= {budget.latency_ms:g} ms: the last try is estimated at "
        f"{estimate.latency_ms.value:.4g} ms.",
        hints=[f"--latency {estimate.latency_ms.value * 1.01:.4g}ms"],
    )


def _ranked(opened: OpenedPool, ways: Sequence[Way], report: Report) -> list[Reassembled]:
    """Networks, the best by images that they were not fitted to first; of equals the smaller.

    A mixed network comes before the best whole donor only if it is surely better.
    """
    from ..factory.reuse.reassembly import is_surely_better, reassembled

    built = reassembled(opened.pool, ways, opened.images.choosing, opened.seen, report=report)
    ranked = sorted(built, key=lambda one: (-_judged(one), one.way.costs["mparams"]))
    donor = next((one for one in ranked if len(set(one.way.blocks)) == 1), None)
    if donor is not None and not is_surely_better(ranked[0], donor):
        ranked.remove(donor)
        ranked.insert(0, donor)
    return ranked


def _judged(made: Reassembled) -> float:
    assert made.judged is not None  # there are always images to judge
    return made.judged


def _blocks(opened: OpenedPool, made: Reassembled) -> tuple[BlockView, ...]:
    views = []
    for stage, (donor, r2) in enumerate(zip(made.way.blocks, (None, *made.r2), strict=True)):
        ((start,), (stop,)) = (
            opened.pool.blocks[stage][donor].inputs,
            opened.pool.blocks[stage][donor].outputs,
        )
        views.append(
            BlockView(
                donor=opened.names[donor], start=start, stop=stop, stitch_r2=r2,
                mparams=float(opened.pool.stages.costs["mparams"][stage, donor]),
            )
        )  # fmt: skip
    return tuple(views)


def _candidate(opened: OpenedPool, made: Reassembled) -> CandidateView:
    way = made.way
    return CandidateView(
        donors=tuple(opened.names[donor] for donor in way.blocks), value=way.value,
        judged=_judged(made), mparams=way.costs["mparams"], mmacs=way.costs["mmacs"],
    )  # fmt: skip
