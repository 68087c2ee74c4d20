"""What goes into an artifact."""

from __future__ import annotations

from dataclasses import dataclass

from ..factory.errors import SpecError
from ..factory.schema import Budget, Certificate, Estimate, Interval, Measurement, Parity, Plan

SUBJECTS = ("artifact", "library")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """An accuracy that was measured.

    Attributes:
        subject: "artifact" for this very network, "library" for all modules of its library.
        dataset: Images it was measured on, with the split.
        metric: Such as "top-1 accuracy" or "AP50".
        interval: Value in [0, 1], its interval, and the number of images.
        sha256: Of the images, or "".
    """

    subject: str
    dataset: str
    metric: str
    interval: Interval
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.subject not in SUBJECTS:
            raise SpecError(f"Accuracy.subject must be one of {SUBJECTS}, got {self.subject!r}.")


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
        card: The module library.
        accuracy: Measured accuracies.
        measurements: What was observed on devices.
        command: Command line that makes the same artifact.
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
    measurements: tuple[Measurement, ...] = ()
    command: str = ""
