"""Which channels of a trained classifier decide for a class, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..factory.errors import UsageError
from .frontier_picture import check_picture
from .request import Report, silent

MOST_OF_IT = 0.8  # of what flows through a family, that few channels may carry


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyFlow:
    """Inner channels of a network, and what of each class's logit flows through them.

    Attributes:
        name: The tensor that holds them.
        flow: Per class and channel the share of the logit, at least 0.
        carriers: Per class how many channels carry 80 % of what flows through all.
        overlap: Mean cosine of the flows of every two classes: 1 where all go the same way.
    """

    name: str
    flow: tuple[tuple[float, ...], ...]
    carriers: tuple[int, ...]
    overlap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What ``explain`` returns.

    Attributes:
        network: Its name.
        classes: Names.
        families: In execution order.
        images: Per class how many images were looked at: those that it is surest of.
    """

    network: str
    classes: tuple[str, ...]
    families: tuple[FamilyFlow, ...]
    images: tuple[int, ...]


def explain(
    model: str | Path, data: Path, *, classes: Sequence[str] = (), images: int = 1000,
    report: Report = silent,
) -> Explanation:  # fmt: skip
    """Follow the outputs of classes back through an imported classifier or detector.

    A class is its logit; in a detector its class maps, objectness and boxes, a third each. It is
    divided among the inputs of its layer as they contribute to it, and so on backwards;
    sums divide it by the magnitudes of both sides.

    Args:
        model: Name or folder of an imported network.
        data: Labelled images of some of its classes, folders named as these.
        classes: Which ones; all of the folder by default (of a detector some must be named).
        images: How many of them are read, at most; 50 of a class are looked at.
        report: Called with ("contributions", done, total).

    Raises:
        NNFactoryError: The network is not known, or the images do not fit it.
    """
    import numpy as np

    from ..factory.reuse.disassembly.contributions import EACH, contributions
    from ..factory.reuse.disassembly.relevance import flows
    from ..factory.reuse.store import open_donor
    from .component_case import open_case, own_name

    if len(set(classes)) == 1:
        raise UsageError(
            "One class alone cannot be explained: its logit counts against those of others.",
            hints=["name another class, too"],
        )
    donor = open_donor(model)
    if donor.head is not None and not classes:
        raise UsageError(
            f"'{donor.name}' is a detector: name some of its classes.", hints=["--classes A,B"]
        )
    case = open_case(donor, data, classes, images)
    network = case.anatomy.network
    shown = case.kind.shown(network, case.fitting, EACH)
    found = contributions(case.anatomy, shown, report=report)
    flow = flows(case.anatomy, found, case.kind.ends(network))
    families = []
    for name, rows in flow.items():
        ordered = -np.sort(-rows, 1)
        share = np.cumsum(ordered, 1) / np.maximum(ordered.sum(1, keepdims=True), 1e-12)
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        cosines = (unit @ unit.T)[np.triu_indices(len(rows), 1)]
        families.append(
            FamilyFlow(
                name=own_name(name), flow=tuple(tuple(map(float, row)) for row in rows),
                carriers=tuple(int(n) + 1 for n in (share < MOST_OF_IT).sum(1)),
                overlap=float(cosines.mean()),
            )
        )  # fmt: skip
    return Explanation(
        network=case.donor.name, classes=case.images.classes, families=tuple(families),
        images=tuple(len(mine) for mine in shown),
    )  # fmt: skip


def draw_routes(explanation: Explanation, target: Path) -> None:
    """Draw the route of every class: a column per family, its channels from most to least used.

    Channels are in one order for all classes, that of the mean; so where routes differ, bright
    places lie elsewhere.

    Args:
        explanation: What :func:`explain` gave.
        target: The file to write, PNG or SVG by its ending.

    Raises:
        UsageError: See :func:`check_picture`.
        MissingExtraError: matplotlib is not installed.
    """
    check_picture(target)
    import numpy as np
    from matplotlib.figure import Figure

    families = explanation.families
    height = 32  # cells of a column, whatever the number of channels
    table = np.zeros((len(explanation.classes), height, len(families)))
    for column, family in enumerate(families):
        rows = np.array(family.flow)
        order = np.argsort(-rows.mean(0), kind="stable")
        parts = np.array_split(rows[:, order], min(height, rows.shape[1]), axis=1)
        means = np.stack([part.mean(1) for part in parts], 1)
        places = np.arange(height) * means.shape[1] // height
        table[:, :, column] = means[:, places] / max(float(means.max()), 1e-12)
    across = min(4, len(explanation.classes))
    down = -(-len(explanation.classes) // across)
    width = min(4.0, 1.2 + 0.14 * len(families))
    figure = Figure(
        figsize=(width * across + 1, 2.2 * down + 0.6), dpi=130, facecolor="white",
        layout="constrained",
    )  # fmt: skip
    every = figure.subplots(down, across, squeeze=False).reshape(-1)
    pictures = []
    for axes, name, cells in zip(every, explanation.classes, table, strict=False):
        picture = axes.imshow(
            cells, vmin=0, vmax=1, cmap="magma", aspect="auto", interpolation="nearest"
        )
        pictures.append(picture)
        axes.set_title(name.split(",")[0], loc="left", fontsize=10)
        axes.set_yticks([])
        axes.set_xticks([0, len(families) - 1], ["first layer", "last"], fontsize=8)
    for axes in every[len(explanation.classes) :]:
        axes.axis("off")
    figure.suptitle(
        f"{explanation.network}: share of each class's logit through inner channels, relative to "
        "the most of a layer",
        fontsize=10, x=0.01, ha="left",
    )  # fmt: skip
    figure.colorbar(pictures[0], ax=list(every), shrink=0.8)
    figure.savefig(target)
