"""A component of a trained network on its way to an artifact: images, values, costs, files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

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
from .model_file import model_file
from .reassembly_artifact import UNKNOWN_LICENSE
from .request import Report

if TYPE_CHECKING:
    from ..factory.datasets import Images
    from ..factory.graph.network import Array, Network
    from ..factory.reuse.disassembly import component
    from ..factory.reuse.disassembly.costs import Costs
    from ..factory.reuse.disassembly.families import Anatomy
    from ..factory.reuse.disassembly.reconstruction import Losses
    from ..factory.reuse.donor import Donor
    from ..factory.reuse.own_images import TwoParts


@dataclass(slots=True, kw_only=True, eq=False)
class Case:
    """A network, the classes that matter and images of them.

    Attributes:
        donor: The whole network.
        anatomy: The same with the classes' outputs alone, from images in [0, 1] to logits.
        images: Of the classes.
        values: What families lose, by kind of value.
        costs: What leaving channels out saves, by kind of cost.
    """

    donor: Donor
    anatomy: Anatomy
    images: TwoParts
    values: Mapping[str, Mapping[str, Losses]] = field(default_factory=dict)
    costs: Mapping[str, Costs] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Side of the input in pixels."""
        return self.donor.input_size

    @property
    def judging(self) -> Images:
        """Images that nothing is fitted to, that components are chosen on."""
        return self.images.training[self.size].subset(self.images.judging)

    @property
    def measuring(self) -> Images:
        """Images that accuracies are reported on."""
        return self.images.measuring[self.size]

    def fitting(self) -> tuple[list[Array], Array]:
        """Tensors that layers are fitted to, and their labels, in a mixed order."""
        from ..factory.reuse.own_images import balanced_order

        mine = self.images.training[self.size].subset(self.images.fitted)
        mine = mine.subset(balanced_order(mine.labels, 0))
        return _tensors(mine), mine.labels

    def value(self, report: Report) -> None:
        """Say what families are worth."""
        from ..factory.reuse.disassembly.component import values_of

        self.values = values_of(self.anatomy, *self.fitting(), report=report)

    def count(self, profile: DeviceProfile | None, report: Report) -> None:
        """Say what leaving channels out saves; latency only where a device is named."""
        from ..factory.reuse.disassembly.costs import counted, timed

        self.costs = counted(self.anatomy)
        if profile is not None:
            latency = self.latency_on(profile)
            table = timed(self.anatomy, latency, self.costs["mmacs"], report=report)
            self.costs = {**self.costs, "latency_ms": table}

    def latency_on(self, profile: DeviceProfile) -> Callable[[Network], float]:
        """Milliseconds of a network on a device: measured on this machine, else estimated."""
        from ..devices.parts import PartLatency
        from ..factory.graph.postprocess import with_probabilities

        parts = PartLatency(profile.name)
        return lambda network: parts.of(with_probabilities(network)) + parts.call_ms

    def made(self, plan: component.Plan, report: Report) -> component.Component:
        """A plan as a network."""
        from ..factory.reuse.disassembly.component import component_of

        tensors, _ = self.fitting()
        judging = self.judging
        return component_of(
            self.anatomy, plan, tensors, _tensors(judging), judging.labels, report=report
        )

    def whole_model(self) -> bytes:
        """The whole network with the classes' outputs alone, as a file."""
        from ..factory.graph.network import model_from_network
        from ..factory.graph.postprocess import with_probabilities

        network = with_probabilities(self.anatomy.network)
        return bytes(model_from_network(network).SerializeToString())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """The component that was chosen.

    Attributes:
        made: Its network.
        candidates: Of how many.
    """

    made: component.Component
    candidates: int

    @property
    def answering(self) -> Network:
        """From images to probabilities."""
        from ..factory.graph.postprocess import with_probabilities

        return with_probabilities(self.made.network)

    def model(self, case: Case, plan: Plan | None) -> bytes:
        """As a file; with what it says of itself where there is a plan."""
        from ..factory.graph.network import model_from_network

        if plan is None:
            return bytes(model_from_network(self.answering).SerializeToString())
        return model_file(self.answering, plan, license=case.donor.license or UNKNOWN_LICENSE)

    def prove(self, case: Case) -> tuple[Parity, ...]:
        """That the cut is exact: before weights were fitted it equals zeroing."""
        from ..factory.reuse.disassembly.proof import prove_cut

        return (prove_cut(case.anatomy, self.made.plan, case.size),)


def own_name(tensor: str) -> str:
    """What the network that was taken apart calls a tensor of its task network."""
    return tensor.removeprefix("1/")  # the second part, behind the preparation of the image


def open_case(donor: Donor, data: Path, classes: Sequence[str], images: int) -> Case:
    """Read images and find out what can be cut.

    Raises:
        NNFactoryError: What :func:`disassemble` says.
    """
    from ..factory.reuse.disassembly.families import anatomy_of
    from ..factory.reuse.donor_slots import task_network
    from ..factory.reuse.own_images import read_two_parts

    parts = read_two_parts(data, [donor.input_size], classes, most=images)
    network = task_network(donor, donor.outputs_of(parts.classes))
    return Case(donor=donor, anatomy=anatomy_of(network), images=parts)


def plan_of(case: Case, found: Found) -> Plan:
    """The decisions about a component: which channels of which tensors stay."""
    from ..factory.graph.costs import parameter_count
    from ..factory.graph.network import model_from_network

    donor = case.donor
    said = model_from_network(donor.network).SerializeToString()
    said += repr((donor.mean, donor.std, donor.colors)).encode()
    fitted = f"{case.images.digest} {len(case.images.fitted)}"
    whole = parameter_count(case.anatomy.network)
    return Plan(
        task=Task(kind="cls", classes=case.images.classes),
        library=donor.name,
        library_id=hashlib.sha256(said).hexdigest()[:16],
        active={
            own_name(name): tuple(kept.tolist()) for name, kept in found.made.plan.kept.items()
        },
        input_size=case.size,
        normalization="sliced",
        statistics_of=hashlib.sha256(fitted.encode()).hexdigest()[:16],
        sparsity=max(0.0, 1 - parameter_count(found.made.network) / whole),
    )


def certificate_of(found: Found, budget: Budget) -> Certificate:
    """Why these channels: no other ones lose less by these values and costs."""
    choice = found.made.plan.choice
    assert choice is not None
    gap = max(0.0, choice.loss - choice.bound)
    binding = tuple(
        name
        for name, limit in (
            ("latency", budget.latency_ms), ("params", budget.mparams), ("macs", budget.mmacs)
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
    from ..factory.accuracy_measurement import hits
    from ..factory.graph.postprocess import with_probabilities
    from ..factory.metrics import proportion_interval

    images = case.measuring
    rows = {
        "artifact": hits(found.answering, images),
        "library": hits(with_probabilities(case.anatomy.network), images),
    }
    measured = tuple(
        Accuracy(
            subject=subject, dataset=f"{case.images.name}, {len(images)} images", metric="top-1",
            interval=proportion_interval(int(row.sum()), len(row)),
        )
        for subject, row in rows.items()
    )  # fmt: skip
    per_class = []
    for label, name in enumerate(case.images.classes):
        mine = images.labels == label
        if mine.any():
            whole, own = (float(rows[key][mine].mean()) for key in ("library", "artifact"))
            per_class.append((name, whole, own, int(mine.sum())))
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
    return write_artifact(
        place,
        Contents(
            name=f"cls-{profile.name}-{plan.id[:8]}", network=model, plan=plan,
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
            made=f"cut out of {donor.name}: {kept} of {total} inner channels",
        ),
        overwrite=overwrite,
    )  # fmt: skip


def _tensors(images: Images) -> list[Array]:
    from ..factory.accuracy_measurement import tensor_from_pixels

    return [tensor_from_pixels(image[None]) for image in images.pixels]
