"""Combination on one page: several classifiers side by side as one artifact."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..factory.errors import DataError, UsageError
from ..factory.schema import (
    Accuracy,
    Budget,
    BuildResult,
    Certificate,
    Measurement,
    Parity,
    Plan,
    Task,
)
from .keeping import measure_model
from .model_file import estimate_of, model_file
from .pipeline import artifact_place
from .reassembly_artifact import UNKNOWN_LICENSE
from .request import Report, Stopwatch, silent

if TYPE_CHECKING:
    from ..exporters.contents import Contents
    from ..factory.graph.network import Array, Network
    from ..factory.reuse.combination import Calibration
    from ..factory.reuse.own_images import TwoParts

EACH = 20  # images of a class that branches are calibrated with


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchView:
    """One of the classifiers.

    Attributes:
        name: Of its artifact.
        classes: What it tells apart.
        input_size: Side of its image in pixels.
        scale: What its logits are multiplied by.
        alone: Its accuracy by itself on images of its own classes, in [0, 1].
        n: Images.
    """

    name: str
    classes: tuple[str, ...]
    input_size: int
    scale: float
    alone: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """What ``combine`` returns.

    Attributes:
        result: As of a build.
        branches: In order.
        nodes: Operators of the network.
        shared: Operators that branches have in common, computed once.
    """

    result: BuildResult
    branches: tuple[BranchView, ...]
    nodes: int
    shared: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """An artifact that is opened."""

    manifest: dict[str, Any]
    network: Network
    digest: str

    @property
    def size(self) -> int:
        return next(iter(self.network.inputs.values()))[2]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.manifest["classes"])


def combine(
    artifacts: Sequence[Path], data: Path, *, images: int = EACH, out_dir: Path | None = None,
    overwrite: bool = False, command: str = "", report: Report = silent,
) -> Combination:  # fmt: skip
    """Join classifiers of different classes into one network, without training.

    They become parallel branches that share what they have in common; a gate in closed form and a
    scale and a shift per branch, fitted to a few images of every class, make their answers one.

    Args:
        artifacts: Folders of classifiers, of ``build``, ``reassemble`` or ``disassemble``.
        data: Labelled images of all of their classes, folders named as these.
        images: How many images of every class to fit to, at most.
        out_dir: The artifact folder; by default ``./cls-host-<plan id, 8 hex>``.
        overwrite: Replace whatever is at ``out_dir``.
        command: Command line that is recorded in the manifest.
        report: Called with (phase, done, total) while something takes long.

    Raises:
        NNFactoryError: See the tree in ``factory/errors.py`` for what and why.
    """
    from ..devices.profile import load_profile
    from ..exporters.bundle import check_place, write_artifact
    from ..factory.graph.postprocess import with_probabilities
    from ..factory.graph.repeats import without_repeats
    from ..factory.reuse.combination import branch_of, calibrate, combined
    from ..factory.reuse.own_images import read_two_parts

    watch, profile = Stopwatch(), load_profile("host")
    with watch.phase("open"):
        parts = [_opened(folder) for folder in artifacts]
        classes = _classes(parts)
        branches = [branch_of(part.network) for part in parts]
    with watch.phase("data"):
        report("images", 0, 1)
        sizes = sorted({part.size for part in parts})
        found = read_two_parts(data, sizes, classes, most=images * len(classes))
    plan = _plan(parts, found, sizes[-1])
    place = artifact_place(out_dir, plan, profile)
    check_place(place, plan.id, overwrite=overwrite)
    with watch.phase("fit"):
        report("calibration", 0, 1)
        rows = [
            answers_of(branch, found.fitting[part.size].pixels)
            for branch, part in zip(branches, parts, strict=True)
        ]
        labels = found.fitting[sizes[0]].labels
        calibration = calibrate([f for f, _ in rows], [z for _, z in rows], labels)
        apart = combined(branches, calibration)
        whole = without_repeats(apart)
        network = with_probabilities(whole)
    model = model_file(network, plan, license=_license(parts))
    with watch.phase("prove"):
        parity = _proof(parts, branches, calibration, network)
    with watch.phase("accuracy"):
        accuracy, views = _measured(parts, network, found, calibration)
    with watch.phase("measure"):
        report("measuring", 0, 1)
        measurement = measure_model(model, profile, Budget())
    contents = _contents(parts, plan, model, network, calibration, (parity,), (accuracy,),
                         measurement, command)  # fmt: skip
    with watch.phase("export"):
        artifact = write_artifact(place, contents, overwrite=overwrite)
    return Combination(
        result=BuildResult(
            plan=plan, estimate=contents.estimate, certificate=contents.certificate,
            artifact=artifact, parity=(parity,), measurement=measurement, device="host",
            seconds=watch.seconds, accuracy=(accuracy,),
        ),
        branches=views, nodes=len(network.nodes), shared=len(apart.nodes) - len(whole.nodes),
    )  # fmt: skip


def _opened(folder: Path) -> _Part:
    """An artifact that classifies.

    Raises:
        DataError: It is none, or was changed.
    """
    from ..exporters.bundle import check_artifact
    from ..factory.graph.network import load_network

    manifest = check_artifact(folder)
    if manifest["task"] != "classify":
        raise DataError(f"{folder} does not classify: only classifiers can be combined.")
    file = folder / "model.onnx"
    return _Part(
        manifest=manifest, network=load_network(file),
        digest=hashlib.sha256(file.read_bytes()).hexdigest(),
    )  # fmt: skip


def _classes(parts: Sequence[_Part]) -> tuple[str, ...]:
    """Of all parts in turn.

    Raises:
        UsageError: There are too few parts, a class is in two, or one is what a part rejects.
    """
    from ..factory.reuse.rejection import NONE

    if len(parts) < 2:
        raise UsageError("Combining takes two classifiers at least.")
    if any(NONE in part.classes for part in parts):
        raise UsageError(
            f"The class {NONE!r} of one part would be classes of another one.",
            hints=["disassemble it without --reject"],
        )
    classes = tuple(name for part in parts for name in part.classes)
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        raise UsageError(
            f"Class {twice[0]!r} is in two of the classifiers: each must have its own.",
            hints=["disassemble one of them for its other classes"],
        )
    return classes


def answers_of(branch: Network, pixels: Array) -> tuple[Array, Array]:
    """Features (N, F) and logits (N, K) of a branch for images of its size.

    Args:
        branch: As :func:`branch_of` gives it.
        pixels: (N, S, S, 3), uint8 RGB.
    """
    import numpy as np

    from ..factory.accuracy_measurement import tensor_from_pixels
    from ..factory.graph.evaluate import open_model
    from ..factory.graph.network import model_from_network
    from ..factory.reuse.combination import FEATURES, LOGITS

    run, (entry,) = open_model(model_from_network(branch)), branch.inputs

    def answer(image: Array) -> tuple[Array, Array]:
        found = run({entry: tensor_from_pixels(image[None])})
        return found[FEATURES].reshape(-1), found[LOGITS].reshape(-1)

    with ThreadPoolExecutor(os.cpu_count()) as workers:
        features, logits = zip(*workers.map(answer, pixels), strict=True)
    return np.stack(features), np.stack(logits)


def _plan(parts: Sequence[_Part], found: TwoParts, size: int) -> Plan:
    fitted = f"{found.digest} {len(found.fitted)}"
    return Plan(
        task=Task(kind="cls", classes=found.classes),
        library="+".join(part.manifest["name"] for part in parts),
        library_id=hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()[:16],
        active={f"part{number + 1}": (0,) for number in range(len(parts))},
        input_size=size,
        normalization="sliced",
        statistics_of=hashlib.sha256(fitted.encode()).hexdigest()[:16],
    )


def _license(parts: Sequence[_Part]) -> str:
    """The licenses of all parts in one expression."""
    named = {part.manifest["provenance"]["library"]["license"] for part in parts}
    return " AND ".join(sorted(named))


def _proof(
    parts: Sequence[_Part], branches: Sequence[Network], calibration: Calibration, network: Network
) -> Parity:
    """The whole against its branches one by one, put together by hand.

    Raises:
        VerificationError: They differ.
    """
    import numpy as np

    from ..factory.errors import VerificationError
    from ..factory.graph.evaluate import open_model, run_network
    from ..factory.graph.network import model_from_network
    from ..factory.linker import TOLERANCE, proof_inputs
    from ..factory.reuse.combination import FEATURES, LOGITS, smaller

    side = max(part.size for part in parts)
    run, (out,) = open_model(model_from_network(network)), network.outputs
    owner = np.repeat(np.arange(len(parts)), [len(part.classes) for part in parts])
    images, worst = proof_inputs(side), 0.0
    for image in images:
        found = []
        for branch, part in zip(branches, parts, strict=True):
            small = image
            if part.size < side:
                small = run_network(smaller(side, part.size), {"images": image})["fitted"]
            found.append(run_network(branch, {next(iter(branch.inputs)): small}))
        seen = np.concatenate([row[FEATURES].reshape(-1) for row in found]).astype(np.float64)
        logits = np.concatenate([row[LOGITS].reshape(-1) for row in found])
        gate = calibration.gate * (calibration.weight @ seen + calibration.bias)
        scores = logits * np.array(calibration.scales)[owner]
        scores = scores + (gate + np.array(calibration.shifts))[owner]
        powers = np.exp(scores - scores.max())
        wanted = powers / powers.sum()
        worst = max(worst, float(np.abs(run({"images": image})[out][0] - wanted).max()))
    parity = Parity(
        a="its branches one by one", b="the whole", n=len(images), max_abs=worst,
        tolerance=TOLERANCE,
    )  # fmt: skip
    if not parity.passed:
        raise VerificationError(f"The whole differs from its branches by {worst:.2e}.")
    return parity


def _measured(
    parts: Sequence[_Part], network: Network, found: TwoParts, calibration: Calibration
) -> tuple[Accuracy, tuple[BranchView, ...]]:
    """Accuracy on all classes; and of every branch alone on its own."""
    import numpy as np

    from ..factory.accuracy_measurement import hits, measure_accuracy, task_images

    images = found.measuring[max(found.measuring)]
    accuracy = Accuracy(
        subject="artifact", dataset=f"{found.name}, {len(images)} images", metric="top-1",
        interval=measure_accuracy(network, images, len(found.classes)),
    )  # fmt: skip
    views, start = [], 0
    for part, scale in zip(parts, calibration.scales, strict=True):
        mine = range(start, start + len(part.classes))
        own = task_images(found.measuring[part.size], list(mine))
        alone = hits(part.network, own)
        views.append(
            BranchView(
                name=part.manifest["name"], classes=part.classes, input_size=part.size,
                scale=scale, alone=float(np.mean(alone)) if len(alone) else 0.0, n=len(alone),
            )
        )  # fmt: skip
        start += len(part.classes)
    return accuracy, tuple(views)


def _contents(
    parts: Sequence[_Part], plan: Plan, model: bytes, network: Network, calibration: Calibration,
    parity: tuple[Parity, ...], accuracy: tuple[Accuracy, ...], measurement: Measurement,
    command: str,
) -> Contents:  # fmt: skip
    """What the artifact says."""
    from ..devices.profile import load_profile
    from ..exporters.contents import Contents, LibraryCard, PartSource

    names = [part.manifest["name"] for part in parts]
    return Contents(
        name=f"cls-host-{plan.id[:8]}", network=model, plan=plan,
        estimate=estimate_of(network, model, load_profile("host")),
        certificate=Certificate(
            method="maximum likelihood", objective=-calibration.loss, bound=-calibration.loss,
            gap=calibration.gradient,
        ),
        parity=parity, device="host", budget=Budget(),
        card=LibraryCard(
            name=plan.library, title="classifiers side by side", license=_license(parts), data=(),
            data_license=UNKNOWN_LICENSE, source="artifacts",
        ),
        accuracy=accuracy, measurements=(measurement,), command=command,
        sources=tuple(
            PartSource(
                id=part.manifest["name"], version=part.digest, license=_license([part]),
                source=part.manifest["plan"]["library"], active=1,
                parts=(", ".join(part.classes),),
            )
            for part in parts
        ),
        made=f"combined from {len(parts)} classifiers ({', '.join(names)})",
    )  # fmt: skip
