"""A reassembled network as a plan, a file and an artifact."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
)
from .model_file import model_file
from .pipeline import artifact_place
from .reassembly_pool import OpenedPool

if TYPE_CHECKING:
    from ..exporters.contents import LibraryCard, PartSource
    from ..factory.graph.network import Network
    from ..factory.reuse.reassembly import Reassembled

UNKNOWN_LICENSE = "not stated"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proven:
    """A network that was chosen, proven and, where possible, measured.

    Attributes:
        made: Its parts.
        plan: Its decisions.
        model: Serialized ONNX.
        estimate: Its cost.
        certificate: Why these blocks.
        chosen: How images chose it.
        measurement: On this machine, or None.
        parity: Proofs.
        accuracy: On images that nothing was fitted to.
        finish: What training did, or None.
    """

    made: Reassembled
    plan: Plan
    model: bytes
    estimate: Estimate
    certificate: Certificate
    chosen: MeasuredChoice
    measurement: Measurement | None
    parity: tuple[Parity, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    finish: FinishView | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishView:
    """What training of stitches, classifier and then everything did.

    Attributes:
        epochs: Passes over the images.
        images: Number of images that were trained on.
        left_out: Number of images that judged.
        before: Accuracy on these before training, in [0, 1].
        after: After it.
        is_kept: Whether the trained weights are in the network.
    """

    epochs: int
    images: int
    left_out: int
    before: float
    after: float
    is_kept: bool

    def __str__(self) -> str:
        share = f"{self.before:.1%} to {self.after:.1%} of {self.left_out} images left out"
        kept = "" if self.is_kept else ", so the weights stay as they were"
        passes = f"{self.epochs} pass{'es' * (self.epochs > 1)} over {self.images} images"
        return f"trained for {passes}: {share}{kept}"


def plan_of(opened: OpenedPool, made: Reassembled, epochs: int) -> Plan:
    """The decisions about a network: a slot per block, a module per donor, what it is fitted to."""
    blocks = made.way.blocks
    fitted = f"{opened.images.digest} {len(opened.labels)} {epochs}"
    costs = opened.pool.stages.costs["mparams"]
    used = sum(float(costs[stage, donor]) for stage, donor in enumerate(blocks))
    return Plan(
        task=opened.task,
        library="+".join(opened.names),
        library_id=opened.id,
        active={f"block{stage + 1}": (donor,) for stage, donor in enumerate(blocks)},
        input_size=opened.donor(blocks).input_size,
        normalization="sliced",
        statistics_of=hashlib.sha256(fitted.encode()).hexdigest()[:16],
        sparsity=1 - used / float(costs.sum()),
    )


def model_of(opened: OpenedPool, plan: Plan, network: Network) -> bytes:
    """A network as a file, with the licenses of its donors."""
    used = [card for card in opened.cards if card["name"] in _donors(opened, plan)]
    return model_file(network, plan, license=_license(used))


def accuracy_of(opened: OpenedPool, plan: Plan, network: Network) -> Accuracy:
    """Accuracy on the images that nothing was fitted to, with a 95 % interval."""
    from ..factory.accuracy_measurement import measure_accuracy

    images = opened.images.measuring[plan.input_size]
    return Accuracy(
        subject="artifact", dataset=f"{opened.images.name}, {len(images)} images", metric="top-1",
        interval=measure_accuracy(network, images, len(plan.task.classes)),
    )  # fmt: skip


def write_reassembly(
    opened: OpenedPool, proven: Proven, *, profile: DeviceProfile, budget: Budget,
    further_limits: Mapping[str, object], out_dir: Path | None, overwrite: bool, command: str,
) -> Artifact:  # fmt: skip
    """Write the artifact folder."""
    from ..exporters.bundle import write_artifact
    from ..exporters.contents import Contents

    plan = proven.plan
    used = list(dict.fromkeys(_donors(opened, plan)))
    count = f"{len(plan.active)} blocks of {len(used)} pretrained network" + "s" * (len(used) > 1)
    contents = Contents(
        name=f"cls-{profile.name}-{plan.id[:8]}",
        network=proven.model,
        plan=plan,
        estimate=proven.estimate,
        certificate=proven.certificate,
        parity=proven.parity,
        device=profile.name,
        budget=budget,
        further_limits=further_limits,
        card=_card(opened, plan),
        accuracy=proven.accuracy,
        chosen=proven.chosen,
        measurements=(proven.measurement,) if proven.measurement else (),
        command=command,
        sources=_sources(opened, plan),
        made=f"put together from {count} ({', '.join(used)})"
        + (f" and {proven.finish}," if proven.finish else ""),
    )
    place = artifact_place(out_dir, plan, profile)
    return write_artifact(place, contents, overwrite=overwrite)


def _donors(opened: OpenedPool, plan: Plan) -> list[str]:
    """Names of the donors of a plan's blocks, in order."""
    return [opened.names[donor] for (donor,) in plan.active.values()]


def _license(cards: list[Any]) -> str:
    """The licenses of networks in one expression."""
    return " AND ".join(sorted({card["license"] or UNKNOWN_LICENSE for card in cards}))


def _card(opened: OpenedPool, plan: Plan) -> LibraryCard:
    from ..exporters.contents import LibraryCard

    used = [card for card in opened.cards if card["name"] in _donors(opened, plan)]
    return LibraryCard(
        name=plan.library, title="pretrained networks in blocks that correspond",
        license=_license(used), data=(), data_license=UNKNOWN_LICENSE,
        source="imported pretrained networks",
    )  # fmt: skip


def _sources(opened: OpenedPool, plan: Plan) -> tuple[PartSource, ...]:
    """Per donor what is in the network."""
    from ..exporters.contents import PartSource

    donors = _donors(opened, plan)
    counts = Counter(donors)
    sources = []
    for number, (name, card) in enumerate(zip(opened.names, opened.cards, strict=True)):
        if name not in counts:
            continue
        tensors, cuts = opened.pool.places[number].tensors, opened.partition.cuts[number]
        parts = tuple(
            f"block {k + 1} of {len(donors)}, from {tensors[cuts[k]]} to {tensors[cuts[k + 1]]}"
            for k, donor in enumerate(donors)
            if donor == name
        )
        sources.append(
            PartSource(
                id=name, version=card["source"]["sha256"], license=card["license"],
                source=card["source"]["file"], active=counts[name], parts=parts,
            )
        )  # fmt: skip
    return tuple(sources)
