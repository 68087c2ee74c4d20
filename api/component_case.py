"""A network that is taken apart: images, what its channels are worth and cost, what is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..factory.errors import UsageError
from ..factory.schema import Budget, DeviceProfile, Parity, Plan
from .model_file import model_file
from .reassembly_artifact import UNKNOWN_LICENSE
from .request import Report

if TYPE_CHECKING:
    from ..factory.datasets import Images
    from ..factory.graph.network import Array, Network
    from ..factory.reuse.disassembly import component
    from ..factory.reuse.disassembly.costs import Costs
    from ..factory.reuse.disassembly.families import Anatomy
    from ..factory.reuse.disassembly.kinds import Judgement, Kind
    from ..factory.reuse.disassembly.reconstruction import Losses
    from ..factory.reuse.donor import Donor
    from ..factory.reuse.own_images import TwoParts


@dataclass(slots=True, kw_only=True, eq=False)
class Case:
    """A network, the classes that matter and images of them.

    Attributes:
        donor: The whole network.
        anatomy: The same with the classes' outputs alone, from images in [0, 1] to raw outputs.
        kind: What is asked of the outputs.
        images: Of the classes.
        forgotten: Images of classes that are to be forgotten, by name; none as a rule.
        read: Reads the same images at another size, from where they lie; None where they lie
            nowhere, then they are made of those at hand.
        wanted: What the whole network says of the judging images at its own size.
        values: What families lose, by kind of value.
        costs: What leaving channels out saves, by kind of cost.
    """

    donor: Donor
    anatomy: Anatomy
    kind: Kind
    images: TwoParts
    forgotten: Mapping[str, TwoParts] = field(default_factory=dict)
    read: Callable[[int], TwoParts] | None = None
    wanted: Array | None = None
    values: Mapping[str, Mapping[str, Losses]] = field(default_factory=dict)
    costs: Mapping[str, Costs] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Side of the input in pixels."""
        return next(iter(self.anatomy.network.inputs.values()))[2]

    def at(self, side: int) -> Case:
        """The same for images of another size: cut at that size, judged by the whole network's."""
        from ..factory.reuse.disassembly.families import anatomy_of
        from ..factory.reuse.disassembly.input_sizes import at_side

        if side == self.size:
            return self
        return replace(
            self, anatomy=anatomy_of(at_side(self.anatomy.network, side)),
            images=self.images.at(side), wanted=self._wanted(), values={}, costs={},
        )  # fmt: skip

    def judged(self, network: Network) -> Judgement:
        """How near a network comes to the whole one at its own size, on images that judge."""
        from ..factory.accuracy_measurement import images_at

        side = next(iter(network.inputs.values()))[2]
        return self.kind.judged(self._wanted(), network, images_at(self.judging, side))

    def _wanted(self) -> Array:
        if self.wanted is None:
            self.wanted = self.kind.answers(self.anatomy.network, self.judging)
        return self.wanted

    @property
    def judging(self) -> Images:
        """Images that nothing is fitted to, that components are chosen on."""
        return self.images.training[self.size].subset(self.images.judging)

    @property
    def learning(self) -> Images:
        """All images but those that judge."""
        import numpy as np

        mine = self.images.training[self.size]
        return mine.subset(np.setdiff1d(np.arange(len(mine)), self.images.judging))

    @property
    def measuring(self) -> Images:
        """Images that accuracies are reported on."""
        return self.images.measuring[self.size]

    def as_deployed(self) -> Images:
        """The same, as the artifact will see them: made of the original images in one step."""
        if self.read is None or self.size == self.donor.input_size:
            return self.measuring
        return self.read(self.size).measuring[self.size]

    @property
    def fitting(self) -> Images:
        """Images that layers are fitted to, in a mixed order."""
        return self.images.mixed(self.size)

    def value(self, report: Report) -> None:
        """Say what families are worth."""
        from ..factory.reuse.disassembly.component import values_of

        if self.forgotten:
            self.values = {"forgetting": self._worth_of_forgetting(report)}
            return
        self.values = values_of(self.anatomy, self.kind, self.fitting, report=report)

    def _worth_of_forgetting(self, report: Report) -> Mapping[str, Losses]:
        import numpy as np

        from ..factory.reuse.disassembly.component import flows_of
        from ..factory.reuse.disassembly.families import anatomy_of
        from ..factory.reuse.disassembly.forgetting import losses_of_forgetting
        from ..factory.reuse.donor_slots import task_network

        kept = flows_of(self.anatomy, self.kind, self.fitting, report=report)
        rows = []
        for name, parts in self.forgotten.items():
            anatomy = anatomy_of(task_network(self.donor, self.donor.outputs_of([name])))
            rows.append(flows_of(anatomy, self.kind, parts.mixed(self.size), report=report))
        gone = {name: np.mean([row[name] for row in rows], axis=0) for name in kept}
        return losses_of_forgetting(kept, gone)

    def still_known(self, network: Network) -> list[tuple[str, float, float, int]]:
        """Per forgotten class: name, readout of the whole network's and of this one's features,
        images that it was measured on.
        """  # noqa: D205
        import numpy as np

        from ..factory.reuse.disassembly.forgetting import readout
        from ..factory.reuse.disassembly.kinds import tensors_of

        rows = []
        mine = tensors_of(self.fitting), tensors_of(self.measuring)
        for name, parts in self.forgotten.items():
            theirs = (
                tensors_of(parts.mixed(self.size)), tensors_of(parts.measuring[self.size])
            )  # fmt: skip
            shown = [
                ([*a, *b], np.array([False] * len(a) + [True] * len(b)))
                for a, b in zip(mine, theirs, strict=True)
            ]
            whole, own = (readout(each, *shown) for each in (self.anatomy.network, network))
            rows.append((name, whole, own, len(theirs[1])))
        return rows

    def count(self, profile: DeviceProfile, budget: Budget, report: Report) -> None:
        """Say what leaving channels out saves, of whatever a budget limits."""
        from ..devices.parts import PartLatency
        from ..factory.reuse.disassembly.costs import counted
        from ..factory.reuse.disassembly.layer_latency import timed
        from ..factory.reuse.disassembly.memory_costs import memory_costs

        self.costs = counted(self.anatomy)
        if budget.memory_mib is not None:
            answering = self.kind.answering(self.anatomy.network)
            tables = memory_costs(self.anatomy, answering, self.costs["mparams"])
            self.costs = {**self.costs, **tables}
        if budget.latency_ms is not None:
            latency_ms, layer_ms = self.latency_on(profile), PartLatency(profile.name).layer
            table = timed(self.anatomy, latency_ms, layer_ms, report=report)
            self.costs = {**self.costs, "latency_ms": table}

    def looked_at(self, cost: str, network: Network, profile: DeviceProfile) -> float:
        """What a whole network costs: latency on a device, parameters and so on."""
        from .model_file import counts_of

        if cost == "latency_ms":
            return self.latency_on(profile)(network)
        return counts_of(self.kind.answering(network))[cost]

    def smallest(self, values: str, cost: str) -> component.Plan:
        """The plan that costs least, in the order of some values."""
        from ..factory.reuse.disassembly.component import smallest_plan

        return smallest_plan(self.anatomy, values, self.values[values], self.costs, cost)

    def latency_on(self, profile: DeviceProfile) -> Callable[[Network], float]:
        """Milliseconds of a network on a device: measured on this machine, else estimated."""
        from ..devices.parts import PartLatency

        parts = PartLatency(profile.name)
        return lambda network: parts.of(self.kind.answering(network)) + parts.call_ms

    def made(self, plan: component.Plan, report: Report) -> component.Component:
        """A plan as a network."""
        from ..factory.reuse.disassembly.component import component_of

        return component_of(self.anatomy, plan, self.fitting, self.judged, report=report)

    def model(self, network: Network) -> bytes:
        """A network with its answer as a file."""
        from ..factory.graph.network import model_from_network

        answering = self.kind.answering(network)
        return bytes(model_from_network(answering).SerializeToString())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """The component that was chosen.

    Attributes:
        case: What it was cut from, at its input size.
        made: Its network.
        candidates: Of how many.
    """

    case: Case
    made: component.Component
    candidates: int

    def model(self, plan: Plan) -> bytes:
        """As a file that says what it is."""
        case = self.case
        donor, license = case.donor, case.donor.license or UNKNOWN_LICENSE
        return model_file(
            case.kind.answering(self.made.network), plan, license=license,
            stride=None if donor.head is None else donor.stride,
        )  # fmt: skip

    def prove(self) -> tuple[Parity, ...]:
        """That the cut is exact: before weights were fitted it equals zeroing."""
        from ..factory.reuse.disassembly.proof import prove_cut

        return (prove_cut(self.case.anatomy, self.made.plan, self.case.size),)


def own_name(tensor: str) -> str:
    """What the network that was taken apart calls a tensor of its task network."""
    return tensor.removeprefix("1/")  # the second part, behind the preparation of the image


def open_case(
    donor: Donor, data: Path, classes: Sequence[str], images: int, *, reject: bool = False,
    forget: Sequence[str] = (),
) -> Case:  # fmt: skip
    """Read images and find out what can be cut.

    Raises:
        NNFactoryError: What :func:`disassemble` says.
    """
    from ..factory.reuse.detector import detector_network
    from ..factory.reuse.disassembly.families import anatomy_of
    from ..factory.reuse.disassembly.kinds import Classification, Detection, tensors_of
    from ..factory.reuse.donor_slots import task_network
    from ..factory.reuse.own_images import classes_besides, read_others, read_two_parts
    from ..factory.reuse.rejection import NONE, rejecting_network

    size = donor.input_size
    if donor.head is not None and (reject or forget):
        raise UsageError("A detector rejects and forgets nothing: that is for classifiers.")
    if forget and not classes:
        classes = classes_besides(data, forget, least=2)
    least = 1 if reject or donor.head is not None else 2

    def read(side: int) -> TwoParts:
        parts = read_two_parts(data, [side], classes, most=images, kind=donor.kind, least=least)
        if not reject:
            return parts
        besides = classes_besides(data, (*parts.classes, *forget))
        return parts.with_others(read_others(data, [side], besides, most=images), NONE)

    parts = read(size)
    forgotten = {
        name: read_two_parts(data, [size], [name], most=images, least=1) for name in forget
    }
    outputs = donor.outputs_of([name for name in parts.classes if not reject or name != NONE])
    kind: Kind = Classification()
    if donor.head is not None:
        kind = Detection(donor.head, len(outputs))
        network = detector_network(donor, outputs, tensors_of(parts.mixed(size)))
    elif reject:
        network = rejecting_network(donor, outputs, tensors_of(parts.mixed(size)))
    else:
        network = task_network(donor, outputs)
    return Case(
        donor=donor, anatomy=anatomy_of(network), kind=kind, images=parts, forgotten=forgotten,
        read=read,
    )  # fmt: skip
