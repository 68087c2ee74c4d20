"""What goes into an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..factory.schema import (
    Accuracy,
    Budget,
    Certificate,
    Estimate,
    MeasuredChoice,
    Measurement,
    Parity,
    Plan,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryCard:
    """What a reader must know about the module library.

    Attributes:
        name: Name of the library.
        title: One line for people.
        license: License of the weights, as an SPDX identifier where there is one.
        data: Data sets it was trained on, and where they come from.
        data_license: License of that data.
        source: Where the library comes from.
    """

    name: str
    title: str
    license: str
    data: tuple[str, ...]
    data_license: str
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSource:
    """Where parts of a network come from: a module library, or a network of someone else.

    Attributes:
        id: Its name.
        version: Digest of its contents.
        license: License of its weights, or "" where it is not known.
        source: Where it comes from.
        active: How many of its modules or blocks are in the network.
        parts: Which ones, for people; () where the plan says it.
    """

    id: str
    version: str
    license: str
    source: str
    active: int
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Everything an artifact is written from.

    Attributes:
        name: Name of the artifact.
        network: Serialized ONNX with its metadata.
        plan: Every decision about the network.
        estimate: Predicted cost and quality.
        certificate: Why this plan.
        parity: Proofs that linking and folding changed nothing.
        device: Device it was built for.
        budget: Limits that were asked for.
        further_limits: Those that no budget holds, by name.
        card: The module library.
        accuracy: Measured accuracies.
        chosen: How labelled images chose the plan, or None.
        measurements: What was observed on devices.
        command: Command line that makes the same artifact.
        sources: Where its parts come from.
        made: How it was put together, the end of a sentence.
    """

    name: str
    network: bytes
    plan: Plan
    estimate: Estimate
    certificate: Certificate
    parity: tuple[Parity, ...]
    device: str
    budget: Budget
    card: LibraryCard
    accuracy: tuple[Accuracy, ...] = ()
    chosen: MeasuredChoice | None = None
    measurements: tuple[Measurement, ...] = ()
    command: str = ""
    sources: tuple[PartSource, ...] = ()
    made: str = ""
    further_limits: Mapping[str, object] = field(default_factory=dict)
