"""A component of a trained network as an artifact: plan, certificate, accuracies, files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..factory.schema import (
    Accuracy,
    Artifact,
    Budget,
    Certificate,
    DeviceProfile,
    Estimate,
    MeasuredChoice,
    Measurement,
    Parity,
    Plan,
    Task,
)
from .component_case import Case, Found, own_name
from .reassembly_artifact import UNKNOWN_LICENSE


def plan_of(case: Case, found: Found, epochs: int) -> Plan:
    """The decisions about a component: which channels of which tensors stay.

    Args:
        case: What it was cut from.
        found: What stays.
        epochs: Passes over the images in which it was trained; 0 where that was not taken.
    """
    from ..factory.graph.costs import parameter_count
    from ..factory.graph.network import model_from_network

    donor = case.donor
    said = model_from_network(donor.network).SerializeToString()
    said += repr((donor.mean, donor.std, donor.colors)).encode()
    fitted = f"{case.images.digest} {len(case.images.fitted)} {epochs}"
    whole = parameter_count(case.anatomy.network)
    return Plan(
        task=Task(kind=case.donor.kind, classes=case.images.classes),
        library=donor.name,
        library_id=hashlib.sha256(said).hexdigest()[:16],
        active={
            own_name(name): tuple(kept.tolist()) for name, kept in found.made.plan.kept.items()
        },
        input_size=found.case.size,
        normalization="sliced",
        statistics_of=hashlib.sha256(fitted.encode()).hexdigest()[:16],
        sparsity=max(0.0, 1 - parameter_count(found.made.network) / whole),
    )


def certificate_of(found: Found, budget: Budget) -> Certificate:
    """Why these channels: no other ones lose less by these values and costs."""
    from ..factory.reuse.disassembly.component import INPUT_SIZE

    plan, choice = found.made.plan, found.made.plan.choice
    if plan.values == INPUT_SIZE:
        return Certificate(method="nothing cut", objective=0.0, bound=0.0, gap=0.0)
    if choice is None:  # thresholds ask for no best; all of the logits would be the most
        return Certificate(method="thresholds", objective=plan.flow, bound=1.0, gap=1 - plan.flow)
    gap = max(0.0, choice.loss - choice.bound)
    binding = tuple(
        name
        for name, limit in (
            ("latency", budget.latency_ms), ("params", budget.mparams), ("macs", budget.mmacs),
            ("memory", budget.memory_mib),
        )
        if limit is not None
    )  # fmt: skip
    return Certificate(
        method="integer program", objective=-choice.loss, bound=-choice.bound,
        gap=gap / max(abs(choice.bound), 1.0), binding=binding,
    )  # fmt: skip


def accuracies(
    case: Case, found: Found
) -> tuple[tuple[Accuracy, ...], list[tuple[str, float, float, int]]]:
    """Of the component and of the whole network on the same images; and per class."""
    from ..factory.accuracy_measurement import class_accuracies, measure_accuracy

    classes = len(case.images.classes)
    shown = (
        ("artifact", case.kind.answering(found.made.network), found.case.as_deployed()),
        ("library", case.kind.answering(case.anatomy.network), case.measuring),
    )
    measured = tuple(
        Accuracy(
            subject=subject,
            dataset=f"{case.images.name}, {len(images)} images",
            metric="top-1" if case.kind.name == "cls" else "AP50",
            interval=measure_accuracy(network, images, classes),
        )
        for subject, network, images in shown
    )
    own, whole = (class_accuracies(net, seen, classes).per_class for _, net, seen in shown)
    per_class = [
        (name, theirs, mine, int(count))
        for name, theirs, mine, count in zip(
            case.images.classes, whole, own, case.measuring.shown(classes), strict=True
        )
        if theirs is not None and mine is not None
    ]
    return measured, per_class


def write_component(
    case: Case, found: Found, plan: Plan, model: bytes, *, estimate: Estimate,
    certificate: Certificate, parity: tuple[Parity, ...], accuracy: tuple[Accuracy, ...],
    chosen: MeasuredChoice, measurement: Measurement | None, profile: DeviceProfile,
    budget: Budget, place: Path, overwrite: bool, command: str,
) -> Artifact:  # fmt: skip
    """Write the artifact folder."""
    from ..exporters.bundle import write_artifact
    from ..exporters.contents import Contents, LibraryCard, PartSource

    donor, license = case.donor, case.donor.license or UNKNOWN_LICENSE
    kept = sum(len(positions) for positions in plan.active.values())
    total = sum(len(family.groups) for family in case.anatomy.families)
    which = f", which sees {case.size} x {case.size}" * (plan.input_size != case.size)
    return write_artifact(
        place,
        Contents(
            name=f"{case.kind.name}-{profile.name}-{plan.id[:8]}", network=model, plan=plan,
            estimate=estimate, certificate=certificate, parity=parity, device=profile.name,
            budget=budget,
            card=LibraryCard(
                name=donor.name, title="a pretrained network, taken apart", license=license,
                data=(), data_license=UNKNOWN_LICENSE, source="an imported pretrained network",
            ),
            accuracy=accuracy, chosen=chosen,
            measurements=(measurement,) if measurement else (), command=command,
            sources=(
                PartSource(
                    id=donor.name, version=plan.library_id, license=license, source=donor.name,
                    active=kept, parts=(f"{kept} of {total} inner channels",),
                ),
            ),
            made=f"cut out of {donor.name}{which}: {kept} of {total} inner channels",
        ),
        overwrite=overwrite,
    )  # fmt: skip
